//! Sessions at work: in a tool, in a model request, waiting for a confirmation. And what must be true of them after any
//! trouble.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    process::{Client, PATIENCE, text},
    slow_model::SlowModel,
};

/// How long sessions may take to come to rest once the trouble is over: longer than a server that is gone is waited for.
const REST: Duration = Duration::from_mins(3);

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Runs blocks in its shell.
    Tool,
    /// Waits for its model.
    Model,
    /// Waits for a confirmation of its first block.
    Confirmation,
}

/// A session that is at work.
struct Session {
    id: String,
    kind: Kind,
    /// How many blocks its shell runs. Each notes its number in the file `ran`.
    blocks: usize,
}

/// All sessions at work on a store.
pub struct Work {
    client: Client,
    model: SlowModel,
    sessions: Vec<Session>,
}

/// The options of a server that offers the slow model: its configuration is written to `folder`.
pub fn options(folder: &Path, model: &SlowModel) -> Vec<String> {
    let config = folder.join("rota.toml");
    let base_url = &model.base_url;
    let text = format!("[[models]]\nid = \"slow\"\nprovider = \"messages\"\nbase_url = \"{base_url}\"\n");
    fs::write(&config, text).expect("a configuration");
    vec!["--config".to_owned(), config.display().to_string(), "--concurrency".to_owned(), "64".to_owned()]
}

impl Work {
    pub fn new(client: Client, model: SlowModel) -> Self {
        Self { client, model, sessions: Vec::new() }
    }

    /// The same sessions, asked about at another server.
    pub fn at(self, address: SocketAddr) -> Self {
        Self { client: Client::new(address, self.client.key.clone()), ..self }
    }

    pub fn model(&self) -> &SlowModel {
        &self.model
    }

    /// Starts `count` sessions of each kind, whose first block, model or confirmation keeps them until
    /// [`Work::go_on`] and [`Work::confirm`].
    pub async fn start(&mut self, count: usize) {
        let waits = "echo 0 >> ran; touch started; while [ ! -e go ]; do sleep 0.05; done".to_owned();
        for _ in 0..count {
            self.start_one(Kind::Tool, "playbook", &[waits.clone(), block(1)]).await;
            self.start_one(Kind::Model, "slow", &[]).await;
            self.start_one(Kind::Confirmation, "playbook", &[block(0), block(1)]).await;
        }
    }

    /// Starts `count` sessions that run `blocks` short blocks.
    pub async fn start_busy(&mut self, count: usize, blocks: usize) {
        let scripts: Vec<String> = (0..blocks).map(block).collect();
        for _ in 0..count {
            self.start_one(Kind::Tool, "playbook", &scripts).await;
        }
    }

