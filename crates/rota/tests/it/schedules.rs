//! Deployments that fire by themselves. The scheduler looks when a test tells it to.

use rota_api::policy::Jitter;
use rota_server::{
    config::Roles,
    db::{Tx, Val},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::Api,
    given::{Parts, environment, id},
    server::{PATIENCE, Rota},
};

pub fn every(expression: &str) -> Value {
    json!({"schedule": {"type": "cron", "expression": expression, "timezone": "UTC"}})
}

pub async fn at(rota: &Rota, time: &str) {
    rota.set_time(&format!("2026-03-{time}Z"));
    rota.tick().await;
}

pub fn path(deployment: &Value) -> String {
    format!("/v1/deployments/{}", id(deployment))
}

pub async fn runs(api: &Api, deployment: &Value) -> Vec<Value> {
    let mut runs = api.all(&format!("/v1/deployment_runs?deployment_id={}", id(deployment)), 1000).await;
    runs.reverse();
    runs
}

/// The occurrences that have a run, in their order, without the month: `02T09:00:00`.
pub async fn fired(api: &Api, deployment: &Value) -> Vec<String> {
    let occurrence = |run: &Value| run["trigger_context"]["scheduled_at"].as_str().map(short);
    let mut fired: Vec<String> = runs(api, deployment).await.iter().filter_map(occurrence).collect();
    fired.sort();
    fired
}

fn short(time: &str) -> String {
    time.strip_prefix("2026-03-").unwrap().strip_suffix(".000000Z").unwrap().to_owned()
}

/// The first and the last of each range of occurrences that were passed over, and why.
pub async fn skipped(rota: &Rota, deployment: &Value) -> Vec<(String, String, String)> {
    let deployment = id(deployment).to_owned();
    let sql = "SELECT first_at, last_at, reason FROM deployment_skips WHERE deployment_id = $1 ORDER BY last_at";
    let read = move |tx: &mut Tx<'_>| {
        tx.all(sql, &[Val::Text(&deployment)], |row| {
            let time = |column| row.time(column).map(|time| short(&time.to_string()));
            Ok((time(0)?, time(1)?, row.text(2)?))
        })
    };
    rota.server.app().db.read(read).await.unwrap()
}

pub fn range(first: &str, last: &str, reason: &str) -> (String, String, String) {
    (first.to_owned(), last.to_owned(), reason.to_owned())
}

/// Changes the store behind the server's back.
pub async fn tamper(rota: &Rota, sql: String) {
    rota.server.app().db.write(move |tx| tx.execute(&sql, &[])).await.unwrap();
}

#[tokio::test]
async fn a_deployment_fires_at_its_time_and_once() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 9 * * *")).await;
    at(&rota, "02T08:59:59.999999").await;
    assert_eq!(fired(&rota.api, &made).await, [""; 0]);
    for time in ["02T09:00:00", "02T09:00:00", "02T09:00:01", "02T23:59:59", "03T08:59:59.999"] {
        at(&rota, time).await;
        assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00"], "{time}");
    }
    at(&rota, "03T09:00:00").await;
    let run = &runs(&rota.api, &made).await[1];
    let context = json!({"type": "schedule", "scheduled_at": "2026-03-03T09:00:00.000000Z"});
    assert_eq!((&run["trigger_context"], &run["error"]), (&context, &Value::Null));
    assert_eq!(run["created_at"], "2026-03-03T09:00:00.000000Z");
    let after = rota.api.get(&path(&made)).await;
    assert_eq!(after["schedule"]["last_run_at"], run["created_at"]);
    assert_eq!(skipped(&rota, &made).await, []);
}

#[tokio::test]
async fn the_scheduler_fires_without_being_told() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.roles = Roles::default();
    })
    .await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 9 * * *")).await;
    rota.set_time("2026-03-02T09:00:00.000000Z");
    let fires = async {
        while fired(&rota.api, &made).await.is_empty() {
            sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, fires).await.expect("it fires");
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00"]);
}

