//! The history of deployments that is kept no longer: runs, gaps, and which schedule counted when.
//!
//! A deployment's history begins after a mark, `history_from`. The mark is moved first, in the transaction that removes the
//! first of what lies before it, so that no occurrence is shown of which something is missing. It never passes an occurrence
//! that is not settled.

use rota_api::{
    Time,
    id::{DeploymentId, WorkspaceId},
};

use crate::{
    db::{Tx, vals},
    error::Result,
    limits::RETENTION_ROWS,
    scheduler::pending::Pending,
};

/// Has the history of a deployment begin after `mark`, or earlier where occurrences up to there are not settled, and removes
/// some of what was before. Whether there may be more.
pub fn begin_after(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &DeploymentId, mark: Time) -> Result<bool> {
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let sql = "SELECT settled_at, pending, history_from FROM deployments WHERE workspace_id = $1 AND id = $2";
    let found = tx.one(sql, vals![workspace, id], |row| {
        let pending: Option<Pending> = row.opt_json("pending")?;
        Ok((row.opt_time("settled_at")?, pending, row.opt_time("history_from")?))
    })?;
    let Some((settled_at, pending, former)) = found else { return Ok(false) };
    let before = pending.map(|pending| pending.scheduled_at.plus_micros(-1));
    let mark = [settled_at, before].into_iter().flatten().fold(mark, Time::min);
    let mark = former.map_or(mark, |former| former.max(mark));
    if former != Some(mark) {
        let sql = "UPDATE deployments SET history_from = $3 WHERE workspace_id = $1 AND id = $2";
        tx.send(sql, vals![workspace, id, mark])?;
    }
    let sql = "SELECT last_at FROM deployment_skips WHERE deployment_id = $1 AND last_at <= $2
         ORDER BY last_at LIMIT 1 OFFSET $3";
    let beyond = tx.one(sql, vals![id, mark, RETENTION_ROWS], |row| row.time(0))?;
    let sql = "DELETE FROM deployment_skips WHERE deployment_id = $1 AND last_at <= $2";
    tx.send(sql, vals![id, beyond.map_or(mark, |beyond| beyond.plus_micros(-1))])?;
    // The last span that began by then counts beyond it.
    tx.send(
        "DELETE FROM deployment_spans WHERE deployment_id = $1
             AND seq < (SELECT max(seq) FROM deployment_spans WHERE deployment_id = $1 AND since <= $2)",
        vals![id, mark],
    )?;
    Ok(beyond.is_some())
}

/// Removes a run of an occurrence before the mark, or by hand, unless it is the newest of its deployment.
pub fn forget_run(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<bool> {
    let is_gone = tx.changes(
        "DELETE FROM deployment_runs WHERE workspace_id = $1 AND id = $2
             AND id < (SELECT max(n.id) FROM deployment_runs n WHERE n.deployment_id = deployment_runs.deployment_id)
             AND (scheduled_at IS NULL OR scheduled_at <= (
                 SELECT d.history_from FROM deployments d
                 WHERE d.workspace_id = $1 AND d.id = deployment_runs.deployment_id))
             AND NOT EXISTS (SELECT 1 FROM session_retries x WHERE x.run_id = deployment_runs.id AND x.look_at IS NOT NULL)",
        vals![workspace, id],
    )?;
    if is_gone {
        tx.send("DELETE FROM run_starts WHERE run_id = $1", vals![id])?;
        tx.send("DELETE FROM session_retries WHERE run_id = $1", vals![id])?;
    }
    Ok(is_gone)
}
