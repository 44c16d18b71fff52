//! What takes many bytes: it is told in pages and pieces, and taken in up to a bound.

use std::time::Duration;

use reqwest::Method;
use rota_server::{
    db::{Tx, Val},
    limits::{MAX_AGENT_BYTES, MAX_DEPLOYMENT_BYTES, MAX_SESSION_BYTES, MAX_SESSION_EVENTS, PAGE_BYTES},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::{Api, Refusal, invalid},
    given::{Parts, agent, environment, id, message, over, script},
    process::{self, Server},
    server::{PATIENCE, Rota, appears},
    stream::{first, kinds, text},
    upstream::{Reply, Upstream},
};

const MIB: usize = 1024 * 1024;

/// A message of so many bytes.
fn large(bytes: usize) -> Value {
    message(&"x".repeat(bytes))
}

fn events(session: &Value) -> String {
    format!("/v1/sessions/{}/events", id(session))
}

/// Each page of a list, in order.
async fn pages(api: &Api, path: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = String::new();
    loop {
        let page = api.get(&format!("{path}{next}")).await;
        pages.push(page["data"].as_array().unwrap().clone());
        match page["next_page"].as_str() {
            Some(cursor) => next = format!("&page={cursor}"),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn a_page_has_no_more_rows_than_fit_and_the_next_one_goes_on_with_the_rest() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let mut deployments = Vec::new();
    for n in 0..4 {
        let first = large(3 * MIB);
        deployments.push(parts.deployment(api, json!({"name": format!("d{n}"), "initial_events": [first]})).await);
    }
    deployments.reverse();
    let told = pages(api, "/v1/deployments?limit=100").await;
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2], "two of 3 MB fit into {PAGE_BYTES} bytes");
    assert_eq!(told.concat(), deployments);

    let tools = |n| {
        json!([{"type": "custom", "name": "t", "description": format!("{n}"),
        "input_schema": {"type": "object", "properties": {"x": {"description": "y".repeat(3 * MIB)}}}}])
    };
    let mut versions = vec![agent(api, json!({"tools": tools(1)})).await];
    let path = format!("/v1/agents/{}", id(&versions[0]));
    for n in 2..=3 {
        versions.push(api.post(&path, json!({"version": n - 1, "tools": tools(n)})).await);
    }
    versions.reverse();
    let told = pages(api, &format!("{path}/versions?limit=100")).await;
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(told.concat(), versions);
}

#[tokio::test]
async fn a_history_is_told_whole_whatever_its_events_weigh() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    // One alone is more than a page has; the last two wait.
    let first: Vec<Value> = [1, 10 * MIB, 1, 5 * MIB].map(large).into();
    let session = Parts::new(api).await.session(api, json!({"initial_events": first})).await;
    api.events(id(&session), json!([large(4 * MIB), large(1)])).await;
    for (order, lengths) in [("asc", [1, 1, 2, 2].as_slice()), ("desc", &[2, 2, 1, 1])] {
        let told = pages(api, &format!("{}?order={order}", events(&session))).await;
        assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), lengths, "{order}");
        let mut told = told.concat();
        if order == "desc" {
            told.reverse();
        }
        let weights = told.iter().map(|event| event["content"][0]["text"].as_str().unwrap().len());
        assert_eq!(weights.collect::<Vec<_>>(), [1, 10 * MIB, 1, 5 * MIB, 4 * MIB, 1], "{order}");
    }
}

#[tokio::test]
async fn what_waits_in_a_working_session_is_bounded_in_bytes_and_an_interrupt_is_taken_in_all_the_same() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session_with(api, message("work")).await;
    api.events(id(&session), json!([large(30 * MIB)])).await;
    let refused = api.post_refused(&events(&session), json!({"events": [large(2 * MIB)]})).await;
    let id = id(&session);
    let said = format!("more than 32 MB of events would wait in session {id}; send them when it has come to rest");
    assert_eq!(refused, invalid(said));
    api.events(id, json!([message("short")])).await;
    api.events(id, json!([{"type": "user.interrupt"}])).await;
    let waiting = api.all(&events(&session), 1000).await;
    assert_eq!(waiting.iter().filter(|event| event["processed_at"].is_null()).count(), 4);
}

