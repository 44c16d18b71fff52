//! The rows of dreams.

use rota_api::{
    agent::Speed,
    dream::{
        CreateDream, Dream, DreamError, DreamModel, DreamStatus, DreamUsage, MemoryStoreRef, OutputBehavior,
        SessionsInput,
    },
    id::{DreamId, Id, MemoryStoreId, WorkspaceId},
};

use crate::{
    db::{Row, Table, Tx, vals},
    error::{Error, Result},
    limits::MAX_OPEN_DREAMS,
    request::Caller,
    resources::memory_stores::write::Writing,
};

pub(super) const DREAMS: Table<Dream> = Table {
    name: "dreams",
    columns: "id, status, model, store_id, session_ids, instructions, updates, output_store_id, error_type, error_message, \
        input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, created_at, ended_at, archived_at",
    read: from_row,
    missing: |id| Error::not_found("Dream", id),
};

pub(super) fn insert(tx: &mut Tx<'_>, caller: &Caller, dream: &CreateDream) -> Result<Dream> {
    let workspace = &caller.workspace;
    // The store stays as it is until the dream is there: nobody archives it in between.
    let store = Writing::find(tx, workspace, &dream.store)?.ok_or_else(|| Error::reference("memory store"))?;
    if store.archived {
        return Err(Error::invalid(format_args!(
            "inputs: memory store {} is archived: name one that is not",
            dream.store
        )));
    }
    for session in &dream.sessions {
        let sql = "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2";
        tx.one_or(sql, vals![workspace, session], |_| Ok(()), || Error::reference("session"))?;
    }
    let sql = "SELECT count(*) FROM dreams WHERE workspace_id = $1 AND due_at IS NOT NULL";
    if tx.one(sql, vals![workspace], |row| row.int(0))?.unwrap_or(0) >= MAX_OPEN_DREAMS {
        return Err(Error::invalid(format_args!(
            "the workspace has {MAX_OPEN_DREAMS} dreams that are pending or running, which is the most; wait for one, or cancel \
             one"
        )));
    }
    let now = tx.now();
    let id = DreamId::new(now);
    tx.audit_made(&id);
    tx.execute_unless_taken(
        "INSERT INTO dreams (id, workspace_id, api_key_id, status, model, store_id, session_ids, instructions, updates,
            place, after_seq, part, copied, is_copied, failures, epoch, due_at, input_tokens, output_tokens,
            cache_read_tokens, cache_creation_tokens, created_at)
         VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, 0, 0, 1, '', $8, 0, 0, $9, 0, 0, 0, 0, $9)",
        vals![
            &id,
            workspace,
            &caller.key,
            &dream.model,
            &dream.store,
            &serde_json::to_string(&dream.sessions)?,
            dream.instructions.as_deref(),
            i64::from(dream.updates),
            now
        ],
        || {
            Error::Held(format!(
                "memory store {} is being updated by another dream: wait until it has ended, or cancel it",
                dream.store
            ))
        },
    )?;
    DREAMS.get(tx, workspace, id.as_ref())
}

pub(super) fn cancel(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Dream> {
    let canceled = tx.changes(
        "UPDATE dreams SET status = 'canceled', due_at = NULL, owner = NULL, ended_at = $3
         WHERE workspace_id = $1 AND id = $2 AND due_at IS NOT NULL",
        vals![workspace, id, tx.now()],
    )?;
    let dream = DREAMS.get(tx, workspace, id)?;
    if canceled || dream.status == DreamStatus::Canceled {
        return Ok(dream);
    }
    let status = dream.status.as_str();
    Err(Error::invalid(format_args!("Dream `{id}` is {status}: only one that is pending or running can be canceled")))
}

pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Dream> {
    let archives = tx.changes(
        "UPDATE dreams SET archived_at = $3
         WHERE workspace_id = $1 AND id = $2 AND due_at IS NULL AND archived_at IS NULL",
        vals![workspace, id, tx.now()],
    )?;
    let dream = DREAMS.get(tx, workspace, id)?;
    if archives || dream.archived_at.is_some() {
        return Ok(dream);
    }
    let status = dream.status.as_str();
    Err(Error::invalid(format_args!("Dream `{id}` is {status}: cancel it before it is archived")))
}

fn from_row(row: &Row<'_>) -> Result<Dream> {
    let store: MemoryStoreId = row.id("store_id")?;
    let updates = row.int("updates")? != 0;
    let error = row.opt_text("error_type")?.zip(row.opt_text("error_message")?);
    let output = row.opt_id("output_store_id")?.map(MemoryStoreRef::new);
    Ok(Dream {
        id: row.id("id")?,
        r#type: "dream",
        status: row.name("status", DreamStatus::from_name)?,
        model: DreamModel { id: row.text("model")?, speed: Speed::Standard },
        inputs: (
            MemoryStoreRef::new(store.clone()),
            SessionsInput { r#type: "sessions", session_ids: row.json("session_ids")? },
        ),
        instructions: row.opt_text("instructions")?,
        output_behavior: if updates {
            OutputBehavior::UpdateExisting { memory_store_id: store }
        } else {
            OutputBehavior::CreateNew
        },
        outputs: output.into_iter().collect(),
        session_id: None,
        error: error.map(|(r#type, message)| DreamError { r#type, message }),
        usage: DreamUsage {
            input_tokens: row.int("input_tokens")?,
            output_tokens: row.int("output_tokens")?,
            cache_read_input_tokens: row.int("cache_read_tokens")?,
            cache_creation_input_tokens: row.int("cache_creation_tokens")?,
        },
        created_at: row.time("created_at")?,
        ended_at: row.opt_time("ended_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}
