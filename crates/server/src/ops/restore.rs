//! Puts a backup in place: into a folder that has nothing in it, once all of it was found to be what was written.
//!
//! While that is under way the folder has a file that says so, and no server starts on it. What was cut off is done again from
//! the beginning.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{
    backup::{BLOBS, KEYS, STORE, copy, digest},
    manifest::{self, About, Kept, StoreKind},
};
use crate::{
    blobs::Folder,
    db,
    error::{Error, Result},
    folder,
};

/// A backup that was put in place.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What it says of itself.
    pub about: About,
    /// How many files it has.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

/// Puts the backup in `from` into the data folder `data`, which is empty or not there.
///
/// # Errors
/// When the backup is not whole, or of a newer program, or the folder is not empty; then nothing was put there.
pub async fn restore(from: PathBuf, data: PathBuf) -> Result<Restored> {
    let (of, into) = (from.clone(), data.clone());
    let verifying = tokio::task::spawn_blocking(move || {
        check_empty(&into)?;
        verify(&of)
    });
    let restored = verifying.await.map_err(Error::internal)??;
    let _lock = folder::lock(&data).await?;
    let placing = tokio::task::spawn_blocking(move || {
        check_empty(&data)?;
        place(&from, &data)
    });
    placing.await.map_err(Error::internal)??;
    Ok(restored)
}

/// That all of a backup is what was written, and of this program or an older one.
fn verify(from: &Path) -> Result<Restored> {
    let (mut files, mut bytes, mut has_store) = (0, 0, false);
    let about = manifest::read(from, |kept| {
        check_path(&kept.path)?;
        let path = from.join(&kept.path);
        let differs = |why: &str| Error::invalid(format_args!("{} of the backup {why}: take another one", kept.path));
        match fs::symlink_metadata(&path) {
            Ok(there) if !there.is_file() => return Err(differs("is no file")),
            Ok(there) if there.len() != kept.bytes => return Err(differs("has another length than it had")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(differs("is missing")),
            Err(error) => return Err(Error::invalid(format_args!("cannot read {}: {error}", path.display()))),
        }
        let (_, sha256) =
            digest(&path).map_err(|error| Error::invalid(format_args!("cannot read {}: {error}", path.display())))?;
        if sha256 != kept.sha256 {
            return Err(differs("has another checksum than it had"));
        }
        files += 1;
        bytes += kept.bytes;
        has_store |= kept.path == STORE;
        Ok(())
    })?;
    let known = db::schema_version();
    if about.schema > known {
        return Err(Error::invalid(format_args!(
            "the store in the backup has version {} and this program knows only up to {known}; use the newer program ({})",
            about.schema, about.program
        )));
    }
    if has_store != (about.store == StoreKind::Sqlite) {
        return Err(Error::invalid("the backup has not the store that it says to be of: take another one"));
    }
    Ok(Restored { about, files, bytes })
}

/// That a file of a backup belongs where the list says: it may have been written by anybody.
fn check_path(path: &str) -> Result<()> {
    let is_blob = || {
        let (_, name) = path.rsplit_once('/')?;
        Some(format!("{BLOBS}/{}", Folder::place(&name.parse().ok()?)) == path)
    };
    if path == STORE || path == KEYS || is_blob() == Some(true) {
        return Ok(());
    }
    Err(Error::invalid(format_args!("the list of the backup names {path:?}, which no backup has")))
}

fn check_empty(data: &Path) -> Result<()> {
    match is_empty(data) {
        Ok(true) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(false) => Err(Error::invalid(format_args!(
            "{} is not empty: name a folder that is, or empty this one, and run it again",
            data.display()
        ))),
        Err(error) => Err(Error::invalid(format_args!("cannot read {}: {error}", data.display()))),
    }
}

/// Whether a folder has nothing in it, but for what file systems have and the lock of this process.
pub(super) fn is_empty(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if !["lost+found", folder::LOCK].iter().any(|name| entry.as_ref().is_ok_and(|found| found.file_name() == *name))
        {
            return entry.map(|_| false);
        }
    }
    Ok(true)
}

fn place(from: &Path, data: &Path) -> Result<()> {
    let written = |done: io::Result<()>| {
        done.map_err(|error| Error::invalid(format_args!("cannot write to {}: {error}", data.display())))
    };
    let mark = data.join(folder::RESTORING);
    written(File::create(&mark).and_then(|file| file.sync_all()).and_then(|()| File::open(data)?.sync_all()))?;
    manifest::read(from, |Kept { path, sha256, .. }| {
        check_path(&path)?;
        let to = data.join(&path);
        if let Some(parent) = to.parent() {
            written(DirBuilder::new().recursive(true).mode(0o700).create(parent))?;
        }
        match copy(&from.join(&path), &to)? {
            Some((_, copied)) if copied == sha256 => Ok(()),
            _ => Err(Error::invalid(format_args!(
                "{path} of the backup was changed meanwhile: empty {} and run it again",
                data.display()
            ))),
        }
    })?;
    written(File::open(data).and_then(|folder| Ok(rustix::fs::syncfs(&folder)?)))?;
    written(fs::remove_file(&mark).and_then(|()| File::open(data)?.sync_all()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_only_what_a_backup_has() {
        let id = "blob_011111111111111111111B";
        for (path, is_fine) in [
            ("rota.db", true),
            ("vault.key", true),
            ("../rota.db", false),
            ("/etc/passwd", false),
            ("blobs/../rota.db", false),
            ("lock", false),
            ("", false),
            (id, false),
        ] {
            assert_eq!(check_path(path).is_ok(), is_fine, "{path}");
        }
        let id: rota_api::id::BlobId = rota_api::id::Id::new(rota_api::Time::from_micros(1));
        let path = format!("blobs/{}", Folder::place(&id));
        check_path(&path).unwrap();
        assert!(check_path(&path.replace("blobs/", "blobs/../blobs/")).is_err());
        assert!(check_path(&format!("blobs/{id}")).is_err());
    }
}
