//! What the gate writes of connections.

use std::collections::HashSet;

use rota_api::{
    Time,
    egress::{EgressConnection, EgressReason},
    id::{self, EgressId, SessionId, WorkspaceId},
};

use crate::{
    db::{Tx, vals},
    error::Result,
    limits::{EGRESS_PURGE, EGRESS_ROWS},
};

/// What is to be written of a connection.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The session's workspace.
    pub workspace: WorkspaceId,
    /// The connection.
    pub connection: EgressConnection,
    /// Whether there is a row of it since it was opened.
    pub is_known: bool,
}

/// Writes what became of connections. Those of sessions that were deleted meanwhile are left out.
pub fn record(tx: &mut Tx<'_>, entries: &[Entry]) -> Result<()> {
    let mut there = HashSet::new();
    let sessions: HashSet<&SessionId> = entries.iter().map(|entry| &entry.connection.session_id).collect();
    for session in sessions {
        if tx.one("SELECT 1 FROM sessions WHERE id = $1", vals![session], |_| Ok(()))?.is_some() {
            there.insert(session);
        }
    }
    for Entry { workspace, connection, is_known } in entries {
        let EgressConnection { id, session_id, host, port, outcome, reason, bytes_in, bytes_out, .. } = connection;
        if !there.contains(session_id) {
            continue;
        }
        let (outcome, reason) = (outcome.as_str(), reason.map(EgressReason::as_str));
        if *is_known {
            tx.send(
                "UPDATE egress SET outcome = $4, reason = $5, bytes_in = $6, bytes_out = $7, duration_ms = $8
                 WHERE workspace_id = $1 AND session_id = $2 AND id = $3",
                vals![workspace, session_id, id, outcome, reason, *bytes_in, *bytes_out, connection.duration_ms],
            )?;
            continue;
        }
        tx.add(
            "INSERT INTO egress (id, workspace_id, session_id, host, port, outcome, reason, bytes_in, bytes_out,
                 started_at, duration_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            vals![
                id,
                workspace,
                session_id,
                host,
                *port,
                outcome,
                reason,
                *bytes_in,
                *bytes_out,
                connection.started_at,
                connection.duration_ms
            ],
        )?;
    }
    Ok(())
}

/// Keeps the newest rows of a session.
pub fn trim(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    let oldest = tx.one(
        "SELECT id FROM egress WHERE workspace_id = $1 AND session_id = $2 ORDER BY id DESC LIMIT 1 OFFSET $3",
        vals![workspace, session, EGRESS_ROWS - 1],
        |row| row.text(0),
    )?;
    if let Some(oldest) = oldest {
        let sql = "DELETE FROM egress WHERE workspace_id = $1 AND session_id = $2 AND id < $3";
        tx.execute(sql, vals![workspace, session, &oldest])?;
    }
    Ok(())
}

/// Deletes rows of connections that began before `before`, some at a time. Whether there may be more.
pub fn purge(tx: &mut Tx<'_>, before: Time) -> Result<bool> {
    let sql = "DELETE FROM egress WHERE id IN (SELECT id FROM egress WHERE id < $1 ORDER BY id LIMIT $2)";
    let deleted = tx.execute(sql, vals![&id::floor::<EgressId>(before), EGRESS_PURGE])?;
    Ok(deleted as i64 == EGRESS_PURGE)
}

/// The bytes that a session has moved, by the rows that are kept.
pub fn bytes(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<i64> {
    let sql = "SELECT CAST(coalesce(sum(bytes_in + bytes_out), 0) AS BIGINT) FROM egress
               WHERE workspace_id = $1 AND session_id = $2";
    Ok(tx.one(sql, vals![workspace, session], |row| row.int(0))?.unwrap_or(0))
}
