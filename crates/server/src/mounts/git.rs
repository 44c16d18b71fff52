//! Runs git to clone a repository into a folder of the server's.
//!
//! What a repository holds and what its host answers is not trusted. Git has no configuration but what stands here, no
//! credentials but the one that it is given, and no hooks; it speaks HTTPS to one host, at addresses that were checked, and
//! follows nobody to another. It is ended when it takes too long or writes too much.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Url;
use rota_api::session::Checkout;
use rota_sandbox::NewTree;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use crate::limits::{
    CLONE_LOOK_EVERY, CLONE_TIMEOUT, GIT_OUTPUT_BYTES, MAX_REPOSITORY_BYTES, MAX_REPOSITORY_FILES,
};

/// What is to be cloned.
pub(super) struct Wanted {
    /// Where from. It names no user and no password.
    pub(super) url: Url,
    /// The URL that the clone has its remotes at.
    pub(super) remote: String,
    /// Addresses of its host that may be connected to.
    pub(super) addresses: Vec<SocketAddr>,
    /// Certificates that are trusted in the place of the machine's.
    pub(super) ca_file: Option<PathBuf>,
    /// The credential of its host.
    pub(super) token: Option<String>,
    /// What is checked out; the host's choice when absent.
    pub(super) checkout: Option<Checkout>,
}

/// Why a repository was not cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its host does not know the credential, or wants one.
    Authentication,
    /// Its host does not let this credential read it.
    Forbidden,
    /// There is none, or none that the credential shows.
    NotFound,
    /// It has no such branch or commit.
    Checkout,
    /// Anything else, in words for clients.
    Clone(String),
}

/// Clones into an empty folder: the newest commit alone, at the remotes `origin` and `github`.
pub(super) async fn clone(tree: &Arc<NewTree>, wanted: &Wanted) -> Result<(), Fault> {
    match timeout(CLONE_TIMEOUT, clone_with(tree, wanted)).await {
        Ok(cloned) => cloned,
        Err(_) => Err(Fault::Clone(format!("it took longer than {} seconds", CLONE_TIMEOUT.as_secs()))),
    }
}

async fn clone_with(tree: &Arc<NewTree>, wanted: &Wanted) -> Result<(), Fault> {
    let git = Git { tree, wanted };
    git.run(&["init", "--quiet", "--template=", "--initial-branch=main", "."], Fault::of).await?;
    git.run(&["remote", "add", "origin", &wanted.remote], Fault::of).await?;
    git.run(&["remote", "add", "github", &wanted.remote], Fault::of).await?;
    let url = wanted.url.as_str();
    let fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"];
    match &wanted.checkout {
        None => {
            let said = git.run(&["ls-remote", "--symref", url, "HEAD"], Fault::of).await?;
            let Some(branch) = default_branch(&said) else {
                return Err(Fault::Clone("it is empty: its host names no branch".to_owned()));
            };
            git.branch(&fetch, &branch).await
        }
        Some(Checkout::Branch { name }) => git.branch(&fetch, name).await,
        Some(Checkout::Commit { sha }) => {
            let shallow = [&fetch[..], &["--depth=1", url, sha]].concat();
            match git.run(&shallow, Fault::of_fetch).await {
                // An older host gives no commit by its name alone: then everything is fetched, within the same bounds.
                Err(Fault::Checkout) => {
                    let all = "+refs/heads/*:refs/remotes/origin/*";
                    git.run(&[&fetch[..], &[url, all]].concat(), Fault::of).await?;
                }
                fetched => drop(fetched?),
            }
            git.run(&["checkout", "--quiet", "--detach", sha], |_| Fault::Checkout).await.map(drop)
        }
    }
}

/// The branch that a host shows when it is asked for none: `ref: refs/heads/main\tHEAD`.
fn default_branch(said: &str) -> Option<String> {
    let line = said.lines().find_map(|line| line.strip_prefix("ref: refs/heads/"))?;
    Some(line.split('\t').next()?.to_owned())
}

