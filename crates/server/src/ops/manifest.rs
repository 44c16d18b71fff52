//! The list of what is in a backup, which makes it one: `manifest.jsonl`, a line for each file and a last one that closes it.
//!
//! It is written under another name while files are added and gets its own when all of them are on the disk. The last line has
//! the SHA-256 of all lines before it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rota_api::Time;
use rustix::fs::syncfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    hex,
    limits::MANIFEST_LINE_BYTES,
};

/// The name of the list in a backup.
const FILE: &str = "manifest.jsonl";
/// Its name while it is written.
const UNFINISHED: &str = "manifest.new";
/// The version of its form.
const VERSION: u32 = 1;

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where it is, from the folder of the backup, and where it belongs in a data folder.
    pub path: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// The SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}

/// Which kind of store a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// `rota.db`, which is in the backup.
    Sqlite,
    /// A database, which is not.
    Postgres,
}

/// An image of the server. Its bytes are not in a backup: it is pulled or imported again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedImage {
    /// The name that environments have for it.
    pub name: String,
    /// What it is: `sha256:…`.
    pub digest: String,
    /// Where it came from.
    pub reference: String,
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// When it was begun: what was answered before is in it.
    pub begun_at: Time,
    /// The version of the program that made it.
    pub program: String,
    /// The store that it is of.
    pub store: StoreKind,
    /// The version of the schema of that store.
    pub schema: i64,
    /// The fingerprint of the master key under which the secrets of the store are sealed; absent before a first start.
    pub vault_key: Option<String>,
    /// Whether that key is in the backup.
    pub has_keys: bool,
    /// Whether the content of files is in it; `false` where it is in a bucket.
    pub has_blobs: bool,
    /// The images of the server.
    pub images: Vec<NamedImage>,
    /// Sessions whose files on the server are not in it, for no checkpoint has them.
    pub sessions_without_files: i64,
    /// Blobs that rows name and that were not there to be copied.
    pub missing: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    RotaBackup(u32),
    File(Kept),
    End(End),
}

#[derive(Serialize, Deserialize)]
struct End {
    files: u64,
    about: About,
    sha256: String,
}

/// A list that is being written.
pub(super) struct Writer {
    folder: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    files: u64,
}

impl Writer {
    /// Begins the list of the backup in `folder`.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(folder.join(UNFINISHED));
        let file = BufWriter::new(file.map_err(Error::internal)?);
        let mut list = Self { folder: folder.to_owned(), file, hash: Sha256::new(), files: 0 };
        list.write(&Line::RotaBackup(VERSION))?;
        Ok(list)
    }

    pub(super) fn add(&mut self, kept: Kept) -> Result<()> {
        self.files += 1;
        self.write(&Line::File(kept))
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.file.write_all(&text).map_err(Error::internal)
    }

    /// Closes the list, once all that it names is on the disk: from now on there is a backup.
    pub(super) fn finish(mut self, about: About) -> Result<()> {
        let sha256 = hex::digits(&self.hash.clone().finalize());
        self.write(&Line::End(End { files: self.files, about, sha256 }))?;
        let Self { folder, file, .. } = self;
        let file = file.into_inner().map_err(|error| Error::internal(error.to_string()))?;
        let finish = || {
            // The files, their folders and this one.
            syncfs(&file)?;
            fs::rename(folder.join(UNFINISHED), folder.join(FILE))?;
            File::open(&folder)?.sync_all()
        };
        finish().map_err(Error::internal)
    }
}

/// Reads the list of the backup in `folder`, and shows each file to `each`. What the backup says of itself.
///
/// # Errors
/// When there is no list, or not all of it, and those of `each`.
pub(super) fn read(folder: &Path, mut each: impl FnMut(Kept) -> Result<()>) -> Result<About> {
    let path = folder.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(none_in(folder)),
        Err(error) => return Err(Error::invalid(format_args!("cannot read {}: {error}", path.display()))),
    };
    let damaged = || Error::invalid(format_args!("{} is damaged, or was changed: take another backup", path.display()));
    let mut reader = BufReader::new(file);
    let (mut hash, mut files, mut text) = (Sha256::new(), 0, String::new());
    let mut is_begun = false;
    loop {
        text.clear();
        let read = reader.by_ref().take(MANIFEST_LINE_BYTES).read_line(&mut text).map_err(|_| damaged())?;
        if read == 0 || !text.ends_with('\n') {
            return Err(damaged());
        }
        match serde_json::from_str(&text).map_err(|_| damaged())? {
            Line::RotaBackup(VERSION) if !is_begun => is_begun = true,
            Line::RotaBackup(version) if !is_begun => {
                return Err(Error::invalid(format_args!(
                    "{} has the form {version} and this program knows only {VERSION}; use the newer program",
                    path.display()
                )));
            }
            Line::File(kept) if is_begun => {
                files += 1;
                each(kept)?;
            }
            Line::End(end) if is_begun => {
                let is_last = reader.read_line(&mut text).map_err(|_| damaged())? == 0;
                let is_all = end.files == files && end.sha256 == hex::digits(&hash.finalize());
                return if is_last && is_all { Ok(end.about) } else { Err(damaged()) };
            }
            _ => return Err(damaged()),
        }
        hash.update(&text);
    }
}

fn none_in(folder: &Path) -> Error {
    let what = if folder.join(UNFINISHED).exists() {
        "has a backup that was cut off: it is not whole, and nothing is taken from it"
    } else {
        "has no backup: there is no manifest.jsonl"
    };
    Error::invalid(format_args!("{} {what}", folder.display()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn about() -> About {
        About {
            begun_at: Time::from_micros(0),
            program: "0".to_owned(),
            store: StoreKind::Sqlite,
            schema: 1,
            vault_key: None,
            has_keys: false,
            has_blobs: true,
            images: Vec::new(),
            sessions_without_files: 0,
            missing: 0,
        }
    }

    fn kept(path: &str) -> Kept {
        Kept { path: path.to_owned(), bytes: 1, sha256: "00".to_owned() }
    }

    fn refused(folder: &Path) -> String {
        read(folder, |_| Ok(())).unwrap_err().to_string()
    }

    #[test]
    fn a_list_is_read_back_whole_or_not_at_all() {
        let folder = TempDir::new().unwrap();
        assert!(refused(folder.path()).contains("has no backup"));
        let mut list = Writer::begin(folder.path()).unwrap();
        list.add(kept("a")).unwrap();
        list.add(kept("b")).unwrap();
        assert!(refused(folder.path()).contains("was cut off"));
        list.finish(about()).unwrap();
        let mut found = Vec::new();
        let said = read(folder.path(), |kept| {
            found.push(kept.path);
            Ok(())
        });
        assert_eq!((said.unwrap(), &found[..]), (about(), &["a".to_owned(), "b".to_owned()][..]));
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for wrong in [
            text[..text.len() - 1].to_owned(),
            lines[..3].concat(),
            [lines[0], lines[2], lines[3]].concat(),
            [lines[0], lines[2], lines[1], lines[3]].concat(),
            [&text, lines[1]].concat(),
            text.replace("\"bytes\":1", "\"bytes\":2"),
            lines[1..].concat(),
            String::new(),
        ] {
            fs::write(&path, &wrong).unwrap();
            assert!(refused(folder.path()).contains("is damaged"), "{wrong}");
        }
        fs::write(&path, text.replace("\"rota_backup\":1", "\"rota_backup\":2")).unwrap();
        assert!(refused(folder.path()).contains("use the newer program"));
    }
}
