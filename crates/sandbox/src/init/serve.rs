//! Process 1 at work: one thread, one loop, that takes calls, starts what they need, reaps, and answers.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::command::{CANCEL_GRACE, RESTARTED, Running};
use super::disk::DiskWatch;
use super::processes;
use super::shell::{self, Shell};
use super::worker::Worker;
use crate::sys;
use crate::tools::{Output, ToolCall, ToolOutput};
use crate::wire::{self, FromInit, Launch, ToInit};

/// File tools at work at once.
const MAX_WORKERS: usize = 16;
/// What is read at once, in bytes.
pub(super) const BUFFER: usize = 16 << 10;
/// The longest wait for something to happen.
const TICK: Duration = Duration::from_secs(1);
/// The same while processes are being ended.
const ENDING_TICK: Duration = Duration::from_millis(20);

/// What process 1 knows. What concerns the command under way is in `command.rs`.
pub(super) struct Init {
    socket: UnixStream,
    signals: SignalFd,
    input: Vec<u8>,
    pub(super) shell: Option<Shell>,
    /// What a shell finds in its environment.
    pub(super) environment: Vec<String>,
    /// A shell has run in this sandbox, or in an earlier one of the session and nobody was told of its end.
    pub(super) shell_before: bool,
    pub(super) running: Option<Running>,
    /// What background processes printed between commands.
    pub(super) between: Output,
    workers: Vec<(u64, Worker)>,
    pub(super) disk: DiskWatch,
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
        environment: shell::environment(launch),
        shell_before: launch.had_shell,
        running: None,
        between: Output::default(),
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
        // Before anything is received: that may be another command, or make another shell, which this is not about.
        if ready.output {
            self.take_output();
        }
        if ready.script {
            self.shell_has_read();
        }
        if ready.socket {
            self.receive();
        }
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let ended = processes::reap();
        self.shell_may_begin(&ended);
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
        let tick = TICK.min(self.disk.time_to_next_check());
        let Some(running) = &self.running else { return tick };
        if running.ending.is_some() {
            return ENDING_TICK;
        }
        running.deadline.saturating_duration_since(Instant::now()).min(tick)
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

    pub(super) fn answer(&mut self, call: u64, output: ToolOutput) {
        self.open &= wire::write(&mut self.socket, &FromInit::Done { call, output }).is_ok();
    }

    fn start(&mut self, call: u64, tool: ToolCall) {
        self.disk.stir();
        match tool {
            ToolCall::Bash { restart: true, .. } => self.restart(call),
            ToolCall::Bash { command, timeout_ms, .. } => self.run(call, &command.unwrap_or_default(), timeout_ms),
            tool => self.start_worker(call, &tool),
        }
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
        let mut why = None;
        if self.disk.is_due(now) {
            let workers: Vec<i32> = self.workers.iter().map(|(_, worker)| worker.pid).collect();
            let at_work = self.running.is_some() || !workers.is_empty() || self.others_run();
            why = self.disk.turn(now, at_work, [vec![1], workers].concat());
        }
        if self.disk.look().is_some_and(|look| look.read() || now >= look.deadline) {
            why = why.or(self.disk.end_look(now));
        }
        if let Some(why) = why {
            self.stop_for(&why);
        }
    }

    /// Whether anything runs besides the init and a shell that waits for its next command.
    fn others_run(&mut self) -> bool {
        let shell = self.shell.as_ref().map(|shell| shell.pid);
        let look = self.disk.look().map(|look| look.pid);
        processes::all().into_iter().any(|pid| pid != 1 && Some(pid) != shell && Some(pid) != look)
    }

    /// Ends everything inside because of a limit, and says so in the running command's answer.
    fn stop_for(&mut self, why: &str) {
        self.open &= wire::write(&mut self.socket, &FromInit::OverDisk).is_ok();
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
