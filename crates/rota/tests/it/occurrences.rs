//! The audit of deployments: every occurrence has a run or a reason.

use std::collections::BTreeMap;

use rota_api::Time;
use rota_server::db::Tx;
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid, not_found},
    given::{Parts, environment, id, over},
    schedules::{at, every, path, runs},
    server::Rota,
};

fn audit_path(deployment: &Value) -> String {
    format!("/rota/v1/deployments/{}/occurrences", id(deployment))
}

/// The occurrences of a range, oldest first, each as `02T09:00 skipped missed`.
pub async fn audit(api: &Api, deployment: &Value, range: &str) -> Vec<String> {
    let mut occurrences = api.all(&format!("{}?{range}", audit_path(deployment)), 1000).await;
    occurrences.reverse();
    occurrences.iter().map(shown).collect()
}

fn shown(occurrence: &Value) -> String {
    let at = &occurrence["scheduled_at"].as_str().unwrap()[8..16];
    let outcome = occurrence["outcome"].as_str().unwrap();
    match occurrence["reason"].as_str() {
        Some(reason) => format!("{at} {outcome} {reason}"),
        None => format!("{at} {outcome}"),
    }
}

async fn set_policy(api: &Api, deployment: &Value, policy: Value) {
    api.post(&format!("/rota/v1/deployments/{}/policy", id(deployment)), policy).await;
}

#[tokio::test]
async fn each_occurrence_is_told_with_its_run_or_its_reason() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, every("0 * * * *")).await;
    at(&rota, "02T09:00:05").await;
    at(&rota, "02T12:30:00").await;
    api.call(&format!("{}/pause", path(&made))).await;
    rota.set_time("2026-03-02T14:30:00Z");
    api.call(&format!("{}/unpause", path(&made))).await;
    rota.set_time("2026-03-02T15:00:01Z");
    api.post(&path(&made), every("30 * * * *")).await;
    set_policy(api, &made, json!({"overlap": "skip"})).await;
    at(&rota, "02T15:30:00").await;
    set_policy(api, &made, json!({"overlap": null, "max_concurrent_sessions": 1})).await;
    at(&rota, "02T16:30:00").await;
    set_policy(api, &made, json!({"max_concurrent_sessions": null})).await;
    let doomed = environment(api, "doomed").await;
    api.post(&path(&made), json!({"environment_id": id(&doomed)})).await;
    api.call(&format!("/v1/environments/{}/archive", id(&doomed))).await;
    at(&rota, "02T17:30:00").await;
    rota.set_time("2026-03-02T18:45:00Z");
    api.post(&path(&made), json!({"environment_id": id(&parts.environment)})).await;
    api.call(&format!("{}/unpause", path(&made))).await;
    rota.set_time("2026-03-02T19:30:01Z");
    api.call(&format!("{}/archive", path(&made))).await;
    rota.set_time("2026-03-02T20:45:00Z");
    let expected = [
        "02T09:00 ran",
        "02T10:00 skipped missed",
        "02T11:00 skipped missed",
        "02T12:00 ran",
        "02T13:00 skipped paused",
        "02T14:00 skipped paused",
        "02T15:00 skipped superseded",
        "02T15:30 skipped overlap",
        "02T16:30 skipped concurrency",
        "02T17:30 failed",
        "02T18:30 skipped paused",
        "02T19:30 skipped archived",
        "02T20:30 skipped archived",
    ];
    assert_eq!(audit(api, &made, "").await, expected);
    assert_eq!(audit(api, &made, "to=2027-01-01T00:00:00Z").await, expected, "what is archived has no future");

    let occurrences = api.get(&audit_path(&made)).await["data"].clone();
    let runs = runs(api, &made).await;
    let late = json!({
        "type": "deployment_occurrence",
        "scheduled_at": "2026-03-02T09:00:00.000000Z",
        "outcome": "ran",
        "reason": null,
        "run_id": id(&runs[0]),
        "session_id": runs[0]["session_id"],
        "error": null,
        "retry_at": null,
        "lateness_ms": 5000,
        "attempts": [{
            "run_id": id(&runs[0]),
            "at": runs[0]["created_at"],
            "session_id": runs[0]["session_id"],
            "error": null,
            "followed": null,
        }],
    });
    assert_eq!(occurrences[12], late);
    let failed = &occurrences[3];
    assert_eq!((&failed["run_id"], &failed["session_id"]), (&runs[2]["id"], &Value::Null));
    assert_eq!(failed["error"], runs[2]["error"]);
    assert_eq!(failed["error"]["type"], "environment_archived_error");
}

