//! A session is driven by somebody, or it is taken up again: whatever becomes of its runner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rota_server::{
    config::Role,
    db::{Tx, Val},
    limits::HOME_MICROS,
    model::{DeltaSink, Model, ModelRequest, ReplyFuture, playbook::Playbook},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    client::Api,
    database::{Database, NEEDED},
    given::{Parts, agent, environment, id, message, script},
    proxy::{Cut, Proxy},
    server::{Rota, appears},
    stream::stop_reason,
};

/// A call that says that it has started, and ends when it is told to.
const WAITS: &str = "echo once >> count; touch started; while [ ! -e go ]; do sleep 0.01; done; echo done";

fn path(session: &Value) -> String {
    format!("/v1/sessions/{}", id(session))
}

/// That a session comes to rest, takes an interrupt, and can be archived and deleted.
async fn comes_to_rest_and_can_be_deleted(api: &Api, session: &Value) {
    api.once(&path(session), |session| session["status"] == "idle").await;
    api.events(id(session), json!([{"type": "user.interrupt"}])).await;
    api.call(&format!("{}/archive", path(session))).await;
    api.delete(&path(session)).await;
}

/// Returns when more time has passed than a lease lasts, and the server has kept those of its runners meanwhile.
async fn outlives_leases(rota: &Rota) {
    rota.advance_seconds(20);
    let now = rota.clock.now();
    let alive_until = async || {
        let sql = "SELECT max(alive_until) FROM nodes";
        rota.server.app().db.lookup(sql, &[], |row| row.int(0)).await.unwrap().unwrap()
    };
    while alive_until().await < now.plus_micros(HOME_MICROS).micros() {
        sleep(Duration::from_millis(50)).await;
    }
    rota.advance_seconds(20);
}

#[tokio::test]
async fn a_session_that_was_claimed_and_is_driven_by_nobody_is_taken_up_again() {
    let rota = Rota::start().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(WAITS)).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    // As after a claim whose commit nobody heard of: it names this server, and the runner that was there has lost it.
    let name = id(&session).to_owned();
    let claimed = "UPDATE sessions SET lease_epoch = lease_epoch + 1 WHERE id = $1";
    rota.server.app().db.write(move |tx: &mut Tx<'_>| tx.execute(claimed, &[Val::Text(&name)])).await.unwrap();
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();

    outlives_leases(&rota).await;
    comes_to_rest_and_can_be_deleted(&rota.api, &session).await;
}

#[tokio::test]
async fn a_runner_whose_session_was_claimed_again_leaves_it_and_its_call_does_not_run_twice() {
    let rota = Rota::start().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(WAITS)).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    // As after another server had it for a while.
    let name = id(&session).to_owned();
    let claimed = "UPDATE sessions SET lease_epoch = lease_epoch + 1, lease_expires_at = 0 WHERE id = $1";
    rota.server.app().db.write(move |tx: &mut Tx<'_>| tx.execute(claimed, &[Val::Text(&name)])).await.unwrap();
    rota.api.once(&path(&session), |session| session["status"] == "idle").await;
    let results = rota.api.all(&format!("{}/events?types=agent.tool_result", path(&session)), 10).await;
    assert!(results.len() == 1 && results[0]["is_error"] == true, "{results:?}");
    assert_eq!(std::fs::read_to_string(rota.workspace_file(id(&session), "count")).unwrap(), "once\n");
    comes_to_rest_and_can_be_deleted(&rota.api, &session).await;
}

/// A session whose call ends while the database is away for `seconds`.
async fn outlasts_an_outage_of(seconds: i64) {
    let proxy = Proxy::start().expect(NEEDED);
    let rota = Rota::with(|config| config.database = config.database.take().map(|url| proxy.url(&url))).await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(WAITS)).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    proxy.close();
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    // Longer than all tries of a transaction together: whoever gives up has done so.
    sleep(Duration::from_secs(15)).await;
    rota.advance_seconds(seconds);
    proxy.open();
    outlives_leases(&rota).await;
    goes_on(&rota, &session).await;
}

