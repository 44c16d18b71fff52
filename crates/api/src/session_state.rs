//! The list of sessions with what each is doing: whether it waits for a server, works, tries again, waits for somebody or rests. It is
//! Rota's own.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    agent::AgentReference,
    event::SessionError,
    fields::names,
    id::{DeploymentId, EnvironmentId, RunId, SessionId},
    listed_run::Cost,
    run_outcome::WaitingOn,
    session::{SessionUsage, Status},
};

/// For what the last turn of the sessions has ended that can be asked for.
pub const STOP_REASONS: &[&str] = &["end_turn", "requires_action", "retries_exhausted", "terminated"];

/// A session and what it is doing.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionWithState {
    /// Its id.
    pub id: SessionId,
    /// Always `session_state`.
    pub r#type: &'static str,
    /// Its title.
    pub title: Option<String>,
    /// Its status, as the API shows it.
    pub status: Status,
    /// What it is doing.
    pub state: SessionState,
    /// Since when, where that is known.
    pub since: Option<Time>,
    /// When it tries again; null unless it is `retrying`.
    pub retry_at: Option<Time>,
    /// Whether it cannot go on before somebody allows or denies a call.
    pub waits_for_human: bool,
    /// What must be answered before it goes on, by anybody.
    pub waiting_on: Vec<WaitingOn>,
    /// The type of the reason for which the last turn ended, or `terminated`; null while one is under way.
    pub stop_reason: Option<String>,
    /// What the last turn died of, or what is tried again.
    pub error: Option<SessionError>,
    /// The deployment that started it; null where none did.
    pub deployment_id: Option<DeploymentId>,
    /// The name of the deployment now.
    pub deployment_name: Option<String>,
    /// The run that it is of.
    pub run_id: Option<RunId>,
    /// Its agent.
    pub agent: AgentReference,
    /// The model that its agent's version names.
    pub model: String,
    /// Where its tools run.
    pub environment_id: EnvironmentId,
    /// What it has used.
    pub usage: SessionUsage,
    /// What that cost, exactly; null until a model with a price has answered.
    pub cost: Option<Cost>,
    /// When it was created.
    pub created_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

names! {
    /// What a session is doing.
    #[derive(JsonSchema)]
    SessionState {
        /// It waits for a server that takes it up.
        "queued" => Queued,
        /// It is at work.
        "working" => Working,
        /// Something failed that may pass, and it tries again.
        "retrying" => Retrying,
        /// It waits for an answer.
        "waiting" => Waiting,
        /// Its turn is over, or it had none yet.
        "resting" => Resting,
        /// It was archived, or has ended for good.
        "ended" => Ended,
    }
}