#[tokio::test]
async fn what_is_not_decided_on_says_what_it_waits_for() {
    let rota = Rota::one_session_a_minute().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let range = "from=2026-03-02T09:00:00Z&to=2026-03-02T11:00:00.000001Z";
    let waits = parts.deployment(api, every("0 * * * *")).await;
    let queued = parts.deployment(api, every("0 * * * *")).await;
    let retried = parts.deployment(api, every("0 * * * *")).await;
    set_policy(api, &waits, json!({"jitter": "hosted"})).await;
    set_policy(api, &queued, json!({"overlap": "queue_one"})).await;
    set_policy(api, &retried, json!({"retry": {"max_attempts": 2, "initial_backoff_seconds": 60}})).await;
    rota.set_time("2026-03-02T08:59:30Z");
    api.call(&format!("{}/run", path(&queued))).await;
    at(&rota, "02T09:00:00").await;
    for (made, reason) in [(&waits, "due"), (&queued, "queued"), (&retried, "retrying")] {
        let expected = [&format!("02T09:00 pending {reason}"), "02T10:00 upcoming", "02T11:00 upcoming"];
        assert_eq!(audit(api, made, range).await, expected);
    }
    let retry = api.get(&format!("{}?outcome=pending", audit_path(&retried))).await["data"][0].clone();
    assert_eq!(retry["error"]["type"], "session_rate_limited_error");
    let time = |text: &str| text.parse::<Time>().unwrap();
    let retry_at = time(retry["retry_at"].as_str().unwrap());
    assert!((time("2026-03-02T09:00:30Z")..time("2026-03-02T09:01:01Z")).contains(&retry_at), "{retry_at}");
    api.call(&format!("{}/pause", path(&retried))).await;
    let expected = ["02T09:00 skipped paused", "02T10:00 upcoming paused", "02T11:00 upcoming paused"];
    assert_eq!(audit(api, &retried, range).await, expected);
}

#[tokio::test]
async fn pages_and_filters_hold_what_the_whole_list_holds() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, every("*/10 * * * *")).await;
    for hour in 9..13 {
        at(&rota, &format!("02T{hour:02}:05:00")).await;
        api.call(&format!("{}/pause", path(&made))).await;
        rota.set_time(&format!("2026-03-02T{hour:02}:25:00Z"));
        api.call(&format!("{}/unpause", path(&made))).await;
        at(&rota, &format!("02T{hour:02}:40:00")).await;
    }
    let whole = api.all(&audit_path(&made), 1000).await;
    assert_eq!(whole.len(), 28);
    for limit in [1, 2, 7, 27, 28] {
        assert_eq!(api.all(&audit_path(&made), limit).await, whole, "{limit}");
    }
    for outcome in ["ran", "failed", "skipped", "pending", "upcoming", "unaccounted"] {
        let some: Vec<_> = whole.iter().filter(|occurrence| occurrence["outcome"] == outcome).cloned().collect();
        for limit in [1, 3, 1000] {
            let filtered = api.all(&format!("{}?outcome={outcome}", audit_path(&made)), limit).await;
            assert_eq!(filtered, some, "{outcome} by {limit}");
        }
    }
    let range = "from=2026-03-02T10:00:00Z&to=2026-03-02T10:30:00Z";
    let expected = ["02T10:00 ran", "02T10:10 skipped paused", "02T10:20 skipped paused"];
    assert_eq!(audit(api, &made, range).await, expected, "a range is half-open");
    let none = "from=2026-03-02T10:00:01Z&to=2026-03-02T10:10:00Z";
    assert_eq!(audit(api, &made, none).await, [""; 0]);
    let manual = parts.deployment(api, json!({})).await;
    assert_eq!(audit(api, &manual, "to=2027-01-01T00:00:00Z").await, [""; 0]);
}

#[tokio::test]
async fn a_schedule_that_was_changed_often_is_listed_whole() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, every("*/5 * * * *")).await;
    at(&rota, "02T08:05:00").await;
    // More changes than a page looks at, some of them between two occurrences.
    for change in 0..110 {
        rota.set_time(&format!("2026-03-02T{:02}:{:02}:30Z", 9 + change / 60, change % 60));
        api.call(&format!("{}/pause", path(&made))).await;
        api.call(&format!("{}/unpause", path(&made))).await;
    }
    at(&rota, "02T10:50:10").await;
    let whole = api.all(&audit_path(&made), 1000).await;
    assert_eq!(whole.len(), 34);
    assert_eq!(whole.iter().filter(|occurrence| occurrence["outcome"] == "ran").count(), 2);
    assert!(whole.iter().all(|occurrence| occurrence["outcome"] != "unaccounted"));
    assert_eq!(api.all(&audit_path(&made), 10).await, whole);
}

