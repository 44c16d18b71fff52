//! The command under way in the shell: its start, what it prints, and the ways in which it ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::processes::{self, Ended};
use super::serve::{BUFFER, Init};
use super::shell::{Progress, Shell};
use crate::tools::{BASH_DEFAULT_TIMEOUT_MS, BASH_MAX_TIMEOUT_MS, Output, ToolOutput};

/// Between the request to end and the order to.
const GRACE: Duration = Duration::from_secs(5);
/// The same when the caller has lost interest.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// A command that prints more than this is ended, in bytes.
const FLOOD_BYTES: u64 = 256 << 20;
/// Reads of what is left in the output pipe when a command has ended; four empty a pipe of the usual size.
const DRAIN_READS: usize = 8;

pub(super) const RESTARTED: &str = "the shell was restarted: files are kept; variables, the working directory and the shell's \
                         processes are gone";

const LOST: &str = "the shell no longer runs what it is given, as after set -n";

/// A command under way in the shell.
pub(super) struct Running {
    pub(super) call: u64,
    pub(super) deadline: Instant,
    output: Output,
    /// The note that precedes the output.
    note: Option<String>,
    /// Set once the command is being ended.
    pub(super) ending: Option<Ending>,
}

/// Why a command is being ended, and when patience ends.
pub(super) struct Ending {
    why: String,
    kill_at: Instant,
}

impl Init {
    pub(super) fn restart(&mut self, call: u64) {
        if let Some(running) = self.running.take() {
            self.answer(running.call, ToolOutput::error("[ended: the shell was restarted]"));
        }
        self.drop_shell();
        self.between = Output::default();
        self.shell_before = false;
        match self.ready_shell() {
            Ok(_) => self.answer(call, ToolOutput::ok("the shell was restarted")),
            Err(error) => self.answer(call, ToolOutput::error(format!("bash: {error}"))),
        }
    }

    pub(super) fn run(&mut self, call: u64, command: &str, timeout_ms: Option<u64>) {
        if self.running.is_some() {
            return self.answer(call, ToolOutput::error("bash: another command is running"));
        }
        let is_new = self.shell.is_none();
        match self.ready_shell() {
            Ok(shell) => shell.run(command),
            Err(error) => {
                return self.answer(call, ToolOutput::error(format!("bash: the shell could not be started: {error}")));
            }
        }
        let note = (is_new && self.shell_before).then(|| format!("[{RESTARTED}]\n"));
        self.shell_before = false;
        let timeout = timeout_ms.unwrap_or(BASH_DEFAULT_TIMEOUT_MS).min(BASH_MAX_TIMEOUT_MS);
        self.running = Some(Running {
            call,
            deadline: Instant::now() + Duration::from_millis(timeout),
            output: std::mem::take(&mut self.between),
            note,
            ending: None,
        });
    }

