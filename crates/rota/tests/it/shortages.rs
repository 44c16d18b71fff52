//! What runs out for a while, or for good: a sandbox that cannot be started yet, and a log that is full.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rota_server::{
    db::{Tx, Val},
    limits::MAX_SESSION_EVENTS,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    client::invalid,
    given::{Parts, id, message, script},
    server::{Rota, appears},
    stream::{Stream, first, kinds, stop_reason, text},
};

/// A file system of limited size. Only root makes one.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount anything.
    fn mount(at: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(at))
    }

    /// One for the files of sessions that has room for none.
    fn full(data: &Path) -> Option<Self> {
        Self::mount(data.join("sessions"), "nr_inodes=1")
    }

    /// Takes all that is left. Returns the file that does.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        filler
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
async fn a_session_in_a_tool_outlasts_a_full_disk() {
    let mut disks = None;
    // The files of sessions have room: what writes to a full disk is stopped.
    let mount = |data: &Path| {
        let store = Disk::mount(data.to_owned(), "size=32m")?;
        Some((store, Disk::mount(data.join("sessions"), "size=64m")?))
    };
    let rota = Rota::with(|config| disks = mount(&config.data)).await;
    let Some((disk, _files)) = disks else {
        return eprintln!("not tested: this user may not mount a file system");
    };
    let waits = "echo once >> count; touch started; while [ ! -e go ]; do sleep 0.01; done; echo done";
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(waits)).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    let filler = disk.fill();
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    if rota.database().is_none() {
        assert_eq!(rota.api.post_refused("/v1/environments", json!({"name": "meanwhile"})).await.status, 500);
    }
    sleep(Duration::from_secs(2)).await;
    std::fs::remove_file(filler).unwrap();
    let events = stream.turn().await;
    let results: Vec<_> = events.iter().filter(|event| event["type"] == "agent.tool_result").collect();
    assert!(results.len() == 1 && results[0]["is_error"] == false, "{results:?}");
    assert_eq!(std::fs::read_to_string(rota.workspace_file(id(&session), "count")).unwrap(), "once\n");
    assert_eq!(rota.api.get(&format!("/v1/sessions/{}", id(&session))).await["status"], "idle");
}

#[tokio::test]
async fn a_message_for_which_the_log_has_no_room_is_refused_and_an_interrupt_is_not() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    // One at rest, and one that works and has two events waiting.
    for (first, events) in
        [(json!({}), MAX_SESSION_EVENTS - 2), (json!({"initial_events": [message("hi")]}), MAX_SESSION_EVENTS - 4)]
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
