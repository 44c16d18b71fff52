//! What a handler is given of a request: who calls, the path, the body, the query, the page.

pub mod beta;
mod body;
pub mod caller;
mod intake;
mod list;
mod path;
pub mod query;
pub mod sign_in;
mod upload;

pub use body::{Body, BodyOnly};
pub use caller::{Administrator, Caller, CallerOrWorker, Reader, Starter, Worker};
pub use intake::{Coding, Intake};
pub use list::List;
pub use path::{Path, PathAndQuery, SessionRef};
pub use query::Query;
pub use upload::{Part, Upload};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Serialize;

use crate::error::Error;

/// A JSON response.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => {
                let mut response = Response::new(axum::body::Body::from(bytes));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => Error::from(error).into_response(),
        }
    }
}

/// What the outermost layer needs to write the error envelope, which carries the request's id.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

impl Error {
    /// The HTTP status.
    pub fn status(&self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Self::Invalid(_) | Self::Rejected { .. } => StatusCode::BAD_REQUEST,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::Gone { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) | Self::Held(_) | Self::MemoryPathConflict { .. } | Self::MemoryPrecondition => {
                StatusCode::CONFLICT
            }
            Self::LeaseLost { .. } => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited(_) | Self::TooManyDeliveries(_) | Self::TooManyStreams(_) | Self::TooManyUnread(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Overloaded(_) | Self::Stopping => StatusCode::from_u16(529).expect("529 is a status"),
            Self::Database(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The `error.type` on the wire.
    pub fn wire_type(&self) -> &'static str {
        match self {
            Self::Invalid(_)
            | Self::Rejected { .. }
            | Self::MethodNotAllowed
            | Self::Conflict(_)
            | Self::LeaseLost { .. } => "invalid_request_error",
            Self::Held(_) => "conflict_error",
            Self::Unauthenticated(_) => "authentication_error",
            Self::Forbidden(_) => "permission_error",
            Self::NotFound(_) | Self::Gone { .. } => "not_found_error",
            Self::MemoryPathConflict { .. } => "memory_path_conflict_error",
            Self::MemoryPrecondition => "memory_precondition_failed_error",
            Self::TooLarge(_) => "request_too_large",
            Self::RateLimited(_) | Self::TooManyDeliveries(_) | Self::TooManyStreams(_) | Self::TooManyUnread(_) => {
                "rate_limit_error"
            }
            Self::Timeout(_) => "timeout_error",
            Self::Overloaded(_) | Self::Stopping => "overloaded_error",
            Self::Database(_) | Self::Internal(_) => "api_error",
        }
    }
}
