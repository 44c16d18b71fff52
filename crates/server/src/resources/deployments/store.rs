//! The rows of deployments, and the verbs that change one column.

use rota_api::{
    Time,
    agent::AgentReference,
    audit::ActorType,
    deployment::{Deployment, PausedReason, Schedule},
    id::{AgentId, WorkspaceId},
    webhook::EventType,
};

use super::{failures, standing};
use crate::{
    db::{Also, Row, Select, Tx, vals},
    error::{Error, Result},
    resources::{repositories, webhook_outbox},
    scheduler::{
        cron::Cron,
        schedule::{UPCOMING_MAX, upcoming},
        settle::State,
    },
};

const SELECT: &str = "SELECT id, name, description, agent_id, agent_version, environment_id, initial_events, resources,
    vault_ids, metadata, cron, timezone, starts_at, ends_at, last_run_at, paused_reason, created_at, updated_at, archived_at
    FROM deployments WHERE workspace_id = $1";

/// The SELECT of a list.
pub(super) fn select(workspace: &WorkspaceId) -> Select {
    Select::new(SELECT, workspace)
}

/// The deployment `id` of a workspace.
///
/// # Errors
/// 404 when there is none.
pub fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deployment> {
    let now = tx.now();
    let missing = || Error::not_found("Deployment", id);
    tx.one_or(&format!("{SELECT} AND id = $2"), vals![workspace, id], |row| from_row(row, now), missing)
}

pub(super) fn archived() -> Error {
    Error::invalid("Cannot modify archived deployment")
}

/// Archives it, unless it is archived already.
pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deployment> {
    let archives = standing::changing(tx, workspace, id, |tx, state| {
        if state == State::Archived {
            return Ok(false);
        }
        tx.send(
            "UPDATE deployments SET archived_at = $3, updated_at = $3, paused_reason = NULL
             WHERE workspace_id = $1 AND id = $2",
            vals![workspace, id, tx.now()],
        )?;
        Ok(true)
    })?;
    if archives {
        repositories::forget_of_deployment(tx, workspace, id)?;
        webhook_outbox::emit(tx, workspace, [EventType::DeploymentArchived], id)?;
    }
    get(tx, workspace, id)
}

/// Archives every deployment of an agent that is being archived: they go with it, at the same time.
pub fn archive_all_of(tx: &mut Tx<'_>, workspace: &WorkspaceId, agent: &AgentId) -> Result<()> {
    let open = "SELECT id FROM deployments WHERE agent_id = $1 AND archived_at IS NULL ORDER BY id";
    for id in tx.all(open, vals![agent], |row| row.text("id"))? {
        archive(tx, workspace, &id)?;
        audit(tx, workspace, &id, ActorType::Cascade, "deployments.archive");
    }
    Ok(())
}

/// Leaves a row in the audit list for a change that no request asked for by itself.
pub(super) fn audit(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, by: ActorType, operation: &'static str) {
    tx.audit_also(&Also { by, operation, resource: "deployment", id, workspace: Some(workspace) });
}

pub(super) fn pause(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deployment> {
    set_paused(tx, workspace, id, Some(PausedReason::Manual))?;
    get(tx, workspace, id)
}

pub(super) fn unpause(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deployment> {
    if set_paused(tx, workspace, id, None)? {
        // What failed before it was looked after does not count any more.
        failures::end(tx, id)?;
    }
    get(tx, workspace, id)
}

/// Pauses for `reason`, or unpauses when there is none. A deployment that is paused already keeps its reason. Whether that changed
/// anything.
///
/// # Errors
/// 404 when there is none; 400 when it is archived.
pub(super) fn set_paused(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    reason: Option<PausedReason>,
) -> Result<bool> {
    let reason = reason.map(|reason| serde_json::to_string(&reason)).transpose()?;
    set_paused_as(tx, workspace, id, reason.as_deref())
}

/// The same for a reason as it is stored, which may say more than clients of the official API are shown.
pub(super) fn set_paused_as(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, reason: Option<&str>) -> Result<bool> {
    let (wanted, event) = match reason {
        Some(_) => (State::Paused, EventType::DeploymentPaused),
        None => (State::Active, EventType::DeploymentUnpaused),
    };
    let changes = standing::changing(tx, workspace, id, |tx, state| {
        if state == State::Archived {
            return Err(archived());
        }
        if state == wanted {
            return Ok(false);
        }
        tx.send(
            "UPDATE deployments SET paused_reason = $3, updated_at = $4 WHERE workspace_id = $1 AND id = $2",
            vals![workspace, id, reason, tx.now()],
        )?;
        Ok(true)
    })?;
    if changes {
        webhook_outbox::emit(tx, workspace, [event], id)?;
    }
    Ok(changes)
}

/// Maps a row of [`SELECT`]. What comes next is told as of `now`.
pub(super) fn from_row(row: &Row<'_>, now: Time) -> Result<Deployment> {
    let archived_at = row.opt_time("archived_at")?;
    let paused_reason: Option<PausedReason> = row.opt_json("paused_reason")?;
    Ok(Deployment {
        id: row.id("id")?,
        r#type: "deployment",
        name: row.text("name")?,
        description: row.opt_text("description")?,
        agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
        environment_id: row.id("environment_id")?,
        initial_events: row.raw("initial_events")?,
        resources: row.raw("resources")?,
        vault_ids: row.raw("vault_ids")?,
        metadata: row.raw("metadata")?,
        schedule: schedule_from_row(row, now, archived_at.is_some())?,
        status: if paused_reason.is_some() { "paused" } else { "active" },
        paused_reason,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        archived_at,
    })
}

fn schedule_from_row(row: &Row<'_>, now: Time, archived: bool) -> Result<Option<Schedule>> {
    let (Some(expression), Some(timezone)) = (row.opt_text("cron")?, row.opt_text("timezone")?) else {
        return Ok(None);
    };
    // A zone that this program does not know, as in a store that a newer one wrote, must not hide the deployment.
    let window = standing::window(row)?;
    let cron = Cron::parse(&expression, &timezone).ok().filter(|_| !archived).map(|cron| cron.within(window));
    let upcoming_runs_at = cron.map(|cron| upcoming(&cron, now.timestamp(), UPCOMING_MAX)).unwrap_or_default();
    let upcoming_runs_at = upcoming_runs_at.into_iter().map(Time::from).collect();
    Ok(Some(Schedule {
        r#type: "cron",
        expression,
        timezone,
        last_run_at: row.opt_time("last_run_at")?,
        upcoming_runs_at,
    }))
}
