//! Takes a backup of a store while servers use it.
//!
//! 1. The blobs that rows name are copied.
//! 2. The store is copied as it is at one moment.
//! 3. Blobs that this copy names and that came meanwhile are copied. Where one of them is gone, for its row was deleted after 2
//!    and a sweep has been there, 2 and 3 are done again.
//! 4. The list of all files is closed, once they are on the disk: before that there is no backup.
//!
//! A session's files are in it as far as checkpoints are: those are blobs that rows name.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rota_api::{Time, id::BlobId};
use rota_sandbox::open_images;
use sha2::{Digest, Sha256};

use super::{
    manifest::{About, Kept, NamedImage, StoreKind, Writer},
    named::{Named, ROWS, Rows},
    source::Source,
};
use crate::{
    blobs::Folder,
    clock::Clock,
    config::Config,
    db::{self, Db, Tx, vals},
    error::{Error, Result},
    hex,
    limits::{BACKUP_SNAPSHOTS, COPY_BUFFER_BYTES, MAX_TOLD_BLOBS},
    resources::images,
    vault,
};

/// The name of the store in a backup.
pub(super) const STORE: &str = "rota.db";
/// The name of the master keys in a backup.
pub(super) const KEYS: &str = "vault.key";
/// The folder of blobs in a backup.
pub(super) const BLOBS: &str = "blobs";

/// A backup that was taken.
#[derive(Debug, Clone)]
pub struct Backup {
    /// What it says of itself.
    pub about: About,
    /// How many files it has.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// The database that is the store, and is not in it: its URL without a user.
    pub database: Option<String>,
    /// Blobs that rows name and that are not there, the first of them.
    pub missing: Vec<String>,
    /// Blobs whose content is not what their rows say, the first of them; they are in the backup as they are.
    pub damaged: Vec<String>,
}

/// Takes a backup into `to`, a folder that is empty or not there. `database` is the store of a configuration that names one: then
/// only the files are taken.
///
/// # Errors
/// When there is no store, or something cannot be read or written; then there is no backup.
pub async fn backup(config: Config, database: Option<Db>, to: PathBuf, with_keys: bool) -> Result<Backup> {
    if with_keys {
        vault::can_copy_key(&config)?;
    }
    let source = Source::of(&config, database)?;
    let place = config.database.as_ref().map(db::place).transpose()?;
    let taking = move || {
        let begun_at = Clock::System.now();
        make_empty(&to)?;
        let taking = Taking {
            list: Writer::begin(&to)?,
            config: &config,
            to: &to,
            copied: HashSet::new(),
            files: 0,
            bytes: 0,
            missing: HashSet::new(),
            damaged: Vec::new(),
        };
        taking.take(&source, begun_at, with_keys).map(|backup| Backup { database: place.clone(), ..backup })
    };
    tokio::task::spawn_blocking(taking).await.map_err(Error::internal)?
}

