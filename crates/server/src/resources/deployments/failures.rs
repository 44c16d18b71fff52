//! Deployments whose newest runs have all failed: a session could not be started, or died.

use rota_api::id::{DeploymentId, RunId, WorkspaceId};

use crate::{
    db::{Tx, vals},
    error::Result,
    limits::FAILURE_BYTES,
};

/// One more run of a deployment has failed, for the reason that `message` says.
///
/// The row is the last that a transaction writes for a session or a run, so that those who hold their own and want this one do not
/// wait for each other.
pub fn count(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    run: Option<&RunId>,
    message: &str,
) -> Result<()> {
    tx.send(
        "INSERT INTO deployment_failures (workspace_id, deployment_id, failures, since, run_id, message)
         VALUES ($1, $2, 1, $3, $4, $5)
         ON CONFLICT (deployment_id) DO UPDATE SET failures = deployment_failures.failures + 1, run_id = $4, message = $5",
        vals![workspace, deployment, tx.now(), run, &message[..message.floor_char_boundary(FAILURE_BYTES)]],
    )
}

/// A run has come to its end.
pub fn end(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<()> {
    tx.send("DELETE FROM deployment_failures WHERE deployment_id = $1", vals![deployment])
}
