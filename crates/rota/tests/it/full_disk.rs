//! What has no room any more, and works again when there is some: the files of sessions, the store, the bytes of files.
//!
//! Only root can make a small file system: `make check` runs these where that is possible.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    checkpoints,
    files::{download, files_of, form, large, sending, upload},
    given::{Parts, id, script},
    server::{PATIENCE, Rota, appears},
    stream::{Stream, first, kinds, stop_reason, text},
};

/// A file system of limited size. Only root makes one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self(at)
    }

    /// One for the files of sessions that has room for none.
    fn full(data: &Path) -> Self {
        Self::mount(data.join("sessions"), "nr_inodes=1")
    }

    /// Takes all that is left. Returns the file that does.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        filler
    }

    fn give_room(&self) {
        let more = Command::new("mount").args(["-o", "remount,nr_inodes=100000"]).arg(&self.0).status();
        assert!(more.unwrap().success());
    }

    /// How many files there are, in folders of any depth.
    fn files(&self) -> usize {
        count(&self.0)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

/// A server without room for the files of sessions, and a session with a command. The disk goes first when they are dropped.
async fn without_room() -> (Disk, Rota, Value, Stream) {
    let mut disk = None;
    let rota = Rota::with(|config| disk = Some(Disk::full(&config.data))).await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script("echo once >> count")).await;
    let stream = rota.api.stream_from(id(&session), 0).await;
    (disk.unwrap(), rota, session, stream)
}

#[tokio::test]
#[ignore = "needs root, who alone can mount a small disk"]
async fn a_call_waits_for_a_machine_that_is_short_of_something_and_runs_once() {
    let (disk, rota, session, mut stream) = without_room().await;
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
    assert_eq!(fs::read_to_string(rota.workspace_file(id(&session), "count")).unwrap(), "once\n");
}

#[tokio::test]
#[ignore = "needs root, who alone can mount a small disk"]
async fn a_machine_that_stays_short_of_something_ends_the_turn_and_a_later_message_works() {
    let (disk, rota, session, mut stream) = without_room().await;
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
#[ignore = "needs root, who alone can mount a small disk"]
async fn a_session_in_a_tool_outlasts_a_full_disk() {
    let mut disks = None;
    // The files of sessions have room: what writes to a full disk is stopped.
    let mount = |data: &Path| {
        let store = Disk::mount(data.to_owned(), "size=32m");
        Some((store, Disk::mount(data.join("sessions"), "size=64m")))
    };
    let rota = Rota::with(|config| disks = mount(&config.data)).await;
    let (disk, _files) = disks.unwrap();
    let waits = "echo once >> count; touch started; while [ ! -e go ]; do sleep 0.01; done; echo done";
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(waits)).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    let filler = disk.fill();
    fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    if rota.database().is_none() {
        assert_eq!(rota.api.post_refused("/v1/environments", json!({"name": "meanwhile"})).await.status, 500);
    }
    sleep(Duration::from_secs(2)).await;
    fs::remove_file(filler).unwrap();
    let events = stream.turn().await;
    let results: Vec<_> = events.iter().filter(|event| event["type"] == "agent.tool_result").collect();
    assert!(results.len() == 1 && results[0]["is_error"] == false, "{results:?}");
    assert_eq!(fs::read_to_string(rota.workspace_file(id(&session), "count")).unwrap(), "once\n");
    assert_eq!(rota.api.get(&format!("/v1/sessions/{}", id(&session))).await["status"], "idle");
}

/// A server whose files have so much room, in the terms of a tmpfs. The disk goes first when they are dropped.
async fn with_room(options: &str) -> (Disk, Rota) {
    let mut disk = None;
    let rota = Rota::with(|config| disk = Some(Disk::mount(config.data.join("blobs"), options))).await;
    (disk.unwrap(), rota)
}

const NO_ROOM: &str = "the place where files are kept does not answer, or has no room; try again";

#[tokio::test]
#[ignore = "needs root, who alone can mount a small disk"]
async fn an_upload_for_which_the_disk_has_no_room_says_so_and_leaves_nothing_behind() {
    let (disk, rota) = with_room("size=4m").await;
    let api = &rota.api;
    let kept = upload(api, "kept", b"kept").await;
    let too_large = || sending(api, large(8 << 20));
    let refused = api.answer(too_large()).await.refusal();
    assert_eq!((refused.status, &*refused.kind, &*refused.message), (529, "overloaded_error", NO_ROOM));
    only_one_file(&disk).await;
    let filler = disk.fill();
    let refused = api.answer(sending(api, form(&[("file", Some("small"), b"x")]))).await.refusal();
    assert_eq!((refused.status, &*refused.kind, &*refused.message), (529, "overloaded_error", NO_ROOM));
    fs::remove_file(filler).unwrap();
    only_one_file(&disk).await;
    let list = api.get("/v1/files").await;
    assert_eq!(list["data"], json!([kept]));
    upload(api, "small", b"x").await;
    let more = Command::new("mount").args(["-o", "remount,size=32m"]).arg(&disk.0).status();
    assert!(more.unwrap().success());
    let whole = api.answer(too_large()).await.success();
    assert_eq!(whole["size_bytes"], 8 << 20);
}

