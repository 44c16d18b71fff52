//! Each session's files on the host.
//!
//! `<data>/sessions/<id>` is the server's alone: only it can make, move or replace what is directly in there. The folders
//! in it are shown inside, and most belong to the agent: the server makes them, opens them, gives them to the agent's
//! ids, and touches nothing below them until the session is deleted, when [`deletion`] takes them apart. All of it goes
//! through [`Folder`].

use std::ffi::CString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::doctor;
use super::identity::{self, Identities, Owner};
use super::program::Program;
use super::records::{Record, Records};
use crate::config::Config;
use crate::deletion;
use crate::error::Error;
use crate::folder::{self, Folder};
use crate::init::{BUILDING, SESSION_FOLDERS, STAGE, WRITABLE_MEMORY};
use crate::wire::{self, Failure, FromInit, Identity, ToInit};

/// What is being deleted, in the folder of the sessions: it is moved there first, and that may be a file system of its own.
/// Made when it is needed, so that a disk without room keeps nobody from starting. No session has such an id.
const TRASH: &str = ".trash";
/// Files that are being written for a session, in the folder of the sessions, so that they can be moved into theirs.
const INCOMING: &str = ".incoming";
/// The longest session id, in bytes.
const MAX_ID: usize = 128;
/// Folders of an overlay: the session's changes, and the kernel's own scratch space.
const OVERLAY_FOLDERS: [&str; 2] = ["upper", "work"];
/// The file that says that the session has had a shell.
pub(super) const HAD_SHELL: &str = "had_shell";

/// Refuses what could be anything but one path component.
pub(super) fn check_id(id: &str) -> Result<(), Error> {
    let fits = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if fits { Ok(()) } else { Err(Error::BadSessionId(id.chars().take(MAX_ID).collect())) }
}

/// The folders of all sessions.
#[derive(Debug, Clone)]
pub(super) struct Store {
    sessions: PathBuf,
    records: Records,
    trash: PathBuf,
    /// Set when files may belong to ids that only a user namespace gives power over.
    inside: Option<Inside>,
}

/// Deletes as root of a user namespace.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    pub(super) identity: Identity,
    pub(super) program: Arc<Program>,
}

impl Inside {
    pub(super) fn empty(&self, trash: &Path) -> io::Result<()> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = self.program.start(theirs.into())?;
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
    pub(super) record: Record,
    /// There were no folders of it before.
    pub(super) is_new: bool,
    shell_marked: AtomicBool,
}

impl Store {
    pub(super) fn new(config: &Config, identities: &Identities, program: &Arc<Program>) -> Result<Self, Error> {
        let own = |name: &str| {
            let path = config.data_dir.join(name);
            folder::private(&path).map_err(Error::host_at("making a folder of the server's", &path))
        };
        let (sessions, records) = (own("sessions")?, Records(own("sandboxes")?));
        let trash = sessions.join(TRASH);
        let inside = identities.subordinate();
        let inside = inside.map(|identity| Inside { identity, program: Arc::clone(program) });
        Ok(Self { sessions, records, trash, inside })
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
        let making = || Error::host_at("making the session's folders", &dir);
        let folder = Folder::open(&self.sessions).and_then(|all| all.make_private(id)).map_err(making())?;
        let existing = owner_of(&folder);
        let identity = identity(Owner { existing, all: &|| self.owners() })?;
        make_folders(&folder, identity).map_err(making())?;
        let shell_marked = AtomicBool::new(folder.has(HAD_SHELL));
        let (record, is_new) = (self.records.of(id), existing.is_none());
        Ok(Session { id: id.to_owned(), identity, record, is_new, shell_marked, dir })
    }

    /// The owner of each session's files.
    pub(super) fn owners(&self) -> Vec<u32> {
        let Ok(sessions) = Folder::open(&self.sessions) else { return Vec::new() };
        let names = sessions.entries().unwrap_or_default();
        names.iter().filter_map(|(name, _)| owner_of(&sessions.enter(&**name).ok()?)).collect()
    }

