//! A running sandbox as the server sees it: calls go in, bounded answers come out, and nothing it says is trusted.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedMutexGuard, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::Root;
use super::cgroup::Cgroup;
use super::counts::Counters;
use super::listeners::{self, Listeners};
use super::program::Spawner;
use super::remedy;
use super::store::Session;
use crate::containers::{self, Container, Started};
use crate::error::Error;
use crate::tools::{BASH_DEFAULT_TIMEOUT_MS, ToolCall, ToolOutput};
use crate::wire::{self, Failure, FromInit, Launch, ToInit};

/// How long the fence may take to stand.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a file tool may take before the sandbox counts as hung; the init inside ends it sooner.
const FILE_TOOL_TIMEOUT: Duration = Duration::from_secs(90);
/// What a command's own time is exceeded by before the sandbox counts as hung: ending its processes takes a while.
const MARGIN: Duration = Duration::from_secs(30);
/// Frames that wait to be sent to one sandbox.
const OUTGOING: usize = 32;

/// A running sandbox. Clones are handles to the same one.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
    /// Counts the handles.
    handle: Arc<()>,
}

/// What belongs to a sandbox outside of it.
type Companion = Arc<dyn Any + Send + Sync>;

/// What a new sandbox consists of.
pub(super) struct Parts {
    pub(super) session: Session,
    pub(super) root: Root,
    pub(super) companion: Option<Companion>,
    pub(super) counters: Arc<Counters>,
}

struct Inner {
    session: Session,
    /// What it is made from stays as long as it runs.
    _root: Root,
    landlock: String,
    process: OwnedFd,
    outgoing: mpsc::Sender<Vec<u8>>,
    calls: Mutex<Calls>,
    /// The gate's side of the network, until somebody takes it.
    listeners: Mutex<Option<Listeners>>,
    companion: Option<Companion>,
    counters: Arc<Counters>,
    /// Held by the one call that uses the shell.
    shell: Arc<tokio::sync::Mutex<()>>,
    ended: watch::Receiver<Option<String>>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Calls {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<ToolOutput>>,
    /// By the caller's own id: how to interrupt it.
    cancels: HashMap<String, Arc<Notify>>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("session", &self.inner.session.id).finish_non_exhaustive()
    }
}

/// An init that was started, and has to be told what to do.
pub(super) struct Spawned {
    socket: UnixStream,
    runs: Runs,
    /// Process 1, where it is known already.
    process: Option<OwnedFd>,
}

/// What an init runs in.
enum Runs {
    /// Namespaces of Rota's own, which the launcher makes; and the sandbox's groups.
    Own(Child, Cgroup),
    Container(Container),
}

impl Spawned {
    /// Starts a launcher, which makes a sandbox in `cgroup`.
    pub(super) async fn own(spawner: &Spawner, cgroup: Cgroup) -> Result<Self, Error> {
        let (socket, theirs) = socket_pair().map_err(Error::host("making a socket pair"))?;
        let child = spawner.spawn(theirs).await?;
        Ok(Self { socket, runs: Runs::Own(child, cgroup), process: None })
    }

    /// The init of a container.
    pub(super) fn in_container(started: Started) -> Self {
        let Started { stream, process, container, .. } = started;
        Self { socket: stream, runs: Runs::Container(container), process: Some(process) }
    }
}

impl Runs {
    /// What to tell of a fence that could not be set up.
    fn not_set_up(&self, failure: Failure) -> Error {
        match self {
            Self::Own(..) => remedy::not_set_up(failure),
            Self::Container(_) => containers::not_set_up(failure),
        }
    }

    /// Waits until process 1 has ended, which was killed, and clears away what it ran in. Whether memory had run out inside.
    async fn clear_away(self, tasks: &TaskTracker, process: Option<&OwnedFd>) -> bool {
        match self {
            Self::Own(mut child, cgroup) => {
                // The launcher ends when process 1 has, and process 1 when everything inside has.
                let _ = tasks.spawn_blocking(move || child.wait()).await;
                let ran_out = cgroup.ran_out_of_memory();
                cgroup.remove().await;
                ran_out
            }
            Self::Container(container) => {
                // Without a descriptor to spare the daemon ends it, and waits itself.
                if let Some(process) = process.and_then(|process| process.try_clone().ok()) {
                    let _ = tasks.spawn_blocking(move || wait_for(&process)).await;
                }
                container.end().await
            }
        }
    }
}

