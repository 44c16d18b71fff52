//! The open stream of a session: server-sent events, from the store after each change.
//!
//! Frames of the log carry `id:`, the event's place in it; a client that comes back with `Last-Event-ID` misses nothing.
//! What waits to be taken up is shown once as it comes in and again, processed, when it enters the log.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{body::Body, extract::State, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use rota_api::{
    Time,
    event::{Event, EventBody, with_processed_at},
    id::{EventId, Id, SessionId, WorkspaceId},
};
use tokio::{
    sync::broadcast::error::{RecvError, TryRecvError},
    time::{Interval, MissedTickBehavior, interval_at},
};

use super::check_session;
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    hub::{Change, Delta, Watcher},
    limits::{PING_EVERY, STREAM_BATCH, STREAM_POLL},
    request::{Caller, PathAndQuery},
};

/// Types whose production can be watched.
const DELTAS: [&str; 2] = ["agent.message", "agent.thinking"];
/// Says that the stream is alive.
const PING: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";
/// Most `event_deltas` of one request.
const MAX_DELTAS: usize = 100;

/// `GET /v1/sessions/{session_id}/events/stream`.
pub async fn open(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(id, query): PathAndQuery<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let deltas = query.any_of("event_deltas", &DELTAS, MAX_DELTAS)?;
    query.finish()?;
    let resume = last_event_id(&headers)?;
    let watcher = app.hub.watch(&SessionId::trusted(id.clone()));
    let workspace = caller.workspace.clone();
    let from = app.db.read(move |tx| start(tx, &caller.workspace, &id)).await?;
    let seq = resume.map_or(from.seq, |seq| seq.min(from.seq));
    let open = Open {
        app,
        watcher,
        workspace,
        session: from.session,
        seq,
        input: from.input,
        deltas,
        held: VecDeque::new(),
        lagging: false,
        ping: every(PING_EVERY),
        poll: every(STREAM_POLL),
        first: true,
        ended: false,
    };
    let frames = stream::unfold(open, |mut open| async move {
        let bytes = open.next().await?;
        Some((Ok::<_, Infallible>(bytes), open))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|seq| *seq >= 0);
    seq.map(Some).ok_or_else(|| Error::invalid("the Last-Event-ID header is not an id of this stream"))
}

/// Where a stream that opens now begins.
#[derive(Debug)]
struct Start {
    session: SessionId,
    seq: i64,
    input: i64,
}

fn start(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Start> {
    check_session(tx, workspace, id)?;
    let sql = "SELECT id, next_seq, next_input FROM sessions WHERE workspace_id = $1 AND id = $2";
    let found = tx.one(sql, vals![workspace, id], |row| {
        Ok(Start { session: row.id(0)?, seq: row.int(1)? - 1, input: row.int(2)? - 1 })
    })?;
    found.ok_or_else(|| Error::not_found("Session", id))
}

/// An open stream.
struct Open {
    app: App,
    watcher: Watcher,
    workspace: WorkspaceId,
    session: SessionId,
    /// The last event of the log that was sent.
    seq: i64,
    /// The last input that was sent while it waited.
    input: i64,
    deltas: Vec<&'static str>,
    /// Deltas that have come and were not sent: each goes after the events of the log that were there before it, and before
    /// its own.
    held: VecDeque<Delta>,
    /// Whether deltas were missed: what is sent of an event is a prefix of it, so the rest is left out.
    lagging: bool,
    ping: Interval,
    poll: Interval,
    first: bool,
    ended: bool,
}

impl Open {
    /// The next bytes to send. `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.first) {
            // A comment opens the stream: clients see their request answered before anything happens.
            let mut frames = b": open\n\n".to_vec();
            self.read(&mut frames).await.ok()?;
            return Some(Bytes::from(frames));
        }
        if self.ended {
            return None;
        }
        loop {
            let mut read = false;
            if self.held.is_empty() {
                tokio::select! {
                    biased;
                    () = self.app.stopping() => return None,
                    delta = self.watcher.deltas.recv(), if !self.deltas.is_empty() => self.hold(delta),
                    changed = self.watcher.changes.changed() => {
                        changed.ok()?;
                        read = true;
                    }
                    _ = self.poll.tick() => match self.has_news().await {
                        Ok(None) => return self.deleted(),
                        Ok(Some(news)) => read = news,
                        // A stream outlives an outage of the store: the next look tells.
                        Err(_) => {}
                    },
                    _ = self.ping.tick() => return Some(Bytes::from_static(PING)),
                }
            }
            self.hold_waiting();
            let mut early = self.held.len();
            let mut frames = Vec::new();
            // Asked after the deltas were taken in: the request that they come of had been told by then.
            if read || self.watcher.changes.has_changed().ok()? {
                if *self.watcher.changes.borrow_and_update() == Change::Deleted {
                    return self.deleted();
                }
                early = early.saturating_sub(self.read(&mut frames).await.ok()?);
            }
            self.release(early, &mut frames);
            if !frames.is_empty() {
                return Some(Bytes::from(frames));
            }
        }
    }

    /// Whether the store has something beyond what was sent; `None` when the session is gone.
    async fn has_news(&self) -> Result<Option<bool>> {
        let sql = "SELECT next_seq, next_input FROM sessions WHERE workspace_id = $1 AND id = $2";
        let (seq, input) = (self.seq, self.input);
        let params = vals![&self.workspace, &self.session];
        self.app.db.lookup(sql, params, |row| Ok(row.int(0)? > seq + 1 || row.int(1)? > input + 1)).await
    }

    /// Writes everything that the store has beyond what was sent, each event after its deltas. Returns how many of these
    /// there were.
    async fn read(&mut self, frames: &mut Vec<u8>) -> Result<usize> {
        let mut released = 0;
        loop {
            let (session, seq, input) = (self.session.clone(), self.seq, self.input);
            let news = self.app.db.read(move |tx| news(tx, &session, seq, input)).await?;
            let more = news.log.len() as i64 == STREAM_BATCH;
            // An event is committed after the last of its deltas.
            self.hold_waiting();
            for waiting in news.waiting {
                self.input = waiting.place;
                frame(frames, &waiting.tag, None, &with_processed_at(&waiting.body, None));
            }
            for logged in news.log {
                self.seq = logged.place;
                let own = self.count_until(&logged)?;
                self.release(own, frames);
                released += own;
                frame(frames, &logged.tag, Some(logged.place), &with_processed_at(&logged.body, logged.processed_at));
            }
            if !more {
                return Ok(released);
            }
        }
    }

    /// How many of the deltas that are held go before an event of the log: its own, and those before them.
    fn count_until(&self, logged: &Item) -> Result<usize> {
        if !self.held.iter().any(|delta| delta.of == logged.tag) {
            return Ok(0);
        }
        let event: Event = serde_json::from_str(&logged.body)?;
        Ok(self.held.iter().rposition(|delta| delta.event == event.id).map_or(0, |last| last + 1))
    }

    fn release(&mut self, count: usize, frames: &mut Vec<u8>) {
        for delta in self.held.drain(..count) {
            frame(frames, delta.name, None, &delta.json);
        }
    }

    /// Takes in the deltas that have been sent by now.
    fn hold_waiting(&mut self) {
        while !self.deltas.is_empty() {
            match self.watcher.deltas.try_recv() {
                Ok(delta) => self.hold(Ok(delta)),
                Err(TryRecvError::Lagged(missed)) => self.hold(Err(RecvError::Lagged(missed))),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn hold(&mut self, received: Result<Delta, RecvError>) {
        match received {
            Ok(delta) => {
                self.lagging &= delta.name != "event_start";
                if !self.lagging && self.deltas.contains(&delta.of) {
                    self.held.push_back(delta);
                }
            }
            Err(_) => self.lagging = true,
        }
    }

    fn deleted(&mut self) -> Option<Bytes> {
        let now = self.app.clock.now();
        let event = Event { id: EventId::new(now), body: EventBody::SessionDeleted {} };
        let body = serde_json::to_string(&event).ok()?;
        let mut frames = Vec::new();
        frame(&mut frames, "session.deleted", None, &with_processed_at(&body, Some(now)));
        self.ended = true;
        Some(Bytes::from(frames))
    }
}

fn frame(out: &mut Vec<u8>, name: &str, id: Option<i64>, json: &str) {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    out.extend_from_slice(format!("event: {name}\n{id}data: {json}\n\n").as_bytes());
}

/// What a stream has not sent yet.
struct News {
    log: Vec<Item>,
    waiting: Vec<Item>,
}

struct Item {
    place: i64,
    tag: String,
    body: String,
    processed_at: Option<Time>,
}

fn news(tx: &mut Tx<'_>, session: &SessionId, seq: i64, input: i64) -> Result<News> {
    let log = tx.all(
        "SELECT seq, type, body, processed_at FROM session_events WHERE session_id = $1 AND seq > $2
         ORDER BY seq LIMIT $3",
        vals![session, seq, STREAM_BATCH],
        |row| Ok(Item { place: row.int(0)?, tag: row.text(1)?, body: row.text(2)?, processed_at: row.opt_time(3)? }),
    )?;
    let waiting = tx.all(
        "SELECT place, type, body FROM session_inputs WHERE session_id = $1 AND place > $2 ORDER BY place",
        vals![session, input],
        |row| Ok(Item { place: row.int(0)?, tag: row.text(1)?, body: row.text(2)?, processed_at: None }),
    )?;
    Ok(News { log, waiting })
}