#[tokio::test]
async fn an_edited_schedule_counts_from_the_edit() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let earlier = parts.deployment(api, every("0 9 * * *")).await;
    let due = parts.deployment(api, every("0 9 * * *")).await;
    let removed = parts.deployment(api, every("0 9 * * *")).await;
    let added = parts.deployment(api, json!({})).await;
    let renamed = parts.deployment(api, every("0 9 * * *")).await;
    api.post(&path(&earlier), every("30 9 * * *")).await;
    // Nine o'clock has come, and the scheduler has not looked yet.
    rota.set_time("2026-03-02T09:00:05.000000Z");
    api.post(&path(&due), every("30 9 * * *")).await;
    api.post(&path(&removed), json!({"schedule": null})).await;
    api.post(&path(&added), every("0 9,10 * * *")).await;
    api.post(&path(&renamed), json!({"name": "other", "schedule": every("0 9 * * *")["schedule"]})).await;
    at(&rota, "02T09:00:10").await;
    at(&rota, "02T09:30:00").await;
    at(&rota, "02T10:00:00").await;
    let superseded = vec![range("02T09:00:00", "02T09:00:00", "superseded")];
    for (deployment, runs, skips) in [
        (&earlier, vec!["02T09:30:00"], vec![]),
        (&due, vec!["02T09:30:00"], superseded.clone()),
        (&removed, vec![], superseded),
        (&added, vec!["02T10:00:00"], vec![]),
        (&renamed, vec!["02T09:00:00"], vec![]),
    ] {
        assert_eq!(fired(api, deployment).await, runs);
        assert_eq!(skipped(&rota, deployment).await, skips);
    }
}

#[tokio::test]
async fn a_paused_deployment_waits_for_the_next_occurrence_after_the_pause() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, every("0 * * * *")).await;
    at(&rota, "02T09:00:00").await;
    rota.set_time("2026-03-02T10:00:05.000000Z");
    api.call(&format!("{}/pause", path(&made))).await;
    for time in ["02T10:00:10", "02T11:00:00", "02T12:00:00"] {
        at(&rota, time).await;
    }
    api.post(&path(&made), every("30 * * * *")).await;
    at(&rota, "02T12:30:00").await;
    rota.set_time("2026-03-02T12:59:00.000000Z");
    api.call(&format!("{}/unpause", path(&made))).await;
    for time in ["02T13:00:00", "02T13:30:00"] {
        at(&rota, time).await;
    }
    assert_eq!(fired(api, &made).await, ["02T09:00:00", "02T13:30:00"]);
    assert_eq!(skipped(&rota, &made).await, [range("02T10:00:00", "02T10:00:00", "paused")]);
}

#[tokio::test]
async fn an_archived_deployment_never_fires_again() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let agent = crate::given::agent(api, json!({})).await;
    let with_agent = Parts { agent, environment: parts.environment.clone() };
    let by_hand = parts.deployment(api, every("0 9 * * *")).await;
    let by_agent = with_agent.deployment(api, every("0 9 * * *")).await;
    let manual = with_agent.deployment(api, json!({})).await;
    let stays = parts.deployment(api, every("0 9 * * *")).await;
    rota.set_time("2026-03-02T09:00:05.000000Z");
    api.call(&format!("{}/archive", path(&by_hand))).await;
    api.call(&format!("/v1/agents/{}/archive", id(&with_agent.agent))).await;
    at(&rota, "02T09:00:10").await;
    at(&rota, "03T09:00:00").await;
    for deployment in [&by_hand, &by_agent] {
        assert_eq!(runs(api, deployment).await, [json!(null); 0]);
        assert_eq!(skipped(&rota, deployment).await, [range("02T09:00:00", "02T09:00:00", "archived")]);
    }
    for deployment in [&by_agent, &manual] {
        assert!(api.get(&path(deployment)).await["archived_at"].is_string());
    }
    assert_eq!(fired(api, &stays).await, ["02T09:00:00", "03T09:00:00"]);
}

#[tokio::test]
async fn after_a_downtime_the_latest_occurrence_fires_if_it_is_not_too_old() {
    let cases = [
        // The last look, the next one, what fires, what is passed over.
        ("0 * * * *", "02T10:30:00", vec!["02T10:00:00"], Some(("02T09:00:00", "02T09:00:00"))),
        ("*/5 * * * *", "02T11:04:59", vec!["02T11:00:00"], Some(("02T08:05:00", "02T10:55:00"))),
        ("0 9 * * *", "02T10:00:00", vec!["02T09:00:00"], None),
        ("0 9 * * *", "02T10:00:01", vec![], Some(("02T09:00:00", "02T09:00:00"))),
        ("* 9 * * *", "09T12:00:00", vec![], Some(("02T09:00:00", "09T09:59:00"))),
    ];
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    for (expression, up_again, runs, skip) in cases {
        rota.set_time("2026-03-02T08:00:00.000000Z");
        let made = parts.deployment(&rota.api, every(expression)).await;
        at(&rota, up_again).await;
        assert_eq!(fired(&rota.api, &made).await, runs, "{expression} at {up_again}");
        let skip: Vec<_> = skip.into_iter().map(|(first, last)| range(first, last, "missed")).collect();
        assert_eq!(skipped(&rota, &made).await, skip, "{expression} at {up_again}");
        rota.api.call(&format!("{}/archive", path(&made))).await;
    }
}

