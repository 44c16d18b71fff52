//! Files of the most bytes, and archives that hold more than they seem to: what a real server has in memory meanwhile.

use std::{
    io::{Cursor, Write},
    time::Duration,
};

use futures_util::TryStreamExt;
use reqwest::{Method, RequestBuilder};
use rota_server::clock::Clock;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    client::{Api, Refusal, invalid},
    files::{download, large, sending, upload},
    given::{Parts, id, script},
    process::{Server, create_key},
    server::START,
    stream::{first, text},
};

/// Most bytes of a file.
const MOST: usize = 500 * 1024 * 1024;
/// Most memory that a server may ever have had, in MiB.
const MEMORY_MIB: u64 = 100;
/// How long as many bytes may take to get from one place to another on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_mins(5);

/// A server as a process, and a client of it.
async fn server() -> (TempDir, Server, Api) {
    let folder = TempDir::new().unwrap();
    let key = create_key(folder.path(), &[]);
    let mut server = Server::new(folder.path(), &[]);
    server.start().await;
    let api = Api::new(server.address, key, Clock::fixed(START.parse().unwrap()));
    (folder, server, api)
}

/// The most memory that a server has had so far.
fn peak_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().unwrap())).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    // The program itself is several times as large here as what is shipped, and its pages are no memory of the server's.
    (kib("VmHWM:") - kib("RssFile:")) / 1024
}

#[tokio::test]
#[ignore = "it moves two gigabytes: make check runs it when the other tests are done"]
async fn files_of_no_bytes_and_of_the_most_pass_through_a_server_that_keeps_little_in_memory() {
    let (_folder, server, api) = server().await;
    let api = &api;
    let empty = upload(api, "empty", b"").await;
    assert_eq!(empty["size_bytes"], 0);
    let whole = api.answer(sending(api, large(MOST))).await.success();
    assert_eq!(whole["size_bytes"], MOST);
    let refused = api.answer(sending(api, large(MOST + 1))).await.refusal();
    let expected =
        Refusal { status: 413, kind: "request_too_large".to_owned(), message: "file: larger than 500 MB".to_owned() };
    assert_eq!(refused, expected);
    assert_eq!(api.get("/v1/files").await["data"].as_array().unwrap().len(), 2, "nothing is left of the third");

    let resources = json!([
        {"type": "file", "file_id": id(&empty), "mount_path": "empty"},
        {"type": "file", "file_id": id(&whole), "mount_path": "whole"},
    ]);
    let work = format!(
        "cd /mnt/session/uploads && stat -c %s empty whole && tail -c 3 whole \
         && cd ../outputs && touch none && truncate -s {MOST} all"
    );
    let changes = json!({"resources": resources, "initial_events": [script(&work)]});
    let session = Parts::new(api).await.session(api, changes).await;
    let events = timeout(PATIENCE, api.stream_from(id(&session), 0).await.turn()).await.unwrap();
    assert_eq!(text(first(&events, "agent.tool_result")), format!("0\n{MOST}\nxxx"));
    for (name, bytes) in [("none", 0), ("all", MOST)] {
        let mut pieces = download(api, &output(api, id(&session), name).await).await.bytes_stream();
        let mut count = 0;
        while let Some(piece) = pieces.try_next().await.unwrap() {
            assert!(piece.iter().all(|byte| *byte == 0));
            count += piece.len();
        }
        assert_eq!(count, bytes, "{name}");
    }
    let peak = peak_mib(&server);
    assert!(peak < MEMORY_MIB, "the server has had {peak} MiB");
}

/// The id of an output of a session, once the server has taken it in.
async fn output(api: &Api, session: &str, name: &str) -> String {
    let looking = async {
        loop {
            let list = api.get(&format!("/v1/files?scope_id={session}")).await;
            if let Some(file) = list["data"].as_array().unwrap().iter().find(|file| file["filename"] == name) {
                return id(file).to_owned();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{name} is not taken in"))
}

/// An archive with a skill of one file, and files of zeros of so many bytes.
fn archive(manifest: &str, zeros: &[usize]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    archive.start_file("bomb/SKILL.md", options).unwrap();
    archive.write_all(manifest.as_bytes()).unwrap();
    for (number, bytes) in zeros.iter().enumerate() {
        archive.start_file(format!("bomb/{number}"), options).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), *bytes as u64), &mut archive).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn skill(api: &Api, archive: Vec<u8>) -> RequestBuilder {
    let mut body =
        b"--edge\r\nContent-Disposition: form-data; name=\"files[]\"; filename=\"bomb.zip\"\r\n\r\n".to_vec();
    body.extend(archive);
    body.extend(b"\r\n--edge--\r\n");
    let request = api.request(Method::POST, "/v1/skills");
    request.header("content-type", "multipart/form-data; boundary=edge").body(body)
}

#[tokio::test]
async fn archives_that_grow_when_they_are_unpacked_cost_little_memory() {
    const MIB: usize = 1 << 20;
    let (_folder, server, api) = server().await;
    let api = &api;
    let manifest = "---\nname: bomb\ndescription: It grows.\n---\n";
    let too_large = invalid("a skill may have no more than 30 MB, unpacked");
    for zeros in [vec![256 * MIB], vec![MIB; 256], vec![31 * MIB]] {
        assert_eq!(api.answer(skill(api, archive(manifest, &zeros))).await.refusal(), too_large, "{zeros:?}");
    }
    let refused = api.answer(skill(api, archive(manifest, &[20 * MIB]))).await.refusal();
    assert_eq!(refused, invalid("the archive would become more than 200 times as large when it is unpacked"));
    // As large as it may be, in the one file that is read as a text.
    let letter = |at: u64| if at.is_multiple_of(64) { at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 } else { 0 };
    let text: String = (0..1 << 16).map(|at| char::from(b'a' + letter(at) as u8)).collect();
    let whole = format!("{manifest}{}", text.repeat(400));
    let taken = api.answer(skill(api, archive(&whole, &[]))).await.success();
    assert!(id(&taken).starts_with("skill_"));
    let peak = peak_mib(&server);
    assert!(peak < MEMORY_MIB, "the server has had {peak} MiB");
}
