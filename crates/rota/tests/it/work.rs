//! The work of self-hosted environments: who is given it, for how long, and what a worker reaches with it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{conflict, forbidden, invalid, not_found},
    database::NEEDED,
    given::{Parts, id, message, script},
    server::Rota,
    stream::{first, kinds, stop_reason, text},
    workers::{Site, result},
};

fn events(session: &Value) -> String {
    format!("/v1/sessions/{}/events", id(session))
}

#[tokio::test]
async fn a_session_is_worked_on_by_the_worker_that_took_it() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let site = Site::new(api, json!({})).await;
    assert_eq!(site.poll().await, Value::Null, "nothing waits");
    let session = site.session(api).await;
    let asked = api.stream_from(id(&session), 0).await.turn().await;
    assert_eq!(stop_reason(&asked)["type"], "requires_action");

    let given = site.poll().await;
    assert_eq!((id(&given), &given["state"]), (id(&session), &json!("queued")));
    assert_eq!(given["data"], json!({"id": id(&session), "type": "session"}));
    let fields: Vec<_> = given.as_object().unwrap().keys().cloned().collect();
    let recorded = "acknowledged_at actor created_at data environment_id id latest_heartbeat_at metadata secret started_at \
        state stop_requested_at stopped_at type";
    let mut sorted = fields.clone();
    sorted.sort();
    assert_eq!(sorted.join(" "), recorded);
    let token = site.worker.with_key(crate::workers::token(&given));

    let acked = site.worker.call(&site.path(&format!("/{}/ack", id(&given)))).await;
    assert_eq!((&acked["state"], &acked["secret"]), (&json!("starting"), &Value::Null));
    let beat = site.beat(&token, &given, "?expected_last_heartbeat=NO_HEARTBEAT").await.success();
    assert_eq!(
        (&beat["state"], &beat["lease_extended"], &beat["ttl_seconds"]),
        (&json!("active"), &json!(true), &json!(300))
    );
    assert_eq!(token.get(&format!("/v1/sessions/{}", id(&session))).await["id"], session["id"]);
    let history = token.get(&events(&session)).await;
    let call = first(history["data"].as_array().unwrap(), "agent.tool_use").clone();
    let mut stream = token.stream_from(id(&session), 0).await;
    stream.turn().await;
    token.events(id(&session), json!([result(&call, "workbench")])).await;
    let told = stream.turn().await;
    assert!(text(first(&told, "agent.message")).contains("workbench"));
    assert_eq!(stop_reason(&told)["type"], "end_turn");
    let stopped = token.post(&site.path(&format!("/{}/stop", id(&given))), json!({"force": true})).await;
    assert_eq!(stopped["state"], "stopped");
    assert_eq!(site.poll().await, Value::Null);

    api.events(id(&session), json!([script("again")])).await;
    let again = site.poll().await;
    assert_eq!((id(&again), &again["state"], &again["stopped_at"]), (id(&session), &json!("queued"), &Value::Null));
    assert_ne!(again["started_at"], given["started_at"]);
    assert_eq!(again["created_at"], given["created_at"]);
}

#[tokio::test]
async fn a_session_without_input_is_no_work() {
    let rota = Rota::start().await;
    let site = Site::new(&rota.api, json!({})).await;
    let session = site.parts.session(&rota.api, json!({})).await;
    assert_eq!(site.poll().await, Value::Null);
    rota.api.events(id(&session), json!([message("hi")])).await;
    assert_eq!(id(&site.poll().await), id(&session));
}

#[tokio::test]
async fn work_is_given_to_one_worker_until_it_has_not_acknowledged_it_for_too_long() {
    let rota = Rota::without_engine().await;
    let (site, session) = Site::at_work(&rota.api).await;
    assert_eq!(id(&site.poll().await), id(&session));
    assert_eq!(site.poll().await, Value::Null, "another worker has it");
    rota.advance_seconds(4);
    assert_eq!(site.poll().await, Value::Null);
    assert_eq!(id(&site.worker.get(&site.path("/poll?reclaim_older_than_ms=3000")).await), id(&session));
    rota.advance_seconds(6);
    assert_eq!(id(&site.poll().await), id(&session));
    let ack = site.path(&format!("/{}/ack", id(&session)));
    site.worker.call(&ack).await;
    let refused = conflict(format!(
        "Work item {} must be in QUEUED state to acknowledge. Current state: starting.",
        id(&session)
    ));
    assert_eq!(site.worker.call_refused(&ack).await, refused);
    rota.advance_seconds(299);
    assert_eq!(site.poll().await, Value::Null);
}