    /// The folder of a session, and the host id that owns what the agent has there: made when there is none.
    pub(super) fn session(
        &self,
        id: &str,
        identity: impl FnOnce(Owner<'_>) -> Result<Identity, Error>,
    ) -> Result<(Folder, Option<u32>), Error> {
        let session = self.prepare(id, identity)?;
        let folder =
            Folder::open(&session.dir).map_err(Error::host_at("opening the session's folder", &session.dir))?;
        Ok((folder, session.identity.owner()))
    }

    /// The folder of a session, when there is one.
    pub(super) fn existing(&self, id: &str) -> Result<Option<Folder>, Error> {
        let dir = self.session_dir(id);
        match Folder::open(&dir) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::host_at("opening the session's folder", &dir)(error)),
        }
    }

    /// The folder of files that are being written.
    pub(super) fn incoming(&self) -> io::Result<Folder> {
        Folder::open(&self.sessions)?.make_private(INCOMING)
    }

    /// Deletes what an earlier server was writing.
    pub(super) fn forget_incoming(&self) -> io::Result<()> {
        if !Folder::open(&self.sessions)?.has(INCOMING) {
            return Ok(());
        }
        let incoming = self.incoming()?;
        for (name, is_folder) in incoming.entries()? {
            match name.to_str() {
                Ok(tree) if is_folder => self.delete_incoming(tree).map_err(io::Error::other)?,
                _ => incoming.remove_file(&name)?,
            }
        }
        Ok(())
    }

    /// Deletes a folder that was being filled.
    pub(super) fn delete_incoming(&self, name: &str) -> Result<(), Error> {
        let incoming = self.incoming().map_err(Error::host("opening a folder of the server's"))?;
        if incoming.has(name) { self.delete(&incoming, name, name) } else { Ok(()) }
    }

    /// Where a file or folder is that is being filled.
    pub(super) fn incoming_path(&self, name: &str) -> PathBuf {
        self.sessions.join(INCOMING).join(name)
    }

    /// Deletes a session's folder, however deep it is.
    pub(super) fn remove(&self, id: &str) -> Result<(), Error> {
        let sessions = Folder::open(&self.sessions);
        let sessions = sessions.map_err(Error::host_at("opening a folder of the server's", &self.sessions))?;
        self.delete(&sessions, id, id)
    }

    /// Deletes the folder `name` in `parent`, which has the files of session `id`.
    pub(super) fn delete(&self, parent: &Folder, name: &str, id: &str) -> Result<(), Error> {
        let removed = (|| {
            let all = Folder::open(&self.sessions)?.make_private(TRASH)?;
            let trash = all.make_private(id)?;
            let (path, name) = (self.trash.join(id), CString::new(name)?);
            let mut moved = parent.move_to(&name, &trash, "first");
            if matches!(&moved, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
                // An earlier deletion was cut off.
                self.empty(&path)?;
                moved = parent.move_to(&name, &trash, "first");
            }
            match moved {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.empty(&path)?,
            }
            all.remove_folder(&CString::new(id)?)
        })();
        removed.map_err(Error::host(format!("deleting the files of session {id}")))
    }

    fn empty(&self, trash: &Path) -> io::Result<()> {
        match &self.inside {
            None => deletion::empty(trash),
            Some(inside) => inside.empty(trash),
        }
    }

    /// Ends what an earlier server left running, before anything is started here.
    pub(super) async fn end_orphans(&self) -> Result<(), Error> {
        self.records.end_orphans().await
    }

    /// Finishes deletions that an earlier server began, but not that of a trial's folder: a trial may be under way.
    pub(super) fn finish_deletions(&self) -> Result<(), Error> {
        if !Folder::open(&self.sessions).is_ok_and(|sessions| sessions.has(TRASH)) {
            return Ok(());
        }
        let left = Folder::open(&self.trash).and_then(|trash| trash.entries());
        for (name, _) in left.map_err(Error::host_at("listing a folder of the server's", &self.trash))? {
            if let Ok(id) = name.to_str()
                && id != doctor::TRIAL
            {
                self.remove(id)?;
            }
        }
        Ok(())
    }
}

