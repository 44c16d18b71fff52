//! Policies of deployments: overlaps, limits, attempts and times. The scheduler looks when a test tells it to.

use rota_server::config::Config;
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid, not_found},
    given::{Parts, id, message, over, script},
    schedules::{at, every, fired, path, range, runs, skipped, tamper},
    server::{Rota, appears},
    stream::stop_reason,
};

fn policy_path(deployment: &Value) -> String {
    format!("/rota/v1/deployments/{}/policy", id(deployment))
}

pub async fn set_policy(api: &Api, deployment: &Value, policy: Value) -> Value {
    api.post(&policy_path(deployment), policy).await
}

/// A deployment that fires by `expression` and keeps `policy`.
async fn deployment(rota: &Rota, expression: &str, policy: Value) -> Value {
    deployment_of(&Parts::new(&rota.api).await, rota, expression, policy).await
}

/// The same, of parts that are there.
async fn deployment_of(parts: &Parts, rota: &Rota, expression: &str, policy: Value) -> Value {
    let made = parts.deployment(&rota.api, over(every(expression), &json!({"initial_events": [message("hi")]}))).await;
    set_policy(&rota.api, &made, policy).await;
    made
}

/// The sessions of a deployment, oldest first, each with its status.
pub async fn sessions(api: &Api, deployment: &Value) -> Vec<(String, String)> {
    let mut sessions = api.all(&format!("/v1/sessions?deployment_id={}", id(deployment)), 100).await;
    sessions.reverse();
    sessions.iter().map(|s| (id(s).to_owned(), s["status"].as_str().unwrap().to_owned())).collect()
}

/// Ends the turns of the sessions of `deployment` by letting a server with an engine run them, and goes on without one.
async fn come_to_rest(rota: Rota, deployment: &Value) -> Rota {
    let rota = rota.restart_with(|config| config.engine.concurrency = 16).await;
    for (session, _) in sessions(&rota.api, deployment).await {
        rota.api.stream_from(&session, 0).await.turn().await;
    }
    rota.restart_with(without_engine).await
}

fn without_engine(config: &mut Config) {
    config.engine.concurrency = 0;
}

#[tokio::test]
async fn a_policy_is_the_default_until_it_is_set_and_again_when_it_is_cleared() {
    let rota = Rota::with(|config| {
        without_engine(config);
        config.scheduler.catch_up_seconds = 1800;
    })
    .await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, json!({})).await;
    let default = json!({
        "type": "deployment_policy",
        "deployment_id": id(&made),
        "overlap": "allow",
        "max_concurrent_sessions": null,
        "retry": {"max_attempts": 1, "max_sessions": 1, "even_after_changes": false, "initial_backoff_seconds": 30,
                  "max_backoff_seconds": 600, "multiplier": 2},
        "catch_up_seconds": 1800,
        "jitter": "off",
        "silent_after_intervals": 3,
        "spend": null,
        "session": "new",
        "carry_forward": null,
        "unattended": "wait",
        "max_session_seconds": null,
        "max_idle_waiting_seconds": null,
        "pause_after_failures": null,
        "starts_at": null,
        "ends_at": null,
        "paused_by": null,
        "warnings": [],
    });
    assert_eq!(api.get(&policy_path(&made)).await, default);
    let settings = json!({
        "overlap": "queue_one",
        "max_concurrent_sessions": 3,
        "retry": {"max_attempts": 4, "max_sessions": 3, "even_after_changes": true, "initial_backoff_seconds": 5,
                  "max_backoff_seconds": 60, "multiplier": 3},
        "catch_up_seconds": 0,
        "jitter": "hosted",
        "silent_after_intervals": 5,
        "spend": {"per_day_cents": 500, "per_month_cents": 1_000_000_000},
        "session": "continue",
        "carry_forward": 500,
        "unattended": {"answer_within_seconds": 900},
        "max_session_seconds": 3600,
        "max_idle_waiting_seconds": 1800,
        "pause_after_failures": 3,
        "starts_at": "2026-03-02T00:00:00.000000Z",
        "ends_at": "2027-03-02T00:00:00.000000Z",
    });
    let mut expected = default.clone();
    for (field, value) in settings.as_object().unwrap() {
        expected[field] = value.clone();
        assert_eq!(set_policy(api, &made, json!({ field: value })).await, expected, "{field} alone is changed");
        assert_eq!(api.get(&policy_path(&made)).await, expected);
    }
    assert_eq!(set_policy(api, &made, json!({})).await, expected);
    assert_eq!(set_policy(api, &made, json!({"jitter": 30})).await["jitter"], 30);
    assert_eq!(set_policy(api, &made, json!({"unattended": "deny"})).await["unattended"], "deny");
    let retry = set_policy(api, &made, json!({"retry": {"max_attempts": 2}})).await["retry"].clone();
    assert_eq!(retry, over(default["retry"].clone(), &json!({"max_attempts": 2})), "it is replaced as a whole");
    let rota = rota.restart().await;
    let cleared = json!({"overlap": null, "max_concurrent_sessions": null, "retry": null, "catch_up_seconds": null,
                         "jitter": null, "silent_after_intervals": null, "spend": null, "session": null, "carry_forward": null, "unattended": null,
                         "max_session_seconds": null, "max_idle_waiting_seconds": null, "pause_after_failures": null,
                         "starts_at": null, "ends_at": null});
    assert_eq!(set_policy(&rota.api, &made, cleared).await, default);
    assert_eq!(rota.api.get(&path(&made)).await, made, "a policy is no part of the deployment");
}

