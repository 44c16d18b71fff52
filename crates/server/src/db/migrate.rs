//! Numbered migrations, applied at start. A store that is newer than this program is refused.

use rusqlite::{Connection, TransactionBehavior};

use super::{dialect, postgres::Session, value::Val};
use crate::error::{Error, Result};

/// Every migration in order; the n-th brings the store to version n.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_core.sql"),
    include_str!("migrations/0002_schedule.sql"),
    include_str!("migrations/0003_policy.sql"),
    include_str!("migrations/0004_administration.sql"),
    include_str!("migrations/0005_webhooks.sql"),
    include_str!("migrations/0006_at_work.sql"),
    include_str!("migrations/0007_lists.sql"),
    include_str!("migrations/0008_turns.sql"),
    include_str!("migrations/0009_store.sql"),
    include_str!("migrations/0010_log_bytes.sql"),
    include_str!("migrations/0011_texts.sql"),
];

/// Brings a store in SQLite to this program's version.
///
/// # Errors
/// When the store is newer than this program, or a statement fails; then nothing is changed.
pub(super) fn sqlite(connection: &mut Connection) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for migration in missing(version)? {
        tx.execute_batch(&dialect::sqlite_ddl(migration))?;
    }
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    Ok(tx.commit()?)
}

/// The same in PostgreSQL. Of several servers that start at once one does it and the others wait for it.
///
/// # Errors
/// The same.
pub(super) fn postgres(session: &mut Session) -> Result<()> {
    session.begin(dialect::BEGIN);
    session.batch(dialect::LOCK_SCHEMA)?;
    let stored = session.query("SELECT version FROM schema_version", &[])?;
    let version = stored.first().map(|row| row.try_get(0)).transpose()?;
    for migration in missing(version.unwrap_or(0))? {
        session.batch(&dialect::postgres_ddl(migration))?;
    }
    let number = MIGRATIONS.len() as i64;
    session.execute("DELETE FROM schema_version", &[])?;
    session.execute("INSERT INTO schema_version (version) VALUES ($1)", &[Val::Int(number)])?;
    session.commit().map_err(|(_, error)| error)
}

/// That a store in SQLite is of this program's version.
///
/// # Errors
/// When it is of another one; the message says what to do.
pub(super) fn check_current(connection: &Connection) -> Result<()> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if missing(version)?.is_empty() {
        return Ok(());
    }
    Err(Error::invalid("the store is of an older version; start the server of this version once, which updates it"))
}

/// What a store of this version has not seen yet.
fn missing(version: i64) -> Result<&'static [&'static str]> {
    let known = MIGRATIONS.len();
    MIGRATIONS.get(version as usize..).ok_or_else(|| {
        Error::internal(format!(
            "the store has version {version} and this program knows only up to {known}; use the newer program"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing_and_a_newer_store_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        sqlite(&mut connection).unwrap();
        sqlite(&mut connection).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(sqlite(&mut connection).unwrap_err().to_string().contains("newer"));
    }
}