#[tokio::test]
async fn a_session_takes_in_no_more_than_it_may_have() {
    let rota = Rota::without_engine().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, message("hello")).await;
    let id_ = id(&session).to_owned();
    rota.api.events(&id_, json!([script("echo hello"), message("grüße")])).await;
    let rota = rota.restart_with(|config| config.engine.concurrency = 1).await;
    let api = &rota.api;
    api.stream_from(&id_, 0).await.turn().await;
    let counted = "SELECT s.log_bytes, (
            SELECT sum(octet_length(body) + coalesce(octet_length(hidden), 0)) FROM session_events WHERE session_id = s.id)
        FROM sessions s";
    let count = move |tx: &mut Tx<'_>| tx.one(counted, &[], |row| Ok((row.int(0)?, row.int(1)?)));
    let (counted, bytes) = rota.server.app().db.read(count).await.unwrap().unwrap();
    assert_eq!(counted, bytes);
    for (column, full, said) in [
        (
            "log_bytes",
            MAX_SESSION_BYTES - 10,
            "the events of session {id} would have more than 64 MB; create another one",
        ),
        (
            "next_seq",
            MAX_SESSION_EVENTS,
            "session {id} has 49999 of at most 50000 events, and no room for more messages; create another one",
        ),
    ] {
        let fill = format!("UPDATE sessions SET {column} = $1");
        let filled = move |tx: &mut Tx<'_>| tx.execute(&fill, &[Val::Int(full)]);
        rota.server.app().db.write(filled).await.unwrap();
        let refused = api.post_refused(&events(&session), json!({"events": [message("one more")]})).await;
        assert_eq!(refused, invalid(said.replace("{id}", &id_)));
    }
}

#[tokio::test]
async fn what_is_read_with_every_session_or_list_has_a_bound_in_bytes() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let schema = json!({"type": "object", "properties": {"x": {"description": "y".repeat(MAX_AGENT_BYTES)}}});
    let tools = json!([{"type": "custom", "name": "t", "description": "t", "input_schema": schema}]);
    let said = invalid(
        "an agent may have no more than 4 MB as JSON, together with the agents of its roster: shorten its tools",
    );
    let body = json!({"name": "a", "model": "playbook", "tools": tools});
    assert_eq!(api.post_refused("/v1/agents", body).await, said);
    let at = format!("/v1/agents/{}", id(&parts.agent));
    assert_eq!(api.post_refused(&at, json!({"version": 1, "tools": tools})).await, said);
    let with = json!({"type": "agent_with_overrides", "id": id(&parts.agent), "tools": tools});
    assert_eq!(api.post_refused("/v1/sessions", parts.session_body(&json!({"agent": with}))).await, said);
    let session = parts.session(api, json!({})).await;
    let update = json!({"agent": {"tools": tools}});
    assert_eq!(api.post_refused(&format!("/v1/sessions/{}", id(&session)), update).await, said);

    let outcome = json!({"type": "user.define_outcome", "description": "\u{1f980}".repeat(262_144),
        "rubric": {"type": "text", "content": "r"}});
    let refused = api.post_refused(&events(&session), json!({"events": [outcome]})).await;
    let said = "would have more than 1048576 bytes; create another session";
    assert_eq!(refused, invalid(format!("the outcomes of session {} {said}", id(&session))));

    let said = invalid(
        "initial_events: value must be no more than 8 MB as JSON: send what is larger to the session that a run creates",
    );
    let first = json!({"initial_events": [large(MAX_DEPLOYMENT_BYTES)]});
    assert_eq!(api.post_refused("/v1/deployments", parts.deployment_body(&first)).await, said);
    let deployment = parts.deployment(api, json!({})).await;
    assert_eq!(api.post_refused(&format!("/v1/deployments/{}", id(&deployment)), first).await, said);

    let names: Vec<String> = (0..256).map(|n| format!("{n:0>256}")).collect();
    let managers = ["apt", "cargo", "gem", "go", "npm", "pip"];
    let packages: Value = managers.iter().map(|manager| ((*manager).to_owned(), json!(names))).collect();
    let wide: String = "\u{1f980}".repeat(256);
    let wide = json!({"apt": vec![wide.clone(); 256], "npm": vec![wide.clone(); 256], "pip": vec![wide; 256]});
    let said = invalid("config: value must be no more than 512 kB as JSON: name fewer packages");
    let body = |packages: &Value| json!({"name": "e", "config": {"type": "cloud", "packages": packages}});
    assert_eq!(api.post_refused("/v1/environments", body(&wide)).await, said);
    api.post("/v1/environments", over(body(&packages), &json!({"name": "f"}))).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_for_a_workspace_and_not_for_the_others() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let session = |api: Api| async move {
        let session = Parts::new(&api).await.session_with(&api, large(30 * MIB)).await;
        events(&session)
    };
    let path = session(api.clone()).await;
    let ask = || async { api.request(Method::GET, &path).send().await.unwrap() };
    let unread = [ask().await, ask().await];
    assert!(unread.iter().all(|answer| answer.status() == 200));
    let refused = api.get_refused(&path).await;
    let said = "the workspace has 64 MB of answers that nobody has read; read them, or close their connections";
    let limited = Refusal { status: 429, kind: "rate_limit_error".to_owned(), message: said.to_owned() };
    assert_eq!(refused, limited);
    api.get("/v1/agents").await;
    let other = rota.other_workspace().await;
    other.get(&session(other.clone()).await).await;

    drop(unread);
    let reading = async {
        while ask().await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("what is closed is given back");
}

