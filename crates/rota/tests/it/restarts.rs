//! What outlives the server: files, histories, and whatever waits for the client.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rota_server::{clock::Clock, config::DatabaseUrl, db::Tx};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    client::Api,
    given::{Parts, agent, environment, id, message, over, script, toolset},
    server::{Rota, appears},
    stream::{first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
};

/// A message that asks the playbook to call `tool`.
fn call(tool: &str, input: &Value) -> String {
    format!("```{tool}\n{input}\n```\n")
}

/// Three turns over the same files.
fn three_turns() -> [String; 3] {
    let notes = "/workspace/notes.txt";
    [
        call("write", &json!({"file_path": notes, "content": "alpha\nbeta\n"}))
            + &call("bash", &json!("")).replace("\"\"", "sum=$(wc -l < notes.txt); echo lines: $sum"),
        call("edit", &json!({"file_path": notes, "old_string": "beta", "new_string": "gamma"}))
            + &call("grep", &json!({"pattern": "gam+a", "path": "/workspace", "output_mode": "content"})),
        call("read", &json!({"file_path": notes})) + &call("glob", &json!({"pattern": "*.txt", "path": "/workspace"})),
    ]
}

/// Follows the turn after the event `last` of a stream and checks that its report tells of two blocks that went well.
/// The report and the last event.
async fn goes_well(api: &Api, session: &str, last: i64) -> (String, i64) {
    let frames = api.stream_from(session, last).await.until("session.status_idle").await;
    let events: Vec<Value> = frames.iter().map(|frame| frame.event.clone()).collect();
    let report = text(first(&events, "agent.message")).to_owned();
    assert!(report.starts_with("2 ok, 0 failed"), "{report}");
    (report, frames.last().unwrap().id.unwrap())
}

#[tokio::test]
async fn files_and_history_outlive_a_restart_between_two_turns() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let [one, two, three] = three_turns();
    let session = parts.session_with(&rota.api, message(&one)).await;
    let session = id(&session).to_owned();
    let (report, last) = goes_well(&rota.api, &session, 0).await;
    assert!(report.contains("lines: 2"), "{report}");
    let before = rota.api.all(&format!("/v1/sessions/{session}/events"), 1000).await;

    let rota = rota.restart().await;
    assert_eq!(rota.api.all(&format!("/v1/sessions/{session}/events"), 1000).await, before);
    rota.api.events(&session, json!([message(&two)])).await;
    let (report, last) = goes_well(&rota.api, &session, last).await;
    assert!(report.contains("gamma"), "{report}");
    rota.api.events(&session, json!([message(&three)])).await;
    let (report, _) = goes_well(&rota.api, &session, last).await;
    assert!(report.contains("alpha") && report.contains("gamma") && report.contains("notes.txt"), "{report}");
}

#[tokio::test]
async fn a_call_that_waits_for_a_confirmation_waits_across_a_restart() {
    let rota = Rota::start().await;
    let asks = json!({"default_config": {"permission_policy": {"type": "always_ask"}}});
    let parts = Parts {
        agent: agent(&rota.api, json!({"tools": [over(toolset(), &asks)]})).await,
        environment: environment(&rota.api, "e").await,
    };
    let session = parts.session_with(&rota.api, script("echo allowed")).await;
    let frames = rota.api.stream_from(id(&session), 0).await.until("session.status_idle").await;
    let call = frames.iter().find(|frame| frame.kind() == "agent.tool_use").unwrap().event.clone();
    let rota = rota.restart().await;
    let mut stream = rota.api.stream_from(id(&session), frames.last().unwrap().id.unwrap()).await;
    let answer = json!({"type": "user.tool_confirmation", "tool_use_id": id(&call), "result": "allow"});
    rota.api.events(id(&session), json!([answer])).await;
    let events = stream.turn().await;
    assert_eq!(first(&events, "agent.tool_result")["is_error"], false, "a confirmed call runs, also in a new process");
    assert_eq!(stop_reason(&events)["type"], "end_turn");
}

#[tokio::test]
async fn a_session_that_a_server_without_runners_took_in_runs_on_the_next_one() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, message("one")).await;
    rota.api.events(id(&session), json!([message("two")])).await;
    let rota = rota.restart_with(|config| config.engine.concurrency = 4).await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "user.message").count(), 2);
}

#[tokio::test]
async fn a_model_request_that_a_restart_cut_off_is_made_again() {
    let upstream = Upstream::start([Reply::Stall, Reply::Message(vec![json!({"type": "text", "text": "hi"})])]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("hello")).await;
    while upstream.asked().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    let rota = rota.restart().await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    let requests = [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "span.model_request_end",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ];
    assert_eq!(kinds(&events), requests);
    assert_eq!((&events[4]["is_error"], &events[7]["is_error"]), (&json!(true), &json!(false)));
    assert_eq!(events[4]["model_request_start_id"], events[3]["id"]);
    assert_eq!(upstream.asked()[0], upstream.asked()[1]);
}

#[tokio::test]
async fn a_server_that_starts_ends_what_was_left_before_it_runs_sessions_and_answers_meanwhile() {
    let rota = Rota::without_engine().await;
    let waits = "touch started; while [ ! -e go ]; do sleep 0.05; done; echo done";
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(waits)).await;
    let (config, key) = (rota.server.app().config.clone(), rota.api.key.clone());
    let started = rota.workspace_file(id(&session), "started");
    rota.server.stop().await;
    // A record that is read to its end when the test says so: until then what was left is not swept.
    let record = config.data.join("sandboxes/sesn_left");
    assert!(Command::new("mkfifo").arg(&record).status().unwrap().success());
    let server = Process::start_on(&config.data, config.database.as_ref(), key);
    server.api.get("/v1/agents").await;
    let swept = loop {
        // Without anybody who reads, it cannot be opened.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        match std::fs::File::options().write(true).custom_flags(flags).open(&record) {
            Ok(file) => break file,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    };
    // Time in which one that does not wait would have begun.
    sleep(Duration::from_secs(1)).await;
    server.api.get("/v1/agents").await;
    assert!(!started.exists(), "nothing runs before that is over");
    drop(swept);
    appears(started.clone()).await;
    assert!(!record.exists());
    std::fs::write(started.with_file_name("go"), "").unwrap();
    let events = server.api.stream_from(id(&session), 0).await.turn().await;
    let result = first(&events, "agent.tool_result");
    assert!(text(result).contains("done"), "{result}");
}

