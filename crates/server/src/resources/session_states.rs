//! All sessions of a workspace with what each is doing.

use axum::extract::State;
use rota_api::{
    agent::AgentReference,
    id::{self, AgentId, DeploymentId, SessionId, WorkspaceId},
    listed_run::Cost,
    session::{SessionUsage, Status},
    session_state::{STOP_REASONS, SessionState, SessionWithState},
};

use crate::{
    app::App,
    db::{Row, Select},
    error::Result,
    page::{Order, Page},
    request::{Caller, Json, Query},
    resources::sessions::{self, Waiting},
};

/// `GET /rota/v1/sessions`, newest first.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<SessionWithState>>> {
    let state = query.one_of("state", SessionState::NAMES)?.and_then(SessionState::from_name);
    let stop_reason = query.one_of("stop_reason", STOP_REASONS)?;
    let few = state.and_then(few_in).or(stop_reason.and_then(few_of));
    let deployment = query.id::<DeploymentId>("deployment_id")?;
    let (mut select, key) = walk(&caller.workspace, deployment, few);
    select.when(state.is_some(), state.map_or("", condition));
    select.text("s.stop_reason =", stop_reason);
    select.text("s.agent_id =", query.id::<AgentId>("agent_id")?);
    select.text("s.id >=", query.time("from")?.map(id::floor::<SessionId>));
    select.text("s.id <", query.time("to")?.map(id::floor::<SessionId>));
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "s.archived_at IS NULL");
    let paging = query.paging(20, 100, Order::Desc)?;
    app.db
        .read(move |tx| {
            let rows = select.page(tx, key, &paging, |row| Ok((from_row(row)?, row.text("key")?)))?;
            let page = paging.page(rows, |(_, key)| key.clone());
            Ok(Page { data: page.data.into_iter().map(|(session, _)| session).collect(), next_page: page.next_page })
        })
        .await
        .map(Json)
}

macro_rules! columns {
    ($key:literal) => {
        concat!(
            "SELECT s.id, ",
            $key,
            " AS key, s.title, s.status, s.lease_owner, s.running_since, s.runnable_at, s.stopped_at, s.stop_reason,
             s.error, s.waiting_on, s.deployment_id, d.name, s.run_id, s.agent_id, s.agent_version,
             coalesce(v.model, '') AS model, s.environment_id, s.usage, s.active_micros, s.cost_nanos, s.created_at,
             s.archived_at "
        )
    };
}

macro_rules! joins {
    () => {
        " LEFT JOIN deployments d ON d.workspace_id = s.workspace_id AND d.id = s.deployment_id
          LEFT JOIN agent_versions v ON v.agent_id = s.agent_id AND v.version = s.agent_version "
    };
}

const ALL: &str = concat!(columns!("s.id"), "FROM sessions s", joins!(), "WHERE s.workspace_id = $1");

/// Those of a deployment are found through its runs. A session of several runs is listed with the last.
const BY_RUN: &str = concat!(
    columns!("r.id"),
    "FROM deployment_runs r JOIN sessions s ON s.workspace_id = r.workspace_id AND s.id = r.session_id",
    joins!(),
    "WHERE r.workspace_id = $1 AND coalesce(s.run_id, r.id) = r.id"
);

/// The SELECT of the sessions of a deployment, or of all, and the column that it is walked along. Where `few` are asked for, they come
/// from an index of these: a walk would pass over all others.
fn walk(workspace: &WorkspaceId, deployment: Option<&str>, few: Option<&str>) -> (Select, &'static str) {
    if few.is_none() && deployment.is_some() {
        let mut select = Select::new(BY_RUN, workspace);
        select.text("r.deployment_id =", deployment);
        return (select, "r.id");
    }
    let mut select = Select::new(ALL, workspace);
    if let Some(few) = few {
        select.when(true, &format!("s.id IN (SELECT w.id FROM sessions w WHERE w.workspace_id = $1 AND {few})"));
    }
    select.text("s.deployment_id =", deployment);
    (select, "s.id")
}

/// What is true of the few sessions that may be in a state, for which there is an index.
fn few_in(state: SessionState) -> Option<&'static str> {
    match state {
        SessionState::Queued | SessionState::Working | SessionState::Retrying => Some("w.runnable_at IS NOT NULL"),
        SessionState::Waiting => few_of("requires_action"),
        SessionState::Resting | SessionState::Ended => None,
    }
}

/// The same of those that have stopped for a reason.
fn few_of(stop_reason: &str) -> Option<&'static str> {
    match stop_reason {
        "requires_action" => Some("w.stop_reason = 'requires_action'"),
        "retries_exhausted" | "terminated" => Some("w.stop_reason IN ('retries_exhausted', 'terminated')"),
        _ => None,
    }
}

fn condition(state: SessionState) -> &'static str {
    match state {
        SessionState::Queued => "s.status = 'running' AND s.lease_owner IS NULL",
        SessionState::Working => "s.status = 'running' AND s.lease_owner IS NOT NULL",
        SessionState::Retrying => "s.status = 'rescheduling'",
        SessionState::Waiting => "s.status = 'idle' AND s.waiting_on IS NOT NULL",
        SessionState::Resting => "s.status = 'idle' AND s.waiting_on IS NULL",
        SessionState::Ended => "s.status = 'terminated'",
    }
}

fn from_row(row: &Row<'_>) -> Result<SessionWithState> {
    let status = sessions::stored_status(&row.text("status")?)?;
    let waiting: Vec<Waiting> = row.opt_json("waiting_on")?.unwrap_or_default();
    let state = state(status, row.opt_text("lease_owner")?.is_some(), !waiting.is_empty());
    let (runnable_at, archived_at) = (row.opt_time("runnable_at")?, row.opt_time("archived_at")?);
    let since = match state {
        SessionState::Queued => runnable_at,
        SessionState::Working => row.opt_time("running_since")?,
        SessionState::Retrying => None,
        SessionState::Waiting | SessionState::Resting => row.opt_time("stopped_at")?,
        SessionState::Ended => archived_at.or(row.opt_time("stopped_at")?),
    };
    let active_seconds = row.int("active_micros")? as f64 / 1e6;
    Ok(SessionWithState {
        id: row.id("id")?,
        r#type: "session_state",
        title: row.opt_text("title")?,
        status,
        state,
        since,
        retry_at: runnable_at.filter(|_| state == SessionState::Retrying),
        waits_for_human: waiting.iter().any(|waiting| waiting.for_.is_of_a_human()),
        waiting_on: waiting.into_iter().map(Into::into).collect(),
        stop_reason: row.opt_text("stop_reason")?,
        error: row.opt_json("error")?,
        deployment_id: row.opt_id("deployment_id")?,
        deployment_name: row.opt_text("name")?,
        run_id: row.opt_id("run_id")?,
        agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
        model: row.text("model")?,
        environment_id: row.id("environment_id")?,
        usage: SessionUsage { active_seconds, ..row.opt_json("usage")?.unwrap_or_default() },
        cost: row.opt_int("cost_nanos")?.map(Cost::from_nanos),
        created_at: row.time("created_at")?,
        archived_at,
    })
}

/// What a session is doing.
fn state(status: Status, has_runner: bool, waits: bool) -> SessionState {
    match status {
        Status::Running if has_runner => SessionState::Working,
        Status::Running => SessionState::Queued,
        Status::Rescheduling => SessionState::Retrying,
        Status::Idle if waits => SessionState::Waiting,
        Status::Idle => SessionState::Resting,
        Status::Terminated => SessionState::Ended,
    }
}
