//! Folders of sessions, as the host reaches them.
//!
//! What is below them was made by an agent, which may put a symbolic link in place of any name at any moment. So every
//! step starts at an open folder, takes one name and follows no link, and owner and mode are set on what was opened. No
//! other module touches files of sessions on the host; `tests/architecture.rs` holds the crate to it.

use std::ffi::{CStr, CString};
pub(crate) use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// Opens a place without any right to its content.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What has a name in a folder. Of a link it is the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File(FileState),
    /// A link, device, FIFO or socket.
    Other,
}

/// What of a regular file changes when its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    /// Bytes.
    pub size: u64,
    /// Its number in the file system.
    pub inode: u64,
    /// When its content was changed last, in nanoseconds since the epoch; its owner can set it.
    pub modified_ns: i128,
    /// When anything of it was changed last, in nanoseconds since the epoch. Nobody can set it.
    pub changed_ns: i128,
}

/// All that a checkpoint keeps of what has a name in a folder. Of a link it is the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) what: Thing,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner and group, as the host knows them.
    pub(crate) owner: (u32, u32),
    /// When its content was changed last, in nanoseconds since the epoch.
    pub(crate) modified_ns: i128,
}

/// What has a name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    Folder,
    File {
        state: FileState,
        /// It has fewer bytes on the disk than it is long.
        is_sparse: bool,
        /// It has further names.
        is_linked: bool,
    },
    Link(CString),
    /// What an overlay puts in the place of something that was deleted.
    Whiteout,
    /// A device, FIFO or socket.
    Other,
}

/// A folder, held open.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> Self {
        folder.0
    }
}

/// Makes a folder that is the server's alone, and all above it. Links on the way are the operator's: answers with its
/// path free of them.
pub(crate) fn private(path: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    Folder::open(&path)?.set_mode(0o700)?;
    Ok(path)
}

