//! Environments: where the tools of sessions run.

use axum::extract::State;
use rota_api::{
    Deleted,
    environment::{Environment, EnvironmentConfig, EnvironmentFields, Scope, UpdateEnvironment},
    id::{EnvironmentId, Id, WorkspaceId},
    webhook::EventType,
};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    db::{Row, Table, Tx, vals},
    error::{Error, Result},
    limits::MAX_ENVIRONMENT_BYTES,
    page::{NullPage, Order},
    request::{Body, Caller, Json, List, Path, Query},
    resources::{package_builds, webhook_outbox, work_queue},
};

/// `POST /v1/environments`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Environment>> {
    let fields = body.read(EnvironmentFields::read)?;
    app.db.write(move |tx| insert(tx, &caller.workspace, &fields)).await.map(Json)
}

/// `GET /v1/environments/{environment_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Environment>> {
    app.db.read(move |tx| ENVIRONMENTS.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/environments/{environment_id}`.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Environment>> {
    let update = body.read(UpdateEnvironment::read)?;
    app.db.write(move |tx| set(tx, &caller.workspace, &id, &update)).await.map(Json)
}

/// `GET /v1/environments`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<NullPage<Environment>>> {
    let mut select = ENVIRONMENTS.select(&caller.workspace);
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    let list = List { select, key: "id", paging: query.paging(20, 100, Order::Desc)? };
    list.null_page(&app.db, from_row, |environment| environment.id.to_string()).await
}

/// `POST /v1/environments/{environment_id}/archive`.
pub async fn archive(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Environment>> {
    app.db.write(move |tx| set_archived(tx, &caller.workspace, &id)).await.map(Json)
}

fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, fields: &EnvironmentFields) -> Result<Environment> {
    let now = tx.now();
    let id = EnvironmentId::new(now);
    tx.audit_made(&id);
    tx.execute_unless_taken(
        "INSERT INTO environments (id, workspace_id, name, description, config, metadata, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        vals![
            &id,
            workspace,
            &fields.name,
            fields.description.as_deref(),
            &config_text(&fields.config)?,
            &serde_json::to_string(&fields.metadata)?,
            now
        ],
        || name_taken(&fields.name),
    )?;
    webhook_outbox::emit(tx, workspace, [EventType::EnvironmentCreated], &id)?;
    ENVIRONMENTS.get(tx, workspace, id.as_ref())
}

fn name_taken(name: &str) -> Error {
    Error::Conflict(format!("An environment named \"{name}\" already exists in this workspace."))
}

/// The error for an environment that does not exist, or belongs to another workspace.
pub fn not_found(id: &str) -> Error {
    Error::NotFound(format!("Environment {id} not found."))
}

fn set(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdateEnvironment) -> Result<Environment> {
    ENVIRONMENTS.lock(tx, workspace, id)?;
    let stored = ENVIRONMENTS.get(tx, workspace, id)?;
    if stored.archived_at.is_some() {
        return Err(Error::Rejected {
            code: "environment_archived",
            message: format!("Environment `{id}` is archived and cannot be changed."),
        });
    }
    let before = serde_json::to_value(&stored)?;
    let Environment { name, description, config, metadata, scope, .. } = stored;
    let stored = EnvironmentFields { name, description, config, metadata, scope };
    let fields = update.over(&stored)?;
    if fields == stored {
        return ENVIRONMENTS.get(tx, workspace, id);
    }
    let now = tx.now();
    tx.execute_unless_taken(
        "UPDATE environments SET name = $3, description = $4, config = $5, metadata = $6, updated_at = $7
         WHERE workspace_id = $1 AND id = $2",
        vals![
            workspace,
            id,
            &fields.name,
            fields.description.as_deref(),
            &config_text(&fields.config)?,
            &serde_json::to_string(&fields.metadata)?,
            now
        ],
        || name_taken(&fields.name),
    )?;
    webhook_outbox::emit(tx, workspace, [EventType::EnvironmentUpdated], id)?;
    let environment = ENVIRONMENTS.get(tx, workspace, id)?;
    tx.audit_changed(&before, &environment)?;
    Ok(environment)
}

/// The configuration as it is stored.
fn config_text(config: &EnvironmentConfig) -> Result<String> {
    let text = serde_json::to_string(config)?;
    if text.len() <= MAX_ENVIRONMENT_BYTES {
        return Ok(text);
    }
    let kibibytes = MAX_ENVIRONMENT_BYTES / 1024;
    Err(Error::invalid(format_args!("config: value must be no more than {kibibytes} kB as JSON: name fewer packages")))
}

fn set_archived(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Environment> {
    if ENVIRONMENTS.archive(tx, workspace, id)? {
        webhook_outbox::emit(tx, workspace, [EventType::EnvironmentArchived], id)?;
    }
    ENVIRONMENTS.get(tx, workspace, id)
}

/// Deletes an environment; with `force` a self-hosted one although sessions use it.
///
/// # Errors
/// 404 when there is none; 409 when sessions use it.
pub fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, force: bool) -> Result<Deleted> {
    if config(tx, workspace, id)?.is_some_and(|config| config.is_self_hosted()) {
        if !force {
            check_unused(tx, workspace, id)?;
        }
        work_queue::end_all_of(tx, workspace, id)?;
    }
    ENVIRONMENTS.delete(tx, workspace, id)?;
    package_builds::forget(tx, workspace, id)?;
    webhook_outbox::emit(tx, workspace, [EventType::EnvironmentDeleted], id)?;
    Ok(Deleted::new("environment_deleted", id))
}

/// How many sessions of a workspace use a self-hosted environment.
const SESSIONS: &str = "SELECT count(*) FROM sessions
    WHERE workspace_id = $1 AND environment_id = $2 AND self_hosted = 1 AND status <> 'terminated'";

/// Sessions of a self-hosted environment wait for workers that find them through it. Those of a cloud environment go on
/// without it.
fn check_unused(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    if work_queue::has_queued(tx, workspace, id)? {
        return Err(Error::Conflict(
            "Cannot delete self-hosted environment with work in the queue. Either archive the environment first to allow the \
             queue to drain, or use force=true to delete immediately."
                .to_owned(),
        ));
    }
    let count = tx.one(SESSIONS, vals![workspace, id], |row| row.int(0))?.unwrap_or(0);
    let sessions = match count {
        0 => return Ok(()),
        1 => "1 active session".to_owned(),
        count => format!("{count} active sessions"),
    };
    Err(Error::Conflict(format!("Environment has {sessions}. Use force=true to delete anyway.")))
}

/// The environment that a body refers to, when sessions can be created in it: `None` when there is none or it is archived.
pub fn referenced(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
) -> Result<Option<(EnvironmentId, EnvironmentConfig)>> {
    let sql = "SELECT id, config FROM environments WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL";
    tx.one(sql, vals![workspace, id], |row| Ok((row.id("id")?, row.json("config")?)))
}

/// The name of the image that new sessions of an environment have.
pub fn image(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &EnvironmentId) -> Result<Option<String>> {
    let sql = "SELECT image FROM environments WHERE workspace_id = $1 AND id = $2";
    Ok(tx.one(sql, vals![workspace, id], |row| row.opt_text("image"))?.flatten())
}

/// What everybody who starts sessions asks of an environment.
pub struct Kind {
    /// Whether workers of the user run the tools.
    pub is_self_hosted: bool,
    /// Whether its network keeps nothing out that an agent may name.
    pub is_open: bool,
    /// What a sandbox of this server reaches, as JSON.
    pub network: Option<String>,
    /// What is installed in one, as JSON. `None`: nothing.
    pub packages: Option<String>,
}

/// Lists of packages of which each is empty, as they are stored.
const NO_PACKAGES: &str = r#"{"type":"packages","apt":[],"cargo":[],"gem":[],"go":[],"npm":[],"pip":[]}"#;

impl Kind {
    /// By the configuration as it is stored, which is not read whole: a deployment that starts has no time for it.
    pub fn of(config: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Tag<'a> {
            r#type: &'a str,
        }
        #[derive(Deserialize)]
        struct Tags<'a> {
            r#type: &'a str,
            #[serde(borrow)]
            networking: Option<&'a RawValue>,
            #[serde(borrow)]
            packages: Option<&'a RawValue>,
        }
        let Tags { r#type, networking, packages } = serde_json::from_str(config)?;
        // Most environments have none, and their lists are all empty.
        let packages = packages.filter(|raw| raw.get() != NO_PACKAGES);
        let network: Option<Tag<'_>> = networking.map(|raw| serde_json::from_str(raw.get())).transpose()?;
        Ok(Self {
            is_self_hosted: r#type == "self_hosted",
            is_open: network.is_none_or(|network| network.r#type == "unrestricted"),
            network: networking.map(|raw| raw.get().to_owned()),
            packages: packages.map(|raw| raw.get().to_owned()),
        })
    }
}

/// The configuration of an environment, archived or not; `None` once it is deleted.
pub fn config(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<EnvironmentConfig>> {
    let sql = "SELECT config FROM environments WHERE workspace_id = $1 AND id = $2";
    tx.one(sql, vals![workspace, id], |row| row.json("config"))
}

/// The rows of environments.
pub const ENVIRONMENTS: Table<Environment> = Table {
    name: "environments",
    columns: "id, name, description, config, metadata, created_at, updated_at, archived_at",
    read: from_row,
    missing: not_found,
};

fn from_row(row: &Row<'_>) -> Result<Environment> {
    Ok(Environment {
        id: row.id("id")?,
        r#type: "environment",
        name: row.text("name")?,
        description: row.opt_text("description")?,
        config: row.json("config")?,
        metadata: row.json("metadata")?,
        scope: Scope::Organization,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        archived_at: row.opt_time("archived_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, db::Db};

    #[test]
    fn packages_are_those_that_are_named() {
        let cloud = |packages| {
            let config = rota_api::environment::CloudConfig { packages, ..Default::default() };
            Kind::of(&serde_json::to_string(&EnvironmentConfig::Cloud(config)).unwrap()).unwrap().packages
        };
        let none = rota_api::environment::Packages::default();
        assert_eq!(cloud(none.clone()), None);
        let some = rota_api::environment::Packages { pip: vec!["a".to_owned()], ..none };
        assert_eq!(
            serde_json::from_str::<rota_api::environment::Packages>(&cloud(some.clone()).unwrap()).unwrap(),
            some
        );
    }

    #[tokio::test]
    async fn the_sessions_of_an_environment_are_counted_in_an_index() {
        let folder = tempfile::TempDir::new().unwrap();
        let (db, writer) = Db::open(folder.path(), Clock::System, Box::new(|_| {})).unwrap();
        let explain = |tx: &mut Tx<'_>| {
            tx.all(&format!("EXPLAIN QUERY PLAN {SESSIONS}"), vals!["wrkspc_1", "env_1"], |row| row.text(3))
        };
        let plan = db.read(explain).await.unwrap();
        assert_eq!(plan, ["SEARCH sessions USING INDEX sessions_environment (workspace_id=? AND environment_id=?)"]);
        drop(db);
        writer.join();
    }
}
