//! Workspaces: what keeps the resources of one team from those of another. Administrator's keys manage them.

use axum::extract::State;
use rota_api::{
    audit::ActorType,
    id::{Id, WorkspaceId},
    metadata::Metadata,
    workspace::{
        CreateWorkspace, DISPLAY_COLOR, DataResidency, InferenceDataPrivacy, References, UpdateWorkspace, Workspace,
    },
};

use super::organization;
use crate::{
    app::App,
    db::{Also, Row, Select, Tx, vals},
    error::{Error, Result},
    limits::MAX_LISTED_IDS,
    page::{IdPage, Order},
    random,
    request::{Administrator, Body, Json, List, Path, Query},
};

/// The name of the workspace that a new server begins with.
const DEFAULT_NAME: &str = "Default";

/// `POST /v1/organizations/workspaces`.
pub async fn create(State(app): State<App>, _: Administrator, body: Body) -> Result<Json<Workspace>> {
    let fields = body.read(CreateWorkspace::read)?;
    app.db.write(move |tx| insert(tx, &fields)).await.map(Json)
}

/// `GET /v1/organizations/workspaces/{workspace_id}`.
pub async fn retrieve(State(app): State<App>, _: Administrator, Path(id): Path<String>) -> Result<Json<Workspace>> {
    app.db.read(move |tx| get(tx, &id)).await.map(Json)
}

/// `POST /v1/organizations/workspaces/{workspace_id}`.
pub async fn update(
    State(app): State<App>,
    _: Administrator,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Workspace>> {
    let update = body.read(UpdateWorkspace::read)?;
    app.db.write(move |tx| set(tx, &id, &update)).await.map(Json)
}

/// `GET /v1/organizations/workspaces`.
pub async fn list(State(app): State<App>, _: Administrator, query: Query) -> Result<Json<IdPage<Workspace>>> {
    let mut select = Select::everywhere(SELECT);
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    select.when(
        !query.boolean("include_default")?.unwrap_or(false),
        "id <> coalesce((SELECT default_workspace_id FROM organization), '')",
    );
    select.any_of("id", &query.texts("ids", MAX_LISTED_IDS)?);
    let list = List { select, key: "id", paging: query.id_paging::<WorkspaceId>(20, 1000, Order::Desc)? };
    list.by_ids(&app.db, from_row, |workspace| workspace.id.to_string()).await
}

fn insert(tx: &mut Tx<'_>, fields: &CreateWorkspace) -> Result<Workspace> {
    check_references(&fields.references)?;
    let now = tx.now();
    let id = WorkspaceId::new(now);
    tx.audit_made(&id);
    tx.audit_in(&id);
    tx.execute_unless_taken(
        "INSERT INTO workspaces (id, name, compartment_id, display_color, data_residency, tags, created_at,
             inference_data_privacy)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        vals![
            &id,
            &fields.name,
            &random::uuid()?,
            &fields.display_color,
            &serde_json::to_string(&fields.data_residency)?,
            &serde_json::to_string(&fields.tags)?,
            now,
            text_of(fields.inference_data_privacy.as_ref())?.as_deref()
        ],
        || name_taken(&fields.name),
    )?;
    get(tx, id.as_ref())
}

fn name_taken(name: &str) -> Error {
    Error::Conflict(format!("A workspace named \"{name}\" already exists."))
}

/// This server knows neither keys of customers nor user profiles.
fn check_references(references: &References) -> Result<()> {
    if references.user_profile.is_some() {
        return Err(Error::reference("user profile"));
    }
    if references.external_key.is_some() {
        return Err(Error::invalid("external_key_id: this server encrypts no workspace with a key of a customer"));
    }
    Ok(())
}

/// The workspace `id`.
///
/// # Errors
/// 404 when there is none.
pub fn get(tx: &mut Tx<'_>, id: &str) -> Result<Workspace> {
    let missing = || Error::not_found("Workspace", id);
    tx.one_or(&format!("{SELECT} AND id = $1"), vals![id], from_row, missing)
}

fn set(tx: &mut Tx<'_>, id: &str, update: &UpdateWorkspace) -> Result<Workspace> {
    tx.lock("workspaces WHERE id = $1", vals![id])?;
    let stored = get(tx, id)?;
    if stored.archived_at.is_some() {
        return Err(Error::invalid(format_args!("Workspace `{id}` is archived and cannot be changed.")));
    }
    check_references(&update.references)?;
    let before = serde_json::to_value(&stored)?;
    let name = update.name.as_ref().unwrap_or(&stored.name);
    let data_residency = update.data_residency.over(stored.data_residency)?;
    let privacy = match &update.inference_data_privacy {
        Some(sent) => Some(sent.merged(&stored.inference_data_privacy.unwrap_or_default())?),
        None => stored.inference_data_privacy,
    };
    tx.execute_unless_taken(
        "UPDATE workspaces SET name = $2, display_color = $3, data_residency = $4, tags = $5, inference_data_privacy = $6
         WHERE id = $1",
        vals![
            id,
            name,
            update.display_color.as_ref().unwrap_or(&stored.display_color),
            &serde_json::to_string(&data_residency)?,
            &serde_json::to_string(&update.tags.over(&stored.tags)?)?,
            text_of(privacy.as_ref())?.as_deref()
        ],
        || name_taken(name),
    )?;
    let workspace = get(tx, id)?;
    tx.audit_in(&workspace.id);
    tx.audit_changed(&before, &workspace)?;
    Ok(workspace)
}

