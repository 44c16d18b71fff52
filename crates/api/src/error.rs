//! The error envelope.

use serde::Serialize;

use crate::work::LeaseState;

/// The body of every response that is not a success.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// Always `error`.
    pub r#type: &'static str,
    /// What went wrong.
    pub error: ErrorDetail<'a>,
    /// The id that the response's `request-id` header has too.
    pub request_id: &'a str,
}

/// What went wrong: a type for programs and a message for people.
#[derive(Debug, Serialize)]
pub struct ErrorDetail<'a> {
    /// One of the API's error types, such as `invalid_request_error`.
    pub r#type: &'static str,
    /// What is wrong and what to do.
    pub message: &'a str,
    /// The memory that stands in the way of another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflicting_memory_id: Option<&'a str>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflicting_path: Option<&'a str>,
    /// More for programs, where the API has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<ErrorDetails>,
}

/// `error.details`.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorDetails {
    /// The lease as the server holds it, where a heartbeat is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_state: Option<LeaseState>,
    /// `user_facing`, where the API says whom the error is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_visibility: Option<&'static str>,
    /// A stable name of the error.
    pub error_code: &'static str,
}
