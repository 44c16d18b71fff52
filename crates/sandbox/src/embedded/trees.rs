//! Whole folders that the server fills and then gives to a session: the files of a skill, a clone of a repository.
//!
//! A tree is filled in a folder of the server's and then moved to its place, so that the agent sees it whole or not at all. What
//! it was filled with may come from anybody, so it is looked at as what an agent made is: no link is followed.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::files::Area;
use super::store::Store;
use super::{Embedded, on_thread};
use crate::error::Error;
use crate::folder::{self, Folder};

/// Most folders of a tree below each other.
const MAX_DEPTH: usize = 256;

/// A folder that is being filled for a session. Dropped before it is placed, it is deleted.
#[derive(Debug)]
pub struct NewTree {
    pub(super) incoming: Folder,
    pub(super) folder: Folder,
    pub(super) name: String,
    path: PathBuf,
    store: Store,
    pub(super) is_placed: bool,
}

impl NewTree {
    /// Where it is, for a program that fills it. Only the server can reach it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new file at `path`, with the folders on the way.
    ///
    /// # Errors
    /// When there is one already, or no room.
    pub fn write(&self, path: &str, content: &[u8], is_executable: bool) -> io::Result<()> {
        let (folder, name) = self.folder.walk(path, |folder, name| folder.make(name, 0o755, None))?;
        let mut file = folder.create(&*name)?;
        file.write_all(content)?;
        folder::give_file(&file, None, if is_executable { 0o755 } else { 0o644 })
    }

    /// The first `most` bytes of the regular file at `path`. `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        let found =
            self.folder.walk(path, |folder, name| folder.enter(name)).and_then(|(folder, name)| folder.read(&*name));
        let Some((file, _)) = none_where_nothing_is(found)?.flatten() else { return Ok(None) };
        let mut content = Vec::new();
        file.take(most).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// At most `most` names of folders in the folder at `path`, sorted. Those that are no text are left out.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn folders(&self, path: &str, most: usize) -> io::Result<Vec<String>> {
        let found =
            self.folder.walk(path, |folder, name| folder.enter(name)).and_then(|(folder, name)| folder.enter(&*name));
        let Some(folder) = none_where_nothing_is(found)? else { return Ok(Vec::new()) };
        let (names, _) = folder.names(most)?;
        let is_folder = |name: &CString| folder.enter(&**name).is_ok();
        let mut names: Vec<String> =
            names.into_iter().filter(is_folder).filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The bytes of the files in it and their number, as far as `most` of either. What is being written there counts as it is
    /// at that moment.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn size(&self, most: (u64, u64)) -> io::Result<(u64, u64)> {
        let mut size = (0, 0);
        self.folder.enter(".")?.measure(most, &mut size, MAX_DEPTH)?;
        Ok(size)
    }
}

/// A link in the place of a folder is none.
fn none_where_nothing_is<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for NewTree {
    fn drop(&mut self) {
        // What stays is deleted by the next start.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.is_placed {
            let (store, name) = (self.store.clone(), self.name.clone());
            runtime.spawn_blocking(move || store.delete_incoming(&name));
        }
    }
}

impl Embedded {
    /// A new, empty folder, to be filled and then given to [`Self::place_tree`].
    ///
    /// # Errors
    /// [`Error::Host`] when it cannot be made.
    pub async fn new_tree(&self) -> Result<NewTree, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let store = self.store.clone();
        on_thread(move || {
            let name = format!("tree-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            let made = (|| {
                let incoming = store.incoming()?;
                // What an earlier process left has such names too, until it is swept.
                store.delete_incoming(&name).map_err(io::Error::other)?;
                let folder = incoming.make_private(&*name)?;
                let path = store.incoming_path(&name);
                Ok::<_, io::Error>(NewTree { incoming, folder, name, path, store, is_placed: false })
            })();
            made.map_err(Error::host("making a folder for the session"))
        })
        .await
    }

    /// Puts a folder at `path` in an area of a session. Whether it did: not where something has that path already.
    ///
    /// # Errors
    /// [`Error::Host`] when it cannot be put there, as when there is a link on the way.
    pub async fn place_tree(
        self: &Arc<Self>,
        session_id: &str,
        area: Area,
        path: &str,
        tree: NewTree,
    ) -> Result<bool, Error> {
        let path = path.to_owned();
        self.with_area(session_id, area, move |area, owner| {
            // The whole of it, and not only the fields that are named here.
            let mut tree = tree;
            let (parent, name) = area.walk(&path, |folder, name| folder.make(name, 0o755, owner))?;
            let name = name.into_string().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            if let Some(id) = owner {
                tree.folder.give_all(id, MAX_DEPTH)?;
            }
            tree.folder.set_mode(0o755)?;
            match tree.incoming.move_to(&CString::new(&*tree.name)?, &parent, &name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                moved => {
                    moved?;
                    tree.is_placed = true;
                    Ok(true)
                }
            }
        })
        .await
    }
}
