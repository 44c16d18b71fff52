//! What stands between a server and its database, and can cut the line.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rota_server::config::DatabaseUrl;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::database;

/// When a commit loses its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The database never hears of it.
    Before,
    /// The database has done it, and nobody hears of that.
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Silent,
    Closed,
}

/// A proxy of the PostgreSQL server of the tests. It speaks as much of the protocol as it takes to see a commit pass.
pub struct Proxy {
    address: SocketAddr,
    database: String,
    line: Arc<Line>,
    // Its thread ends with this.
    _alive: oneshot::Sender<()>,
}

struct Line {
    state: watch::Sender<State>,
    cut: watch::Sender<Option<Cut>>,
    dams: AtomicBool,
}

impl Line {
    async fn opens(&self) {
        self.state.subscribe().wait_for(|state| *state == State::Open).await.unwrap();
    }
}

impl Proxy {
    /// `None` when tests run on SQLite.
    pub fn start() -> Option<Self> {
        let database = database::address()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Line {
            state: watch::Sender::new(State::Open),
            cut: watch::Sender::new(None),
            dams: AtomicBool::new(false),
        });
        let (alive, ended) = oneshot::channel();
        let accepting = (database.clone(), line.clone());
        // On a thread of its own: it goes on while a test, at its end, waits for the server.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, &accepting.0, &accepting.1) => {}
                    _ = ended => {}
                }
            });
        });
        Some(Self { address, database, line, _alive: alive })
    }

    /// The way to a database through this proxy.
    pub fn url(&self, url: &DatabaseUrl) -> DatabaseUrl {
        DatabaseUrl(url.0.replace(&self.database, &self.address.to_string()))
    }

    /// Ends every connection and lets no new one through.
    pub fn close(&self) {
        self.line.state.send_replace(State::Closed);
    }

    /// Keeps what comes until the line is open again.
    pub fn silence(&self) {
        self.line.state.send_replace(State::Silent);
    }

    /// Lets everything through again.
    pub fn open(&self) {
        self.line.state.send_replace(State::Open);
    }

    /// Holds back what the database says on a connection from now on until it ends that; then all of it arrives at once.
    pub fn dam(&self, dams: bool) {
        self.line.dams.store(dams, Ordering::Relaxed);
    }

    /// Ends the connection of the next commit.
    pub fn cut_next_commit(&self, cut: Cut) {
        self.line.cut.send_replace(Some(cut));
    }
}

async fn accept(listener: std::net::TcpListener, database: &str, line: &Arc<Line>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if *line.state.borrow() != State::Closed {
            let server = TcpStream::connect(database).await.unwrap();
            connections.spawn(pass(client, server, line.clone()));
        }
    }
}

/// Passes messages between a client and the database until either ends the connection, or the line is cut.
async fn pass(client: TcpStream, server: TcpStream, line: Arc<Line>) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let swallows = AtomicBool::new(false);
    let there = async {
        // The first message of a connection has no type.
        let mut message = next(&mut from_client, 0).await?;
        loop {
            let cut = if is_commit(&message) { line.cut.send_replace(None) } else { None };
            match cut {
                Some(Cut::Before) => return None,
                Some(Cut::After) => swallows.store(true, Ordering::Relaxed),
                None => {}
            }
            line.opens().await;
            to_server.write_all(&message).await.ok()?;
            message = next(&mut from_client, 1).await?;
        }
    };
    let back = async {
        let mut dammed = Vec::new();
        loop {
            let Some(message) = next(&mut from_server, 1).await else {
                return to_client.write_all(&dammed).await.ok();
            };
            if line.dams.load(Ordering::Relaxed) {
                dammed.extend(message);
                continue;
            }
            to_client.write_all(&std::mem::take(&mut dammed)).await.ok()?;
            if swallows.load(Ordering::Relaxed) && message.starts_with(b"C") && message.ends_with(b"COMMIT\0") {
                return None;
            }
            line.opens().await;
            to_client.write_all(&message).await.ok()?;
        }
    };
    let mut state = line.state.subscribe();
    tokio::select! {
        () = ended(there) => {}
        () = ended(back) => {}
        _ = state.wait_for(|state| *state == State::Closed) => {}
    }
}

async fn ended(passing: impl Future<Output = Option<()>>) {
    passing.await;
}

/// A whole message, whose length comes after `prefix` bytes and does not count them. `None` at the end.
async fn next(from: &mut (impl AsyncRead + Unpin), prefix: usize) -> Option<Vec<u8>> {
    let mut message = vec![0; prefix + 4];
    from.read_exact(&mut message).await.ok()?;
    let length = u32::from_be_bytes(message[prefix..].try_into().unwrap()) as usize;
    message.resize(prefix + length, 0);
    from.read_exact(&mut message[prefix + 4..]).await.ok()?;
    Some(message)
}

fn is_commit(message: &[u8]) -> bool {
    message.starts_with(b"Q") && message.ends_with(b"COMMIT\0")
}
