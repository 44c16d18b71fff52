//! What reaches the server as bytes: requests in pieces, bodies that nobody wants, what is not HTTP, connections that say
//! nothing.

use std::{
    fs::{self, File},
    net::SocketAddr,
    process::Stdio,
    time::Duration,
};

use reqwest::{Method, StatusCode};
use rota_server::{config::Config, limits};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    client::{Api, forbidden, invalid},
    given::{Parts, id},
    process,
    server::{PATIENCE, Rota},
};

/// A connection that sends and reads bytes as a test wants them.
struct Raw(TcpStream);

/// An answer as it arrived.
#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: Value,
}

impl Raw {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref()).await
    }

    /// The next answer; `None` when the connection ends before one is complete.
    async fn answer(&mut self) -> Option<Answered> {
        let reading = async {
            let mut bytes = Vec::new();
            loop {
                if let Some(answer) = whole(&bytes) {
                    return Some(answer);
                }
                if self.0.read_buf(&mut bytes).await.unwrap_or_default() == 0 {
                    return None;
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("an answer or an end")
    }

    /// Whether the server has ended the connection, once it has.
    async fn ends(&mut self) {
        let reading = async { while self.0.read(&mut [0; 1024]).await.unwrap_or_default() > 0 {} };
        timeout(PATIENCE, reading).await.expect("an end");
    }
}

fn whole(bytes: &[u8]) -> Option<Answered> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let body = bytes.get(end + 4..end + 4 + length)?;
    let body = serde_json::from_slice(body).unwrap_or(Value::Null);
    Some(Answered { status, head, body })
}

/// The head of a request with a key and a body of so many bytes.
fn head(api: &Api, method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {}\r\nanthropic-beta: managed-agents-2026-04-01\r\n\
         content-length: {length}\r\n\r\n",
        api.key
    )
}

#[tokio::test]
async fn a_body_in_pieces_is_read_before_anything_is_done() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let path = format!("/v1/deployments/{}/run", id(&deployment));
    for _ in 0..200 {
        let mut raw = Raw::open(rota.server.address).await;
        raw.send(head(&rota.api, "POST", &path, 2)).await.unwrap();
        for piece in ["{", "}"] {
            sleep(Duration::from_millis(1)).await;
            raw.send(piece).await.expect("the server takes the body");
        }
        assert_eq!(raw.answer().await.expect("an answer").status, 200);
    }
    assert_eq!(rota.api.all("/v1/deployment_runs", 100).await.len(), 200, "one for each answer");
}

