//! The store: closures over a transaction, committed in groups.
//!
//! ```ignore
//! let run = app.db.write(move |tx| deployments::run::fire(tx, &workspace, &id, Trigger::Manual)).await?;
//! let page = app.db.read(move |tx| deployment_runs::list(tx, &workspace, &filter)).await?;
//! ```
//!
//! A closure is `Fn`: a batch may run it again, so it has no effect outside its [`Tx`]. It cannot be cancelled half-way
//! by a client that hangs up. What it wants to happen after the commit it says with [`Tx::after_commit`].
//!
//! SQL is written once for every database: `$1` placeholders, `RETURNING`, `ON CONFLICT`; what differs is in `dialect`.
//! On PostgreSQL several transactions run at the same time: a closure that reads what it then writes calls [`Tx::lock`]
//! first, and one that may meet a row that is there already says `ON CONFLICT` and looks at the count.

mod audit;
mod copy;
mod dialect;
mod fault;
mod figures;
mod job;
mod migrate;
mod postgres;
#[cfg(debug_assertions)]
mod seen;
mod select;
mod snapshot;
mod sqlite;
mod table;
mod tx;
mod value;
mod writable;

use std::{path::Path, sync::Arc, thread::JoinHandle};

use rota_api::{
    Time,
    id::{EnvironmentId, Id, SessionId},
};
use tokio::sync::{Semaphore, mpsc};
use tracing::Span;

use crate::{
    clock::Clock,
    config::DatabaseUrl,
    error::{Error, Result},
    limits, telemetry,
};

pub use audit::{Act, Also, acting, named};
pub use copy::Copied;
pub(crate) use copy::sqlite_to_postgres;
use job::{Job, Write};
pub(crate) use postgres::place;
pub use select::Select;
pub(crate) use snapshot::{check_integrity, check_version, copy_file, read_file, schema_version};
pub(crate) use sqlite::FILE;
pub use table::Table;
pub use tx::{Question, Tx};
pub(crate) use value::vals;
pub use value::{Row, Val};
use writable::Writable;

/// Something to tell the rest of the server, and the other servers on the same store, once a transaction is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A session has new events, or new inputs.
    SessionChanged(SessionId),
    /// A session waits for a runner.
    SessionRunnable,
    /// A session was deleted.
    SessionDeleted(SessionId),
    /// A webhook waits to be sent.
    WebhookDue,
    /// A session came to rest, and its outputs wait to be taken in.
    OutputsDue,
    /// Work of an environment waits for a worker.
    WorkQueued(EnvironmentId),
}

impl Notice {
    /// The notice as one word, for other servers.
    fn hint(&self) -> String {
        match self {
            Self::SessionChanged(id) => format!("changed:{id}"),
            Self::SessionRunnable => "runnable".to_owned(),
            Self::SessionDeleted(id) => format!("deleted:{id}"),
            Self::WebhookDue => "webhook".to_owned(),
            Self::OutputsDue => "outputs".to_owned(),
            Self::WorkQueued(id) => format!("work:{id}"),
        }
    }

    /// Reads a word of another server; `None` for one that this program does not know.
    fn from_hint(hint: &str) -> Option<Self> {
        let (kind, of) = hint.split_once(':').unwrap_or((hint, ""));
        Some(match kind {
            "changed" => Self::SessionChanged(SessionId::trusted(of.to_owned())),
            "runnable" => Self::SessionRunnable,
            "deleted" => Self::SessionDeleted(SessionId::trusted(of.to_owned())),
            "webhook" => Self::WebhookDue,
            "outputs" => Self::OutputsDue,
            "work" => Self::WorkQueued(EnvironmentId::trusted(of.to_owned())),
            _ => return None,
        })
    }
}

/// What is called with every notice of a committed transaction.
pub(crate) type Publish = Box<dyn Fn(&Notice) + Send + Sync>;

/// A store. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    queue: mpsc::Sender<Box<dyn Job>>,
    clock: Clock,
    reading: Arc<Semaphore>,
    writable: Arc<Writable>,
    store: Store,
}

#[derive(Clone)]
enum Store {
    Sqlite(Arc<sqlite::Readers>),
    Postgres(Arc<postgres::Readers>, Arc<postgres::Lookups>),
}

/// Ends when every [`Db`] of its store is dropped and what was queued is committed.
pub struct Writer(Vec<JoinHandle<()>>);

impl Writer {
    /// Waits until the writer has ended.
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a writer thread panicked");
            }
        }
    }
}

/// Says that writes were lost, which their callers are told too.
fn not_committed(error: &Error, writes: usize) {
    figures::not_committed();
    if telemetry::may_tell("writes that were not committed") {
        tracing::error!(%error, writes, "a group of writes was not committed");
    }
}

/// Whether no server has begun the store that is in `folder` or, where there is one, in `database`. Changes nothing there.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn is_new(folder: &Path, database: Option<&DatabaseUrl>) -> Result<bool> {
    let (folder, database) = (folder.to_owned(), database.cloned());
    let looking = tokio::task::spawn_blocking(move || match database {
        Some(url) => postgres::is_new(&url),
        None => sqlite::is_new(&folder),
    });
    looking.await.map_err(Error::internal)?
}

impl Db {
    fn new(queue: mpsc::Sender<Box<dyn Job>>, clock: Clock, writable: Arc<Writable>, store: Store) -> Self {
        Self { queue, clock, reading: Arc::new(Semaphore::new(limits::READ_CONNECTIONS)), writable, store }
    }

    /// Runs `f` in a transaction and returns once it is durable. When `f` fails or panics, nothing of it remains.
    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, answered) = Write::new(f);
        self.queue.send(Box::new(job)).await.map_err(|_| Error::Stopping)?;
        answered.await.map_err(|_| Error::Stopping)?
    }

    /// Runs `f` on a snapshot, on a thread for blocking work.
    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let permit = self.reading.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (store, clock, span) = (self.store.clone(), self.clock.clone(), Span::current());
        let reading = tokio::task::spawn_blocking(move || {
            let _within = span.enter();
            let result = match &store {
                Store::Sqlite(readers) => readers.read(&clock, &f),
                Store::Postgres(readers, _) => readers.read(&clock, &f),
            };
            tracing::debug!(succeeded = result.is_ok(), "read");
            // Not before: a caller that gives up leaves the read running, and the connection with it.
            drop(permit);
            result
        });
        reading.await.map_err(|_| Error::Stopping)?
    }

    /// Runs one statement that reads one indexed row, and maps it: cheaper than [`Db::read`], for what every request
    /// and every turn of a worker asks. `None` when there is no row.
    pub async fn lookup<T>(
        &self,
        sql: &str,
        params: &[Val<'_>],
        map: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        match &self.store {
            Store::Sqlite(readers) => readers.lookup(&self.clock, sql, params, map),
            Store::Postgres(_, lookups) => {
                // Apart: where it is not used, each request would carry the room that it needs.
                let row = Box::pin(lookups.one(sql, params)).await?;
                row.map(|row| map(&Row::postgres(&row))).transpose()
            }
        }
    }

    /// The time, as a transaction that begins now sees it.
    pub fn now(&self) -> Time {
        self.clock.now()
    }
}
