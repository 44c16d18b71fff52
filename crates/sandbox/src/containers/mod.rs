//! Containers of Docker or Podman in the place of Rota's own namespaces.
//!
//! A daemon makes a container of an image, with the folders of the session, without a network and with a read-only root. Its process 1
//! is the same init: it connects to a socket in a mounted folder, hands out the gate's listeners there, gives up what is left of its
//! power, checks the fence from inside, and then speaks as ever. The daemon is needed to make and to remove a container; in between
//! nothing goes through it. What it is asked for is in `body.rs`.
//!
//! Every container has this server's name as a label. Before a server makes its first one, it removes those that an earlier start left.

mod api;
mod body;

use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::config::{Containers, Engine, Limits};
use crate::error::Error;
use crate::folder::{self, Folder, by_descriptor};
use crate::init::{
    AUTHORITIES, BUILDING, ETC_WRITTEN, KEYSTORE, LEADING, MEMORY, NO_SOCKET, TRUST, USUAL_AUTHORITIES,
    WRITABLE_MEMORY, namespaces, session_folders,
};
use crate::wire::{Authorities, ContainerIds, Failure, Launch, PACKAGES};
use api::{Answer, Api};
use body::{Can, Mount, Plan};

/// The label that names the server, and the one that names the session.
const SERVER_LABEL: &str = "rota.server";
const SESSION_LABEL: &str = "rota.session";
/// The API of Podman's own, which all its versions from 4.0 on speak.
const LIBPOD: &str = "/v4.0.0/libpod";
/// Where the init is inside, and the folder with the server's socket.
const INIT: &str = "/run/rota-init";
const DOOR: &str = "/run/rota-door";
/// The socket's name.
const SOCKET: &str = "socket";
/// How long a container that was started may take until its init has connected.
const CONNECT_TIMEOUT: Duration = Duration::from_mins(1);
/// How often it is asked meanwhile whether it has ended.
const ALIVE_INTERVAL: Duration = Duration::from_millis(200);
/// How long the removal of one that has ended is tried.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a container is asked to be removed that the daemon is busy with.
const REMOVE_TRIES: usize = 25;
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
/// Variables of an image that programs do without: the shell has its own.
const OF_THE_SHELL: [&str; 6] = ["HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR"];
/// Variables of an image that are kept, and the longest, in bytes.
const MAX_VARIABLES: usize = 128;
const MAX_VARIABLE: usize = 32 << 10;

/// A daemon and what this server asks of it.
pub(crate) struct Daemon {
    config: Containers,
    limits: Limits,
    api: Api,
    /// The server's own folder for containers: the init, what all of them see, and a folder for each.
    folder: PathBuf,
    /// What the daemon is, once it was asked.
    facts: OnceCell<Facts>,
    /// Set when what an earlier start left is gone.
    swept: OnceCell<()>,
}

/// What a daemon says of itself.
#[derive(Debug, Clone)]
struct Facts {
    can: Can,
    version: String,
    /// Buffers of sockets count as memory. Runtimes do not limit them where cgroups count them apart (version 1).
    counts_sockets: bool,
}

/// A container that was started, whose init has connected.
pub(crate) struct Started {
    pub(crate) stream: UnixStream,
    /// Its process 1.
    pub(crate) process: OwnedFd,
    pub(crate) pid: i32,
    pub(crate) container: Container,
}

/// A container of this server.
pub(crate) struct Container {
    daemon: Arc<Daemon>,
    session_id: String,
}

/// The file of the init in the folder of containers.
pub(crate) fn init_file(folder: &Path) -> PathBuf {
    folder.join("init")
}

impl Daemon {
    /// A daemon whose containers have `folder` for what the server gives them; the init is in it ([`init_file`]).
    pub(crate) fn new(config: Containers, limits: Limits, folder: PathBuf) -> Result<Self, Error> {
        let api = Api { socket: config.socket.clone() };
        for (path, text) in of_etc() {
            let file = etc_file(&folder, path);
            fs::write(&file, text).map_err(Error::host_at("writing a file for containers", &file))?;
            open_to_all(&file, 0o644)?;
        }
        Ok(Self { config, limits, api, folder, facts: OnceCell::new(), swept: OnceCell::new() })
    }

