//! Random policies, and what must be true of each decision that was taken by one. The rules are written down once more here,
//! as the documentation has them, so that a fault in the scheduler's own is seen.

use jiff::{SignedDuration, Timestamp};
use rota_api::{
    Time,
    deployment::RunErrorType,
    policy::{Jitter, Overlap, Retry, SessionChoice, Spend},
};
use rota_server::scheduler::{
    policy::Policy,
    settle::{SkipReason, State, Timing},
};

use super::dice::Dice;

/// Changes something of a policy; `calm` leaves delays alone.
pub fn change(policy: &mut Policy, dice: &mut Dice, calm: bool) {
    match dice.within(0..10) {
        9 => policy.session = dice.one_of(&[None, Some(SessionChoice::Continue)]),
        8 => policy.spend = dice.one_of(&[None, Some((Some(100), None)), Some((Some(150), Some(900)))]).map(spend),
        0..=2 => {
            let (skip, queue, cancel) = (Overlap::Skip, Overlap::QueueOne, Overlap::CancelPrevious);
            policy.overlap = dice.one_of(&[None, Some(skip), Some(queue), Some(queue), Some(cancel)]);
        }
        3 => policy.max_concurrent_sessions = dice.one_of(&[None, Some(1), Some(2), Some(3)]),
        4..=5 => policy.retry = dice.one_of(&[None, Some(60), Some(3600)]).map(|most| retry(dice, most)),
        6 => policy.catch_up_seconds = dice.one_of(&[None, Some(0), Some(600), Some(7200)]),
        _ if calm => *policy = Policy::default(),
        _ => policy.jitter = dice.one_of(&[None, Some(Jitter::OFF), Some(Jitter::HOSTED), Some(Jitter::Seconds(90))]),
    }
}

/// Changes when the schedule has occurrences: mostly so that it begins or ends soon.
pub fn change_window(policy: &mut Policy, dice: &mut Dice, now: Timestamp) {
    let near = |dice: &mut Dice, ahead: bool| {
        let seconds = dice.seconds();
        let at = now + SignedDuration::from_secs(if ahead { seconds } else { -seconds });
        // Often an occurrence itself.
        let at = if dice.chance(50) {
            Timestamp::from_second(at.as_second() / 60 * 60).expect("a time of today")
        } else {
            at
        };
        Some(Time::from(at))
    };
    policy.starts_at = None;
    policy.ends_at = None;
    let ahead = dice.chance(50);
    match dice.within(0..4) {
        0 => policy.starts_at = near(dice, ahead),
        1 => policy.ends_at = near(dice, ahead),
        2 => {
            policy.starts_at = near(dice, false);
            policy.ends_at = near(dice, true).filter(|ends_at| Some(*ends_at) > policy.starts_at);
        }
        _ => {}
    }
}

fn spend((per_day_cents, per_month_cents): (Option<u32>, Option<u32>)) -> Spend {
    Spend { per_day_cents, per_month_cents }
}

fn retry(dice: &mut Dice, max_backoff_seconds: u32) -> Retry {
    Retry {
        max_attempts: dice.one_of(&[1, 2, 3, 10]),
        max_sessions: dice.one_of(&[1, 2, 3, 10]),
        even_after_changes: dice.chance(30),
        initial_backoff_seconds: dice.one_of(&[1, 10, 60]),
        max_backoff_seconds,
        multiplier: dice.one_of(&[1, 2, 10]),
    }
}

/// How many sessions may be at work before an occurrence is held up, if it ever is.
pub fn limit(policy: &Policy) -> Option<usize> {
    match (policy.overlap, policy.max_concurrent_sessions) {
        (None | Some(Overlap::Allow), None) => None,
        (_, limit) => Some(limit.unwrap_or(1) as usize),
    }
}

/// Whether an occurrence waits for a place while so many sessions are at work.
pub fn holds_up(policy: &Policy, at_work: usize) -> bool {
    policy.overlap == Some(Overlap::QueueOne) && limit(policy).is_some_and(|limit| at_work >= limit)
}

/// How a deployment with this policy keeps its times on a server that keeps them by `default`.
pub fn timing(policy: &Policy, default: Timing) -> Timing {
    Timing {
        jitter: policy.jitter.unwrap_or(default.jitter),
        catch_up: policy.catch_up_seconds.map_or(default.catch_up, |s| SignedDuration::from_secs(s.into())),
    }
}

