//! Who calls: API keys, and what each reaches.
//!
//! A handler's signature is its access policy. [`Caller`] acts in a workspace; [`Starter`] does so also where nothing
//! may be changed any more; [`Administrator`] acts on the organization; [`Worker`] does the work of an environment, and
//! [`CallerOrWorker`] is what both may do.

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};
use rota_api::{
    Time,
    audit::{Actor, ActorType},
    id::{ApiKeyId, EnvironmentId, EnvironmentKeyId, SessionId, WorkspaceId, is_plausible},
    session::Status,
    work::WorkState,
};
use sha2::{Digest, Sha256};

use super::sign_in::SignIns;
use crate::{
    closed::Closed,
    db::{Db, Row, vals},
    error::{Error, Result},
    hex,
};

/// What the key of a workspace begins with.
pub const KEY_PREFIX: &str = "sk-rota-";
/// What an administrator's key begins with.
pub const ADMIN_KEY_PREFIX: &str = "sk-rota-admin-";

/// What the key of an environment begins with.
pub const ENVIRONMENT_KEY_PREFIX: &str = "ek-rota-";
/// What the token of a piece of work begins with.
pub const WORK_TOKEN_PREFIX: &str = "wt-rota-";

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

/// Who reads what is kept of a workspace, or of all of them: `None` with an administrator's key that names none.
pub struct Reader(pub Option<WorkspaceId>);

/// A worker: whoever has the key of an environment, or the token of a piece of its work.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The environment whose work it does.
    pub environment: EnvironmentId,
    /// The token, where it sends one. Without it reaches all work of the environment.
    pub token: Option<WorkToken>,
    /// Its own key, or the one that the token was given to.
    key: EnvironmentKeyId,
}

/// The token of a piece of work, as a request has it.
#[derive(Debug, Clone)]
pub struct WorkToken {
    /// The session that is worked on, by whose id the work goes too.
    pub session: SessionId,
    /// The lease of the work for which it was given.
    pub lease: i64,
    hash: String,
}

impl Worker {
    /// The key with which it asked for work.
    pub fn key(&self) -> &EnvironmentKeyId {
        &self.key
    }
}

impl WorkToken {
    /// Whether the token still reaches its session, given what is stored of its work. It ends with the work; one of a session
    /// that has ended may still see that it has.
    pub fn reaches(&self, lease: Option<i64>, state: Option<&str>, status: Option<&str>) -> bool {
        let ended = state.is_none_or(|state| state == WorkState::Stopped.as_str());
        lease == Some(self.lease) && (!ended || status == Some(Status::Terminated.as_str()))
    }
}

/// Who reads and answers a session: a [`Caller`], or the [`Worker`] that does its work.
#[derive(Debug, Clone)]
pub struct CallerOrWorker {
    /// The workspace.
    pub workspace: WorkspaceId,
    identity: Identity,
}

/// Which of the two it is.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A caller, with this key.
    Caller(ApiKeyId),
    /// A worker.
    Worker(Worker),
}

impl CallerOrWorker {
    /// Which of the two it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The worker; `None` for a caller.
    pub fn worker(&self) -> Option<&Worker> {
        match &self.identity {
            Identity::Caller(_) => None,
            Identity::Worker(worker) => Some(worker),
        }
    }

    /// The caller, for what no worker reaches: it would need one of `scopes` (recorded).
    ///
    /// # Errors
    /// 403 for a worker.
    pub fn only_caller(self, scopes: &str) -> Result<Caller> {
        match self.identity {
            Identity::Caller(key) => Ok(Caller { workspace: self.workspace, key }),
            Identity::Worker(_) => {
                Err(Error::Forbidden(format!("OAuth token does not meet scope requirement any_of({scopes})")))
            }
        }
    }

    /// What tells this key or token from others. It is no secret.
    pub fn key(&self) -> &str {
        match &self.identity {
            Identity::Caller(key) => key.as_ref(),
            Identity::Worker(Worker { token: Some(token), .. }) => &token.hash,
            Identity::Worker(worker) => worker.key.as_ref(),
        }
    }
}

impl From<Caller> for CallerOrWorker {
    fn from(Caller { workspace, key }: Caller) -> Self {
        Self { workspace, identity: Identity::Caller(key) }
    }
}

/// What a request's key stands for.
#[derive(Debug, Clone)]
pub struct Admission {
    key: Key,
    workspace: Option<WorkspaceId>,
    /// Why nothing may be changed in the workspace.
    closed: Option<Closed>,
}

#[derive(Debug, Clone)]
enum Key {
    Api { id: ApiKeyId, is_administrator: bool },
    Worker(Worker),
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
    /// The key's id.
    pub fn key_id(&self) -> &str {
        match &self.key {
            Key::Api { id, .. } => id.as_ref(),
            Key::Worker(worker) => worker.key.as_ref(),
        }
    }

    /// The workspace in which the request acts.
    pub fn workspace(&self) -> Option<&WorkspaceId> {
        self.workspace.as_ref()
    }

