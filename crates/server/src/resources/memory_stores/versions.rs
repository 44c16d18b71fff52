//! Versions of memories: every change, by whom, and what was redacted.

use axum::extract::State;
use rota_api::{
    id::{MemoryVersionId, WorkspaceId},
    memory::{Actor, MAX_FULL_PAGE, MemoryVersion, Operation, View},
};

use super::{paging, store::STORES, view, write::Writing};
use crate::{
    app::App,
    db::{Row, Select, Tx, vals},
    error::{Error, Result},
    page::Page,
    request::{Caller, Json, Path, PathAndQuery, query::CREATED_BETWEEN},
};

/// `GET /v1/memory_stores/{memory_store_id}/memory_versions`. The newest first.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(store, query): PathAndQuery<String>,
) -> Result<Json<Page<MemoryVersion>>> {
    let view = view(&query, View::Basic)?;
    let mut select = Select::new(sql(view), &store);
    select.text("v.memory_id =", query.text("memory_id"));
    select.text("v.api_key_id =", query.text("api_key_id"));
    select.text("v.session_id =", query.text("session_id"));
    // There are no service accounts.
    select.when(query.text("service_account_id").is_some(), "1 = 0");
    select.text("v.operation =", query.one_of("operation", Operation::NAMES)?);
    query.created_at::<MemoryVersionId>(&mut select, "v.id", &CREATED_BETWEEN)?;
    let mut paging = paging(&query)?;
    if view == View::Full {
        paging.limit = paging.limit.min(MAX_FULL_PAGE);
    }
    let read = move |tx: &mut Tx<'_>| {
        STORES.get(tx, &caller.workspace, &store)?;
        Ok(paging.page(select.page(tx, "v.id", &paging, from_row)?, |version| version.id.to_string()))
    };
    app.db.read(read).await.map(Json)
}

/// `GET /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery((store, id), query): PathAndQuery<(String, String)>,
) -> Result<Json<MemoryVersion>> {
    let view = view(&query, View::Full)?;
    query.finish()?;
    app.db.read(move |tx| get(tx, &caller.workspace, &store, &id, view)).await.map(Json)
}

/// `POST /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact`. What is redacted stays so.
pub async fn redact(
    State(app): State<App>,
    caller: Caller,
    Path((store, id)): Path<(String, String)>,
) -> Result<Json<MemoryVersion>> {
    app.db.write(move |tx| set_redacted(tx, &caller, &store, &id)).await.map(Json)
}

fn set_redacted(tx: &mut Tx<'_>, caller: &Caller, store: &str, id: &str) -> Result<MemoryVersion> {
    // Nobody makes it the current content of a memory, or another one, at the same time.
    Writing::get(tx, &caller.workspace, store)?;
    let version = get(tx, &caller.workspace, store, id, View::Basic)?;
    let sql = "SELECT 1 FROM memories WHERE store_id = $1 AND id = $2 AND version_id = $3";
    if tx.one(sql, vals![store, &version.memory_id, id], |_| Ok(()))?.is_some() {
        return Err(Error::invalid(format_args!(
            "version is the current content of {}; write a new version first",
            version.memory_id
        )));
    }
    tx.execute(
        "UPDATE memory_versions SET path = NULL, content = NULL, content_sha256 = NULL, content_size_bytes = NULL,
             redacted_at = $3, redacted_by_api_key_id = $4
         WHERE store_id = $1 AND id = $2 AND redacted_at IS NULL",
        vals![store, id, tx.now(), &caller.key],
    )?;
    get(tx, &caller.workspace, store, id, View::Full)
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, store: &str, id: &str, view: View) -> Result<MemoryVersion> {
    STORES.get(tx, workspace, store)?;
    let missing = || Error::NotFound(format!("memory version `{id}` not found"));
    tx.one_or(&format!("{} AND v.id = $2", sql(view)), vals![store, id], from_row, missing)
}

macro_rules! columns {
    ($content:literal) => {
        concat!(
            "SELECT v.id, v.memory_id, v.store_id, v.operation, v.path, v.content_sha256, v.content_size_bytes, v.api_key_id,
                 v.session_id, v.created_at, v.redacted_at, v.redacted_by_api_key_id, ",
            $content,
            " AS content FROM memory_versions v WHERE v.store_id = $1"
        )
    };
}

fn sql(view: View) -> &'static str {
    match view {
        View::Basic => columns!("CAST(NULL AS TEXT)"),
        View::Full => columns!("v.content"),
    }
}

fn from_row(row: &Row<'_>) -> Result<MemoryVersion> {
    Ok(MemoryVersion {
        id: row.id("id")?,
        r#type: "memory_version",
        memory_id: row.id("memory_id")?,
        memory_store_id: row.id("store_id")?,
        operation: row.name("operation", Operation::from_name)?,
        path: row.opt_text("path")?,
        content_sha256: row.opt_text("content_sha256")?,
        content_size_bytes: row.opt_int("content_size_bytes")?,
        created_by: {
            let api_key = row.opt_id("api_key_id")?.map(|api_key_id| Actor::Api { api_key_id });
            api_key.or(row.opt_id("session_id")?.map(|session_id| Actor::Session { session_id }))
        },
        created_at: row.time("created_at")?,
        redacted_at: row.opt_time("redacted_at")?,
        redacted_by: row.opt_id("redacted_by_api_key_id")?.map(|api_key_id| Actor::Api { api_key_id }),
        content: row.opt_text("content")?,
    })
}
