//! The sandboxes of this machine, one a session: in Rota's own namespaces, or in containers of a daemon (`containers/`). Files,
//! layers, slots and the conversation with the init are the same for both.

mod cgroup;
mod checkpoint;
mod counts;
mod doctor;
mod files;
mod identity;
mod layers;
mod listeners;
mod lost;
mod program;
mod records;
mod remedy;
mod sandbox;
mod store;
mod trees;
mod unpack;

pub use checkpoint::{Contents, Entry, Reach, SessionFiles, What, path_inside, pieces, state_of};
pub use counts::Counts;
pub use doctor::{Protection, ProtectionState};
pub use files::{Area, Bounds, Found, Listing, NewFile};
pub use layers::{About, Layer, Layers, NewLayer, NotRemoved, is_name};
pub use listeners::{Listeners, host_addresses};
pub use lost::SetAside;
pub use sandbox::Sandbox;
pub use trees::NewTree;
pub use unpack::{UnpackBounds, UnpackError, Unpacking};

use std::any::Any;
use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::TaskTracker;

use crate::config::{Config, Limits};
use crate::containers::{self, Daemon};
use crate::error::Error;
use crate::folder::Folder;
use crate::init::BUILDING;
use crate::wire::{Authorities, ContainerIds, Launch, Shown};
use cgroup::Cgroups;
use counts::Counters;
use identity::Identities;
use lost::Lost;
use program::{Program, Spawner};
use sandbox::Spawned;
use store::{Inside, Store};

/// The sandboxes of this machine. Dropping it, or the end of the process, ends every sandbox.
pub struct Embedded {
    config: Config,
    store: Store,
    lost: Lost,
    images: Layers,
    packages: Layers,
    identities: Identities,
    cgroups: Cgroups,
    program: Arc<Program>,
    spawner: Spawner,
    /// The daemon whose containers the sandboxes are.
    daemon: Option<Arc<Daemon>>,
    /// One slot a session that was opened, so that two openings of one session wait for each other and others do not.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    tasks: TaskTracker,
    counters: Arc<Counters>,
}

type Slot = tokio::sync::Mutex<Option<Sandbox>>;

/// What a new sandbox finds inside beside its session's files.
#[derive(Clone, Default)]
pub struct Setup {
    /// What it is made from.
    pub root: Root,
    /// Variables of its shell. One that has the name of a usual one takes its place.
    pub environment: Vec<(String, String)>,
    /// The authorities that its programs are to trust, in the place of those of its root file system.
    pub authorities: Option<Authorities>,
    /// What belongs to the sandbox outside of it, kept as long as there is a handle of it: [`Sandbox::companion`].
    pub companion: Option<Arc<dyn Any + Send + Sync>>,
}

