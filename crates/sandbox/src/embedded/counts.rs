//! How many sandboxes there are and were, for whoever measures the server.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of the sandboxes of this process, since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Those that are up now.
    pub up: u64,
    /// Those that were started.
    pub started: u64,
    /// Those that could not be started.
    pub failed: u64,
    /// Those in which the kernel had ended a process because memory ran out. Counted when the sandbox ends.
    pub out_of_memory: u64,
    /// How often everything inside one was ended because its files took too much room.
    pub over_disk: u64,
}

/// The same while they are counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    up: AtomicU64,
    started: AtomicU64,
    failed: AtomicU64,
    out_of_memory: AtomicU64,
    over_disk: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            up: read(&self.up),
            started: read(&self.started),
            failed: read(&self.failed),
            out_of_memory: read(&self.out_of_memory),
            over_disk: read(&self.over_disk),
        }
    }

    pub(super) fn is_up(&self) {
        self.up.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn not_started(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn over_disk(&self) {
        self.over_disk.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn has_ended(&self, out_of_memory: bool) {
        self.up.fetch_sub(1, Ordering::Relaxed);
        self.out_of_memory.fetch_add(u64::from(out_of_memory), Ordering::Relaxed);
    }
}
