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
    for entry in entries.iter().filter(|entry| there.contains(&entry.connection.session_id)) {
        if entry.is_known {
            update(tx, entry)?;
        } else {
            insert(tx, entry)?;
        }
    }
    Ok(())
}

fn insert(tx: &mut Tx<'_>, Entry { workspace, connection, .. }: &Entry) -> Result<()> {
    tx.add(
        "INSERT INTO egress (id, workspace_id, session_id, host, port, outcome, reason, bytes_in, bytes_out, started_at,
             duration_ms, credentials)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        vals![
            &connection.id,
            workspace,
            &connection.session_id,
            &connection.host,
            connection.port,
            connection.outcome.as_str(),
            connection.reason.map(EgressReason::as_str),
            connection.bytes_in,
            connection.bytes_out,
            connection.started_at,
            connection.duration_ms,
            credentials(connection)?.as_deref()
        ],
    )
}

/// What has become of a connection since its row was written.
fn update(tx: &mut Tx<'_>, Entry { workspace, connection, .. }: &Entry) -> Result<()> {
    tx.send(
        "UPDATE egress SET outcome = $4, reason = $5, bytes_in = $6, bytes_out = $7, duration_ms = $8,
             credentials = $9
         WHERE workspace_id = $1 AND session_id = $2 AND id = $3",
        vals![
            workspace,
            &connection.session_id,
            &connection.id,
            connection.outcome.as_str(),
            connection.reason.map(EgressReason::as_str),
            connection.bytes_in,
            connection.bytes_out,
            connection.duration_ms,
            credentials(connection)?.as_deref()
        ],
    )
}

fn credentials(connection: &EgressConnection) -> Result<Option<String>> {
    let told = (!connection.credentials.is_empty()).then(|| serde_json::to_string(&connection.credentials));
    Ok(told.transpose()?)
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

#[cfg(test)]
mod tests {
    use rota_api::{egress::EgressOutcome, id::Id};

    use super::*;
    use crate::{clock::Clock, db::Db};

    fn entry(session: &SessionId, seconds: i64) -> Entry {
        let started_at = Time::from_micros(seconds * 1_000_000);
        Entry {
            workspace: WorkspaceId::trusted("wrkspc_1".to_owned()),
            connection: EgressConnection {
                id: EgressId::new(started_at),
                r#type: "egress_connection",
                session_id: session.clone(),
                host: "a.example".to_owned(),
                port: 443,
                outcome: EgressOutcome::Allowed,
                reason: None,
                bytes_in: 2,
                bytes_out: 1,
                credentials: Vec::new(),
                started_at,
                duration_ms: None,
            },
            is_known: false,
        }
    }

    #[tokio::test]
    async fn rows_are_bounded_by_their_number_and_their_age_and_are_of_sessions_that_are_there() {
        let folder = tempfile::TempDir::new().unwrap();
        let (db, writer) = Db::open(folder.path(), Clock::System, Box::new(|_| {})).unwrap();
        db.write(|tx| {
            let (one, other) = (SessionId::trusted("sesn_1".to_owned()), SessionId::trusted("sesn_2".to_owned()));
            let workspace = entry(&one, 0).workspace;
            let count = |tx: &mut Tx<'_>, session: &SessionId| {
                let sql = "SELECT count(*) FROM egress WHERE session_id = $1";
                tx.one(sql, vals![session], |row| row.int(0)).map(Option::unwrap)
            };
            record(tx, &[entry(&one, 1)])?;
            assert_eq!(count(tx, &one)?, 0, "there is no such session");
            for second in 0..EGRESS_ROWS + 3 {
                insert(tx, &entry(&one, second))?;
            }
            insert(tx, &entry(&other, 1))?;
            assert_eq!(bytes(tx, &workspace, &other)?, 3);
            trim(tx, &workspace, &one)?;
            trim(tx, &workspace, &other)?;
            assert_eq!((count(tx, &one)?, count(tx, &other)?), (EGRESS_ROWS, 1));
            let before = Time::from_micros((EGRESS_PURGE + 10) * 1_000_000);
            assert!(purge(tx, before)?, "there are more");
            assert!(!purge(tx, before)?);
            assert_eq!((count(tx, &one)?, count(tx, &other)?), (EGRESS_ROWS - EGRESS_PURGE - 7, 0));
            Ok(())
        })
        .await
        .unwrap();
        drop(db);
        writer.join();
    }
}
