//! What a client sends to a session.
//!
//! Messages wait until the agent takes them up, which is at once where the session was at rest. Answers to what waits for the
//! client enter the log when they come in, and so does an interrupt of a session at rest.

use rota_api::{
    agent::needs_network,
    event::{Confirmation as Decision, Event, EventBody, StopReason},
    id::{EventId, Id, SessionId, ThreadId, WorkspaceId},
    session::Status,
};
use serde_json::{json, value::RawValue};

use super::{decisions, files, log};
use crate::{
    db::{Notice, Tx, vals},
    error::{Error, Result},
    json_size::json_size,
    limits::{MAX_QUEUED_BYTES, MAX_QUEUED_INPUTS, MAX_SESSION_BYTES, MAX_SESSION_EVENTS},
    model::INTERRUPTED,
    request::CallerOrWorker,
    resources::{
        sessions::{self, Control, Waiting, WaitingFor, status},
        work_queue,
    },
};

/// Takes in `events`, all or none. Returns them as they were recorded.
pub(super) fn send(
    tx: &mut Tx<'_>,
    caller: &CallerOrWorker,
    id: &str,
    events: &[EventBody],
) -> Result<Vec<Box<RawValue>>> {
    send_by(tx, &caller.workspace, Some(caller), id, events)
}

/// Takes in what a client would have sent, by the server itself, for whoever does not.
///
/// # Errors
/// Those that a client would be told.
pub fn send_for_nobody(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId, events: &[EventBody]) -> Result<()> {
    send_by(tx, workspace, None, id.as_ref(), events).map(drop)
}

fn send_by(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    caller: Option<&CallerOrWorker>,
    id: &str,
    events: &[EventBody],
) -> Result<Vec<Box<RawValue>>> {
    let worker = caller.and_then(CallerOrWorker::worker);
    sessions::lock(tx, workspace, id)?;
    if let Some(caller) = caller {
        sessions::check_reach(tx, caller, id)?;
    }
    let session = sessions::control(tx, workspace, id)?;
    if session.status == Status::Terminated {
        return Err(Error::invalid(format_args!("Session {id} is terminated and accepts no events.")));
    }
    files::check(tx, workspace, events)?;
    let working = session.status != Status::Idle;
    let mut waiting = session.waiting.clone();
    let mut answers = Vec::new();
    for (i, event) in events.iter().enumerate() {
        check_thread(i, event, &session.id)?;
        if let Some(caller) = caller {
            check_sender(caller, i, event)?;
        }
        answers.push(accept(i, event, &mut waiting, working)?);
    }
    if !working {
        check_nothing_waits(events, &waiting)?;
    }
    check_room(tx, &session, events)?;
    check_one_outcome(tx, workspace, &session, events)?;
    decisions::audit(tx, workspace, caller, &session.id, events);
    sessions::add_outcomes(tx, workspace, &session.id, events)?;
    let only_interrupts = events.iter().all(|event| matches!(event, EventBody::UserInterrupt { .. }));
    if session.self_hosted && worker.is_none() && !only_interrupts {
        work_queue::need(tx, workspace, &session.environment, &session.id)?;
    }
    if !working {
        return take(tx, workspace, &session, events);
    }
    if waiting != session.waiting {
        status::wait(tx, workspace, &session.id, &waiting)?;
    }
    queue(tx, workspace, &session, events, &answers)
}

/// An interrupt may name the one thread that there is.
fn check_thread(i: usize, event: &EventBody, session: &SessionId) -> Result<()> {
    let EventBody::UserInterrupt { session_thread_id: Some(thread) } = event else { return Ok(()) };
    if thread.parse::<ThreadId>().is_err() {
        return Err(Error::invalid(format_args!("events[{i}]: Invalid session_thread_id: {thread}")));
    }
    if *thread != ThreadId::primary_of(session).as_ref() {
        return Err(Error::NotFound(format!("Thread not found: {thread}")));
    }
    Ok(())
}

/// Results of built-in tools come from workers of self-hosted environments, and workers send nothing but results.
fn check_sender(caller: &CallerOrWorker, i: usize, event: &EventBody) -> Result<()> {
    match (caller.worker(), event) {
        (None, EventBody::UserToolResult { .. }) => Err(Error::Forbidden(format!(
            "events[{i}]: `user.tool_result` may only be sent with environment credentials (the self-hosted runner's \
             Session-Instance JWT); an API key or Console session cannot post this event type"
        ))),
        (None, _) | (Some(_), EventBody::UserToolResult { .. } | EventBody::UserCustomToolResult { .. }) => Ok(()),
        (Some(_), event) => Err(Error::Forbidden(format!(
            "events[{i}]: `{}` may not be sent with environment credentials: a worker sends `user.tool_result` and \
             `user.custom_tool_result`",
            event.tag()
        ))),
    }
}

