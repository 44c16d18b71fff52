//! Memories through kills: agents and clients write to one store, no version that was acknowledged is lost, and no row is without
//! its content.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    at_work,
    process::{Client, PATIENCE, Random, text},
    random,
};

const KILLS: usize = 12;
/// How long a server lives at least, and how much longer at most, in milliseconds.
const LIFE_MS: (u64, u64) = (150, 500);
const SESSIONS: usize = 8;
/// What each session writes, one memory a call. More than there are kills, each of which cuts off one at most.
const CALLS: usize = KILLS + 8;
/// Clients that write through the API.
const WRITERS: usize = 4;
/// The most that one of them writes: all together stay below what a store can have.
const MOST: usize = 300;
/// The longest pause of a client between two writes, in milliseconds.
const PAUSE_MS: u64 = 20;
const RETRY: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_version_that_was_acknowledged_is_lost_when_the_server_is_killed() {
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut server, client) = at_work(folder.path()).await;
    let store = client.post("/v1/memory_stores", &json!({"name": "notes"})).await;
    let sessions = sessions(&client, &store).await;
    let shared = Arc::new(Shared {
        memories: format!("/v1/memory_stores/{}/memories", text(&store, "id")),
        client,
        killing: AtomicBool::new(true),
        cut: AtomicUsize::new(0),
    });
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(write(shared.clone(), number, random.fork()));
    }
    for _ in 0..KILLS {
        sleep(Duration::from_millis(LIFE_MS.0 + random.below(LIFE_MS.1))).await;
        server.kill();
        server.start().await;
    }
    shared.killing.store(false, Ordering::Relaxed);
    let written: Vec<Written> = writers.join_all().await.into_iter().flatten().collect();
    let (told, unknown) = check_sessions(&shared, &sessions).await;
    for Written { path, version, content } in &written {
        let versions = shared.memories.replace("/memories", "/memory_versions");
        let stored = shared.client.get(&format!("{versions}/{version}?view=full")).await;
        assert_eq!((text(&stored, "path"), text(&stored, "content")), (&**path, &**content), "{stored}");
    }
    check_rows(folder.path(), text(&store, "id"));
    let cut = shared.cut.load(Ordering::Relaxed);
    assert!(told > 0 && unknown > 0, "no call was under way at any kill: the test has shown nothing");
    assert!(cut > 0, "no request was under way at any kill: the test has shown nothing");
    println!(
        "{} versions of clients and {told} of agents acknowledged; {cut} requests and {unknown} calls cut off by {KILLS} kills",
        written.len()
    );
}

/// What the clients share.
struct Shared {
    client: Client,
    memories: String,
    killing: AtomicBool,
    cut: AtomicUsize,
}

/// A version that a client was told of.
struct Written {
    path: String,
    version: String,
    content: String,
}

/// The memory that the call `call` of a session writes.
fn place(number: usize, call: usize) -> String {
    format!("/agents/{number}/{call}.md")
}

async fn sessions(client: &Client, store: &Value) -> Vec<String> {
    let tools = json!([{"type": "agent_toolset_20260401"}]);
    let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": tools})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    let resource = json!({"type": "memory_store", "memory_store_id": store["id"], "access": "read_write"});
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let block = |call| {
            let place = place(number, call);
            format!(
                "```bash\nmkdir -p /mnt/memory/notes/agents/{number} && echo -n {place} > /mnt/memory/notes{place}\n```\n"
            )
        };
        let playbook: String = (0..CALLS).map(block).collect();
        let event = json!({"type": "user.message", "content": [{"type": "text", "text": playbook}]});
        let body = json!({"agent": agent["id"], "environment_id": environment["id"], "initial_events": [event],
            "resources": [resource]});
        sessions.push(text(&client.post("/v1/sessions", &body).await, "id").to_owned());
    }
    sessions
}

/// Creates memories and changes them until the kills are over. What was acknowledged.
async fn write(shared: Arc<Shared>, number: usize, mut random: Random) -> Vec<Written> {
    let mut written: Vec<Written> = Vec::new();
    let mut last: Option<(String, String)> = None;
    for count in 0..MOST {
        if !shared.killing.load(Ordering::Relaxed) {
            break;
        }
        sleep(Duration::from_millis(random.below(PAUSE_MS))).await;
        let content = format!("{number} {count} {}", random.below(u64::MAX));
        let (path, at, body) = if let Some((id, path)) = last.take() {
            (path, format!("{}/{id}", shared.memories), json!({ "content": content }))
        } else {
            let path = format!("/clients/{number}/{count}.md");
            let body = json!({"path": path, "content": content});
            (path, shared.memories.clone(), body)
        };
        let memory = shared.send(&at, &body).await;
        let id = text(&memory, "id").to_owned();
        if body["path"].is_string() {
            last = Some((id, path.clone()));
        }
        written.push(Written { path, version: text(&memory, "memory_version_id").to_owned(), content });
    }
    written
}

