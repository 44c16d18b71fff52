//! What became of a deployment run: the run, which only says that a session was created, beside that session.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    deployment::DeploymentRun,
    event::{SessionError, StopReason},
    id::EventId,
    policy::InterruptedBy,
    session::{MonetaryAmount, SessionUsage, Status},
    start::RunStart,
    warning::Warning,
};

/// A run and what became of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunWithOutcome {
    /// The run.
    #[serde(flatten)]
    #[schemars(skip)]
    pub run: DeploymentRun,
    /// How it was started.
    pub start: RunStart,
    /// What became of it.
    pub outcome: RunOutcome,
}

/// What became of a run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunOutcome {
    /// The session as it is now; null when none was created, or when it was deleted since.
    pub session: Option<SessionOutcome>,
    /// Milliseconds from the time that the schedule named to the run; null for a run that was started by hand.
    pub lateness_ms: Option<i64>,
    /// What the session asks for and this server does not do.
    pub warnings: Vec<Warning>,
}

/// How the session of a run fares.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionOutcome {
    /// Whether the agent works, waits or has ended.
    pub status: Status,
    /// Why the last turn ended; null while a turn is under way, before the first, and when the session's end cut it short.
    pub stop_reason: Option<StopReason>,
    /// Why the last reply of a turn that ended is not whole: `max_tokens` or `model_context_window_exceeded`; null where it is.
    pub reply_cut: Option<String>,
    /// Whether the agent cannot go on before somebody allows or denies a call.
    pub waits_for_human: bool,
    /// What must be answered before the agent goes on, by anybody.
    pub waiting_on: Vec<WaitingOn>,
    /// What the last turn died of, or what is being tried again now.
    pub error: Option<SessionError>,
    /// The limit of the policy for which the session was interrupted; null unless it was, and again once it is sent something.
    pub interrupted_by: Option<InterruptedBy>,
    /// What the session has used.
    pub usage: SessionUsage,
    /// What that costs; null until a model with a price has answered.
    pub list_cost: Option<MonetaryAmount>,
    /// Seconds that the agent has worked.
    pub active_seconds: f64,
    /// Seconds from the session's creation until the agent last came to rest, or until now while it works.
    pub duration_seconds: f64,
}

/// An event that must be answered.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WaitingOn {
    /// The event.
    pub event_id: EventId,
    /// The type of the event that answers it: `user.tool_confirmation`, `user.custom_tool_result` or `user.tool_result`.
    pub answer: &'static str,
}
