//! Unpacks the layers of an OCI image into one folder.
//!
//! Whoever made the image may have put anything in it. So every path is opened below the folder by the kernel, which takes the
//! folder for the root: no link and no `..` leads out of it, and absolute links lead where they lead inside. What was opened is
//! held while something is made in it.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::EntryType;

use super::layers::NewLayer;
use crate::folder::{Folder, Kind, give_file};

/// The longest extended header, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// The longest path, in bytes.
const MAX_PATH: usize = 4096;
/// Most names in a path.
const MAX_DEPTH: usize = 256;
/// Folders below each other that are removed. Links on the way to a path can make them deeper than a path is long.
const MAX_REMOVED_DEPTH: usize = 2 * MAX_DEPTH;
/// How the names begin that say that something is not there any more.
const WHITEOUT: &[u8] = b".wh.";
/// The name that says that nothing of lower layers is in its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Ids of a layer from here on are not mapped in a sandbox: such a file is nobody's.
const IDS: u64 = 65_536;
const NOBODY: u64 = 65_534;
/// What of permissions is kept: a program that gives its user another's rights does not, in a sandbox.
const MODES: u32 = 0o1777;

/// What an image may take.
#[derive(Debug, Clone, Copy)]
pub struct UnpackBounds {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// How long all of it may take.
    pub time: Duration,
}

/// Why an image was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// What the layer says cannot be, or is more than it may be.
    #[error("{0}")]
    Refused(String),
    /// It could not be read, or written.
    #[error("unpacking: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for UnpackError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

type Result<T> = std::result::Result<T, UnpackError>;

fn refused<T>(what: impl Into<String>) -> Result<T> {
    Err(UnpackError::Refused(what.into()))
}

/// An image that is being unpacked, the lowest layer first.
#[derive(Debug)]
pub struct Unpacking {
    root: Folder,
    owner: Option<u32>,
    bounds: UnpackBounds,
    until: Instant,
    bytes: u64,
    entries: u64,
    /// Folders get their permissions last: until then everything can be made in them.
    modes: HashMap<PathBuf, u32>,
    skipped: u64,
}

/// An entry of a layer, read and checked.
struct Entry {
    path: PathBuf,
    link: Option<PathBuf>,
    kind: EntryType,
    size: u64,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
}

/// What extended headers say of the entry behind them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
}

impl Unpacking {
    /// Unpacks into a layer.
    ///
    /// # Errors
    /// When its folder cannot be opened.
    pub fn new(layer: &NewLayer, bounds: UnpackBounds) -> io::Result<Self> {
        Ok(Self {
            root: layer.files()?,
            owner: layer.owner(),
            bounds,
            until: Instant::now() + bounds.time,
            bytes: 0,
            entries: 0,
            modes: HashMap::new(),
            skipped: 0,
        })
    }

