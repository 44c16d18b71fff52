//! The one occurrence of a deployment that has come and is not decided on: it waits for a place, or for another attempt. The
//! store keeps it (`resources/deployments/pending.rs`), and so does the simulation.

use jiff::Timestamp;
use rota_api::{Time, deployment::RunError};
use serde::{Deserialize, Serialize};

use super::{
    policy::{self, Policy, Verdict},
    settle::{Effects, SkipReason},
};

/// An occurrence that is not decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The occurrence.
    pub scheduled_at: Time,
    /// Up to where occurrences were accounted for before it.
    pub after: Time,
    /// How many attempts to start its session have failed.
    pub attempts: u32,
    /// When the next attempt is due; `None` while it waits for a place.
    pub retry_at: Option<Time>,
    /// Why the last attempt failed.
    pub error: Option<RunError>,
}

/// What a look at a deployment finds to decide on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What was pending and never fires, for a later occurrence has come; and why it did not.
    pub overtaken: Option<(Pending, SkipReason)>,
    /// The occurrence to decide on.
    pub occurrence: Option<Pending>,
}

/// Which occurrence `effects` leave to decide on in a deployment that has `pending`, and whose occurrences were accounted
/// for up to `settled_at`.
pub fn find(pending: Option<Pending>, effects: &Effects, settled_at: Timestamp) -> Found {
    if effects.fire.is_none() && effects.skip.is_none() {
        return Found { overtaken: None, occurrence: pending };
    }
    let after = effects.skip.as_ref().map_or(settled_at, |skip| *skip.occurrences.end());
    Found {
        overtaken: pending.map(|pending| {
            let reason = pending.overtaken();
            (pending, reason)
        }),
        occurrence: effects.fire.map(|fire| Pending::new(fire.into(), after.into())),
    }
}

/// What is to be done about an occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It stays pending.
    Hold(Pending),
    /// It never fires.
    PassOver(SkipReason),
    /// Its session is started, and this many of those that work longest are interrupted.
    Start(u32),
}

impl Pending {
    /// An occurrence that has just come.
    pub fn new(scheduled_at: Time, after: Time) -> Self {
        Self { scheduled_at, after, attempts: 0, retry_at: None, error: None }
    }

    /// Why it never fires, once the next occurrence has come.
    pub fn overtaken(&self) -> SkipReason {
        if self.retry_at.is_some() { SkipReason::Missed } else { SkipReason::Overlap }
    }

    /// What is to be done about it at `now`, by the verdict of the policy on it, which is asked for only where it matters.
    ///
    /// # Errors
    /// Those of `verdict`.
    pub fn step<E>(&self, now: Time, verdict: impl FnOnce() -> Result<Verdict, E>) -> Result<Step, E> {
        if self.retry_at.is_some_and(|at| at > now) {
            return Ok(Step::Hold(self.clone()));
        }
        Ok(match verdict()? {
            Verdict::Fires => Step::Start(0),
            Verdict::Interrupts(count) => Step::Start(count),
            Verdict::Skipped(reason) => Step::PassOver(reason),
            Verdict::Waits => Step::Hold(Self { retry_at: None, ..self.clone() }),
        })
    }

