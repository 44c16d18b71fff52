//! Creating, changing and ending sessions.

use rota_api::{
    Deleted,
    agent::{AgentConfig, SessionAgent, check_tool_references},
    environment::EnvironmentConfig,
    event::EventBody,
    id::{EnvironmentId, SessionId, WorkspaceId},
    metadata::Metadata,
    session::{CreateSession, Overrides, Resource, Session, Status, UpdateSession},
    webhook::EventType,
};
use serde_json::Value;

use super::{
    NewSession, control, egress,
    events::{files, log},
    forget, get, insert, is_rate_limited, lock,
    resources::{Available, Unavailable, available, check_file_id, files_missing},
    status,
};
use crate::{
    app::FirePolicy,
    db::{Tx, vals},
    error::{Error, Result},
    resources::{
        agents::{self, Unusable},
        environments, repositories, skills, vaults,
        webhook_outbox::{self, Outbox},
    },
    vault::DataKey,
};

pub(super) fn create(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    new: &CreateSession,
    key: Option<&DataKey>,
) -> Result<Session> {
    let (agent, config) = agents::chosen(tx, workspace, &new.agent)?.map_err(|unusable| match unusable {
        Unusable::Missing => Error::reference("agent"),
        Unusable::Archived(id) => {
            Error::invalid(format_args!("agent {id} is archived and cannot be used to create a session"))
        }
    })?;
    let changed_agent = changed(tx, policy, &agent, &config, &new.overrides)?;
    let skills = new.overrides.skills.as_ref().unwrap_or(&config.skills);
    agents::check_skills(tx, workspace, skills)?;
    let found = environments::referenced(tx, workspace, &new.environment_id)?;
    let (environment_id, environment) = found.ok_or_else(|| environments::not_found(&new.environment_id))?;
    vaults::check_references(tx, workspace, &new.vault_ids)?;
    check_budget(new.budget.as_ref())?;
    let resources = check_resources(tx, workspace, &new.resources, &environment_id, &environment)?;
    files::check_sent(tx, workspace, &new.initial_events)?;
    let blocked = match &changed_agent {
        Some(snapshot) => egress::blocked(&environment, &serde_json::from_str(snapshot)?),
        None => egress::blocked_version(tx, &environment, &agent)?,
    };
    if let Some(message) = blocked {
        return Err(Error::invalid(message));
    }
    if is_rate_limited(tx, workspace, policy.sessions_per_minute)? {
        return Err(Error::RateLimited(policy.sessions_per_minute));
    }
    let network = environment.networking().map(serde_json::to_string).transpose()?;
    let (image, packages) = match &environment {
        EnvironmentConfig::Cloud(cloud) => {
            let image = environments::image(tx, workspace, &environment_id)?;
            let packages = (!cloud.packages.is_empty()).then(|| serde_json::to_string(&cloud.packages));
            (policy.images.of_new_session(image.as_deref()), packages.transpose()?)
        }
        EnvironmentConfig::SelfHosted(_) => (None, None),
    };
    let id = insert(
        tx,
        &NewSession {
            workspace,
            agent: &agent,
            changed_agent: changed_agent.as_deref(),
            environment: &environment_id,
            self_hosted: environment.is_self_hosted(),
            network: network.as_deref(),
            image: image.as_deref(),
            packages: packages.as_deref(),
            deployment: None,
            run: None,
            title: new.title.as_deref(),
            metadata: &serde_json::to_string(&new.metadata)?,
            resources: &resources,
            vault_ids: &serde_json::to_string(&new.vault_ids)?,
            initial_events: &serde_json::to_string(&new.initial_events)?,
            key,
        },
    )?;
    skills::pin(tx, workspace, &id, skills)?;
    tx.audit_made(&id);
    get(tx, workspace, id.as_ref())
}

/// The snapshot of a session that changes something of its agent; `None` when it runs the agent as it is.
fn changed(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    agent: &rota_api::agent::AgentReference,
    config: &AgentConfig,
    overrides: &Overrides,
) -> Result<Option<String>> {
    policy.offer.check("agent.model", overrides.model.as_ref().map_or(&config.model.id, |model| &model.id))?;
    if *overrides == Overrides::default() {
        return Ok(None);
    }
    let sql = "SELECT snapshot FROM agent_versions WHERE agent_id = $1 AND version = $2";
    let snapshot: Option<SessionAgent> = tx.one(sql, vals![&agent.id, agent.version], |row| row.json(0))?;
    let SessionAgent { mut primary, multiagent } = snapshot.ok_or_else(|| Error::reference("agent"))?;
    let Overrides { model, system, tools, mcp_servers, skills } = overrides.clone();
    primary.model = model.unwrap_or(primary.model);
    primary.system = system.unwrap_or(primary.system);
    primary.tools = tools.unwrap_or(primary.tools);
    primary.mcp_servers = mcp_servers.unwrap_or(primary.mcp_servers);
    primary.skills = skills.unwrap_or(primary.skills);
    check_tool_references("agent", &primary.tools, &primary.mcp_servers)?;
    if primary.tools.is_empty() && !primary.skills.is_empty() {
        return Err(Error::invalid("agent.tools: cannot be cleared while the agent has skills"));
    }
    let snapshot = serde_json::to_string(&SessionAgent { primary, multiagent })?;
    agents::check_size(&snapshot)?;
    Ok(Some(snapshot))
}

/// A spend ceiling is not enforced, also where the model has a price; so it is refused.
pub fn check_budget(budget: Option<&Value>) -> Result<()> {
    if budget.is_none() {
        return Ok(());
    }
    Err(Error::Rejected { code: "model_not_budgetable", message: NO_BUDGETS.to_owned() })
}

