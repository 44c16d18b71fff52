//! Threads of sessions: the one that each begins with. It has no row: it is the session, seen as its thread.

use axum::{extract::State, response::Response};
use http::HeaderMap;
use rota_api::{
    Time,
    agent::SessionAgent,
    id::{SessionId, ThreadId, WorkspaceId},
    session::{Session, Status},
    thread::{Thread, ThreadStats},
};

use super::sessions::{
    self,
    events::{
        self, View,
        stream::{self, Asked},
    },
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    page::{Order, Page},
    request::{Caller, Json, Path, PathAndQuery, SessionRef},
};

/// `GET /v1/sessions/{session_id}/threads`.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(SessionRef(session), query): PathAndQuery<SessionRef>,
) -> Result<Json<Page<Thread>>> {
    let statuses = query.any_of("statuses", Status::NAMES, Status::NAMES.len())?;
    let paging = query.paging(1000, 1000, Order::Asc)?;
    let thread = app.db.read(move |tx| get(tx, &caller.workspace, &session)).await?;
    let is_asked_for = statuses.is_empty() || statuses.contains(&thread.status.as_str());
    // There is one page: what comes after the only thread is nothing.
    let data = if is_asked_for && paging.after().is_none() { vec![thread] } else { Vec::new() };
    Ok(Json(Page { data, next_page: None }))
}

/// `GET /v1/sessions/{session_id}/threads/{thread_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path((SessionRef(session), thread)): Path<(SessionRef, String)>,
) -> Result<Json<Thread>> {
    check_id(&thread)?;
    let found = app.db.read(move |tx| get(tx, &caller.workspace, &session)).await?;
    check_primary(&found.session_id, &thread)?;
    Ok(Json(found))
}

/// `POST /v1/sessions/{session_id}/threads/{thread_id}/archive`.
pub async fn archive(
    State(app): State<App>,
    caller: Caller,
    Path(ids): Path<(SessionRef, String)>,
) -> Result<Json<Thread>> {
    find(&app, &caller, ids).await?;
    Err(Error::invalid("The primary thread cannot be archived; archive the session instead."))
}

/// `GET /v1/sessions/{session_id}/threads/{thread_id}/events`.
pub async fn events(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(ids, query): PathAndQuery<(SessionRef, String)>,
) -> Result<Json<Page<events::Listed>>> {
    let paging = query.paging(1000, 1000, Order::Asc)?;
    let session = find(&app, &caller, ids).await?;
    events::list_of_thread(&app, caller.into(), session, paging).await.map(Json)
}

/// `GET /v1/sessions/{session_id}/threads/{thread_id}/stream`.
pub async fn stream(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(ids, query): PathAndQuery<(SessionRef, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let asked = Asked::read(&query, &headers)?;
    let session = find(&app, &caller, ids).await?;
    stream::begin(app, caller.into(), session.to_string(), View::Thread, asked).await
}

/// The session whose thread is named.
async fn find(app: &App, caller: &Caller, (SessionRef(session), thread): (SessionRef, String)) -> Result<SessionId> {
    check_id(&thread)?;
    let workspace = caller.workspace.clone();
    let id = app.db.read(move |tx| sessions::control(tx, &workspace, &session).map(|session| session.id)).await?;
    check_primary(&id, &thread)?;
    Ok(id)
}

fn check_id(thread: &str) -> Result<()> {
    match thread.parse::<ThreadId>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(format_args!("Invalid thread ID: {thread}"))),
    }
}

fn check_primary(session: &SessionId, thread: &str) -> Result<()> {
    if thread == ThreadId::primary_of(session).as_ref() {
        return Ok(());
    }
    Err(Error::NotFound(format!("Thread not found: {thread}")))
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str) -> Result<Thread> {
    let session = sessions::get(tx, workspace, session)?;
    let began = change(tx, &session.id, "ASC", "= 'session.thread_status_running'")?;
    let last = change(tx, &session.id, "DESC", "LIKE 'session.thread_status_%'")?;
    let agent: SessionAgent = serde_json::from_str(session.agent.get())?;
    let stats = began.as_ref().map(|(_, at)| {
        let startup_seconds = at.seconds_since(session.created_at).max(0.0);
        ThreadStats::new(session.stats, startup_seconds)
    });
    Ok(Thread {
        id: ThreadId::primary_of(&session.id),
        r#type: "session_thread",
        parent_thread_id: None,
        agent: agent.primary,
        status: status(&session, last.as_ref().map(|(tag, _)| tag.as_str())),
        stats,
        usage: began.is_some().then_some(session.usage),
        workflow_run_id: None,
        created_at: session.created_at,
        updated_at: last.map_or(session.created_at, |(_, at)| at),
        archived_at: None,
        session_id: session.id,
    })
}

/// The status of the thread: the session's, and after the session was archived that of its own last event.
fn status(session: &Session, last: Option<&str>) -> Status {
    match (session.archived_at, last) {
        (None, _) => session.status,
        (Some(_), Some("session.thread_status_terminated")) => Status::Terminated,
        (Some(_), _) => Status::Idle,
    }
}

/// A change of the thread's status: the first one, or the last.
fn change(tx: &mut Tx<'_>, session: &SessionId, order: &str, of: &str) -> Result<Option<(String, Time)>> {
    let sql = format!(
        "SELECT type, processed_at FROM session_events WHERE session_id = $1 AND type {of} ORDER BY seq {order} LIMIT 1"
    );
    tx.one(&sql, vals![session], |row| Ok((row.text(0)?, row.time(1)?)))
}