impl Session {
    /// Makes the folders that a sandbox of this kind has beside those that every session has.
    pub(super) fn make_root(&self, is_overlay: bool, is_building: bool) -> Result<(), Error> {
        let owner = self.identity.owner();
        let host_only = SESSION_FOLDERS.iter().filter(|(_, _, host_only, _)| *host_only).map(|(name, ..)| *name);
        let own: Vec<&str> = if is_overlay { OVERLAY_FOLDERS.to_vec() } else { host_only.collect() };
        let made = Folder::open(&self.dir).and_then(|folder| {
            let building = is_building.then_some(BUILDING);
            own.into_iter().chain(building).try_for_each(|name| make_folder(&folder, name, owner))
        });
        made.map_err(Error::host_at("making the session's folders", &self.dir))
    }

    pub(super) fn had_shell(&self) -> bool {
        self.shell_marked.load(Ordering::Relaxed)
    }

    /// Remembers, past the end of the sandbox, that the session has had a shell.
    pub(super) fn mark_shell(&self) {
        if !self.shell_marked.swap(true, Ordering::Relaxed) {
            // Without the mark a later shell is not announced as new: no reason to refuse the call.
            if let Err(error) = Folder::open(&self.dir).and_then(|session| session.make_file(HAD_SHELL)) {
                tracing::warn!(session = self.id, %error, "cannot remember that the session has a shell");
            }
        }
    }
}

/// Makes the folders that every session has. Files may come into them before a sandbox is opened.
fn make_folders(session: &Folder, identity: Identity) -> io::Result<()> {
    make_folder(session, STAGE, None)?;
    for (name, _, host_only, writable) in SESSION_FOLDERS {
        if !host_only {
            make_folder(session, name, identity.owner().filter(|_| writable))?;
        }
    }
    make_folder(session, WRITABLE_MEMORY, None)
}

/// The host id that owns what is in a session's folder.
fn owner_of(session: &Folder) -> Option<u32> {
    session.enter(SESSION_FOLDERS[0].0).and_then(|folder| folder.owner()).ok()
}

/// Makes a folder that everyone inside may enter. One that is nobody's of the session's is given to its root inside;
/// the agent may have given one of its own to another of its ids.
fn make_folder(session: &Folder, name: &str, owner: Option<u32>) -> io::Result<()> {
    let folder = session.make(name, 0o755, owner)?;
    match owner {
        Some(base) if identity::base_of(folder.owner()?) != Some(base) => folder.give(base),
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
    fn what_a_deletion_left_that_was_cut_off_is_not_in_the_way_of_the_next() {
        let data = tempfile::tempdir().unwrap();
        let identities = Identities::Fixed(Identity::Single { uid: 0, gid: 0 });
        let store = Store::new(&Config::new(data.path()), &identities, &Arc::new(Program::new(None))).unwrap();
        for folder in [store.session_dir("s"), store.trash.join("s/first")] {
            std::fs::create_dir_all(folder.join("workspace/deep")).unwrap();
            std::fs::write(folder.join("workspace/deep/file"), "content").unwrap();
        }
        store.remove("s").unwrap();
        assert!(!store.session_dir("s").exists() && !store.trash.join("s").exists());
    }

    #[test]
    fn a_start_takes_no_folder_from_a_trial_that_is_under_way() {
        let data = tempfile::tempdir().unwrap();
        let identities = Identities::Fixed(Identity::Single { uid: 0, gid: 0 });
        let store = Store::new(&Config::new(data.path()), &identities, &Arc::new(Program::new(None))).unwrap();
        let trial = store.session_dir(doctor::TRIAL);
        for folder in [&trial, &store.trash.join(doctor::TRIAL).join("first"), &store.trash.join("s/first")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        store.finish_deletions().unwrap();
        assert!(trial.exists() && !store.trash.join("s").exists());
        store.remove(doctor::TRIAL).unwrap();
        assert!(!trial.exists() && !store.trash.join(doctor::TRIAL).exists());
    }
}
