//! The program inside: a launcher that sets up the fence on the host, and the process 1 that it becomes.
//!
//! The server starts `rota-init`. That process has one thread and never gets another. It
//! reads how to set things up, makes the namespaces, writes the id maps and stays to wait; its child finishes the fence
//! from inside, gives up every power it does not need, checks the result and only then says that it is ready.
//!
//! In a container a daemon has made the namespaces and the mounts, and the init is process 1 from its start: it connects to the
//! server's socket, does of the above what is left to do, and checks the whole ([`contained`]).

mod command;
mod confine;
mod disk;
mod filter;
mod network;
mod processes;
mod root;
mod serve;
mod shell;
mod syntax;
mod trust;
mod usage;
mod verify;
mod worker;

#[cfg(feature = "host")]
pub(crate) use network::LEADING;
pub(crate) use root::{BUILDING, MAPPING_OWNERS, MEMORY, SESSION_FOLDERS, STAGE, WRITABLE_MEMORY, session_folders};
#[cfg(feature = "host")]
pub(crate) use root::{ETC_WRITTEN, PROC_MASKED, PROC_READ_ONLY, scratch_bytes};
#[cfg(feature = "host")]
pub(crate) use shell::FOLDER as SHELL;
#[cfg(feature = "host")]
pub(crate) use trust::{FILE as AUTHORITIES, FOLDER as TRUST, KEYSTORE, USUAL as USUAL_AUTHORITIES};
#[cfg(feature = "host")]
pub(crate) use verify::namespaces;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sys::signal::Signal;

use crate::deletion;
use crate::error;
use crate::folder::Folder;
use crate::sys::{self, Cloned};
use crate::wire::{self, CgroupFolder, Failure, FromInit, Identity, Launch, ToInit};

/// The namespaces that are made at once; the cgroup namespace follows once the process is in its cgroup.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// For `map_err`: names the step that failed. A step names no path of the host's: clients read it too.
pub(crate) fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let step = step.into();
    move |error| {
        let error = error.into();
        Failure { step, passing: error::is_shortage(&error), cause: error.to_string() }
    }
}

/// All of the program `rota-init`: sets up a sandbox and becomes its process 1, as the server asks over standard input. With an
/// argument it is process 1 of a container, and that is the server's socket.
///
/// Call it first thing in `main`, before any thread exists.
pub fn run_init() -> ExitCode {
    let code = match std::env::args_os().nth(1) {
        None => launcher(),
        Some(socket) => contained(Path::new(&socket)),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The exit status of an init that does not reach the server's socket.
pub(crate) const NO_SOCKET: i32 = 64;

/// Process 1 of a container: it ends with its connection to the server, and everything inside with it.
fn contained(path: &Path) -> i32 {
    if sys::close_from(3).is_err() {
        return 1;
    }
    let Ok(mut socket) = UnixStream::connect(path) else { return NO_SOCKET };
    // What is printed inside is not for the daemon's log.
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return 1 };
    if (0..3).any(|stream| sys::dup_onto(null.as_fd(), stream).is_err()) {
        return 1;
    }
    drop(null);
    match wire::read(&mut socket, wire::MAX_FRAME_TO_INIT) {
        Ok(ToInit::Launch(launch)) if launch.container.is_some() => {
            let fence = contained_fence(&launch, &socket);
            stand(&launch, socket, fence)
        }
        _ => 1,
    }
}

/// What of the fence a daemon does not set up, in an order in which each step still may do what it needs; and the check.
fn contained_fence(launch: &Launch, socket: &UnixStream) -> Result<String, Failure> {
    sys::loopback_up().map_err(at("bringing up loopback"))?;
    if let Some(ports) = &launch.gate_ports {
        network::hand_out_listeners(ports, socket)?;
    }
    root::finish_container()?;
    give_up(launch, socket, &[])
}

fn launcher() -> i32 {
    // The server's death ends this process, whose death ends process 1, whose death ends everything inside.
    if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_err() {
        return 1;
    }
    // Whatever the server's own parent left open must not be there.
    if sys::close_from(3).is_err() {
        return 1;
    }
    let Ok(mut socket) = sys::take_stdin().map(UnixStream::from) else { return 1 };
    let Ok(null) = File::open("/dev/null") else { return 1 };
    if sys::dup_onto(null.as_fd(), 0).is_err() {
        return 1;
    }
    match wire::read(&mut socket, wire::MAX_FRAME_TO_INIT) {
        Ok(ToInit::Launch(launch)) => launch_and_wait(&launch, socket),
        Ok(ToInit::Delete { identity, folder }) => {
            let outcome = delete_inside(identity, &folder);
            let answer = outcome.map_or_else(FromInit::Failed, |()| FromInit::Deleted);
            i32::from(wire::write(&mut socket, &answer).is_err())
        }
        _ => 1,
    }
}

fn launch_and_wait(launch: &Launch, socket: UnixStream) -> i32 {
    let Ok(mut report) = socket.try_clone() else { return 1 };
    match launch_process_1(launch, socket) {
        Ok(pid) => {
            // Only process 1 keeps the socket: its end is then the end of the connection.
            drop(report);
            wait_for(pid)
        }
        Err(failure) => {
            // When the server is gone there is nobody to tell.
            let _ = wire::write(&mut report, &FromInit::Failed(failure));
            1
        }
    }
}

fn wait_for(pid: i32) -> i32 {
    loop {
        match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => return code,
            _ => return 1,
        }
    }
}

