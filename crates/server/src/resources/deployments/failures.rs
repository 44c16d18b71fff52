//! Deployments whose newest runs have all failed: a session could not be started, died, or was interrupted by a limit of the policy.
//! Their policies may pause them.

use rota_api::{
    audit::ActorType,
    deployment::{PausedError, PausedReason, RunErrorType},
    id::{DeploymentId, RunId, WorkspaceId},
    policy::PausedByPolicy,
};
use serde::Serialize;

use super::{deadlines, store};
use crate::{
    db::{Row, Tx, vals},
    error::Result,
    limits::{FAILURE_BYTES, PAUSES_AT_ONCE},
    scheduler::{policy::Policy, unattended},
};

/// One more run of a deployment has failed, for the reason that `message` says.
///
/// The row is the last that a transaction writes for a session or a run, so that those who hold their own and want this one do not
/// wait for each other: sessions come before it, and what the deployment has spent (`spend.rs`). For the same reason the deployment is
/// not paused here: whoever does that holds the deployment first.
pub fn count(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    run: Option<&RunId>,
    message: &str,
) -> Result<()> {
    tx.send(
        "INSERT INTO deployment_failures (workspace_id, deployment_id, failures, since, run_id, message, pauses)
         VALUES ($1, $2, 1, $3, $4, $5,
             (SELECT 1 FROM deployments d WHERE d.workspace_id = $1 AND d.id = $2 AND d.pause_after_failures <= 1))
         ON CONFLICT (deployment_id) DO UPDATE SET failures = deployment_failures.failures + 1, run_id = $4, message = $5,
             pauses = coalesce(
                 (SELECT 1 FROM deployments d WHERE d.workspace_id = $1 AND d.id = $2
                      AND d.pause_after_failures <= deployment_failures.failures + 1),
                 deployment_failures.pauses)",
        vals![workspace, deployment, tx.now(), run, &message[..message.floor_char_boundary(FAILURE_BYTES)]],
    )
}

/// A run has come to its end, or what has failed so far counts no more.
pub fn end(tx: &mut Tx<'_>, deployment: impl AsRef<str>) -> Result<()> {
    tx.send("DELETE FROM deployment_failures WHERE deployment_id = $1", vals![deployment.as_ref()])
}

/// A policy says from now on that so many failures pause: the deployment is looked at.
pub(super) fn look_again(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<()> {
    tx.send("UPDATE deployment_failures SET pauses = 1 WHERE deployment_id = $1", vals![deployment])
}

/// Some deployments that may have failed too often.
pub fn pausing(tx: &mut Tx<'_>) -> Result<Vec<(WorkspaceId, DeploymentId)>> {
    let sql =
        "SELECT workspace_id, deployment_id FROM deployment_failures WHERE pauses = 1 ORDER BY deployment_id LIMIT $1";
    tx.all(sql, vals![PAUSES_AT_ONCE], |row| Ok((row.id(0)?, row.id(1)?)))
}

/// What is stored as the reason of a pause: what clients of the official API are shown, and the truth beside it.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    shown: PausedReason,
    #[serde(flatten)]
    by: &'a PausedByPolicy,
}

/// Pauses a deployment if its newest runs have failed as often as its policy says. Whether it does.
///
/// The official API has no reason for such a pause. Its clients are shown an unknown error.
pub fn pause(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &DeploymentId) -> Result<bool> {
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2", vals![workspace, deployment])?;
    let Some(failed) = Failed::find(tx, workspace, deployment)? else { return Ok(false) };
    tx.send("UPDATE deployment_failures SET pauses = NULL WHERE deployment_id = $1 AND pauses = 1", vals![deployment])?;
    if !failed.is_active || !unattended::pauses(&failed.policy, failed.by.failures) {
        return Ok(false);
    }
    let shown = PausedReason::Error { error: PausedError { r#type: RunErrorType::Unknown } };
    let reason = serde_json::to_string(&Stored { shown, by: &failed.by })?;
    store::audit(tx, workspace, deployment.as_ref(), ActorType::Scheduler, "deployments.pause");
    store::set_paused_as(tx, workspace, deployment.as_ref(), Some(&reason))
}

struct Failed {
    by: PausedByPolicy,
    policy: Policy,
    is_active: bool,
}

impl Failed {
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &DeploymentId) -> Result<Option<Self>> {
        let sql = format!(
            "SELECT f.failures, f.since, f.run_id, f.message, d.paused_reason, d.archived_at, {}
             FROM deployments d JOIN deployment_failures f ON f.deployment_id = d.id
             WHERE d.workspace_id = $1 AND d.id = $2",
            deadlines::COLUMNS
        );
        tx.one(&sql, vals![workspace, deployment], |row: &Row<'_>| {
            let by = PausedByPolicy {
                failures: row.int("failures")?,
                since: row.time("since")?,
                run_id: row.opt_id("run_id")?,
                message: row.text("message")?,
            };
            let is_active = row.opt_text("paused_reason")?.is_none() && row.opt_time("archived_at")?.is_none();
            Ok(Self { by, policy: deadlines::of_row(row)?, is_active })
        })
    }
}
