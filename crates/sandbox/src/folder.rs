//! Folders of sessions, as the host reaches them.
//!
//! What is below them was made by an agent, which may put a symbolic link in place of any name at any moment. So every
//! step starts at an open folder, takes one name and follows no link, and owner and mode are set on what was opened. No
//! other module touches files of sessions on the host; `tests/architecture.rs` holds the crate to it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use rustix::path::Arg;

/// Opens a place without any right to its content.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

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
