//! What stops a server, its sessions or its schedules, and what goes on afterwards.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use rota_server::db::{Tx, Val};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    client::{forbidden, not_found},
    given::{Parts, agent, environment, id, message, script},
    occurrences::audit,
    process,
    schedules::{at, every, fired, range, skipped},
    server::{PATIENCE, Rota, appears, disappears, record},
    stream::{first, text},
    upstream::{Reply, Upstream},
};

/// A call of the shell, as a model makes it.
fn bash(name: &str, command: &str) -> Value {
    json!({"type": "tool_use", "id": format!("toolu_{name}"), "name": "bash", "input": {"command": command}})
}

fn said(text: &str) -> Reply {
    Reply::Message(vec![json!({"type": "text", "text": text})])
}

/// A server whose model answers by a script, and a session of it.
async fn with_a_model(script: impl IntoIterator<Item = Reply>, drain_seconds: u64) -> (Rota, Upstream, String) {
    let upstream = Upstream::start(script).await;
    let rota = Rota::with(|config| {
        config.models = vec![upstream.model()];
        config.engine.drain_seconds = drain_seconds;
    })
    .await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("work")).await;
    (rota, upstream, id(&session).to_owned())
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A column of a session's row, as a text.
async fn column(rota: &Rota, session: &str, column: &str) -> Option<String> {
    let (sql, session) = (format!("SELECT CAST({column} AS TEXT) FROM sessions WHERE id = $1"), session.to_owned());
    let read = move |tx: &mut Tx<'_>| tx.one(&sql, &[Val::Text(&session)], |row| row.opt_text(0));
    rota.server.app().db.read(read).await.unwrap().flatten()
}

#[tokio::test]
async fn a_server_that_is_told_to_end_finishes_a_call_and_leaves_the_next_one_to_its_successor() {
    let waits = "touch started; while [ ! -e go ]; do sleep 0.05; done; echo one >> log";
    let calls = Reply::Message(vec![bash("one", waits), bash("two", "echo two >> log; cat log")]);
    let (rota, upstream, session) = with_a_model([calls, said("done")], 86_400).await;
    let (started, log) = (rota.workspace_file(&session, "started"), rota.workspace_file(&session, "log"));
    appears(started.clone()).await;
    let draining = async {
        let ready = async || rota.api.request(Method::GET, "/readyz").send().await.unwrap().status();
        until("it is not ready any more", async || ready().await != StatusCode::OK).await;
        rota.api.get("/v1/agents").await;
        fs::write(started.with_file_name("go"), "").unwrap();
    };
    timeout(PATIENCE, async { tokio::join!(rota.server.drain(), draining) }).await.unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "one\n", "the next call was not begun");
    assert_eq!((upstream.asked().len(), column(&rota, &session, "lease_owner").await), (1, None));

    let rota = rota.restart().await;
    let events = rota.api.stream_from(&session, 0).await.turn().await;
    let results: Vec<&str> = events.iter().filter(|event| event["type"] == "agent.tool_result").map(text).collect();
    assert_eq!(results.len(), 2);
    assert!(results[1].contains("one\ntwo"), "it has run, once: {results:?}");
    assert!(!results.concat().contains("unknown"), "{results:?}");
}

#[tokio::test]
async fn what_takes_longer_than_it_may_is_cut_off_and_its_outcome_is_unknown() {
    let call = Reply::Message(vec![bash("one", "touch started; sleep 1000")]);
    let (rota, _upstream, session) = with_a_model([call, said("done")], 0).await;
    appears(rota.workspace_file(&session, "started")).await;
    timeout(PATIENCE, rota.server.drain()).await.unwrap();
    let rota = rota.restart().await;
    let events = rota.api.stream_from(&session, 0).await.turn().await;
    assert!(text(first(&events, "agent.tool_result")).contains("unknown"), "{events:?}");
}

