//! What is mounted into a session: its resources.
//!
//! They are kept with the session, as it shows them. What belongs to a kind of resource and is not shown is in a table of its
//! own: of a file the session's copy, of a repository its token.

use std::collections::HashMap;

use axum::extract::State;
use rota_api::{
    Deleted,
    agent::{BuiltInTool, ThreadAgent, built_in},
    id::{FileId, Id, SessionId, SessionResourceId, WorkspaceId},
    repository::{Repository, RepositoryResource, WORKSPACE},
    secret::Secret,
    session::{
        AddResource, FileResource, MAX_RESOURCES, Resource, Status, UPLOADS, UpdateResource, overlap, overlapping,
        upload_path,
    },
};
use serde_json::{Value, value::to_raw_value};

use super::{control, lock, not_found};
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    page::{Order, Page, Rows},
    request::{Body, Caller, Json, Path, PathAndQuery, SessionRef},
    resources::{
        files::{self, Source},
        memory_stores::attach::{self, StoreResource, Unattachable},
        repositories, skills,
    },
    vault::DataKey,
};

/// The most that a page of resources has, and what it has unless fewer are asked for.
const PAGE: i64 = 1000;

/// `GET /v1/sessions/{session_id}/resources`.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(SessionRef(id), query): PathAndQuery<SessionRef>,
) -> Result<Json<Page<Value>>> {
    let paging = query.paging(PAGE, PAGE, Order::Asc)?;
    let stored = app.db.read(move |tx| stored(tx, &caller.workspace, &id)).await?;
    let after = paging.after().and_then(|place| place.parse::<usize>().ok()).map_or(0, |place| place + 1);
    let rows: Vec<(usize, Value)> = stored.into_iter().enumerate().skip(after).collect();
    let page = paging.page(Rows::new(rows, paging.limit, false), |(place, _)| place.to_string());
    Ok(Json(Page { data: page.data.into_iter().map(|(_, resource)| resource).collect(), next_page: page.next_page }))
}

/// `POST /v1/sessions/{session_id}/resources`: a file.
pub async fn add(
    State(app): State<App>,
    caller: Caller,
    Path(SessionRef(id)): Path<SessionRef>,
    body: Body,
) -> Result<Json<FileResource>> {
    let new = body.read(AddResource::read)?;
    app.db.write(move |tx| add_file(tx, &caller.workspace, &id, &new)).await.map(Json)
}

/// `GET /v1/sessions/{session_id}/resources/{resource_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path((SessionRef(id), resource)): Path<(SessionRef, String)>,
) -> Result<Json<Value>> {
    app.db
        .read(move |tx| {
            let stored = stored(tx, &caller.workspace, &id)?;
            stored.into_iter().find(|found| found["id"] == *resource).ok_or_else(|| no_resource(&resource))
        })
        .await
        .map(Json)
}

/// `POST /v1/sessions/{session_id}/resources/{resource_id}`: the credential of a repository.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path((SessionRef(id), resource)): Path<(SessionRef, String)>,
    body: Body,
) -> Result<Json<Value>> {
    let UpdateResource { authorization_token: token } = body.read(UpdateResource::read)?;
    let (of, at, wanted) = (caller.workspace.clone(), id.clone(), resource.clone());
    app.db
        .read(move |tx| {
            let stored = stored(tx, &of, &at)?;
            let found = stored.into_iter().find(|found| found["id"] == *wanted).ok_or_else(|| no_resource(&wanted))?;
            match found["type"].as_str().unwrap_or_default() {
                "github_repository" => Ok(()),
                kind => {
                    Err(Error::invalid(format_args!("authorization_token: a resource of type \"{kind}\" has none")))
                }
            }
        })
        .await?;
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    app.db.write(move |tx| replace_token(tx, &key, (&caller.workspace, &id), &resource, &token)).await.map(Json)
}

/// `DELETE /v1/sessions/{session_id}/resources/{resource_id}`.
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path((SessionRef(id), resource)): Path<(SessionRef, String)>,
) -> Result<Json<Deleted>> {
    app.db.write(move |tx| remove(tx, &caller.workspace, &id, &resource)).await.map(Json)
}

/// Why a session cannot be given a resource.
#[derive(Debug)]
pub enum Unavailable {
    /// No file has this id, or its bytes are gone.
    File(String),
    /// It cannot have this memory store.
    MemoryStore(Unattachable),
}