/// That a session comes to its end, and the result of its one call was not lost.
async fn goes_on(rota: &Rota, session: &Value) {
    rota.api.once(&path(session), |session| session["status"] == "idle").await;
    let events = rota.api.all(&format!("{}/events", path(session)), 1000).await;
    let results: Vec<_> = events.iter().filter(|event| event["type"] == "agent.tool_result").collect();
    assert!(results.len() == 1 && results[0]["is_error"] == false, "{results:?}");
    assert_eq!(std::fs::read_to_string(rota.workspace_file(id(session), "count")).unwrap(), "once\n");
    comes_to_rest_and_can_be_deleted(&rota.api, session).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_session_in_a_tool_outlasts_a_short_outage_of_the_database() {
    outlasts_an_outage_of(2).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_session_in_a_tool_outlasts_an_outage_of_the_database_that_is_longer_than_its_lease() {
    outlasts_an_outage_of(40).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_result_whose_commit_loses_its_connection_is_recorded_once() {
    for cut in [Cut::Before, Cut::After] {
        let proxy = Proxy::start().expect(NEEDED);
        let rota = Rota::with(|config| {
            config.database = config.database.take().map(|url| proxy.url(&url));
            config.roles = [Role::Api, Role::Runner].into_iter().collect();
        })
        .await;
        let session = Parts::new(&rota.api).await.session_with(&rota.api, script(WAITS)).await;
        appears(rota.workspace_file(id(&session), "started")).await;
        proxy.cut_next_commit(cut);
        std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
        goes_on(&rota, &session).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_claim_that_nobody_heard_of_runs_out() {
    let proxy = Proxy::start().expect(NEEDED);
    let runner = Rota::with(|config| {
        config.database = config.database.take().map(|url| proxy.url(&url));
        config.roles = [Role::Runner].into_iter().collect();
    })
    .await;
    let direct = runner.database().map(Database::url);
    let rota = runner.beside(|config| {
        config.database = direct;
        config.roles = [Role::Api].into_iter().collect();
    });
    let rota = rota.await.unwrap();
    let parts = Parts::new(&rota.api).await;
    proxy.cut_next_commit(Cut::After);
    let session = parts.session_with(&rota.api, message("hi")).await;
    let claimed = async || {
        let sql = "SELECT 1 FROM sessions WHERE lease_owner IS NOT NULL";
        rota.server.app().db.lookup(sql, &[], |_| Ok(())).await.unwrap().is_some()
    };
    while !claimed().await {
        sleep(Duration::from_millis(20)).await;
    }
    outlives_leases(&runner).await;
    comes_to_rest_and_can_be_deleted(&rota.api, &session).await;
}

#[tokio::test]
async fn a_session_in_a_tool_outlasts_a_store_that_takes_no_writes() {
    let rota = Rota::start().await;
    if rota.database().is_some() {
        // A database of its own process fails in other ways: see above.
        return;
    }
    let db = &rota.server.app().db;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(WAITS)).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    // SQLite refuses each statement that writes, as it does on a full disk.
    for (name, event) in [("full", "UPDATE ON sessions"), ("full_too", "INSERT ON session_events")] {
        let trigger =
            format!("CREATE TRIGGER {name} BEFORE {event} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END");
        db.write(move |tx: &mut Tx<'_>| tx.execute(&trigger, &[])).await.unwrap();
    }
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    // Long enough for whoever gives up to do so.
    sleep(Duration::from_secs(3)).await;
    for name in ["full", "full_too"] {
        db.write(move |tx: &mut Tx<'_>| tx.execute(&format!("DROP TRIGGER {name}"), &[])).await.unwrap();
    }
    outlives_leases(&rota).await;
    goes_on(&rota, &session).await;
}

/// A model that panics as often as it is told to, and then is the playbook.
struct Faulty(AtomicUsize);

impl Model for Faulty {
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        let left = self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "a fault of the test");
        Playbook.reply(request, deltas)
    }
}

/// A server with one place for sessions at work, and a session of a model that panics `times`.
async fn faulty(times: usize) -> (Rota, Value) {
    let add = |offer: rota_server::model::Offer| offer.and("faulty", Arc::new(Faulty(times.into())));
    let rota = Rota::offering(add, |config| config.engine.concurrency = 1).await;
    let agent = agent(&rota.api, json!({"model": "faulty"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("hello")).await;
    (rota, session)
}

#[tokio::test]
async fn a_runner_that_panics_is_followed_by_another_one() {
    let (rota, session) = faulty(2).await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    let requests = events.iter().filter(|event| event["type"] == "span.model_request_end");
    let failed: Vec<bool> = requests.map(|end| end["is_error"].as_bool().unwrap()).collect();
    assert_eq!(failed, [true, true, false]);
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    comes_to_rest_and_can_be_deleted(&rota.api, &session).await;
}

#[tokio::test]
async fn a_session_whose_runners_all_panic_ends_for_good_and_others_run() {
    let (rota, session) = faulty(3).await;
    let ended = rota.api.once(&path(&session), |session| session["status"] != "running").await;
    assert_eq!(ended["status"], "terminated");
    let errors = rota.api.get(&format!("{}/events?types=session.error", path(&session))).await;
    assert_eq!(errors["data"][0]["error"]["retry_status"]["type"], "terminal");
    assert_eq!(errors["data"].as_array().unwrap().len(), 1);
    rota.api.call(&format!("{}/archive", path(&session))).await;
    rota.api.delete(&path(&session)).await;

    let next = Parts::new(&rota.api).await.session_with(&rota.api, message("hi")).await;
    rota.api.stream_from(id(&next), 0).await.turn().await;
}
