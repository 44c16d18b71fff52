//! Files of a session as the server gives and takes them, whether or not its sandbox is up.
//!
//! A new file is written in a folder of the server's and then moved to its place, so that the agent sees it whole or not at
//! all. What the agent has made is listed and read within bounds: regular files only, and no link is followed on the way.

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Embedded, on_thread, store};
use crate::error::Error;
use crate::folder::{self, File, FileState, Folder, Kind};
use crate::init::WRITABLE_MEMORY;

/// A folder of a session whose files the server gives or takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// `/mnt/session/uploads`, read-only inside.
    Uploads,
    /// `/mnt/session/outputs`, the agent's.
    Outputs,
    /// `/mnt/memory`, read-only inside: the first name of a path is a memory store.
    Memory,
    /// The same for stores that the agent may write. A sandbox that is up shows those that were there at its start.
    WritableMemory,
    /// `/workspace`, the agent's.
    Workspace,
    /// `/workspace/skills`, the agent's.
    Skills,
    /// What the server notes about the other ones. It is not there inside.
    Server,
}

impl Area {
    /// Its folder in a session's.
    fn folders(self) -> &'static [&'static str] {
        match self {
            Self::Uploads => &["uploads"],
            Self::Outputs => &["outputs"],
            Self::Memory => &["memory"],
            Self::WritableMemory => &[WRITABLE_MEMORY],
            Self::Workspace => &["workspace"],
            Self::Skills => &["workspace", "skills"],
            Self::Server => &["server"],
        }
    }

    /// Whether what is put there belongs to the agent. The folder of the writable memory stores itself does not.
    fn is_the_agents(self) -> bool {
        matches!(self, Self::Outputs | Self::WritableMemory | Self::Workspace | Self::Skills)
    }
}

/// How far a listing goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most entries that are looked at, folders and what is skipped included.
    pub entries: usize,
    /// Most folders below each other.
    pub depth: usize,
    /// Most bytes of a file; a larger one is skipped.
    pub file_bytes: u64,
}

/// What an area holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Its files, sorted by their path.
    pub files: Vec<Found>,
    /// What is there and not taken, with the reason, in words for people: links, devices, FIFOs, names that are no text, what
    /// is too large or too deep. No more of them than the bounds have entries.
    pub skipped: Vec<String>,
    /// There is more than the bounds let through.
    pub is_cut: bool,
}

/// A file in an area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path below the area, with `/` between names.
    pub path: String,
    /// What changes with its content.
    pub state: FileState,
}

/// A file that is being written for a session. Dropped before it is placed, it is deleted.
#[derive(Debug)]
pub struct NewFile {
    folder: Folder,
    name: CString,
    file: File,
    is_placed: bool,
}

impl NewFile {
    /// The file, to be written through another handle.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Sets when its content was changed last, in microseconds since the epoch: for a file whose version is to be known by
    /// that. It is the last that is done before the file is placed.
    ///
    /// # Errors
    /// When the file system keeps no times.
    pub fn set_modified(&self, micros: i64) -> io::Result<()> {
        folder::set_modified(&self.file, micros)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // What stays is deleted by the next start.
            let _ = self.folder.remove_file(&self.name);
        }
    }
}

