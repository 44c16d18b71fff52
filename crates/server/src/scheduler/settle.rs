//! What a moment means for a deployment: the occurrence to fire, those that are passed over and why, and when to look
//! again. The store carries it out (`resources/deployments/standing.rs`), and so does the simulation.

use std::ops::RangeInclusive;

use jiff::{SignedDuration, Timestamp};
use rota_api::policy::{Jitter, NamedJitter};

use super::{
    cron::Cron,
    schedule::{catch_up, hosted_range, place_in},
};

/// How one deployment keeps its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Whether it is delayed.
    pub jitter: Jitter,
    /// How long an occurrence may be overdue and still fire.
    pub catch_up: SignedDuration,
}

impl Timing {
    /// How long after its time the occurrence `at` of the deployment `id` is due.
    pub fn delay(&self, id: &str, cron: &Cron, at: Timestamp) -> SignedDuration {
        let interval = || cron.interval_after(at);
        match self.jitter {
            Jitter::Named(NamedJitter::Off) => SignedDuration::ZERO,
            Jitter::Named(NamedJitter::Hosted) => place_in(hosted_range(interval()), id),
            Jitter::Seconds(most) => place_in(interval().min(SignedDuration::from_secs(most.into())), id),
        }
    }
}

/// What a deployment is, as far as its schedule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its occurrences fire.
    Active,
    /// Its occurrences do not fire until it is unpaused.
    Paused,
    /// It is over.
    Archived,
}

impl State {
    /// The name in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Archived => "archived",
        }
    }

    /// Reads a name. `None` when there is no such state.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Archived].into_iter().find(|state| state.as_str() == name)
    }
}

/// Why an occurrence of an active deployment did not fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Nothing was there to fire it in time.
    Missed,
    /// It was due when the schedule was changed.
    Superseded,
    /// It was due when the deployment was paused.
    Paused,
    /// It was due when the deployment was archived.
    Archived,
    /// An earlier session was still at work.
    Overlap,
    /// As many sessions were at work as may be.
    Concurrency,
    /// The deployment had spent as much as it may.
    Spend,
    /// Schedules were held.
    Held,
}

impl SkipReason {
    /// The name in the store and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Superseded => "superseded",
            Self::Paused => "paused",
            Self::Archived => "archived",
            Self::Overlap => "overlap",
            Self::Concurrency => "concurrency",
            Self::Spend => "spend",
            Self::Held => "held",
        }
    }
}

/// Occurrences that are passed over: the first, the last, and all between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// From the first to the last.
    pub occurrences: RangeInclusive<Timestamp>,
    /// Why.
    pub reason: SkipReason,
}

/// What a moment means for a deployment. All of it happens in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects {
    /// The occurrences before `fire` that are passed over.
    pub skip: Option<Skip>,
    /// The occurrence to fire.
    pub fire: Option<Timestamp>,
    /// Every occurrence up to here, inclusive, is accounted for.
    pub settled_at: Timestamp,
    /// When to look again, if ever.
    pub next_fire_at: Option<Timestamp>,
}

/// What the time `now` means for an active deployment whose occurrences are accounted for up to `settled_at`.
///
/// It may be called at any time and any number of times: an occurrence that is not due yet, or is settled, is left alone.
pub fn due(id: &str, cron: &Cron, timing: &Timing, settled_at: Timestamp, now: Timestamp) -> Effects {
    let delay = |occurrence| timing.delay(id, cron, occurrence);
    let decided = catch_up(cron, settled_at, now, timing.catch_up, delay);
    let settled_at = decided.fire.or_else(|| decided.skip.as_ref().map(|skip| *skip.end())).unwrap_or(settled_at);
    let next = cron.next(settled_at);
    Effects {
        skip: decided.skip.map(|occurrences| Skip { occurrences, reason: SkipReason::Missed }),
        fire: decided.fire,
        settled_at,
        next_fire_at: next.map(|next| next.checked_add(delay(next)).unwrap_or(Timestamp::MAX)),
    }
}

/// A state and the schedule that goes with it.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Whether occurrences fire.
    pub state: State,
    /// When it occurs, for a deployment with a schedule.
    pub cron: Option<&'a Cron>,
}

impl<'a> Standing<'a> {
    /// The schedule, while its occurrences fire.
    fn counting(self) -> Option<&'a Cron> {
        self.cron.filter(|_| self.state == State::Active)
    }
}

/// Why an occurrence that was due does not fire after a change to the state `after`.
pub fn ended_by(after: State) -> SkipReason {
    match after {
        State::Active => SkipReason::Superseded,
        State::Paused => SkipReason::Paused,
        State::Archived => SkipReason::Archived,
    }
}

/// What a change of the schedule or the state at `now` means. What was due and has not fired never will; the new schedule
/// counts from `now`, and nothing before is made up for.
///
/// The look at its first occurrence finds out how long that one is delayed.
pub fn change(before: Standing<'_>, after: Standing<'_>, settled_at: Timestamp, now: Timestamp) -> Effects {
    let unfired = before.counting().and_then(|cron| {
        let after_now = now.checked_add(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MAX);
        cron.next(settled_at).zip(cron.prev(after_now)).filter(|(first, last)| first <= last)
    });
    Effects {
        skip: unfired.map(|(first, last)| Skip { occurrences: first..=last, reason: ended_by(after.state) }),
        fire: None,
        settled_at: now,
        next_fire_at: after.counting().and_then(|cron| cron.next(now)),
    }
}