impl Shared {
    /// Sends a write until it is acknowledged. The memory that it made.
    async fn send(&self, path: &str, body: &Value) -> Value {
        let begin = Instant::now();
        loop {
            let answer = match self.client.request(Method::POST, path).json(body).send().await {
                Ok(response) => {
                    let status = response.status();
                    response.json::<Value>().await.map(|body| (status, body))
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok((StatusCode::OK, memory)) => return memory,
                // It had come in, and only the answer was lost.
                Ok((StatusCode::CONFLICT, refused)) => {
                    let id = text(&refused["error"], "conflicting_memory_id");
                    let memory = self.client.get(&format!("{}/{id}?view=full", self.memories)).await;
                    assert_eq!((&memory["path"], &memory["content"]), (&body["path"], &body["content"]));
                    return memory;
                }
                Ok((status, refused)) => panic!("{status} {refused}"),
                Err(error) => {
                    if !error.is_connect() {
                        self.cut.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(begin.elapsed() < PATIENCE, "no answer to {path}: {error}");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// That each memory is there whose call had a result, once all sessions rest. How many calls had one, and how many were cut off.
async fn check_sessions(shared: &Shared, sessions: &[String]) -> (usize, usize) {
    let begin = Instant::now();
    for session in sessions {
        while shared.client.get(&format!("/v1/sessions/{session}")).await["status"] != "idle" {
            assert!(begin.elapsed() < 6 * PATIENCE, "session {session} does not come to rest");
            sleep(Duration::from_millis(100)).await;
        }
    }
    let list = shared.client.list(&format!("{}?limit=20&view=full&path_prefix=/agents/", shared.memories)).await;
    let contents: HashMap<&str, &str> =
        list.iter().map(|memory| (text(memory, "path"), text(memory, "content"))).collect();
    let (mut told, mut unknown) = (0, 0);
    for (number, session) in sessions.iter().enumerate() {
        let path = format!("/v1/sessions/{session}/events?limit=100&types=agent.tool_result");
        let results = shared.client.list(&path).await;
        assert_eq!(results.len(), CALLS, "each call of {session} has a result");
        for (call, result) in results.iter().enumerate() {
            if result["is_error"] == true {
                let said = text(&result["content"][0], "text");
                assert!(said.starts_with("The server was restarted"), "{session}: {said}");
                // The shell makes the file, and then writes to it.
                let place = place(number, call);
                let left = contents.get(&*place).is_none_or(|content| content.is_empty() || *content == place);
                assert!(left, "call {call} of {session} was cut off: {:?}", contents.get(&*place));
                unknown += 1;
            } else {
                let place = place(number, call);
                assert_eq!(contents.get(&*place), Some(&&*place), "call {call} of {session} wrote a memory: {result}");
                told += 1;
            }
        }
    }
    (told, unknown)
}

/// Each memory has a version with its content, each version the content that its hash says, and the store counts right.
fn check_rows(data: &Path, store: &str) {
    let database = rusqlite::Connection::open(data.join("rota.db")).expect("the store");
    let hash = |text: &str| {
        digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    };
    let sql = "SELECT v.id, v.content_sha256, v.content, v.content_size_bytes FROM memory_versions v";
    let mut versions = database.prepare(sql).expect("versions");
    let rows = versions.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    let mut hashes: HashMap<String, String> = HashMap::new();
    for row in rows.expect("rows") {
        let (id, sha256, content, size): (String, String, String, i64) = row.expect("a version with its content");
        assert_eq!((hash(&content), content.len() as i64), (sha256.clone(), size), "{id}");
        hashes.insert(id, sha256);
    }
    let mut memories = database.prepare("SELECT id, version_id, content_sha256 FROM memories").expect("memories");
    let rows = memories.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let mut count = 0;
    for row in rows.expect("rows") {
        let (id, version, sha256): (String, String, String) = row.expect("a memory");
        assert_eq!(hashes.get(&version), Some(&sha256), "{id}");
        count += 1;
    }
    let sql = "SELECT memories, changes FROM memory_stores WHERE id = ?1";
    let counted = database.query_row(sql, [store], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    assert_eq!(counted.expect("the store"), (count, hashes.len() as i64));
}