#[tokio::test]
async fn a_policy_is_read_strictly() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, json!({})).await;
    for (body, message) in [
        (json!([]), "Input should be an object"),
        (json!({"colour": 1}), "colour: Extra inputs are not permitted"),
        (json!({"overlap": "replace"}), "overlap: \"replace\" is not a valid value"),
        (json!({"overlap": 1}), "overlap: Input should be a valid string"),
        (json!({"max_concurrent_sessions": 0}), "max_concurrent_sessions: value must be greater than or equal to 1"),
        (
            json!({"max_concurrent_sessions": 10_001}),
            "max_concurrent_sessions: value must be less than or equal to 10000",
        ),
        (json!({"retry": 3}), "retry: Input should be an object"),
        (json!({"retry": {"tries": 3}}), "retry.tries: Extra inputs are not permitted"),
        (json!({"retry": {"max_attempts": 11}}), "retry.max_attempts: value must be less than or equal to 10"),
        (json!({"retry": {"max_attempts": null}}), "retry.max_attempts: value cannot be null"),
        (json!({"retry": {"max_sessions": 11}}), "retry.max_sessions: value must be less than or equal to 10"),
        (json!({"retry": {"even_after_changes": 1}}), "retry.even_after_changes: Input should be a valid boolean"),
        (json!({"spend": {}}), "spend: must have per_day_cents or per_month_cents; null is no ceiling at all"),
        (json!({"spend": {"per_day_cents": 0}}), "spend.per_day_cents: value must be greater than or equal to 1"),
        (
            json!({"spend": {"per_month_cents": 1_000_000_001}}),
            "spend.per_month_cents: value must be less than or equal to 1000000000",
        ),
        (json!({"spend": {"per_week_cents": 1}}), "spend.per_week_cents: Extra inputs are not permitted"),
        (json!({"session": "old"}), "session: \"old\" is not a valid value"),
        (json!({"carry_forward": false}), "carry_forward: Input should be a valid integer"),
        (json!({"carry_forward": 100_001}), "carry_forward: value must be less than or equal to 100000"),
        (json!({"retry": {"multiplier": 1.5}}), "retry.multiplier: Input should be a valid integer"),
        (
            json!({"retry": {"initial_backoff_seconds": 20, "max_backoff_seconds": 10}}),
            "retry.max_backoff_seconds: value must be greater than or equal to initial_backoff_seconds, which is 20",
        ),
        (json!({"catch_up_seconds": -1}), "catch_up_seconds: value must be greater than or equal to 0"),
        (json!({"catch_up_seconds": 2_678_401}), "catch_up_seconds: value must be less than or equal to 2678400"),
        (json!({"jitter": "on"}), "jitter: \"on\" is not a valid value"),
        (json!({"jitter": "30"}), "jitter: \"30\" is not a valid value"),
        (json!({"jitter": 3601}), "jitter: value must be less than or equal to 3600"),
        (json!({"jitter": true}), "jitter: Input should be a valid integer"),
        (json!({"unattended": "allow"}), "unattended: \"allow\" is not a valid value"),
        (json!({"unattended": 60}), "unattended: Input should be a valid string"),
        (json!({"unattended": {}}), "unattended.answer_within_seconds: Field required"),
        (
            json!({"unattended": {"answer_within_seconds": 0}}),
            "unattended.answer_within_seconds: value must be greater than or equal to 1",
        ),
        (json!({"max_session_seconds": 0}), "max_session_seconds: value must be greater than or equal to 1"),
        (
            json!({"max_idle_waiting_seconds": 2_678_401}),
            "max_idle_waiting_seconds: value must be less than or equal to 2678400",
        ),
        (json!({"pause_after_failures": 1001}), "pause_after_failures: value must be less than or equal to 1000"),
        (json!({"starts_at": "tomorrow"}), "starts_at: Input should be a valid RFC 3339 time"),
        (
            json!({"starts_at": "2026-03-03T00:00:00Z", "ends_at": "2026-03-03T00:00:00Z"}),
            "ends_at: must be later than starts_at",
        ),
        (json!({"silent_after_intervals": 0}), "silent_after_intervals: value must be greater than or equal to 1"),
        (json!({"silent_after_intervals": 1001}), "silent_after_intervals: value must be less than or equal to 1000"),
    ] {
        assert_eq!(api.post_refused(&policy_path(&made), body).await, invalid(message));
    }
    assert_eq!(set_policy(api, &made, json!({})).await["overlap"], "allow", "what is refused leaves nothing");
    let refused = api.get_refused(&format!("{}?full=true", policy_path(&made))).await;
    assert_eq!(refused, invalid("full: Extra inputs are not permitted"));
    let missing = not_found("Deployment `depl_gone` not found.");
    assert_eq!(api.get_refused("/rota/v1/deployments/depl_gone/policy").await, missing);
    assert_eq!(api.post_refused("/rota/v1/deployments/depl_gone/policy", json!({})).await, missing);
    api.call(&format!("{}/archive", path(&made))).await;
    let refused = api.post_refused(&policy_path(&made), json!({"jitter": "off"})).await;
    assert_eq!(refused, invalid("Cannot modify archived deployment"));
    assert_eq!(api.get(&policy_path(&made)).await["jitter"], "off");
}

