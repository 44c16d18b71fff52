//! Dreams: what they read and write, with the playbook and with another model, and what ends them.

use reqwest::Method;
use rota_server::resources::dreams::work::{self, Claim};
use serde_json::{Value, json};

use crate::{
    client::{Api, Refusal, invalid, not_found},
    given::{Parts, id, message, over},
    memory_stores,
    models::{calls, says},
    server::Rota,
    stream::text,
    upstream::{Reply, Upstream},
};

const DREAMS: &str = "/v1/dreams";

fn body(store: &str, sessions: &[&str], changes: &Value) -> Value {
    let store = json!({"type": "memory_store", "memory_store_id": store});
    let sessions = json!({"type": "sessions", "session_ids": sessions});
    over(json!({"inputs": [store, sessions], "model": "playbook"}), changes)
}

/// A dream of the playbook, but for `changes`.
pub async fn dream(api: &Api, store: &str, sessions: &[&str], changes: Value) -> Value {
    api.post(DREAMS, body(store, sessions, &changes)).await
}

fn path(dream: &Value) -> String {
    format!("{DREAMS}/{}", id(dream))
}

fn updates(store: &Value) -> Value {
    json!({"output_behavior": {"type": "update_existing", "memory_store_id": id(store)}})
}

/// The dream, once it has ended.
async fn ended(api: &Api, dream: &Value) -> Value {
    api.once(&path(dream), |shown| !["pending", "running"].contains(&shown["status"].as_str().unwrap())).await
}

/// The paths and contents of a store.
async fn memories(api: &Api, store: &str) -> Vec<(String, String)> {
    let list = api.get(&format!("/v1/memory_stores/{store}/memories?view=full")).await;
    let field = |memory: &Value, name: &str| memory[name].as_str().unwrap().to_owned();
    let mut all: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|m| (field(m, "path"), field(m, "content"))).collect();
    all.sort();
    all
}

/// A session in which something was said, at rest.
async fn session(api: &Api, parts: &Parts, said: &str) -> Value {
    let session = parts.session_with(api, message(said)).await;
    api.once(&format!("/v1/sessions/{}", id(&session)), |shown| shown["status"] == "idle").await
}

#[tokio::test]
async fn a_dream_of_the_playbook_copies_the_store_and_writes_down_each_session() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (one, two) =
        (session(api, &parts, "The key is under the mat.").await, session(api, &parts, "Ada likes tea.").await);
    let store = memory_stores::store(api, "notes").await;
    memory_stores::memory(api, &store, "/old", "kept").await;

    let made = dream(api, id(&store), &[id(&two), id(&one)], json!({"instructions": "Be brief."})).await;
    assert_eq!((&made["status"], &made["outputs"], &made["error"]), (&json!("pending"), &json!([]), &Value::Null));
    assert_eq!(made["model"], json!({"id": "playbook", "speed": "standard"}));
    assert_eq!(made["output_behavior"], json!({"type": "create_new"}));
    assert_eq!(made["inputs"][1]["session_ids"], json!([id(&one), id(&two)]), "sorted");

    let ended = ended(api, &made).await;
    assert_eq!((&ended["status"], &ended["error"]), (&json!("completed"), &Value::Null), "{ended}");
    assert!(ended["usage"]["input_tokens"].as_i64().unwrap() > 0 && ended["ended_at"].is_string());
    let output = ended["outputs"][0]["memory_store_id"].as_str().unwrap();
    let written = memories(api, output).await;
    assert_eq!(written.len(), 3);
    assert_eq!(written[0], ("/old".to_owned(), "kept".to_owned()));
    for (session, said) in [(&one, "User: The key is under the mat."), (&two, "User: Ada likes tea.")] {
        let at = format!("/sessions/{}/1.md", id(session));
        let (_, content) = written.iter().find(|(path, _)| *path == at).unwrap();
        assert!(content.contains(said) && content.contains("Agent: "), "{content}");
    }
    assert_eq!(memories(api, id(&store)).await.len(), 1, "the store that is read stays as it is");
}

