//! What differs between databases: the only module that knows which one it is.

/// Settings of every SQLite connection. `synchronous=FULL`: an answered write survives a power cut.
pub(super) const SQLITE_PRAGMAS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -32000;
    PRAGMA wal_autocheckpoint = 1000;
";

/// Statements are written with `$1`; SQLite numbers such names by their first appearance, but `?1` by its number.
pub(super) fn placeholders(sql: &str) -> String {
    sql.replace('$', "?")
}

/// The schema is written with PostgreSQL's types; a STRICT table of SQLite knows others.
pub(super) fn ddl(sql: &str) -> String {
    sql.replace("BIGINT", "INTEGER").replace("BYTEA", "BLOB").replace("\n);", "\n) STRICT;")
}
