//! Deployments: what they may refer to, schedules, pinning, pausing, archiving.

use serde_json::{Value, json};

use crate::{
    client::{invalid, not_found},
    given::{Parts, agent, environment, id, message, over},
    server::Rota,
};

/// What whoever sets a budget is told.
pub const NO_BUDGETS: &str = "budget: this server does not limit what is spent; leave the budget out, and see in \
    usage.list_cost of a session what it has cost, where its model has a price";

fn path(deployment: &Value) -> String {
    format!("/v1/deployments/{}", id(deployment))
}

fn cron(expression: &str, timezone: &str) -> Value {
    json!({"type": "cron", "expression": expression, "timezone": timezone})
}

#[tokio::test]
async fn a_deployment_is_manual_and_active_unless_it_says_otherwise() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, json!({})).await;
    let reference = json!({"type": "agent", "id": id(&parts.agent), "version": 1});
    for (field, expected) in [
        ("type", json!("deployment")),
        ("agent", reference),
        ("environment_id", parts.environment["id"].clone()),
        ("status", json!("active")),
        ("schedule", Value::Null),
        ("paused_reason", Value::Null),
        ("archived_at", Value::Null),
        ("description", Value::Null),
        ("metadata", json!({})),
        ("resources", json!([])),
        ("vault_ids", json!([])),
    ] {
        assert_eq!(made[field], expected, "{field}");
    }
    assert!(made.get("budget").is_none(), "a budget that is not set is absent");
    assert_eq!(rota.api.get(&path(&made)).await, made);
}

#[tokio::test]
async fn what_a_deployment_refers_to_is_checked_when_it_is_written() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let gone = agent(api, json!({})).await;
    api.call(&format!("/v1/agents/{}/archive", id(&gone))).await;
    let closed = environment(api, "closed").await;
    api.call(&format!("/v1/environments/{}/archive", id(&closed))).await;
    let mine = json!({"name": "mine", "config": {"type": "self_hosted"}});
    let mine = api.post("/v1/environments", mine).await;
    let file = json!({"type": "file", "file_id": "file_x"});
    let repository = json!({"type": "github_repository", "url": "https://github.com/o/r", "authorization_token": "x"});
    let store = json!({"type": "memory_store", "memory_store_id": "memstore_x"});
    let budget = json!({"type": "limit", "max_list_cost": {"amount": "125", "currency": "USD"}});
    let no_agent = not_found("Referenced agent not found or not accessible.");
    let no_environment = not_found("Referenced environment not found or not accessible.");
    let self_hosted = invalid(format!(
        "Environment {} is a self-hosted environment. `resources` are not supported with self-hosted environments.",
        id(&mine)
    ));
    let cases = [
        (json!({"agent": "agent_nobody"}), no_agent.clone()),
        (json!({"agent": {"type": "agent", "id": id(&parts.agent), "version": 2}}), no_agent),
        (json!({"agent": id(&gone)}), invalid("Cannot modify archived agent")),
        (json!({"environment_id": "env_nowhere"}), no_environment.clone()),
        (json!({"environment_id": id(&closed)}), no_environment),
        (json!({"vault_ids": ["vlt_x"]}), not_found("Referenced vault not found or not accessible.")),
        (json!({"environment_id": id(&mine), "resources": [file]}), self_hosted.clone()),
        (json!({"environment_id": id(&mine), "resources": [repository]}), self_hosted),
        (json!({"budget": budget}), invalid(NO_BUDGETS)),
    ];
    let kept = parts.deployment(api, json!({})).await;
    for (changes, refused) in &cases {
        assert_eq!(api.post_refused("/v1/deployments", parts.deployment_body(changes)).await, *refused, "{changes}");
        assert_eq!(api.post_refused(&path(&kept), changes.clone()).await, *refused, "an update with {changes}");
    }
    assert_eq!(api.get(&path(&kept)).await, kept, "nothing of a refused update remains");

    let mounted = json!([over(file, &json!({"mount_path": "in/put.csv"})), store]);
    let made = parts.deployment(api, json!({ "resources": mounted })).await;
    assert_eq!(made["resources"][0], mounted[0], "a mount path is echoed as it was sent");
    assert_eq!(
        made["resources"][1]["memory_store_id"], "memstore_x",
        "a store that is missing is found out at the run"
    );
    let in_mine = json!({"environment_id": id(&mine), "resources": [{"type": "memory_store", "memory_store_id": "m"}]});
    parts.deployment(api, in_mine).await;
}