#[tokio::test]
async fn a_request_that_breaks_off_in_its_body_does_nothing() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let environment = format!("/v1/environments/{}", id(&parts.environment));
    for (method, path) in [
        ("POST", format!("/v1/deployments/{}/run", id(&deployment))),
        ("POST", format!("/v1/deployments/{}/pause", id(&deployment))),
        ("POST", format!("/v1/agents/{}/archive", id(&parts.agent))),
        ("DELETE", environment.clone()),
    ] {
        let mut raw = Raw::open(rota.server.address).await;
        raw.send(head(&rota.api, method, &path, 2)).await.unwrap();
        raw.send("{").await.unwrap();
        raw.0.shutdown().await.unwrap();
        assert_ne!(raw.answer().await.map(|answer| answer.status), Some(200), "{path}");
    }
    assert!(rota.api.all("/v1/deployment_runs", 100).await.is_empty());
    assert_eq!(rota.api.get(&format!("/v1/deployments/{}", id(&deployment))).await["status"], "active");
    assert_eq!(rota.api.get(&format!("/v1/agents/{}", id(&parts.agent))).await["archived_at"], Value::Null);
    rota.api.get(&environment).await;
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_is_still_sending() {
    let rota = Rota::without_engine().await;
    let stranger = rota.api.with_key("sk-rota-nobody".to_owned());
    for (api, method, path, status) in [
        (&stranger, "POST", "/v1/agents", 401),
        (&rota.api, "POST", "/v1/nothing", 404),
        (&rota.api, "PUT", "/v1/agents", 405),
        (&stranger, "POST", "/healthz", 405),
        (&stranger, "BREW", "/v1/agents", 405),
    ] {
        for _ in 0..20 {
            let mut raw = Raw::open(rota.server.address).await;
            raw.send(head(api, method, path, 100_000)).await.unwrap();
            for _ in 0..2 {
                sleep(Duration::from_millis(1)).await;
                raw.send(vec![b' '; 50_000]).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            }
            assert_eq!(raw.answer().await.expect("an answer").status, status, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_only_announced_is_not_asked_for_when_it_is_refused() {
    let rota = Rota::without_engine().await;
    let asking =
        |api: &Api| head(api, "POST", "/v1/agents", 20).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    let mut raw = Raw::open(rota.server.address).await;
    raw.send(asking(&rota.api.with_key("sk-rota-nobody".to_owned()))).await.unwrap();
    assert_eq!(raw.answer().await.expect("an answer").status, 401);
    let mut raw = Raw::open(rota.server.address).await;
    raw.send(asking(&rota.api)).await.unwrap();
    assert_eq!(raw.answer().await.expect("a word").status, 100);
    raw.send("                  {}").await.unwrap();
    assert_eq!(raw.answer().await.expect("an answer").body["error"]["message"], "name: Field required");
}

/// The series of a metric, without their values.
async fn series(rota: &Rota) -> Vec<String> {
    let text = rota.api.http.get(format!("{}/metrics", rota.api.base)).send().await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with("rota_http_"));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
}

#[tokio::test]
async fn no_client_makes_a_new_series_of_metrics() {
    let rota = Rota::without_engine().await;
    let ask = async |line: &str| {
        let mut raw = Raw::open(rota.server.address).await;
        raw.send(format!("{line} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await.unwrap();
        raw.answer().await.expect("an answer")
    };
    for i in 0..100 {
        let answer = ask(&format!("BREW{i}{} /v1/agents", "X".repeat(i * 10))).await;
        assert_eq!((answer.status, &answer.body["error"]["type"]), (405, &json!("invalid_request_error")));
        assert_eq!(ask(&format!("GET /v1/agents/{i}")).await.status, 401);
        assert_eq!(ask(&format!("GET /nothing/{i}")).await.status, 401);
    }
    let odd: Vec<String> =
        series(&rota).await.into_iter().filter(|one| one.contains("BREW") || one.contains("/nothing")).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    let closed = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "other"];
    for one in series(&rota).await {
        let (_, method) = one.split_once("method=\"").unwrap();
        assert!(closed.contains(&method.split_once('"').unwrap().0), "{one}");
        let (_, route) = one.split_once("route=\"").unwrap();
        let route = route.split_once('"').unwrap().0;
        assert!(route == "none" || !route.chars().any(|c| c.is_ascii_digit() && c != '1'), "{one}");
    }
}

#[tokio::test]
async fn metrics_have_a_listener_and_a_key_of_their_own() {
    // Cargo sets this one for every test.
    let (variable, key) = ("CARGO_PKG_NAME", env!("CARGO_PKG_NAME"));
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.metrics.listen = Some("127.0.0.1:0".to_owned());
        config.metrics.key_env = Some(variable.to_owned());
    })
    .await;
    assert_eq!(rota.api.get_refused("/metrics").await.status, 404, "not where everybody is");
    let own = rota.server.metrics_address.unwrap();
    let get = |path: &str| rota.api.http.get(format!("http://{own}{path}"));
    assert_eq!(get("/metrics").send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(get("/metrics").bearer_auth("another").send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let text = get("/metrics").bearer_auth(key).send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
    assert!(text.contains("rota_http_requests_total"), "{text}");
    assert_eq!(get("/v1/agents").send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_no_http_is_answered_in_the_envelope() {
    let rota = Rota::without_engine().await;
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(2 * limits::MAX_HEADER_BYTES));
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (sent, status, words) in [
        ("hello\r\n\r\n", 400, "is not HTTP"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n", 400, "is not HTTP"),
        ("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: many\r\n\r\n", 400, "is not HTTP"),
        (&long, 431, "more than 32 KB or 100 fields"),
        (&many, 431, "more than 32 KB or 100 fields"),
    ] {
        for before in [None, Some("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")] {
            let mut raw = Raw::open(rota.server.address).await;
            if let Some(before) = before {
                raw.send(before).await.unwrap();
                assert_eq!(raw.answer().await.expect("an answer").status, 200);
            }
            raw.send(sent).await.unwrap();
            let answer = raw.answer().await.expect("an answer");
            let error = &answer.body["error"];
            assert_eq!((answer.status, &error["type"]), (status, &json!("invalid_request_error")), "{sent:.40}");
            assert!(error["message"].as_str().unwrap().contains(words), "{error}");
            let request_id = answer.body["request_id"].as_str().unwrap().to_lowercase();
            assert!(answer.head.contains(&format!("request-id: {request_id}")), "{answer:?}");
            assert!(answer.head.contains("anthropic-organization-id: "), "{answer:?}");
            raw.ends().await;
        }
    }
}

#[tokio::test]
async fn a_page_that_gives_its_name_this_address_reads_nothing() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.http.hosts = vec!["rota.example.com".to_owned()];
    })
    .await;
    let with_host = |path: &str, host: &str| rota.api.request(Method::GET, path).header("host", host);
    let refused =
        forbidden("the `Host` header names none of this server's hosts: its operator lists them in `[http] hosts`");
    for path in ["/v1/agents", "/metrics", "/healthz"] {
        assert_eq!(rota.api.answer(with_host(path, "evil.example.com:7420")).await.refusal(), refused, "{path}");
    }
    for host in ["rota.example.com", "localhost:7420", "127.0.0.1"] {
        rota.api.answer(with_host("/v1/agents", host)).await.success();
    }
}

#[tokio::test]
async fn silent_connections_do_not_shut_out_those_who_speak() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.http.connections = 8;
    })
    .await;
    let mut speaker = Raw::open(rota.server.address).await;
    speaker.send(head(&rota.api, "GET", "/v1/agents", 0)).await.unwrap();
    assert_eq!(speaker.answer().await.expect("an answer").status, 200);
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(Raw::open(rota.server.address).await);
        let mut unfinished = Raw::open(rota.server.address).await;
        unfinished.send("GET /v1/agents HTTP/1.1\r\nx: ").await.unwrap();
        silent.push(unfinished);
    }
    let mut fresh = Raw::open(rota.server.address).await;
    fresh.send(head(&rota.api, "GET", "/v1/agents", 0)).await.unwrap();
    let answer = timeout(Duration::from_secs(1), fresh.answer()).await.expect("within a second");
    assert_eq!(answer.expect("an answer").status, 200);
    silent[0].ends().await;
    speaker.send(head(&rota.api, "GET", "/v1/agents", 0)).await.unwrap();
    assert_eq!(speaker.answer().await.expect("it has its connection still").status, 200);
}

