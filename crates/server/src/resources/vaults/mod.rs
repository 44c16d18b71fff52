//! Vaults: where sessions find credentials.

mod store;

use axum::extract::State;
use rota_api::{
    Deleted,
    vault::{UpdateVault, Vault, VaultFields},
};

use crate::{
    app::App,
    error::Result,
    page::{Order, Page},
    request::{Body, Caller, Json, List, Path, Query},
};

use store::VAULTS;
pub use store::{Unusable, ask, check_references, unusable};

/// `POST /v1/vaults`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Vault>> {
    let new = body.read(VaultFields::read)?;
    app.db.write(move |tx| store::insert(tx, &caller.workspace, &new)).await.map(Json)
}

/// `GET /v1/vaults/{vault_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Vault>> {
    app.db.read(move |tx| VAULTS.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/vaults/{vault_id}`.
pub async fn update(State(app): State<App>, caller: Caller, Path(id): Path<String>, body: Body) -> Result<Json<Vault>> {
    let update = body.read(UpdateVault::read_change)?;
    app.db.write(move |tx| store::set(tx, &caller.workspace, &id, &update)).await.map(Json)
}

/// `GET /v1/vaults`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<Vault>>> {
    let mut select = VAULTS.select(&caller.workspace);
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    let list = List { select, key: "id", paging: query.paging(20, 100, Order::Desc)? };
    list.page(&app.db, VAULTS.read, |vault| vault.id.to_string()).await
}

/// `POST /v1/vaults/{vault_id}/archive`. Its credentials are archived with it, and their secrets purged.
pub async fn archive(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Vault>> {
    app.db.write(move |tx| store::archive(tx, &caller.workspace, &id)).await.map(Json)
}

/// `DELETE /v1/vaults/{vault_id}`, with its credentials.
pub async fn delete(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deleted>> {
    app.db.write(move |tx| store::remove(tx, &caller.workspace, &id)).await.map(Json)
}