#[tokio::test]
async fn schedules_that_are_no_cron_are_refused_with_their_reason() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let kept = parts.deployment(&rota.api, json!({})).await;
    for (expression, timezone, tail) in [
        ("0 9 * * * *", "UTC", "expected 5 fields, got 6"),
        ("0 9 *", "UTC", "expected 5 fields, got 3"),
        ("@daily", "UTC", "predefined shortcuts (@daily, @hourly, ...) are not supported"),
        ("0 9 L * *", "UTC", "special character \"L\" is not supported (5-field POSIX cron only)"),
        ("0 9 15W * *", "UTC", "special character \"W\" is not supported (5-field POSIX cron only)"),
        ("0 9 ? * *", "UTC", "special character \"?\" is not supported (5-field POSIX cron only)"),
        ("0 9 * * 1#2", "UTC", "special character \"#\" is not supported (5-field POSIX cron only)"),
        ("0 9 * * FRI", "UTC", "invalid value \"FRI\" in field day-of-week"),
        ("99 9 * * *", "UTC", "field minute value 99 is out of range"),
        ("30 2 8 3 *", "America/New_York", "does not produce any occurrences in the next year"),
        ("0 0 13 * 5", "UTC", "cannot restrict both day-of-month and day-of-week; use `*` for one"),
        ("0 0 30 2 *", "UTC", "does not produce any occurrences in the next year"),
        ("0 9 * * *", "Mars/Phobos", "\"Mars/Phobos\" is not a valid IANA timezone"),
    ] {
        let schedule = json!({"schedule": cron(expression, timezone)});
        for refused in [
            rota.api.post_refused("/v1/deployments", parts.deployment_body(&schedule)).await,
            rota.api.post_refused(&path(&kept), schedule.clone()).await,
        ] {
            assert_eq!((refused.status, &*refused.kind), (400, "invalid_request_error"), "{expression}");
            assert!(refused.message.ends_with(tail), "{expression}: {}", refused.message);
        }
    }
}

#[tokio::test]
async fn upcoming_runs_follow_the_wall_clock_of_the_zone() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    // It is Monday 2 March 2026, 08:00 UTC. Clocks in New York go forward on 8 March at 02:00, so that
    // 02:30 does not exist, and back on 1 November at 02:00, so that 01:30 comes twice.
    for (expression, timezone, upcoming) in [
        (
            "0 9 * * 1-5",
            "UTC",
            [
                "2026-03-02T09:00:00.000000Z",
                "2026-03-03T09:00:00.000000Z",
                "2026-03-04T09:00:00.000000Z",
                "2026-03-05T09:00:00.000000Z",
                "2026-03-06T09:00:00.000000Z",
            ],
        ),
        (
            "30 2 * * *",
            "America/New_York",
            [
                "2026-03-03T07:30:00.000000Z",
                "2026-03-04T07:30:00.000000Z",
                "2026-03-05T07:30:00.000000Z",
                "2026-03-06T07:30:00.000000Z",
                "2026-03-07T07:30:00.000000Z",
            ],
        ),
        (
            "30 2 7-9 * *",
            "America/New_York",
            [
                "2026-03-07T07:30:00.000000Z",
                "2026-03-09T06:30:00.000000Z",
                "2026-04-07T06:30:00.000000Z",
                "2026-04-08T06:30:00.000000Z",
                "2026-04-09T06:30:00.000000Z",
            ],
        ),
        (
            "30 1 1 11 *",
            "America/New_York",
            [
                "2026-11-01T05:30:00.000000Z",
                "2026-11-01T06:30:00.000000Z",
                "2027-11-01T05:30:00.000000Z",
                "2028-11-01T05:30:00.000000Z",
                "2029-11-01T05:30:00.000000Z",
            ],
        ),
        (
            "0 0 1 1 *",
            "Asia/Tokyo",
            [
                "2026-12-31T15:00:00.000000Z",
                "2027-12-31T15:00:00.000000Z",
                "2028-12-31T15:00:00.000000Z",
                "2029-12-31T15:00:00.000000Z",
                "2030-12-31T15:00:00.000000Z",
            ],
        ),
        (
            "0 12 * * 5",
            "UTC",
            [
                "2026-03-06T12:00:00.000000Z",
                "2026-03-13T12:00:00.000000Z",
                "2026-03-20T12:00:00.000000Z",
                "2026-03-27T12:00:00.000000Z",
                "2026-04-03T12:00:00.000000Z",
            ],
        ),
    ] {
        let made = parts.deployment(&rota.api, json!({"schedule": cron(expression, timezone)})).await;
        assert_eq!(made["schedule"]["upcoming_runs_at"], json!(upcoming), "{expression} in {timezone}");
        assert_eq!(made["schedule"]["last_run_at"], Value::Null);
    }
}

