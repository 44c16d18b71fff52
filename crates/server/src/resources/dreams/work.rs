//! What a worker asks of a dream's row and writes to it. Each change asks first whether the worker still has the dream: one
//! that was canceled, or taken up by another, takes nothing more.

use rota_api::{
    Time,
    id::{ApiKeyId, DreamId, MemoryStoreId, SessionId, WorkspaceId},
    memory::{Actor, MemoryStoreFields},
};

use crate::{
    db::{Row, Tx, vals},
    error::Result,
    limits::{DREAM_COPY_BATCH, DREAM_LEASE_MICROS},
    model::Usage,
    resources::memory_stores::{self, write::Writing},
};

/// A dream that this worker has, until it is canceled or taken up by another.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The dream.
    pub id: DreamId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The key that created it, in whose name it writes.
    pub api_key: ApiKeyId,
    /// The model.
    pub model: String,
    /// The store that it reads.
    pub store: MemoryStoreId,
    /// The store that it writes to, once there is one.
    pub output: Option<MemoryStoreId>,
    /// The sessions that it reads.
    pub sessions: Vec<SessionId>,
    /// What its caller wants of it.
    pub instructions: Option<String>,
    /// Whether it writes into the store that it reads.
    pub updates: bool,
    /// Whether the new store has everything of that one.
    pub is_copied: bool,
    /// Which of its sessions it reads now.
    pub place: usize,
    /// The last event of that session that it has read.
    pub after_seq: i64,
    /// Which part of that session's transcript comes next, from 1.
    pub part: i64,
    /// How often it was taken up since it last got on, this time included.
    pub failures: u32,
    /// When it was taken up first.
    pub started_at: Time,
    epoch: i64,
}

/// Why a dream cannot go on, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    r#type: &'static str,
    message: String,
}

impl Failure {
    /// A failure of this type, in these words.
    pub fn new(r#type: &'static str, message: impl Into<String>) -> Self {
        Self { r#type, message: message.into() }
    }
}

/// Takes up a dream that is due: the one that has waited longest, of a workspace that has none at work.
pub fn claim(tx: &mut Tx<'_>, node: &str) -> Result<Option<Claim>> {
    let now = tx.now();
    let sql = format!(
        "WITH due AS MATERIALIZED (
             SELECT id FROM dreams WHERE due_at <= $1
                 AND NOT EXISTS (SELECT 1 FROM dreams other WHERE other.workspace_id = dreams.workspace_id
                                 AND other.owner IS NOT NULL AND other.due_at > $1)
                 AND NOT EXISTS (SELECT 1 FROM organization WHERE disabled_at IS NOT NULL)
             ORDER BY due_at LIMIT 1{})
         UPDATE dreams SET status = 'running', owner = $2, epoch = epoch + 1, failures = failures + 1, due_at = $3,
             started_at = coalesce(started_at, $1)
         WHERE id IN (SELECT id FROM due)
         RETURNING id, workspace_id, api_key_id, model, store_id, output_store_id, session_ids, instructions, updates,
             is_copied, place, after_seq, part, failures, started_at, epoch",
        tx.skip_locked("dreams")
    );
    tx.one(&sql, vals![now, node, now.plus_micros(DREAM_LEASE_MICROS)], from_row)
}

fn from_row(row: &Row<'_>) -> Result<Claim> {
    Ok(Claim {
        id: row.id("id")?,
        workspace: row.id("workspace_id")?,
        api_key: row.id("api_key_id")?,
        model: row.text("model")?,
        store: row.id("store_id")?,
        output: row.opt_id("output_store_id")?,
        sessions: row.json("session_ids")?,
        instructions: row.opt_text("instructions")?,
        updates: row.int("updates")? != 0,
        is_copied: row.int("is_copied")? != 0,
        place: usize::try_from(row.int("place")?).unwrap_or(usize::MAX),
        after_seq: row.int("after_seq")?,
        part: row.int("part")?,
        failures: u32::try_from(row.int("failures")?).unwrap_or(u32::MAX),
        started_at: row.time("started_at")?,
        epoch: row.int("epoch")?,
    })
}

/// Whether a session is still there to be read.
pub fn has_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<bool> {
    let sql = "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2";
    Ok(tx.one(sql, vals![workspace, session], |_| Ok(()))?.is_some())
}

/// Ends the claims that an earlier process of `node` held: there is none beside this one.
pub fn release_all_of(tx: &mut Tx<'_>, node: &str) -> Result<()> {
    tx.send(
        "UPDATE dreams SET due_at = $2, owner = NULL WHERE owner = $1 AND due_at IS NOT NULL",
        vals![node, tx.now()],
    )
}

