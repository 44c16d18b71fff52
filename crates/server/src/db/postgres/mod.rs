//! PostgreSQL: a few writers that each commit in groups, a pool of connections that only read, one for look-ups, and one
//! on which servers tell each other what has changed.

mod connect;
mod hints;
mod lookup;
mod parameters;
mod reader;
mod rows;
mod session;
mod writer;

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, mpsc};

use super::{Db, Notice, Publish, Store, Writer, job::Job, migrate, writable::Writable};
use crate::{
    backoff::Backoff,
    clock::Clock,
    config::DatabaseUrl,
    error::{Error, Result},
    limits,
};

pub(crate) use connect::Connector;
pub(super) use lookup::Lookups;
pub(super) use reader::Readers;
pub use session::{Answer, Session};

impl Db {
    /// Opens the store in a PostgreSQL database and brings its schema up to date. Every notice of a committed
    /// transaction, of this server or of another one on the same database, goes to `publish`.
    ///
    /// # Errors
    /// When the database cannot be reached, or is newer than this program.
    pub async fn open_postgres(url: &DatabaseUrl, clock: Clock, publish: Publish) -> Result<(Self, Writer)> {
        let connector = Connector::new(&url.0)?;
        let migrating = connector.clone();
        let migrated = tokio::task::spawn_blocking(move || migrate::postgres(&mut Session::open(&migrating)?));
        migrated.await.map_err(Error::internal)??;
        let publish: Arc<dyn Fn(&Notice) + Send + Sync> = publish.into();
        let hints = hints::start(connector.clone(), publish.clone())?;
        let (queue, waiting) = mpsc::channel::<Box<dyn Job>>(limits::WRITE_QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let writable = Arc::new(Writable::default());
        let threads = (0..limits::POSTGRES_WRITERS).map(|_| {
            let failed = writable.failed();
            let writer = writer::Writer::new(connector.clone(), clock.clone(), publish.clone(), hints.clone(), failed);
            let waiting = waiting.clone();
            let thread = std::thread::Builder::new().name("rota-writer".to_owned());
            thread.spawn(move || writer.run(&waiting)).map_err(Error::internal)
        });
        let threads = threads.collect::<Result<_>>()?;
        let store = Store::Postgres(Readers::new(connector.clone()).into(), Lookups::new(connector).into());
        Ok((Self::new(queue, clock, writable, store), Writer(threads)))
    }
}

/// Whether nobody has begun the store in a database.
pub(super) fn is_new(url: &DatabaseUrl) -> Result<bool> {
    let mut session = Session::open(&Connector::new(&url.0)?)?;
    let there = session.query("SELECT to_regclass('workspaces') IS NOT NULL", &[])?;
    if !there.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false) {
        return Ok(true);
    }
    Ok(session.query("SELECT 1 FROM workspaces LIMIT 1", &[])?.is_empty())
}

/// Where a database is, for people: `postgres://host:port/name`, without user and password.
///
/// # Errors
/// When it is not the URL of a database.
pub(crate) fn place(url: &DatabaseUrl) -> Result<String> {
    Connector::new(&url.0).map(|connector| connector.place())
}

/// How long to wait after the `tries`-th try.
fn pause(tries: u32) -> Duration {
    Backoff::doubling(limits::DATABASE_RETRY_FIRST, limits::DATABASE_RETRY_MAX).pause(tries)
}