#[tokio::test]
async fn upcoming_runs_move_with_time_stay_while_paused_and_end_with_the_archive() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, json!({"schedule": cron("0 9 * * *", "UTC")})).await;
    let next = |deployment: &Value| deployment["schedule"]["upcoming_runs_at"][0].clone();
    assert_eq!(next(&made), "2026-03-02T09:00:00.000000Z");
    rota.advance_seconds(3600);
    assert_eq!(next(&rota.api.get(&path(&made)).await), "2026-03-03T09:00:00.000000Z");
    let paused = rota.api.call(&format!("{}/pause", path(&made))).await;
    assert_eq!(paused["schedule"]["upcoming_runs_at"].as_array().unwrap().len(), 5);
    let archived = rota.api.call(&format!("{}/archive", path(&made))).await;
    assert_eq!(archived["schedule"]["upcoming_runs_at"], json!([]));
    assert_eq!(archived["schedule"]["expression"], "0 9 * * *");
}

#[tokio::test]
async fn an_update_replaces_merges_or_clears_each_field_by_its_own_rule() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let full = json!({
        "description": "d",
        "metadata": {"a": "1", "b": "2"},
        "schedule": cron("0 9 * * *", "UTC"),
        "resources": [{"type": "file", "file_id": "file_x"}],
    });
    let made = parts.deployment(&rota.api, full).await;
    for (body, field, expected) in [
        (json!({}), "description", json!("d")),
        (json!({"name": "weekly"}), "name", json!("weekly")),
        (json!({"description": ""}), "description", Value::Null),
        (json!({"metadata": {"a": null, "c": "3"}}), "metadata", json!({"b": "2", "c": "3"})),
        (json!({"resources": null}), "resources", json!([])),
        (json!({"vault_ids": null}), "vault_ids", json!([])),
        (json!({"initial_events": [message("other")]}), "initial_events", json!([message("other")])),
        (json!({"schedule": null}), "schedule", Value::Null),
        (json!({"budget": null}), "schedule", Value::Null),
    ] {
        let updated = rota.api.post(&path(&made), body.clone()).await;
        assert_eq!(updated[field], expected, "{body}");
    }
    let updated = rota.api.post(&path(&made), json!({"schedule": cron("0 10 * * *", "UTC")})).await;
    assert_eq!(updated["schedule"]["upcoming_runs_at"][0], "2026-03-02T10:00:00.000000Z");
    assert_ne!(updated["updated_at"], made["updated_at"]);
    assert_eq!(updated["created_at"], made["created_at"]);
}

#[tokio::test]
async fn what_an_update_leaves_out_is_not_checked_again() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, json!({})).await;
    api.delete(&format!("/v1/environments/{}", id(&parts.environment))).await;
    assert_eq!(api.post(&path(&made), json!({"name": "renamed"})).await["name"], "renamed");
    let other = environment(api, "other").await;
    assert_eq!(api.post(&path(&made), json!({"environment_id": id(&other)})).await["environment_id"], other["id"]);
}