#[tokio::test]
async fn occurrences_that_are_missed_one_outage_after_the_other_are_one_range() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.scheduler.catch_up_seconds = 0;
    })
    .await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 * * * *")).await;
    for time in ["02T09:30:00", "02T10:30:00", "02T13:30:00", "02T14:01:00", "02T15:01:01"] {
        at(&rota, time).await;
    }
    assert_eq!(fired(&rota.api, &made).await, ["02T14:00:00"]);
    let missed = [range("02T09:00:00", "02T13:00:00", "missed"), range("02T15:00:00", "02T15:00:00", "missed")];
    assert_eq!(skipped(&rota, &made).await, missed);
}

#[tokio::test]
async fn a_server_that_was_down_catches_up_when_it_is_back() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 * * * *")).await;
    at(&rota, "02T09:00:00").await;
    rota.set_time("2026-03-02T09:59:59.000000Z");
    let rota = rota.restart().await;
    at(&rota, "02T10:00:00").await;
    rota.set_time("2026-03-02T12:20:00.000000Z");
    let rota = rota.restart().await;
    at(&rota, "02T12:20:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00", "02T10:00:00", "02T12:00:00"]);
    assert_eq!(skipped(&rota, &made).await, [range("02T11:00:00", "02T11:00:00", "missed")]);
}

#[tokio::test]
async fn a_clock_that_is_set_back_fires_nothing_twice() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 * * * *")).await;
    let edited = parts.deployment(&rota.api, every("0 * * * *")).await;
    for time in ["02T09:00:00", "02T10:00:00", "02T11:00:00", "02T09:00:00", "02T10:00:00"] {
        at(&rota, time).await;
    }
    // A changed schedule counts from now, also when this now has been before.
    rota.api.post(&path(&edited), every("0,30 * * * *")).await;
    at(&rota, "02T10:59:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00", "02T10:00:00", "02T11:00:00"]);
    assert_eq!(fired(&rota.api, &edited).await, ["02T09:00:00", "02T10:00:00", "02T10:30:00", "02T11:00:00"]);
    for time in ["02T11:00:00", "02T11:30:00", "02T12:00:00"] {
        at(&rota, time).await;
    }
    assert_eq!(fired(&rota.api, &made).await[3..], ["02T12:00:00"]);
    assert_eq!(fired(&rota.api, &edited).await[4..], ["02T11:30:00", "02T12:00:00"]);
    assert_eq!(skipped(&rota, &edited).await, []);
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_is_like_a_downtime() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 * * * *")).await;
    at(&rota, "02T09:00:00").await;
    at(&rota, "05T12:10:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00", "05T12:00:00"]);
    assert_eq!(skipped(&rota, &made).await, [range("02T10:00:00", "05T11:00:00", "missed")]);
}

#[tokio::test]
async fn a_fire_that_fails_pauses_and_delays_no_other() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let doomed = Parts { agent: parts.agent.clone(), environment: environment(api, "doomed").await };
    let mut sound = vec![parts.deployment(api, every("0 9 * * *")).await];
    let unreadable = parts.deployment(api, every("0 9 * * *")).await;
    let archived = doomed.deployment(api, every("0 9 * * *")).await;
    sound.push(parts.deployment(api, every("0 9 * * *")).await);
    api.call(&format!("/v1/environments/{}/archive", id(&doomed.environment))).await;
    tamper(&rota, format!("UPDATE deployments SET initial_events = '[' WHERE id = '{}'", id(&unreadable))).await;
    at(&rota, "02T09:00:00").await;
    for deployment in &sound {
        assert_eq!(runs(api, deployment).await[0]["error"], Value::Null);
    }
    for (deployment, kind) in [(&unreadable, "unknown_error"), (&archived, "environment_archived_error")] {
        let runs = runs(api, deployment).await;
        assert_eq!((runs.len(), &runs[0]["error"]["type"]), (1, &json!(kind)));
        assert_eq!(runs[0]["trigger_context"]["scheduled_at"], "2026-03-02T09:00:00.000000Z");
    }
    assert_eq!(api.all("/v1/sessions", 100).await.len(), 2, "what failed has left nothing");
    let paused = api.get(&path(&archived)).await;
    let reason = json!({"type": "error", "error": {"type": "environment_archived_error"}});
    assert_eq!((&paused["status"], &paused["paused_reason"]), (&json!("paused"), &reason));

    at(&rota, "03T09:00:00").await;
    assert_eq!(fired(api, &archived).await.len(), 1, "one failure is enough");
    api.post(&path(&archived), json!({"environment_id": id(&parts.environment)})).await;
    api.call(&format!("{}/unpause", path(&archived))).await;
    at(&rota, "04T09:00:00").await;
    assert_eq!(fired(api, &archived).await, ["02T09:00:00", "04T09:00:00"]);
    assert_eq!(skipped(&rota, &archived).await, []);
}

