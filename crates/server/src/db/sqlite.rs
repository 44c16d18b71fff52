//! SQLite: one writer thread that commits in groups, and a pool of connections that only read.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use rota_api::Time;
use rusqlite::{Connection, OpenFlags, config::DbConfig};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Notice, Publish, Row, Tx, Val, dialect, migrate};
use crate::{
    clock::Clock,
    error::{Error, Result},
    limits,
};

/// A store. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    queue: mpsc::Sender<Box<dyn Job>>,
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    readers: Mutex<Vec<Connection>>,
    reading: Arc<Semaphore>,
    lookup: Mutex<Connection>,
}

/// Ends when every [`Db`] of its store is dropped and what was queued is committed.
pub struct Writer(JoinHandle<()>);

impl Writer {
    /// Waits until the writer has ended.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the writer thread panicked");
        }
    }
}

impl Db {
    /// Opens the store in `folder`, making it when there is none, and brings its schema up to date. Every notice of a
    /// committed transaction goes to `publish`, in the order of the commits.
    pub fn open(folder: &Path, clock: Clock, publish: Publish) -> Result<(Self, Writer)> {
        let path = folder.join("rota.db");
        let mut writer = connect(&path, OpenFlags::default())?;
        migrate::run(&mut writer)?;
        let readers = (0..limits::READ_CONNECTIONS).map(|_| connect(&path, read_only())).collect::<Result<_>>()?;
        let (queue, waiting) = mpsc::channel(limits::WRITE_QUEUE);
        let shared = Arc::new(Shared {
            clock: clock.clone(),
            readers: Mutex::new(readers),
            reading: Arc::new(Semaphore::new(limits::READ_CONNECTIONS)),
            lookup: Mutex::new(connect(&path, read_only())?),
        });
        let thread = std::thread::Builder::new().name("rota-writer".to_owned());
        let handle = thread.spawn(move || write_loop(&writer, waiting, &clock, &publish)).map_err(Error::internal)?;
        Ok((Self { queue, shared }, Writer(handle)))
    }

