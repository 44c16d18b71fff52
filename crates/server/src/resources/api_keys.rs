//! API keys. The command line makes them; administrator's keys rename them and switch them off.

use axum::extract::State;
use rota_api::{
    Time,
    api_key::{ApiKey, KeyScope, KeyStatus, MAX_NAME, UpdateApiKey},
    audit::ActorType,
    id::{ApiKeyId, Id, WorkspaceId},
};
use serde::Serialize;

use super::workspaces;
use crate::{
    app::App,
    db::{Also, Row, Select, Tx, vals},
    error::{Error, Result},
    page::{IdPage, Order},
    random,
    request::{
        Administrator, Body, Json, List, Path, Query,
        caller::{self, ADMIN_KEY_PREFIX, KEY_PREFIX},
    },
};

/// `GET /v1/organizations/api_keys/{api_key_id}`.
pub async fn retrieve(State(app): State<App>, _: Administrator, Path(id): Path<String>) -> Result<Json<ApiKey>> {
    app.db.read(move |tx| get(tx, &id)).await.map(Json)
}

/// `POST /v1/organizations/api_keys/{api_key_id}`.
pub async fn update(
    State(app): State<App>,
    _: Administrator,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<ApiKey>> {
    let update = body.read(UpdateApiKey::read)?;
    let key = app.db.write(move |tx| set(tx, &id, &update)).await?;
    tracing::info!(changed_key_id = %key.id, status = key.status.as_str(), "an API key was changed");
    Ok(Json(key))
}

/// `GET /v1/organizations/api_keys`.
pub async fn list(State(app): State<App>, _: Administrator, query: Query) -> Result<Json<IdPage<ApiKey>>> {
    let status = query.one_of("status", KeyStatus::NAMES)?;
    let mut select = Select::everywhere(SELECT);
    select.text("created_by =", query.text("created_by_user_id"));
    select.text("workspace_id =", query.text("workspace_id"));
    let paging = query.id_paging::<ApiKeyId>(20, 1000, Order::Desc)?;
    let now = app.clock.now();
    match status {
        Some("expired") => {
            select.when(true, "status <> 'archived'");
            select.int("expires_at <=", Some(now.micros()));
        }
        Some("archived") => select.when(true, "status = 'archived'"),
        Some(status) => {
            select.text("status =", Some(status));
            select.int(&format!("coalesce(expires_at, {}) >", i64::MAX), Some(now.micros()));
        }
        None => {}
    }
    let list = List { select, key: "id", paging };
    list.by_ids(&app.db, move |row| from_row(row, now), |key| key.id.to_string()).await
}

/// A key of a workspace that was just made. Nothing else ever shows the secret.
#[derive(Debug, Serialize)]
pub struct CreatedKey {
    /// The key's id.
    pub id: ApiKeyId,
    /// The secret.
    pub key: String,
    /// The workspace that it reaches.
    pub workspace_id: WorkspaceId,
}

/// An administrator's key that was just made. Nothing else ever shows the secret.
#[derive(Debug, Serialize)]
pub struct CreatedAdminKey {
    /// The key's id.
    pub id: ApiKeyId,
    /// The secret.
    pub key: String,
}

/// The default workspace and its first key, when there is no key of a workspace yet.
pub fn first_key(tx: &mut Tx<'_>) -> Result<Option<CreatedKey>> {
    if workspaces::exist(tx)? {
        return Ok(None);
    }
    let key = create_key(tx, None, "first key", None)?;
    tx.audit_also(&Also {
        by: ActorType::Server,
        operation: "api_keys.create",
        resource: "api_key",
        id: key.id.as_ref(),
        workspace: Some(&key.workspace_id),
    });
    Ok(Some(key))
}

/// A new key for the workspace `workspace`, which is made when there is none of the name; without a name, for the
/// default workspace. It ends at `expires_at`.
///
/// # Errors
/// When a name is empty or longer than [`MAX_NAME`].
pub fn create_key(
    tx: &mut Tx<'_>,
    workspace: Option<&str>,
    name: &str,
    expires_at: Option<Time>,
) -> Result<CreatedKey> {
    check_name(workspace.unwrap_or(name))?;
    let workspace_id = workspaces::named_or_new(tx, workspace)?;
    let (id, key) = insert(tx, Some(&workspace_id), name, expires_at)?;
    Ok(CreatedKey { id, key, workspace_id })
}

/// A new administrator's key. It ends at `expires_at`.
///
/// # Errors
/// When the name is empty or longer than [`MAX_NAME`].
pub fn create_admin_key(tx: &mut Tx<'_>, name: &str, expires_at: Option<Time>) -> Result<CreatedAdminKey> {
    let (id, key) = insert(tx, None, name, expires_at)?;
    Ok(CreatedAdminKey { id, key })
}

fn insert(
    tx: &mut Tx<'_>,
    workspace: Option<&WorkspaceId>,
    name: &str,
    expires_at: Option<Time>,
) -> Result<(ApiKeyId, String)> {
    check_name(name)?;
    let prefix = if workspace.is_some() { KEY_PREFIX } else { ADMIN_KEY_PREFIX };
    let key = format!("{prefix}{}", random::secret()?);
    let hint = format!("{}...{}", &key[..prefix.len() + 3], &key[key.len() - 4..]);
    let id = ApiKeyId::new(tx.now());
    tx.audit_made(&id);
    if let Some(workspace) = workspace {
        tx.audit_in(workspace);
    }
    tx.execute(
        "INSERT INTO api_keys (id, workspace_id, name, key_hash, partial_key_hint, status, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, 'active', $6, $7)",
        vals![&id, workspace, name, &caller::hash(&key), &hint, tx.now(), expires_at],
    )?;
    Ok((id, key))
}

fn check_name(name: &str) -> Result<()> {
    if (1..=MAX_NAME).contains(&name.chars().count()) {
        return Ok(());
    }
    Err(Error::invalid(format_args!("a name has 1 to {MAX_NAME} characters: \"{name}\"")))
}

/// Every key, oldest first.
pub fn all(tx: &mut Tx<'_>) -> Result<Vec<ApiKey>> {
    let now = tx.now();
    tx.all(&format!("{SELECT} ORDER BY id"), &[], |row| from_row(row, now))
}

/// The key `id`.
///
/// # Errors
/// 404 when there is none.
pub fn get(tx: &mut Tx<'_>, id: &str) -> Result<ApiKey> {
    let now = tx.now();
    let missing = || Error::not_found("API key", id);
    tx.one_or(&format!("{SELECT} AND id = $1"), vals![id], |row| from_row(row, now), missing)
}

fn set(tx: &mut Tx<'_>, id: &str, update: &UpdateApiKey) -> Result<ApiKey> {
    tx.lock("api_keys WHERE id = $1", vals![id])?;
    let stored = get(tx, id)?;
    match (stored.status, update.status) {
        (KeyStatus::Archived, _) => {
            return Err(Error::invalid(format_args!("API key `{id}` is archived and cannot be changed.")));
        }
        (KeyStatus::Expired, Some(KeyStatus::Active)) => {
            return Err(Error::invalid(format_args!("status: API key `{id}` has expired and cannot be active again")));
        }
        _ => {}
    }
    tx.execute(
        "UPDATE api_keys SET name = $2, status = coalesce($3, status) WHERE id = $1",
        vals![id, update.name.as_ref().unwrap_or(&stored.name), update.status.map(KeyStatus::as_str)],
    )?;
    let key = get(tx, id)?;
    audit_in_its_workspace(tx, &key);
    tx.audit_changed(&stored, &key)?;
    Ok(key)
}

/// A key is in the audit list of the workspace that it reaches.
fn audit_in_its_workspace(tx: &mut Tx<'_>, key: &ApiKey) {
    if let KeyScope::Workspace { workspace_id } = &key.scope {
        tx.audit_in(workspace_id);
    }
}

/// Ends a key for good.
///
/// # Errors
/// 404 when there is none with this id.
pub fn revoke(tx: &mut Tx<'_>, id: &str) -> Result<ApiKey> {
    tx.execute("UPDATE api_keys SET status = 'archived' WHERE id = $1 AND status <> 'archived'", vals![id])?;
    let key = get(tx, id)?;
    tx.audit_made(id);
    audit_in_its_workspace(tx, &key);
    Ok(key)
}

/// Ends every key of a workspace that is being archived.
pub fn archive_all_of(tx: &mut Tx<'_>, workspace: &WorkspaceId) -> Result<()> {
    let sql = "UPDATE api_keys SET status = 'archived' WHERE workspace_id = $1 AND status <> 'archived' RETURNING id";
    for id in tx.all(sql, vals![workspace], |row| row.text(0))? {
        let workspace = Some(workspace);
        tx.audit_also(&Also {
            by: ActorType::Cascade,
            operation: "api_keys.archive",
            resource: "api_key",
            id: &id,
            workspace,
        });
    }
    Ok(())
}

const SELECT: &str =
    "SELECT id, name, workspace_id, partial_key_hint, status, created_at, expires_at FROM api_keys WHERE TRUE";

fn from_row(row: &Row<'_>, now: Time) -> Result<ApiKey> {
    let stored = row.name("status", KeyStatus::from_name)?;
    let expires_at = row.opt_time("expires_at")?;
    let expired = expires_at.is_some_and(|at| at <= now);
    Ok(ApiKey {
        id: row.id("id")?,
        r#type: "api_key",
        name: row.text("name")?,
        scope: match row.opt_id("workspace_id")? {
            Some(workspace_id) => KeyScope::Workspace { workspace_id },
            None => KeyScope::Organization,
        },
        partial_key_hint: row.text("partial_key_hint")?,
        status: if expired && stored != KeyStatus::Archived { KeyStatus::Expired } else { stored },
        created_by: None,
        principal: None,
        created_at: row.time("created_at")?,
        expires_at,
    })
}
