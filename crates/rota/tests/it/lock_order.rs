//! In which order writers of PostgreSQL hold rows that several of them want: a session, then what its deployment has spent, then its
//! failures. On SQLite, which has one writer, there is nothing to test here.

use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use rota_api::id::{DeploymentId, Id};
use rota_server::{
    config::{PriceConfig, Provider},
    db::Val,
    error::Result,
    resources::deployments::failures,
};
use serde_json::{Value, json};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{
    database::NEEDED,
    given::{Parts, agent, environment, id, message, over},
    models::says,
    node_policies::is_waited_for,
    policies::set_policy,
    schedules::path,
    server::{PATIENCE, Rota},
    upstream::{Reply, Upstream},
};

/// A transaction that holds rows, and looks later whether nobody holds the failures of a deployment.
struct Holder {
    look: mpsc::Sender<()>,
    found: JoinSet<Result<bool>>,
}

impl Holder {
    async fn new(rota: &Rota, rows: &'static str, of: String, deployment: String) -> Self {
        let (holds, is_held) = mpsc::channel();
        let (look, may_look) = mpsc::channel();
        let may_look = Mutex::new(may_look);
        let db = rota.server.app().db.clone();
        let mut found = JoinSet::new();
        found.spawn(async move {
            let look = move |tx: &mut rota_server::db::Tx<'_>| {
                let held = tx.one(&format!("SELECT 1 FROM {rows} FOR UPDATE"), &[Val::Text(&of)], |_| Ok(()))?;
                assert!(held.is_some(), "there is such a row: {rows}");
                holds.send(()).unwrap();
                may_look.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                let sql = "SELECT 1 FROM deployment_failures WHERE deployment_id = $1 FOR UPDATE SKIP LOCKED";
                Ok(tx.one(sql, &[Val::Text(&deployment)], |_| Ok(()))?.is_some())
            };
            db.write(look).await
        });
        spawn_blocking(move || is_held.recv_timeout(PATIENCE)).await.unwrap().unwrap();
        Self { look, found }
    }

    /// Looks once another transaction waits for this one.
    async fn finds_failures_free(mut self, rota: &Rota) -> bool {
        let waiting = async {
            while !is_waited_for(rota).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("somebody wants the rows");
        self.look.send(()).unwrap();
        self.found.join_next().await.unwrap().unwrap().unwrap()
    }
}

/// Notes that a run of a deployment has failed.
async fn fails(rota: &Rota, deployment: &Value) {
    let app = rota.server.app();
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.clone();
    let of = DeploymentId::trusted(id(deployment).to_owned());
    app.db.write(move |tx| failures::count(tx, &workspace, &of, None, "no")).await.unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_runner_that_waits_for_what_was_spent_holds_no_failures() {
    let upstream = Upstream::answering(Provider::Messages, |_| Reply::Message(vec![says("hi")])).await;
    let mut model = upstream.model();
    let (input, output) = (50_000.0, 50_000.0);
    model.price = Some(PriceConfig { input, output, cache_read: None, cache_write_5m: None, cache_write_1h: None });
    let rota = Rota::with(|config| config.models.push(model)).await;
    rota.database().expect(NEEDED);
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, json!({"initial_events": [message("hi")]})).await;
    let run = async || api.call(&format!("{}/run", path(&made))).await["session_id"].as_str().unwrap().to_owned();
    let first = run().await;
    api.stream_from(&first, 0).await.turn().await;
    fails(&rota, &made).await;

    let of = id(&made).to_owned();
    let holder = Holder::new(&rota, "deployment_spend WHERE deployment_id = $1", of.clone(), of).await;
    let second = run().await;
    assert!(holder.finds_failures_free(&rota).await, "what was spent comes first");
    api.stream_from(&second, 0).await.turn().await;
    let db = &rota.server.app().db;
    let spent = db.lookup("SELECT CAST(sum(nanos) AS BIGINT) FROM deployment_spend", &[], |row| row.int(0)).await;
    assert_eq!(spent.unwrap(), Some(2 * 600_000_000), "both sessions are counted");
    let failing = db.lookup("SELECT count(*) FROM deployment_failures", &[], |row| row.int(0)).await;
    assert_eq!(failing.unwrap(), Some(0), "a good run ends what has failed");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_policy_that_waits_for_a_session_holds_no_failures() {
    let rota = Rota::without_engine().await;
    rota.database().expect(NEEDED);
    let api = &rota.api;
    let made =
        Parts::new(api).await.deployment(api, over(json!({}), &json!({"initial_events": [message("hi")]}))).await;
    let run = api.call(&format!("{}/run", path(&made))).await;
    let session = run["session_id"].as_str().unwrap().to_owned();
    fails(&rota, &made).await;

    let holder = Holder::new(&rota, "sessions WHERE id = $1", session, id(&made).to_owned()).await;
    let policy = json!({"overlap": "queue_one", "pause_after_failures": 100});
    let (set, is_free) = tokio::join!(set_policy(api, &made, policy), holder.finds_failures_free(&rota));
    assert!(is_free, "sessions come first");
    assert_eq!((&set["overlap"], &set["pause_after_failures"]), (&json!("queue_one"), &json!(100)));
}
