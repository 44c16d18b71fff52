//! What is told of upstreams when the server starts, and by `rota models check`.

use std::{fs, process::Output, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{process, request::read_request};

/// An address at which every request gets this answer.
async fn answering(status: u16, kind: &str, body: &str) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            if let Some(request) = read_request(&mut connection).await {
                assert!(request.line.starts_with("GET /v1/models"), "nothing is asked of a model: {}", request.line);
                drop(connection.write_all(answer.as_bytes()).await);
            }
        }
    });
    (base_url, serving)
}

/// `rota models check` on a configuration with one upstream at `base_url`.
async fn check(base_url: &str, provider: &str, key: Option<&str>) -> (Output, Value) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("rota.toml");
    let key_line = key.map_or("", |_| "api_key_env = \"LOOKED_AT_KEY\"\n");
    let text = format!("[[models]]\nid = \"house\"\nprovider = {provider:?}\nbase_url = {base_url:?}\n{key_line}");
    std::fs::write(&file, text).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    command.args(["models", "check", "--json", "--config"]).arg(&file);
    if let Some(key) = key {
        command.env("LOOKED_AT_KEY", key);
    }
    let output = command.output().await.unwrap();
    let rows = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output, rows)
}

#[tokio::test]
async fn a_check_says_which_setting_is_wrong_and_what_to_do() {
    let json_type = "application/json";
    let list = json!({"object": "list", "data": [{"id": "house"}]}).to_string();
    let others = json!({"data": [{"id": "cabin"}]}).to_string();
    let refused = json!({"error": {"type": "authentication_error", "message": "bad key sk-1"}}).to_string();
    for (status, kind, body, state, detail) in [
        (200, json_type, &*list, "ok", "it takes the key and has 1 models"),
        (200, json_type, &*others, "ok", "has 1 models"),
        (404, json_type, "{}", "unknown", "has no list of models"),
        (
            401,
            json_type,
            &*refused,
            "wrong",
            "api_key_env: the upstream answered 401 Unauthorized: bad key [key]. The key in",
        ),
        (200, "text/html", "<html>", "wrong", "base_url: it answers with a page for people"),
        (503, json_type, "", "wrong", "base_url: the upstream answered 503 Service Unavailable"),
    ] {
        for provider in ["messages", "openai"] {
            let (base_url, _serving) = answering(status, kind, body).await;
            let (output, rows) = check(&base_url, provider, Some("sk-1")).await;
            assert_eq!((&rows[0]["models"], &rows[0]["base_url"]), (&json!(["house"]), &json!(base_url)));
            assert_eq!(rows[0]["state"], state, "{rows}");
            assert!(rows[0]["detail"].as_str().unwrap().contains(detail), "{rows}");
            assert_eq!(rows[0]["unlisted"] == json!(["house"]), body == others, "{rows}");
            assert_eq!(output.status.success(), state != "wrong");
            assert!(!String::from_utf8_lossy(&output.stdout).contains("sk-1"));
        }
    }
    let (output, rows) = check("http://127.0.0.1:1", "openai", None).await;
    assert_eq!(rows[0]["state"], "wrong");
    assert!(
        rows[0]["detail"].as_str().unwrap().starts_with("base_url: the connection to the upstream failed"),
        "{rows}"
    );
    assert!(!output.status.success());
}

#[tokio::test]
async fn a_server_that_starts_tells_what_is_wrong_and_waits_for_nobody() {
    let (refuses, _refusing) = answering(401, "application/json", "{}").await;
    let (has_no_list, _listless) = answering(404, "application/json", "{}").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    let folder = TempDir::new().unwrap();
    let entry = |(id, base_url): (&str, &String)| {
        format!("[[models]]\nid = {id:?}\nprovider = \"openai\"\nbase_url = {base_url:?}\n")
    };
    let settings = [("guarded", &refuses), ("local", &has_no_list), ("silent", &silent.0)].map(entry).concat();
    let file = folder.path().join("rota.toml");
    fs::write(&file, settings).unwrap();
    process::create_key(folder.path(), &[]);
    let mut server = process::Server::new(folder.path(), &["--config", file.to_str().unwrap()]);
    let log = folder.path().join("log");
    server.log = Some(log.clone());
    server.start().await;
    let told = async {
        loop {
            let log = fs::read_to_string(&log).unwrap();
            if log.contains("models=\"silent\"") && log.contains("models=\"guarded\"") {
                return log;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let log = timeout(process::PATIENCE, told).await.expect("it tells of both");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("[[models]]")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    let of = |model: &str| *warnings.iter().find(|line| line.contains(model)).unwrap();
    assert!(of("guarded").contains("WARN") && of("guarded").contains("api_key_env: the upstream answered 401"));
    assert!(of("silent").contains("base_url: it did not answer within 10s"), "{warnings:#?}");
}
