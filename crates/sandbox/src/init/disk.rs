//! The watch over disk use: counts what the session's files take, every few seconds while something runs.
//!
//! It is a watch and not a quota: a sandbox may go past its limit between two looks. What no walk finds (deleted files
//! that are still open, folders nested beyond the longest path) is bounded by the reserve of free space.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::root;
use super::worker::Worker;
use crate::config::Limits;
use crate::wire::Launch;

/// The shortest time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// A look may take at most this part of the time.
const SHARE: u32 = 10;
/// Growth below this is not held against a sandbox when the disk as a whole is short of space, in bytes.
const HARMLESS_GROWTH: u64 = 16 << 20;
/// Bytes that `st_blocks` counts in.
const BLOCK: u64 = 512;

/// Watches one sandbox's files.
pub(super) struct DiskWatch {
    limits: Limits,
    roots: Vec<PathBuf>,
    look: Option<(Worker, Instant)>,
    next_at: Instant,
    last: (u64, u64),
}

impl DiskWatch {
    pub(super) fn new(launch: &Launch) -> Self {
        let roots = if launch.root_fs.is_some() {
            ["", "workspace", "mnt/session/outputs"].into()
        } else {
            root::SESSION_FOLDERS
                .iter()
                .filter(|(.., writable)| *writable)
                .map(|(_, path, ..)| *path)
                .collect::<Vec<_>>()
        };
        Self {
            limits: launch.limits,
            roots: roots.into_iter().map(|path| PathBuf::from("/").join(path)).collect(),
            look: None,
            next_at: Instant::now(),
            last: (0, 0),
        }
    }

    /// The look that is under way.
    pub(super) fn look(&mut self) -> Option<&mut Worker> {
        self.look.as_mut().map(|(worker, _)| worker)
    }

    /// Starts a look when it is time for one.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.look.is_none() && now >= self.next_at {
            let roots = self.roots.clone();
            let most = self.limits.files;
            // Without a process to spare there is nothing that could fill the disk much further either.
            self.look = Worker::start(move || usage(&roots, most)).ok().map(|worker| (worker, now));
            self.next_at = now + INTERVAL;
        }
    }

    /// Ends a look. Says why the sandbox must be stopped, if it must.
    pub(super) fn judge(&mut self, now: Instant) -> Option<String> {
        let (worker, since) = self.look.take()?;
        worker.kill();
        self.next_at = now + INTERVAL.max((now - since) * SHARE);
        let (bytes, files): (u64, u64) = worker.answer()?;
        let (bytes_before, files_before) = std::mem::replace(&mut self.last, (bytes, files));
        let Limits { disk_bytes, files: most, disk_reserve_bytes, .. } = self.limits;
        if bytes > disk_bytes && bytes > bytes_before {
            return Some(format!("its files take {bytes} bytes on disk and the limit is {disk_bytes}"));
        }
        if files > most && files > files_before {
            return Some(format!("it has more than {most} files, which is the limit"));
        }
        let short = free_bytes().is_some_and(|free| free < disk_reserve_bytes);
        if short && bytes > bytes_before.saturating_add(HARMLESS_GROWTH) {
            return Some(format!("the disk below has less than {disk_reserve_bytes} bytes left"));
        }
        None
    }
}

fn free_bytes() -> Option<u64> {
    let stat = rustix::fs::statvfs("/workspace").ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

/// Bytes on disk and number of entries below `roots`; stops counting soon after `most` entries.
fn usage(roots: &[PathBuf], most: u64) -> (u64, u64) {
    let (mut bytes, mut entries) = (0, 0);
    for root in roots {
        let Ok(device) = fs::symlink_metadata(root).map(|meta| meta.dev()) else { continue };
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                if meta.dev() != device {
                    continue;
                }
                bytes += meta.blocks() * BLOCK;
                entries += 1;
                if meta.is_dir() {
                    folders.push(entry.path());
                }
            }
            if entries > most {
                return (bytes, entries);
            }
        }
    }
    (bytes, entries)
}
