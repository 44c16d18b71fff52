//! Fires planned starts whose time has come, as the scheduler fires occurrences: each once, whichever server looks first.

use futures_util::{StreamExt, stream};
use rota_api::{
    Time,
    deployment::{DeploymentRun, RunErrorType, TriggerContext},
    id::{DeploymentId, Id, RunId, StartId, WorkspaceId},
    listed_run::RunTrigger,
    occurrence::OccurrenceReason,
    start::{PlannedStart, StartState},
};

use super::{
    super::{
        active,
        check::check,
        count_run, occurrences,
        run::{self, Target},
        spend, standing,
    },
    Settings, begin, lock_deployment, record_failure,
    store::{self, PLANNED},
};
use crate::{
    app::{App, FirePolicy},
    db::{Tx, vals},
    error::{Error, Result},
    limits::{FIRE_GROUPS_IN_FLIGHT, STARTS_BATCH},
    resources::{
        deployment_runs,
        run_starts::{self, Cause, Given},
        sessions::events,
        webhook_outbox::Outbox,
    },
    scheduler::{policy::timing, settle::State, starts},
    telemetry,
};

/// A planned start whose time has come.
#[derive(Debug, Clone)]
struct Due {
    look_at: Time,
    id: StartId,
    workspace: WorkspaceId,
    deployment: DeploymentId,
}

/// How a session is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Fire,
    /// Not at all: it was tried and failed for a reason that has no type of its own.
    Fail,
}

/// Looks once at every planned start whose time has come, and fires those that may.
///
/// # Errors
/// When the store cannot be read. A start that the database failed stays due; its failure is logged.
pub async fn fire_due(app: &App) -> Result<()> {
    let mut last: Option<Due> = None;
    loop {
        let after = last.clone();
        let batch = app.db.read(move |tx| list(tx, after.as_ref())).await?;
        let Some(end) = batch.last() else { return Ok(()) };
        last = Some(end.clone());
        stream::iter(&batch).for_each_concurrent(FIRE_GROUPS_IN_FLIGHT, |due| settle(app, due)).await;
        if app.is_stopping() {
            return Ok(());
        }
    }
}

/// Those that are due, the longest waiting first, after `last` in that order.
fn list(tx: &mut Tx<'_>, last: Option<&Due>) -> Result<Vec<Due>> {
    let (since, id) = last.map_or((i64::MIN, ""), |due| (due.look_at.micros(), due.id.as_ref()));
    tx.all(
        "SELECT look_at, id, workspace_id, deployment_id FROM planned_starts
         WHERE look_at <= $1 AND (look_at, id) > ($2, $3) ORDER BY look_at, id LIMIT $4",
        vals![tx.now(), since, id, STARTS_BATCH],
        |row| Ok(Due { look_at: row.time(0)?, id: row.id(1)?, workspace: row.id(2)?, deployment: row.id(3)? }),
    )
}

