//! Making up for occurrences that were passed over: each becomes a planned start, and they run one after the other.

use std::collections::HashSet;

use axum::extract::State;
use rota_api::{
    Time,
    id::{DeploymentId, Id, StartId, WorkspaceId},
    listed_run::RunTrigger,
    start::{Backfill, PlannedBackfill},
};

use super::{
    super::{occurrences, store as deployments},
    Settings, lock_deployment,
    store::{self, New},
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    request::{Body, Caller, Json, Path},
    resources::run_starts::Given,
    scheduler::settle,
};

/// `POST /rota/v1/deployments/{deployment_id}/backfill`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<PlannedBackfill>> {
    let Backfill { from, to } = body.read(Backfill::read)?;
    if from >= to {
        return Err(Error::invalid("to: must be later than from"));
    }
    app.db.write(move |tx| plan(tx, &caller.workspace, &id, from, to)).await.map(Json)
}

fn plan(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, from: Time, to: Time) -> Result<PlannedBackfill> {
    lock_deployment(tx, workspace, id)?;
    let settings = Settings::find(tx, workspace, id)?.ok_or_else(|| Error::not_found("Deployment", id))?;
    match settings.state {
        settle::State::Active => {}
        settle::State::Archived => return Err(deployments::archived()),
        settle::State::Paused => {
            return Err(Error::Conflict(format!(
                "deployment {id} is paused; unpause it before its occurrences are run"
            )));
        }
    }
    let deployment = deployments::get(tx, workspace, id)?.id;
    let planned = planned(tx, &deployment)?;
    let mut occurrences = occurrences::passed_over(tx, workspace, id, from.timestamp(), to.timestamp())?;
    occurrences.retain(|at| !planned.contains(at));
    store::check_room(tx, &deployment, occurrences.len())?;
    for (place, at) in occurrences.iter().enumerate() {
        // They run in the order of their ids.
        let id = StartId::new(tx.now().plus_micros(place as i64));
        let new = New {
            workspace,
            deployment: &deployment,
            trigger: RunTrigger::Backfill,
            at: *at,
            scheduled_at: Some(*at),
            given: &Given::default(),
            hook: None,
            look_at: None,
        };
        store::insert(tx, &id, &new)?;
    }
    store::advance(tx, workspace, &deployment)?;
    Ok(PlannedBackfill {
        r#type: "planned_backfill",
        deployment_id: deployment,
        planned: occurrences.len(),
        first_at: occurrences.first().copied(),
        last_at: occurrences.last().copied(),
    })
}

/// The occurrences that are to be made up for already.
fn planned(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<HashSet<Time>> {
    let sql = "SELECT scheduled_at FROM planned_starts
        WHERE deployment_id = $1 AND kind = 'backfill' AND state = 'planned'";
    Ok(tx.all(sql, vals![deployment], |row| row.time("scheduled_at"))?.into_iter().collect())
}
