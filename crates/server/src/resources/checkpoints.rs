//! The rows of checkpoints: what of a session's files is in the place of blobs, and what is to be done about them.
//!
//! A session has one row from its first change on. That a checkpoint is due is written in the transaction that makes it due. The
//! row names another list of files only once all bytes of it are there, and the former one until then.

use rota_api::{
    Time,
    id::{BlobId, SessionId, WorkspaceId},
};
use serde::{Deserialize, Serialize};

use super::files;
use crate::{
    db::{Row, Tx, Val, vals},
    error::Result,
    limits::CHECKPOINT_KEPT_MICROS,
};

/// Notes that a session came to rest after events that may have changed files, the last of them `changed`: a checkpoint is due
/// unless the one that there is was taken later.
pub fn is_due(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, changed: i64) -> Result<()> {
    tx.send(
        "INSERT INTO session_checkpoints (session_id, workspace_id, taken_seq, told_seq, files, stored_bytes, failures,
             due_node, due_at, due_seq, expires_at)
         SELECT id, workspace_id, 0, 0, 0, 0, 0, home, $3, next_seq - 1, created_at + $4 FROM sessions
         WHERE workspace_id = $1 AND id = $2 AND home IS NOT NULL AND created_at + $4 > $3
         ON CONFLICT (session_id) DO UPDATE SET failures = 0, due_node = excluded.due_node, due_at = excluded.due_at,
             due_seq = excluded.due_seq
         WHERE session_checkpoints.taken_seq < $5",
        vals![workspace, session, tx.now(), CHECKPOINT_KEPT_MICROS, changed],
    )
}

/// A checkpoint that is to be taken.
#[derive(Debug, Clone)]
pub struct Due {
    /// The session.
    pub session: SessionId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The last event before the rest.
    pub seq: i64,
    /// How often it was tried.
    pub failures: i64,
}

/// At most `most` checkpoints that the server `node` is to take: of sessions at rest whose outputs were tried before.
pub fn due(tx: &mut Tx<'_>, node: &str, most: i64) -> Result<Vec<Due>> {
    let sql = "SELECT c.session_id, c.workspace_id, c.due_seq, c.failures FROM session_checkpoints c
         JOIN sessions s ON s.workspace_id = c.workspace_id AND s.id = c.session_id
         WHERE c.due_node = $1 AND c.due_at <= $2 AND c.restoring_on IS NULL AND s.runnable_at IS NULL
             AND NOT EXISTS (SELECT 1 FROM session_outputs_due o WHERE o.session_id = c.session_id AND o.failures = 0)
         ORDER BY c.due_at LIMIT $3";
    tx.all(sql, vals![node, tx.now(), most], |row| {
        Ok(Due {
            session: row.id("session_id")?,
            workspace: row.id("workspace_id")?,
            seq: row.int("due_seq")?,
            failures: row.int("failures")?,
        })
    })
}

/// What the server has put among the files of a session, and need not put there again where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The places of skills.
    pub skills: Vec<i64>,
    /// The ids of repositories, as resources of the session.
    pub repositories: Vec<String>,
}

/// A checkpoint that there is.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The event after which it was taken.
    pub seq: i64,
    /// The server that took it.
    pub node: String,
    /// The blob that lists the files.
    pub manifest: BlobId,
    /// The SHA-256 of that.
    pub sha256: String,
    /// What the server had put among the files.
    pub placed: Placed,
}

/// What is stored of a session's checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// The checkpoint, while it is kept.
    pub taken: Option<Taken>,
    /// The last event of which the agent has been told that what it changed may be lost.
    pub told_seq: i64,
    /// The server that was about to put the files in their place.
    pub restoring_on: Option<String>,
}

/// The columns of which [`stored`] reads, of a row `c` that may be missing.
macro_rules! columns {
    () => {
        "c.taken_seq, c.told_seq, c.taken_on, c.manifest_blob, c.manifest_sha256, c.placed, c.restoring_on, c.expires_at"
    };
}
pub(crate) use columns;