    async fn start_one(&mut self, kind: Kind, model: &str, scripts: &[String]) {
        let policy = if kind == Kind::Confirmation { "always_ask" } else { "always_allow" };
        let tools = json!([{
            "type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": policy}}
        }]);
        let name = format!("{kind:?} {}", self.sessions.len());
        let agent = self.client.post("/v1/agents", &json!({"name": name, "model": model, "tools": tools})).await;
        let environment = self.client.post("/v1/environments", &json!({"name": name})).await;
        let blocks = scripts.iter().fold(String::new(), |text, script| text + "```bash\n" + script + "\n```\n");
        let said = if blocks.is_empty() { "hello".to_owned() } else { blocks };
        let message = json!({"type": "user.message", "content": [{"type": "text", "text": said}]});
        let body = json!({"agent": agent["id"], "environment_id": environment["id"], "initial_events": [message]});
        let session = self.client.post("/v1/sessions", &body).await;
        self.sessions.push(Session { id: text(&session, "id").to_owned(), kind, blocks: scripts.len() });
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(move |session| session.kind == kind)
    }

    /// Returns when every session is in what keeps it. Its files are in one of `folders`.
    pub async fn is_under_way(&self, folders: &[&Path]) {
        let begin = Instant::now();
        let started = |session: &Session| file(folders, session, "started").is_some();
        while self.model.asked() < self.of(Kind::Model).count() || !self.of(Kind::Tool).all(started) {
            assert!(begin.elapsed() < PATIENCE, "not every session is at work");
            sleep(Duration::from_millis(20)).await;
        }
        for session in self.of(Kind::Confirmation) {
            while self.status(session).await.as_deref() != Some("idle") {
                assert!(begin.elapsed() < PATIENCE, "{} does not ask", session.id);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Lets what runs come to its end.
    pub fn go_on(&self, folders: &[&Path]) {
        self.model.go_on();
        for session in self.of(Kind::Tool) {
            for folder in folders.iter().map(|folder| workspace(folder, session)).filter(|folder| folder.exists()) {
                fs::write(folder.join("go"), "").expect("a file");
            }
        }
    }

    /// What the blocks of every session have noted in a folder so far.
    pub fn ran(&self, folder: &Path) -> Vec<String> {
        self.sessions.iter().map(|session| noted(&[folder], session)).collect()
    }

    /// Answers what waits for an answer, and checks that every session then comes to rest with each of its calls closed once
    /// and none run twice, takes an interrupt, and can be archived and deleted. `before` is what had run in folders that are
    /// gone since.
    pub async fn comes_to_a_good_end(&self, folders: &[&Path], before: &[String]) {
        let begin = Instant::now();
        while self.http_status("/readyz").await != Some(StatusCode::OK) {
            assert!(begin.elapsed() < REST, "the server is not ready");
            sleep(Duration::from_millis(100)).await;
        }
        for (place, session) in self.sessions.iter().enumerate() {
            self.comes_to_rest(session, folders).await;
            let log = self.client.list(&format!("/v1/sessions/{}/events?limit=1000", session.id)).await;
            let gone = before.get(place).map_or("", String::as_str);
            check(session, &log, &noted(folders, session), gone);
            let path = format!("/v1/sessions/{}", session.id);
            self.client.post(&format!("{path}/events"), &json!({"events": [{"type": "user.interrupt"}]})).await;
            self.client.answer(self.client.request(Method::POST, &format!("{path}/archive"))).await;
            self.client.answer(self.client.request(Method::DELETE, &path)).await;
        }
        println!("{} sessions at rest {:.1} s after the trouble", self.sessions.len(), begin.elapsed().as_secs_f64());
    }

    async fn comes_to_rest(&self, session: &Session, folders: &[&Path]) {
        let begin = Instant::now();
        loop {
            let path = format!("/v1/sessions/{}", session.id);
            // The log is read after the status, so it has what the status comes from.
            let status = self.status(session).await;
            let open = self.client.list(&format!("{path}/events?limit=1000")).await;
            match status.as_deref() {
                Some("idle") => match waiting(&open) {
                    Some(call) => {
                        let allow = json!({"type": "user.tool_confirmation", "tool_use_id": call, "result": "allow"});
                        self.client.post(&format!("{path}/events"), &json!({"events": [allow]})).await;
                    }
                    None => return,
                },
                Some("running" | "rescheduling") => {
                    // A session that has moved runs its blocks in a folder that was not there before.
                    self.go_on(folders);
                }
                status => panic!("{} is {status:?}: {open:#?}", session.id),
            }
            assert!(begin.elapsed() < REST, "{:?} {} does not come to rest: {open:#?}", session.kind, session.id);
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn status(&self, session: &Session) -> Option<String> {
        let path = format!("/v1/sessions/{}", session.id);
        let answer = self.client.request(Method::GET, &path).send().await.ok()?;
        answer.json::<Value>().await.ok()?["status"].as_str().map(str::to_owned)
    }

    /// What a path without a key answers now.
    pub async fn http_status(&self, path: &str) -> Option<StatusCode> {
        self.client.request(Method::GET, path).send().await.ok().map(|answer| answer.status())
    }
}

fn block(number: usize) -> String {
    format!("echo {number} >> ran; sleep 0.1")
}

fn workspace(folder: &Path, session: &Session) -> PathBuf {
    folder.join("sessions").join(&session.id).join("workspace")
}

fn file(folders: &[&Path], session: &Session, name: &str) -> Option<PathBuf> {
    folders.iter().map(|folder| workspace(folder, session).join(name)).find(|path| path.exists())
}

/// What the blocks of a session have noted, wherever they ran.
fn noted(folders: &[&Path], session: &Session) -> String {
    let read = |folder: &&Path| fs::read_to_string(workspace(folder, session).join("ran")).unwrap_or_default();
    folders.iter().map(read).collect()
}

/// The first call that waits for a confirmation at the end of a log.
fn waiting(log: &[Value]) -> Option<String> {
    let idle = log.iter().rev().find(|event| event["type"] == "session.status_idle")?;
    Some(idle["stop_reason"]["event_ids"].get(0)?.as_str()?.to_owned())
}

fn check(session: &Session, log: &[Value], ran: &str, gone: &str) {
    let Session { id, kind, blocks } = session;
    let of = |kind: &str| log.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    let (calls, results) = (of("agent.tool_use"), of("agent.tool_result"));
    assert_eq!(calls.len(), *blocks, "{kind:?} {id} called each block once: {log:#?}");
    let (starts, ends) = (of("span.model_request_start"), of("span.model_request_end"));
    assert_eq!(starts.len(), ends.len(), "{kind:?} {id}: {log:#?}");
    for (number, call) in calls.iter().enumerate() {
        let closing: Vec<_> = results.iter().filter(|result| result["tool_use_id"] == call["id"]).collect();
        assert_eq!(closing.len(), 1, "{kind:?} {id}: {call}");
        let count = |text: &str| text.lines().filter(|line| *line == number.to_string()).count();
        let times = count(ran) + count(gone);
        if closing[0]["is_error"] == true {
            let told = text(&closing[0]["content"][0], "text");
            assert!(!told.starts_with("The sandbox ended"), "the server ended a call that ran: {told}");
            assert!(times <= 1, "{kind:?} {id} ran block {number} {times} times: {ran:?} {gone:?}");
        } else {
            assert_eq!(times, 1, "{kind:?} {id} ran block {number} so many times: {ran:?} {gone:?}");
        }
    }
}
