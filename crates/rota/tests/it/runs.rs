//! Running a deployment by hand, and the record that each run leaves.

use futures_util::future::join_all;
use reqwest::Method;
use rota_server::config::Provider;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, Refusal, invalid, not_found},
    given::{Parts, agent, id, message, model, over},
    schedules::tamper,
    server::Rota,
};

fn run_path(deployment: &Value) -> String {
    format!("/v1/deployments/{}/run", id(deployment))
}

/// Runs a deployment; the session must start.
async fn run(api: &Api, deployment: &Value) -> Value {
    let run = api.call(&run_path(deployment)).await;
    assert_eq!(run["error"], Value::Null);
    run
}

#[tokio::test]
async fn a_run_starts_a_session_of_the_pinned_version_with_the_first_events_in_its_log() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let events =
        json!([message("one"), message("two"), {"type": "system.message", "content": [{"type": "text", "text": "s"}]}]);
    let deployment = parts.deployment(api, json!({"initial_events": events, "metadata": {"a": "1"}})).await;
    api.post(&format!("/v1/agents/{}", id(&parts.agent)), json!({"name": "changed", "system": "later"})).await;
    let run = run(api, &deployment).await;
    assert!(id(&run).starts_with("drun_"));
    let reference = json!({"type": "agent", "id": id(&parts.agent), "version": 1});
    for (field, expected) in [
        ("type", json!("deployment_run")),
        ("deployment_id", deployment["id"].clone()),
        ("agent", reference),
        ("trigger_context", json!({"type": "manual"})),
    ] {
        assert_eq!(run[field], expected, "{field}");
    }
    let session = run["session_id"].as_str().unwrap();
    let session = api.get(&format!("/v1/sessions/{session}")).await;
    for (field, expected) in [
        ("title", json!("nightly")),
        ("metadata", json!({})),
        ("deployment_id", deployment["id"].clone()),
        ("environment_id", parts.environment["id"].clone()),
        ("status", json!("running")),
        ("created_at", run["created_at"].clone()),
    ] {
        assert_eq!(session[field], expected, "{field}");
    }
    let snapshot = &session["agent"];
    assert_eq!(
        (&snapshot["version"], &snapshot["name"], &snapshot["system"]),
        (&json!(1), &json!("worker"), &Value::Null)
    );
    let log = api.get(&format!("/v1/sessions/{}/events", id(&session))).await;
    let log = log["data"].as_array().unwrap();
    assert_eq!(log.len(), 3);
    for (logged, sent) in log.iter().zip(events.as_array().unwrap()) {
        assert_eq!((&logged["type"], &logged["content"]), (&sent["type"], &sent["content"]));
        assert!(logged.get("processed_at").is_none() || logged["type"] == "user.define_outcome");
        assert!(id(logged).starts_with("sevt_"));
    }
}

#[tokio::test]
async fn a_paused_deployment_runs_by_hand_and_nothing_of_its_schedule_moves() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let schedule = json!({"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"});
    let deployment = parts.deployment(&rota.api, json!({ "schedule": schedule })).await;
    let path = format!("/v1/deployments/{}", id(&deployment));
    for verb in ["unpause", "pause"] {
        let before = rota.api.call(&format!("{path}/{verb}")).await;
        run(&rota.api, &deployment).await;
        assert_eq!(rota.api.get(&path).await, before);
    }
}

#[tokio::test]
async fn each_run_starts_a_session_of_its_own() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let (first, second) = (run(&rota.api, &deployment).await, run(&rota.api, &deployment).await);
    assert_ne!(first["session_id"], second["session_id"]);
    assert_ne!(first["id"], second["id"]);
}