#[tokio::test]
async fn a_dream_that_updates_its_store_holds_it_until_it_has_ended() {
    let upstream = Upstream::start([Reply::Stall]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = session(api, &parts, "hello").await;
    let (store, other) = (memory_stores::store(api, "notes").await, memory_stores::store(api, "other").await);
    let changes = over(updates(&store), &json!({"model": "house"}));
    let made = dream(api, id(&store), &[id(&session)], changes.clone()).await;
    let answer = api.send(Method::POST, DREAMS, Some(&body(id(&store), &[id(&session)], &changes))).await;
    let said =
        format!("memory store {} is being updated by another dream: wait until it has ended, or cancel it", id(&store));
    assert_eq!(answer.refusal(), Refusal { status: 409, kind: "conflict_error".to_owned(), message: said });
    assert_eq!(answer.headers["x-should-retry"], "false");
    dream(api, id(&other), &[id(&session)], updates(&other)).await;

    let running = api.once(&path(&made), |shown| shown["outputs"] != json!([])).await;
    assert_eq!(running["outputs"][0]["memory_store_id"], store["id"]);
    let refused = api.call_refused(&format!("{}/archive", path(&made))).await;
    let said = format!("Dream `{}` is running: cancel it before it is archived", id(&made));
    assert_eq!(refused, invalid(said));
    let canceled = api.call(&format!("{}/cancel", path(&made))).await;
    assert_eq!(canceled["status"], "canceled");
    assert_eq!(api.call(&format!("{}/cancel", path(&made))).await["ended_at"], canceled["ended_at"]);
    assert_eq!(memories(api, id(&store)).await.len(), 0);
    let next = dream(api, id(&store), &[id(&session)], updates(&store)).await;
    assert_eq!(ended(api, &next).await["status"], "completed", "the one that was canceled is in nobody's way");
}

#[tokio::test]
async fn a_model_reads_the_session_and_changes_the_store_through_its_tools() {
    let upstream = Upstream::start([
        Reply::Message(vec![calls("toolu_1", "read_memory", &json!({"path": "/people/ada.md"}))]),
        Reply::Message(vec![
            calls("toolu_2", "write_memory", &json!({"path": "/people/ada.md", "content": "Ada likes coffee."})),
            calls("toolu_3", "delete_memory", &json!({"path": "/stale.md"})),
            calls("toolu_4", "write_memory", &json!({"path": "no slash", "content": "x"})),
            calls("toolu_5", "write_memory", &json!({"path": "/people", "content": "x"})),
        ]),
        Reply::Message(vec![says("Ada changed her mind.")]),
    ])
    .await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = session(api, &parts, "Ada likes coffee now.").await;
    let store = memory_stores::store(api, "notes").await;
    memory_stores::memory(api, &store, "/people/ada.md", "Ada likes tea.").await;
    memory_stores::memory(api, &store, "/stale.md", "old").await;
    let changes = over(updates(&store), &json!({"model": "house", "instructions": "Only facts."}));
    let made = dream(api, id(&store), &[id(&session)], changes).await;
    let ended = ended(api, &made).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    assert_eq!(memories(api, id(&store)).await, [("/people/ada.md".to_owned(), "Ada likes coffee.".to_owned())]);
    let usage = json!({"input_tokens": 15, "output_tokens": 21, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0});
    assert_eq!(ended["usage"], usage);

    let asked = upstream.asked();
    let first = asked[0]["messages"][0]["content"].to_string();
    for part in ["/people/ada.md (14 bytes)", "Only facts.", "User: Ada likes coffee now."] {
        assert!(first.contains(part), "{part}: {first}");
    }
    let results = |request: &Value| request["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    assert_eq!(text(&results(&asked[1])[0]), "Ada likes tea.");
    let second = results(&asked[2]);
    assert_eq!(second[0]["is_error"], Value::Null);
    for refused in [2, 3] {
        assert_eq!(second[refused]["is_error"], true, "{second}");
    }
}

#[tokio::test]
async fn a_model_that_is_overloaded_is_asked_again_and_one_that_refuses_fails_the_dream() {
    let overloaded =
        || Reply::Error(529, "", json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}));
    let broke = Reply::Error(402, "", json!({"type": "error", "error": {"type": "billing_error", "message": "pay"}}));
    let upstream = Upstream::start([overloaded(), Reply::Message(vec![says("Nothing to do.")]), broke]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = session(api, &parts, "hello").await;
    let store = memory_stores::store(api, "notes").await;
    let by_house = json!({"model": "house"});
    let made = dream(api, id(&store), &[id(&session)], by_house.clone()).await;
    let moved = |shown: &Value| {
        // The pause may not be written yet: the time moves until the dream has gone on.
        rota.advance_seconds(2);
        shown["status"] == "completed"
    };
    let first = api.once(&path(&made), moved).await;
    assert_eq!((&first["status"], upstream.asked().len()), (&json!("completed"), 2), "{first}");
    let second = dream(api, id(&store), &[id(&session)], by_house).await;
    let second = ended(api, &second).await;
    assert_eq!((&second["status"], &second["error"]["type"]), (&json!("failed"), &json!("billing_error")));
    assert!(second["error"]["message"].as_str().unwrap().contains("pay"));
}

#[tokio::test]
async fn a_dream_goes_on_where_it_was_when_its_server_ended() {
    let upstream = Upstream::start([Reply::Message(vec![says("Nothing.")]), Reply::Stall]).await;
    let mut rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let parts = Parts::new(&rota.api).await;
    let one = session(&rota.api, &parts, "first").await;
    let two = session(&rota.api, &parts, "second").await;
    let store = memory_stores::store(&rota.api, "notes").await;
    let made = dream(&rota.api, id(&store), &[id(&one), id(&two)], json!({"model": "house"})).await;
    while upstream.asked().len() < 2 {
        tokio::task::yield_now().await;
    }
    let later = Upstream::start([Reply::Message(vec![says("Nothing either.")])]).await;
    rota = rota.restart_with(|config| config.models = vec![later.model()]).await;
    let ended = ended(&rota.api, &made).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    let asked = later.asked();
    assert_eq!(asked.len(), 1, "what was read is not read again");
    assert!(asked[0]["messages"].to_string().contains("User: second"));
}

#[tokio::test]
async fn a_worker_that_lost_its_dream_writes_nothing_more() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session(api, json!({})).await;
    let store = memory_stores::store(api, "notes").await;
    let made = dream(api, id(&store), &[id(&session)], updates(&store)).await;
    let db = &rota.server.app().db;
    let claim = async |node: &'static str| db.write(move |tx| work::claim(tx, node)).await.unwrap();
    let write = async |claim: &Claim, path: &'static str| {
        let claim = claim.clone();
        let output = claim.store.clone();
        db.write(move |tx| claim.write(tx, &output, path, Some("x"))).await.unwrap().is_some()
    };
    let first = claim("one").await.unwrap();
    assert!(claim("two").await.is_none(), "one has it");
    assert!(write(&first, "/one").await);
    rota.advance_seconds(15 * 60);
    let second = claim("two").await.unwrap();
    assert!(!write(&first, "/late").await);
    assert!(!rota.server.app().db.read(move |tx| first.is_current(tx)).await.unwrap());
    assert!(write(&second, "/two").await);
    api.call(&format!("{}/cancel", path(&made))).await;
    assert!(!write(&second, "/canceled").await);
    let paths: Vec<String> = memories(api, id(&store)).await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/one", "/two"]);
}