/// Returns when a disk has one file: what was begun is deleted a moment after its request was answered.
async fn only_one_file(disk: &Disk) {
    let looking = async {
        while disk.files() != 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{} files are left", disk.files()));
}

#[tokio::test]
#[ignore = "needs root, who alone can mount a small disk"]
async fn an_output_for_which_the_disk_has_no_room_is_taken_in_when_there_is_some() {
    let (disk, rota) = with_room("size=4m").await;
    let api = &rota.api;
    let work = script("cd /mnt/session/outputs && head -c 8388608 /dev/zero > large && echo small > small");
    let session = Parts::new(api).await.session_with(api, work).await;
    assert_eq!(stop_reason(&api.stream_from(id(&session), 0).await.turn().await)["type"], "end_turn");
    // It was tried, and there was no room.
    let of = id(&session).to_owned();
    let looking = async {
        loop {
            let sql = "SELECT failures FROM session_outputs_due WHERE session_id = $1";
            let of = of.clone();
            let read = move |tx: &mut rota_server::db::Tx<'_>| {
                tx.one(sql, &[rota_server::db::Val::Text(&of)], |row| row.int(0))
            };
            if rota.server.app().db.read(read).await.unwrap().is_some_and(|failures| failures > 0) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap();
    let more = Command::new("mount").args(["-o", "remount,size=32m"]).arg(&disk.0).status();
    assert!(more.unwrap().success());
    rota.advance_seconds(600);
    let files = files_of(api, id(&session), 2).await;
    let large = files.iter().find(|file| file["filename"] == "large").unwrap();
    assert_eq!(download(api, id(large)).await.bytes().await.unwrap().len(), 8 << 20);
}

#[tokio::test]
#[ignore = "needs root, who alone can mount a small disk"]
async fn a_mounted_file_for_which_the_disk_has_no_room_is_said_and_comes_when_there_is_some() {
    let mut disk = None;
    let rota = Rota::with(|config| disk = Some(Disk::mount(config.data.join("sessions"), "size=4m"))).await;
    let (disk, api) = (disk.unwrap(), &rota.api);
    let file = api.answer(sending(api, large(8 << 20))).await.success();
    let changes = json!({
        "resources": [{"type": "file", "file_id": id(&file), "mount_path": "a"}],
        "initial_events": [script("wc -c < /mnt/session/uploads/a")],
    });
    let session = Parts::new(api).await.session(api, changes).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let frames = stream.until("session.status_rescheduled").await;
    let events: Vec<Value> = frames.into_iter().map(|frame| frame.event).collect();
    let error = &first(&events, "session.error")["error"];
    assert_eq!(error["retry_status"]["type"], "retrying");
    assert!(error["message"].as_str().unwrap().contains("No space left"), "{error}");
    let more = Command::new("mount").args(["-o", "remount,size=32m"]).arg(&disk.0).status();
    assert!(more.unwrap().success());
    rota.advance_seconds(60);
    assert_eq!(text(first(&stream.turn().await, "agent.tool_result")).trim(), (8 << 20).to_string());
}

#[tokio::test]
#[ignore = "needs root, who alone can mount a small disk"]
async fn a_checkpoint_for_which_the_disk_has_no_room_is_put_back_when_there_is_some() {
    let mut disk = None;
    let rota = Rota::with(|config| {
        checkpoints::on(config);
        disk = Some(Disk::mount(config.data.join("sessions"), "size=32m"));
    })
    .await;
    let (disk, api) = (disk.unwrap(), &rota.api);
    let work = script("head -c 4000000 /dev/urandom > file && sha256sum file > sum");
    let session = id(&Parts::new(api).await.session_with(api, work).await).to_owned();
    let mut stream = api.stream_from(&session, 0).await;
    stream.turn().await;
    checkpoints::kept(&rota, &session).await;
    checkpoints::moves(&rota, &session).await;
    let filler = disk.fill();
    api.events(&session, json!([script("sha256sum -c sum")])).await;
    let frames = stream.until("session.status_rescheduled").await;
    let events: Vec<Value> = frames.into_iter().map(|frame| frame.event).collect();
    let error = &first(&events, "session.error")["error"];
    assert!(error["message"].as_str().unwrap().contains("could not be brought to this server"), "{error}");
    fs::remove_file(filler).unwrap();
    rota.advance_seconds(60);
    let events = stream.turn().await;
    let result = first(&events, "agent.tool_result");
    assert!(text(result).contains("file: OK"), "{result}");
    let incoming = disk.0.join(".incoming");
    let looking = async {
        while fs::read_dir(&incoming).unwrap().count() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("what was cut off is deleted");
}
