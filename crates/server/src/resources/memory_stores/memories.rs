//! Memories: what a store has at its paths now.

use std::collections::{HashMap, HashSet};

use axum::extract::State;
use rota_api::{
    Deleted,
    id::WorkspaceId,
    memory::{CreateMemory, MAX_FULL_PAGE, Memory, MemoryListItem, MemoryPrefix, UpdateMemory, View, check_hash},
};
use serde::Serialize;

use super::{
    paging, reach,
    store::STORES,
    view,
    write::{self, Writing},
};
use crate::{
    app::App,
    db::{Row, Select, Tx, vals},
    error::{Error, Result},
    page::{Paging, Rows},
    request::{BodyOnly, CallerOrWorker, Json, PathAndQuery, Query},
};

/// The places of a memory: its store and itself.
type Ids = (String, String);

/// `POST /v1/memory_stores/{memory_store_id}/memories`.
pub async fn create(
    State(app): State<App>,
    caller: CallerOrWorker,
    PathAndQuery(store, query): PathAndQuery<String>,
    body: BodyOnly,
) -> Result<Json<Memory>> {
    let view = only_view(&query, View::Basic)?;
    let new = body.read(CreateMemory::read)?;
    let insert = move |tx: &mut Tx<'_>| {
        let by = reach::writer(tx, &caller, &store)?;
        let mut writing = Writing::open(tx, &caller.workspace, &store)?;
        let id = writing.create(tx, &by, &new.path, &new.content)?;
        tx.audit_made(&id);
        get(tx, &caller.workspace, &(store.clone(), id.to_string()), view)
    };
    app.db.write(insert).await.map(Json)
}

/// `GET /v1/memory_stores/{memory_store_id}/memories/{memory_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: CallerOrWorker,
    PathAndQuery(ids, query): PathAndQuery<Ids>,
) -> Result<Json<Memory>> {
    let view = only_view(&query, View::Full)?;
    app.db
        .read(move |tx| {
            reach::check(tx, &caller, &ids.0)?;
            get(tx, &caller.workspace, &ids, view)
        })
        .await
        .map(Json)
}

/// `POST /v1/memory_stores/{memory_store_id}/memories/{memory_id}`.
pub async fn update(
    State(app): State<App>,
    caller: CallerOrWorker,
    PathAndQuery(ids, query): PathAndQuery<Ids>,
    body: BodyOnly,
) -> Result<Json<Memory>> {
    let view = only_view(&query, View::Basic)?;
    let update = body.read(UpdateMemory::read)?;
    let set = move |tx: &mut Tx<'_>| {
        let by = reach::writer(tx, &caller, &ids.0)?;
        let mut writing = Writing::open(tx, &caller.workspace, &ids.0)?;
        let memory = writing.memory(tx, &ids.1)?;
        check_precondition(update.precondition.as_deref(), &memory)?;
        writing.update(tx, &by, &memory, update.path.as_deref(), update.content.as_deref())?;
        get(tx, &caller.workspace, &ids, view)
    };
    app.db.write(set).await.map(Json)
}

/// `DELETE /v1/memory_stores/{memory_store_id}/memories/{memory_id}`. Also in a store that is archived.
pub async fn delete(
    State(app): State<App>,
    caller: CallerOrWorker,
    PathAndQuery(ids, query): PathAndQuery<Ids>,
) -> Result<Json<Deleted>> {
    let expected = query.text("expected_content_sha256").map(str::to_owned);
    query.finish()?;
    if let Some(hash) = &expected {
        check_hash(hash).map_err(|message| Error::invalid(format_args!("expected_content_sha256: {message}")))?;
    }
    let remove = move |tx: &mut Tx<'_>| {
        let by = reach::writer(tx, &caller, &ids.0)?;
        let mut writing = Writing::get(tx, &caller.workspace, &ids.0)?;
        let memory = writing.memory(tx, &ids.1)?;
        check_precondition(expected.as_deref(), &memory)?;
        writing.delete(tx, &by, &memory)?;
        Ok(Deleted::new("memory_deleted", &ids.1))
    };
    app.db.write(remove).await.map(Json)
}

/// A page of memories. Recorded: `prefixes` is there and empty, whatever was asked for.
#[derive(Serialize)]
pub struct MemoryPage {
    data: Vec<MemoryListItem>,
    prefixes: [&'static str; 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
}

/// `GET /v1/memory_stores/{memory_store_id}/memories`. The newest first; a folder stands where its newest memory does.
pub async fn list(
    State(app): State<App>,
    caller: CallerOrWorker,
    PathAndQuery(store, query): PathAndQuery<String>,
) -> Result<Json<MemoryPage>> {
    let view = view(&query, View::Basic)?;
    let prefix = query.text("path_prefix").map(str::to_owned);
    if prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/') || !prefix.ends_with('/')) {
        return Err(Error::invalid("path_prefix must be segment-aligned and end with /"));
    }
    let is_shallow = depth(&query, prefix.is_some())? == 1;
    let mut paging = paging(&query)?;
    if view == View::Full {
        paging.limit = paging.limit.min(MAX_FULL_PAGE);
    }
    let read = move |tx: &mut Tx<'_>| {
        reach::check(tx, &caller, &store)?;
        STORES.get(tx, &caller.workspace, &store)?;
        let below = prefix.as_deref().unwrap_or("/");
        let page = if is_shallow {
            let rows = children(tx, &store, below, view, &paging)?;
            paging.page(rows, |(key, _)| key.clone())
        } else {
            let rows = under(&store, below, view).page(tx, "m.id", &paging, from_row)?;
            let item = |memory: Memory| (memory.id.to_string(), MemoryListItem::Memory(Box::new(memory)));
            let rows = Rows { rows: rows.rows.into_iter().map(item).collect(), more: rows.more };
            paging.page(rows, |(key, _)| key.clone())
        };
        let data = page.data.into_iter().map(|(_, item)| item).collect();
        Ok(MemoryPage { data, prefixes: [], next_page: page.next_page })
    };
    app.db.read(read).await.map(Json)
}