/// Archives a workspace. Whether it was open until now.
pub(super) fn set_archived(tx: &mut Tx<'_>, id: &str) -> Result<(Workspace, bool)> {
    if default_id(tx)?.is_some_and(|default| default.as_ref() == id) {
        return Err(Error::invalid("The default workspace cannot be archived."));
    }
    let now = tx.now();
    let archives =
        tx.changes("UPDATE workspaces SET archived_at = $2 WHERE id = $1 AND archived_at IS NULL", vals![id, now])?;
    let workspace = get(tx, id)?;
    tx.audit_in(&workspace.id);
    Ok((workspace, archives))
}

/// The workspace that the organization began with.
fn default_id(tx: &mut Tx<'_>) -> Result<Option<WorkspaceId>> {
    Ok(tx.one("SELECT default_workspace_id FROM organization", &[], |row| row.opt_id(0))?.flatten())
}

/// Whether there is any workspace: a server makes the first when it begins a store.
pub fn exist(tx: &mut Tx<'_>) -> Result<bool> {
    Ok(tx.one("SELECT 1 FROM workspaces LIMIT 1", &[], |_| Ok(()))?.is_some())
}

fn named(tx: &mut Tx<'_>, name: &str) -> Result<Option<WorkspaceId>> {
    tx.one("SELECT id FROM workspaces WHERE name = $1 AND archived_at IS NULL", vals![name], |row| row.id(0))
}

/// The workspace of that name, which is made when there is none; without a name, the default workspace.
pub fn named_or_new(tx: &mut Tx<'_>, name: Option<&str>) -> Result<WorkspaceId> {
    organization::id(tx)?;
    let default = default_id(tx)?;
    let (name, default) = match (name, default) {
        (None, Some(default)) => return Ok(default),
        (name, default) => (name.unwrap_or(DEFAULT_NAME), default),
    };
    if let Some(id) = named(tx, name)? {
        return Ok(id);
    }
    let fields = CreateWorkspace {
        name: name.to_owned(),
        display_color: DISPLAY_COLOR.to_owned(),
        data_residency: DataResidency::default(),
        inference_data_privacy: None,
        tags: Metadata::new(),
        references: References::default(),
    };
    let id = insert(tx, &fields)?.id;
    tx.audit_also(&Also {
        by: ActorType::Cascade,
        operation: "workspaces.create",
        resource: "workspace",
        id: id.as_ref(),
        workspace: Some(&id),
    });
    if default.is_none() {
        tx.execute("UPDATE organization SET default_workspace_id = $1", vals![&id])?;
    }
    Ok(id)
}

/// How it is stored where there is any.
fn text_of(privacy: Option<&InferenceDataPrivacy>) -> Result<Option<String>> {
    Ok(privacy.map(serde_json::to_string).transpose()?)
}

const SELECT: &str = "SELECT id, name, compartment_id, display_color, data_residency, tags, created_at, archived_at,
    inference_data_privacy FROM workspaces WHERE TRUE";

fn from_row(row: &Row<'_>) -> Result<Workspace> {
    Ok(Workspace {
        id: row.id("id")?,
        r#type: "workspace",
        name: row.text("name")?,
        compartment_id: row.text("compartment_id")?,
        display_color: row.text("display_color")?,
        data_residency: row.json("data_residency")?,
        inference_data_privacy: row.opt_json("inference_data_privacy")?,
        tags: row.json("tags")?,
        external_key_id: None,
        user_profile_id: None,
        created_at: row.time("created_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}

/// The id of the workspace that is named by its id, or by its name while it is not archived.
///
/// # Errors
/// 404 when there is none.
pub fn id_of(tx: &mut Tx<'_>, named: &str) -> Result<WorkspaceId> {
    let sql = if named.starts_with(WorkspaceId::PREFIX) {
        "SELECT id FROM workspaces WHERE id = $1"
    } else {
        "SELECT id FROM workspaces WHERE name = $1 AND archived_at IS NULL"
    };
    tx.one_or(sql, vals![named], |row| row.id(0), || Error::not_found("Workspace", named))
}
