//! What follows the death of a session that a schedule started: another session for the same occurrence, or a reason why there is
//! none. The store carries it out (`resources/deployments/again.rs`), and so does the simulation.

use rota_api::Time;
pub use rota_api::session_retry::NoRetry;

use super::{
    cron::Cron,
    pending::{self, Pending},
    policy::{self, Policy, Verdict},
    settle::{SkipReason, State, ended_by},
};

/// A session of an occurrence that has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Died {
    /// The occurrence.
    pub scheduled_at: Time,
    /// Which of its sessions it was, from 1.
    pub attempt: u32,
    /// Whether its agent had called a tool that may change something.
    pub has_acted: bool,
}

/// Whether a policy asks for other sessions in place of those that die.
pub fn is_wanted(policy: &Policy) -> bool {
    policy.retry.is_some_and(|retry| retry.max_sessions > 1)
}

/// What follows the death of a session at `now`: when another one is due, as a pending occurrence, or why there is none. `None` when
/// the policy does not ask for others.
pub fn after_death(
    policy: &Policy,
    deployment_id: &str,
    died: &Died,
    standing: (State, Option<&Cron>),
    now: Time,
) -> Option<Result<Pending, NoRetry>> {
    if !is_wanted(policy) {
        return None;
    }
    if let Err(reason) = may_follow(policy, died, standing, now) {
        return Some(Err(reason));
    }
    let Died { scheduled_at, attempt, .. } = *died;
    let retry_at =
        now.plus_micros(policy::session_retry_after(policy, deployment_id, scheduled_at, attempt).as_micros() as i64);
    let pending = Pending { retry_at: Some(retry_at), ..Pending::new(scheduled_at, scheduled_at) };
    Some(if comes_in_time(standing.1, died, retry_at) { Ok(pending) } else { Err(NoRetry::Overtaken) })
}

/// What is to be done about a session that is to follow one that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It waits.
    Hold(Pending),
    /// There is none.
    End(NoRetry),
    /// It is started, and this many of those that work longest are interrupted.
    Start(u32),
}

/// What is to be done at `now` about the session that is to follow `died`, by the verdict of the policy, which is asked for only where
/// it matters. `is_dead`: the session that died is still as it was.
///
/// # Errors
/// Those of `verdict`.
pub fn step<E>(
    pending: &Pending,
    policy: &Policy,
    died: &Died,
    standing: (State, Option<&Cron>),
    is_dead: bool,
    now: Time,
    verdict: impl FnOnce() -> Result<Verdict, E>,
) -> Result<Step, E> {
    if !is_wanted(policy) {
        return Ok(Step::End(NoRetry::Policy));
    }
    if let Err(reason) = may_follow(policy, died, standing, now) {
        return Ok(Step::End(reason));
    }
    if !is_dead {
        return Ok(Step::End(NoRetry::Resumed));
    }
    Ok(match pending.step(now, verdict)? {
        pending::Step::Hold(pending) => Step::Hold(pending),
        pending::Step::PassOver(reason) => Step::End(skipped(reason)),
        pending::Step::Start(interrupts) => Step::Start(interrupts),
    })
}

/// When the occurrence comes after that of the session that died.
pub fn next_occurrence(cron: Option<&Cron>, died: &Died) -> Option<Time> {
    cron.and_then(|cron| cron.next(died.scheduled_at.timestamp())).map(Time::from)
}

fn may_follow(policy: &Policy, died: &Died, (state, cron): (State, Option<&Cron>), now: Time) -> Result<(), NoRetry> {
    let retry = policy.retry.unwrap_or_default();
    if state != State::Active {
        return Err(skipped(ended_by(state)));
    }
    if cron.is_none() {
        return Err(NoRetry::Superseded);
    }
    if died.attempt >= retry.max_sessions {
        return Err(NoRetry::Attempts);
    }
    if died.has_acted && !retry.even_after_changes {
        return Err(NoRetry::Changes);
    }
    if comes_in_time(cron, died, now) { Ok(()) } else { Err(NoRetry::Overtaken) }
}

/// Whether `at` is before the occurrence that comes after the one of the session that died.
fn comes_in_time(cron: Option<&Cron>, died: &Died, at: Time) -> bool {
    next_occurrence(cron, died).is_none_or(|next| at < next)
}

/// The reason for which an occurrence would be passed over, as one for which no session follows.
pub fn skipped(reason: SkipReason) -> NoRetry {
    match reason {
        SkipReason::Missed => NoRetry::Overtaken,
        SkipReason::Superseded => NoRetry::Superseded,
        SkipReason::Paused => NoRetry::Paused,
        SkipReason::Archived => NoRetry::Archived,
        SkipReason::Overlap => NoRetry::Overlap,
        SkipReason::Concurrency => NoRetry::Concurrency,
        SkipReason::Spend => NoRetry::Spend,
        SkipReason::Held => NoRetry::Held,
    }
}

