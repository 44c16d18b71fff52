//! What this machine enforces, found out by trying: one row a protection.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::cgroup::{Cgroups, Controller};
use super::identity::Identities;
use super::program::Program;
use super::remedy;
use super::store::Store;
use crate::config::Config;
use crate::containers::Daemon;
use crate::error::Error;
use crate::wire::{self, Failure, FromInit, Launch, Shown, ToInit};

/// The session whose folder a trial uses. It is deleted afterwards, with what an earlier trial left of its own deletion.
pub(super) const TRIAL: &str = "doctor_trial";
/// How long a trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// How a protection stands on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtectionState {
    /// In force.
    Ok,
    /// Sandboxes run, with less than is possible.
    Degraded,
    /// No sandbox runs.
    Missing,
}

/// One row of the doctor's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// What is protected.
    pub name: &'static str,
    /// How it stands.
    pub state: ProtectionState,
    /// What was found.
    pub detail: String,
    /// What to do. Empty when nothing needs doing.
    pub remedy: String,
}

impl Protection {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: ProtectionState::Ok, detail: detail.into(), remedy: String::new() }
    }

    fn degraded(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: ProtectionState::Degraded, detail: detail.into(), remedy: remedy.into() }
    }
}

/// The rows of a daemon whose containers are the sandboxes, asked from a thread that may wait.
pub(super) fn probe_daemon(daemon: &Daemon) -> Vec<Protection> {
    let look = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok::<_, io::Error>(runtime.block_on(daemon.look()))
    };
    // The calling thread may be one that must not block on a future.
    let rows = std::thread::scope(|scope| scope.spawn(look).join());
    let rows = rows.unwrap_or_else(|_| Err(io::Error::other("the look at it ended early")));
    let rows =
        rows.unwrap_or_else(|error| vec![("containers", None, error.to_string(), remedy::ROOT_ADVICE.to_owned())]);
    let protection = |(name, state, detail, remedy)| {
        let state = match state {
            Some(true) => ProtectionState::Ok,
            Some(false) => ProtectionState::Degraded,
            None => ProtectionState::Missing,
        };
        Protection { name, state, detail, remedy }
    };
    rows.into_iter().map(protection).collect()
}

pub(super) fn probe(
    config: &Config,
    identities: &Identities,
    cgroups: &Cgroups,
    program: &Arc<Program>,
) -> Vec<Protection> {
    let mut rows = match trial(config, identities, program) {
        Ok(landlock) => fence_stands(&landlock, config.gate_ports.as_deref()),
        Err(Error::CannotIsolate { cause, remedy }) => {
            vec![Protection { name: "isolation", state: ProtectionState::Missing, detail: cause, remedy }]
        }
        Err(error) => {
            let (detail, remedy) = (error.to_string(), remedy::ROOT_ADVICE.to_owned());
            vec![Protection { name: "isolation", state: ProtectionState::Missing, detail, remedy }]
        }
    };
    rows.push(user_ids(identities));
    rows.extend([
        limit(cgroups, Controller::Memory, "memory limit", "each process is limited by its address space instead"),
        limit(cgroups, Controller::Pids, "process limit", "RLIMIT_NPROC is used instead"),
        limit(
            cgroups,
            Controller::Cpu,
            "processor limit",
            "nothing takes its place: commands only have their time limit",
        ),
    ]);
    rows.push(Protection::degraded(
        "disk limit",
        format!(
            "a watch that looks every few seconds and stops a sandbox above {} bytes; no single file grows past that",
            config.limits.disk_bytes
        ),
        "Put the data folder on a file system of its own, so that a sandbox cannot fill another's.",
    ));
    rows
}

