//! Which sessions of a deployment are at work: a row for each, kept only while the deployment's policy asks how many there
//! are. A session that rests, and be it to wait for a human, is not at work.

use rota_api::id::{DeploymentId, SessionId, WorkspaceId};

use crate::{
    db::{Tx, vals},
    error::Result,
    limits::MAX_INTERRUPTS,
};

/// Begins to count the sessions of a deployment, with those that are at work now.
pub(super) fn begin(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<()> {
    // A session at work has a time at which to be taken up, and only the bound on it makes a database use that index.
    tx.execute(
        "INSERT INTO deployment_active (session_id, deployment_id)
         SELECT id, deployment_id FROM sessions WHERE runnable_at <= $2 AND deployment_id = $1
         ON CONFLICT (session_id) DO NOTHING",
        vals![deployment, i64::MAX],
    )?;
    Ok(())
}

/// No longer counts them.
pub(super) fn end(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<()> {
    tx.execute("DELETE FROM deployment_active WHERE deployment_id = $1", vals![deployment])?;
    Ok(())
}

/// How many sessions are at work.
pub(super) fn count(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<u32> {
    let sql = "SELECT count(*) FROM deployment_active WHERE deployment_id = $1";
    Ok(tx.one(sql, vals![deployment], |row| row.int(0))?.unwrap_or_default() as u32)
}

/// The `count` sessions that were started first, but at most [`MAX_INTERRUPTS`].
pub(super) fn oldest(tx: &mut Tx<'_>, deployment: &DeploymentId, count: u32) -> Result<Vec<SessionId>> {
    let sql = "SELECT session_id FROM deployment_active WHERE deployment_id = $1 ORDER BY session_id LIMIT $2";
    tx.all(sql, vals![deployment, i64::from(count).min(MAX_INTERRUPTS)], |row| row.id(0))
}

/// Counts a session that goes to work, when its deployment asks.
pub fn enter(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &DeploymentId, session: &SessionId) -> Result<()> {
    tx.send(
        "INSERT INTO deployment_active (session_id, deployment_id)
         SELECT $3, id FROM deployments
         WHERE workspace_id = $1 AND id = $2 AND (overlap IS NOT NULL OR max_concurrent_sessions IS NOT NULL)
         ON CONFLICT (session_id) DO NOTHING",
        vals![workspace, deployment, session],
    )
}

/// No longer counts a session that comes to rest. An occurrence that waits for its place is looked at next.
pub fn leave(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &DeploymentId, session: &SessionId) -> Result<()> {
    let left = tx.execute("DELETE FROM deployment_active WHERE session_id = $1", vals![session])?;
    if left == 0 {
        return Ok(());
    }
    // Also when none seems to wait: a fire that is under way may just be putting one there. It holds the deployment's row,
    // so this waits for it.
    tx.execute(
        "UPDATE deployments SET next_fire_at = $3
         WHERE workspace_id = $1 AND id = $2 AND overlap = 'queue_one' AND next_fire_at > $3",
        vals![workspace, deployment, tx.now()],
    )?;
    Ok(())
}