#[tokio::test]
async fn a_deployment_that_is_archived_or_unknown_is_refused_and_leaves_no_run() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    rota.api.call(&format!("/v1/deployments/{}/archive", id(&deployment))).await;
    let refused = rota.api.call_refused(&run_path(&deployment)).await;
    assert_eq!(refused, invalid("Cannot modify archived deployment"));
    let refused = rota.api.call_refused("/v1/deployments/depl_nobody/run").await;
    assert_eq!(refused, not_found("Deployment `depl_nobody` not found."));
    assert_eq!(rota.api.get("/v1/deployment_runs").await["data"], json!([]));
    assert_eq!(rota.api.get("/v1/sessions").await["data"], json!([]));
}

/// Runs `deployment`, which must fail with an error of type `kind`, leave a record, start nothing and pause nothing.
async fn fails(api: &Api, deployment: &Value, kind: &str) -> Value {
    let sessions = api.all("/v1/sessions", 100).await.len();
    let run = api.call(&run_path(deployment)).await;
    assert_eq!((&run["session_id"], &run["error"]["type"]), (&Value::Null, &json!(kind)));
    assert!(!run["error"]["message"].as_str().unwrap().is_empty());
    assert_eq!(api.get(&format!("/v1/deployment_runs/{}", id(&run))).await, run);
    assert_eq!(api.get("/v1/deployment_runs?limit=1").await["data"][0], run);
    assert_eq!(api.all("/v1/sessions", 100).await.len(), sessions);
    assert_eq!(api.get(&format!("/v1/deployments/{}", id(deployment))).await["status"], "active", "by hand: no pause");
    run
}

#[tokio::test]
async fn a_run_in_an_environment_that_was_archived_or_deleted_fails_until_the_deployment_is_mended() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment = parts.deployment(api, json!({})).await;
    let environment = format!("/v1/environments/{}", id(&parts.environment));
    api.call(&format!("{environment}/archive")).await;
    let run = fails(api, &deployment, "environment_archived_error").await;
    assert_eq!(run["error"]["message"], format!("environment `{}` is archived", id(&parts.environment)));
    api.delete(&environment).await;
    fails(api, &deployment, "environment_not_found_error").await;
    let other = crate::given::environment(api, "other").await;
    api.post(&format!("/v1/deployments/{}", id(&deployment)), json!({"environment_id": id(&other)})).await;
    self::run(api, &deployment).await;
}

#[tokio::test]
async fn a_run_whose_roster_names_an_archived_agent_fails() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    for members in [
        |member: &str| json!({"type": "coordinator", "agents": [member]}),
        |member: &str| json!({"type": "multiagent_20261001", "workflows": {"type": "enabled", "predefined_agents": [member]}}),
    ] {
        let member = agent(api, json!({"name": "member"})).await;
        let lead = agent(api, json!({"multiagent": members(id(&member))})).await;
        let name = id(&member);
        let environment = crate::given::environment(api, name).await;
        let deployment = Parts { agent: lead, environment }.deployment(api, json!({})).await;
        run(api, &deployment).await;
        api.call(&format!("/v1/agents/{name}/archive")).await;
        let run = fails(api, &deployment, "agent_archived_error").await;
        assert_eq!(run["error"]["message"], format!("agent `{name}` is archived"));
    }
}

#[tokio::test]
async fn a_run_that_would_mount_what_is_not_there_fails() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    for (resource, kind) in [
        (json!({"type": "file", "file_id": "file_x"}), "file_not_found_error"),
        (json!({"type": "memory_store", "memory_store_id": "memstore_x"}), "session_resource_not_found_error"),
    ] {
        let deployment = parts.deployment(&rota.api, json!({"resources": [resource]})).await;
        fails(&rota.api, &deployment, kind).await;
    }
}

#[tokio::test]
async fn a_run_of_a_model_that_is_no_longer_offered_fails_and_one_that_is_offered_again_starts() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.models = vec![model("house", Provider::Playbook)];
    })
    .await;
    let lead = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent: lead, environment: crate::given::environment(&rota.api, "e").await };
    let deployment = parts.deployment(&rota.api, json!({})).await;
    run(&rota.api, &deployment).await;
    let rota = rota.restart_with(|config| config.models.clear()).await;
    fails(&rota.api, &deployment, "session_creation_rejected_error").await;
    let rota = rota.restart_with(|config| config.models = vec![model("house", Provider::Playbook)]).await;
    run(&rota.api, &deployment).await;
}

