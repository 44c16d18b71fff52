//! The rows of files, and what their bytes count for.

use rota_api::{
    Time,
    file::{File, Scope},
    id::{BlobId, FileId, Id, SessionId, WorkspaceId},
};

use crate::{
    blobs::Written,
    db::{Question, Row, Tx, Val, vals},
    error::{Error, Result},
    limits::{EXPIRE_BATCH, EXPIRED_KEPT_MICROS},
};

pub(super) const SELECT: &str =
    "SELECT id, filename, mime_type, size_bytes, downloadable, session_id, created_at, expires_at
    FROM files WHERE workspace_id = $1";

/// A row as the API shows it, with the session that it belongs to where that is asked for.
pub(super) fn from_row(row: &Row<'_>, scoped: bool) -> Result<File> {
    let session: Option<SessionId> = row.opt_id("session_id")?;
    Ok(File {
        id: row.id("id")?,
        r#type: "file",
        filename: row.text("filename")?,
        mime_type: row.text("mime_type")?,
        size_bytes: row.int("size_bytes")?,
        downloadable: row.int("downloadable")? != 0,
        created_at: row.time("created_at")?,
        expires_at: row.opt_time("expires_at")?,
        scope: session.filter(|_| scoped).map(|id| Scope { r#type: "session", id }),
    })
}

/// The error for a file that does not exist, or belongs to another workspace.
pub fn not_found(id: &str) -> Error {
    Error::not_found("File", id)
}

pub(super) fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, scoped: bool) -> Result<File> {
    let sql = format!("{SELECT} AND id = $2");
    tx.one_or(&sql, vals![workspace, id], |row| from_row(row, scoped), || not_found(id))
}

/// What is read back of a file.
pub(super) struct Content {
    pub(super) blob: BlobId,
    pub(super) filename: String,
    pub(super) mime_type: String,
    pub(super) size: i64,
    pub(super) downloadable: bool,
}

pub(super) fn content(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Content> {
    let now = tx.now();
    let sql = "SELECT blob_id, filename, mime_type, size_bytes, downloadable, expires_at FROM files
        WHERE workspace_id = $1 AND id = $2";
    tx.one_or(
        sql,
        vals![workspace, id],
        |row| {
            let is_expired = row.opt_time("expires_at")?.is_some_and(|at| at <= now);
            Ok(Content {
                blob: row.opt_id("blob_id")?.filter(|_| !is_expired).ok_or_else(|| expired(id))?,
                filename: row.text("filename")?,
                mime_type: row.text("mime_type")?,
                size: row.int("size_bytes")?,
                downloadable: row.int("downloadable")? != 0,
            })
        },
        || not_found(id),
    )
}

fn expired(id: &str) -> Error {
    Error::Gone { code: "file_expired", message: format!("File `{id}` has expired.") }
}

/// A file to be added, whose bytes are written.
pub struct NewFile<'a> {
    /// Its workspace.
    pub workspace: &'a WorkspaceId,
    /// The session that it belongs to.
    pub session: Option<&'a SessionId>,
    /// Its name.
    pub filename: &'a str,
    /// The type of its content.
    pub mime_type: &'a str,
    /// Its bytes.
    pub written: &'a Written,
    /// Where the agent left it, and what the server saw of it then. Such a file can be downloaded.
    pub output: Option<(&'a str, &'a str)>,
    /// When its bytes go.
    pub expires_at: Option<Time>,
}

/// Adds a file.
///
/// # Errors
/// 400 `storage_quota_exceeded` when the files of the workspace would have more than `quota` bytes.
pub fn insert(tx: &mut Tx<'_>, new: &NewFile<'_>, quota: i64) -> Result<FileId> {
    let size = i64::try_from(new.written.size).map_err(Error::internal)?;
    count(tx, new.workspace, size, quota)?;
    let now = tx.now();
    let id = FileId::new(now);
    tx.send(
        "INSERT INTO files (id, workspace_id, session_id, filename, mime_type, size_bytes, sha256, blob_id, is_counted,
             downloadable, output_path, output_state, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $11, $12, $13)",
        vals![
            &id,
            new.workspace,
            new.session,
            new.filename,
            new.mime_type,
            size,
            &new.written.sha256,
            &new.written.id,
            i64::from(new.output.is_some()),
            new.output.map(|(path, _)| path),
            new.output.map(|(_, state)| state),
            now,
            new.expires_at
        ],
    )?;
    Ok(id)
}