impl Claim {
    /// Whether the dream is still this worker's, and stays so until the transaction ends. It then has its whole lease again.
    fn holds(&self, tx: &mut Tx<'_>) -> Result<bool> {
        let until = tx.now().plus_micros(DREAM_LEASE_MICROS);
        tx.changes(
            "UPDATE dreams SET due_at = $4 WHERE workspace_id = $1 AND id = $2 AND epoch = $3 AND due_at IS NOT NULL",
            vals![&self.workspace, &self.id, self.epoch, until],
        )
    }

    /// Whether the dream is still this worker's.
    pub fn is_current(&self, tx: &mut Tx<'_>) -> Result<bool> {
        let sql = "SELECT 1 FROM dreams WHERE workspace_id = $1 AND id = $2 AND epoch = $3 AND due_at IS NOT NULL";
        Ok(tx.one(sql, vals![&self.workspace, &self.id, self.epoch], |_| Ok(()))?.is_some())
    }

    fn actor(&self) -> Actor {
        Actor::Api { api_key_id: self.api_key.clone() }
    }

    /// The store to write to, made when there is none yet. `None` when the dream is this worker's no more.
    pub fn begin(&self, tx: &mut Tx<'_>) -> Result<Option<Result<MemoryStoreId, Failure>>> {
        if !self.holds(tx)? {
            return Ok(None);
        }
        let Some(store) = memory_stores::named(tx, &self.workspace, self.store.as_ref())? else {
            return Ok(Some(Err(self.input_is_gone())));
        };
        let output = match (&self.output, self.updates) {
            (Some(output), _) => return Ok(Some(Ok(output.clone()))),
            (None, true) => self.store.clone(),
            (None, false) => {
                let fields = MemoryStoreFields { name: store.0, description: store.1, ..MemoryStoreFields::default() };
                memory_stores::make(tx, &self.workspace, &fields)?
            }
        };
        tx.execute(
            "UPDATE dreams SET output_store_id = $3 WHERE workspace_id = $1 AND id = $2",
            vals![&self.workspace, &self.id, &output],
        )?;
        Ok(Some(Ok(output)))
    }

    fn input_is_gone(&self) -> Failure {
        let message = format!("memory store {} was archived or deleted while the dream was under way", self.store);
        Failure::new("input_memory_store_unavailable", message)
    }

    /// Copies more of the store that is read into `output`. Whether there is more to copy; `None` when the dream is this
    /// worker's no more.
    pub fn copy(&self, tx: &mut Tx<'_>, output: &MemoryStoreId) -> Result<Option<Result<bool, Failure>>> {
        if !self.holds(tx)? {
            return Ok(None);
        }
        let Some(mut writing) = Writing::find(tx, &self.workspace, output.as_ref())?.filter(|store| !store.archived)
        else {
            return Ok(Some(Err(output_is_gone(output))));
        };
        if memory_stores::named(tx, &self.workspace, self.store.as_ref())?.is_none() {
            return Ok(Some(Err(self.input_is_gone())));
        }
        let sql = "SELECT m.path, v.content FROM memories m JOIN memory_versions v ON v.id = m.version_id
             WHERE m.store_id = $1 AND m.path > (SELECT copied FROM dreams WHERE id = $2) ORDER BY m.path LIMIT $3";
        let pair = |row: &Row<'_>| Ok((row.text("path")?, row.opt_text("content")?.unwrap_or_default()));
        let memories = tx.all(sql, vals![&self.store, &self.id, DREAM_COPY_BATCH], pair)?;
        for (path, content) in &memories {
            // Somebody may have put one there already.
            if writing.at(tx, path)?.is_none() {
                writing.create(tx, &self.actor(), path, content)?;
            }
        }
        let more = memories.len() as i64 == DREAM_COPY_BATCH;
        let last = memories.last().map(|(path, _)| path.as_str());
        tx.execute(
            "UPDATE dreams SET copied = coalesce($3, copied), is_copied = $4, failures = 0
             WHERE workspace_id = $1 AND id = $2",
            vals![&self.workspace, &self.id, last, i64::from(!more)],
        )?;
        Ok(Some(Ok(more)))
    }

