//! The rows of planned starts.

use rota_api::{
    Time,
    id::{DeploymentId, HookId, StartId, WorkspaceId},
    listed_run::RunTrigger,
    occurrence::OccurrenceReason,
    start::{PlannedStart, StartState},
};

use crate::{
    db::{Row, Table, Tx, vals},
    error::{Error, Result},
    limits::{MAX_PLANNED_STARTS, PLANNED_STARTS_PURGE, STARTS_KEPT_MICROS},
    resources::run_starts::Given,
};

pub(super) const PLANNED: Table<PlannedStart> = Table {
    name: "planned_starts",
    columns: "id, deployment_id, kind, at, scheduled_at, state, reason, inputs, hook_id, run_id, created_at, ended_at",
    read: from_row,
    missing,
};

fn missing(id: &str) -> Error {
    Error::not_found("Planned start", id)
}

pub(super) fn from_row(row: &Row<'_>) -> Result<PlannedStart> {
    let reason = row.opt_text("reason")?.map(|reason| {
        let known = OccurrenceReason::from_name(&reason);
        known.ok_or_else(|| Error::internal(format!("the store has a planned start for the reason {reason}")))
    });
    Ok(PlannedStart {
        id: row.id("id")?,
        r#type: "planned_start",
        deployment_id: row.id("deployment_id")?,
        trigger: row.name("kind", RunTrigger::from_name)?,
        at: row.time("at")?,
        scheduled_at: row.opt_time("scheduled_at")?,
        state: row.name("state", StartState::from_name)?,
        reason: reason.transpose()?,
        inputs: row.opt_json("inputs")?,
        hook_id: row.opt_id("hook_id")?,
        run_id: row.opt_id("run_id")?,
        created_at: row.time("created_at")?,
        ended_at: row.opt_time("ended_at")?,
    })
}

/// A start to be planned.
pub(super) struct New<'a> {
    pub(super) workspace: &'a WorkspaceId,
    pub(super) deployment: &'a DeploymentId,
    pub(super) trigger: RunTrigger,
    pub(super) at: Time,
    pub(super) scheduled_at: Option<Time>,
    pub(super) given: &'a Given,
    pub(super) hook: Option<&'a HookId>,
    /// When it is looked at; `None` when another one comes first.
    pub(super) look_at: Option<Time>,
}

pub(super) fn insert(tx: &mut Tx<'_>, id: &StartId, new: &New<'_>) -> Result<()> {
    let New { workspace, deployment, trigger, at, scheduled_at, given, hook, look_at } = *new;
    let (inputs, content) = given.stored()?;
    tx.add(
        "INSERT INTO planned_starts (id, workspace_id, deployment_id, kind, at, scheduled_at, inputs, content, hook_id, state,
             look_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'planned', $10, $11)",
        vals![
            id,
            workspace,
            deployment,
            trigger.as_str(),
            at,
            scheduled_at,
            inputs.as_deref(),
            content.as_deref(),
            hook,
            look_at,
            tx.now()
        ],
    )
}

/// That a deployment may have `more` planned starts. Those that ended long ago are forgotten on the way. The deployment is locked.
///
/// # Errors
/// 400 when there would be too many.
pub(super) fn check_room(tx: &mut Tx<'_>, deployment: &DeploymentId, more: usize) -> Result<()> {
    tx.send(
        "DELETE FROM planned_starts WHERE (workspace_id, id) IN (
             SELECT workspace_id, id FROM planned_starts WHERE ended_at <= $1 ORDER BY ended_at LIMIT $2)",
        vals![tx.now().plus_micros(-STARTS_KEPT_MICROS), PLANNED_STARTS_PURGE],
    )?;
    let sql = "SELECT count(*) FROM planned_starts WHERE deployment_id = $1 AND state = 'planned'";
    let planned = tx.one(sql, vals![deployment], |row| row.int(0))?.unwrap_or_default();
    if planned + more as i64 > MAX_PLANNED_STARTS {
        return Err(Error::invalid(format_args!(
            "deployment {deployment} has {planned} planned starts, and can have {MAX_PLANNED_STARTS}; cancel some, or wait \
             until they have run"
        )));
    }
    Ok(())
}

/// Ends a planned start. Where it made up for an occurrence, the next one is looked at now.
pub(super) fn end(tx: &mut Tx<'_>, workspace: &WorkspaceId, start: &PlannedStart) -> Result<()> {
    let now = tx.now();
    tx.execute(
        "UPDATE planned_starts SET state = $3, reason = $4, run_id = $5, ended_at = $6, look_at = NULL, content = NULL
         WHERE workspace_id = $1 AND id = $2",
        vals![
            workspace,
            &start.id,
            start.state.as_str(),
            start.reason.map(OccurrenceReason::as_str),
            start.run_id.as_ref(),
            now
        ],
    )?;
    if start.trigger == RunTrigger::Backfill { advance(tx, workspace, &start.deployment_id) } else { Ok(()) }
}

/// Has the first occurrence that is still to be made up for looked at: one after the other.
pub(super) fn advance(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &DeploymentId) -> Result<()> {
    tx.send(
        "UPDATE planned_starts SET look_at = $3
         WHERE workspace_id = $1 AND look_at IS NULL AND id = (
             SELECT min(id) FROM planned_starts WHERE deployment_id = $2 AND kind = 'backfill' AND state = 'planned')",
        vals![workspace, deployment, tx.now()],
    )
}
