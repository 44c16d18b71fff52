//! Deleting trees of files that an agent made, whatever their depth.

use std::ffi::CStr;
use std::io;
use std::path::Path;

use crate::folder::Folder;

/// Deletes everything in `trash`, a folder of the server's. Folders are moved up before they are emptied, so neither
/// depth nor the length of a path matters, and no more than three are open at once.
pub(crate) fn empty(trash: &Path) -> io::Result<()> {
    let top = Folder::open(trash)?;
    let mut number = 0_u64;
    loop {
        let names = top.entries()?;
        if names.is_empty() {
            return Ok(());
        }
        for (name, _) in names {
            empty_one(&top, &name, &mut number)?;
        }
    }
}

fn empty_one(top: &Folder, name: &CStr, number: &mut u64) -> io::Result<()> {
    let folder = top.enter(name)?;
    for (entry, is_folder) in folder.entries()? {
        if !is_folder {
            folder.remove_file(&entry)?;
            continue;
        }
        // A plain user may only move a folder that it may write to. Of another's, the move says what is wrong.
        let _ = folder.enter(&*entry)?.set_mode(0o700);
        loop {
            *number += 1;
            match folder.move_to(&entry, top, &number.to_string()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                moved => break moved?,
            }
        }
    }
    top.remove_folder(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_is_deleted_without_deep_calls() {
        let trash = tempfile::tempdir().unwrap();
        fs::create_dir(trash.path().join("first")).unwrap();
        let mut folder = Folder::open(&trash.path().join("first")).unwrap();
        for _ in 0..3_000 {
            folder.make_link("/", "link").unwrap();
            folder = folder.make("d", 0o700, None).unwrap();
        }
        empty(trash.path()).unwrap();
        assert_eq!(fs::read_dir(trash.path()).unwrap().count(), 0);
    }
}