impl Embedded {
    /// A new, empty file, to be written and then given to [`Self::place`].
    ///
    /// # Errors
    /// [`Error::Host`] when it cannot be made.
    pub async fn new_file(&self) -> Result<NewFile, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let store = self.store.clone();
        on_thread(move || {
            let name = format!("{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            let made = (|| {
                let folder = store.incoming()?;
                let file = folder.create(&*name)?;
                Ok::<_, io::Error>(NewFile { folder, name: CString::new(name)?, file, is_placed: false })
            })();
            made.map_err(Error::host("making a file for the session"))
        })
        .await
    }

    /// Puts a file at `path` in an area of a session, in the place of a file that is there. Folders on the way are made; a
    /// link on the way is an error.
    ///
    /// # Errors
    /// [`Error::Host`] when it cannot be put there: then what was there is still there.
    pub async fn place(self: &Arc<Self>, session_id: &str, area: Area, path: &str, file: NewFile) -> Result<(), Error> {
        let path = path.to_owned();
        self.with_area(session_id, area, move |area, owner| {
            // All of it, and not the fields that are used here.
            let mut file = file;
            let (folder, name) = area.walk(&path, |folder, name| folder.make(name, 0o755, owner))?;
            folder::give_file(&file.file, owner, 0o644)?;
            file.folder.replace(&file.name, &folder, &name)?;
            file.is_placed = true;
            Ok(())
        })
        .await
    }

    /// The same for content that is in memory.
    ///
    /// # Errors
    /// The same.
    pub async fn put(
        self: &Arc<Self>,
        session_id: &str,
        area: Area,
        path: &str,
        content: Vec<u8>,
    ) -> Result<(), Error> {
        let mut file = self.new_file().await?;
        let file = on_thread(move || {
            file.write_all(&content).map_err(Error::host("writing a file for the session"))?;
            Ok(file)
        })
        .await?;
        self.place(session_id, area, path, file).await
    }

    /// Makes a folder in an area of a session: a memory store without any memory.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub async fn make_folder(self: &Arc<Self>, session_id: &str, area: Area, path: &str) -> Result<(), Error> {
        let path = path.to_owned();
        self.with_area(session_id, area, move |area, owner| {
            let (folder, name) = area.walk(&path, |folder, name| folder.make(name, 0o755, owner))?;
            folder.make(&*name, 0o755, owner).map(drop)
        })
        .await
    }

    /// Deletes the file at `path` in an area of a session, and the folders on the way that are empty then, but for that of a
    /// memory store: it is mounted. Nothing happens when there is none.
    ///
    /// # Errors
    /// [`Error::Host`] when it is still there.
    pub async fn remove_file(self: &Arc<Self>, session_id: &str, area: Area, path: &str) -> Result<(), Error> {
        let (path, area_of) = (path.to_owned(), area);
        self.with_area(session_id, area, move |area, _| {
            let removed = area.walk(&path, |folder, name| folder.enter(name));
            match removed.and_then(|(folder, name)| folder.remove_file(&name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                removed => removed?,
            }
            let mut path = path.as_str();
            let goes = |folder: &str| folder.contains('/') || !matches!(area_of, Area::Memory | Area::WritableMemory);
            while let Some((parents, _)) = path.rsplit_once('/').filter(|(folder, _)| goes(folder)) {
                let (folder, name) = area.walk(parents, |folder, name| folder.enter(name))?;
                if folder.remove_folder(&name).is_err() {
                    // Something else is in it.
                    break;
                }
                path = parents;
            }
            Ok(())
        })
        .await
    }

    /// What an area of a session holds, within `bounds`. Empty when the session has no files.
    ///
    /// # Errors
    /// [`Error::Host`] when the area cannot be read; a folder below it that cannot is skipped.
    pub async fn list(&self, session_id: &str, area: Area, bounds: Bounds) -> Result<Listing, Error> {
        store::check_id(session_id)?;
        let (store, id) = (self.store.clone(), session_id.to_owned());
        on_thread(move || {
            let Some(session) = store.existing(&id)? else { return Ok(Listing::default()) };
            let reading = || Error::host(format!("reading files of session {id}"));
            let Some(folder) = enter(session, area).map_err(reading())? else { return Ok(Listing::default()) };
            let mut walk = Walk { bounds, looked_at: 0, listing: Listing::default() };
            walk.below(&folder, "", 1).map_err(reading())?;
            walk.listing.files.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(walk.listing)
        })
        .await
    }

    /// Opens the regular file at `path` in an area of a session for reading. `None` when there is none. It may change while it
    /// is read.
    ///
    /// # Errors
    /// [`Error::Host`] when it cannot be opened.
    pub async fn open_file(
        &self,
        session_id: &str,
        area: Area,
        path: &str,
    ) -> Result<Option<(File, FileState)>, Error> {
        store::check_id(session_id)?;
        let (store, id, path) = (self.store.clone(), session_id.to_owned(), path.to_owned());
        on_thread(move || {
            let Some(session) = store.existing(&id)? else { return Ok(None) };
            let opened = (|| {
                let Some(folder) = enter(session, area)? else { return Ok(None) };
                let (folder, name) = folder.walk(&path, |folder, name| folder.enter(name))?;
                folder.read(&*name)
            })();
            match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                opened => opened.map_err(Error::host(format!("opening a file of session {id}"))),
            }
        })
        .await
    }

    /// Works in an area of a session under the session's lock: nobody opens, moves or deletes its files meanwhile.
    pub(super) async fn with_area<T: Send + 'static>(
        self: &Arc<Self>,
        session_id: &str,
        area: Area,
        work: impl FnOnce(&Folder, Option<u32>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        store::check_id(session_id)?;
        let slot = self.slot(session_id).lock_owned().await;
        let (backend, id) = (Arc::clone(self), session_id.to_owned());
        let done = self.to_its_end(async move {
            let done = on_thread(move || {
                let (session, owner) = backend.store.session(&id, |owner| backend.identities.for_session(owner))?;
                let done = (|| {
                    let mut folder = session.enter(".")?;
                    for name in area.folders() {
                        // One that is missing is below a folder of the agent's.
                        folder = folder.make(*name, 0o755, owner.filter(|_| area != Area::Server))?;
                    }
                    let done = work(&folder, owner.filter(|_| area.is_the_agents()))?;
                    if area == Area::WritableMemory {
                        // Where each store is shown.
                        let memory = session.enter("memory")?;
                        for (store, _) in folder.entries()? {
                            memory.make(&*store, 0o755, None)?;
                        }
                    }
                    Ok::<_, io::Error>(done)
                })();
                done.map_err(Error::host(format!("writing files of session {id}")))
            })
            .await;
            drop(slot);
            done
        });
        let done = done.await;
        self.forget(session_id);
        done
    }
}

