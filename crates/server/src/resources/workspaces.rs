//! The organization, its workspaces and their API keys. The command line makes them; the server reads them.

use rota_api::{
    id::{ApiKeyId, Id, WorkspaceId},
    workspace::{ApiKey, MAX_NAME, Workspace},
};
use serde::Serialize;

use crate::{
    db::{Row, Tx, vals},
    error::{Error, Result},
    request::caller::{self, KEY_PREFIX},
};

/// The name of the workspace that a new server begins with.
pub const DEFAULT_WORKSPACE: &str = "Default";

/// A key that was just made. Nothing else ever shows the secret.
#[derive(Debug, Serialize)]
pub struct CreatedKey {
    /// The key's id.
    pub id: ApiKeyId,
    /// The secret.
    pub key: String,
    /// The workspace that it reaches.
    pub workspace_id: WorkspaceId,
}

/// The organization's id; made with the store.
pub fn organization(tx: &mut Tx<'_>) -> Result<String> {
    if let Some(id) = tx.one("SELECT id FROM organization", &[], |row| row.text(0))? {
        return Ok(id);
    }
    let id = uuid()?;
    tx.execute("INSERT INTO organization (id, name, created_at) VALUES ($1, $2, $3)", vals![&id, "Rota", tx.now()])?;
    Ok(id)
}

/// The default workspace and its first key, when there is no workspace yet.
pub fn first_key(tx: &mut Tx<'_>) -> Result<Option<CreatedKey>> {
    if tx.one("SELECT 1 FROM workspaces LIMIT 1", &[], |_| Ok(()))?.is_some() {
        return Ok(None);
    }
    create_key(tx, DEFAULT_WORKSPACE, "first key").map(Some)
}

/// A new key for the workspace `workspace`, which is made when there is none of the name.
///
/// # Errors
/// When a name is empty or longer than [`MAX_NAME`].
pub fn create_key(tx: &mut Tx<'_>, workspace: &str, name: &str) -> Result<CreatedKey> {
    for text in [workspace, name] {
        if !(1..=MAX_NAME).contains(&text.chars().count()) {
            return Err(Error::invalid(format_args!("a name has 1 to {MAX_NAME} characters: \"{text}\"")));
        }
    }
    let workspace_id = match named(tx, workspace)? {
        Some(workspace) => workspace.id,
        None => create(tx, workspace)?,
    };
    let key = format!("{KEY_PREFIX}{}", secret()?);
    let hint = format!("{}...{}", &key[..KEY_PREFIX.len() + 3], &key[key.len() - 4..]);
    let id = ApiKeyId::new(tx.now());
    tx.execute(
        "INSERT INTO api_keys (id, workspace_id, name, key_hash, partial_key_hint, status, created_at)
         VALUES ($1, $2, $3, $4, $5, 'active', $6)",
        vals![&id, &workspace_id, name, &caller::hash(&key), &hint, tx.now()],
    )?;
    Ok(CreatedKey { id, key, workspace_id })
}

fn create(tx: &mut Tx<'_>, name: &str) -> Result<WorkspaceId> {
    let id = WorkspaceId::new(tx.now());
    tx.execute(
        "INSERT INTO workspaces (id, name, compartment_id, display_color, data_residency, tags, created_at)
         VALUES ($1, $2, $3, $4, $5, '{}', $6)",
        vals![&id, name, &uuid()?, DISPLAY_COLOR, DATA_RESIDENCY, tx.now()],
    )?;
    Ok(id)
}

/// Colour of a workspace that nobody gave one.
const DISPLAY_COLOR: &str = "#6C5BB9";
/// Where a workspace's data and inference are, in the API's terms: this server, unrestricted.
const DATA_RESIDENCY: &str =
    r#"{"allowed_inference_geos":"unrestricted","default_inference_geo":"global","workspace_geo":"us"}"#;

fn named(tx: &mut Tx<'_>, name: &str) -> Result<Option<Workspace>> {
    tx.one(
        "SELECT id, name, created_at, archived_at FROM workspaces WHERE name = $1 AND archived_at IS NULL",
        vals![name],
        |row| {
            Ok(Workspace {
                id: row.id(0)?,
                name: row.text(1)?,
                created_at: row.time(2)?,
                archived_at: row.opt_time(3)?,
            })
        },
    )
}

/// Every key, oldest first.
pub fn keys(tx: &mut Tx<'_>) -> Result<Vec<ApiKey>> {
    tx.all(
        "SELECT id, name, workspace_id, partial_key_hint, status, created_at FROM api_keys
         WHERE workspace_id IS NOT NULL ORDER BY id",
        &[],
        key_from_row,
    )
}

/// Ends a key for good.
///
/// # Errors
/// 404 when there is none with this id.
pub fn revoke_key(tx: &mut Tx<'_>, id: &str) -> Result<ApiKey> {
    tx.one(
        "UPDATE api_keys SET status = 'archived' WHERE id = $1
         RETURNING id, name, workspace_id, partial_key_hint, status, created_at",
        vals![id],
        key_from_row,
    )?
    .ok_or_else(|| Error::not_found("API key", id))
}

fn key_from_row(row: &Row<'_>) -> Result<ApiKey> {
    Ok(ApiKey {
        id: row.id(0)?,
        name: row.text(1)?,
        workspace_id: row.id(2)?,
        partial_key_hint: row.text(3)?,
        status: row.text(4)?,
        created_at: row.time(5)?,
    })
}

fn secret() -> Result<String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(Error::internal)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A random UUID (version 4).
fn uuid() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::internal)?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}