    /// The key, unless a worker's was sent.
    pub fn api_key(&self) -> Option<&ApiKeyId> {
        match &self.key {
            Key::Api { id, .. } => Some(id),
            Key::Worker(_) => None,
        }
    }

    /// Who a request is made by, as the audit list names it.
    pub fn actor(&self) -> Actor {
        match &self.key {
            Key::Api { id, .. } => Actor::key(ActorType::ApiKey, id),
            Key::Worker(worker) => Actor::key(ActorType::Worker, &worker.key),
        }
    }

    fn of(parts: &Parts) -> Result<&Self> {
        parts.extensions.get().ok_or(Error::Unauthenticated("authentication required"))
    }

    fn caller(&self) -> Result<Caller> {
        // Recorded.
        let Key::Api { id, .. } = &self.key else { return Err(Error::Unauthenticated("Authentication failed")) };
        let workspace = self.workspace.clone().ok_or_else(|| {
            Error::Forbidden(format!("an administrator's key acts in the workspace that the header {WORKSPACE} names"))
        })?;
        Ok(Caller { workspace, key: id.clone() })
    }

    /// Whether the key is an administrator's.
    pub fn is_administrator(&self) -> bool {
        matches!(self.key, Key::Api { is_administrator: true, .. })
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
        if Admission::of(parts)?.is_administrator() {
            return Ok(Self);
        }
        Err(Error::Forbidden("this needs an administrator's key: `rota keys create --admin` makes one".to_owned()))
    }
}

impl<S: Sync> FromRequestParts<S> for Reader {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let admission = Admission::of(parts)?;
        if admission.is_administrator() {
            return Ok(Self(admission.workspace.clone()));
        }
        admission.caller().map(|caller| Self(Some(caller.workspace)))
    }
}

impl<S: Sync> FromRequestParts<S> for Worker {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        match &Admission::of(parts)?.key {
            Key::Worker(worker) => Ok(worker.clone()),
            Key::Api { .. } => Err(Error::Forbidden(
                "this needs the key of an environment: POST /rota/v1/environments/{environment_id}/keys makes one"
                    .to_owned(),
            )),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for CallerOrWorker {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match &Admission::of(parts)?.key {
            Key::Worker(worker) => {
                Ok(Self { workspace: worker.workspace.clone(), identity: Identity::Worker(worker.clone()) })
            }
            Key::Api { .. } => Caller::from_request_parts(parts, state).await.map(Self::from),
        }
    }
}

/// The form in which a key is stored: nothing that reads the store can call with it.
pub fn hash(key: &str) -> String {
    hex::digits(&Sha256::digest(key.as_bytes()))
}

/// What is looked up of a key. One that is found by its hash was sent; one that is found by its id was signed in with.
macro_rules! key_where {
    ($found_by:literal) => {
        concat!(
            "SELECT k.id, k.workspace_id, k.status, k.expires_at, w.id, w.archived_at, o.disabled_at
             FROM api_keys k
             LEFT JOIN workspaces w ON w.id = coalesce(k.workspace_id, $2)
             LEFT JOIN organization o ON TRUE
             WHERE ",
            $found_by
        )
    };
}

/// Finds out who calls: by the key that a request sends, or else by that with which its browser is signed in.
///
/// # Errors
/// 401 without a key or with one that does not count. When a request names a workspace that is not there or not the key's, 404,
/// or 400 where it is no id of one. 403 when the organization is disabled, and for a sign-in that another page makes use of.
pub async fn authenticate(db: &Db, sign_ins: &SignIns, headers: &HeaderMap) -> Result<Admission> {
    let now = db.now();
    let (sql, by, unknown) = match key_of(headers) {
        Some(key) => {
            let as_key = headers.contains_key("x-api-key");
            let unknown = Error::Unauthenticated(if as_key { "invalid x-api-key" } else { "Invalid bearer token" });
            if key.starts_with(ENVIRONMENT_KEY_PREFIX) || key.starts_with(WORK_TOKEN_PREFIX) {
                return Box::pin(authenticate_worker(db, key)).await?.unwrap_or(Err(unknown));
            }
            (key_where!("k.key_hash = $1"), hash(key), unknown)
        }
        None => match sign_ins.read(headers, now)? {
            Some(signed_in) => {
                let unknown =
                    Error::Unauthenticated("the key with which this browser signed in has ended: sign in again");
                (key_where!("k.id = $1"), signed_in.key.to_string(), unknown)
            }
            None => return Err(Error::Unauthenticated("x-api-key header is required")),
        },
    };
    let named = headers.get(WORKSPACE).map(|named| named.to_str().unwrap_or("?")).filter(|named| !named.is_empty());
    let found = db
        .lookup(sql, vals![&by, named], |row| {
            let counts = counts(&row.text(2)?, row.opt_time(3)?, now);
            let closed = Closed::of(row.opt_time(5)?, row.opt_time(6)?);
            let is_administrator = row.opt_text(1)?.is_none();
            let key = Key::Api { id: row.id(0)?, is_administrator };
            Ok((counts, Admission { key, workspace: row.opt_id(4)?, closed }))
        })
        .await?;
    let Some((true, admission)) = found else { return Err(unknown) };
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
        Some(closed) if !admission.is_administrator() => Err(closed.into()),
        _ => Ok(admission),
    }
}

