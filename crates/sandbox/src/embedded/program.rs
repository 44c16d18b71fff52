//! Starting the init: this server's own program, from a sealed copy in memory that nothing inside can change.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::init::MARKER;

/// Lets the copy be run where the system's default is that memory files are not programs (Linux 6.3 and later).
const MFD_EXEC: u32 = 0x10;

type Request = (OwnedFd, oneshot::Sender<io::Result<Child>>);

/// Starts inits from one thread that lives as long as this value: an init follows the death of the thread that started
/// it, so that must not be one of the short-lived threads of a pool.
pub(super) struct Spawner {
    requests: mpsc::Sender<Request>,
}

impl Spawner {
    pub(super) fn start(program: Option<PathBuf>) -> Result<Self, Error> {
        let (requests, received) = mpsc::channel::<Request>();
        thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(move || {
                let mut sealed = None;
                for (socket, reply) in received {
                    // Nobody waits for the reply when the opening was given up: then the init ends with its socket.
                    let _ = reply.send(spawn(&mut sealed, program.as_ref(), socket));
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

pub(super) fn spawn(sealed: &mut Option<OwnedFd>, program: Option<&PathBuf>, socket: OwnedFd) -> io::Result<Child> {
    let copy = match sealed {
        Some(copy) => copy,
        None => sealed.insert(seal(program)?),
    };
    start(&PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd())), socket)
}

/// Starts the program itself to delete files. No code of an agent's runs in it, so it needs no copy.
pub(super) fn spawn_for_deletion(program: Option<&PathBuf>, socket: OwnedFd) -> io::Result<Child> {
    start(&program.cloned().map_or_else(std::env::current_exe, Ok)?, socket)
}

fn start(program: &Path, socket: OwnedFd) -> io::Result<Child> {
    Command::new(program)
        .arg(MARKER)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Copies the program into memory and forbids every change to the copy.
fn seal(program: Option<&PathBuf>) -> io::Result<OwnedFd> {
    let path = program.cloned().map_or_else(std::env::current_exe, Ok)?;
    let mut original = File::open(path)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let executable = flags | MFdFlags::from_bits_retain(MFD_EXEC);
    let copy = memfd_create(c"rota-sandbox-init", executable).or_else(|_| memfd_create(c"rota-sandbox-init", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut original, &mut copy)?;
    copy.flush()?;
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
        let copy = seal(None).unwrap();
        let mut reopened = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap();
        assert!(reopened.write_all(b"x").is_err());
        assert!(reopened.set_len(0).is_err());
    }
}
