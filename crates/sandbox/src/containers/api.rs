//! Requests to a daemon over its Unix socket: one connection each, bounded in time and in bytes.

use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a daemon may take for one answer: it may copy an image for a container.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 4 << 20;
/// The longest part of a daemon's message that is kept, in bytes.
const MAX_MESSAGE: usize = 1000;

/// A daemon's socket.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) socket: PathBuf,
}

/// What a daemon answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Vec<u8>,
}

impl Api {
    /// Sends a request.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or gives no whole answer in time.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let sent = timeout(ANSWER_TIMEOUT, self.exchange(method, path, body));
        sent.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "daemon")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())
            .map_err(io::Error::other)?;
        let answer = async {
            let answer = requests.send_request(request).await.map_err(io::Error::other)?;
            let (head, body) = answer.into_parts();
            Ok(Answer { status: head.status, body: read(body).await? })
        };
        tokio::pin!(connection, answer);
        tokio::select! {
            answer = &mut answer => return answer,
            // The connection may have ended with the whole answer in hand.
            _ = &mut connection => {}
        }
        answer.await
    }
}

async fn read(mut body: Incoming) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            if bytes.len() + data.len() > MAX_ANSWER {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer above {MAX_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What the daemon says of a refusal.
    pub(super) fn message(&self) -> String {
        let text = match self.json().get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&self.body).into_owned(),
        };
        text.chars().take(MAX_MESSAGE).collect()
    }
}
