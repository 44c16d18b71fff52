//! A provider of models that begins its replies and ends them when it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::request::read_request;

/// A running provider. It ends when it is dropped.
pub struct SlowModel {
    pub base_url: String,
    asked: Arc<AtomicUsize>,
    goes_on: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl SlowModel {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}", listener.local_addr().expect("its address"));
        let asked = Arc::<AtomicUsize>::default();
        let goes_on = watch::Sender::new(false);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, asked.clone(), goes_on.subscribe()));
        Self { base_url, asked, goes_on, _serving: serving }
    }

    /// How many requests have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends every reply, also those that begin later.
    pub fn go_on(&self) {
        self.goes_on.send_replace(true);
    }
}

async fn serve(listener: TcpListener, asked: Arc<AtomicUsize>, goes_on: watch::Receiver<bool>) {
    let mut replies = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.expect("a connection");
        replies.spawn(reply(connection, asked.clone(), goes_on.clone()));
    }
}

async fn reply(mut connection: TcpStream, asked: Arc<AtomicUsize>, mut goes_on: watch::Receiver<bool>) {
    let Some(request) = read_request(&mut connection).await else { return };
    if request.line.starts_with("GET ") {
        // The look of a server that starts.
        drop(connection.write_all(b"HTTP/1.1 404 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
        return;
    }
    asked.fetch_add(1, Ordering::Relaxed);
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    let message = json!({"id": "msg_1", "role": "assistant", "content": [], "usage": usage});
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_owned();
    let begin = head + &event(&json!({"type": "message_start", "message": message}));
    let text = json!({"type": "text", "text": ""});
    let delta = json!({"type": "text_delta", "text": "done"});
    let end = [
        json!({"type": "content_block_start", "index": 0, "content_block": text}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
        json!({"type": "message_stop"}),
    ];
    // Whoever asked may be gone.
    if connection.write_all(begin.as_bytes()).await.is_ok() && goes_on.wait_for(|goes_on| *goes_on).await.is_ok() {
        let end: String = end.iter().map(event).collect();
        drop(connection.write_all(end.as_bytes()).await);
        drop(connection.shutdown().await);
    }
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a type"))
}
