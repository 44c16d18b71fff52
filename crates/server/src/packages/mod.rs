//! The packages of environments: installed once, in a sandbox of their own, and shown read-only to every session that has them.
//!
//! Each package manager's packages are a layer, known by a key that says what it was installed over. Whoever needs a layer that
//! is not there starts its installation, or waits for the one that is under way; it goes on when nobody waits any more. A layer is there
//! whole or not at all.

mod managers;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rota_api::{
    environment::{LimitedNetwork, Networking, Packages as Wanted},
    id::{EnvironmentId, SessionId, WorkspaceId},
    image::BuildState,
};
use rota_sandbox::{About, Area, Embedded, Layer, NotRemoved, Part, Root, ToolCall};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    config::PackagesConfig,
    db::Db,
    error::{Error, Result},
    gate::{Gate, Policy},
    hex,
    images::{Chosen, Images},
    limits::{PACKAGES_BUILDS, PACKAGES_LOG_BYTES, PACKAGES_RECORD_RETRY},
    resources::package_builds::{self, Outcome},
    telemetry, tls,
};
use managers::{Manager, OF_AUTHORITIES, USUAL_PATH, WHILE_INSTALLING};

/// What sessions begin with in which packages are installed. No session of a user has such an id.
const BUILD: &str = "build_";
/// Where the file of authorities is inside while packages are installed.
const AUTHORITIES: &str = "authorities.pem";
/// Hosts of Debian, which the public registries of the hosted service leave out.
const DEBIAN: [&str; 3] = ["deb.debian.org", "security.debian.org", "ports.ubuntu.com"];
/// Programs whose change makes what was installed with them stale, where the root file system is the machine's own.
const PROGRAMS: [&str; 9] = ["python3", "pip3", "node", "npm", "cargo", "rustc", "gem", "ruby", "go"];

/// A session that is about to have a sandbox.
#[derive(Debug, Clone)]
pub struct Needs {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The session. What an installation connects to is in its egress log.
    pub session: SessionId,
    /// Its environment, which may be gone.
    pub environment: EnvironmentId,
    /// The image that it keeps, as it is stored.
    pub image: Option<String>,
    /// The packages that it keeps.
    pub packages: Wanted,
}

/// Installs packages, and finds those that are installed.
pub struct Packages(Arc<Inner>);

