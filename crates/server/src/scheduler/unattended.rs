//! What a policy makes of sessions that nobody watches: how long they may wait and work, and when failures are enough. The store
//! carries it out (`resources/deployments/deadlines.rs`), and so does the simulation.

use rota_api::{
    Time,
    policy::{InterruptedBy, Policy},
};

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It works, or will as soon as somebody takes it up.
    Works,
    /// It waits for answers.
    Waits {
        /// Since when.
        since: Time,
        /// Whether some of them can be given for whoever does not: a confirmation, the result of a custom tool.
        for_answers: bool,
    },
    /// Its turn is over, or it is.
    Rests,
}

/// A session of a deployment, as far as deadlines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// From when on its time counts, where it does.
    pub started_at: Option<Time>,
    /// What it is doing.
    pub doing: Doing,
}

/// What a look at a session comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It has no deadline.
    Free,
    /// It has one, and nothing is to be done before that.
    At(Time),
    /// Nobody has answered in time: what waits for an answer is denied.
    Deny,
    /// It is interrupted.
    Interrupt(InterruptedBy),
}

/// Whether each wait for a confirmation or the result of a custom tool comes to an end.
pub fn waits_end(policy: &Policy) -> bool {
    policy.unattended.unwrap_or_default().patience().is_some() || policy.max_idle_waiting_seconds.is_some()
}

/// What `now` means for a session.
///
/// One whose time is over is interrupted, whatever else is due. Of what else is due that comes first which was due first; where two
/// were due at the same time, the call is denied and the session goes on.
pub fn look(policy: &Policy, session: &Session, now: Time) -> Look {
    let over = policy.max_session_seconds.zip(session.started_at);
    let over = over.map(|(seconds, since)| (after(since, seconds), Look::Interrupt(InterruptedBy::MaxSession)));
    let (denied, waited) = match session.doing {
        Doing::Rests => return Look::Free,
        Doing::Works => (None, None),
        Doing::Waits { since, for_answers } => {
            let patience = policy.unattended.unwrap_or_default().patience().filter(|_| for_answers);
            let idle = policy.max_idle_waiting_seconds;
            (
                patience.map(|seconds| (after(since, seconds), Look::Deny)),
                idle.map(|seconds| (after(since, seconds), Look::Interrupt(InterruptedBy::MaxIdleWaiting))),
            )
        }
    };
    let of_the_wait = [denied, waited].into_iter().flatten().min_by_key(|(at, _)| *at);
    let due = [over, of_the_wait].into_iter().flatten().find(|(at, _)| *at <= now);
    let next = [over, of_the_wait].into_iter().flatten().map(|(at, _)| at).min();
    match (due, next) {
        (Some((_, what)), _) => what,
        (None, Some(at)) => Look::At(at),
        (None, None) => Look::Free,
    }
}

fn after(since: Time, seconds: u32) -> Time {
    since.plus_micros(i64::from(seconds) * 1_000_000)
}

/// What the model is told in place of an answer that nobody gave, where a call is `denied`, and where it has no result.
pub fn words(policy: &Policy, denied: bool) -> String {
    let what = if denied { "the call was denied" } else { "the call has no result" };
    let why = match policy.unattended.unwrap_or_default().patience() {
        Some(seconds @ 1..) => format!("Nobody answered within {seconds} seconds, so {what}."),
        _ => format!("Nobody watches this session, so {what}."),
    };
    format!("{why} Go on without it, and say at the end what you could not do.")
}

/// Why a session was interrupted, for people.
pub fn reason(policy: &Policy, by: InterruptedBy) -> String {
    let told = |seconds: Option<u32>| seconds.map_or_else(String::new, |seconds| format!(" ({seconds})"));
    match by {
        InterruptedBy::MaxSession => {
            let limit = told(policy.max_session_seconds);
            format!("the session was interrupted: it had not come to its end within max_session_seconds{limit}")
        }
        InterruptedBy::MaxIdleWaiting => {
            let limit = told(policy.max_idle_waiting_seconds);
            format!("the session was interrupted: nobody answered it within max_idle_waiting_seconds{limit}")
        }
    }
}

/// Whether a deployment is paused of which the newest `failures` runs have all failed.
pub fn pauses(policy: &Policy, failures: i64) -> bool {
    policy.pause_after_failures.is_some_and(|most| failures >= i64::from(most))
}

#[cfg(test)]
mod tests {
    use rota_api::policy::{AnswerWithin, Unattended};

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn within(answer_within_seconds: u32) -> Unattended {
        Unattended::AnswerWithin(AnswerWithin { answer_within_seconds })
    }

