//! What follows the death of a session that a schedule started. It is Rota's own.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{Time, fields::names, id::RunId};

/// What follows the death of a session: another one for the same occurrence, or a reason why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Followed {
    /// When another session is started; null once that is decided.
    pub at: Option<Time>,
    /// The run of the other session.
    pub run_id: Option<RunId>,
    /// Why there is none.
    pub reason: Option<NoRetry>,
}

names! {
    /// Why no other session follows one that died.
    #[derive(JsonSchema)]
    NoRetry {
        /// There were as many sessions as the policy allows.
        "attempts" => Attempts,
        /// The agent had called a tool that may change something.
        "changes" => Changes,
        /// The next occurrence has come, or comes before another session could be started.
        "overtaken" => Overtaken,
        /// The policy was changed and asks for none any more.
        "policy" => Policy,
        /// Somebody has set the session that died to work again.
        "resumed" => Resumed,
        /// The deployment was paused.
        "paused" => Paused,
        /// The schedule was changed.
        "superseded" => Superseded,
        /// The deployment was archived.
        "archived" => Archived,
        /// Another session was at work.
        "overlap" => Overlap,
        /// As many sessions were at work as may be.
        "concurrency" => Concurrency,
        /// The deployment had spent as much as it may.
        "spend" => Spend,
        /// Schedules were held.
        "held" => Held,
    }
}