/// What a row says of the checkpoint of a session at the time `now`.
pub fn stored(row: &Row<'_>, now: Time) -> Result<Stored> {
    let taken = match (row.opt_id("manifest_blob")?, row.opt_time("expires_at")?) {
        (Some(manifest), Some(expires)) if expires > now => Some(Taken {
            seq: row.int("taken_seq")?,
            node: row.opt_text("taken_on")?.unwrap_or_default(),
            manifest,
            sha256: row.opt_text("manifest_sha256")?.unwrap_or_default(),
            placed: row.opt_json("placed")?.unwrap_or_default(),
        }),
        _ => None,
    };
    let told_seq = row.opt_int("told_seq")?.unwrap_or_default();
    Ok(Stored { taken, told_seq, restoring_on: row.opt_text("restoring_on")? })
}

/// The checkpoint of a session, while it is kept.
pub fn of_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Option<Taken>> {
    let now = tx.now();
    let sql =
        concat!("SELECT ", columns!(), " FROM session_checkpoints c WHERE c.workspace_id = $1 AND c.session_id = $2");
    Ok(tx.one(sql, vals![workspace, session], |row| stored(row, now))?.and_then(|stored| stored.taken))
}

/// A session whose files are being read: what a checkpoint of them holds only for as long as that stays so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    epoch: i64,
}

/// The moment at which the files of a session at rest are those of the server `node`. `None` when they are another's, or the
/// session works.
pub fn moment(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, node: &str) -> Result<Option<Moment>> {
    let sql = "SELECT lease_epoch FROM sessions
         WHERE workspace_id = $1 AND id = $2 AND home = $3 AND lease_owner IS NULL";
    tx.one(sql, vals![workspace, session, node], |row| Ok(Moment { epoch: row.int(0)? }))
}

/// A checkpoint whose bytes are all there.
#[derive(Debug, Clone)]
pub struct New {
    /// The moment whose files it has.
    pub moment: Moment,
    /// The blob that lists the files, and the SHA-256 of that.
    pub manifest: (BlobId, String),
    /// All blobs, that one included, and what each counts for.
    pub blobs: Vec<(BlobId, i64)>,
    /// Those of them that are content of files of the session, and count for nothing.
    pub shared: Vec<BlobId>,
    /// How many files and folders there are.
    pub files: i64,
    /// What the server had put among them.
    pub placed: Placed,
}

/// What became of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is the session's from now on.
    Yes,
    /// The session has gone on meanwhile, or is another server's.
    TooLate,
    /// A file whose content it shares is gone: it is to be taken anew.
    Again,
}

