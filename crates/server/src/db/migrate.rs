//! Numbered migrations, applied at start. A store that is newer than this program is refused.

use rusqlite::{Connection, TransactionBehavior};

use super::dialect;
use crate::error::{Error, Result};

/// Every migration in order; the n-th brings the store to version n.
const MIGRATIONS: [&str; 5] = [
    include_str!("migrations/0001_core.sql"),
    include_str!("migrations/0002_schedule.sql"),
    include_str!("migrations/0003_policy.sql"),
    include_str!("migrations/0004_administration.sql"),
    include_str!("migrations/0005_webhooks.sql"),
];

/// Brings the store to this program's version.
///
/// # Errors
/// When the store is newer than this program, or a statement fails; then nothing is changed.
pub(super) fn run(connection: &mut Connection) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: usize = tx.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? as usize;
    if version > MIGRATIONS.len() {
        return Err(Error::internal(format!(
            "the store has version {version} and this program knows only up to {}; use the newer program",
            MIGRATIONS.len()
        )));
    }
    for migration in &MIGRATIONS[version..] {
        tx.execute_batch(&dialect::ddl(migration))?;
    }
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    Ok(tx.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing_and_a_newer_store_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        run(&mut connection).unwrap();
        run(&mut connection).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(run(&mut connection).unwrap_err().to_string().contains("newer"));
    }
}