fn launch_process_1(launch: &Launch, mut socket: UnixStream) -> Result<i32, Failure> {
    let host_namespaces = verify::namespaces().map_err(at("reading /proc/self/ns"))?;
    if launch.identity.by_root() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(at("making a mount namespace as root"))?;
        root::build(launch)?;
    }
    let (go_read, go_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(at("making a pipe"))?;
    let mut cgroups = Cgroups::open(&launch.cgroups).map_err(at_cgroup("opening a cgroup"))?;
    let mut cloned = sys::clone_namespaces(NAMESPACES, cgroups.unified.as_ref().map(AsFd::as_fd));
    if cloned.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOSYS)) {
        // Where a filter hides the newer call there may be the older one.
        cgroups.unified = None;
        cloned = sys::clone_namespaces(NAMESPACES, None);
    }
    let pid = match cloned.map_err(at_cgroup("making user, mount, pid, net, ipc and uts namespaces"))? {
        Cloned::Child => {
            drop(go_write);
            let code = process_1(launch, socket, go_read, cgroups, &host_namespaces);
            sys::exit_now(code);
        }
        Cloned::Parent(pid) => pid,
    };
    let started = map_ids(launch.identity, pid).and_then(|()| {
        cgroups.enter_late(&launch.cgroups, pid)?;
        // Told before the child may run, so that the server can end it in any case.
        wire::write(&mut socket, &FromInit::Started { pid }).map_err(at("telling the server"))?;
        File::from(go_write).write_all(b"g").map_err(at("letting process 1 go on"))
    });
    if let Err(failure) = started {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        wait_for(pid);
        return Err(failure);
    }
    Ok(pid)
}

