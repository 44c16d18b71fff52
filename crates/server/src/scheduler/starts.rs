//! Pure: what a look at a planned start means, once its time has come.

use jiff::{SignedDuration, Timestamp};
use rota_api::{
    listed_run::RunTrigger,
    occurrence::OccurrenceReason as Reason,
    policy::{Overlap, Policy},
    start::StartState,
};

use super::{
    policy::{Verdict, verdict},
    schedule::ON_TIME,
    settle::{SkipReason, State},
};

/// What is to be done about a planned start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is started, and this many of the sessions that work longest are interrupted.
    Start(u32),
    /// It waits for a session to come to rest, or for the deployment to be unpaused.
    Hold,
    /// It never runs.
    End(StartState, Reason),
}

/// A planned start whose time has come, as a look finds it.
#[derive(Debug, Clone, Copy)]
pub struct Due<'a> {
    /// At, hook or backfill.
    pub trigger: RunTrigger,
    /// The time that it is for.
    pub at: Timestamp,
    /// An earlier look was in time and found no place.
    pub waits: bool,
    /// The state of its deployment.
    pub state: State,
    /// The policy of its deployment.
    pub policy: &'a Policy,
    /// How late it may be.
    pub catch_up: SignedDuration,
}

impl Due<'_> {
    /// What is to be done at `now`, where `active` tells how many sessions of the deployment are at work.
    ///
    /// # Errors
    /// Those of `active`.
    pub fn step<E>(&self, now: Timestamp, active: impl FnOnce() -> Result<u32, E>) -> Result<Step, E> {
        let makes_up = self.trigger == RunTrigger::Backfill;
        match self.state {
            State::Archived => return Ok(Step::End(StartState::Skipped, Reason::Archived)),
            State::Paused if makes_up => return Ok(Step::Hold),
            State::Paused => return Ok(Step::End(StartState::Skipped, Reason::Paused)),
            State::Active => {}
        }
        let may_be_late = makes_up || self.waits || self.trigger == RunTrigger::Hook;
        if !may_be_late && now.duration_since(self.at) > self.catch_up.max(ON_TIME) {
            return Ok(Step::End(StartState::Missed, Reason::Missed));
        }
        if makes_up {
            return Ok(if active()? < backfills_at_work(self.policy) { Step::Start(0) } else { Step::Hold });
        }
        Ok(match verdict(self.policy, active()?) {
            Verdict::Fires => Step::Start(0),
            Verdict::Interrupts(count) => Step::Start(count),
            Verdict::Waits => Step::Hold,
            Verdict::Skipped(reason) => Step::End(StartState::Skipped, reason_of(reason)),
        })
    }
}

/// Sessions of a deployment that work while an occurrence is made up for, where its policy has no number of its own.
const BACKFILLS_AT_WORK: u32 = 4;

fn backfills_at_work(policy: &Policy) -> u32 {
    let alone = policy.overlap.is_some_and(|overlap| overlap != Overlap::Allow);
    policy.max_concurrent_sessions.unwrap_or(if alone { 1 } else { BACKFILLS_AT_WORK })
}

/// The reason as the API names it.
pub fn reason_of(reason: SkipReason) -> Reason {
    match reason {
        SkipReason::Missed => Reason::Missed,
        SkipReason::Superseded => Reason::Superseded,
        SkipReason::Paused => Reason::Paused,
        SkipReason::Archived => Reason::Archived,
        SkipReason::Overlap => Reason::Overlap,
        SkipReason::Concurrency => Reason::Concurrency,
        SkipReason::Spend => Reason::Spend,
        SkipReason::Held => Reason::Held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_runs_in_time_when_its_deployment_lets_it() {
        use RunTrigger::{At, Backfill, Hook};
        use State::{Active, Archived, Paused};
        use Step::{End, Hold, Start};
        let skipped = |reason| End(StartState::Skipped, reason);
        let missed = End(StartState::Missed, Reason::Missed);
        let allow = Policy::default();
        let of = |overlap| Policy { overlap: Some(overlap), ..Policy::default() };
        let (skip, queue, cancel) = (of(Overlap::Skip), of(Overlap::QueueOne), of(Overlap::CancelPrevious));
        let two = Policy { max_concurrent_sessions: Some(2), ..Policy::default() };
        // trigger, seconds late, waits, state, policy, sessions at work, step
        let cases = [
            (At, 0, false, Active, &allow, 1000, Start(0)),
            (At, 3600, false, Active, &allow, 0, Start(0)),
            (At, 3601, false, Active, &allow, 0, missed),
            (At, 3601, true, Active, &queue, 0, Start(0)),
            (At, 0, false, Active, &queue, 1, Hold),
            (At, 0, false, Active, &skip, 1, skipped(Reason::Overlap)),
            (At, 0, false, Active, &two, 2, skipped(Reason::Concurrency)),
            (At, 0, false, Active, &cancel, 3, Start(3)),
            (At, 0, false, Paused, &allow, 0, skipped(Reason::Paused)),
            (At, 9999, false, Paused, &allow, 0, skipped(Reason::Paused)),
            (At, 0, false, Archived, &allow, 0, skipped(Reason::Archived)),
            (Hook, 9999, false, Active, &queue, 0, Start(0)),
            (Hook, 9999, false, Active, &queue, 1, Hold),
            (Hook, 0, false, Paused, &queue, 0, skipped(Reason::Paused)),
            (Backfill, 9_999_999, false, Active, &allow, 3, Start(0)),
            (Backfill, 0, false, Active, &allow, 4, Hold),
            (Backfill, 0, false, Active, &two, 1, Start(0)),
            (Backfill, 0, false, Active, &two, 2, Hold),
            (Backfill, 0, false, Active, &skip, 0, Start(0)),
            (Backfill, 0, false, Active, &skip, 1, Hold),
            (Backfill, 0, false, Active, &cancel, 1, Hold),
            (Backfill, 0, false, Paused, &allow, 0, Hold),
            (Backfill, 0, false, Archived, &allow, 0, skipped(Reason::Archived)),
        ];
        for (trigger, late, waits, state, policy, active, step) in cases {
            let catch_up = SignedDuration::from_hours(1);
            let due = Due { trigger, at: Timestamp::UNIX_EPOCH, waits, state, policy, catch_up };
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(late);
            assert_eq!(due.step(now, || Ok::<_, ()>(active)), Ok(step), "{due:?} {late} {active}");
        }
    }
}
