//! The embedded backend: Rota's own namespaces on this machine, one sandbox a session.

mod cgroup;
mod doctor;
mod files;
mod identity;
mod listeners;
mod lost;
mod program;
mod records;
mod remedy;
mod sandbox;
mod store;
mod trees;

pub use doctor::{Protection, ProtectionState};
pub use files::{Area, Bounds, Found, Listing, NewFile};
pub use listeners::{Listeners, host_addresses};
pub use lost::SetAside;
pub use sandbox::Sandbox;
pub use trees::NewTree;

use std::collections::HashMap;
use std::future::ready;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::error::Error;
use crate::wire::Launch;
use cgroup::Cgroups;
use identity::Identities;
use lost::Lost;
use program::{Program, Spawner};
use store::Store;

/// The embedded backend. Dropping it, or the end of the process, ends every sandbox.
pub struct Embedded {
    config: Config,
    store: Store,
    lost: Lost,
    identities: Identities,
    cgroups: Cgroups,
    program: Arc<Program>,
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
    pub fn new(config: Config) -> Result<Arc<Self>, Error> {
        let identities = Identities::choose();
        let program = Arc::new(Program::new(config.init_program.clone()));
        let store = Store::new(&config, &identities, &program)?;
        let lost = Lost::new(store.root());
        let cgroups = Cgroups::find(store.root());
        let spawner = Spawner::start(Arc::clone(&program))?;
        let (slots, tasks) = (Mutex::default(), TaskTracker::new());
        Ok(Arc::new(Self { config, store, lost, identities, cgroups, program, spawner, slots, tasks }))
    }

    /// Says of each protection whether this machine gives it, and what to do where it does not. Starts nothing that
    /// stays, but does make namespaces to see whether the kernel allows it.
    pub fn probe(&self) -> Vec<Protection> {
        doctor::probe(&self.config, &self.identities, &self.cgroups, &self.program)
    }

    /// The running sandbox of a session, or a new one over the session's files. It is in use until this handle and all
    /// clones of it are dropped.
    ///
    /// # Errors
    /// [`Error::CannotIsolate`] when the fence cannot be set up in full: then nothing of the session runs.
    pub async fn open(self: &Arc<Self>, session_id: &str) -> Result<Sandbox, Error> {
        store::check_id(session_id)?;
        let mut slot = self.slot(session_id).lock_owned().await;
        if let Some(sandbox) = slot.as_ref().filter(|sandbox| sandbox.is_alive()) {
            return Ok(sandbox.clone());
        }
        let (backend, id) = (Arc::clone(self), session_id.to_owned());
        self.to_its_end(async move {
            if let Some(dead) = slot.take() {
                dead.end().await;
            }
            let sandbox = backend.start(&id).await?;
            *slot = Some(sandbox.clone());
            Ok(sandbox)
        })
        .await
    }

    async fn start(&self, session_id: &str) -> Result<Sandbox, Error> {
        let session = self.store.prepare(session_id, |owner| self.identities.for_session(owner))?;
        let cgroup = self.cgroups.create(session_id, &self.config.limits)?;
        let launch = Launch {
            identity: session.identity,
            session_dir: session.dir.clone(),
            root_fs: self.config.root_fs.clone(),
            limits: self.config.limits,
            cgroups: cgroup.folders(),
            limit_address_space: !self.cgroups.limits_memory(),
            is_new: session.is_new,
            had_shell: session.had_shell(),
            gate_ports: self.config.gate_ports.clone(),
        };
        sandbox::start(&self.spawner, &self.tasks, session, cgroup, launch).await
    }

    /// Ends a session's processes, and with them the calls that are under way. Its files are kept.
    pub async fn stop(&self, session_id: &str) {
        self.stop_when(session_id, |_| true).await;
    }

    /// The same, unless the sandbox is in use.
    pub async fn stop_unused(&self, session_id: &str) {
        self.stop_when(session_id, |sandbox| !sandbox.is_in_use()).await;
    }

    /// Looks and stops under the session's lock: nobody opens the sandbox in between, or while it ends.
    async fn stop_when(&self, session_id: &str, is_to_end: impl FnOnce(&Sandbox) -> bool) {
        let Some(slot) = self.slots().get(session_id).cloned() else { return };
        let mut slot = slot.lock_owned().await;
        if slot.as_ref().is_some_and(is_to_end) {
            let ended = self.to_its_end(async move {
                if let Some(sandbox) = slot.take() {
                    sandbox.end().await;
                }
                Ok(())
            });
            // It fails only with the runtime, which ends everything.
            let _ = ended.await;
        } else {
            drop(slot);
        }
        self.forget(session_id);
    }

    /// Ends a session's processes and deletes its files.
    ///
    /// # Errors
    /// [`Error::Host`] when files remain.
    pub async fn remove(&self, session_id: &str) -> Result<(), Error> {
        self.remove_if(session_id, ready(true)).await.map(drop)
    }

