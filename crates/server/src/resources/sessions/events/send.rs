//! What a client sends to a session.
//!
//! A session at rest takes events into its log at once and goes to work. A working one keeps messages and interrupts
//! waiting until the agent takes them up; answers to what waits for the client enter the log at once.

use rota_api::{
    event::{EventBody, StopReason},
    id::{EventId, Id, SessionId, WorkspaceId},
    session::Status,
};
use serde_json::{json, value::RawValue};

use super::log;
use crate::{
    db::{Notice, Tx, vals},
    error::{Error, Result},
    json_size::json_size,
    limits::{MAX_QUEUED_BYTES, MAX_QUEUED_INPUTS, MAX_SESSION_BYTES, MAX_SESSION_EVENTS},
    model::INTERRUPTED,
    resources::sessions::{self, Control, Waiting, WaitingFor},
};

/// Takes in `events`, all or none. Returns them as they were recorded.
pub(super) fn send(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    events: &[EventBody],
) -> Result<Vec<Box<RawValue>>> {
    sessions::lock(tx, workspace, id)?;
    let session = sessions::control(tx, workspace, id)?;
    if session.status == Status::Terminated {
        return Err(Error::invalid(format_args!("Session {id} is terminated and accepts no events.")));
    }
    let working = session.status != Status::Idle;
    let mut waiting = session.waiting.clone();
    let mut answers = Vec::new();
    for (i, event) in events.iter().enumerate() {
        answers.push(accept(i, event, &mut waiting, working)?);
    }
    check_room(tx, &session, events)?;
    sessions::add_outcomes(tx, workspace, &session.id, events)?;
    if !working {
        return take(tx, workspace, &session, events);
    }
    if waiting != session.waiting {
        sessions::set_waiting(tx, workspace, &session.id, &waiting)?;
    }
    queue(tx, workspace, &session, events, &answers)
}

/// That a session has room for `events`, in its log and, while it works, among what waits. What moves a session on, or stops
/// it, is taken in also where nothing else is.
fn check_room(tx: &mut Tx<'_>, session: &Control, events: &[EventBody]) -> Result<()> {
    let moves =
        |event: &EventBody| matches!(event, EventBody::UserInterrupt { .. } | EventBody::UserToolConfirmation { .. });
    let mut bytes = 0;
    let mut count = 0;
    for event in events.iter().filter(|event| !moves(event)) {
        bytes += json_size(event)? as i64;
        count += 1;
    }
    let sql = "SELECT count(*), coalesce(sum(octet_length(body)), 0) FROM session_inputs WHERE session_id = $1";
    let waiting = match session.status {
        Status::Idle => None,
        _ => tx.one(sql, vals![&session.id], |row| Ok((row.int(0)?, row.int(1)?)))?,
    };
    let (waiting, waiting_bytes) = waiting.unwrap_or_default();
    let id = &session.id;
    let most = if count == 0 { 2 * MAX_QUEUED_INPUTS } else { MAX_QUEUED_INPUTS };
    if waiting + events.len() as i64 > most {
        return Err(Error::invalid(format_args!("more than {most} events would wait in session {id}")));
    }
    if count == 0 {
        return Ok(());
    }
    if waiting_bytes > 0 && waiting_bytes + bytes > MAX_QUEUED_BYTES {
        return Err(Error::invalid(format_args!(
            "more than {} MB of events would wait in session {id}; send them when it has come to rest",
            MAX_QUEUED_BYTES / 1024 / 1024
        )));
    }
    // An answer to what waits enters a full log too: the session comes to rest by it.
    let asks = |event: &EventBody| {
        matches!(
            event,
            EventBody::UserMessage { .. } | EventBody::UserDefineOutcome { .. } | EventBody::SystemMessage { .. }
        )
    };
    let there = session.events + waiting;
    if events.iter().any(asks) && there + events.len() as i64 >= MAX_SESSION_EVENTS {
        return Err(Error::invalid(format_args!(
            "session {id} has {there} of at most {MAX_SESSION_EVENTS} events, and no room for more messages; create another one"
        )));
    }
    if session.bytes + waiting_bytes + bytes > MAX_SESSION_BYTES {
        return Err(Error::invalid(format_args!(
            "the events of session {id} would have more than {} MB; create another one",
            MAX_SESSION_BYTES / 1024 / 1024
        )));
    }
    Ok(())
}

/// Checks one event against what waits, and takes what it answers from there. Whether it is an answer.
fn accept(i: usize, event: &EventBody, waiting: &mut Vec<Waiting>, working: bool) -> Result<bool> {
    let (answered, kind) = match event {
        EventBody::UserToolConfirmation { tool_use_id, .. } => (tool_use_id, WaitingFor::Confirmation),
        EventBody::UserCustomToolResult { custom_tool_use_id, .. } => {
            (custom_tool_use_id, WaitingFor::CustomToolResult)
        }
        EventBody::UserToolResult { tool_use_id, .. } => (tool_use_id, WaitingFor::ToolResult),
        EventBody::UserInterrupt { session_thread_id: Some(thread) } => {
            return Err(Error::invalid(format_args!("events[{i}].session_thread_id: thread `{thread}` not found")));
        }
        EventBody::UserInterrupt { .. } => {
            if !working {
                waiting.clear();
            }
            return Ok(false);
        }
        EventBody::SystemMessage { .. } => return Ok(false),
        message => {
            if waiting.is_empty() || working {
                return Ok(false);
            }
            let ids: Vec<&str> = waiting.iter().map(|w| w.id.as_ref()).collect();
            return Err(Error::invalid(format_args!(
                "Invalid {} event at events[{i}]: waiting on responses to events [{}]; only user.tool_confirmation, \
                 user.custom_tool_result, user.tool_result, or user.interrupt may be sent",
                message.tag(),
                ids.join(", ")
            )));
        }
    };
    match waiting.iter().position(|w| w.id.as_ref() == answered && w.for_ == kind) {
        Some(place) => {
            waiting.remove(place);
            Ok(true)
        }
        None => Err(Error::invalid(format_args!(
            "Invalid {} event at events[{i}]: `{answered}` is not an event that waits for it",
            event.tag()
        ))),
    }
}