/// Makes the folder of a backup, which must have nothing in it.
fn make_empty(to: &Path) -> Result<()> {
    let cannot = |error: io::Error| Error::invalid(format_args!("cannot use {}: {error}", to.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(cannot)?;
    if super::restore::is_empty(to).map_err(cannot)? {
        return Ok(());
    }
    Err(Error::invalid(format_args!("{} is not empty: a backup has a folder of its own", to.display())))
}

struct Taking<'a> {
    config: &'a Config,
    to: &'a Path,
    list: Writer,
    copied: HashSet<BlobId>,
    files: u64,
    bytes: u64,
    /// Blobs that the rows named that were read last, and that are not there.
    missing: HashSet<BlobId>,
    damaged: Vec<String>,
}

impl Taking<'_> {
    fn take(mut self, source: &Source, begun_at: Time, with_keys: bool) -> Result<Backup> {
        self.copy_blobs(source)?;
        let store = match source {
            Source::File(file) => {
                self.copy_store(file)?;
                StoreKind::Sqlite
            }
            Source::Database(..) => StoreKind::Postgres,
        };
        let copy = self.to.join(STORE);
        let (vault_key, sessions_without_files) = match source {
            Source::File(_) => db::read_file(&copy, facts)?,
            Source::Database(..) => source.read(facts)?,
        };
        if with_keys && let Some(fingerprint) = &vault_key {
            vault::copy_key(self.config, fingerprint, &self.to.join(KEYS))?;
            self.note(KEYS)?;
        }
        let missing: Vec<String> = self.missing.iter().map(ToString::to_string).take(MAX_TOLD_BLOBS).collect();
        let about = About {
            begun_at,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            store,
            schema: db::schema_version(),
            has_keys: with_keys && vault_key.is_some(),
            vault_key,
            has_blobs: Folder::of(self.config).is_some(),
            images: named_images(&self.config.data)?,
            sessions_without_files,
            missing: self.missing.len() as u64,
        };
        self.list.finish(about.clone())?;
        Ok(Backup { about, files: self.files, bytes: self.bytes, database: None, missing, damaged: self.damaged })
    }

    /// Copies the store, and then the blobs that the copy names and that are not copied yet.
    fn copy_store(&mut self, file: &Path) -> Result<()> {
        let copy = self.to.join(STORE);
        let mut before = self.missing.clone();
        for left in (0..BACKUP_SNAPSHOTS).rev() {
            match fs::remove_file(&copy) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::internal(error)),
                _ => {}
            }
            db::copy_file(file, &copy)?;
            self.copy_blobs(&Source::File(copy.clone()))?;
            // What was missing before and is still named is not there, also for the server.
            if left == 0 || self.missing.is_subset(&before) {
                break;
            }
            before.clone_from(&self.missing);
        }
        self.note(STORE)
    }

    fn copy_blobs(&mut self, source: &Source) -> Result<()> {
        self.missing.clear();
        let Some(folder) = Folder::of(self.config) else { return Ok(()) };
        for rows in ROWS {
            self.copy_named(source, rows, &folder)?;
        }
        Ok(())
    }

    fn copy_named(&mut self, source: &Source, rows: Rows, folder: &Folder) -> Result<()> {
        let mut after = String::new();
        loop {
            let from = after.clone();
            let page = source.read(move |tx| rows.page(tx, &from))?;
            let Some(last) = page.last() else { return Ok(()) };
            last.id.as_ref().clone_into(&mut after);
            for named in &page {
                self.copy_blob(named, folder)?;
            }
        }
    }

    fn copy_blob(&mut self, named: &Named, folder: &Folder) -> Result<()> {
        if self.copied.contains(&named.id) || self.missing.contains(&named.id) {
            return Ok(());
        }
        let path = format!("{BLOBS}/{}", Folder::place(&named.id));
        let to = self.to.join(&path);
        if let Some(parent) = to.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(Error::internal)?;
        }
        let Some((bytes, sha256)) = copy(&folder.file(&named.id), &to)? else {
            self.missing.insert(named.id.clone());
            return Ok(());
        };
        let differs = named.sha256.as_ref().is_some_and(|known| *known != sha256)
            || named.bytes.is_some_and(|known| known as u64 != bytes);
        if differs && self.damaged.len() < MAX_TOLD_BLOBS {
            self.damaged.push(named.id.to_string());
        }
        self.copied.insert(named.id.clone());
        self.add(Kept { path, bytes, sha256 })
    }

    /// Lists a file that is in the backup already.
    fn note(&mut self, path: &str) -> Result<()> {
        let (bytes, sha256) = digest(&self.to.join(path)).map_err(Error::internal)?;
        self.add(Kept { path: path.to_owned(), bytes, sha256 })
    }

    fn add(&mut self, kept: Kept) -> Result<()> {
        self.files += 1;
        self.bytes += kept.bytes;
        self.list.add(kept)
    }
}

/// The fingerprint of the master key, and how many sessions have files that no checkpoint has.
fn facts(tx: &mut Tx<'_>) -> Result<(Option<String>, i64)> {
    let sql = "SELECT count(*) FROM sessions s LEFT JOIN session_checkpoints c ON c.session_id = s.id
         WHERE s.home IS NOT NULL AND (c.manifest_blob IS NULL OR c.due_at IS NOT NULL OR c.expires_at <= $1)";
    let without = tx.one(sql, vals![tx.now()], |row| row.int(0))?.unwrap_or_default();
    Ok((vault::fingerprint(tx)?, without))
}

fn named_images(data: &Path) -> Result<Vec<NamedImage>> {
    if !data.join("images").is_dir() {
        return Ok(Vec::new());
    }
    let all = images::all(&open_images(data).map_err(Error::internal)?)?;
    Ok(all
        .into_iter()
        .map(|image| NamedImage { name: image.name, digest: image.digest, reference: image.reference })
        .collect())
}

/// Copies a file, which only its owner reads. Its bytes and their SHA-256; `None` when it is not there.
pub(super) fn copy(from: &Path, to: &Path) -> Result<Option<(u64, String)>> {
    let cannot =
        |error: io::Error| Error::invalid(format_args!("cannot copy {} to {}: {error}", from.display(), to.display()));
    let mut from = match File::open(from) {
        Ok(from) => from,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(error)),
    };
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(to).map_err(cannot)?;
    digest_of(&mut from, |piece| to.write_all(piece)).map(Some).map_err(cannot)
}

/// The bytes of a file and their SHA-256.
pub(super) fn digest(path: &Path) -> io::Result<(u64, String)> {
    digest_of(&mut File::open(path)?, |_| Ok(()))
}

fn digest_of(from: &mut File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(u64, String)> {
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; COPY_BUFFER_BYTES]);
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok((bytes, hex::digits(&hash.finalize()))),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        each(&piece[..read])?;
        hash.update(&piece[..read]);
        bytes += read as u64;
    }
}
