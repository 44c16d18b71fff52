//! The open stream of a session.

use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::time::timeout;

use crate::{contract::MANAGED_AGENTS, server::PATIENCE};

/// An open stream. What comes through it fits the contract.
pub struct Stream {
    response: Response,
    unread: Vec<u8>,
}

/// Something that came through a stream.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its place in the log, for an event of the log.
    pub id: Option<i64>,
    /// The event.
    pub event: Value,
}

impl Frame {
    /// The event's type.
    pub fn kind(&self) -> &str {
        self.event["type"].as_str().unwrap()
    }
}

impl Stream {
    /// Sends the request that opens a stream.
    pub async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap().error_for_status().unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
        assert_eq!(response.headers()["x-accel-buffering"], "no", "or a proxy keeps frames back");
        let mut stream = Self { response, unread: Vec::new() };
        assert_eq!(stream.block().await.unwrap(), ": connected", "a stream says at once that it is open");
        stream
    }

    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if block.starts_with(':') {
                continue;
            }
            assert_eq!(field("event"), Some("message"), "every frame has the one name");
            let event: Value = serde_json::from_str(field("data").unwrap()).unwrap();
            MANAGED_AGENTS.check("GET", "/v1/sessions/any/events/stream", &event);
            return Some(Frame { id: field("id").map(|id| id.parse().unwrap()), event });
        }
    }

    /// The events up to and with the first of type `kind`.
    pub async fn until(&mut self, kind: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let Some(frame) = self.next().await else { panic!("the stream ended before {kind}: {frames:#?}") };
            let last = frame.kind() == kind;
            frames.push(frame);
            if last {
                return frames;
            }
        }
    }

    /// The events up to and with the one that brings the session to rest.
    pub async fn turn(&mut self) -> Vec<Value> {
        self.until("session.status_idle").await.into_iter().map(|frame| frame.event).collect()
    }

    /// What stands before the next blank line.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let block = String::from_utf8(self.unread[..end].to_vec()).unwrap();
                self.unread.drain(..end + 2);
                return Some(block);
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("something comes through the stream");
            self.unread.extend_from_slice(&chunk.unwrap()?);
        }
    }
}

/// The types of events.
pub fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// The first event of type `kind`.
pub fn first<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    events.iter().find(|event| event["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {events:#?}"))
}

/// The text of a message or of a result.
pub fn text(event: &Value) -> &str {
    event["content"][0]["text"].as_str().unwrap()
}

/// Why the session rests, after `events`.
pub fn stop_reason(events: &[Value]) -> &Value {
    &events.last().unwrap()["stop_reason"]
}
