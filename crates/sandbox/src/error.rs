//! What can go wrong: the machine cannot isolate, the sandbox died, or the request makes no sense.

use std::io;

/// An error of a sandbox backend.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// This machine cannot give the isolation that is asked for. No tool ran, and none will until the cause is removed.
    #[error("cannot start the embedded sandbox: {cause}\n  No agent tool runs without isolation. {remedy}")]
    CannotIsolate {
        /// Which protection could not be set up, and what the kernel answered.
        cause: String,
        /// What the operator can do.
        remedy: String,
    },
    /// The sandbox ended while a call was under way. The outcome of that call is unknown; the session's files are kept
    /// and the next [`crate::Embedded::open`] starts a new sandbox over them.
    #[error("the sandbox ended: {cause}")]
    Died {
        /// Why, as far as it is known: out of memory, stopped, no answer.
        cause: String,
    },
    /// A session id that is empty, too long, or has characters other than ASCII letters, digits and `_`.
    #[error("{0:?} is not a session id")]
    BadSessionId(String),
    /// The host's own files could not be read or written.
    #[error("{doing}: {cause}")]
    Host {
        /// What was being done.
        doing: String,
        /// What the system answered.
        cause: String,
    },
}

impl Error {
    pub(crate) fn died(cause: impl Into<String>) -> Self {
        Self::Died { cause: cause.into() }
    }

    /// For `map_err`: names what was being done when the host refused.
    pub(crate) fn host<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |error| Self::Host { doing, cause: error.into().to_string() }
    }
}
