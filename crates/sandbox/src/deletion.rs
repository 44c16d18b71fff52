//! Deleting trees of files that an agent made, whatever their depth.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// Deletes everything in `trash`. Folders are moved up before they are emptied, so neither depth nor the length of a
/// path matters, and no more than two are open at once.
pub(crate) fn empty(trash: &Path) -> io::Result<()> {
    let top = open_folder(CWD, trash)?;
    let mut number = 0_u64;
    loop {
        let names = entries(&top)?;
        if names.is_empty() {
            return Ok(());
        }
        for (name, _) in names {
            empty_one(&top, &name, &mut number)?;
        }
    }
}

fn empty_one(top: &OwnedFd, name: &std::ffi::CStr, number: &mut u64) -> io::Result<()> {
    let folder = open_folder(top, name)?;
    for (entry, is_folder) in entries(&folder)? {
        if !is_folder {
            rustix::fs::unlinkat(&folder, &entry, AtFlags::empty())?;
            continue;
        }
        // A plain user may only move a folder that it may write to. Nothing else is at work here that could swap it.
        let _ = rustix::fs::chmodat(&folder, &entry, Mode::RWXU, AtFlags::empty());
        loop {
            *number += 1;
            match rustix::fs::renameat_with(
                &folder,
                &entry,
                top,
                number.to_string(),
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Err(rustix::io::Errno::EXIST) => {}
                moved => break moved?,
            }
        }
    }
    Ok(rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

fn open_folder(at: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn entries(folder: &OwnedFd) -> io::Result<Vec<(std::ffi::CString, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if entry.file_name() == c"." || entry.file_name() == c".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        names.push((entry.file_name().to_owned(), is_folder));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_is_deleted_without_deep_calls() {
        let trash = tempfile::tempdir().unwrap();
        fs::create_dir(trash.path().join("first")).unwrap();
        let mut folder = open_folder(CWD, trash.path().join("first")).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/", &folder, "link").unwrap();
            folder = open_folder(&folder, "d").unwrap();
        }
        empty(trash.path()).unwrap();
        assert_eq!(fs::read_dir(trash.path()).unwrap().count(), 0);
    }
}