    /// Puts one layer of the image, a tar file, over those before.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when it names something outside, or is too large; then nothing of the image is of use.
    pub fn layer(&mut self, archive: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(archive);
        let mut extended = Extended::default();
        let mut made = HashSet::new();
        for entry in archive.entries()?.raw(true) {
            let mut entry = entry?;
            self.count()?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::XGlobalHeader => {
                    read_extension(&mut entry)?;
                }
                EntryType::XHeader => read_pax(&mut entry, &mut extended)?,
                EntryType::GNULongName => extended.path = Some(read_name(&mut entry)?),
                EntryType::GNULongLink => extended.link = Some(read_name(&mut entry)?),
                _ => {
                    let read = read_entry(&entry, std::mem::take(&mut extended))?;
                    // What is left out is read all the same.
                    self.bytes = self.bytes.saturating_add(entry.size());
                    if self.bytes > self.bounds.bytes {
                        return refused(format!("the image has more than {} bytes of files", self.bounds.bytes));
                    }
                    self.take(&read, &mut entry, &mut made)?;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.bounds.entries {
            return refused(format!("the image has more than {} files", self.bounds.entries));
        }
        self.check_time()
    }

    fn check_time(&self) -> Result<()> {
        if Instant::now() < self.until {
            return Ok(());
        }
        refused(format!("unpacking the image took longer than {} seconds", self.bounds.time.as_secs()))
    }

    fn take(&mut self, entry: &Entry, content: &mut impl Read, made: &mut HashSet<PathBuf>) -> Result<()> {
        let Some(name) = entry.path.file_name() else {
            // The folder itself.
            self.modes.insert(PathBuf::new(), entry.mode);
            return Ok(());
        };
        let parent = entry.path.parent().unwrap_or(Path::new(""));
        if name.as_bytes() == OPAQUE {
            return self.empty_below(parent, made);
        }
        if let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT) {
            if gone.is_empty() || gone == b"." || gone == b".." {
                return refused(format!("the layer has a whiteout of nothing: {}", entry.path.display()));
            }
            let Some(folder) = self.open(parent)? else { return Ok(()) };
            return remove(&folder, &CString::new(gone).map_err(io::Error::from)?);
        }
        let folder = self.make_folders(parent)?;
        let name = CString::new(name.as_bytes()).map_err(io::Error::from)?;
        made.insert(entry.path.clone());
        if entry.kind == EntryType::Directory {
            return self.take_folder(entry, &folder, &name);
        }
        if !matches!(entry.kind, EntryType::Regular | EntryType::Continuous | EntryType::Symlink | EntryType::Link) {
            // Devices, FIFOs: a sandbox has devices of its own.
            self.skipped += 1;
            return Ok(());
        }
        if entry.kind == EntryType::Link {
            return self.take_link(entry, &folder, &name);
        }
        remove(&folder, &name)?;
        if entry.kind == EntryType::Symlink {
            let target = entry.link.as_deref().unwrap_or(Path::new(""));
            rustix::fs::symlinkat(target, &folder, name.as_c_str())?;
            return self.give(&folder, &name, entry);
        }
        self.write(entry, content, &folder, &name)
    }

    fn take_folder(&mut self, entry: &Entry, folder: &Folder, name: &CString) -> Result<()> {
        if !matches!(folder.look(name.as_c_str()), Ok(Kind::Folder)) {
            remove(folder, name)?;
            folder.make(name.as_c_str(), 0o700, None)?;
        }
        self.modes.insert(entry.path.clone(), entry.mode);
        self.give(folder, name, entry)
    }

    /// Another name of a file that is there already.
    fn take_link(&mut self, entry: &Entry, folder: &Folder, name: &CString) -> Result<()> {
        let target = entry.link.clone().unwrap_or_default();
        if target == entry.path {
            return Ok(());
        }
        let Some(target_name) = target.file_name() else {
            return refused(format!("{} is a link to a folder", entry.path.display()));
        };
        let Some(of) = self.open(target.parent().unwrap_or(Path::new("")))? else {
            let (path, target) = (entry.path.display(), target.display());
            return refused(format!("{path} is another name of {target}, which is not there"));
        };
        let kind = rustix::fs::statat(&of, target_name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| FileType::from_raw_mode(stat.st_mode));
        if !matches!(kind, Ok(FileType::RegularFile | FileType::Symlink)) {
            let (path, target) = (entry.path.display(), target.display());
            return refused(format!("{path} is another name of {target}, which is no file"));
        }
        remove(folder, name)?;
        rustix::fs::linkat(&of, target_name, folder, name.as_c_str(), AtFlags::empty())?;
        Ok(())
    }

    fn write(&mut self, entry: &Entry, content: &mut impl Read, folder: &Folder, name: &CString) -> Result<()> {
        let mut file = folder.create(name.as_c_str())?;
        let mut left = content.take(entry.size);
        let mut buffer = vec![0; 1 << 18];
        let mut written = 0;
        loop {
            let got = left.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            io::Write::write_all(&mut file, &buffer[..got])?;
            written += got as u64;
            self.check_time()?;
        }
        if written != entry.size {
            return refused(format!("the layer ends in the middle of {}", entry.path.display()));
        }
        self.give(folder, name, entry)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        // Compiled Python knows its source by its time.
        let at = Timespec { tv_sec: entry.mtime.cast_signed(), tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: at, last_modification: at })?;
        Ok(())
    }

