//! The real server as a process that can be killed.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Client as Http, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::sleep;

const ROTA: &str = env!("CARGO_BIN_EXE_rota");
/// How long a server may take to be ready, and a request to be answered, before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a folder of its own. It is killed when it is dropped.
pub struct Server {
    pub data: PathBuf,
    pub address: SocketAddr,
    /// The authorities whose certificates it trusts; those of the machine if there are none.
    pub authorities: Option<PathBuf>,
    /// Where its log of every detail goes; without, errors go to the log of the tests.
    pub log: Option<PathBuf>,
    /// The user that runs it, and a copy of the program that this user can read; the tests' own if there is none.
    pub user: Option<(u32, PathBuf)>,
    /// What it has for `/etc/resolv.conf`; that of the machine if there is none. For root only.
    pub resolver: Option<PathBuf>,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A server that is not started yet, and its `options` beside the folder and the address.
    pub fn new(data: &Path, options: &[&str]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self {
            data: data.to_owned(),
            address,
            authorities: None,
            log: None,
            user: None,
            resolver: None,
            options,
            child: None,
        }
    }

    /// Starts it, once another server has begun the store whose data folder is `first`. Returns how long that took.
    pub async fn start_beside(&mut self, first: &Path) -> Duration {
        share_vault_key(first, &self.data);
        self.start().await
    }

    /// Starts it. Returns how long it took until it was ready.
    pub async fn start(&mut self) -> Duration {
        let begin = Instant::now();
        let child = self.command().stdout(Stdio::null()).spawn().expect("the server starts");
        let child = self.child.insert(child);
        let http = http();
        let url = format!("http://{}/readyz", self.address);
        while !http.get(&url).send().await.is_ok_and(|response| response.status() == StatusCode::OK) {
            assert_eq!(child.try_wait().expect("its status"), None, "the server ended instead of being ready");
            assert!(begin.elapsed() < PATIENCE, "the server is not ready");
            sleep(Duration::from_millis(5)).await;
        }
        begin.elapsed()
    }

    /// What starts it.
    pub fn command(&self) -> Command {
        let mut command = match (&self.user, &self.resolver) {
            (Some((id, program)), _) => {
                let mut command = cleared(program);
                command.uid(*id).gid(*id);
                command
            }
            (None, Some(resolver)) => {
                let mut command = cleared(Path::new("unshare"));
                command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]);
                command.arg(resolver).arg(ROTA);
                command
            }
            (None, None) => rota(),
        };
        command.arg("serve").arg("--data").arg(&self.data).args(["--listen", &self.address.to_string()]);
        command.args(&self.options).args(["--log", if self.log.is_some() { "debug" } else { "error" }]);
        if let Some(log) = &self.log {
            command.stderr(std::fs::File::create(log).expect("a file for the log"));
        }
        command.envs(self.authorities.as_ref().map(|file| ("SSL_CERT_FILE", file)));
        command
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("SIGKILL reaches it");
            child.wait().expect("it ends");
        }
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Gives a server with the data folder `other` the key of the vaults that the server with `first` has made.
pub fn share_vault_key(first: &Path, other: &Path) {
    std::fs::copy(first.join("vault.key"), other.join("vault.key")).expect("the key is copied");
}

/// A client of a server, with a key.
#[derive(Clone)]
pub struct Client {
    pub http: Http,
    pub base: String,
    pub key: String,
}

impl Client {
    pub fn new(address: SocketAddr, key: String) -> Self {
        Self { http: http(), base: format!("http://{address}"), key }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        request.header("x-api-key", &self.key).header("anthropic-beta", "managed-agents-2026-04-01")
    }

    /// The answer to a request that must succeed.
    pub async fn answer(&self, request: RequestBuilder) -> Value {
        let response = request.send().await.expect("an answer");
        let (status, body) = (response.status(), response.text().await.expect("a body"));
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    pub async fn get(&self, path: &str) -> Value {
        self.answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Value {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    /// Everything on all pages of a list. `path` has a query.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut page = self.get(path).await;
        loop {
            all.extend(page["data"].as_array().expect("a list").iter().cloned());
            let Some(cursor) = page["next_page"].as_str() else { return all };
            page = self.get(&format!("{path}&page={cursor}")).await;
        }
    }
}

fn http() -> Http {
    let tls = rota_server::tls::client_config().expect("a TLS configuration");
    let builder = Http::builder().tls_backend_preconfigured(tls).no_proxy().timeout(PATIENCE);
    builder.build().expect("an HTTP client")
}

/// The command, untouched by settings of whoever runs the test.
pub fn rota() -> Command {
    cleared(Path::new(ROTA))
}

fn cleared(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// A key of the store that a server with this folder and these `options` uses.
pub fn create_key(data: &Path, options: &[&str]) -> String {
    let mut command = rota();
    command.args(["keys", "create", "--json", "--data"]).arg(data).args(options);
    let created: Value = serde_json::from_slice(&command.output().expect("the command runs").stdout).expect("JSON");
    text(&created, "key").to_owned()
}

pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}"))
}

/// Random numbers that follow from a seed: SplitMix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
