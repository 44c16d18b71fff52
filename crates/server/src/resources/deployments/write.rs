//! Creating and updating deployments: what a body may refer to.

use rota_api::{
    Time,
    agent::{AgentChoice, AgentReference},
    decode::Patch,
    deployment::{Deployment, DeploymentFields, ScheduleFields, UpdateDeployment},
    environment::EnvironmentConfig,
    id::{DeploymentId, EnvironmentId, Id, WorkspaceId},
    metadata::Metadata,
    session::Resource,
    webhook::EventType,
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{standing, store};
use crate::{
    db::{Tx, vals},
    error::{Error, Result},
    limits::MAX_DEPLOYMENT_BYTES,
    resources::{
        agents::{self, Unusable},
        environments, repositories,
        sessions::{self, events::files},
        vaults, webhook_outbox,
    },
    scheduler::{cron::Cron, settle::State},
    vault::DataKey,
};

/// `key` seals the tokens of its repositories, where it has some.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    fields: &DeploymentFields,
    key: Option<&DataKey>,
) -> Result<Deployment> {
    lock_agent(tx, workspace, &fields.agent)?;
    let agent = agent(tx, workspace, &fields.agent)?;
    let (environment_id, environment) = environment(tx, workspace, &fields.environment_id)?;
    vaults::check_references(tx, workspace, &fields.vault_ids)?;
    sessions::check_budget(fields.budget.as_ref())?;
    check_resources(&fields.resources, &environment_id, &environment)?;
    files::check_sent(tx, workspace, &fields.initial_events)?;
    check_schedule(fields.schedule.as_ref(), tx.now())?;
    let now = tx.now();
    let id = DeploymentId::new(now);
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO deployments (id, workspace_id, name, description, agent_id, agent_version, environment_id,
             initial_events, resources, vault_ids, metadata, cron, timezone, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)",
        vals![
            &id,
            workspace,
            &fields.name,
            fields.description.as_deref(),
            &agent.id,
            agent.version,
            &environment_id,
            &text("initial_events", &fields.initial_events)?,
            &text("resources", &fields.resources)?,
            &serde_json::to_string(&fields.vault_ids)?,
            &serde_json::to_string(&fields.metadata)?,
            fields.schedule.as_ref().map(|s| s.expression.as_str()),
            fields.schedule.as_ref().map(|s| s.timezone.as_str()),
            now
        ],
    )?;
    if repositories::are_among(&fields.resources) {
        repositories::keep_tokens(tx, key, workspace, id.as_ref(), &fields.resources)?;
    }
    standing::begin(tx, workspace, &id)?;
    webhook_outbox::emit(tx, workspace, [EventType::DeploymentCreated], &id)?;
    store::get(tx, workspace, id.as_ref())
}

pub(super) fn update(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    update: &UpdateDeployment,
    key: Option<&DataKey>,
) -> Result<Deployment> {
    if let Some(choice) = &update.agent {
        lock_agent(tx, workspace, choice)?;
    }
    let before = standing::changing(tx, workspace, id, |tx, state| match state {
        State::Archived => Err(store::archived()),
        State::Active | State::Paused => set(tx, workspace, id, update, key),
    })?;
    webhook_outbox::emit(tx, workspace, [EventType::DeploymentUpdated], id)?;
    let deployment = store::get(tx, workspace, id)?;
    tx.audit_changed(&before, &deployment)?;
    Ok(deployment)
}

