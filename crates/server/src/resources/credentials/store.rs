//! The rows of credentials.

use rota_api::{
    Deleted, Time,
    audit::ActorType,
    credential::{Auth, CreateCredential, Credential, Secrets, UpdateCredential},
    id::{CredentialId, Id, VaultId, WorkspaceId},
    vault::MAX_CREDENTIALS,
    webhook::EventType,
};

use crate::{
    db::{Also, Row, Tx, vals},
    error::{Error, Result},
    resources::webhook_outbox::Outbox,
    vault::{DataKey, oauth, sealed},
};

pub(super) const SELECT: &str = "SELECT id, vault_id, display_name, auth, metadata, created_at, updated_at, archived_at
    FROM credentials WHERE workspace_id = $1";

pub(super) fn from_row(row: &Row<'_>) -> Result<Credential> {
    Ok(Credential {
        id: row.id("id")?,
        r#type: "vault_credential",
        vault_id: row.id("vault_id")?,
        display_name: row.opt_text("display_name")?,
        auth: row.json("auth")?,
        metadata: row.json("metadata")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}

/// The error for a vault that does not exist, or belongs to another workspace.
pub fn no_vault() -> Error {
    Error::NotFound("Vault not found.".to_owned())
}

/// The error for a vault that is archived.
pub fn vault_archived() -> Error {
    Error::invalid("Vault is archived.")
}

pub(super) fn missing() -> Error {
    Error::NotFound("Credential not found.".to_owned())
}

/// When a vault was archived.
///
/// # Errors
/// 404 when there is none.
pub(super) fn vault(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<(VaultId, Option<Time>)> {
    let sql = "SELECT id, archived_at FROM vaults WHERE workspace_id = $1 AND id = $2";
    tx.one_or(sql, vals![workspace, id], |row| Ok((row.id(0)?, row.opt_time(1)?)), no_vault)
}

pub(super) fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    vault_id: &str,
    new: &CreateCredential,
    match_key: &str,
    key: &DataKey,
) -> Result<Credential> {
    tx.lock("vaults WHERE workspace_id = $1 AND id = $2", vals![workspace, vault_id])?;
    let (vault_id, archived_at) = vault(tx, workspace, vault_id)?;
    if archived_at.is_some() {
        return Err(vault_archived());
    }
    check_expiry(expiry(&new.auth), tx.now())?;
    let taken = taken(&new.auth);
    let sql = "SELECT count(*) FROM credentials WHERE workspace_id = $1 AND vault_id = $2 AND archived_at IS NULL";
    let count = tx.one(sql, vals![workspace, &vault_id], |row| row.int(0))?.unwrap_or(0);
    if count >= MAX_CREDENTIALS as i64 {
        return Err(Error::invalid(format_args!(
            "the vault has {MAX_CREDENTIALS} credentials, which is the most; archive or delete one first"
        )));
    }
    let now = tx.now();
    let id = CredentialId::new(now);
    tx.audit_made(&id);
    tx.execute_unless_taken(
        "INSERT INTO credentials (id, workspace_id, vault_id, display_name, auth, match_key, secrets, metadata, refresh_at,
             claims, failures, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, $10, $10)",
        vals![
            &id,
            workspace,
            &vault_id,
            new.display_name.as_deref(),
            &serde_json::to_string(&new.auth)?,
            match_key,
            &sealed::seal(key, id.as_ref(), &new.secrets)?,
            &serde_json::to_string(&new.metadata)?,
            refresh_at(&new.auth, now),
            now
        ],
        || Error::Conflict(taken.to_owned()),
    )?;
    tell(tx, workspace, &vault_id, EventType::VaultCredentialCreated, [&id])?;
    get(tx, workspace, vault_id.as_ref(), id.as_ref())
}

/// What is said when another credential of the vault is found by the same.
fn taken(auth: &Auth) -> &'static str {
    match auth {
        Auth::McpOauth(_) | Auth::StaticBearer(_) => "A credential already exists for this MCP server URL.",
        Auth::EnvironmentVariable(_) => "A credential already exists for this secret name.",
    }
}