#[tokio::test]
async fn without_a_policy_sessions_overlap() {
    let rota = Rota::without_engine().await;
    let made = deployment(&rota, "* * * * *", json!({})).await;
    for minute in 1..=3 {
        at(&rota, &format!("02T08:{minute:02}:00")).await;
    }
    assert_eq!(sessions(&rota.api, &made).await.len(), 3);
    assert_eq!(skipped(&rota, &made).await, []);
}

#[tokio::test]
async fn skip_passes_over_what_finds_an_earlier_session_at_work() {
    let rota = Rota::without_engine().await;
    let made = deployment(&rota, "* * * * *", json!({"overlap": "skip"})).await;
    for time in ["02T08:01:00", "02T08:02:00", "02T08:03:00", "02T08:03:30"] {
        at(&rota, time).await;
    }
    assert_eq!(fired(&rota.api, &made).await, ["02T08:01:00"]);
    let overlap = [range("02T08:02:00", "02T08:03:00", "overlap")];
    assert_eq!(skipped(&rota, &made).await, overlap, "occurrences one after the other are one row");
    let rota = come_to_rest(rota, &made).await;
    at(&rota, "02T08:04:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T08:01:00", "02T08:04:00"]);
    let run = rota.api.call(&format!("{}/run", path(&made))).await;
    assert!(run["session_id"].is_string(), "a run by hand always starts");
    at(&rota, "02T08:05:00").await;
    assert_eq!(skipped(&rota, &made).await[1..], [range("02T08:05:00", "02T08:05:00", "overlap")]);
}

