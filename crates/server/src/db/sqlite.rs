//! SQLite: one writer thread that commits in groups, and a pool of connections that only read.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use tokio::sync::mpsc;

use super::{
    Db, Notice, Publish, Row, Store, Tx, Val, Writer, dialect, figures,
    job::Job,
    migrate, not_committed,
    writable::{Failed, Writable},
};
use crate::{
    clock::{Clock, Stopwatch},
    error::{Error, Result},
    limits,
};

/// The name of the store in its folder.
pub(crate) const FILE: &str = "rota.db";

/// The connections that only read.
pub(super) struct Readers {
    // One for each permit of `Db::read`.
    idle: Mutex<Vec<Connection>>,
    lookup: Mutex<Connection>,
}

impl Db {
    /// Opens the store in `folder`, making it when there is none, and brings its schema up to date. Every notice of a
    /// committed transaction goes to `publish`, in the order of the commits.
    pub fn open(folder: &Path, clock: Clock, publish: Publish) -> Result<(Self, Writer)> {
        let path = folder.join(FILE);
        refuse_half_a_copy(&path)?;
        let mut writer = connect(&path, OpenFlags::default())?;
        migrate::sqlite(&mut writer)?;
        let idle = (0..limits::READ_CONNECTIONS).map(|_| connect(&path, read_only())).collect::<Result<_>>()?;
        let readers = Readers { idle: Mutex::new(idle), lookup: Mutex::new(connect(&path, read_only())?) };
        let (queue, waiting) = mpsc::channel(limits::WRITE_QUEUE);
        let thread = std::thread::Builder::new().name("rota-writer".to_owned());
        let (time, writable) = (clock.clone(), Arc::new(Writable::default()));
        let failed = writable.failed();
        let writing = move || {
            write_loop(&writer, waiting, &time, &publish, &failed);
            empty_log(&writer);
        };
        let thread = thread.spawn(writing).map_err(Error::internal)?;
        Ok((Self::new(queue, clock, writable, Store::Sqlite(readers.into())), Writer(vec![thread])))
    }
}

impl Readers {
    /// Runs `f` on a snapshot.
    pub(super) fn read<T>(&self, clock: &Clock, f: &impl Fn(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let connection = lock(&self.idle).pop().expect("a permit stands for a connection");
        let result = snapshot(&connection, clock, f);
        lock(&self.idle).push(connection);
        result
    }

    /// The first row of a statement, on the calling thread: it takes microseconds.
    pub(super) fn lookup<T>(
        &self,
        clock: &Clock,
        sql: &str,
        params: &[Val<'_>],
        map: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Tx::sqlite(&lock(&self.lookup), clock).one(sql, params, map)
    }
}

/// Refuses what is left of a store that was copied while its server ran, when the log beside it was left behind: an empty
/// file, on which a new store would begin.
fn refuse_half_a_copy(path: &Path) -> Result<()> {
    let length = |path: &Path| path.metadata().map_or(0, |file| file.len());
    if length(path) == 0 || length(&path.with_extension("db-wal")) > 0 {
        return Ok(());
    }
    let connection = Connection::open_with_flags(path, read_only())?;
    if connection.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))? {
        return Ok(());
    }
    Err(Error::invalid(format_args!(
        "{} has no tables. It may be a copy that was made while a server ran, without rota.db-wal beside it: copy the store of a \
         server that has stopped, or both files at one moment. To begin a new store, delete it first",
        path.display()
    )))
}

/// Whether there is no store in `folder`, or nobody has begun it.
pub(super) fn is_new(folder: &Path) -> Result<bool> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return Ok(true);
    }
    let connection = Connection::open_with_flags(&path, read_only())?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    let is_there = |sql| connection.query_row(sql, [], |row| row.get::<_, bool>(0));
    Ok(!is_there("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'workspaces')")?
        || !is_there("SELECT EXISTS (SELECT 1 FROM workspaces)")?)
}