/// How deep a list goes: 0 is all the way.
fn depth(query: &Query, has_prefix: bool) -> Result<i64> {
    let Some(depth) = query.integer("depth", i64::MIN, i64::MAX)? else { return Ok(0) };
    match depth {
        0 if has_prefix => Err(Error::invalid("depth: must be greater than or equal to 1")),
        0 | 1 => Ok(depth),
        _ => Err(Error::invalid("depth must be 0 or 1 when provided")),
    }
}

/// The memories whose paths begin with `prefix`.
fn under(store: &str, prefix: &str, view: View) -> Select {
    let mut select = Select::new(sql(view), store);
    let folder = &prefix[..prefix.len() - 1];
    if !folder.is_empty() {
        let (from, to) = write::below(folder);
        select.text("m.path >=", Some(from));
        select.text("m.path <", Some(to));
    }
    select
}

/// The memories and the folders right below `prefix`, each with its place in the list. A store has few enough memories to
/// look at each path below it.
fn children(
    tx: &mut Tx<'_>,
    store: &str,
    prefix: &str,
    view: View,
    paging: &Paging,
) -> Result<Rows<(String, MemoryListItem)>> {
    let (from, to) = write::below(&prefix[..prefix.len() - 1]);
    let paths = "SELECT id, path FROM memories WHERE store_id = $1 AND path >= $2 AND path < $3";
    let mut all: Vec<(String, String)> =
        tx.all(paths, vals![store, &from, &to], |row| Ok((row.text("id")?, row.text("path")?)))?;
    all.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    let mut folders: HashSet<String> = HashSet::new();
    let mut keys: Vec<(String, Option<String>)> = Vec::new();
    for (id, path) in all {
        match path[prefix.len()..].find('/') {
            None => keys.push((id, None)),
            Some(end) => {
                let folder = &path[..=prefix.len() + end];
                if !folders.contains(folder) {
                    folders.insert(folder.to_owned());
                    keys.push((id, Some(folder.to_owned())));
                }
            }
        }
    }
    keys.retain(|(key, _)| paging.after().is_none_or(|after| key.as_str() < after));
    let more = keys.len() as i64 > paging.limit;
    keys.truncate(usize::try_from(paging.limit).unwrap_or(0));
    let ids: Vec<&str> = keys.iter().filter(|(_, folder)| folder.is_none()).map(|(id, _)| id.as_str()).collect();
    let mut memories = HashMap::new();
    if !ids.is_empty() {
        let mut select = Select::new(sql(view), store);
        select.any_of("m.id", &ids);
        let first = Paging { cursor: None, ..paging.clone() };
        let rows = select.page(tx, "m.id", &first, from_row)?.rows;
        memories.extend(rows.into_iter().map(|memory| (memory.id.to_string(), memory)));
    }
    let item = |(key, folder): (String, Option<String>)| {
        let item = match folder {
            Some(path) => MemoryListItem::Prefix(MemoryPrefix { path, r#type: "memory_prefix" }),
            None => MemoryListItem::Memory(Box::new(memories.remove(&key)?)),
        };
        Some((key, item))
    };
    Ok(Rows { rows: keys.into_iter().filter_map(item).collect(), more })
}

/// `view`, for an operation whose query has nothing else.
fn only_view(query: &Query, default: View) -> Result<View> {
    let view = view(query, default)?;
    query.finish()?;
    Ok(view)
}

fn check_precondition(hash: Option<&str>, memory: &write::Head) -> Result<()> {
    if hash.is_none_or(|hash| hash == memory.content_sha256) { Ok(()) } else { Err(Error::MemoryPrecondition) }
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, (store, id): &Ids, view: View) -> Result<Memory> {
    STORES.get(tx, workspace, store)?;
    let sql = format!("{} AND m.id = $2", sql(view));
    tx.one_or(&sql, vals![store, id], from_row, || write::not_found(id))
}

macro_rules! columns {
    () => {
        "SELECT m.id, m.store_id, m.version_id, m.path, m.content_sha256, m.content_size_bytes, m.created_at, m.updated_at, "
    };
}

fn sql(view: View) -> &'static str {
    match view {
        View::Basic => concat!(columns!(), "CAST(NULL AS TEXT) AS content FROM memories m WHERE m.store_id = $1"),
        View::Full => concat!(
            columns!(),
            "v.content FROM memories m JOIN memory_versions v ON v.id = m.version_id WHERE m.store_id = $1"
        ),
    }
}

fn from_row(row: &Row<'_>) -> Result<Memory> {
    Ok(Memory {
        id: row.id("id")?,
        r#type: "memory",
        memory_store_id: row.id("store_id")?,
        memory_version_id: row.id("version_id")?,
        path: row.text("path")?,
        content_sha256: row.text("content_sha256")?,
        content_size_bytes: row.int("content_size_bytes")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        content: row.opt_text("content")?,
    })
}
