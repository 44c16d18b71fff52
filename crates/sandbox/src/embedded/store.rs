//! Each session's files on the host, and the records of what runs.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::identity::{Identities, Owner};
use super::program;
use crate::config::Config;
use crate::deletion;
use crate::error::Error;
use crate::init::{SESSION_FOLDERS, STAGE};
use crate::wire::{self, Failure, FromInit, Identity, ToInit};

/// The longest session id, in bytes.
const MAX_ID: usize = 128;
/// Folders of an overlay: the session's changes, and the kernel's own scratch space.
const OVERLAY_FOLDERS: [&str; 2] = ["upper", "work"];
/// The file that says that the session has had a shell.
const HAD_SHELL: &str = "had_shell";
/// How often and how long the end of an orphan is waited for.
const ORPHAN_CHECKS: usize = 100;
const ORPHAN_CHECK: std::time::Duration = std::time::Duration::from_millis(20);

/// Refuses what could be anything but one path component.
pub(super) fn check_id(id: &str) -> Result<(), Error> {
    let fits = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if fits { Ok(()) } else { Err(Error::BadSessionId(id.chars().take(MAX_ID).collect())) }
}

/// The folders of all sessions.
#[derive(Debug, Clone)]
pub(super) struct Store {
    sessions: PathBuf,
    records: PathBuf,
    trash: PathBuf,
    overlay: bool,
    /// Set when files may belong to ids that only a user namespace gives power over.
    inside: Option<Inside>,
}

/// Deletes as root of a user namespace.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    pub(super) identity: Identity,
    pub(super) init_program: Option<PathBuf>,
}

impl Inside {
    fn empty(&self, trash: &Path) -> io::Result<()> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = program::spawn_for_deletion(self.init_program.as_ref(), theirs.into())?;
        let request = ToInit::Delete { identity: self.identity, folder: trash.to_owned() };
        let answer = wire::write(&mut ours, &request).and_then(|()| wire::read(&mut ours, wire::MAX_FRAME_FROM_INIT));
        child.wait()?;
        match answer? {
            FromInit::Deleted => Ok(()),
            FromInit::Failed(Failure { step, cause, .. }) => Err(io::Error::other(format!("{step}: {cause}"))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// One session's folder, ready for a sandbox.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    record: PathBuf,
    shell_marked: AtomicBool,
}

impl Store {
    pub(super) fn new(config: &Config, identities: &Identities) -> Result<Self, Error> {
        let data = &config.data_dir;
        fs::create_dir_all(data).map_err(Error::host_at("making the data folder", data))?;
        let data = data.canonicalize().map_err(Error::host_at("finding the data folder", data))?;
        let [sessions, records, trash] = ["sessions", "sandboxes", "trash"].map(|name| data.join(name));
        for folder in [&sessions, &records, &trash] {
            private_folder(folder).map_err(Error::host_at("making a folder of the server's", folder))?;
        }
        let inside = identities.subordinate();
        let inside = inside.map(|identity| Inside { identity, init_program: config.init_program.clone() });
        Ok(Self { sessions, records, trash, overlay: config.root_fs.is_some(), inside })
    }

    pub(super) fn root(&self) -> &Path {
        &self.sessions
    }

    pub(super) fn session_dir(&self, id: &str) -> PathBuf {
        self.sessions.join(id)
    }

    /// Makes a session's folders, owned by the ids that `identity` gives it.
    pub(super) fn prepare(
        &self,
        id: &str,
        identity: impl FnOnce(Owner<'_>) -> Result<Identity, Error>,
    ) -> Result<Session, Error> {
        let dir = self.session_dir(id);
        let existing = fs::symlink_metadata(dir.join(SESSION_FOLDERS[0].0)).ok().map(|meta| meta.uid());
        let identity = identity(Owner { existing, all: &|| self.owners() })?;
        self.make_folders(&dir, identity).map_err(Error::host_at("making the session's folders", &dir))?;
        let shell_marked = AtomicBool::new(dir.join(HAD_SHELL).exists());
        Ok(Session { id: id.to_owned(), dir, identity, record: self.records.join(id), shell_marked })
    }

    fn make_folders(&self, dir: &Path, identity: Identity) -> io::Result<()> {
        private_folder(dir)?;
        make_folder(&dir.join(STAGE), None)?;
        let owner = match identity {
            Identity::Range { base } => Some(base),
            Identity::Subordinate { .. } | Identity::Single { .. } => None,
        };
        for (name, _, host_only, writable) in SESSION_FOLDERS {
            if !(host_only && self.overlay) {
                make_folder(&dir.join(name), owner.filter(|_| writable))?;
            }
        }
        if self.overlay {
            for name in OVERLAY_FOLDERS {
                make_folder(&dir.join(name), owner)?;
            }
            return Ok(());
        }
        // Programs expect it, and that anyone may write there.
        let shared = dir.join("var/tmp");
        if !shared.exists() {
            make_folder(&shared, owner)?;
            fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777))?;
        }
        Ok(())
    }

    /// The owner of each session's files.
    fn owners(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.sessions).into_iter().flatten().flatten();
        let folder = SESSION_FOLDERS[0].0;
        entries.filter_map(|entry| Some(fs::symlink_metadata(entry.path().join(folder)).ok()?.uid())).collect()
    }

