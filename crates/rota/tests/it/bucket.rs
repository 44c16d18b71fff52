//! Files whose content is in a bucket of an S3-compatible service. `tests/with-s3` starts one.

use std::time::Duration;

use rota_server::{
    config::{BlobsConfig, Config},
    limits::BLOB_ANSWER_TIMEOUT,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    files::{download, files_of, form, large, sending, upload},
    given::{Parts, id, script},
    server::{PATIENCE, Rota},
    stream::{first, text},
    wire::{State, Wire},
};

/// Bytes of a file that is sent in several parts.
const PARTS: usize = 15 * 1024 * 1024 + 1;

/// What the error is when the place of blobs does not do its part.
const AWAY: &str = "the place where files are kept does not answer, or has no room; try again";

/// Where the service is.
fn service() -> String {
    std::env::var("ROTA_TEST_S3").expect("tests/with-s3 says where the service is")
}

/// A server whose files are in the bucket, under a prefix of the test's own.
async fn in_a_bucket(prefix: &str) -> Rota {
    in_a_bucket_at(service(), prefix, |_| {}).await
}

async fn in_a_bucket_at(endpoint: String, prefix: &str, also: impl FnOnce(&mut Config)) -> Rota {
    // The service takes any key: variables that are set anyway stand for one.
    let key = Some("PATH".to_owned());
    let configure = |config: &mut Config| {
        config.blobs = BlobsConfig {
            bucket: Some("rota".to_owned()),
            prefix: Some(prefix.to_owned()),
            endpoint: Some(endpoint),
            access_key_id_env: key.clone(),
            secret_access_key_env: key,
            ..BlobsConfig::default()
        };
        also(config);
    };
    Rota::with(configure).await
}

/// The same behind a line that can fail.
async fn behind_a_line(prefix: &str) -> (Wire, Rota) {
    behind_a_line_with(prefix, |_| {}).await
}

/// The same, configured further by `also`.
pub async fn behind_a_line_with(prefix: &str, also: impl FnOnce(&mut Config)) -> (Wire, Rota) {
    let wire = Wire::to(service().trim_start_matches("http://"));
    let rota = in_a_bucket_at(wire.url(), prefix, also).await;
    (wire, rota)
}

