//! Clones of repositories, made by the machine's `git` program in a folder that only the server can reach.
//!
//! Nothing of the machine's or of a user's configuration has a say: the program is started in a clean environment, knows one
//! protocol and one host, connects to an address that was checked, follows no redirect, and runs no hook, filter, template
//! or helper but the one that hands it the token, which is in its environment and on no command line. What it makes is looked
//! at by descriptor and moved into the session whole.

mod failure;
mod program;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rota_api::{
    id::WorkspaceId,
    repository::{self, Checkout},
    secret::Secret,
};
use rota_sandbox::{Embedded, NewTree};
use tokio::{
    sync::OnceCell,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, GitConfig},
    error::{Error, Result},
    limits::{CLONE_LOOK_END, CLONES_AT_ONCE},
    outgoing,
    places::Places,
    tls,
};
pub use failure::Failure;
use program::{Bounds, Command, Output};
pub use program::{Probe, probe};

/// What clones repositories.
pub struct Git {
    rules: Arc<GitConfig>,
    settings: Arc<Settings>,
    places: Arc<Places>,
    tasks: TaskTracker,
}

struct Settings {
    allow_private: bool,
    /// Names that stand for addresses, as in sandboxes.
    hosts: BTreeMap<String, Vec<String>>,
    bounds: Bounds,
    /// A file with authorities to trust beside those of the machine.
    authorities: Option<PathBuf>,
    /// Where all of them are to be written for git, and where they are once that was needed.
    to_be_written: PathBuf,
    written: OnceCell<PathBuf>,
}

/// A repository to be cloned.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where it is, as [`repository::parts`] reads it.
    pub url: String,
    /// What is checked out.
    pub checkout: Option<Checkout>,
    /// What its host is told when it asks who wants it.
    pub token: Secret,
}

/// A clone in a folder of the server's.
#[derive(Debug)]
pub struct Cloned {
    /// The working tree, with `.git` in it.
    pub tree: NewTree,
    /// The commit that is checked out; `None` in a repository without commits.
    pub commit: Option<String>,
}

impl Git {
    /// Of a server with this configuration, whose tasks are counted by `tasks`.
    pub fn new(config: &Config, tasks: TaskTracker) -> Self {
        let git = &config.git;
        let bounds = Bounds {
            bytes: git.max_mib.min(config.sandbox.disk_mib) * 1024 * 1024,
            files: git.max_files,
            time: Duration::from_secs(u64::from(git.timeout_seconds)),
        };
        let settings = Settings {
            allow_private: git.allow_private,
            hosts: config.network.hosts.clone(),
            bounds,
            authorities: git.authorities.clone(),
            to_be_written: config.data.join("git").join("authorities.pem"),
            written: OnceCell::new(),
        };
        Self { rules: Arc::new(git.clone()), settings: Arc::new(settings), places: Places::new(CLONES_AT_ONCE), tasks }
    }

    /// Which repositories can be mounted.
    pub fn rules(&self) -> &Arc<GitConfig> {
        &self.rules
    }

    /// How long the clones of a session may take together.
    pub fn time(&self) -> Duration {
        self.settings.bounds.time
    }

    /// Clones a repository, as soon as there is a place for `workspace`. When the future is dropped, git is ended and what it
    /// has made is deleted.
    pub async fn clone(
        &self,
        backend: &Arc<Embedded>,
        workspace: &WorkspaceId,
        wanted: Wanted,
    ) -> Result<Cloned, Failure> {
        let place = self.places.take(workspace).await;
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let (settings, backend) = (self.settings.clone(), backend.clone());
        // In a task of its own: git has ended before its folder is deleted, also when nobody waits for it any more.
        let cloning = self.tasks.spawn(async move {
            let cloned = clone(&settings, &backend, &wanted, &stop).await;
            drop(place);
            cloned
        });
        cloning.await.unwrap_or_else(|error| Err(Failure::of_this_server(error)))
    }
}