/// What the deployment was before. What an update leaves out is kept, and is not checked again: a deployment whose environment is gone can be renamed,
/// and one that moves to another environment is not checked for what it mounts.
fn set(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    update: &UpdateDeployment,
    key: Option<&DataKey>,
) -> Result<Value> {
    let stored = store::get(tx, workspace, id)?;
    let before = serde_json::to_value(&stored)?;
    let metadata: Metadata = serde_json::from_str(stored.metadata.get())?;
    let metadata = serde_json::to_string(&update.metadata.over(&metadata)?)?;
    let agent = match &update.agent {
        Some(choice) => agent(tx, workspace, choice)?,
        None => stored.agent,
    };
    let environment_id = update.environment_id.as_deref().unwrap_or(stored.environment_id.as_ref()).to_owned();
    if update.environment_id.is_some() || update.resources.is_some() {
        let (id, environment) = environment(tx, workspace, &environment_id)?;
        if let Some(resources) = &update.resources {
            check_resources(resources, &id, &environment)?;
            repositories::keep_tokens(tx, key, workspace, stored.id.as_ref(), resources)?;
        }
    }
    if let Some(ids) = &update.vault_ids {
        vaults::check_references(tx, workspace, ids)?;
    }
    if let Patch::Set(budget) = &update.budget {
        sessions::check_budget(Some(budget))?;
    }
    if let Some(events) = &update.initial_events {
        files::check_sent(tx, workspace, events)?;
    }
    let stored_schedule = stored.schedule.map(|s| ScheduleFields { expression: s.expression, timezone: s.timezone });
    let schedule_changes = update.schedule != Patch::Keep;
    let schedule = update.schedule.clone().over(stored_schedule);
    if schedule_changes {
        check_schedule(schedule.as_ref(), tx.now())?;
    }
    let initial_events = over("initial_events", update.initial_events.as_ref(), &stored.initial_events)?;
    let resources = over("resources", update.resources.as_ref(), &stored.resources)?;
    let vault_ids = over("vault_ids", update.vault_ids.as_ref(), &stored.vault_ids)?;
    let description = update.description.clone().over(stored.description);
    tx.send(
        "UPDATE deployments SET name = $3, description = $4, agent_id = $5, agent_version = $6, environment_id = $7,
             initial_events = $8, resources = $9, vault_ids = $10, metadata = $11, cron = $12, timezone = $13,
             updated_at = $14
         WHERE workspace_id = $1 AND id = $2",
        vals![
            workspace,
            id,
            update.name.as_ref().unwrap_or(&stored.name),
            description.as_deref(),
            &agent.id,
            agent.version,
            &environment_id,
            &initial_events,
            &resources,
            &vault_ids,
            &metadata,
            schedule.as_ref().map(|s| s.expression.as_str()),
            schedule.as_ref().map(|s| s.timezone.as_str()),
            tx.now()
        ],
    )?;
    Ok(before)
}

/// What was sent as JSON, or what is stored.
fn over<T: Serialize>(field: &str, sent: Option<&Vec<T>>, stored: &RawValue) -> Result<String> {
    sent.map_or_else(|| Ok(stored.get().to_owned()), |values| text(field, values))
}

/// A field as it is stored. It is read with each fire and shown in each list, so it has a bound.
fn text<T: Serialize>(field: &str, values: &[T]) -> Result<String> {
    let text = serde_json::to_string(values)?;
    if text.len() <= MAX_DEPLOYMENT_BYTES {
        return Ok(text);
    }
    let mebibytes = MAX_DEPLOYMENT_BYTES / 1024 / 1024;
    Err(Error::invalid(format_args!(
        "{field}: value must be no more than {mebibytes} MB as JSON: send what is larger to the session that a run creates"
    )))
}

/// An agent that is archived at the same time takes its deployments with it, this one too.
fn lock_agent(tx: &mut Tx<'_>, workspace: &WorkspaceId, choice: &AgentChoice) -> Result<()> {
    match choice {
        AgentChoice::Latest(id) | AgentChoice::Pinned(id, _) => agents::lock(tx, workspace, id),
        AgentChoice::Itself => Ok(()),
    }
}

fn agent(tx: &mut Tx<'_>, workspace: &WorkspaceId, choice: &AgentChoice) -> Result<AgentReference> {
    match agents::chosen(tx, workspace, choice)? {
        Ok((agent, _)) => Ok(agent),
        Err(Unusable::Missing) => Err(Error::reference("agent")),
        Err(Unusable::Archived(_)) => Err(agents::archived()),
    }
}

fn environment(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<(EnvironmentId, EnvironmentConfig)> {
    environments::referenced(tx, workspace, id)?.ok_or_else(|| Error::reference("environment"))
}

fn check_schedule(schedule: Option<&ScheduleFields>, now: Time) -> Result<()> {
    let Some(ScheduleFields { expression, timezone }) = schedule else { return Ok(()) };
    Cron::validate(expression, timezone, now.timestamp()).map(drop).map_err(Error::invalid)
}

/// A file or a store that is not there is found out at the run, as the API has it; what can never be mounted, here.
fn check_resources(resources: &[Resource], id: &EnvironmentId, environment: &EnvironmentConfig) -> Result<()> {
    let unmountable = resources.iter().any(|resource| !matches!(resource, Resource::MemoryStore { .. }));
    if unmountable && environment.is_self_hosted() {
        return Err(sessions::self_hosted_resources(id));
    }
    Ok(())
}