    /// Gives what has a name to the ids that a sandbox knows as those of the entry.
    fn give(&self, folder: &Folder, name: &CString, entry: &Entry) -> Result<()> {
        let Some(owner) = self.owner else { return Ok(()) };
        let id = |id: u64| owner + if id < IDS { id } else { NOBODY } as u32;
        let (uid, gid) = (Some(Uid::from_raw(id(entry.uid))), Some(Gid::from_raw(id(entry.gid))));
        rustix::fs::chownat(folder, name.as_c_str(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Opens a folder below the root. `None` when there is none.
    fn open(&self, path: &Path) -> io::Result<Option<Folder>> {
        match self.root.open_as_root(path, true) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            folder => folder.map(Some),
        }
    }

    /// The same, and makes the folders of the path that are missing.
    fn make_folders(&self, path: &Path) -> Result<Folder> {
        match self.root.open_as_root(path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return Ok(opened?),
        }
        let Some(name) = path.file_name() else { return Ok(self.root.open_as_root(path, true)?) };
        let parent = self.make_folders(path.parent().unwrap_or(Path::new("")))?;
        if parent.has(name) {
            return refused(format!("the folder of a file is a link to nowhere: {}", path.display()));
        }
        parent.make(name, 0o755, self.owner)?;
        Ok(self.root.open_as_root(path, true)?)
    }

    /// Removes what lower layers have in a folder.
    fn empty_below(&self, path: &Path, made: &HashSet<PathBuf>) -> Result<()> {
        let Some(folder) = self.open(path)? else { return Ok(()) };
        for (name, is_folder) in folder.entries()? {
            let own = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            if !made.contains(&own) {
                remove(&folder, &name)?;
            } else if is_folder {
                self.empty_below(&own, made)?;
            }
        }
        Ok(())
    }

    /// Finishes: folders get their permissions, and files that every machine has are made where the image has none. Answers with the
    /// bytes and the number of its files, and how many devices and the like were left out.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn finish(mut self) -> Result<(u64, u64, u64)> {
        for (path, text) in [
            ("etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
            ("etc/hostname", "sandbox\n"),
            ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
        ] {
            self.ensure_file(Path::new(path), text)?;
        }
        // The deepest first: after that nothing more is opened below.
        let mut modes: Vec<(PathBuf, u32)> = std::mem::take(&mut self.modes).into_iter().collect();
        modes.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, mode) in modes {
            // Removed since, or something else by now.
            let Ok(folder) = self.root.open_as_root(&path, false) else { continue };
            folder.set_mode(mode)?;
        }
        Ok((self.bytes, self.entries, self.skipped))
    }

    /// Makes a file that the image does not have, or has empty. One that is a link stays: it leads somewhere inside.
    fn ensure_file(&self, path: &Path, text: &str) -> Result<()> {
        let folder = self.make_folders(path.parent().unwrap_or(Path::new("")))?;
        let name = CString::new(path.file_name().unwrap_or_default().as_bytes()).map_err(io::Error::from)?;
        match rustix::fs::statat(&folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_size > 0 => return Ok(()),
            _ => {}
        }
        remove(&folder, &name)?;
        let mut file = folder.create(name.as_c_str())?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        give_file(&file, self.owner, 0o644)?;
        Ok(())
    }
}

/// Removes what has a name, with all that is below.
fn remove(folder: &Folder, name: &CString) -> Result<()> {
    remove_deep(folder, name, MAX_REMOVED_DEPTH)
}

fn remove_deep(folder: &Folder, name: &CString, depth: usize) -> Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return refused("folders that are too deep to be removed");
    };
    match folder.look(name.as_c_str()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(Kind::Folder) => {}
        Ok(_) => return Ok(folder.remove_file(name)?),
        Err(error) => return Err(error.into()),
    }
    let below = folder.enter(name.as_c_str())?;
    below.set_mode(0o700)?;
    for (entry, _) in below.entries()? {
        remove_deep(&below, &entry, depth)?;
    }
    Ok(folder.remove_folder(name)?)
}

fn read_extension(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let size = entry.header().entry_size()?;
    if size > MAX_EXTENSION {
        return refused(format!("an extended header of {size} bytes"));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    Ok(content)
}

fn read_name(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let mut name = read_extension(entry)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn read_pax(entry: &mut tar::Entry<'_, impl Read>, extended: &mut Extended) -> Result<()> {
    let content = read_extension(entry)?;
    for extension in tar::PaxExtensions::new(&content) {
        let extension = extension?;
        let value = extension.value_bytes();
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        match extension.key_bytes() {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"uid" => extended.uid = number(),
            b"gid" => extended.gid = number(),
            b"size" if number().is_none_or(|size| size >= 1 << 33) => {
                return refused("a file of 8 GiB or more");
            }
            name if name.starts_with(b"GNU.sparse.") => return refused("a sparse file, which images do not have"),
            _ => {}
        }
    }
    Ok(())
}

fn read_entry(entry: &tar::Entry<'_, impl Read>, extended: Extended) -> Result<Entry> {
    let header = entry.header();
    let kind = header.entry_type();
    if kind == EntryType::GNUSparse {
        return refused("a sparse file, which images do not have");
    }
    let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let link = match (kind, link) {
        (EntryType::Symlink, Some(link)) if link.len() <= MAX_PATH => {
            Some(PathBuf::from(std::ffi::OsStr::from_bytes(&link)))
        }
        (EntryType::Link, Some(link)) => Some(inside(&link)?),
        (EntryType::Symlink | EntryType::Link, _) => return refused("a link that leads to nothing"),
        _ => None,
    };
    Ok(Entry {
        path: inside(&path)?,
        link,
        kind,
        size: if matches!(kind, EntryType::Regular | EntryType::Continuous) { header.entry_size()? } else { 0 },
        mode: header.mode()? & MODES,
        uid: extended.uid.map_or_else(|| header.uid(), Ok)?,
        gid: extended.gid.map_or_else(|| header.gid(), Ok)?,
        mtime: header.mtime()?.min(u64::from(u32::MAX)),
    })
}

/// A path of an archive as one below the root.
fn inside(path: &[u8]) -> Result<PathBuf> {
    let shown = || String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned();
    if path.len() > MAX_PATH {
        return refused(format!("a path of {} bytes: {}…", path.len(), shown()));
    }
    let mut clean = PathBuf::new();
    for component in Path::new(std::ffi::OsStr::from_bytes(path)).components() {
        match component {
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => return refused(format!("a path that leads outside: {}", shown())),
            Component::Normal(name) => clean.push(name),
        }
    }
    if clean.components().count() > MAX_DEPTH {
        return refused(format!("folders that are too deep: {}", shown()));
    }
    Ok(clean)
}