/// Waits until a process has ended.
fn wait_for(process: &OwnedFd) {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    while rustix::event::poll(&mut ended, None) == Err(rustix::io::Errno::INTR) {}
}

/// Waits until the fence of an init stands.
pub(super) async fn start(
    tasks: &TaskTracker,
    parts: Parts,
    launch: Launch,
    spawned: Spawned,
) -> Result<Sandbox, Error> {
    let Spawned { socket, runs, process } = spawned;
    let (reader, writer) = socket.into_split();
    let gate_ports = launch.gate_ports.clone();
    let mut handshake = Handshake { reader, writer, runs, process, gate_ports, listeners: None };
    let stood = timeout(SETUP_TIMEOUT, handshake.run(&parts.session, launch)).await;
    let late = |_| {
        let (doing, cause) = ("setting up the sandbox".to_owned(), "it took too long".to_owned());
        Err(Error::Host { doing, place: None, cause, passing: true })
    };
    match stood.unwrap_or_else(late) {
        Ok(stood) => Ok(handshake.into_sandbox(tasks, parts, stood)),
        Err(error) => {
            handshake.end(tasks).await;
            parts.session.record.remove();
            Err(error)
        }
    }
}

fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// A sandbox that is being set up.
struct Handshake {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    runs: Runs,
    process: Option<OwnedFd>,
    gate_ports: Option<Vec<u16>>,
    listeners: Option<Listeners>,
}

impl Handshake {
    async fn run(&mut self, session: &Session, launch: Launch) -> Result<(OwnedFd, String), Error> {
        let runs = &self.runs;
        let broken = |error: io::Error| {
            runs.not_set_up(Failure::lasting("setting up", format!("the init ended before the fence stood ({error})")))
        };
        self.writer.write_all(&wire::encode(&ToInit::Launch(Box::new(launch)))).await.map_err(broken)?;
        loop {
            let mut descriptors = Vec::new();
            match receive_with(&mut self.reader, &mut descriptors).await.map_err(broken)? {
                FromInit::Started { pid } => {
                    let number = Pid::from_raw(pid).ok_or_else(|| broken(io::ErrorKind::InvalidData.into()))?;
                    // It may have failed already: then what went wrong is the next message.
                    if let Ok(process) = pidfd_open(number, PidfdFlags::empty()) {
                        self.process = Some(process);
                        session.record.write(pid)?;
                    }
                }
                FromInit::Listening { ipv6 } => {
                    let ports = self.gate_ports.take().ok_or_else(|| broken(io::ErrorKind::InvalidData.into()))?;
                    self.listeners = Some(Listeners::new(descriptors, &ports, ipv6).map_err(broken)?);
                }
                FromInit::Failed(failure) => return Err(runs.not_set_up(failure)),
                FromInit::Ready { landlock } => {
                    let process = self.process.take().ok_or_else(|| broken(io::ErrorKind::InvalidData.into()))?;
                    return Ok((process, landlock));
                }
                FromInit::Done { .. } | FromInit::OverDisk | FromInit::Deleted => {
                    return Err(broken(io::ErrorKind::InvalidData.into()));
                }
            }
        }
    }

