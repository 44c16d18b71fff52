//! The one error of the server and how it looks on the wire.

use std::fmt;

use rota_api::{decode::Invalid, work::LeaseState};

/// Why a request, or a worker's step, failed.
///
/// What a client reads names the field and the remedy. [`Error::Database`] and [`Error::Internal`] are logged once, where
/// the request ends, and shown to nobody.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400 `invalid_request_error`: the request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// 400 `invalid_request_error` with `error.details.error_code`.
    #[error("{message}")]
    Rejected {
        /// The stable name of the error.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// 401 `authentication_error`: no key, or one that does not count.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// 403 `permission_error`: the key does not reach this.
    #[error("{0}")]
    Forbidden(String),
    /// 404 `not_found_error`.
    #[error("{0}")]
    NotFound(String),
    /// 404 `not_found_error` with `error.details.error_code`.
    #[error("{message}")]
    Gone {
        /// The stable name of the error.
        code: &'static str,
        /// What is gone.
        message: String,
    },
    /// 405 `invalid_request_error`.
    #[error("Method Not Allowed")]
    MethodNotAllowed,
    /// 409 `invalid_request_error`: the state has moved on. A retry cannot help.
    #[error("{0}")]
    Conflict(String),
    /// 409 `conflict_error`: something else has it. A retry cannot help until that has ended.
    #[error("{0}")]
    Held(String),
    /// 409 `memory_path_conflict_error`: a memory stands where another one is to be, above it or below it.
    #[error("{message}")]
    MemoryPathConflict {
        /// What is in the way and what to do.
        message: String,
        /// The memory that stands there: `error.conflicting_memory_id`.
        memory_id: String,
        /// Where it stands: `error.conflicting_path`.
        path: String,
    },
    /// 409 `memory_precondition_failed_error`: a memory has another content than the caller expects.
    #[error("precondition content_sha256 failed: content has changed")]
    MemoryPrecondition,
    /// 412 `invalid_request_error` with `error.details.current_state`: the lease is another's, or was at another heartbeat.
    #[error("{message}")]
    LeaseLost {
        /// What was expected and what was there.
        message: String,
        /// The lease.
        state: Box<LeaseState>,
    },
    /// 413 `request_too_large`.
    #[error("{0}")]
    TooLarge(String),
    /// 429 `rate_limit_error`: this many sessions were created within a minute.
    #[error("the workspace has created {0} sessions within a minute, which is its limit; try again in a minute")]
    RateLimited(u32),
    /// 429 `rate_limit_error`: this many deliveries were sent to a hook within a minute.
    #[error("the hook has taken {0} deliveries in this minute, which is its limit; send this one again in a minute")]
    TooManyDeliveries(i64),
    /// 429 `rate_limit_error`: this many streams are open.
    #[error("the workspace has {0} open streams at this server, which is the most; close those that nobody reads")]
    TooManyStreams(usize),
    /// 429 `rate_limit_error`: this many bytes of answers are not read.
    #[error("the workspace has {} MB of answers that nobody has read; read them, or close their connections", .0 / 1024 / 1024)]
    TooManyUnread(usize),
    /// 504 `timeout_error`: the request took too long.
    #[error("the request took longer than {} seconds", .0.as_secs())]
    Timeout(std::time::Duration),
    /// 529 `overloaded_error`: there is no room for the request now.
    #[error("{0}")]
    Overloaded(&'static str),
    /// 529 `overloaded_error`: the server is stopping.
    #[error("the server is stopping; try again")]
    Stopping,
    /// 500 `api_error`: the database could not do its part. Nothing of the transaction remains; a later try may succeed.
    #[error("the database failed: {0}")]
    Database(Box<dyn std::error::Error + Send + Sync>),
    /// 500 `api_error`: a fault of the server or of what it stands on.
    #[error("internal error: {0}")]
    Internal(Box<dyn std::error::Error + Send + Sync>),
}

/// The result of everything in the server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error about the whole request or one field of it.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::Invalid(message.to_string())
    }

    /// The error for a path whose resource does not exist, or belongs to another workspace.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Self::NotFound(format!("{kind} `{id}` not found."))
    }

    /// The error for a body that names a resource that does not exist, or belongs to another workspace.
    pub fn reference(kind: &str) -> Self {
        Self::NotFound(format!("Referenced {kind} not found or not accessible."))
    }

    /// The fault of a whole group of writes, as each of its callers is told it.
    pub(crate) fn of_group(&self) -> Self {
        match self {
            Self::Database(cause) | Self::Internal(cause) => Self::Database(cause.to_string().into()),
            told => Self::Database(told.to_string().into()),
        }
    }

    /// A fault that no client is told about.
    pub fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(error.into())
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        match invalid.code() {
            Some(code) => Self::Rejected { code, message: invalid.to_string() },
            None => Self::Invalid(invalid.to_string()),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(error)
    }
}
