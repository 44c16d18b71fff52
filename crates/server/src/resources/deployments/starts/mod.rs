//! Starting otherwise: with inputs and content, at a time, by a hook, for occurrences that were passed over, and again. All of
//! it is Rota's own, and all of it goes through `run::start`.
//!
//! Who starts a deployment whose policy counts sessions, and who ends a planned start, locks the deployment first and the planned
//! start after it.

mod backfill;
mod fire;
mod hooked;
mod rerun;
mod store;

use std::sync::Arc;

use axum::extract::State;
use rota_api::{
    agent::AgentReference,
    deployment::{DeploymentRun, RunError, RunErrorType, TriggerContext},
    id::{Id, RunId, StartId, WorkspaceId},
    listed_run::RunTrigger,
    policy::Policy,
    start::{PlannedStart, StartRun, StartState, Started, StartedRun},
};
use serde_json::json;

use super::{
    IdempotencyKey, count_run, fill, held, policy,
    run::{self, Target},
    spend::{self, Force},
    standing, store as deployments,
};
use crate::{
    app::{App, FirePolicy},
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::MAX_START_AHEAD_MICROS,
    page::{Order, Page},
    request::{Body, Caller, Json, List, Path, PathAndQuery},
    resources::{
        deployment_runs,
        run_starts::{self, Cause, Given},
        sessions::events::files,
    },
    scheduler::settle,
    telemetry,
};

pub use backfill::create as backfill;
pub use fire::fire_due;
pub use hooked::{Called, by_hook};
pub use rerun::create as rerun;

use store::{New, PLANNED};

/// What the keys of this operation have before them in the store: those of the official one are ASCII and have none.
const KEY_MARK: &str = "·";

/// `POST /rota/v1/deployments/{deployment_id}/runs`: starts a session now, or plans to.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    Force(force): Force,
    body: Body,
) -> Result<Json<Started>> {
    let StartRun { inputs, content, at } = body.read(StartRun::read)?;
    let given = Given { inputs, content: content.unwrap_or_default() };
    let key = key.map(|key| [KEY_MARK, &key].concat());
    let wish = Arc::new(Wish { workspace: caller.workspace, id, key, force, given, at });
    let (first, policy) = (wish.clone(), app.fire_policy());
    let made = match app.db.write(move |tx| first.make(tx, &policy)).await {
        Err(Error::Internal(cause)) if wish.at.is_none() => {
            if telemetry::may_tell("a run with inputs") {
                tracing::error!(deployment_id = wish.id, error = %cause, "a run by hand failed");
            }
            app.db.write(move |tx| wish.fail(tx)).await?
        }
        made => made?,
    };
    if let Made { started: Started::Run(started), is_new: true } = &made {
        count_run(&started.run);
    }
    Ok(Json(made.started))
}

/// `GET /rota/v1/deployments/{deployment_id}/starts`.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(deployment, query): PathAndQuery<String>,
) -> Result<Json<Page<PlannedStart>>> {
    let state = query.one_of("state", StartState::NAMES)?;
    let paging = query.paging(20, 100, Order::Desc)?;
    let (workspace, of) = (caller.workspace.clone(), deployment.clone());
    app.db.read(move |tx| deployments::get(tx, &workspace, &of)).await?;
    let mut select = PLANNED.select(&caller.workspace);
    select.text("deployment_id =", Some(deployment));
    select.text("state =", state);
    List { select, key: "id", paging }.page(&app.db, store::from_row, |start| start.id.to_string()).await
}

