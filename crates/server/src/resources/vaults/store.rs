//! The rows of vaults, and which of them sessions can use.

use rota_api::{
    Deleted,
    id::{Id, VaultId, WorkspaceId},
    vault::{UpdateVault, Vault, VaultFields},
    webhook::EventType,
};

use crate::{
    db::{Question, Row, Table, Tx, Val, vals},
    error::{Error, Result},
    resources::{credentials, webhook_outbox},
};

pub(super) const VAULTS: Table<Vault> = Table {
    name: "vaults",
    columns: "id, display_name, metadata, created_at, updated_at, archived_at",
    read: from_row,
    missing: |_| credentials::no_vault(),
};

fn from_row(row: &Row<'_>) -> Result<Vault> {
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

pub(super) fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, new: &VaultFields) -> Result<Vault> {
    let id = VaultId::new(tx.now());
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO vaults (id, workspace_id, display_name, metadata, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5)",
        vals![&id, workspace, &new.display_name, &serde_json::to_string(&new.metadata)?, tx.now()],
    )?;
    webhook_outbox::emit(tx, workspace, [EventType::VaultCreated], &id)?;
    VAULTS.get(tx, workspace, id.as_ref())
}

pub(super) fn set(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdateVault) -> Result<Vault> {
    VAULTS.lock(tx, workspace, id)?;
    let stored = VAULTS.get(tx, workspace, id)?;
    if stored.archived_at.is_some() {
        return Err(credentials::vault_archived());
    }
    let before = serde_json::to_value(&stored)?;
    let stored = VaultFields { display_name: stored.display_name, metadata: stored.metadata };
    let VaultFields { display_name, metadata } = update.merged(&stored)?;
    tx.execute(
        "UPDATE vaults SET display_name = $3, metadata = $4, updated_at = $5 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, &display_name, &serde_json::to_string(&metadata)?, tx.now()],
    )?;
    let vault = VAULTS.get(tx, workspace, id)?;
    tx.audit_changed(&before, &vault)?;
    Ok(vault)
}

pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Vault> {
    VAULTS.lock(tx, workspace, id)?;
    if VAULTS.archive(tx, workspace, id)? {
        credentials::archive_all_of(tx, workspace, id)?;
        webhook_outbox::emit(tx, workspace, [EventType::VaultArchived], id)?;
    }
    VAULTS.get(tx, workspace, id)
}

pub(super) fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deleted> {
    VAULTS.lock(tx, workspace, id)?;
    VAULTS.delete(tx, workspace, id)?;
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

/// Asks for the vaults `ids`, as [`unusable`] tells them.
pub fn ask(tx: &mut Tx<'_>, workspace: &WorkspaceId, ids: &[String]) -> Result<Question> {
    let places: Vec<String> = (2..ids.len() + 2).map(|place| format!("${place}")).collect();
    let sql = format!("SELECT id, archived_at FROM vaults WHERE workspace_id = $1 AND id IN ({})", places.join(", "));
    let mut params = vec![Val::from(workspace)];
    params.extend(ids.iter().map(Val::from));
    tx.ask(&sql, &params)
}

/// The first of `ids` that no session can use; `None` when all can be used. `asked` is what [`ask`] asked.
pub fn unusable(tx: &mut Tx<'_>, ids: &[String], asked: Question) -> Result<Option<Unusable>> {
    let found: Vec<(String, bool)> = tx.answer(asked, |row| Ok((row.text(0)?, row.opt_time(1)?.is_some())))?;
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
    if ids.is_empty() {
        return Ok(());
    }
    let asked = ask(tx, workspace, ids)?;
    match unusable(tx, ids, asked)? {
        None => Ok(()),
        Some(Unusable::Missing(_)) => Err(Error::reference("vault")),
        Some(Unusable::Archived(_)) => Err(credentials::vault_archived()),
    }
}
