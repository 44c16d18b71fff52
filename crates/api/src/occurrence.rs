//! Occurrences of a deployment's schedule and what became of each.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    deployment::RunError,
    fields::names,
    id::{RunId, SessionId},
    session_retry::Followed,
};

/// A time at which a schedule matched, or will match, and what became of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditedOccurrence {
    /// Always `deployment_occurrence`.
    pub r#type: &'static str,
    /// When the expression matched, before jitter.
    pub scheduled_at: Time,
    /// What became of it.
    pub outcome: OccurrenceOutcome,
    /// Why it has no run, or none yet.
    pub reason: Option<OccurrenceReason>,
    /// Its run; of several attempts, the first.
    pub run_id: Option<RunId>,
    /// The session that the run created.
    pub session_id: Option<SessionId>,
    /// Why no session was created; of a pending occurrence, why the last attempt failed.
    pub error: Option<RunError>,
    /// When the next attempt of a pending occurrence is due.
    pub retry_at: Option<Time>,
    /// Milliseconds from the time to the run.
    pub lateness_ms: Option<i64>,
    /// Each run of it, in order: more than one where a session died and another one followed.
    pub attempts: Vec<AuditedAttempt>,
}

/// A run of an occurrence.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditedAttempt {
    /// The run.
    pub run_id: RunId,
    /// When it was started.
    pub at: Time,
    /// The session that it created.
    pub session_id: Option<SessionId>,
    /// Why no session was created.
    pub error: Option<RunError>,
    /// What follows the death of the session; null where it has not died, or none is to follow.
    pub followed: Option<Followed>,
}

names! {
    /// What became of an occurrence.
    #[derive(JsonSchema)]
    OccurrenceOutcome {
        /// It created a session.
        "ran" => Ran,
        /// It has a run, and that has an error.
        "failed" => Failed,
        /// It has no run and never will.
        "skipped" => Skipped,
        /// Its time has come and it is not decided on.
        "pending" => Pending,
        /// Its time has not come.
        "upcoming" => Upcoming,
        /// Nothing says what became of it, which is a fault of the server.
        "unaccounted" => Unaccounted,
    }
}

names! {
    /// Why an occurrence has no run, or none yet.
    #[derive(JsonSchema)]
    OccurrenceReason {
        /// Skipped: the server was down, or too busy, for longer than can be caught up with.
        "missed" => Missed,
        /// Skipped: the deployment was paused. Upcoming: it is paused now.
        "paused" => Paused,
        /// Skipped: the schedule was changed before it fired.
        "superseded" => Superseded,
        /// Skipped: the deployment was archived.
        "archived" => Archived,
        /// Skipped: an earlier session was still at work.
        "overlap" => Overlap,
        /// Skipped: as many sessions were at work as may be.
        "concurrency" => Concurrency,
        /// Skipped: the deployment had spent as much as it may.
        "spend" => Spend,
        /// Skipped: schedules were held.
        "held" => Held,
        /// Pending: the scheduler is about to fire it, or jitter delays it.
        "due" => Due,
        /// Pending: it waits for an earlier session to come to rest.
        "queued" => Queued,
        /// Pending: it waits for another attempt.
        "retrying" => Retrying,
    }
}
