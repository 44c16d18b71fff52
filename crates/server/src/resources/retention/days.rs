//! For how many days: what is set, and what holds.

use rota_api::{
    id::WorkspaceId,
    retention::{
        DeploymentDays, DeploymentRetention, UpdateDeploymentRetention, UpdateWorkspaceRetention, WorkspaceDays,
        WorkspaceRetention,
    },
};

use crate::{
    config::RetentionConfig,
    db::{Row, Tx, vals},
    error::Result,
    resources::deployments,
};

/// What a workspace says, or a deployment, of which some columns are empty.
fn stored(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &str) -> Result<WorkspaceDays> {
    let sql = "SELECT sessions_days, outputs_days, runs_days, deliveries_days, egress_days FROM retention
         WHERE workspace_id = $1 AND deployment_id = $2";
    Ok(tx.one(sql, vals![workspace, deployment], from_row)?.unwrap_or_default())
}

fn from_row(row: &Row<'_>) -> Result<WorkspaceDays> {
    let days = |column| row.opt_int(column).map(|days| days.map(|days| days as u32));
    Ok(WorkspaceDays {
        sessions_days: days("sessions_days")?,
        outputs_days: days("outputs_days")?,
        runs_days: days("runs_days")?,
        deliveries_days: days("deliveries_days")?,
        egress_days: days("egress_days")?,
    })
}

fn write(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &str, days: &WorkspaceDays) -> Result<()> {
    tx.execute(
        "INSERT INTO retention (workspace_id, deployment_id, sessions_days, outputs_days, runs_days, deliveries_days, egress_days)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (workspace_id, deployment_id) DO UPDATE SET sessions_days = excluded.sessions_days,
             outputs_days = excluded.outputs_days, runs_days = excluded.runs_days,
             deliveries_days = excluded.deliveries_days, egress_days = excluded.egress_days",
        vals![
            workspace,
            deployment,
            days.sessions_days.map(i64::from),
            days.outputs_days.map(i64::from),
            days.runs_days.map(i64::from),
            days.deliveries_days.map(i64::from),
            days.egress_days.map(i64::from)
        ],
    )?;
    Ok(())
}

/// What holds for a workspace.
pub(super) fn of_workspace(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    config: &RetentionConfig,
) -> Result<WorkspaceRetention> {
    let own = stored(tx, workspace, "")?;
    Ok(WorkspaceRetention {
        r#type: "workspace_retention",
        workspace_id: workspace.clone(),
        sessions_days: own.sessions_days.or(config.sessions_days),
        outputs_days: own.outputs_days.or(config.outputs_days),
        runs_days: own.runs_days.or(config.runs_days),
        deliveries_days: own.deliveries_days.or(config.deliveries_days),
        egress_days: own.egress_days.or(config.egress_days),
        audit_days: config.audit_days,
    })
}

pub(super) fn set_of_workspace(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    update: &UpdateWorkspaceRetention,
    config: &RetentionConfig,
) -> Result<WorkspaceRetention> {
    tx.lock("workspaces WHERE id = $1", vals![workspace])?;
    let (before, own) = (of_workspace(tx, workspace, config)?, stored(tx, workspace, "")?);
    let days = update.merged(&own)?;
    if days != own {
        write(tx, workspace, "", &days)?;
    }
    let after = of_workspace(tx, workspace, config)?;
    tx.audit_made(workspace);
    tx.audit_changed(&before, &after)?;
    Ok(after)
}

/// What holds for a deployment.
///
/// # Errors
/// 404 when there is none.
pub(super) fn of_deployment(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    config: &RetentionConfig,
) -> Result<DeploymentRetention> {
    let deployment_id = deployments::get(tx, workspace, id)?.id;
    let (own, above) = (stored(tx, workspace, id)?, of_workspace(tx, workspace, config)?);
    Ok(DeploymentRetention {
        r#type: "deployment_retention",
        deployment_id,
        sessions_days: own.sessions_days.or(above.sessions_days),
        outputs_days: own.outputs_days.or(above.outputs_days),
        runs_days: own.runs_days.or(above.runs_days),
    })
}

pub(super) fn set_of_deployment(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    update: &UpdateDeploymentRetention,
    config: &RetentionConfig,
) -> Result<DeploymentRetention> {
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let (before, stored) = (of_deployment(tx, workspace, id, config)?, stored(tx, workspace, id)?);
    let WorkspaceDays { sessions_days, outputs_days, runs_days, .. } = stored;
    let own = DeploymentDays { sessions_days, outputs_days, runs_days };
    let days = update.merged(&own)?;
    if days != own {
        let DeploymentDays { sessions_days, outputs_days, runs_days } = days;
        write(tx, workspace, id, &WorkspaceDays { sessions_days, outputs_days, runs_days, ..stored })?;
    }
    let after = of_deployment(tx, workspace, id, config)?;
    tx.audit_changed(&before, &after)?;
    Ok(after)
}