#[tokio::test]
async fn sessions_beyond_the_configured_rate_are_refused_for_a_minute() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.rate.sessions_per_minute = 2;
    })
    .await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    run(&rota.api, &deployment).await;
    parts.session(&rota.api, json!({})).await;
    fails(&rota.api, &deployment, "session_rate_limited_error").await;
    let answer = rota.api.send(Method::POST, "/v1/sessions", Some(&parts.session_body(&json!({})))).await;
    let message = "the workspace has created 2 sessions within a minute, which is its limit; try again in a minute";
    let limited = Refusal { status: 429, kind: "rate_limit_error".to_owned(), message: message.to_owned() };
    assert_eq!(answer.refusal(), limited);
    assert_eq!(answer.headers["retry-after"], "60");
    let other = rota.other_workspace().await;
    let theirs = Parts::new(&other).await;
    theirs.session(&other, json!({})).await;
    rota.advance_seconds(60);
    run(&rota.api, &deployment).await;
}

/// Runs `deployment` with an `Idempotency-Key`.
async fn run_once(api: &Api, deployment: &Value, key: &str) -> Answer {
    api.answer(api.request(Method::POST, &run_path(deployment)).header("idempotency-key", key)).await
}

const DAY_SECONDS: i64 = 24 * 3600;

#[tokio::test]
async fn a_key_stands_for_one_run_of_one_deployment_for_a_day() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (one, two) = (parts.deployment(api, json!({})).await, parts.deployment(api, json!({})).await);
    let run = async |deployment: &Value, key: &str| run_once(api, deployment, key).await.success();
    let first = run(&one, "k").await;
    assert_eq!(run(&one, "k").await, first);
    assert_ne!(run(&one, "l").await["id"], first["id"]);
    assert_ne!(run(&two, "k").await["id"], first["id"]);
    rota.advance_seconds(DAY_SECONDS - 1);
    assert_eq!(run(&one, "k").await, first);
    rota.advance_seconds(1);
    let second = run(&one, "k").await;
    assert_ne!(second["id"], first["id"]);
    assert_eq!(run(&one, "k").await, second);
    api.call(&format!("/v1/deployments/{}/archive", id(&one))).await;
    assert_eq!(run(&one, "k").await, second, "what has run is told again");
    assert_eq!(api.get("/v1/deployment_runs").await["data"].as_array().unwrap().len(), 4);
    assert_eq!(api.get("/v1/sessions").await["data"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_key_remembers_a_run_that_failed() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    rota.api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    let first = run_once(&rota.api, &deployment, "k").await.success();
    assert_eq!(first["error"]["type"], "environment_archived_error");
    assert_eq!(run_once(&rota.api, &deployment, "k").await.success(), first);
}

#[tokio::test]
async fn a_key_remembers_a_run_that_failed_for_an_unknown_reason() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment = parts.deployment(api, json!({})).await;
    let before = run_once(api, &deployment, "before").await.success();
    tamper(&rota, "UPDATE deployments SET initial_events = '['".to_owned()).await;
    let first = run_once(api, &deployment, "k").await.success();
    assert_eq!((&first["error"]["type"], &first["session_id"]), (&json!("unknown_error"), &Value::Null));
    assert_eq!(run_once(api, &deployment, "k").await.success(), first);
    assert_eq!(run_once(api, &deployment, "before").await.success(), before);
    assert_eq!(api.get("/v1/deployment_runs").await["data"], json!([first, before]));
    assert_eq!(api.get("/v1/sessions").await["data"].as_array().unwrap().len(), 1, "what failed has left nothing");
}