#[tokio::test]
async fn what_a_dream_reads_or_writes_and_is_gone_fails_it_in_words() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session(&rota.api, json!({})).await;
    let gone = parts.session(&rota.api, json!({})).await;
    let store = memory_stores::store(&rota.api, "notes").await;
    let other = memory_stores::store(&rota.api, "other").await;
    let of_gone = dream(&rota.api, id(&store), &[id(&gone)], json!({})).await;
    let of_store = dream(&rota.api, id(&other), &[id(&session)], json!({})).await;
    rota.api.delete(&format!("/v1/sessions/{}", id(&gone))).await;
    rota.api.call(&format!("/v1/memory_stores/{}/archive", id(&other))).await;
    let rota = rota.restart_with(|config| config.engine.concurrency = 4).await;
    for (dream, kind) in [(&of_gone, "session_unavailable"), (&of_store, "input_memory_store_unavailable")] {
        let failed = ended(&rota.api, dream).await;
        assert_eq!((&failed["status"], &failed["error"]["type"]), (&json!("failed"), &json!(kind)), "{failed}");
    }
}

#[tokio::test]
async fn what_a_dream_names_must_be_there() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session(api, json!({})).await;
    let store = memory_stores::store(api, "notes").await;
    let nowhere = not_found("Referenced memory store not found or not accessible.");
    assert_eq!(api.post_refused(DREAMS, body("memstore_1", &[id(&session)], &json!({}))).await, nowhere);
    let nowhere = not_found("Referenced session not found or not accessible.");
    assert_eq!(api.post_refused(DREAMS, body(id(&store), &["sesn_1"], &json!({}))).await, nowhere);
    let unknown = api.post_refused(DREAMS, body(id(&store), &[id(&session)], &json!({"model": "gpt"}))).await;
    assert!(unknown.message.starts_with("model: \"gpt\" is not offered by this server"), "{}", unknown.message);
    api.call(&format!("/v1/memory_stores/{}/archive", id(&store))).await;
    let archived = api.post_refused(DREAMS, body(id(&store), &[id(&session)], &json!({}))).await;
    let said = format!("inputs: memory store {} is archived: name one that is not", id(&store));
    assert_eq!(archived, invalid(said));
}

