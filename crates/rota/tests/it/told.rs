//! Webhooks of Rota's own: what they say, and that nobody gets one who did not ask for it by name.

use rota_server::config::PriceConfig;
use serde_json::{Value, json};

use crate::{
    client::{Api, ENDPOINTS},
    given::{Parts, agent, environment, id, message, over, script, toolset},
    policies::set_policy,
    receiver::{Receiver, Reply as Answer},
    schedules::{at, every, path},
    server::Rota,
    stream::first,
    upstream::{Reply, Upstream},
    webhook_events::{endpoint, recorded},
};

/// What the next event says beside what every event does, once it is recorded that it came.
async fn said(api: &Api, receiver: &mut Receiver, endpoint: &Value) -> Value {
    let mut data = receiver.next().await.event["data"].clone();
    recorded(api, endpoint).await;
    for every in ["organization_id", "workspace_id"] {
        assert!(data.as_object_mut().unwrap().remove(every).unwrap().is_string());
    }
    data
}

async fn run_by_hand(api: &Api, deployment: &Value) -> Value {
    api.call(&format!("{}/run", path(deployment))).await
}

fn session(run: &Value) -> &str {
    run["session_id"].as_str().unwrap()
}

#[tokio::test]
async fn a_run_tells_how_it_came_to_its_end_to_those_who_asked_for_it() {
    let refuses = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "not this"}});
    let says = Reply::Message(vec![json!({"type": "text", "text": "hi"})]);
    let upstream = Upstream::start([says, Reply::Error(400, "", refuses)]).await;
    let mut model = upstream.model();
    model.price = Some(PriceConfig {
        input: 4_000.0,
        output: 10_000.01,
        cache_read: None,
        cache_write_5m: None,
        cache_write_1h: None,
    });
    let rota = Rota::receiving(|config| config.models.push(model)).await;
    let api = &rota.api;
    let (mut receiver, others) = (Receiver::start().await, Receiver::start().await);
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, json!({})).await;
    let asked = endpoint(api, &receiver, Some(&["rota.run.finished"])).await;
    let official = endpoint(api, &others, None).await;

    let done = run_by_hand(api, &made).await;
    let expected = json!({
        "type": "rota.run.finished",
        "id": id(&done),
        "deployment_id": id(&made),
        "session_id": session(&done),
        "outcome": "done",
        "stop_reason": "end_turn",
        "error": null,
        "cost": {"micro_cents": 5 * 400_000 + 7 * 1_000_001, "currency": "USD"},
    });
    assert_eq!(said(api, &mut receiver, &asked).await, expected);

    let died = run_by_hand(api, &made).await;
    let told = said(api, &mut receiver, &asked).await;
    assert_eq!(
        (&told["id"], &told["outcome"], &told["cost"]),
        (&died["id"], &json!("failed"), &json!({"micro_cents": 0, "currency": "USD"}))
    );
    assert_eq!(
        (&told["stop_reason"], &told["error"]["type"]),
        (&json!("retries_exhausted"), &json!("model_request_failed_error"))
    );
    assert!(told["error"]["message"].as_str().unwrap().contains("not this"), "{told}");

    // A session that no deployment started is no run.
    let bare = parts.session_with(api, message("hi")).await;
    api.stream_from(id(&bare), 0).await.turn().await;
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    let refused = run_by_hand(api, &made).await;
    let expected = json!({
        "type": "rota.run.finished",
        "id": id(&refused),
        "deployment_id": id(&made),
        "session_id": null,
        "outcome": "failed",
        "stop_reason": null,
        "error": refused["error"],
        "cost": null,
    });
    assert_eq!(said(api, &mut receiver, &asked).await, expected);

    let of = |endpoint: &Value| format!("{ENDPOINTS}/{}/deliveries", id(endpoint));
    let to_others = api.all(&of(&official), 100).await;
    let kinds: Vec<_> = to_others.iter().map(|told| told["event"]["data"]["type"].as_str().unwrap()).collect();
    assert!(
        kinds.contains(&"session.status_idled") && !kinds.iter().any(|kind| kind.starts_with("rota.")),
        "{kinds:?}"
    );
    assert_eq!(api.all(&of(&asked), 100).await.len(), 3);
}

