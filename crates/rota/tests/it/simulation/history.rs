//! What must be true of everything that has happened to a deployment's schedule, whoever kept the record.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rota_server::scheduler::{
    cron::Cron,
    schedule::ON_TIME,
    settle::{State, Timing},
};

/// The schedule and the state that counted from `since` on, until the next span begins.
pub struct Span {
    pub since: Timestamp,
    /// Every time that matches, also where the schedule has no occurrences yet, or no more.
    pub cron: Option<Cron>,
    /// Occurrences are here or later, where that is said.
    pub from: Option<Timestamp>,
    /// Occurrences are before this, where that is said.
    pub until: Option<Timestamp>,
    pub state: State,
}

impl Span {
    fn has(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= at) && self.until.is_none_or(|until| at < until)
    }
}

/// Occurrences that were passed over, from the first to the last.
#[derive(Debug, Clone)]
pub struct Skip {
    pub first: Timestamp,
    pub last: Timestamp,
    pub reason: String,
}

/// A scheduled run.
pub struct Run {
    pub occurrence: Timestamp,
    pub created_at: Timestamp,
    /// How the deployment kept its times, or may have.
    pub timings: Vec<Timing>,
    /// Whether its occurrence was pending before, or may have been.
    pub was_pending: bool,
}

/// The occurrence that is not decided on.
#[derive(Debug)]
pub struct Waiting {
    pub occurrence: Timestamp,
    /// When the next attempt is due; `None` while it waits for a place.
    pub retry_at: Option<Timestamp>,
    /// When the scheduler looks next.
    pub next_fire_at: Option<Timestamp>,
    /// Whether the policy has it wait for a place.
    pub is_held_up: bool,
}

/// Everything that has happened to a deployment.
pub struct History {
    pub id: String,
    /// In the order in which they were written.
    pub spans: Vec<Span>,
    /// In the order in which they were begun.
    pub skips: Vec<Skip>,
    pub runs: Vec<Run>,
    pub pending: Option<Waiting>,
    /// Every occurrence up to here must be accounted for.
    pub until: Timestamp,
    /// The latest time that any transaction saw.
    pub latest: Timestamp,
    /// Whether a transaction saw an earlier time than one before it.
    pub clock_went_back: bool,
}

impl History {
    /// Says what is wrong, if anything is.
    pub fn check(&self) -> Result<(), String> {
        self.no_occurrence_runs_twice()?;
        self.every_occurrence_is_accounted_for()?;
        self.runs_are_of_the_schedule_and_in_time()?;
        self.what_is_pending_waits_for_something()?;
        if self.clock_went_back { Ok(()) } else { self.nothing_is_accounted_for_twice() }
    }

    fn no_occurrence_runs_twice(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        match self.runs.iter().find(|run| !seen.insert(run.occurrence)) {
            Some(run) => Err(format!("{} ran twice", run.occurrence)),
            None => Ok(()),
        }
    }

    fn every_occurrence_is_accounted_for(&self) -> Result<(), String> {
        let pending = self.pending.iter().map(|pending| pending.occurrence);
        let decided: BTreeSet<_> = self.runs.iter().map(|run| run.occurrence).chain(pending).collect();
        let mut until = self.until;
        // A span ends where any later one begins: after the clock was set back, that may be before its own beginning.
        for span in self.spans.iter().rev() {
            if let (Some(cron), State::Active) = (&span.cron, span.state) {
                let mut at = span.since;
                while let Some(next) = cron.next(at).filter(|next| *next <= until) {
                    if span.has(next) && !decided.contains(&next) && !self.skips.iter().any(|skip| skip.covers(next)) {
                        return Err(format!("{next} has neither a run nor a reason"));
                    }
                    at = next;
                }
            }
            until = until.min(span.since);
        }
        Ok(())
    }

    fn runs_are_of_the_schedule_and_in_time(&self) -> Result<(), String> {
        for run in &self.runs {
            let at = run.occurrence;
            let spans = self.spans.iter().filter(|span| span.state == State::Active && span.has(at));
            let spans = spans.filter_map(|span| span.cron.as_ref().map(|cron| (span, cron)));
            let spans: Vec<_> = spans.filter(|(_, cron)| occurs(cron, at)).collect();
            let is_in_time = |timing| spans.iter().any(|(span, cron)| self.is_in_time(run, span, cron, timing));
            if !run.timings.iter().any(is_in_time) {
                return Err(format!("{at} ran at {}, by {:?}", run.created_at, run.timings));
            }
        }
        Ok(())
    }

    fn is_in_time(&self, run: &Run, span: &Span, cron: &Cron, timing: &Timing) -> bool {
        let due = |at| at + timing.delay(&self.id, cron, at);
        let at = run.occurrence;
        let overdue = run.created_at.duration_since(due(at));
        let in_time = (SignedDuration::ZERO..=timing.catch_up.max(ON_TIME)).contains(&overdue);
        let before_the_next = || cron.next(at).is_none_or(|next| !span.has(next) || run.created_at < due(next));
        in_time || run.was_pending && (self.clock_went_back || run.created_at >= at) && before_the_next()
    }

    fn what_is_pending_waits_for_something(&self) -> Result<(), String> {
        let Some(pending) = &self.pending else { return Ok(()) };
        let is_active = self.spans.last().is_some_and(|span| span.state == State::Active && span.cron.is_some());
        if !is_active || self.runs.iter().any(|run| run.occurrence == pending.occurrence) {
            return Err(format!("{pending:?} has run, or never will"));
        }
        // A server whose clock is wrong frees a place at a time when the others do not look.
        if self.clock_went_back { Ok(()) } else { pending.check(self.latest) }
    }

    fn nothing_is_accounted_for_twice(&self) -> Result<(), String> {
        if let Some(pair) = self.skips.windows(2).find(|pair| pair[0].last >= pair[1].first) {
            return Err(format!("{pair:?} overlap"));
        }
        let is_skipped = |at| self.skips.iter().any(|skip| skip.covers(at));
        if let Some(run) = self.runs.iter().find(|run| is_skipped(run.occurrence)) {
            return Err(format!("{} has a run and a reason for having none", run.occurrence));
        }
        match &self.pending {
            Some(pending) if is_skipped(pending.occurrence) => Err(format!("{pending:?} is skipped")),
            _ => Ok(()),
        }
    }
}

impl Waiting {
    /// Says what is wrong, if anything is: it waits for nothing that comes. `latest` is the latest time that anybody saw.
    pub fn check(&self, latest: Timestamp) -> Result<(), String> {
        let looks_by = |time| self.next_fire_at.is_some_and(|next| next <= time);
        let waits = match self.retry_at {
            Some(retry_at) => looks_by(retry_at),
            None => self.next_fire_at.is_some() && (self.is_held_up || looks_by(latest)),
        };
        if waits { Ok(()) } else { Err(format!("{self:?} waits for nothing")) }
    }
}

impl Skip {
    fn covers(&self, at: Timestamp) -> bool {
        self.first <= at && at <= self.last
    }
}

fn occurs(cron: &Cron, at: Timestamp) -> bool {
    cron.next(at - SignedDuration::from_nanos(1)) == Some(at)
}
