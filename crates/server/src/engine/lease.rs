//! Who runs a session: one runner at a time, for as long as its lease lasts.

use rota_api::id::{SessionId, WorkspaceId};

use crate::{
    db::{Db, Tx, vals},
    error::Result,
    limits::LEASE_MICROS,
};

/// A session that this runner may write to, until another one holds a later epoch.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) workspace: WorkspaceId,
    pub(super) session: SessionId,
    epoch: i64,
}

/// No session is taken up while the organization is disabled.
const ENABLED: &str = "NOT EXISTS (SELECT 1 FROM organization WHERE disabled_at IS NOT NULL)";

/// Takes at most `count` sessions that wait for a runner, the longest waiting first.
pub(super) fn claim(tx: &mut Tx<'_>, owner: &str, count: i64) -> Result<Vec<Lease>> {
    let now = tx.now();
    let sql = format!(
        "UPDATE sessions SET lease_owner = $1, lease_epoch = lease_epoch + 1, lease_expires_at = $2
         WHERE (workspace_id, id) IN (
             SELECT workspace_id, id FROM sessions
             WHERE runnable_at <= $3 AND (lease_expires_at IS NULL OR lease_expires_at <= $3) AND {ENABLED}
             ORDER BY runnable_at LIMIT $4)
         RETURNING workspace_id, id, lease_epoch"
    );
    tx.all(&sql, vals![owner, now.plus_micros(LEASE_MICROS), now, count], |row| {
        Ok(Lease { workspace: row.id(0)?, session: row.id(1)?, epoch: row.int(2)? })
    })
}

/// Whether a session waits for a runner.
pub(super) async fn is_due(db: &Db) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM sessions
         WHERE runnable_at <= $1 AND (lease_expires_at IS NULL OR lease_expires_at <= $1) AND {ENABLED} LIMIT 1"
    );
    Ok(db.lookup(&sql, vals![db.now()], |_| Ok(())).await?.is_some())
}

/// Keeps what `owner` holds.
pub(super) fn renew(tx: &mut Tx<'_>, owner: &str) -> Result<()> {
    tx.execute(
        "UPDATE sessions SET lease_expires_at = $2 WHERE runnable_at IS NOT NULL AND lease_owner = $1",
        vals![owner, tx.now().plus_micros(LEASE_MICROS)],
    )?;
    Ok(())
}

/// Lets a session go that still has something to do: another runner takes it up.
pub(super) fn release(tx: &mut Tx<'_>, lease: &Lease) -> Result<()> {
    tx.execute(
        "UPDATE sessions SET lease_owner = NULL, lease_expires_at = NULL
         WHERE workspace_id = $1 AND id = $2 AND lease_epoch = $3",
        vals![&lease.workspace, &lease.session, lease.epoch],
    )?;
    Ok(())
}

/// Ends the leases of an earlier process, for a store that only one process at a time can have.
pub fn release_all(tx: &mut Tx<'_>) -> Result<()> {
    tx.execute("UPDATE sessions SET lease_owner = NULL, lease_expires_at = NULL WHERE runnable_at IS NOT NULL", &[])?;
    Ok(())
}

/// Whether `lease` still holds. Every write of a runner asks this first, in the same transaction.
pub(super) fn holds(tx: &mut Tx<'_>, lease: &Lease) -> Result<bool> {
    let sql =
        "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2 AND lease_epoch = $3 AND runnable_at IS NOT NULL";
    Ok(tx.one(sql, vals![&lease.workspace, &lease.session, lease.epoch], |_| Ok(()))?.is_some())
}
