//! All runs of a workspace in one list, each with what became of it, and what needs somebody.

use rota_server::config::PriceConfig;
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, over, script, toolset},
    policies::set_policy,
    schedules::{at, every, path},
    server::Rota,
    stream::first,
    upstream::{Reply, Upstream},
};

const RUNS: &str = "/rota/v1/runs";
const ATTENTION: &str = "/rota/v1/attention";

fn says(text: &str) -> Reply {
    Reply::Message(vec![json!({"type": "text", "text": text})])
}

fn refuses() -> Reply {
    Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": "not this"}}))
}

async fn list(api: &Api, filter: &str) -> Vec<Value> {
    api.all(&format!("{RUNS}?{filter}"), 100).await
}

/// The state of each entry and why, newest first.
async fn states(api: &Api, filter: &str) -> Vec<String> {
    let told = |run: &Value| {
        [run["state"].as_str(), run["reason"].as_str()].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    list(api, filter).await.iter().map(told).collect()
}

/// What needs somebody: the kind of each, with the name of its deployment.
async fn attention(api: &Api) -> Vec<String> {
    let told = |item: &Value| {
        [item["kind"].as_str(), item["deployment_name"].as_str()].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    api.get(ATTENTION).await["data"].as_array().unwrap().iter().map(told).collect()
}

async fn run_by_hand(api: &Api, deployment: &Value) -> Value {
    api.call(&format!("/v1/deployments/{}/run", id(deployment))).await
}

async fn turn(api: &Api, run: &Value) -> Vec<Value> {
    api.stream_from(run["session_id"].as_str().unwrap(), 0).await.turn().await
}

#[tokio::test]
async fn runs_and_occurrences_without_one_are_one_list_with_what_became_of_each() {
    let upstream = Upstream::start([says("hi"), refuses(), says("late")]).await;
    let mut model = upstream.model();
    // 0.4 cents for a token of input, one cent and a millionth of one for a token of output.
    model.price = Some(PriceConfig {
        input: 4_000.0,
        output: 10_000.01,
        cache_read: None,
        cache_write_5m: None,
        cache_write_1h: None,
    });
    let rota = Rota::with(|config| config.models.push(model)).await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, over(every("0 * * * *"), &json!({"name": "hourly"}))).await;
    at(&rota, "02T09:00:05").await;
    let done = list(api, "").await.remove(0);
    turn(api, &json!({"session_id": done["session"]["id"]})).await;
    let died = run_by_hand(api, &made).await;
    turn(api, &died).await;
    at(&rota, "02T12:30:00").await;
    let late = list(api, "").await.remove(0);
    turn(api, &json!({"session_id": late["session"]["id"]})).await;
    rota.set_time("2026-03-02T12:40:00Z");
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    let refused = run_by_hand(api, &made).await;

    let all = list(api, "").await;
    let states: Vec<_> = all.iter().map(|run| run["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "done", "missed", "failed", "done"]);
    assert_eq!((&all[0]["run_id"], &all[0]["error"]), (&refused["id"], &refused["error"]));
    assert_eq!(all[0]["session"], Value::Null);
    let missed = over(
        json!({
            "type": "listed_run",
            "deployment_id": id(&made),
            "deployment_name": "hourly",
            "agent": made["agent"],
            "trigger": "schedule",
            "scheduled_at": "2026-03-02T10:00:00.000000Z",
            "scheduled_until": "2026-03-02T11:00:00.000000Z",
            "at": "2026-03-02T11:00:00.000000Z",
            "state": "missed",
            "reason": "missed",
        }),
        &json!({"run_id": null, "start_id": null, "rerun_of": null, "rerun_by": null, "error": null, "session": null, "attempt": 1,
            "retry_of": null, "followed": null}),
    );
    assert_eq!(all[2], missed);
    let death = &all[3];
    assert_eq!(
        (&death["run_id"], &death["trigger"], &death["scheduled_at"]),
        (&died["id"], &json!("manual"), &Value::Null)
    );
    assert_eq!(death["session"]["stop_reason"], "retries_exhausted");
    assert_eq!(death["session"]["error"]["type"], "model_request_failed_error");
    let well = &all[4]["session"];
    let shown = api.get(&format!("/v1/sessions/{}", well["id"].as_str().unwrap())).await;
    assert_eq!((&well["usage"], &well["status"]), (&shown["usage"], &json!("idle")));
    assert_eq!(
        (&well["stop_reason"], &well["error"], &well["model"]),
        (&json!("end_turn"), &Value::Null, &json!("house"))
    );
    // Five tokens and seven.
    assert_eq!(well["cost"], json!({"micro_cents": 5 * 400_000 + 7 * 1_000_001, "currency": "USD"}));
    assert!(well["stopped_at"].is_string() && well["duration_seconds"].is_number());

    for (filter, expected) in [
        ("state=done", &[1, 4][..]),
        ("state=failed", &[0, 3]),
        ("state=retrying", &[]),
        ("state=missed", &[2]),
        ("state=skipped", &[]),
        ("state=queued", &[]),
        ("trigger=manual", &[0, 3]),
        ("trigger=schedule", &[1, 2, 4]),
        ("trigger=schedule&state=failed", &[]),
        ("from=2026-03-02T10:00:00Z&to=2026-03-02T12:30:00Z", &[2]),
        ("from=2026-03-02T12:30:00Z", &[0, 1]),
        ("to=2026-03-02T11:00:00Z", &[3, 4]),
    ] {
        let expected: Vec<_> = expected.iter().map(|place| all[*place].clone()).collect();
        assert_eq!(list(api, filter).await, expected, "{filter}");
    }
    for limit in 1..=4 {
        assert_eq!(api.all(RUNS, limit).await, all, "by {limit}");
        assert_eq!(api.all(&format!("{RUNS}?state=failed"), limit).await, [all[0].clone(), all[3].clone()]);
    }
    let other = parts_of_another(api).await;
    let theirs = run_by_hand(api, &other).await;
    for filter in
        [format!("deployment_id={}", id(&other)), format!("agent_id={}", other["agent"]["id"].as_str().unwrap())]
    {
        let found = list(api, &filter).await;
        assert_eq!(found.iter().map(|run| &run["run_id"]).collect::<Vec<_>>(), [&theirs["id"]], "{filter}");
    }
    assert_eq!(list(api, &format!("deployment_id={}", id(&made))).await.len(), all.len());
    assert_eq!(list(&rota.other_workspace().await, "").await, [] as [Value; 0]);
}

async fn parts_of_another(api: &Api) -> Value {
    let parts = Parts { agent: agent(api, json!({"name": "other"})).await, environment: environment(api, "f").await };
    parts.deployment(api, json!({"name": "other"})).await
}

#[tokio::test]
async fn the_list_is_read_strictly() {
    let rota = Rota::without_engine().await;
    for (filter, message) in [
        ("state=fine", "state: \"fine\" is not a valid value"),
        ("trigger=clock", "trigger: \"clock\" is not a valid value"),
        ("deployment_id=agent_1", "deployment_id: is no id of this kind"),
        ("from=yesterday", "from: Input should be a valid RFC 3339 time"),
        ("limit=101", "limit: value must be less than or equal to 100"),
        ("page=page_x", "page: Invalid page cursor."),
        ("wide=1", "wide: Extra inputs are not permitted"),
    ] {
        assert_eq!(rota.api.get_refused(&format!("{RUNS}?{filter}")).await, invalid(message), "{filter}");
    }
    let refused = rota.api.get_refused(&format!("{ATTENTION}?limit=1")).await;
    assert_eq!(refused, invalid("limit: Extra inputs are not permitted"));
}

#[tokio::test]
async fn a_run_at_work_says_whether_a_server_has_it() {
    let rota = Rota::without_engine().await;
    let made =
        Parts::new(&rota.api).await.deployment(&rota.api, json!({"initial_events": [script("sleep 100")]})).await;
    let run = run_by_hand(&rota.api, &made).await;
    assert_eq!(states(&rota.api, "").await, ["queued"]);
    assert_eq!(states(&rota.api, "state=queued").await, ["queued"]);
    let rota = rota.restart_with(|config| config.engine.concurrency = 4).await;
    let mut stream = rota.api.stream_from(run["session_id"].as_str().unwrap(), 0).await;
    stream.until("agent.tool_use").await;
    assert_eq!(states(&rota.api, "state=working").await, ["working"]);
    assert_eq!(attention(&rota.api).await, [""; 0]);
    rota.api.events(run["session_id"].as_str().unwrap(), json!([{"type": "user.interrupt"}])).await;
    stream.turn().await;
    assert_eq!(states(&rota.api, "").await, ["done"]);
    rota.api.delete(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await;
    assert_eq!(states(&rota.api, "state=deleted").await, ["deleted"]);
    assert_eq!(states(&rota.api, "state=done").await, [""; 0]);
}

#[tokio::test]
async fn what_waits_for_somebody_needs_attention_until_it_is_answered() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let asks = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [asks]}))]);
    let parts = Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, json!({"name": "asks", "initial_events": [script("echo hi")]})).await;
    let run = run_by_hand(api, &made).await;
    let call = id(first(&turn(api, &run).await, "agent.tool_use")).to_owned();
    // And one that no deployment started.
    let session = parts.session_with(api, script("echo hi")).await;
    api.stream_from(id(&session), 0).await.turn().await;

    let needs = api.get(ATTENTION).await;
    let waits = over(
        needs["data"][0].clone(),
        &json!({
            "type": "attention_item",
            "kind": "waiting",
            "message": "waits until calls are allowed or denied",
            "deployment_id": id(&made),
            "deployment_name": "asks",
            "run_id": id(&run),
            "session_id": run["session_id"],
            "webhook_endpoint_id": null,
            "waiting_on": [{"event_id": call, "answer": "user.tool_confirmation"}],
            "failures": null,
        }),
    );
    assert_eq!((&needs["data"][0], &needs["is_cut"]), (&waits, &json!(false)));
    assert_eq!((&needs["data"][1]["session_id"], &needs["data"][1]["deployment_id"]), (&session["id"], &Value::Null));
    let listed = list(api, "state=waiting").await;
    assert_eq!(listed.len(), 1, "a session without a run is in no list of runs");
    assert_eq!(
        (&listed[0]["session"]["waits_for_human"], &listed[0]["session"]["waiting_on"]),
        (&json!(true), &waits["waiting_on"])
    );
    assert_eq!(waits["since"], listed[0]["session"]["stopped_at"]);
    assert_eq!(rota.other_workspace().await.get(ATTENTION).await["data"], json!([]));

    let mut stream = api.stream_from(run["session_id"].as_str().unwrap(), 0).await;
    stream.turn().await;
    let denied = json!({"type": "user.tool_confirmation", "tool_use_id": call, "result": "deny"});
    api.events(run["session_id"].as_str().unwrap(), json!([denied])).await;
    stream.turn().await;
    api.call(&format!("/v1/sessions/{}/archive", id(&session))).await;
    assert_eq!(attention(api).await, [""; 0]);
    assert_eq!(states(api, "").await, ["done"]);
}