    const OVER: Look = Look::Interrupt(InterruptedBy::MaxSession);
    const WAITED: Look = Look::Interrupt(InterruptedBy::MaxIdleWaiting);

    #[test]
    fn a_session_has_the_deadlines_that_its_policy_gives() {
        let waits = Doing::Waits { since: at(100), for_answers: true };
        let for_a_worker = Doing::Waits { since: at(100), for_answers: false };
        let deny = Some(Unattended::DENY);
        // unattended, max_session_seconds, max_idle_waiting_seconds, doing, now, look
        let cases = [
            (None, None, None, waits, 1_000_000, Look::Free),
            (Some(Unattended::WAIT), None, None, waits, 1_000_000, Look::Free),
            (None, None, None, Doing::Works, 1_000_000, Look::Free),
            (deny, None, None, waits, 100, Look::Deny),
            // The clock was set back.
            (deny, None, None, waits, 99, Look::At(at(100))),
            (deny, None, None, for_a_worker, 100, Look::Free),
            (deny, None, None, Doing::Works, 100, Look::Free),
            (deny, None, None, Doing::Rests, 100, Look::Free),
            (Some(within(60)), None, None, waits, 159, Look::At(at(160))),
            (Some(within(60)), None, None, waits, 160, Look::Deny),
            (None, None, Some(60), waits, 159, Look::At(at(160))),
            (None, None, Some(60), waits, 160, WAITED),
            (None, None, Some(60), for_a_worker, 160, WAITED),
            (None, None, Some(60), Doing::Works, 160, Look::Free),
            (None, Some(60), None, Doing::Works, 59, Look::At(at(60))),
            (None, Some(60), None, Doing::Works, 60, OVER),
            (None, Some(60), None, waits, 160, OVER),
            (None, Some(60), None, Doing::Rests, 160, Look::Free),
            // What is due first comes first, also after an outage.
            (Some(within(60)), None, Some(90), waits, 10_000, Look::Deny),
            (Some(within(90)), None, Some(60), waits, 10_000, WAITED),
            (Some(within(60)), None, Some(60), waits, 160, Look::Deny),
            (Some(within(60)), None, Some(90), waits, 120, Look::At(at(160))),
            // A session whose time is over is not helped on.
            (Some(within(60)), Some(500), Some(90), waits, 499, Look::Deny),
            (Some(within(60)), Some(500), Some(90), waits, 500, OVER),
            (Some(within(600)), Some(500), Some(900), waits, 499, Look::At(at(500))),
        ];
        for (unattended, max_session_seconds, max_idle_waiting_seconds, doing, now, expected) in cases {
            let policy = Policy { unattended, max_session_seconds, max_idle_waiting_seconds, ..Policy::default() };
            let session = Session { started_at: Some(at(0)), doing };
            assert_eq!(look(&policy, &session, at(now)), expected, "{policy:?} {doing:?} at {now}");
        }
        let policy = Policy { max_session_seconds: Some(60), ..Policy::default() };
        let uncounted = Session { started_at: None, doing: Doing::Works };
        assert_eq!(look(&policy, &uncounted, at(1000)), Look::Free);
        assert!(!waits_end(&policy) && waits_end(&Policy { unattended: Some(Unattended::DENY), ..policy }));
    }

    #[test]
    fn what_is_said_names_the_limit() {
        let policy = |unattended| Policy { unattended, max_session_seconds: Some(60), ..Policy::default() };
        let end = "Go on without it, and say at the end what you could not do.";
        for (unattended, denied, expected) in [
            (Some(within(90)), true, "Nobody answered within 90 seconds, so the call was denied."),
            (Some(within(90)), false, "Nobody answered within 90 seconds, so the call has no result."),
            (Some(Unattended::DENY), true, "Nobody watches this session, so the call was denied."),
        ] {
            assert_eq!(words(&policy(unattended), denied), format!("{expected} {end}"));
        }
        assert!(reason(&policy(None), InterruptedBy::MaxSession).ends_with("max_session_seconds (60)"));
    }

    #[test]
    fn as_many_failures_in_a_row_pause_as_the_policy_says() {
        let policy = |pause_after_failures| Policy { pause_after_failures, ..Policy::default() };
        for (most, failures, expected) in
            [(None, 1000, false), (Some(1), 0, false), (Some(1), 1, true), (Some(3), 2, false), (Some(3), 4, true)]
        {
            assert_eq!(pauses(&policy(most), failures), expected, "{failures} of {most:?}");
        }
    }
}
