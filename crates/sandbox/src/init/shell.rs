//! The session's shell: a bash that keeps its state between commands, and that is watched from outside.
//!
//! A command may change everything in its shell, so nothing that carries commands in or results out is a name, a variable,
//! an option, a trap or a descriptor there:
//!
//! - A command arrives as it is, in the pipe that bash reads as its script. It is known to be complete: `syntax.rs`.
//! - It has ended when bash comes back for more: [`MORE`], which follows it, is gone from the pipe. The pipe holds one page
//!   and counts as writable only when it is empty.
//! - Its exit status leaves as the name of an empty file, which a redirection without a command makes: [`Shell::ask`].
//! - Line numbers in bash's messages are the command's own: after each command bash counts anew.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

use super::processes::{self, Ended};
use super::syntax::{Syntax, as_argument_of_eval, is_plain};
use super::trust;
use crate::sys::{self, Cloned};
use crate::wire::Launch;

/// A file system of its own that holds the pipe while bash opens it, and exit statuses.
pub(crate) const FOLDER: &str = "/dev/shell";
/// The pipe's name. It is what bash calls itself in messages.
const SCRIPT: &str = "bash";
/// The least that a pipe can hold, in bytes: one page.
const ONE_PAGE: i32 = 4096;
/// Follows all that is written, and is read when bash has done what stands before. It begins the next line.
const MORE: u8 = b' ';
/// What a new shell is given first. It was started in the folder of its script.
const FIRST: &str = "cd /workspace; unset OLDPWD; shopt -s expand_aliases\n";
/// Has bash count lines anew, so that a command's line is the first one. An assignment of its own would count until the end
/// of its line; in a redirection it stays. A descriptor is put in its own place, no word is used that could be an alias, nor does
/// anything depend on it: where a command has made LINENO something else, lines have other numbers.
const COUNT_ANEW: &str = "((1)) <&$((LINENO=0)) || ((1))\n";

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

/// The environment of a sandbox's shells: the variables of its launch, those of the trust in authorities, those that its root file
/// system brings, of which a later one goes before an earlier, and the usual ones. Of one name the first counts.
pub(super) fn environment(launch: &Launch) -> Vec<String> {
    let trust = launch.authorities.is_some().then(trust::variables).into_iter().flatten();
    let of_root = launch.shown.environment.iter().rev().cloned();
    let mut all: Vec<String> = Vec::new();
    for variable in launch.environment.iter().cloned().chain(trust).chain(of_root).chain(ENVIRONMENT.map(str::to_owned))
    {
        let name = variable.split('=').next();
        if all.iter().all(|own| own.split('=').next() != name) {
            all.push(variable);
        }
    }
    all
}

/// How much sooner than the init and the launcher a process inside is chosen when memory runs out.
const OOM_SCORE: &str = "500";

/// A running shell.
pub(super) struct Shell {
    /// Also its session and its process group.
    pub(super) pid: i32,
    script: File,
    /// What is still to be written to `script`.
    unsent: Vec<u8>,
    stage: Stage,
    /// What the shell and everything it started print.
    pub(super) output: Stream,
}

enum Stage {
    Idle,
    /// Whether the command is complete is being found out.
    Checking {
        command: String,
        syntax: Syntax,
    },
    /// The command makes a file called `sign`, if any, when it begins.
    Running {
        sign: Option<String>,
    },
    /// The command has ended, and a file whose name begins with `name` will say how. Whether the command had begun.
    Asking {
        name: String,
        has_begun: bool,
    },
}

/// What the shell has come to.
pub(super) enum Progress {
    /// It is still at it.
    AtWork,
    /// The command has ended, and all that it printed is in the pipe.
    Ended,
    /// The command's exit status; none when the shell did not do what it was asked.
    Status(Option<i32>),
}

/// The reading end of a pipe, read without waiting.
pub(super) struct Stream {
    pipe: File,
    ended: bool,
}

impl Stream {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
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
    pub(super) fn start(environment: &[String]) -> io::Result<Self> {
        let mut script = make_script()?;
        let (output_read, output_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let arguments = ["bash", "--noprofile", "--norc", SCRIPT];
        let pid = start_bash(Path::new(FOLDER), &arguments, environment, None, &output_write)?;
        script.write_all([FIRST, COUNT_ANEW].concat().as_bytes())?;
        Ok(Self { pid, script, unsent: Vec::new(), stage: Stage::Idle, output: Stream::new(output_read)? })
    }

    /// Has the shell run `command`.
    pub(super) fn run(&mut self, command: &str) {
        if is_plain(command) {
            return self.begin(command, None);
        }
        match Syntax::check(command) {
            Ok(syntax) => self.stage = Stage::Checking { command: command.to_owned(), syntax },
            // No process can be started: bash itself can still look.
            Err(_) => self.begin_in_eval(command),
        }
    }

    /// Takes in that processes have ended.
    pub(super) fn reaped(&mut self, ended: &[(i32, Ended)]) {
        let Stage::Checking { command, syntax } = &self.stage else { return };
        let Some((_, how)) = ended.iter().find(|(pid, _)| *pid == syntax.pid) else { return };
        let (command, accepted) = (command.clone(), syntax.accepts(*how));
        if accepted { self.begin(&command, None) } else { self.begin_in_eval(&command) }
    }

    /// Runs a command that may not be complete, or only in this shell. `eval` is a name that the shell may have given
    /// another meaning to: the sign shows that it had not.
    fn begin_in_eval(&mut self, command: &str) {
        let sign = format!("{:016x}", random());
        let text = as_argument_of_eval(&format!("{}\n{command}", making(&sign)));
        // Lines of what is evaluated count from where its own text has ended.
        let lines = text.matches('\n').count() + 1;
        let count = format!("((1)) 2>/dev/null <&$((LINENO=-{lines},0)) || ((1))\n");
        self.begin(&(count + &text), Some(sign));
    }

    fn begin(&mut self, text: &str, sign: Option<String>) {
        let end: &[u8] = if text.ends_with('\\') { b"\n\n" } else { b"\n" };
        self.unsent = [text.as_bytes(), end, &[MORE]].concat();
        self.stage = Stage::Running { sign };
        self.send();
    }

    fn send(&mut self) {
        // What does not fit follows when the pipe is empty again.
        if let Ok(sent) = self.script.write(&self.unsent) {
            self.unsent.drain(..sent);
        }
    }

    /// The descriptor that becomes writable when the shell has read all that was sent.
    pub(super) fn reading(&self) -> Option<BorrowedFd<'_>> {
        matches!(self.stage, Stage::Running { .. } | Stage::Asking { .. }).then(|| self.script.as_fd())
    }

