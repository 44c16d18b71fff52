//! The commands about the store of a server: they find the one that the server has, or refuse.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use reqwest::Method;
use rota_server::{
    clock::Clock,
    config::{Config, ModelConfig},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{sleep, timeout},
};

use crate::{
    client::Api,
    database::{Database, NEEDED},
    given::{environment, id, message},
    process,
    server::Rota,
    upstream::{Reply, Upstream},
};

async fn rota(arguments: &[&str], data: &Path) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    command.args(arguments).arg("--data").arg(data).env_remove("ROTA_DATABASE").env_remove("ROTA_CONFIG");
    command.output().await.unwrap()
}

async fn refused(arguments: &[&str], data: &Path, because: &str) {
    let output = rota(arguments, data).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(because), "{arguments:?}: {said}");
}

const COMMANDS: [&[&str]; 5] =
    [&["keys", "list"], &["keys", "revoke", "apikey_x"], &["org", "show"], &["org", "disable"], &["org", "enable"]];
const CREATE: &[&str] = &["keys", "create"];

#[tokio::test]
async fn only_the_creation_of_a_key_begins_a_store() {
    let folder = TempDir::new().unwrap();
    for command in COMMANDS {
        refused(command, folder.path(), "has no store; `rota serve --data` makes it").await;
        refused(command, &folder.path().join("missing"), "has no store").await;
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    refused(CREATE, &folder.path().join("missing"), "is not a folder").await;
    assert!(rota(CREATE, folder.path()).await.status.success());
    assert!(rota(&["keys", "list"], folder.path()).await.status.success());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_command_begins_no_store_in_a_database_either() {
    let (folder, database) = (TempDir::new().unwrap(), Database::create().expect(NEEDED));
    refused(&["org", "disable", "--database", &database.url().0], folder.path(), "the store is empty").await;
}

#[tokio::test]
async fn a_folder_whose_store_is_a_database_is_not_used_without_it() {
    let rota = Rota::without_engine().await;
    let data = rota.server.app().config.data.clone();
    let note = data.join("database");
    let Some(database) = rota.database() else {
        assert!(!note.exists(), "the store is in the folder");
        fs::write(&note, "postgres://db.internal/rota\n").unwrap();
        for command in COMMANDS.into_iter().chain([CREATE]) {
            refused(command, &data, "is the database postgres://db.internal/rota: give its URL as --database").await;
        }
        return;
    };
    let named = fs::read_to_string(&note).unwrap();
    assert!(database.url().0.ends_with(named.trim().rsplit_once('/').unwrap().1), "{named}");
    assert!(!named.contains('@'), "no user, no password: {named}");
    for command in COMMANDS.into_iter().chain([CREATE]) {
        refused(command, &data, named.trim()).await;
    }
    assert!(!data.join("rota.db").exists());
}

#[tokio::test]
async fn a_server_does_not_start_on_sqlite_where_its_store_is_a_database() {
    let folder = TempDir::new().unwrap();
    let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    fs::write(folder.path().join("database"), "postgres://db.internal/rota\n").unwrap();
    let refused = rota_server::serve(config.clone(), Clock::System).await.err().unwrap().to_string();
    assert!(refused.contains("the database postgres://db.internal/rota"), "{refused}");
    fs::remove_file(folder.path().join("database")).unwrap();
    rota_server::serve(config, Clock::System).await.unwrap().stop().await;
}

#[tokio::test]
async fn an_empty_database_is_refused_and_not_taken_for_none() {
    let folder = TempDir::new().unwrap();
    for command in COMMANDS {
        refused(&[command, &["--database", ""]].concat(), folder.path(), "error: database: names no host").await;
    }
}

#[tokio::test]
async fn a_start_that_fails_takes_no_key_with_it() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let config = Config { data: folder.path().to_owned(), listen, ..Config::default() };
    let refused = rota_server::serve(config.clone(), Clock::System).await.err().unwrap().to_string();
    assert!(refused.starts_with("cannot listen on 127.0.0.1"), "{refused}");
    drop(taken);
    let server = rota_server::serve(config, Clock::System).await.unwrap();
    assert!(server.first_key.is_some());
    server.stop().await;
}

#[tokio::test]
async fn the_first_key_of_a_server_without_a_terminal_is_in_a_file_of_its_own_and_in_no_log() {
    let folder = TempDir::new().unwrap();
    let mut serve = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    serve.args(["serve", "--listen", "127.0.0.1:0", "--log", "debug", "--data"]).arg(folder.path());
    serve.env_remove("ROTA_DATABASE").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = serve.spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while !said.contains("listening") {
        said += &log.next_line().await.unwrap().expect("the server starts");
    }
    let pid = Pid::from_raw(server.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    while let Some(line) = log.next_line().await.unwrap() {
        said += &line;
    }
    said += &String::from_utf8(server.wait_with_output().await.unwrap().stdout).unwrap();
    let file = folder.path().join("first_key");
    let key = fs::read_to_string(&file).unwrap();
    assert!(key.starts_with("sk-rota-") && key.ends_with('\n'), "{key}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!said.contains(key.trim()) && said.contains("first_key"), "{said}");
    let server = rota_server::serve(
        Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() },
        Clock::System,
    );
    let server = server.await.unwrap();
    Api::new(server.address, key.trim().to_owned(), Clock::System).get("/v1/agents").await;
    server.stop().await;
}

#[tokio::test]
async fn a_stopped_server_and_a_command_leave_a_store_that_is_one_file() {
    let folder = TempDir::new().unwrap();
    let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    let server = rota_server::serve(config, Clock::System).await.unwrap();
    let api = Api::new(server.address, server.first_key.as_ref().unwrap().key.clone(), Clock::System);
    let made = environment(&api, "made").await;
    server.stop().await;
    let created = rota(&["keys", "create", "--json"], folder.path()).await;
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();

    let copy = TempDir::new().unwrap();
    for file in ["rota.db", "vault.key"] {
        fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    let config = Config { data: copy.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    let server = rota_server::serve(config, Clock::System).await.unwrap();
    let api = Api::new(server.address, created["key"].as_str().unwrap().to_owned(), Clock::System);
    assert_eq!(api.get("/v1/environments").await["data"], json!([made]));
    server.stop().await;
}

/// A server whose log of every detail can be read, and a client of it.
struct Logging {
    folder: TempDir,
    client: process::Client,
    _server: process::Server,
}

impl Logging {
    /// Starts it with the settings of a configuration file.
    async fn start(settings: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let key = process::create_key(folder.path(), &[]);
        let file = folder.path().join("rota.toml");
        fs::write(&file, settings).unwrap();
        let mut server = process::Server::new(folder.path(), &["--config", file.to_str().unwrap()]);
        server.log = Some(folder.path().join("log"));
        server.start().await;
        Self { client: process::Client::new(server.address, key), folder, _server: server }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Sends a request that must succeed. Returns its id, and the answer.
    async fn send(&self, method: Method, path: &str, body: &Value) -> (String, Value) {
        let request = self.client.request(method, path);
        let request = if body.is_null() { request } else { request.json(body) };
        let response = request.send().await.unwrap().error_for_status().unwrap();
        let id = response.headers()["request-id"].to_str().unwrap().to_owned();
        (id, response.json().await.unwrap())
    }
}

#[tokio::test]
async fn the_log_names_the_request_that_a_transaction_belongs_to() {
    let logging = Logging::start("").await;
    for (method, body, transaction) in
        [(Method::POST, json!({"name": "e"}), "write"), (Method::GET, Value::Null, "read")]
    {
        let (id, _) = logging.send(method, "/v1/environments", &body).await;
        let log = logging.log();
        let told = |line: &&str| line.contains(&format!("request{{request_id={id} ")) && line.contains(transaction);
        assert!(log.lines().any(|line| told(&line)), "no {transaction} of {id}:\n{log}");
    }
}

#[tokio::test]
async fn the_log_of_a_turn_names_the_request_whose_input_it_takes_up() {
    let text = |text: &str| Reply::Message(vec![json!({"type": "text", "text": text})]);
    let upstream = Upstream::start([Reply::Stall, text("again"), text("and again")]).await;
    let ModelConfig { id: model, base_url, .. } = upstream.model();
    let base_url = base_url.unwrap();
    let settings = format!("[[models]]\nid = {model:?}\nprovider = \"messages\"\nbase_url = {base_url:?}\n");
    let logging = Logging::start(&settings).await;
    let client = &logging.client;
    let agent = client.post("/v1/agents", &json!({"name": "a", "model": model})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    let new = json!({"agent": agent["id"], "environment_id": environment["id"], "initial_events": [message("one")]});
    let (created, session) = logging.send(Method::POST, "/v1/sessions", &new).await;
    let path = format!("/v1/sessions/{}", id(&session));
    let asked = async || {
        while upstream.asked().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(process::PATIENCE, asked()).await.expect("the model is asked");

    // The session is at work, and has been set to it by another request.
    let during = json!({"events": [{"type": "user.interrupt"}, message("two")]});
    let (during, _) = logging.send(Method::POST, &format!("{path}/events"), &during).await;
    let rests = async || {
        while client.get(&path).await["status"] != "idle" {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(process::PATIENCE, rests()).await.expect("the session rests");
    let after = json!({"events": [message("three")]});
    let (after, _) = logging.send(Method::POST, &format!("{path}/events"), &after).await;
    timeout(process::PATIENCE, rests()).await.expect("the session rests");

    let log = logging.log();
    for request in [created, during, after] {
        let span = format!("session{{id={}}}:turn{{request_id={request}}}", id(&session));
        assert!(log.contains(&span), "no turn of {request}:\n{log}");
    }
}

#[tokio::test]
async fn a_command_reads_the_configuration_file_of_the_server() {
    let server = Rota::without_engine().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("rota.toml");
    let mut settings = format!("data = {:?}\n", server.server.app().config.data);
    if let Some(database) = server.database() {
        settings += &format!("database = {:?}\n", database.url().0);
    }
    fs::write(&file, settings).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    let output = command.args(["org", "disable", "--config"]).arg(&file).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.api.get_refused("/v1/agents").await.status, 403);
}