    /// What stays pending after one more attempt has failed at `now` with `error`. `None` when there is no other attempt:
    /// the policy wants none, or it would come no sooner than the next occurrence, which takes its place.
    pub fn failed(
        &self,
        policy: &Policy,
        deployment_id: &str,
        error: RunError,
        now: Time,
        next_occurrence: Option<Time>,
    ) -> Option<Self> {
        let attempts = self.attempts + 1;
        let pause = policy::retry_after(policy, deployment_id, self.scheduled_at.timestamp(), attempts, error.r#type)?;
        let retry_at = now.plus_micros(pause.as_micros() as i64);
        let comes_in_time = next_occurrence.is_none_or(|next| retry_at < next);
        comes_in_time.then(|| Self { attempts, retry_at: Some(retry_at), error: Some(error), ..self.clone() })
    }

    /// When the scheduler looks at it again by itself: when the next attempt or the next occurrence is due. Whoever frees a
    /// place brings that forward; where there is neither, as at the end of a schedule, only that.
    pub fn look_at(&self, next_occurrence: Option<Time>) -> Time {
        next_occurrence.into_iter().chain(self.retry_at).min().unwrap_or(Time::from_micros(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use rota_api::{deployment::RunErrorType, policy::Retry};

    use super::*;
    use crate::scheduler::settle::Skip;

    fn at(seconds: i64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn pending(scheduled_at: i64, retry_at: Option<i64>) -> Pending {
        Pending { retry_at: retry_at.map(at), ..Pending::new(at(scheduled_at), at(0)) }
    }

    #[test]
    fn a_later_occurrence_takes_the_place_of_one_that_is_pending() {
        let skip = |first, last| Skip {
            occurrences: at(first).timestamp()..=at(last).timestamp(),
            reason: SkipReason::Missed,
        };
        // retry of the pending one, skipped, fired, why the pending one is passed over, the one to decide on, its `after`
        let cases = [
            (None, None, None, None, Some((60, 0))),
            (Some(70), None, None, None, Some((60, 0))),
            (None, None, Some(120), Some(SkipReason::Overlap), Some((120, 60))),
            (Some(70), None, Some(120), Some(SkipReason::Missed), Some((120, 60))),
            (None, Some((120, 180)), Some(240), Some(SkipReason::Overlap), Some((240, 180))),
            (None, Some((120, 180)), None, Some(SkipReason::Overlap), None),
        ];
        for (retry_at, skipped, fire, reason, expected) in cases {
            let effects = Effects {
                skip: skipped.map(|(first, last)| skip(first, last)),
                fire: fire.map(|fire| at(fire).timestamp()),
                settled_at: at(240).timestamp(),
                next_fire_at: None,
            };
            let before = pending(60, retry_at);
            let found = find(Some(before.clone()), &effects, at(60).timestamp());
            assert_eq!(found.overtaken, reason.map(|reason| (before, reason)), "{effects:?}");
            let occurrence = found.occurrence.map(|found| (found.scheduled_at, found.after));
            assert_eq!(occurrence, expected.map(|(scheduled, after)| (at(scheduled), at(after))), "{effects:?}");
        }
    }

    #[test]
    fn an_occurrence_is_decided_on_by_the_verdict_once_its_attempt_is_due() {
        let step = |retry_at, verdict| pending(60, retry_at).step(at(100), || Ok::<_, ()>(verdict)).unwrap();
        let (soon, due) = (Some(101), Some(100));
        assert_eq!(step(soon, Verdict::Fires), Step::Hold(pending(60, soon)));
        assert_eq!(step(due, Verdict::Fires), Step::Start(0));
        assert_eq!(step(None, Verdict::Interrupts(2)), Step::Start(2));
        assert_eq!(step(None, Verdict::Skipped(SkipReason::Overlap)), Step::PassOver(SkipReason::Overlap));
        assert_eq!(step(due, Verdict::Waits), Step::Hold(pending(60, None)), "it waits for a place, not for a time");
    }

    #[test]
    fn another_attempt_is_made_only_before_the_next_occurrence() {
        let retry = Retry { max_attempts: 2, initial_backoff_seconds: 10, ..Retry::default() };
        let policy = Policy { retry: Some(retry), ..Policy::default() };
        let error = RunError { r#type: RunErrorType::SessionRateLimited, message: "later".to_owned() };
        let failed = |pending: &Pending, next| pending.failed(&policy, "depl_one", error.clone(), at(60), next);
        let first = pending(60, None);
        let again = failed(&first, None).unwrap();
        let retry_at = again.retry_at.unwrap();
        assert_eq!(
            again,
            Pending { attempts: 1, retry_at: Some(retry_at), error: Some(error.clone()), ..first.clone() }
        );
        assert_eq!(failed(&first, Some(retry_at.plus_micros(1))), Some(again.clone()));
        assert_eq!(failed(&first, Some(retry_at)), None);
        assert_eq!(failed(&again, None), None, "two attempts are all");
        assert_eq!(again.look_at(Some(at(3600))), retry_at);
        assert_eq!(first.look_at(Some(at(3600))), at(3600));
        assert!(first.look_at(None) > at(i64::from(u32::MAX)), "whoever frees a place brings it forward");
    }
}
