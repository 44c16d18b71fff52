//! Dreams: what callers ask of them. `crate::dreams` does the work.

mod store;
pub mod work;

use axum::extract::State;
use rota_api::{
    dream::{CreateDream, Dream, DreamStatus},
    id::DreamId,
};

use crate::{
    app::App,
    error::Result,
    page::{Order, Page},
    request::{Body, Caller, Json, List, Path, Query},
};
use store::DREAMS;

/// `POST /v1/dreams`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Dream>> {
    let dream = body.read(CreateDream::read)?;
    app.offer().check("model", &dream.model)?;
    app.db.write(move |tx| store::insert(tx, &caller, &dream)).await.map(Json)
}

/// `GET /v1/dreams/{dream_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Dream>> {
    app.db.read(move |tx| DREAMS.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `GET /v1/dreams`, newest first.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<Dream>>> {
    let mut select = DREAMS.select(&caller.workspace);
    select.any_of("status", &query.any_of("statuses", DreamStatus::NAMES, DreamStatus::NAMES.len())?);
    query.created_at::<DreamId>(&mut select, "id", &["created_at[gt]", "created_at[lt]"])?;
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    let list = List { select, key: "id", paging: query.paging(20, 100, Order::Desc)? };
    list.page(&app.db, DREAMS.read, |dream| dream.id.to_string()).await
}

/// `POST /v1/dreams/{dream_id}/cancel`. It writes nothing more from then on.
pub async fn cancel(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Dream>> {
    app.db.write(move |tx| store::cancel(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/dreams/{dream_id}/archive`.
pub async fn archive(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Dream>> {
    app.db.write(move |tx| store::archive(tx, &caller.workspace, &id)).await.map(Json)
}
