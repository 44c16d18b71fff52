//! The embedded backend: Rota's own namespaces on this machine, one sandbox a session.

mod cgroup;
mod doctor;
mod identity;
mod lost;
mod program;
mod records;
mod remedy;
mod sandbox;
mod store;

pub use doctor::{Protection, ProtectionState};
pub use lost::SetAside;
pub use sandbox::Sandbox;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::error::Error;
use crate::wire::Launch;
use cgroup::Cgroups;
use identity::Identities;
use lost::Lost;
use program::Spawner;
use store::Store;

/// The embedded backend. Dropping it, or the end of the process, ends every sandbox.
pub struct Embedded {
    config: Config,
    store: Store,
    lost: Lost,
    identities: Identities,
    cgroups: Cgroups,
    spawner: Spawner,
    /// One slot a session that was opened, so that two openings of one session wait for each other and others do not.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    tasks: TaskTracker,
}

type Slot = tokio::sync::Mutex<Option<Sandbox>>;

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Prepares the backend. Nothing is started yet; [`Self::probe`] says what this machine can enforce.
    ///
    /// # Errors
    /// [`Error::Host`] when the data folder cannot be made.
    pub fn new(config: Config) -> Result<Self, Error> {
        let identities = Identities::choose();
        let store = Store::new(&config, &identities)?;
        let lost = Lost::new(store.root()).map_err(Error::host_at("making a folder in", store.root()))?;
        let cgroups = Cgroups::find(store.root());
        let spawner = Spawner::start(config.init_program.clone())?;
        Ok(Self {
            config,
            store,
            lost,
            identities,
            cgroups,
            spawner,
            slots: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Says of each protection whether this machine gives it, and what to do where it does not. Starts nothing that
    /// stays, but does make namespaces to see whether the kernel allows it.
    pub fn probe(&self) -> Vec<Protection> {
        doctor::probe(&self.config, &self.identities, &self.cgroups)
    }

    /// The running sandbox of a session, or a new one over the session's files.
    ///
    /// # Errors
    /// [`Error::CannotIsolate`] when the fence cannot be set up in full: then nothing of the session runs.
    pub async fn open(&self, session_id: &str) -> Result<Sandbox, Error> {
        store::check_id(session_id)?;
        let slot = self.slot(session_id);
        let mut slot = slot.lock().await;
        if let Some(sandbox) = slot.as_ref().filter(|sandbox| sandbox.is_alive()) {
            return Ok(sandbox.clone());
        }
        if let Some(dead) = slot.take() {
            dead.end().await;
        }
        let sandbox = self.start(session_id).await?;
        *slot = Some(sandbox.clone());
        Ok(sandbox)
    }

    async fn start(&self, session_id: &str) -> Result<Sandbox, Error> {
        let session = self.store.prepare(session_id, |owner| self.identities.for_session(owner))?;
        let cgroup = self.cgroups.create(session_id, &self.config.limits)?;
        let launch = Launch {
            identity: session.identity,
            session_dir: session.dir.clone(),
            root_fs: self.config.root_fs.clone(),
            limits: self.config.limits,
            cgroup_procs: cgroup.procs_files(),
            limit_address_space: !self.cgroups.limits_memory(),
            had_shell: session.had_shell(),
        };
        sandbox::start(&self.spawner, &self.tasks, session, cgroup, launch).await
    }

    /// Ends a session's processes. Its files are kept.
    pub async fn stop(&self, session_id: &str) {
        let slot = self.slots().remove(session_id);
        if let Some(slot) = slot
            && let Some(sandbox) = slot.lock().await.take()
        {
            sandbox.end().await;
        }
    }

    /// Ends a session's processes and deletes its files.
    ///
    /// # Errors
    /// [`Error::Host`] when files remain.
    pub async fn remove(&self, session_id: &str) -> Result<(), Error> {
        store::check_id(session_id)?;
        let slot = self.slot(session_id);
        let mut slot = slot.lock().await;
        if let Some(sandbox) = slot.take() {
            sandbox.end().await;
        }
        let store = self.store.clone();
        let id = session_id.to_owned();
        let removed = on_thread(move || store.remove(&id)).await;
        self.slots().remove(session_id);
        removed
    }

    /// After a restart of the server, before the first [`Self::open`]: ends what an earlier one left running and removes
    /// its cgroups. What was opened since would be taken for an earlier server's.
    ///
    /// # Errors
    /// [`Error::Host`] when the records of an earlier run cannot be read.
    pub async fn sweep(&self) -> Result<(), Error> {
        self.store.end_orphans().await?;
        self.cgroups.remove_stale().await;
        Ok(())
    }

    /// Finishes deletions that an earlier server began. No other deletion must be under way.
    ///
    /// # Errors
    /// [`Error::Host`] when files remain.
    pub async fn finish_deletions(&self) -> Result<(), Error> {
        let store = self.store.clone();
        on_thread(move || store.finish_deletions()).await
    }

    /// Ends a session's processes and keeps its files apart, noting `at` which time: for a session that the server's store
    /// does not know.
    ///
    /// # Errors
    /// [`Error::Host`] when they are where they were.
    pub async fn set_aside(&self, session_id: &str, at: i64) -> Result<(), Error> {
        store::check_id(session_id)?;
        let slot = self.slot(session_id);
        let mut slot = slot.lock().await;
        if let Some(sandbox) = slot.take() {
            sandbox.end().await;
        }
        let files = SetAside { session_id: session_id.to_owned(), at };
        let taken = self.lost.take(&files);
        self.slots().remove(session_id);
        taken.map_err(Error::host(format!("keeping the files of session {session_id} apart")))
    }

    /// Everything that was set aside, oldest first, and the folder that it is in.
    ///
    /// # Errors
    /// [`Error::Host`] when the folder cannot be read.
    pub fn all_set_aside(&self) -> Result<(&Path, Vec<SetAside>), Error> {
        let folder = self.lost.path();
        let listed = self.lost.list().map_err(Error::host_at("listing a folder of the server's", folder))?;
        Ok((folder, listed))
    }

    /// Gives a session the files that were set aside, unless it has others. Whether it did. To be called before the first
    /// [`Self::open`] of the session.
    ///
    /// # Errors
    /// [`Error::Host`] when they are where they were.
    pub fn give_back(&self, files: &SetAside) -> Result<bool, Error> {
        let given = self.lost.give_back(files);
        given.map_err(Error::host(format!("giving session {} its files back", files.session_id)))
    }

    /// Deletes files that were set aside.
    ///
    /// # Errors
    /// [`Error::Host`] when files remain.
    pub async fn remove_set_aside(&self, files: &SetAside) -> Result<(), Error> {
        let (store, lost, files) = (self.store.clone(), self.lost.clone(), files.clone());
        on_thread(move || {
            let folder = lost.open().map_err(Error::host_at("opening a folder of the server's", lost.path()))?;
            store.delete(&folder, &files.name(), &files.session_id)
        })
        .await
    }

    /// Ends every sandbox and waits until all are gone.
    pub async fn shutdown(&self) {
        let slots: Vec<_> = self.slots().drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            if let Some(sandbox) = slot.lock().await.take() {
                sandbox.end().await;
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// The folder of a session's files on the host, for people and tests that look in from outside: `workspace`,
    /// `outputs` and `uploads` are its subfolders. What is in them was written by the agent, which may put a link to a
    /// file of the host in place of anything: the server itself reaches nothing there by a path.
    ///
    /// # Errors
    /// [`Error::BadSessionId`].
    pub fn session_dir(&self, session_id: &str) -> Result<std::path::PathBuf, Error> {
        store::check_id(session_id)?;
        Ok(self.store.session_dir(session_id))
    }

    /// The folder that holds one folder a session.
    pub fn sessions_dir(&self) -> &Path {
        self.store.root()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, session_id: &str) -> Arc<Slot> {
        self.slots().entry(session_id.to_owned()).or_default().clone()
    }
}

/// Deletes files on a thread for blocking work.
async fn on_thread(delete: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
    let deleted = tokio::task::spawn_blocking(delete).await;
    deleted.unwrap_or_else(|error| Err(Error::died(format!("removing files: {error}"))))
}
