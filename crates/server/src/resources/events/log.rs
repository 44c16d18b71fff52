//! The log of a session: append-only, numbered without gaps.

use rota_api::{
    Time,
    event::{Event, EventBody, StopReason},
    id::{EventId, Id, OutcomeId, SessionId, WorkspaceId},
    webhook::EventType,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    db::{Notice, Tx, vals},
    error::{Error, Result},
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
    append_new(tx, workspace, session, &events)
}

/// Appends events. Returns them as they are on the wire.
pub fn append_new(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    events: &[NewEvent],
) -> Result<Vec<Box<RawValue>>> {
    let now = tx.now();
    let first = reserve(tx, workspace, session, events.len())?;
    (first..)
        .zip(events)
        .map(|(seq, NewEvent { id, body, hidden })| {
            let tag = body.tag();
            let text = serde_json::to_string(&Event { id: id.clone(), body: body.clone() })?;
            insert(tx, session, seq, tag, &text, hidden.as_deref())?;
            notify(tx, workspace, session, body)?;
            wire(&text, Some(now))
        })
        .collect()
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

/// Numbers for the next `count` events of a session. Returns the first.
pub(super) fn reserve(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, count: usize) -> Result<i64> {
    let next = tx.one(
        "UPDATE sessions SET next_seq = next_seq + $3, updated_at = $4 WHERE workspace_id = $1 AND id = $2
         RETURNING next_seq",
        vals![workspace, session, count as i64, tx.now()],
        |row| row.int(0),
    )?;
    tx.after_commit(Notice::SessionChanged(session.clone()));
    let next = next.ok_or_else(|| Error::not_found("Session", session.as_ref()))?;
    Ok(next - count as i64)
}

pub(super) fn insert(
    tx: &mut Tx<'_>,
    session: &SessionId,
    seq: i64,
    tag: &str,
    body: &str,
    hidden: Option<&str>,
) -> Result<()> {
    tx.add(
        "INSERT INTO session_events (session_id, seq, type, body, hidden, processed_at) VALUES ($1, $2, $3, $4, $5, $6)",
        vals![session, seq, tag, body, hidden, tx.now()],
    )
}

/// The text of an event as clients see it.
pub(super) fn wire(body: &str, processed_at: Option<Time>) -> Result<Box<RawValue>> {
    Ok(RawValue::from_string(rota_api::event::with_processed_at(body, processed_at))?)
}

#[derive(Deserialize)]
struct Tag<'a> {
    r#type: &'a str,
    description: Option<std::borrow::Cow<'a, str>>,
}

/// Adds a first event of a new session: the text that a client sent, with an id put in front. Returns the outcome that
/// it defines, where it does.
pub fn insert_initial(
    tx: &mut Tx<'_>,
    session: &SessionId,
    seq: i64,
    sent: &RawValue,
) -> Result<Option<serde_json::Value>> {
    let now = tx.now();
    let id = EventId::new(now);
    let Tag { r#type, description } = serde_json::from_str(sent.get())?;
    let fields = sent.get().strip_prefix('{').ok_or_else(|| Error::internal("a first event is not an object"))?;
    if r#type != "user.define_outcome" {
        insert(tx, session, seq, r#type, &format!("{{\"id\":\"{id}\",{fields}"), None)?;
        return Ok(None);
    }
    let outcome = OutcomeId::new(now);
    let body = format!("{{\"id\":\"{id}\",\"outcome_id\":\"{outcome}\",{fields}");
    insert(tx, session, seq, r#type, &body, None)?;
    Ok(Some(sessions::new_outcome(&outcome, &description.unwrap_or_default())))
}

/// The events after `seq`, in order, at most `limit`.
pub fn read(tx: &mut Tx<'_>, session: &SessionId, seq: i64, limit: i64) -> Result<Vec<Logged>> {
    tx.all(
        "SELECT seq, body, hidden, processed_at FROM session_events WHERE session_id = $1 AND seq > $2
         ORDER BY seq LIMIT $3",
        vals![session, seq, limit],
        |row| {
            Ok(Logged { seq: row.int(0)?, event: row.json(1)?, hidden: row.opt_text(2)?, processed_at: row.time(3)? })
        },
    )
}

/// Something that a client sent to a working session.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its place among what waits, or has waited.
    pub place: i64,
    /// The event.
    pub event: Event,
}

/// What waits to be taken up by a working session, in order.
pub fn queued(tx: &mut Tx<'_>, session: &SessionId) -> Result<Vec<Input>> {
    let sql = "SELECT place, body FROM session_inputs WHERE session_id = $1 ORDER BY place";
    tx.all(sql, vals![session], |row| Ok(Input { place: row.int(0)?, event: row.json(1)? }))
}

/// Moves inputs into the log.
pub fn take_up(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, inputs: &[Input]) -> Result<()> {
    let Some(last) = inputs.last() else { return Ok(()) };
    let events: Vec<NewEvent> = inputs
        .iter()
        .map(|Input { event: Event { id, body }, .. }| NewEvent { id: id.clone(), body: body.clone(), hidden: None })
        .collect();
    append_new(tx, workspace, session, &events)?;
    tx.send("DELETE FROM session_inputs WHERE session_id = $1 AND place <= $2", vals![session, last.place])
}

/// Drops what waits to be taken up.
pub fn forget_queued(tx: &mut Tx<'_>, session: &SessionId) -> Result<()> {
    tx.send("DELETE FROM session_inputs WHERE session_id = $1", vals![session])
}
