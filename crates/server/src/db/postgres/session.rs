//! One connection of a thread: statements, prepared once, that need not be waited for one by one.

use std::{
    collections::{HashMap, VecDeque},
    future::{Future, ready},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::{TryStreamExt, poll};
use tokio::{runtime::Runtime, sync::oneshot};
use tokio_postgres::{Client, Error as Failure, Row, Statement, error::SqlState};

use super::{
    super::{
        fault::KeyTaken,
        value::{Owned, Val},
    },
    connect::Connector,
    parameters,
    rows::{Batch, Rows},
};
use crate::{
    error::{Error, Result},
    limits::STATEMENT_CACHE,
};

/// A connection and the transaction that is open on it.
///
/// It runs on whatever thread uses it: its runtime does nothing but wait for the database.
pub struct Session {
    // Only a drop takes it.
    runtime: Option<Runtime>,
    client: Arc<Client>,
    statements: HashMap<String, Prepared>,
    /// Statements that were sent and are not answered yet, in order.
    sent: VecDeque<Sent>,
    /// Rows that were not sent yet.
    rows: Rows,
    wrote: bool,
    /// Whether the database has answered in this transaction, and whether it has refused a statement before the last one,
    /// and with it the transaction.
    answered: bool,
    refused: bool,
    fault: Option<Fault>,
}

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    writes: bool,
}

/// The rows that a query brings, once they have been waited for.
pub struct Answer(oneshot::Receiver<Vec<Row>>);

type Sent = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// What an error of the database means. It ends the transaction in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is gone.
    Lost,
    /// Another transaction was in the way: the same may succeed when it is run again.
    Conflict,
    /// Trying again would not help.
    Refused,
}

impl Fault {
    pub(super) fn of(failure: &Failure) -> Self {
        const LOST: [SqlState; 5] = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        // Not a statement that took too long: it would take as long again, each time.
        const CONFLICT: [SqlState; 3] =
            [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::LOCK_NOT_AVAILABLE];
        match failure.code() {
            Some(code) if LOST.contains(code) => Self::Lost,
            Some(code) if CONFLICT.contains(code) => Self::Conflict,
            None if failure.is_closed() || is_io(failure) => Self::Lost,
            _ => Self::Refused,
        }
    }
}

