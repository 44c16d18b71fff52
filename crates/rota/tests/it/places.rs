//! What sessions and workspaces share: places at work, places of sandboxes, and turns.

use std::{path::Path, time::Duration};

use futures_util::future::join_all;
use rota_server::db::Tx;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    client::Api,
    given::{Parts, agent, environment, id, message, script},
    server::{Rota, appears},
    stream::{first, kinds, text},
    upstream::{Reply, Upstream},
};

/// A call that says that it has started, and ends when it is told to.
const WAITS: &str = "touch started; while [ ! -e go ]; do sleep 0.05; done";

fn path(session: &Value) -> String {
    format!("/v1/sessions/{}", id(session))
}

/// The result of the one call of a session, once it is there.
async fn result(api: &Api, session: &Value) -> Value {
    let events = api.stream_from(id(session), 0).await.until("agent.tool_result").await;
    events.last().unwrap().event.clone()
}

#[tokio::test]
async fn sessions_beyond_the_concurrency_wait_for_their_turn() {
    let upstream = Upstream::start([Reply::Stall]).await;
    let rota = Rota::with(|config| {
        config.engine.concurrency = 1;
        config.models = vec![upstream.model()];
    })
    .await;
    let api = &rota.api;
    let agent = agent(api, json!({"model": "house"})).await;
    let slow = Parts { agent, environment: environment(api, "e").await }.session_with(api, message("hi")).await;
    while upstream.asked().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    let next = Parts::new(api).await.session_with(api, message("hi")).await;
    let list = api.get(&format!("{}/events", path(&next))).await;
    assert_eq!(kinds(list["data"].as_array().unwrap()), ["user.message"]);
    api.events(id(&slow), json!([{"type": "user.interrupt"}])).await;
    api.stream_from(id(&next), 0).await.turn().await;
    assert_eq!(api.get(&path(&slow)).await["status"], "idle", "the first one has ended when the second one runs");
}

#[tokio::test]
async fn a_session_that_waits_for_its_tool_leaves_its_place_to_others() {
    let rota = Rota::with(|config| config.engine.concurrency = 1).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let slow = parts.session_with(api, script(WAITS)).await;
    appears(rota.workspace_file(id(&slow), "started")).await;
    let next = parts.session_with(api, message("hi")).await;
    api.stream_from(id(&next), 0).await.turn().await;
    assert_eq!(api.get(&path(&slow)).await["status"], "running");
    std::fs::write(rota.workspace_file(id(&slow), "go"), "").unwrap();
    assert_eq!(result(api, &slow).await["is_error"], false);
}

#[tokio::test]
async fn sleeping_sessions_of_one_workspace_do_not_hold_the_first_command_of_another() {
    let rota = Rota::with(|config| config.sandbox.places = 4).await;
    let (api, other) = (&rota.api, rota.other_workspace().await);
    let parts = Parts::new(api).await;
    let mut sleeping = Vec::new();
    for _ in 0..8 {
        sleeping.push(parts.session_with(api, script(WAITS)).await);
    }
    let started = |session: &Value| rota.workspace_file(id(session), "started").exists();
    while sleeping.iter().filter(|session| started(session)).count() < 3 {
        sleep(Duration::from_millis(10)).await;
    }
    let others = Parts::new(&other).await;
    for _ in 0..2 {
        let quick = others.session_with(&other, script("echo quick")).await;
        assert!(text(&result(&other, &quick).await).contains("quick"));
    }
    assert_eq!(sleeping.iter().filter(|session| started(session)).count(), 3, "the fourth place is kept");
    // Those that wait for a place are interrupted as others are.
    let waits = sleeping.iter().position(|session| !started(session)).unwrap();
    let waiting = sleeping.remove(waits);
    api.events(id(&waiting), json!([{"type": "user.interrupt"}])).await;
    assert_eq!(result(api, &waiting).await["is_error"], true);

    // In whatever order they started.
    let ends = sleeping.iter().map(async |session| {
        write(&rota.workspace_file(id(session), "go")).await;
        result(api, session).await["is_error"].clone()
    });
    assert_eq!(join_all(ends).await, vec![json!(false); 7], "each of them runs in the end");
}

/// Tells a session to go on, once its folder is there.
async fn write(go: &Path) {
    while std::fs::write(go, "").is_err() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn no_call_is_ended_to_make_room_for_another() {
    let rota = Rota::with(|config| config.sandbox.places = 4).await;
    let parts = Parts::new(&rota.api).await;
    // Several calls a session, so that sandboxes are chosen to end in the moment in which they are used again.
    let calls = "```bash\necho ran >> count; sleep 0.02\n```\n".repeat(5);
    let sessions = join_all((0..20).map(|_| parts.session_with(&rota.api, message(&calls)))).await;
    for session in &sessions {
        let events = rota.api.stream_from(id(session), 0).await.turn().await;
        let report = text(first(&events, "agent.message"));
        assert!(report.starts_with("5 ok, 0 failed"), "{report}");
        assert_eq!(std::fs::read_to_string(rota.workspace_file(id(session), "count")).unwrap(), "ran\n".repeat(5));
    }
}

#[tokio::test]
async fn a_workspace_with_ten_thousand_sessions_that_wait_does_not_keep_another_one_waiting() {
    let rota = Rota::without_engine().await;
    let other = rota.other_workspace().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, message("hi")).await;
    let multiply = |tx: &mut Tx<'_>| {
        let columns = "workspace_id, agent_id, agent_version, agent, environment_id, deployment_id, title, metadata, resources,
            vault_ids, outcomes, status, usage, active_micros, running_since, waiting_on, next_seq, next_input, runnable_at,
            lease_owner, lease_epoch, lease_expires_at, home, created_at, updated_at, archived_at";
        let sql = format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
             INSERT INTO sessions (id, {columns}) SELECT id || n, {columns} FROM sessions, numbers"
        );
        tx.execute(&sql, &[])
    };
    assert_eq!(rota.server.app().db.write(multiply).await.unwrap(), 10_000);
    // The latest of all, of a workspace whose turn may be before or after that of the other.
    let late = Parts::new(&other).await.session_with(&other, message("hi")).await;
    let rota = rota.restart_with(|config| config.engine.concurrency = 4).await;
    let other = other.at(rota.server.address);
    other.stream_from(id(&late), 0).await.turn().await;
    let sql = "SELECT count(*) FROM sessions WHERE runnable_at IS NOT NULL";
    let left = rota.server.app().db.lookup(sql, &[], |row| row.int(0)).await.unwrap().unwrap();
    assert!(left > 5000, "{left} of 10,000 wait");
    assert_ne!(id(&session), id(&late));
}