/// Counts further bytes of a workspace.
///
/// # Errors
/// 400 `storage_quota_exceeded` when they would be more than `quota`.
pub fn count(tx: &mut Tx<'_>, workspace: &WorkspaceId, bytes: i64, quota: i64) -> Result<()> {
    tx.send(
        "INSERT INTO file_usage (workspace_id, bytes) VALUES ($1, 0) ON CONFLICT (workspace_id) DO NOTHING",
        vals![workspace],
    )?;
    let sql = "UPDATE file_usage SET bytes = bytes + $2 WHERE workspace_id = $1 AND bytes + $2 <= $3";
    if tx.changes(sql, vals![workspace, bytes, quota])? { Ok(()) } else { Err(quota_exceeded(quota)) }
}

/// That the files of a workspace can have so many bytes more.
pub(super) fn check_quota(tx: &mut Tx<'_>, workspace: &WorkspaceId, bytes: i64, quota: i64) -> Result<()> {
    let used = tx.one("SELECT bytes FROM file_usage WHERE workspace_id = $1", vals![workspace], |row| row.int(0))?;
    if used.unwrap_or(0) + bytes > quota { Err(quota_exceeded(quota)) } else { Ok(()) }
}

fn quota_exceeded(quota: i64) -> Error {
    Error::Rejected {
        code: "storage_quota_exceeded",
        message: format!(
            "the files of the workspace would have more than {} MB, which is its limit; delete some, also those of sessions",
            quota / 1024 / 1024
        ),
    }
}

/// Removes a file. Whether there was one. Its bytes go when nothing names them any more.
pub fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<bool> {
    tx.lock("files WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let sql = "DELETE FROM files WHERE workspace_id = $1 AND id = $2 RETURNING blob_id, is_counted, size_bytes";
    let removed = tx.one(sql, vals![workspace, id], |row| {
        let counted = row.int(1)? != 0;
        Ok((row.opt_id::<BlobId>(0)?.filter(|_| counted), row.int(2)?))
    })?;
    if let Some((Some(blob), size)) = &removed {
        discount(tx, workspace, blob, *size)?;
    }
    Ok(removed.is_some())
}

/// The counted file of a blob is gone: another one counts from now on, or the bytes do not.
fn discount(tx: &mut Tx<'_>, workspace: &WorkspaceId, blob: &BlobId, size: i64) -> Result<()> {
    let heir = "SELECT id FROM files WHERE blob_id = $1 LIMIT 1";
    while let Some(heir) = tx.one(heir, vals![blob], |row| row.id::<FileId>(0))? {
        // It may go at the same moment.
        let sql = "UPDATE files SET is_counted = 1 WHERE workspace_id = $1 AND id = $2";
        if tx.changes(sql, vals![workspace, &heir])? {
            return Ok(());
        }
    }
    no_longer_count(tx, workspace, size)
}

/// Counts so many bytes of a workspace no longer.
pub fn no_longer_count(tx: &mut Tx<'_>, workspace: &WorkspaceId, bytes: i64) -> Result<()> {
    tx.send("UPDATE file_usage SET bytes = bytes - $2 WHERE workspace_id = $1", vals![workspace, bytes])
}

/// Removes the files of a session.
pub fn remove_of_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    let sql = "SELECT id FROM files WHERE session_id = $1";
    for id in tx.all(sql, vals![session], |row| row.text(0))? {
        remove(tx, workspace, &id)?;
    }
    tx.send("DELETE FROM session_outputs_due WHERE session_id = $1", vals![session])
}

/// A file that can be mounted, or read by a model.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its id.
    pub id: FileId,
    /// Its bytes.
    pub blob: BlobId,
    /// How many they are.
    pub size: i64,
    /// The type of its content.
    pub mime_type: String,
    /// Its name.
    pub filename: String,
    /// The SHA-256 of its content.
    sha256: String,
}

