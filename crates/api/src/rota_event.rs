//! What the events of Rota's own say. Those of the API name a resource and nothing more; these say what has happened to it too.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    fields::names,
    id::{DeploymentId, SessionId},
    listed_run::Cost,
    occurrence::OccurrenceReason,
    run_outcome::WaitingOn,
};

/// The fields of `data` that an event of Rota's own has beside those of every event.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Details {
    /// `rota.run.finished`, of the run.
    RunFinished(RunFinished),
    /// `rota.run.waiting`, of the run.
    RunWaiting(RunWaiting),
    /// `rota.occurrence.skipped` and `rota.occurrence.missed`, of the deployment.
    PassedOver(PassedOver),
    /// `rota.deployment.silent`, of the deployment.
    Silent(Silent),
    /// `rota.spend.reached`, of the deployment.
    SpendReached(SpendReached),
    /// `rota.webhook_endpoint.disabled`, of the endpoint.
    EndpointDisabled(EndpointDisabled),
}

/// A run has come to its end.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RunFinished {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The session of the run; null where none was created.
    pub session_id: Option<SessionId>,
    /// How it went.
    pub outcome: Finish,
    /// The type of the reason for which the turn ended, or `terminated`; null where no session was created.
    pub stop_reason: Option<String>,
    /// Why no session was created, or what it died of.
    pub error: Option<FailureReason>,
    /// What the session has cost up to here, exactly; null until a model with a price has answered.
    pub cost: Option<Cost>,
}

names! {
    /// How a run went that has come to its end.
    #[derive(JsonSchema)]
    Finish {
        /// Its session has come to the end of its turn.
        "done" => Done,
        /// No session was created, or it died.
        "failed" => Failed,
    }
}

/// Why a run failed: the error of the run, or that of its session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FailureReason {
    /// The error's type.
    pub r#type: String,
    /// For people.
    pub message: String,
}

/// The session of a run cannot go on before somebody allows or denies a call.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RunWaiting {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The session that waits.
    pub session_id: SessionId,
    /// What must be answered before it goes on, by anybody.
    pub waiting_on: Vec<WaitingOn>,
}

/// Occurrences in a row have no run and never will.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PassedOver {
    /// The first of them.
    pub scheduled_at: Time,
    /// The last of them; null where it is one.
    pub scheduled_until: Option<Time>,
    /// Why.
    pub reason: OccurrenceReason,
}

/// A deployment has had no good run for a number of its own intervals.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Silent {
    /// Since when: the end of its last good run, or the moment from which its schedule counts.
    pub since: Time,
    /// How many whole intervals between its occurrences have passed since.
    pub intervals: u32,
}

/// A deployment has spent what it may: nothing more of its schedule runs before the period is over.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SpendReached {
    /// Which ceiling.
    pub period: SpendPeriod,
    /// What it is, in US cents.
    pub ceiling_cents: u32,
    /// What was spent by now, exactly.
    pub spent: Cost,
}

names! {
    /// A time of UTC for which there is a ceiling.
    #[derive(JsonSchema)]
    SpendPeriod {
        /// A day.
        "day" => Day,
        /// A month.
        "month" => Month,
    }
}

/// The server has disabled an endpoint of webhooks.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EndpointDisabled {
    /// Why, for people.
    pub reason: String,
}