struct Git<'a> {
    tree: &'a Arc<NewTree>,
    wanted: &'a Wanted,
}

impl Git<'_> {
    async fn branch(&self, fetch: &[&str], name: &str) -> Result<(), Fault> {
        let remote = format!("refs/remotes/origin/{name}");
        let refs = format!("+refs/heads/{name}:{remote}");
        self.run(&[fetch, &["--depth=1", self.wanted.url.as_str(), &refs]].concat(), Fault::of_fetch).await?;
        let start = format!("origin/{name}");
        self.run(&["checkout", "--quiet", "--track", "-B", name, &start], |_| Fault::Checkout).await.map(drop)
    }

    /// Runs git in the folder. What it writes to its standard output; `fault` reads what it writes to the other one.
    async fn run(&self, arguments: &[&str], fault: impl FnOnce(&str) -> Fault) -> Result<String, Fault> {
        let mut command = Command::new("git");
        command
            .args(arguments)
            .current_dir(self.tree.path())
            .env_clear()
            .envs(environment())
            .envs(self.configuration())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What git starts ends with it.
            .process_group(0);
        let mut child = command.spawn().map_err(|error| {
            tracing::error!(%error, "git could not be started: repositories are cloned with the git of this machine");
            Fault::Clone("the server has no git".to_owned())
        })?;
        let _group = Group(child.id());
        let (Some(out), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Fault::Clone("git could not be read".to_owned()));
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let ended = async {
            let (mut out, mut errors) = (out.take(GIT_OUTPUT_BYTES), errors.take(GIT_OUTPUT_BYTES));
            let _ = tokio::join!(out.read_to_end(&mut said), errors.read_to_end(&mut complained));
            child.wait().await
        };
        let status = tokio::select! {
            status = ended => status.map_err(|error| Fault::Clone(error.to_string()))?,
            grown = self.outgrows() => return Err(grown),
        };
        if status.success() {
            return Ok(String::from_utf8_lossy(&said).into_owned());
        }
        let complained = String::from_utf8_lossy(&complained);
        tracing::info!(url = %self.wanted.url, complained = %complained.trim(), "a repository was not cloned");
        Err(fault(&complained))
    }

    /// Returns when the folder has become larger than a repository may be.
    async fn outgrows(&self) -> Fault {
        let most = (MAX_REPOSITORY_BYTES, MAX_REPOSITORY_FILES);
        loop {
            tokio::time::sleep(CLONE_LOOK_EVERY).await;
            let tree = Arc::clone(self.tree);
            let size = tokio::task::spawn_blocking(move || tree.size(most)).await;
            // What cannot be measured now, as a folder that is going away, is measured the next time.
            if let Ok(Ok((bytes, files))) = size
                && (bytes > most.0 || files > most.1)
            {
                return too_large();
            }
        }
    }

    /// All configuration that git has, as its environment: no argument, which others could read, holds the credential.
    fn configuration(&self) -> Vec<(String, String)> {
        let Wanted { url, addresses, ca_file, token, .. } = self.wanted;
        let mut settings: Vec<(&str, String)> = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("credential.helper", ""),
            ("protocol.allow", "never"),
            ("protocol.https.allow", "always"),
            ("http.followRedirects", "false"),
            ("http.proxy", ""),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "30"),
            ("fetch.fsckObjects", "true"),
            ("submodule.recurse", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("advice.detachedHead", "false"),
        ]
        .map(|(key, value)| (key, value.to_owned()))
        .into();
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        settings.push(("http.curloptResolve", format!("{host}:{port}:{}", ips.join(","))));
        if let Some(file) = ca_file {
            settings.push(("http.sslCAInfo", file.display().to_string()));
        }
        if let Some(token) = token {
            // The user name that hosts take beside a token.
            let basic = STANDARD.encode(format!("x-access-token:{token}"));
            settings.push(("http.extraHeader", format!("Authorization: Basic {basic}")));
        }
        let count = ("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string());
        let pairs = settings.into_iter().enumerate().flat_map(|(i, (key, value))| {
            [(format!("GIT_CONFIG_KEY_{i}"), key.to_owned()), (format!("GIT_CONFIG_VALUE_{i}"), value)]
        });
        std::iter::once(count).chain(pairs).collect()
    }
}

