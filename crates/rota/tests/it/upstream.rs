//! A stand-in for a provider of models: it answers by a script and keeps what it was asked.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    future::pending,
    sync::{Arc, Mutex},
};

use rota_server::config::{ModelConfig, Provider};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{given::model, request::read_request};

/// How one request is answered.
pub enum Reply {
    /// With an error: status, headers, body.
    Error(u16, &'static str, Value),
    /// With a message of these blocks, streamed as the Messages API does.
    Message(Vec<Value>),
    /// With a message of these blocks that ends before it is whole.
    Cut(Vec<Value>),
    /// With the beginning of a message, and then nothing.
    Stall,
    /// With a message that declines.
    Refusal,
    /// With a message of these blocks that ends for this reason.
    Stopped(Vec<Value>, &'static str),
    /// With these bytes, head and all.
    Raw(Vec<u8>),
    /// With these bytes, and then nothing.
    Hold(Vec<u8>),
    /// With another reply, in packets of one byte.
    ByByte(Box<Self>),
    /// With a message of these blocks, and these headers.
    Headed(String, Vec<Value>),
    /// Not at all: the connection ends.
    Nothing,
}

type Answer = Box<dyn FnMut(&Value) -> Reply + Send>;

/// A running stand-in. It ends when it is dropped.
pub struct Upstream {
    provider: Provider,
    base_url: String,
    asked: Arc<Mutex<Vec<Value>>>,
    _serving: JoinSet<()>,
}

impl Upstream {
    /// Answers one request after the other by `script`, which must not end too early.
    pub async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        Self::speaking(Provider::Messages, script).await
    }

    /// The same in the dialect of a provider.
    pub async fn speaking(provider: Provider, script: impl IntoIterator<Item = Reply>) -> Self {
        let mut script: VecDeque<Reply> = script.into_iter().collect();
        let over = || Reply::Error(400, "", json!({"error": {"message": "the script is over"}}));
        Self::answering(provider, move |_| script.pop_front().unwrap_or_else(over)).await
    }

    /// Answers each request as `answer` says, which is given its body. Several may be under way at the same time.
    pub async fn answering(provider: Provider, answer: impl FnMut(&Value) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(provider, listener, Arc::new(Mutex::new(Box::new(answer))), Arc::clone(&asked)));
        Self { provider, base_url, asked, _serving: serving }
    }

    /// A model `house` that this upstream answers for.
    pub fn model(&self) -> ModelConfig {
        self.named("house")
    }

    /// The same under another name.
    pub fn named(&self, id: &str) -> ModelConfig {
        ModelConfig {
            upstream: Some(format!("{id}-1")),
            base_url: Some(self.base_url.clone()),
            ..model(id, self.provider)
        }
    }

    /// The bodies of the requests so far.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(provider: Provider, listener: TcpListener, answer: Arc<Mutex<Answer>>, asked: Arc<Mutex<Vec<Value>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        connections.spawn(attend(provider, connection, answer.clone(), asked.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn attend(
    provider: Provider,
    mut connection: TcpStream,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<Value>>>,
) {
    let Some(request) = read_request(&mut connection).await else { return };
    if request.line.starts_with("GET ") {
        // The look of a server that starts. It is no part of the script.
        drop(connection.write_all(refusal(404, "", &json!({"error": "no list"})).as_bytes()).await);
        return;
    }
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let mut reply = {
        asked.lock().unwrap().push(body.clone());
        (answer.lock().unwrap())(&body)
    };
    let mut by_byte = false;
    while let Reply::ByByte(inner) = reply {
        (reply, by_byte) = (*inner, true);
    }
    let bytes = match &reply {
        Reply::Nothing => Vec::new(),
        Reply::Raw(bytes) | Reply::Hold(bytes) => bytes.clone(),
        reply if provider == Provider::OpenAi => completion(reply).into_bytes(),
        reply => spelled(reply).into_bytes(),
    };
    // A client may well hang up before it has read everything.
    connection.set_nodelay(by_byte).unwrap();
    for piece in bytes.chunks(if by_byte { 1 } else { bytes.len().max(1) }) {
        drop(connection.write_all(piece).await);
        tokio::task::yield_now().await;
    }
    match reply {
        Reply::Stall | Reply::Hold(_) => pending().await,
        _ => drop(connection.shutdown().await),
    }
}

