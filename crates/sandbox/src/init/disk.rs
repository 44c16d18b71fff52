//! The watch over disk use: counts what the session's files take, every few seconds while something runs, and keeps an
//! eye on the free space of the disk below all the time.
//!
//! It is a watch and not a quota: a sandbox may go past its limit between two looks. A look counts what is below the
//! session's folders, however deep, and files that are deleted and still open. It runs inside, so the agent can end it,
//! and there are places in which a deleted file can hide. So what is not seen counts as growth: without a look that saw
//! everything, all space that the disk has lost since the last one is taken for this sandbox's. What even that does not
//! find ends at the reserve of free space.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::root;
use super::usage::{Usage, usage};
use super::worker::Worker;
use crate::config::Limits;
use crate::wire::{Launch, PACKAGES};

/// The shortest time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// A look may take at most this part of the time.
const SHARE: u32 = 10;
/// A look that takes longer is given up: it has seen nothing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);
/// The same while the disk loses more than the sandbox may take, or has little left.
const PRESSED_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the free space is looked at.
const FREE_INTERVAL: Duration = Duration::from_secs(1);
/// The same when there is little: less than this many times the reserve.
const FREE_INTERVAL_NEAR: Duration = Duration::from_millis(100);
const NEAR: u64 = 16;
/// Growth below this is not held against a sandbox when the disk as a whole is short of space, in bytes; at most this
/// part of the reserve.
const HARMLESS_GROWTH: u64 = 16 << 20;
const HARMLESS_SHARE: u64 = 16;
/// Below this part of the reserve it no longer matters who is seen to grow.
const DESPERATE_SHARE: u64 = 2;

/// What the disk below has left.
#[derive(Debug, Clone, Copy, Default)]
struct Free {
    bytes: u64,
    files: u64,
}

impl Free {
    fn now() -> Self {
        let Ok(stat) = rustix::fs::statvfs("/workspace") else { return Self { bytes: u64::MAX, files: u64::MAX } };
        Self { bytes: stat.f_bavail * stat.f_frsize, files: stat.f_favail }
    }
}

/// A look under way.
struct Look {
    worker: Worker,
    since: Instant,
    free: Free,
}

/// Watches one sandbox's files.
pub(super) struct DiskWatch {
    limits: Limits,
    roots: Vec<PathBuf>,
    look: Option<Look>,
    /// Something ran since the last look began.
    stirred: bool,
    /// When the free space is looked at next, when a look may begin, and when one must.
    check_at: Instant,
    may_look_at: Instant,
    must_look_at: Instant,
    /// The last look that saw everything, and the free space when it began.
    known: (Usage, Free),
    /// What the last judgement was about.
    before: Usage,
    /// The most free space, in bytes, since it is desperately short.
    most_free: u64,
}

impl DiskWatch {
    pub(super) fn new(launch: &Launch) -> Self {
        let roots = if launch.is_overlay() {
            ["", "workspace", "mnt/session/outputs", root::MEMORY].into()
        } else {
            root::session_folders(launch)
                .filter(|(.., writable)| *writable)
                .map(|(_, path, _)| path)
                .chain([root::MEMORY])
                .collect::<Vec<_>>()
        };
        let building = launch.shown.building.iter().map(|name| format!("{PACKAGES}/{name}"));
        let roots = roots.into_iter().map(str::to_owned).chain(building);
        let (now, mut limits) = (Instant::now(), launch.limits);
        // What is in the layers is counted with the rest of the root, and is not the session's.
        limits.disk_bytes = limits.disk_bytes.saturating_add(launch.shown.size.0);
        limits.files = limits.files.saturating_add(launch.shown.size.1);
        // Of a session that has files already it is seen at once how many.
        let first_look = if launch.is_new { now + INTERVAL } else { now };
        Self {
            limits,
            roots: roots.map(|path| PathBuf::from("/").join(path)).collect(),
            look: None,
            stirred: false,
            check_at: now,
            may_look_at: now,
            must_look_at: first_look,
            known: (Usage::default(), Free::now()),
            before: Usage::default(),
            most_free: 0,
        }
    }

