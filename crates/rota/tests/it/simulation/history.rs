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
    pub cron: Option<Cron>,
    pub state: State,
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
}

/// Everything that has happened to a deployment.
pub struct History {
    pub id: String,
    pub timing: Timing,
    /// In the order in which they were written.
    pub spans: Vec<Span>,
    /// In the order in which they were begun.
    pub skips: Vec<Skip>,
    pub runs: Vec<Run>,
    /// Every occurrence up to here must be accounted for.
    pub until: Timestamp,
    /// Whether a transaction saw an earlier time than one before it.
    pub clock_went_back: bool,
}

impl History {
    /// Says what is wrong, if anything is.
    pub fn check(&self) -> Result<(), String> {
        self.no_occurrence_runs_twice()?;
        self.every_occurrence_is_accounted_for()?;
        self.runs_are_of_the_schedule_and_in_time()?;
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
        let runs: BTreeSet<_> = self.runs.iter().map(|run| run.occurrence).collect();
        let mut until = self.until;
        // A span ends where any later one begins: after the clock was set back, that may be before its own beginning.
        for span in self.spans.iter().rev() {
            if let (Some(cron), State::Active) = (&span.cron, span.state) {
                let mut at = span.since;
                while let Some(next) = cron.next(at).filter(|next| *next <= until) {
                    if !runs.contains(&next) && !self.skips.iter().any(|skip| skip.covers(next)) {
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
            let crons =
                self.spans.iter().filter(|span| span.state == State::Active).filter_map(|span| span.cron.as_ref());
            let delays: Vec<_> =
                crons.filter(|cron| occurs(cron, at)).map(|cron| self.timing.delay(&self.id, cron, at)).collect();
            let overdue: Vec<_> = delays.iter().map(|delay| run.created_at.duration_since(at) - *delay).collect();
            let most = self.timing.catch_up.max(ON_TIME);
            if !overdue.iter().any(|overdue| (SignedDuration::ZERO..=most).contains(overdue)) {
                return Err(format!("{at} ran at {}: overdue by {overdue:?}", run.created_at));
            }
        }
        Ok(())
    }

    fn nothing_is_accounted_for_twice(&self) -> Result<(), String> {
        if let Some(pair) = self.skips.windows(2).find(|pair| pair[0].last >= pair[1].first) {
            return Err(format!("{pair:?} overlap"));
        }
        match self.runs.iter().find(|run| self.skips.iter().any(|skip| skip.covers(run.occurrence))) {
            Some(run) => Err(format!("{} has a run and a reason for having none", run.occurrence)),
            None => Ok(()),
        }
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