    /// Whose ids those in containers stand for.
    pub(crate) fn ids(&self) -> ContainerIds {
        match (nix::unistd::geteuid().is_root(), self.config.engine) {
            (true, Engine::Podman) => ContainerIds::Own,
            (true, Engine::Docker) => ContainerIds::OfHost,
            (false, _) => ContainerIds::OfUser,
        }
    }

    /// Makes and starts a container for a session, and waits until its init has connected.
    pub(crate) async fn start(
        self: &Arc<Self>,
        session_id: &str,
        session_dir: &Path,
        launch: &mut Launch,
    ) -> Result<Started, Error> {
        if !launch.shown.lowers.is_empty() {
            return Err(Error::CannotIsolate {
                cause: "the environment has an image of this server, or packages of apt, and sandboxes are containers of the image \
                        that `image` in [sandbox] names"
                    .to_owned(),
                remedy: "Take the image and the packages of apt out of the environment, and have them in that image.".to_owned(),
            });
        }
        let facts = self.facts().await?.clone();
        self.sweep_once().await?;
        let of_image = self.look_at_image().await?;
        launch.shown.environment.splice(0..0, of_image).for_each(drop);
        launch.limit_address_space = !facts.can.memory;
        let host_namespaces = namespaces().map_err(Error::host("reading /proc/self/ns"))?;
        launch.container = Some(crate::wire::Container { host_namespaces, ids: self.ids() });
        let container = Container { daemon: Arc::clone(self), session_id: session_id.to_owned() };
        // One that an earlier sandbox of the session left, when the daemon was away, must be gone before there is another.
        self.remove(session_id).await?;
        let started = self.start_anew(session_dir, launch, facts.can, &container).await;
        if started.is_err() {
            container.forget().await;
        }
        let (stream, process, pid) = started?;
        // No path of the host's is told inside, nor is what stands in files there.
        launch.session_dir = PathBuf::new();
        launch.shown.packages = Vec::new();
        launch.authorities =
            launch.authorities.take().map(|_| Authorities { pem: String::new(), keystore: Vec::new() });
        Ok(Started { stream, process, pid, container })
    }