/// A session works towards one outcome at a time: the next one is taken when the session is at rest.
fn check_one_outcome(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &Control, events: &[EventBody]) -> Result<()> {
    let defines = |event: &EventBody| matches!(event, EventBody::UserDefineOutcome { .. });
    let Some(first) = events.iter().position(defines) else { return Ok(()) };
    if let Some(second) = events.iter().skip(first + 1).position(defines) {
        let i = first + 1 + second;
        return Err(Error::invalid(format_args!(
            "events[{i}]: at most one `user.define_outcome` event is allowed at a time"
        )));
    }
    if session.status != Status::Idle && sessions::has_outcome_in_turn(tx, workspace, &session.id)? {
        return Err(Error::invalid(format_args!(
            "events[{first}]: session {} works towards another outcome; one is allowed at a time, so send this one when the \
             session is idle",
            session.id
        )));
    }
    Ok(())
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
    use WaitingFor::{Confirmation, CustomToolResult, ToolResult, WorkerConfirmation};

    let (answered, kinds): (_, &[WaitingFor]) = match event {
        EventBody::UserToolConfirmation { tool_use_id, .. } => (tool_use_id, &[Confirmation, WorkerConfirmation]),
        EventBody::UserCustomToolResult { custom_tool_use_id, .. } => (custom_tool_use_id, &[CustomToolResult]),
        EventBody::UserToolResult { tool_use_id, .. } => (tool_use_id, &[ToolResult]),
        EventBody::UserInterrupt { .. } => {
            if !working {
                waiting.clear();
            }
            return Ok(false);
        }
        _ => return Ok(false),
    };
    let Some(place) = waiting.iter().position(|w| w.id.as_ref() == answered && kinds.contains(&w.for_)) else {
        return Err(Error::invalid(format_args!(
            "Invalid {} event at events[{i}]: `{answered}` is not an event that waits for it",
            event.tag()
        )));
    };
    let allows = matches!(event, EventBody::UserToolConfirmation { result: Decision::Allow, .. });
    if allows && waiting[place].for_ == WorkerConfirmation {
        // The worker may answer from now on, whatever else still waits.
        waiting[place].for_ = ToolResult;
    } else {
        waiting.remove(place);
    }
    Ok(true)
}

/// A session at rest takes no message while it waits for something that the same request does not answer.
fn check_nothing_waits(events: &[EventBody], waiting: &[Waiting]) -> Result<()> {
    let is_message =
        |event: &EventBody| matches!(event, EventBody::UserMessage { .. } | EventBody::UserDefineOutcome { .. });
    let Some(i) = events.iter().position(is_message).filter(|_| !waiting.is_empty()) else { return Ok(()) };
    let ids: Vec<&str> = waiting.iter().map(|w| w.id.as_ref()).collect();
    Err(Error::invalid(format_args!(
        "Invalid {} event at events[{i}]: waiting on responses to events [{}]; only `user.tool_confirmation`, \
         `user.custom_tool_result`, `user.tool_result`, or `user.interrupt` may be sent (a `system.message` may trail a tool \
         result)",
        events[i].tag(),
        ids.join(", ")
    )))
}

/// For a session at rest: answers and interrupts enter the log, messages wait to be taken up, and the session goes to work
/// unless something still waits for the client.
fn take(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &Control,
    events: &[EventBody],
) -> Result<Vec<Box<RawValue>>> {
    let id = &session.id;
    let mut waiting = session.waiting.clone();
    let mut sent = Vec::new();
    let mut answered = false;
    let mut interrupted = false;
    let mut queued = false;
    for (i, event) in events.iter().enumerate() {
        match event {
            EventBody::UserInterrupt { .. } => {
                let open = if waiting.is_empty() { Vec::new() } else { open_calls(tx, session)? };
                let results: Vec<EventBody> =
                    open.iter().map(|(call, run_by)| interrupted_result(call, *run_by)).collect();
                // Recorded: the results of what the interrupt closes stand before it. What was sent before it is over with it.
                log::append(tx, workspace, id, &results)?;
                let inputs = log::queued(tx, id)?;
                log::record(tx, workspace, id, &[], &inputs, &[])?;
                sent.extend(log::append(tx, workspace, id, std::slice::from_ref(event))?);
                interrupted |= !waiting.is_empty();
                waiting.clear();
                (answered, queued) = (false, false);
            }
            EventBody::UserMessage { .. } | EventBody::UserDefineOutcome { .. } => {
                sent.push(wait(tx, workspace, session, event)?);
                queued = true;
            }
            EventBody::SystemMessage { .. } if queued => sent.push(wait(tx, workspace, session, event)?),
            _ => {
                answered |= accept(i, event, &mut waiting, false)?;
                sent.extend(log::append(tx, workspace, id, std::slice::from_ref(event))?);
            }
        }
    }
    status::wait(tx, workspace, id, &waiting)?;
    if (answered || queued) && waiting.is_empty() {
        status::begin(tx, workspace, id)?;
    } else if answered {
        let event_ids = waiting.into_iter().map(|w| w.id).collect();
        status::stay_at_rest(tx, workspace, id, StopReason::RequiresAction { event_ids })?;
    } else if interrupted {
        status::stay_at_rest(tx, workspace, id, StopReason::EndTurn)?;
    }
    Ok(sent)
}

