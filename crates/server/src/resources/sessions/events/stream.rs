//! The open stream of a session: server-sent events, from the store after each change.
//!
//! What it holds is one batch, however much there is and however slowly it is read: the store is asked for more when that has
//! gone out. It ends when the key that opened it no longer counts.
//!
//! Frames of the log carry `id:`, the event's place in it; a client that comes back with `Last-Event-ID` misses nothing. One
//! that comes without it is told what followed the newest event that a client has sent, if that was a moment ago: who sends
//! a message and then opens the stream sees its answer, however fast it was. What an earlier stream of the same key has told
//! is left out there: who opens a stream for each turn does not see the last one again. What waits to be taken up is shown
//! when it enters the log.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, extract::State, response::Response};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::{HeaderMap, HeaderValue, header};
use rota_api::{
    Time,
    event::{Event, EventBody, with_processed_at},
    id::{EventId, Id, SessionId},
};
use tokio::{
    sync::broadcast::error::TryRecvError,
    time::{Interval, MissedTickBehavior, interval_at},
};

use super::{
    View, check_session,
    deltas::Deltas,
    news::{self, Item},
};
use crate::{
    app::App,
    db::{Row, Tx, vals},
    error::{Error, Result},
    hub::{Change, Watcher},
    limits::{
        KEEP_ALIVE_EVERY, MAX_STREAMS_PER_WORKSPACE, STREAM_LOOK_BACK, STREAM_LOOK_BACK_EVENTS, STREAM_PIECE,
        STREAM_POLL,
    },
    request::{CallerOrWorker, PathAndQuery, Query, SessionRef, caller},
    shares::Share,
};

/// Types whose production can be watched.
const DELTAS: [&str; 2] = ["agent.message", "agent.thinking"];
/// Says that the stream is open: clients see their request answered before anything happens.
const CONNECTED: &[u8] = b": connected\n\n";
/// Says that the stream is alive.
const KEEP_ALIVE: &[u8] = b":keepalive\n\n";
/// Most `event_deltas` of one request.
const MAX_DELTAS: usize = 100;

/// `GET /v1/sessions/{session_id}/events/stream`.
pub async fn open(
    State(app): State<App>,
    caller: CallerOrWorker,
    PathAndQuery(SessionRef(id), query): PathAndQuery<SessionRef>,
    headers: HeaderMap,
) -> Result<Response> {
    let asked = Asked::read(&query, &headers)?;
    begin(app, caller, id, View::Session, asked).await
}

/// What a request asks of a stream.
pub struct Asked {
    deltas: Vec<&'static str>,
    after: Option<i64>,
}

impl Asked {
    /// Reads the query and the headers.
    pub fn read(query: &Query, headers: &HeaderMap) -> Result<Self> {
        let deltas = query.any_of("event_deltas", &DELTAS, MAX_DELTAS)?;
        query.finish()?;
        Ok(Self { deltas, after: last_event_id(headers)? })
    }
}