/// A connection to the store in `folder` that only reads.
pub(super) fn open_to_read(folder: &Path) -> Result<Connection> {
    connect(&folder.join(FILE), read_only())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_only() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn connect(path: &PathBuf, flags: OpenFlags) -> Result<Connection> {
    let is_new = path.metadata().map_or(true, |file| file.len() == 0);
    let connection = Connection::open_with_flags(path, flags)
        .map_err(|error| Error::internal(format!("cannot open {}: {error}", path.display())))?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    if is_new {
        connection.execute_batch(dialect::SQLITE_NEW)?;
    }
    // Without it, a parameter that is compared with the condition of a partial index re-prepares at each execution.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(limits::STATEMENT_CACHE);
    connection.execute_batch(dialect::SQLITE_PRAGMAS)?;
    let reads = flags.contains(OpenFlags::SQLITE_OPEN_READ_ONLY);
    connection.execute_batch(if reads { dialect::SQLITE_READER_CACHE } else { dialect::SQLITE_WRITER_CACHE })?;
    Ok(connection)
}

/// All statements of `f` see the same state. Whatever becomes of it, the connection is in no transaction afterwards.
fn snapshot<T>(connection: &Connection, clock: &Clock, f: &impl Fn(&mut Tx<'_>) -> Result<T>) -> Result<T> {
    run(connection, "BEGIN")?;
    let result = catch_unwind(AssertUnwindSafe(|| f(&mut Tx::sqlite(connection, clock))));
    roll_back(connection)?;
    result.unwrap_or_else(|_| Err(Error::internal("a read panicked")))
}

fn run(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn write_loop(
    connection: &Connection,
    mut waiting: mpsc::Receiver<Box<dyn Job>>,
    clock: &Clock,
    publish: &Publish,
    failed: &Failed,
) {
    let mut group = Vec::with_capacity(limits::WRITE_BATCH);
    while let Some(first) = waiting.blocking_recv() {
        group.push(first);
        while group.len() < limits::WRITE_BATCH
            && let Ok(job) = waiting.try_recv()
        {
            group.push(job);
        }
        let begun = Stopwatch::start();
        match commit(connection, clock, &mut group) {
            Ok(notices) => {
                figures::committed(begun, group.len());
                notices.iter().for_each(publish);
                group.drain(..).for_each(|job| job.answer(Ok(())));
            }
            Err(error) => {
                failed.note();
                not_committed(&error, group.len());
                group.drain(..).for_each(|job| job.answer(Err(error.of_group())));
            }
        }
    }
}

/// Moves the log of writes into the store itself, so that its one file is all of it: whoever copies a store that nobody
/// uses copies that. Without it nothing is lost.
fn empty_log(connection: &Connection) {
    let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    match emptied {
        Ok(false) => {}
        Ok(true) => tracing::warn!("another process uses the store; its log of writes ({FILE}-wal) belongs to it"),
        Err(error) => tracing::warn!(%error, "the log of writes ({FILE}-wal) is not empty; it belongs to the store"),
    }
}

/// Runs every job so that a failing one rolls back alone, and commits once. After an error nothing of it is left, and the
/// connection is in no transaction: no later one could begin in it.
fn commit(connection: &Connection, clock: &Clock, group: &mut [Box<dyn Job>]) -> Result<Vec<Notice>> {
    let committed = run_jobs(connection, clock, group).and_then(|notices| {
        run(connection, "COMMIT").inspect_err(end_if_the_disk_failed)?;
        Ok(notices)
    });
    if committed.is_err() {
        roll_back(connection)?;
    }
    committed
}

fn run_jobs(connection: &Connection, clock: &Clock, group: &mut [Box<dyn Job>]) -> Result<Vec<Notice>> {
    if let Some(notices) = run_together(connection, clock, group)? {
        return Ok(notices);
    }
    roll_back(connection)?;
    run_apart(connection, clock, group)
}

/// Runs the jobs one after the other. A savepoint costs a fifth of a small write, and few jobs fail after they have
/// written, so there is none here: `None` when there was such a job, and then all have to be rolled back.
fn run_together(connection: &Connection, clock: &Clock, group: &mut [Box<dyn Job>]) -> Result<Option<Vec<Notice>>> {
    run(connection, "BEGIN IMMEDIATE")?;
    let mut notices = Vec::new();
    for job in group {
        let changes = connection.total_changes();
        let mut tx = Tx::sqlite(connection, clock);
        let succeeded = job.run(&mut tx);
        // A fault such as a full disk ends the transaction, and a closure may have overlooked it.
        if connection.is_autocommit() || !succeeded && connection.total_changes() != changes {
            return Ok(None);
        }
        if succeeded {
            notices.append(&mut tx.notices);
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
        let mut tx = Tx::sqlite(connection, clock);
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
        // The first write holds the writer back until the others wait together in one batch, of which it is no part.
        let (begin, begun) = std_mpsc::channel();
        let (release, held) = std_mpsc::channel::<()>();
        let held = Mutex::new(held);
        let holding = db.write(move |_| {
            begin.send(()).map_err(Error::internal)?;
            lock(&held).recv().map_err(Error::internal)
        });
        let free = async {
            while db.queue.capacity() > limits::WRITE_QUEUE - 4 {
                tokio::task::yield_now().await;
            }
            drop(release);
        };
        let write = |name| db.write(insert(name));
        let (_, (a, fails, panics, b, ())) = tokio::join!(holding, async {
            while begun.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            tokio::join!(write("a"), write("fails"), write("panics"), write("b"), free)
        });
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
    async fn a_transaction_that_breaks_does_not_keep_later_ones_from_beginning() {
        let folder = Folder::new();
        let (db, _writer) = Db::open(&folder.0, Clock::System, Box::new(|_| {})).unwrap();
        // What a full disk does to a transaction, and a savepoint that cannot be rolled back to.
        for (breaks, overlooked) in [("ROLLBACK", true), ("ROLLBACK", false), ("RELEASE job", false)] {
            let broken = db.write(move |tx| {
                insert("a")(tx)?;
                drop(tx.execute(breaks, &[]));
                drop(insert("b")(tx));
                if overlooked { Ok(()) } else { Err(Error::invalid("no")) }
            });
            broken.await.unwrap_err();
            db.write(insert("after")).await.unwrap();
            let names = "SELECT key FROM idempotency_keys ORDER BY key";
            let names = db.read(move |tx| tx.all(names, &[], |row| row.text(0))).await.unwrap();
            assert_eq!(names, ["after"], "{breaks} {overlooked}");
            db.write(|tx| tx.execute("DELETE FROM idempotency_keys", &[])).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_nobody_uses_is_whole_in_one_file() {
        let folder = Folder::new();
        let (db, writer) = Db::open(&folder.0, Clock::System, Box::new(|_| {})).unwrap();
        db.write(insert("a")).await.unwrap();
        let log = || std::fs::metadata(folder.0.join(format!("{FILE}-wal"))).map_or(0, |file| file.len());
        assert!(log() > 0, "it is written there first");
        drop(db);
        writer.join();
        assert_eq!(log(), 0);
        let copy = Folder::new();
        std::fs::copy(folder.0.join(FILE), copy.0.join(FILE)).unwrap();
        let (db, _writer) = Db::open(&copy.0, Clock::System, Box::new(|_| {})).unwrap();
        let names = db.read(|tx| tx.all("SELECT key FROM idempotency_keys", &[], |row| row.text(0))).await.unwrap();
        assert_eq!(names, ["a"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_of_a_store_in_use_without_its_log_is_refused_and_not_begun_anew() {
        let folder = Folder::new();
        let (db, _writer) = Db::open(&folder.0, Clock::System, Box::new(|_| {})).unwrap();
        db.write(insert("a")).await.unwrap();
        let copy = Folder::new();
        std::fs::copy(folder.0.join(FILE), copy.0.join(FILE)).unwrap();
        for _ in 0..2 {
            let Err(refused) = Db::open(&copy.0, Clock::System, Box::new(|_| {})) else {
                panic!("a new store was begun")
            };
            assert!(refused.to_string().contains("without rota.db-wal beside it"), "{refused}");
        }
        let log = format!("{FILE}-wal");
        std::fs::copy(folder.0.join(&log), copy.0.join(&log)).unwrap();
        let (db, _writer) = Db::open(&copy.0, Clock::System, Box::new(|_| {})).unwrap();
        let names = db.read(|tx| tx.all("SELECT key FROM idempotency_keys", &[], |row| row.text(0))).await.unwrap();
        assert_eq!(names, ["a"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_gives_back_the_space_of_what_was_deleted() {
        let folder = Folder::new();
        let (db, writer) = Db::open(&folder.0, Clock::System, Box::new(|_| {})).unwrap();
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
            INSERT INTO idempotency_keys (deployment_id, key, run_id, created_at)
            SELECT 'd' || n.i, $1, 'r', 0 FROM n";
        let long = "x".repeat(2000);
        db.write(move |tx| tx.execute(fill, vals![&long])).await.unwrap();
        let counted = |name: &str| -> i64 {
            let reader = connect(&folder.0.join(FILE), read_only()).unwrap();
            reader.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
        };
        let full = counted("page_count");
        db.write(|tx| tx.execute("DELETE FROM idempotency_keys", &[])).await.unwrap();
        assert_eq!(counted("page_count"), full, "free pages stay in the file");
        let mut given = 0;
        while let some @ 1.. = db.write(|tx| tx.give_back(300, 50)).await.unwrap() {
            assert!(some <= 300, "{some}");
            given += some;
        }
        assert!(given > 1000 && counted("page_count") <= full - given, "{given} of {full}");
        assert_eq!(counted("freelist_count"), 50, "some stay for what comes next");
        drop(db);
        writer.join();
        assert!(std::fs::metadata(folder.0.join(FILE)).unwrap().len() < 4096 * (full - given + 1) as u64);
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
