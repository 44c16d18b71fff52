//! Providers of models that behave as badly as they do on a weekend.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::request::read_request;

/// How a provider answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Well, after a while.
    Slow,
    /// It refuses every request for good.
    Refuses,
    /// It begins a reply and never ends it.
    Hangs,
    /// It has too much to do, until it is told that it has not.
    Recovers,
}

/// A running provider. It ends when it is dropped.
pub struct Provider {
    pub base_url: String,
    is_well: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl Provider {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}", listener.local_addr().expect("its address"));
        let is_well = watch::Sender::new(false);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, manner, is_well.subscribe()));
        Self { base_url, is_well, _serving: serving }
    }

    /// From now on it answers well.
    pub fn recovers(&self) {
        self.is_well.send_replace(true);
    }
}

async fn serve(listener: TcpListener, manner: Manner, is_well: watch::Receiver<bool>) {
    let mut replies = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.expect("a connection");
        replies.spawn(reply(connection, manner, is_well.clone()));
        while replies.try_join_next().is_some() {}
    }
}

async fn reply(mut connection: TcpStream, manner: Manner, is_well: watch::Receiver<bool>) {
    let Some(request) = read_request(&mut connection).await else { return };
    if request.line.starts_with("GET ") {
        // The look of a server that starts.
        drop(connection.write_all(b"HTTP/1.1 404 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
        return;
    }
    let refusal = |kind: &str| json!({"type": "error", "error": {"type": kind, "message": "as on a weekend"}});
    let answer = match manner {
        Manner::Refuses => error(400, &refusal("invalid_request_error")),
        Manner::Recovers if !*is_well.borrow() => error(529, &refusal("overloaded_error")),
        Manner::Hangs => message(&[]),
        Manner::Slow | Manner::Recovers => {
            sleep(Duration::from_secs(if manner == Manner::Slow { 5 } else { 0 })).await;
            let text = json!({"type": "text", "text": ""});
            message(&[
                json!({"type": "content_block_start", "index": 0, "content_block": text}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "done"}}),
                json!({"type": "content_block_stop", "index": 0}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
                json!({"type": "message_stop"}),
            ])
        }
    };
    // Whoever asked may be gone.
    if connection.write_all(answer.as_bytes()).await.is_err() {
        return;
    }
    if manner == Manner::Hangs {
        sleep(Duration::from_hours(1)).await;
    }
    drop(connection.shutdown().await);
}

fn error(status: u16, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The beginning of a message, and these events.
fn message(events: &[Value]) -> String {
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    let message = json!({"id": "msg_1", "role": "assistant", "content": [], "usage": usage});
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_owned();
    let begin = json!({"type": "message_start", "message": message});
    [begin]
        .iter()
        .chain(events)
        .fold(head, |text, data| text + &format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a type")))
}
