//! The log of a session: append-only, numbered without gaps.

use rota_api::{
    Time,
    event::{Event, EventBody, StopReason},
    id::{EventId, Id, OutcomeId, SessionId, WorkspaceId},
    webhook::EventType,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    db::{Notice, Tx, vals},
    error::{Error, Result},
    limits::{LOG_BATCH_BYTES, STREAM_BATCH},
    resources::{sessions, webhook_outbox},
};

/// An event of the log.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Its place, from 1.
    pub seq: i64,
    /// The event.
    pub event: Event,
    /// What only the model sees again.
    pub hidden: Option<String>,
    /// When it was processed.
    pub processed_at: Time,
    /// The length of its text.
    pub bytes: i64,
}

/// An event to append.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Its id, already given to others where that was needed.
    pub id: EventId,
    /// What happened.
    pub body: EventBody,
    /// What only the model sees again.
    pub hidden: Option<String>,
}

impl NewEvent {
    /// An event with a new id.
    pub fn new(now: Time, body: EventBody) -> Self {
        Self { id: EventId::new(now), body, hidden: None }
    }
}

/// Appends events with new ids. Returns them as they are on the wire.
pub fn append(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    events: &[EventBody],
) -> Result<Vec<Box<RawValue>>> {
    let now = tx.now();
    let events: Vec<NewEvent> = events.iter().map(|body| NewEvent::new(now, body.clone())).collect();
    record(tx, workspace, session, &[], &[], &events)
}

/// Appends the events `before`, then `inputs`, which are the first of those that wait, then the events `after`. Returns the
/// events as they are on the wire.
pub fn record(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    before: &[NewEvent],
    inputs: &[Input],
    after: &[NewEvent],
) -> Result<Vec<Box<RawValue>>> {
    let events = || before.iter().chain(after);
    let texts = events().map(|NewEvent { id, body, .. }| text(id, body)).collect::<Result<Vec<_>>>()?;
    if texts.is_empty() && inputs.is_empty() {
        return Ok(Vec::new());
    }
    let hidden = events().filter_map(|event| event.hidden.as_ref()).map(String::len);
    let waited = inputs.iter().map(|input| input.bytes as usize);
    let bytes = texts.iter().map(String::len).chain(hidden).chain(waited).sum();
    let first = reserve(tx, workspace, session, texts.len() + inputs.len(), bytes)?;
    let first_input = first + before.len() as i64;
    let first_after = first_input + inputs.len() as i64;
    let (texts_before, texts_after) = texts.split_at(before.len());
    let mut told = Vec::with_capacity(texts.len());
    let mut add = |tx: &mut Tx<'_>, first: i64, events: &[NewEvent], texts: &[String]| -> Result<()> {
        for (seq, (NewEvent { body, hidden, .. }, text)) in (first..).zip(events.iter().zip(texts)) {
            insert(tx, session, seq, body.tag(), text, hidden.as_deref())?;
            notify(tx, workspace, session, body)?;
            told.push(wire(text, Some(tx.now()))?);
        }
        Ok(())
    };
    add(tx, first, before, texts_before)?;
    take_up(tx, session, first_input, inputs)?;
    add(tx, first_after, after, texts_after)?;
    Ok(told)
}

/// The text of an event as it is stored.
pub(super) fn text(id: &EventId, body: &EventBody) -> Result<String> {
    #[derive(Serialize)]
    struct Stored<'a> {
        id: &'a EventId,
        #[serde(flatten)]
        body: &'a EventBody,
    }
    Ok(serde_json::to_string(&Stored { id, body })?)
}

/// Tells webhooks of an event that they have a type for.
fn notify(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, body: &EventBody) -> Result<()> {
    let r#type = match body {
        EventBody::StatusRunning {} => EventType::SessionStatusRunStarted,
        EventBody::StatusIdle { stop_reason: StopReason::RequiresAction { .. }, .. } => {
            let types = [EventType::SessionStatusIdled, EventType::SessionRequiresAction];
            return webhook_outbox::emit(tx, workspace, types, session);
        }
        EventBody::StatusIdle { .. } => EventType::SessionStatusIdled,
        EventBody::StatusRescheduled {} => EventType::SessionStatusRescheduled,
        EventBody::StatusTerminated {} => EventType::SessionStatusTerminated,
        EventBody::SessionUpdated { .. } => EventType::SessionUpdated,
        _ => return Ok(()),
    };
    webhook_outbox::emit(tx, workspace, [r#type], session)
}

/// Numbers for the next `count` events of a session, which have `bytes` together. Returns the first.
fn reserve(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, count: usize, bytes: usize) -> Result<i64> {
    let next = tx.one(
        "UPDATE sessions SET next_seq = next_seq + $3, log_bytes = log_bytes + $4, updated_at = $5
         WHERE workspace_id = $1 AND id = $2 RETURNING next_seq",
        vals![workspace, session, count as i64, bytes as i64, tx.now()],
        |row| row.int(0),
    )?;
    tx.after_commit(Notice::SessionChanged(session.clone()));
    let next = next.ok_or_else(|| sessions::not_found(session.as_ref()))?;
    Ok(next - count as i64)
}

fn insert(tx: &mut Tx<'_>, session: &SessionId, seq: i64, tag: &str, body: &str, hidden: Option<&str>) -> Result<()> {
    tx.add(
        "INSERT INTO session_events (session_id, seq, type, body, hidden, processed_at) VALUES ($1, $2, $3, $4, $5, $6)",
        vals![session, seq, tag, body, hidden, tx.now()],
    )
}

/// The text of an event as clients see it.
pub(super) fn wire(body: &str, processed_at: Option<Time>) -> Result<Box<RawValue>> {
    Ok(RawValue::from_string(rota_api::event::with_processed_at(body, processed_at))?)
}

/// The text of an event that waits to be taken up, as clients see it.
pub(super) fn wire_waiting(tag: &str, body: &str) -> Result<Box<RawValue>> {
    let id = id_of(body).map(|id| EventId::trusted(id.to_owned()));
    wire(body, id.and_then(|id| rota_api::event::processed_on_receipt(tag, &id)))
}

/// The id of an event, which its text begins with.
pub(super) fn id_of(body: &str) -> Option<&str> {
    body.strip_prefix("{\"id\":\"")?.split('"').next()
}

#[derive(Deserialize)]
struct Tag<'a> {
    r#type: &'a str,
    description: Option<std::borrow::Cow<'a, str>>,
}