struct Inner {
    backend: Arc<Embedded>,
    images: Images,
    config: PackagesConfig,
    /// The operator's root file system, where there is one.
    root_fs: Option<std::path::PathBuf>,
    container_image: Option<String>,
    has_network: bool,
    gate: Gate,
    db: Db,
    clock: Clock,
    node: String,
    tasks: TaskTracker,
    stop: CancellationToken,
    turns: Semaphore,
    /// Installations that are under way, by their key, and what comes of them.
    under_way: Mutex<HashMap<String, watch::Receiver<Option<Built>>>>,
    /// One for each layer that is being made: two installations may begin with the same packages.
    layers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What an installation has come to: the layers, or why there are none; and what was printed.
#[derive(Debug, Clone)]
struct Built {
    layers: Result<Vec<(Manager, Layer)>, String>,
    log: String,
}

/// What [`Packages`] is made of.
pub struct Parts {
    /// Where sandboxes are.
    pub backend: Arc<Embedded>,
    /// The images of this machine.
    pub images: Images,
    /// How packages are installed.
    pub config: PackagesConfig,
    /// The operator's root file system, where there is one.
    pub root_fs: Option<std::path::PathBuf>,
    /// The image that containers are made from, where sandboxes are containers.
    pub container_image: Option<String>,
    /// Whether sandboxes have a network at all.
    pub has_network: bool,
    /// What the network goes through.
    pub gate: Gate,
    /// The store.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// The name of this server.
    pub node: String,
    /// What runs beside requests.
    pub tasks: TaskTracker,
    /// Set when the server is told to stop.
    pub stop: CancellationToken,
}

impl Packages {
    /// Over these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            backend,
            images,
            config,
            root_fs,
            container_image,
            has_network,
            gate,
            db,
            clock,
            node,
            tasks,
            stop,
        } = parts;
        Self(Arc::new(Inner {
            backend,
            images,
            config,
            root_fs,
            container_image,
            has_network,
            gate,
            db,
            clock,
            node,
            tasks,
            stop,
            turns: Semaphore::new(PACKAGES_BUILDS),
            under_way: Mutex::default(),
            layers: Mutex::default(),
        }))
    }

    /// What the sandbox of a session is made from. Packages that are not there are installed first, which may take minutes; that goes on
    /// when the future is dropped.
    ///
    /// # Errors
    /// Why it has none, for whoever reads the session's error.
    pub async fn root(&self, needs: &Needs) -> Result<Root, String> {
        let image = needs.image.as_deref().map(|image| self.0.images.get(image)).transpose()?;
        let mut root = Root { image, ..Root::default() };
        if needs.packages.is_empty() {
            return Ok(root);
        }
        for (manager, layer) in self.layers(needs, &root).await? {
            root.add(manager, layer);
        }
        root.environment = environment(&root, &needs.packages);
        Ok(root)
    }

    async fn layers(&self, needs: &Needs, root: &Root) -> Result<Vec<(Manager, Layer)>, String> {
        let inner = &self.0;
        check(needs)?;
        let keys = inner.keys(needs);
        if let Some(there) = inner.all_there(&keys).map_err(|error| error.to_string())? {
            return Ok(there);
        }
        let Some((_, whole)) = keys.last().cloned() else { return Ok(Vec::new()) };
        let mut outcome = {
            let mut under_way = lock(&inner.under_way);
            if let Some(outcome) = under_way.get(&whole) {
                outcome.clone()
            } else {
                let (tell, outcome) = watch::channel(None);
                under_way.insert(whole.clone(), outcome.clone());
                let (inner, needs, root) = (inner.clone(), needs.clone(), root.clone());
                self.0.tasks.spawn(async move {
                    tokio::select! {
                        built = inner.install(&needs, root, &keys) => drop(tell.send_replace(Some(built))),
                        // What is left is swept by the next start.
                        () = inner.stop.cancelled() => {}
                    }
                    lock(&inner.under_way).remove(&whole);
                });
                outcome
            }
        };
        let built = outcome.wait_for(Option::is_some).await.ok().and_then(|built| built.clone());
        match built {
            Some(built) => built.layers,
            // The server stops, and with it whoever waits. That is no failure of the session's.
            None => std::future::pending().await,
        }
    }

    /// Removes what an earlier server left unfinished, before the first session is run.
    ///
    /// # Errors
    /// When the store or the folder of sessions does not answer.
    pub async fn sweep(&self) -> Result<()> {
        let (node, now) = (self.0.node.clone(), self.0.clock.now());
        self.0.db.write(move |tx| package_builds::end_all_of(tx, &node, now)).await?;
        let entries = fs::read_dir(self.0.backend.sessions_dir()).map_err(Error::internal)?;
        let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        for build in names.iter().filter(|name| name.starts_with(BUILD)) {
            self.0.backend.remove(build).await.map_err(Error::internal)?;
        }
        Ok(())
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

trait AddLayer {
    fn add(&mut self, manager: Manager, layer: Layer);
}

impl AddLayer for Root {
    fn add(&mut self, manager: Manager, layer: Layer) {
        match manager {
            Manager::Apt => self.over.push(layer),
            other => self.packages.push((other.name().to_owned(), layer)),
        }
    }
}

/// The variables of a shell that has these packages.
fn environment(root: &Root, packages: &Wanted) -> Vec<String> {
    let has: Vec<Manager> = Manager::ALL.into_iter().filter(|manager| !manager.of(packages).is_empty()).collect();
    let of_image = root.image.iter().flat_map(|image| &image.about().environment);
    let path = of_image.filter_map(|variable| variable.strip_prefix("PATH=")).next_back().unwrap_or(USUAL_PATH);
    let folders = has.iter().filter_map(|manager| manager.path()).chain([path.to_owned()]);
    let path = format!("PATH={}", folders.collect::<Vec<_>>().join(":"));
    [path].into_iter().chain(has.iter().filter_map(|manager| manager.variable())).collect()
}

impl Inner {
    /// The key of each manager's packages, in the order of their installation.
    fn keys(&self, needs: &Needs) -> Vec<(Manager, String)> {
        let mut before = match needs.image.as_deref().map(Chosen::read) {
            Some(Chosen { name, key }) => {
                let key = key.or_else(|| self.images.layers().named(&name));
                format!("image {}", key.unwrap_or(name))
            }
            None => match &self.container_image {
                Some(image) => format!("container {image}"),
                None => format!("machine {}", of_machine(self.root_fs.as_deref().unwrap_or(Path::new("/")))),
            },
        };
        let mut keys = Vec::new();
        for manager in Manager::ALL {
            let packages = manager.of(&needs.packages);
            if !packages.is_empty() {
                before = managers::key(&before, manager, packages);
                keys.push((manager, before.clone()));
            }
        }
        keys
    }

    fn all_there(&self, keys: &[(Manager, String)]) -> std::io::Result<Option<Vec<(Manager, Layer)>>> {
        let found =
            keys.iter().map(|(manager, key)| Ok(self.backend.packages().get(key)?.map(|layer| (*manager, layer))));
        found.collect::<std::io::Result<Option<Vec<_>>>>()
    }

    /// Installs what is not there, and records how it went.
    async fn install(self: &Arc<Self>, needs: &Needs, root: Root, keys: &[(Manager, String)]) -> Built {
        self.record(needs, Outcome { state: BuildState::Building, log: None, error: None }).await;
        let mut built = Built { layers: Ok(Vec::new()), log: String::new() };
        let mut root = root;
        let mut layers = Vec::new();
        for (manager, key) in keys {
            match self.layer(needs, &root, *manager, key, &mut built.log).await {
                Ok(layer) => {
                    root.add(*manager, layer.clone());
                    layers.push((*manager, layer));
                }
                Err(error) => {
                    tracing::warn!(session_id = %needs.session, %error, "packages of an environment could not be installed");
                    built.layers = Err(error);
                    break;
                }
            }
        }
        let error = built.layers.as_ref().err().cloned();
        let state = if error.is_some() { BuildState::Failed } else { BuildState::Ready };
        if error.is_none() {
            built.layers = Ok(layers);
        }
        self.record(needs, Outcome { state, log: Some(built.log.clone()), error }).await;
        self.tidy();
        built
    }

    /// Records what an installation has come to; while the store is away it is tried again.
    async fn record(&self, needs: &Needs, outcome: Outcome) {
        loop {
            let (needs, node, now, outcome) = (needs.clone(), self.node.clone(), self.clock.now(), outcome.clone());
            let write = move |tx: &mut crate::db::Tx<'_>| {
                package_builds::record(tx, &needs.workspace, &needs.environment, &node, now, &outcome)
            };
            let Err(error) = self.db.write(write).await else { return };
            let is_away = matches!(error, Error::Database(_));
            if telemetry::may_tell("how packages were installed") {
                tracing::warn!(%error, "how packages were installed could not be recorded");
            }
            if !is_away {
                return;
            }
            sleep(PACKAGES_RECORD_RETRY).await;
        }
    }

    /// The layer of a manager's packages, made when it is not there.
    async fn layer(
        self: &Arc<Self>,
        needs: &Needs,
        root: &Root,
        manager: Manager,
        key: &str,
        log: &mut String,
    ) -> Result<Layer, String> {
        let turn = lock(&self.layers).entry(key.to_owned()).or_default().clone();
        let made = {
            let _alone = turn.lock().await;
            match self.backend.packages().get(key) {
                Ok(Some(layer)) => {
                    log.push_str(&format!("{}: installed earlier\n", manager.name()));
                    Ok(layer)
                }
                Ok(None) => self.make(needs, root, manager, key, log).await,
                Err(error) => Err(error.to_string()),
            }
        };
        let mut layers = lock(&self.layers);
        drop(turn);
        if layers.get(key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            layers.remove(key);
        }
        made
    }

    async fn make(
        self: &Arc<Self>,
        needs: &Needs,
        root: &Root,
        manager: Manager,
        key: &str,
        log: &mut String,
    ) -> Result<Layer, String> {
        let packages = manager.of(&needs.packages);
        if !self.has_network {
            return Err(format!(
                "{} cannot install packages: sandboxes of this server have no network, because its operator has switched it off",
                manager.name()
            ));
        }
        let _turn = self.turns.acquire().await.map_err(|_| "the server is stopping".to_owned())?;
        let id = format!("{BUILD}{key}");
        let made = self.make_in(&id, needs, root, manager, key, log).await;
        if let Err(error) = self.backend.remove(&id).await {
            tracing::error!(%error, "the files of an installation remain; the next start tries again");
        }
        made.map_err(|printed| managers::failure(manager, packages, &printed))
    }

    async fn make_in(
        &self,
        id: &str,
        needs: &Needs,
        root: &Root,
        manager: Manager,
        key: &str,
        log: &mut String,
    ) -> Result<Layer, String> {
        let told = |error: rota_sandbox::Error| error.for_client();
        // What an earlier try left.
        self.backend.remove(id).await.map_err(told)?;
        let mut on = root.clone();
        on.building = Some(manager.name().to_owned());
        on.disk_bytes = Some(self.config.mib * 1024 * 1024);
        on.environment = self.variables(root, &needs.packages, manager);
        let sandbox = self.backend.open_with(id, on.into()).await.map_err(told)?;
        if let Some(text) = self.authorities().map_err(|error| error.to_string())? {
            self.backend.put(id, Area::Uploads, AUTHORITIES, text.into_bytes()).await.map_err(told)?;
        }
        self.gate.attend(&sandbox, &needs.workspace, &needs.session, &self.policy());
        let command = Some(manager.command(manager.of(&needs.packages)));
        let call = ToolCall::Bash { command, timeout_ms: Some(self.config.seconds * 1000), restart: false };
        let output = sandbox.call("install", &call).await;
        drop(sandbox);
        let output = output.map_err(told)?;
        log.push_str(&format!("{}:\n{}\n", manager.name(), output.content.trim_end()));
        log.drain(..log.len() - managers::last(log, PACKAGES_LOG_BYTES).len());
        if output.is_error {
            return Err(output.content);
        }
        let part = if manager == Manager::Apt { Part::Changes } else { Part::Packages };
        let about = About {
            reference: format!("{}: {}", manager.name(), manager.of(&needs.packages).join(", ")),
            architecture: std::env::consts::ARCH.to_owned(),
            made_at: self.clock.now().micros(),
            ..About::default()
        };
        let layer = self.backend.keep(id, part, key, about).await.map_err(told)?;
        if layer.about().bytes <= self.config.mib * 1024 * 1024 {
            return Ok(layer);
        }
        // The watch over the disk looks every few seconds, and something fast may end before it.
        drop(layer);
        let removed = self.backend.packages().remove(key);
        tracing::debug!(?removed, "packages that are too large were removed");
        Err(format!("its packages have more than {} MiB", self.config.mib))
    }

    /// What package managers reach: their registries and what the operator adds, whatever the environment's own network is.
    fn policy(&self) -> Policy {
        let hosts = DEBIAN.iter().map(|host| (*host).to_owned()).chain(self.config.hosts.iter().cloned());
        let network =
            LimitedNetwork { allowed_hosts: hosts.collect(), allow_mcp_servers: false, allow_package_managers: true };
        self.gate.policy(Policy::new(&Networking::Limited(network), []))
    }

    fn variables(&self, root: &Root, packages: &Wanted, manager: Manager) -> Vec<String> {
        let mut variables = environment(root, packages);
        // A language must not take for installed what is only being installed.
        variables.retain(|variable| Some(variable) != manager.variable().as_ref());
        variables.extend(WHILE_INSTALLING.map(str::to_owned));
        if self.config.authorities.is_some() {
            variables.extend(OF_AUTHORITIES.map(|name| format!("{name}=/mnt/session/uploads/{AUTHORITIES}")));
        }
        variables.extend(self.config.variables.iter().map(|(name, value)| format!("{name}={value}")));
        variables
    }

    /// The authorities that package managers trust, where the operator adds some.
    fn authorities(&self) -> Result<Option<String>> {
        let Some(own) = &self.config.authorities else { return Ok(None) };
        let added = fs::read_to_string(own).map_err(|error| {
            tracing::error!(%error, file = %own.display(), "packages.authorities cannot be read");
            Error::invalid("packages.authorities of this server cannot be read")
        })?;
        Ok(Some(tls::authorities() + &added))
    }

    /// Removes layers that were not used for longest, and are not in use, while all together take more than they may.
    fn tidy(&self) {
        let layers = self.backend.packages();
        let Ok(all) = layers.all() else { return };
        let mut bytes: u64 = all.iter().map(|(.., about)| about.bytes).sum();
        for (_, key, about) in all {
            if bytes <= self.config.store_mib * 1024 * 1024 {
                return;
            }
            match layers.remove(&key) {
                Ok(Ok(()) | Err(NotRemoved::Missing)) => bytes = bytes.saturating_sub(about.bytes),
                Ok(Err(NotRemoved::InUse)) => {}
                Err(error) => tracing::warn!(%error, "installed packages that nobody uses remain"),
            }
        }
    }
}