#[tokio::test]
async fn a_worker_that_is_not_heard_of_loses_its_work_and_its_token() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let asked = api.stream_from(id(&session), 0).await.turn().await;
    let call = first(&asked, "agent.tool_use");
    let (work, slow) = site.take().await;
    let beat = site.beat(&slow, &work, "?expected_last_heartbeat=NO_HEARTBEAT&desired_ttl_seconds=60").await.success();
    let last = beat["last_heartbeat"].as_str().unwrap().to_owned();
    rota.advance_seconds(59);
    assert_eq!(site.poll().await, Value::Null);
    rota.advance_seconds(2);
    let (_, second) = site.take().await;

    let answer = site.beat(&slow, &work, &format!("?expected_last_heartbeat={last}")).await;
    let message = format!("Heartbeat precondition failed: expected {last}, actual was NULL");
    assert_eq!((answer.refusal().status, answer.refusal().message), (412, message));
    let details = &answer.body["error"]["details"];
    assert_eq!(details["error_code"], "heartbeat_precondition_failed");
    let state = &details["current_state"];
    let told = (&state["state"], &state["ttl_seconds"], &state["last_heartbeat"], &state["lease_extended"]);
    assert_eq!(told, (&json!("starting"), &json!(300), &Value::Null, &json!(false)));
    let late = slow.post_refused(&events(&session), json!({"events": [result(call, "late")]})).await;
    assert_eq!(late.status, 403, "its result is not taken");
    assert_eq!(slow.get_refused(&format!("/v1/sessions/{}", id(&session))).await.status, 403);
    let stop = site.path(&format!("/{}/stop", id(&session)));
    assert_eq!(slow.post_refused(&stop, json!({"force": true})).await.status, 409, "nor does it stop another's work");

    site.beat(&second, &work, "?expected_last_heartbeat=NO_HEARTBEAT").await.success();
    second.events(id(&session), json!([result(call, "in time")])).await;
    let history = api.all(&format!("{}?types=user.tool_result", events(&session)), 10).await;
    assert_eq!(history.len(), 1);
    assert_eq!(text(&history[0]), "in time");
}

#[tokio::test]
async fn a_heartbeat_names_the_one_before_it() {
    let rota = Rota::without_engine().await;
    let (site, _) = Site::at_work(&rota.api).await;
    let (work, token) = site.take().await;
    let wrong = "?expected_last_heartbeat=2026-03-02T08:00:00.000000Z";
    assert_eq!(site.beat(&token, &work, wrong).await.refusal().status, 412);
    let first = site.beat(&token, &work, "?expected_last_heartbeat=NO_HEARTBEAT").await.success();
    assert_eq!(site.beat(&token, &work, "?expected_last_heartbeat=NO_HEARTBEAT").await.refusal().status, 412);
    let last = first["last_heartbeat"].as_str().unwrap();
    let second = site.beat(&token, &work, &format!("?expected_last_heartbeat={last}")).await.success();
    assert_ne!(second["last_heartbeat"], first["last_heartbeat"]);
    let unnamed = site.beat(&token, &work, "?desired_ttl_seconds=120").await.success();
    assert_eq!((&unnamed["lease_extended"], &unnamed["ttl_seconds"]), (&json!(true), &json!(120)));
    for (query, message) in [
        ("?desired_ttl_seconds=0", "desired_ttl_seconds: Input should be greater than or equal to 1"),
        ("?desired_ttl_seconds=3601", "desired_ttl_seconds: Input should be less than or equal to 3600"),
    ] {
        assert_eq!(site.beat(&token, &work, query).await.refusal(), invalid(message));
    }
}

#[tokio::test]
async fn a_heartbeat_takes_work_that_was_not_acknowledged() {
    let rota = Rota::without_engine().await;
    let (site, _) = Site::at_work(&rota.api).await;
    let work = site.poll().await;
    assert_eq!(site.beat(&site.worker, &work, "").await.success()["state"], "active");
    let shown = rota.api.get(&site.path(&format!("/{}", id(&work)))).await;
    assert!(shown["acknowledged_at"].is_string() && shown["latest_heartbeat_at"].is_string());
}