async fn settle(app: &App, due: &Due) {
    let fired = match write(app, due, Attempt::Fire).await {
        Err(Error::Internal(cause)) => {
            if telemetry::may_tell("a planned start") {
                tracing::error!(start_id = %due.id, error = %cause, "a planned start failed");
            }
            write(app, due, Attempt::Fail).await
        }
        fired => fired,
    };
    match fired {
        Ok(Some(run)) => {
            count_run(&run);
            let error = run.error.as_ref().map(|error| error.r#type.as_str());
            tracing::info!(start_id = %due.id, deployment_id = %run.deployment_id, run_id = %run.id, error, "a planned start fired");
        }
        Ok(None) | Err(Error::Stopping) => {}
        Err(error) => {
            if telemetry::may_tell("a planned start that was not settled") {
                tracing::error!(start_id = %due.id, %error, "a planned start could not be settled; it is tried again");
            }
        }
    }
}

async fn write(app: &App, due: &Due, attempt: Attempt) -> Result<Option<DeploymentRun>> {
    let (policy, due) = (app.fire_policy(), due.clone());
    app.db.write(move |tx| look(tx, &policy, &due, attempt)).await
}

/// Decides on a planned start, unless another server has or somebody cancelled it. Its run, where it has one now.
fn look(tx: &mut Tx<'_>, policy: &FirePolicy, due: &Due, attempt: Attempt) -> Result<Option<DeploymentRun>> {
    let Due { look_at, id, workspace, deployment } = due;
    // The clock may have been set back since it was found to be due.
    if *look_at > tx.now() {
        return Ok(None);
    }
    lock_deployment(tx, workspace, deployment.as_ref())?;
    PLANNED.lock(tx, workspace, id.as_ref())?;
    let start = PLANNED.get(tx, workspace, id.as_ref())?;
    if start.state != StartState::Planned {
        return Ok(None);
    }
    if let Some(run) = of_occurrence(tx, workspace, &start)? {
        finish(tx, workspace, start, &run)?;
        return Ok(None);
    }
    match step(tx, policy, workspace, &start, attempt)? {
        starts::Step::Hold => hold(tx, workspace, &start),
        starts::Step::End(state, reason) => {
            store::end(tx, workspace, &PlannedStart { state, reason: Some(reason), ..start })?;
            Ok(None)
        }
        starts::Step::Start(interrupts) => fire(tx, policy, workspace, start, interrupts, attempt),
    }
}

/// The run that an occurrence has already which is to be made up for.
fn of_occurrence(tx: &mut Tx<'_>, workspace: &WorkspaceId, start: &PlannedStart) -> Result<Option<DeploymentRun>> {
    let Some(at) = start.scheduled_at else { return Ok(None) };
    deployment_runs::of_occurrence(tx, workspace, start.deployment_id.as_ref(), at)
}

fn step(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    start: &PlannedStart,
    attempt: Attempt,
) -> Result<starts::Step> {
    let id = &start.deployment_id;
    let settings = Settings::find(tx, workspace, id.as_ref())?;
    let is_held = settings.as_ref().is_some_and(|settings| settings.is_held) && start.trigger != RunTrigger::Hook;
    let of_policy = settings.as_ref().map(|settings| settings.policy).unwrap_or_default();
    let due = starts::Due {
        trigger: start.trigger,
        at: start.at.timestamp(),
        waits: start.reason.is_some(),
        state: settings.map_or(State::Archived, |settings| settings.state),
        policy: &of_policy,
        catch_up: timing(&of_policy, policy.timing).catch_up,
    };
    // What failed for an unknown reason had its place.
    let now = tx.now().timestamp();
    let step = due.step(now, || if attempt == Attempt::Fail { Ok(0) } else { active::count(tx, id) })?;
    Ok(if is_held && matches!(step, starts::Step::Start(_)) { starts::Step::Hold } else { step })
}

fn hold(tx: &mut Tx<'_>, workspace: &WorkspaceId, start: &PlannedStart) -> Result<Option<DeploymentRun>> {
    if start.reason.is_none() {
        tx.execute(
            "UPDATE planned_starts SET reason = $3 WHERE workspace_id = $1 AND id = $2",
            vals![workspace, &start.id, OccurrenceReason::Queued.as_str()],
        )?;
    }
    Ok(None)
}

fn fire(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    start: PlannedStart,
    interrupts: u32,
    attempt: Attempt,
) -> Result<Option<DeploymentRun>> {
    let trigger =
        start.scheduled_at.map_or(TriggerContext::Manual, |scheduled_at| TriggerContext::Schedule { scheduled_at });
    let cause =
        Cause { trigger: start.trigger, start: Some(start.id.clone()), hook: start.hook_id.clone(), rerun_of: None };
    let given = given(tx, workspace, &start)?;
    let (id, run_id) = (start.deployment_id.clone(), RunId::new(tx.now()));
    let run = if attempt == Attempt::Fail {
        let run = record_failure(tx, workspace, id.as_ref(), run_id, trigger)?;
        run_starts::insert(tx, workspace, &run.id, &cause, &given)?;
        run
    } else {
        let Some(target) = Target::find(tx, workspace, id.as_ref())? else {
            let (state, reason) = (StartState::Skipped, Some(OccurrenceReason::Archived));
            store::end(tx, workspace, &PlannedStart { state, reason, ..start })?;
            return Ok(None);
        };
        if spend::reached(tx, &id, target.spend.as_ref())?.is_some() {
            let (state, reason) = (StartState::Skipped, Some(OccurrenceReason::Spend));
            store::end(tx, workspace, &PlannedStart { state, reason, ..start })?;
            return Ok(None);
        }
        // An occurrence has one run, which is not for an error that passes.
        if start.trigger == RunTrigger::Backfill
            && let Err(error) = check(tx, policy, workspace, &target)?
            && error.r#type == RunErrorType::SessionRateLimited
        {
            return hold(tx, workspace, &start);
        }
        let in_its_way = if interrupts > 0 { active::oldest(tx, &id, interrupts)? } else { Vec::new() };
        let run = begin(tx, policy, workspace, target, run_id, trigger, (&cause, &given))?;
        if run.session_id.is_some() {
            for session in in_its_way {
                events::interrupt(tx, workspace, &session)?;
            }
        }
        run
    };
    if run.trigger_context != TriggerContext::Manual {
        run::tell(tx, &mut Outbox::default(), workspace, &run)?;
    }
    finish(tx, workspace, start, &run)?;
    Ok(Some(run))
}

fn given(tx: &mut Tx<'_>, workspace: &WorkspaceId, start: &PlannedStart) -> Result<Given> {
    let sql = "SELECT content FROM planned_starts WHERE workspace_id = $1 AND id = $2";
    let content = tx.one(sql, vals![workspace, &start.id], |row| row.opt_json("content"))?.flatten();
    Ok(Given { inputs: start.inputs.clone(), content: content.unwrap_or_default() })
}

fn finish(tx: &mut Tx<'_>, workspace: &WorkspaceId, start: PlannedStart, run: &DeploymentRun) -> Result<()> {
    if let Some(at) = start.scheduled_at {
        let id = start.deployment_id.as_ref();
        let beside = occurrences::around(tx, id, at)?;
        standing::made_up(tx, (workspace, id), at, beside)?;
    }
    let state = if run.error.is_none() { StartState::Ran } else { StartState::Failed };
    store::end(tx, workspace, &PlannedStart { state, reason: None, run_id: Some(run.id.clone()), ..start })
}
