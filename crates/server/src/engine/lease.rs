//! Who runs a session: one runner at a time, for as long as its lease lasts. And where its files are: a session stays with
//! the server that has them for as long as that one is alive.

use rota_api::id::{SessionId, WorkspaceId};

use crate::{
    db::{Db, Notice, Tx, vals},
    error::Result,
    limits::{HOME_MICROS, LEASE_MICROS},
};

/// A session that this runner may write to, until another one holds a later epoch.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) workspace: WorkspaceId,
    pub(super) session: SessionId,
    /// The bytes of its log and of what waited to be taken up, when it was claimed.
    pub(super) bytes: i64,
    /// The request that set it to work; none where no request did.
    pub(super) request: Option<String>,
    epoch: i64,
}

impl Lease {
    /// Whether it is the next lease of the session after that of `epoch`.
    pub(super) fn follows(&self, epoch: i64) -> bool {
        self.epoch == epoch + 1
    }

    /// Whether it is a later lease of the same session than `other`.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        self.epoch > other.epoch
    }
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

/// Takes at most `count` sessions of a workspace that wait for a runner, the longest waiting first.
pub(super) fn claim(tx: &mut Tx<'_>, node: &str, workspace: &WorkspaceId, count: i64) -> Result<Vec<Lease>> {
    let now = tx.now();
    let sql = format!(
        "WITH due AS MATERIALIZED (
             SELECT id FROM sessions WHERE workspace_id = $3 AND {} ORDER BY runnable_at LIMIT $4{})
         UPDATE sessions SET lease_owner = $2, lease_epoch = lease_epoch + 1, lease_expires_at = $5
         WHERE workspace_id = $3 AND id IN (SELECT id FROM due)
         RETURNING id, lease_epoch, log_bytes + coalesce(
             (SELECT sum(octet_length(body)) FROM session_inputs WHERE session_id = sessions.id), 0), request_id",
        due!(),
        tx.skip_locked("sessions")
    );
    tx.all(&sql, vals![now, node, workspace, count, now.plus_micros(LEASE_MICROS)], |row| {
        Ok(Lease {
            workspace: workspace.clone(),
            session: row.id(0)?,
            bytes: row.int(2)?,
            request: row.opt_text(3)?,
            epoch: row.int(1)?,
        })
    })
}

/// The first workspace after `after`, in the order of their ids, in which a session waits for a runner. One that has none
/// costs a look into the index, however many sessions others have.
pub(super) async fn next_workspace(db: &Db, node: &str, after: &str) -> Result<Option<WorkspaceId>> {
    let sql = concat!(
        "WITH RECURSIVE at_work (workspace) AS (
             SELECT min(workspace_id) FROM sessions WHERE runnable_at IS NOT NULL AND workspace_id > $3
             UNION ALL
             SELECT (SELECT min(workspace_id) FROM sessions WHERE runnable_at IS NOT NULL AND workspace_id > workspace)
             FROM at_work WHERE workspace IS NOT NULL)
         SELECT workspace FROM at_work WHERE workspace IS NOT NULL
             AND EXISTS (SELECT 1 FROM sessions WHERE workspace_id = workspace AND ",
        due!(),
        ") LIMIT 1"
    );
    db.lookup(sql, vals![db.now(), node, after], |row| row.id(0)).await
}

/// Says that `node` is alive, and keeps the leases that its runners still hold.
pub(super) fn keep(tx: &mut Tx<'_>, node: &str, held: &[Lease]) -> Result<()> {
    let now = tx.now();
    tx.send(
        "INSERT INTO nodes (id, alive_until) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET alive_until = $2",
        vals![node, now.plus_micros(HOME_MICROS)],
    )?;
    for lease in held {
        tx.send(
            "UPDATE sessions SET lease_expires_at = $4
             WHERE workspace_id = $1 AND id = $2 AND lease_epoch = $3 AND lease_owner IS NOT NULL",
            vals![&lease.workspace, &lease.session, lease.epoch, now.plus_micros(LEASE_MICROS)],
        )?;
    }
    Ok(())
}

/// Forgets servers that have been gone for so long that nothing waits for them.
pub(super) fn forget_gone(tx: &mut Tx<'_>) -> Result<()> {
    tx.send("DELETE FROM nodes WHERE alive_until <= $1", vals![tx.now()])
}

/// Lets a session go that still has something to do: another runner takes it up. Of one that has come to rest nothing is
/// written, and there is nothing to commit.
pub(super) fn release(tx: &mut Tx<'_>, lease: &Lease) -> Result<()> {
    tx.send(
        "UPDATE sessions SET lease_owner = NULL, lease_expires_at = NULL
         WHERE workspace_id = $1 AND id = $2 AND lease_epoch = $3 AND lease_owner IS NOT NULL",
        vals![&lease.workspace, &lease.session, lease.epoch],
    )
}

/// The same of a session of which nothing is under way: what its log has not begun was not begun.
pub(super) fn hand_over(tx: &mut Tx<'_>, lease: &Lease) -> Result<()> {
    tx.send(
        "UPDATE sessions SET lease_owner = NULL, lease_expires_at = NULL, handed_over = lease_epoch
         WHERE workspace_id = $1 AND id = $2 AND lease_epoch = $3 AND lease_owner IS NOT NULL",
        vals![&lease.workspace, &lease.session, lease.epoch],
    )?;
    tx.after_commit(Notice::SessionRunnable);
    Ok(())
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

/// Whether another server has the session, or its files.
pub(super) fn is_elsewhere(tx: &mut Tx<'_>, lease: &Lease, node: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2 AND (lease_owner <> $3 OR home <> $3)";
    Ok(tx.one(sql, vals![&lease.workspace, &lease.session, node], |_| Ok(()))?.is_some())
}
