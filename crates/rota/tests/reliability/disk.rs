//! A small disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A small file system in memory.
pub struct Disk {
    path: PathBuf,
    _place: TempDir,
}

impl Disk {
    /// One of so many MB, where root runs the test.
    pub fn mount(mb: u32) -> Option<Self> {
        let place = tempfile::tempdir().expect("a small file system");
        let path = place.path().to_owned();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mb}m"), "tmpfs"]).arg(&path).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { path, _place: place })
    }

    /// Moves the store of a server that does not run onto it. The files of sessions stay where they are, and have room.
    pub fn takes_the_store(&self, data: &Path) {
        for name in ["rota.db", "rota.db-wal", "rota.db-shm"] {
            let (from, to) = (data.join(name), self.path.join(name));
            if from.exists() {
                fs::copy(&from, &to).expect("a copy of the store");
                fs::remove_file(&from).expect("it is gone");
            }
        }
        std::os::unix::fs::symlink(self.path.join("rota.db"), data.join("rota.db")).expect("a link");
    }

    pub fn fill(&self) {
        let mut file = fs::File::create(self.path.join("filler")).expect("a small file system");
        let full = std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("it is full some time");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    pub fn free(&self) {
        fs::remove_file(self.path.join("filler")).expect("a small file system");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps the rest of it.
        drop(Command::new("umount").arg("--lazy").arg(&self.path).status());
    }
}
