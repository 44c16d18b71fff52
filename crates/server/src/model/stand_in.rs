//! A stand-in for the server of a model provider: it answers one request by a script and keeps what it was asked.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Delta, Model, ModelError, ModelReply, ModelRequest};

/// What the stand-in does on a connection, once it has read the request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends nothing more and waits until the client gives up.
    Stall,
}

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The request line and the headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
}

/// One request, and what came of it.
pub(crate) struct Exchange {
    pub(crate) reply: Result<ModelReply, ModelError>,
    pub(crate) deltas: Vec<Delta>,
    pub(crate) asked: Asked,
}

impl Exchange {
    /// The blocks of the reply, as JSON.
    pub(crate) fn content(&self) -> serde_json::Value {
        serde_json::to_value(&self.reply.as_ref().unwrap().content).unwrap()
    }

    /// Why there is no reply.
    pub(crate) fn failure(self) -> ModelError {
        self.reply.unwrap_err()
    }
}

/// A server on a free port of the loopback interface.
pub(crate) struct StandIn {
    listener: TcpListener,
}

impl StandIn {
    /// Starts to listen.
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// The address to put before a path.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    /// Has `model` send one request here, which is answered by the script.
    pub(crate) async fn exchange(self, model: &impl Model, request: &ModelRequest, script: &[Act]) -> Exchange {
        let mut deltas = Vec::new();
        let mut sink = |delta| {
            if !matches!(delta, Delta::Answers(_)) {
                deltas.push(delta);
            }
        };
        let (reply, asked) = tokio::join!(model.reply(request, &mut sink), self.answer(script));
        Exchange { reply, deltas, asked }
    }

    /// Takes one connection and refuses others, reads one request, follows the script and closes the connection.
    pub(crate) async fn answer(self, script: &[Act]) -> Asked {
        let (mut connection, _) = self.listener.accept().await.unwrap();
        drop(self.listener);
        let asked = read_request(&mut connection).await;
        for act in script {
            match act {
                // A client may well hang up before the script ends.
                Act::Send(bytes) => drop(connection.write_all(bytes).await),
                Act::Stall => drop(connection.read(&mut [0]).await),
            }
        }
        asked
    }
}

async fn read_request(connection: &mut TcpStream) -> Asked {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= content_length(head)
        {
            return Asked { head: head.to_owned(), body: body.to_owned() };
        }
        // An impatient client may hang up within its request.
        if !matches!(connection.read_buf(&mut bytes).await, Ok(1..)) {
            return Asked { head: String::new(), body: String::new() };
        }
    }
}

fn content_length(head: &str) -> usize {
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    value.map_or(0, |value| value.parse().unwrap())
}
