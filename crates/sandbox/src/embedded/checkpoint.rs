//! The files of a session as a checkpoint has them: listed and read here, and put back here or on another server.
//!
//! What is listed is the agent's own: the folders that it may write, and of an overlay what differs from the root file system
//! below. What the server brings by itself is left out: uploads, memory stores, its own notes. What comes back may have been
//! damaged or made up, so it is taken for what an agent made: each step starts at an open folder, takes one name and follows no
//! link, and nothing is made but files, folders, links, and what an overlay puts in the place of something deleted.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::sync::Arc;

use super::identity::{Owner, base_of};
use super::trees::NewTree;
use super::{Embedded, on_thread, store};
use crate::error::Error;
use crate::folder::{self, File, FileState, Folder, Seen, Thing};
use crate::init::SESSION_FOLDERS;
use crate::wire::{Identity, RANGE};

/// The folder of what differs from the operator's root file system.
const UPPER: &str = "upper";
/// Where the server keeps notes about a session, and what a checkpoint has there.
const NOTES: (&str, &CStr, &CStr) = ("server", c"checkpoint", c"checkpoint.new");
/// Permission bits that are kept: no set-user-id and no set-group-id.
const KEPT_MODE: u32 = 0o1777;
/// Most pieces in which a file with holes is read.
const MAX_PIECES: usize = 256;
/// Most bytes of a name, and of what a link leads to.
const MAX_NAME: usize = 4096;

/// Something that a session has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the session's folder: any bytes but 0, with `/` between names.
    pub path: Vec<u8>,
    /// What it is.
    pub what: What,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group, as the sandbox knows them.
    pub owner: (u32, u32),
    /// When its content was changed last, in nanoseconds since the epoch.
    pub modified_ns: i128,
}

/// What there is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A folder. One that is opaque hides what the root file system below has there.
    Folder {
        /// Whether it is opaque.
        is_opaque: bool,
    },
    /// A regular file.
    File {
        /// What changes with its content.
        state: FileState,
        /// Whether it has fewer bytes on the disk than it is long.
        is_sparse: bool,
    },
    /// A further name of the file at this path, which is listed before.
    Same(Vec<u8>),
    /// A symbolic link, with what it leads to.
    Link(Vec<u8>),
    /// Something of the root file system below was deleted.
    Whiteout,
}

/// How far a listing of all files goes.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Most entries.
    pub entries: usize,
    /// Most folders below each other.
    pub depth: usize,
    /// Most reasons for what is left out that are told one by one.
    pub told: usize,
}

/// All that a session has.
#[derive(Debug, Default)]
pub struct Contents {
    /// What there is, each folder before what is in it, and that in the order of its names.
    pub entries: Vec<Entry>,
    /// What is left out although it may matter, with the reason, in words for people: the first of them.
    pub left_out: Vec<String>,
    /// How many that are in all.
    pub left_out_count: usize,
    /// There is more than could be listed.
    pub is_cut: bool,
    /// Whether the session has had a shell.
    pub had_shell: bool,
}

/// The folder of a session, held open.
#[derive(Debug)]
pub struct SessionFiles {
    folder: Folder,
}

impl Embedded {
    /// The files of a session. `None` when it has none here.
    ///
    /// # Errors
    /// [`Error::Host`] when they cannot be opened.
    pub fn session_files(&self, session_id: &str) -> Result<Option<SessionFiles>, Error> {
        store::check_id(session_id)?;
        Ok(self.store.existing(session_id)?.map(|folder| SessionFiles { folder }))
    }

    /// Puts what [`NewTree::restore`] has made in the place of all files of a session: they are this server's own from then on.
    ///
    /// # Errors
    /// [`Error::Host`] when that cannot be done: then the session has no files here, or the ones that it had.
    pub async fn place_session(
        self: &Arc<Self>,
        session_id: &str,
        tree: Arc<NewTree>,
        entries: Arc<Vec<Entry>>,
        had_shell: bool,
    ) -> Result<(), Error> {
        store::check_id(session_id)?;
        let (backend, id) = (Arc::clone(self), session_id.to_owned());
        self.end_and(session_id, std::future::ready(true), move || {
            let Some(mut tree) = Arc::into_inner(tree) else {
                return Err(Error::died("files are still being put back"));
            };
            backend.store.remove(&id)?;
            let owner = Owner { existing: None, all: &|| backend.store.owners() };
            let identity = backend.identities.for_session(owner)?;
            let placed = (|| {
                tree.dress(&entries, identity)?;
                if had_shell {
                    tree.folder.make_file(store::HAD_SHELL)?;
                }
                let sessions = Folder::open(backend.store.root())?;
                tree.incoming.move_to(&CString::new(&*tree.name)?, &sessions, &id)
            })();
            placed.map_err(Error::host("putting back the files of the session"))?;
            tree.is_placed = true;
            Ok(())
        })
        .await
        .map(drop)
    }
}