#[tokio::test]
async fn who_is_asked_to_stop_hears_of_it_with_the_next_heartbeat() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (site, _) = Site::at_work(api).await;
    let (work, token) = site.take().await;
    let stop = site.path(&format!("/{}/stop", id(&work)));
    let stopping = api.post(&stop, json!({})).await;
    assert_eq!((&stopping["state"], &stopping["stopped_at"]), (&json!("stopping"), &Value::Null));
    let beat =
        site.beat(&token, &work, "?expected_last_heartbeat=NO_HEARTBEAT&desired_ttl_seconds=120").await.success();
    let recorded = json!({"type": "work_heartbeat", "lease_extended": false, "state": "stopping", "last_heartbeat": "",
        "ttl_seconds": 120});
    assert_eq!(beat, recorded);
    assert_eq!(api.post(&stop, json!({"force": false})).await, stopping);
    let stopped = token.post(&stop, json!({"force": true})).await;
    assert_eq!((&stopped["state"], &stopped["stop_requested_at"]), (&json!("stopped"), &stopping["stop_requested_at"]));
    assert_eq!(site.beat(&token, &work, "").await.success()["state"], "stopped");
    assert_eq!(token.post(&stop, json!({"force": true})).await, stopped);
    assert_eq!(site.poll().await, Value::Null, "it was stopped by somebody else than its worker");
}

#[tokio::test]
async fn work_whose_worker_never_comes_back_to_stop_is_stopped_when_its_lease_has_run_out() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (site, _) = Site::at_work(api).await;
    let (work, _) = site.take().await;
    api.post(&site.path(&format!("/{}/stop", id(&work))), json!({})).await;
    rota.advance_seconds(301);
    assert_eq!(site.poll().await, Value::Null);
    assert_eq!(api.get(&site.path(&format!("/{}", id(&work)))).await["state"], "stopped");
}

#[tokio::test]
async fn a_worker_that_gives_up_while_calls_wait_leaves_them_to_the_next() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    api.stream_from(id(&session), 0).await.turn().await;
    let (work, token) = site.take().await;
    token.post(&site.path(&format!("/{}/stop", id(&work))), json!({"force": true})).await;
    assert_eq!(site.poll().await, Value::Null, "not at once, or a worker that always fails would try without a pause");
    rota.advance_seconds(6);
    assert_eq!(id(&site.poll().await), id(&session));
}

#[tokio::test]
async fn a_call_finds_a_worker_also_when_the_last_one_left_before_it() {
    let rota = Rota::without_engine().await;
    let (site, session) = Site::at_work(&rota.api).await;
    let (work, token) = site.take().await;
    token.post(&site.path(&format!("/{}/stop", id(&work))), json!({"force": true})).await;
    assert_eq!(site.poll().await, Value::Null, "no call waits yet");
    let rota = rota.restart_with(|config| config.engine.concurrency = 1).await;
    let asked = rota.api.stream_from(id(&session), 0).await.turn().await;
    assert_eq!(stop_reason(&asked)["type"], "requires_action");
    let worker = site.worker.clone().at(rota.server.address);
    assert_eq!(id(&worker.get(&site.path("/poll")).await), id(&session));
}

#[tokio::test]
async fn only_a_worker_sends_results_of_built_in_tools_and_it_sends_nothing_else() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let asked = api.stream_from(id(&session), 0).await.turn().await;
    let call = first(&asked, "agent.tool_use");
    let (_, token) = site.take().await;
    let said = "events[0]: `user.tool_result` may only be sent with environment credentials (the self-hosted runner's \
        Session-Instance JWT); an API key or Console session cannot post this event type";
    let sent = json!({"events": [result(call, "mine")]});
    assert_eq!(api.post_refused(&events(&session), sent.clone()).await, forbidden(said));
    for worker in [&token, &site.worker] {
        let refused = worker.post_refused(&events(&session), json!({"events": [message("hi")]})).await;
        assert_eq!(refused.status, 403, "{refused:?}");
    }
    site.worker.post(&events(&session), sent).await;
    api.once(&format!("/v1/sessions/{}", id(&session)), |session| session["status"] == "idle").await;
}