/// How long the server may wait for a bucket, and for a client to see it on a machine that has much else to do.
async fn within_the_bound<T>(answering: impl Future<Output = T>) -> T {
    timeout(BLOB_ANSWER_TIMEOUT + PATIENCE, answering).await.expect("the server does not wait for ever")
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it bucket -- --include-ignored"]
async fn files_are_written_mounted_handed_over_and_swept_in_a_bucket() {
    let rota = in_a_bucket("files/").await;
    let api = &rota.api;
    let small = upload(api, "a.txt", b"in a bucket").await;
    let whole = api.answer(sending(api, large(PARTS))).await.success();
    assert_eq!(whole["size_bytes"], PARTS);
    let resources = json!([
        {"type": "file", "file_id": id(&small), "mount_path": "a"},
        {"type": "file", "file_id": id(&whole), "mount_path": "b"},
    ]);
    let work = "cd /mnt/session/uploads && cat a && wc -c < b && cp b /mnt/session/outputs/";
    let changes = json!({"resources": resources, "initial_events": [script(work)]});
    let session = Parts::new(api).await.session(api, changes).await;
    api.stream_from(id(&session), 0).await.turn().await;
    let files = files_of(api, id(&session), 3).await;
    let output = files.iter().find(|file| file["filename"] == "b").unwrap();
    assert_eq!(download(api, id(output)).await.bytes().await.unwrap().len(), PARTS);
    api.delete(&format!("/v1/files/{}", id(output))).await;
    rota.advance_seconds(3601);
    rota_server::sweep::blobs_once(rota.server.app()).await.unwrap();
    let mut left = std::pin::pin!(rota.server.app().blobs.old());
    let left = futures_util::TryStreamExt::try_next(&mut left).await.unwrap().unwrap_or_default();
    assert_eq!(left.len(), 2, "what the output named is gone");
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it bucket -- --include-ignored"]
async fn a_bucket_that_is_not_there_is_said_within_the_bound() {
    let rota = in_a_bucket("down/").await;
    let rota = rota.restart_with(|config| config.blobs.endpoint = Some("http://127.0.0.1:9".to_owned())).await;
    let answer = rota.api.answer(sending(&rota.api, form(&[("file", Some("a"), b"x")]))).await.refusal();
    assert_eq!((answer.status, &*answer.kind), (529, "overloaded_error"));
    assert_eq!(rota.api.get("/v1/files").await["data"], json!([]));
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it bucket -- --include-ignored"]
async fn an_upload_outlasts_a_line_that_is_cut_once() {
    let (wire, rota) = behind_a_line("cut-once/").await;
    wire.becomes_after(7 << 20, State::Closed);
    let api = &rota.api;
    let (answer, ()) = tokio::join!(api.answer(sending(api, large(PARTS))), async {
        wire.has_become(State::Closed).await;
        wire.is(State::Open);
    });
    assert_eq!(answer.success()["size_bytes"], PARTS);
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it bucket -- --include-ignored"]
async fn an_upload_into_a_bucket_that_goes_away_meanwhile_is_refused_in_time_and_leaves_no_row() {
    let (wire, rota) = behind_a_line("upload/").await;
    let api = &rota.api;
    for state in [State::Closed, State::Silent, State::Dripping] {
        wire.becomes_after(7 << 20, state);
        let refused = within_the_bound(api.answer(sending(api, large(PARTS)))).await.refusal();
        assert_eq!((refused.status, &*refused.kind, &*refused.message), (529, "overloaded_error", AWAY), "{state:?}");
        assert_eq!(api.get("/v1/files").await["data"], json!([]), "{state:?}");
        wire.is(State::Open);
        let whole = api.answer(sending(api, large(PARTS))).await.success();
        api.delete(&format!("/v1/files/{}", id(&whole))).await;
    }
}

/// A file of several parts in the bucket that can be downloaded, of the session that has left it.
async fn output(rota: &Rota) -> String {
    let work = format!("head -c {PARTS} /dev/zero > /mnt/session/outputs/b");
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(&work)).await;
    id(&files_of(&rota.api, id(&session), 1).await[0]).to_owned()
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it bucket -- --include-ignored"]
async fn a_download_from_a_bucket_that_goes_away_ends_in_time_and_is_never_taken_for_the_whole() {
    let (wire, rota) = behind_a_line("download/").await;
    let file = output(&rota).await;
    for state in [State::Closed, State::Silent] {
        wire.is(state);
        let answer = within_the_bound(download(&rota.api, &file)).await;
        assert_eq!(answer.status().as_u16(), 529, "{state:?}");
        assert_eq!(answer.json::<Value>().await.unwrap()["error"]["message"], AWAY, "{state:?}");
        wire.is(State::Open);
        wire.becomes_after(1 << 20, state);
        let cut = within_the_bound(async { download(&rota.api, &file).await.bytes().await }).await;
        assert!(cut.is_err(), "{state:?}: fewer bytes than were announced are an error");
        wire.is(State::Open);
        assert_eq!(download(&rota.api, &file).await.bytes().await.unwrap().len(), PARTS, "{state:?}");
    }
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it bucket -- --include-ignored"]
async fn a_session_whose_files_are_in_a_bucket_that_goes_away_says_so_and_goes_on_when_it_is_back() {
    let (wire, rota) = behind_a_line("mounted/").await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let file = api.answer(sending(api, large(PARTS))).await.success();
    for (bytes, state) in [(0, State::Closed), (1 << 20, State::Closed), (1 << 20, State::Silent)] {
        wire.becomes_after(bytes, state);
        let changes = json!({
            "resources": [{"type": "file", "file_id": id(&file), "mount_path": "a"}],
            "initial_events": [script("wc -c < /mnt/session/uploads/a")],
        });
        let session = parts.session(api, changes).await;
        let mut stream = api.stream_from(id(&session), 0).await;
        let frames = within_the_bound(stream.until("session.status_rescheduled")).await;
        let events: Vec<Value> = frames.into_iter().map(|frame| frame.event).collect();
        let error = &first(&events, "session.error")["error"];
        assert_eq!(
            (&error["message"], &error["retry_status"]["type"]),
            (&json!(AWAY), &json!("retrying")),
            "{state:?}"
        );
        wire.is(State::Open);
        rota.advance_seconds(60);
        assert_eq!(text(first(&stream.turn().await, "agent.tool_result")).trim(), PARTS.to_string(), "{state:?}");
    }
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it bucket -- --include-ignored"]
async fn an_output_is_taken_in_when_the_bucket_is_back() {
    let (wire, rota) = behind_a_line("outputs/").await;
    wire.becomes_after(7 << 20, State::Closed);
    let work = format!("head -c {PARTS} /dev/zero > /mnt/session/outputs/b");
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(&work)).await;
    wire.has_become(State::Closed).await;
    assert_eq!(files_of(&rota.api, id(&session), 0).await, Vec::<Value>::new());
    wire.is(State::Open);
    let path = format!("/v1/files?scope_id={}", id(&session));
    let taken = async {
        loop {
            // The pause before the next try is over.
            rota.advance_seconds(600);
            let list = rota.api.get(&path).await;
            if let Some(file) = list["data"].as_array().unwrap().first() {
                return id(file).to_owned();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let file = within_the_bound(taken).await;
    assert_eq!(download(&rota.api, &file).await.bytes().await.unwrap().len(), PARTS);
}
