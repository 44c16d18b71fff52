//! Process 1 at work: one thread, one loop, that takes calls, starts what they need, reaps, and answers.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::disk::DiskWatch;
use super::processes::{self, Ended};
use super::shell::{Progress, Shell};
use super::worker::Worker;
use crate::sys;
use crate::tools::{BASH_DEFAULT_TIMEOUT_MS, BASH_MAX_TIMEOUT_MS, HeadTail, ToolCall, ToolOutput};
use crate::wire::{self, FromInit, Launch, ToInit};

/// Between the request to end and the order to.
const GRACE: Duration = Duration::from_secs(5);
/// The same when the caller has lost interest.
const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// A command that prints more than this is ended, in bytes.
const FLOOD_BYTES: u64 = 256 << 20;
/// File tools at work at once.
const MAX_WORKERS: usize = 16;
/// What is read at once, in bytes.
const BUFFER: usize = 16 << 10;
/// The longest wait for something to happen.
const TICK: Duration = Duration::from_secs(1);
/// The same while processes are being ended.
const ENDING_TICK: Duration = Duration::from_millis(20);
/// Reads of what is left in the output pipe when a command has ended; four empty a pipe of the usual size.
const DRAIN_READS: usize = 8;

const RESTARTED: &str = "the shell was restarted: files are kept; variables, the working directory and the shell's \
                         processes are gone";

const LOST: &str = "the shell no longer runs what it is given, as after set -n";

/// A command under way in the shell.
struct Running {
    call: u64,
    deadline: Instant,
    output: HeadTail,
    /// The note that precedes the output.
    note: Option<String>,
    /// Set once the command is being ended.
    ending: Option<Ending>,
}

/// Why a command is being ended, and when patience ends.
struct Ending {
    why: String,
    kill_at: Instant,
}

struct Init {
    socket: UnixStream,
    signals: SignalFd,
    input: Vec<u8>,
    shell: Option<Shell>,
    /// A shell has run in this sandbox, or in an earlier one of the session and nobody was told of its end.
    shell_before: bool,
    running: Option<Running>,
    /// What background processes printed between commands.
    between: HeadTail,
    workers: Vec<(u64, Worker)>,
    disk: DiskWatch,
    open: bool,
}

/// Serves until the server closes the connection. Returning ends process 1, and with it everything inside.
pub(super) fn serve(socket: UnixStream, launch: &Launch) {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    if children.thread_block().is_err() {
        return;
    }
    let Ok(signals) = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else { return };
    let mut init = Init {
        socket,
        signals,
        input: Vec::new(),
        shell: None,
        shell_before: launch.had_shell,
        running: None,
        between: HeadTail::default(),
        workers: Vec::new(),
        disk: DiskWatch::new(launch),
        open: true,
    };
    while init.open {
        init.turn();
    }
}

/// What became ready.
#[derive(Default)]
struct Ready {
    socket: bool,
    output: bool,
    script: bool,
}

impl Init {
    fn turn(&mut self) {
        let ready = self.wait();
        if ready.socket {
            self.receive();
        }
        if ready.output {
            self.take_output();
        }
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let ended = processes::reap();
        if ready.script {
            self.shell_has_read();
        }
        if let Some(shell) = &mut self.shell {
            shell.reaped(&ended);
        }
        self.shell_may_have_ended(&ended);
        self.end_what_must_end();
        self.collect_workers();
        self.watch_disk();
    }

    fn wait(&mut self) -> Ready {
        let mut ready = Ready::default();
        let mut sources: Vec<(BorrowedFd<'_>, PollFlags, Option<&mut bool>)> = vec![
            (self.socket.as_fd(), PollFlags::POLLIN, Some(&mut ready.socket)),
            (self.signals.as_fd(), PollFlags::POLLIN, None),
        ];
        if let Some(shell) = &self.shell {
            // A stream whose writers are all gone would be ready for ever.
            sources.extend(shell.output.open().map(|output| (output, PollFlags::POLLIN, Some(&mut ready.output))));
            sources.extend(shell.reading().map(|script| (script, PollFlags::POLLOUT, Some(&mut ready.script))));
        }
        sources.extend(self.workers.iter().map(|(_, worker)| (worker.as_fd(), PollFlags::POLLIN, None)));
        let mut polled: Vec<_> = sources.iter().map(|(fd, flags, _)| PollFd::new(*fd, *flags)).collect();
        // An interrupted wait is a wait in which nothing became ready.
        let _ = poll(&mut polled, PollTimeout::try_from(self.time_to_next_event()).unwrap_or(PollTimeout::MAX));
        for (polled, (.., flag)) in polled.iter().zip(sources) {
            if let (Some(true), Some(flag)) = (polled.any(), flag) {
                *flag = true;
            }
        }
        ready
    }

    fn time_to_next_event(&self) -> Duration {
        let Some(running) = &self.running else { return TICK };
        if running.ending.is_some() {
            return ENDING_TICK;
        }
        running.deadline.saturating_duration_since(Instant::now()).min(TICK)
    }

    /// Takes in what the server says.
    fn receive(&mut self) {
        let mut buffer = [0; BUFFER];
        match sys::receive_now(self.socket.as_fd(), &mut buffer) {
            Ok(0) => self.open = false,
            Ok(got) => self.input.extend_from_slice(&buffer[..got]),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(_) => self.open = false,
        }
        while let Some(frame) = self.next_frame() {
            match frame {
                ToInit::Launch(_) | ToInit::Delete { .. } => self.open = false,
                ToInit::Call { call, tool } => self.start(call, tool),
                ToInit::Cancel { call } => self.cancel(call),
            }
        }
    }