/// Deletes what is in a folder with power over all ids that the identity maps, and over no others.
fn delete_inside(identity: Identity, folder: &Path) -> Result<(), Failure> {
    let (go_read, go_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(at("making a pipe"))?;
    let pid = match sys::clone_namespaces(libc::CLONE_NEWUSER, None).map_err(at("making a user namespace"))? {
        Cloned::Child => {
            drop(go_write);
            let may_go = File::from(go_read).read_exact(&mut [0]).is_ok();
            let done = may_go && confine::become_root_inside(identity).is_ok() && deletion::empty(folder).is_ok();
            sys::exit_now(i32::from(!done));
        }
        Cloned::Parent(pid) => pid,
    };
    let mapped = map_ids(identity, pid);
    if mapped.is_ok() {
        File::from(go_write).write_all(b"g").map_err(at("letting the deletion go on"))?;
    } else {
        drop(go_write);
    }
    let code = wait_for(pid);
    mapped?;
    if code == 0 { Ok(()) } else { Err(Failure::lasting("deleting files as root inside", "some files remain")) }
}

/// A user namespace with this map of users and groups, in which nothing runs.
fn map_of_owners(map: &str) -> Result<OwnedFd, Failure> {
    let (go_read, go_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(at("making a pipe"))?;
    let pid = match sys::clone_namespaces(libc::CLONE_NEWUSER, None).map_err(at("making a user namespace"))? {
        Cloned::Child => {
            drop(go_write);
            // It ends with the other end of the pipe.
            let _ = File::from(go_read).read(&mut [0]);
            sys::exit_now(0);
        }
        Cloned::Parent(pid) => pid,
    };
    let namespace = write_map(pid, "uid_map", map)
        .and_then(|()| write_map(pid, "gid_map", map))
        .and_then(|()| File::open(format!("/proc/{pid}/ns/user")).map_err(at("opening a user namespace")));
    drop((go_read, go_write));
    wait_for(pid);
    Ok(namespace?.into())
}

/// Writes the id maps of the new user namespace, from outside.
fn map_ids(identity: Identity, pid: i32) -> Result<(), Failure> {
    match identity {
        Identity::Range { .. } => {
            write_map(pid, "uid_map", &identity.uid_map())?;
            write_map(pid, "gid_map", &identity.gid_map())
        }
        Identity::Subordinate { .. } => {
            map_by_helper("newuidmap", pid, &identity.uid_map())?;
            map_by_helper("newgidmap", pid, &identity.gid_map())
        }
        Identity::Single { .. } => {
            write_map(pid, "uid_map", &identity.uid_map())?;
            write_map(pid, "setgroups", "deny")?;
            write_map(pid, "gid_map", &identity.gid_map())
        }
    }
}

fn write_map(pid: i32, file: &str, text: &str) -> Result<(), Failure> {
    fs::write(format!("/proc/{pid}/{file}"), text).map_err(at(format!("writing {file}")))
}

fn map_by_helper(program: &str, pid: i32, map: &str) -> Result<(), Failure> {
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(map.split_ascii_whitespace())
        .output()
        .map_err(at(format!("running {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::lasting(format!("running {program}"), String::from_utf8_lossy(&output.stderr).trim()))
}

/// The ways of process 1 into its cgroups, opened by the launcher, whose right to it counts. Whoever moves another process makes
/// the kernel hold up all forks and exits of the machine first, which takes it about 10 ms; these do not.
struct Cgroups {
    /// Of version 2, the group that process 1 is born in.
    unified: Option<OwnedFd>,
    /// Of version 1, the files by which a process moves its own one thread.
    tasks: Vec<File>,
}

impl Cgroups {
    fn open(folders: &[CgroupFolder]) -> io::Result<Self> {
        let (mut unified, mut tasks) = (None, Vec::new());
        for folder in folders {
            if folder.unified {
                unified = Some(Folder::open(&folder.path)?.into());
            } else {
                tasks.push(File::options().write(true).open(folder.path.join("tasks"))?);
            }
        }
        Ok(Self { unified, tasks })
    }

    /// Moves process 1 into a group of version 2 that it was not born in.
    fn enter_late(&self, folders: &[CgroupFolder], pid: i32) -> Result<(), Failure> {
        for folder in folders.iter().filter(|folder| folder.unified && self.unified.is_none()) {
            fs::write(folder.path.join("cgroup.procs"), pid.to_string()).map_err(at_cgroup("entering a cgroup"))?;
        }
        Ok(())
    }

    /// Moves this process into the groups of version 1.
    fn enter(self) -> Result<(), Failure> {
        for mut tasks in self.tasks {
            tasks.write_all(b"0").map_err(at_cgroup("entering a cgroup"))?;
        }
        Ok(())
    }
}

/// The same as [`at`] where a group may be being removed.
fn at_cgroup(step: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure { passing: error::is_cgroup_race(&error), ..at(step)(error) }
}

/// What the child does: finish the fence, check it, serve. Returns the exit code.
fn process_1(
    launch: &Launch,
    socket: UnixStream,
    go: OwnedFd,
    cgroups: Cgroups,
    host_namespaces: &[(String, String)],
) -> i32 {
    let mut byte = [0];
    if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_err() || File::from(go).read_exact(&mut byte).is_err() {
        return 1;
    }
    let fence = cgroups.enter().and_then(|()| fence(launch, &socket, host_namespaces));
    stand(launch, socket, fence)
}

/// Serves behind a fence that stands, or tells why it does not. Returns the exit code.
fn stand(launch: &Launch, mut socket: UnixStream, fence: Result<String, Failure>) -> i32 {
    match fence {
        Ok(landlock) => {
            if wire::write(&mut socket, &FromInit::Ready { landlock }).is_err() {
                return 1;
            }
            serve::serve(socket, launch);
            0
        }
        Err(failure) => {
            let _ = wire::write(&mut socket, &FromInit::Failed(failure));
            1
        }
    }
}

/// Puts the fence around this process, in an order in which each step still may do what it needs, and checks it.
fn fence(launch: &Launch, socket: &UnixStream, host_namespaces: &[(String, String)]) -> Result<String, Failure> {
    confine::become_root_inside(launch.identity)?;
    // A change of ids clears the signal that follows the parent's death.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("following the launcher's death"))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).map_err(at("making a cgroup namespace"))?;
    nix::unistd::sethostname("sandbox").map_err(at("naming the host"))?;
    sys::loopback_up().map_err(at("bringing up loopback"))?;
    if let Some(ports) = &launch.gate_ports {
        network::hand_out_listeners(ports, socket)?;
    }
    if !launch.identity.by_root() {
        root::build(launch)?;
    }
    root::finish(launch)?;
    give_up(launch, socket, host_namespaces)
}

/// Gives up what is not needed to serve, and checks the fence.
fn give_up(launch: &Launch, socket: &UnixStream, host_namespaces: &[(String, String)]) -> Result<String, Failure> {
    confine::set_rlimits(launch)?;
    // The runtime of a container may have made its process 1 the leader of a session.
    if nix::unistd::getsid(None) != Ok(nix::unistd::getpid()) {
        nix::unistd::setsid().map_err(at("starting a session"))?;
    }
    confine::close_descriptors_except(socket.as_raw_fd())?;
    nix::sys::prctl::set_no_new_privs().map_err(at("setting no_new_privs"))?;
    confine::drop_capabilities(confine::kept_capabilities(launch))?;
    let landlock = confine::landlock(launch)?;
    // Process 1 is this program: nothing inside may look into it.
    nix::sys::prctl::set_dumpable(false).map_err(at("making process 1 undumpable"))?;
    filter::install()?;
    verify::check(launch, socket.as_raw_fd(), host_namespaces)?;
    Ok(landlock)
}
