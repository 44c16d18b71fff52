//! Dreams through kills: each goes on after a restart or ends in a way that is stated, and writes its store once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    at_work,
    process::{Client, PATIENCE, text},
    random,
};

/// The most kills; there are fewer when all dreams have ended before.
const KILLS: usize = 16;
/// A kill comes at most so many microseconds after a dream was seen at work.
const AIM_MICROS: u64 = 60_000;
const SESSIONS: usize = 12;
/// Dreams that make a store, and dreams that update one each.
const DREAMS: (usize, usize) = (3, 3);
const DREAMING: (&str, &str) = ("anthropic-beta", "dreaming-2026-04-21");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dream_goes_on_or_ends_as_it_says_when_the_server_is_killed_and_writes_once() {
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut server, client) = at_work(folder.path()).await;
    let yard = Yard::create(client).await;
    let mut kills = 0;
    while kills < KILLS && yard.is_one_at_work().await {
        sleep(Duration::from_micros(random.below(AIM_MICROS))).await;
        server.kill();
        kills += 1;
        server.start().await;
    }
    assert!(kills > 0, "no dream was at work at any kill: the test has shown nothing");
    let ended = yard.ended().await;
    let mut failed = 0;
    for dream in &ended {
        let outputs = dream["outputs"].as_array().expect("a list");
        if dream["status"] == "failed" {
            let error = &dream["error"];
            assert_eq!(text(error, "type"), "internal_error", "{dream}");
            assert!(text(error, "message").starts_with("the dream was begun"), "{dream}");
            failed += 1;
        } else {
            assert_eq!((&dream["status"], outputs.len()), (&json!("completed"), 1), "{dream}");
        }
        for output in outputs {
            yard.check_written(dream, text(output, "memory_store_id")).await;
        }
    }
    let stores = yard.client.list("/v1/memory_stores?limit=100").await.len();
    let made = ended.iter().filter(|dream| makes(dream)).map(|dream| dream["outputs"].as_array().map_or(0, Vec::len));
    assert_eq!(stores, yard.stores + made.sum::<usize>(), "a dream made more than one store");
    println!("{} dreams, {failed} of them failed as they say, through {kills} kills", ended.len());
}

fn makes(dream: &Value) -> bool {
    dream["output_behavior"]["type"] == "create_new"
}

struct Yard {
    client: Client,
    sessions: Vec<String>,
    /// How many stores there were before any dream.
    stores: usize,
}

impl Yard {
    async fn create(client: Client) -> Self {
        let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook"})).await;
        let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
        let mut sessions = Vec::new();
        for number in 0..SESSIONS {
            let event =
                json!({"type": "user.message", "content": [{"type": "text", "text": format!("Fact {number}.")}]});
            let body = json!({"agent": agent["id"], "environment_id": environment["id"], "initial_events": [event]});
            sessions.push(text(&client.post("/v1/sessions", &body).await, "id").to_owned());
        }
        let begin = Instant::now();
        for session in &sessions {
            while client.get(&format!("/v1/sessions/{session}")).await["status"] != "idle" {
                assert!(begin.elapsed() < 2 * PATIENCE, "session {session} does not come to rest");
                sleep(Duration::from_millis(20)).await;
            }
        }
        let yard = Self { client, sessions, stores: DREAMS.0 + DREAMS.1 };
        for number in 0..yard.stores {
            let store = yard.client.post("/v1/memory_stores", &json!({"name": format!("notes {number}")})).await;
            let memories = format!("/v1/memory_stores/{}/memories", text(&store, "id"));
            yard.client.post(&memories, &json!({"path": "/old.md", "content": "kept"})).await;
            let updates = json!({"type": "update_existing", "memory_store_id": store["id"]});
            let behavior = if number < DREAMS.0 { json!({"type": "create_new"}) } else { updates };
            let inputs = json!([
                {"type": "memory_store", "memory_store_id": store["id"]},
                {"type": "sessions", "session_ids": yard.sessions},
            ]);
            let body = json!({"inputs": inputs, "model": "playbook", "output_behavior": behavior});
            let request = yard.client.request(Method::POST, "/v1/dreams").header(DREAMING.0, DREAMING.1).json(&body);
            yard.client.answer(request).await;
        }
        yard
    }

    async fn dreams(&self) -> Vec<Value> {
        let request = self.client.request(Method::GET, "/v1/dreams?limit=100").header(DREAMING.0, DREAMING.1);
        self.client.answer(request).await["data"].as_array().expect("a list").clone()
    }

    /// Whether a dream is at work; `false` when all have ended.
    async fn is_one_at_work(&self) -> bool {
        let begin = Instant::now();
        loop {
            let dreams = self.dreams().await;
            let is = |status: &str| dreams.iter().any(|dream| dream["status"] == status);
            if is("running") || !is("pending") {
                return is("running");
            }
            assert!(begin.elapsed() < PATIENCE, "no dream is taken up");
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn ended(&self) -> Vec<Value> {
        let begin = Instant::now();
        loop {
            let dreams = self.dreams().await;
            if dreams.iter().all(|dream| !dream["ended_at"].is_null()) {
                return dreams;
            }
            assert!(begin.elapsed() < 6 * PATIENCE, "a dream does not end: {dreams:#?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// That a dream has written each memory once, and all of them where it was completed.
    async fn check_written(&self, dream: &Value, store: &str) {
        let versions = self.client.list(&format!("/v1/memory_stores/{store}/memory_versions?limit=100")).await;
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for version in &versions {
            *counts.entry(text(version, "path")).or_default() += 1;
        }
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "written more than once: {twice:?} of {dream}");
        if dream["status"] == "completed" {
            assert_eq!(counts.len(), SESSIONS + 1, "{dream}: {counts:?}");
            for session in &self.sessions {
                assert!(counts.contains_key(&*format!("/sessions/{session}/1.md")), "{session}: {counts:?}");
            }
        }
    }
}
