//! Memory stores: texts at paths, which agents keep from one session to the next. Each change is a version.

pub mod attach;
pub mod memories;
mod purge;
mod reach;
mod store;
pub mod versions;
pub mod write;

use axum::extract::State;
use rota_api::{
    Deleted,
    id::MemoryStoreId,
    memory::{MemoryStore, MemoryStoreFields, UpdateMemoryStore, View},
};

use crate::{
    app::App,
    error::{Error, Result},
    page::{Order, Page, Paging},
    request::{Body, Caller, Json, List, Path, Query, query::CREATED_BETWEEN},
};

pub use purge::purge;
use store::STORES;
pub use store::{make, named};

/// `POST /v1/memory_stores`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<MemoryStore>> {
    let fields = body.read(MemoryStoreFields::read)?;
    app.db.write(move |tx| store::insert(tx, &caller.workspace, &fields)).await.map(Json)
}

/// `GET /v1/memory_stores/{memory_store_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<MemoryStore>> {
    app.db.read(move |tx| STORES.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/memory_stores/{memory_store_id}`.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<MemoryStore>> {
    let update = body.read(UpdateMemoryStore::read_change)?;
    app.db.write(move |tx| store::set(tx, &caller.workspace, &id, &update)).await.map(Json)
}

/// `GET /v1/memory_stores`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<MemoryStore>>> {
    let mut select = STORES.select(&caller.workspace);
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    query.created_at::<MemoryStoreId>(&mut select, "id", &CREATED_BETWEEN)?;
    let list = List { select, key: "id", paging: paging(&query)? };
    list.page(&app.db, STORES.read, |store| store.id.to_string()).await
}

/// `POST /v1/memory_stores/{memory_store_id}/archive`.
pub async fn archive(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<MemoryStore>> {
    app.db.write(move |tx| store::archive(tx, &caller.workspace, &id)).await.map(Json)
}

/// `DELETE /v1/memory_stores/{memory_store_id}`.
pub async fn delete(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deleted>> {
    app.db.write(move |tx| store::delete(tx, &caller.workspace, &id)).await.map(Json)
}

/// The page of a list of memory stores, or of what is in one. What is no limit is told in the words of the hosted service,
/// which looks twice.
fn paging(query: &Query) -> Result<Paging> {
    let between = |most: i64| format!("be greater than or equal to 1 and less than or equal to {most}");
    match query.text("limit").and_then(|limit| limit.parse::<i64>().ok()) {
        Some(limit) if !(1..=1000).contains(&limit) => {
            Err(Error::invalid(format_args!("limit: must {}", between(1000))))
        }
        Some(limit) if limit > 100 => Err(Error::invalid(format_args!("limit: value must {}", between(100)))),
        _ => query.paging(20, 100, Order::Desc),
    }
}

/// The `view` that a query asks for.
fn view(query: &Query, default: View) -> Result<View> {
    Ok(query.one_of("view", View::NAMES)?.and_then(View::from_name).unwrap_or(default))
}
