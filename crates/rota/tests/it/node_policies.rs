//! Policies of deployments on two servers with one database. On SQLite, which has one server, there is nothing to test here.

use std::{path::PathBuf, sync::mpsc, time::Duration};

use rota_server::{
    config::Role,
    db::Tx,
    resources::deployments::due::{self, Settled},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::Api,
    given::{Parts, id, message, over, script},
    policies::{sessions, set_policy},
    schedules::{at, every, fired, range, runs, skipped},
    server::{PATIENCE, Rota, appears},
};

/// A server that runs sessions, and one that only answers and fires. `None` on SQLite.
async fn runner_and_scheduler() -> Option<(Rota, Rota)> {
    let runner = Rota::start().await;
    let scheduler = runner.beside(|config| config.roles = [Role::Api].into_iter().collect()).await?;
    Some((runner, scheduler))
}

/// A deployment that fires every ten minutes and whose sessions work until they are told to go.
async fn slow(rota: &Rota, parts: &Parts, policy: Value) -> Value {
    let waits = script("touch begun; while [ ! -e go ]; do sleep 0.02; done");
    let made = parts.deployment(&rota.api, over(every("*/10 * * * *"), &json!({"initial_events": [waits]}))).await;
    set_policy(&rota.api, &made, policy).await;
    made
}

/// Waits until the `n`-th session of a deployment is at work on `runner`. Returns it, and the file that lets it go.
async fn nth_at_work(runner: &Rota, deployment: &Value, n: usize) -> (String, PathBuf) {
    let session = sessions(&runner.api, deployment).await[n - 1].0.clone();
    appears(runner.workspace_file(&session, "begun")).await;
    let go = runner.workspace_file(&session, "go");
    (session, go)
}

/// Lets a session of [`slow`] go, and waits until it rests.
async fn let_go(api: &Api, (session, go): &(String, PathBuf)) {
    std::fs::write(go, "").unwrap();
    api.stream_from(session, 0).await.turn().await;
}

#[tokio::test]
async fn what_rests_on_one_server_makes_room_for_what_the_other_one_fires() {
    let Some((runner, scheduler)) = runner_and_scheduler().await else { return };
    let parts = Parts::new(&scheduler.api).await;
    let queued = slow(&scheduler, &parts, json!({"overlap": "queue_one"})).await;
    let skipping = slow(&scheduler, &parts, json!({"overlap": "skip"})).await;
    let limited = slow(&scheduler, &parts, json!({"max_concurrent_sessions": 1})).await;
    let all = [&queued, &skipping, &limited];
    at(&scheduler, "02T08:10:00").await;
    let mut at_work = Vec::new();
    for made in all {
        at_work.push(nth_at_work(&runner, made, 1).await);
    }
    at(&scheduler, "02T08:20:00").await;
    for made in all {
        assert_eq!(fired(&scheduler.api, made).await, ["02T08:10:00"]);
    }
    for session in &at_work {
        let_go(&scheduler.api, session).await;
    }
    at(&scheduler, "02T08:21:00").await;
    assert_eq!(fired(&runner.api, &queued).await, ["02T08:10:00", "02T08:20:00"]);
    for (made, reason) in [(&skipping, "overlap"), (&limited, "concurrency")] {
        assert_eq!(fired(&runner.api, made).await, ["02T08:10:00"]);
        assert_eq!(skipped(&runner, made).await, [range("02T08:20:00", "02T08:20:00", reason)]);
    }
    at(&scheduler, "02T08:30:00").await;
    assert_eq!(fired(&runner.api, &queued).await.len(), 2, "the one that was queued is at work");
    assert_eq!(fired(&runner.api, &skipping).await, ["02T08:10:00", "02T08:30:00"]);
    assert_eq!(fired(&runner.api, &limited).await, ["02T08:10:00", "02T08:30:00"]);
}

#[tokio::test]
async fn a_fire_on_one_server_interrupts_the_session_that_works_on_the_other() {
    let Some((runner, scheduler)) = runner_and_scheduler().await else { return };
    let made = slow(&scheduler, &Parts::new(&scheduler.api).await, json!({"overlap": "cancel_previous"})).await;
    at(&scheduler, "02T08:10:00").await;
    let (first, _) = nth_at_work(&runner, &made, 1).await;
    at(&scheduler, "02T08:20:00").await;
    let events = scheduler.api.stream_from(&first, 0).await.turn().await;
    assert!(events.iter().any(|event| event["type"] == "user.interrupt"));
    nth_at_work(&runner, &made, 2).await;
    let statuses: Vec<String> = sessions(&scheduler.api, &made).await.into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, ["idle", "running"]);
}

#[tokio::test]
async fn a_place_that_becomes_free_while_an_occurrence_is_being_queued_is_not_overlooked() {
    let Some((runner, scheduler)) = runner_and_scheduler().await else { return };
    let made = slow(&scheduler, &Parts::new(&scheduler.api).await, json!({"overlap": "queue_one"})).await;
    at(&scheduler, "02T08:10:00").await;
    let (session, go) = nth_at_work(&runner, &made, 1).await;

    // The other server has counted the session and not committed yet when it comes to rest.
    scheduler.set_time("2026-03-02T08:20:00Z");
    let (counted, has_counted) = mpsc::channel();
    let (commit, may_commit) = mpsc::channel::<()>();
    let may_commit = std::sync::Mutex::new(may_commit);
    let policy = scheduler.server.app().fire_policy();
    let queue = move |tx: &mut Tx<'_>| {
        let due = due::list(tx, None, 1)?.pop().unwrap();
        let report = due::settle(tx, &policy, &due)?;
        counted.send(()).unwrap();
        may_commit.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        Ok(report.settled)
    };
    let db = scheduler.server.app().db.clone();
    let queueing = tokio::spawn(async move { db.write(queue).await });
    let has_counted = tokio::task::spawn_blocking(move || has_counted.recv_timeout(PATIENCE));
    has_counted.await.unwrap().unwrap();
    std::fs::write(&go, "").unwrap();
    let rests = async {
        while !is_waited_for(&scheduler).await && !rests(&scheduler.api, &session).await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, rests).await.expect("the session comes to rest, or waits to");
    commit.send(()).unwrap();
    assert!(matches!(queueing.await.unwrap().unwrap(), Settled::Waits));

    scheduler.api.stream_from(&session, 0).await.turn().await;
    at(&scheduler, "02T08:20:01").await;
    assert_eq!(fired(&scheduler.api, &made).await, ["02T08:10:00", "02T08:20:00"]);
}

/// Whether a transaction waits for the rows of another one.
async fn is_waited_for(rota: &Rota) -> bool {
    let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1";
    rota.server.app().db.lookup(sql, &[], |_| Ok(())).await.unwrap().is_some()
}

async fn rests(api: &Api, session: &str) -> bool {
    api.get(&format!("/v1/sessions/{session}")).await["status"] == "idle"
}
