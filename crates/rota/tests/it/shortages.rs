//! What runs out for a while, or for good: a sandbox that cannot be started yet, and a log that is full.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use rota_server::{
    db::{Tx, Val},
    limits::MAX_SESSION_EVENTS,
};
use serde_json::{Value, json};

use crate::{
    client::invalid,
    given::{Parts, id, message, script},
    server::Rota,
    stream::{Stream, first, kinds, stop_reason, text},
};

/// A file system for the files of sessions that holds a number of files. Only root makes one.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount anything.
    fn full(data: &Path) -> Option<Self> {
        let sessions = data.join("sessions");
        std::fs::create_dir_all(&sessions).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs"]).arg(&sessions).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(sessions))
    }

    fn give_room(&self) {
        let more = Command::new("mount").args(["-o", "remount,nr_inodes=100000"]).arg(&self.0).status();
        assert!(more.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A server without room for the files of sessions, and a session with a command. The disk goes first when they are dropped.
async fn without_room() -> Option<(Disk, Rota, Value, Stream)> {
    let mut disk = None;
    let rota = Rota::with(|config| disk = Disk::full(&config.data)).await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script("echo once >> count")).await;
    let stream = rota.api.stream_from(id(&session), 0).await;
    Some((disk?, rota, session, stream))
}

#[tokio::test]
async fn a_call_waits_for_a_machine_that_is_short_of_something_and_runs_once() {
    let Some((disk, rota, session, mut stream)) = without_room().await else {
        return eprintln!("not tested: this user may not mount a file system");
    };
    let frames = stream.until("session.status_rescheduled").await;
    let events: Vec<Value> = frames.into_iter().map(|frame| frame.event).collect();
    let error = &first(&events, "session.error")["error"];
    assert_eq!((&error["type"], &error["retry_status"]["type"]), (&json!("unknown_error"), &json!("retrying")));
    assert!(error["message"].as_str().unwrap().contains("No space left"), "{error}");
    assert!(!kinds(&events).contains(&"agent.tool_result"), "the call is open");
    disk.give_room();
    rota.advance_seconds(1);
    let events = stream.turn().await;
    let result = first(&events, "agent.tool_result");
    assert_eq!(result["is_error"], false, "{result}");
    assert_eq!(std::fs::read_to_string(rota.workspace_file(id(&session), "count")).unwrap(), "once\n");
}

#[tokio::test]
async fn a_machine_that_stays_short_of_something_ends_the_turn_and_a_later_message_works() {
    let Some((disk, rota, session, mut stream)) = without_room().await else {
        return eprintln!("not tested: this user may not mount a file system");
    };
    for _ in 0..4 {
        stream.until("session.status_rescheduled").await;
        rota.advance_seconds(60);
    }
    let events = stream.turn().await;
    assert_eq!(first(&events, "session.error")["error"]["retry_status"]["type"], "exhausted");
    assert_eq!(text(first(&events, "agent.tool_result")), "The tool was not run: no sandbox could be started.");
    assert_eq!(stop_reason(&events)["type"], "retries_exhausted");
    disk.give_room();
    rota.api.events(id(&session), json!([script("echo later")])).await;
    assert_eq!(stop_reason(&stream.turn().await)["type"], "end_turn");
}

#[tokio::test]
async fn a_message_for_which_the_log_has_no_room_is_refused_and_an_interrupt_is_not() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    // One at rest, and one that works and has an event waiting.
    for (first, events) in
        [(json!({}), MAX_SESSION_EVENTS - 2), (json!({"initial_events": [message("hi")]}), MAX_SESSION_EVENTS - 3)]
    {
        let session = parts.session(&rota.api, first.clone()).await;
        let works = first != json!({});
        if works {
            rota.api.events(id(&session), json!([message("waits")])).await;
        }
        let name = id(&session).to_owned();
        let fill = "UPDATE sessions SET next_seq = $2 WHERE id = $1";
        let fill = move |tx: &mut Tx<'_>| tx.execute(fill, &[Val::Text(&name), Val::Int(events + 1)]);
        rota.server.app().db.write(fill).await.unwrap();
        let path = format!("/v1/sessions/{}/events", id(&session));
        let refused = invalid(format!(
            "session {} has 49998 of at most 50000 events, and no room for more messages; create another one",
            id(&session)
        ));
        let two = json!({"events": [message("one"), message("too many")]});
        assert_eq!(rota.api.post_refused(&path, two).await, refused, "{works}");
        if works {
            rota.api.events(id(&session), json!([{"type": "user.interrupt"}, {"type": "user.interrupt"}])).await;
        } else {
            rota.api.events(id(&session), json!([message("the last one")])).await;
        }
    }
}
