//! A database that cannot be reached for a while, or whose answer to a commit is lost. On SQLite, which is a file, there is
//! nothing to test here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode};
use rota_server::{
    config::{Role, Roles},
    db::{Tx, Val},
    limits::POSTGRES_WRITERS,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::{Answer, Api, Refusal},
    database::{Database, NEEDED},
    given::{Parts, environment, id, message, over},
    proxy::{Cut, Proxy},
    schedules::{every, fired, path, runs},
    server::{PATIENCE, Rota},
};

/// What a client is told while the database fails.
fn failed() -> Refusal {
    Refusal { status: 500, kind: "api_error".to_owned(), message: "Internal server error".to_owned() }
}

/// A server that reaches its database through `proxy` and does what `roles` say.
async fn behind(proxy: &Proxy, roles: Roles) -> Rota {
    Rota::with(|config| {
        config.database = config.database.take().map(|url| proxy.url(&url));
        config.roles = roles;
    })
    .await
}

async fn run_with_key(api: &Api, deployment: &Value) -> Answer {
    let run = api.request(Method::POST, &format!("{}/run", path(deployment)));
    api.answer(run.header("idempotency-key", "once")).await
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_commit_whose_answer_is_lost_is_no_success_and_can_be_asked_for_again() {
    for cut in [Cut::Before, Cut::After] {
        let proxy = Proxy::start().expect(NEEDED);
        let rota = behind(&proxy, [Role::Api].into_iter().collect()).await;
        let api = &rota.api;
        let made = Parts::new(api).await.deployment(api, json!({})).await;
        proxy.cut_next_commit(cut);
        assert_eq!(run_with_key(api, &made).await.refusal(), failed(), "{cut:?}");
        let there = runs(api, &made).await;
        assert_eq!(there.len(), usize::from(cut == Cut::After));
        let again = run_with_key(api, &made).await.success();
        assert!(there.is_empty() || there[0] == again, "the run of the first time");
        assert_eq!(runs(api, &made).await, [again]);
        let sessions = api.all(&format!("/v1/sessions?deployment_id={}", id(&made)), 100).await;
        assert_eq!(sessions.len(), 1, "{cut:?}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_connection_that_ends_right_after_an_answer_is_replaced_and_the_write_runs_again() {
    let proxy = Proxy::start().map(Arc::new).expect(NEEDED);
    let rota = behind(&proxy, [Role::Api].into_iter().collect()).await;
    let direct = rota.beside(|config| config.database = rota.database().map(Database::url)).await.unwrap();
    let direct = &direct.server.app().db;
    // More often than there are writers: one that does not survive it is missed in the end.
    for number in 0..2 * POSTGRES_WRITERS {
        let tries = Arc::new(AtomicUsize::new(0));
        let (count, dam) = (tries.clone(), proxy.clone());
        let insert = move |tx: &mut Tx<'_>, at| {
            let sql = "INSERT INTO nodes (id, alive_until) VALUES ($1, 0)";
            tx.send(sql, &[Val::Text(&format!("n{number}-{at}"))])
        };
        let write = move |tx: &mut Tx<'_>| {
            // The statement is prepared now; those after the answer are sent without waiting for anything.
            insert(tx, 0)?;
            tx.one("SELECT 1", &[], |_| Ok(()))?;
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                dam.dam(true);
            }
            tx.one("SELECT 'the last answer'", &[], |_| Ok(()))?;
            insert(tx, 1)?;
            insert(tx, 2)
        };
        let end = async {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE '%the last answer%'";
            while direct.lookup(end, &[], |_| Ok(())).await.unwrap().is_none() {
                sleep(Duration::from_millis(5)).await;
            }
            proxy.dam(false);
        };
        let (written, ()) = tokio::join!(rota.server.app().db.write(write), end);
        written.unwrap();
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }
    let there = "SELECT count(*) FROM nodes WHERE alive_until = 0";
    let there = direct.lookup(there, &[], |row| row.int(0)).await.unwrap();
    assert_eq!(there, Some(2 * POSTGRES_WRITERS as i64 * 3));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn an_outage_of_the_database_is_told_and_ends_by_itself() {
    let proxy = Proxy::start().expect(NEEDED);
    let rota = behind(&proxy, Roles::default()).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let body = over(every("* * * * *"), &json!({"initial_events": [message("hi")]}));
    let made = parts.deployment(api, body).await;
    let session = parts.session(api, json!({})).await;
    let mut stream = api.stream(id(&session)).await;
    rota.set_time("2026-03-02T08:01:00Z");
    fires(api, &made, &["02T08:01:00"]).await;

    proxy.close();
    rota.set_time("2026-03-02T08:02:00Z");
    let (read, written, ready) = tokio::join!(
        api.get_refused("/v1/agents"),
        api.post_refused("/v1/environments", json!({"name": "meanwhile"})),
        api.http.get(format!("{}/readyz", api.base)).send()
    );
    assert_eq!([read, written], [failed(), failed()]);
    assert_eq!(ready.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);

    proxy.open();
    fires(api, &made, &["02T08:01:00", "02T08:02:00"]).await;
    assert_eq!(api.http.get(format!("{}/readyz", api.base)).send().await.unwrap().status(), StatusCode::OK);
    rota.set_time("2026-03-02T08:03:00Z");
    fires(api, &made, &["02T08:01:00", "02T08:02:00", "02T08:03:00"]).await;
    api.events(id(&session), json!([message("still there?")])).await;
    stream.turn().await;
    let sessions = api.all(&format!("/v1/sessions?deployment_id={}", id(&made)), 100).await;
    assert_eq!(sessions.len(), 3, "each occurrence has started one");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_database_that_does_not_answer_is_told_and_what_waits_for_it_goes_on() {
    let proxy = Proxy::start().expect(NEEDED);
    let rota = behind(&proxy, [Role::Api].into_iter().collect()).await;
    proxy.silence();
    let silent = async {
        let ready = rota.api.http.get(format!("{}/readyz", rota.api.base)).send().await.unwrap();
        proxy.open();
        ready.status()
    };
    let (made, ready) = tokio::join!(environment(&rota.api, "meanwhile"), silent);
    assert_eq!(ready, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(rota.api.get("/v1/environments").await["data"], json!([made]));
}

/// Waits until the scheduler has fired `occurrences`, and no others.
async fn fires(api: &Api, deployment: &Value, occurrences: &[&str]) {
    let waiting = async {
        while fired(api, deployment).await.len() < occurrences.len() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the scheduler fires");
    assert_eq!(fired(api, deployment).await, occurrences);
}