/// Runs a command about the store of a server.
pub async fn rota_command(rota: &Rota, arguments: &[&str]) -> Value {
    let mut command = tokio::process::Command::from(process::rota());
    command.args(arguments).arg("--json").arg("--data").arg(&rota.server.app().config.data);
    if let Some(database) = rota.database() {
        command.args(["--database", &database.url().0]);
    }
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn what_runs_stops_at_once_when_the_organization_is_disabled_now_and_goes_on_when_it_is_enabled() {
    let calls = Reply::Message(vec![bash("one", "touch started; sleep 1000")]);
    let (rota, upstream, session) = with_a_model([calls, said("done")], 20).await;
    let parts = Parts::new(&rota.api).await;
    // One whose sandbox has something in the background, one that a client has interrupted.
    let rests = parts.session_with(&rota.api, script("sleep 1000 > /dev/null 2>&1 &")).await;
    rota.api.stream_from(id(&rests), 0).await.turn().await;
    let interrupted = parts.session_with(&rota.api, script("touch started; sleep 1000")).await;
    let started = |session: &str| rota.workspace_file(session, "started");
    appears(started(id(&interrupted))).await;
    appears(started(&session)).await;
    rota.api.events(id(&interrupted), json!([{"type": "user.interrupt"}])).await;
    rota.api.stream_from(id(&interrupted), 0).await.turn().await;
    let records: Vec<_> = [&*session, id(&rests)].map(|session| record(&started(session), session)).into();
    assert!(records.iter().all(|record| record.exists()));

    rota_command(&rota, &["org", "disable", "--now"]).await;
    for record in records {
        disappears(record).await;
    }
    until("it has no runner", async || column(&rota, &session, "lease_owner").await.is_none()).await;
    assert_eq!(column(&rota, &session, "status").await.as_deref(), Some("running"), "it has not come to rest");
    assert_eq!(upstream.asked().len(), 1);

    rota_command(&rota, &["org", "enable"]).await;
    let events = rota.api.stream_from(&session, 0).await.turn().await;
    assert!(text(first(&events, "agent.tool_result")).contains("unknown"), "{events:?}");
    assert_eq!(upstream.asked().len(), 2);
    for session in [id(&rests), id(&interrupted)] {
        assert_eq!(rota.api.get(&format!("/v1/sessions/{session}")).await["status"], "idle");
    }
}

#[tokio::test]
async fn a_request_to_a_model_ends_with_the_organization_and_is_made_again_after_it() {
    let (rota, upstream, session) = with_a_model([Reply::Stall, said("done")], 20).await;
    until("the model is asked", async || upstream.asked().len() == 1).await;
    rota_command(&rota, &["org", "disable", "--now"]).await;
    until("it has no runner", async || column(&rota, &session, "lease_owner").await.is_none()).await;
    rota_command(&rota, &["org", "enable"]).await;
    let events = rota.api.stream_from(&session, 0).await.turn().await;
    assert_eq!(text(first(&events, "agent.message")), "done");
    assert_eq!(upstream.asked().len(), 2);
}

#[tokio::test]
async fn held_schedules_pass_over_what_is_due_and_say_so_and_runs_by_hand_go_on() {
    let rota = Rota::without_engine().await;
    let (administrator, other) = (rota.administrator().await, rota.other_workspace().await);
    let made = Parts::new(&rota.api).await.deployment(&rota.api, every("0 * * * *")).await;
    let of_other = Parts::new(&other).await.deployment(&other, every("0 * * * *")).await;
    at(&rota, "02T09:00:01").await;
    let held = administrator.call("/rota/v1/schedules/hold").await;
    assert_eq!((&held["type"], &held["workspaces"]), (&json!("schedule_holds"), &json!([])));
    assert!(held["held_at"].as_str().unwrap().starts_with("2026-03-02T09:00:0"), "{held}");
    at(&rota, "02T10:00:01").await;
    at(&rota, "02T11:00:01").await;
    assert_eq!(administrator.call("/rota/v1/schedules/hold").await, held, "it is held since it was");
    let run = rota.api.call(&format!("/v1/deployments/{}/run", id(&made))).await;
    assert!(run["session_id"].is_string(), "{run}");
    let workspace = made_in(&rota, &made).await;
    let hold_one = format!("/rota/v1/workspaces/{workspace}/schedules/hold");
    assert_eq!(administrator.call(&hold_one).await["workspaces"][0]["workspace_id"], *workspace);
    assert_eq!(administrator.call("/rota/v1/schedules/release").await["held_at"], Value::Null);
    at(&rota, "02T12:00:01").await;
    let shown = rota_command(&rota, &["schedules", "show"]).await;
    assert_eq!(shown, administrator.get("/rota/v1/schedules/hold").await);
    let released = rota_command(&rota, &["schedules", "release", "--workspace", &workspace]).await;
    assert_eq!(released, json!({"type": "schedule_holds", "held_at": null, "workspaces": []}));
    at(&rota, "02T13:00:01").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00", "02T13:00:00"]);
    assert_eq!(skipped(&rota, &made).await, [range("02T10:00:00", "02T12:00:00", "held")]);
    assert_eq!(fired(&other, &of_other).await, ["02T09:00:00", "02T12:00:00", "02T13:00:00"]);
    assert_eq!(skipped(&rota, &of_other).await, [range("02T10:00:00", "02T11:00:00", "held")]);
    let told = audit(&rota.api, &made, "from=2026-03-02T09:30:00Z&to=2026-03-02T10:30:00Z").await;
    assert_eq!(told, ["02T10:00 skipped held"]);
}

/// The workspace of a deployment.
async fn made_in(rota: &Rota, deployment: &Value) -> String {
    let id = id(deployment).to_owned();
    let sql = "SELECT workspace_id FROM deployments WHERE id = $1";
    let read = move |tx: &mut Tx<'_>| tx.one(sql, &[Val::Text(&id)], |row| row.text(0));
    rota.server.app().db.read(read).await.unwrap().unwrap()
}

#[tokio::test]
async fn schedules_are_held_by_administrators_and_of_workspaces_that_there_are() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    for verb in ["hold", "release"] {
        let path = format!("/rota/v1/workspaces/wrkspc_none/schedules/{verb}");
        assert_eq!(administrator.call_refused(&path).await, not_found("Workspace `wrkspc_none` not found."));
        let refused = rota.api.call_refused(&format!("/rota/v1/schedules/{verb}")).await;
        assert_eq!(refused.kind, forbidden("").kind, "{refused:?}");
    }
    let named = rota_command(&rota, &["schedules", "hold", "--workspace", "Default"]).await;
    assert_eq!(named["workspaces"][0]["name"], "Default");
}