    async fn start_anew(
        &self,
        session_dir: &Path,
        launch: &Launch,
        can: Can,
        container: &Container,
    ) -> Result<(UnixStream, OwnedFd, i32), Error> {
        let own = self.own_folder(&container.session_id);
        let making = || Error::host_at("making the folder of a container", &own);
        let listener = make_door(&own, launch.authorities.as_ref()).map_err(making())?;
        let mounts = self.mounts(&own, session_dir, launch).map_err(making())?;
        let socket = format!("{DOOR}/{SOCKET}");
        let (name, ids) = (self.name(&container.session_id), self.ids());
        let plan = Plan {
            image: &self.config.image,
            runtime: self.config.runtime.as_deref(),
            name: &name,
            command: [INIT, &socket],
            labels: json!({SERVER_LABEL: self.config.server, SESSION_LABEL: container.session_id}),
            mounts,
            limits: &launch.limits,
            can,
            identity: (ids == ContainerIds::Own).then_some(launch.identity),
            is_root_of_host: ids == ContainerIds::OfHost,
        };
        self.create(&plan).await?;
        let answer = self.ask(Method::POST, &format!("/containers/{name}/start"), None).await?;
        if !answer.status.is_success() {
            return Err(self.refused("to start a container", &answer));
        }
        let stream = self.connected(&listener, &name).await?;
        // Whoever is behind the door by now is the init: nothing else runs in there yet, and nobody comes in after it.
        let _ = fs::remove_file(own.join("door").join(SOCKET));
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        let process = pid.and_then(|pid| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?)));
        let (pid, process) = process.ok_or_else(|| Error::CannotIsolate {
            cause: "the processes of containers cannot be seen from here".to_owned(),
            remedy: "Run the server on the daemon's own machine and in its process namespace (`--pid host` where it is in a container \
                     itself)."
                .to_owned(),
        })?;
        Ok((stream, process, pid))
    }

    async fn create(&self, plan: &Plan<'_>) -> Result<(), Error> {
        let (path, body) = match self.config.engine {
            Engine::Docker => (format!("/containers/create?name={}", plan.name), plan.for_docker()),
            Engine::Podman => (format!("{LIBPOD}/containers/create"), plan.for_podman()),
        };
        let answer = self.ask(Method::POST, &path, Some(&body)).await?;
        if !answer.status.is_success() {
            return Err(self.refused("to make a container", &answer));
        }
        match (self.config.engine, plan.runtime) {
            (Engine::Podman, Some(runtime)) => self.check_runtime(plan.name, runtime).await,
            _ => Ok(()),
        }
    }

    /// That Podman took the runtime: versions that do not know the wish pass over it.
    async fn check_runtime(&self, name: &str, wanted: &str) -> Result<(), Error> {
        let made = self.ask(Method::GET, &format!("{LIBPOD}/containers/{name}/json"), None).await?.json();
        let found = made["OCIRuntime"].as_str().unwrap_or_default();
        let is_wanted = found == wanted || Path::new(found).file_name() == Path::new(wanted).file_name();
        if is_wanted {
            return Ok(());
        }
        Err(Error::CannotIsolate {
            cause: format!("`runtime` in [sandbox] is \"{wanted}\", and Podman starts containers with \"{found}\""),
            remedy: format!(
                "Set `runtime = \"{wanted}\"` in [engine] of Podman's containers.conf, and start its service again."
            ),
        })
    }

    /// What every container of this session sees of the host.
    fn mounts(&self, own: &Path, session_dir: &Path, launch: &Launch) -> io::Result<Vec<Mount>> {
        let shown = |source: PathBuf, target: &str, writable| {
            let target = Path::new("/").join(target).to_string_lossy().into_owned();
            Mount { source, target, writable }
        };
        let mut mounts = vec![shown(init_file(&self.folder), INIT, false), shown(own.join("door"), DOOR, false)];
        for (folder, path, writable) in session_folders(launch) {
            mounts.push(shown(session_dir.join(folder), path, writable));
        }
        for (name, _) in Folder::open(session_dir)?.enter(WRITABLE_MEMORY)?.entries()? {
            let name = name.to_string_lossy();
            let source = session_dir.join(WRITABLE_MEMORY).join(&*name);
            mounts.push(shown(source, &format!("{MEMORY}/{name}"), true));
        }
        for (name, source) in &launch.shown.packages {
            mounts.push(shown(source.clone(), &format!("{PACKAGES}/{name}"), false));
        }
        if let Some(name) = &launch.shown.building {
            mounts.push(shown(session_dir.join(BUILDING), &format!("{PACKAGES}/{name}"), true));
        }
        for (path, _) in of_etc() {
            mounts.push(shown(etc_file(&self.folder, path), path, false));
        }
        if launch.authorities.is_some() {
            let trust = own.join("trust");
            mounts.extend(USUAL_AUTHORITIES.map(|path| shown(trust.join(AUTHORITIES), path, false)));
            mounts.push(shown(trust, TRUST, false));
        }
        Ok(mounts)
    }

    /// Waits until the init of a container that was started has connected.
    async fn connected(&self, listener: &UnixListener, name: &str) -> Result<UnixStream, Error> {
        let ended = async {
            loop {
                sleep(ALIVE_INTERVAL).await;
                let state = self.ask(Method::GET, &format!("/containers/{name}/json"), None).await?.json();
                if state["State"]["Running"] != json!(true) {
                    return Ok::<_, Error>(state["State"]["ExitCode"].as_i64().unwrap_or(-1));
                }
            }
        };
        let waiting = async {
            tokio::select! {
                accepted = listener.accept() => {
                    accepted.map(|(stream, _)| stream).map_err(Error::host("waiting for a container"))
                }
                ended = ended => Err(self.ended_early(ended?)),
            }
        };
        timeout(CONNECT_TIMEOUT, waiting).await.unwrap_or_else(|_| {
            let (doing, cause) = ("waiting for a container to start".to_owned(), "it took too long".to_owned());
            Err(Error::Host { doing, place: None, cause, passing: true })
        })
    }

    fn ended_early(&self, code: i64) -> Error {
        let runtime = self.config.runtime.as_deref().unwrap_or("of the daemon's choice");
        let (why, remedy) = if code == i64::from(NO_SOCKET) {
            (
                format!("the runtime ({runtime}) lets no Unix socket of the host in"),
                "Name another runtime in [sandbox]; gVisor lets sockets in with `--host-uds=open` among its arguments.",
            )
        } else {
            (
                format!("its process 1 ended at once, with status {code}"),
                "The data folder must be on a file system whose programs may be run, and the image one of this machine's kind.",
            )
        };
        Error::CannotIsolate { cause: format!("a container was started, and {why}"), remedy: remedy.to_owned() }
    }

    /// The variables of the image.
    async fn look_at_image(&self) -> Result<Vec<String>, Error> {
        let image = &self.config.image;
        let answer = self.ask(Method::GET, &format!("/images/{image}/json"), None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(Error::CannotIsolate {
                cause: format!("the daemon has no image \"{image}\", which `image` in [sandbox] names"),
                remedy: format!("Bring it with `{} pull {image}`, or name another one.", self.program()),
            });
        }
        if !answer.status.is_success() {
            return Err(self.refused("to tell of the image", &answer));
        }
        let variables = answer.json()["Config"]["Env"].as_array().cloned().unwrap_or_default();
        let fits = |variable: &String| {
            let name = variable.split_once('=').map(|(name, _)| name);
            variable.len() <= MAX_VARIABLE
                && !variable.contains('\0')
                && name.is_some_and(|name| !OF_THE_SHELL.contains(&name))
        };
        let variables = variables.iter().filter_map(|variable| variable.as_str().map(str::to_owned)).filter(fits);
        Ok(variables.take(MAX_VARIABLES).collect())
    }

    async fn facts(&self) -> Result<&Facts, Error> {
        self.facts.get_or_try_init(|| self.ask_for_facts()).await
    }

    async fn ask_for_facts(&self) -> Result<Facts, Error> {
        let answer = self.ask(Method::GET, "/info", None).await?;
        if !answer.status.is_success() {
            return Err(self.refused("to tell of itself", &answer));
        }
        if self.config.engine == Engine::Podman {
            let ping = self.ask(Method::GET, &format!("{LIBPOD}/_ping"), None).await?;
            if !ping.status.is_success() {
                return Err(Error::CannotIsolate {
                    cause:
                        "`backend` in [sandbox] is \"podman\", and what answers at `socket` is not Podman 4.0 or later"
                            .to_owned(),
                    remedy: "Set backend = \"docker\", or name Podman's socket.".to_owned(),
                });
            }
        }
        let info = answer.json();
        let options = info["SecurityOptions"].as_array().cloned().unwrap_or_default();
        let has = |wanted: &str| options.iter().filter_map(Value::as_str).any(|option| option.starts_with(wanted));
        check_owner(has("name=rootless"), has("name=userns"))?;
        let is = |name: &str| info[name].as_bool().unwrap_or_default();
        let can = Can { memory: is("MemoryLimit"), pids: is("PidsLimit"), cpus: is("CpuCfsQuota") };
        let version = info["ServerVersion"].as_str().unwrap_or("of unknown version").to_owned();
        Ok(Facts { can, version, counts_sockets: info["CgroupVersion"] != json!("1") })
    }

    /// Removes what an earlier start of this server left, once.
    pub(crate) async fn sweep_once(&self) -> Result<(), Error> {
        let swept = self.swept.get_or_try_init(|| async {
            let filters = json!({"label": [format!("{SERVER_LABEL}={}", self.config.server)]}).to_string();
            let filters = escaped(&filters);
            let answer = self.ask(Method::GET, &format!("/containers/json?all=true&filters={filters}"), None).await?;
            if !answer.status.is_success() {
                return Err(self.refused("to list containers", &answer));
            }
            for left in answer.json().as_array().into_iter().flatten() {
                if let Some(session) = left["Labels"][SESSION_LABEL].as_str() {
                    self.remove(session).await?;
                }
            }
            let own = |entry: fs::DirEntry| entry.path().is_dir().then(|| entry.path());
            for folder in fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(own) {
                // The next container of the session makes it anew.
                let _ = fs::remove_dir_all(folder);
            }
            Ok::<(), Error>(())
        });
        swept.await.copied()
    }

    /// Ends and removes the container of a session, if there is one.
    async fn remove(&self, session_id: &str) -> Result<(), Error> {
        let name = self.name(session_id);
        let path = match self.config.engine {
            Engine::Docker => format!("/containers/{name}?force=true&v=true"),
            Engine::Podman => format!("{LIBPOD}/containers/{name}?force=true&v=true&timeout=0"),
        };
        for _ in 0..REMOVE_TRIES {
            let answer = self.ask(Method::DELETE, &path, None).await?;
            match answer.status {
                StatusCode::NOT_FOUND => return Ok(()),
                status if status.is_success() => return Ok(()),
                // Somebody else removes it.
                StatusCode::CONFLICT => sleep(REMOVE_PAUSE).await,
                _ => return Err(self.refused("to remove a container", &answer)),
            }
        }
        let (doing, cause) = ("removing a container".to_owned(), "the daemon is still busy with it".to_owned());
        Err(Error::Host { doing, place: None, cause, passing: true })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
        let asked = self.api.send(method, path, body).await;
        asked.map_err(|error| Error::Host {
            doing: "asking the container daemon at `socket` in [sandbox]".to_owned(),
            place: Some(self.config.socket.clone()),
            cause: error.to_string(),
            passing: true,
        })
    }

    /// The daemon's own words may name folders of the host: they are for the log.
    fn refused(&self, what: &str, answer: &Answer) -> Error {
        let (status, message) = (answer.status.as_u16(), answer.message());
        tracing::error!(status, said = message, socket = %self.config.socket.display(), "the container daemon refused {what}");
        if answer.status == StatusCode::NOT_FOUND {
            // It was there a moment ago.
            let (doing, cause) = ("making a container".to_owned(), "it was removed meanwhile".to_owned());
            return Error::Host { doing, place: None, cause, passing: true };
        }
        Error::CannotIsolate {
            cause: format!("the container daemon refused {what} (status {status})"),
            remedy: "The server's log has its reason; docs/containers.md says what it must allow.".to_owned(),
        }
    }

    fn program(&self) -> &'static str {
        match self.config.engine {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        }
    }

    /// The name of a session's container. Another server on this machine may have a session of the same name.
    fn name(&self, session_id: &str) -> String {
        let mut hasher = DefaultHasher::new();
        self.config.server.hash(&mut hasher);
        format!("rota-{:08x}-{session_id}", hasher.finish() as u32)
    }

    fn own_folder(&self, session_id: &str) -> PathBuf {
        self.folder.join(session_id)
    }
}

