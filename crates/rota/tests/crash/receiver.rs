//! A server that webhooks are sent to: it counts what arrives, and takes its time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::{
    request::{Request, read_request},
    text,
};

/// How long it takes to answer, so that a kill is likely to come between a request and its answer.
const THINKS: Duration = Duration::from_millis(20);

/// A running receiver. It ends when it is dropped.
pub struct Receiver {
    /// Where webhooks are to be sent.
    pub url: String,
    events: Arc<Mutex<HashMap<String, Received>>>,
    _serving: JoinSet<()>,
}

/// An event that arrived.
#[derive(Clone)]
pub struct Received {
    /// What it says.
    pub event: Value,
    /// How often it arrived.
    pub times: usize,
}

impl Receiver {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let events = Arc::<Mutex<HashMap<_, _>>>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, events.clone()));
        Self { url, events, _serving: serving }
    }

    /// Every event that has arrived, by its id.
    pub fn events(&self) -> HashMap<String, Received> {
        self.events.lock().expect("nobody panicked").clone()
    }
}

async fn serve(listener: TcpListener, events: Arc<Mutex<HashMap<String, Received>>>) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(answer(connection, events.clone()));
    }
}

async fn answer(mut connection: TcpStream, events: Arc<Mutex<HashMap<String, Received>>>) {
    while let Some(request) = read_request(&mut connection).await {
        note(&events, &request);
        sleep(THINKS).await;
        // The server may have been killed meanwhile.
        drop(connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await);
    }
}

fn note(events: &Mutex<HashMap<String, Received>>, request: &Request) {
    let event: Value = serde_json::from_str(&request.body).expect("JSON");
    let id = text(&event, "id").to_owned();
    assert_eq!(id, request.headers["webhook-id"]);
    let mut events = events.lock().expect("nobody panicked");
    let received = events.entry(id).or_insert(Received { event: event.clone(), times: 0 });
    assert_eq!(received.event, event, "an event is sent again as it was");
    received.times += 1;
}