    /// The shell, started when there is none. When no process can be started everything inside is ended first.
    fn ready_shell(&mut self) -> std::io::Result<&mut Shell> {
        if self.shell.is_none() {
            let shell = match Shell::start(&self.environment) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    self.end_everything();
                    Shell::start(&self.environment)?
                }
                shell => shell?,
            };
            self.shell = Some(shell);
        }
        Ok(self.shell.as_mut().expect("set just above"))
    }

    /// Ends every process inside: what a process limit or a disk limit comes to.
    pub(super) fn end_everything(&mut self) {
        processes::kill_everything();
        self.disk.start_over();
        self.shell = None;
    }

    fn drop_shell(&mut self) {
        if let Some(shell) = self.shell.take() {
            shell.kill();
        }
    }

    pub(super) fn take_output(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let mut buffer = [0; BUFFER];
        let got = shell.output.read(&mut buffer);
        match &mut self.running {
            Some(_) if shell.is_asked() => {}
            Some(running) => running.output.push(&buffer[..got]),
            None => self.between.push(&buffer[..got]),
        }
    }

    /// A command is under way and is not being ended.
    fn goes_on(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.ending.is_none())
    }

    /// Lets the shell begin with its command when that has been found to be complete.
    pub(super) fn shell_may_begin(&mut self, ended: &[(i32, Ended)]) {
        if !self.goes_on() {
            return;
        }
        if let Some(shell) = &mut self.shell {
            shell.reaped(ended);
        }
    }

    pub(super) fn shell_has_read(&mut self) {
        if !self.goes_on() {
            return;
        }
        if self.shell.as_ref().is_some_and(Shell::is_asked) {
            // All that it printed about the question is there, and goes.
            self.drain();
        }
        match self.shell.as_mut().map(Shell::has_read) {
            None | Some(Progress::AtWork) => {}
            Some(Progress::Ended) => {
                self.drain();
                self.shell.as_mut().expect("looked at just above").ask();
            }
            Some(Progress::Status(Some(status))) => self.command_has_ended(status),
            Some(Progress::Status(None)) => {
                self.drop_shell();
                self.finish(true, &format!("[{LOST}; {RESTARTED}]"), true);
            }
        }
    }

    fn command_has_ended(&mut self, status: i32) {
        let notice = if status == 0 { String::new() } else { format!("[exit status {status}]") };
        self.finish(status != 0, &notice, false);
    }

    pub(super) fn drain(&mut self) {
        for _ in 0..DRAIN_READS {
            self.take_output();
        }
    }

    /// Answers the running command with what it printed and a closing notice.
    pub(super) fn finish(&mut self, is_error: bool, notice: &str, restarted: bool) {
        let Some(running) = self.running.take() else { return };
        let mut content = running.note.clone().unwrap_or_default();
        content.push_str(&running.output.into_text());
        if !notice.is_empty() {
            if !content.is_empty() && !content.ends_with('\n') {
                content.push('\n');
            }
            content.push_str(notice);
        }
        let shell_restarted = restarted || running.note.is_some();
        self.answer(running.call, ToolOutput { content, is_error, shell_restarted, ..ToolOutput::default() });
    }

    pub(super) fn shell_may_have_ended(&mut self, ended: &[(i32, Ended)]) {
        let Some(pid) = self.shell.as_ref().map(|shell| shell.pid) else { return };
        let Some((_, how)) = ended.iter().find(|(ended, _)| *ended == pid) else { return };
        if self.running.as_ref().is_some_and(|running| running.ending.is_some()) {
            return;
        }
        self.drain();
        // It may have answered just before its end.
        if let Some(status) = self.shell.as_mut().and_then(Shell::status) {
            self.command_has_ended(status);
        }
        self.drop_shell();
        let (notice, is_error) = match how {
            Ended::Exit(code) => (format!("[the shell exited with status {code}; {RESTARTED}]"), *code != 0),
            Ended::Signal(Signal::SIGKILL) => {
                (format!("[the shell was killed, perhaps because memory ran out; {RESTARTED}]"), true)
            }
            Ended::Signal(signal) => (format!("[the shell was ended by {signal}; {RESTARTED}]"), true),
        };
        self.shell_before = self.running.is_none();
        self.finish(is_error, &notice, true);
    }

    /// Asks the running command to end; [`Self::end_what_must_end`] sees to it.
    pub(super) fn end_running(&mut self, why: &str, grace: Duration) {
        let Some(running) = &mut self.running else { return };
        if running.ending.is_none() {
            running.ending = Some(Ending { why: why.to_owned(), kill_at: Instant::now() + grace });
            if let Some(shell) = &self.shell {
                processes::signal_session(shell.pid, Signal::SIGTERM);
            }
        }
    }

    pub(super) fn end_what_must_end(&mut self) {
        let Some(running) = &self.running else { return };
        let now = Instant::now();
        if running.ending.is_none() && now >= running.deadline {
            self.end_running("timed out", GRACE);
        } else if running.ending.is_none() && running.output.total() > FLOOD_BYTES {
            self.end_running(&format!("ended: it printed more than {FLOOD_BYTES} bytes"), GRACE);
        }
        let Some(Ending { why, kill_at }) = self.running.as_ref().and_then(|running| running.ending.as_ref()) else {
            return;
        };
        let left = self.shell.as_ref().is_some_and(|shell| !processes::of_session(shell.pid).is_empty());
        if left && now < *kill_at {
            return;
        }
        let notice = format!("[{why}; {RESTARTED}]");
        self.drain();
        self.drop_shell();
        self.finish(true, &notice, true);
    }
}