/// The real binary with a configuration file, and what it tells its service manager.
struct Served {
    folder: TempDir,
    server: process::Server,
    child: Child,
    manager: UnixDatagram,
    key: String,
}

impl Served {
    fn start(settings: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let key = process::create_key(folder.path(), &[]);
        let (file, socket) = (folder.path().join("rota.toml"), folder.path().join("manager"));
        fs::write(&file, settings).unwrap();
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let server = process::Server::new(folder.path(), &[]);
        let mut command = process::rota();
        command.args(["serve", "--listen", &server.address.to_string(), "--config"]).arg(&file);
        command.arg("--data").arg(folder.path()).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "200000");
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let served = Self { folder, server, child, manager, key };
        served.told("READY=1");
        served
    }

    /// Waits until the service manager is told this; what else it is told is passed over. The whole message.
    fn told(&self, what: &str) -> String {
        let begin = Instant::now();
        loop {
            let mut message = [0; 1024];
            let length = tokio::task::block_in_place(|| self.manager.recv(&mut message)).expect("it is told something");
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|line| line.starts_with(what)) {
                return message;
            }
            assert!(begin.elapsed() < PATIENCE, "it is not told {what}");
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Has it read another text of its configuration file.
    fn reload(&self, settings: &str) {
        fs::write(self.folder.path().join("rota.toml"), settings).unwrap();
        self.signal(Signal::HUP);
        let told = self.told("RELOADING=1");
        let when = told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("systemd needs the time");
        assert!(when.parse::<u64>().unwrap() > 0);
        self.told("READY=1");
    }

    async fn models(&self) -> Vec<String> {
        let client = process::Client::new(self.server.address, self.key.clone());
        let models = client.answer(client.request(Method::GET, "/v1/models")).await;
        models["data"].as_array().unwrap().iter().map(|model| id(model).to_owned()).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_has_the_file_read_again_and_a_wrong_file_changes_nothing() {
    let model = |id: &str| format!("[[models]]\nid = \"{id}\"\nprovider = \"playbook\"\n");
    let served = Served::start(&model("one"));
    assert_eq!(served.models().await, ["one", "playbook"]);
    served.reload(&format!("log = \"debug\"\n[http]\nconnections = 5000\n{}{}", model("one"), model("two")));
    assert_eq!(served.models().await, ["one", "two", "playbook"]);
    process::Client::new(served.server.address, served.key.clone()).get("/v1/agents").await;
    let log = served.log();
    assert!(log.contains("log, models.two.id, models.two.provider"), "{log}");
    assert!(log.contains("take effect with a restart") && log.contains("http.connections"), "{log}");
    assert!(log.contains("DEBUG"), "the level is another one: {log}");

    for (settings, because) in [
        (format!("colour = 1\n{}", model("three")), "colour"),
        (format!("log = \"a=b=c\"\n{}", model("three")), "log:"),
        (
            format!(
                "{}api_key_env = \"NOT_SET_AT_ALL\"\nbase_url = \"http://127.0.0.1:1\"\n",
                model("three").replace("playbook", "messages")
            ),
            "NOT_SET_AT_ALL",
        ),
    ] {
        served.reload(&settings);
        assert_eq!(served.models().await, ["one", "two", "playbook"], "{because}");
        let log = served.log();
        let line = log.lines().rfind(|line| line.contains("nothing of it is taken")).expect("it is said");
        assert!(line.contains(because), "{line}");
    }
    fs::remove_file(served.folder.path().join("rota.toml")).unwrap();
    served.signal(Signal::HUP);
    served.told("RELOADING=1");
    served.told("READY=1");
    assert_eq!(served.models().await, ["one", "two", "playbook"], "a file that is gone changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_that_the_server_is_ready_alive_and_ending() {
    let mut served = Served::start("");
    for _ in 0..3 {
        served.told("WATCHDOG=1");
    }
    served.signal(Signal::TERM);
    served.told("STOPPING=1");
    let ended = async {
        while served.child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
    assert!(Path::new(served.folder.path()).join("rota.db").exists());
}

/// Sandboxes as containers of a daemon that is not there.
const NO_DAEMON: &str = "[sandbox]\nbackend = \"podman\"\nsocket = \"/nowhere/podman.sock\"\nimage = \"debian:12\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_says_at_its_start_what_its_sandboxes_lack_and_what_to_do() {
    let served = Served::start(NO_DAEMON);
    let line =
        || served.log().lines().find(|line| line.contains("this machine cannot isolate agents")).map(str::to_owned);
    until("the log says what is missing", async || line().is_some()).await;
    let line = line().unwrap();
    for part in ["missing=\"containers\"", "cause=", "/nowhere/podman.sock", "remedy=", "correct `socket` in [sandbox]"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    served.models().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_runs_no_sessions_needs_no_sandbox() {
    let served = Served::start(&format!("roles = [\"api\", \"scheduler\"]\n{NO_DAEMON}"));
    served.models().await;
    assert!(!served.log().contains("cannot isolate"), "{}", served.log());
}