impl Container {
    /// Removes it once its process 1 has ended. Whether memory had run out inside.
    pub(crate) async fn end(&self) -> bool {
        let name = self.daemon.name(&self.session_id);
        let asked = self.daemon.api.send(Method::GET, &format!("/containers/{name}/json"), None).await;
        let ran_out = asked.is_ok_and(|answer| answer.json()["State"]["OOMKilled"] == json!(true));
        self.forget().await;
        ran_out
    }

    /// Removes it. Where that fails it is tried again before the session has another one, and by the next start.
    pub(crate) async fn forget(&self) {
        let removed = timeout(REMOVE_TIMEOUT, self.daemon.remove(&self.session_id)).await;
        match removed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(session = self.session_id, %error, "a container that has ended is not removed yet");
            }
            Err(_) => {
                tracing::warn!(
                    session = self.session_id,
                    "a container that has ended is not removed yet: it takes long"
                );
            }
        }
        let _ = fs::remove_dir_all(self.daemon.own_folder(&self.session_id));
    }
}

/// What an init says that could not finish its fence.
pub(crate) fn not_set_up(Failure { step, cause, passing }: Failure) -> Error {
    if passing {
        return Error::Host { doing: step, place: None, cause, passing };
    }
    let remedy = if step.starts_with(LEADING) {
        "Name a runtime in [sandbox] whose containers share the kernel of this machine (runc, crun), or set `enabled = false` in \
         [network]: sandboxes then have no network."
    } else {
        "docs/containers.md says what a daemon and its runtime must allow."
    };
    Error::CannotIsolate { cause: format!("in a container: {step}: {cause}"), remedy: remedy.to_owned() }
}