const SOURCE: &str = "id, blob_id, size_bytes, mime_type, filename, sha256";

fn source_of_row(row: &Row<'_>) -> Result<Source> {
    Ok(Source {
        id: row.id("id")?,
        blob: row.id("blob_id")?,
        size: row.int("size_bytes")?,
        mime_type: row.text("mime_type")?,
        filename: row.text("filename")?,
        sha256: row.text("sha256")?,
    })
}

/// The file `id` of a workspace as it is now. `None` when there is none, or its bytes are gone.
pub fn source(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<Source>> {
    let now = tx.now();
    let sql = format!(
        "SELECT {SOURCE} FROM files
        WHERE workspace_id = $1 AND id = $2 AND blob_id IS NOT NULL AND (expires_at IS NULL OR expires_at > $3)"
    );
    tx.one(&sql, vals![workspace, id, now], source_of_row)
}

/// Files that one statement looks up.
const FILES_AT_ONCE: usize = 50;

/// Asks for those of the files `ids` of a workspace that can be mounted, as [`mountable`] tells them. They stay as they are until
/// the transaction ends; whoever mounts the same ones need not wait for that.
pub fn ask_mountable(tx: &mut Tx<'_>, workspace: &WorkspaceId, ids: &[&str]) -> Result<Vec<Question>> {
    // In one order, so that no two of those who wait do so for each other.
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    for id in &ids {
        tx.lock_shared("files WHERE workspace_id = $1 AND id = $2", vals![workspace, *id])?;
    }
    // Each by its whole key: of a list of ids a plan that PostgreSQL made while there were few files looks at every file.
    let of_one = |place| {
        format!(
            "SELECT {SOURCE}, expires_at FROM files WHERE workspace_id = $1 AND id = ${place} AND blob_id IS NOT NULL"
        )
    };
    let ask = |ids: &[&str]| {
        let sql = (2..ids.len() + 2).map(of_one).collect::<Vec<_>>().join(" UNION ALL ");
        let mut params = vec![Val::from(workspace)];
        params.extend(ids.iter().copied().map(Val::from));
        tx.ask(&sql, &params)
    };
    ids.chunks(FILES_AT_ONCE).map(ask).collect()
}

/// The files of [`ask_mountable`] that can be mounted, in no order.
pub fn mountable(tx: &mut Tx<'_>, asked: Vec<Question>) -> Result<Vec<Source>> {
    let now = tx.now();
    let mut found = Vec::new();
    for asked in asked {
        found.extend(tx.answer(asked, |row| {
            let is_expired = row.opt_time("expires_at")?.is_some_and(|at| at <= now);
            Ok((!is_expired).then_some(source_of_row(row)?))
        })?);
    }
    Ok(found.into_iter().flatten().collect())
}

/// Adds the copy of a file that a session has mounted at `path`, below the folder of uploads: a row over the same bytes. The
/// file is one of those that [`mountable`] has found in this transaction.
pub fn copy(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    file: &Source,
    session: &SessionId,
    path: &str,
) -> Result<FileId> {
    let now = tx.now();
    let copy = FileId::new(now);
    tx.add(
        "INSERT INTO files (id, workspace_id, session_id, filename, mime_type, size_bytes, sha256, blob_id, is_counted,
             downloadable, mount_path, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, $9, $10)",
        vals![
            &copy,
            workspace,
            session,
            &file.filename,
            &file.mime_type,
            file.size,
            &file.sha256,
            &file.blob,
            path,
            now
        ],
    )?;
    Ok(copy)
}

/// A file that a session has mounted.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// Where, below the folder of uploads.
    pub path: String,
    /// Its bytes.
    pub blob: BlobId,
    /// How many they are.
    pub size: u64,
}

/// What a session has mounted.
pub fn mounted(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<Mounted>> {
    let sql = "SELECT mount_path, blob_id, size_bytes FROM files
        WHERE workspace_id = $1 AND session_id = $2 AND mount_path IS NOT NULL AND blob_id IS NOT NULL";
    tx.all(sql, vals![workspace, session], |row| {
        Ok(Mounted {
            path: row.text("mount_path")?,
            blob: row.id("blob_id")?,
            size: u64::try_from(row.int("size_bytes")?).unwrap_or_default(),
        })
    })
}

/// A file that an agent left in its outputs, as the store has it.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its id.
    pub id: FileId,
    /// Its path below the folder of outputs.
    pub path: String,
    /// What the server saw of it when it took it in.
    pub state: String,
    /// The SHA-256 of its content.
    pub sha256: String,
}

