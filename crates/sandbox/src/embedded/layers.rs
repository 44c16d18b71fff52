//! Layers: folders that sandboxes are made from and do not change. An unpacked image is one, the packages of an environment are
//! others.
//!
//! `<data>/images` and `<data>/packages` are the server's alone. A layer is filled in `.incoming` and gets its name, the key of
//! what is in it, when it is whole: what was cut off is nobody's layer, and is swept. Who uses a layer holds its lock shared, also in
//! another process; who removes it needs it alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::store::Inside;
use crate::deletion;
use crate::error::Error;
use crate::folder::{self, Folder};

/// Layers that are being filled.
const INCOMING: &str = ".incoming";
/// Layers that are being deleted.
const TRASH: &str = ".trash";
/// The file that everybody locks shared who fills or deletes something, and a sweep alone.
const AT_WORK: &str = ".lock";
/// The folder of the names, each a file with a key in it.
const NAMES: &str = "names";
/// What is in a layer, in its folder beside [`FILES`].
const ABOUT: &str = "about.json";
/// The files of a layer.
const FILES: &str = "files";
/// The lock of a layer. It was changed when the layer was used last.
const LOCK: &str = "lock";
/// The longest name, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// What is known of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Where it came from, for people.
    pub reference: String,
    /// What processor its programs are for, as images name it.
    pub architecture: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its files and folders.
    pub files: u64,
    /// Variables of the shell, `NAME=value`.
    pub environment: Vec<String>,
    /// When it was made, in microseconds since the epoch.
    pub made_at: i64,
}

/// A layer that is held: nobody removes it while this, or a clone of it, is there.
#[derive(Debug, Clone)]
pub struct Layer {
    key: String,
    files: PathBuf,
    about: About,
    _lock: Arc<File>,
}

impl Layer {
    /// What it is known by.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is known of it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.files
    }
}

/// The layers in a folder.
#[derive(Debug, Clone)]
pub struct Layers {
    folder: PathBuf,
    /// The host id that owns files of id 0; `None`: everything is the server's own user's.
    pub(super) owner: Option<u32>,
    inside: Option<Inside>,
}

/// A layer that is being filled. Dropped before it is placed, it is deleted.
#[derive(Debug)]
pub struct NewLayer {
    layers: Layers,
    name: String,
    path: PathBuf,
    _at_work: File,
    is_placed: bool,
}

/// Why a layer was not removed.
#[derive(Debug)]
pub enum NotRemoved {
    /// There is none.
    Missing,
    /// A sandbox uses it.
    InUse,
}

/// Whether something can be the name of a layer: small letters, digits and `._-`, not a dot or dash first.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with(['.', '-'])
}

