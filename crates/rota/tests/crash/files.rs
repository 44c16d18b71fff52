//! Uploads through kills: each row has its bytes, and what was acknowledged has a row.

use std::{collections::HashMap, fs, path::Path, sync::Arc, sync::atomic::Ordering, time::Duration};

use reqwest::{Method, StatusCode};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    World,
    process::{Random, text},
};

/// The largest file, in bytes: several parts of a blob.
const MOST: u64 = 3 << 20;
/// The longest pause between two uploads, in milliseconds.
const PAUSE_MS: u64 = 100;

/// Uploads files until the kills are over. Those that were acknowledged, by id, and the size of each.
pub async fn upload(world: Arc<World>, mut random: Random) -> HashMap<String, usize> {
    let mut acknowledged = HashMap::new();
    while world.killing.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(random.below(PAUSE_MS))).await;
        let content = vec![random.below(256) as u8; random.below(MOST) as usize];
        let head = "--boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
        let body = [head.as_bytes(), &content, b"\r\n--boundary--\r\n"].concat();
        let request = world.client.request(Method::POST, "/v1/files");
        let sent = request.header("content-type", "multipart/form-data; boundary=boundary").body(body).send().await;
        let answer = match sent {
            Ok(response) => {
                let status = response.status();
                response.text().await.map(|body| (status, body))
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok((status, body)) => {
                assert_eq!(status, StatusCode::OK, "{body}");
                let file: Value = serde_json::from_str(&body).expect("JSON");
                acknowledged.insert(text(&file, "id").to_owned(), content.len());
            }
            Err(error) if error.is_connect() => {}
            Err(_) => {
                world.cut_uploads.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    acknowledged
}

/// Checks every row against its bytes, and what was acknowledged against the rows. How many that were.
pub async fn check(world: &World, data: &Path, uploads: &[HashMap<String, usize>]) -> usize {
    let store = rusqlite::Connection::open(data.join("rota.db")).expect("the store");
    let mut rows = store.prepare("SELECT id, blob_id, size_bytes, sha256 FROM files").expect("a table of files");
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    let mut sizes: HashMap<String, usize> = HashMap::new();
    for row in rows.expect("rows") {
        let (id, blob, size, sha256): (String, String, i64, String) = row.expect("a row");
        let place = data.join("blobs").join(&blob[blob.len() - 2..]).join(&blob);
        let bytes = fs::read(&place).unwrap_or_else(|error| panic!("{id} has no bytes: {error}"));
        assert_eq!(bytes.len() as i64, size, "{id}");
        let hash =
            digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        assert_eq!(hash, sha256, "{id}");
        sizes.insert(id, bytes.len());
    }
    let mut count = 0;
    for (id, size) in uploads.iter().flatten() {
        assert_eq!(sizes.get(id), Some(size), "{id} was acknowledged");
        let told = world.client.get(&format!("/v1/files/{id}")).await;
        assert_eq!(told["size_bytes"], *size);
        count += 1;
    }
    assert!(count > 0 && world.cut_uploads.load(Ordering::Relaxed) > 0, "no upload was under way at any kill");
    count
}
