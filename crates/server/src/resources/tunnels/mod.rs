//! Tunnels: their names, tokens and certificates. There is no relay, so nothing comes through them, and
//! `GET /rota/v1/tunnels/{tunnel_id}` says so.

pub mod certificates;
mod pem;

use axum::extract::State;
use rota_api::{
    Time,
    id::{Id, TunnelId, TunnelTokenId, WorkspaceId},
    tunnel::{TokenRecord, Tunnel, TunnelToken, TunnelWithStatus, read_create, read_rotation},
};

use crate::{
    app::App,
    db::{Row, Table, Tx, vals},
    error::{Error, Result},
    page::{NullPage, Order},
    random,
    request::{Body, Caller, Json, List, Path, Query},
    vault::Owner,
};

/// `POST /v1/tunnels`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Tunnel>> {
    let name = body.read(read_create)?;
    let token = NewToken::make(&app, &caller.workspace).await?;
    let domain = format!("{}.tunnels.invalid", random::uuid()?.replace('-', ""));
    app.db.write(move |tx| insert(tx, &caller.workspace, name.as_deref(), &domain, &token)).await.map(Json)
}

/// `GET /v1/tunnels/{tunnel_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Tunnel>> {
    app.db.read(move |tx| TUNNELS.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `GET /rota/v1/tunnels/{tunnel_id}`: the same, and whether anything comes through it.
pub async fn status(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<TunnelWithStatus>> {
    app.db.read(move |tx| with_status(tx, &caller.workspace, &id)).await.map(Json)
}

/// `GET /v1/tunnels`, newest first.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<NullPage<Tunnel>>> {
    let mut select = TUNNELS.select(&caller.workspace);
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    let list = List { select, key: "id", paging: query.paging(20, 1000, Order::Desc)? };
    list.null_page(&app.db, from_row, |tunnel| tunnel.id.to_string()).await
}

/// `POST /v1/tunnels/{tunnel_id}/archive`. Its certificates are archived with it.
pub async fn archive(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Tunnel>> {
    app.db.write(move |tx| set_archived(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/tunnels/{tunnel_id}/reveal_token`. It is a `POST` so that no log of requests gets to see what it answers.
pub async fn reveal_token(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<TunnelToken>> {
    let Caller { workspace, .. } = caller;
    let of = workspace.clone();
    let (id, sealed) = app.db.read(move |tx| token(tx, &of, &id)).await?;
    let opened = app.vault.key(&app.db, &workspace).await?.open(owner(&id), &sealed)?;
    let tunnel_token = String::from_utf8(opened.to_vec()).map_err(Error::internal)?;
    Ok(Json(TunnelToken { id, tunnel_token, r#type: "tunnel_token" }))
}

/// `POST /v1/tunnels/{tunnel_id}/rotate_token`. The reason is kept with the new token, and told to the log.
pub async fn rotate_token(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<TunnelToken>> {
    let reason = body.read(read_rotation)?;
    let token = NewToken::make(&app, &caller.workspace).await?;
    let answer = TunnelToken { id: token.id.clone(), tunnel_token: token.secret.clone(), r#type: "tunnel_token" };
    let tunnel = id.clone();
    let why = reason.clone();
    app.db.write(move |tx| replace_token(tx, &caller.workspace, &id, &token, reason.as_deref())).await?;
    tracing::info!(tunnel, token = %answer.id, reason = why.as_deref().unwrap_or_default(), "the token of a tunnel was rotated");
    Ok(Json(answer))
}

/// A token that was made and is not stored yet.
struct NewToken {
    id: TunnelTokenId,
    secret: String,
    sealed: String,
}

impl NewToken {
    async fn make(app: &App, workspace: &WorkspaceId) -> Result<Self> {
        let (id, secret) = (TunnelTokenId::new(app.clock.now()), format!("rota-tunnel-{}", random::secret()?));
        let sealed = app.vault.key(&app.db, workspace).await?.seal(owner(&id), secret.as_bytes())?;
        Ok(Self { id, secret, sealed })
    }
}

fn owner(id: &TunnelTokenId) -> Owner<'_> {
    Owner { kind: "tunnel_token", id: id.as_ref() }
}

fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    name: Option<&str>,
    domain: &str,
    token: &NewToken,
) -> Result<Tunnel> {
    let now = tx.now();
    let id = TunnelId::new(now);
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO tunnels (id, workspace_id, display_name, domain, token_id, token, token_created_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        vals![&id, workspace, name, domain, &token.id, &token.sealed, now],
    )?;
    TUNNELS.get(tx, workspace, id.as_ref())
}

fn not_found(id: &str) -> Error {
    Error::not_found("Tunnel", id)
}

/// The error for a change of a tunnel that is archived.
fn is_archived(id: &str) -> Error {
    Error::invalid(format_args!("Tunnel `{id}` is archived: create another one"))
}

/// The tunnel, locked, if something of it can be changed.
///
/// # Errors
/// 404 when there is none, 400 when it is archived.
fn changing(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Tunnel> {
    TUNNELS.lock(tx, workspace, id)?;
    let tunnel = TUNNELS.get(tx, workspace, id)?;
    if tunnel.archived_at.is_some() { Err(is_archived(id)) } else { Ok(tunnel) }
}

fn with_status(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<TunnelWithStatus> {
    let sql = "SELECT id, display_name, domain, created_at, archived_at, token_id, token_created_at, token_reason
        FROM tunnels WHERE workspace_id = $1 AND id = $2";
    let of_row = |row: &Row<'_>| {
        let token = row.opt_id("token_id")?.map(|id| {
            Ok::<_, Error>(TokenRecord {
                id,
                created_at: row.time("token_created_at")?,
                reason: row.opt_text("token_reason")?,
            })
        });
        Ok(TunnelWithStatus::new(from_row(row)?, token.transpose()?))
    };
    tx.one_or(sql, vals![workspace, id], of_row, || not_found(id))
}

fn set_archived(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Tunnel> {
    let now = tx.now();
    let archives = tx.changes(
        "UPDATE tunnels SET archived_at = $3, token_id = NULL, token = NULL
         WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL",
        vals![workspace, id, now],
    )?;
    if archives {
        tx.execute(
            "UPDATE tunnel_certificates SET archived_at = $3
             WHERE workspace_id = $1 AND tunnel_id = $2 AND archived_at IS NULL",
            vals![workspace, id, now],
        )?;
    }
    TUNNELS.get(tx, workspace, id)
}

/// The token of a tunnel, sealed.
fn token(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<(TunnelTokenId, String)> {
    let sql = "SELECT token_id, token FROM tunnels WHERE workspace_id = $1 AND id = $2";
    let token = |row: &Row<'_>| Ok(row.opt_id("token_id")?.zip(row.opt_text("token")?));
    tx.one_or(sql, vals![workspace, id], token, || not_found(id))?.ok_or_else(|| is_archived(id))
}

fn replace_token(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    token: &NewToken,
    reason: Option<&str>,
) -> Result<()> {
    changing(tx, workspace, id)?;
    let now: Time = tx.now();
    tx.execute(
        "UPDATE tunnels SET token_id = $3, token = $4, token_created_at = $5, token_reason = $6
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, &token.id, &token.sealed, now, reason],
    )?;
    Ok(())
}

const TUNNELS: Table<Tunnel> = Table {
    name: "tunnels",
    columns: "id, display_name, domain, created_at, archived_at",
    read: from_row,
    missing: not_found,
};

fn from_row(row: &Row<'_>) -> Result<Tunnel> {
    Ok(Tunnel {
        id: row.id("id")?,
        r#type: "tunnel",
        display_name: row.opt_text("display_name")?,
        domain: row.text("domain")?,
        created_at: row.time("created_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}