/// A resource that is there, as it was found: what a new session is given in the same transaction, and nobody reads again.
pub enum Available {
    /// A file, and where it is to be mounted below the folder of uploads.
    File {
        /// The file.
        file: Source,
        /// Its path there.
        path: String,
    },
    /// A memory store, as the session will show it.
    MemoryStore(StoreResource),
    /// A repository: whether it is there shows when it is cloned. Its token is there before it is attached.
    Repository(Repository),
}

/// What `resources` name, in their order, or the first that is not there. Files stay so until the transaction ends.
pub fn available(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    resources: &[Resource],
) -> Result<Result<Vec<Available>, Unavailable>> {
    let mut ids: Vec<&str> = resources.iter().filter_map(file_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let (files, stores) = (files::ask_mountable(tx, workspace, &ids)?, attach::ask(tx, workspace, resources)?);
    let found: HashMap<String, Source> =
        files::mountable(tx, files)?.into_iter().map(|file| (file.id.to_string(), file)).collect();
    if let Some(missing) = resources.iter().filter_map(file_id).find(|id| !found.contains_key(*id)) {
        return Ok(Err(Unavailable::File(missing.to_owned())));
    }
    let mut stores = match attach::resolve(tx, stores, resources)? {
        Ok(stores) => stores.into_iter(),
        Err(why) => return Ok(Err(Unavailable::MemoryStore(why))),
    };
    let mut available = Vec::with_capacity(resources.len());
    for resource in resources {
        match resource {
            Resource::File { file_id, mount_path } => {
                let path = upload_path(mount_path.as_deref(), file_id).map_err(Error::invalid)?;
                available.extend(found.get(file_id).map(|file| Available::File { file: file.clone(), path }));
            }
            Resource::MemoryStore { .. } => available.extend(stores.next().map(Available::MemoryStore)),
            Resource::GithubRepository(repository) => available.push(Available::Repository(repository.clone())),
        }
    }
    Ok(Ok(available))
}

fn file_id(resource: &Resource) -> Option<&str> {
    if let Resource::File { file_id, .. } = resource { Some(file_id) } else { None }
}

/// Gives a new session its resources. What it shows of them, as JSON.
pub(super) fn attach_all(
    tx: &mut Tx<'_>,
    key: Option<&DataKey>,
    workspace: &WorkspaceId,
    session: &SessionId,
    resources: &[Available],
) -> Result<String> {
    let mut attached = Vec::with_capacity(resources.len());
    let mut stores = 0;
    for (place, resource) in (0..).zip(resources) {
        attached.push(match resource {
            Available::File { file, path } => to_raw_value(&mount(tx, workspace, session, file, path)?)?,
            Available::MemoryStore(store) => {
                attach::attach(tx, workspace, session, stores, store)?;
                stores += 1;
                to_raw_value(store)?
            }
            Available::Repository(repository) => {
                to_raw_value(&attach_repository(tx, key, (workspace, session), place, repository)?)?
            }
        });
    }
    Ok(serde_json::to_string(&attached)?)
}

fn mount(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    file: &Source,
    path: &str,
) -> Result<FileResource> {
    let now = tx.now();
    let copy = files::copy(tx, workspace, file, session, path)?;
    Ok(FileResource {
        id: SessionResourceId::new(now),
        r#type: "file",
        file_id: copy,
        mount_path: format!("{UPLOADS}/{path}"),
        created_at: now,
        updated_at: now,
    })
}

fn attach_repository(
    tx: &mut Tx<'_>,
    key: Option<&DataKey>,
    of: (&WorkspaceId, &SessionId),
    place: i64,
    repository: &Repository,
) -> Result<RepositoryResource> {
    let now = tx.now();
    let id = SessionResourceId::new(now);
    let path = repository.path().map_err(Error::invalid)?;
    repositories::attach(tx, key, of, (place, &id), &path, repository)?;
    Ok(RepositoryResource {
        id,
        r#type: "github_repository".to_owned(),
        url: repository.url.clone(),
        mount_path: format!("{WORKSPACE}/{path}"),
        checkout: repository.checkout.clone(),
        created_at: now,
        updated_at: now,
    })
}

/// Gives a repository of a session another token. The next try to clone it has that one.
fn replace_token(
    tx: &mut Tx<'_>,
    key: &DataKey,
    (workspace, session): (&WorkspaceId, &str),
    resource: &str,
    token: &Secret,
) -> Result<Value> {
    lock(tx, workspace, session)?;
    if control(tx, workspace, session)?.status == Status::Terminated {
        return Err(Error::invalid(format_args!("Session {session} is terminated and cannot be changed.")));
    }
    let mut resources = stored(tx, workspace, session)?;
    let found = resources.iter_mut().find(|found| found["id"] == *resource).ok_or_else(|| no_resource(resource))?;
    if !repositories::replace_token(tx, key, (workspace, session), resource, token)? {
        return Err(no_resource(resource));
    }
    found["updated_at"] = serde_json::to_value(tx.now())?;
    let shown = found.clone();
    write(tx, workspace, session, &resources)?;
    Ok(shown)
}

/// The error for files that a body names and that are not there.
pub fn files_missing(files: &str) -> Error {
    Error::NotFound(format!("One or more files not found. Check that each `file_id` exists and is accessible: {files}"))
}

fn no_resource(id: &str) -> Error {
    Error::NotFound(format!("Resource not found: {id}"))
}

fn stored(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str) -> Result<Vec<Value>> {
    let sql = "SELECT resources FROM sessions WHERE workspace_id = $1 AND id = $2";
    tx.one_or(sql, vals![workspace, session], |row| row.json("resources"), || not_found(session))
}

fn add_file(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str, new: &AddResource) -> Result<FileResource> {
    lock(tx, workspace, session)?;
    let found = control(tx, workspace, session)?;
    if found.status == Status::Terminated {
        return Err(Error::invalid(format_args!("Session {session} is terminated and cannot be changed.")));
    }
    check_reads(tx, workspace, &found.id)?;
    check_file_id(&new.file_id)?;
    let mut resources = stored(tx, workspace, session)?;
    if resources.len() >= MAX_RESOURCES {
        return Err(Error::invalid(format_args!("a session has at most {MAX_RESOURCES} resources")));
    }
    for mounted in resources.iter().filter(|resource| resource["type"] == "file") {
        let full = mounted["mount_path"].as_str().unwrap_or_default();
        let at = full.strip_prefix(UPLOADS).unwrap_or(full).trim_start_matches('/');
        if overlap(at, &new.path) {
            return Err(Error::invalid(overlapping(at, &new.path)));
        }
    }
    let asked = files::ask_mountable(tx, workspace, &[new.file_id.as_str()])?;
    let file = files::mountable(tx, asked)?.pop();
    let added = mount(tx, workspace, &found.id, &file.ok_or_else(|| files_missing(&new.file_id))?, &new.path)?;
    tx.audit_made(&added.id);
    resources.push(serde_json::to_value(&added)?);
    write(tx, workspace, session, &resources)?;
    Ok(added)
}

/// The error for what is no id of a file.
pub(super) fn check_file_id(id: &str) -> Result<()> {
    if rota_api::id::is_plausible::<FileId>(id) {
        return Ok(());
    }
    Err(Error::invalid(format_args!("Invalid file resource: invalid file_id: {id:?}")))
}

/// That the agent of a session can read what it is given.
fn check_reads(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    let sql = "SELECT coalesce(s.agent, v.snapshot) FROM sessions s
         JOIN agent_versions v ON v.agent_id = s.agent_id AND v.version = s.agent_version
         WHERE s.workspace_id = $1 AND s.id = $2";
    let agent: Option<ThreadAgent> = tx.one(sql, vals![workspace, session], |row| row.json(0))?;
    if agent.is_some_and(|agent| built_in(&agent.tools, BuiltInTool::Read).is_some()) {
        return Ok(());
    }
    Err(Error::invalid(
        "Missing required tool: file resources require the read tool to be usable (enabled and not always_deny) on the \
         session's `agent_toolset`",
    ))
}

fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str, resource: &str) -> Result<Deleted> {
    lock(tx, workspace, session)?;
    let found = control(tx, workspace, session)?;
    if found.status == Status::Terminated {
        return Err(Error::invalid(format_args!("Session {session} is terminated and cannot be changed.")));
    }
    let mut resources = stored(tx, workspace, session)?;
    let place = resources.iter().position(|found| found["id"] == *resource).ok_or_else(|| no_resource(resource))?;
    let removed = resources.remove(place);
    if let Some(copy) = removed["file_id"].as_str() {
        files::remove(tx, workspace, copy)?;
    }
    if removed["type"] == "github_repository" {
        repositories::remove(tx, workspace, session, resource)?;
        skills::forget_found(tx, &found.id, resource)?;
    }
    write(tx, workspace, session, &resources)?;
    Ok(Deleted::new("session_resource_deleted", resource))
}

fn write(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str, resources: &[Value]) -> Result<()> {
    let resources = serde_json::to_string(resources)?;
    tx.send(
        "UPDATE sessions SET resources = $3, updated_at = $4 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, session, &resources, tx.now()],
    )
}