impl Folder {
    /// Opens a folder by path: one that only the server may write to, as all above it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, PLACE | OFlags::DIRECTORY, Mode::empty())?))
    }

    /// The folder of this name.
    pub(crate) fn enter(&self, name: impl Arg) -> io::Result<Self> {
        self.place(name, OFlags::DIRECTORY).map(Self)
    }

    /// The folder at `path` with this one for the root, as a process sees it whose root this is: no link and no `..` leads out
    /// of it. Whether the last name may be a link.
    pub(crate) fn open_as_root(&self, path: &Path, may_be_link: bool) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let flags = if may_be_link { flags } else { flags | OFlags::NOFOLLOW };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        Ok(Self(rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)?))
    }

    /// The folder of this name, made with this mode when there is none; a new one is given to `owner`.
    pub(crate) fn make(&self, name: impl Arg + Copy, mode: u32, owner: Option<u32>) -> io::Result<Self> {
        let new = match rustix::fs::mkdirat(&self.0, one_name(name)?.as_c_str(), Mode::from_raw_mode(mode)) {
            Ok(()) => true,
            // On a file system that is read-only it may be there.
            Err(Errno::EXIST | Errno::ROFS) => false,
            Err(error) => return Err(error.into()),
        };
        let folder = self.enter(name)?;
        if let (true, Some(id)) = (new, owner) {
            folder.give(id)?;
        }
        Ok(folder)
    }

    /// The folder of this name, made when there is none, for the server alone.
    pub(crate) fn make_private(&self, name: impl Arg + Copy) -> io::Result<Self> {
        let folder = self.make(name, 0o700, None)?;
        folder.set_mode(0o700)?;
        Ok(folder)
    }

    /// The place of the file of this name, made empty when there is none.
    pub(crate) fn make_file(&self, name: impl Arg + Copy) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0, one_name(name)?.as_c_str(), flags, Mode::from_raw_mode(0o644)) {
            Ok(_) | Err(Errno::EXIST) => self.place(name, OFlags::empty()),
            Err(error) => Err(error.into()),
        }
    }

    /// The place of the regular file of this name. `None` when something else has the name.
    pub(crate) fn file_place(&self, name: impl Arg) -> io::Result<Option<OwnedFd>> {
        let place = self.place(name, OFlags::empty())?;
        Ok(matches!(kind(&rustix::fs::fstat(&place)?), Kind::File(_)).then_some(place))
    }

    /// A symbolic link of this name. Whatever is there already stays.
    pub(crate) fn make_link(&self, target: impl Arg, name: impl Arg) -> io::Result<()> {
        match rustix::fs::symlinkat(target, &self.0, one_name(name)?.as_c_str()) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is anything of this name.
    pub(crate) fn has(&self, name: impl Arg) -> bool {
        self.place(name, OFlags::empty()).is_ok()
    }

    /// The folder's owner.
    pub(crate) fn owner(&self) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.0)?.st_uid)
    }

    /// Makes `id` the folder's owner and group.
    pub(crate) fn give(&self, id: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
        Ok(rustix::fs::chownat(&self.0, "", uid, gid, AtFlags::EMPTY_PATH)?)
    }

    /// Makes `id` the owner and group of the folder and of everything in it, as deep as `depth`; of a link, of the link.
    pub(crate) fn give_all(&self, id: u32, depth: usize) -> io::Result<()> {
        let deeper = depth.checked_sub(1).ok_or_else(too_deep)?;
        let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
        for (name, is_folder) in self.entries()? {
            if is_folder {
                self.enter(&*name)?.give_all(id, deeper)?;
            } else {
                rustix::fs::chownat(&self.0, &*name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        self.give(id)
    }

    /// Adds the bytes of the files in the folder, and the number of everything in it, to `size`, until that is beyond `most`.
    /// What goes away meanwhile is not counted.
    pub(crate) fn measure(&self, most: (u64, u64), size: &mut (u64, u64), depth: usize) -> io::Result<()> {
        let deeper = depth.checked_sub(1).ok_or_else(too_deep)?;
        for (name, is_folder) in self.entries()? {
            if size.0 > most.0 || size.1 > most.1 {
                return Ok(());
            }
            size.1 += 1;
            if is_folder {
                match self.enter(&*name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    folder => folder?.measure(most, size, deeper)?,
                }
            } else if let Ok(Kind::File(state)) = self.look(&*name) {
                size.0 += state.size;
            }
        }
        Ok(())
    }

    /// Sets the folder's permissions.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        // `fchmod` wants the right to read. This name leads to what is open and nowhere else.
        Ok(rustix::fs::chmod(by_descriptor(self.as_fd()), Mode::from_raw_mode(mode))?)
    }

    /// What is in the folder, and whether each is a folder itself.
    pub(crate) fn entries(&self) -> io::Result<Vec<(CString, bool)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut names = Vec::new();
        for entry in Dir::new(rustix::fs::openat(&self.0, ".", flags, Mode::empty())?)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            names.push((name.to_owned(), kind == FileType::Directory));
        }
        Ok(names)
    }

    /// The names in the folder, at most so many of them, and whether there are more.
    pub(crate) fn names(&self, most: usize) -> io::Result<(Vec<CString>, bool)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut names = Vec::new();
        for entry in Dir::new(rustix::fs::openat(&self.0, ".", flags, Mode::empty())?)? {
            let name = entry?.file_name().to_owned();
            if name.as_c_str() == c"." || name.as_c_str() == c".." {
                continue;
            }
            if names.len() == most {
                return Ok((names, true));
            }
            names.push(name);
        }
        Ok((names, false))
    }

    /// What has this name.
    pub(crate) fn look(&self, name: impl Arg) -> io::Result<Kind> {
        let stat = rustix::fs::statat(&self.0, one_name(name)?.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(kind(&stat))
    }

    /// All that is to be known of what has this name.
    pub(crate) fn see(&self, name: &CStr) -> io::Result<Seen> {
        let stat = rustix::fs::statat(&self.0, one_name(name)?.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        let what = match (kind(&stat), FileType::from_raw_mode(stat.st_mode)) {
            (Kind::Folder, _) => Thing::Folder,
            (Kind::File(state), _) => Thing::File {
                state,
                is_sparse: u64::try_from(stat.st_blocks).unwrap_or_default() * 512 < state.size,
                is_linked: stat.st_nlink > 1,
            },
            (Kind::Other, FileType::Symlink) => Thing::Link(rustix::fs::readlinkat(&self.0, name, Vec::new())?),
            (Kind::Other, FileType::CharacterDevice) if stat.st_rdev == 0 => Thing::Whiteout,
            (Kind::Other, _) => Thing::Other,
        };
        let modified_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Ok(Seen { what, mode: stat.st_mode & 0o7777, owner: (stat.st_uid, stat.st_gid), modified_ns })
    }

    /// Whether an overlay has noted `attribute` of what has this name, as root or as a plain user.
    pub(crate) fn is_noted(&self, name: &CStr, attribute: &str) -> io::Result<bool> {
        let place = self.place(name, OFlags::empty())?;
        let path = by_descriptor(place.as_fd());
        let has = |space: &str| {
            // Even a value that is longer than this counts.
            let read = rustix::fs::getxattr(&path, format!("{space}.overlay.{attribute}"), &mut [0_u8; 256]);
            matches!(read, Ok(_) | Err(Errno::RANGE))
        };
        Ok(has("trusted") || has("user"))
    }

    /// Has an overlay show nothing of what is below the folder. `space` is that of its attributes.
    pub(crate) fn make_opaque(&self, space: &str) -> io::Result<()> {
        let name = format!("{space}.overlay.opaque");
        Ok(rustix::fs::setxattr(by_descriptor(self.as_fd()), name, b"y", XattrFlags::empty())?)
    }

    /// A folder of this name, which nothing has, for the server alone.
    pub(crate) fn make_new(&self, name: &CStr) -> io::Result<Self> {
        rustix::fs::mkdirat(&self.0, one_name(name)?.as_c_str(), Mode::from_raw_mode(0o700))?;
        self.enter(name)
    }

    /// A symbolic link of this name, which nothing has.
    pub(crate) fn make_new_link(&self, target: &CStr, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, one_name(name)?.as_c_str())?)
    }

    /// A further name of the file `name`, in another folder, where nothing has it.
    pub(crate) fn make_hard_link(&self, name: &CStr, to: &Self, new_name: &CStr) -> io::Result<()> {
        let (name, new_name) = (one_name(name)?, one_name(new_name)?);
        Ok(rustix::fs::linkat(&self.0, name.as_c_str(), &to.0, new_name.as_c_str(), AtFlags::empty())?)
    }

    /// What an overlay puts in the place of something that was deleted.
    pub(crate) fn make_whiteout(&self, name: &CStr) -> io::Result<()> {
        let name = one_name(name)?;
        Ok(rustix::fs::mknodat(&self.0, name.as_c_str(), FileType::CharacterDevice, Mode::empty(), 0)?)
    }

    /// Sets owner, permissions and time of what has this name; of a link, those of the link.
    pub(crate) fn dress(&self, name: &CStr, owner: Option<(u32, u32)>, mode: u32, modified_ns: i128) -> io::Result<()> {
        let place = self.place(name, OFlags::empty())?;
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(&place, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) != FileType::Symlink {
            rustix::fs::chmod(by_descriptor(place.as_fd()), Mode::from_raw_mode(mode))?;
        }
        let at = Timespec {
            tv_sec: modified_ns.div_euclid(1_000_000_000).try_into().unwrap_or_default(),
            tv_nsec: modified_ns.rem_euclid(1_000_000_000).try_into().unwrap_or_default(),
        };
        let times = Timestamps { last_access: at, last_modification: at };
        Ok(rustix::fs::utimensat(&self.0, one_name(name)?.as_c_str(), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens the regular file of this name for reading. `None` when something else has the name.
    pub(crate) fn read(&self, name: impl Arg) -> io::Result<Option<(File, FileState)>> {
        // Opening a FIFO or a device may do something: first the place is looked at, then that same place is opened.
        let place = self.place(name, OFlags::empty())?;
        let Kind::File(state) = kind(&rustix::fs::fstat(&place)?) else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, by_descriptor(place.as_fd()), flags, Mode::empty())?;
        Ok(Some((file.into(), state)))
    }

    /// A new, empty file of this name, which nothing has, for the server alone.
    pub(crate) fn create(&self, name: impl Arg) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.0, one_name(name)?.as_c_str(), flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Moves the file of this name into another folder, in the place of a file that has the new name there.
    pub(crate) fn replace(&self, name: &CStr, to: &Self, new_name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, one_name(name)?, &to.0, one_name(new_name)?)?)
    }

    /// Moves what has this name to a free name in another folder.
    pub(crate) fn move_to(&self, name: &CStr, to: &Self, new_name: &str) -> io::Result<()> {
        let (name, new_name) = (one_name(name)?, one_name(new_name)?);
        Ok(rustix::fs::renameat_with(&self.0, &name, &to.0, &new_name, RenameFlags::NOREPLACE)?)
    }

    /// Deletes what has this name and is no folder.
    pub(crate) fn remove_file(&self, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, one_name(name)?, AtFlags::empty())?)
    }

    /// Deletes the empty folder of this name.
    pub(crate) fn remove_folder(&self, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, one_name(name)?, AtFlags::REMOVEDIR)?)
    }

    fn place(&self, name: impl Arg, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.0, one_name(name)?.as_c_str(), PLACE | flags, Mode::empty())?)
    }
}

