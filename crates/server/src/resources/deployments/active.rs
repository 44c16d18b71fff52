//! Which sessions of a deployment are at work. A session that rests, and be it to wait for a human, is not.

use rota_api::id::{DeploymentId, SessionId, WorkspaceId};

use crate::{
    db::{Tx, vals},
    error::Result,
    limits::MAX_INTERRUPTS,
};

/// How many sessions are at work.
pub(super) fn count(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<u32> {
    let sql = "SELECT count(*) FROM sessions WHERE deployment_id = $1 AND runnable_at IS NOT NULL";
    Ok(tx.one(sql, vals![deployment], |row| row.int(0))?.unwrap_or_default() as u32)
}

/// The `count` sessions that were started first, but at most [`MAX_INTERRUPTS`].
pub(super) fn oldest(tx: &mut Tx<'_>, deployment: &DeploymentId, count: u32) -> Result<Vec<SessionId>> {
    let sql = "SELECT id FROM sessions WHERE deployment_id = $1 AND runnable_at IS NOT NULL ORDER BY id LIMIT $2";
    tx.all(sql, vals![deployment, i64::from(count).min(MAX_INTERRUPTS)], |row| row.id(0))
}

/// Waits until each session that is coming to rest just now has done so, and lets none begin to until this transaction
/// ends.
pub(super) fn hold(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<()> {
    tx.lock("sessions WHERE deployment_id = $1 AND runnable_at IS NOT NULL", vals![deployment])
}

/// For a session that comes to rest: an occurrence that waits for its place is looked at next.
///
/// The deployment is locked first, because a fire that is under way may just be putting an occurrence there, and an update
/// finds its rows as they were before. A runner that calls this holds its session, and a fire that interrupts sessions
/// takes them and the deployment the other way round; the two never wait for each other, because that fire is of a
/// deployment whose policy is another one.
pub fn leave(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &DeploymentId) -> Result<()> {
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2 AND overlap = 'queue_one'", vals![workspace, deployment])?;
    tx.send(
        "UPDATE deployments SET next_fire_at = $3
         WHERE workspace_id = $1 AND id = $2 AND overlap = 'queue_one' AND pending IS NOT NULL AND next_fire_at > $3",
        vals![workspace, deployment, tx.now()],
    )
}
