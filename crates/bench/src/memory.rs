//! What can be done to the server's memory: by strangers without a key, and by one key that does its worst.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    Settings,
    figures::{milliseconds, verdict},
    http,
    machine::{forget_peak, memory_mib},
    server::{Server, user_message},
};

const MIB: usize = 1 << 20;
/// Most memory that anybody may make the server use, in MiB.
const MAX_PEAK_MIB: f64 = 300.0;
/// Most memory that the server may keep afterwards, in MiB.
const MAX_REST_MIB: f64 = 100.0;
/// How long after a deed the memory is looked at again.
const REST: Duration = Duration::from_secs(5);
/// How long one exchange may take; a server may as well close the connection, or never answer.
const EXCHANGE: Duration = Duration::from_secs(30);
/// How long what keeps its connections open keeps them.
const HELD: Duration = Duration::from_secs(5);
/// Sessions that run at the same time: the server's default.
const CONCURRENCY: usize = 16;

/// Requests without a key.
const STRANGERS: usize = 100_000;
/// Connections over which they come.
const STRANGERS_AT_ONCE: usize = 64;
/// Requests whose headers do not end, and how long they are.
const UNFINISHED: usize = 2_000;
const UNFINISHED_BYTES: usize = 390 << 10;
/// Connections that say nothing: more than the server takes.
const SILENT: usize = 12_000;
/// Those in a row that are not taken before no more are tried.
const REFUSED: usize = 8;
/// Large bodies at once, and how large: just below what is taken.
const BODIES: usize = 8;
const BODY_BYTES: usize = 31 * MIB;
/// Streams that nobody reads, and the session that they show: its messages, until one is refused.
const STREAMS: usize = 13;
const MESSAGES: usize = 30;
const MESSAGE_BYTES: usize = 8 * MIB;
/// Deployments in a list, and the text in each, or as much of it as is taken.
const DEPLOYMENTS: usize = 15;
const LISTS_AT_ONCE: usize = 4;

pub async fn measure(settings: &Settings) -> Result<()> {
    println!(
        "## Memory\n\nThe server's resident memory in MiB: at most while something is done to it, and {} s later.\n",
        REST.as_secs()
    );
    println!("| what is done | at most | afterwards | |\n|---|---:|---:|---|");
    let folder = settings.temporary()?;
    let server = Server::start(&settings.rota, &folder.path().join("data"), CONCURRENCY).await?;
    let deployment = &server.create_deployments(1, "hello", &json!({})).await?.remove(0);
    let server = &server;
    let within = [
        row(server, async { Ok("nothing".to_owned()) }).await?,
        row(server, strangers(server.address)).await?,
        row(server, unfinished(server)).await?,
        row(server, silent(server)).await?,
        row(server, bodies(server, &many_values())).await?,
        row(server, bodies(server, &one_text())).await?,
        row(server, unread_streams(server, deployment)).await?,
        row(server, queue(server, deployment)).await?,
        row(server, lists(server, deployment)).await?,
    ];
    println!(
        "\nTarget: at most {MAX_PEAK_MIB:.0} MiB whatever is done, and {MAX_REST_MIB:.0} MiB afterwards: {}.\n",
        verdict(within.into_iter().all(|within| within))
    );
    Ok(())
}

/// Does something to the server, and says what that did to its memory. Whether both bounds held.
async fn row(server: &Server, doing: impl Future<Output = Result<String>>) -> Result<bool> {
    forget_peak(server.pid())?;
    let what = doing.await?;
    let peak = memory_mib(server.pid(), "VmHWM");
    sleep(REST).await;
    let rest = server.memory_mib();
    ensure!(rest.is_finite(), "the server has ended: {what}");
    let within = peak <= MAX_PEAK_MIB && rest <= MAX_REST_MIB;
    println!("| {what} | {peak:.0} | {rest:.0} | {} |", verdict(within));
    Ok(within)
}

