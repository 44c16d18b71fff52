//! What a deployment's policy makes of an occurrence that is due: whether it fires, and when a failed start is tried again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rota_api::{
    deployment::RunErrorType,
    policy::{Overlap, Retry},
};
use sha2::{Digest, Sha256};

pub use rota_api::policy::Policy;

use super::settle::{SkipReason, Timing};
use crate::backoff::Backoff;

/// What becomes of an occurrence that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It fires.
    Fires,
    /// It never fires.
    Skipped(SkipReason),
    /// It waits until a session comes to rest.
    Waits,
    /// It fires, and this many of the sessions that work longest are interrupted.
    Interrupts(u32),
}

/// What becomes of an occurrence while schedules are held, whatever the policy says.
pub const HELD: Verdict = Verdict::Skipped(SkipReason::Held);

/// Whether it matters how many sessions are at work.
pub fn counts_sessions(policy: &Policy) -> bool {
    policy.overlap.is_some() || policy.max_concurrent_sessions.is_some()
}

/// What becomes of an occurrence that finds `active` sessions at work.
pub fn verdict(policy: &Policy, active: u32) -> Verdict {
    let overlap = policy.overlap.unwrap_or_default();
    let limit = match (overlap, policy.max_concurrent_sessions) {
        (Overlap::Allow, None) => return Verdict::Fires,
        (_, limit) => limit.unwrap_or(1),
    };
    if active < limit {
        return Verdict::Fires;
    }
    match overlap {
        Overlap::Allow => Verdict::Skipped(SkipReason::Concurrency),
        Overlap::Skip => Verdict::Skipped(SkipReason::Overlap),
        Overlap::QueueOne => Verdict::Waits,
        Overlap::CancelPrevious => Verdict::Interrupts(active + 1 - limit),
    }
}

/// How the deployment keeps its times, where the server keeps them by `default`.
pub fn timing(policy: &Policy, default: Timing) -> Timing {
    let catch_up = policy.catch_up_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
    Timing { jitter: policy.jitter.unwrap_or(default.jitter), catch_up: catch_up.unwrap_or(default.catch_up) }
}

/// How long to wait before an occurrence is tried again of which `attempts` attempts, the last one with `error`, have
/// failed. `None` when it is not tried again.
pub fn retry_after(
    policy: &Policy,
    deployment_id: &str,
    occurrence: Timestamp,
    attempts: u32,
    error: RunErrorType,
) -> Option<SignedDuration> {
    let passes = matches!(error, RunErrorType::SessionRateLimited | RunErrorType::Unknown);
    let retry = policy.retry.filter(|retry| passes && attempts < retry.max_attempts)?;
    Some(backoff(&retry, &format!("{deployment_id} {occurrence} {attempts}"), attempts))
}

/// How long to wait before another session follows the `attempt`-th of an occurrence, which has died.
pub fn session_retry_after(
    policy: &Policy,
    deployment_id: &str,
    occurrence: rota_api::Time,
    attempt: u32,
) -> SignedDuration {
    let seed = format!("{deployment_id} {} session {attempt}", occurrence.timestamp());
    backoff(&policy.retry.unwrap_or_default(), &seed, attempt)
}

/// The pause after `attempts` failed ones. It lies between half of what the policy says and all of it; where, only `seed`
/// decides, so that deployments that failed together do not come back together.
fn backoff(retry: &Retry, seed: &str, attempts: u32) -> SignedDuration {
    let [first, longest] =
        [retry.initial_backoff_seconds, retry.max_backoff_seconds].map(|seconds| Duration::from_secs(seconds.into()));
    let hash: [u8; 32] = Sha256::digest(seed).into();
    let place = hash[..8].iter().fold(0, |place, byte| place << 8 | u64::from(*byte));
    let pause = Backoff::growing(first, retry.multiplier, longest).spread(attempts, place);
    SignedDuration::from_micros(pause.as_micros() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_sessions_work_as_the_policy_allows() {
        use Overlap::{Allow, CancelPrevious, QueueOne, Skip};
        use Verdict::{Fires, Interrupts, Skipped, Waits};
        // overlap, limit, sessions at work, verdict
        let cases = [
            (None, None, 1000, Fires),
            (Some(Allow), None, 1000, Fires),
            (None, Some(3), 2, Fires),
            (None, Some(3), 3, Skipped(SkipReason::Concurrency)),
            (Some(Skip), None, 0, Fires),
            (Some(Skip), None, 1, Skipped(SkipReason::Overlap)),
            (Some(Skip), Some(2), 1, Fires),
            (Some(Skip), Some(2), 2, Skipped(SkipReason::Overlap)),
            (Some(QueueOne), None, 0, Fires),
            (Some(QueueOne), None, 1, Waits),
            (Some(QueueOne), Some(2), 1, Fires),
            (Some(CancelPrevious), None, 0, Fires),
            (Some(CancelPrevious), None, 1, Interrupts(1)),
            (Some(CancelPrevious), None, 3, Interrupts(3)),
            (Some(CancelPrevious), Some(2), 3, Interrupts(2)),
        ];
        for (overlap, max_concurrent_sessions, active, verdict) in cases {
            let policy = Policy { overlap, max_concurrent_sessions, ..Policy::default() };
            assert_eq!(super::verdict(&policy, active), verdict, "{policy:?} with {active}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_are_spread() {
        let retry = Retry {
            max_attempts: 6,
            initial_backoff_seconds: 10,
            max_backoff_seconds: 60,
            multiplier: 2,
            ..Retry::default()
        };
        for (attempts, most) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60), (1000, 60)] {
            let most = SignedDuration::from_secs(most);
            let pauses: Vec<_> = (0..1000).map(|n| backoff(&retry, &n.to_string(), attempts)).collect();
            let (shortest, longest) = (*pauses.iter().min().unwrap(), *pauses.iter().max().unwrap());
            assert!(shortest > most / 2 && shortest < most / 100 * 51, "{attempts}: {shortest}");
            assert!(longest <= most && longest > most / 100 * 99, "{attempts}: {longest}");
        }
    }

    #[test]
    fn only_errors_that_pass_are_tried_again_and_not_for_ever() {
        let policy = Policy { retry: Some(Retry { max_attempts: 3, ..Retry::default() }), ..Policy::default() };
        let at = Timestamp::UNIX_EPOCH;
        let after = |attempts, error| retry_after(&policy, "depl_one", at, attempts, error);
        for error in RunErrorType::ALL {
            let passes = ["session_rate_limited_error", "unknown_error"].contains(&error.as_str());
            assert_eq!(after(1, error).is_some(), passes, "{error:?}");
            assert_eq!(after(2, error).is_some(), passes, "{error:?}");
            assert_eq!(after(3, error), None);
            assert_eq!(retry_after(&Policy::default(), "depl_one", at, 1, error), None);
        }
        assert_eq!(after(1, RunErrorType::Unknown), after(1, RunErrorType::Unknown), "the pause is always the same");
    }
}