#[tokio::test]
async fn a_deployment_whose_runs_fail_needs_attention_until_one_succeeds() {
    let upstream = Upstream::start([refuses(), refuses(), says("good"), refuses()]).await;
    let rota = Rota::with(|config| config.models.push(upstream.model())).await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, json!({"name": "flaky"})).await;
    let first = run_by_hand(api, &made).await;
    turn(api, &first).await;
    let begun = api.get(ATTENTION).await["data"][0].clone();
    assert_eq!((&begun["kind"], &begun["failures"], &begun["run_id"]), (&json!("failing"), &json!(1), &first["id"]));
    rota.advance_seconds(60);
    let second = run_by_hand(api, &made).await;
    turn(api, &second).await;
    let goes_on = over(begun, &json!({"failures": 2, "run_id": second["id"], "session_id": second["session_id"]}));
    assert_eq!(api.get(ATTENTION).await["data"], json!([goes_on]), "since the first of them");
    assert!(goes_on["message"].as_str().unwrap().contains("not this"), "{goes_on}");
    turn(api, &run_by_hand(api, &made).await).await;
    assert_eq!(attention(api).await, [""; 0]);

    // A start that is refused counts as well.
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    let refused = run_by_hand(api, &made).await;
    let needs = api.get(ATTENTION).await["data"][0].clone();
    assert_eq!((&needs["message"], &needs["session_id"]), (&refused["error"]["message"], &Value::Null));
    api.call(&format!("{}/archive", path(&made))).await;
    assert_eq!(attention(api).await, [""; 0], "what is archived needs nobody");
}

