//! Starting the init: a small program that this one carries, from a sealed copy in memory that nothing inside can change.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::oneshot;

use crate::error::Error;

/// The init, built by `build.rs`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rota-init"));
/// Lets the copy be run where the system's default is that memory files are not programs (Linux 6.3 and later).
const MFD_EXEC: u32 = 0x10;

type Request = (OwnedFd, oneshot::Sender<io::Result<Child>>);

/// Starts inits from one thread that lives as long as this value: an init follows the death of the thread that started
/// it, so that must not be one of the short-lived threads of a pool.
pub(super) struct Spawner {
    requests: mpsc::Sender<Request>,
}

impl Spawner {
    pub(super) fn start(program: Arc<Program>) -> Result<Self, Error> {
        let (requests, received) = mpsc::channel::<Request>();
        thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(move || {
                for (socket, reply) in received {
                    // Nobody waits for the reply when the opening was given up: then the init ends with its socket.
                    let _ = reply.send(program.start(socket));
                }
            })
            .map_err(Error::host("starting the sandbox thread"))?;
        Ok(Self { requests })
    }

    /// Starts an init that holds `socket`.
    pub(super) async fn spawn(&self, socket: OwnedFd) -> Result<Child, Error> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::died("the thread that starts sandboxes has ended");
        self.requests.send((socket, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(Error::host("starting the sandbox's init"))
    }
}

/// The program that inits run: a sealed copy in memory, made when it is first needed.
#[derive(Debug)]
pub(super) struct Program {
    instead: Option<PathBuf>,
    sealed: OnceLock<OwnedFd>,
}

impl Program {
    /// The init that is built with this crate, or `instead` of it a file.
    pub(super) fn new(instead: Option<PathBuf>) -> Self {
        Self { instead, sealed: OnceLock::new() }
    }

    /// Starts an init that holds `socket`, and follows the death of the calling thread.
    pub(super) fn start(&self, socket: OwnedFd) -> io::Result<Child> {
        Command::new(format!("/proc/self/fd/{}", self.copy()?.as_raw_fd()))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    /// Writes the program to a file.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        match &self.instead {
            Some(path) => std::fs::copy(path, file).map(drop),
            None => std::fs::write(file, INIT),
        }
    }

    fn copy(&self) -> io::Result<&OwnedFd> {
        if let Some(copy) = self.sealed.get() {
            return Ok(copy);
        }
        let copy = match &self.instead {
            Some(path) => seal(&std::fs::read(path)?)?,
            None => seal(INIT)?,
        };
        Ok(self.sealed.get_or_init(|| copy))
    }
}

/// Copies a program into memory and forbids every change to the copy.
fn seal(program: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let executable = flags | MFdFlags::from_bits_retain(MFD_EXEC);
    let copy = memfd_create(c"rota-sandbox-init", executable).or_else(|_| memfd_create(c"rota-sandbox-init", flags))?;
    let mut copy = File::from(copy);
    copy.write_all(program)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn the_copy_that_sandboxes_run_cannot_be_changed() {
        let program = Program::new(None);
        let copy = program.copy().unwrap();
        let mut reopened = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap();
        assert!(reopened.write_all(b"x").is_err());
        assert!(reopened.set_len(0).is_err());
    }
}