/// Requests of every odd kind, none with a key that is known.
async fn strangers(address: SocketAddr) -> Result<String> {
    let client = async |first: usize| {
        let mut answers = 0;
        for number in (first..STRANGERS).step_by(STRANGERS_AT_ONCE) {
            answers += usize::from(!exchange(address, &odd_request(number)).await.is_empty());
        }
        answers
    };
    let answers: usize = join_all((0..STRANGERS_AT_ONCE).map(client)).await.into_iter().sum();
    let metrics = exchange(address, &http::request("GET", "/metrics", "", "")).await.len();
    Ok(format!(
        "{STRANGERS} odd requests without a key, {answers} answers; `/metrics` is then {} KiB long",
        metrics >> 10
    ))
}

fn odd_request(number: usize) -> Vec<u8> {
    let long = "x".repeat(number % 8_000);
    let head = "HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n";
    match number % 10 {
        0 => format!("M{number} /v1/agents {head}\r\n"),
        1 => format!("{}{number} / {head}\r\n", "METHOD".repeat(number % 1_000)),
        2 => format!("GET /v1/{number}/{long} {head}\r\n"),
        3 => format!("POST /v1/agents {head}x-api-key: sk-rota-{number}\r\ncontent-length: 2\r\n\r\n{{}}"),
        4 => format!("GET /v1/agents?{long} {head}x-{number}: {long}\r\n\r\n"),
        5 => format!("GET / HTTP/1.1\r\nhost: host-{number}.example\r\nconnection: close\r\n\r\n"),
        6 => format!("nonsense {number}\r\n\r\n"),
        7 => format!("POST /v1/agents {head}transfer-encoding: chunked\r\n\r\nzz{number}\r\n\r\n"),
        8 => format!("GET /metrics/{number} {head}authorization: Bearer {long}\r\n\r\n"),
        _ => format!("PUT http://{number}.example/v1/agents {head}anthropic-beta: {long}\r\n\r\n"),
    }
    .into_bytes()
}

async fn unfinished(server: &Server) -> Result<String> {
    let mut start = b"GET /v1/agents HTTP/1.1\r\nhost: 127.0.0.1\r\nx-long: ".to_vec();
    start.resize(UNFINISHED_BYTES, b'x');
    let mut held = Vec::new();
    for _ in 0..UNFINISHED {
        let mut stream = connect(server.address).await?;
        // The server need not take it all.
        let _ = timeout(Duration::from_millis(20), stream.write_all(&start)).await;
        held.push(stream);
    }
    hold(server, held, "unfinished headers of 390 KiB").await
}

async fn silent(server: &Server) -> Result<String> {
    let mut held = Vec::new();
    let mut refused = 0;
    while held.len() < SILENT && refused < REFUSED {
        match timeout(Duration::from_millis(200), TcpStream::connect(server.address)).await {
            Ok(Ok(stream)) => {
                held.push(stream);
                refused = 0;
            }
            _ => refused += 1,
        }
    }
    hold(server, held, "connections that say nothing").await
}

/// Keeps connections for a while, and sees how long somebody who has a key waits meanwhile.
async fn hold(server: &Server, held: Vec<TcpStream>, what: &str) -> Result<String> {
    let begin = Instant::now();
    let answer = exchange(server.address, &server.request("GET", "/v1/agents", &Value::Null)).await;
    let waited = milliseconds(begin.elapsed());
    sleep(HELD).await;
    let served = if is_ok(&answer) { format!("answered in {waited:.0} ms") } else { "NOT ANSWERED".to_owned() };
    Ok(format!("{} {what}; a request with a key meanwhile is {served}", held.len()))
}

/// A body that is a tree of as many values as fit.
fn many_values() -> String {
    let mut body = "{\"name\": \"n\", \"metadata\": [".to_owned();
    while body.len() < BODY_BYTES {
        body.push_str("[],");
    }
    body.push_str("[]]}");
    body
}

fn one_text() -> String {
    deployment_body("agent_x", "env_x", BODY_BYTES).to_string()
}

fn deployment_body(agent: &str, environment: &str, bytes: usize) -> Value {
    let message = user_message(&"x".repeat(bytes));
    json!({"name": "large", "agent": agent, "environment_id": environment, "initial_events": [message]})
}

async fn bodies(server: &Server, body: &str) -> Result<String> {
    let request = http::request("POST", "/v1/deployments", &server.key, body);
    let answers = join_all((0..BODIES).map(|_| exchange(server.address, &request))).await;
    let mut statuses: Vec<String> = answers.iter().map(|answer| status(answer)).collect();
    statuses.sort_unstable();
    Ok(format!("{BODIES} of {} MiB at once, answered {}", body.len() / MIB, statuses.join(" ")))
}