#[tokio::test]
async fn a_token_reaches_its_own_session_and_a_key_those_of_its_environment() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let (_, token) = site.take().await;
    let other = site.session(api).await;
    let cloud = Parts::new(api).await.session_with(api, message("hi")).await;
    for (worker, session, reaches) in [
        (&token, &session, true),
        (&token, &other, false),
        (&site.worker, &other, true),
        (&token, &cloud, false),
        (&site.worker, &cloud, false),
    ] {
        let path = format!("/v1/sessions/{}", id(session));
        for path in [path.clone(), format!("{path}/events")] {
            let answer = worker.send(Method::GET, &path, None).await;
            if reaches {
                answer.success();
            } else {
                assert_eq!(answer.refusal(), not_found(format!("Session not found: {}", id(session))));
            }
        }
    }
    let beat = site.beat(&token, &other, "").await.refusal();
    assert_eq!(beat, forbidden(format!("the token was given for other work than `{}`", id(&other))));
    let poll = token.get_refused(&site.path("/poll")).await;
    assert_eq!(poll.status, 403, "a token reaches no other work");
}

#[tokio::test]
async fn a_token_ends_with_the_work_and_that_of_an_ended_session_sees_that_it_has_ended() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let (work, token) = site.take().await;
    token.post(&site.path(&format!("/{}/stop", id(&work))), json!({"force": true})).await;
    let path = format!("/v1/sessions/{}", id(&session));
    assert_eq!(token.get_refused(&path).await.status, 403);

    let rota = Rota::start().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    api.stream_from(id(&session), 0).await.turn().await;
    let (work, token) = site.take().await;
    let path = format!("/v1/sessions/{}", id(&session));
    api.call(&format!("{path}/archive")).await;
    assert_eq!(token.get(&path).await["status"], "terminated");
    assert_eq!(api.get(&site.path(&format!("/{}", id(&work)))).await["state"], "stopped");
    assert_eq!(site.beat(&token, &work, "").await.success()["state"], "stopped");
    api.delete(&path).await;
    assert_eq!(token.get_refused(&path).await.status, 401, "nothing is left of it");
    assert_eq!(api.get_refused(&site.path(&format!("/{}", id(&work)))).await.status, 404);
}

#[tokio::test]
async fn keys_of_environments_are_shown_once_listed_and_revoked() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let site = Site::new(api, json!({})).await;
    let keys = format!("/rota/v1/environments/{}/keys", id(&site.parts.environment));
    let secret = site.key["secret"].as_str().unwrap();
    assert!(secret.starts_with("ek-rota-"));
    let listed = api.get(&keys).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert!(!listed.to_string().contains(secret), "the secret is shown once");
    let session = site.session(api).await;
    let (work, token) = site.take().await;
    let revoke = format!("{keys}/{}/revoke", id(&site.key));
    let revoked = api.call(&revoke).await;
    assert!(revoked["revoked_at"].is_string());
    rota.advance_seconds(60);
    assert_eq!(api.call(&revoke).await, revoked);
    for (worker, path) in [(&site.worker, site.path("/poll")), (&token, format!("/v1/sessions/{}", id(&session)))] {
        let refused = worker.get_refused(&path).await;
        assert_eq!((refused.status, &*refused.message), (401, "OAuth access token has been revoked."));
    }
    assert_eq!(api.get(&site.path(&format!("/{}", id(&work)))).await["state"], "starting");
    let expires = json!({"name": "short", "expires_at": "2026-03-02T09:00:00Z"});
    let short = api.post(&keys, expires).await;
    let short = api.with_key(short["secret"].as_str().unwrap().to_owned());
    short.get(&site.path("/poll")).await;
    rota.advance_seconds(3600);
    assert_eq!(short.get_refused(&site.path("/poll")).await.status, 401);
    let refused = api.post_refused(&keys, json!({"name": ""})).await;
    assert_eq!(refused.status, 400);
    let nowhere = format!("/rota/v1/environments/env_{}/keys", "1".repeat(22));
    assert_eq!(api.post_refused(&nowhere, json!({"name": "x"})).await.status, 404);
}

#[tokio::test]
async fn an_environment_has_a_hundred_keys_at_most() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let site = Site::new(api, json!({})).await;
    let keys = format!("/rota/v1/environments/{}/keys", id(&site.parts.environment));
    for _ in 1..100 {
        api.post(&keys, json!({"name": "k"})).await;
    }
    let refused = api.post_refused(&keys, json!({"name": "k"})).await;
    assert!(
        refused.message.ends_with("has 100 keys, which is the most; revoke those that no worker uses"),
        "{refused:?}"
    );
    api.call(&format!("{keys}/{}/revoke", id(&site.key))).await;
    api.post(&keys, json!({"name": "k"})).await;
}

