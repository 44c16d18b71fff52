//! Events of sessions: sending, listing, streaming.

mod list;
pub mod log;
mod news;
mod send;
pub mod stream;

pub use send::{interrupt, interrupted_result};

use axum::extract::State;
use rota_api::{decode::Dialect, event, id::WorkspaceId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    error::Result,
    page::{Order, Page},
    request::{Body, Caller, Json, Path, PathAndQuery},
};

/// The events that a request made.
#[derive(Debug, Serialize)]
pub struct Sent {
    data: Vec<Box<RawValue>>,
}

/// `POST /v1/sessions/{session_id}/events`.
pub async fn send(State(app): State<App>, caller: Caller, Path(id): Path<String>, body: Body) -> Result<Json<Sent>> {
    let now = app.clock.now();
    let events = body.read(|o| {
        o.speak(Dialect::Sessions);
        event::read_events(&o.required("events")?, now)
    })?;
    let data = app.db.write(move |tx| send::send(tx, &caller.workspace, &id, &events)).await?;
    Ok(Json(Sent { data }))
}

/// `GET /v1/sessions/{session_id}/events`.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(id, query): PathAndQuery<String>,
) -> Result<Json<Page<list::Listed>>> {
    let filter = list::Filter::read(&query)?;
    let order = query.one_of("order", &["asc", "desc"])?.map_or(Order::Asc, Order::from_name);
    let paging = query.paging(1000, 1000, order)?;
    app.db.read(move |tx| list::page(tx, &caller.workspace, &id, &filter, &paging)).await.map(Json)
}

/// That the session `id` is one of the workspace.
fn check_session(tx: &mut crate::db::Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    crate::resources::sessions::control(tx, workspace, id).map(drop)
}
