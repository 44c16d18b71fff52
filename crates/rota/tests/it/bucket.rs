//! Files whose content is in a bucket of an S3-compatible service. `tests/with-s3` starts one.

use rota_server::config::{BlobsConfig, Config};
use serde_json::json;

use crate::{
    files::{download, files_of, form, large, sending, upload},
    given::{Parts, id, script},
    server::Rota,
};

/// Bytes of a file that is sent in several parts.
const PARTS: usize = 15 * 1024 * 1024 + 1;

/// A server whose files are in the bucket, under a prefix of the test's own.
async fn in_a_bucket(prefix: &str) -> Rota {
    let endpoint = std::env::var("ROTA_TEST_S3").expect("tests/with-s3 says where the service is");
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
    };
    Rota::with(configure).await
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
