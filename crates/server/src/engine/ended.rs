//! Tells of steps that let a session go: its turn has ended, or is tried again later.

use serde_json::Value;

use super::{
    lease::Lease,
    step::{Rest, Step},
};
use crate::resources::sessions::status::TERMINATED;

/// Where there was no error.
const NONE: &str = "none";

/// What a step means to do with the turn.
pub(super) enum Ended {
    /// It goes on.
    No,
    /// It is tried again later, because of this error.
    Later(String),
    /// It ends for this reason, and perhaps because of an error.
    For(&'static str, String),
}

impl Ended {
    pub(super) fn of(work: &Step) -> Self {
        if work.retry_in_micros.is_some() {
            return Self::Later(error(work));
        }
        match &work.rest {
            None => Self::No,
            Some(Rest::Waiting { .. }) => Self::For("requires_action", NONE.to_owned()),
            Some(Rest::Over(reason, _)) => Self::For(reason.name(), NONE.to_owned()),
            Some(Rest::Dead) => Self::For("retries_exhausted", error(work)),
            Some(Rest::Terminated) => Self::For(TERMINATED, error(work)),
        }
    }

    /// Counts it, and tells of an end. To be called once the step is in the store and the session at rest.
    pub(super) fn tell(self, lease: &Lease) {
        let Lease { workspace, session, .. } = lease;
        match self {
            Self::No => {}
            Self::Later(error) => metrics::counter!("rota_session_retries_total", "error" => error).increment(1),
            Self::For(reason, error) => {
                tracing::info!(session_id = %session, workspace_id = %workspace, reason, error, "a turn of a session has ended");
                metrics::counter!("rota_sessions_ended_total", "reason" => reason, "error" => error).increment(1);
            }
        }
    }
}

/// The type of what went wrong, as it is on the wire.
fn error(work: &Step) -> String {
    let name = work.error().and_then(|error| serde_json::to_value(error.r#type).ok());
    name.as_ref().and_then(Value::as_str).unwrap_or(NONE).to_owned()
}