/// A decision on an occurrence, and what it was taken by.
#[derive(Debug)]
pub struct Decision {
    pub policy: Policy,
    /// Whether schedules were held.
    pub is_held: bool,
    pub now: Timestamp,
    /// When the next occurrence is due.
    pub next: Option<Timestamp>,
    /// How many sessions were at work.
    pub at_work: usize,
    /// How many are afterwards that were not told to stop.
    pub undisturbed: usize,
    /// How many were told to stop.
    pub interrupted: usize,
    /// How many attempts have been made.
    pub attempts: u32,
    /// When the last of them was due, where it was not the first.
    pub retry_at: Option<Timestamp>,
    /// The deployment's, afterwards.
    pub state: State,
    /// Whether it had spent what it may.
    pub has_spent: bool,
    pub what: What,
}

/// What was decided.
#[derive(Debug, Clone, Copy)]
pub enum What {
    Started,
    Failed(RunErrorType),
    Retries { error: RunErrorType, at: Timestamp },
    Skipped(SkipReason),
    Waits,
}

impl Decision {
    /// Says what is wrong, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let overlap = self.policy.overlap.unwrap_or_default();
        let limit = limit(&self.policy);
        let has_place = limit.is_none_or(|limit| self.at_work < limit);
        let is_due = self.retry_at.is_none_or(|at| at <= self.now);
        let may_try = is_due && (has_place || overlap == Overlap::CancelPrevious);
        let right = match self.what {
            What::Skipped(SkipReason::Held) => self.is_held && is_due && self.interrupted == 0,
            _ if self.is_held => false,
            What::Skipped(SkipReason::Spend) => self.has_spent,
            // What has failed for an unknown reason has been tried before.
            What::Failed(RunErrorType::Unknown) | What::Retries { error: RunErrorType::Unknown, .. }
                if self.has_spent =>
            {
                true
            }
            _ if self.has_spent => false,
            What::Started if has_place => is_due && self.interrupted == 0,
            What::Started => may_try && limit.is_some_and(|limit| self.undisturbed <= limit),
            // What has failed for an unknown reason has been tried before.
            What::Failed(error) => {
                (may_try || error == RunErrorType::Unknown) && self.is_final(error) && self.pauses_for(error)
            }
            What::Retries { error, at } => is_due && self.is_tried_again(error, at) && self.state == State::Active,
            What::Skipped(SkipReason::Overlap) => !has_place && overlap == Overlap::Skip,
            What::Skipped(reason) => !has_place && overlap == Overlap::Allow && reason == SkipReason::Concurrency,
            What::Waits => !has_place && overlap == Overlap::QueueOne,
        };
        if right { Ok(()) } else { Err(format!("not as the policy has it: {self:?}")) }
    }

    fn allows_another(&self, error: RunErrorType) -> bool {
        let passes = matches!(error, RunErrorType::SessionRateLimited | RunErrorType::Unknown);
        passes && self.attempts < self.policy.retry.unwrap_or_default().max_attempts
    }

    fn longest_pause(&self) -> i64 {
        let retry = self.policy.retry.unwrap_or_default();
        let grown = i64::from(retry.multiplier).pow(self.attempts - 1) * i64::from(retry.initial_backoff_seconds);
        grown.min(retry.max_backoff_seconds.into())
    }

    fn is_final(&self, error: RunErrorType) -> bool {
        let longest = SignedDuration::from_secs(self.longest_pause());
        !self.allows_another(error) || self.next.is_some_and(|next| self.now + longest >= next)
    }

    fn is_tried_again(&self, error: RunErrorType, at: Timestamp) -> bool {
        let longest = SignedDuration::from_secs(self.longest_pause());
        let pause = at.duration_since(self.now);
        let comes_in_time = self.next.is_none_or(|next| at < next);
        self.allows_another(error) && comes_in_time && pause <= longest && pause >= longest / 2
    }

    fn pauses_for(&self, error: RunErrorType) -> bool {
        let goes_on = [RunErrorType::SessionRateLimited, RunErrorType::SessionCreationRejected].contains(&error);
        (self.state == State::Active) == goes_on
    }
}