    /// The shell has read all that was sent.
    pub(super) fn has_read(&mut self) -> Progress {
        if !self.unsent.is_empty() {
            self.send();
            return Progress::AtWork;
        }
        match &self.stage {
            Stage::Idle | Stage::Checking { .. } => Progress::AtWork,
            Stage::Running { .. } => Progress::Ended,
            Stage::Asking { .. } => Progress::Status(self.status()),
        }
    }

    /// Asks for the exit status of the command that has ended. What the shell prints until it is there, because of a
    /// trap or an option, is not the command's.
    pub(super) fn ask(&mut self) {
        let Stage::Running { sign } = std::mem::replace(&mut self.stage, Stage::Idle) else { return };
        let files = empty_folder();
        let has_begun = sign.is_none_or(|sign| files.contains(&sign));
        let name = format!("{:016x}-", random());
        self.unsent = format!("{}\n{COUNT_ANEW}{}", making(&format!("{name}$?")), char::from(MORE)).into_bytes();
        self.stage = Stage::Asking { name, has_begun };
        self.send();
    }

    /// It was asked, and has not answered yet.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. })
    }

    /// The answer, when it is there. Afterwards the shell is free for the next command.
    pub(super) fn status(&mut self) -> Option<i32> {
        let (name, has_begun) = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Asking { name, has_begun } => (name, has_begun),
            other => {
                self.stage = other;
                return None;
            }
        };
        let status = empty_folder().iter().find_map(|file| file.strip_prefix(&name)?.parse().ok());
        status.filter(|_| has_begun)
    }

    /// Ends everything in the shell's session.
    pub(super) fn kill(self) {
        if let Stage::Checking { syntax, .. } = &self.stage {
            syntax.kill();
        }
        // A shell that has just been started may not have a session yet.
        processes::kill_one(self.pid);
        processes::kill_session(self.pid);
    }
}

/// A redirection without a command, which makes a file that tells something by its name.
fn making(name: &str) -> String {
    format!(">|\"{FOLDER}/{name}\"")
}

/// Makes the pipe that bash will open as its script.
fn make_script() -> io::Result<File> {
    empty_folder();
    let path = Path::new(FOLDER).join(SCRIPT);
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // Open for reading too, it can be opened before bash has.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let script = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    fcntl(&script, FcntlArg::F_SETPIPE_SZ(ONE_PAGE))?;
    Ok(script)
}

/// Removes what is in the folder, whoever put it there, and answers with the names.
fn empty_folder() -> Vec<String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let removed = entries.filter_map(|entry| {
        let path = entry.path();
        // What cannot be removed is in nobody's way: names are never used twice.
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        entry.file_name().into_string().ok()
    });
    removed.collect()
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness names are guessable, to code that could as well do anything else to its shell.
    let _ = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    u64::from_ne_bytes(bytes)
}

/// Starts bash in a session of its own, and answers with its process id.
pub(super) fn start_bash(
    folder: &Path,
    arguments: &[&str],
    environment: &[String],
    input: Option<&File>,
    output: impl AsFd,
) -> io::Result<i32> {
    // What holds a NUL, of which there is none, is nothing that a program could be given.
    let arguments: Vec<CString> = arguments.iter().filter_map(|text| CString::new(*text).ok()).collect();
    let environment: Vec<CString> = environment.iter().filter_map(|text| CString::new(text.as_str()).ok()).collect();
    match sys::fork()? {
        Cloned::Child => {
            let error = become_bash(folder, &arguments, &environment, input, output.as_fd());
            // Standard error is where the shell's output goes, if it got that far.
            let _ = writeln!(io::stderr(), "cannot start /bin/bash: {error}");
            sys::exit_now(127);
        }
        Cloned::Parent(pid) => Ok(pid),
    }
}

fn become_bash(
    folder: &Path,
    arguments: &[CString],
    environment: &[CString],
    input: Option<&File>,
    output: BorrowedFd<'_>,
) -> io::Error {
    let prepared = (|| -> io::Result<()> {
        nix::unistd::setsid()?;
        sys::restore_signals();
        nix::unistd::chdir(folder)?;
        if let Some(input) = input {
            sys::dup_onto(input.as_fd(), 0)?;
        }
        sys::dup_onto(output, 1)?;
        sys::dup_onto(output, 2)?;
        // The files of an undumpable process belong to the host's root. What follows replaces this program anyway.
        nix::sys::prctl::set_dumpable(true)?;
        // A kernel without the setting chooses by size alone.
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        Ok(())
    })();
    match prepared {
        Ok(()) => sys::exec(c"/bin/bash", arguments, environment),
        Err(error) => error,
    }
}
