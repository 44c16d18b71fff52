//! Keys of environments: what workers poll with. A key reaches the work of its environment and the sessions that are worked on,
//! and nothing else.

use axum::extract::State;
use rota_api::{
    environment_key::{CreateEnvironmentKey, EnvironmentKey, NewEnvironmentKey},
    id::{EnvironmentId, EnvironmentKeyId, Id, WorkspaceId},
};

use super::environments::ENVIRONMENTS;
use crate::{
    app::App,
    db::{Row, Select, Tx, vals},
    error::{Error, Result},
    limits::{ENDED_ENVIRONMENT_KEYS, MAX_ENVIRONMENT_KEYS},
    page::{Order, Page},
    random,
    request::{
        Body, Caller, Json, List, Path, PathAndQuery,
        caller::{self, ENVIRONMENT_KEY_PREFIX},
    },
};

/// `POST /rota/v1/environments/{environment_id}/keys`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(environment): Path<String>,
    body: Body,
) -> Result<Json<NewEnvironmentKey>> {
    let new = body.read(CreateEnvironmentKey::read)?;
    let made = app.db.write(move |tx| insert(tx, &caller.workspace, &environment, &new)).await?;
    tracing::info!(changed_key_id = %made.key.id, "a key of an environment was made");
    Ok(Json(made))
}

/// `GET /rota/v1/environments/{environment_id}/keys`.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(environment, query): PathAndQuery<String>,
) -> Result<Json<Page<EnvironmentKey>>> {
    let paging = query.paging(20, 100, Order::Desc)?;
    let (workspace, of) = (caller.workspace.clone(), environment.clone());
    app.db.read(move |tx| ENVIRONMENTS.get(tx, &workspace, &of)).await?;
    let mut select = Select::new(SELECT, &caller.workspace);
    select.text("environment_id =", Some(environment));
    List { select, key: "id", paging }.page(&app.db, from_row, |key| key.id.to_string()).await
}

/// `POST /rota/v1/environments/{environment_id}/keys/{environment_key_id}/revoke`.
pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path((environment, id)): Path<(String, String)>,
) -> Result<Json<EnvironmentKey>> {
    let key = app.db.write(move |tx| set_revoked(tx, &caller.workspace, &environment, &id)).await?;
    tracing::info!(changed_key_id = %key.id, "a key of an environment was revoked");
    Ok(Json(key))
}

fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    environment: &str,
    new: &CreateEnvironmentKey,
) -> Result<NewEnvironmentKey> {
    ENVIRONMENTS.lock(tx, workspace, environment)?;
    let environment: EnvironmentId = ENVIRONMENTS.get(tx, workspace, environment)?.id;
    let now = tx.now();
    let ended = "(revoked_at IS NOT NULL OR expires_at <= $3)";
    let count = format!(
        "SELECT count(*) FROM environment_keys WHERE workspace_id = $1 AND environment_id = $2 AND NOT coalesce({ended}, FALSE)"
    );
    let live = tx.one(&count, vals![workspace, &environment, now], |row| row.int(0))?.unwrap_or(0);
    if live >= MAX_ENVIRONMENT_KEYS {
        return Err(Error::invalid(format_args!(
            "environment {environment} has {live} keys, which is the most; revoke those that no worker uses"
        )));
    }
    let forget = format!(
        "DELETE FROM environment_keys WHERE id IN (SELECT id FROM environment_keys
             WHERE workspace_id = $1 AND environment_id = $2 AND {ended} ORDER BY id DESC LIMIT $5 OFFSET $4)"
    );
    tx.send(&forget, vals![workspace, &environment, now, ENDED_ENVIRONMENT_KEYS, MAX_ENVIRONMENT_KEYS])?;
    let secret = format!("{ENVIRONMENT_KEY_PREFIX}{}", random::secret()?);
    let hint = format!("{}...{}", &secret[..ENVIRONMENT_KEY_PREFIX.len() + 3], &secret[secret.len() - 4..]);
    let id = EnvironmentKeyId::new(now);
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO environment_keys (id, workspace_id, environment_id, name, key_hash, partial_key_hint, created_at,
             expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        vals![&id, workspace, &environment, &new.name, &caller::hash(&secret), &hint, now, new.expires_at],
    )?;
    let key = get(tx, workspace, environment.as_ref(), id.as_ref())?;
    Ok(NewEnvironmentKey { key, secret })
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str, id: &str) -> Result<EnvironmentKey> {
    let sql = format!("{SELECT} AND environment_id = $2 AND id = $3");
    tx.one_or(&sql, vals![workspace, environment, id], from_row, || Error::not_found("Environment key", id))
}

/// Ends a key for good, and with it the tokens of the work that it was given.
fn set_revoked(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str, id: &str) -> Result<EnvironmentKey> {
    tx.execute(
        "UPDATE environment_keys SET revoked_at = $4
         WHERE workspace_id = $1 AND environment_id = $2 AND id = $3 AND revoked_at IS NULL",
        vals![workspace, environment, id, tx.now()],
    )?;
    get(tx, workspace, environment, id)
}

const SELECT: &str = "SELECT id, environment_id, name, partial_key_hint, created_at, expires_at, revoked_at
    FROM environment_keys WHERE workspace_id = $1";

fn from_row(row: &Row<'_>) -> Result<EnvironmentKey> {
    Ok(EnvironmentKey {
        id: row.id("id")?,
        r#type: "environment_key",
        environment_id: row.id("environment_id")?,
        name: row.text("name")?,
        partial_key_hint: row.text("partial_key_hint")?,
        created_at: row.time("created_at")?,
        expires_at: row.opt_time("expires_at")?,
        revoked_at: row.opt_time("revoked_at")?,
    })
}