const NO_BUDGETS: &str = "budget: this server does not limit what is spent; leave the budget out, and see in \
    usage.list_cost of a session what it has cost, where its model has a price";

fn check_resources(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    resources: &[Resource],
    id: &EnvironmentId,
    environment: &EnvironmentConfig,
) -> Result<Vec<Available>> {
    let is_unmountable = |resource: &Resource| !matches!(resource, Resource::MemoryStore { .. });
    if environment.is_self_hosted() && resources.iter().any(is_unmountable) {
        return Err(self_hosted_resources(id));
    }
    for resource in resources {
        if let Resource::File { file_id, .. } = resource {
            check_file_id(file_id)?;
        }
    }
    available(tx, workspace, resources)?.map_err(|unavailable| match unavailable {
        Unavailable::File(id) => files_missing(&id),
        Unavailable::MemoryStore(why) => why.into(),
    })
}

/// The error for resources that a worker cannot mount.
pub fn self_hosted_resources(id: &EnvironmentId) -> Error {
    Error::invalid(format_args!(
        "Environment {id} is a self-hosted environment. `resources` are not supported with self-hosted environments."
    ))
}

pub(super) fn update(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdateSession) -> Result<Session> {
    lock(tx, workspace, id)?;
    let stored = get(tx, workspace, id)?;
    let metadata: Metadata = serde_json::from_str(stored.metadata.get())?;
    if stored.status == Status::Terminated {
        return Err(Error::invalid(format_args!("Session {id} is terminated and cannot be changed.")));
    }
    if let rota_api::decode::Patch::Set(_) = update.budget {
        return Err(Error::Rejected {
            code: "budget_create_only",
            message: "budget: a budget cannot be added to a session that was created without one".to_owned(),
        });
    }
    let agent = match (&update.tools, &update.mcp_servers) {
        (None, None) => None,
        _ if stored.status != Status::Idle => {
            return Err(Error::invalid("agent: tools and MCP servers can be changed only while the session is idle"));
        }
        _ => Some(with_tools(tx, workspace, &stored, update)?),
    };
    let title = update.title.clone().over(stored.title.clone());
    let new_metadata = Some(update.metadata.over(&metadata)?).filter(|new| *new != metadata);
    let is_changed = agent.is_some() || title != stored.title || new_metadata.is_some();
    // What was cleared is absent from the event.
    let changed = EventBody::SessionUpdated {
        agent: agent.as_deref().map(serde_json::from_str).transpose()?,
        title: title.clone().filter(|_| title != stored.title),
        metadata: new_metadata.clone().filter(|new| !new.is_empty()),
    };
    tx.execute(
        "UPDATE sessions SET title = $3, metadata = $4, agent = coalesce($5, agent), updated_at = $6
         WHERE workspace_id = $1 AND id = $2",
        vals![
            workspace,
            id,
            title.as_deref(),
            &serde_json::to_string(&new_metadata.unwrap_or(metadata))?,
            agent.as_deref(),
            tx.now()
        ],
    )?;
    if is_changed {
        log::append(tx, workspace, &stored.id, &[changed])?;
    }
    let session = get(tx, workspace, id)?;
    tx.audit_changed(&stored, &session)?;
    Ok(session)
}

fn with_tools(tx: &mut Tx<'_>, workspace: &WorkspaceId, stored: &Session, update: &UpdateSession) -> Result<String> {
    let SessionAgent { mut primary, multiagent } = serde_json::from_str(stored.agent.get())?;
    primary.tools = update.tools.clone().unwrap_or(primary.tools);
    primary.mcp_servers = update.mcp_servers.clone().unwrap_or(primary.mcp_servers);
    check_tool_references("agent", &primary.tools, &primary.mcp_servers)?;
    let agent = SessionAgent { primary, multiagent };
    if let Some(environment) = environments::config(tx, workspace, stored.environment_id.as_ref())?
        && let Some(message) = egress::blocked(&environment, &agent)
    {
        return Err(Error::invalid(message));
    }
    let snapshot = serde_json::to_string(&agent)?;
    agents::check_size(&snapshot)?;
    Ok(snapshot)
}

/// Ends a session for good; its history stays readable.
pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Session> {
    lock(tx, workspace, id)?;
    let session = control(tx, workspace, id)?;
    if session.archived_at.is_none() {
        check_at_rest(&session, |id, status| {
            format!(
                "Session {id} cannot be archived while its status is \"{status}\". Only pending or idle sessions may be \
                 archived."
            )
        })?;
        status::archive(tx, workspace, &session.id, session.status)?;
        repositories::forget_of_session(tx, workspace, &session.id)?;
        webhook_outbox::emit(tx, workspace, [EventType::SessionArchived], &session.id)?;
    }
    get(tx, workspace, id)
}

/// Removes a session with its events. Its sandbox goes after the commit, or as soon as the server that has it is there.
pub(super) fn delete(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deleted> {
    lock(tx, workspace, id)?;
    let session = control(tx, workspace, id)?;
    check_at_rest(&session, |_, _| {
        "Cannot delete session while it is running. Send an interrupt event or wait for the session to complete."
            .to_owned()
    })?;
    tx.send("DELETE FROM session_events WHERE session_id = $1", vals![id])?;
    forget::remove(tx, &mut Outbox::default(), workspace, &session.id)?;
    Ok(Deleted::new("session_deleted", id))
}

/// That a session is not at work; `refused` says what cannot be done to the session of this id and status.
fn check_at_rest(session: &super::Control, refused: impl Fn(&SessionId, &str) -> String) -> Result<()> {
    match session.status {
        Status::Idle | Status::Terminated => Ok(()),
        working => Err(Error::invalid(refused(&session.id, working.as_str()))),
    }
}