#[tokio::test]
async fn what_was_missed_is_paused_or_is_tried_again_needs_attention() {
    let rota = Rota::one_session_a_minute().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let missing = parts.deployment(api, over(every("0 * * * *"), &json!({"name": "missing"}))).await;
    at(&rota, "02T12:30:00").await;
    assert_eq!(attention(api).await, [""; 0], "the last occurrence of those ran");
    api.call(&format!("{}/archive", path(&missing))).await;

    let doomed = environment(api, "doomed").await;
    let paused = json!({"name": "paused", "environment_id": id(&doomed)});
    let paused = parts.deployment(api, over(every("30 * * * *"), &paused)).await;
    api.call(&format!("/v1/environments/{}/archive", id(&doomed))).await;
    at(&rota, "02T13:30:00").await;
    assert_eq!(api.get(&path(&paused)).await["status"], "paused");
    let by_hand = parts.deployment(api, over(every("30 * * * *"), &json!({"name": "by hand"}))).await;
    api.call(&format!("{}/pause", path(&by_hand))).await;
    assert_eq!(attention(api).await, ["failing paused", "paused paused"], "what somebody paused needs nobody");

    let retried = parts.deployment(api, over(every("45 * * * *"), &json!({"name": "retried"}))).await;
    set_policy(api, &retried, json!({"retry": {"max_attempts": 2, "initial_backoff_seconds": 60}})).await;
    rota.set_time("2026-03-02T14:44:50Z");
    run_by_hand(api, &parts.deployment(api, json!({})).await).await;
    at(&rota, "02T14:45:00").await;
    let needs = api.get(ATTENTION).await["data"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&needs["kind"], &needs["since"]), (&json!("retrying"), &json!("2026-03-02T14:45:00.000000Z")));
    assert!(needs["message"].as_str().unwrap().starts_with("tried again at 2026-03-02T14:4"), "{needs}");
    at(&rota, "02T14:47:00").await;
    assert_eq!(attention(api).await, ["failing paused", "paused paused"]);
}

#[tokio::test]
async fn occurrences_that_were_missed_need_attention_for_a_day_unless_it_runs() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.scheduler.catch_up_seconds = 0;
    })
    .await;
    let made =
        Parts::new(&rota.api).await.deployment(&rota.api, over(every("0 * * * *"), &json!({"name": "late"}))).await;
    at(&rota, "02T12:30:00").await;
    let needs = rota.api.get(ATTENTION).await["data"][0].clone();
    assert_eq!((&needs["kind"], &needs["since"]), (&json!("missed"), &json!("2026-03-02T12:00:00.000000Z")));
    at(&rota, "02T13:00:00").await;
    assert_eq!(attention(&rota.api).await, [""; 0]);
    at(&rota, "02T14:30:00").await;
    assert_eq!(attention(&rota.api).await, ["missed late"]);
    rota.api.call(&format!("{}/pause", path(&made))).await;
    rota.set_time("2026-03-03T14:00:01Z");
    assert_eq!(attention(&rota.api).await, [""; 0]);
}