#[tokio::test]
async fn work_of_another_environment_is_out_of_reach() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (site, _) = Site::at_work(api).await;
    let parts = Parts::new(api).await;
    let cloud = Site::of(api, parts).await;
    let refused = forbidden("Token not authorized for this environment");
    let unknown = format!("/v1/environments/env_{}/work", "1".repeat(22));
    for path in [site.path("/poll"), site.path("/stats"), site.path(""), format!("{unknown}/poll")] {
        assert_eq!(cloud.worker.get_refused(&path).await, refused, "{path}");
    }
    let environment = id(&cloud.parts.environment);
    let poll = cloud.worker.get_refused(&cloud.path("/poll")).await;
    let said = format!(
        "Only BYOC and bridge environments support work polling. Environment {environment} is anthropic_cloud."
    );
    assert_eq!(poll, invalid(said));
    let list = cloud.worker.get_refused(&cloud.path("")).await;
    assert_eq!(list.status, 404);
    let none = json!({"depth": 0, "pending": 0, "oldest_queued_at": null, "workers_polling": null, "type": "work_queue_stats"});
    assert_eq!(cloud.worker.get(&cloud.path("/stats")).await, none);
}

#[tokio::test]
async fn the_queue_is_counted_and_so_are_the_workers_that_ask() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let site = Site::new(api, json!({})).await;
    let poll = async |name: &str| {
        let request = site.worker.request(Method::GET, &site.path("/poll")).header("anthropic-worker-id", name);
        site.worker.answer(request).await.success()
    };
    let stats = async || api.get(&site.path("/stats")).await;
    assert_eq!(poll("a").await, Value::Null);
    assert_eq!(poll("b").await, Value::Null);
    let none =
        json!({"depth": 0, "pending": 0, "oldest_queued_at": null, "workers_polling": 2, "type": "work_queue_stats"});
    assert_eq!(stats().await, none);
    rota.advance_seconds(31);
    for _ in 0..3 {
        site.session(api).await;
    }
    let first = poll("a").await;
    let now = stats().await;
    assert_eq!((&now["depth"], &now["pending"], &now["workers_polling"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(now["oldest_queued_at"], first["started_at"]);
    site.worker.call(&site.path(&format!("/{}/ack", id(&first)))).await;
    let now = stats().await;
    assert_eq!((&now["depth"], &now["pending"]), (&json!(2), &json!(0)));
    rota.advance_seconds(301);
    assert_eq!(stats().await["depth"], 3, "what its worker has lost waits too");
    let listed = site.worker.all(&site.path(""), 2).await;
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|work| work["secret"].is_null()));
    assert_eq!(site.worker.get(&site.path("")).await["next_page"], Value::Null);
}

#[tokio::test]
async fn work_carries_pairs_that_an_api_key_changes() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let path = site.path(&format!("/{}", id(&session)));
    assert_eq!(
        api.post(&path, json!({"metadata": {"a": "1", "b": "2"}})).await["metadata"],
        json!({"a": "1", "b": "2"})
    );
    assert_eq!(api.post(&path, json!({"metadata": {"a": null}})).await["metadata"], json!({"b": "2"}));
    assert_eq!(api.post_refused(&path, json!({})).await, invalid("metadata: Field required"));
    assert_eq!(site.poll().await["metadata"], json!({"b": "2"}));
    for answer in [site.worker.get_refused(&path).await, site.worker.post_refused(&path, json!({"metadata": {}})).await]
    {
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(answer.message.starts_with("OAuth token does not meet scope requirement any_of("), "{answer:?}");
    }
    let wrong = invalid("Invalid work ID format: expected session_*, cse_*, or work_* prefix, got \"nothing\".");
    assert_eq!(api.get_refused(&site.path("/nothing")).await, wrong);
    let missing = site.path(&format!("/sesn_{}", "1".repeat(22)));
    assert_eq!(api.get_refused(&missing).await.status, 404);
}

#[tokio::test]
async fn a_poll_says_what_it_does_not_take() {
    let rota = Rota::without_engine().await;
    let site = Site::new(&rota.api, json!({})).await;
    for (query, message) in [
        ("reclaim_older_than_ms=0", "reclaim_older_than_ms: Input should be greater than or equal to 1"),
        ("block_ms=0", "block_ms: Input should be greater than or equal to 1"),
        ("block_ms=1000", "block_ms: Input should be less than or equal to 999"),
        ("colour=red", "colour: Extra inputs are not permitted"),
    ] {
        assert_eq!(site.worker.get_refused(&site.path(&format!("/poll?{query}"))).await, invalid(message));
    }
    assert_eq!(site.worker.get(&site.path("/poll?block_ms=999")).await, Value::Null);
}