#[tokio::test]
async fn streams_that_nobody_reads_hold_a_batch_each_and_not_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let database = crate::database::Database::create();
    let url = database.as_ref().map(|database| database.url().0);
    let options: Vec<&str> = url.iter().flat_map(|url| ["--database", url.as_str()]).collect();
    let key = process::create_key(folder.path(), &options);
    let mut server = Server::new(folder.path(), &[&options[..], &["--roles", "api"]].concat());
    server.start().await;
    let client = process::Client::new(server.address, key);
    let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook"})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    let body = json!({"agent": agent["id"], "environment_id": environment["id"]});
    let session = client.post("/v1/sessions", &body).await;
    // No runner takes messages up; with an interrupt of a session at rest they enter the log.
    let sent: Vec<Value> = (0..6).map(|_| large(MIB)).chain([json!({"type": "user.interrupt"})]).collect();
    for _ in 0..5 {
        client.post(&events(&session), &json!({ "events": sent })).await;
    }
    let rested = memory_mib(&server);
    let mut streams = Vec::new();
    for _ in 0..13 {
        let path = format!("{}/stream", events(&session));
        let request = client.request(Method::GET, &path).header("last-event-id", 0);
        let mut stream = request.send().await.unwrap().error_for_status().unwrap();
        // Each has begun to tell of the first event.
        let mut read = 0;
        while read < 64 * 1024 {
            read += stream.chunk().await.unwrap().unwrap().len();
        }
        streams.push(stream);
    }
    let grown = memory_mib(&server).saturating_sub(rested);
    // The four readers of SQLite keep 32 MB each.
    assert!(grown < 200, "13 unread streams over a session of 30 MB took {grown} MB");
}

/// How long the conversations are that a model was sent, in MiB, shortest first.
fn sizes(upstream: &Upstream) -> Vec<usize> {
    let size = |asked: &Value| asked["messages"].to_string().len() / MIB;
    let mut sizes: Vec<usize> = upstream.asked().iter().map(size).collect();
    sizes.sort_unstable();
    sizes
}

#[tokio::test]
async fn large_conversations_of_one_workspace_wait_for_one_another_and_not_those_of_another() {
    let upstream = Upstream::start((0..5).map(|_| Reply::Stall)).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let (api, other) = (&rota.api, rota.other_workspace().await);
    let session = async |api: &Api, mib: usize| {
        let parts = Parts {
            agent: agent(api, json!({"model": "house"})).await,
            environment: environment(api, &format!("{mib}")).await,
        };
        let events: Vec<Value> = (0..3).map(|_| large((mib * MIB / 3).max(1))).collect();
        parts.session(api, json!({"initial_events": events})).await
    };
    let asked = async |expected: &[usize]| {
        let waiting = async {
            while upstream.asked().len() < expected.len() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the model is asked");
        assert_eq!(sizes(&upstream), expected);
    };
    let first = session(api, 30).await;
    asked(&[30]).await;
    session(api, 29).await;
    asked(&[29, 30]).await;
    session(api, 28).await;
    session(&other, 27).await;
    asked(&[27, 29, 30]).await;
    session(api, 0).await;
    asked(&[0, 27, 29, 30]).await;
    api.events(id(&first), json!([{"type": "user.interrupt"}])).await;
    asked(&[0, 27, 28, 29, 30]).await;
}

#[tokio::test]
async fn a_session_that_grows_large_at_work_goes_on() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let waits = "touch started; while [ ! -e go ]; do sleep 0.05; done; echo gone";
    let session = Parts::new(api).await.session_with(api, script(waits)).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    api.events(id(&session), json!([large(8 * MIB)])).await;
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    let events = api.stream_from(id(&session), 0).await.turn().await;
    let told = ["session.status_running", "agent.tool_use", "agent.tool_result", "session.status_idle"];
    let of_calls: Vec<&str> = kinds(&events).into_iter().filter(|kind| told.contains(kind)).collect();
    assert_eq!(of_calls, told);
    assert_eq!(text(first(&events, "agent.tool_result")).trim(), "gone");
}

/// What a server has in memory.
fn memory_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