/// What git has of the server's environment, and what keeps it from looking further.
fn environment() -> Vec<(&'static str, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let fixed = [
        ("HOME", "/nonexistent"),
        ("LC_ALL", "C"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ASKPASS", "/bin/false"),
        ("GIT_NO_LAZY_FETCH", "1"),
    ];
    fixed.map(|(name, value)| (name, value.to_owned())).into_iter().chain([("PATH", path)]).collect()
}

/// That a clone is not kept because of its size.
pub(super) fn too_large() -> Fault {
    let mib = MAX_REPOSITORY_BYTES / 1024 / 1024;
    Fault::Clone(format!("it is larger than {mib} MB or has more than {MAX_REPOSITORY_FILES} files"))
}

/// A process group that ends with this: when git is done nothing of it is left.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Fault {
    /// What git's words mean. They are those of its English, which have been the same for long; other words are told as they
    /// are, but for what could name the server's folders.
    fn of(complained: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| complained.contains(word));
        if has(&["error: 401", "Authentication failed", "could not read Username", "could not read Password"]) {
            Self::Authentication
        } else if has(&["error: 403"]) {
            Self::Forbidden
        } else if has(&["' not found", "error: 404"]) {
            Self::NotFound
        } else {
            let line = complained.lines().find(|line| line.starts_with("fatal: ") || line.starts_with("error: "));
            let line = line.filter(|line| !line.contains("/.incoming/")).unwrap_or("git failed");
            Self::Clone(line.chars().take(300).collect())
        }
    }

    /// The same of a fetch, which also fails when the host does not have what is asked for.
    fn of_fetch(complained: &str) -> Self {
        const ABSENT: [&str; 5] = [
            "couldn't find remote ref",
            "not our ref",
            "unadvertised object",
            "did not send all necessary objects",
            "invalid refspec",
        ];
        if ABSENT.iter().any(|words| complained.contains(words)) { Self::Checkout } else { Self::of(complained) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_git_are_told_apart() {
        for (words, fault) in [
            ("fatal: unable to access 'https://h/r/': The requested URL returned error: 401", Fault::Authentication),
            ("fatal: could not read Username for 'https://h': terminal prompts disabled", Fault::Authentication),
            ("remote: no\nfatal: Authentication failed for 'https://h/r/'", Fault::Authentication),
            ("fatal: unable to access 'https://h/r/': The requested URL returned error: 403", Fault::Forbidden),
            ("remote: Not Found\nfatal: repository 'https://h/r/' not found", Fault::NotFound),
            ("fatal: couldn't find remote ref refs/heads/x", Fault::Checkout),
            ("error: Server does not allow request for unadvertised object abc", Fault::Checkout),
            ("fatal: unable to access 'x': SSL problem", Fault::Clone("fatal: unable to access 'x': SSL problem".to_owned())),
            ("fatal: cannot write /data/sessions/.incoming/tree-1", Fault::Clone("git failed".to_owned())),
            ("", Fault::Clone("git failed".to_owned())),
        ] {
            assert_eq!(Fault::of_fetch(words), fault, "{words}");
        }
    }

    #[test]
    fn the_branch_of_a_host_is_read() {
        assert_eq!(default_branch("ref: refs/heads/a/b\tHEAD\nabc\tHEAD\n").as_deref(), Some("a/b"));
        assert_eq!(default_branch("abc\tHEAD\n"), None);
        assert_eq!(default_branch(""), None);
    }
}
