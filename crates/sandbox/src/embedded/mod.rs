//! The embedded backend: Rota's own namespaces on this machine, one sandbox a session.

mod cgroup;
mod doctor;
mod identity;
mod program;
mod records;
mod remedy;
mod sandbox;
mod store;

pub use doctor::{Protection, ProtectionState};
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
use program::Spawner;
use store::Store;

/// The embedded backend. Dropping it, or the end of the process, ends every sandbox.
pub struct Embedded {
    config: Config,
    store: Store,
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
        let cgroups = Cgroups::find(store.root());
        let spawner = Spawner::start(config.init_program.clone())?;
        Ok(Self { config, store, identities, cgroups, spawner, slots: Mutex::default(), tasks: TaskTracker::new() })
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
        let removed = tokio::task::spawn_blocking(move || store.remove(&id)).await;
        self.slots().remove(session_id);
        removed.unwrap_or_else(|error| Err(Error::died(format!("removing files: {error}"))))
    }

    /// After a restart of the server: ends what an earlier one left running and removes its cgroups.
    ///
    /// # Errors
    /// [`Error::Host`] when the records of an earlier run cannot be read.
    pub async fn sweep(&self) -> Result<(), Error> {
        let running: Vec<String> = self.slots().keys().cloned().collect();
        self.store.end_orphans(&running).await?;
        self.cgroups.remove_stale(&running).await;
        Ok(())
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