/// For a session at rest: the events enter the log, and the session goes to work unless something still waits.
fn take(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &Control,
    events: &[EventBody],
) -> Result<Vec<Box<RawValue>>> {
    let id = &session.id;
    let mut waiting = session.waiting.clone();
    let mut sent = Vec::new();
    let mut begins = false;
    let mut interrupted = false;
    for event in events {
        if matches!(event, EventBody::UserInterrupt { .. }) {
            let closed = waiting.iter().filter(|w| w.for_ != WaitingFor::CustomToolResult);
            let results: Vec<EventBody> = closed.map(|w| interrupted_result(&w.id)).collect();
            interrupted |= !waiting.is_empty();
            begins = false;
            waiting.clear();
            sent.extend(log::append(tx, workspace, id, std::slice::from_ref(event))?);
            log::append(tx, workspace, id, &results)?;
            continue;
        }
        accept(0, event, &mut waiting, false)?;
        begins |= !matches!(event, EventBody::SystemMessage { .. });
        sent.extend(log::append(tx, workspace, id, std::slice::from_ref(event))?);
    }
    sessions::set_waiting(tx, workspace, id, &waiting)?;
    if begins && waiting.is_empty() {
        begin(tx, workspace, session)?;
    } else if begins {
        let event_ids = waiting.into_iter().map(|w| w.id).collect();
        let stop_reason = StopReason::RequiresAction { event_ids };
        log::append(tx, workspace, id, &[EventBody::StatusIdle { stop_reason, stop_details: None }])?;
    } else if interrupted {
        let stop_reason = StopReason::EndTurn;
        log::append(tx, workspace, id, &[EventBody::StatusIdle { stop_reason, stop_details: None }])?;
    }
    Ok(sent)
}

/// Interrupts a session that is at work, unless an interrupt waits in it already.
///
/// # Errors
/// 404 when there is no such session.
pub fn interrupt(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<()> {
    tx.lock("sessions WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let session = sessions::control(tx, workspace, id.as_ref())?;
    let sql = "SELECT 1 FROM session_inputs WHERE session_id = $1 AND type = 'user.interrupt' LIMIT 1";
    let is_at_work = matches!(session.status, Status::Running | Status::Rescheduling);
    if !is_at_work || tx.one(sql, vals![id], |_| Ok(()))?.is_some() {
        return Ok(());
    }
    wait(tx, workspace, &session, &EventBody::UserInterrupt { session_thread_id: None })?;
    tx.after_commit(Notice::SessionChanged(session.id.clone()));
    if session.status == Status::Rescheduling {
        wake(tx, workspace, &session)?;
    }
    Ok(())
}

/// The result of a call that an interrupt ended.
pub fn interrupted_result(tool_use_id: &EventId) -> EventBody {
    EventBody::AgentToolResult {
        tool_use_id: tool_use_id.clone(),
        content: vec![json!({"type": "text", "text": INTERRUPTED})],
        is_error: true,
    }
}

fn begin(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &Control) -> Result<()> {
    let now = tx.now();
    tx.send(
        "UPDATE sessions SET status = 'running', running_since = $3, runnable_at = $3
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, &session.id, now],
    )?;
    tx.after_commit(Notice::SessionRunnable);
    Ok(())
}

/// For a working session: answers enter the log at once, the rest waits. Its runner is told.
fn queue(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &Control,
    events: &[EventBody],
    answers: &[bool],
) -> Result<Vec<Box<RawValue>>> {
    let mut sent = Vec::new();
    for (event, answer) in events.iter().zip(answers) {
        if *answer {
            sent.extend(log::append(tx, workspace, &session.id, std::slice::from_ref(event))?);
        } else {
            sent.push(wait(tx, workspace, session, event)?);
        }
    }
    tx.after_commit(Notice::SessionChanged(session.id.clone()));
    if session.status == Status::Rescheduling && events.iter().any(|e| matches!(e, EventBody::UserInterrupt { .. })) {
        wake(tx, workspace, session)?;
    }
    Ok(sent)
}

/// An interrupt does not wait for the next try of what failed.
fn wake(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &Control) -> Result<()> {
    let now = tx.now();
    tx.execute(
        "UPDATE sessions SET runnable_at = $3 WHERE workspace_id = $1 AND id = $2 AND runnable_at > $3",
        vals![workspace, &session.id, now],
    )?;
    tx.after_commit(Notice::SessionRunnable);
    Ok(())
}

fn wait(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &Control, body: &EventBody) -> Result<Box<RawValue>> {
    let text = log::text(&EventId::new(tx.now()), body)?;
    tx.execute(
        "INSERT INTO session_inputs (session_id, place, type, body)
         SELECT id, next_input, $2, $3 FROM sessions WHERE workspace_id = $4 AND id = $1",
        vals![&session.id, body.tag(), &text, workspace],
    )?;
    tx.execute(
        "UPDATE sessions SET next_input = next_input + 1 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, &session.id],
    )?;
    log::wire(&text, None)
}
