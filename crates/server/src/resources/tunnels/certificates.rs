//! Certificates of a tunnel: the authorities by which the gateway at its other end would be known.

use axum::extract::State;
use rota_api::{
    id::{Id, TunnelCertificateId, WorkspaceId},
    tunnel::{MAX_CERTIFICATES, TunnelCertificate, read_certificate},
};

use super::{
    TUNNELS, changing,
    pem::{self, Authority},
};
use crate::{
    app::App,
    db::{Row, Select, Tx, vals},
    error::{Error, Result},
    page::{NullPage, Order},
    request::{Body, Caller, Json, List, Path, PathAndQuery},
};

/// `POST /v1/tunnels/{tunnel_id}/certificates`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(tunnel): Path<String>,
    body: Body,
) -> Result<Json<TunnelCertificate>> {
    let text = body.read(read_certificate)?;
    let authority = pem::read(&text).map_err(|wrong| Error::invalid(format_args!("ca_certificate_pem: {wrong}")))?;
    app.db.write(move |tx| insert(tx, &caller.workspace, &tunnel, &text, &authority)).await.map(Json)
}

/// `GET /v1/tunnels/{tunnel_id}/certificates/{certificate_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path((tunnel, id)): Path<(String, String)>,
) -> Result<Json<TunnelCertificate>> {
    app.db.read(move |tx| get(tx, &caller.workspace, &tunnel, &id)).await.map(Json)
}

/// `GET /v1/tunnels/{tunnel_id}/certificates`, newest first.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(tunnel, query): PathAndQuery<String>,
) -> Result<Json<NullPage<TunnelCertificate>>> {
    let mut select = Select::new(SELECT, &caller.workspace);
    select.text("tunnel_id =", Some(&tunnel));
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    let list = List { select, key: "id", paging: query.paging(20, 1000, Order::Desc)? };
    app.db.read(move |tx| TUNNELS.get(tx, &caller.workspace, &tunnel)).await?;
    list.null_page(&app.db, from_row, |certificate| certificate.id.to_string()).await
}

/// `POST /v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive`.
pub async fn archive(
    State(app): State<App>,
    caller: Caller,
    Path((tunnel, id)): Path<(String, String)>,
) -> Result<Json<TunnelCertificate>> {
    app.db.write(move |tx| set_archived(tx, &caller.workspace, &tunnel, &id)).await.map(Json)
}

fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    tunnel: &str,
    text: &str,
    authority: &Authority,
) -> Result<TunnelCertificate> {
    let tunnel = changing(tx, workspace, tunnel)?.id;
    let sql = "SELECT fingerprint FROM tunnel_certificates
        WHERE workspace_id = $1 AND tunnel_id = $2 AND archived_at IS NULL";
    let live = tx.all(sql, vals![workspace, &tunnel], |row| row.text("fingerprint"))?;
    if live.contains(&authority.fingerprint) {
        return Err(Error::Conflict(format!("Tunnel `{tunnel}` has this certificate already.")));
    }
    if live.len() >= MAX_CERTIFICATES {
        return Err(Error::invalid(format_args!(
            "Tunnel `{tunnel}` has {MAX_CERTIFICATES} certificates, which is the most: archive one first"
        )));
    }
    let now = tx.now();
    let id = TunnelCertificateId::new(now);
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO tunnel_certificates (id, workspace_id, tunnel_id, pem, fingerprint, expires_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        vals![&id, workspace, &tunnel, text, &authority.fingerprint, authority.expires_at, now],
    )?;
    get(tx, workspace, tunnel.as_ref(), id.as_ref())
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, tunnel: &str, id: &str) -> Result<TunnelCertificate> {
    let sql = format!("{SELECT} AND tunnel_id = $2 AND id = $3");
    tx.one_or(&sql, vals![workspace, tunnel, id], from_row, || Error::not_found("Tunnel certificate", id))
}

fn set_archived(tx: &mut Tx<'_>, workspace: &WorkspaceId, tunnel: &str, id: &str) -> Result<TunnelCertificate> {
    tx.execute(
        "UPDATE tunnel_certificates SET archived_at = $4
         WHERE workspace_id = $1 AND tunnel_id = $2 AND id = $3 AND archived_at IS NULL",
        vals![workspace, tunnel, id, tx.now()],
    )?;
    get(tx, workspace, tunnel, id)
}

const SELECT: &str = "SELECT id, tunnel_id, fingerprint, expires_at, created_at, archived_at FROM tunnel_certificates
    WHERE workspace_id = $1";

fn from_row(row: &Row<'_>) -> Result<TunnelCertificate> {
    Ok(TunnelCertificate {
        id: row.id("id")?,
        r#type: "tunnel_certificate",
        tunnel_id: row.id("tunnel_id")?,
        fingerprint: row.text("fingerprint")?,
        expires_at: row.opt_time("expires_at")?,
        created_at: row.time("created_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}
