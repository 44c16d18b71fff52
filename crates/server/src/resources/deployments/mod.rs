//! Deployments: an agent bound to an environment, first events and an optional schedule.

pub mod active;
pub mod again;
mod check;
mod continuity;
pub mod deadlines;
pub mod due;
pub mod failures;
mod fill;
mod held;
pub mod history;
pub mod occurrences;
pub mod policy;
mod run;
pub mod silence;
pub mod spend;
mod standing;
pub mod starts;
mod store;
mod told;
mod write;

use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use rota_api::{
    deployment::{Deployment, DeploymentFields, DeploymentRun, TriggerContext, UpdateDeployment},
    id::{AgentId, DeploymentId},
};
use tracing::field::display;

use crate::{
    app::App,
    error::{Error, Result},
    limits::MAX_IDEMPOTENCY_KEY,
    page::{Order, Page},
    request::{Body, Caller, Json, List, Path, Query, Starter, query::CREATED_BETWEEN},
    resources::repositories::{self, Asked},
};

use run::{ByHand, Fired};
use spend::Force;
pub use store::{archive_all_of, get};

/// `POST /v1/deployments`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Deployment>> {
    let fields = body.read(DeploymentFields::read)?;
    repositories::check(&app.config.git, &fields.resources, Asked::ByDeployment)?;
    let key = repositories::key(&app, &caller.workspace, &fields.resources).await?;
    app.db.write(move |tx| write::insert(tx, &caller.workspace, &fields, key.as_ref())).await.map(Json)
}

/// `GET /v1/deployments/{deployment_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deployment>> {
    app.db.read(move |tx| get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/deployments/{deployment_id}`.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Deployment>> {
    let update = body.read(UpdateDeployment::read)?;
    let resources = update.resources.as_deref().unwrap_or_default();
    repositories::check(&app.config.git, resources, Asked::ByDeployment)?;
    let key = repositories::key(&app, &caller.workspace, resources).await?;
    app.db.write(move |tx| write::update(tx, &caller.workspace, &id, &update, key.as_ref())).await.map(Json)
}

/// `GET /v1/deployments`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<Deployment>>> {
    let archived = query.boolean("include_archived")?;
    let status = query.one_of("status", &["active", "paused"])?;
    if archived.is_some() && status.is_some() {
        return Err(Error::invalid("include_archived: cannot be set together with status"));
    }
    let mut select = store::select(&caller.workspace);
    select.when(archived != Some(true), "archived_at IS NULL");
    select.when(status == Some("active"), "paused_reason IS NULL");
    select.when(status == Some("paused"), "paused_reason IS NOT NULL");
    select.text("agent_id =", query.text("agent_id"));
    query.created_at::<DeploymentId>(&mut select, "id", &CREATED_BETWEEN)?;
    if let Some(id) = query.text("agent_id")
        && id.parse::<AgentId>().is_err()
    {
        return Err(Error::invalid("agent_id: Invalid agent ID."));
    }
    let list = List { select, key: "id", paging: query.paging(20, 100, Order::Desc)? };
    let now = app.clock.now();
    list.page(&app.db, move |row| store::from_row(row, now), |deployment| deployment.id.to_string()).await
}

/// `POST /v1/deployments/{deployment_id}/archive`.
pub async fn archive(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deployment>> {
    app.db.write(move |tx| store::archive(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/deployments/{deployment_id}/pause`.
pub async fn pause(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deployment>> {
    app.db.write(move |tx| store::pause(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/deployments/{deployment_id}/unpause`.
pub async fn unpause(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deployment>> {
    app.db.write(move |tx| store::unpause(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/deployments/{deployment_id}/run`: starts a session of a deployment now. Answers 200 with the run also when it failed in a way that has a type.
pub async fn run(
    State(app): State<App>,
    Starter(caller): Starter,
    Path(id): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    Force(force): Force,
) -> Result<Json<DeploymentRun>> {
    let by_hand = ByHand { workspace: caller.workspace, id, key, force };
    let (wish, policy) = (by_hand.clone(), app.fire_policy());
    let span = app.traces.fire();
    let fired = match app.db.write(move |tx| wish.fire(tx, &policy)).await {
        Err(Error::Internal(cause)) => {
            if crate::telemetry::may_tell("a run by hand") {
                tracing::error!(deployment_id = by_hand.id, error = %cause, "a run by hand failed");
            }
            app.db.write(move |tx| by_hand.fail(tx)).await?
        }
        fired => fired?,
    };
    Ok(Json(match fired {
        Fired::Earlier(run) => run,
        Fired::New(run) => {
            count_run(&run);
            span.fired(&run);
            run
        }
    }))
}

/// Counts and tells of a run that was just recorded.
pub fn count_run(run: &DeploymentRun) {
    let DeploymentRun { id, deployment_id, session_id, trigger_context, .. } = run;
    let session_id = session_id.as_ref().map(display);
    let trigger = match trigger_context {
        TriggerContext::Schedule { .. } => "schedule",
        TriggerContext::Manual => "manual",
    };
    tracing::info!(%deployment_id, run_id = %id, session_id, trigger, outcome = run.outcome(), "a deployment fired");
    metrics::counter!("rota_deployment_runs_total", "outcome" => run.outcome()).increment(1);
}

/// The `Idempotency-Key` of a request, which may have none.
pub struct IdempotencyKey(Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        match value.to_str() {
            Ok(key) if (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            _ => Err(Error::invalid(format_args!(
                "the Idempotency-Key header must have 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters"
            ))),
        }
    }
}
