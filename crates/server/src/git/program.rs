//! Runs the `git` program: in a process group that ends with this server, within bounds of time and of what it makes.

use std::{ffi::OsString, pin::pin, process::Stdio, sync::Arc, time::Duration};

use rota_api::secret::Secret;
use rota_sandbox::NewTree;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::ChildStdin,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::limits::{CLONE_LOOK_EVERY, GIT_END_TIMEOUT, GIT_OUTPUT_BYTES};

/// The first version that connects to an address which it is given.
const OLDEST: (u32, u32) = (2, 37);

/// What a clone may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of all files, those that git keeps included.
    pub(super) bytes: u64,
    /// Files and folders.
    pub(super) files: u64,
    /// For one command.
    pub(super) time: Duration,
}

/// One command.
pub(super) struct Command<'a> {
    pub(super) arguments: &'a [&'a str],
    pub(super) environment: &'a [(String, Secret)],
    /// Where it works.
    pub(super) tree: &'a Arc<NewTree>,
    pub(super) bounds: Bounds,
    pub(super) stop: &'a CancellationToken,
}

/// What came of a command.
pub(super) struct Output {
    pub(super) succeeded: bool,
    /// The beginning of its output.
    pub(super) printed: String,
    /// The beginning of what it said of errors.
    pub(super) complained: String,
}

/// Starts git beside a watcher that reads from this server and ends the whole process group when there is nothing more to
/// read: when the command is over, or when the server is gone, however it went.
const BESIDE_A_WATCHER: &str =
    "umask 022; exec 3<&0 </dev/null; { read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 & exec 3<&-; exec git \"$@\"";

/// Whether the machine has a `git` that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It has, of this version.
    Found(String),
    /// It has none, or one that is too old: what to do.
    Missing(String),
}

/// Looks for the program.
pub async fn probe() -> Probe {
    let mut command = tokio::process::Command::new("git");
    command.arg("version").env_clear().env("PATH", path()).stdin(Stdio::null()).kill_on_drop(true);
    let Ok(Ok(output)) = timeout(GIT_END_TIMEOUT, command.output()).await else {
        return Probe::Missing(
            "this server has no program `git`; its operator installs it (Debian: `apt install git`)".to_owned(),
        );
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("git version ").to_owned();
    if is_recent(&version) {
        return Probe::Found(version);
    }
    let (major, minor) = OLDEST;
    Probe::Missing(format!(
        "the program `git` of this server has version {version}, and repositories need {major}.{minor}"
    ))
}

fn is_recent(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= OLDEST
}

/// Where programs are looked for.
fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())
}

/// The process group of a command. Dropped, it is ended, and with it the watcher, which keeps the group's number from being
/// another's.
struct Group {
    id: Option<Pid>,
    _watched: Option<ChildStdin>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // Where nothing of it is left there is nothing to end.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Command<'_> {
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let mut command = tokio::process::Command::new("/bin/sh");
        command.args(["-c", BESIDE_A_WATCHER, "git"]).args(self.arguments);
        command.env_clear().env("PATH", path());
        command.envs(self.environment.iter().map(|(key, value)| (key, value.reveal())));
        command.current_dir(self.tree.path()).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Failure::of_this_server)?;
        let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let group = Group { id, _watched: child.stdin.take() };
        let (printed, complained) = (child.stdout.take(), child.stderr.take());
        let mut running = pin!(async { tokio::join!(child.wait(), beginning(printed), beginning(complained)) });
        let broken = tokio::select! {
            (ended, printed, complained) = &mut running => {
                let succeeded = ended.map_err(Failure::of_this_server)?.success();
                return Ok(Output { succeeded, printed, complained });
            }
            broken = self.bounded() => broken,
            () = self.stop.cancelled() => Failure::clone("it was given up"),
        };
        drop(group);
        // Its output ends with the last of its processes: nothing is written into the folder any more.
        let _ = timeout(GIT_END_TIMEOUT, running).await;
        Err(broken)
    }

    /// Returns when a bound is broken.
    async fn bounded(&self) -> Failure {
        let Bounds { bytes, files, time } = self.bounds;
        let mut over = pin!(sleep(time));
        let mut looks = interval(CLONE_LOOK_EVERY);
        loop {
            tokio::select! {
                () = &mut over => return Failure::too_slow(time),
                _ = looks.tick() => {}
            }
            if let Err(failure) = is_within(self.tree, bytes, files).await {
                return failure;
            }
        }
    }
}

/// That what is in a folder is within bounds. What git moves or deletes meanwhile is looked at the next time.
pub(super) async fn is_within(tree: &Arc<NewTree>, bytes: u64, files: u64) -> Result<(), Failure> {
    let tree = tree.clone();
    let looking = tokio::task::spawn_blocking(move || tree.size((bytes, files)));
    match looking.await.map_err(Failure::of_this_server)? {
        Ok((found, _)) if found > bytes => {
            Err(Failure::clone(format_args!("it has more than {} MB", bytes / 1024 / 1024)))
        }
        Ok((_, found)) if found > files => Err(Failure::clone(format_args!("it has more than {files} files"))),
        _ => Ok(()),
    }
}

/// The beginning of what a program writes, all of which is read.
async fn beginning(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let room = GIT_OUTPUT_BYTES - kept.len();
        kept.extend_from_slice(&piece[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_recent_enough_or_not() {
        for (version, recent) in [
            ("2.39.5", true),
            ("2.37", true),
            ("3.0.1", true),
            ("2.36.9", false),
            ("1.99", false),
            ("", false),
            ("x", false),
        ] {
            assert_eq!(is_recent(version), recent, "{version}");
        }
    }
}
