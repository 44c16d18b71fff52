//! Counting what files take on disk: by open folders, so that no depth and no length of a path is too much.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::processes;

/// Bytes that `st_blocks` counts in.
const BLOCK: u64 = 512;

/// What files take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    /// On disk.
    pub(super) bytes: u64,
    /// Entries of folders, and files without any.
    pub(super) files: u64,
    /// Nothing was out of sight.
    pub(super) is_all: bool,
}

impl Usage {
    /// The larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            files: self.files.max(other.files),
            is_all: self.is_all && other.is_all,
        }
    }
}

/// What is below `roots`, and what is deleted there and held open by a process that is not in `own`. Stops soon after
/// `most` files.
pub(super) fn usage(roots: &[PathBuf], most: u64, own: &[i32]) -> Usage {
    let mut count = Count { most, seen: HashSet::new(), usage: Usage { is_all: true, ..Usage::default() } };
    let mut devices = HashSet::new();
    for root in roots {
        match count.below(root) {
            Ok(device) => _ = devices.insert(device),
            Err(_) => count.usage.is_all = false,
        }
    }
    for pid in processes::all() {
        if !own.contains(&pid) && !count.is_past_most() {
            count.deleted_but_open(pid, &devices);
        }
    }
    count.usage
}

struct Count {
    most: u64,
    /// Files with another number of names than one: each counts once.
    seen: HashSet<(u64, u64)>,
    usage: Usage,
}

/// A folder on the way down, and which of its folders are still to be counted.
struct Level {
    folder: (u64, u64),
    left: Vec<CString>,
}

impl Count {
    fn is_past_most(&self) -> bool {
        self.usage.files > self.most
    }

    /// Counts what is below `root`, on its file system. One folder is open at a time: the way back up is `..`, and where
    /// that no longer leads to where the way down came from, somebody moved a folder.
    fn below(&mut self, root: &Path) -> io::Result<u64> {
        let mut here = open(CWD, root)?;
        let top = self.list(&here)?;
        let device = top.folder.0;
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            if self.is_past_most() {
                return Ok(device);
            }
            if let Some(name) = level.left.pop() {
                match open(&here, &name) {
                    Ok(folder) => {
                        levels.push(self.list(&folder)?);
                        here = folder;
                    }
                    // It went away meanwhile.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            levels.pop();
            if let Some(above) = levels.last() {
                here = open(&here, "..")?;
                if id(&rustix::fs::fstat(&here)?) != above.folder {
                    return Err(io::ErrorKind::NotFound.into());
                }
            }
        }
        Ok(device)
    }

    /// Counts a folder's entries.
    fn list(&mut self, folder: &OwnedFd) -> io::Result<Level> {
        let own = rustix::fs::fstat(folder)?;
        let mut left = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if stat.st_dev != own.st_dev {
                continue;
            }
            self.usage.files += 1;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.usage.bytes += bytes(&stat);
                left.push(name.to_owned());
            } else if stat.st_nlink == 1 || self.seen.insert(id(&stat)) {
                self.usage.bytes += bytes(&stat);
            }
        }
        Ok(Level { folder: id(&own), left })
    }

    /// Counts what a process holds open on one of `devices` and has no name any more.
    fn deleted_but_open(&mut self, pid: i32, devices: &HashSet<u64>) {
        let descriptors = open(CWD, format!("/proc/{pid}/fd")).and_then(Dir::new);
        let counted = descriptors.and_then(|mut descriptors| {
            while let Some(entry) = descriptors.read() {
                let entry = entry?;
                // The two dots are no numbers, and no process is found below them.
                if entry.file_name().to_bytes()[0] == b'.' {
                    continue;
                }
                let stat = match rustix::fs::statat(descriptors.fd()?, entry.file_name(), AtFlags::empty()) {
                    Err(Errno::NOENT) => continue,
                    stat => stat?,
                };
                if stat.st_nlink == 0 && devices.contains(&stat.st_dev) && self.seen.insert(id(&stat)) {
                    self.usage.bytes += bytes(&stat);
                    self.usage.files += 1;
                }
            }
            Ok(())
        });
        // A process that has ended holds nothing; one that hides what it holds may hold anything.
        let ended = matches!(counted, Err(Errno::NOENT | Errno::SRCH));
        self.usage.is_all &= counted.is_ok() || ended;
    }
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn bytes(stat: &Stat) -> u64 {
    stat.st_blocks as u64 * BLOCK
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    const MOST: u64 = 1_000_000;
    const FILE: &[u8] = &[1; 64 << 10];

    fn counted(root: &Path) -> Usage {
        usage(&[root.to_owned()], MOST, &[])
    }

    /// Folders below `root` whose path is longer than any that the kernel takes, down to the last one.
    fn deep(root: &Path, depth: usize) -> OwnedFd {
        let mut folder = open(CWD, root).unwrap();
        for _ in 0..depth {
            let name = "d".repeat(200);
            rustix::fs::mkdirat(&folder, &name, Mode::RWXU).unwrap();
            folder = open(&folder, &name).unwrap();
        }
        folder
    }

    #[test]
    fn files_count_at_any_depth() {
        let root = tempfile::tempdir().unwrap();
        let before = counted(root.path());
        let last = deep(root.path(), 100);
        fs::write(format!("{}/file", crate::folder::by_descriptor(std::os::fd::AsFd::as_fd(&last))), FILE).unwrap();
        let after = counted(root.path());
        assert_eq!(after.files, before.files + 101);
        assert!(after.bytes >= before.bytes + FILE.len() as u64, "{before:?} {after:?}");
    }

    #[test]
    fn a_file_with_many_names_counts_once_and_a_link_leads_nowhere() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(root.path().join("file"), FILE).unwrap();
        fs::write(other.path().join("file"), FILE).unwrap();
        let before = counted(root.path());
        for number in 0..10 {
            fs::hard_link(root.path().join("file"), root.path().join(number.to_string())).unwrap();
            symlink(other.path(), root.path().join(format!("link{number}"))).unwrap();
        }
        let after = counted(root.path());
        assert_eq!(after.files, before.files + 20);
        assert!(after.bytes < before.bytes + FILE.len() as u64, "{before:?} {after:?}");
    }

    #[test]
    fn what_is_deleted_counts_as_long_as_it_is_open() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, FILE).unwrap();
        let own = std::process::id() as i32;
        let device = rustix::fs::stat(root.path()).unwrap().st_dev;
        let open_bytes = || {
            let usage = Usage { is_all: true, ..Usage::default() };
            let mut count = Count { most: MOST, seen: HashSet::new(), usage };
            count.deleted_but_open(own, &[device].into());
            assert!(count.usage.is_all);
            count.usage.bytes
        };
        let held = [File::open(&path).unwrap(), File::open(&path).unwrap()];
        let before = open_bytes();
        fs::remove_file(&path).unwrap();
        let deleted = open_bytes();
        assert!(deleted >= before + FILE.len() as u64, "{before} {deleted}");
        drop(held);
        assert!(open_bytes() < deleted);
    }

    #[test]
    fn counting_stops_at_the_limit() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..100 {
            fs::create_dir(root.path().join(number.to_string())).unwrap();
            fs::write(root.path().join(format!("{number}/file")), "").unwrap();
        }
        assert!((101..110).contains(&usage(&[root.path().to_owned()], 100, &[]).files));
    }
}