/// `GET /rota/v1/starts/{start_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<PlannedStart>> {
    app.db.read(move |tx| PLANNED.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /rota/v1/starts/{start_id}/cancel`.
pub async fn cancel(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<PlannedStart>> {
    app.db.write(move |tx| end(tx, &caller.workspace, &id)).await.map(Json)
}

/// Cancels a start, once: a second time it is as it was.
fn end(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<PlannedStart> {
    let found = PLANNED.get(tx, workspace, id)?;
    lock_deployment(tx, workspace, found.deployment_id.as_ref())?;
    PLANNED.lock(tx, workspace, id)?;
    let found = PLANNED.get(tx, workspace, id)?;
    match found.state {
        StartState::Planned => {}
        StartState::Cancelled => return Ok(found),
        ended => {
            return Err(Error::Conflict(format!(
                "start {id} is not planned any more, and cannot be cancelled: its state is {}",
                ended.as_str()
            )));
        }
    }
    store::end(tx, workspace, &PlannedStart { state: StartState::Cancelled, reason: None, ..found })?;
    PLANNED.get(tx, workspace, id)
}

fn lock_deployment(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2", vals![workspace, id])
}

/// A caller's wish to start a deployment.
struct Wish {
    workspace: WorkspaceId,
    id: String,
    key: Option<String>,
    /// Whether it starts also where the deployment has spent what it may.
    force: bool,
    given: Given,
    at: Option<rota_api::Time>,
}

/// What it has led to, now or when the same was asked for before.
struct Made {
    started: Started,
    is_new: bool,
}

impl Wish {
    fn make(&self, tx: &mut Tx<'_>, policy: &FirePolicy) -> Result<Made> {
        let Self { workspace, id, given, at, .. } = self;
        let target = Target::find(tx, workspace, id)?.ok_or_else(|| Error::not_found("Deployment", id))?;
        let (run_id, start_id) = (RunId::new(tx.now()), StartId::new(tx.now()));
        let made = if at.is_some() { start_id.as_ref() } else { run_id.as_ref() };
        if let Some(earlier) = self.earlier(tx, made)? {
            return Ok(earlier);
        }
        if target.archived {
            return Err(deployments::archived());
        }
        files::check_sent(tx, workspace, [&json!({ "content": given.content })])?;
        fill::events(&target.initial_events, given)?;
        let started = if let Some(at) = at {
            Started::Planned(Box::new(self.plan(tx, &target, &start_id, *at)?))
        } else {
            spend::check_by_hand(tx, &target.id, target.spend.as_ref(), self.force)?;
            let cause = Cause::of(RunTrigger::Manual);
            let run = begin(tx, policy, workspace, target, run_id, TriggerContext::Manual, (&cause, given))?;
            Started::Run(Box::new(shown(tx, workspace, run)?))
        };
        Ok(Made { started, is_new: true })
    }

    fn plan(&self, tx: &mut Tx<'_>, target: &Target, id: &StartId, at: rota_api::Time) -> Result<PlannedStart> {
        let now = tx.now();
        if at <= now {
            return Err(Error::invalid("at: must be a time in the future; leave it out to start now"));
        }
        if at > now.plus_micros(MAX_START_AHEAD_MICROS) {
            let days = MAX_START_AHEAD_MICROS / 1_000_000 / 86_400;
            return Err(Error::invalid(format_args!("at: must be within {days} days from now")));
        }
        lock_deployment(tx, &self.workspace, &self.id)?;
        store::check_room(tx, &target.id, 1)?;
        let new = New {
            workspace: &self.workspace,
            deployment: &target.id,
            trigger: RunTrigger::At,
            at,
            scheduled_at: None,
            given: &self.given,
            hook: None,
            look_at: Some(at),
        };
        store::insert(tx, id, &new)?;
        PLANNED.get(tx, &self.workspace, id.as_ref())
    }

    /// Records that [`make`](Self::make) failed for a reason that has no type of its own.
    fn fail(&self, tx: &mut Tx<'_>) -> Result<Made> {
        let Self { workspace, id, given, .. } = self;
        let run_id = RunId::new(tx.now());
        if let Some(earlier) = self.earlier(tx, run_id.as_ref())? {
            return Ok(earlier);
        }
        let run = record_failure(tx, workspace, id, run_id, TriggerContext::Manual)?;
        run_starts::insert(tx, workspace, &run.id, &Cause::of(RunTrigger::Manual), given)?;
        Ok(Made { started: Started::Run(Box::new(shown(tx, workspace, run)?)), is_new: true })
    }

    /// What the key stands for, while it is remembered.
    fn earlier(&self, tx: &mut Tx<'_>, made: &str) -> Result<Option<Made>> {
        let Some(key) = &self.key else { return Ok(None) };
        let Some(earlier) = run::claim(tx, &self.id, key, made)? else { return Ok(None) };
        let started = if earlier.starts_with(StartId::PREFIX) {
            Started::Planned(Box::new(PLANNED.get(tx, &self.workspace, &earlier)?))
        } else {
            let run = deployment_runs::get(tx, &self.workspace, &earlier)?;
            Started::Run(Box::new(shown(tx, &self.workspace, run)?))
        };
        Ok(Some(Made { started, is_new: false }))
    }
}

fn shown(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: DeploymentRun) -> Result<StartedRun> {
    let start = run_starts::of(tx, workspace, &run)?;
    Ok(StartedRun { run, start })
}

/// Starts a session of `target` with what was given and records the run and its cause, or records why no session could be
/// started.
fn begin(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    mut target: Target,
    run_id: RunId,
    trigger: TriggerContext,
    (cause, given): (&Cause, &Given),
) -> Result<DeploymentRun> {
    let run = match fill::events(&target.initial_events, given) {
        Ok(events) => {
            target.initial_events = events;
            run::start(tx, policy, workspace, &target, run_id, trigger)?
        }
        // The first events have changed since the start was planned, or the run that is done again.
        Err(Error::Invalid(message)) => {
            let message = format!("session creation rejected: {message}");
            let error = RunError { r#type: RunErrorType::SessionCreationRejected, message };
            run::record(tx, workspace, run_id, target.id, target.agent, trigger, Err(error))?
        }
        Err(error) => return Err(error),
    };
    run_starts::insert(tx, workspace, &run.id, cause, given)?;
    Ok(run)
}

/// Records a run whose session could not be started for a reason that has no type of its own.
fn record_failure(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    run_id: RunId,
    trigger: TriggerContext,
) -> Result<DeploymentRun> {
    let sql = "SELECT id, agent_id, agent_version FROM deployments WHERE workspace_id = $1 AND id = $2";
    let read = |row: &Row<'_>| Ok((row.id(0)?, AgentReference::new(row.id(1)?, row.int(2)?)));
    let (deployment, agent) = tx.one_or(sql, vals![workspace, id], read, || Error::not_found("Deployment", id))?;
    run::record(tx, workspace, run_id, deployment, agent, trigger, Err(run::unknown_error()))
}

/// What of a deployment decides on starts that nobody waits for.
struct Settings {
    policy: Policy,
    state: settle::State,
    /// Whether the schedules of its workspace are held.
    is_held: bool,
}

impl Settings {
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<Self>> {
        let sql = format!(
            "SELECT {}, {}, d.paused_reason, d.archived_at
             FROM deployments d JOIN workspaces w ON w.id = d.workspace_id WHERE d.workspace_id = $1 AND d.id = $2",
            policy::COLUMNS,
            held::COLUMNS
        );
        tx.one(&sql, vals![workspace, id], |row| {
            let (policy, state) = (policy::from_row(row)?, standing::state(row)?);
            Ok(Self { policy, state, is_held: held::is_held(row)? })
        })
    }
}