async fn clone(
    settings: &Settings,
    backend: &Arc<Embedded>,
    wanted: &Wanted,
    stop: &CancellationToken,
) -> Result<Cloned, Failure> {
    if let Probe::Missing(missing) = probe().await {
        return Err(Failure::clone(missing));
    }
    let (host, _) = repository::parts(&wanted.url).ok_or_else(|| Failure::clone("its URL names no repository"))?;
    let (name, port) = split(host).ok_or_else(|| Failure::clone("its URL names no host"))?;
    let resolving = async {
        match settings.hosts.get(name) {
            Some(said) => {
                outgoing::allowed(name, said.iter().filter_map(|text| text.parse().ok()), settings.allow_private)
            }
            None => outgoing::addresses(name, port, settings.allow_private).await,
        }
    };
    let addresses = match timeout(settings.bounds.time, resolving).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(outgoing::Unresolved::Private(refused))) => return Err(Failure::clone(refused)),
        Ok(Err(outgoing::Unresolved::Unknown(error))) => {
            tracing::warn!(host, %error, "the host of a repository could not be resolved");
            return Err(Failure::passing("the name of its host could not be resolved"));
        }
        Err(_) => return Err(Failure::passing("the name of its host could not be resolved in time")),
    };
    let authorities = settings.authorities().await.map_err(Failure::of_this_server)?;
    let tree = Arc::new(backend.new_tree().await.map_err(|error| Failure::clone(error.for_client()))?);
    let job = Job {
        tree: tree.clone(),
        bounds: settings.bounds,
        stop,
        remote: format!("{}.git", wanted.url),
        environment: environment(host, &resolve(name, port, &addresses), &authorities, &wanted.token),
        token: &wanted.token,
    };
    let commit = job.run(wanted.checkout.as_ref()).await?;
    drop(job);
    Ok(Cloned { tree: alone(tree).await, commit })
}

/// The folder, once the last look at how large it is has ended.
async fn alone(mut tree: Arc<NewTree>) -> NewTree {
    loop {
        match Arc::try_unwrap(tree) {
            Ok(tree) => return tree,
            Err(shared) => tree = shared,
        }
        sleep(CLONE_LOOK_END).await;
    }
}

/// A host's name and port.
fn split(host: &str) -> Option<(&str, u16)> {
    match host.rsplit_once(':') {
        Some((name, port)) => Some((name, port.parse().ok()?)),
        None => Some((host, 443)),
    }
}

/// `http.curloptResolve`: where the host is, so that nobody asks again.
fn resolve(name: &str, port: u16, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    format!("{name}:{port}:{}", addresses.join(","))
}

/// Says who wants the repository when its host asks. The token is not in the text, which other processes can read.
const HELPER: &str = "!says() { if [ \"$1\" = get ]; then printf 'username=x-access-token\\npassword=%s\\n' \"$ROTA_GIT_TOKEN\"; fi; }; says";

