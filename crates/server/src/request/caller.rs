//! Who calls: API keys, and the workspace that a key belongs to.

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};
use rota_api::id::{ApiKeyId, WorkspaceId};
use sha2::{Digest, Sha256};

use crate::{
    db::{Db, vals},
    error::{Error, Result},
};

/// What every API key begins with.
pub const KEY_PREFIX: &str = "sk-rota-";

/// The workspace in which a request acts, and the key that says so.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: ApiKeyId,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or(Error::Unauthenticated("authentication required"))
    }
}

/// The form in which a key is stored: nothing that reads the store can call with it.
pub fn hash(key: &str) -> String {
    use std::fmt::Write;

    Sha256::digest(key.as_bytes()).iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// Finds out who calls.
///
/// # Errors
/// 401 without a key or with one that does not count; 403 when `anthropic-workspace-id` names another workspace.
pub async fn authenticate(db: &Db, headers: &HeaderMap) -> Result<Caller> {
    let key = key_of(headers)
        .ok_or(Error::Unauthenticated("no API key: send one as `x-api-key` or as `Authorization: Bearer`"))?;
    let (hash, now) = (hash(key), db.now());
    let caller = db
        .lookup(
            "SELECT k.id, k.workspace_id, k.status, k.expires_at, w.archived_at
             FROM api_keys k LEFT JOIN workspaces w ON w.id = k.workspace_id WHERE k.key_hash = $1",
            vals![&hash],
            |row| {
                let expired = row.opt_time(3)?.is_some_and(|at| at <= now);
                let counts = row.text(2)? == "active" && row.opt_time(4)?.is_none() && !expired;
                Ok((row.id(0)?, row.opt_id(1)?, counts))
            },
        )
        .await?;
    let Some((key, workspace, true)) = caller else { return Err(Error::Unauthenticated("invalid x-api-key")) };
    let Some(workspace): Option<WorkspaceId> = workspace else {
        return Err(Error::Forbidden("this key belongs to no workspace".to_owned()));
    };
    if let Some(named) = headers.get("anthropic-workspace-id")
        && named.as_bytes() != workspace.as_ref().as_bytes()
    {
        return Err(Error::Forbidden("anthropic-workspace-id is not the workspace of this key".to_owned()));
    }
    Ok(Caller { workspace, key })
}

fn key_of(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let bearer = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = bearer.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