/// Opens the stream of a session, or of its primary thread.
pub async fn begin(app: App, caller: CallerOrWorker, id: String, view: View, asked: Asked) -> Result<Response> {
    let place = app
        .streams
        .take(&caller.workspace, 1, MAX_STREAMS_PER_WORKSPACE)
        .ok_or(Error::TooManyStreams(MAX_STREAMS_PER_WORKSPACE))?;
    let watcher = app.hub.watch(&SessionId::trusted(id.clone()));
    let reader = caller.clone();
    let from = app.db.read(move |tx| start(tx, &reader, &id)).await?;
    let told = || app.hub.told_before(caller.key(), &from.session, app.clock.now()).unwrap_or_default();
    let seq = match (asked.after, from.recent) {
        (Some(seq), _) => seq.min(from.now),
        (None, Some(recent)) => recent.max(told()).min(from.now),
        (None, None) => from.now,
    };
    let open = Open {
        app,
        watcher,
        _place: place,
        caller,
        session: from.session,
        view,
        seq,
        deltas: Deltas::of(asked.deltas),
        keep_alive: every(KEEP_ALIVE_EVERY),
        poll: every(STREAM_POLL),
        stage: Stage::Opening,
    };
    let frames = stream::unfold(open, |mut open| async move {
        let bytes = open.next().await?;
        Some((Ok::<_, Infallible>(bytes), open))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // What nginx asks for before it passes on each frame as it comes.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
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

/// Where a stream that opens now may begin.
#[derive(Debug)]
struct Start {
    session: SessionId,
    /// The last event of the log.
    now: i64,
    /// The newest event that a client has sent, where that was a moment ago.
    recent: Option<i64>,
}

fn start(tx: &mut Tx<'_>, caller: &CallerOrWorker, id: &str) -> Result<Start> {
    let workspace = &caller.workspace;
    check_session(tx, caller, id)?;
    let sql = "SELECT id, next_seq FROM sessions WHERE workspace_id = $1 AND id = $2";
    let found = tx.one(sql, vals![workspace, id], |row| Ok((row.id(0)?, row.int(1)? - 1)))?;
    let (session, now) = found.ok_or_else(|| crate::resources::sessions::not_found(id))?;
    let recent = recent(tx, &session, now)?;
    Ok(Start { session, now, recent })
}

/// The place of the newest event that a client has sent, where that came within [`STREAM_LOOK_BACK`] and has been taken up.
fn recent(tx: &mut Tx<'_>, session: &SessionId, now: i64) -> Result<Option<i64>> {
    let waits = "SELECT 1 FROM session_inputs WHERE session_id = $1 LIMIT 1";
    if tx.one(waits, vals![session], |_| Ok(()))?.is_some() {
        return Ok(None);
    }
    let since = tx.now().plus_micros(-(STREAM_LOOK_BACK.as_micros() as i64));
    tx.one(
        "SELECT seq FROM session_events WHERE session_id = $1 AND seq > $2 AND processed_at >= $3
             AND (type LIKE 'user.%' OR type = 'system.message')
         ORDER BY seq DESC LIMIT 1",
        vals![session, now - STREAM_LOOK_BACK_EVENTS, since],
        |row| row.int(0),
    )
}

/// An open stream.
struct Open {
    app: App,
    watcher: Watcher,
    _place: Share,
    caller: CallerOrWorker,
    session: SessionId,
    view: View,
    /// The last event of the log that was sent.
    seq: i64,
    deltas: Deltas,
    keep_alive: Interval,
    poll: Interval,
    stage: Stage,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.app.hub.stream_closed(self.caller.key(), &self.session, self.seq, self.app.clock.now());
    }
}

/// What a stream does next.
enum Stage {
    /// It tells the client that it is open.
    Opening,
    /// It reads on in the store: there was more than a batch.
    Reading,
    /// It is in the middle of a frame, which is too large to be read as a whole.
    Within { place: i64, sent: usize, processed_at: Option<Time> },
    /// It waits for something to happen.
    Waiting,
    /// It has sent its last frame.
    Ended,
}

/// What the store says of a session and of who watches it.
enum Look {
    News,
    Nothing,
    Deleted,
    Refused,
}

impl Open {
    /// The next bytes to send. `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let mut read = false;
            let mut due = false;
            match self.stage {
                Stage::Ended => return None,
                Stage::Opening => {
                    self.stage = Stage::Reading;
                    return Some(Bytes::from_static(CONNECTED));
                }
                Stage::Reading | Stage::Within { .. } => {
                    if self.app.is_stopping() {
                        return None;
                    }
                    read = true;
                    due = self.poll.tick().now_or_never().is_some();
                }
                Stage::Waiting if self.deltas.len() == 0 => {
                    tokio::select! {
                        biased;
                        () = self.app.stopping() => return None,
                        _ = self.poll.tick() => due = true,
                        delta = self.watcher.deltas.recv(), if self.deltas.are_wanted() => match delta {
                            Ok(delta) => self.deltas.hold(delta),
                            Err(_) => self.deltas.missed(),
                        },
                        changed = self.watcher.changes.changed() => {
                            changed.ok()?;
                            read = true;
                        }
                        _ = self.keep_alive.tick() => return Some(Bytes::from_static(KEEP_ALIVE)),
                    }
                }
                Stage::Waiting => {}
            }
            if due {
                match self.look().await {
                    Look::Refused => return None,
                    Look::Deleted if !matches!(self.stage, Stage::Within { .. }) => return self.deleted(),
                    Look::News | Look::Deleted => read = true,
                    Look::Nothing => {}
                }
            }
            if let Stage::Within { place, sent, processed_at } = self.stage {
                return self.piece(place, sent, processed_at).await;
            }
            self.hold_waiting();
            let mut early = self.deltas.len();
            let mut frames = Vec::new();
            // Asked after the deltas were taken in: the request that they come of had been told by then.
            if read || self.watcher.changes.has_changed().ok()? {
                if *self.watcher.changes.borrow_and_update() == Change::Deleted {
                    return self.deleted();
                }
                early = early.saturating_sub(self.read(&mut frames).await.ok()?);
            }
            // Until all is read, events of the log may be missing that were there before the deltas.
            if matches!(self.stage, Stage::Waiting) {
                self.deltas.first(early).for_each(|delta| frame(&mut frames, None, &delta.json));
            }
            if !frames.is_empty() {
                return Some(Bytes::from(frames));
            }
        }
    }

    /// Asks the store whether the stream may go on, and whether there is something beyond what was sent. A stream outlives an
    /// outage of the store: the next look tells.
    async fn look(&self) -> Look {
        if matches!(caller::still_reads(&self.app.db, &self.caller).await, Ok(false)) {
            return Look::Refused;
        }
        let sql = "SELECT next_seq FROM sessions WHERE workspace_id = $1 AND id = $2";
        let seq = self.seq;
        let params = vals![&self.caller.workspace, &self.session];
        let news = |row: &Row<'_>| Ok(row.int(0)? > seq + 1);
        match self.app.db.lookup(sql, params, news).await {
            Ok(None) => Look::Deleted,
            Ok(Some(true)) => Look::News,
            Ok(Some(false)) | Err(_) => Look::Nothing,
        }
    }

    /// Writes the next batch of what the store has beyond what was sent, each event after its deltas. Returns how many of
    /// these there were.
    async fn read(&mut self, frames: &mut Vec<u8>) -> Result<usize> {
        let (session, seq) = (self.session.clone(), self.seq);
        let news = self.app.db.read(move |tx| news::read(tx, &session, seq)).await?;
        self.stage = if news.more { Stage::Reading } else { Stage::Waiting };
        // An event is committed after the last of its deltas, and the end of a request after the last of the request's.
        self.hold_waiting();
        let mut released = 0;
        for Item { place, tag, body, processed_at } in news.log {
            self.seq = place;
            let own = self.deltas.before(&tag, body.as_deref());
            released += own.len();
            own.for_each(|delta| frame(frames, None, &delta.json));
            if !self.view.shows(&tag) {
                continue;
            }
            if let Some(body) = body {
                frame(frames, Some(place), &with_processed_at(&body, processed_at));
            } else {
                frames.extend_from_slice(head(Some(place)).as_bytes());
                self.stage = Stage::Within { place, sent: 0, processed_at };
            }
        }
        Ok(released)
    }

    /// The next piece of an event of the log that is too large to be read as a whole.
    async fn piece(&mut self, place: i64, sent: usize, processed_at: Option<Time>) -> Option<Bytes> {
        let session = self.session.clone();
        let read = self.app.db.read(move |tx| news::piece(tx, &session, place, sent)).await;
        let (mut text, more) = read.ok()??;
        if more {
            self.stage = Stage::Within { place, sent: sent + STREAM_PIECE, processed_at };
        } else {
            self.stage = Stage::Reading;
            text = with_processed_at(&text, processed_at) + "\n\n";
        }
        Some(Bytes::from(text))
    }

    /// Takes in the deltas that have been sent by now.
    fn hold_waiting(&mut self) {
        while self.deltas.are_wanted() {
            match self.watcher.deltas.try_recv() {
                Ok(delta) => self.deltas.hold(delta),
                Err(TryRecvError::Lagged(_)) => self.deltas.missed(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn deleted(&mut self) -> Option<Bytes> {
        let now = self.app.clock.now();
        let event = Event { id: EventId::new(now), body: EventBody::SessionDeleted {} };
        let body = serde_json::to_string(&event).ok()?;
        let mut frames = Vec::new();
        frame(&mut frames, None, &with_processed_at(&body, Some(now)));
        self.stage = Stage::Ended;
        Some(Bytes::from(frames))
    }
}

fn frame(out: &mut Vec<u8>, id: Option<i64>, json: &str) {
    for part in [&head(id), json, "\n\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// What a frame begins with, before its data. The hosted service names all of them so.
fn head(id: Option<i64>) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: message\n{id}data: ")
}

#[cfg(test)]
mod tests {
    use rota_api::id::{ApiKeyId, WorkspaceId};

    use super::*;
    use crate::{clock::Clock, config::Config, request::Caller};

    #[tokio::test]
    async fn a_stream_with_nothing_to_tell_says_that_it_is_alive() {
        let data = tempfile::TempDir::new().unwrap();
        let config = Config { data: data.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
        let server = crate::serve(config, Clock::System).await.unwrap();
        let (app, now) = (server.app().clone(), Time::from_micros(0));
        let caller: CallerOrWorker = Caller { workspace: WorkspaceId::new(now), key: ApiKeyId::new(now) }.into();
        let session = SessionId::new(now);
        let mut open = Open {
            watcher: app.hub.watch(&session),
            _place: app.streams.take(&caller.workspace, 1, 1).unwrap(),
            app,
            caller,
            session,
            view: View::Session,
            seq: 0,
            deltas: Deltas::of(Vec::new()),
            keep_alive: every(Duration::from_millis(1)),
            poll: every(STREAM_POLL),
            stage: Stage::Opening,
        };
        for wanted in [CONNECTED, KEEP_ALIVE, KEEP_ALIVE] {
            assert_eq!(open.next().await.unwrap(), wanted);
        }
        assert_eq!(KEEP_ALIVE, b":keepalive\n\n", "recorded");
        drop(open);
        server.stop().await;
    }
}