#[tokio::test]
async fn a_schedule_that_can_no_longer_be_read_fails_in_sight() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 9 * * *")).await;
    tamper(&rota, format!("UPDATE deployments SET timezone = 'Mars/Phobos' WHERE id = '{}'", id(&made))).await;
    at(&rota, "02T09:00:00").await;
    let runs = runs(&rota.api, &made).await;
    assert_eq!((runs.len(), &runs[0]["error"]["type"]), (1, &json!("unknown_error")));
    assert_eq!(rota.api.get(&path(&made)).await["status"], "paused");
    rota.api.post(&path(&made), every("0 9 * * *")).await;
    rota.api.call(&format!("{}/unpause", path(&made))).await;
    at(&rota, "03T09:00:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00", "03T09:00:00"]);
}

#[tokio::test]
async fn a_fire_that_the_database_fails_is_tried_again() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 9 * * *")).await;
    tamper(&rota, "ALTER TABLE session_inputs RENAME TO gone".to_owned()).await;
    at(&rota, "02T09:00:00").await;
    assert_eq!(runs(&rota.api, &made).await, [json!(null); 0]);
    tamper(&rota, "ALTER TABLE gone RENAME TO session_inputs".to_owned()).await;
    at(&rota, "02T09:00:30").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00"]);
    assert_eq!(rota.api.get(&path(&made)).await["status"], "active");
}

#[tokio::test]
async fn a_deployment_whose_agent_is_gone_is_archived_when_it_is_due() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, every("0 9 * * *")).await;
    tamper(&rota, format!("DELETE FROM agents WHERE id = '{}'", id(&parts.agent))).await;
    at(&rota, "02T08:59:00").await;
    assert_eq!(rota.api.get(&path(&made)).await["archived_at"], Value::Null);
    at(&rota, "02T09:00:00").await;
    assert_eq!(rota.api.get(&path(&made)).await["archived_at"], "2026-03-02T09:00:00.000000Z");
    assert_eq!(runs(&rota.api, &made).await, [json!(null); 0]);
    assert_eq!(skipped(&rota, &made).await, [range("02T09:00:00", "02T09:00:00", "archived")]);
}

#[tokio::test]
async fn jitter_delays_the_fire_and_not_the_occurrence() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.scheduler.jitter = Jitter::HOSTED;
    })
    .await;
    let parts = Parts::new(&rota.api).await;
    let mut made = Vec::new();
    for _ in 0..20 {
        made.push(parts.deployment(&rota.api, every("* * * * *")).await);
    }
    // A minute's jitter is less than nine seconds. Two rounds: the delay is the same in each.
    let mut delays = [const { Vec::new() }; 2];
    for (minute, delays) in (1..).zip(&mut delays) {
        for second in 0..=9 {
            at(&rota, &format!("02T08:{minute:02}:{second:02}")).await;
        }
        for deployment in &made {
            let run = runs(&rota.api, deployment).await.pop().unwrap();
            assert_eq!(run["trigger_context"]["scheduled_at"], format!("2026-03-02T08:{minute:02}:00.000000Z"));
            delays.push(run["created_at"].as_str().unwrap()[17..19].to_owned());
        }
    }
    assert_eq!(delays[0], delays[1]);
    let different: std::collections::BTreeSet<_> = delays[0].iter().collect();
    assert!(different.len() > 3 && !different.contains(&"00".to_owned()), "{different:?}");
}

#[tokio::test]
async fn fires_are_counted_and_their_lateness_is_measured() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    parts.deployment(&rota.api, every("* * * * *")).await;
    at(&rota, "02T09:00:00").await;
    let metrics = rota.api.http.get(format!("{}/metrics", rota.api.base)).send().await.unwrap().text().await.unwrap();
    for line in [
        "rota_scheduled_fires_total{outcome=\"session_created\"}",
        "rota_schedule_gaps_total{reason=\"missed\"}",
        "rota_fire_lateness_seconds_bucket{le=\"1\"}",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}
