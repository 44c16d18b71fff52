//! Sandboxes in containers, as clients see them. What a daemon, a server and a container do to each other is tested with the sandbox
//! crate; with `tests/with-containers` the tests beside this one have their sandboxes in containers.

use rota_server::config::Backend;
use serde_json::json;

use crate::{
    given::{Parts, id, message, script},
    server::{Rota, containers},
    stream::{first, stop_reason, text},
};

#[tokio::test]
async fn without_a_daemon_a_call_is_tried_again_and_the_turn_ends_with_an_error_that_names_the_setting() {
    let rota = Rota::with(|config| {
        config.sandbox.backend = Backend::Podman;
        config.sandbox.socket = Some(config.data.join("nothing.sock"));
        config.sandbox.image = Some("localhost/nothing:1".to_owned());
    })
    .await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("touch ran")).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    for _ in 0..4 {
        stream.until("session.status_rescheduled").await;
        rota.advance_seconds(60);
    }
    let events = stream.turn().await;
    let error = &first(&events, "session.error")["error"];
    assert_eq!((&error["type"], &error["retry_status"]["type"]), (&json!("unknown_error"), &json!("exhausted")));
    let told = error["message"].as_str().unwrap();
    assert!(told.contains("`socket` in [sandbox]") && !told.contains("nothing.sock"), "{told}");
    assert_eq!(text(first(&events, "agent.tool_result")), "The tool was not run: no sandbox could be started.");
    assert_eq!(stop_reason(&events)["type"], "retries_exhausted");
    // What needs no sandbox works.
    rota.api.events(id(&session), json!([message("nothing to run")])).await;
    assert_eq!(stop_reason(&stream.turn().await)["type"], "end_turn");
}

#[tokio::test]
#[ignore = "needs a container daemon: tests/with-containers"]
async fn an_image_that_the_daemon_does_not_have_is_named_in_the_session_s_error() {
    containers().expect("ROTA_TEST_CONTAINERS");
    let rota = Rota::with(|config| config.sandbox.image = Some("localhost/nothing:1".to_owned())).await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("touch ran")).await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    let error = &first(&events, "session.error")["error"];
    assert_eq!(error["retry_status"]["type"], "exhausted");
    let told = error["message"].as_str().unwrap();
    assert!(told.contains("pull localhost/nothing:1") && told.contains("`image` in [sandbox]"), "{told}");
    assert_eq!(text(first(&events, "agent.tool_result")), "The tool was not run: no sandbox could be started.");
}