fn expiry(auth: &Auth) -> Option<Time> {
    if let Auth::McpOauth(oauth) = auth { oauth.expires_at } else { None }
}

fn check_expiry(expires_at: Option<Time>, now: Time) -> Result<()> {
    match expires_at {
        Some(at) if at <= now => Err(Error::invalid("auth.expires_at must be in the future.")),
        _ => Ok(()),
    }
}

/// When the token is renewed, if it is and its expiry is known.
pub(super) fn refresh_at(auth: &Auth, now: Time) -> Option<Time> {
    match auth {
        Auth::McpOauth(oauth) if oauth.refresh.is_some() => oauth.expires_at.map(|at| oauth::due(now, at)),
        _ => None,
    }
}

/// The credential `id` of a vault.
///
/// # Errors
/// 404 when there is none.
pub(super) fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, vault: &str, id: &str) -> Result<Credential> {
    let sql = format!("{SELECT} AND vault_id = $2 AND id = $3");
    tx.one_or(&sql, vals![workspace, vault, id], from_row, missing)
}

pub(super) fn lock(tx: &mut Tx<'_>, workspace: &WorkspaceId, vault: &str, id: &str) -> Result<()> {
    tx.lock("credentials WHERE workspace_id = $1 AND vault_id = $2 AND id = $3", vals![workspace, vault, id])
}

/// The secrets of a credential that is not archived.
pub(super) fn secrets(tx: &mut Tx<'_>, id: &CredentialId, key: &DataKey) -> Result<Secrets> {
    let sql = "SELECT secrets FROM credentials WHERE id = $1";
    let sealed = tx.one(sql, vals![id], |row| row.opt_text(0))?.flatten();
    let sealed = sealed.ok_or_else(|| Error::internal(format!("credential {id} has no secrets")))?;
    sealed::open(key, id.as_ref(), &sealed)
}

pub(super) fn set(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    vault_id: &str,
    id: &str,
    update: &UpdateCredential,
    key: &DataKey,
) -> Result<Credential> {
    lock(tx, workspace, vault_id, id)?;
    let stored = get(tx, workspace, vault_id, id)?;
    check_open(tx, workspace, &stored)?;
    let now = tx.now();
    let metadata = serde_json::to_string(&update.metadata.over(&stored.metadata)?)?;
    let display_name = update.display_name.as_deref().or(stored.display_name.as_deref());
    tx.execute(
        "UPDATE credentials SET display_name = $4, metadata = $5, updated_at = $6
         WHERE workspace_id = $1 AND vault_id = $2 AND id = $3",
        vals![workspace, vault_id, id, display_name, &metadata, now],
    )?;
    if let Some(change) = &update.auth {
        let auth = change.over(&stored.auth)?;
        check_expiry(change.expires_at(), now)?;
        let secrets = change.secrets().clone().over(secrets(tx, &stored.id, key)?);
        write_auth(tx, &stored.id, &auth, &secrets, key)?;
    }
    get(tx, workspace, vault_id, id)
}

/// Writes what a credential is used for and its secrets. What failed with the earlier ones is forgotten.
pub(super) fn write_auth(
    tx: &mut Tx<'_>,
    id: &CredentialId,
    auth: &Auth,
    secrets: &Secrets,
    key: &DataKey,
) -> Result<()> {
    tx.execute(
        "UPDATE credentials SET auth = $2, secrets = $3, refresh_at = $4, failures = 0, updated_at = $5 WHERE id = $1",
        vals![
            id,
            &serde_json::to_string(auth)?,
            &sealed::seal(key, id.as_ref(), secrets)?,
            refresh_at(auth, tx.now()),
            tx.now()
        ],
    )?;
    Ok(())
}

/// That a credential can be changed and used.
pub(super) fn check_open(tx: &mut Tx<'_>, workspace: &WorkspaceId, credential: &Credential) -> Result<()> {
    if vault(tx, workspace, credential.vault_id.as_ref())?.1.is_some() {
        return Err(vault_archived());
    }
    if credential.archived_at.is_some() {
        return Err(Error::invalid("Credential is archived."));
    }
    Ok(())
}

