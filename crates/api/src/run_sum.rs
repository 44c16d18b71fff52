//! Sums over the runs of a workspace: how many there were and how they went, what they cost, and how long they took. It is Rota's own.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    fields::names,
    id::{AgentId, DeploymentId},
    listed_run::Cost,
};

/// Sums over the runs of a time.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunSums {
    /// From when on, inclusive.
    pub from: Time,
    /// Until when, exclusive.
    pub to: Time,
    /// A sum for each combination of what was asked for that has runs.
    pub data: Vec<RunSum>,
}

names! {
    /// What runs are summed by.
    #[derive(JsonSchema)]
    SumBy {
        /// Their agent, whatever its version.
        "agent" => Agent,
        /// The day on which they were started, in UTC.
        "day" => Day,
        /// Their deployment.
        "deployment" => Deployment,
        /// The model that the version of their agent names.
        "model" => Model,
        /// All of them together.
        "workspace" => Workspace,
    }
}

/// The sum over some runs.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RunSum {
    /// Always `run_sum`.
    pub r#type: &'static str,
    /// The day, as `2026-03-02`; null unless they are summed by it, and so with the others.
    pub day: Option<String>,
    /// The deployment.
    pub deployment_id: Option<DeploymentId>,
    /// Its name now.
    pub deployment_name: Option<String>,
    /// The agent.
    pub agent_id: Option<AgentId>,
    /// The model.
    pub model: Option<String>,
    /// How many runs there are, and how they went.
    pub runs: RunCounts,
    /// What their sessions have used.
    pub tokens: TokenSums,
    /// What that cost, exactly; null where no model with a price has answered.
    pub cost: Option<Cost>,
    /// Seconds that their agents have worked.
    pub active_seconds: f64,
    /// Seconds from the start of each until its session came to rest, of those that have.
    pub duration_seconds: f64,
    /// The longest of these.
    pub longest_seconds: f64,
}

/// How many runs there are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RunCounts {
    /// All of them.
    pub total: u64,
    /// Their session has come to the end of its turn.
    pub done: u64,
    /// No session was created, or it died.
    pub failed: u64,
    /// Their session waits for an answer.
    pub waiting: u64,
    /// Their session is queued, at work, or tries again.
    pub working: u64,
    /// Their session was deleted since: what it has used is in no sum.
    pub deleted: u64,
}

/// Tokens, as sessions count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TokenSums {
    /// Read, without those of the cache.
    pub input_tokens: u64,
    /// Written.
    pub output_tokens: u64,
    /// Read from the prompt cache.
    pub cache_read_input_tokens: u64,
    /// Written to the prompt cache.
    pub cache_creation_input_tokens: u64,
}