/// That everything can be installed at all.
fn check(needs: &Needs) -> Result<(), String> {
    for manager in Manager::ALL {
        if let Some(refused) = manager.refuses(manager.of(&needs.packages)) {
            return Err(refused);
        }
    }
    if !needs.packages.apt.is_empty() && needs.image.is_none() {
        return Err("config.packages.apt: packages of Debian are installed over an image, and this environment has none: its \
                    sandboxes see the programs of the server's machine, which nobody may change. Give it an image with POST \
                    /rota/v1/environments/{environment_id}/image, or leave apt out"
            .to_owned());
    }
    Ok(())
}

/// What of a machine's own programs decides whether installed packages still fit: its release and its package managers.
fn of_machine(root: &Path) -> String {
    let mut hash = Sha256::new();
    hash.update(root.to_string_lossy().as_bytes());
    hash.update(fs::read(root.join("etc/os-release")).unwrap_or_default());
    for folder in ["usr/local/bin", "usr/bin"] {
        for program in PROGRAMS {
            let path = root.join(folder).join(program);
            if let (Ok(place), Ok(meta)) = (path.canonicalize(), path.metadata()) {
                let modified = std::os::unix::fs::MetadataExt::mtime(&meta);
                hash.update(format!("{} {} {modified}\n", place.display(), meta.len()));
            }
        }
    }
    hex::digits(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::managers::FOLDER;
    use super::*;

    #[test]
    fn a_shell_finds_the_programs_and_modules_of_its_packages_first() {
        let packages = Wanted { npm: vec!["a".to_owned()], pip: vec!["b".to_owned()], ..Wanted::default() };
        assert_eq!(
            environment(&Root::default(), &packages),
            [
                format!("PATH={FOLDER}/npm/bin:{FOLDER}/pip/bin:{USUAL_PATH}"),
                format!("NODE_PATH={FOLDER}/npm/lib/node_modules"),
                format!("PYTHONPATH={FOLDER}/pip"),
            ]
        );
    }

    #[test]
    fn the_machine_is_another_when_its_interpreter_is() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        let before = of_machine(root.path());
        fs::write(root.path().join("usr/bin/python3"), "one").unwrap();
        let with = of_machine(root.path());
        fs::write(root.path().join("usr/bin/python3"), "another").unwrap();
        assert!(before != with && with != of_machine(root.path()));
    }
}