    /// Something begins that may write.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
        self.check_at = Instant::now();
    }

    /// Everything inside was ended, and with it a look that was under way.
    pub(super) fn start_over(&mut self) {
        self.look = None;
        self.stir();
    }

    /// The look that is under way.
    pub(super) fn look(&mut self) -> Option<&mut Worker> {
        self.look.as_mut().map(|look| &mut look.worker)
    }

    /// Until [`Self::turn`] has something to do.
    pub(super) fn time_to_next_check(&self) -> Duration {
        self.check_at.saturating_duration_since(Instant::now())
    }

    /// Whether it is time for a [`Self::turn`].
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.check_at
    }

    /// Looks at the free space, and starts a look or gives one up when it is time for that. `at_work`: something runs that may write.
    /// `own` are processes of the init's that hold no files. Says why the sandbox must be stopped, if it must.
    pub(super) fn turn(&mut self, now: Instant, at_work: bool, own: Vec<i32>) -> Option<String> {
        let reserve = self.limits.disk_reserve_bytes;
        let free = Free::now();
        let near = at_work && free.bytes < reserve.saturating_mul(NEAR);
        self.check_at = now + if near { FREE_INTERVAL_NEAR } else { FREE_INTERVAL };
        self.stirred |= at_work;
        let desperate = reserve / DESPERATE_SHARE;
        if free.bytes >= desperate || !at_work {
            self.most_free = 0;
        } else {
            self.most_free = self.most_free.max(free.bytes);
            if free.bytes.saturating_add(self.harmless()) < self.most_free {
                self.most_free = free.bytes;
                return Some(format!("the disk below has less than {desperate} bytes left and is being filled"));
            }
        }
        let pressing = free.bytes < reserve || self.assumed(free).bytes > self.limits.disk_bytes;
        if let Some(look) = &self.look {
            return if pressing && now >= look.since + PRESSED_TIMEOUT { self.end_look(now) } else { None };
        }
        let due = now >= self.must_look_at || (pressing && now >= self.may_look_at);
        if !self.stirred || !due {
            return None;
        }
        self.stirred = false;
        let (roots, most) = (self.roots.clone(), self.limits.files);
        match Worker::start(move || usage(&roots, most, &own)) {
            Ok(mut worker) => {
                worker.deadline = now + LOOK_TIMEOUT;
                self.look = Some(Look { worker, since: now, free });
                None
            }
            // There is no process to spare.
            Err(_) => self.judge(None, now, now, free),
        }
    }

    /// Ends the look that is under way. Says why the sandbox must be stopped, if it must.
    pub(super) fn end_look(&mut self, now: Instant) -> Option<String> {
        let Look { worker, since, free } = self.look.take()?;
        worker.kill();
        self.judge(worker.answer(), now, since, free)
    }

    /// Judges what a look saw that began at `since` with this much free space.
    fn judge(&mut self, seen: Option<Usage>, now: Instant, since: Instant, free_then: Free) -> Option<String> {
        let free = Free::now();
        let used = match seen {
            Some(seen) if seen.is_all => {
                self.known = (seen, free_then);
                self.must_look_at = now + INTERVAL.max((now - since) * SHARE);
                seen
            }
            partly => {
                self.must_look_at = now + INTERVAL;
                // Who kills the look must not make this wait until something else runs.
                self.stirred = true;
                self.assumed(free).max(partly.unwrap_or_default())
            }
        };
        self.may_look_at = now + INTERVAL;
        let before = std::mem::replace(&mut self.before, used);
        let Limits { disk_bytes, files, disk_reserve_bytes, .. } = self.limits;
        if used.bytes > disk_bytes && used.bytes > before.bytes {
            return Some(format!("its files take {} bytes on disk and the limit is {disk_bytes}", used.bytes));
        }
        if used.files > files && used.files > before.files {
            return Some(format!("it has more than {files} files, which is the limit"));
        }
        if free.bytes < disk_reserve_bytes && used.bytes > before.bytes.saturating_add(self.harmless()) {
            return Some(format!("the disk below has less than {disk_reserve_bytes} bytes left"));
        }
        None
    }

    /// What the files take if all that the disk has lost since everything was seen is theirs.
    fn assumed(&self, free: Free) -> Usage {
        let (known, then) = self.known;
        Usage {
            bytes: known.bytes.saturating_add(then.bytes.saturating_sub(free.bytes)),
            files: known.files.saturating_add(then.files.saturating_sub(free.files)),
            is_all: false,
        }
    }

    fn harmless(&self) -> u64 {
        HARMLESS_GROWTH.min(self.limits.disk_reserve_bytes / HARMLESS_SHARE)
    }
}
