//! Agents and their versions.

use std::fmt;

use axum::extract::State;
use rota_api::{
    Time,
    agent::{
        Agent, AgentChoice, AgentConfig, AgentReference, CreateAgent, Multiagent, SessionAgent, Skill, ThreadAgent,
        UpdateAgent,
    },
    decode::Patch,
    id::{AgentId, Id, WorkspaceId, is_plausible},
    webhook::EventType,
};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    db::{Row, Select, Tx, vals},
    error::{Error, Result},
    limits::{MAX_AGENT_BYTES, PAGE_BYTES},
    model::Offer,
    page::{Order, Page, Paging, Rows},
    request::{Body, Caller, Json, List, Path, PathAndQuery, Query, query::CREATED_BETWEEN},
    resources::{skills, webhook_outbox},
};

/// `POST /v1/agents`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Agent>> {
    let new = body.read(CreateAgent::read)?;
    let offer = app.offer();
    app.db.write(move |tx| insert(tx, &offer, &caller.workspace, &new)).await.map(Json)
}

/// `GET /v1/agents/{agent_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(id, query): PathAndQuery<String>,
) -> Result<Json<Agent>> {
    let version = query.integer("version", 1, i64::MAX)?;
    query.finish()?;
    check_id(&id)?;
    app.db.read(move |tx| get(tx, &caller.workspace, &id, version)).await.map(Json)
}

/// `POST /v1/agents/{agent_id}`.
pub async fn update(State(app): State<App>, caller: Caller, Path(id): Path<String>, body: Body) -> Result<Json<Agent>> {
    let update = body.read(UpdateAgent::read)?;
    check_id(&id)?;
    let offer = app.offer();
    app.db.write(move |tx| set(tx, &offer, &caller.workspace, &id, &update)).await.map(Json)
}

/// `GET /v1/agents`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<Listed>>> {
    let mut select = Select::new(&format!("{SELECT} AND v.version = a.version"), &caller.workspace);
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "a.archived_at IS NULL");
    query.created_at::<AgentId>(&mut select, "a.id", &CREATED_BETWEEN)?;
    let list = List { select, key: "a.id", paging: query.paging(20, 100, Order::Desc)? };
    list.page(&app.db, listed, |agent| agent.id.to_string()).await
}

/// `GET /v1/agents/{agent_id}/versions`.
pub async fn versions(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(id, query): PathAndQuery<String>,
) -> Result<Json<Page<Listed>>> {
    let paging = query.paging(20, 100, Order::Desc)?;
    check_id(&id)?;
    app.db.read(move |tx| version_page(tx, &caller.workspace, &id, &paging)).await.map(Json)
}

/// What can be no id is told from an agent that is not there.
pub(super) fn check_id(id: &str) -> Result<()> {
    if is_plausible::<AgentId>(id) { Ok(()) } else { Err(Error::invalid("Invalid agent ID.")) }
}

fn insert(tx: &mut Tx<'_>, offer: &Offer, workspace: &WorkspaceId, new: &CreateAgent) -> Result<Agent> {
    let id = AgentId::new(tx.now());
    tx.audit_made(&id);
    let mut config = new.config.clone();
    config.multiagent = new.multiagent.as_ref().map(|roster| resolve(tx, workspace, roster, &id, 1)).transpose()?;
    offer.check("model", &config.model.id)?;
    check_skills(tx, workspace, &config.skills)?;
    tx.execute(
        "INSERT INTO agents (id, workspace_id, version, created_at) VALUES ($1, $2, 1, $3)",
        vals![&id, workspace, tx.now()],
    )?;
    insert_version(tx, &id, 1, &config)?;
    webhook_outbox::emit(tx, workspace, [EventType::AgentCreated], &id)?;
    get(tx, workspace, id.as_ref(), None)
}

/// That the skills of an agent are there.
pub fn check_skills(tx: &mut Tx<'_>, workspace: &WorkspaceId, skills: &[Skill]) -> Result<()> {
    match skills::missing(tx, workspace, skills)? {
        Some(missing) => Err(misconfigured(skills::words(missing))),
        None => Ok(()),
    }
}

/// The error for an agent that refers to what it cannot use.
fn misconfigured(why: impl fmt::Display) -> Error {
    Error::invalid(format_args!("Agent has invalid configuration: {why}"))
}

/// Looks up the agents of a roster and pins their versions. `id` at `version` is the agent that carries the roster.
fn resolve(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    roster: &Multiagent<AgentChoice>,
    id: &AgentId,
    version: i64,
) -> Result<Multiagent> {
    let resolved = roster.try_map(|choice| {
        if *choice == AgentChoice::Itself {
            return Ok(AgentReference::new(id.clone(), version));
        }
        let (reference, config) = member(tx, workspace, choice)?;
        if config.multiagent.is_some() {
            let id = reference.id;
            return Err(misconfigured(format_args!("subagent {id} has its own subagents; maximum depth is 1")));
        }
        Ok(reference)
    })?;
    // Subagents and workflows are separate lists; only within one may an agent not be named twice.
    if let Multiagent::Coordinator { .. } = &resolved {
        let agents = resolved.agents();
        if let Some(twice) = agents.iter().enumerate().find(|(i, a)| agents[..*i].iter().any(|b| b.id == a.id)) {
            return Err(misconfigured(format_args!("subagent {} referenced multiple times", twice.1.id)));
        }
    }
    Ok(resolved)
}