#[tokio::test]
async fn a_poll_that_waits_is_given_what_comes_meanwhile() {
    let rota = Rota::without_engine().await;
    let site = Site::new(&rota.api, json!({})).await;
    let waiting = async {
        loop {
            let given = site.worker.get(&site.path("/poll?block_ms=999")).await;
            if given.is_object() {
                return given;
            }
        }
    };
    let (given, session) = tokio::join!(waiting, site.session(&rota.api));
    assert_eq!(id(&given), id(&session));
}

#[tokio::test]
async fn of_many_workers_that_ask_at_once_one_is_given_the_work() {
    let rota = Rota::without_engine().await;
    let site = Site::new(&rota.api, json!({})).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(id(&site.session(&rota.api).await).to_owned());
    }
    let polls = futures_util::future::join_all((0..12).map(|_| site.poll())).await;
    let mut given: Vec<_> = polls.iter().filter(|work| work.is_object()).map(|work| id(work).to_owned()).collect();
    given.sort();
    sessions.sort();
    assert_eq!(given, sessions);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn work_of_one_server_is_given_by_another_and_once() {
    let one = Rota::without_engine().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let site = Site::new(&one.api, json!({})).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(id(&site.session(&one.api).await).to_owned());
    }
    let other = site.worker.clone().at(two.server.address);
    let path = site.path("/poll?block_ms=100");
    let polls =
        futures_util::future::join_all((0..12).map(|i| if i % 2 == 0 { &other } else { &site.worker }.get(&path)));
    let polls = polls.await;
    let mut given: Vec<_> = polls.iter().filter(|work| work.is_object()).map(|work| id(work).to_owned()).collect();
    given.sort();
    sessions.sort();
    assert_eq!(given, sessions);
}

#[tokio::test]
async fn a_self_hosted_environment_goes_when_its_queue_is_empty_or_by_force() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let environment = format!("/v1/environments/{}", id(&site.parts.environment));
    let queued = "Cannot delete self-hosted environment with work in the queue. Either archive the environment first to allow \
        the queue to drain, or use force=true to delete immediately.";
    assert_eq!(api.send(Method::DELETE, &environment, None).await.refusal(), conflict(queued));
    api.call(&format!("{environment}/archive")).await;
    let (work, token) = site.take().await;
    assert_eq!(id(&work), id(&session), "an archived environment lets its queue drain");
    let used = conflict("Environment has 1 active session. Use force=true to delete anyway.");
    assert_eq!(api.send(Method::DELETE, &environment, None).await.refusal(), used);
    api.delete(&format!("{environment}?force=true")).await;
    assert_eq!(site.beat(&token, &work, "").await.success()["state"], "stopped");
    assert_eq!(site.worker.get_refused(&site.path("/poll")).await.status, 404, "the key is not revoked by it");
}

#[tokio::test]
async fn calls_whose_environment_is_deleted_are_closed_and_run_nowhere() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.turn().await;
    api.delete(&format!("/v1/environments/{}?force=true", id(&site.parts.environment))).await;
    let told = stream.turn().await;
    let closed = first(&told, "agent.tool_result");
    assert_eq!(closed["is_error"], true);
    assert!(text(closed).contains("has been deleted"), "{closed}");
    assert_eq!(stop_reason(&told)["type"], "end_turn");
    api.events(id(&session), json!([script("hostname")])).await;
    let told = stream.turn().await;
    assert!(text(first(&told, "agent.tool_result")).contains("has been deleted"));
    assert!(!rota.workspace_file(id(&session), "").exists(), "nothing ran here");
}

#[tokio::test]
async fn an_interrupt_closes_the_calls_of_a_worker_so_that_the_next_one_does_not_run_them() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let (site, session) = Site::at_work(api).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let asked = stream.turn().await;
    let call = first(&asked, "agent.tool_use");
    let (_, token) = site.take().await;
    api.events(id(&session), json!([{"type": "user.interrupt"}])).await;
    let told = stream.turn().await;
    assert_eq!(
        kinds(&told)[..2],
        ["user.tool_result", "user.interrupt"],
        "the official worker runs what has no such result"
    );
    assert_eq!((&told[0]["tool_use_id"], &told[0]["is_error"]), (&call["id"], &json!(true)));
    let late = token.post_refused(&events(&session), json!({"events": [result(call, "late")]})).await;
    assert_eq!(late.status, 400, "it waits for nothing any more");
}