    /// The same, if that `is_to_be`, which is asked under the session's lock: nobody opens it in between. Whether it was.
    ///
    /// # Errors
    /// [`Error::Host`] when files remain.
    pub async fn remove_if(
        &self,
        session_id: &str,
        is_to_be: impl Future<Output = bool> + Send + 'static,
    ) -> Result<bool, Error> {
        store::check_id(session_id)?;
        let (store, id) = (self.store.clone(), session_id.to_owned());
        self.end_and(session_id, is_to_be, move || store.remove(&id)).await
    }

    /// If that `is_to_be`: ends a session's processes, does `then` with its files, and forgets the session.
    async fn end_and(
        &self,
        session_id: &str,
        is_to_be: impl Future<Output = bool> + Send + 'static,
        then: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<bool, Error> {
        let mut slot = self.slot(session_id).lock_owned().await;
        let done = self.to_its_end(async move {
            if !is_to_be.await {
                return Ok(false);
            }
            if let Some(sandbox) = slot.take() {
                sandbox.end().await;
            }
            let done = on_thread(then).await;
            drop(slot);
            done.map(|()| true)
        });
        let done = done.await;
        self.forget(session_id);
        done
    }

    /// Does what is done under a session's lock in a task of its own. Left half-way by a caller that gives up, it would go
    /// on beside whatever comes next.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.tasks.spawn(work).await;
        done.unwrap_or_else(|error| Err(Error::died(format!("its task ended: {error}"))))
    }

    /// After a restart of the server, before the first [`Self::open`]: ends what an earlier one left running and removes
    /// its cgroups. What was opened since would be taken for an earlier server's.
    ///
    /// # Errors
    /// [`Error::Host`] when the records of an earlier run cannot be read.
    pub async fn sweep(&self) -> Result<(), Error> {
        self.store.end_orphans().await?;
        self.cgroups.remove_stale().await;
        self.store.forget_incoming().map_err(Error::host("deleting files that were being written"))
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
        let (lost, files) = (self.lost.clone(), SetAside { session_id: session_id.to_owned(), at });
        let take = move || {
            lost.take(&files).map_err(Error::host(format!("keeping the files of session {} apart", files.session_id)))
        };
        self.end_and(session_id, ready(true), take).await.map(drop)
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
        let sessions: Vec<String> = self.slots().keys().cloned().collect();
        for session in sessions {
            self.stop(&session).await;
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

    /// Drops the slot of a session that has no sandbox, unless somebody is about to use it.
    fn forget(&self, session_id: &str) {
        let mut slots = self.slots();
        let is_free =
            |slot: &Arc<Slot>| Arc::strong_count(slot) == 1 && slot.try_lock().is_ok_and(|slot| slot.is_none());
        if slots.get(session_id).is_some_and(is_free) {
            slots.remove(session_id);
        }
    }
}

/// Works on files, which may be many, on a thread for blocking work.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::died(format!("working on files: {error}"))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn who_opens_a_session_waits_for_who_stops_or_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Embedded::new(Config::new(folder.path())).unwrap();
        let slot = backend.slot("s");
        let ending = slot.lock().await;
        let mut stop = Box::pin(backend.stop("s"));
        let mut remove = Box::pin(backend.remove("s"));
        let mut shutdown = Box::pin(backend.shutdown());
        let mut open = Box::pin(backend.open("s"));
        assert!(poll!(&mut stop).is_pending() && poll!(&mut remove).is_pending() && poll!(&mut shutdown).is_pending());
        assert!(poll!(&mut open).is_pending());
        assert!(Arc::ptr_eq(&backend.slot("s"), &slot), "they all wait for the same session");
        drop((open, ending));
        tokio::join!(stop, shutdown, async { remove.await.unwrap() });
        drop(slot);
        backend.forget("s");
        assert!(backend.slots().is_empty());
    }

    #[tokio::test]
    async fn whether_files_are_to_go_is_asked_when_nobody_can_open_their_session() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Embedded::new(Config::new(folder.path())).unwrap();
        let files = backend.session_dir("s").unwrap();
        std::fs::create_dir_all(&files).unwrap();
        let slot = backend.slot("s");
        let opening = slot.lock().await;
        let needed = Arc::new(AtomicBool::new(false));
        let asked = needed.clone();
        let mut remove = Box::pin(backend.remove_if("s", async move { !asked.load(Ordering::Relaxed) }));
        assert!(poll!(&mut remove).is_pending());
        // Whoever opens the session now has said before that its files are needed here.
        needed.store(true, Ordering::Relaxed);
        drop(opening);
        assert!(!remove.await.unwrap() && files.exists(), "they are needed again");
        needed.store(false, Ordering::Relaxed);
        assert!(backend.remove_if("s", ready(true)).await.unwrap() && !files.exists());
    }
}
