//! Occurrences of a deployment's schedule and what became of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    deployment::RunError,
    id::{RunId, SessionId},
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
    /// Its run.
    pub run_id: Option<RunId>,
    /// The session that the run created.
    pub session_id: Option<SessionId>,
    /// Why no session was created; of a pending occurrence, why the last attempt failed.
    pub error: Option<RunError>,
    /// When the next attempt of a pending occurrence is due.
    pub retry_at: Option<Time>,
    /// Milliseconds from the time to the run.
    pub lateness_ms: Option<i64>,
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $variant:ident $name:literal)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $type {$(
            $(#[$each])*
            #[serde(rename = $name)]
            $variant,
        )*}

        impl $type {
            /// Every name.
            pub const NAMES: &[&'static str] = &[$($name),*];

            /// The name on the wire and in the store.
            pub fn as_str(self) -> &'static str {
                match self {$(Self::$variant => $name,)*}
            }

            /// Reads a name. `None` when it is not one of them.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    /// What became of an occurrence.
    OccurrenceOutcome {
        /// It created a session.
        Ran "ran"
        /// It has a run, and that has an error.
        Failed "failed"
        /// It has no run and never will.
        Skipped "skipped"
        /// Its time has come and it is not decided on.
        Pending "pending"
        /// Its time has not come.
        Upcoming "upcoming"
        /// Nothing says what became of it, which is a fault of the server.
        Unaccounted "unaccounted"
    }
}

names! {
    /// Why an occurrence has no run, or none yet.
    OccurrenceReason {
        /// Skipped: the server was down, or too busy, for longer than can be caught up with.
        Missed "missed"
        /// Skipped: the deployment was paused. Upcoming: it is paused now.
        Paused "paused"
        /// Skipped: the schedule was changed before it fired.
        Superseded "superseded"
        /// Skipped: the deployment was archived.
        Archived "archived"
        /// Skipped: an earlier session was still at work.
        Overlap "overlap"
        /// Skipped: as many sessions were at work as may be.
        Concurrency "concurrency"
        /// Pending: the scheduler is about to fire it, or jitter delays it.
        Due "due"
        /// Pending: it waits for an earlier session to come to rest.
        Queued "queued"
        /// Pending: it waits for another attempt.
        Retrying "retrying"
    }
}
