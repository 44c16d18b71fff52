//! The file of a store in SQLite, as commands read it: beside the server that may be writing to it, or as a copy that nobody
//! uses.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use rusqlite::{Connection, OpenFlags};

use super::{Tx, migrate};
use crate::{
    clock::Clock,
    error::{Error, Result},
    limits::BUSY_TIMEOUT,
};

/// Runs `f` on a snapshot of the store in `file`. Nothing is written, not even a newer schema.
pub(crate) fn read_file<T>(file: &Path, f: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
    let connection = open(file)?;
    connection.execute_batch("BEGIN")?;
    f(&mut Tx::sqlite(&connection, &Clock::System))
}

/// Writes the store in `file` as it is at this moment to `to`, which must not be there. Who writes to it meanwhile is not held up.
///
/// # Errors
/// When the store was written by another version of this program, or cannot be read or written.
pub(crate) fn copy_file(file: &Path, to: &Path) -> Result<()> {
    let connection = open(file)?;
    migrate::check_current(&connection)?;
    let path = to.to_str().ok_or_else(|| Error::invalid(format_args!("{} is no text", to.display())))?;
    connection.execute("VACUUM INTO ?1", [path])?;
    // SQLite leaves it to others to bring such a file to the disk.
    let written = fs::set_permissions(to, Permissions::from_mode(0o600)).and_then(|()| File::open(to)?.sync_all());
    written.map_err(Error::internal)
}

/// What SQLite finds wrong with the structure of `file`: at most `most` lines, none of a whole one.
pub(crate) fn check_integrity(file: &Path, most: usize) -> Result<Vec<String>> {
    let connection = open(file)?;
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({most})"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(if lines == ["ok"] { Vec::new() } else { lines })
}

/// That the store in `file` has the schema of this program.
///
/// # Errors
/// When it is older or newer, or was made by other migrations; the message says what to do.
pub(crate) fn check_version(file: &Path) -> Result<()> {
    migrate::check_current(&open(file)?)
}

/// The version of the schema that this program brings a store to.
pub(crate) fn schema_version() -> i64 {
    migrate::version()
}

fn open(file: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)
        .map_err(|error| Error::invalid(format_args!("cannot open {}: {error}", file.display())))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::db::{Db, FILE};

    #[tokio::test]
    async fn a_copy_has_what_was_there_when_it_was_begun_and_is_whole() {
        let folder = TempDir::new().unwrap();
        let (db, _writer) = Db::open(folder.path(), Clock::System, Box::new(|_| {})).unwrap();
        db.write(|tx| tx.execute("INSERT INTO deleted_memory_stores (store_id) VALUES ('a')", &[])).await.unwrap();
        let (file, copy) = (folder.path().join(FILE), folder.path().join("copy"));
        copy_file(&file, &copy).unwrap();
        db.write(|tx| tx.execute("INSERT INTO deleted_memory_stores (store_id) VALUES ('b')", &[])).await.unwrap();
        let stores = |file: &Path| {
            let sql = "SELECT store_id FROM deleted_memory_stores ORDER BY store_id";
            read_file(file, |tx| tx.all(sql, &[], |row| row.text(0))).unwrap()
        };
        assert_eq!(stores(&copy), ["a"]);
        assert_eq!(stores(&file), ["a", "b"], "what is not in the file itself yet is read too");
        assert_eq!(check_integrity(&copy, 10).unwrap(), [] as [&str; 0]);
        check_version(&copy).unwrap();
        assert!(copy_file(&file, &copy).is_err(), "nothing is written over");
    }

    #[tokio::test]
    async fn a_reader_of_the_file_cannot_write() {
        let folder = TempDir::new().unwrap();
        let (_db, _writer) = Db::open(folder.path(), Clock::System, Box::new(|_| {})).unwrap();
        let write = |tx: &mut Tx| tx.execute("INSERT INTO deleted_memory_stores (store_id) VALUES ('a')", &[]);
        assert!(read_file(&folder.path().join(FILE), write).is_err());
    }
}
