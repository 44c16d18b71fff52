//! Numbered migrations, applied at start. A store that is newer than this program is refused.

use rusqlite::{Connection, TransactionBehavior};
use sha2::{Digest, Sha256};

use super::{dialect, postgres::Session, value::Val};
use crate::{
    error::{Error, Result},
    hex,
};

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
    include_str!("migrations/0012_sessions.sql"),
    include_str!("migrations/0013_files.sql"),
    include_str!("migrations/0014_vaults.sql"),
    include_str!("migrations/0015_memory.sql"),
    include_str!("migrations/0016_work.sql"),
    include_str!("migrations/0017_skills.sql"),
    include_str!("migrations/0018_profiles_tunnels_dreams.sql"),
    include_str!("migrations/0019_repositories.sql"),
    include_str!("migrations/0020_skills_and_outputs_of_sessions.sql"),
    include_str!("migrations/0021_egress.sql"),
    include_str!("migrations/0022_input_requests.sql"),
    include_str!("migrations/0023_session_secrets.sql"),
    include_str!("migrations/0024_images.sql"),
    include_str!("migrations/0025_checkpoints.sql"),
    include_str!("migrations/0026_rows_by_key.sql"),
    include_str!("migrations/0027_outcomes.sql"),
    include_str!("migrations/0028_deadlines.sql"),
    include_str!("migrations/0029_again.sql"),
    include_str!("migrations/0030_starts.sql"),
    include_str!("migrations/0031_told.sql"),
    include_str!("migrations/0032_audit.sql"),
    include_str!("migrations/0033_retention.sql"),
    include_str!("migrations/0034_brakes.sql"),
    include_str!("migrations/0035_left_alone.sql"),
];

/// Where a store keeps the checksums of the migrations that it has seen, each under the version that it leads to.
const CHECKSUMS: &str = "CREATE TABLE IF NOT EXISTS applied_migrations (
    version BIGINT NOT NULL PRIMARY KEY,
    checksum TEXT NOT NULL
);";

/// Brings a store in SQLite to this program's version.
///
/// # Errors
/// When the store is newer than this program, was made by other migrations, or a statement fails; then nothing is changed.
pub(super) fn sqlite(connection: &mut Connection) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    tx.execute_batch(&dialect::sqlite_ddl(CHECKSUMS))?;
    check(version, &sqlite_checksums(&tx)?)?;
    for migration in missing(version)? {
        tx.execute_batch(&dialect::sqlite_ddl(migration))?;
    }
    for (version, checksum) in checksums() {
        // A store of before there were checksums gets those of this program.
        let insert = "INSERT INTO applied_migrations (version, checksum) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        tx.execute(insert, (version, checksum))?;
    }
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    Ok(tx.commit()?)
}

fn sqlite_checksums(connection: &Connection) -> Result<Vec<(i64, String)>> {
    let mut statement = connection.prepare("SELECT version, checksum FROM applied_migrations")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The same in PostgreSQL. Of several servers that start at once one does it and the others wait for it.
///
/// # Errors
/// The same.
pub(super) fn postgres(session: &mut Session) -> Result<()> {
    session.begin(dialect::BEGIN);
    session.batch(dialect::LOCK_SCHEMA)?;
    session.batch(&dialect::postgres_ddl(CHECKSUMS))?;
    let stored = session.query("SELECT version FROM schema_version", &[])?;
    let version = stored.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
    let seen = session.query("SELECT version, checksum FROM applied_migrations", &[])?;
    let seen = seen.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    check(version, &seen.collect::<Result<Vec<_>>>()?)?;
    for migration in missing(version)? {
        session.batch(&dialect::postgres_ddl(migration))?;
    }
    for (version, checksum) in checksums() {
        let insert = "INSERT INTO applied_migrations (version, checksum) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        session.execute(insert, &[Val::Int(version), Val::Text(&checksum)])?;
    }
    let number = MIGRATIONS.len() as i64;
    session.execute("DELETE FROM schema_version", &[])?;
    session.execute("INSERT INTO schema_version (version) VALUES ($1)", &[Val::Int(number)])?;
    session.commit().map_err(|(_, error)| error)
}

/// The version that each migration leads to, and its checksum.
fn checksums() -> impl Iterator<Item = (i64, String)> {
    (1..).zip(MIGRATIONS).map(|(version, migration)| (version, checksum(migration)))
}

/// The SHA-256 of a migration's text, in hexadecimal digits.
fn checksum(migration: &str) -> String {
    hex::digits(&Sha256::digest(migration))
}

/// That a store of this version has seen the migrations that this program has.
fn check(version: i64, seen: &[(i64, String)]) -> Result<()> {
    for (version, own) in checksums().take_while(|(known, _)| *known <= version) {
        if seen.iter().any(|(known, checksum)| *known == version && *checksum != own) {
            return Err(Error::internal(format!(
                "the store was made by another build of this program: its migration {version} is not the one that this \
                 build has, so what is in its tables is not known; use the build that made it"
            )));
        }
    }
    Ok(())
}

/// That a store in SQLite is of this program's version.
///
/// # Errors
/// When it is of another one, or was made by other migrations; the message says what to do.
pub(super) fn check_current(connection: &Connection) -> Result<()> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let seen = "SELECT count(*) FROM sqlite_schema WHERE name = 'applied_migrations'";
    if connection.query_row(seen, [], |row| row.get::<_, i64>(0))? > 0 {
        check(version, &sqlite_checksums(connection)?)?;
    }
    if missing(version)?.is_empty() {
        return Ok(());
    }
    Err(Error::invalid("the store is of an older version; start the server of this version once, which updates it"))
}

/// The version to which this program brings a store.
pub(super) fn version() -> i64 {
    MIGRATIONS.len() as i64
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

    #[test]
    fn a_store_that_was_made_by_another_migration_is_refused_and_not_changed() {
        let mut connection = Connection::open_in_memory().unwrap();
        sqlite(&mut connection).unwrap();
        connection.execute("UPDATE applied_migrations SET checksum = 'other' WHERE version = 3", []).unwrap();
        for refused in [sqlite(&mut connection), check_current(&connection)] {
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("its migration 3 is not the one that this build has"), "{said}");
        }
        let stored = sqlite_checksums(&connection).unwrap();
        assert!(stored.contains(&(3, "other".to_owned())), "{stored:?}");
    }

    #[test]
    fn a_store_of_before_there_were_checksums_gets_them() {
        let mut connection = Connection::open_in_memory().unwrap();
        sqlite(&mut connection).unwrap();
        connection.execute("DROP TABLE applied_migrations", []).unwrap();
        check_current(&connection).unwrap();
        sqlite(&mut connection).unwrap();
        assert_eq!(sqlite_checksums(&connection).unwrap(), checksums().collect::<Vec<_>>());
    }
}
