//! Whether a session of a deployment can be started. Each failure that has a type gets it here, where it arises.

use rota_api::{
    agent::AgentReference,
    deployment::{RunError, RunErrorType},
    environment::EnvironmentConfig,
    id::WorkspaceId,
    session::Resource,
};
use serde::Deserialize;

use super::run::{FirePolicy, Target};
use crate::{
    db::{Tx, vals},
    error::Result,
    resources::sessions::{self, egress},
};

/// Whether a session can be started. The inner error is what the run records.
pub(super) fn check(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    target: &Target,
) -> Result<Result<(), RunError>> {
    let fails = |r#type, message| Ok(Err(RunError { r#type, message }));
    if let Some(closed) = target.closed {
        let message = match closed {
            RunErrorType::OrganizationDisabled => "the organization is disabled".to_owned(),
            _ => format!("workspace `{workspace}` is archived"),
        };
        return fails(closed, message);
    }
    let archived_agent = if target.agent_archived {
        Some(&target.agent)
    } else {
        archived_member(tx, workspace, target.roster.as_deref().unwrap_or_default())?
    };
    if let Some(agent) = archived_agent {
        return fails(RunErrorType::AgentArchived, format!("agent `{}` is archived", agent.id));
    }
    let environment_id = &target.environment_id;
    let environment = match &target.environment {
        None => {
            let message = format!("environment `{environment_id}` no longer exists");
            return fails(RunErrorType::EnvironmentNotFound, message);
        }
        Some((true, _)) => {
            return fails(RunErrorType::EnvironmentArchived, format!("environment `{environment_id}` is archived"));
        }
        Some((false, environment)) => environment,
    };
    if target.resources != "[]" || !is_open(environment)? {
        let environment: EnvironmentConfig = serde_json::from_str(environment)?;
        if let Some((r#type, message)) = missing_resource(target, &environment)? {
            return fails(r#type, message);
        }
        if let Some(message) = egress::blocked_version(tx, environment_id, &environment, &target.agent)? {
            return fails(RunErrorType::McpEgressBlocked, message);
        }
    }
    if let Err(error) = policy.offer.check("agent.model", &target.model) {
        return fails(RunErrorType::SessionCreationRejected, format!("session creation rejected: {error}"));
    }
    if sessions::is_rate_limited(tx, workspace, policy.sessions_per_minute)? {
        let limit = policy.sessions_per_minute;
        let message = format!("the workspace has created {limit} sessions within a minute, which is its limit");
        return fails(RunErrorType::SessionRateLimited, message);
    }
    Ok(Ok(()))
}

fn archived_member<'a>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    roster: &'a [AgentReference],
) -> Result<Option<&'a AgentReference>> {
    for agent in roster {
        let sql = "SELECT 1 FROM agents WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL";
        if tx.one(sql, vals![workspace, &agent.id], |_| Ok(()))?.is_none() {
            return Ok(Some(agent));
        }
    }
    Ok(None)
}

/// Whether an environment keeps nothing out that an agent may name: most are so, and need not be read whole.
fn is_open(environment: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Tag<'a> {
        r#type: &'a str,
    }
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow)]
        networking: Option<Tag<'a>>,
    }
    let kind: Kind<'_> = serde_json::from_str(environment)?;
    Ok(kind.networking.is_none_or(|networking| networking.r#type == "unrestricted"))
}

/// The first resource that cannot be mounted. This server holds no files and no memory stores yet, so none is found.
fn missing_resource(target: &Target, environment: &EnvironmentConfig) -> Result<Option<(RunErrorType, String)>> {
    let self_hosted = matches!(environment, EnvironmentConfig::SelfHosted {});
    let resources: Vec<Resource> = serde_json::from_str(&target.resources)?;
    Ok(resources.iter().find_map(|resource| match resource {
        Resource::File { .. } | Resource::GithubRepository { .. } if self_hosted => Some((
            RunErrorType::SelfHostedResourcesUnsupported,
            format!("environment `{}` is self-hosted and cannot mount files or repositories", target.environment_id),
        )),
        Resource::File { file_id, .. } => {
            Some((RunErrorType::FileNotFound, format!("file `{file_id}` no longer exists")))
        }
        Resource::MemoryStore { .. } => Some((
            RunErrorType::SessionResourceNotFound,
            "session creation rejected: a referenced resource was not found; check deployment configuration".to_owned(),
        )),
        Resource::GithubRepository { .. } => None,
    }))
}
