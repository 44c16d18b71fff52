//! Workers of a self-hosted environment while the server is killed: each piece of work has one worker at a time, each call is
//! run once, and every session comes to its end.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    at_work,
    process::{Client, PATIENCE, text},
    random,
};

const SESSIONS: usize = 40;
const WORKERS: usize = 6;
const KILLS: usize = 12;
/// How long a server lives at least, and how much longer at most, in milliseconds.
const LIFE_MS: (u64, u64) = (100, 400);
const BLOCKS: [&str; 3] = ["one", "two", "three"];
/// What a worker does not acknowledge in this time goes to the next.
const RECLAIM_MS: u64 = 500;
/// How long a worker has its work after a heartbeat: no kill takes as long.
const TTL_S: u64 = 10;
/// How long a request is tried again before the worker gives up.
const TRIES: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_of_a_worker_is_run_twice_and_no_work_is_lost_when_the_server_is_killed() {
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut server, client) = at_work(folder.path()).await;
    let yard = Arc::new(Yard::create(client).await);
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(yard.clone()));
    }
    for _ in 0..KILLS {
        sleep(Duration::from_millis(LIFE_MS.0 + random.below(LIFE_MS.1))).await;
        server.kill();
        server.start().await;
    }
    let begin = Instant::now();
    for session in &yard.sessions {
        while !yard.is_done(session).await {
            assert!(begin.elapsed() < 4 * PATIENCE, "session {session} does not come to its end");
            sleep(Duration::from_millis(50)).await;
        }
    }
    yard.ending.store(true, Ordering::Relaxed);
    workers.join_all().await;
    let ran = yard.ran.lock().expect("no worker panicked");
    assert_eq!(ran.len(), SESSIONS * BLOCKS.len(), "calls that were run");
    let twice: Vec<_> = ran.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "run more than once: {twice:?}");
    let cut = yard.cut.load(Ordering::Relaxed);
    assert!(cut, "no request was under way at any kill: the test has shown nothing");
}

/// What the workers share.
struct Yard {
    client: Client,
    worker: Client,
    environment: String,
    sessions: Vec<String>,
    /// How often each call was run.
    ran: Mutex<HashMap<String, usize>>,
    ending: AtomicBool,
    cut: AtomicBool,
}

