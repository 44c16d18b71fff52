//! What stands between a server and a service, and knows nothing of what they say: it can cut the line, hold it, or let it
//! through by the drop.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::server::PATIENCE;

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything passes.
    Open,
    /// Connections stay and nothing passes.
    Silent,
    /// A byte passes now and then, so that the line is never silent for long.
    Dripping,
    /// There are no connections, and new ones end at once.
    Closed,
}

/// A line that passes bytes both ways.
pub struct Wire {
    address: SocketAddr,
    line: Arc<Line>,
    // Its thread ends with this.
    _alive: oneshot::Sender<()>,
}

struct Line {
    state: watch::Sender<State>,
    /// Bytes that have passed, either way.
    passed: watch::Sender<u64>,
    /// What becomes of the line once so many have.
    then: watch::Sender<Option<(u64, State)>>,
}

impl Wire {
    /// A line to the service at `address`, `host:port`.
    pub fn to(address: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let own = listener.local_addr().unwrap();
        let line = Arc::new(Line {
            state: watch::Sender::new(State::Open),
            passed: watch::Sender::new(0),
            then: watch::Sender::new(None),
        });
        let (alive, ended) = oneshot::channel();
        let (service, passing) = (address.to_owned(), line.clone());
        // On a thread of its own: it goes on while a test, at its end, waits for the server.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, &service, &passing) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address: own, line, _alive: alive }
    }

    /// The service, seen through the line.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the line is like this.
    pub fn is(&self, state: State) {
        self.line.then.send_replace(None);
        self.line.state.send_replace(state);
    }

    /// The line becomes like this when so many more bytes have passed.
    pub fn becomes_after(&self, bytes: u64, state: State) {
        let at = *self.line.passed.borrow() + bytes;
        self.line.then.send_replace(Some((at, state)));
    }

    /// Returns when the line is like this.
    pub async fn has_become(&self, state: State) {
        let mut seen = self.line.state.subscribe();
        let waiting = timeout(PATIENCE, seen.wait_for(|now| *now == state)).await;
        assert!(waiting.is_ok(), "the line does not become {state:?}");
    }
}

async fn accept(listener: std::net::TcpListener, service: &str, line: &Arc<Line>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if *line.state.borrow() != State::Closed {
            let service = TcpStream::connect(service).await.unwrap();
            connections.spawn(pass(client, service, line.clone()));
        }
    }
}

/// Passes bytes until either side ends the connection, or the line is closed.
async fn pass(client: TcpStream, service: TcpStream, line: Arc<Line>) {
    let (from_client, to_client) = client.into_split();
    let (from_service, to_service) = service.into_split();
    let mut state = line.state.subscribe();
    tokio::select! {
        _ = one_way(from_client, to_service, &line) => {}
        _ = one_way(from_service, to_client, &line) => {}
        _ = state.wait_for(|state| *state == State::Closed) => {}
    }
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Line) -> Option<()> {
    let mut piece = vec![0; 16 * 1024];
    let mut state = line.state.subscribe();
    loop {
        // A line that drips reads no faster than it writes, so that its client feels it.
        let most = if *state.borrow() == State::Dripping { 1 } else { piece.len() };
        let length = from.read(&mut piece[..most]).await.ok().filter(|length| *length > 0)?;
        if *state.wait_for(|state| *state != State::Silent).await.ok()? == State::Dripping {
            sleep(DROP).await;
        }
        to.write_all(&piece[..length]).await.ok()?;
        line.passed.send_modify(|passed| *passed += length as u64);
        let then = *line.then.borrow();
        if let Some((_, next)) = then.filter(|(at, _)| *line.passed.borrow() >= *at) {
            line.then.send_replace(None);
            line.state.send_replace(next);
        }
    }
}

/// The pause before each byte of a line that drips.
const DROP: Duration = Duration::from_millis(100);
