//! A write that waits for its turn: a closure, who waits for its answer, and the request that asked for it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::oneshot;
use tracing::Span;

use super::{
    Tx,
    audit::{self, Act},
};
use crate::{
    error::{Error, Result},
    telemetry,
};

/// A closure to run in a transaction, as often as it takes until one is committed.
pub(super) trait Job: Send {
    /// Runs the closure. Whether it succeeded; then its notices are in `tx`.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Answers the caller after the commit, or with the error that prevented it.
    fn answer(self: Box<Self>, committed: Result<()>);
}

/// A job of which `T` is the answer.
pub(super) struct Write<T, F> {
    f: F,
    /// Whose write it is: the log says so of what happens in it.
    span: Span,
    request: Option<Arc<str>>,
    act: Option<Arc<Act>>,
    outcome: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T, F> Write<T, F> {
    /// A job that runs `f`, and where its answer will be.
    pub(super) fn new(f: F) -> (Self, oneshot::Receiver<Result<T>>) {
        let (answer, answered) = oneshot::channel();
        let (span, request, act) = (Span::current(), telemetry::request(), audit::act());
        (Self { f, span, request, act, outcome: None, answer }, answered)
    }
}

impl<T: Send, F: Fn(&mut Tx<'_>) -> Result<T> + Send> Job for Write<T, F> {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let _within = self.span.enter();
        tx.request.clone_from(&self.request);
        tx.noted.act.clone_from(&self.act);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let value = (self.f)(tx)?;
            tx.write_audit()?;
            Ok(value)
        }));
        let outcome = self.outcome.insert(result.unwrap_or_else(|_| Err(Error::internal("a write panicked"))));
        tracing::debug!(succeeded = outcome.is_ok(), "write");
        outcome.is_ok()
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let outcome = match (committed, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(Error::internal("a write was not run")),
        };
        // A caller that has gone away does not want the answer; its write counts all the same.
        drop(self.answer.send(outcome));
    }
}