/// All that git finds in its environment.
fn environment(host: &str, resolve: &str, authorities: &Path, token: &Secret) -> Vec<(String, Secret)> {
    let settings = [
        ("credential.helper".to_owned(), String::new()),
        (format!("credential.https://{host}.helper"), HELPER.to_owned()),
        ("http.curloptResolve".to_owned(), resolve.to_owned()),
        ("http.followRedirects".to_owned(), "false".to_owned()),
        ("http.sslCAInfo".to_owned(), authorities.display().to_string()),
        ("http.lowSpeedLimit".to_owned(), "1000".to_owned()),
        ("http.lowSpeedTime".to_owned(), "60".to_owned()),
        ("http.userAgent".to_owned(), concat!("rota/", env!("CARGO_PKG_VERSION"), " (git)").to_owned()),
        ("core.hooksPath".to_owned(), "/dev/null".to_owned()),
        ("core.fsmonitor".to_owned(), "false".to_owned()),
        ("core.symlinks".to_owned(), "true".to_owned()),
        ("core.protectHFS".to_owned(), "true".to_owned()),
        ("core.protectNTFS".to_owned(), "true".to_owned()),
        // Its records would name this machine.
        ("core.logAllRefUpdates".to_owned(), "false".to_owned()),
        // Larger ones go through and not into memory.
        ("core.bigFileThreshold".to_owned(), "16m".to_owned()),
        ("pack.threads".to_owned(), "1".to_owned()),
        ("gc.auto".to_owned(), "0".to_owned()),
        ("maintenance.auto".to_owned(), "false".to_owned()),
        ("submodule.recurse".to_owned(), "false".to_owned()),
        ("fetch.recurseSubmodules".to_owned(), "false".to_owned()),
        ("advice.detachedHead".to_owned(), "false".to_owned()),
    ];
    let mut environment: Vec<(String, String)> = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ALLOW_PROTOCOL", "https"),
        ("GIT_PROTOCOL_FROM_USER", "0"),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
        ("HOME", "/nonexistent"),
        ("XDG_CONFIG_HOME", "/nonexistent"),
        ("LC_ALL", "C"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    environment.push(("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string()));
    for (i, (key, value)) in settings.into_iter().enumerate() {
        environment.push((format!("GIT_CONFIG_KEY_{i}"), key));
        environment.push((format!("GIT_CONFIG_VALUE_{i}"), value));
    }
    let mut environment: Vec<(String, Secret)> =
        environment.into_iter().map(|(key, value)| (key, Secret::new(value))).collect();
    environment.push(("ROTA_GIT_TOKEN".to_owned(), token.clone()));
    environment
}

impl Settings {
    /// The file of the authorities that git is to trust: those that this server trusts elsewhere, and the operator's.
    async fn authorities(&self) -> Result<PathBuf> {
        let writing = self.written.get_or_try_init(|| async {
            let (own, file) = (self.authorities.clone(), self.to_be_written.clone());
            let writing = tokio::task::spawn_blocking(move || write_authorities(own, &file));
            writing.await.map_err(Error::internal)?
        });
        writing.await.cloned()
    }
}

/// Its path from the root: git works elsewhere.
fn write_authorities(own: Option<PathBuf>, file: &Path) -> Result<PathBuf> {
    let mut text = tls::authorities();
    if let Some(own) = own {
        let added = std::fs::read_to_string(&own)
            .map_err(|error| Error::internal(format!("git.authorities: {} cannot be read: {error}", own.display())))?;
        text.push_str(&added);
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(Error::internal)?;
    }
    let new = file.with_extension("new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file));
    written.and_then(|()| file.canonicalize()).map_err(Error::internal)
}

/// One clone under way.
struct Job<'a> {
    tree: Arc<NewTree>,
    bounds: Bounds,
    stop: &'a CancellationToken,
    /// The repository's `.git` URL.
    remote: String,
    environment: Vec<(String, Secret)>,
    token: &'a Secret,
}

/// Where a host's `HEAD` leads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heads {
    /// The default branch.
    default: Option<String>,
    /// The commit of `HEAD`.
    head: Option<String>,
    /// Whether the branch that was asked for is there.
    has_branch: bool,
}

impl Job<'_> {
    /// Makes the repository and checks it out. The commit that it stands at.
    async fn run(&self, checkout: Option<&Checkout>) -> Result<Option<String>, Failure> {
        self.git(&["init", "--quiet", "--template=", "--initial-branch=main", "."]).await?;
        for name in ["origin", "github"] {
            self.git(&["remote", "add", name, &self.remote]).await?;
        }
        // Who commits, unless the agent says otherwise.
        self.git(&["config", "user.name", "Agent"]).await?;
        self.git(&["config", "user.email", "agent@rota.invalid"]).await?;
        match checkout {
            Some(Checkout::Commit { sha }) => self.commit(&sha.to_ascii_lowercase()).await?,
            Some(Checkout::Branch { name }) => {
                if !self.heads(Some(name)).await?.has_branch {
                    return Err(Failure::Checkout(format!("it has no branch \"{name}\"")));
                }
                self.branch(name).await?;
            }
            None => match self.heads(None).await? {
                Heads { default: Some(name), head: Some(_), .. } => self.branch(&name).await?,
                Heads { head: Some(head), .. } => self.commit(&head).await?,
                // A repository without commits.
                _ => return Ok(None),
            },
        }
        program::is_within(&self.tree, self.bounds.bytes, self.bounds.files).await?;
        let head = self.git(&["rev-parse", "HEAD"]).await?;
        Ok(Some(head.trim().to_owned()))
    }

    async fn heads(&self, branch: Option<&str>) -> Result<Heads, Failure> {
        let reference = branch.map(|name| format!("refs/heads/{name}"));
        let mut arguments = vec!["ls-remote", "--quiet", "--symref", "origin", "HEAD"];
        arguments.extend(reference.as_deref());
        Ok(read_heads(&self.git(&arguments).await?, reference.as_deref()))
    }

    async fn branch(&self, name: &str) -> Result<(), Failure> {
        let refspec = format!("+refs/heads/{name}:refs/remotes/origin/{name}");
        self.git(&["fetch", "--quiet", "--depth=1", "--no-tags", "origin", &refspec]).await?;
        let start = format!("refs/remotes/origin/{name}");
        self.git(&["checkout", "--quiet", "-B", name, "--track", &start]).await.map(drop)
    }

    async fn commit(&self, sha: &str) -> Result<(), Failure> {
        match self.git(&["fetch", "--quiet", "--depth=1", "--no-tags", "origin", sha]).await {
            Ok(_) => {}
            Err(Failure::NotAdvertised) => {
                // A host that gives no commits by their ids: all branches, with what came before.
                self.git(&["fetch", "--quiet", "--no-tags", "origin"]).await?;
                let is_there = self.git(&["cat-file", "-e", &format!("{sha}^{{commit}}")]).await;
                is_there.map_err(|_| Failure::Checkout(format!("it has no commit {sha} on any branch")))?;
            }
            Err(Failure::Checkout(_)) => return Err(Failure::Checkout(format!("it has no commit {sha}"))),
            Err(other) => return Err(other),
        }
        self.git(&["checkout", "--quiet", "--detach", sha]).await.map(drop)
    }

    /// Runs git in the folder. What it printed.
    async fn git(&self, arguments: &[&str]) -> Result<String, Failure> {
        let command = Command {
            arguments,
            environment: &self.environment,
            tree: &self.tree,
            bounds: self.bounds,
            stop: self.stop,
        };
        let Output { succeeded, printed, complained } = command.run().await?;
        if succeeded {
            return Ok(printed);
        }
        let failure = failure::read(&complained);
        let said = failure::without(&complained, self.token);
        tracing::warn!(repository = self.remote, command = arguments[0], git = said, "git failed");
        Err(failure)
    }
}

/// Reads what `git ls-remote --symref` prints: lines `ref: refs/heads/main\tHEAD` and `<id>\t<name>`.
fn read_heads(printed: &str, branch: Option<&str>) -> Heads {
    let mut heads = Heads::default();
    for (value, name) in printed.lines().filter_map(|line| line.split_once('\t')) {
        match value.strip_prefix("ref: ") {
            Some(target) if name == "HEAD" => heads.default = target.strip_prefix("refs/heads/").map(str::to_owned),
            Some(_) => {}
            None if name == "HEAD" => heads.head = Some(value.to_owned()),
            None => heads.has_branch |= Some(name) == branch,
        }
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branches_of_a_host_are_read() {
        let printed =
            "ref: refs/heads/main\tHEAD\n1111\tHEAD\n2222\trefs/heads/next\n3333\trefs/remotes/x/refs/heads/next\n";
        let heads = |default: Option<&str>, head: Option<&str>, has_branch| Heads {
            default: default.map(str::to_owned),
            head: head.map(str::to_owned),
            has_branch,
        };
        assert_eq!(read_heads(printed, None), heads(Some("main"), Some("1111"), false));
        assert_eq!(read_heads(printed, Some("refs/heads/next")), heads(Some("main"), Some("1111"), true));
        assert_eq!(read_heads(printed, Some("refs/heads/other")), heads(Some("main"), Some("1111"), false));
        assert_eq!(read_heads("1111\tHEAD\n", None), heads(None, Some("1111"), false), "HEAD is at no branch");
        assert_eq!(read_heads("", None), heads(None, None, false));
    }

    #[test]
    fn a_host_has_a_port_and_addresses_for_git() {
        assert_eq!(split("github.com"), Some(("github.com", 443)));
        assert_eq!(split("git.internal:8443"), Some(("git.internal", 8443)));
        assert_eq!(split("git.internal:x"), None);
        let addresses = ["1.2.3.4".parse().unwrap(), "2606:4700::1".parse().unwrap()];
        assert_eq!(resolve("github.com", 443, &addresses), "github.com:443:1.2.3.4,2606:4700::1");
    }

    #[test]
    fn the_token_is_in_one_variable_and_does_not_print() {
        let token = Secret::new("hush".to_owned());
        let environment = environment("github.com", "github.com:443:1.2.3.4", Path::new("/a.pem"), &token);
        let with: Vec<_> = environment.iter().filter(|(_, value)| value.reveal().contains("hush")).collect();
        assert_eq!(with.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["ROTA_GIT_TOKEN"]);
        assert!(!format!("{environment:?}").contains("hush"));
    }
}