/// The folders of a session that the agent writes.
fn roots() -> impl Iterator<Item = &'static str> {
    let written = SESSION_FOLDERS.iter().filter(|(.., writable)| *writable).map(|(name, ..)| *name);
    written.chain([UPPER])
}

/// Where what is at a path is inside, for people.
pub fn path_inside(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let (root, below) = path.split_once('/').map_or((&*path, ""), |(root, below)| (root, below));
    let at = SESSION_FOLDERS.iter().find(|(name, ..)| *name == root).map_or("", |(_, at, ..)| *at);
    let shown = if at.is_empty() { format!("/{below}") } else { format!("/{at}/{below}") };
    shown.trim_end_matches('/').escape_debug().to_string()
}

impl SessionFiles {
    /// All that the session has, within `reach`. What goes away meanwhile is not there.
    ///
    /// # Errors
    /// When one of its own folders cannot be read; what cannot below is left out.
    pub fn list(&self, reach: Reach) -> io::Result<Contents> {
        let base = self.folder.enter(SESSION_FOLDERS[0].0).and_then(|folder| folder.owner()).ok().and_then(base_of);
        let had_shell = self.folder.has(store::HAD_SHELL);
        let mut walk =
            Walk { reach, base, linked: HashMap::new(), contents: Contents { had_shell, ..Contents::default() } };
        for root in roots().filter(|root| self.folder.has(*root)) {
            if walk.contents.entries.len() >= reach.entries {
                walk.contents.is_cut = true;
                break;
            }
            let name = CString::new(root)?;
            walk.take(&self.folder, root.as_bytes(), &name, 1, root == UPPER)?;
        }
        Ok(walk.contents)
    }