/// Who runs a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunBy {
    /// This server, in a sandbox or by itself.
    Rota,
    /// A worker of the user.
    Worker,
    /// An MCP server.
    McpServer,
}

/// The calls in the last reply that have no result, but those that the client runs: those that wait, and those that were
/// decided on while another one waits.
fn open_calls(tx: &mut Tx<'_>, session: &Control) -> Result<Vec<(EventId, RunBy)>> {
    let events: Vec<Event> = tx.all(
        "SELECT body FROM session_events WHERE session_id = $1
             AND type IN ('agent.tool_use', 'agent.tool_result', 'user.tool_result', 'agent.mcp_tool_use',
                 'agent.mcp_tool_result')
             AND seq > coalesce((SELECT max(seq) FROM session_events
                 WHERE session_id = $1 AND type = 'span.model_request_start'), 0)
         ORDER BY seq",
        vals![&session.id],
        |row| row.json(0),
    )?;
    let run_by = |tool: &str| if session.self_hosted && !needs_network(tool) { RunBy::Worker } else { RunBy::Rota };
    let mut open = Vec::new();
    for Event { id, body } in events {
        match body {
            EventBody::AgentToolUse { name, .. } => open.push((id, run_by(&name))),
            EventBody::AgentMcpToolUse { .. } => open.push((id, RunBy::McpServer)),
            EventBody::AgentToolResult { tool_use_id: answered, .. }
            | EventBody::AgentMcpToolResult { mcp_tool_use_id: answered, .. } => {
                open.retain(|(call, _)| *call != answered);
            }
            EventBody::UserToolResult { tool_use_id, .. } => open.retain(|(call, _)| *call.as_ref() != *tool_use_id),
            _ => {}
        }
    }
    Ok(open)
}

/// Interrupts a session that is at work, unless an interrupt waits in it already. Whether it does.
///
/// # Errors
/// 404 when there is no such session.
pub fn interrupt(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<bool> {
    tx.lock("sessions WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let session = sessions::control(tx, workspace, id.as_ref())?;
    let sql = "SELECT 1 FROM session_inputs WHERE session_id = $1 AND type = 'user.interrupt' LIMIT 1";
    let is_at_work = matches!(session.status, Status::Running | Status::Rescheduling);
    if !is_at_work || tx.one(sql, vals![id], |_| Ok(()))?.is_some() {
        return Ok(false);
    }
    wait(tx, workspace, &session, &EventBody::UserInterrupt { session_thread_id: None })?;
    tx.after_commit(Notice::SessionChanged(session.id.clone()));
    if session.status == Status::Rescheduling {
        status::wake(tx, workspace, &session.id)?;
    }
    Ok(true)
}

/// The result of a call that an interrupt ended. That of a worker's call is one as the worker sends them: the official worker runs
/// every call that has none.
pub fn interrupted_result(call: &EventId, run_by: RunBy) -> EventBody {
    let content = vec![json!({"type": "text", "text": INTERRUPTED})];
    match run_by {
        RunBy::Rota => EventBody::AgentToolResult { tool_use_id: call.clone(), content, is_error: true },
        RunBy::McpServer => EventBody::AgentMcpToolResult { mcp_tool_use_id: call.clone(), content, is_error: true },
        RunBy::Worker => {
            let tool_use_id = call.to_string();
            EventBody::UserToolResult { tool_use_id, content: Some(content), is_error: Some(true) }
        }
    }
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
        // An interrupt does not wait for the next try of what failed.
        status::wake(tx, workspace, &session.id)?;
    }
    Ok(sent)
}

fn wait(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &Control, body: &EventBody) -> Result<Box<RawValue>> {
    let text = log::text(&EventId::new(tx.now()), body)?;
    let request = tx.request();
    tx.execute(
        "INSERT INTO session_inputs (session_id, place, type, body, request_id)
         SELECT id, next_input, $2, $3, $5 FROM sessions WHERE workspace_id = $4 AND id = $1",
        vals![&session.id, body.tag(), &text, workspace, request.as_deref()],
    )?;
    tx.execute(
        "UPDATE sessions SET next_input = next_input + 1 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, &session.id],
    )?;
    log::wire_waiting(body.tag(), &text)
}
