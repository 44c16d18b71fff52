//! The session's shell: a bash that evaluates one text after another and keeps its state between them.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;

use crate::sys::{self, Cloned};
use crate::tools::WORKSPACE;

/// Descriptors inside bash, out of the way of those that scripts use. They are closed while a command runs.
const SCRIPT: RawFd = 100;
const DONE: RawFd = 101;
const GO: RawFd = 102;

/// Waits for a line, evaluates what the script file holds, answers with the exit status.
const LOOP: &str = r#"shopt -s expand_aliases
while IFS= read -r -u 102 __rota_go; do
mapfile -u 100 __rota_lines
printf -v __rota_text %s "${__rota_lines[@]}"
eval "$__rota_text" 100<&- 101>&- 102<&-
printf '%d\n' "$?" >&101
done"#;

const ENVIRONMENT: [&str; 9] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "USER=root",
    "LOGNAME=root",
    "SHELL=/bin/bash",
    "LANG=C.UTF-8",
    "TERM=dumb",
    "PAGER=cat",
    "TMPDIR=/tmp",
];

/// How much sooner than the init and the launcher a process inside is chosen when memory runs out.
const OOM_SCORE: &str = "500";

/// A running shell.
pub(super) struct Shell {
    /// Also its session and its process group.
    pub(super) pid: i32,
    script: File,
    go: File,
    /// Exit statuses, one a line.
    pub(super) done: Stream,
    /// What the shell and everything it started print.
    pub(super) output: Stream,
}

/// The reading end of a pipe, read without waiting.
pub(super) struct Stream {
    pipe: File,
    ended: bool,
}

impl Stream {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { pipe: File::from(pipe), ended: false })
    }

    /// The descriptor to wait on, as long as somebody may still write.
    pub(super) fn open(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended).then(|| self.pipe.as_fd())
    }

    /// How many bytes were there.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let got = self.pipe.read(buffer);
        self.ended |= matches!(got, Ok(0));
        got.unwrap_or(0)
    }
}

impl Shell {
    /// Starts a shell in `/workspace`.
    pub(super) fn start() -> io::Result<Self> {
        let script = File::from(nix::sys::memfd::memfd_create(c"command", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?);
        let (go_read, go_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (done_read, done_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (output_read, output_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (program, arguments, environment) = command_line();
        match sys::fork()? {
            Cloned::Child => {
                let streams = [(&output_write, 1), (&output_write, 2), (&done_write, DONE), (&go_read, GO)];
                let error = become_shell(&script, &streams, &program, &arguments, &environment);
                let _ = writeln!(File::from(output_write), "cannot start {}: {error}", program.to_string_lossy());
                sys::exit_now(127);
            }
            Cloned::Parent(pid) => Ok(Self {
                pid,
                script,
                go: File::from(go_write),
                done: Stream::new(done_read)?,
                output: Stream::new(output_read)?,
            }),
        }
    }

    /// Has the shell evaluate `command`.
    pub(super) fn run(&mut self, command: &str) -> io::Result<()> {
        self.script.set_len(0)?;
        self.script.rewind()?;
        self.script.write_all(command.as_bytes())?;
        self.script.rewind()?;
        self.go.write_all(b"\n")
    }

    /// The exit status of the command, once it has one.
    pub(super) fn exit_status(&mut self) -> Option<i32> {
        let mut line = [0; 16];
        let got = Some(self.done.read(&mut line)).filter(|got| *got > 0)?;
        Some(std::str::from_utf8(&line[..got]).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(-1))
    }
}

fn command_line() -> (CString, Vec<CString>, Vec<CString>) {
    let text = |text: &str| CString::new(text).expect("the literals hold no NUL");
    let arguments = ["bash", "--noprofile", "--norc", "-c", LOOP, "bash"].map(text).into();
    (text("/bin/bash"), arguments, ENVIRONMENT.map(text).into())
}

fn become_shell(
    script: &File,
    streams: &[(&OwnedFd, RawFd)],
    program: &CString,
    arguments: &[CString],
    environment: &[CString],
) -> io::Error {
    let prepared = (|| -> io::Result<()> {
        nix::unistd::setsid()?;
        sys::restore_signals();
        nix::unistd::chdir(WORKSPACE)?;
        sys::dup_onto(script.as_fd(), SCRIPT)?;
        for (from, target) in streams {
            sys::dup_onto(from.as_fd(), *target)?;
        }
        // The files of an undumpable process belong to the host's root. What follows replaces this program anyway.
        nix::sys::prctl::set_dumpable(true)?;
        // A kernel without the setting chooses by size alone.
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        Ok(())
    })();
    match prepared {
        Ok(()) => sys::exec(program, arguments, environment),
        Err(error) => error,
    }
}