    /// Deletes a session's folder, however deep it is.
    pub(super) fn remove(&self, id: &str) -> Result<(), Error> {
        let trash = self.trash.join(id);
        let removed = (|| {
            private_folder(&trash)?;
            match fs::rename(self.session_dir(id), trash.join("first")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            match &self.inside {
                None => deletion::empty(&trash)?,
                Some(inside) => inside.empty(&trash)?,
            }
            fs::remove_dir(&trash)
        })();
        removed.map_err(Error::host(format!("deleting the files of session {id}")))
    }

    /// Ends what an earlier server left running, and finishes deletions that it began.
    pub(super) async fn end_orphans(&self, running: &[String]) -> Result<(), Error> {
        let listing =
            |folder: &Path| fs::read_dir(folder).map_err(Error::host_at("listing a folder of the server's", folder));
        for entry in listing(&self.records)?.flatten() {
            let name = entry.file_name();
            if running.iter().any(|id| name == id.as_str()) {
                continue;
            }
            if let Some(orphan) = fs::read_to_string(entry.path()).ok().as_deref().and_then(Orphan::parse) {
                orphan.end().await;
            }
            // It may have been removed by its own end.
            let _ = fs::remove_file(entry.path());
        }
        for entry in listing(&self.trash)?.flatten() {
            if let Some(id) = entry.file_name().to_str() {
                self.remove(id)?;
            }
        }
        Ok(())
    }
}

impl Session {
    pub(super) fn had_shell(&self) -> bool {
        self.shell_marked.load(Ordering::Relaxed)
    }

    /// Remembers, past the end of the sandbox, that the session has had a shell.
    pub(super) fn mark_shell(&self) {
        if !self.shell_marked.swap(true, Ordering::Relaxed) {
            // Without the mark a later shell is not announced as new: no reason to refuse the call.
            if let Err(error) = fs::write(self.dir.join(HAD_SHELL), "") {
                tracing::warn!(session = self.id, %error, "cannot remember that the session has a shell");
            }
        }
    }

    /// Remembers process 1, so that a later server can end it.
    pub(super) fn record(&self, pid: i32) -> Result<(), Error> {
        let start_time = start_time(pid).ok_or(io::ErrorKind::NotFound);
        let written =
            start_time.map_err(Into::into).and_then(|time| fs::write(&self.record, format!("{pid} {time}\n")));
        written.map_err(Error::host_at("recording the sandbox", &self.record))
    }

    pub(super) fn forget(&self) {
        // It is gone when the session was removed meanwhile.
        let _ = fs::remove_file(&self.record);
    }
}

/// A process of an earlier server. The start time tells it from one that was given the same number later.
#[derive(Debug, PartialEq, Eq)]
struct Orphan {
    pid: i32,
    start_time: u64,
}

impl Orphan {
    fn parse(text: &str) -> Option<Self> {
        let (pid, start_time) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    }

    fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    async fn end(&self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return };
        let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
        // Checked after the handle is held: from here on it cannot be another process.
        if !self.lives() {
            return;
        }
        let _ = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL);
        for _ in 0..ORPHAN_CHECKS {
            if !self.lives() {
                return;
            }
            tokio::time::sleep(ORPHAN_CHECK).await;
        }
    }
}

/// When a process started, in clock ticks since boot.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Makes a folder that everyone inside may enter; its owner is set only when it is new or another's.
fn make_folder(path: &Path, owner: Option<u32>) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match owner {
        Some(id) if fs::symlink_metadata(path)?.uid() != id => chown(path, Some(id), Some(id)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ids_reach_a_path() {
        for id in ["sesn_01AbC", "a", "_"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "a\0", "é", "a-b", &"x".repeat(129)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn an_orphan_is_known_by_its_start_time() {
        let own = std::process::id() as i32;
        let start_time = start_time(own).unwrap();
        assert!(Orphan::parse(&format!("{own} {start_time}\n")).unwrap().lives());
        assert!(!Orphan { pid: own, start_time: start_time + 1 }.lives());
        assert_eq!(Orphan::parse("nonsense"), None);
    }
}
