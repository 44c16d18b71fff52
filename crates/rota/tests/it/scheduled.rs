//! Fires of the schedule, as the scheduler makes them: in a transaction of its own.

use rota_api::{Time, deployment::RunErrorType};
use rota_server::{
    db::Tx,
    error::Result,
    resources::deployments::{Trigger, fire},
};
use serde_json::{Value, json};

use crate::{
    client::Api,
    given::{Parts, id},
    server::Rota,
};

pub fn nine_o_clock() -> Value {
    json!({"schedule": {"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"}})
}

/// Fires `deployment` for the occurrence `scheduled_at`. The run's id.
pub async fn fire_at(rota: &Rota, deployment: &Value, scheduled_at: &str) -> Result<String> {
    let app = rota.server.app();
    let policy = app.fire_policy();
    let workspace = rota.server.first_key.as_ref().map(|key| key.workspace_id.clone());
    let workspace = workspace.expect("the store is new");
    let deployment = id(deployment).to_owned();
    let scheduled_at: Time = scheduled_at.parse().unwrap();
    let write = move |tx: &mut Tx<'_>| fire(tx, &policy, &workspace, &deployment, Trigger::Schedule { scheduled_at });
    app.db.write(write).await.map(|run| run.id.to_string())
}

async fn deployment(api: &Api, deployment: &Value) -> Value {
    api.get(&format!("/v1/deployments/{}", id(deployment))).await
}

#[tokio::test]
async fn a_scheduled_fire_records_its_occurrence_and_when_it_ran() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, nine_o_clock()).await;
    rota.advance_seconds(3605);
    let run = fire_at(&rota, &made, "2026-03-02T09:00:00Z").await.unwrap();
    let run = rota.api.get(&format!("/v1/deployment_runs/{run}")).await;
    let context = json!({"type": "schedule", "scheduled_at": "2026-03-02T09:00:00Z"});
    assert_eq!((&run["trigger_context"], &run["error"]), (&context, &Value::Null));
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
async fn an_occurrence_runs_once_and_a_second_fire_finds_the_run() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, nine_o_clock()).await;
    let run = fire_at(&rota, &made, "2026-03-02T09:00:00Z").await.unwrap();
    let before = deployment(&rota.api, &made).await;
    rota.advance_seconds(60);
    assert_eq!(fire_at(&rota, &made, "2026-03-02T09:00:00Z").await.unwrap(), run);
    let count = async |path: &str| rota.api.all(path, 100).await.len();
    assert_eq!((count("/v1/deployment_runs").await, count("/v1/sessions").await), (1, 1));
    assert_eq!(deployment(&rota.api, &made).await["schedule"]["last_run_at"], before["schedule"]["last_run_at"]);
    fire_at(&rota, &made, "2026-03-03T09:00:00Z").await.unwrap();
    let other = parts.deployment(&rota.api, nine_o_clock()).await;
    fire_at(&rota, &other, "2026-03-02T09:00:00Z").await.unwrap();
    assert_eq!(count("/v1/deployment_runs").await, 3);
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

    fire_at(&rota, &made, "2026-03-02T09:00:00Z").await.unwrap();
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
    fire_at(&rota, &made, "2026-03-03T09:00:00Z").await.unwrap();
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
    parts.session(api, json!({})).await;
    for (changes, expected) in rows {
        let made = parts.deployment(api, changes).await;
        let run = fire_at(&rota, &made, "2026-03-02T09:00:00Z").await.unwrap();
        let run = api.get(&format!("/v1/deployment_runs/{run}")).await;
        assert_eq!(run["error"]["type"], expected.as_str());
        let after = deployment(api, &made).await;
        let reason = json!({"type": "error", "error": {"type": expected.as_str()}});
        let (status, reason) = if expected.pauses() { ("paused", reason) } else { ("active", Value::Null) };
        assert_eq!((&after["status"], &after["paused_reason"]), (&json!(status), &reason));
    }
}