#[tokio::test]
async fn a_folder_has_one_server_at_a_time() {
    let rota = Rota::without_engine().await;
    let config = rota.server.app().config.clone();
    let second = rota_server::serve(config, rota.clock.clone()).await;
    let error = second.err().expect("the folder is in use").to_string();
    assert!(error.starts_with("another server is using the data folder"), "{error}");
    rota.api.get("/v1/agents").await;
    rota.restart().await.api.get("/v1/agents").await;
}

/// The real binary, serving a folder. Killed when it is dropped.
struct Process {
    child: Child,
    api: Api,
}

impl Process {
    fn start(data: &Path, key: String) -> Self {
        Self::start_on(data, None, key)
    }

    fn start_on(data: &Path, database: Option<&DatabaseUrl>, key: String) -> Self {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_rota"))
            .args(serve)
            .arg(data)
            .args(database.iter().flat_map(|url| ["--database", &url.0]))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log.by_ref().find_map(|line| {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            line["fields"]["address"].as_str().map(|address| address.parse().unwrap())
        });
        // A log that nobody reads would fill its pipe in the end.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, api: Api::new(address.unwrap(), key, Clock::System) }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A key for the store in `data`, which is made.
fn new_key(data: &Path) -> String {
    std::fs::create_dir_all(data).unwrap();
    let keys = ["keys", "create", "--json", "--data"];
    let made = Command::new(env!("CARGO_BIN_EXE_rota")).args(keys).arg(data).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    made["key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn files_and_history_outlive_sigkill_and_a_call_that_was_running_is_not_run_again() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let key = new_key(&data);
    let mut server = Process::start(&data, key.clone());
    let parts = Parts::new(&server.api).await;
    let [one, two, three] = three_turns();
    let session = parts.session_with(&server.api, message(&one)).await;
    let session = id(&session).to_owned();
    let (_, last) = goes_well(&server.api, &session, 0).await;
    server.kill();

    let mut server = Process::start(&data, key.clone());
    server.api.events(&session, json!([message(&two)])).await;
    let (_, last) = goes_well(&server.api, &session, last).await;
    let runs_on = "echo once >> count; touch started; sleep 600";
    server.api.events(&session, json!([script(runs_on)])).await;
    let started = workspace_file(&data, &session, "started");
    appears(started).await;
    server.kill();

    let server = Process::start(&data, key);
    let frames = server.api.stream_from(&session, last).await.until("session.status_idle").await;
    let events: Vec<Value> = frames.iter().map(|frame| frame.event.clone()).collect();
    let result = first(&events, "agent.tool_result");
    let told = "The server was restarted while this call may have been running.";
    assert!(result["is_error"] == true && text(result).starts_with(told), "{result}");
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "agent.tool_use").count(), 1);
    let frames_end = frames.last().unwrap().id.unwrap();
    server.api.events(&session, json!([message(&three)])).await;
    goes_well(&server.api, &session, frames_end).await;
    assert_eq!(std::fs::read_to_string(workspace_file(&data, &session, "count")).unwrap(), "once\n");
}

fn workspace_file(data: &Path, session: &str, name: &str) -> PathBuf {
    let backend = rota_sandbox::Embedded::new(rota_sandbox::Config::new(data)).unwrap();
    backend.session_dir(session).unwrap().join("workspace").join(name)
}

#[tokio::test]
async fn a_session_that_cannot_be_read_any_more_ends_with_an_error_that_says_so() {
    for damage in
        ["UPDATE session_events SET body = '{' WHERE seq = 1", "UPDATE session_inputs SET body = '{' WHERE place = 1"]
    {
        let rota = Rota::without_engine().await;
        let session = Parts::new(&rota.api).await.session_with(&rota.api, message("hello")).await;
        rota.api.events(id(&session), json!([message("are you there?")])).await;
        // An event of the log.
        rota.api.post(&format!("/v1/sessions/{}", id(&session)), json!({"title": "t"})).await;
        let damaged = rota.server.app().db.write(move |tx: &mut Tx<'_>| tx.execute(damage, &[])).await;
        assert_eq!(damaged.unwrap(), 1, "{damage}");
        let rota = rota.restart_with(|config| config.engine.concurrency = 1).await;
        let path = format!("/v1/sessions/{}", id(&session));
        rota.api.once(&path, |session| session["status"] == "terminated").await;
        let told = rota.api.get(&format!("{path}/events?types=session.error&types=session.status_terminated")).await;
        let told = told["data"].as_array().unwrap();
        assert_eq!(kinds(told), ["session.error", "session.status_terminated"], "{damage}");
        let error = &told[0]["error"];
        assert_eq!((&error["type"], &error["retry_status"]["type"]), (&json!("unknown_error"), &json!("terminal")));

        // The one place for a session is free again.
        let next =
            Parts { agent: agent(&rota.api, json!({})).await, environment: environment(&rota.api, "other").await };
        let next = next.session_with(&rota.api, message("hello")).await;
        rota.api.stream_from(id(&next), 0).await.turn().await;
    }
}