impl Yard {
    async fn create(client: Client) -> Self {
        let environment = json!({"name": "yard", "config": {"type": "self_hosted"}});
        let environment = client.post("/v1/environments", &environment).await;
        let keys = format!("/rota/v1/environments/{}/keys", text(&environment, "id"));
        let secret = client.post(&keys, &json!({"name": "worker"})).await;
        let worker = Client { key: text(&secret, "secret").to_owned(), ..client.clone() };
        let tools = json!([{"type": "agent_toolset_20260401"}]);
        let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": tools})).await;
        let playbook = BLOCKS.map(|block| format!("```bash\n{block}\n```\n")).concat();
        let event = json!({"type": "user.message", "content": [{"type": "text", "text": playbook}]});
        let body = json!({"agent": agent["id"], "environment_id": environment["id"], "initial_events": [event]});
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push(text(&client.post("/v1/sessions", &body).await, "id").to_owned());
        }
        Self {
            client,
            worker,
            environment: text(&environment, "id").to_owned(),
            sessions,
            ran: Mutex::default(),
            ending: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        }
    }

    async fn is_done(&self, session: &str) -> bool {
        let path = format!("/v1/sessions/{session}/events?types=session.status_idle&order=desc&limit=1");
        self.client.get(&path).await["data"][0]["stop_reason"]["type"] == "end_turn"
    }

    fn work(&self, rest: &str) -> String {
        format!("/v1/environments/{}/work{rest}", self.environment)
    }

    /// Asks until there is an answer, whatever it says.
    async fn ask(&self, by: &Client, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let begin = Instant::now();
        loop {
            let request = by.request(method.clone(), path);
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            let answer = match request.send().await {
                Ok(response) => {
                    let status = response.status();
                    response.json().await.map(|body| (status, body))
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => return answer,
                Err(error) => {
                    if !error.is_connect() {
                        self.cut.store(true, Ordering::Relaxed);
                    }
                    assert!(begin.elapsed() < TRIES, "no answer to {method} {path}: {error}");
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

/// A worker: as the official one, but it does not stay with a session that rests.
async fn work(yard: Arc<Yard>) {
    while !yard.ending.load(Ordering::Relaxed) {
        let poll = yard.work(&format!("/poll?block_ms=200&reclaim_older_than_ms={RECLAIM_MS}"));
        let (_, given) = yard.ask(&yard.worker, Method::GET, &poll, None).await;
        let Some(session) = given["id"].as_str() else { continue };
        let secret = URL_SAFE_NO_PAD.decode(text(&given, "secret")).expect("base64url");
        let secret: Value = serde_json::from_slice(&secret).expect("JSON");
        let token = Client { key: text(&secret, "sessions_token").to_owned(), ..yard.worker.clone() };
        // Whether the answer to it is lost or not: the first heartbeat decides who has the work.
        yard.ask(&yard.worker, Method::POST, &yard.work(&format!("/{session}/ack")), None).await;
        if serve(&yard, &token, session).await.is_some() {
            let stop = yard.work(&format!("/{session}/stop"));
            yard.ask(&token, Method::POST, &stop, Some(&json!({"force": true}))).await;
        }
    }
}

/// Keeps the work. Returns the heartbeat that the next one names; `None` when the work is another's. Whoever did not hear the answer
/// to a heartbeat gives the work up too: it cannot know.
async fn beat(yard: &Yard, token: &Client, session: &str, last: &str) -> Option<String> {
    let path = format!("/{session}/heartbeat?expected_last_heartbeat={last}&desired_ttl_seconds={TTL_S}");
    let (status, beat) = yard.ask(token, Method::POST, &yard.work(&path), None).await;
    if status == StatusCode::PRECONDITION_FAILED {
        return None;
    }
    assert_eq!((status, &beat["lease_extended"]), (StatusCode::OK, &json!(true)), "{beat}");
    Some(text(&beat, "last_heartbeat").to_owned())
}

/// Runs the calls of a session that have no result until its turn ends. `None` when the work is another's before that.
async fn serve(yard: &Yard, token: &Client, session: &str) -> Option<()> {
    let events = format!("/v1/sessions/{session}/events");
    let mut last = beat(yard, token, session, "NO_HEARTBEAT").await?;
    loop {
        let (status, history) = yard.ask(token, Method::GET, &format!("{events}?limit=1000"), None).await;
        assert_eq!(status, StatusCode::OK, "{history}");
        let history = history["data"].as_array().expect("a list").clone();
        let answered: Vec<&str> = history.iter().filter_map(|event| event["tool_use_id"].as_str()).collect();
        let is_open = |event: &&Value| event["type"] == "agent.tool_use" && !answered.contains(&text(event, "id"));
        if let Some(call) = history.iter().find(is_open) {
            last = beat(yard, token, session, &last).await?;
            let id = text(call, "id");
            *yard.ran.lock().expect("no worker panicked").entry(id.to_owned()).or_default() += 1;
            let content = json!([{"type": "text", "text": "ran"}]);
            let result = json!({"events": [{"type": "user.tool_result", "tool_use_id": id, "content": content}]});
            let (status, answer) = yard.ask(token, Method::POST, &events, Some(&result)).await;
            // 400: it had come in, and only the answer was lost.
            assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{answer}");
            continue;
        }
        let idle = history.iter().rev().find(|event| event["type"] == "session.status_idle");
        if idle.is_some_and(|idle| idle["stop_reason"]["type"] == "end_turn") {
            return Some(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}