    /// Opens the regular file at a path. `None` when there is none any more.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, path: &[u8]) -> io::Result<Option<(File, FileState)>> {
        let opened = walk_to(&self.folder, path).and_then(|(folder, name)| folder.read(&*name));
        match opened {
            Err(error) if is_gone(&error) => Ok(None),
            opened => opened,
        }
    }

    /// What was noted about the last checkpoint, of at most `most` bytes. `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn note(&self, most: u64) -> io::Result<Option<Vec<u8>>> {
        let opened = self.folder.enter(NOTES.0).and_then(|folder| folder.read(NOTES.1));
        let Some((file, state)) = opened.or_else(|error| if is_gone(&error) { Ok(None) } else { Err(error) })? else {
            return Ok(None);
        };
        if state.size > most {
            return Ok(None);
        }
        let mut note = Vec::new();
        file.take(most).read_to_end(&mut note)?;
        Ok(Some(note))
    }

    /// Notes something about the last checkpoint, in the place of what was noted.
    ///
    /// # Errors
    /// When there is no room: then what was noted stays.
    pub fn keep_note(&self, note: &[u8]) -> io::Result<()> {
        let folder = self.folder.make(NOTES.0, 0o755, None)?;
        match folder.remove_file(NOTES.2) {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
        folder.create(NOTES.2)?.write_all(note)?;
        folder.replace(NOTES.2, &folder, NOTES.1)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What an open file is now.
///
/// # Errors
/// When the system does not say.
pub fn state_of(file: &File) -> io::Result<FileState> {
    folder::state_of(file)
}

/// Where a file with holes has bytes: offsets and lengths.
///
/// # Errors
/// When the system does not say.
pub fn pieces(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    folder::pieces(file, size, MAX_PIECES)
}

/// A listing under way.
struct Walk {
    reach: Reach,
    /// The first host id of the session's, where it has a range.
    base: Option<u32>,
    /// The first path of each file that has several names.
    linked: HashMap<u64, Vec<u8>>,
    contents: Contents,
}

impl Walk {
    fn below(&mut self, folder: &Folder, path: &[u8], depth: usize, is_upper: bool) -> io::Result<()> {
        let (mut names, more) = folder.names(self.reach.entries.saturating_sub(self.contents.entries.len()))?;
        names.sort();
        self.contents.is_cut |= more;
        for name in names {
            if self.contents.entries.len() >= self.reach.entries {
                self.contents.is_cut = true;
                return Ok(());
            }
            let path = [path, b"/", name.to_bytes()].concat();
            match self.take(folder, &path, &name, depth, is_upper) {
                Err(error) if !is_gone(&error) => self.leave_out(&path, &error.to_string()),
                _ => {}
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &[u8], reason: &str) {
        self.contents.left_out_count += 1;
        if self.contents.left_out.len() < self.reach.told {
            self.contents.left_out.push(format!("{}: {reason}", path_inside(path)));
        }
    }

    fn take(&mut self, folder: &Folder, path: &[u8], name: &CStr, depth: usize, is_upper: bool) -> io::Result<()> {
        let Seen { what, mode, owner, modified_ns } = folder.see(name)?;
        let mut inner = None;
        let what = match what {
            Thing::Folder if depth > self.reach.depth => {
                self.leave_out(path, &format!("it is more than {} folders deep", self.reach.depth));
                return Ok(());
            }
            Thing::Folder => {
                if is_upper && folder.is_noted(name, "redirect")? {
                    self.leave_out(path, "a folder of the root file system was moved here");
                    return Ok(());
                }
                inner = Some(folder.enter(name)?);
                What::Folder { is_opaque: is_upper && folder.is_noted(name, "opaque")? }
            }
            Thing::File { .. } if is_upper && folder.is_noted(name, "metacopy")? => {
                self.leave_out(path, "a file of the root file system of which only the attributes were changed");
                return Ok(());
            }
            Thing::File { state, is_sparse, is_linked } => {
                let first = is_linked.then(|| self.linked.get(&state.inode).cloned()).flatten();
                if let Some(first) = first {
                    What::Same(first)
                } else {
                    if is_linked {
                        self.linked.insert(state.inode, path.to_owned());
                    }
                    What::File { state, is_sparse }
                }
            }
            Thing::Link(target) => What::Link(target.into_bytes()),
            Thing::Whiteout if is_upper => What::Whiteout,
            // Of no use without the process that has it open, or of no power inside.
            Thing::Whiteout | Thing::Other => return Ok(()),
        };
        let inside = |id: u32| self.base.and_then(|base| id.checked_sub(base)).filter(|id| *id < RANGE).unwrap_or(0);
        let owner = (inside(owner.0), inside(owner.1));
        self.contents.entries.push(Entry { path: path.to_owned(), what, mode: mode & KEPT_MODE, owner, modified_ns });
        match inner {
            Some(inner) => self.below(&inner, path, depth + 1, is_upper),
            None => Ok(()),
        }
    }
}

/// The folder of the last name of a path, with that name.
fn walk_to(from: &Folder, path: &[u8]) -> io::Result<(Folder, CString)> {
    let mut names = path.split(|byte| *byte == b'/');
    let last = names.next_back().ok_or_else(refused)?;
    let mut folder = from.enter(".")?;
    for name in names {
        folder = folder.enter(&*checked(name)?)?;
    }
    Ok((folder, checked(last)?))
}

/// Refuses what is not the name of something in a folder.
fn checked(name: &[u8]) -> io::Result<CString> {
    if name.is_empty() || name == b"." || name == b".." || name.len() > MAX_NAME {
        return Err(refused());
    }
    CString::new(name).map_err(|_| refused())
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a checkpoint names what no session has")
}

impl NewTree {
    /// Makes all of `entries` but the content of files, which [`Self::restored`] takes, and further names, which come last.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when they are not those of a session; otherwise when there is no room.
    pub fn restore(&self, entries: &[Entry], depth: usize) -> io::Result<()> {
        let first = SESSION_FOLDERS[0].0;
        if !entries.iter().any(|entry| entry.path == first.as_bytes()) {
            self.folder.make_new(&CString::new(first)?)?;
        }
        for entry in entries {
            let mut names = entry.path.split(|byte| *byte == b'/');
            let root = names.next().unwrap_or_default();
            let below = names.count();
            let is_root = below == 0;
            let is_folder = matches!(entry.what, What::Folder { .. });
            // A file may be one deeper than the deepest folder.
            if !roots().any(|known| known.as_bytes() == root) || (is_root && !is_folder) || below > depth + 1 {
                return Err(refused());
            }
            let (folder, name) = walk_to(&self.folder, &entry.path).map_err(|error| refuse_links(&error))?;
            match &entry.what {
                What::Folder { .. } => drop(folder.make_new(&name)?),
                What::Link(target) if target.len() <= MAX_NAME => {
                    folder.make_new_link(&CString::new(&**target).map_err(|_| refused())?, &name)?;
                }
                What::Whiteout if root == UPPER.as_bytes() => folder.make_whiteout(&name)?,
                What::Link(_) | What::Whiteout => return Err(refused()),
                What::File { .. } | What::Same(_) => {}
            }
        }
        Ok(())
    }

    /// A new file at a path, to be filled. Its length is set first, so that what is not written to is a hole.
    ///
    /// # Errors
    /// When it is none of a session's, something has the path already, or there is no room.
    pub fn restored(&self, path: &[u8], size: u64) -> io::Result<File> {
        let (folder, name) = walk_to(&self.folder, path).map_err(|error| refuse_links(&error))?;
        let file = folder.create(&*name)?;
        file.set_len(size)?;
        Ok(file)
    }

    /// Gives everything its further names, owner, permissions and time: what is deepest first, for what is made in a folder
    /// changes it.
    fn dress(&self, entries: &[Entry], identity: Identity) -> io::Result<()> {
        for entry in entries {
            if let What::Same(first) = &entry.what {
                let (from, first) = walk_to(&self.folder, first).map_err(|error| refuse_links(&error))?;
                let (to, name) = walk_to(&self.folder, &entry.path).map_err(|error| refuse_links(&error))?;
                from.make_hard_link(&first, &to, &name)?;
            }
        }
        let owner = |(uid, gid): (u32, u32)| match identity {
            Identity::Range { base } => Some((base + uid % RANGE, base + gid % RANGE)),
            // The server can give files to nobody else.
            Identity::Subordinate { .. } | Identity::Single { .. } => None,
        };
        let space = if identity.by_root() { "trusted" } else { "user" };
        for entry in entries.iter().rev() {
            let (folder, name) = walk_to(&self.folder, &entry.path)?;
            match entry.what {
                What::Folder { is_opaque: true } => folder.enter(&*name)?.make_opaque(space)?,
                What::Same(_) => continue,
                _ => {}
            }
            folder.dress(&name, owner(entry.owner), entry.mode & KEPT_MODE, entry.modified_ns)?;
        }
        let first = self.folder.enter(SESSION_FOLDERS[0].0)?;
        if let Identity::Range { base } = identity
            && base_of(first.owner()?) != Some(base)
        {
            first.give(base)?;
        }
        self.folder.set_mode(0o700)
    }

    /// The same tree, on a thread for blocking work.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn on_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let tree = Arc::clone(self);
        on_thread(move || work(&tree).map_err(Error::host("putting back the files of the session"))).await
    }
}

/// A path through what is no folder is none of a session's.
fn refuse_links(error: &io::Error) -> io::Error {
    if is_gone(error) { refused() } else { io::Error::new(error.kind(), error.to_string()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::Config;

    const REACH: Reach = Reach { entries: 1000, depth: 8, told: 4 };

    fn entry(path: &str, what: What) -> Entry {
        Entry { path: path.as_bytes().to_owned(), what, mode: 0o755, owner: (0, 0), modified_ns: 1_000_000_001 }
    }

    fn folder() -> What {
        What::Folder { is_opaque: false }
    }

    fn file(size: u64) -> What {
        What::File { state: FileState { size, inode: 1, modified_ns: 0, changed_ns: 0 }, is_sparse: false }
    }

    #[tokio::test]
    async fn what_no_session_has_is_refused_and_nothing_is_made_of_it() {
        let data = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let backend = Embedded::new(Config::new(data.path())).unwrap();
        let link = || What::Link(outside.path().to_str().unwrap().as_bytes().to_owned());
        let rows: Vec<Vec<Entry>> = vec![
            vec![entry("..", folder())],
            vec![entry("../x", file(1))],
            vec![entry("/etc", folder())],
            vec![entry("", folder())],
            vec![entry("server", folder())],
            vec![entry("uploads", folder())],
            vec![entry("workspace", file(1))],
            vec![entry("workspace", link())],
            vec![entry("workspace", folder()), entry("workspace/../x", folder())],
            vec![entry("workspace", folder()), entry("workspace/./x", folder())],
            vec![entry("workspace", folder()), entry("workspace//x", folder())],
            vec![entry("workspace", folder()), entry("workspace/a", link()), entry("workspace/a/x", folder())],
            vec![entry("workspace", folder()), entry("workspace/a\0b", folder())],
            vec![entry("workspace", folder()), entry("workspace/w", What::Whiteout)],
            vec![entry("workspace", folder()), entry("workspace/missing/x", link())],
            ["workspace", "workspace/1", "workspace/1/2", "workspace/1/2/3", "workspace/1/2/3/4"]
                .map(|path| entry(path, folder()))
                .into(),
        ];
        for row in rows {
            let tree = backend.new_tree().await.unwrap();
            let refused = tree.restore(&row, 2).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{row:?}");
        }
        // A file, or a further name, through a link, and onto something that is there.
        let tree = backend.new_tree().await.unwrap();
        tree.restore(&[entry("workspace", folder()), entry("workspace/a", link())], 2).unwrap();
        for path in ["workspace/a/x", "workspace/../x", "../x", "/x"] {
            assert_eq!(tree.restored(path.as_bytes(), 1).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert!(tree.restored(b"workspace/a", 1).is_err());
        let same = entry("workspace/b", What::Same(b"workspace/a/../../x".to_vec()));
        assert!(tree.dress(&[same], backend.identities.example()).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_was_listed_comes_back_as_it_was() {
        let data = tempfile::tempdir().unwrap();
        let backend = Embedded::new(Config::new(data.path())).unwrap();
        backend.put("s", super::super::Area::Workspace, "a/file", b"content".to_vec()).await.unwrap();
        let there = backend.session_dir("s").unwrap().join("workspace");
        fs::set_permissions(there.join("a/file"), fs::Permissions::from_mode(0o6751)).unwrap();
        fs::hard_link(there.join("a/file"), there.join("a/same")).unwrap();
        symlink("/etc/passwd", there.join("link")).unwrap();
        nix::unistd::mkfifo(&there.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"new\nline\xff");
        fs::write(there.join(name), "odd").unwrap();
        fs::create_dir(there.join("shut")).unwrap();
        fs::set_permissions(there.join("shut"), fs::Permissions::from_mode(0o500)).unwrap();
        let files = backend.session_files("s").unwrap().unwrap();
        let contents = files.list(REACH).unwrap();
        assert_eq!((contents.left_out_count, contents.is_cut), (0, false));
        assert!(!contents.entries.iter().any(|entry| entry.path.starts_with(b"uploads")));

        let tree = backend.new_tree().await.unwrap();
        tree.restore(&contents.entries, REACH.depth).unwrap();
        for entry in &contents.entries {
            if let What::File { state, .. } = &entry.what {
                let (mut from, _) = files.open(&entry.path).unwrap().unwrap();
                io::copy(&mut from, &mut tree.restored(&entry.path, state.size).unwrap()).unwrap();
            }
        }
        let entries = Arc::new(contents.entries);
        backend.place_session("s", Arc::new(tree), entries.clone(), true).await.unwrap();
        let again = backend.session_files("s").unwrap().unwrap().list(REACH).unwrap();
        let shown = |entries: &[Entry]| {
            let mut shown: Vec<_> = entries
                .iter()
                .map(|entry| {
                    let what = match &entry.what {
                        What::File { state, .. } => format!("{} bytes", state.size),
                        What::Same(_) => "7 bytes".to_owned(),
                        other => format!("{other:?}"),
                    };
                    (entry.path.clone(), what, entry.mode, entry.owner, entry.modified_ns)
                })
                .collect();
            shown.sort();
            shown
        };
        assert_eq!(shown(&again.entries), shown(&entries));
        assert!(again.had_shell);
        assert_eq!(
            fs::metadata(there.join("a/file")).unwrap().ino(),
            fs::metadata(there.join("a/same")).unwrap().ino()
        );
        assert_eq!(fs::metadata(there.join("a/file")).unwrap().mode() & 0o7777, 0o751, "no set-user-id");
        assert_eq!(fs::read_to_string(there.join(name)).unwrap(), "odd");
    }

    #[tokio::test]
    async fn what_an_overlay_has_noted_comes_back_and_devices_do_not() {
        let data = tempfile::tempdir().unwrap();
        let backend = Embedded::new(Config::new(data.path())).unwrap();
        backend.put("s", super::super::Area::Workspace, "file", b"x".to_vec()).await.unwrap();
        let space = if backend.identities.example().by_root() { "trusted" } else { "user" };
        let there = Folder::open(&backend.session_dir("s").unwrap()).unwrap();
        let upper = there.make("upper", 0o755, None).unwrap();
        upper.make_whiteout(c"deleted").unwrap();
        upper.make("replaced", 0o700, None).unwrap().make_opaque(space).unwrap();
        for (folder, attribute) in [("moved", "redirect"), ("kept", "origin")] {
            let folder = upper.make(folder, 0o755, None).unwrap();
            let path = folder::by_descriptor(std::os::fd::AsFd::as_fd(&folder));
            let name = format!("{space}.overlay.{attribute}");
            rustix::fs::setxattr(path, name, b"/etc", rustix::fs::XattrFlags::empty()).unwrap();
        }
        there.enter("workspace").unwrap().make_whiteout(c"device").unwrap();
        let contents = backend.session_files("s").unwrap().unwrap().list(REACH).unwrap();
        assert_eq!(contents.left_out, ["/moved: a folder of the root file system was moved here"]);
        let tree = backend.new_tree().await.unwrap();
        tree.restore(&contents.entries, REACH.depth).unwrap();
        tree.restored(b"workspace/file", 0).unwrap();
        let entries = Arc::new(contents.entries);
        backend.place_session("s", Arc::new(tree), entries.clone(), false).await.unwrap();
        let upper = Folder::open(&backend.session_dir("s").unwrap()).unwrap().enter("upper").unwrap();
        assert_eq!(upper.see(c"deleted").unwrap().what, Thing::Whiteout);
        assert!(upper.is_noted(c"replaced", "opaque").unwrap() && !upper.is_noted(c"kept", "opaque").unwrap());
        assert!(!upper.has("moved"));
        assert!(!backend.session_dir("s").unwrap().join("workspace/device").exists());
    }

    #[tokio::test]
    async fn a_listing_has_bounds_and_says_what_is_beyond_them() {
        let data = tempfile::tempdir().unwrap();
        let backend = Embedded::new(Config::new(data.path())).unwrap();
        for path in ["1/2/3/file", "x", "y", "z"] {
            backend.put("s", super::super::Area::Workspace, path, b"x".to_vec()).await.unwrap();
        }
        let files = backend.session_files("s").unwrap().unwrap();
        let listed = files.list(Reach { depth: 3, ..REACH }).unwrap();
        assert_eq!((listed.left_out_count, listed.is_cut), (1, false));
        assert_eq!(listed.left_out, ["/workspace/1/2/3: it is more than 3 folders deep"]);
        let cut = files.list(Reach { entries: 3, ..REACH }).unwrap();
        assert!(cut.is_cut && cut.entries.len() <= 3);
    }

    #[test]
    fn of_a_file_with_holes_the_pieces_with_bytes_are_known() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sparse");
        let mut file = fs::File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        io::Seek::seek(&mut file, io::SeekFrom::Start(32 << 20)).unwrap();
        file.write_all(b"data").unwrap();
        let file = fs::File::open(&path).unwrap();
        let pieces = pieces(&file, 64 << 20).unwrap();
        let kept: u64 = pieces.iter().map(|(_, length)| length).sum();
        assert!(pieces.len() == 1 && kept <= 1 << 20, "{pieces:?}");
        assert!(pieces[0].0 <= 32 << 20 && pieces[0].0 + pieces[0].1 >= (32 << 20) + 4);
    }
}