/// The outputs of a session that the store has.
pub fn outputs(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<Output>> {
    let sql = "SELECT id, output_path, output_state, sha256 FROM files
        WHERE workspace_id = $1 AND session_id = $2 AND output_path IS NOT NULL";
    tx.all(sql, vals![workspace, session], |row| {
        Ok(Output {
            id: row.id("id")?,
            path: row.text("output_path")?,
            state: row.opt_text("output_state")?.unwrap_or_default(),
            sha256: row.text("sha256")?,
        })
    })
}

/// Notes what the server saw of an output that has the content which the store has.
pub fn same_output(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &FileId, state: &str) -> Result<()> {
    let sql = "UPDATE files SET output_state = $3 WHERE workspace_id = $1 AND id = $2";
    tx.send(sql, vals![workspace, id, state])
}

/// Gives an output other content, and the same id.
pub fn replace_output(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &FileId,
    written: &Written,
    state: &str,
    quota: i64,
) -> Result<()> {
    tx.lock("files WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let sql = "SELECT blob_id, is_counted, size_bytes FROM files WHERE workspace_id = $1 AND id = $2";
    let stored =
        tx.one(sql, vals![workspace, id], |row| Ok((row.opt_id::<BlobId>(0)?, row.int(1)? != 0, row.int(2)?)))?;
    let Some((blob, counted, old_size)) = stored else { return Ok(()) };
    let size = i64::try_from(written.size).map_err(Error::internal)?;
    tx.execute(
        "UPDATE files SET blob_id = $3, size_bytes = $4, sha256 = $5, output_state = $6, is_counted = 1
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, &written.id, size, &written.sha256, state],
    )?;
    if let (Some(blob), true) = (blob, counted) {
        discount(tx, workspace, &blob, old_size)?;
    }
    count(tx, workspace, size, quota)
}

/// Lets the bytes of files go that have expired, and forgets those that did so long ago. Whether there may be more.
pub fn expire(tx: &mut Tx<'_>) -> Result<bool> {
    let now = tx.now();
    let sql = "SELECT id, workspace_id FROM files WHERE expires_at <= $1 AND blob_id IS NOT NULL LIMIT $2";
    let due: Vec<(FileId, WorkspaceId)> = tx.all(sql, vals![now, EXPIRE_BATCH], |row| Ok((row.id(0)?, row.id(1)?)))?;
    for (id, workspace) in &due {
        tx.lock("files WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
        let sql = "SELECT blob_id, size_bytes FROM files WHERE workspace_id = $1 AND id = $2 AND is_counted = 1";
        let counted = tx.one(sql, vals![workspace, id], |row| Ok((row.opt_id::<BlobId>(0)?, row.int(1)?)))?;
        let sql = "UPDATE files SET blob_id = NULL, is_counted = 0 WHERE workspace_id = $1 AND id = $2";
        tx.execute(sql, vals![workspace, id])?;
        if let Some((Some(blob), size)) = counted {
            discount(tx, workspace, &blob, size)?;
        }
    }
    let forgotten = now.plus_micros(-EXPIRED_KEPT_MICROS);
    tx.send("DELETE FROM files WHERE expires_at <= $1 AND blob_id IS NULL", vals![forgotten])?;
    Ok(due.len() as i64 == EXPIRE_BATCH)
}

/// Of these blobs, those that a file names.
pub fn are_named(tx: &mut Tx<'_>, blobs: &[BlobId]) -> Result<Vec<BlobId>> {
    let mut named = Vec::new();
    for blob in blobs {
        if tx.one("SELECT 1 FROM files WHERE blob_id = $1 LIMIT 1", vals![blob], |_| Ok(()))?.is_some() {
            named.push(blob.clone());
        }
    }
    Ok(named)
}
