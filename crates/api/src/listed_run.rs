//! The list of all runs of a workspace, with what became of each, and what of it needs attention. It is Rota's own.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    agent::AgentReference,
    deployment::RunError,
    event::SessionError,
    fields::names,
    id::{DeploymentId, RunId, SessionId, StartId, WebhookEndpointId},
    occurrence::OccurrenceReason,
    policy::InterruptedBy,
    run_outcome::WaitingOn,
    session::{SessionUsage, Status},
    session_retry::Followed,
};

/// A run, or occurrences of a schedule that have none and never will.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListedRun {
    /// Always `listed_run`.
    pub r#type: &'static str,
    /// The run; null where there is none.
    pub run_id: Option<RunId>,
    /// The planned start that it came of, or that never ran.
    pub start_id: Option<StartId>,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its name now.
    pub deployment_name: String,
    /// The agent that ran; where nothing ran, the agent of the deployment now.
    pub agent: AgentReference,
    /// What started it.
    pub trigger: RunTrigger,
    /// The failed run that it does again.
    pub rerun_of: Option<RunId>,
    /// The run that does it again.
    pub rerun_by: Option<RunId>,
    /// The occurrence; of several in a row that have no run, the first. Null for a run that no schedule asked for.
    pub scheduled_at: Option<Time>,
    /// Of several occurrences in a row that have no run, the last; null for a run.
    pub scheduled_until: Option<Time>,
    /// When it was started, or the last occurrence that has no run. The list is in this order.
    pub at: Time,
    /// What became of it.
    pub state: RunState,
    /// Why there is no run.
    pub reason: Option<OccurrenceReason>,
    /// Why no session was created.
    pub error: Option<RunError>,
    /// The session as it is now; null where none was created, or where it was deleted since.
    pub session: Option<ListedSession>,
    /// Which session of its occurrence this is, from 1. More than 1: those before it died.
    pub attempt: u32,
    /// The run whose session died, so that this one was started.
    pub retry_of: Option<RunId>,
    /// What follows the death of the session; null where it has not died, or none is to follow.
    pub followed: Option<Followed>,
}

/// The session of a listed run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListedSession {
    /// Its id.
    pub id: SessionId,
    /// Its status, as the API shows it.
    pub status: Status,
    /// The type of the reason for which the last turn ended, or `terminated`; null while one is under way.
    pub stop_reason: Option<String>,
    /// What the last turn died of, or what is tried again.
    pub error: Option<SessionError>,
    /// The limit of the policy for which it was interrupted; null unless it was, and again once it is sent something.
    pub interrupted_by: Option<InterruptedBy>,
    /// Whether it cannot go on before somebody allows or denies a call.
    pub waits_for_human: bool,
    /// What must be answered before it goes on, by anybody.
    pub waiting_on: Vec<WaitingOn>,
    /// When it came to rest; null while it works.
    pub stopped_at: Option<Time>,
    /// Seconds from its creation until it came to rest; null while it works.
    pub duration_seconds: Option<f64>,
    /// What it has used.
    pub usage: SessionUsage,
    /// What that cost, exactly; null until a model with a price has answered.
    pub cost: Option<Cost>,
    /// The model that its agent's version names.
    pub model: String,
}

/// A cost that is not rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cost {
    /// Millionths of a cent.
    pub micro_cents: i64,
    /// Always `USD`.
    pub currency: &'static str,
}

impl Cost {
    /// Of billionths of a dollar, of which ten are a millionth of a cent.
    pub fn from_nanos(nanos: i64) -> Self {
        Self { micro_cents: nanos / 10, currency: "USD" }
    }
}

names! {
    /// What started a run.
    #[derive(JsonSchema)]
    RunTrigger {
        /// Its schedule.
        "schedule" => Schedule,
        /// Somebody.
        "manual" => Manual,
        /// A time that somebody has set.
        "at" => At,
        /// What was sent to a hook.
        "hook" => Hook,
        /// Its schedule, of which somebody had an occurrence made up for.
        "backfill" => Backfill,
        /// Somebody, because an earlier run has failed.
        "rerun" => Rerun,
    }
}

names! {
    /// What became of a run, or of occurrences without one.
    #[derive(JsonSchema)]
    RunState {
        /// Its session waits for a server that takes it up.
        "queued" => Queued,
        /// Its session is at work.
        "working" => Working,
        /// Something failed that may pass, and its session tries again soon.
        "retrying" => Retrying,
        /// Its session waits for an answer.
        "waiting" => Waiting,
        /// Its session has come to the end of its turn.
        "done" => Done,
        /// No session was created, or it died, or a limit of the policy has interrupted it.
        "failed" => Failed,
        /// Its session was deleted since.
        "deleted" => Deleted,
        /// There is no run, for the reason that is given.
        "skipped" => Skipped,
        /// There is no run, for the server was down or too busy.
        "missed" => Missed,
    }
}

/// What needs somebody now.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Attention {
    /// Each thing, what waits longest first.
    pub data: Vec<AttentionItem>,
    /// Whether there are more of a kind than are listed.
    pub is_cut: bool,
}

/// Something that needs somebody.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttentionItem {
    /// Always `attention_item`.
    pub r#type: &'static str,
    /// What it is.
    pub kind: AttentionKind,
    /// Since when.
    pub since: Time,
    /// What is wrong, for people.
    pub message: String,
    /// The deployment that it is about.
    pub deployment_id: Option<DeploymentId>,
    /// The name of the deployment.
    pub deployment_name: Option<String>,
    /// The run that it is about; of several, the last.
    pub run_id: Option<RunId>,
    /// The session that it is about.
    pub session_id: Option<SessionId>,
    /// The endpoint of webhooks that it is about.
    pub webhook_endpoint_id: Option<WebhookEndpointId>,
    /// What must be answered.
    pub waiting_on: Vec<WaitingOn>,
    /// How many runs in a row have failed.
    pub failures: Option<i64>,
}

names! {
    /// Kinds of things that need somebody.
    #[derive(JsonSchema)]
    AttentionKind {
        /// A session waits for an answer.
        "waiting" => Waiting,
        /// The newest runs of a deployment have all failed.
        "failing" => Failing,
        /// Occurrences were missed, and the deployment has not run since.
        "missed" => Missed,
        /// A deployment was paused by an error, or by its policy.
        "paused" => Paused,
        /// The session of an occurrence could not be started, and there will be another attempt.
        "retrying" => Retrying,
        /// A deployment has spent 80 % of what it may in a day or in a month.
        "spend_near" => SpendNear,
        /// A deployment has spent what it may in a day or in a month: its occurrences are skipped.
        "spend_reached" => SpendReached,
        /// No run of a deployment has come to a good end for a number of its own intervals.
        "silent" => Silent,
        /// An endpoint of webhooks was disabled, because what was sent to it failed.
        "webhook_disabled" => WebhookDisabled,
    }
}
