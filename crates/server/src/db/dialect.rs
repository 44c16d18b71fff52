//! What differs between databases.

/// Settings of every SQLite connection. What is deleted in a page that is written anyway is overwritten there: secrets that
/// were purged do not stay behind. `synchronous=FULL`: an answered write survives a power cut. A checkpoint at 3,000
/// pages (12 MB): more often costs a busy store a tenth of its rate, less often makes its stalls longer.
pub(super) const SQLITE_PRAGMAS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA secure_delete = FAST;
    PRAGMA wal_autocheckpoint = 3000;
";

/// That a store can give space back to the file system: decided when it is made, before everything else.
pub(super) const SQLITE_NEW: &str = "PRAGMA auto_vacuum = INCREMENTAL";

/// The cache of the connection that writes.
pub(super) const SQLITE_WRITER_CACHE: &str = "PRAGMA cache_size = -32000";

/// The cache of each connection that reads. What it does not hold, the system's own cache does.
pub(super) const SQLITE_READER_CACHE: &str = "PRAGMA cache_size = -4000";

/// Settings of every PostgreSQL connection. A server that is stopped in the middle of a transaction loses it, and with it
/// the rows that it holds; nobody waits for a row without end.
pub(super) const POSTGRES_SETTINGS: &str = "
    SET idle_in_transaction_session_timeout = '10s';
    SET lock_timeout = '10s';
    SET statement_timeout = '60s';
";

/// Begins a transaction of PostgreSQL that writes.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Begins one that is shared by several closures. Two of them may hold rows that the other waits for: they give up soon,
/// long before the database looks for such a thing (after a second), and their closures run one by one.
pub(super) const BEGIN_GROUP: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '50ms'";

/// Begins one that only reads, on a snapshot.
pub(super) const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Takes the schema of a PostgreSQL database for this transaction, and makes the table of its version. The number stands
/// for nothing else.
pub(super) const LOCK_SCHEMA: &str = "
    SELECT pg_advisory_xact_lock(7420);
    CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL);
";

/// Whether a statement that returns rows changes some.
pub(super) fn writes(sql: &str) -> bool {
    let sql = sql.trim_start();
    // One that begins with its common tables says later what it does with them.
    !sql.starts_with("SELECT") && (!sql.starts_with("WITH") || sql.contains("RETURNING"))
}

/// See [`super::Tx::skip_locked`].
pub(super) fn skip_locked(table: &str) -> String {
    format!(" FOR UPDATE OF {table} SKIP LOCKED")
}

/// See [`super::Tx::lock`].
pub(super) fn lock(rows: &str) -> String {
    format!("SELECT 1 FROM {rows} FOR UPDATE")
}

/// See [`super::Tx::lock_shared`].
pub(super) fn lock_shared(rows: &str) -> String {
    format!("SELECT 1 FROM {rows} FOR SHARE")
}

/// See [`super::Tx::lock_table`].
pub(super) fn lock_table(table: &str) -> String {
    format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
}

/// Statements are written with `$1`; SQLite numbers such names by their first appearance, but `?1` by its number.
pub(super) fn placeholders(sql: &str) -> String {
    #[cfg(debug_assertions)]
    super::seen::note(sql);
    sql.replace('$', "?")
}

/// The schema is written with PostgreSQL's types; a STRICT table of SQLite knows others.
pub(super) fn sqlite_ddl(sql: &str) -> String {
    let sql = sql.replace("BIGINT", "INTEGER").replace("BYTEA", "BLOB");
    sql.replace("\n);", "\n) STRICT;").replace(BY_KEY, "\n) STRICT, WITHOUT ROWID;")
}

/// Texts are compared by their bytes, as SQLite does: ids sort by their time in no other order.
pub(super) fn postgres_ddl(sql: &str) -> String {
    sql.replace(" TEXT", " TEXT COLLATE \"C\"").replace(BY_KEY, "\n);")
}

/// How a table ends whose rows SQLite keeps by their primary key; PostgreSQL knows one kind of table.
const BY_KEY: &str = "\n) WITHOUT ROWID;";