fn is_io(failure: &Failure) -> bool {
    std::error::Error::source(failure).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

impl From<Failure> for Error {
    /// A value of an unexpected type is no failure of the database: trying again does not help.
    fn from(failure: Failure) -> Self {
        match failure.as_db_error() {
            Some(told) => {
                let said = format!("{} ({})", told.message(), told.code().code());
                let is_taken = *told.code() == SqlState::UNIQUE_VIOLATION;
                Self::Database(if is_taken { KeyTaken(said).into() } else { said.into() })
            }
            None if failure.is_closed() || is_io(&failure) => {
                let cause = std::error::Error::source(&failure).map(|cause| format!(": {cause}"));
                Self::Database(format!("{failure}{}", cause.unwrap_or_default()).into())
            }
            None => Self::internal(failure),
        }
    }
}

impl Session {
    pub(crate) fn open(connector: &Connector) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::internal)?;
        let client = runtime.block_on(connector.connect(|_| {}))?;
        Ok(Self {
            runtime: Some(runtime),
            client: Arc::new(client),
            statements: HashMap::new(),
            sent: VecDeque::new(),
            rows: Rows::default(),
            wrote: false,
            answered: false,
            refused: false,
            fault: None,
        })
    }

    /// Begins a transaction with the statements `begin`, which go out with the first statement after it.
    pub(crate) fn begin(&mut self, begin: &'static str) {
        self.fault = None;
        self.answered = false;
        self.refused = false;
        let client = self.client.clone();
        self.push(async move { client.batch_execute(begin).await });
    }

    /// Makes the transaction durable.
    ///
    /// # Errors
    /// With what went wrong when nothing of the transaction remains; without, when nobody knows whether it is durable.
    pub(crate) fn commit(&mut self) -> Result<(), (Option<Fault>, Error)> {
        // A connection may have been lost while nothing was asked of it, or just now with an answer: no commit is sent then.
        let ready = self.flush().and_then(|()| if self.answered { Ok(()) } else { self.settle() });
        ready.map_err(|error| (Some(self.fault.unwrap_or(Fault::Refused)), error))?;
        if self.client.is_closed() {
            return Err((Some(Fault::Lost), Error::Database("the connection was lost".into())));
        }
        let client = self.client.clone();
        // Of a transaction in which a statement has failed, the commit is a roll back that succeeds.
        self.wait(async move { client.batch_execute("COMMIT").await }).map_err(|error| match self.fault {
            Some(Fault::Lost) if !self.refused => (None, error),
            fault => (Some(fault.unwrap_or(Fault::Refused)), error),
        })
    }

    /// Ends the transaction without a trace. A session that cannot is lost: the next one would see this transaction.
    pub(super) fn roll_back(&mut self) {
        // What was sent may fail; it is undone all the same. Without a connection there is nothing to undo.
        let fault = self.fault;
        self.sent.clear();
        self.rows = Rows::default();
        let client = self.client.clone();
        let rolled_back = self.wait(async move { client.batch_execute("ROLLBACK").await });
        self.fault = if rolled_back.is_ok() { fault } else { Some(Fault::Lost) };
    }

    /// Runs a statement. Returns how many rows it touched.
    pub(crate) fn execute(&mut self, sql: &str, params: &[Val<'_>]) -> Result<usize> {
        let statement = self.prepared(sql)?;
        parameters::check(params)?;
        let client = self.client.clone();
        let count = self.wait(async move { client.execute_raw(&statement, params).await })?;
        Ok(count as usize)
    }

    /// Runs statements without parameters and without rows.
    pub(crate) fn batch(&mut self, statements: &str) -> Result<()> {
        self.flush()?;
        let (client, text) = (self.client.clone(), statements.to_owned());
        self.wait(async move { client.batch_execute(&text).await })
    }

    /// Runs a statement and returns its rows.
    pub(crate) fn query(&mut self, sql: &str, params: &[Val<'_>]) -> Result<Vec<Row>> {
        let statement = self.prepared(sql)?;
        parameters::check(params)?;
        let client = self.client.clone();
        self.wait(async move { client.query(&statement, &parameters::list(params)).await })
    }

    /// Runs a statement and gives its rows to `take`, one by one, until it wants no more. The rest is read over.
    pub(crate) fn query_while(
        &mut self,
        sql: &str,
        params: &[Val<'_>],
        mut take: impl FnMut(&Row) -> bool,
    ) -> Result<()> {
        let statement = self.prepared(sql)?;
        parameters::check(params)?;
        let client = self.client.clone();
        self.wait(async move {
            let mut rows = pin!(client.query_raw(&statement, params).await?);
            while let Some(row) = rows.try_next().await?
                && take(&row)
            {}
            Ok(())
        })
    }

    /// Sends a statement. What comes of it shows when the next one is waited for, or with the commit.
    pub(crate) fn send(&mut self, sql: &str, params: &[Val<'_>]) -> Result<()> {
        let statement = self.prepared(sql)?;
        parameters::check(params)?;
        let params: Vec<Owned> = params.iter().map(|param| Owned::from(*param)).collect();
        let client = self.client.clone();
        self.push(async move { client.execute_raw(&statement, params.iter().map(Owned::val)).await.map(drop) });
        Ok(())
    }

    /// Sends a query, whose rows [`rows`](Self::rows) waits for.
    pub(crate) fn ask(&mut self, sql: &str, params: &[Val<'_>]) -> Result<Answer> {
        let statement = self.prepared(sql)?;
        parameters::check(params)?;
        let params: Vec<Owned> = params.iter().map(|param| Owned::from(*param)).collect();
        let client = self.client.clone();
        let (answered, answer) = oneshot::channel();
        self.push(async move {
            let params: Vec<Val<'_>> = params.iter().map(Owned::val).collect();
            let rows = client.query(&statement, &parameters::list(&params)).await?;
            // Whoever asked may have turned to something else.
            drop(answered.send(rows));
            Ok(())
        });
        Ok(Answer(answer))
    }

    /// The rows of a query that was sent in this transaction.
    pub(crate) fn rows(&mut self, Answer(mut answer): Answer) -> Result<Vec<Row>> {
        if let Ok(rows) = answer.try_recv() {
            return Ok(rows);
        }
        self.wait(ready(Ok(())))?;
        answer.try_recv().map_err(|_| Error::internal("a query was sent in another transaction"))
    }

    /// Adds a row to a statement, see [`Tx::add`](super::super::Tx::add).
    pub(crate) fn add(&mut self, sql: &str, params: &[Val<'_>]) -> Result<()> {
        parameters::check(params)?;
        self.wrote = true;
        self.rows.add(sql, params);
        Ok(())
    }

    /// Sends the rows that wait.
    fn flush(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let wrote = self.wrote;
        for Batch { sql, params } in self.rows.take() {
            let statement = self.prepared(&sql)?;
            let client = self.client.clone();
            self.push(async move { client.execute_raw(&statement, params.iter().map(Owned::val)).await.map(drop) });
        }
        // Not of whoever runs the next statement: they may be rows of an earlier closure of the group.
        self.wrote = wrote;
        Ok(())
    }

    /// Waits for the answers to all that was sent.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.wait(ready(Ok(())))
    }

    /// Whether a statement of this transaction may have changed something, since the last time this was asked.
    pub(super) fn take_wrote(&mut self) -> bool {
        std::mem::take(&mut self.wrote)
    }

    /// What went wrong in this transaction.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether this session cannot be used any more.
    pub(super) fn is_lost(&self) -> bool {
        self.fault == Some(Fault::Lost) || self.client.is_closed()
    }

    /// The statement `sql`, after the rows that were added before it.
    fn prepared(&mut self, sql: &str) -> Result<Statement> {
        self.flush()?;
        if let Some(prepared) = self.statements.get(sql) {
            self.wrote |= prepared.writes;
            return Ok(prepared.statement.clone());
        }
        let (client, text) = (self.client.clone(), sql.to_owned());
        let statement = self.wait(async move { client.prepare(&text).await })?;
        if self.statements.len() == STATEMENT_CACHE {
            self.statements.clear();
        }
        // A lock changes nothing that would have to be undone.
        let writes = !sql.trim_start().starts_with("SELECT");
        self.statements.insert(sql.to_owned(), Prepared { statement: statement.clone(), writes });
        self.wrote |= writes;
        Ok(statement)
    }

    fn push(&mut self, statement: impl Future<Output = Result<(), Failure>> + Send + 'static) {
        let mut statement: Sent = Box::pin(statement);
        // The first poll puts it into the connection's queue. It answers only when the runtime runs, unless the connection
        // is gone.
        self.sent.push_back(match statement.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => statement,
            Poll::Ready(answer) => Box::pin(ready(answer)),
        });
    }

    /// Sends a statement and waits for its answer, and before it for those of all that were sent earlier: answers come
    /// in order, and of several errors the first is the cause of the others.
    fn wait<T>(&mut self, statement: impl Future<Output = Result<T, Failure>>) -> Result<T> {
        let Self { runtime, sent, refused, .. } = self;
        let runtime = runtime.as_ref().expect("it is there until the session is dropped");
        let answer = runtime.block_on(async {
            let mut statement = pin!(statement);
            let first = poll!(statement.as_mut());
            for earlier in sent.drain(..) {
                earlier.await.inspect_err(|failure| *refused |= failure.as_db_error().is_some())?;
            }
            match first {
                Poll::Ready(answer) => answer,
                Poll::Pending => statement.await,
            }
        });
        self.answered |= answer.is_ok();
        answer.map_err(|failure| {
            self.fault.get_or_insert(Fault::of(&failure));
            failure.into()
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A runtime that is dropped waits for its threads, which is not allowed in a task; this one has none.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