#[tokio::test]
async fn a_session_by_hand_counts_and_so_does_one_that_goes_on() {
    let rota = Rota::without_engine().await;
    let made = deployment(&rota, "* * * * *", json!({"overlap": "skip"})).await;
    let run = rota.api.call(&format!("{}/run", path(&made))).await;
    at(&rota, "02T08:01:00").await;
    let rota = come_to_rest(rota, &made).await;
    rota.api.events(run["session_id"].as_str().unwrap(), json!([message("go on")])).await;
    at(&rota, "02T08:02:00").await;
    assert_eq!(fired(&rota.api, &made).await, [""; 0]);
    assert_eq!(skipped(&rota, &made).await, [range("02T08:01:00", "02T08:02:00", "overlap")]);
}

#[tokio::test]
async fn a_session_that_waits_for_a_human_is_not_at_work() {
    let rota = Rota::start().await;
    let asks = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(crate::given::toolset(), &json!({"configs": [asks]}))]);
    let agent = crate::given::agent(&rota.api, json!({ "tools": tools })).await;
    let parts = Parts { agent, environment: crate::given::environment(&rota.api, "e").await };
    let body = over(every("* * * * *"), &json!({"initial_events": [script("echo hi")]}));
    let made = parts.deployment(&rota.api, body).await;
    set_policy(&rota.api, &made, json!({"overlap": "skip"})).await;
    for minute in 1..=2 {
        at(&rota, &format!("02T08:{minute:02}:00")).await;
        let (session, _) = sessions(&rota.api, &made).await.pop().unwrap();
        let events = rota.api.stream_from(&session, 0).await.turn().await;
        assert_eq!(stop_reason(&events)["type"], "requires_action");
    }
    assert_eq!(fired(&rota.api, &made).await.len(), 2);
}

#[tokio::test]
pub async fn sessions_that_were_at_work_when_the_policy_was_set_count() {
    let rota = Rota::without_engine().await;
    let made = deployment(&rota, "* * * * *", json!({})).await;
    for minute in 1..=3 {
        at(&rota, &format!("02T08:{minute:02}:00")).await;
    }
    set_policy(&rota.api, &made, json!({"max_concurrent_sessions": 4})).await;
    for minute in 4..=6 {
        at(&rota, &format!("02T08:{minute:02}:00")).await;
    }
    assert_eq!(fired(&rota.api, &made).await.len(), 4);
    assert_eq!(skipped(&rota, &made).await, [range("02T08:05:00", "02T08:06:00", "concurrency")]);
    let rota = come_to_rest(rota, &made).await;
    at(&rota, "02T08:07:00").await;
    assert_eq!(fired(&rota.api, &made).await.len(), 5);
    set_policy(&rota.api, &made, json!({"max_concurrent_sessions": null})).await;
    at(&rota, "02T08:08:00").await;
    assert_eq!(fired(&rota.api, &made).await.len(), 6);
}

#[tokio::test]
async fn queue_one_fires_the_latest_that_waits_when_the_earlier_session_rests() {
    let rota = Rota::without_engine().await;
    let made = deployment(&rota, "*/10 * * * *", json!({"overlap": "queue_one"})).await;
    for time in ["02T08:10:00", "02T08:20:00", "02T08:30:00", "02T08:35:00"] {
        at(&rota, time).await;
    }
    assert_eq!(fired(&rota.api, &made).await, ["02T08:10:00"]);
    assert_eq!(skipped(&rota, &made).await, [range("02T08:20:00", "02T08:20:00", "overlap")]);
    let rota = come_to_rest(rota, &made).await;
    at(&rota, "02T08:36:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T08:10:00", "02T08:30:00"]);
    let run = runs(&rota.api, &made).await.pop().unwrap();
    let told = rota.api.get(&format!("/rota/v1/deployment_runs/{}", id(&run))).await;
    assert_eq!(told["outcome"]["lateness_ms"], 360_000);
    at(&rota, "02T08:40:00").await;
    assert_eq!(fired(&rota.api, &made).await.len(), 2, "the queued one is at work now");
    at(&rota, "02T08:45:00").await;
    assert_eq!(skipped(&rota, &made).await.len(), 1, "and the next one waits");
}

