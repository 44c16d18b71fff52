//! Sessions: one agent at work in one environment.

pub mod egress;
pub mod events;
mod forget;
pub mod resources;
pub mod status;
mod store;
mod told;
pub mod warnings;
mod write;

use axum::extract::State;
use rota_api::{
    Deleted,
    id::{AgentId, DeploymentId, SessionId, WorkspaceId},
    session::{CreateSession, Session, Status, UpdateSession},
};

use crate::{
    app::App,
    db::Select,
    error::{Error, Result},
    page::{BothWays, Order, WrongCursor},
    request::{Body, Caller, CallerOrWorker, Json, Path, Query, SessionRef, query::CREATED_ANY},
    resources::repositories::{self, Asked},
};

pub use forget::{forget, forget_events};
pub use store::{
    Control, FilesOf, NewSession, Waiting, WaitingFor, add_outcomes, check_reach, control, files_are_gone, files_of,
    find, forget_deleted, get, has_outcome_in_turn, insert, is_rate_limited, lock, new_outcome, not_found,
    outputs_are_left_out, stored_status, usage,
};
pub use write::{check_budget, self_hosted_resources};

/// `POST /v1/sessions`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Session>> {
    let new = body.read(CreateSession::read)?;
    repositories::check(&app.config.git, &new.resources, Asked::BySession)?;
    let key = repositories::key(&app, &caller.workspace, &new.resources).await?;
    let policy = app.fire_policy();
    app.db.write(move |tx| write::create(tx, &policy, &caller.workspace, &new, key.as_ref())).await.map(Json)
}

/// `GET /v1/sessions/{session_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: CallerOrWorker,
    Path(SessionRef(id)): Path<SessionRef>,
) -> Result<Json<Session>> {
    app.db
        .read(move |tx| {
            check_reach(tx, &caller, &id)?;
            get(tx, &caller.workspace, &id)
        })
        .await
        .map(Json)
}

/// `POST /v1/sessions/{session_id}`.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(SessionRef(id)): Path<SessionRef>,
    body: Body,
) -> Result<Json<Session>> {
    let update = body.read(UpdateSession::read)?;
    app.db.write(move |tx| write::update(tx, &caller.workspace, &id, &update)).await.map(Json)
}

/// `GET /v1/sessions`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<BothWays<Session>>> {
    let deployment = query.text("deployment_id");
    if deployment.is_some_and(|id| id.parse::<DeploymentId>().is_err()) {
        return Err(Error::invalid("Invalid deployment ID."));
    }
    let statuses = query.any_of("statuses", Status::NAMES, Status::NAMES.len())?;
    let archived = query.boolean("include_archived")?.unwrap_or(false);
    let (mut select, key) = walk(&caller.workspace, deployment, &statuses, archived);
    let agent = query.text("agent_id");
    if agent.is_some_and(|id| id.parse::<AgentId>().is_err()) {
        return Err(Error::invalid("Invalid agent ID."));
    }
    select.text("s.agent_id =", agent);
    // As the API has it, a version without an agent is of no agent, and says nothing.
    let version = query.integer("agent_version", 1, i64::MAX)?.filter(|_| agent.is_some());
    select.int("s.agent_version =", version);
    let with_store = "SELECT m.session_id FROM session_memory_stores m WHERE m.workspace_id = $1 AND m.store_id =";
    select.text_within(&format!("s.id IN ({with_store}"), query.text("memory_store_id"), ")");
    query.created_at::<SessionId>(&mut select, "s.id", &CREATED_ANY)?;
    let order = query.one_of("order", &["asc", "desc"])?.map_or(Order::Desc, Order::from_name);
    let paging = query.paging_else(20, 100, order, wrong_cursor)?;
    app.db
        .read(move |tx| {
            let now = tx.now();
            let rows = select.page(tx, key, &paging, |row| store::listed(row, now))?;
            let page = paging.both(rows, |listed| listed.key.clone());
            let data = page.data.into_iter().map(|listed| listed.session).collect();
            Ok(BothWays { data, next_page: page.next_page, prev_page: page.prev_page })
        })
        .await
        .map(Json)
}

/// The list of sessions was recorded to have words of its own.
fn wrong_cursor(wrong: WrongCursor) -> Error {
    match wrong {
        WrongCursor::Unreadable => Error::invalid("invalid page cursor"),
        WrongCursor::OfAnotherOrder => Error::invalid("page token order does not match request"),
        WrongCursor::OfAnotherList => wrong.into(),
    }
}

/// The SELECT of a list of the sessions of a deployment, or of all, that are in one of `statuses`, or in any, and the column
/// that it is walked along.
///
/// Those of a deployment are found through its runs, which are indexed by deployment anyway. Those that are few among many
/// at rest have indexes of their own, where a walk would pass all.
fn walk(
    workspace: &WorkspaceId,
    deployment: Option<&str>,
    statuses: &[&str],
    archived: bool,
) -> (Select, &'static str) {
    let only = |wanted: &[&str]| !statuses.is_empty() && statuses.iter().all(|status| wanted.contains(status));
    let (at_work, terminated) = (only(&["rescheduling", "running"]), only(&["terminated"]));
    let few = at_work || (terminated && !archived);
    let (mut select, key, of_deployment) = match deployment {
        Some(_) if !few => (store::select_by_run(workspace), "r.id", "r.deployment_id ="),
        _ => (store::select(workspace), "s.id", "s.deployment_id ="),
    };
    select.text(of_deployment, deployment);
    select.when(at_work && deployment.is_some(), "s.runnable_at IS NOT NULL");
    let at_a_runner = "s.id IN (SELECT w.id FROM sessions w WHERE w.runnable_at IS NOT NULL)";
    select.when(at_work && deployment.is_none(), at_a_runner);
    // Written out, so that the indexes of terminated sessions are used.
    select.when(terminated, "s.status = 'terminated'");
    select.any_of("s.status", if terminated { &[] } else { statuses });
    select.when(!archived, "s.archived_at IS NULL");
    select.when(!archived && statuses.is_empty(), "s.status <> 'terminated'");
    (select, key)
}

/// `POST /v1/sessions/{session_id}/archive`.
pub async fn archive(
    State(app): State<App>,
    caller: Caller,
    Path(SessionRef(id)): Path<SessionRef>,
) -> Result<Json<Session>> {
    app.db.write(move |tx| write::archive(tx, &caller.workspace, &id)).await.map(Json)
}

/// `DELETE /v1/sessions/{session_id}`.
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(SessionRef(id)): Path<SessionRef>,
) -> Result<Json<Deleted>> {
    app.db.write(move |tx| write::delete(tx, &caller.workspace, &id)).await.map(Json)
}