/// A subagent of a roster.
fn member(tx: &mut Tx<'_>, workspace: &WorkspaceId, choice: &AgentChoice) -> Result<(AgentReference, AgentConfig)> {
    if let AgentChoice::Latest(id) | AgentChoice::Pinned(id, _) = choice
        && !is_plausible::<AgentId>(id)
    {
        return Err(misconfigured(format_args!("subagent {id} is not a valid agent ID")));
    }
    chosen(tx, workspace, choice)?.map_err(|unusable| match (unusable, choice) {
        (Unusable::Archived(id), _) => misconfigured(format_args!("subagent {id} is archived")),
        (Unusable::Missing, AgentChoice::Pinned(id, version)) => {
            misconfigured(format_args!("subagent {id} version {version} not found"))
        }
        (Unusable::Missing, AgentChoice::Latest(id)) => misconfigured(format_args!("subagent {id} not found")),
        (Unusable::Missing, AgentChoice::Itself) => Error::reference("agent"),
    })
}

/// Why an agent that a body refers to cannot be used. Each resource has words of its own for it.
pub enum Unusable {
    /// There is no such agent or version.
    Missing,
    /// It is archived.
    Archived(AgentId),
}

/// The agent and version that a body refers to, or why it cannot be used.
pub fn chosen(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    choice: &AgentChoice,
) -> Result<Result<(AgentReference, AgentConfig), Unusable>> {
    let (id, version) = match choice {
        AgentChoice::Latest(id) => (id, None),
        AgentChoice::Pinned(id, version) => (id, Some(*version)),
        AgentChoice::Itself => return Ok(Err(Unusable::Missing)),
    };
    let Some(agent) = find(tx, workspace, id, version)? else { return Ok(Err(Unusable::Missing)) };
    if agent.archived_at.is_some() {
        return Ok(Err(Unusable::Archived(agent.id)));
    }
    Ok(Ok((AgentReference::new(agent.id, agent.version), agent.config)))
}

/// The error for an archived agent that something would change, or be bound to.
pub fn archived() -> Error {
    Error::invalid("Cannot modify archived agent")
}

fn insert_version(tx: &mut Tx<'_>, id: &AgentId, version: i64, config: &AgentConfig) -> Result<()> {
    let multiagent = config
        .multiagent
        .as_ref()
        .map(|roster| {
            roster.try_map(|member| {
                let of_itself = member.id == *id;
                let config = if of_itself { config.clone() } else { version_config(tx, member)? };
                Ok::<_, Error>(ThreadAgent::new(member.id.clone(), member.version, config))
            })
        })
        .transpose()?;
    let snapshot = SessionAgent { primary: ThreadAgent::new(id.clone(), version, config.clone()), multiagent };
    let snapshot = serde_json::to_string(&snapshot)?;
    check_size(&snapshot)?;
    let roster: Vec<&AgentReference> = config.multiagent.iter().flat_map(Multiagent::agents).collect();
    let skills = (!config.skills.is_empty()).then(|| serde_json::to_string(&config.skills)).transpose()?;
    let roster = (!roster.is_empty()).then(|| serde_json::to_string(&roster)).transpose()?;
    tx.execute(
        "INSERT INTO agent_versions (agent_id, version, model, config, snapshot, roster, skills, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        vals![
            id,
            version,
            &config.model.id,
            &serde_json::to_string(config)?,
            &snapshot,
            roster.as_deref(),
            skills.as_deref(),
            tx.now()
        ],
    )?;
    Ok(())
}

/// A snapshot is kept with its version and read with each of its sessions, so it has a bound.
pub fn check_size(snapshot: &str) -> Result<()> {
    if snapshot.len() <= MAX_AGENT_BYTES {
        return Ok(());
    }
    let mebibytes = MAX_AGENT_BYTES / 1024 / 1024;
    Err(Error::invalid(format_args!(
        "an agent may have no more than {mebibytes} MB as JSON, together with the agents of its roster: shorten its tools"
    )))
}

/// Keeps the agent `id` from being changed or archived until this transaction ends.
pub fn lock(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    tx.lock("agents WHERE workspace_id = $1 AND id = $2", vals![workspace, id])
}

fn version_config(tx: &mut Tx<'_>, agent: &AgentReference) -> Result<AgentConfig> {
    let sql = "SELECT config FROM agent_versions WHERE agent_id = $1 AND version = $2";
    tx.one_or(sql, vals![&agent.id, agent.version], |row| row.json("config"), || Error::reference("agent"))
}