    fn next_frame(&mut self) -> Option<ToInit> {
        let header: [u8; wire::HEADER] = self.input.get(..wire::HEADER)?.try_into().ok()?;
        let Ok(length) = wire::frame_length(header, wire::MAX_FRAME_TO_INIT) else {
            self.open = false;
            return None;
        };
        let body = self.input.get(wire::HEADER..wire::HEADER + length)?;
        let message = wire::decode(body);
        self.input.drain(..wire::HEADER + length);
        self.open &= message.is_ok();
        message.ok()
    }

    fn answer(&mut self, call: u64, output: ToolOutput) {
        self.open &= wire::write(&mut self.socket, &FromInit::Done { call, output }).is_ok();
    }

    fn start(&mut self, call: u64, tool: ToolCall) {
        match tool {
            ToolCall::Bash { restart: true, .. } => self.restart(call),
            ToolCall::Bash { command, timeout_ms, .. } => self.run(call, &command.unwrap_or_default(), timeout_ms),
            tool => self.start_worker(call, &tool),
        }
    }

    fn restart(&mut self, call: u64) {
        if let Some(running) = self.running.take() {
            self.answer(running.call, ToolOutput::error("[ended: the shell was restarted]"));
        }
        self.drop_shell();
        self.between = HeadTail::default();
        self.shell_before = false;
        match self.ready_shell() {
            Ok(_) => self.answer(call, ToolOutput::ok("the shell was restarted")),
            Err(error) => self.answer(call, ToolOutput::error(format!("bash: {error}"))),
        }
    }

    fn run(&mut self, call: u64, command: &str, timeout_ms: Option<u64>) {
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
            let shell = match Shell::start() {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    self.end_everything();
                    Shell::start()?
                }
                shell => shell?,
            };
            self.shell = Some(shell);
        }
        Ok(self.shell.as_mut().expect("set just above"))
    }

    /// Ends every process inside: what a process limit or a disk limit comes to.
    fn end_everything(&mut self) {
        processes::kill_everything();
        self.shell = None;
    }

    fn drop_shell(&mut self) {
        if let Some(shell) = self.shell.take() {
            shell.kill();
        }
    }

    fn take_output(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let mut buffer = [0; BUFFER];
        let got = shell.output.read(&mut buffer);
        match &mut self.running {
            Some(_) if shell.is_asked() => {}
            Some(running) => running.output.push(&buffer[..got]),
            None => self.between.push(&buffer[..got]),
        }
    }

    fn shell_has_read(&mut self) {
        if self.running.as_ref().is_none_or(|running| running.ending.is_some()) {
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

    fn drain(&mut self) {
        for _ in 0..DRAIN_READS {
            self.take_output();
        }
    }

    /// Answers the running command with what it printed and a closing notice.
    fn finish(&mut self, is_error: bool, notice: &str, restarted: bool) {
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
        self.answer(running.call, ToolOutput { content, is_error, shell_restarted });
    }

    fn shell_may_have_ended(&mut self, ended: &[(i32, Ended)]) {
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

    fn cancel(&mut self, call: u64) {
        if self.running.as_ref().is_some_and(|running| running.call == call) {
            self.end_running("interrupted", CANCEL_GRACE);
        }
        if let Some(at) = self.workers.iter().position(|(of, _)| *of == call) {
            let (_, worker) = self.workers.swap_remove(at);
            worker.kill();
            self.answer(call, ToolOutput::error("interrupted"));
        }
    }

    /// Asks the running command to end; [`Self::end_what_must_end`] sees to it.
    fn end_running(&mut self, why: &str, grace: Duration) {
        let Some(running) = &mut self.running else { return };
        if running.ending.is_none() {
            running.ending = Some(Ending { why: why.to_owned(), kill_at: Instant::now() + grace });
            if let Some(shell) = &self.shell {
                processes::signal_session(shell.pid, Signal::SIGTERM);
            }
        }
    }

    fn end_what_must_end(&mut self) {
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

    fn start_worker(&mut self, call: u64, tool: &ToolCall) {
        if self.workers.len() >= MAX_WORKERS {
            return self.answer(call, ToolOutput::error(format!("{}: too many calls at once", tool.name())));
        }
        let started = match Worker::start(|| tool.run_on_files()) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                self.stop_for("the limit of processes is reached");
                Worker::start(|| tool.run_on_files())
            }
            started => started,
        };
        match started {
            Ok(worker) => self.workers.push((call, worker)),
            Err(error) => self.answer(call, ToolOutput::error(format!("{}: {error}", tool.name()))),
        }
    }

    fn collect_workers(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.workers.len() {
            let worker = &mut self.workers[at].1;
            let late = now >= worker.deadline;
            if !worker.read() && !late {
                at += 1;
                continue;
            }
            let (call, worker) = self.workers.swap_remove(at);
            worker.kill();
            let cut_short = if late { "timed out" } else { "the tool was ended before it could answer" };
            let output = worker.answer().unwrap_or_else(|| ToolOutput::error(cut_short));
            self.answer(call, output);
        }
    }

    fn watch_disk(&mut self) {
        let now = Instant::now();
        if self.shell.is_some() {
            self.disk.turn(now);
        }
        let Some(look) = self.disk.look() else { return };
        if !look.read() && now < look.deadline {
            return;
        }
        if let Some(why) = self.disk.judge(now) {
            self.stop_for(&why);
        }
    }

    /// Ends everything inside because of a limit, and says so in the running command's answer.
    fn stop_for(&mut self, why: &str) {
        self.drain();
        self.end_everything();
        let had_command = self.running.is_some();
        self.finish(true, &format!("[all processes were ended: {why}; {RESTARTED}]"), true);
        self.shell_before = !had_command;
        for (call, _) in std::mem::take(&mut self.workers) {
            self.answer(call, ToolOutput::error(format!("ended: {why}")));
        }
    }
}
