//! The rows of a session that goes: a user deleted it, or it is kept no longer.

use rota_api::{
    id::{SessionId, WorkspaceId},
    webhook::EventType,
};

use super::store::files_are_to_go;
use crate::{
    db::{Notice, Tx, vals},
    error::Result,
    limits::RETENTION_ROWS,
    resources::{checkpoints, files, session_secrets, webhook_outbox::Outbox, work_queue},
};

/// Removes a session and all that is its own but its events. Its sandbox goes after the commit, or as soon as the server that
/// has it is there.
pub(super) fn remove(tx: &mut Tx<'_>, outbox: &mut Outbox, workspace: &WorkspaceId, id: &SessionId) -> Result<()> {
    for table in
        ["session_deadlines", "session_inputs", "session_memory_stores", "session_repositories", "session_skills"]
    {
        tx.send(&format!("DELETE FROM {table} WHERE session_id = $1"), vals![id])?;
    }
    tx.send("DELETE FROM egress WHERE workspace_id = $1 AND session_id = $2", vals![workspace, id])?;
    session_secrets::forget_of_session(tx, workspace, id.as_ref())?;
    files::remove_of_session(tx, workspace, id)?;
    checkpoints::remove(tx, workspace, id)?;
    files_are_to_go(tx, workspace, id.as_ref())?;
    work_queue::remove(tx, workspace, id.as_ref())?;
    tx.send("DELETE FROM sessions WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    outbox.emit(tx, workspace, [EventType::SessionDeleted], id)?;
    tx.after_commit(Notice::SessionDeleted(id.clone()));
    Ok(())
}

/// Removes a session that is kept no longer, with its first events; those that remain go with [`forget_events`].
pub fn forget(tx: &mut Tx<'_>, outbox: &mut Outbox, workspace: &WorkspaceId, id: &SessionId) -> Result<()> {
    remove(tx, outbox, workspace, id)?;
    if !remove_events(tx, id)? {
        tx.send("INSERT INTO forgotten_sessions (session_id) VALUES ($1)", vals![id])?;
    }
    Ok(())
}

/// Removes events of sessions that are gone, some at a time. Whether there may be more.
pub fn forget_events(tx: &mut Tx<'_>) -> Result<bool> {
    let sql = "SELECT session_id FROM forgotten_sessions LIMIT 1";
    let Some(id) = tx.one(sql, &[], |row| row.id::<SessionId>(0))? else { return Ok(false) };
    if remove_events(tx, &id)? {
        tx.send("DELETE FROM forgotten_sessions WHERE session_id = $1", vals![&id])?;
    }
    Ok(true)
}

/// Whether none remain.
fn remove_events(tx: &mut Tx<'_>, id: &SessionId) -> Result<bool> {
    let sql = "SELECT seq FROM session_events WHERE session_id = $1 ORDER BY seq LIMIT 1 OFFSET $2";
    let beyond = tx.one(sql, vals![id, RETENTION_ROWS], |row| row.int(0))?;
    let sql = "DELETE FROM session_events WHERE session_id = $1 AND seq < $2";
    tx.send(sql, vals![id, beyond.unwrap_or(i64::MAX)])?;
    Ok(beyond.is_none())
}
