//! Events of sessions: sending, listing, streaming.

mod decisions;
mod deltas;
pub mod files;
mod list;
pub mod log;
pub mod more;
mod news;
mod send;
pub mod stream;

pub use list::Listed;
pub use send::{RunBy, interrupt, interrupted_result, send_for_nobody};

use axum::extract::State;
use rota_api::{decode::Dialect, event, id::SessionId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    db::Tx,
    error::Result,
    page::{Order, Page, Paging},
    request::{Body, CallerOrWorker, Json, Path, PathAndQuery, SessionRef},
    resources::sessions,
};

/// Whose log a reader asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The session's: all of it.
    Session,
    /// Its primary thread's: all but what is told of the session as a whole.
    Thread,
}

impl View {
    const OF_THE_SESSION: [&str; 6] = [
        "session.status_running",
        "session.status_idle",
        "session.status_rescheduled",
        "session.status_terminated",
        "session.usage",
        "session.updated",
    ];

    fn shows(self, tag: &str) -> bool {
        self == Self::Session || !Self::OF_THE_SESSION.contains(&tag)
    }
}

/// The events that a request made.
#[derive(Debug, Serialize)]
pub struct Sent {
    data: Vec<Box<RawValue>>,
}

/// `POST /v1/sessions/{session_id}/events`.
pub async fn send(
    State(app): State<App>,
    caller: CallerOrWorker,
    Path(SessionRef(id)): Path<SessionRef>,
    body: Body,
) -> Result<Json<Sent>> {
    let now = app.clock.now();
    let events = body.read(|o| {
        o.speak(Dialect::Sessions);
        event::read_events(&o.required("events")?, now)
    })?;
    let data = app.db.write(move |tx| send::send(tx, &caller, &id, &events)).await?;
    Ok(Json(Sent { data }))
}

/// `GET /v1/sessions/{session_id}/events`.
pub async fn list(
    State(app): State<App>,
    caller: CallerOrWorker,
    PathAndQuery(SessionRef(id), query): PathAndQuery<SessionRef>,
) -> Result<Json<Page<list::Listed>>> {
    let filter = list::Filter::read(&query, View::Session)?;
    let order = query.one_of("order", &["asc", "desc"])?.map_or(Order::Asc, Order::from_name);
    let paging = query.paging(1000, 1000, order)?;
    app.db.read(move |tx| list::page(tx, &caller, &id, &filter, &paging)).await.map(Json)
}

/// A page of the events of the primary thread of a session.
pub async fn list_of_thread(
    app: &App,
    caller: CallerOrWorker,
    session: SessionId,
    paging: Paging,
) -> Result<Page<list::Listed>> {
    let filter = list::Filter::of(View::Thread);
    app.db.read(move |tx| list::page(tx, &caller, session.as_ref(), &filter, &paging)).await
}

/// That the session `id` is one of the workspace, and of a worker where one calls.
fn check_session(tx: &mut Tx<'_>, caller: &CallerOrWorker, id: &str) -> Result<()> {
    sessions::check_reach(tx, caller, id)?;
    sessions::control(tx, &caller.workspace, id).map(drop)
}
