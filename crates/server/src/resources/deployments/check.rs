//! Whether a session of a deployment can be started. Each failure that has a type gets it here, where it arises.

use rota_api::{
    agent::{AgentReference, Skill},
    deployment::{RunError, RunErrorType},
    environment::EnvironmentConfig,
    id::WorkspaceId,
    session::Resource,
};
use serde_json::Value;

use super::run::{Environment, Target};
use crate::{
    app::FirePolicy,
    closed::Closed,
    db::{Question, Tx, vals},
    error::{Error, Result},
    resources::{
        memory_stores::attach::Unattachable,
        repositories::{self, Asked},
        sessions::{
            self, egress,
            events::files,
            resources::{Available, Unavailable, available},
        },
        skills, vaults,
    },
};

/// Why a session is not started.
enum Obstacle {
    /// The run records this.
    Recorded(RunError),
    /// Nothing is recorded.
    Fault(Error),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

fn recorded(r#type: RunErrorType, message: impl Into<String>) -> Obstacle {
    Obstacle::Recorded(RunError { r#type, message: message.into() })
}

fn fails(r#type: RunErrorType, message: impl Into<String>) -> Result<(), Obstacle> {
    Err(recorded(r#type, message))
}

/// Whether a session can be started, and what it is to be given. The inner error is what the run records.
pub(super) fn check(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    target: &Target,
) -> Result<Result<Vec<Available>, RunError>> {
    match look(tx, policy, workspace, target) {
        Ok(resources) => Ok(Ok(resources)),
        Err(Obstacle::Recorded(error)) => Ok(Err(error)),
        Err(Obstacle::Fault(error)) => Err(error),
    }
}

fn look(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    target: &Target,
) -> Result<Vec<Available>, Obstacle> {
    match target.closed {
        Some(Closed::OrganizationDisabled) => {
            fails(RunErrorType::OrganizationDisabled, "the organization is disabled")?;
        }
        Some(Closed::WorkspaceArchived) => {
            fails(RunErrorType::WorkspaceArchived, format!("workspace `{workspace}` is archived"))?;
        }
        None => {}
    }
    check_agents(tx, workspace, target)?;
    check_events(tx, workspace, target)?;
    // Asked for together, one round trip to another process does for all.
    let vaults = ask_vaults(tx, workspace, target)?;
    let resources = check_environment(tx, policy, workspace, target)?;
    if let Some((ids, asked)) = vaults {
        check_vaults(tx, &ids, asked)?;
    }
    if let Err(error) = policy.offer.check("agent.model", &target.model) {
        fails(RunErrorType::SessionCreationRejected, format!("session creation rejected: {error}"))?;
    }
    if sessions::is_rate_limited(tx, workspace, policy.sessions_per_minute)? {
        let limit = policy.sessions_per_minute;
        let message = format!("the workspace has created {limit} sessions within a minute, which is its limit");
        fails(RunErrorType::SessionRateLimited, message)?;
    }
    Ok(resources)
}

/// The deployment's own agent and those of its roster.
fn check_agents(tx: &mut Tx<'_>, workspace: &WorkspaceId, target: &Target) -> Result<(), Obstacle> {
    let archived =
        |agent: &AgentReference| fails(RunErrorType::AgentArchived, format!("agent `{}` is archived", agent.id));
    if target.agent_archived {
        archived(&target.agent)?;
    }
    check_skills(tx, workspace, target.skills.as_deref())?;
    for agent in target.roster.iter().flatten() {
        let sql = "SELECT v.skills FROM agents a JOIN agent_versions v ON v.agent_id = a.id AND v.version = $3
            WHERE a.workspace_id = $1 AND a.id = $2 AND a.archived_at IS NULL";
        let open = tx.one(sql, vals![workspace, &agent.id, agent.version], |row| row.opt_json::<Vec<Skill>>(0))?;
        let Some(skills) = open else { return archived(agent) };
        check_skills(tx, workspace, skills.as_deref())?;
    }
    Ok(())
}

/// That the files are there which the first events refer to.
fn check_events(tx: &mut Tx<'_>, workspace: &WorkspaceId, target: &Target) -> Result<(), Obstacle> {
    if !target.initial_events.contains("\"file_id\"") {
        return Ok(());
    }
    let events: Vec<Value> = serde_json::from_str(&target.initial_events).map_err(Error::from)?;
    match files::check_sent(tx, workspace, &events) {
        Err(error @ Error::NotFound(_)) => fails(RunErrorType::FileNotFound, error.to_string()),
        Err(error @ Error::Invalid(_)) => {
            fails(RunErrorType::SessionCreationRejected, format!("session creation rejected: {error}"))
        }
        checked => checked.map_err(Obstacle::Fault),
    }
}

/// The skills of an agent, by the versions that are there now.
fn check_skills(tx: &mut Tx<'_>, workspace: &WorkspaceId, skills: Option<&[Skill]>) -> Result<(), Obstacle> {
    match skills::missing(tx, workspace, skills.unwrap_or_default())? {
        Some(missing) => {
            let message = format!("session creation rejected: {}", skills::words(missing));
            fails(RunErrorType::SkillNotFound, message)
        }
        None => Ok(()),
    }
}

/// The environment, what is to be mounted there, and whom its network keeps the agents from. What was found to be mounted.
fn check_environment(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    target: &Target,
) -> Result<Vec<Available>, Obstacle> {
    let id = &target.environment_id;
    let Some(Environment { is_archived, kind, config, .. }) = &target.environment else {
        let message = format!("session creation rejected: environment `{id}` not found");
        return Err(recorded(RunErrorType::EnvironmentNotFound, message));
    };
    if *is_archived {
        return Err(recorded(RunErrorType::EnvironmentArchived, format!("environment `{id}` is archived")));
    }
    let resources = find_resources(tx, policy, workspace, target, kind.is_self_hosted)?;
    if kind.is_open {
        return Ok(resources);
    }
    let environment: EnvironmentConfig = serde_json::from_str(config).map_err(Error::from)?;
    match egress::blocked_version(tx, &environment, &target.agent)? {
        Some(message) => Err(recorded(RunErrorType::McpEgressBlocked, message)),
        None => Ok(resources),
    }
}

/// Where the session is to find its credentials. Most deployments name no vault.
fn ask_vaults(tx: &mut Tx<'_>, workspace: &WorkspaceId, target: &Target) -> Result<Option<(Vec<String>, Question)>> {
    if target.vault_ids == "[]" {
        return Ok(None);
    }
    let ids: Vec<String> = serde_json::from_str(&target.vault_ids)?;
    let asked = vaults::ask(tx, workspace, &ids)?;
    Ok(Some((ids, asked)))
}

/// That a session can use these vaults.
fn check_vaults(tx: &mut Tx<'_>, ids: &[String], asked: Question) -> Result<(), Obstacle> {
    match vaults::unusable(tx, ids, asked)? {
        None => Ok(()),
        Some(vaults::Unusable::Missing(id)) => {
            fails(RunErrorType::VaultNotFound, format!("session creation rejected: vault `{id}` not found"))
        }
        Some(vaults::Unusable::Archived(id)) => fails(RunErrorType::VaultArchived, format!("vault `{id}` is archived")),
    }
}

/// What is to be mounted; each resource must be there.
fn find_resources(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    target: &Target,
    is_self_hosted: bool,
) -> Result<Vec<Available>, Obstacle> {
    if target.resources == "[]" {
        return Ok(Vec::new());
    }
    let resources: Vec<Resource> = serde_json::from_str(&target.resources).map_err(Error::from)?;
    let is_unmountable = |resource: &Resource| !matches!(resource, Resource::MemoryStore { .. });
    if is_self_hosted && resources.iter().any(is_unmountable) {
        return Err(recorded(
            RunErrorType::SelfHostedResourcesUnsupported,
            format!("environment `{}` is self-hosted and cannot mount files or repositories", target.environment_id),
        ));
    }
    if let Err(error) = repositories::check(&policy.git, &resources, Asked::BySession) {
        let message = format!("session creation rejected: {error}");
        return Err(recorded(RunErrorType::SessionCreationRejected, message));
    }
    available(tx, workspace, &resources)?.map_err(|unavailable| match unavailable {
        Unavailable::File(id) => recorded(RunErrorType::FileNotFound, format!("file `{id}` no longer exists")),
        Unavailable::MemoryStore(Unattachable::Missing(_)) => recorded(
            RunErrorType::SessionResourceNotFound,
            "session creation rejected: a referenced resource was not found; check deployment configuration",
        ),
        Unavailable::MemoryStore(Unattachable::Archived(_)) => recorded(
            RunErrorType::MemoryStoreArchived,
            "session creation rejected: a referenced memory store is archived; check deployment resources",
        ),
    })
}