#[tokio::test]
async fn what_waits_is_settled_with_a_reason_by_a_pause_an_edit_and_an_archive() {
    for (verb, reason) in [("pause", "paused"), ("edit", "superseded"), ("archive", "archived")] {
        let rota = Rota::without_engine().await;
        let made = deployment(&rota, "*/10 * * * *", json!({"overlap": "queue_one"})).await;
        at(&rota, "02T08:10:00").await;
        at(&rota, "02T08:20:00").await;
        match verb {
            "edit" => rota.api.post(&path(&made), every("*/15 * * * *")).await,
            verb => rota.api.call(&format!("{}/{verb}", path(&made))).await,
        };
        let rota = come_to_rest(rota, &made).await;
        at(&rota, "02T08:21:00").await;
        assert_eq!(fired(&rota.api, &made).await, ["02T08:10:00"], "{verb}");
        assert_eq!(skipped(&rota, &made).await, [range("02T08:20:00", "02T08:20:00", reason)]);
    }
}

#[tokio::test]
async fn what_waits_goes_on_when_the_policy_lets_it() {
    let rota = Rota::without_engine().await;
    let made = deployment(&rota, "*/10 * * * *", json!({"overlap": "queue_one"})).await;
    at(&rota, "02T08:10:00").await;
    at(&rota, "02T08:20:00").await;
    rota.api.post(&path(&made), json!({"name": "renamed"})).await;
    set_policy(&rota.api, &made, json!({"max_concurrent_sessions": 2})).await;
    at(&rota, "02T08:21:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T08:10:00", "02T08:20:00"]);
    assert_eq!(skipped(&rota, &made).await, []);
}

#[tokio::test]
async fn cancel_previous_interrupts_the_earlier_session_and_starts_at_once() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let slow = json!({"initial_events": [script("touch begun; sleep 100")]});
    let made = parts.deployment(&rota.api, over(every("* * * * *"), &slow)).await;
    set_policy(&rota.api, &made, json!({"overlap": "cancel_previous"})).await;
    at(&rota, "02T08:01:00").await;
    let first = sessions(&rota.api, &made).await.pop().unwrap().0;
    appears(rota.workspace_file(&first, "begun")).await;
    let mut stream = rota.api.stream_from(&first, 0).await;
    at(&rota, "02T08:02:00").await;
    assert_eq!(fired(&rota.api, &made).await.len(), 2);
    let events = stream.turn().await;
    assert!(events.iter().any(|event| event["type"] == "user.interrupt"));
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    let statuses = sessions(&rota.api, &made).await;
    assert_eq!((statuses.len(), &*statuses[0].1, &*statuses[1].1), (2, "idle", "running"));
}

#[tokio::test]
async fn cancel_previous_interrupts_the_longest_running_sessions_and_each_once() {
    let rota = Rota::without_engine().await;
    let policy = json!({"overlap": "cancel_previous", "max_concurrent_sessions": 2});
    let made = deployment(&rota, "* * * * *", policy).await;
    for minute in 1..=5 {
        at(&rota, &format!("02T08:{minute:02}:00")).await;
    }
    let mut interrupts = Vec::new();
    for (session, _) in sessions(&rota.api, &made).await {
        let events = rota.api.all(&format!("/v1/sessions/{session}/events"), 100).await;
        interrupts.push(events.iter().filter(|event| event["type"] == "user.interrupt").count());
    }
    assert_eq!(interrupts, [1, 1, 1, 0, 0]);
    assert_eq!(skipped(&rota, &made).await, []);
}