/// That files which containers write are this server's to delete, and the other way round.
fn check_owner(is_rootless: bool, maps_users: bool) -> Result<(), Error> {
    let is_root = nix::unistd::geteuid().is_root();
    let (cause, remedy) = match (is_root, is_rootless) {
        (true, true) => (
            "the container daemon runs as a plain user, and this server as root",
            "Run the server as the daemon's user, or name the socket of root's daemon.",
        ),
        (false, false) => (
            "the container daemon runs as root, and this server as a plain user: files that containers write would be root's",
            "Name the socket of a daemon of the server's user (Podman: $XDG_RUNTIME_DIR/podman/podman.sock), or run the server as root.",
        ),
        _ if maps_users => (
            "the container daemon maps user ids for all containers alike (userns-remap)",
            "Take userns-remap out of the daemon's configuration, or use Podman, whose containers have user ids of their own each.",
        ),
        _ => return Ok(()),
    };
    Err(Error::CannotIsolate { cause: cause.to_owned(), remedy: remedy.to_owned() })
}

/// Makes the folder of a container: what its init connects to, and the authorities that its programs are to trust.
fn make_door(own: &Path, authorities: Option<&Authorities>) -> io::Result<UnixListener> {
    match fs::remove_dir_all(own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let door = own.join("door");
    fs::create_dir_all(&door)?;
    if let Some(authorities) = authorities {
        let trust = own.join("trust");
        fs::create_dir(&trust)?;
        fs::write(trust.join(AUTHORITIES), &authorities.pem)?;
        fs::write(trust.join(KEYSTORE), &authorities.keystore)?;
        for file in [AUTHORITIES, KEYSTORE] {
            fs::set_permissions(trust.join(file), fs::Permissions::from_mode(0o644))?;
        }
        fs::set_permissions(&trust, fs::Permissions::from_mode(0o755))?;
    }
    // By the open folder: the name of a socket must be short.
    let folder = fs::File::open(&door)?;
    let listener = UnixListener::bind(Path::new(&by_descriptor(std::os::fd::AsFd::as_fd(&folder))).join(SOCKET))?;
    // Who reaches it is decided by the folder of the server, which is private, and by the mount.
    fs::set_permissions(door.join(SOCKET), fs::Permissions::from_mode(0o666))?;
    fs::set_permissions(&door, fs::Permissions::from_mode(0o755))?;
    Ok(listener)
}

/// The files of `/etc` that are Rota's, and their texts. Users are those of the image.
fn of_etc() -> impl Iterator<Item = (&'static str, &'static str)> {
    ETC_WRITTEN.into_iter().filter(|(path, _)| matches!(*path, "etc/hosts" | "etc/hostname" | "etc/resolv.conf"))
}

/// A text as it stands in the query of a URL.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        // Writing to a string does not fail.
        let _ = write!(escaped, "%{byte:02X}");
        escaped
    })
}