#[tokio::test]
async fn concurrent_calls_with_one_key_make_one_run() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let runs = join_all((0..16).map(|_| run_once(&rota.api, &deployment, "k"))).await;
    let runs: Vec<Value> = runs.into_iter().map(Answer::success).collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:#?}");
    assert_eq!(rota.api.get("/v1/deployment_runs").await["data"], json!([runs[0]]));
    assert_eq!(rota.api.get("/v1/sessions").await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_of_no_or_too_many_characters_is_refused() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let refused = invalid("the Idempotency-Key header must have 1 to 255 visible ASCII characters");
    for key in ["", &*"k".repeat(256), "ü"] {
        assert_eq!(run_once(&rota.api, &deployment, key).await.refusal(), refused);
    }
    run_once(&rota.api, &deployment, &"k".repeat(255)).await.success();
}

#[tokio::test]
async fn runs_are_listed_by_deployment_error_trigger_and_time() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (one, two) = (parts.deployment(api, json!({})).await, parts.deployment(api, json!({})).await);
    let missing = json!({"resources": [{"type": "file", "file_id": "file_x"}]});
    let broken = parts.deployment(api, missing).await;
    let mut runs = Vec::new();
    for deployment in [&one, &two, &broken, &one, &broken, &one, &two] {
        runs.push(api.call(&run_path(deployment)).await);
    }
    let places = async |query: &str, limit: usize| -> Vec<usize> {
        let rows = api.all(&format!("/v1/deployment_runs?{query}"), limit).await;
        rows.iter().map(|row| runs.iter().position(|run| run == row).unwrap()).collect()
    };
    let at = |i: usize| runs[i]["created_at"].as_str().unwrap();
    let of_one = format!("deployment_id={}", id(&one));
    for (query, expected) in [
        ("beta=true", vec![6, 5, 4, 3, 2, 1, 0]),
        (&*of_one, vec![5, 3, 0]),
        ("has_error=true", vec![4, 2]),
        ("has_error=false", vec![6, 5, 3, 1, 0]),
        (&format!("{of_one}&has_error=true"), vec![]),
        ("trigger_type=manual", vec![6, 5, 4, 3, 2, 1, 0]),
        ("trigger_type=schedule", vec![]),
        (&format!("created_at[gt]={}&created_at[lt]={}", at(1), at(4)), vec![3, 2]),
        (&format!("created_at[gte]={}&created_at[lte]={}", at(1), at(4)), vec![4, 3, 2, 1]),
    ] {
        for limit in [1, 2, 1000] {
            assert_eq!(places(query, limit).await, expected, "{query}");
        }
    }
    let refused = not_found("Deployment run `drun_nobody` not found.");
    assert_eq!(api.get_refused("/v1/deployment_runs/drun_nobody").await, refused);
}

#[tokio::test]
async fn a_run_names_its_session_after_that_is_deleted() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({"initial_events": [message("nothing to run")]})).await;
    let run = run(&rota.api, &deployment).await;
    let session = run["session_id"].as_str().unwrap();
    rota.api.stream_from(session, 0).await.turn().await;
    rota.api.delete(&format!("/v1/sessions/{session}")).await;
    assert_eq!(rota.api.get(&format!("/v1/deployment_runs/{}", id(&run))).await, run);
    let list = rota.api.get(&format!("/v1/sessions?deployment_id={}", id(&deployment))).await;
    assert_eq!(list["data"], json!([]));
}

#[tokio::test]
async fn a_deployment_that_changes_is_run_as_it_is_now() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let before = run(&rota.api, &deployment).await;
    let changes = json!({"name": "renamed", "initial_events": [message("other")]});
    rota.api.post(&format!("/v1/deployments/{}", id(&deployment)), changes).await;
    let after = run(&rota.api, &over(deployment, &json!({}))).await;
    let title = async |run: &Value| {
        let session = run["session_id"].as_str().unwrap();
        rota.api.get(&format!("/v1/sessions/{session}")).await["title"].clone()
    };
    assert_eq!((title(&before).await, title(&after).await), (json!("nightly"), json!("renamed")));
}
