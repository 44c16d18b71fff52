//! What a session asks for and this server does not do.

use schemars::JsonSchema;
use serde::Serialize;

use crate::session::Session;

/// Something that a session asks for and this server does not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Warning {
    /// The stable name of what is missing, to match on.
    pub code: &'static str,
    /// What is missing, for people.
    pub message: String,
}

/// A session and what it lacks.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionWithWarnings {
    /// The session.
    #[serde(flatten)]
    #[schemars(skip)]
    pub session: Session,
    /// What it lacks; empty when it has everything.
    pub warnings: Vec<Warning>,
}