fn refusal(status: u16, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// A reply as the Messages API spells it.
fn spelled(reply: &Reply) -> String {
    match reply {
        Reply::Error(status, headers, body) => refusal(*status, headers, body),
        Reply::Message(blocks) => STREAM.to_owned() + &message(blocks) + &end(stop(blocks)),
        Reply::Headed(headers, blocks) => headed(headers) + &message(blocks) + &end(stop(blocks)),
        Reply::Cut(blocks) => STREAM.to_owned() + &message(blocks),
        Reply::Stopped(blocks, reason) => STREAM.to_owned() + &message(blocks) + &end(reason),
        Reply::Refusal => STREAM.to_owned() + &message(&[]) + &end("refusal"),
        Reply::Stall => STREAM.to_owned() + &event(&message_start()),
        Reply::Raw(_) | Reply::Hold(_) | Reply::ByByte(_) | Reply::Nothing => unreachable!("sent as they are"),
    }
}

/// The head of a response that streams.
pub const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn headed(headers: &str) -> String {
    STREAM.replacen("\r\n", &format!("\r\n{headers}"), 1)
}

fn message_start() -> Value {
    let usage = json!({"input_tokens": 5, "output_tokens": 1});
    json!({"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "content": [], "usage": usage}})
}

/// The events of a message with `blocks`, which are texts, thoughts and calls, up to its end.
fn message(blocks: &[Value]) -> String {
    let mut events = event(&message_start());
    for (index, block) in blocks.iter().enumerate() {
        let (start, deltas) = pieces(block);
        events += &event(&json!({"type": "content_block_start", "index": index, "content_block": start}));
        for delta in deltas {
            events += &event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        events += &event(&json!({"type": "content_block_stop", "index": index}));
    }
    events
}

/// A block as it begins, and what is added to it.
fn pieces(block: &Value) -> (Value, Vec<Value>) {
    match block["type"].as_str() {
        Some("text") => {
            (json!({"type": "text", "text": ""}), vec![json!({"type": "text_delta", "text": block["text"]})])
        }
        Some("thinking") => (
            json!({"type": "thinking", "thinking": "", "signature": ""}),
            vec![
                json!({"type": "thinking_delta", "thinking": block["thinking"]}),
                json!({"type": "signature_delta", "signature": block["signature"]}),
            ],
        ),
        _ => (
            json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}),
            vec![json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})],
        ),
    }
}

fn stop(blocks: &[Value]) -> &'static str {
    if blocks.iter().any(|block| block["type"] == "tool_use") { "tool_use" } else { "end_turn" }
}

fn end(stop: &str) -> String {
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 7}});
    event(&delta) + &event(&json!({"type": "message_stop"}))
}

fn event(data: &Value) -> String {
    let mut text = String::new();
    write!(text, "event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap()).unwrap();
    text
}

/// A reply as a chat completion.
fn completion(reply: &Reply) -> String {
    let end = |reason: &str| {
        let usage = json!({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12});
        chunk(&json!({}), Some(reason))
            + &format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage}))
    };
    match reply {
        Reply::Error(status, headers, body) => refusal(*status, headers, body),
        Reply::Message(blocks) => STREAM.to_owned() + &chunks(blocks) + &end(reason(stop(blocks))),
        Reply::Headed(headers, blocks) => headed(headers) + &chunks(blocks) + &end(reason(stop(blocks))),
        Reply::Cut(blocks) => STREAM.to_owned() + &chunks(blocks),
        Reply::Stopped(blocks, stop) => STREAM.to_owned() + &chunks(blocks) + &end(reason(stop)),
        Reply::Refusal => STREAM.to_owned() + &chunks(&[]) + &end("content_filter"),
        Reply::Stall => STREAM.to_owned() + &chunks(&[]),
        Reply::Raw(_) | Reply::Hold(_) | Reply::ByByte(_) | Reply::Nothing => unreachable!("sent as they are"),
    }
}

/// The reason of the Messages API in the words of chat completions.
fn reason(stop: &str) -> &'static str {
    match stop {
        "tool_use" => "tool_calls",
        "max_tokens" => "length",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

fn chunk(delta: &Value, reason: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
    format!("data: {}\n\n", json!({"object": "chat.completion.chunk", "choices": [choice]}))
}

fn chunks(blocks: &[Value]) -> String {
    let mut all = chunk(&json!({"role": "assistant", "content": ""}), None);
    let calls = blocks.iter().filter(|block| block["type"] == "tool_use");
    for block in blocks {
        match block["type"].as_str() {
            Some("text") => all += &chunk(&json!({"content": block["text"]}), None),
            Some("thinking") => all += &chunk(&json!({"reasoning_content": block["thinking"]}), None),
            _ => {
                let index = calls.clone().position(|call| call == block);
                let function = json!({"name": block["name"], "arguments": ""});
                let begun = json!({"index": index, "id": block["id"], "type": "function", "function": function});
                let arguments = json!({"index": index, "function": {"arguments": block["input"].to_string()}});
                all += &chunk(&json!({"tool_calls": [begun]}), None);
                all += &chunk(&json!({"tool_calls": [arguments]}), None);
            }
        }
    }
    all
}