    /// Writes a memory at `path`, or deletes the one there when there is no content. The outer `None` when the dream is this
    /// worker's no more; the inner error when its store is gone.
    ///
    /// # Errors
    /// As a caller would be told who writes there.
    pub fn write(
        &self,
        tx: &mut Tx<'_>,
        output: &MemoryStoreId,
        path: &str,
        content: Option<&str>,
    ) -> Result<Option<Result<bool, Failure>>> {
        if !self.holds(tx)? {
            return Ok(None);
        }
        let Some(mut writing) = Writing::find(tx, &self.workspace, output.as_ref())?.filter(|store| !store.archived)
        else {
            return Ok(Some(Err(output_is_gone(output))));
        };
        let found = writing.at(tx, path)?;
        match (content, &found) {
            (Some(content), Some(memory)) => writing.update(tx, &self.actor(), memory, None, Some(content))?,
            (Some(content), None) => drop(writing.create(tx, &self.actor(), path, content)?),
            (None, Some(memory)) => writing.delete(tx, &self.actor(), memory)?,
            (None, None) => {}
        }
        Ok(Some(Ok(found.is_some())))
    }

    /// Adds tokens to what the dream has used. Also after it was canceled.
    pub fn used(&self, tx: &mut Tx<'_>, usage: &Usage) -> Result<()> {
        let created = usage.cache_creation_5m_input_tokens + usage.cache_creation_1h_input_tokens;
        tx.execute(
            "UPDATE dreams SET input_tokens = input_tokens + $3, output_tokens = output_tokens + $4,
                 cache_read_tokens = cache_read_tokens + $5, cache_creation_tokens = cache_creation_tokens + $6
             WHERE workspace_id = $1 AND id = $2",
            vals![
                &self.workspace,
                &self.id,
                usage.input_tokens as i64,
                usage.output_tokens as i64,
                usage.cache_read_input_tokens as i64,
                created as i64
            ],
        )?;
        Ok(())
    }

    /// Notes how far the dream has read. Whether it is still this worker's.
    pub fn advance(&self, tx: &mut Tx<'_>, place: usize, after_seq: i64, part: i64) -> Result<bool> {
        if !self.holds(tx)? {
            return Ok(false);
        }
        tx.changes(
            "UPDATE dreams SET place = $3, after_seq = $4, part = $5, failures = 0 WHERE workspace_id = $1 AND id = $2",
            vals![&self.workspace, &self.id, place as i64, after_seq, part],
        )
    }

    /// Gives the dream back, to be taken up after a pause. `failed`: whether that counts as a failed try.
    pub fn release(&self, tx: &mut Tx<'_>, pause_micros: i64, failed: bool) -> Result<()> {
        let back = i64::from(!failed);
        tx.execute(
            "UPDATE dreams SET owner = NULL, due_at = $4, failures = failures - $5
             WHERE workspace_id = $1 AND id = $2 AND epoch = $3 AND due_at IS NOT NULL",
            vals![&self.workspace, &self.id, self.epoch, tx.now().plus_micros(pause_micros), back],
        )?;
        Ok(())
    }

    /// Ends the dream, with what went wrong if something did.
    pub fn end(&self, tx: &mut Tx<'_>, error: Option<&Failure>) -> Result<()> {
        let status = if error.is_some() { "failed" } else { "completed" };
        tx.execute(
            "UPDATE dreams SET status = $4, error_type = $5, error_message = $6, owner = NULL, due_at = NULL, ended_at = $7
             WHERE workspace_id = $1 AND id = $2 AND epoch = $3 AND due_at IS NOT NULL",
            vals![
                &self.workspace,
                &self.id,
                self.epoch,
                status,
                error.map(|error| error.r#type),
                error.map(|error| error.message.as_str()),
                tx.now()
            ],
        )?;
        Ok(())
    }

    /// The memories of `output`: path and bytes.
    pub fn memories(&self, tx: &mut Tx<'_>, output: &MemoryStoreId) -> Result<Vec<(String, i64)>> {
        let sql = "SELECT path, content_size_bytes FROM memories WHERE store_id = $1 ORDER BY path";
        tx.all(sql, vals![output], |row| Ok((row.text(0)?, row.int(1)?)))
    }

    /// The content of the memory at `path` of `output`.
    pub fn read(&self, tx: &mut Tx<'_>, output: &MemoryStoreId, path: &str) -> Result<Option<String>> {
        let sql = "SELECT v.content FROM memories m JOIN memory_versions v ON v.id = m.version_id
             WHERE m.store_id = $1 AND m.path = $2";
        Ok(tx.one(sql, vals![output, path], |row| row.opt_text(0))?.flatten())
    }
}

fn output_is_gone(output: &MemoryStoreId) -> Failure {
    let message = format!("memory store {output}, which the dream writes to, was archived or deleted");
    Failure::new("output_memory_store_unavailable", message)
}
