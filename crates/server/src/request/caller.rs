//! Who calls: API keys, and what each reaches.
//!
//! A handler's signature is its access policy. [`Caller`] acts in a workspace; [`Starter`] does so also where nothing
//! may be changed any more; [`Administrator`] acts on the organization.

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};
use rota_api::{
    Time,
    id::{ApiKeyId, WorkspaceId, is_plausible},
};
use sha2::{Digest, Sha256};

use crate::{
    closed::Closed,
    db::{Db, vals},
    error::{Error, Result},
};

/// What the key of a workspace begins with.
pub const KEY_PREFIX: &str = "sk-rota-";
/// What an administrator's key begins with.
pub const ADMIN_KEY_PREFIX: &str = "sk-rota-admin-";

/// The header in which an administrator's key names the workspace that it acts in.
const WORKSPACE: &str = "anthropic-workspace-id";

/// The workspace in which a request acts, and the key that says so.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: ApiKeyId,
}

/// Who starts a deployment: a [`Caller`], also in a workspace where nothing starts any more, for the run records that.
pub struct Starter(pub Caller);

/// A request with an administrator's key.
pub struct Administrator;

/// What a request's key stands for.
#[derive(Debug, Clone)]
pub struct Admission {
    key: ApiKeyId,
    is_administrator: bool,
    workspace: Option<WorkspaceId>,
    /// Why nothing may be changed in the workspace.
    closed: Option<Closed>,
}

impl From<Closed> for Error {
    fn from(closed: Closed) -> Self {
        Self::Forbidden(match closed {
            Closed::WorkspaceArchived => "the workspace is archived: its resources can be read, not changed".to_owned(),
            Closed::OrganizationDisabled => {
                "the organization is disabled; its operator enables it with `rota org enable`".to_owned()
            }
        })
    }
}

impl Admission {
    /// The workspace in which the request acts.
    pub fn workspace(&self) -> Option<&WorkspaceId> {
        self.workspace.as_ref()
    }

    fn of(parts: &Parts) -> Result<&Self> {
        parts.extensions.get().ok_or(Error::Unauthenticated("authentication required"))
    }

    fn caller(&self) -> Result<Caller> {
        let workspace = self.workspace.clone().ok_or_else(|| {
            Error::Forbidden(format!("an administrator's key acts in the workspace that the header {WORKSPACE} names"))
        })?;
        Ok(Caller { workspace, key: self.key.clone() })
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let admission = Admission::of(parts)?;
        match admission.closed {
            Some(closed) if !parts.method.is_safe() => Err(closed.into()),
            _ => admission.caller(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Starter {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Admission::of(parts)?.caller().map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Administrator {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        if Admission::of(parts)?.is_administrator {
            return Ok(Self);
        }
        Err(Error::Forbidden("this needs an administrator's key: `rota keys create --admin` makes one".to_owned()))
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
/// 401 without a key or with one that does not count. When a request names a workspace that is not there or not the key's, 404,
/// or 400 where it is no id of one. 403 when the organization is disabled.
pub async fn authenticate(db: &Db, headers: &HeaderMap) -> Result<Admission> {
    let key = key_of(headers).ok_or(Error::Unauthenticated("x-api-key header is required"))?;
    let named = headers.get(WORKSPACE).map(|named| named.to_str().unwrap_or("?")).filter(|named| !named.is_empty());
    let (hash, now) = (hash(key), db.now());
    let found = db
        .lookup(
            "SELECT k.id, k.workspace_id, k.status, k.expires_at, w.id, w.archived_at, o.disabled_at
             FROM api_keys k
             LEFT JOIN workspaces w ON w.id = coalesce(k.workspace_id, $2)
             LEFT JOIN organization o ON TRUE
             WHERE k.key_hash = $1",
            vals![&hash, named],
            |row| {
                let counts = counts(&row.text(2)?, row.opt_time(3)?, now);
                let closed = Closed::of(row.opt_time(5)?, row.opt_time(6)?);
                let is_administrator = row.opt_text(1)?.is_none();
                Ok((counts, Admission { key: row.id(0)?, is_administrator, workspace: row.opt_id(4)?, closed }))
            },
        )
        .await?;
    let Some((true, admission)) = found else {
        let as_key = headers.contains_key("x-api-key");
        return Err(Error::Unauthenticated(if as_key { "invalid x-api-key" } else { "Invalid bearer token" }));
    };
    if let Some(named) = named
        && admission.workspace().is_none_or(|workspace| workspace.as_ref() != named)
    {
        return Err(if is_plausible::<WorkspaceId>(named) {
            Error::not_found("Workspace", named)
        } else {
            Error::invalid(format_args!("{WORKSPACE} header must be a valid workspace ID."))
        });
    }
    match admission.closed {
        Some(closed) if !admission.is_administrator => Err(closed.into()),
        _ => Ok(admission),
    }
}

/// Whether a key may still read in a workspace in which it has called.
pub async fn still_reads(db: &Db, caller: &Caller) -> Result<bool> {
    let now = db.now();
    let found = db
        .lookup(
            "SELECT k.status, k.expires_at, k.workspace_id, w.archived_at, o.disabled_at
             FROM api_keys k LEFT JOIN workspaces w ON w.id = $2 LEFT JOIN organization o ON TRUE WHERE k.id = $1",
            vals![&caller.key, &caller.workspace],
            |row| {
                let counts = counts(&row.text(0)?, row.opt_time(1)?, now);
                let closed = Closed::of(row.opt_time(3)?, row.opt_time(4)?);
                Ok(counts && (closed.is_none() || row.opt_text(2)?.is_none()))
            },
        )
        .await?;
    Ok(found.unwrap_or(false))
}

/// Whether a key of this status counts.
fn counts(status: &str, expires_at: Option<Time>, now: Time) -> bool {
    status == "active" && expires_at.is_none_or(|at| at > now)
}

/// The key that a request sends.
pub fn key_of(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let bearer = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = bearer.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