#[tokio::test]
async fn open_streams_keep_their_places_and_one_that_ends_gives_its_own() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.http.connections = 2;
    })
    .await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session(&rota.api, json!({})).await;
    let path = format!("/v1/sessions/{}/events/stream", id(&session));
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::open(rota.server.address).await;
        raw.send(head(&rota.api, "GET", &path, 0)).await.unwrap();
        raw.0.readable().await.unwrap();
        streams.push(raw);
    }
    let mut waiting = Raw::open(rota.server.address).await;
    waiting.send(head(&rota.api, "GET", "/v1/agents", 0)).await.unwrap();
    let answered = timeout(Duration::from_millis(300), waiting.answer()).await;
    assert!(answered.is_err(), "both places are taken");
    drop(streams.pop());
    assert_eq!(waiting.answer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_connection_that_never_asks_is_closed() {
    let rota = Rota::without_engine().await;
    let mut silent = Raw::open(rota.server.address).await;
    let mut slow = Raw::open(rota.server.address).await;
    let mut spoken = Raw::open(rota.server.address).await;
    spoken.send(head(&rota.api, "GET", "/v1/agents", 0)).await.unwrap();
    assert_eq!(spoken.answer().await.expect("an answer").status, 200);
    slow.send("GET /v1/agents HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    // Bytes that trickle in buy no time.
    let (mut reading, mut writing) = slow.0.split();
    let mut dropped = [0; 64];
    let trickle = async {
        while writing.write_all(b"x: y\r\n").await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        read = timeout(PATIENCE, reading.read(&mut dropped)) => drop(read.expect("an end")),
        () = trickle => {}
    }
    silent.ends().await;
    spoken.send(head(&rota.api, "GET", "/v1/agents", 0)).await.unwrap();
    assert_eq!(spoken.answer().await.expect("who has spoken may rest longer").status, 200);
}

#[tokio::test]
async fn a_body_of_more_values_than_there_may_be_is_refused_in_words() {
    let rota = Rota::without_engine().await;
    let body = format!("[{}1]", "[],".repeat(limits::MAX_BODY_NODES));
    let refused = rota.api.answer(rota.api.request(Method::POST, "/v1/agents").body(body)).await.refusal();
    assert_eq!(refused, invalid(format!("the body has more than {} JSON values", limits::MAX_BODY_NODES)));
    let fits = format!("[{}1]", "[],".repeat(limits::MAX_BODY_NODES - 2));
    let refused = rota.api.answer(rota.api.request(Method::POST, "/v1/agents").body(fits)).await.refusal();
    assert_eq!(refused, invalid("Input should be an object"));
}

#[tokio::test]
async fn a_burst_of_failures_writes_a_few_lines_to_the_log() {
    let folder = TempDir::new().unwrap();
    let client = process::Client::new(([127, 0, 0, 1], 0).into(), process::create_key(folder.path(), &[]));
    let server = process::Server::new(folder.path(), &["--concurrency", "0"]);
    let client = process::Client { base: format!("http://{}", server.address), ..client };
    let log = folder.path().join("log");
    let mut running = server.command().stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let ask = async |path: &str| client.request(Method::GET, path).send().await.map(|answer| answer.status());
    let ready = async {
        while !ask("/readyz").await.is_ok_and(|status| status == StatusCode::OK) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ready).await.expect("a server");
    let config = Config { data: folder.path().to_owned(), ..Config::default() };
    let (store, _writer) = rota_server::open_store(&config).await.unwrap();
    store.write(|tx| tx.send("ALTER TABLE agents RENAME TO gone", &[])).await.unwrap();
    for _ in 0..200 {
        assert_eq!(ask("/v1/agents?limit=1").await.unwrap(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let lines = fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains("request failed")).count();
    assert_eq!(lines, limits::LOG_LINES_A_MINUTE as usize);
}

#[tokio::test]
async fn a_server_takes_as_many_files_as_it_may_have() {
    let folder = TempDir::new().unwrap();
    let server = process::Server::new(folder.path(), &["--concurrency", "0"]);
    let command = server.command();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -Sn 300 && exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    let mut running = shell.stdout(Stdio::null()).spawn().unwrap();
    let client = process::Client::new(server.address, String::new());
    let ready = async {
        while client.request(Method::GET, "/healthz").send().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ready).await.expect("a server");
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.id())).unwrap();
    running.kill().unwrap();
    running.wait().unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|column| files.split_whitespace().nth(column).unwrap());
    assert_eq!(soft, hard, "{files}");
}