    /// Runs `f` in a transaction and returns once it is durable. When `f` fails or panics, nothing of it remains.
    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Write { f, outcome: None, answer });
        self.queue.send(job).await.map_err(|_| Error::Stopping)?;
        answered.await.map_err(|_| Error::Stopping)?
    }

    /// Runs `f` on a snapshot, on a thread for blocking work.
    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let permit = self.shared.reading.clone().acquire_owned().await.expect("the semaphore is never closed");
        let shared = self.shared.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let connection = lock(&shared.readers).pop().expect("a permit stands for a connection");
            let result = catch_unwind(AssertUnwindSafe(|| snapshot(&connection, &shared.clock, &f)));
            lock(&shared.readers).push(connection);
            // Not before: a caller that gives up leaves the read running, and the connection with it.
            drop(permit);
            result.unwrap_or_else(|_| Err(Error::internal("a read panicked")))
        });
        reading.await.map_err(|_| Error::Stopping)?
    }

    /// Runs one statement that reads one indexed row, and maps it: cheaper than [`Db::read`], for what every request
    /// and every turn of a worker asks. `None` when there is no row.
    #[allow(clippy::unused_async, reason = "a database that is another process answers later")]
    pub async fn lookup<T>(
        &self,
        sql: &str,
        params: &[Val<'_>],
        map: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let connection = lock(&self.shared.lookup);
        Tx::new(&connection, &self.shared.clock).one(sql, params, map)
    }

    /// The time, as a transaction that begins now sees it.
    pub fn now(&self) -> Time {
        self.shared.clock.now()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_only() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn connect(path: &PathBuf, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)
        .map_err(|error| Error::internal(format!("cannot open {}: {error}", path.display())))?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    // Without it, a parameter that is compared with the condition of a partial index re-prepares at each execution.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(limits::STATEMENT_CACHE);
    connection.execute_batch(dialect::SQLITE_PRAGMAS)?;
    Ok(connection)
}

/// All statements of `f` see the same state.
fn snapshot<T>(connection: &Connection, clock: &Clock, f: &impl Fn(&mut Tx<'_>) -> Result<T>) -> Result<T> {
    run(connection, "BEGIN")?;
    let result = f(&mut Tx::new(connection, clock));
    run(connection, "COMMIT")?;
    result
}

fn run(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// A write that waits for its turn.
trait Job: Send {
    /// Runs the closure. Whether it succeeded; then its notices are in `tx`.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Answers the caller after the commit, or with the error that prevented it.
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Write<T, F> {
    f: F,
    outcome: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&mut Tx<'_>) -> Result<T> + Send> Job for Write<T, F> {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| (self.f)(tx)));
        let outcome = self.outcome.insert(result.unwrap_or_else(|_| Err(Error::internal("a write panicked"))));
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

fn write_loop(connection: &Connection, mut waiting: mpsc::Receiver<Box<dyn Job>>, clock: &Clock, publish: &Publish) {
    let mut group = Vec::with_capacity(limits::WRITE_BATCH);
    while let Some(first) = waiting.blocking_recv() {
        group.push(first);
        while group.len() < limits::WRITE_BATCH
            && let Ok(job) = waiting.try_recv()
        {
            group.push(job);
        }
        match commit(connection, clock, &mut group) {
            Ok(notices) => {
                notices.iter().for_each(publish);
                group.drain(..).for_each(|job| job.answer(Ok(())));
            }
            Err(error) => {
                let message = error.to_string();
                tracing::error!(error = message, writes = group.len(), "a group of writes was not committed");
                group.drain(..).for_each(|job| job.answer(Err(Error::Database(message.clone().into()))));
            }
        }
    }
}

/// Runs every job so that a failing one rolls back alone, and commits once.
fn commit(connection: &Connection, clock: &Clock, group: &mut [Box<dyn Job>]) -> Result<Vec<Notice>> {
    let notices = if let Some(notices) = run_together(connection, clock, group)? {
        notices
    } else {
        roll_back(connection)?;
        run_apart(connection, clock, group)?
    };
    if let Err(error) = run(connection, "COMMIT") {
        end_if_the_disk_failed(&error);
        roll_back(connection)?;
        return Err(error);
    }
    Ok(notices)
}

/// Runs the jobs one after the other. A savepoint costs a fifth of a small write, and few jobs fail after they have
/// written, so there is none here: `None` when there was such a job, and then all have to be rolled back.
fn run_together(connection: &Connection, clock: &Clock, group: &mut [Box<dyn Job>]) -> Result<Option<Vec<Notice>>> {
    run(connection, "BEGIN IMMEDIATE")?;
    let mut notices = Vec::new();
    for job in group {
        let changes = connection.total_changes();
        let mut tx = Tx::new(connection, clock);
        if job.run(&mut tx) {
            notices.append(&mut tx.notices);
        } else if connection.total_changes() != changes || connection.is_autocommit() {
            return Ok(None);
        }
    }
    Ok(Some(notices))
}

/// Runs every job behind a savepoint of its own.
fn run_apart(connection: &Connection, clock: &Clock, group: &mut [Box<dyn Job>]) -> Result<Vec<Notice>> {
    run(connection, "BEGIN IMMEDIATE")?;
    let mut notices = Vec::new();
    for job in group {
        run(connection, "SAVEPOINT job")?;
        let mut tx = Tx::new(connection, clock);
        if job.run(&mut tx) {
            notices.append(&mut tx.notices);
        } else {
            run(connection, "ROLLBACK TO job")?;
        }
        run(connection, "RELEASE job")?;
    }
    Ok(notices)
}

/// Ends the transaction, which a fault such as a full disk may have ended already.
fn roll_back(connection: &Connection) -> Result<()> {
    if connection.is_autocommit() { Ok(()) } else { run(connection, "ROLLBACK") }
}

/// After a failed fsync nobody knows what is on the disk; only a restart, which reads it again, is safe.
fn end_if_the_disk_failed(error: &Error) {
    if let Error::Database(cause) = error
        && let Some(rusqlite::Error::SqliteFailure(failure, _)) = cause.downcast_ref()
        && failure.code == rusqlite::ErrorCode::SystemIoFailure
    {
        tracing::error!(%error, "the disk failed during a commit; ending");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;
    use crate::db::vals;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let mut name = [0; 8];
            getrandom::fill(&mut name).unwrap();
            let path = std::env::temp_dir().join(format!("rota-db-{:x}", u64::from_be_bytes(name)));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn insert(name: &'static str) -> impl Fn(&mut Tx<'_>) -> Result<()> + Send + 'static {
        move |tx| {
            tx.after_commit(Notice::SessionChanged(rota_api::id::Id::trusted(name.to_owned())));
            tx.execute(
                "INSERT INTO idempotency_keys (deployment_id, key, run_id, created_at) VALUES ($1, $1, $1, $2)",
                vals![name, tx.now()],
            )?;
            match name {
                "fails" => Err(Error::invalid("no")),
                "panics" => panic!("asked to"),
                _ => Ok(()),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_fails_or_panics_rolls_back_alone() {
        let folder = Folder::new();
        let (told, notices) = std_mpsc::channel();
        let publish: Publish = Box::new(move |notice: &Notice| drop(told.send(notice.clone())));
        let (db, writer) = Db::open(&folder.0, Clock::System, publish).unwrap();
        // The first write holds the writer back until the others wait together in one batch.
        let (release, held) = std_mpsc::channel::<()>();
        let held = Mutex::new(held);
        let holding = db.write(move |_| lock(&held).recv().map_err(Error::internal));
        let free = async {
            while db.queue.capacity() > limits::WRITE_QUEUE - 4 {
                tokio::task::yield_now().await;
            }
            drop(release);
        };
        let write = |name| db.write(insert(name));
        let (_, a, fails, panics, b, ()) =
            tokio::join!(holding, write("a"), write("fails"), write("panics"), write("b"), free);
        assert!(a.is_ok() && b.is_ok());
        assert!(matches!(fails, Err(Error::Invalid(_))));
        assert!(matches!(panics, Err(Error::Internal(_))));
        let names = db
            .read(|tx| tx.all("SELECT key FROM idempotency_keys ORDER BY key", &[], |row| row.text(0)))
            .await
            .unwrap();
        assert_eq!(names, ["a", "b"]);
        drop(db);
        writer.join();
        let told: Vec<_> = notices.iter().collect();
        assert_eq!(told.len(), 2, "a write that rolled back says nothing: {told:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_cannot_write() {
        let folder = Folder::new();
        let (db, _writer) = Db::open(&folder.0, Clock::System, Box::new(|_| {})).unwrap();
        assert!(db.read(insert("a")).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_read_that_was_given_up_keeps_its_connection_until_it_ends() {
        let folder = Folder::new();
        let (db, _writer) = Db::open(&folder.0, Clock::System, Box::new(|_| {})).unwrap();
        let (begin, begun) = std_mpsc::channel();
        let (release, held) = std_mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for _ in 0..limits::READ_CONNECTIONS {
            let (begin, held) = (begin.clone(), held.clone());
            let given_up = db.read(move |_| {
                begin.send(()).unwrap();
                // Released by dropping the other end.
                let _ = lock(&held).recv();
                Ok(())
            });
            tokio::select! {
                biased;
                _ = given_up => unreachable!("it is held back"),
                begun = async { tokio::task::block_in_place(|| begun.recv()) } => begun.unwrap(),
            }
        }
        let (next, ()) = tokio::join!(db.read(|_| Ok(())), async { drop(release) });
        next.unwrap();
    }
}