/// Makes `new` the checkpoint of a session.
///
/// # Errors
/// 400 `storage_quota_exceeded` when the files of the workspace would have more than `quota` bytes.
pub fn keep(tx: &mut Tx<'_>, due: &Due, node: &str, new: &New, quota: i64) -> Result<Kept> {
    let Due { session, workspace, seq, .. } = due;
    tx.lock("sessions WHERE workspace_id = $1 AND id = $2", vals![workspace, session])?;
    if moment(tx, workspace, session, node)?.as_ref() != Some(&new.moment) {
        return Ok(Kept::TooLate);
    }
    for blob in &new.shared {
        let named = "files WHERE workspace_id = $1 AND session_id = $2 AND blob_id = $3";
        tx.lock_shared(named, vals![workspace, session, blob])?;
        let sql = format!("SELECT 1 FROM {named}");
        if tx.one(&sql, vals![workspace, session, blob], |_| Ok(()))?.is_none() {
            return Ok(Kept::Again);
        }
    }
    let sql = "SELECT blob_id, bytes FROM session_checkpoint_blobs WHERE session_id = $1";
    let former = tx.all(sql, vals![session], |row| Ok((row.id::<BlobId>(0)?, row.int(1)?)))?;
    let bytes: i64 = new.blobs.iter().map(|(_, bytes)| bytes).sum();
    tx.lock("session_checkpoints WHERE session_id = $1", vals![session])?;
    let sql = "SELECT stored_bytes FROM session_checkpoints WHERE session_id = $1";
    let Some(former_bytes) = tx.one(sql, vals![session], |row| row.int(0))? else { return Ok(Kept::TooLate) };
    match bytes - former_bytes {
        more @ 1.. => files::count(tx, workspace, more, quota)?,
        less => files::no_longer_count(tx, workspace, -less)?,
    }
    for (blob, _) in former.iter().filter(|(blob, _)| !new.blobs.iter().any(|(kept, _)| kept == blob)) {
        let sql = "DELETE FROM session_checkpoint_blobs WHERE session_id = $1 AND blob_id = $2";
        tx.send(sql, vals![session, blob])?;
    }
    for (blob, bytes) in new.blobs.iter().filter(|(blob, _)| !former.iter().any(|(kept, _)| kept == blob)) {
        tx.add(
            "INSERT INTO session_checkpoint_blobs (session_id, blob_id, bytes) VALUES ($1, $2, $3)",
            vals![session, blob, *bytes],
        )?;
    }
    let (manifest, sha256) = &new.manifest;
    tx.send(
        "UPDATE session_checkpoints SET taken_seq = $2, taken_at = $3, taken_on = $4, manifest_blob = $5,
             manifest_sha256 = $6, files = $7, stored_bytes = $8, placed = $9, problem = NULL, failures = 0,
             due_node = NULL, due_at = NULL
         WHERE session_id = $1",
        vals![session, *seq, tx.now(), node, manifest, sha256, new.files, bytes, &serde_json::to_string(&new.placed)?],
    )?;
    Ok(Kept::Yes)
}

/// Notes that the files are still what the checkpoint has.
pub fn is_the_same(tx: &mut Tx<'_>, due: &Due, node: &str, at: &Moment, placed: &Placed) -> Result<Kept> {
    let Due { session, workspace, seq, .. } = due;
    tx.lock("sessions WHERE workspace_id = $1 AND id = $2", vals![workspace, session])?;
    if moment(tx, workspace, session, node)?.as_ref() != Some(at) {
        return Ok(Kept::TooLate);
    }
    tx.send(
        "UPDATE session_checkpoints SET taken_seq = $2, taken_at = $3, placed = $4, problem = NULL, failures = 0,
             due_node = NULL, due_at = NULL
         WHERE session_id = $1",
        vals![session, *seq, tx.now(), &serde_json::to_string(placed)?],
    )?;
    Ok(Kept::Yes)
}

/// Notes that a checkpoint was not taken, and is tried again in `micros` or, with a problem that a further try would meet as
/// well, after the next change. What became due meanwhile stays so.
pub fn is_not_taken(tx: &mut Tx<'_>, due: &Due, node: &str, next: &Next) -> Result<()> {
    let of = [Val::from(&due.session), Val::from(node), Val::from(due.seq)];
    let row = "WHERE session_id = $1 AND due_node = $2 AND due_seq = $3";
    match next {
        Next::In { micros, failed } => {
            let at = tx.now().plus_micros(*micros);
            let sql = format!("UPDATE session_checkpoints SET failures = failures + $4, due_at = $5 {row}");
            tx.send(&sql, &[&of[..], vals![i64::from(*failed), at]].concat())
        }
        Next::Never { problem } => {
            let sql = format!("UPDATE session_checkpoints SET problem = $4, due_node = NULL, due_at = NULL {row}");
            tx.send(&sql, &[&of[..], vals![problem.as_str()]].concat())
        }
    }
}

/// When a checkpoint is tried again that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// After a pause.
    In {
        /// How long.
        micros: i64,
        /// Whether the try counts as a failed one.
        failed: bool,
    },
    /// Not before files may have changed again.
    Never {
        /// Why, for people.
        problem: String,
    },
}

