//! Threads of sessions. A session has the one that it begins with, its primary thread.

use serde::Serialize;
use serde_json::Value;

use crate::{
    Time,
    agent::ThreadAgent,
    id::{SessionId, ThreadId},
    session::{SessionUsage, Stats, Status},
};

/// A thread as the API shows it.
#[derive(Debug, Serialize)]
pub struct Thread {
    /// Its id, which begins with `sthr_`.
    pub id: ThreadId,
    /// Always `session_thread`.
    pub r#type: &'static str,
    /// The session that it is of.
    pub session_id: SessionId,
    /// The thread that started it; null for the primary one.
    pub parent_thread_id: Option<ThreadId>,
    /// The agent that it runs, without a roster.
    pub agent: ThreadAgent,
    /// Whether it works, waits or has ended. Archiving its session leaves it as it was.
    pub status: Status,
    /// How long it has worked; null until it begins to.
    pub stats: Option<ThreadStats>,
    /// What it has used; null until it begins to work.
    pub usage: Option<SessionUsage>,
    /// The workflow run that started it; there are none.
    pub workflow_run_id: Option<Value>,
    /// When it was created.
    pub created_at: Time,
    /// When its status changed last.
    pub updated_at: Time,
    /// When it was archived: the primary thread never is.
    pub archived_at: Option<Time>,
}

/// How long a thread has worked, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ThreadStats {
    /// Spent running.
    pub active_seconds: f64,
    /// Since it was created.
    pub duration_seconds: f64,
    /// From its creation until it began to run.
    pub startup_seconds: f64,
}

impl ThreadStats {
    /// Those of a thread whose session has `stats` and that began to run after `startup_seconds`.
    pub fn new(stats: Stats, startup_seconds: f64) -> Self {
        let Stats { active_seconds, duration_seconds } = stats;
        Self { active_seconds, duration_seconds, startup_seconds }
    }
}
