//! What differs between databases: the only module that knows which one it is.

/// Settings of every SQLite connection. `synchronous=FULL`: an answered write survives a power cut. A checkpoint at 3,000
/// pages (12 MB): more often costs a busy store a tenth of its rate, less often makes its stalls longer.
pub(super) const SQLITE_PRAGMAS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -32000;
    PRAGMA wal_autocheckpoint = 3000;
";

/// Statements are written with `$1`; SQLite numbers such names by their first appearance, but `?1` by its number.
pub(super) fn placeholders(sql: &str) -> String {
    sql.replace('$', "?")
}

/// The schema is written with PostgreSQL's types; a STRICT table of SQLite knows others.
pub(super) fn ddl(sql: &str) -> String {
    sql.replace("BIGINT", "INTEGER").replace("BYTEA", "BLOB").replace("\n);", "\n) STRICT;")
}