fn fence_stands(landlock: &str, gate_ports: Option<&[u16]>) -> Vec<Protection> {
    let network = match gate_ports {
        None => "a network namespace with nothing but loopback".to_owned(),
        Some(ports) => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!(
                "a network namespace in which every address leads to the gate: names, and TCP ports {}",
                ports.join(", ")
            )
        }
    };
    let landlock = match landlock {
        "full" => Protection::ok("landlock", "a second fence around files is in force"),
        other => Protection::degraded(
            "landlock",
            format!("a second fence around files is {other}"),
            "Use Linux 6.12 or later with Landlock among its security modules.",
        ),
    };
    vec![
        Protection::ok(
            "isolation",
            "user, mount, pid, net, ipc, uts and cgroup namespaces; root changed; checked from inside",
        ),
        Protection::ok("system calls", "seccomp filter in force, no_new_privs set, capabilities dropped"),
        Protection::ok("network", network),
        landlock,
    ]
}

fn user_ids(identities: &Identities) -> Protection {
    let detail = identities.describe();
    if identities.example().has_range() {
        return Protection::ok("user ids", detail);
    }
    Protection::degraded(
        "user ids",
        format!("{detail}; package managers that change owners fail, and sessions share one user on the host"),
        "Run the server as root, or give its user ids of its own: install uidmap (newuidmap) and add the user to \
         /etc/subuid and /etc/subgid.",
    )
}

fn limit(cgroups: &Cgroups, controller: Controller, name: &'static str, instead: &str) -> Protection {
    match cgroups.describe(controller) {
        Some(detail) => Protection::ok(name, detail),
        None => Protection::degraded(
            name,
            format!("no cgroup controller that this user may use; {instead}"),
            if nix::unistd::geteuid().is_root() {
                "Give the server a cgroup that it may write to: Delegate=yes in a systemd unit, a writable /sys/fs/cgroup \
                 in a container."
            } else {
                "Run the server as root, or in a systemd unit or scope with Delegate=yes."
            },
        ),
    }
}

/// Sets up a real fence around nothing, and takes it down again. Answers how far Landlock is enforced.
fn trial(config: &Config, identities: &Identities, program: &Arc<Program>) -> Result<String, Error> {
    let store = Store::new(config, identities, program)?;
    let session = store.prepare(TRIAL, |owner| identities.for_session(owner))?;
    let launch = Launch {
        identity: session.identity,
        session_dir: session.dir.clone(),
        root_fs: config.root_fs.clone(),
        shown: Shown::default(),
        limits: config.limits,
        cgroups: Vec::new(),
        limit_address_space: false,
        is_new: true,
        had_shell: false,
        gate_ports: config.gate_ports.clone(),
        environment: Vec::new(),
        authorities: None,
        container: None,
    };
    let outcome = session.make_root(launch.is_overlay(), false).and_then(|()| converse(program, launch));
    store.remove(TRIAL)?;
    outcome
}

fn converse(program: &Program, launch: Launch) -> Result<String, Error> {
    let trying = || Error::host("trying a sandbox");
    let (mut ours, theirs) = UnixStream::pair().map_err(trying())?;
    ours.set_read_timeout(Some(TRIAL_TIMEOUT)).map_err(trying())?;
    // This thread waits for the trial's end, so the init may follow its death.
    let mut child = program.start(theirs.into()).map_err(trying())?;
    let verdict = (|| -> io::Result<Result<String, Error>> {
        ours.write_all(&wire::encode(&ToInit::Launch(Box::new(launch))))?;
        loop {
            match wire::read(&mut ours, wire::MAX_FRAME_FROM_INIT)? {
                FromInit::Started { .. }
                | FromInit::Listening { .. }
                | FromInit::Done { .. }
                | FromInit::OverDisk
                | FromInit::Deleted => {}
                FromInit::Ready { landlock } => return Ok(Ok(landlock)),
                FromInit::Failed(failure) => return Ok(Err(remedy::not_set_up(failure))),
            }
        }
    })();
    drop(ours);
    child.wait().map_err(trying())?;
    verdict.unwrap_or_else(|error| Err(remedy::not_set_up(Failure::lasting("setting up", error.to_string()))))
}
