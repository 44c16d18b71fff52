//! One writer at a time: a runner that lost its session writes nothing to it.

use rota_server::db::{Tx, Val};
use serde_json::json;

use crate::{
    given::{Parts, id, message, script},
    server::{Rota, appears, disappears, record},
    stream::{first, kinds},
};

/// How a runner elsewhere takes a session over: a later epoch, for as long as any test takes.
const TAKE_OVER: &str = "UPDATE sessions SET lease_owner = 'elsewhere', lease_epoch = lease_epoch + 1,
    lease_expires_at = 9000000000000000 WHERE id = $1";

#[tokio::test]
async fn a_runner_that_lost_its_lease_writes_nothing() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let waits = "touch started; while [ ! -e go ]; do sleep 0.01; done; touch done";
    let session = parts.session_with(api, script(waits)).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    let name = id(&session).to_owned();
    let take_over = move |tx: &mut Tx<'_>| tx.execute(TAKE_OVER, &[Val::Text(&name)]);
    assert_eq!(rota.server.app().db.write(take_over).await.unwrap(), 1);
    let list = format!("/v1/sessions/{}/events", id(&session));
    let before = api.get(&list).await;
    assert_eq!(kinds(before["data"].as_array().unwrap()).last(), Some(&"span.model_request_end"));

    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    // The runner ends the sandbox when it has let go of a session that another server has.
    disappears(record(&rota.workspace_file(id(&session), ""), id(&session))).await;
    assert!(rota.workspace_file(id(&session), "done").exists(), "the call came to its end");
    assert_eq!(api.get(&list).await, before);
    assert_eq!(api.get(&format!("/v1/sessions/{}", id(&session))).await["status"], "running");
}

#[tokio::test]
async fn a_session_that_comes_back_finds_no_files_of_an_earlier_stay() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session_with(api, script("echo old > note")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.turn().await;
    assert!(rota.workspace_file(id(&session), "note").exists());
    // As after it has been at a server that is gone.
    let name = id(&session).to_owned();
    let moved = "UPDATE sessions SET home = 'gone' WHERE id = $1";
    rota.server.app().db.write(move |tx: &mut Tx<'_>| tx.execute(moved, &[Val::Text(&name)])).await.unwrap();
    for (command, is_error) in [("cat note", true), ("ls -A; test ! -e note", false)] {
        api.events(id(&session), json!([script(command)])).await;
        let events = stream.turn().await;
        assert_eq!(first(&events, "agent.tool_result")["is_error"], is_error, "{events:?}");
    }
}

#[tokio::test]
async fn a_session_whose_lease_ran_out_stays_with_its_runner_when_nobody_else_took_it_up() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let waits = "echo once >> count; touch started; while [ ! -e go ]; do sleep 0.01; done";
    let session = parts.session_with(api, script(waits)).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    rota.advance_seconds(31);
    // By now it would have been taken up: sessions have their turns, and this one comes later.
    let next = parts.session(api, json!({"initial_events": [message("hi")]})).await;
    api.stream_from(id(&next), 0).await.turn().await;
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    let events = stream.turn().await;
    let results: Vec<_> = events.iter().filter(|event| event["type"] == "agent.tool_result").collect();
    assert!(results.len() == 1 && results[0]["is_error"] == false, "{results:?}");
    assert_eq!(std::fs::read_to_string(rota.workspace_file(id(&session), "count")).unwrap(), "once\n");
}