/// Where the text for a file of `/etc` is kept.
fn etc_file(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.replace('/', "-"))
}

fn open_to_all(file: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).map_err(Error::host_at("opening a file to all", file))
}

/// Makes the folder of containers, with the init in it.
pub(crate) fn make_folder(data_dir: &Path, write_init: impl FnOnce(&Path) -> io::Result<()>) -> Result<PathBuf, Error> {
    let folder = data_dir.join("containers");
    let folder = folder::private(&folder).map_err(Error::host_at("making a folder of the server's", &folder))?;
    let (init, new) = (init_file(&folder), folder.join("init.new"));
    // Containers that run keep the file that they were started with.
    write_init(&new).map_err(Error::host_at("writing the init for containers", &new))?;
    open_to_all(&new, 0o755)?;
    fs::rename(&new, &init).map_err(Error::host_at("writing the init for containers", &init))?;
    Ok(folder)
}

/// One row of what is looked at: what it is about, how it stands (`None`: nothing works without), what was found, what to do.
pub(crate) type Row = (&'static str, Option<bool>, String, String);

impl Daemon {
    /// What the daemon gives, for people.
    pub(crate) async fn look(&self) -> Vec<Row> {
        let missing = |name, error: Error| match error {
            Error::CannotIsolate { cause, remedy } => (name, None, cause, remedy),
            other => (
                name,
                None,
                other.to_string(),
                "Start it, or correct `socket` in [sandbox]; sessions go on by themselves once it answers.".to_owned(),
            ),
        };
        let facts = match self.facts().await {
            Ok(facts) => facts.clone(),
            Err(error) => return vec![missing("containers", error)],
        };
        let runtime = self.config.runtime.as_deref().unwrap_or("of its choice");
        let detail = format!("{} {}, with the runtime {runtime}", self.program(), facts.version);
        let mut rows = vec![("containers", Some(true), detail, String::new())];
        rows.push(match self.look_at_image().await {
            Ok(_) => ("image", Some(true), self.config.image.clone(), String::new()),
            Err(error) => missing("image", error),
        });
        rows.push(match self.ids() {
            ContainerIds::Own => {
                ("user ids", Some(true), "a range of user ids of its own for each session".to_owned(), String::new())
            }
            ContainerIds::OfUser => ("user ids", Some(true), "those of the daemon's user".to_owned(), String::new()),
            ContainerIds::OfHost => (
                "user ids",
                Some(false),
                "root inside is root of the host, without any capability".to_owned(),
                "Use Podman, whose containers have user ids of their own each.".to_owned(),
            ),
        });
        let Can { memory, pids, cpus } = facts.can;
        for (name, can) in [("memory limit", memory), ("process limit", pids), ("processor limit", cpus)] {
            rows.push(if can {
                (name, Some(true), "of the daemon".to_owned(), String::new())
            } else {
                let remedy = "Give the daemon cgroups that it may use (a plain user: cgroup v2 with delegation).";
                (name, Some(false), "the daemon has none".to_owned(), remedy.to_owned())
            });
        }
        if memory && !facts.counts_sockets {
            let detail = "they are not counted: cgroups of version 1".to_owned();
            rows.push(("buffers of sockets", Some(false), detail, "Use cgroups of version 2.".to_owned()));
        }
        let disk =
            format!("a watch that looks every few seconds and stops a sandbox above {} bytes", self.limits.disk_bytes);
        rows.push(("disk limit", Some(false), disk, "Put the data folder on a file system of its own.".to_owned()));
        rows
    }
}
