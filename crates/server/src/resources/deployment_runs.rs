//! Deployment runs: the append-only record of every start.

use std::collections::HashMap;

use axum::extract::State;
use rota_api::{
    Time,
    agent::AgentReference,
    deployment::{DeploymentRun, TriggerContext},
    id::{DeploymentId, RunId, WorkspaceId},
};

use crate::{
    app::App,
    db::{Row, Select, Tx, vals},
    error::{Error, Result},
    page::{Order, Page},
    request::{Caller, Json, List, Path, Query, query::CREATED_ANY},
};

/// `GET /v1/deployment_runs/{deployment_run_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<DeploymentRun>> {
    app.db.read(move |tx| get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `GET /v1/deployment_runs`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<DeploymentRun>>> {
    let mut select = Select::new(SELECT, &caller.workspace);
    let deployment = query.text("deployment_id");
    if deployment.is_some_and(|id| id.parse::<DeploymentId>().is_err()) {
        return Err(Error::invalid("Invalid deployment ID."));
    }
    select.text("deployment_id =", deployment);
    let has_error = query.boolean("has_error")?;
    select.when(has_error == Some(true), "error IS NOT NULL");
    select.when(has_error == Some(false), "error IS NULL");
    let trigger = query.one_of("trigger_type", &["schedule", "manual"])?;
    select.when(trigger == Some("schedule"), "scheduled_at IS NOT NULL");
    select.when(trigger == Some("manual"), "scheduled_at IS NULL");
    query.created_at::<RunId>(&mut select, "id", &CREATED_ANY)?;
    let list = List { select, key: "id", paging: query.paging(20, 1000, Order::Desc)? };
    list.page(&app.db, from_row, |run| run.id.to_string()).await
}

/// The run `id` of a workspace.
///
/// # Errors
/// 404 when there is none.
pub fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<DeploymentRun> {
    let missing = || Error::not_found("Deployment run", id);
    tx.one_or(&format!("{SELECT} AND id = $2"), vals![workspace, id], from_row, missing)
}

/// The run of the occurrence `scheduled_at` of a deployment, if it has one.
pub fn of_occurrence(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &str,
    scheduled_at: Time,
) -> Result<Option<DeploymentRun>> {
    let sql = format!("{SELECT} AND deployment_id = $2 AND scheduled_at = $3");
    tx.one(&sql, vals![workspace, deployment, scheduled_at], from_row)
}

/// The runs of the occurrences of a deployment from `first` to `last`, by their occurrence, each in the order of its attempts.
pub fn of_occurrences(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &str,
    first: Time,
    last: Time,
) -> Result<HashMap<Time, Vec<DeploymentRun>>> {
    let sql = format!(
        "{SELECT} AND deployment_id = $2 AND scheduled_at >= $3 AND scheduled_at <= $4 ORDER BY scheduled_at, attempt"
    );
    let by_occurrence = |row: &Row<'_>| Ok((row.time("scheduled_at")?, from_row(row)?));
    let mut runs: HashMap<_, Vec<_>> = HashMap::new();
    for (occurrence, run) in tx.all(&sql, vals![workspace, deployment, first, last], by_occurrence)? {
        runs.entry(occurrence).or_default().push(run);
    }
    Ok(runs)
}

/// What is kept of a run beside what the API shows.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The run whose session died, where this one follows it, and the number of this one among those of its occurrence.
    pub follows: Option<(u32, RunId)>,
    /// Whether its session is that of an earlier run.
    pub goes_on: bool,
}

/// Adds a run. Runs are never changed.
pub fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &DeploymentRun, kept: &Kept) -> Result<()> {
    assert_ne!(run.session_id.is_some(), run.error.is_some(), "a run has a session or an error: {}", run.id);
    let scheduled_at = match run.trigger_context {
        TriggerContext::Schedule { scheduled_at } => Some(scheduled_at),
        TriggerContext::Manual => None,
    };
    let error = run.error.as_ref().map(serde_json::to_string).transpose()?;
    let (attempt, retry_of) = kept.follows.as_ref().map(|(attempt, run)| (*attempt, run)).unzip();
    tx.add(
        "INSERT INTO deployment_runs
             (id, workspace_id, deployment_id, agent_id, agent_version, session_id, error, scheduled_at, created_at,
              attempt, retry_of, goes_on)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        vals![
            &run.id,
            workspace,
            &run.deployment_id,
            &run.agent.id,
            run.agent.version,
            run.session_id.as_ref(),
            error.as_deref(),
            scheduled_at,
            run.created_at,
            i64::from(attempt.unwrap_or(1)),
            retry_of,
            i64::from(kept.goes_on)
        ],
    )
}

const SELECT: &str = "SELECT id, deployment_id, agent_id, agent_version, session_id, error, scheduled_at, created_at
    FROM deployment_runs WHERE workspace_id = $1";

fn from_row(row: &Row<'_>) -> Result<DeploymentRun> {
    let scheduled_at = row.opt_time("scheduled_at")?;
    Ok(DeploymentRun {
        id: row.id("id")?,
        r#type: "deployment_run",
        deployment_id: row.id("deployment_id")?,
        agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
        session_id: row.opt_id("session_id")?,
        error: row.opt_json("error")?,
        trigger_context: scheduled_at
            .map_or(TriggerContext::Manual, |scheduled_at| TriggerContext::Schedule { scheduled_at }),
        created_at: row.time("created_at")?,
    })
}
