//! Sessions at work while their workspace is archived or the organization is disabled.

use std::time::Duration;

use rota_server::{
    db::{Tx, Val},
    resources::{api_keys, organization},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::Api,
    given::{Parts, id, script},
    server::{PATIENCE, Rota, appears},
    stream::kinds,
};

/// A session whose tool runs until the file `go` is there.
async fn working(rota: &Rota, api: &Api) -> Value {
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, script("touch started; while [ ! -e go ]; do sleep 0.02; done")).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    session
}

fn go_on(rota: &Rota, session: &Value) {
    std::fs::write(rota.workspace_file(id(session), "go"), "").unwrap();
}

/// Returns when no runner has the session.
async fn let_go(rota: &Rota, session: &Value) {
    let waiting = async {
        loop {
            let session = id(session).to_owned();
            let sql = "SELECT 1 FROM sessions WHERE id = $1 AND lease_owner IS NULL";
            let read = move |tx: &mut Tx<'_>| tx.one(sql, &[Val::Text(&session)], |_| Ok(()));
            if rota.server.app().db.read(read).await.unwrap().is_some() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the runner leaves");
}

async fn log(api: &Api, session: &Value) -> Vec<Value> {
    api.all(&format!("/v1/sessions/{}/events", id(session)), 1000).await
}

#[tokio::test]
async fn a_session_of_a_disabled_organization_stops_before_its_next_model_request_and_goes_on_when_it_is_enabled() {
    let rota = Rota::start().await;
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    let inside = rota.administrator().await.in_workspace(&workspace);
    let session = working(&rota, &rota.api).await;
    let mut stream = inside.stream_from(id(&session), 0).await;
    rota.server.app().db.write(organization::disable).await.unwrap();
    go_on(&rota, &session);
    let_go(&rota, &session).await;
    let events = log(&inside, &session).await;
    assert_eq!(events.last().unwrap()["type"], "agent.tool_result", "what ran is on record");
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "span.model_request_start").count(), 1);
    assert_eq!(inside.get(&format!("/v1/sessions/{}", id(&session))).await["status"], "running");

    rota.server.app().db.write(organization::enable).await.unwrap();
    let events = stream.turn().await;
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "span.model_request_start").count(), 2);
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "agent.tool_result").count(), 1);
}

#[tokio::test]
async fn a_session_of_an_archived_workspace_ends_before_its_next_model_request() {
    let rota = Rota::start().await;
    let administrator = rota.administrator().await;
    let create = |tx: &mut Tx<'_>| api_keys::create_key(tx, Some("Team"), "a key", None);
    let key = rota.server.app().db.write(create).await.unwrap();
    let team = rota.api.with_key(key.key);
    let session = working(&rota, &team).await;
    administrator.call(&format!("/v1/organizations/workspaces/{}/archive", key.workspace_id)).await;
    go_on(&rota, &session);
    let_go(&rota, &session).await;
    let inside = administrator.in_workspace(key.workspace_id.as_ref());
    let events = log(&inside, &session).await;
    let end = &events[events.len() - 4..];
    let ending =
        ["agent.tool_result", "session.error", "session.thread_status_terminated", "session.status_terminated"];
    assert_eq!(kinds(end), ending);
    let error =
        json!({"type": "unknown_error", "message": "the workspace is archived", "retry_status": {"type": "terminal"}});
    assert_eq!(end[1]["error"], error);
    assert_eq!(inside.get(&format!("/v1/sessions/{}", id(&session))).await["status"], "terminated");
}
