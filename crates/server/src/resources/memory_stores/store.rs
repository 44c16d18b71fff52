//! The rows of memory stores.

use rota_api::{
    Deleted,
    id::{Id, MemoryStoreId, WorkspaceId},
    memory::{MemoryStore, MemoryStoreFields, UpdateMemoryStore},
    webhook::EventType,
};

use super::purge;
use crate::{
    db::{Row, Table, Tx, vals},
    error::{Error, Result},
    resources::webhook_outbox,
};

pub(super) const STORES: Table<MemoryStore> = Table {
    name: "memory_stores",
    columns: "id, name, description, metadata, created_at, updated_at, archived_at",
    read: from_row,
    missing: not_found,
};

/// The error for a store that does not exist, or belongs to another workspace.
pub(super) fn not_found(id: &str) -> Error {
    Error::not_found("Memory store", id)
}

/// The error for a change of what is archived.
pub(super) fn archived(id: &str) -> Error {
    Error::invalid(format_args!("cannot modify archived resource: memory store {id}"))
}

/// The name and the description of a store that can be written to; `None` when there is none such.
pub fn named(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<(String, String)>> {
    let sql = "SELECT name, description FROM memory_stores WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL";
    tx.one(sql, vals![workspace, id], |row| Ok((row.text("name")?, row.text("description")?)))
}

/// A new store, for another resource that writes to it.
pub fn make(tx: &mut Tx<'_>, workspace: &WorkspaceId, fields: &MemoryStoreFields) -> Result<MemoryStoreId> {
    insert(tx, workspace, fields).map(|store| store.id)
}

pub(super) fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, fields: &MemoryStoreFields) -> Result<MemoryStore> {
    let now = tx.now();
    let id = MemoryStoreId::new(now);
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO memory_stores
             (id, workspace_id, name, description, metadata, memories, changes, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, 0, 0, $6, $6)",
        vals![&id, workspace, &fields.name, &fields.description, &serde_json::to_string(&fields.metadata)?, now],
    )?;
    webhook_outbox::emit(tx, workspace, [EventType::MemoryStoreCreated], &id)?;
    STORES.get(tx, workspace, id.as_ref())
}

pub(super) fn set(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    update: &UpdateMemoryStore,
) -> Result<MemoryStore> {
    STORES.lock(tx, workspace, id)?;
    let store = STORES.get(tx, workspace, id)?;
    if store.archived_at.is_some() {
        return Err(archived(id));
    }
    let before = serde_json::to_value(&store)?;
    let stored = MemoryStoreFields { name: store.name, description: store.description, metadata: store.metadata };
    let fields = update.merged(&stored)?;
    if fields != stored {
        tx.execute(
            "UPDATE memory_stores SET name = $3, description = $4, metadata = $5, updated_at = $6
             WHERE workspace_id = $1 AND id = $2",
            vals![
                workspace,
                id,
                &fields.name,
                &fields.description,
                &serde_json::to_string(&fields.metadata)?,
                tx.now()
            ],
        )?;
    }
    let store = STORES.get(tx, workspace, id)?;
    tx.audit_changed(&before, &store)?;
    Ok(store)
}

/// Archives it, unless it is archived already.
pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<MemoryStore> {
    if STORES.archive(tx, workspace, id)? {
        webhook_outbox::emit(tx, workspace, [EventType::MemoryStoreArchived], id)?;
    }
    STORES.get(tx, workspace, id)
}

/// Deletes it and what is in it. Its versions may be many: those that remain go with the sweep, and nobody reaches them.
pub(super) fn delete(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deleted> {
    STORES.delete(tx, workspace, id)?;
    tx.send("DELETE FROM memories WHERE store_id = $1", vals![id])?;
    purge::store_is_deleted(tx, id)?;
    webhook_outbox::emit(tx, workspace, [EventType::MemoryStoreDeleted], id)?;
    Ok(Deleted::new("memory_store_deleted", id))
}

fn from_row(row: &Row<'_>) -> Result<MemoryStore> {
    Ok(MemoryStore {
        id: row.id("id")?,
        r#type: "memory_store",
        name: row.text("name")?,
        description: row.text("description")?,
        metadata: row.json("metadata")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}
