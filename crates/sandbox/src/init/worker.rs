//! A file tool at work: a forked child of process 1, so that a tool that hangs or dies takes nothing with it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::processes;
use crate::sys::{self, Cloned};
use crate::wire::MAX_FRAME_FROM_INIT;

/// How long a file tool may take.
pub(super) const TIMEOUT: Duration = Duration::from_mins(1);
/// What is read at once, in bytes.
const BUFFER: usize = 16 << 10;
/// Memory of one file tool, in bytes of address space.
const ADDRESS_SPACE: u64 = 1 << 30;

/// A forked child and what it has answered so far.
pub(super) struct Worker {
    pub(super) pid: i32,
    pub(super) deadline: Instant,
    /// Does not block.
    pub(super) pipe: File,
    answer: Vec<u8>,
}

impl Worker {
    /// Forks a child that answers with what `work` returns.
    pub(super) fn start<T: Serialize>(work: impl FnOnce() -> T) -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        match sys::fork()? {
            Cloned::Child => {
                drop(read);
                // A panic ends the process: the profile of the init says so.
                sys::exit_now(answer(work, File::from(write)));
            }
            Cloned::Parent(pid) => {
                fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                Ok(Self { pid, deadline: Instant::now() + TIMEOUT, pipe: File::from(read), answer: Vec::new() })
            }
        }
    }

    /// Takes in what is there. True once the child has nothing more to say.
    pub(super) fn read(&mut self) -> bool {
        let mut buffer = [0; BUFFER];
        match self.pipe.read(&mut buffer) {
            Ok(0) => true,
            Ok(got) => {
                self.answer.extend_from_slice(&buffer[..got]);
                self.answer.len() > MAX_FRAME_FROM_INIT
            }
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// What the child answered; nothing when it died before its answer was whole.
    pub(super) fn answer<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.answer).ok()
    }

    pub(super) fn kill(&self) {
        processes::kill_one(self.pid);
    }
}

fn answer<T: Serialize>(work: impl FnOnce() -> T, mut pipe: File) -> i32 {
    sys::restore_signals();
    let most = TIMEOUT.as_secs();
    let limited = setrlimit(Resource::RLIMIT_AS, ADDRESS_SPACE, ADDRESS_SPACE)
        .and_then(|()| setrlimit(Resource::RLIMIT_CPU, most, most))
        .is_ok();
    // The result is written in one piece: half an answer is no answer.
    let text = if limited { serde_json::to_vec(&work()).ok() } else { None };
    i32::from(text.is_none_or(|text| pipe.write_all(&text).is_err()))
}

impl AsFd for Worker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