#[tokio::test]
async fn what_cannot_start_interrupts_nothing() {
    let rota = Rota::without_engine().await;
    let made = deployment(&rota, "* * * * *", json!({"overlap": "cancel_previous"})).await;
    at(&rota, "02T08:01:00").await;
    rota.api.call(&format!("/v1/environments/{}/archive", made["environment_id"].as_str().unwrap())).await;
    at(&rota, "02T08:02:00").await;
    let run = runs(&rota.api, &made).await.pop().unwrap();
    assert_eq!(run["error"]["type"], "environment_archived_error");
    let (session, _) = sessions(&rota.api, &made).await.pop().unwrap();
    let events = rota.api.all(&format!("/v1/sessions/{session}/events"), 100).await;
    assert!(events.iter().all(|event| event["type"] != "user.interrupt"), "{events:#?}");
}

/// A server on which a workspace can create one session a minute, and a deployment that keeps `policy`.
async fn rate_limited(expression: &str, policy: Value) -> (Rota, Value) {
    let rota = Rota::with(|config| {
        without_engine(config);
        config.rate.sessions_per_minute = 1;
    })
    .await;
    let made = deployment(&rota, expression, policy).await;
    (rota, made)
}

/// Uses up the sessions of the minute.
async fn use_up(rota: &Rota, deployment: &Value) {
    let session = json!({"agent": deployment["agent"], "environment_id": deployment["environment_id"]});
    rota.api.post("/v1/sessions", session).await;
}

#[tokio::test]
async fn a_rate_limited_occurrence_is_tried_again_and_has_one_run() {
    let policy = json!({"retry": {"max_attempts": 3, "initial_backoff_seconds": 60}});
    let (rota, made) = rate_limited("0 * * * *", policy).await;
    rota.set_time("2026-03-02T08:59:58.000000Z");
    use_up(&rota, &made).await;
    at(&rota, "02T09:00:00").await;
    assert_eq!(runs(&rota.api, &made).await, [json!(null); 0], "no run while attempts remain");
    at(&rota, "02T09:00:29").await;
    assert_eq!(runs(&rota.api, &made).await.len(), 0, "the pause is at least half a minute");
    let rota = rota.restart().await;
    for _ in 0..2 {
        at(&rota, "02T09:01:00").await;
    }
    let runs = runs(&rota.api, &made).await;
    assert_eq!((runs.len(), &runs[0]["error"]), (1, &Value::Null));
    assert_eq!(runs[0]["trigger_context"]["scheduled_at"], "2026-03-02T09:00:00.000000Z");
    assert_eq!(skipped(&rota, &made).await, []);
    at(&rota, "02T10:00:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00", "02T10:00:00"]);
}

#[tokio::test]
async fn the_last_attempt_records_its_error() {
    let policy = json!({"retry": {"max_attempts": 3, "initial_backoff_seconds": 10, "multiplier": 1}});
    let (rota, made) = rate_limited("0 * * * *", policy).await;
    rota.set_time("2026-03-02T08:59:58.000000Z");
    use_up(&rota, &made).await;
    for (time, count) in [("02T09:00:00", 0), ("02T09:00:10", 0), ("02T09:00:20", 1), ("02T09:00:30", 1)] {
        at(&rota, time).await;
        assert_eq!(runs(&rota.api, &made).await.len(), count, "{time}");
    }
    let run = &runs(&rota.api, &made).await[0];
    assert_eq!(run["error"]["type"], "session_rate_limited_error");
    assert_eq!(rota.api.get(&path(&made)).await["status"], "active", "it is not one that pauses");
}