#[tokio::test]
async fn the_version_of_the_agent_is_pinned_until_an_update_names_it_again() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, json!({})).await;
    let version = |deployment: &Value| deployment["agent"]["version"].as_i64().unwrap();
    api.post(&format!("/v1/agents/{}", id(&parts.agent)), json!({"system": "new"})).await;
    assert_eq!(version(&api.get(&path(&made)).await), 1);
    assert_eq!(version(&api.post(&path(&made), json!({"name": "x"})).await), 1);
    assert_eq!(version(&api.post(&path(&made), json!({"agent": id(&parts.agent)})).await), 2);
    let back = json!({"agent": {"type": "agent", "id": id(&parts.agent), "version": 1}});
    assert_eq!(version(&api.post(&path(&made), back).await), 1);
    let latest = json!({"agent": {"type": "agent", "id": id(&parts.agent)}});
    assert_eq!(version(&api.post(&path(&made), latest).await), 2);
}

#[tokio::test]
async fn pausing_and_unpausing_are_idempotent_and_return_the_whole_deployment() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, json!({"schedule": cron("0 9 * * *", "UTC")})).await;
    let state = |deployment: &Value| (deployment["status"].clone(), deployment["paused_reason"].clone());
    let paused = (json!("paused"), json!({"type": "manual"}));
    let active = (json!("active"), Value::Null);
    for (verb, expected) in [("unpause", &active), ("pause", &paused), ("pause", &paused), ("unpause", &active)] {
        let answer = rota.api.call(&format!("{}/{verb}", path(&made))).await;
        assert_eq!(state(&answer), *expected, "{verb}");
        assert_eq!(rota.api.get(&path(&made)).await, answer);
    }
}

#[tokio::test]
async fn an_archived_deployment_refuses_every_change_and_shows_as_active() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, json!({})).await;
    rota.api.call(&format!("{}/pause", path(&made))).await;
    let archived = rota.api.call(&format!("{}/archive", path(&made))).await;
    assert_eq!((&archived["status"], &archived["paused_reason"]), (&json!("active"), &Value::Null));
    assert!(archived["archived_at"].is_string());
    let refused = invalid("Cannot modify archived deployment");
    for verb in ["pause", "unpause", "run"] {
        assert_eq!(rota.api.call_refused(&format!("{}/{verb}", path(&made))).await, refused, "{verb}");
    }
    assert_eq!(rota.api.post_refused(&path(&made), json!({"name": "x"})).await, refused);
    rota.advance_seconds(60);
    assert_eq!(rota.api.call(&format!("{}/archive", path(&made))).await, archived, "archiving again changes nothing");
    assert_eq!(rota.api.get(&path(&made)).await, archived);
}

#[tokio::test]
async fn deployments_are_listed_by_agent_status_time_and_archive() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let one = Parts::new(api).await;
    let two = Parts { agent: agent(api, json!({})).await, environment: one.environment.clone() };
    let mut made = Vec::new();
    for (parts, name) in [(&one, "a"), (&two, "b"), (&one, "c"), (&two, "d"), (&one, "e")] {
        made.push(parts.deployment(api, json!({ "name": name })).await);
    }
    api.call(&format!("{}/pause", path(&made[2]))).await;
    api.call(&format!("{}/pause", path(&made[3]))).await;
    api.call(&format!("{}/archive", path(&made[4]))).await;
    let names = async |query: &str| -> String {
        let rows = api.all(&format!("/v1/deployments?{query}"), 2).await;
        rows.iter().map(|row| row["name"].as_str().unwrap()).collect()
    };
    let at = |i: usize| made[i]["created_at"].as_str().unwrap();
    let (by_one, between) =
        (format!("agent_id={}", id(&one.agent)), format!("created_at[gte]={}&created_at[lte]={}", at(1), at(2)));
    for (query, expected) in [
        ("beta=true", "dcba"),
        ("include_archived=true", "edcba"),
        ("status=paused", "dc"),
        ("status=active", "ba"),
        (&by_one, "ca"),
        (&format!("{by_one}&include_archived=true"), "eca"),
        (&format!("{by_one}&status=paused"), "c"),
        (&between, "cb"),
    ] {
        assert_eq!(names(query).await, expected, "{query}");
    }
}
