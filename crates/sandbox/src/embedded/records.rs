//! The records of what runs: a file for each sandbox that says which process it is, so that a later server can end it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;

/// How often and how long the end of an orphan is waited for.
const ORPHAN_CHECKS: usize = 100;
const ORPHAN_CHECK: Duration = Duration::from_millis(20);

/// The folder of all records. The server alone writes to it.
#[derive(Debug, Clone)]
pub(super) struct Records(pub(super) PathBuf);

/// Where one sandbox's record is, or will be.
#[derive(Debug)]
pub(super) struct Record(PathBuf);

impl Records {
    pub(super) fn of(&self, id: &str) -> Record {
        Record(self.0.join(id))
    }

    /// Ends what an earlier server left running, before anything is started here.
    ///
    /// A server that dies between the start of a sandbox and its record leaves nothing: process 1 goes on only when the
    /// server has heard of it, follows the launcher's death, and ends when nobody holds the other end of its socket.
    pub(super) async fn end_orphans(&self) -> Result<(), Error> {
        let entries = fs::read_dir(&self.0).map_err(Error::host_at("listing a folder of the server's", &self.0))?;
        for entry in entries.flatten() {
            if let Some(orphan) = fs::read_to_string(entry.path()).ok().as_deref().and_then(Orphan::parse) {
                orphan.end().await;
            }
            // It may have been removed by its own end.
            let _ = fs::remove_file(entry.path());
        }
        Ok(())
    }
}

impl Record {
    /// Remembers process 1, so that a later server can end it. Of one that has ended already there is nothing to remember: why
    /// it did is told by its last message.
    pub(super) fn write(&self, pid: i32) -> Result<(), Error> {
        let Some(start_time) = start_time(pid) else { return Ok(()) };
        fs::write(&self.0, format!("{pid} {start_time}\n")).map_err(Error::host_at("recording the sandbox", &self.0))
    }

    pub(super) fn remove(&self) {
        // It is gone when the session was removed meanwhile.
        let _ = fs::remove_file(&self.0);
    }
}

/// A process of an earlier server. The start time tells it from one that was given the same number later.
#[derive(Debug, PartialEq, Eq)]
struct Orphan {
    pid: i32,
    start_time: u64,
}

impl Orphan {
    fn parse(text: &str) -> Option<Self> {
        let (pid, start_time) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    }

    fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    async fn end(&self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return };
        let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
        // Checked after the handle is held: from here on it cannot be another process.
        if !self.lives() {
            return;
        }
        let _ = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL);
        for _ in 0..ORPHAN_CHECKS {
            if !self.lives() {
                return;
            }
            tokio::time::sleep(ORPHAN_CHECK).await;
        }
    }
}

/// When a process started, in clock ticks since boot. `None` once it has ended, whoever still has to be told of it.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let has_ended = matches!(fields.next()?, "Z" | "X");
    if has_ended { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_is_known_by_its_start_time() {
        let own = std::process::id() as i32;
        let start_time = start_time(own).unwrap();
        assert!(Orphan::parse(&format!("{own} {start_time}\n")).unwrap().lives());
        assert!(!Orphan { pid: own, start_time: start_time + 1 }.lives());
        assert_eq!(Orphan::parse("nonsense"), None);
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        while super::start_time(ended.id() as i32).is_some() {
            std::thread::yield_now();
        }
        let folder = tempfile::tempdir().unwrap();
        let record = Records(folder.path().to_owned()).of("s");
        record.write(ended.id() as i32).unwrap();
        assert!(!record.0.exists(), "one that has ended is not remembered");
        record.write(own).unwrap();
        assert!(record.0.exists());
        ended.wait().unwrap();
    }
}
