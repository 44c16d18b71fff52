//! Who runs a session: one runner at a time, for as long as its lease lasts. And where its files are: a session stays with
//! the server that has them for as long as that one is alive.

use rota_api::id::{SessionId, WorkspaceId};

use crate::{
    db::{Db, Tx, vals},
    error::Result,
    limits::{HOME_MICROS, LEASE_MICROS},
};

/// A session that this runner may write to, until another one holds a later epoch.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) workspace: WorkspaceId,
    pub(super) session: SessionId,
    /// The server that has the session's files, when a sandbox was ever opened.
    pub(super) home: Option<String>,
    epoch: i64,
}

/// A session that waits for a runner, and that the server `$2` may take up at the time `$1`. None is taken up while the
/// organization is disabled.
macro_rules! due {
    () => {
        "runnable_at <= $1 AND (lease_expires_at IS NULL OR lease_expires_at <= $1)
         AND (home IS NULL OR home = $2
              OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.id = sessions.home AND nodes.alive_until > $1))
         AND NOT EXISTS (SELECT 1 FROM organization WHERE disabled_at IS NOT NULL)"
    };
}

/// Takes at most `count` sessions that wait for a runner, the longest waiting first.
pub(super) fn claim(tx: &mut Tx<'_>, node: &str, count: i64) -> Result<Vec<Lease>> {
    let now = tx.now();
    let sql = format!(
        "WITH due AS MATERIALIZED (
             SELECT workspace_id, id FROM sessions WHERE {} ORDER BY runnable_at LIMIT $3{})
         UPDATE sessions SET lease_owner = $2, lease_epoch = lease_epoch + 1, lease_expires_at = $4
         WHERE (workspace_id, id) IN (SELECT workspace_id, id FROM due)
         RETURNING workspace_id, id, home, lease_epoch",
        due!(),
        tx.skip_locked("sessions")
    );
    tx.all(&sql, vals![now, node, count, now.plus_micros(LEASE_MICROS)], |row| {
        Ok(Lease { workspace: row.id(0)?, session: row.id(1)?, home: row.opt_text(2)?, epoch: row.int(3)? })
    })
}

/// Whether a session waits for a runner.
pub(super) async fn is_due(db: &Db, node: &str) -> Result<bool> {
    let sql = concat!("SELECT 1 FROM sessions WHERE ", due!(), " LIMIT 1");
    Ok(db.lookup(sql, vals![db.now(), node], |_| Ok(())).await?.is_some())
}

/// Says that `node` is alive, and keeps what it holds.
pub(super) fn renew(tx: &mut Tx<'_>, node: &str) -> Result<()> {
    let now = tx.now();
    tx.send(
        "INSERT INTO nodes (id, alive_until) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET alive_until = $2",
        vals![node, now.plus_micros(HOME_MICROS)],
    )?;
    tx.send(
        "UPDATE sessions SET lease_expires_at = $2 WHERE runnable_at IS NOT NULL AND lease_owner = $1",
        vals![node, now.plus_micros(LEASE_MICROS)],
    )
}

/// Forgets servers that have been gone for so long that nothing waits for them.
pub(super) fn forget_gone(tx: &mut Tx<'_>) -> Result<()> {
    tx.send("DELETE FROM nodes WHERE alive_until <= $1", vals![tx.now()])
}

/// Lets a session go that still has something to do: another runner takes it up.
pub(super) fn release(tx: &mut Tx<'_>, lease: &Lease) -> Result<()> {
    tx.send(
        "UPDATE sessions SET lease_owner = NULL, lease_expires_at = NULL
         WHERE workspace_id = $1 AND id = $2 AND lease_epoch = $3",
        vals![&lease.workspace, &lease.session, lease.epoch],
    )
}

/// Ends the leases that an earlier process held for `node`. There is none beside this one: its data folder is locked.
pub fn release_all_of(tx: &mut Tx<'_>, node: &str) -> Result<()> {
    tx.send(
        "UPDATE sessions SET lease_owner = NULL, lease_expires_at = NULL
         WHERE runnable_at IS NOT NULL AND lease_owner = $1",
        vals![node],
    )
}

/// Whether `lease` still holds, and goes on to do so until this transaction ends. Every write of a runner asks this first.
pub(super) fn holds(tx: &mut Tx<'_>, lease: &Lease) -> Result<bool> {
    tx.lock("sessions WHERE workspace_id = $1 AND id = $2", vals![&lease.workspace, &lease.session])?;
    let sql =
        "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2 AND lease_epoch = $3 AND runnable_at IS NOT NULL";
    Ok(tx.one(sql, vals![&lease.workspace, &lease.session, lease.epoch], |_| Ok(()))?.is_some())
}

/// Notes that the files of a session are with `node` from now on.
pub(super) fn settle(tx: &mut Tx<'_>, lease: &Lease, node: &str) -> Result<()> {
    tx.send(
        "UPDATE sessions SET home = $3 WHERE workspace_id = $1 AND id = $2",
        vals![&lease.workspace, &lease.session, node],
    )
}

/// Whether a runner of another server has the session.
pub(super) fn is_elsewhere(tx: &mut Tx<'_>, lease: &Lease, node: &str) -> Result<bool> {
    let sql = "SELECT lease_owner FROM sessions WHERE workspace_id = $1 AND id = $2";
    let owner = tx.one(sql, vals![&lease.workspace, &lease.session], |row| row.opt_text(0))?;
    Ok(owner.flatten().is_some_and(|owner| owner != node))
}
