//! The data folder: who uses it, the name of its server, and whether its store is in a database elsewhere.

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::Path,
};

use rota_api::id::{Id, SessionId};
use tokio::time::sleep;

use crate::{
    config::{Config, DatabaseUrl},
    db::{self, Db},
    error::{Error, Result},
    limits, random,
};

/// The file that names the database which is the store of the folder's server.
const DATABASE: &str = "database";
/// The file whose lock the server with the folder holds.
pub const LOCK: &str = "lock";
/// The file that is there while a backup is put into the folder.
pub const RESTORING: &str = "restoring";
/// The folder with the content of files, unless the configuration says otherwise.
const BLOBS: &str = "blobs";
/// The folder with the files of sessions, each in a folder of its id.
const SESSIONS: &str = "sessions";

/// One server a data folder: two would run the same sessions.
///
/// A server that was killed while it started a sandbox leaves a process that holds its files for a moment longer, until
/// it has become the sandbox's program: so a start tries more than once.
pub async fn lock(data: &Path) -> Result<File> {
    let cannot = |error| Error::invalid(format_args!("cannot use the data folder {}: {error}", data.display()));
    fs::create_dir_all(data).map_err(cannot)?;
    private(data).map_err(cannot)?;
    let file = File::options().create(true).truncate(false).write(true).open(data.join(LOCK)).map_err(cannot)?;
    for _ in 0..limits::LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(limits::LOCK_RETRY).await,
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
    }
    Err(Error::invalid(format_args!("another server is using the data folder {}", data.display())))
}

/// The name of the server with this data folder, made with the folder: sessions whose files are in it are this server's.
///
/// # Errors
/// When the name is lost, and with it whose files are in the folder: under another name they would be taken for files of
/// sessions that have moved. With a store of its own the server finds it there.
pub async fn node(config: &Config, db: &Db) -> Result<String> {
    let path = config.data.join("node");
    let cannot = |error| Error::internal(format!("cannot use {}: {error}", path.display()));
    match fs::read_to_string(&path) {
        Ok(name) if !name.is_empty() => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    let sessions = sessions(&config.data)?;
    if sessions > 0 && config.database.is_some() {
        return Err(Error::invalid(format_args!(
            "{} is missing, which has the name of the server whose sessions' files are in the folder, {sessions} of them. Put \
             it back; or, to do without these files, move {}/{SESSIONS} away",
            path.display(),
            config.data.display()
        )));
    }
    let sql = "SELECT home FROM sessions WHERE home IS NOT NULL LIMIT 1";
    let known = if sessions > 0 { db.lookup(sql, &[], |row| row.text(0)).await? } else { None };
    let name = known.map_or_else(random::uuid, Ok)?;
    fs::write(&path, format!("{name}\n")).map_err(cannot)?;
    Ok(name)
}

/// Records that the store of this folder's server is a database: a start without it would begin another store, or go on
/// with an old one.
///
/// # Errors
/// When the file cannot be written.
pub fn set_database(data: &Path, url: &DatabaseUrl) -> Result<()> {
    let path = data.join(DATABASE);
    let cannot = |error| Error::invalid(format_args!("cannot write {}: {error}", path.display()));
    fs::write(&path, format!("{}\n", db::place(url)?)).map_err(cannot)
}

/// That the store of this folder's server is where the configuration says, or there never was one.
///
/// # Errors
/// When it is somewhere else, or gone: a new store would know nothing of the sessions whose files are in the folder. The
/// message says what was found and what to do.
pub async fn check_store(config: &Config) -> Result<()> {
    let data = &config.data;
    if data.join(RESTORING).exists() {
        return Err(Error::invalid(format_args!(
            "a backup is being put into {0}, or that was cut off: empty {0} and run `rota restore` again",
            data.display()
        )));
    }
    if config.database.is_none() {
        check_without_database(data)?;
    }
    let sessions = sessions(data)?;
    let has_files = has_blobs(data);
    if sessions == 0 && !has_files || !db::is_new(data, config.database.as_ref()).await? {
        return Ok(());
    }
    let (what, remedy) = match &config.database {
        Some(url) => (format!("the database {} is empty", db::place(url)?), "Name the right database, or restore it"),
        None => (format!("{} is missing or empty", db::FILE), "Mount what is missing, or put the store back"),
    };
    let data = data.display();
    if sessions == 0 {
        return Err(Error::invalid(format_args!(
            "{data} has the content of files, and no store knows them: {what}. {remedy}. To begin a new store without these \
             files, move {data}/{BLOBS} away first"
        )));
    }
    Err(Error::invalid(format_args!(
        "{data} has the files of {sessions} sessions, and no store knows them: {what}. {remedy}. To begin a new store without \
         these sessions, move {data}/{SESSIONS} away first"
    )))
}

/// Whether there is the content of a file in a data folder.
fn has_blobs(data: &Path) -> bool {
    let folders = fs::read_dir(data.join(BLOBS)).into_iter().flatten().flatten();
    folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).any(|mut files| files.next().is_some())
}

/// How many sessions have files in a data folder.
fn sessions(data: &Path) -> Result<usize> {
    let path = data.join(SESSIONS);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::invalid(format_args!("cannot read {}: {error}", path.display()))),
    };
    let is_session = |name: &OsStr| name.as_encoded_bytes().starts_with(SessionId::PREFIX.as_bytes());
    Ok(entries.flatten().filter(|entry| is_session(&entry.file_name())).count())
}

/// That the store of this folder's server is in the folder, or not made yet.
///
/// # Errors
/// When it is a database; the message names it.
pub fn check_without_database(data: &Path) -> Result<()> {
    let path = data.join(DATABASE);
    match fs::read_to_string(&path) {
        Ok(place) => Err(Error::invalid(format_args!(
            "the store of {} is the database {}: give its URL as --database, as ROTA_DATABASE or in the configuration \
             file. To have a store in the folder instead, delete {}",
            data.display(),
            place.trim(),
            path.display()
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::invalid(format_args!("cannot read {}: {error}", path.display()))),
    }
}

/// Nobody but the owner reads the store.
fn private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_waits_for_a_server_that_is_ending_but_not_for_one_that_runs() {
        let folder = std::env::temp_dir().join(format!("rota-lock-{}", std::process::id()));
        let ending = lock(&folder).await.unwrap();
        let (next, ()) = tokio::join!(lock(&folder), async { drop(ending) });
        assert!(next.is_ok());
        assert!(matches!(lock(&folder).await, Err(Error::Invalid(_))));
        fs::remove_dir_all(&folder).unwrap();
    }
}