fn kind(stat: &rustix::fs::Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Folder,
        FileType::RegularFile => Kind::File(FileState {
            size: stat.st_size.try_into().unwrap_or_default(),
            inode: stat.st_ino,
            modified_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            changed_ns: i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec),
        }),
        _ => Kind::Other,
    }
}

/// Gives an open file to `owner`, where there is one, and sets its permissions.
pub(crate) fn give_file(file: &File, owner: Option<u32>, mode: u32) -> io::Result<()> {
    if let Some(id) = owner {
        rustix::fs::fchown(file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// What changes with the content of an open file.
pub(crate) fn state_of(file: &File) -> io::Result<FileState> {
    match kind(&rustix::fs::fstat(file)?) {
        Kind::File(state) => Ok(state),
        Kind::Folder | Kind::Other => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Where an open file has bytes on the disk, each with its length: at most `most` pieces, of which the last one then goes to
/// the end of the file.
pub(crate) fn pieces(file: &File, size: u64, most: usize) -> io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(from) => from,
            // Nothing but a hole comes.
            Err(Errno::NXIO) => break,
            // A file system without holes.
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let to = if pieces.len() + 1 == most {
            size
        } else {
            rustix::fs::seek(file, SeekFrom::Hole(from)).unwrap_or(size).min(size)
        };
        if from >= to {
            break;
        }
        pieces.push((from, to - from));
        at = to;
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(pieces)
}

pub(crate) fn too_deep() -> io::Error {
    io::Error::other("its folders are too deep")
}

/// Sets when the content of an open file was changed last, in microseconds since the epoch.
pub(crate) fn set_modified(file: &File, micros: i64) -> io::Result<()> {
    let nanoseconds = micros.rem_euclid(1_000_000) * 1000;
    let at = Timespec { tv_sec: micros.div_euclid(1_000_000), tv_nsec: nanoseconds };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: at, last_modification: at })?)
}

/// Sets the time of an open file to now, as the kernel has it.
#[cfg(feature = "host")]
pub(crate) fn touch(file: &File) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

/// Refuses what is more than one step, or a step up.
fn one_name(name: impl Arg) -> io::Result<CString> {
    let name = name.into_c_str()?.into_owned();
    let is_one = !name.is_empty() && name.as_c_str() != c".." && !name.to_bytes().contains(&b'/');
    if is_one { Ok(name) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// A path that leads to what is open, whatever became of its name.
pub(crate) fn by_descriptor(descriptor: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_link_is_never_taken_for_what_it_leads_to() {
        let outside = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        for target in [outside.path(), Path::new("/nowhere")] {
            folder.make_link(target, "link").unwrap();
            assert!(folder.has("link"));
            assert!(folder.enter("link").is_err(), "{target:?}");
            assert!(folder.make("link", 0o755, None).is_err(), "{target:?}");
            let file = folder.make_file("link").unwrap();
            assert!(fs::write(by_descriptor(file.as_fd()), "x").is_err(), "{target:?}");
            assert!(!folder.entries().unwrap()[0].1, "a link is no folder");
            folder.remove_file(c"link").unwrap();
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn owner_and_mode_go_to_what_is_open_and_not_to_what_has_its_name_now() {
        let outside = tempfile::tempdir().unwrap();
        let before = fs::metadata(outside.path()).unwrap();
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap().make("name", 0o700, None).unwrap();
        fs::rename(place.path().join("name"), place.path().join("moved")).unwrap();
        symlink(outside.path(), place.path().join("name")).unwrap();
        folder.set_mode(0o1777).unwrap();
        folder.give(folder.owner().unwrap()).unwrap();
        let after = fs::metadata(outside.path()).unwrap();
        assert_eq!((after.mode(), after.ctime_nsec()), (before.mode(), before.ctime_nsec()));
        assert_eq!(fs::metadata(place.path().join("moved")).unwrap().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn only_a_regular_file_is_read_and_nothing_waits_for_a_fifo() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        fs::write(place.path().join("file"), "content").unwrap();
        fs::create_dir(place.path().join("folder")).unwrap();
        symlink(place.path().join("file"), place.path().join("link")).unwrap();
        rustix::fs::mknodat(&folder, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let (file, state) = folder.read("file").unwrap().unwrap();
        assert_eq!((io::read_to_string(file).unwrap().as_str(), state.size), ("content", 7));
        for name in ["folder", "link", "fifo"] {
            assert!(folder.read(name).unwrap().is_none(), "{name}");
        }
        assert!(folder.read("nothing").is_err());
        assert_eq!(folder.look("file").unwrap(), Kind::File(state));
        let others = [("folder", Kind::Folder), ("link", Kind::Other), ("fifo", Kind::Other)];
        for (name, kind) in others {
            assert_eq!(folder.look(name).unwrap(), kind, "{name}");
        }
    }

    #[test]
    fn a_new_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        fs::write(place.path().join("outside"), "before").unwrap();
        symlink(place.path().join("outside"), place.path().join("name")).unwrap();
        assert!(folder.create("name").is_err());
        drop(folder.create("new").unwrap());
        folder.replace(c"new", &folder, c"name").unwrap();
        assert_eq!(fs::read_to_string(place.path().join("outside")).unwrap(), "before");
        assert!(fs::symlink_metadata(place.path().join("name")).unwrap().is_file());
    }

    #[test]
    fn names_are_read_up_to_a_bound() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        assert_eq!(folder.names(3).map(|(names, more)| (names.len(), more)).unwrap(), (3, false));
        assert_eq!(folder.names(2).map(|(names, more)| (names.len(), more)).unwrap(), (2, true));
    }

    #[test]
    fn a_name_is_one_step_down() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        for name in ["", "..", "/", "a/b", "../a", "/etc"] {
            assert!(folder.enter(name).is_err(), "{name:?}");
            assert!(folder.make(name, 0o700, None).is_err(), "{name:?}");
            assert!(folder.make_link("x", name).is_err(), "{name:?}");
        }
    }
}