/// Notes that the agent is told, with what the log has now, that changes up to then may be lost.
pub fn loss_is_told(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    tx.send(
        "UPDATE session_checkpoints SET told_seq = (
             SELECT next_seq - 1 FROM sessions WHERE workspace_id = $1 AND id = $2)
         WHERE workspace_id = $1 AND session_id = $2",
        vals![workspace, session],
    )
}

/// Notes that the server `node` is about to put the files of a checkpoint in their place. What another one was to take of them
/// is lost.
pub fn is_restoring(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, node: &str) -> Result<()> {
    tx.send(
        "UPDATE session_checkpoints SET restoring_on = $3, due_node = NULL, due_at = NULL
         WHERE workspace_id = $1 AND session_id = $2",
        vals![workspace, session, node],
    )
}

/// Notes that they are there, or are of no use.
pub fn is_restored(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    tx.send(
        "UPDATE session_checkpoints SET restoring_on = NULL WHERE workspace_id = $1 AND session_id = $2",
        vals![workspace, session],
    )
}

/// Content of files of a session that checkpoints of it may share: its SHA-256, its bytes and its blob.
pub fn shareable(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<(String, u64, BlobId)>> {
    let now = tx.now();
    let sql = "SELECT sha256, size_bytes, blob_id FROM files
         WHERE workspace_id = $1 AND session_id = $2 AND blob_id IS NOT NULL AND (expires_at IS NULL OR expires_at > $3)";
    tx.all(sql, vals![workspace, session, now], |row| {
        Ok((row.text("sha256")?, u64::try_from(row.int("size_bytes")?).unwrap_or_default(), row.id("blob_id")?))
    })
}

/// Why the files of a session were last not kept, with the time of those that are.
pub fn problem(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
) -> Result<Option<(String, Option<Time>)>> {
    let sql = "SELECT problem, taken_at FROM session_checkpoints
         WHERE workspace_id = $1 AND session_id = $2 AND problem IS NOT NULL";
    tx.one(sql, vals![workspace, session], |row| Ok((row.text(0)?, row.opt_time(1)?)))
}

/// Forgets the checkpoint of a session.
pub fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    let sql = "DELETE FROM session_checkpoints WHERE workspace_id = $1 AND session_id = $2 RETURNING stored_bytes";
    let stored = tx.one(sql, vals![workspace, session], |row| row.int(0))?;
    tx.send("DELETE FROM session_checkpoint_blobs WHERE session_id = $1", vals![session])?;
    match stored {
        Some(bytes) if bytes > 0 => files::no_longer_count(tx, workspace, bytes),
        _ => Ok(()),
    }
}

/// Forgets a checkpoint that is kept no longer. Whether there was one. One at a time: who has counted bytes of a workspace waits
/// for no other checkpoint.
pub fn expire(tx: &mut Tx<'_>) -> Result<bool> {
    let sql = "SELECT workspace_id, session_id FROM session_checkpoints WHERE expires_at <= $1 LIMIT 1";
    let over = tx.one(sql, vals![tx.now()], |row| Ok((row.id::<WorkspaceId>(0)?, row.id::<SessionId>(1)?)))?;
    match &over {
        Some((workspace, session)) => remove(tx, workspace, session).map(|()| true),
        None => Ok(false),
    }
}

/// Of these blobs, those that a checkpoint needs.
pub fn are_named(tx: &mut Tx<'_>, blobs: &[BlobId]) -> Result<Vec<BlobId>> {
    let mut named = Vec::new();
    for blob in blobs {
        let sql = "SELECT 1 FROM session_checkpoint_blobs WHERE blob_id = $1 LIMIT 1";
        if tx.one(sql, vals![blob], |_| Ok(()))?.is_some() {
            named.push(blob.clone());
        }
    }
    Ok(named)
}
