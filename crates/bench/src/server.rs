//! The server as a process of its own, and what is set up in it.

use std::{
    cell::Cell,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    http::{Connection, request},
    machine,
};

/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that create deployments at the same time.
const CREATORS: usize = 16;
/// How often a server that starts is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// A server on a folder of its own. It is killed when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub key: String,
    rota: PathBuf,
    data: PathBuf,
    concurrency: usize,
    database: Option<String>,
    config: Option<PathBuf>,
    child: Child,
    /// How long the start took until it was ready.
    pub started_in: Duration,
}

impl Server {
    /// Starts a server that runs at most `concurrency` sessions at a time, on a new store in `data`.
    pub async fn start(rota: &Path, data: &Path, concurrency: usize) -> Result<Self> {
        Self::start_on(rota, data, concurrency, None).await
    }

    /// The same with a configuration file.
    pub async fn start_configured(rota: &Path, data: &Path, concurrency: usize, config: &Path) -> Result<Self> {
        Self::start_as(rota, data, concurrency, None, Some(config)).await
    }

    /// The same with its store in a PostgreSQL database, where there is one.
    pub async fn start_on(rota: &Path, data: &Path, concurrency: usize, database: Option<&str>) -> Result<Self> {
        Self::start_as(rota, data, concurrency, database, None).await
    }

    async fn start_as(
        rota: &Path,
        data: &Path,
        concurrency: usize,
        database: Option<&str>,
        config: Option<&Path>,
    ) -> Result<Self> {
        std::fs::create_dir_all(data)?;
        let key = create_key(rota, data, database)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (child, started_in) = spawn(rota, data, address, concurrency, database, config).await?;
        let (rota, data, database) = (rota.to_owned(), data.to_owned(), database.map(str::to_owned));
        let config = config.map(Path::to_owned);
        Ok(Self { address, key, rota, data, concurrency, database, config, child, started_in })
    }

    /// Kills the server in whatever it is doing and starts it again.
    pub async fn kill_and_start(&mut self) -> Result<()> {
        self.kill()?;
        self.start_again().await
    }

    /// Kills the server.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it after [`Server::kill`].
    pub async fn start_again(&mut self) -> Result<()> {
        let (database, config) = (self.database.as_deref(), self.config.as_deref());
        (self.child, self.started_in) =
            spawn(&self.rota, &self.data, self.address, self.concurrency, database, config).await?;
        Ok(())
    }

    /// Moves its store into the PostgreSQL database `url` and goes on there.
    pub async fn move_to(&mut self, url: &str) -> Result<()> {
        self.kill()?;
        let mut command = Command::new(&self.rota);
        command.args(["migrate", "sqlite-to-postgres", "--database", url, "--data"]).arg(&self.data);
        ensure!(command.stdout(Stdio::null()).status()?.success(), "the store is not moved");
        self.database = Some(url.to_owned());
        self.start_again().await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn memory_mib(&self) -> f64 {
        machine::memory_mib(self.pid(), "VmRSS")
    }

    /// The file of the store.
    pub fn store(&self) -> PathBuf {
        self.data.join("rota.db")
    }

    pub async fn connect(&self) -> Result<Connection> {
        Connection::open(self.address).await
    }

    pub fn request(&self, method: &str, path: &str, body: &Value) -> Vec<u8> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(method, path, &self.key, &body)
    }

    /// Makes an agent, an environment and `count` deployments that send `message` to their sessions and have the fields of
    /// `more`. Returns the deployments' ids.
    pub async fn create_deployments(&self, count: usize, message: &str, more: &Value) -> Result<Vec<String>> {
        let agent = json!({"name": "bench", "model": "playbook", "tools": [{"type": "agent_toolset_20260401"}]});
        let agent = self.create_one("/v1/agents", &agent).await?;
        // Names of environments are taken once.
        let name = format!("bench {agent}");
        let environment = self.create_one("/v1/environments", &json!({ "name": name })).await?;
        let mut body = json!({
            "name": "bench",
            "agent": agent,
            "environment_id": environment,
            "initial_events": [user_message(message)],
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            body[field] = value.clone();
        }
        let turn = Cell::new(0);
        let create = async || {
            let mut connection = self.connect().await?;
            let mut ids = Vec::new();
            while turn.replace(turn.get() + 1) < count {
                ids.push(self.create(&mut connection, "/v1/deployments", &body).await?);
            }
            anyhow::Ok(ids)
        };
        Ok(try_join_all((0..CREATORS).map(|_| create())).await?.concat())
    }

    /// Makes one thing of those at `path`. Returns its id.
    pub async fn create_one(&self, path: &str, body: &Value) -> Result<String> {
        self.create(&mut self.connect().await?, path, body).await
    }

    async fn create(&self, connection: &mut Connection, path: &str, body: &Value) -> Result<String> {
        let answer: Value = serde_json::from_slice(connection.exchange(&self.request("POST", path, body)).await?)?;
        Ok(answer["id"].as_str().context("what was created has an id")?.to_owned())
    }

    /// Requests that run each of `deployments` now.
    pub fn run_requests(&self, deployments: &[String]) -> Vec<Vec<u8>> {
        let path = |id| format!("/v1/deployments/{id}/run");
        deployments.iter().map(|id| self.request("POST", &path(id), &Value::Null)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `user.message` of one text.
pub fn user_message(text: &str) -> Value {
    json!({"type": "user.message", "content": [{"type": "text", "text": text}]})
}

async fn spawn(
    rota: &Path,
    data: &Path,
    address: SocketAddr,
    concurrency: usize,
    database: Option<&str>,
    config: Option<&Path>,
) -> Result<(Child, Duration)> {
    let begin = Instant::now();
    let mut command = Command::new(rota);
    command.arg("serve").arg("--data").arg(data).args(["--listen", &address.to_string(), "--log", "error"]);
    command.args(["--concurrency", &concurrency.to_string()]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.args(database.iter().flat_map(|url| ["--database", url]));
    let mut child = command.stdout(Stdio::null()).spawn().with_context(|| format!("starting {}", rota.display()))?;
    let ask = request("GET", "/readyz", "", "");
    loop {
        let ready = match Connection::open(address).await {
            Ok(mut connection) => connection.exchange(&ask).await.is_ok(),
            Err(_) => false,
        };
        if ready {
            return Ok((child, begin.elapsed()));
        }
        ensure!(child.try_wait()?.is_none(), "the server ended instead of being ready");
        if begin.elapsed() > PATIENCE {
            child.kill()?;
            anyhow::bail!("the server is not ready after {} s", PATIENCE.as_secs());
        }
        sleep(ASK_EVERY).await;
    }
}

fn create_key(rota: &Path, data: &Path, database: Option<&str>) -> Result<String> {
    let mut command = Command::new(rota);
    command.args(["keys", "create", "--json", "--data"]).arg(data);
    command.args(database.iter().flat_map(|url| ["--database", url]));
    let output = command.output()?;
    let created: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("`rota keys create` says: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(created["key"].as_str().context("a key was made")?.to_owned())
}
