//! Following a session while the server is killed and comes back, and what is drawn on a terminal.

use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    cli_commands::Shell,
    given::{Parts, id, message},
    process,
    server::{PATIENCE, Rota},
};

/// What is said to the session: the first call is cut off with the server.
const PLAYBOOK: &str = "```bash\ntouch begun; sleep 1000\n```\n```bash\necho after\n```";

/// A server that can be killed, with a deployment.
struct Killable {
    server: process::Server,
    client: process::Client,
    shell: Shell,
    _folder: TempDir,
}

impl Killable {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let key = process::create_key(folder.path(), &[]);
        let mut server = process::Server::new(folder.path(), &[]);
        server.start().await;
        let client = process::Client::new(server.address, key);
        let tools = json!([{"type": "agent_toolset_20260401"}]);
        let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": tools})).await;
        let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
        let deployment = json!({
            "name": "nightly",
            "agent": agent["id"],
            "environment_id": environment["id"],
            "initial_events": [message(PLAYBOOK)],
        });
        client.post("/v1/deployments", &deployment).await;
        let shell = Shell { home: TempDir::new().unwrap(), url: client.base.clone(), key: client.key.clone() };
        Self { server, client, shell, _folder: folder }
    }
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    timeout(2 * PATIENCE, lines.next_line()).await.expect("something is told").unwrap()
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_followed_without_an_event_lost_or_told_twice() {
    let Killable { mut server, client, shell, _folder } = Killable::start().await;
    let mut running = shell.command(&["run", "nightly", "--follow", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let run: Value = serde_json::from_str(&line(&mut lines).await.unwrap()).unwrap();
    let mut told: Vec<Value> = Vec::new();
    while told.last().is_none_or(|event| event["type"] != "agent.tool_use") {
        told.push(serde_json::from_str(&line(&mut lines).await.expect("the call")).unwrap());
    }
    for _ in 0..2 {
        server.kill();
        server.start().await;
    }
    while let Some(line) = line(&mut lines).await {
        told.push(serde_json::from_str(&line).unwrap());
    }
    let output = timeout(PATIENCE, running.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("the server has gone away; waiting for it"), "{said}");
    let session = process::text(&run, "session_id");
    let events = client.list(&format!("/v1/sessions/{session}/events?limit=100")).await;
    let ids = |events: &[Value]| events.iter().map(|event| id(event).to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&told), ids(&events));
    assert_eq!(told.last().unwrap()["type"], "session.status_idle");
}

#[tokio::test]
async fn a_session_that_is_deleted_while_it_is_followed_has_failed() {
    let rota = Rota::without_engine().await;
    let shell = Shell::of(&rota.api);
    let session = Parts::new(&rota.api).await.session(&rota.api, json!({})).await;
    let path = format!("/v1/sessions/{}", id(&session));
    rota.api.post(&path, json!({"title": "followed"})).await;
    let mut running = shell.command(&["logs", id(&session), "-f", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let updated = line(&mut lines).await.expect("the new title");
    assert!(updated.contains("session.updated"), "{updated}");
    rota.api.delete(&path).await;
    let deleted = line(&mut lines).await.expect("the end");
    assert!(deleted.contains("session.deleted"), "{deleted}");
    let output = timeout(PATIENCE, running.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

/// The command on a terminal of its own, to which `script` of util-linux passes on what it is told.
fn on_a_terminal(shell: &Shell, command: &str) -> Child {
    let mut terminal = Command::new("script");
    let command = format!("stty rows 20 cols 100; exec {} {command}", env!("CARGO_BIN_EXE_rota"));
    terminal.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    terminal.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("TERM", "xterm");
    terminal.env("HOME", shell.home.path()).env("ROTA_URL", &shell.url).env("ROTA_API_KEY", &shell.key);
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    terminal.spawn().unwrap()
}

/// Reads on until `words` are there.
async fn until(stdout: &mut ChildStdout, words: &str, said: &mut String) {
    let from = said.len();
    let mut bytes = [0; 4096];
    let reading = async {
        while !said[from..].contains(words) {
            let count = stdout.read(&mut bytes).await.unwrap();
            assert!(count > 0, "it ended before {words:?}: {said}");
            *said += &String::from_utf8_lossy(&bytes[..count]);
        }
    };
    let patience = timeout(2 * PATIENCE, reading).await;
    patience.unwrap_or_else(|_| panic!("{words:?} is not drawn: {:?}", &said[from..]));
}

#[tokio::test]
async fn top_draws_what_goes_on_waits_for_the_server_and_gives_the_terminal_back() {
    let Killable { mut server, client, shell, _folder } = Killable::start().await;
    let run = client
        .post(
            &format!("/v1/deployments/{}/run", id(&shell.json(&["deployments", "show", "nightly"]).await)),
            &Value::Null,
        )
        .await;
    let session = process::text(&run, "session_id").to_owned();
    let mut top = on_a_terminal(&shell, "top");
    let mut keys = top.stdin.take().unwrap();
    let mut stdout = top.stdout.take().unwrap();
    let mut said = String::new();
    until(&mut stdout, &session, &mut said).await;
    assert!(said.contains("\u{1b}[?1049h\u{1b}[?25l"), "{said:?}");
    server.kill();
    until(&mut stdout, "nothing listens there", &mut said).await;
    server.start().await;
    until(&mut stdout, " that need somebody", &mut said).await;
    keys.write_all(b"\x03").await.unwrap();
    until(&mut stdout, "\u{1b}[?25h\u{1b}[?1049l", &mut said).await;
    let status = timeout(PATIENCE, top.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}: {said:?}");
}

#[tokio::test]
async fn on_a_terminal_there_are_colours_and_a_key_is_not_shown() {
    let rota = Rota::without_engine().await;
    let shell = Shell::of(&rota.api);
    let parts = Parts::new(&rota.api).await;
    parts.deployment(&rota.api, json!({})).await;
    let mut said = String::new();
    let mut list = on_a_terminal(&shell, "deployments list");
    until(&mut list.stdout.take().unwrap(), "nightly", &mut said).await;
    assert!(said.contains("\u{1b}[32mactive\u{1b}[0m"), "{said:?}");

    let mut top = on_a_terminal(&shell, "top --json");
    until(&mut top.stdout.take().unwrap(), "are for scripts", &mut said).await;
    assert_eq!(timeout(PATIENCE, top.wait()).await.expect("it ends").unwrap().code(), Some(2));

    let mut login = on_a_terminal(&shell, &format!("login --url {}", shell.url));
    let mut keys = login.stdin.take().unwrap();
    let mut stdout = login.stdout.take().unwrap();
    until(&mut stdout, "(it is not shown): ", &mut said).await;
    keys.write_all(format!("{}\n", shell.key).as_bytes()).await.unwrap();
    until(&mut stdout, "profile default is in", &mut said).await;
    assert!(!said.contains(&shell.key), "{said:?}");
    assert!(timeout(PATIENCE, login.wait()).await.expect("it ends").unwrap().success());
}
