//! Where webhooks go: it takes each in and remembers it.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::request::read_request;

/// A running receiver. It ends when it is dropped.
pub struct Receiver {
    pub url: String,
    got: Arc<Mutex<Vec<Value>>>,
    _serving: JoinSet<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("its address"));
        let got = Arc::<Mutex<Vec<Value>>>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, got.clone()));
        Self { url, got, _serving: serving }
    }

    /// What the events of a type were about.
    pub fn told(&self, kind: &str) -> Vec<Value> {
        let got = self.got.lock().expect("nobody panicked");
        got.iter().map(|event| &event["data"]).filter(|data| data["type"] == kind).cloned().collect()
    }
}

async fn serve(listener: TcpListener, got: Arc<Mutex<Vec<Value>>>) {
    let mut taking = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.expect("a connection");
        taking.spawn(take(connection, got.clone()));
        while taking.try_join_next().is_some() {}
    }
}

async fn take(mut connection: TcpStream, got: Arc<Mutex<Vec<Value>>>) {
    let Some(request) = read_request(&mut connection).await else { return };
    if let Ok(event) = serde_json::from_str(&request.body) {
        got.lock().expect("nobody panicked").push(event);
    }
    drop(connection.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
}
