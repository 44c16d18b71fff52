//! The processes inside: who belongs to a session, and how they are ended.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Rounds of killing, each of which catches what forked since the one before.
const KILL_ROUNDS: usize = 64;

/// Every process, from `/proc`.
pub(super) fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The living processes of a session.
pub(super) fn of_session(session: i32) -> Vec<i32> {
    all().into_iter().filter(|pid| session_of(*pid) == Some(session)).collect()
}

/// `None` for zombies and for processes that are gone.
fn session_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_session(&stat)
}

/// A program's name stands in parentheses and may hold anything, parentheses too: count from the last one.
fn parse_session(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(session)
}

/// Signals every process of a session.
pub(super) fn signal_session(session: i32, signal: Signal) {
    for pid in of_session(session) {
        // It may have ended since.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Kills one process. It may have ended.
pub(super) fn kill_one(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Kills every process of a session, however fast it forks.
pub(super) fn kill_session(session: i32) {
    for _ in 0..KILL_ROUNDS {
        let members = of_session(session);
        if members.is_empty() {
            return;
        }
        for pid in members {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        reap();
    }
}

/// Kills every process but this one.
pub(super) fn kill_everything() {
    // One call reaches all of them at once; ESRCH means that there are none.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while let Ok(status) = waitpid(Pid::from_raw(-1), None) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Collects every child that has ended: their ids and how they ended.
pub(super) fn reap() -> Vec<(i32, Ended)> {
    let mut ended = Vec::new();
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.push((pid.as_raw(), Ended::Exit(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.push((pid.as_raw(), Ended::Signal(signal))),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return ended,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Exit(i32),
    Signal(Signal),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_cannot_hide_its_session_in_its_name() {
        let cases = [
            ("12 (bash) S 1 12 12 0 -1", Some(12)),
            ("13 (a) R 9 9 9) S 1 13 12 0 -1", Some(12)),
            ("14 (gone) Z 1 14 12 0 -1", None),
            ("nonsense", None),
        ];
        for (stat, expected) in cases {
            assert_eq!(parse_session(stat), expected, "{stat}");
        }
    }
}