/// Who calls with the key of an environment, or the token of a piece of its work, which ends with the key; `None` when there is
/// no such key. The workspace that a request names is not looked at (recorded).
async fn authenticate_worker(db: &Db, key: &str) -> Result<Option<Result<Admission>>> {
    let (hash, now) = (hash(key), db.now());
    let of_keys =
        "SELECT k.id, k.workspace_id, k.environment_id, k.revoked_at, k.expires_at, w.archived_at, o.disabled_at,
             NULL AS session_id, NULL AS lease
         FROM environment_keys k LEFT JOIN workspaces w ON w.id = k.workspace_id LEFT JOIN organization o ON TRUE
         WHERE k.key_hash = $1";
    let of_tokens =
        "SELECT k.id, k.workspace_id, k.environment_id, k.revoked_at, k.expires_at, w.archived_at, o.disabled_at,
             t.session_id, t.lease
         FROM work_tokens t JOIN environment_keys k ON k.id = t.environment_key_id
         LEFT JOIN workspaces w ON w.id = k.workspace_id LEFT JOIN organization o ON TRUE
         WHERE t.token_hash = $1";
    let is_token = key.starts_with(WORK_TOKEN_PREFIX);
    let read = |row: &Row<'_>| {
        if row.opt_time(3)?.is_some() {
            return Ok(Some(Err(Error::Unauthenticated("OAuth access token has been revoked."))));
        }
        if row.opt_time(4)?.is_some_and(|at| at <= now) {
            return Ok(None);
        }
        if let Some(closed) = Closed::of(row.opt_time(5)?, row.opt_time(6)?) {
            return Ok(Some(Err(closed.into())));
        }
        let token = if is_token {
            Some(WorkToken { session: row.id(7)?, lease: row.int(8)?, hash: hash.clone() })
        } else {
            None
        };
        let worker = Worker { workspace: row.id(1)?, environment: row.id(2)?, token, key: row.id(0)? };
        Ok(Some(Ok(Admission { workspace: Some(worker.workspace.clone()), key: Key::Worker(worker), closed: None })))
    };
    let sql = if is_token { of_tokens } else { of_keys };
    Ok(db.lookup(sql, vals![&hash], read).await?.flatten())
}

/// Whether a key may still read in a workspace in which it has called, or a worker the session that it has read.
pub async fn still_reads(db: &Db, caller: &CallerOrWorker) -> Result<bool> {
    let key = match &caller.identity {
        Identity::Caller(key) => key,
        Identity::Worker(worker) => return worker_still_reads(db, worker).await,
    };
    let now = db.now();
    let found = db
        .lookup(
            "SELECT k.status, k.expires_at, k.workspace_id, w.archived_at, o.disabled_at
             FROM api_keys k LEFT JOIN workspaces w ON w.id = $2 LEFT JOIN organization o ON TRUE WHERE k.id = $1",
            vals![key, &caller.workspace],
            |row| {
                let counts = counts(&row.text(0)?, row.opt_time(1)?, now);
                let closed = Closed::of(row.opt_time(3)?, row.opt_time(4)?);
                Ok(counts && (closed.is_none() || row.opt_text(2)?.is_none()))
            },
        )
        .await?;
    Ok(found.unwrap_or(false))
}

async fn worker_still_reads(db: &Db, worker: &Worker) -> Result<bool> {
    let now = db.now();
    let session = worker.token.as_ref().map(|token| token.session.as_ref());
    let found = db
        .lookup(
            "SELECT k.revoked_at, k.expires_at, w.archived_at, o.disabled_at, x.lease, x.state, s.status
             FROM environment_keys k LEFT JOIN workspaces w ON w.id = k.workspace_id LEFT JOIN organization o ON TRUE
             LEFT JOIN work x ON x.session_id = $2
             LEFT JOIN sessions s ON s.workspace_id = k.workspace_id AND s.id = $2
             WHERE k.id = $1",
            vals![&worker.key, session],
            |row| {
                let ended = row.opt_time(0)?.is_some() || row.opt_time(1)?.is_some_and(|at| at <= now);
                let closed = Closed::of(row.opt_time(2)?, row.opt_time(3)?);
                let (lease, state, status) = (row.opt_int(4)?, row.opt_text(5)?, row.opt_text(6)?);
                let reaches = |token: &WorkToken| token.reaches(lease, state.as_deref(), status.as_deref());
                Ok(!ended && closed.is_none() && worker.token.as_ref().is_none_or(reaches))
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