impl From<Root> for Setup {
    fn from(root: Root) -> Self {
        Self { root, ..Self::default() }
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").finish_non_exhaustive()
    }
}

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
        let program = Arc::new(Program::new(config.init_program.clone()));
        let daemon = match &config.containers {
            None => None,
            Some(containers) => {
                let folder = containers::make_folder(&config.data_dir, |file| program.write(file))?;
                Some(Arc::new(Daemon::new(containers.clone(), config.limits, folder)?))
            }
        };
        let identities = match daemon.as_ref().map(|daemon| daemon.ids()) {
            Some(ContainerIds::OfHost) => Identities::of_host(),
            _ => Identities::choose(),
        };
        let store = Store::new(&config, &identities, &program)?;
        let lost = Lost::new(store.root());
        let images = open_layers(&config.data_dir, "images", &identities, &program)?;
        let packages = open_layers(&config.data_dir, "packages", &identities, &program)?;
        let cgroups = if daemon.is_none() { Cgroups::find(store.root()) } else { Cgroups::none() };
        let spawner = Spawner::start(Arc::clone(&program))?;
        let (slots, tasks) = (Mutex::default(), TaskTracker::new());
        Ok(Arc::new(Self {
            config,
            store,
            lost,
            images,
            packages,
            identities,
            cgroups,
            program,
            spawner,
            daemon,
            slots,
            tasks,
            counters: Arc::default(),
        }))
    }

    /// How many sandboxes there are and were.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// The images of this machine, unpacked.
    pub fn images(&self) -> &Layers {
        &self.images
    }

    /// The packages that were installed for environments.
    pub fn packages(&self) -> &Layers {
        &self.packages
    }

    /// Says of each protection whether this machine gives it, and what to do where it does not. Starts nothing that
    /// stays, but does make namespaces to see whether the kernel allows it.
    pub fn probe(&self) -> Vec<Protection> {
        if let Some(daemon) = &self.daemon {
            return doctor::probe_daemon(daemon);
        }
        doctor::probe(&self.config, &self.identities, &self.cgroups, &self.program)
    }

    /// The running sandbox of a session, or a new one over the session's files. It is in use until this handle and all
    /// clones of it are dropped.
    ///
    /// # Errors
    /// [`Error::CannotIsolate`] when the fence cannot be set up in full: then nothing of the session runs.
    pub async fn open(self: &Arc<Self>, session_id: &str) -> Result<Sandbox, Error> {
        self.open_with(session_id, Setup::default()).await
    }

    /// The same; a new sandbox has `setup`, and one that runs keeps its own.
    ///
    /// # Errors
    /// [`Error::CannotIsolate`] when the fence cannot be set up in full: then nothing of the session runs.
    pub async fn open_with(self: &Arc<Self>, session_id: &str, setup: Setup) -> Result<Sandbox, Error> {
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
            let sandbox = backend.start(&id, setup).await.inspect_err(|_| backend.counters.not_started())?;
            *slot = Some(sandbox.clone());
            Ok(sandbox)
        })
        .await
    }

    /// The sandbox of a session, if it is up.
    pub async fn running(&self, session_id: &str) -> Option<Sandbox> {
        let slot = self.slot(session_id).lock_owned().await;
        let found = slot.as_ref().filter(|sandbox| sandbox.is_alive()).cloned();
        drop(slot);
        if found.is_none() {
            self.forget(session_id);
        }
        found
    }

    async fn start(&self, session_id: &str, setup: Setup) -> Result<Sandbox, Error> {
        let root = setup.root;
        let session = match &root.building {
            None => self.store.prepare(session_id, |owner| self.identities.for_session(owner))?,
            // What is made there is a layer's.
            Some(_) => self.store.prepare(session_id, |_| Ok(self.identities.of_layers()))?,
        };
        let limits =
            Limits { disk_bytes: root.disk_bytes.unwrap_or(self.config.limits.disk_bytes), ..self.config.limits };
        let mut launch = Launch {
            identity: session.identity,
            session_dir: session.dir.clone(),
            // An image stands in the place of the operator's own.
            root_fs: self.config.root_fs.clone().filter(|_| root.image.is_none()),
            shown: root.shown(self.images.owner.filter(|_| session.identity != self.identities.of_layers())),
            limits,
            cgroups: Vec::new(),
            limit_address_space: !self.cgroups.limits_memory(),
            is_new: session.is_new,
            had_shell: session.had_shell(),
            gate_ports: self.config.gate_ports.clone(),
            environment: setup.environment.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            authorities: setup.authorities,
            container: None,
        };
        session.make_root(launch.is_overlay(), root.building.is_some())?;
        let spawned = match &self.daemon {
            None => {
                let cgroup = self.cgroups.create(session_id, &limits)?;
                launch.cgroups = cgroup.folders();
                Spawned::own(&self.spawner, cgroup).await?
            }
            Some(daemon) => {
                let started = daemon.start(session_id, &session.dir, &mut launch).await?;
                session.record.write(started.pid)?;
                Spawned::in_container(started)
            }
        };
        let parts = sandbox::Parts { session, root, companion: setup.companion, counters: Arc::clone(&self.counters) };
        sandbox::start(&self.tasks, parts, launch, spawned).await
    }

    /// Makes a layer of what was built in the sandbox of a session, which is ended: of the packages that were installed in its own
    /// folder, or of all changes to its root.
    ///
    /// # Errors
    /// When it cannot be moved to its place.
    pub async fn keep(&self, session_id: &str, part: Part, key: &str, about: About) -> Result<Layer, Error> {
        store::check_id(session_id)?;
        let (dir, layers, key) = (self.store.session_dir(session_id), self.packages.clone(), key.to_owned());
        self.stop(session_id).await;
        let keeping = move || {
            let new = layers.begin()?;
            let name = if part == Part::Packages { BUILDING } else { "upper" };
            new.take(&Folder::open(&dir)?, name)?;
            let (mut size, most) = ((0, 0), (u64::MAX, u64::MAX));
            match new.files()?.measure(most, &mut size, MAX_DEPTH) {
                // Folders of other ids may be closed to a plain user.
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
            new.place(&key, &About { bytes: size.0, files: size.1, ..about })
        };
        on_thread(move || keeping().map_err(Error::host("keeping installed packages"))).await
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
        if let Some(daemon) = &self.daemon
            && let Err(error) = daemon.sweep_once().await
        {
            // Nothing of it runs any more, and no container is made before it is gone.
            tracing::warn!(%error, "containers of an earlier start are not removed yet: this is done before the first new one");
        }
        let (images, packages) = (self.images.clone(), self.packages.clone());
        on_thread(move || {
            let swept = images.sweep().and_then(|()| packages.sweep());
            swept.map_err(Error::host("deleting layers that were not finished"))
        })
        .await?;
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

/// What a sandbox is made from beside the session's own files.
#[derive(Debug, Clone, Default)]
pub struct Root {
    /// The image whose files are its root. `None`: the host's own programs, or the operator's root file system.
    pub image: Option<Layer>,
    /// Layers over the image, the lowest first.
    pub over: Vec<Layer>,
    /// Packages that are shown below `/mnt/packages`, with their names there.
    pub packages: Vec<(String, Layer)>,
    /// Variables of the shell, `NAME=value`, over those of the image.
    pub environment: Vec<String>,
    /// The folder below `/mnt/packages` in which packages are installed now: the sandbox makes a layer.
    pub building: Option<String>,
    /// Most bytes on disk, where it is not what every sandbox may have.
    pub disk_bytes: Option<u64>,
}

/// What of a sandbox becomes a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is in the folder that [`Root::building`] names.
    Packages,
    /// What is different from the image.
    Changes,
}

/// Most folders of a layer below each other that are measured.
const MAX_DEPTH: usize = 512;

impl Root {
    fn shown(&self, owner: Option<u32>) -> Shown {
        let lowers: Vec<&Layer> = self.image.iter().chain(&self.over).collect();
        let size = lowers.iter().fold((0, 0), |(bytes, files), layer| {
            (layer.about().bytes.saturating_add(bytes), layer.about().files.saturating_add(files))
        });
        let of_image = self.image.iter().flat_map(|image| &image.about().environment);
        Shown {
            lowers: lowers.into_iter().map(|layer| layer.path().to_owned()).collect(),
            packages: self.packages.iter().map(|(name, layer)| (name.clone(), layer.path().to_owned())).collect(),
            // Without a layer nothing has to be mapped.
            owner: owner.filter(|_| self.image.is_some() || !self.over.is_empty() || !self.packages.is_empty()),
            building: self.building.clone(),
            size,
            environment: of_image.chain(&self.environment).cloned().collect(),
        }
    }
}

/// Opens the images of a data folder beside the server that may be using it: for the command line.
///
/// # Errors
/// [`Error::Host`] when their folder cannot be made.
pub fn open_images(data_dir: &Path) -> Result<Layers, Error> {
    open_layers(data_dir, "images", &Identities::choose(), &Arc::new(Program::new(None)))
}

fn open_layers(data_dir: &Path, name: &str, identities: &Identities, program: &Arc<Program>) -> Result<Layers, Error> {
    let owner = identities.of_layers().owner();
    let inside = identities.subordinate().map(|identity| Inside { identity, program: Arc::clone(program) });
    Layers::new(&data_dir.join(name), owner, inside)
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