fn is_key(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Layers {
    pub(super) fn new(folder: &Path, owner: Option<u32>, inside: Option<Inside>) -> Result<Self, Error> {
        let making = || Error::host_at("making a folder of the server's", folder);
        let folder = folder::private(folder).map_err(making())?;
        folder::private(&folder.join(INCOMING)).map_err(making())?;
        folder::private(&folder.join(TRASH)).map_err(making())?;
        folder::private(&folder.join(NAMES)).map_err(making())?;
        Ok(Self { folder, owner, inside })
    }

    /// The layer of this key, held. `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn get(&self, key: &str) -> io::Result<Option<Layer>> {
        if !is_key(key) {
            return Ok(None);
        }
        let path = self.folder.join(key);
        let file = match File::open(path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        // Who has it alone removes it; what was removed may be there again, and then its lock is another file.
        let is_same =
            || fs::metadata(path.join(LOCK)).is_ok_and(|now| file.metadata().is_ok_and(|own| own.ino() == now.ino()));
        if !lock(&file, FlockOperation::NonBlockingLockShared)? || !is_same() {
            return Ok(None);
        }
        // What is not noted as used is only removed sooner.
        let _ = folder::touch(&file);
        let about = serde_json::from_slice(&fs::read(path.join(ABOUT))?)?;
        Ok(Some(Layer { key: key.to_owned(), files: path.join(FILES), about, _lock: Arc::new(file) }))
    }

    /// The key that a name stands for.
    pub fn named(&self, name: &str) -> Option<String> {
        if !is_name(name) {
            return None;
        }
        let key = fs::read_to_string(self.folder.join(NAMES).join(name)).ok()?;
        is_key(&key).then_some(key)
    }

    /// Gives a layer a name, which may have stood for another.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn name(&self, name: &str, key: &str) -> io::Result<()> {
        if !is_name(name) || !is_key(key) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let names = self.folder.join(NAMES);
        let new = names.join(format!(".{name}.{}", std::process::id()));
        fs::write(&new, key)?;
        File::open(&new)?.sync_all()?;
        fs::rename(new, names.join(name))
    }

    /// Takes a name away. The layer stays.
    ///
    /// # Errors
    /// When there is no such name.
    pub fn forget_name(&self, name: &str) -> io::Result<()> {
        if is_name(name) {
            fs::remove_file(self.folder.join(NAMES).join(name))
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// All names and the keys that they stand for, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> io::Result<Vec<(String, String)>> {
        let entries = fs::read_dir(self.folder.join(NAMES))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter_map(|name| Some((name.clone(), self.named(&name)?))).collect();
        names.sort();
        Ok(names)
    }

    /// What is known of each layer, when it was used last and its key, the longest unused first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(&self) -> io::Result<Vec<(SystemTime, String, About)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let Ok(key) = entry?.file_name().into_string() else { continue };
            if !is_key(&key) {
                continue;
            }
            let path = self.folder.join(&key);
            let read = || {
                let used = fs::metadata(path.join(LOCK)).ok()?.modified().ok()?;
                Some((used, serde_json::from_slice(&fs::read(path.join(ABOUT)).ok()?).ok()?))
            };
            // Removed meanwhile, there is nothing to tell.
            if let Some((used, about)) = read() {
                all.push((used, key, about));
            }
        }
        all.sort_by_key(|(used, ..)| *used);
        Ok(all)
    }

    /// Removes a layer that nobody uses.
    ///
    /// # Errors
    /// When files remain; the next sweep tries again.
    pub fn remove(&self, key: &str) -> io::Result<Result<(), NotRemoved>> {
        let path = self.folder.join(key);
        let file = match File::open(path.join(LOCK)) {
            _ if !is_key(key) => return Ok(Err(NotRemoved::Missing)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(NotRemoved::Missing)),
            file => file?,
        };
        if !lock(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Err(NotRemoved::InUse));
        }
        let _at_work = self.at_work()?;
        let (_, trash) = make_unused(&self.folder.join(TRASH))?;
        fs::rename(path, trash.join("layer"))?;
        self.delete(&trash)?;
        Ok(Ok(()))
    }

    /// Deletes what was cut off while it was filled or deleted, unless somebody is at work: then a later sweep does.
    ///
    /// # Errors
    /// When files remain.
    pub fn sweep(&self) -> io::Result<()> {
        let alone = File::create(self.folder.join(AT_WORK))?;
        if !lock(&alone, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(());
        }
        for folder in [INCOMING, TRASH] {
            for entry in fs::read_dir(self.folder.join(folder))? {
                self.delete(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// A new layer, to be filled.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn begin(&self) -> io::Result<NewLayer> {
        let at_work = self.at_work()?;
        let (name, path) = make_unused(&self.folder.join(INCOMING))?;
        let files = Folder::open(&path)?.make(FILES, 0o755, self.owner)?;
        files.set_mode(0o755)?;
        Ok(NewLayer { layers: self.clone(), name, path, _at_work: at_work, is_placed: false })
    }

    fn at_work(&self) -> io::Result<File> {
        let file = File::create(self.folder.join(AT_WORK))?;
        lock(&file, FlockOperation::LockShared)?;
        Ok(file)
    }

    /// Deletes a folder whose own folders may be anything.
    fn delete(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
            }
        }
        match &self.inside {
            None => deletion::empty(folder)?,
            Some(inside) => inside.empty(folder)?,
        }
        fs::remove_dir(folder)
    }
}

/// A new folder of a name that nobody has: another process has another number, and what a dead one left stays where it is.
fn make_unused(parent: &Path) -> io::Result<(String, PathBuf)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let name = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(&name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| (name, path)),
        }
    }
}

impl NewLayer {
    /// The folder to be filled.
    pub(crate) fn files(&self) -> io::Result<Folder> {
        Folder::open(&self.path)?.enter(FILES)
    }

    /// The host id that owns files of id 0; `None`: everything is the server's own user's.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.layers.owner
    }

    /// The layers among which it will be.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// A folder of the server's that goes with the layer's own when that is placed or dropped.
    pub fn aside(&self) -> &Path {
        &self.path
    }

    /// Takes the folder `name` of `parent` as its files.
    pub(crate) fn take(&self, parent: &Folder, name: &str) -> io::Result<()> {
        let own = Folder::open(&self.path)?;
        let (from, files) = (std::ffi::CString::new(name)?, std::ffi::CString::new(FILES)?);
        own.remove_folder(&files)?;
        parent.move_to(&from, &own, FILES)
    }

    /// Makes the layer whole, under its key. One that is there already stays and is answered with.
    ///
    /// # Errors
    /// When it cannot be written, or there is no room.
    pub fn place(mut self, key: &str, about: &About) -> io::Result<Layer> {
        if !is_key(key) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != FILES {
                fs::remove_file(entry.path())?;
            }
        }
        fs::write(self.path.join(ABOUT), serde_json::to_vec(about)?)?;
        let file = File::create(self.path.join(LOCK))?;
        lock(&file, FlockOperation::LockShared)?;
        // All that is in it is on the disk before its name is.
        rustix::fs::syncfs(&file)?;
        let all = Folder::open(&self.layers.folder)?;
        let incoming = all.enter(INCOMING)?;
        let name = std::ffi::CString::new(self.name.as_str())?;
        match incoming.move_to(&name, &all, key) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let layer = self.layers.get(key)?;
                layer.ok_or_else(|| io::Error::other("the same layer is being removed; try again"))
            }
            moved => {
                moved?;
                self.is_placed = true;
                let files = self.layers.folder.join(key).join(FILES);
                Ok(Layer { key: key.to_owned(), files, about: about.clone(), _lock: Arc::new(file) })
            }
        }
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        // What stays is deleted by the next sweep.
        if !self.is_placed
            && let Err(error) = self.layers.delete(&self.path)
        {
            tracing::warn!(%error, "what was left of a layer is still there; it is deleted later");
        }
    }
}