/// The agent `id` of a workspace, at its latest version or the one that is named.
///
/// # Errors
/// 404 when there is none.
pub fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, version: Option<i64>) -> Result<Agent> {
    find(tx, workspace, id, version)?.ok_or_else(|| match version {
        Some(version) => Error::NotFound(format!("Agent `{id}` has no version {version}.")),
        None => Error::not_found("Agent", id),
    })
}

fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, version: Option<i64>) -> Result<Option<Agent>> {
    let sql = format!("{SELECT} AND a.id = $2 AND v.version = coalesce($3, a.version)");
    tx.one(&sql, vals![workspace, id, version], from_row)
}

fn set(tx: &mut Tx<'_>, offer: &Offer, workspace: &WorkspaceId, id: &str, update: &UpdateAgent) -> Result<Agent> {
    lock(tx, workspace, id)?;
    let stored = get(tx, workspace, id, None)?;
    if stored.archived_at.is_some() {
        return Err(archived());
    }
    if let Some(seen) = update.version
        && seen != stored.version
    {
        let message = "Concurrent modification detected. Please fetch the latest version and retry.";
        return Err(Error::Conflict(message.to_owned()));
    }
    let (id, next) = (stored.id.clone(), stored.version + 1);
    let mut config = update.over(&stored.config)?;
    match &update.multiagent {
        Patch::Keep => {}
        Patch::Clear => config.multiagent = None,
        // A roster that names the agent itself means the version that carries it; only another change makes a new one.
        Patch::Set(fields) => {
            let roster = fields.over(stored.config.multiagent.as_ref())?;
            config.multiagent = Some(resolve(tx, workspace, &roster, &id, stored.version)?);
            if config != stored.config {
                config.multiagent = Some(resolve(tx, workspace, &roster, &id, next)?);
            }
        }
    }
    if config == stored.config {
        return Ok(stored);
    }
    offer.check("model", &config.model.id)?;
    if config.skills != stored.config.skills {
        check_skills(tx, workspace, &config.skills)?;
    }
    insert_version(tx, &id, next, &config)?;
    tx.audit_changed(&stored.config, &config)?;
    tx.execute("UPDATE agents SET version = $3 WHERE workspace_id = $1 AND id = $2", vals![workspace, &id, next])?;
    webhook_outbox::emit(tx, workspace, [EventType::AgentUpdated], &id)?;
    get(tx, workspace, id.as_ref(), None)
}

/// A page of versions, newest first; the cursor is the version.
fn version_page(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, paging: &Paging) -> Result<Page<Listed>> {
    get(tx, workspace, id, None)?;
    let after = paging.after().map(str::parse).transpose().map_err(|_| Error::invalid("page: Invalid page cursor."))?;
    let (rows, cut) = tx.within(
        PAGE_BYTES,
        &format!("{SELECT} AND a.id = $2 AND v.version < $3 ORDER BY v.version DESC LIMIT $4"),
        vals![workspace, id, after.unwrap_or(i64::MAX), paging.limit + 1],
        listed,
    )?;
    Ok(paging.page(Rows::new(rows, paging.limit, cut), |agent| agent.version.to_string()))
}

/// Archives an agent. Whether it was open until now.
pub(super) fn set_archived(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<(Agent, bool)> {
    let now = tx.now();
    let archives = tx.changes(
        "UPDATE agents SET archived_at = $3 WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL",
        vals![workspace, id, now],
    )?;
    let agent = get(tx, workspace, id, None)?;
    if archives {
        webhook_outbox::emit(tx, workspace, [EventType::AgentArchived], id)?;
    }
    Ok((agent, archives))
}

const SELECT: &str = "SELECT a.id, v.version, a.created_at, v.created_at AS written_at, a.archived_at, v.config
    FROM agents a JOIN agent_versions v ON v.agent_id = a.id WHERE a.workspace_id = $1";

fn from_row(row: &Row<'_>) -> Result<Agent> {
    Ok(head(row)?.with(row.json("config")?))
}

/// An agent of a list. Its configuration, which may be large, is told as it is stored and not read.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listed {
    json: Box<RawValue>,
    #[serde(skip)]
    id: AgentId,
    #[serde(skip)]
    version: i64,
}

fn listed(row: &Row<'_>) -> Result<Listed> {
    let head = head(row)?;
    let (fields, config) = (serde_json::to_string(&head)?, row.raw("config")?);
    let (fields, config) = (fields.trim_end_matches('}'), config.get().trim_start_matches('{'));
    let json = RawValue::from_string(format!("{fields},{config}"))?;
    Ok(Listed { json, id: head.id, version: head.version })
}

fn head(row: &Row<'_>) -> Result<Agent<()>> {
    let archived_at: Option<Time> = row.opt_time("archived_at")?;
    let written_at = row.time("written_at")?;
    Ok(Agent {
        id: row.id("id")?,
        r#type: "agent",
        version: row.int("version")?,
        created_at: row.time("created_at")?,
        updated_at: archived_at.unwrap_or(written_at),
        archived_at,
        config: (),
    })
}