#[tokio::test]
async fn after_the_clock_was_set_back_each_occurrence_is_told_once() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, every("0 * * * *")).await;
    at(&rota, "02T09:00:00").await;
    at(&rota, "02T13:30:00").await;
    rota.set_time("2026-03-02T10:30:00Z");
    api.call(&format!("{}/pause", path(&made))).await;
    api.call(&format!("{}/unpause", path(&made))).await;
    at(&rota, "02T11:00:00").await;
    at(&rota, "02T13:45:00").await;
    let expected =
        ["02T09:00 ran", "02T10:00 skipped missed", "02T11:00 ran", "02T12:00 skipped missed", "02T13:00 ran"];
    assert_eq!(audit(api, &made, "").await, expected);
}

#[tokio::test]
async fn an_audit_is_asked_for_strictly() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, every("0 9 * * *")).await;
    let page = api.get(&format!("{}?to=2026-04-01T00:00:00Z&limit=1", audit_path(&made))).await;
    let page = page["next_page"].as_str().unwrap().to_owned();
    for (query, message) in [
        ("from=yesterday", "from: Input should be a valid RFC 3339 time"),
        ("to=2026-03-02", "to: Input should be a valid RFC 3339 time"),
        ("outcome=lost", "outcome: \"lost\" is not a valid value"),
        ("limit=1001", "limit: value must be less than or equal to 1000"),
        ("page=page_x", "page: Invalid page cursor."),
        ("order=asc", "order: Extra inputs are not permitted"),
        (
            &*format!("page={page}"),
            "page: this cursor was given by another list, or with other filters or another order.",
        ),
    ] {
        assert_eq!(api.get_refused(&format!("{}?{query}", audit_path(&made))).await, invalid(message));
    }
    let missing = not_found("Deployment `depl_gone` not found.");
    assert_eq!(api.get_refused("/rota/v1/deployments/depl_gone/occurrences").await, missing);
}

#[tokio::test]
async fn a_year_of_minutes_is_accounted_for_in_a_few_rows() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, over(every("* * * * *"), &json!({"name": "each minute"}))).await;
    rota.set_time("2026-03-02T08:00:30Z");
    for minute in 1..=30 {
        at(&rota, &format!("02T08:{minute:02}:00")).await;
    }
    // Down for three months, paused for half of a year, then down again, and up for moments in between.
    let mut up = 30;
    for time in ["2026-04-01T00:00:00Z", "2026-05-01T12:00:00Z", "2026-06-01T08:00:00Z"] {
        rota.set_time(time);
        rota.tick().await;
        up += 1;
    }
    api.call(&format!("{}/pause", path(&made))).await;
    rota.set_time("2026-12-01T08:00:00Z");
    api.call(&format!("{}/unpause", path(&made))).await;
    for time in ["2026-12-24T18:00:00Z", "2027-03-02T08:00:00Z"] {
        rota.set_time(time);
        rota.tick().await;
        up += 1;
    }
    let count = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        let read = move |tx: &mut Tx<'_>| tx.one(&sql, &[], |row| row.int(0));
        rota.server.app().db.read(read).await.unwrap().unwrap()
    };
    assert_eq!(count("deployment_runs").await, up);
    assert!(count("deployment_skips").await <= 5 && count("deployment_spans").await == 3);

    let mut tally = BTreeMap::new();
    let mut last = None;
    let mut page = String::new();
    loop {
        let list = api.get(&format!("{}?limit=1000{page}", audit_path(&made))).await;
        for occurrence in list["data"].as_array().unwrap() {
            let [outcome, reason] =
                ["outcome", "reason"].map(|field| occurrence[field].as_str().unwrap_or("").to_owned());
            *tally.entry((outcome, reason)).or_insert(0) += 1;
            last = occurrence["scheduled_at"].as_str().map(str::to_owned);
        }
        match list["next_page"].as_str() {
            Some(next) => page = format!("&page={next}"),
            None => break,
        }
    }
    let first_week = "outcome=ran&from=2026-03-02T00:00:00Z&to=2026-03-09T00:00:00Z";
    let ran = api.all(&format!("{}?{first_week}", audit_path(&made)), 1000).await;
    assert_eq!(ran.len(), 30, "a filter goes on where it has found nothing");
    let (year, paused) = (365 * 24 * 60, 183 * 24 * 60);
    let key = |outcome: &str, reason: &str| (outcome.to_owned(), reason.to_owned());
    let expected = BTreeMap::from([
        (key("ran", ""), up),
        (key("skipped", "missed"), year - paused - up),
        (key("skipped", "paused"), paused),
    ]);
    assert_eq!(tally, expected);
    assert_eq!(last.unwrap(), "2026-03-02T08:01:00.000000Z");
}