/// Adds a first event of a new session to what waits to be taken up: the text that a client sent, with an id put in front.
/// Returns the outcome that it defines, where it does.
pub fn insert_initial(
    tx: &mut Tx<'_>,
    session: &SessionId,
    place: i64,
    sent: &RawValue,
) -> Result<Option<serde_json::Value>> {
    let now = tx.now();
    let id = EventId::new(now);
    let Tag { r#type, description } = serde_json::from_str(sent.get())?;
    let fields = sent.get().strip_prefix('{').ok_or_else(|| Error::internal("a first event is not an object"))?;
    let outcome = (r#type == "user.define_outcome").then(|| OutcomeId::new(now));
    let body = match &outcome {
        Some(outcome) => format!("{{\"id\":\"{id}\",\"outcome_id\":\"{outcome}\",{fields}"),
        None => format!("{{\"id\":\"{id}\",{fields}"),
    };
    let request = tx.request();
    tx.add(
        "INSERT INTO session_inputs (session_id, place, type, body, request_id) VALUES ($1, $2, $3, $4, $5)",
        vals![session, place, r#type, &body, request.as_deref()],
    )?;
    Ok(outcome.map(|outcome| sessions::new_outcome(&outcome, &description.unwrap_or_default())))
}

/// The next events after `seq`, in order. Whether there are more.
pub fn read(tx: &mut Tx<'_>, session: &SessionId, seq: i64) -> Result<(Vec<Logged>, bool)> {
    let (events, cut) = tx.within(
        LOG_BATCH_BYTES,
        "SELECT seq, body, hidden, processed_at, octet_length(body) FROM session_events WHERE session_id = $1 AND seq > $2
         ORDER BY seq LIMIT $3",
        vals![session, seq, STREAM_BATCH],
        |row| {
            let (seq, event, bytes) = (row.int(0)?, row.json(1)?, row.int(4)?);
            Ok(Logged { seq, event, hidden: row.opt_text(2)?, processed_at: row.time(3)?, bytes })
        },
    )?;
    let more = cut || events.len() as i64 == STREAM_BATCH;
    Ok((events, more))
}

/// Something that a client sent to a working session. What it says is read when it is in the log.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its place among what waits, or has waited.
    pub place: i64,
    /// Whether it stops the agent.
    pub is_interrupt: bool,
    /// The length of its text.
    pub bytes: i64,
    /// The request that sent it, where it came with one.
    pub request: Option<String>,
}

/// What waits to be taken up by a working session, in order.
pub fn queued(tx: &mut Tx<'_>, session: &SessionId) -> Result<Vec<Input>> {
    let sql =
        "SELECT place, type, octet_length(body), request_id FROM session_inputs WHERE session_id = $1 ORDER BY place";
    tx.all(sql, vals![session], |row| {
        let is_interrupt = row.text(1)? == "user.interrupt";
        Ok(Input { place: row.int(0)?, is_interrupt, bytes: row.int(2)?, request: row.opt_text(3)? })
    })
}

/// Moves inputs into the log, from the place `first` on: the first of those that wait.
fn take_up(tx: &mut Tx<'_>, session: &SessionId, first: i64, inputs: &[Input]) -> Result<()> {
    let Some(last) = inputs.last() else { return Ok(()) };
    for (seq, input) in (first..).zip(inputs) {
        let sql = "SELECT type, body FROM session_inputs WHERE session_id = $1 AND place = $2";
        let found = tx.one(sql, vals![session, input.place], |row| Ok((row.text(0)?, row.raw(1)?)))?;
        let (tag, body) = found.ok_or_else(|| Error::internal("an input that waited is gone"))?;
        insert(tx, session, seq, &tag, body.get(), None)?;
    }
    tx.send("DELETE FROM session_inputs WHERE session_id = $1 AND place <= $2", vals![session, last.place])
}

/// Drops what waits to be taken up and is no event, as when the store was damaged.
pub fn forget_unreadable(tx: &mut Tx<'_>, session: &SessionId) -> Result<()> {
    for input in queued(tx, session)? {
        let sql = "SELECT body FROM session_inputs WHERE session_id = $1 AND place = $2";
        let readable = tx.one(sql, vals![session, input.place], |row| Ok(row.json::<Event>(0).is_ok()))?;
        if readable == Some(false) {
            return tx.send("DELETE FROM session_inputs WHERE session_id = $1", vals![session]);
        }
    }
    Ok(())
}