#[cfg(test)]
mod tests {
    use rota_api::policy::Retry;

    use super::*;

    fn at(text: &str) -> Time {
        format!("2026-03-02T{text}Z").parse().unwrap()
    }

    fn hourly() -> Cron {
        Cron::parse("0 * * * *", "UTC").unwrap()
    }

    fn policy(max_sessions: u32, even_after_changes: bool) -> Policy {
        let retry = Retry { max_sessions, even_after_changes, initial_backoff_seconds: 60, ..Retry::default() };
        Policy { retry: Some(retry), ..Policy::default() }
    }

    fn died(attempt: u32, has_acted: bool) -> Died {
        Died { scheduled_at: at("09:00:00"), attempt, has_acted }
    }

    #[test]
    fn another_session_follows_within_its_bounds_and_before_the_next_occurrence() {
        use State::{Active, Archived, Paused};
        let cron = hourly();
        let after = |policy: &Policy, died: &Died, state, cron, now| {
            after_death(policy, "depl_one", died, (state, cron), at(now)).map(|next| next.map(|p| p.retry_at.unwrap()))
        };
        let (two, some) = (policy(2, false), Some(&cron));
        let due = after(&two, &died(1, false), Active, some, "09:05:00").unwrap().unwrap();
        assert!(due >= at("09:05:30") && due <= at("09:06:00"), "{due}");
        assert_eq!(due, after(&two, &died(1, false), Active, some, "09:05:00").unwrap().unwrap(), "always the same");
        assert!(after(&policy(2, true), &died(1, true), Active, some, "09:05:00").unwrap().is_ok());
        assert_eq!(after(&policy(1, true), &died(1, false), Active, some, "09:05:00"), None);
        assert_eq!(after(&Policy::default(), &died(1, false), Active, some, "09:05:00"), None);
        // attempt, acted, state, cron, now, why not
        let cases = [
            (2, false, Active, some, "09:05:00", NoRetry::Attempts),
            (1, true, Active, some, "09:05:00", NoRetry::Changes),
            (1, false, Active, some, "09:59:31", NoRetry::Overtaken),
            (1, false, Active, some, "10:00:00", NoRetry::Overtaken),
            (1, false, Paused, some, "09:05:00", NoRetry::Paused),
            (1, false, Archived, some, "09:05:00", NoRetry::Archived),
            (1, false, Active, None, "09:05:00", NoRetry::Superseded),
        ];
        for (attempt, acted, state, cron, now, reason) in cases {
            assert_eq!(after(&two, &died(attempt, acted), state, cron, now), Some(Err(reason)), "{attempt} {now}");
        }
    }

    #[test]
    fn what_has_changed_meanwhile_ends_it_with_a_reason() {
        let cron = hourly();
        let pending =
            |retry_at| Pending { retry_at: Some(at(retry_at)), ..Pending::new(at("09:00:00"), at("09:00:00")) };
        let go = |pending: &Pending, policy: &Policy, state, is_dead, now, verdict| {
            step(pending, policy, &died(1, true), (state, Some(&cron)), is_dead, at(now), || Ok::<_, ()>(verdict))
                .unwrap()
        };
        let (active, ready, yes) = (State::Active, pending("09:06:00"), policy(2, true));
        assert_eq!(go(&ready, &yes, active, true, "09:06:00", Verdict::Fires), Step::Start(0));
        assert_eq!(go(&ready, &yes, active, true, "09:06:00", Verdict::Interrupts(1)), Step::Start(1));
        assert_eq!(go(&ready, &yes, active, true, "09:05:59", Verdict::Fires), Step::Hold(ready.clone()));
        let waits = Pending { retry_at: None, ..ready.clone() };
        assert_eq!(go(&ready, &yes, active, true, "09:06:00", Verdict::Waits), Step::Hold(waits));
        for (policy, state, is_dead, now, verdict, reason) in [
            (policy(1, true), active, true, "09:06:00", Verdict::Fires, NoRetry::Policy),
            (policy(2, false), active, true, "09:06:00", Verdict::Fires, NoRetry::Changes),
            (yes, State::Paused, true, "09:06:00", Verdict::Fires, NoRetry::Paused),
            (yes, active, false, "09:06:00", Verdict::Fires, NoRetry::Resumed),
            (yes, active, true, "10:00:00", Verdict::Fires, NoRetry::Overtaken),
            (yes, active, true, "09:06:00", Verdict::Skipped(SkipReason::Overlap), NoRetry::Overlap),
            (yes, active, true, "09:06:00", Verdict::Skipped(SkipReason::Spend), NoRetry::Spend),
        ] {
            assert_eq!(go(&ready, &policy, state, is_dead, now, verdict), Step::End(reason));
        }
    }
}
