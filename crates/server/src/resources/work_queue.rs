//! The rows of the work of self-hosted environments: a session becomes work when it needs a worker, and ends as work with the
//! session. What workers do with it is in `work/`.

use rota_api::{
    Time,
    id::{EnvironmentId, SessionId, WorkspaceId},
    work::{DEFAULT_TTL_SECONDS, WorkState},
};

use crate::{
    db::{Notice, Tx, vals},
    error::{Error, Result},
    request::caller::WorkToken,
};

/// Queues the work of a session that a client has given something to do, unless it is queued or a worker has it. Where somebody
/// has asked that worker to stop, it goes on until it has, and the session is queued then.
pub fn need(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &EnvironmentId, session: &SessionId) -> Result<()> {
    queue_again(tx, workspace, session, tx.now(), "(state = 'stopped' OR (state = 'stopping' AND halted = 0))")?;
    tx.send(
        "INSERT INTO work (session_id, workspace_id, environment_id, state, metadata, lease, halted, ttl_seconds, due_at,
             created_at, started_at, lease_updated_at)
         SELECT $1, $2, $3, 'queued', '{}', 1, 0, $4, $5, $5, $5, $5
         WHERE EXISTS (SELECT 1 FROM environments WHERE workspace_id = $2 AND id = $3)
         ON CONFLICT (session_id) DO UPDATE SET halted = 0",
        vals![session, workspace, environment, DEFAULT_TTL_SECONDS, tx.now()],
    )?;
    tx.after_commit(Notice::WorkQueued(environment.clone()));
    Ok(())
}

/// Queues the work of a session whose calls wait for a worker and that has none, from `at` on: unless somebody asked for it to
/// stop and no client has sent anything since.
pub fn need_again(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    environment: &EnvironmentId,
    session: &SessionId,
    at: Time,
) -> Result<()> {
    queue_again(tx, workspace, session, at, "state IN ('stopped', 'stopping') AND halted = 0")?;
    tx.after_commit(Notice::WorkQueued(environment.clone()));
    Ok(())
}

/// What waits there stays stopped once its environment is deleted: nobody could take it up.
fn queue_again(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, at: Time, when: &str) -> Result<()> {
    let sql = format!(
        "UPDATE work SET state = 'queued', lease = lease + 1, ttl_seconds = $3, due_at = $4, started_at = $5, polled_at = NULL,
             acknowledged_at = NULL, latest_heartbeat_at = NULL, lease_updated_at = $5, stop_requested_at = NULL,
             stopped_at = NULL
         WHERE workspace_id = $1 AND session_id = $2 AND {when} AND EXISTS
             (SELECT 1 FROM environments e WHERE e.workspace_id = $1 AND e.id = work.environment_id)"
    );
    tx.send(&sql, vals![workspace, session, DEFAULT_TTL_SECONDS, at, tx.now()])
}

/// Stops the work of a session that ends.
pub fn end(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    let sql = format!("{END} AND session_id = $2");
    tx.send(&sql, vals![workspace, session, tx.now()])
}

/// Stops all work of an environment that is deleted.
pub fn end_all_of(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str) -> Result<()> {
    let sql = format!("{END} AND environment_id = $2");
    tx.send(&sql, vals![workspace, environment, tx.now()])?;
    tx.send("DELETE FROM work_pollers WHERE environment_id = $1", vals![environment])
}

const END: &str = "UPDATE work SET state = 'stopped', due_at = NULL, polled_at = NULL,
         stop_requested_at = coalesce(stop_requested_at, $3), stopped_at = $3, lease_updated_at = $3
     WHERE workspace_id = $1 AND state <> 'stopped'";

/// Removes the work of a session that is deleted.
pub fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str) -> Result<()> {
    tx.send("DELETE FROM work WHERE workspace_id = $1 AND session_id = $2", vals![workspace, session])?;
    tx.send("DELETE FROM work_tokens WHERE session_id = $1", vals![session])
}

/// That the work of a token goes on.
///
/// # Errors
/// 403 when it has ended, or is another worker's.
pub fn check_goes_on(tx: &mut Tx<'_>, token: &WorkToken) -> Result<()> {
    let sql = "SELECT lease, state FROM work WHERE session_id = $1";
    let found = tx.one(sql, vals![&token.session], |row| Ok((row.opt_int(0)?, row.opt_text(1)?)))?;
    let (lease, state) = found.unwrap_or_default();
    if token.reaches(lease, state.as_deref(), None) { Ok(()) } else { Err(has_ended(token.session.as_ref())) }
}

/// The error for a token whose work has ended, or is another worker's.
pub fn has_ended(session: &str) -> Error {
    Error::Forbidden(format!(
        "the work item {session} has ended or was handed to another worker, and with it the token that it came with"
    ))
}

/// Whether work waits for a worker in an environment.
pub fn has_queued(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM work WHERE workspace_id = $1 AND environment_id = $2 AND state = $3 LIMIT 1";
    let queued = WorkState::Queued.as_str();
    Ok(tx.one(sql, vals![workspace, environment, queued], |_| Ok(()))?.is_some())
}
