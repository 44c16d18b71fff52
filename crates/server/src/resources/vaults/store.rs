//! The rows of vaults, and which of them sessions can use.

use rota_api::{
    Deleted,
    id::{Id, VaultId, WorkspaceId},
    vault::{CreateVault, UpdateVault, Vault},
    webhook::EventType,
};

use crate::{
    db::{Row, Tx, Val, vals},
    error::{Error, Result},
    resources::{credentials, webhook_outbox},
};

pub(super) const SELECT: &str = "SELECT id, display_name, metadata, created_at, updated_at, archived_at
    FROM vaults WHERE workspace_id = $1";

pub(super) fn from_row(row: &Row<'_>) -> Result<Vault> {
    Ok(Vault {
        id: row.id("id")?,
        r#type: "vault",
        display_name: row.text("display_name")?,
        metadata: row.json("metadata")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}

pub(super) fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, new: &CreateVault) -> Result<Vault> {
    let id = VaultId::new(tx.now());
    tx.execute(
        "INSERT INTO vaults (id, workspace_id, display_name, metadata, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5)",
        vals![&id, workspace, &new.display_name, &serde_json::to_string(&new.metadata)?, tx.now()],
    )?;
    webhook_outbox::emit(tx, workspace, [EventType::VaultCreated], &id)?;
    get(tx, workspace, id.as_ref())
}

/// The vault `id` of a workspace.
///
/// # Errors
/// 404 when there is none.
pub(super) fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Vault> {
    tx.one_or(&format!("{SELECT} AND id = $2"), vals![workspace, id], from_row, credentials::no_vault)
}

pub(super) fn set(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdateVault) -> Result<Vault> {
    lock(tx, workspace, id)?;
    let stored = get(tx, workspace, id)?;
    if stored.archived_at.is_some() {
        return Err(credentials::vault_archived());
    }
    let metadata = update.metadata.over(&stored.metadata)?;
    let display_name = update.display_name.as_ref().unwrap_or(&stored.display_name);
    tx.execute(
        "UPDATE vaults SET display_name = $3, metadata = $4, updated_at = $5 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, display_name, &serde_json::to_string(&metadata)?, tx.now()],
    )?;
    get(tx, workspace, id)
}

fn lock(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    tx.lock("vaults WHERE workspace_id = $1 AND id = $2", vals![workspace, id])
}

pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Vault> {
    lock(tx, workspace, id)?;
    let archives = tx.changes(
        "UPDATE vaults SET archived_at = $3, updated_at = $3
         WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL",
        vals![workspace, id, tx.now()],
    )?;
    if archives {
        credentials::archive_all_of(tx, workspace, id)?;
        webhook_outbox::emit(tx, workspace, [EventType::VaultArchived], id)?;
    }
    get(tx, workspace, id)
}

pub(super) fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deleted> {
    lock(tx, workspace, id)?;
    if !tx.changes("DELETE FROM vaults WHERE workspace_id = $1 AND id = $2", vals![workspace, id])? {
        return Err(credentials::no_vault());
    }
    credentials::remove_all_of(tx, workspace, id)?;
    webhook_outbox::emit(tx, workspace, [EventType::VaultDeleted], id)?;
    Ok(Deleted::new("vault_deleted", id))
}

/// Why a vault cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It does not exist, or belongs to another workspace.
    Missing(String),
    /// It is archived.
    Archived(String),
}

/// The first of `ids` that no session can use; `None` when all can be used.
pub fn unusable(tx: &mut Tx<'_>, workspace: &WorkspaceId, ids: &[String]) -> Result<Option<Unusable>> {
    if ids.is_empty() {
        return Ok(None);
    }
    let places: Vec<String> = (2..ids.len() + 2).map(|place| format!("${place}")).collect();
    let sql = format!("SELECT id, archived_at FROM vaults WHERE workspace_id = $1 AND id IN ({})", places.join(", "));
    let mut params = vec![Val::from(workspace)];
    params.extend(ids.iter().map(Val::from));
    let found: Vec<(String, bool)> = tx.all(&sql, &params, |row| Ok((row.text(0)?, row.opt_time(1)?.is_some())))?;
    Ok(ids.iter().find_map(|id| match found.iter().find(|(known, _)| known == id) {
        None => Some(Unusable::Missing(id.clone())),
        Some((_, true)) => Some(Unusable::Archived(id.clone())),
        Some((_, false)) => None,
    }))
}

/// That a body names vaults which sessions can use.
///
/// # Errors
/// 404 when there is no such vault, 400 when it is archived.
pub fn check_references(tx: &mut Tx<'_>, workspace: &WorkspaceId, ids: &[String]) -> Result<()> {
    match unusable(tx, workspace, ids)? {
        None => Ok(()),
        Some(Unusable::Missing(_)) => Err(Error::reference("vault")),
        Some(Unusable::Archived(_)) => Err(credentials::vault_archived()),
    }
}