#[tokio::test]
async fn an_attempt_gives_way_to_the_next_occurrence() {
    let policy = json!({"retry": {"max_attempts": 10, "initial_backoff_seconds": 40, "multiplier": 1}});
    let (rota, made) = rate_limited("* * * * *", policy).await;
    rota.set_time("2026-03-02T08:00:59.000000Z");
    use_up(&rota, &made).await;
    at(&rota, "02T08:01:00").await;
    assert_eq!(runs(&rota.api, &made).await.len(), 0);
    at(&rota, "02T08:01:40").await;
    let failed = runs(&rota.api, &made).await;
    assert_eq!(failed[0]["error"]["type"], "session_rate_limited_error", "another attempt would come too late");

    at(&rota, "02T08:02:10").await;
    at(&rota, "02T08:03:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T08:01:00", "02T08:02:00"], "it waits for another attempt");
    let rota = rota.restart().await;
    at(&rota, "02T08:07:00").await;
    assert_eq!(fired(&rota.api, &made).await.pop().unwrap(), "02T08:07:00");
    assert_eq!(skipped(&rota, &made).await, [range("02T08:03:00", "02T08:06:00", "missed")]);
}

#[tokio::test]
async fn an_unknown_error_is_tried_again_and_pauses_only_at_the_end() {
    let policy = json!({"retry": {"max_attempts": 2, "initial_backoff_seconds": 30}});
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let healing = deployment_of(&parts, &rota, "0 9 * * *", policy.clone()).await;
    let broken = deployment_of(&parts, &rota, "0 9 * * *", policy).await;
    for made in [&healing, &broken] {
        tamper(&rota, format!("UPDATE deployments SET initial_events = '[' WHERE id = '{}'", id(made))).await;
    }
    at(&rota, "02T09:00:00").await;
    for made in [&healing, &broken] {
        assert_eq!(runs(&rota.api, made).await.len(), 0);
    }
    let mend = |made: &Value| {
        let events = serde_json::to_string(&made["initial_events"]).unwrap();
        format!("UPDATE deployments SET initial_events = '{events}' WHERE id = '{}'", id(made))
    };
    tamper(&rota, mend(&healing)).await;
    at(&rota, "02T09:00:30").await;
    assert_eq!(fired(&rota.api, &healing).await, ["02T09:00:00"]);
    assert_eq!(rota.api.get(&path(&healing)).await["status"], "active");
    let runs = runs(&rota.api, &broken).await;
    assert_eq!((runs.len(), &runs[0]["error"]["type"]), (1, &json!("unknown_error")));
    tamper(&rota, mend(&broken)).await;
    assert_eq!(rota.api.get(&path(&broken)).await["status"], "paused");
}

#[tokio::test]
async fn a_deployment_keeps_its_own_times() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let patient = deployment_of(&parts, &rota, "0 9 * * *", json!({"catch_up_seconds": 7200})).await;
    let strict = deployment_of(&parts, &rota, "0 9 * * *", json!({"catch_up_seconds": 0})).await;
    let default = deployment_of(&parts, &rota, "0 9 * * *", json!({})).await;
    at(&rota, "02T10:59:00").await;
    assert_eq!(fired(&rota.api, &patient).await, ["02T09:00:00"]);
    for made in [&strict, &default] {
        assert_eq!(skipped(&rota, made).await, [range("02T09:00:00", "02T09:00:00", "missed")]);
    }

    set_policy(&rota.api, &strict, json!({"jitter": 600, "catch_up_seconds": 600})).await;
    at(&rota, "03T08:59:00").await;
    at(&rota, "03T09:10:00").await;
    let run = runs(&rota.api, &strict).await.pop().unwrap();
    assert_eq!(
        run["trigger_context"]["scheduled_at"], "2026-03-03T09:00:00.000000Z",
        "a range of 10 minutes has ended"
    );
    // A delay that is set after the occurrence was looked for holds all the same, and so does its end.
    let delayed = deployment_of(&parts, &rota, "0 9 * * *", json!({})).await;
    set_policy(&rota.api, &delayed, json!({"jitter": 3600})).await;
    at(&rota, "04T09:00:00").await;
    assert_eq!(fired(&rota.api, &delayed).await, [""; 0]);
    set_policy(&rota.api, &delayed, json!({"jitter": "off"})).await;
    at(&rota, "04T09:00:01").await;
    assert_eq!(fired(&rota.api, &delayed).await, ["04T09:00:00"]);
}