#[tokio::test]
async fn a_run_that_waits_for_a_human_tells_what_for_and_one_that_waits_for_a_program_does_not() {
    let rota = Rota::receiving(|_| {}).await;
    let api = &rota.api;
    let asks = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let weather = json!({"type": "custom", "name": "weather", "description": "d", "input_schema": {"type": "object"}});
    let tools = json!([over(toolset(), &json!({"configs": [asks]})), weather]);
    let parts = Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await };
    let by_human = parts.deployment(api, json!({"initial_events": [script("echo hi")]})).await;
    let by_program = parts.deployment(api, json!({"initial_events": [message("```weather\n{}\n```")]})).await;
    let mut receiver = Receiver::start().await;
    let endpoint = endpoint(api, &receiver, Some(&["rota.run.waiting", "rota.run.finished"])).await;

    // Told of nothing: what comes next is of another run.
    let program = run_by_hand(api, &by_program).await;
    api.stream_from(session(&program), 0).await.turn().await;

    let run = run_by_hand(api, &by_human).await;
    let mut stream = api.stream_from(session(&run), 0).await;
    let call = id(first(&stream.turn().await, "agent.tool_use")).to_owned();
    let expected = json!({
        "type": "rota.run.waiting",
        "id": id(&run),
        "deployment_id": id(&by_human),
        "session_id": session(&run),
        "waiting_on": [{"event_id": call, "answer": "user.tool_confirmation"}],
    });
    assert_eq!(said(api, &mut receiver, &endpoint).await, expected);
    let denied = json!({"type": "user.tool_confirmation", "tool_use_id": call, "result": "deny"});
    api.events(session(&run), json!([denied])).await;
    stream.turn().await;
    let told = said(api, &mut receiver, &endpoint).await;
    assert_eq!(
        (&told["type"], &told["id"], &told["outcome"]),
        (&json!("rota.run.finished"), &run["id"], &json!("done"))
    );

    // An interrupt ends what waits, without a runner.
    api.events(session(&program), json!([{"type": "user.interrupt"}])).await;
    let told = said(api, &mut receiver, &endpoint).await;
    assert_eq!((&told["type"], &told["id"]), (&json!("rota.run.finished"), &program["id"]));
    assert_eq!((&told["outcome"], &told["stop_reason"]), (&json!("done"), &json!("end_turn")));
    let listed = api.get("/rota/v1/runs").await["data"].clone();
    assert_eq!(listed.as_array().unwrap().iter().map(|run| &run["state"]).collect::<Vec<_>>(), ["done", "done"]);
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn occurrences_that_have_no_run_tell_why() {
    let rota = Rota::receiving(|config| {
        config.engine.concurrency = 0;
        config.scheduler.catch_up_seconds = 0;
    })
    .await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, every("0 * * * *")).await;
    set_policy(api, &made, json!({"overlap": "skip"})).await;
    let mut receiver = Receiver::start().await;
    let endpoint = endpoint(api, &receiver, Some(&["rota.occurrence.skipped", "rota.occurrence.missed"])).await;
    let passed = |kind: &str, first: &str, last: Option<&str>, reason: &str| {
        let time = |time: &str| format!("2026-03-02T{time}:00:00.000000Z");
        json!({
            "type": kind,
            "id": id(&made),
            "scheduled_at": time(first),
            "scheduled_until": last.map(time),
            "reason": reason,
        })
    };
    at(&rota, "02T12:30:00").await;
    let expected = passed("rota.occurrence.missed", "09", Some("12"), "missed");
    assert_eq!(said(api, &mut receiver, &endpoint).await, expected);
    at(&rota, "02T13:00:00").await;
    at(&rota, "02T14:00:00").await;
    let expected = passed("rota.occurrence.skipped", "14", None, "overlap");
    assert_eq!(said(api, &mut receiver, &endpoint).await, expected);
    // It grows the range of the one before, and is told by itself.
    at(&rota, "02T15:00:00").await;
    let expected = passed("rota.occurrence.skipped", "15", None, "overlap");
    assert_eq!(said(api, &mut receiver, &endpoint).await, expected);
    rota.set_time("2026-03-02T16:00:05Z");
    api.call(&format!("{}/pause", path(&made))).await;
    let expected = passed("rota.occurrence.skipped", "16", None, "paused");
    assert_eq!(said(api, &mut receiver, &endpoint).await, expected);
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_the_server_disables_is_told_to_another_and_needs_attention_since_then() {
    let rota = Rota::receiving(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let (gone, mut receiver) = (Receiver::start().await, Receiver::start().await);
    gone.replies(Answer::Status(410, ""));
    let disabled = endpoint(api, &gone, Some(&["environment.created"])).await;
    let wants = endpoint(api, &receiver, Some(&["rota.webhook_endpoint.disabled"])).await;
    environment(api, "e").await;
    let told = said(api, &mut receiver, &wants).await;
    assert_eq!(told["id"], disabled["id"]);
    let path = format!("{ENDPOINTS}/{}", id(&disabled));
    let shown = api.get(&path).await;
    assert_eq!((&shown["state"], &shown["disabled_reason"]), (&json!("disabled"), &told["reason"]));
    rota.advance_seconds(60);
    // That it has another name does not make it younger.
    api.post(&path, json!({"name": "pager"})).await;
    let needs = api.get("/rota/v1/attention").await["data"].clone();
    assert_eq!((&needs[0]["kind"], &needs[0]["since"]), (&json!("webhook_disabled"), &shown["updated_at"]));
    assert_eq!(needs.as_array().unwrap().len(), 1);
    // Who disables one knows it.
    gone.replies(Answer::Status(200, ""));
    api.post(&path, json!({"state": "enabled"})).await;
    recorded(api, &disabled).await;
    api.post(&path, json!({"state": "disabled"})).await;
    assert_eq!(api.get("/rota/v1/attention").await["data"], json!([]));
    let deliveries = format!("{ENDPOINTS}/{}/deliveries", id(&wants));
    assert_eq!(api.all(&deliveries, 100).await.len(), 1);
}