/// What becomes of a credential that is archived.
const ARCHIVED: &str = "archived_at = $3, updated_at = $3, secrets = NULL, refresh_at = NULL, claimed_until = NULL";

pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, vault_id: &str, id: &str) -> Result<Credential> {
    let sql = format!(
        "UPDATE credentials SET {ARCHIVED} WHERE workspace_id = $1 AND vault_id = $2 AND id = $4 AND archived_at IS NULL"
    );
    if tx.changes(&sql, vals![workspace, vault_id, tx.now(), id])? {
        let (vault_id, id) = (VaultId::trusted(vault_id.to_owned()), CredentialId::trusted(id.to_owned()));
        tell(tx, workspace, &vault_id, EventType::VaultCredentialArchived, [&id])?;
    }
    get(tx, workspace, vault_id, id)
}

/// Archives every credential of a vault with it, and purges their secrets.
pub fn archive_all_of(tx: &mut Tx<'_>, workspace: &WorkspaceId, vault_id: &str) -> Result<()> {
    let sql = format!(
        "UPDATE credentials SET {ARCHIVED} WHERE workspace_id = $1 AND vault_id = $2 AND archived_at IS NULL RETURNING id"
    );
    let archived: Vec<CredentialId> = tx.all(&sql, vals![workspace, vault_id, tx.now()], |row| row.id(0))?;
    for id in &archived {
        audit(tx, workspace, id, "vaults.credentials.archive");
    }
    let vault_id = VaultId::trusted(vault_id.to_owned());
    tell(tx, workspace, &vault_id, EventType::VaultCredentialArchived, &archived)
}

pub(super) fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, vault_id: &str, id: &str) -> Result<Deleted> {
    let sql = "DELETE FROM credentials WHERE workspace_id = $1 AND vault_id = $2 AND id = $3";
    if !tx.changes(sql, vals![workspace, vault_id, id])? {
        return Err(missing());
    }
    let (vault_id, credential) = (VaultId::trusted(vault_id.to_owned()), CredentialId::trusted(id.to_owned()));
    tell(tx, workspace, &vault_id, EventType::VaultCredentialDeleted, [&credential])?;
    Ok(Deleted::new("vault_credential_deleted", id))
}

/// Deletes every credential of a vault with it. Of those that were archived, whose secrets were gone, nobody is told.
pub fn remove_all_of(tx: &mut Tx<'_>, workspace: &WorkspaceId, vault_id: &str) -> Result<()> {
    let sql = "DELETE FROM credentials WHERE workspace_id = $1 AND vault_id = $2 RETURNING id, archived_at";
    let removed: Vec<(CredentialId, bool)> =
        tx.all(sql, vals![workspace, vault_id], |row| Ok((row.id(0)?, row.opt_time(1)?.is_some())))?;
    for (id, _) in &removed {
        audit(tx, workspace, id, "vaults.credentials.delete");
    }
    let vault_id = VaultId::trusted(vault_id.to_owned());
    let open = removed.iter().filter(|(_, was_archived)| !was_archived).map(|(id, _)| id);
    tell(tx, workspace, &vault_id, EventType::VaultCredentialDeleted, open)
}

/// Leaves a row in the audit list for what happens to a credential with its vault.
fn audit(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &CredentialId, operation: &'static str) {
    let (resource, workspace) = ("credential", Some(workspace));
    tx.audit_also(&Also { by: ActorType::Cascade, operation, resource, id: id.as_ref(), workspace });
}

/// Tells the endpoints of a workspace that something has happened to credentials of a vault.
pub(super) fn tell<'a>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    vault: &VaultId,
    r#type: EventType,
    credentials: impl IntoIterator<Item = &'a CredentialId>,
) -> Result<()> {
    let mut outbox = Outbox::default();
    credentials.into_iter().try_for_each(|id| outbox.emit_in_vault(tx, workspace, r#type, id, vault))
}
