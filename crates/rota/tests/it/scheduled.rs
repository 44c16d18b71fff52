//! Scheduled fires: what they record, and when they pause.

use rota_api::deployment::RunErrorType;
use serde_json::{Value, json};

use crate::{
    client::Api,
    given::{Parts, id},
    server::Rota,
};

pub fn nine_o_clock() -> Value {
    json!({"schedule": {"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"}})
}

/// Lets `day` of March come to nine o'clock, and `deployment` fire then. Its run.
pub async fn fire_on(rota: &Rota, day: u32, deployment: &Value) -> Value {
    let occurrence = format!("2026-03-{day:02}T09:00:00.000000Z");
    rota.set_time(&occurrence);
    rota.tick().await;
    let list = format!("/v1/deployment_runs?trigger_type=schedule&deployment_id={}", id(deployment));
    let newest = rota.api.get(&list).await["data"][0].clone();
    assert_eq!(newest["trigger_context"]["scheduled_at"], occurrence);
    newest
}

async fn deployment(api: &Api, deployment: &Value) -> Value {
    api.get(&format!("/v1/deployments/{}", id(deployment))).await
}

#[tokio::test]
async fn a_scheduled_fire_records_its_occurrence_and_when_it_ran() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, nine_o_clock()).await;
    let run = fire_on(&rota, 2, &made).await;
    assert_eq!((&run["trigger_context"]["type"], &run["error"]), (&json!("schedule"), &Value::Null));
    let session = rota.api.get(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await;
    assert_eq!(session["deployment_id"], made["id"]);
    let after = deployment(&rota.api, &made).await;
    assert_eq!(after["schedule"]["last_run_at"], run["created_at"]);
    assert_eq!((&after["status"], &after["updated_at"]), (&json!("active"), &made["updated_at"]));
    assert_eq!(rota.api.get("/v1/deployment_runs?trigger_type=schedule").await["data"], json!([run]));
    assert_eq!(rota.api.get("/v1/deployment_runs?trigger_type=manual").await["data"], json!([]));
    let archived = rota.api.call(&format!("/v1/deployments/{}/archive", id(&made))).await;
    assert_eq!(archived["schedule"]["last_run_at"], run["created_at"], "it is kept");
}

#[tokio::test]
async fn an_occurrence_that_comes_again_after_the_clock_was_set_back_does_not_run_again() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, nine_o_clock()).await;
    let path = format!("/v1/deployments/{}", id(&made));
    fire_on(&rota, 2, &made).await;
    let before = deployment(&rota.api, &made).await;
    rota.set_time("2026-03-02T08:30:00.000000Z");
    for expression in ["0 10 * * *", "0 9 * * *"] {
        let schedule = json!({"type": "cron", "expression": expression, "timezone": "UTC"});
        rota.api.post(&path, json!({ "schedule": schedule })).await;
    }
    let again = fire_on(&rota, 2, &made).await;
    let count = async |path: &str| rota.api.all(path, 100).await.len();
    assert_eq!((count("/v1/deployment_runs").await, count("/v1/sessions").await), (1, 1));
    assert_eq!(again["created_at"], before["schedule"]["last_run_at"]);
    assert_eq!(deployment(&rota.api, &made).await["schedule"]["last_run_at"], before["schedule"]["last_run_at"]);
    fire_on(&rota, 3, &made).await;
    assert_eq!(count("/v1/deployment_runs").await, 2);
}

#[tokio::test]
async fn a_failed_scheduled_fire_pauses_with_its_reason_and_a_failed_run_by_hand_does_not() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, nine_o_clock()).await;
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    let by_hand = api.call(&format!("/v1/deployments/{}/run", id(&made))).await;
    assert_eq!(by_hand["error"]["type"], "environment_archived_error");
    assert_eq!(deployment(api, &made).await["status"], "active");

    fire_on(&rota, 2, &made).await;
    let paused = deployment(api, &made).await;
    let reason = json!({"type": "error", "error": {"type": "environment_archived_error"}});
    assert_eq!((&paused["status"], &paused["paused_reason"]), (&json!("paused"), &reason));
    assert_eq!(paused["schedule"]["last_run_at"], Value::Null, "nothing started");
    assert_eq!(paused["schedule"]["upcoming_runs_at"].as_array().unwrap().len(), 5);
    let runs = api.get("/v1/deployment_runs?has_error=true").await;
    assert_eq!(runs["data"].as_array().unwrap().len(), 2);

    let still = api.call(&format!("/v1/deployments/{}/pause", id(&made))).await;
    assert_eq!(still["paused_reason"], reason, "pausing what is paused keeps the reason");
    let other = crate::given::environment(api, "other").await;
    api.post(&format!("/v1/deployments/{}", id(&made)), json!({"environment_id": id(&other)})).await;
    assert_eq!(deployment(api, &made).await["status"], "paused", "it does not heal by itself");
    let unpaused = api.call(&format!("/v1/deployments/{}/unpause", id(&made))).await;
    assert_eq!((&unpaused["status"], &unpaused["paused_reason"]), (&json!("active"), &Value::Null));
    fire_on(&rota, 3, &made).await;
    assert!(deployment(api, &made).await["schedule"]["last_run_at"].is_string());
}

#[tokio::test]
async fn only_errors_that_a_later_fire_cannot_outlive_pause() {
    let rota = Rota::one_session_a_minute().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let mounting = |resource: Value| crate::given::over(nine_o_clock(), &json!({"resources": [resource]}));
    let rows = [
        (nine_o_clock(), RunErrorType::SessionRateLimited),
        (mounting(json!({"type": "file", "file_id": "f"})), RunErrorType::FileNotFound),
        (mounting(json!({"type": "memory_store", "memory_store_id": "m"})), RunErrorType::SessionResourceNotFound),
    ];
    for (day, (changes, expected)) in (2..).zip(rows) {
        let made = parts.deployment(api, changes).await;
        rota.set_time(&format!("2026-03-{day:02}T08:59:30.000000Z"));
        parts.session(api, json!({})).await;
        let run = fire_on(&rota, day, &made).await;
        assert_eq!(run["error"]["type"], expected.as_str());
        let after = deployment(api, &made).await;
        let reason = json!({"type": "error", "error": {"type": expected.as_str()}});
        let (status, reason) = if expected.pauses() { ("paused", reason) } else { ("active", Value::Null) };
        assert_eq!((&after["status"], &after["paused_reason"]), (&json!(status), &reason));
    }
}