    async fn end(mut self, tasks: &TaskTracker) {
        // Either may have ended by itself.
        if let Some(process) = &self.process {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        if let Runs::Own(child, _) = &mut self.runs {
            let _ = child.kill();
        }
        drop((self.reader, self.writer));
        self.runs.clear_away(tasks, self.process.as_ref()).await;
    }

    fn into_sandbox(
        self,
        tasks: &TaskTracker,
        Parts { session, root, companion, counters }: Parts,
        (process, landlock): (OwnedFd, String),
    ) -> Sandbox {
        let (outgoing, frames) = mpsc::channel(OUTGOING);
        let (ended_sender, ended) = watch::channel(None);
        let inner = Arc::new(Inner {
            session,
            _root: root,
            landlock,
            process,
            outgoing,
            calls: Mutex::default(),
            listeners: Mutex::new(self.listeners),
            companion,
            counters,
            shell: Arc::default(),
            ended,
            tasks: tasks.clone(),
        });
        inner.counters.is_up();
        tasks.spawn(send(self.writer, frames, inner.ended.clone()));
        tasks.spawn(serve(Arc::clone(&inner), self.reader, self.runs, ended_sender));
        Sandbox { inner, handle: Arc::default() }
    }
}

async fn receive(reader: &mut OwnedReadHalf) -> io::Result<FromInit> {
    let mut header = [0; wire::HEADER];
    reader.read_exact(&mut header).await?;
    let mut body = vec![0; wire::frame_length(header, wire::MAX_FRAME_FROM_INIT)?];
    reader.read_exact(&mut body).await?;
    wire::decode(&body)
}

/// The same while the fence is set up: what comes may bring descriptors. Later nobody takes in any.
async fn receive_with(reader: &mut OwnedReadHalf, descriptors: &mut Vec<OwnedFd>) -> io::Result<FromInit> {
    let mut header = [0; wire::HEADER];
    listeners::read_exact(reader.as_ref(), &mut header, descriptors).await?;
    let mut body = vec![0; wire::frame_length(header, wire::MAX_FRAME_FROM_INIT)?];
    listeners::read_exact(reader.as_ref(), &mut body, descriptors).await?;
    wire::decode(&body)
}

/// Sends frames whole, whatever becomes of the calls that they belong to.
async fn send(
    mut writer: OwnedWriteHalf,
    mut frames: mpsc::Receiver<Vec<u8>>,
    mut ended: watch::Receiver<Option<String>>,
) {
    let sending = async {
        while let Some(frame) = frames.recv().await {
            if writer.write_all(&frame).await.is_err() {
                // The reading side sees the end too and tells everyone.
                return;
            }
        }
    };
    // Handles to an ended sandbox may live on, and with them the sending side of `frames`.
    tokio::select! {
        () = sending => {}
        _ = ended.wait_for(Option::is_some) => {}
    }
}

/// Takes answers until the connection ends, then sees the sandbox to its grave.
async fn serve(inner: Arc<Inner>, mut reader: OwnedReadHalf, runs: Runs, ended: watch::Sender<Option<String>>) {
    let cause = loop {
        match receive(&mut reader).await {
            // Answers to calls that nobody waits for any more, or that nobody made, are dropped.
            Ok(FromInit::Done { call, output }) => {
                let waiting = inner.calls().waiting.remove(&call);
                waiting.map(|waiting| waiting.send(output.checked()));
            }
            Ok(FromInit::OverDisk) => inner.counters.over_disk(),
            Ok(_) => break "it spoke out of turn".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break "its init ended".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    inner.kill();
    let ran_out = runs.clear_away(&inner.tasks, Some(&inner.process)).await;
    let cause = if ran_out { format!("{cause}; memory ran out inside") } else { cause };
    inner.counters.has_ended(ran_out);
    inner.session.record.remove();
    tracing::debug!(session = inner.session.id, cause, "sandbox ended");
    ended.send_replace(Some(cause));
    inner.calls().waiting.clear();
}

impl Sandbox {
    /// Runs a tool and waits for its answer. Calls of the shell wait for each other; other tools run beside it.
    ///
    /// `call_id` is the caller's own, for [`Self::cancel`]. When the returned future is dropped the call is cancelled.
    ///
    /// # Errors
    /// [`Error::Died`] when the sandbox ended before it answered: the outcome is then unknown.
    pub async fn call(&self, call_id: &str, tool: &ToolCall) -> Result<ToolOutput, Error> {
        let cancel = Arc::new(Notify::new());
        let _listed = Listed::new(&self.inner, call_id, &cancel);
        let shell = match tool {
            ToolCall::Bash { restart: false, .. } => tokio::select! {
                turn = Arc::clone(&self.inner.shell).lock_owned() => Some(turn),
                () = cancel.notified() => return Ok(ToolOutput::error("interrupted")),
            },
            _ => None,
        };
        if matches!(tool, ToolCall::Bash { .. }) {
            self.inner.session.mark_shell();
        }
        let (number, answer) = self.inner.expect_answer();
        let mut under_way = UnderWay { inner: &self.inner, number, answer: Some(answer), shell };
        self.inner.send(&ToInit::Call { call: number, tool: tool.clone() }).await?;
        let patience = tokio::time::sleep(patience(tool));
        tokio::pin!(patience);
        loop {
            let answer = under_way.answer.as_mut().expect("taken only when the answer is there");
            tokio::select! {
                answered = answer => {
                    under_way.answer = None;
                    return answered.map_err(|_| self.inner.died());
                }
                () = cancel.notified() => self.inner.send(&ToInit::Cancel { call: number }).await?,
                () = &mut patience => {
                    self.inner.kill();
                    return Err(Error::died("it did not answer in time"));
                }
            }
        }
    }

    /// Interrupts a call: its processes are ended, its answer says so, and the shell starts anew. Does nothing when no
    /// such call is under way.
    // The init acts on it later; the signature leaves room for backends that must wait for a remote side.
    #[allow(clippy::unused_async)]
    pub async fn cancel(&self, call_id: &str) {
        if let Some(cancel) = self.inner.calls().cancels.get(call_id) {
            cancel.notify_one();
        }
    }

    /// Whether the sandbox still runs.
    pub fn is_alive(&self) -> bool {
        self.inner.ended.borrow().is_none()
    }

    /// The gate's side of the network, for the first who asks. `None` also when the sandbox has no network.
    pub fn take_listeners(&self) -> Option<Listeners> {
        self.inner.listeners.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What it was opened with.
    pub fn companion(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.inner.companion.clone()
    }

    /// Ends when the sandbox has. It is no handle: a sandbox that only this waits for is not in use.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.inner.ended.clone();
        async move {
            // An error means that the serving task was dropped with its runtime.
            let _ = ended.wait_for(Option::is_some).await;
        }
    }

    /// Whether there are handles beside this one.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.handle) > 1
    }

    /// How far Landlock is enforced inside: `full`, `partial` or `absent`.
    pub fn landlock(&self) -> &str {
        &self.inner.landlock
    }

    /// Ends everything inside and waits until it is gone.
    pub(super) async fn end(&self) {
        self.inner.kill();
        let mut ended = self.inner.ended.clone();
        // An error means that the serving task was dropped with its runtime: nothing is left to wait for.
        let _ = ended.wait_for(Option::is_some).await;
    }
}

/// How long an answer is waited for before the sandbox counts as hung.
fn patience(tool: &ToolCall) -> Duration {
    match tool {
        ToolCall::Bash { timeout_ms, .. } => {
            Duration::from_millis(timeout_ms.unwrap_or(BASH_DEFAULT_TIMEOUT_MS)) + MARGIN
        }
        _ => FILE_TOOL_TIMEOUT,
    }
}

impl Inner {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_answer(&self) -> (u64, oneshot::Receiver<ToolOutput>) {
        let (sender, answer) = oneshot::channel();
        let mut calls = self.calls();
        calls.next += 1;
        let number = calls.next;
        // A sandbox that has ended answers nothing: the sender is dropped at once.
        if self.ended.borrow().is_none() {
            calls.waiting.insert(number, sender);
        }
        (number, answer)
    }

    async fn send(&self, message: &ToInit) -> Result<(), Error> {
        self.outgoing.send(wire::encode(message)).await.map_err(|_| self.died())
    }

    fn died(&self) -> Error {
        Error::died(self.ended.borrow().clone().unwrap_or_else(|| "its connection broke".to_owned()))
    }

    fn kill(&self) {
        // ESRCH: it has ended already.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

/// Lists a call under its caller's id for as long as it is under way.
struct Listed<'a> {
    inner: &'a Inner,
    call_id: String,
}

impl<'a> Listed<'a> {
    fn new(inner: &'a Inner, call_id: &str, cancel: &Arc<Notify>) -> Self {
        inner.calls().cancels.insert(call_id.to_owned(), Arc::clone(cancel));
        Self { inner, call_id: call_id.to_owned() }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.inner.calls().cancels.remove(&self.call_id);
    }
}

/// A call that was sent. Dropped before its answer came, it is cancelled, and the shell stays taken until it has ended.
struct UnderWay<'a> {
    inner: &'a Arc<Inner>,
    number: u64,
    answer: Option<oneshot::Receiver<ToolOutput>>,
    shell: Option<OwnedMutexGuard<()>>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        let (inner, number, shell) = (Arc::clone(self.inner), self.number, self.shell.take());
        // Without a runtime the server is ending, and its sandboxes with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.inner.tasks.spawn_on(
                async move {
                    if inner.send(&ToInit::Cancel { call: number }).await.is_ok() {
                        let _ = timeout(MARGIN, answer).await;
                    }
                    drop(shell);
                },
                &runtime,
            );
        }
    }
}