#[tokio::test]
async fn dreams_are_listed_by_status_and_time_and_archived_ones_on_demand() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session(api, json!({})).await;
    let store = memory_stores::store(api, "notes").await;
    let one = dream(api, id(&store), &[id(&session)], json!({})).await;
    let two = dream(api, id(&store), &[id(&session)], json!({})).await;
    api.call(&format!("{}/cancel", path(&one))).await;
    let ids = async |query: &str| -> Vec<String> {
        let list = api.get(&format!("{DREAMS}?{query}")).await;
        list["data"].as_array().unwrap().iter().map(|dream| id(dream).to_owned()).collect()
    };
    assert_eq!(ids("").await, [id(&two), id(&one)]);
    assert_eq!(ids("statuses=canceled").await, [id(&one)]);
    assert_eq!(ids("statuses[]=canceled&statuses[]=pending").await.len(), 2);
    let of_one = one["created_at"].as_str().unwrap();
    assert_eq!(ids(&format!("created_at[gt]={of_one}")).await, [id(&two)]);
    assert_eq!(ids(&format!("created_at[lt]={of_one}")).await, Vec::<String>::new());
    let archived = api.call(&format!("{}/archive", path(&one))).await;
    assert_eq!(api.call(&format!("{}/archive", path(&one))).await, archived);
    assert_eq!(ids("").await, [id(&two)]);
    assert_eq!(ids("include_archived=true").await.len(), 2);
    assert_eq!(api.get(&path(&one)).await, archived);
    assert_eq!(api.get_refused("/v1/dreams/drm_1").await, not_found("Dream `drm_1` not found."));
    assert_eq!(api.get_refused("/v1/dreams/drm_1/bogus").await, not_found("Not Found"));
}