/// Sends large messages to a session, until one is refused.
async fn send_messages(server: &Server, session: &str) -> Result<String> {
    let path = format!("/v1/sessions/{session}/events");
    let message = json!({"events": [user_message(&"m".repeat(MESSAGE_BYTES))]});
    let request = server.request("POST", &path, &message);
    for sent in 0..MESSAGES {
        let answer = exchange(server.address, &request).await;
        if !is_ok(&answer) {
            return Ok(format!(
                "{sent} of {} MiB taken by one session, the next answered {}",
                MESSAGE_BYTES / MIB,
                status(&answer)
            ));
        }
    }
    Ok(format!("{MESSAGES} of {} MiB taken by one session", MESSAGE_BYTES / MIB))
}

async fn unread_streams(server: &Server, deployment: &str) -> Result<String> {
    let session = run(server, deployment).await?;
    let said = send_messages(server, &session).await?;
    let request = http::stream_request(&session, &server.key);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = connect(server.address).await?;
        stream.write_all(&request).await?;
        streams.push(stream);
    }
    sleep(HELD).await;
    Ok(format!("{said}; {} streams from its start", streams.len()))
}

/// Messages that wait because the session is at work.
async fn queue(server: &Server, deployment: &str) -> Result<String> {
    let session = run(server, deployment).await?;
    let work = json!({"events": [user_message("```bash\nsleep 20\n```\n")]});
    exchange(server.address, &server.request("POST", &format!("/v1/sessions/{session}/events"), &work)).await;
    send_messages(server, &session).await
}

async fn run(server: &Server, deployment: &str) -> Result<String> {
    let request = server.request("POST", &format!("/v1/deployments/{deployment}/run"), &Value::Null);
    let run: Value = serde_json::from_slice(server.connect().await?.exchange(&request).await?)?;
    Ok(run["session_id"].as_str().context("the run started a session")?.to_owned())
}

async fn lists(server: &Server, deployment: &str) -> Result<String> {
    let request = server.request("GET", &format!("/v1/deployments/{deployment}"), &Value::Null);
    let made: Value = serde_json::from_slice(server.connect().await?.exchange(&request).await?)?;
    let (agent, environment) = (made["agent"]["id"].as_str(), made["environment_id"].as_str());
    let (agent, environment) = agent.zip(environment).context("a deployment has an agent and an environment")?;
    let mut bytes = BODY_BYTES;
    let mut taken = 0;
    while taken < DEPLOYMENTS && bytes > 0 {
        let body = deployment_body(agent, environment, bytes);
        if is_ok(&exchange(server.address, &server.request("POST", "/v1/deployments", &body)).await) {
            taken += 1;
        } else {
            bytes /= 2;
        }
    }
    let request = server.request("GET", "/v1/deployments?limit=100", &Value::Null);
    let answers = join_all((0..LISTS_AT_ONCE).map(|_| exchange(server.address, &request))).await;
    let longest = answers.iter().map(Vec::len).max().unwrap_or(0);
    Ok(format!(
        "{taken} deployments of {:.1} MiB, listed {LISTS_AT_ONCE} times at once; a page is {:.1} MiB long",
        bytes as f64 / MIB as f64,
        longest as f64 / MIB as f64
    ))
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    timeout(EXCHANGE, TcpStream::connect(address)).await.context("no connection")?.context("connecting")
}

/// Sends a request on a connection of its own and returns what comes back until it is whole, the connection ends or
/// nothing comes for long. A server may answer, and close, before it has read everything.
async fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let Ok(stream) = connect(address).await else { return Vec::new() };
    let (mut reader, mut writer) = stream.into_split();
    let mut answer = Vec::new();
    let reading =
        async { while reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) && !http::is_whole(&answer) {} };
    let _ = timeout(EXCHANGE, async { tokio::join!(writer.write_all(request), reading) }).await;
    answer
}

fn is_ok(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 200 ")
}

/// The status of an answer, in digits.
fn status(answer: &[u8]) -> String {
    let digits = answer.get(9..12).unwrap_or(b"nothing");
    String::from_utf8_lossy(digits).into_owned()
}
