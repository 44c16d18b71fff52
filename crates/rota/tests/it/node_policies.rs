//! Policies of deployments on two servers with one database. On SQLite, which has one server, there is nothing to test here.

use std::{
    cell::Cell,
    path::PathBuf,
    sync::{Mutex, mpsc},
    time::Duration,
};

use rota_api::id::{DeploymentId, Id, SessionId};
use rota_server::{
    config::Role,
    db::{Tx, Val},
    error::Result,
    resources::deployments::{
        active,
        due::{self, Settled},
    },
};
use serde_json::{Value, json};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{
    client::Api,
    database::NEEDED,
    given::{Parts, id, message, over, script},
    occurrences::audit,
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
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn what_rests_on_one_server_makes_room_for_what_the_other_one_fires() {
    let (runner, scheduler) = runner_and_scheduler().await.expect(NEEDED);
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
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_fire_on_one_server_interrupts_the_session_that_works_on_the_other() {
    let (runner, scheduler) = runner_and_scheduler().await.expect(NEEDED);
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

/// A write that has run and is not committed before a test says so.
struct Held<T> {
    commit: mpsc::Sender<()>,
    written: JoinSet<Result<T>>,
}

impl<T: Send + 'static> Held<T> {
    async fn new(rota: &Rota, write: impl Fn(&mut Tx<'_>) -> Result<T> + Send + 'static) -> Self {
        let (ran, has_run) = mpsc::channel();
        let (commit, may_commit) = mpsc::channel();
        let may_commit = Mutex::new(may_commit);
        let held = move |tx: &mut Tx<'_>| {
            let value = write(tx)?;
            // Waits until what was only sent has run, too.
            tx.one("SELECT 1", &[], |_| Ok(()))?;
            ran.send(()).unwrap();
            may_commit.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            Ok(value)
        };
        let db = rota.server.app().db.clone();
        let mut written = JoinSet::new();
        written.spawn(async move { db.write(held).await });
        spawn_blocking(move || has_run.recv_timeout(PATIENCE)).await.unwrap().unwrap();
        Self { commit, written }
    }

    /// Commits once another transaction waits for this one, or `other` is true: then none has to.
    async fn commit_when_waited_for_or(mut self, rota: &Rota, other: impl AsyncFn() -> bool) -> T {
        let waiting = async {
            while !is_waited_for(rota).await && !other().await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("something happens meanwhile");
        self.commit.send(()).unwrap();
        self.written.join_next().await.unwrap().unwrap().unwrap()
    }
}

/// Whether a transaction waits for the rows of another one.
pub async fn is_waited_for(rota: &Rota) -> bool {
    let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1";
    rota.server.app().db.lookup(sql, &[], |_| Ok(())).await.unwrap().is_some()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_place_that_becomes_free_while_an_occurrence_is_being_queued_is_not_overlooked() {
    let (runner, scheduler) = runner_and_scheduler().await.expect(NEEDED);
    let made = slow(&scheduler, &Parts::new(&scheduler.api).await, json!({"overlap": "queue_one"})).await;
    at(&scheduler, "02T08:10:00").await;
    let (session, go) = nth_at_work(&runner, &made, 1).await;
    scheduler.set_time("2026-03-02T08:20:00Z");
    let policy = scheduler.server.app().fire_policy();
    let queueing = Held::new(&scheduler, move |tx| {
        let due = due::list(tx, None, 1)?;
        due::settle(tx, &policy, &due).map(|mut reports| reports.pop().unwrap().settled)
    });
    let queueing = queueing.await;
    std::fs::write(&go, "").unwrap();
    let path = format!("/v1/sessions/{session}");
    let rests = async || scheduler.api.get(&path).await["status"] == "idle";
    let settled = queueing.commit_when_waited_for_or(&scheduler, rests).await;
    assert!(matches!(settled, Settled::Waits(Some(_))), "the session was at work when it was counted");
    scheduler.api.stream_from(&session, 0).await.turn().await;
    at(&scheduler, "02T08:20:01").await;
    assert_eq!(fired(&scheduler.api, &made).await, ["02T08:10:00", "02T08:20:00"]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_place_that_becomes_free_while_a_queue_is_being_set_up_is_not_overlooked() {
    let one = Rota::without_engine().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let made = slow(&one, &Parts::new(&one.api).await, json!({"overlap": "skip"})).await;
    at(&one, "02T08:10:00").await;
    let session = SessionId::trusted(sessions(&one.api, &made).await[0].0.clone());
    let (workspace, deployment) =
        (one.server.first_key.as_ref().unwrap().workspace_id.clone(), DeploymentId::trusted(id(&made).to_owned()));
    // As a runner does it.
    let resting = Held::new(&one, move |tx| {
        tx.execute(
            "UPDATE sessions SET status = 'idle', runnable_at = NULL WHERE id = $1",
            &[Val::Text(session.as_ref())],
        )?;
        active::leave(tx, &workspace, &deployment)
    });
    let resting = resting.await;
    let is_queued = Cell::new(false);
    let queue = async {
        set_policy(&two.api, &made, json!({"overlap": "queue_one"})).await;
        at(&two, "02T08:20:00").await;
        is_queued.set(true);
    };
    tokio::join!(queue, resting.commit_when_waited_for_or(&one, async || is_queued.get()));
    at(&two, "02T08:20:01").await;
    assert_eq!(fired(&one.api, &made).await, ["02T08:10:00", "02T08:20:00"]);
}

/// Lets both schedulers look at the same moment, each twice.
async fn both_at(one: &Rota, two: &Rota, time: &str) {
    one.set_time(&format!("2026-03-{time}Z"));
    tokio::join!(one.tick(), two.tick(), one.tick(), two.tick());
}

/// A deployment for each of `policies` that fires every minute.
async fn every_minute(rota: &Rota, policies: &[Value]) -> Vec<Value> {
    let parts = Parts::new(&rota.api).await;
    let mut deployments = Vec::new();
    for policy in policies {
        let body = over(every("* * * * *"), &json!({"initial_events": [message("hi")]}));
        let made = parts.deployment(&rota.api, body).await;
        set_policy(&rota.api, &made, policy.clone()).await;
        deployments.push(made);
    }
    deployments
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn two_schedulers_that_look_at_the_same_moment_do_what_one_would() {
    let one = Rota::without_engine().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let policies = [
        json!({}),
        json!({"overlap": "skip"}),
        json!({"max_concurrent_sessions": 3}),
        json!({"overlap": "queue_one", "max_concurrent_sessions": 2}),
        json!({"overlap": "cancel_previous"}),
    ];
    let made = every_minute(&one, &policies).await;
    for minute in 1..=20 {
        both_at(&one, &two, &format!("02T08:{minute:02}:00")).await;
    }
    let skips = |first: &str, last: &str, reason| vec![range(first, last, reason)];
    let expected = [
        (20, vec![]),
        (1, skips("02T08:02:00", "02T08:20:00", "overlap")),
        (3, skips("02T08:04:00", "02T08:20:00", "concurrency")),
        (2, skips("02T08:03:00", "02T08:19:00", "overlap")),
        (20, vec![]),
    ];
    for ((made, policy), (count, passed_over)) in made.iter().zip(&policies).zip(expected) {
        assert_eq!(fired(&one.api, made).await.len(), count, "{policy}");
        assert_eq!(sessions(&one.api, made).await.len(), count, "{policy}");
        assert_eq!(skipped(&one, made).await, passed_over, "{policy}");
    }
    let mut interrupts = Vec::new();
    for (session, _) in sessions(&one.api, &made[4]).await {
        let events = one.api.all(&format!("/v1/sessions/{session}/events"), 100).await;
        interrupts.push(events.iter().filter(|event| event["type"] == "user.interrupt").count());
    }
    assert_eq!(interrupts, [&[1; 19][..], &[0]].concat());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn while_two_servers_fire_and_run_no_more_sessions_work_than_may_and_no_occurrence_is_lost() {
    let one = Rota::start().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let limits = [1, 1, 2];
    let policies = [json!({"overlap": "skip"}), json!({"overlap": "queue_one"}), json!({"max_concurrent_sessions": 2})];
    let made = every_minute(&one, &policies).await;
    for minute in 1..=30 {
        both_at(&one, &two, &format!("02T08:{minute:02}:00")).await;
        for (made, most) in made.iter().zip(limits) {
            let statuses = sessions(&two.api, made).await;
            let at_work = statuses.iter().filter(|(_, status)| status == "running").count();
            assert!(at_work <= most, "{statuses:?}");
        }
    }
    for made in &made {
        for (session, _) in sessions(&two.api, made).await {
            two.api.stream_from(&session, 0).await.turn().await;
        }
    }
    // What waited has room now.
    both_at(&one, &two, "02T08:30:30").await;
    for (made, policy) in made.iter().zip(&policies) {
        let fired = fired(&one.api, made).await;
        assert_eq!(sessions(&one.api, made).await.len(), fired.len(), "{policy}");
        let told = audit(&one.api, made, "").await;
        let runs = told.iter().filter(|occurrence| occurrence.ends_with("ran")).count();
        assert_eq!((told.len(), runs), (30, fired.len()), "{policy}: {told:?}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn an_attempt_that_failed_on_one_server_is_repeated_by_whichever_comes_next() {
    let one = Rota::one_session_a_minute().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let parts = Parts::new(&one.api).await;
    let made = parts.deployment(&one.api, every("0 * * * *")).await;
    let retry = json!({"max_attempts": 3, "initial_backoff_seconds": 20, "multiplier": 1});
    set_policy(&one.api, &made, json!({ "retry": retry })).await;
    one.set_time("2026-03-02T08:59:35Z");
    parts.session(&one.api, json!({})).await;
    for (time, count) in [("02T09:00:00", 0), ("02T09:00:20", 0), ("02T09:00:40", 1), ("02T09:01:00", 1)] {
        both_at(&one, &two, time).await;
        assert_eq!(runs(&two.api, &made).await.len(), count, "{time}");
    }
    assert_eq!(runs(&two.api, &made).await[0]["error"], Value::Null);
    assert_eq!(sessions(&two.api, &made).await.len(), 1);
}
