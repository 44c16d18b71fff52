//! Doing a failed run again, with what it was given.

use axum::extract::State;
use rota_api::{
    deployment::{DeploymentRun, TriggerContext},
    id::{Id, RunId, WorkspaceId},
    listed_run::RunTrigger,
    start::StartedRun,
};

use super::{
    super::{
        count_run,
        run::Target,
        spend::{self, Force},
        store as deployments,
    },
    begin, shown,
};
use crate::{
    app::{App, FirePolicy},
    db::{Tx, vals},
    error::{Error, Result},
    request::{Caller, Json, Path},
    resources::{
        deployment_runs,
        run_starts::{self, Cause},
    },
};

/// `POST /rota/v1/runs/{deployment_run_id}/rerun`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Force(force): Force,
) -> Result<Json<StartedRun>> {
    let policy = app.fire_policy();
    let started = app.db.write(move |tx| again(tx, &policy, &caller.workspace, &id, force)).await?;
    count_run(&started.run);
    Ok(Json(started))
}

fn again(tx: &mut Tx<'_>, policy: &FirePolicy, workspace: &WorkspaceId, id: &str, force: bool) -> Result<StartedRun> {
    // Nobody changes a run, but whoever does it again at the same moment waits here.
    tx.lock("deployment_runs WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let failed = deployment_runs::get(tx, workspace, id)?;
    if let Some(later) = run_starts::rerun_by(tx, workspace, &failed.id)? {
        return Err(Error::Conflict(format!(
            "run {id} was done again already, as {later}; if that has failed, rerun it"
        )));
    }
    if !has_failed(tx, workspace, &failed)? {
        return Err(Error::Conflict(format!(
            "run {id} has not failed: only a run that has an error, or whose session has died or was interrupted by a limit, is done again"
        )));
    }
    let of = &failed.deployment_id;
    let target = Target::find(tx, workspace, of.as_ref())?;
    let target = target.ok_or_else(|| Error::not_found("Deployment", of.as_ref()))?;
    if target.archived {
        return Err(deployments::archived());
    }
    spend::check_by_hand(tx, &target.id, target.spend.as_ref(), force)?;
    let given = run_starts::given(tx, workspace, &failed.id)?;
    let cause = Cause { rerun_of: Some(failed.id), ..Cause::of(RunTrigger::Rerun) };
    let run_id = RunId::new(tx.now());
    let run = begin(tx, policy, workspace, target, run_id, TriggerContext::Manual, (&cause, &given))?;
    shown(tx, workspace, run)
}

/// Whether no session was started, or that one has died, or was interrupted by a limit of the policy.
fn has_failed(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &DeploymentRun) -> Result<bool> {
    let Some(session) = &run.session_id else { return Ok(true) };
    let sql = "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2
        AND (stop_reason IN ('retries_exhausted', 'terminated') OR (interrupted_by IS NOT NULL AND status = 'idle'))";
    Ok(tx.one(sql, vals![workspace, session], |_| Ok(()))?.is_some())
}