/// The folder of an area. `None` when it is not there.
fn enter(session: Folder, area: Area) -> io::Result<Option<Folder>> {
    let mut folder = session;
    for name in area.folders() {
        folder = match folder.enter(*name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entered => entered?,
        };
    }
    Ok(Some(folder))
}

impl Folder {
    /// The folder of a path's last name, with that name. `step` goes into each folder before it.
    pub(super) fn walk(
        &self,
        path: &str,
        step: impl Fn(&Self, &str) -> io::Result<Self>,
    ) -> io::Result<(Self, CString)> {
        let (parents, name) = path.rsplit_once('/').map_or((None, path), |(parents, name)| (Some(parents), name));
        let mut folder = self.enter(".")?;
        for parent in parents.into_iter().flat_map(|parents| parents.split('/')) {
            folder = step(&folder, parent)?;
        }
        Ok((folder, CString::new(name)?))
    }
}

/// A listing under way.
struct Walk {
    bounds: Bounds,
    looked_at: usize,
    listing: Listing,
}

impl Walk {
    fn below(&mut self, folder: &Folder, prefix: &str, depth: usize) -> io::Result<()> {
        let (names, more) = folder.names(self.bounds.entries - self.looked_at)?;
        self.listing.is_cut |= more;
        for name in names {
            if self.looked_at == self.bounds.entries {
                self.listing.is_cut = true;
                return Ok(());
            }
            self.looked_at += 1;
            if let Err(reason) = self.take(folder, prefix, &name, depth) {
                let skipped = format!("{prefix}{}: {reason}", name.to_string_lossy().escape_debug());
                self.listing.skipped.push(skipped);
            }
        }
        Ok(())
    }

    fn take(&mut self, folder: &Folder, prefix: &str, name: &CStr, depth: usize) -> Result<(), String> {
        let text = name.to_str().map_err(|_| "its name is not UTF-8".to_owned())?;
        let path = format!("{prefix}{text}");
        match folder.look(name).map_err(|error| error.to_string())? {
            Kind::Other => Err("it is neither a file nor a folder".to_owned()),
            Kind::File(state) if state.size > self.bounds.file_bytes => {
                Err(format!("it has more than {} bytes", self.bounds.file_bytes))
            }
            Kind::File(state) => {
                self.listing.files.push(Found { path, state });
                Ok(())
            }
            Kind::Folder if depth == self.bounds.depth => {
                self.listing.is_cut = true;
                Err(format!("it is more than {depth} folders deep"))
            }
            Kind::Folder => {
                let inner = folder.enter(name).map_err(|error| error.to_string())?;
                self.below(&inner, &format!("{path}/"), depth + 1).map_err(|error| error.to_string())
            }
        }
    }
}
