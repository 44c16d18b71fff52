//! Firing a deployment: the one way in which it starts, for a caller and for the scheduler.

use rota_api::{
    Time,
    agent::AgentReference,
    deployment::{DeploymentRun, PausedError, PausedReason, RunError, RunErrorType, TriggerContext},
    id::{DeploymentId, EnvironmentId, Id, RunId, SessionId, WorkspaceId},
    webhook::EventType,
};

use super::{check::check, store};
use crate::{
    closed::Closed,
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::{IDEMPOTENCY_MICROS, IDEMPOTENCY_PURGE},
    model::Offer,
    resources::{deployment_runs, sessions, webhook_outbox},
    scheduler::settle::Timing,
};

/// What starts a deployment.
#[derive(Debug, Clone, Copy)]
pub enum Trigger<'a> {
    /// A caller, who may repeat the call with the same key.
    Manual {
        /// The caller's `Idempotency-Key`.
        key: Option<&'a str>,
    },
    /// The schedule.
    Schedule {
        /// When the expression matched, before jitter.
        scheduled_at: Time,
    },
}

/// What the server's configuration says about fires.
#[derive(Clone)]
pub struct FirePolicy {
    /// The models that sessions can run.
    pub offer: Offer,
    /// Sessions that a workspace may create in any minute; 0 is no limit.
    pub sessions_per_minute: u32,
    /// How deployments keep their times.
    pub timing: Timing,
}

/// Starts a session of the deployment `id` and records the run, or records why no session could be started.
///
/// Everything is in the one transaction: the session with its snapshot, its first events, the run, and the pause that a
/// failed scheduled fire may bring. A caller's key that was used in the last 24 hours returns the run of that time, and an
/// occurrence that has a run returns that one.
///
/// # Errors
/// 404 when there is no such deployment, 400 when it is archived; then nothing is recorded.
pub fn fire(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    id: &str,
    trigger: Trigger<'_>,
) -> Result<DeploymentRun> {
    let target = Target::find(tx, workspace, id)?.ok_or_else(|| Error::not_found("Deployment", id))?;
    let run_id = RunId::new(tx.now());
    let earlier = match trigger {
        Trigger::Manual { key: Some(key) } => claim_key(tx, workspace, id, key, &run_id)?,
        Trigger::Manual { key: None } => None,
        Trigger::Schedule { scheduled_at } => deployment_runs::of_occurrence(tx, workspace, id, scheduled_at)?,
    };
    if let Some(run) = earlier {
        return Ok(run);
    }
    if target.archived {
        return Err(store::archived());
    }
    let started = match check(tx, policy, workspace, &target)? {
        Ok(()) => Ok(start(tx, workspace, &target)?),
        Err(error) => Err(error),
    };
    record(tx, workspace, run_id, target.id, target.agent, trigger, started)
}

/// Records that the occurrence `scheduled_at` failed for a reason that has no type of its own, and pauses the deployment.
pub(super) fn fail(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &DeploymentId,
    agent: &AgentReference,
    scheduled_at: Time,
) -> Result<DeploymentRun> {
    if let Some(run) = deployment_runs::of_occurrence(tx, workspace, id.as_ref(), scheduled_at)? {
        return Ok(run);
    }
    let trigger = Trigger::Schedule { scheduled_at };
    record(tx, workspace, RunId::new(tx.now()), id.clone(), agent.clone(), trigger, Err(unknown_error()))
}

/// What a client is told of a failure that has no type of its own.
pub(super) fn unknown_error() -> RunError {
    let message =
        "the session could not be created for a reason that is only in the server's log; fix it, then unpause";
    RunError { r#type: RunErrorType::Unknown, message: message.to_owned() }
}

/// Why a fire of the deployment `id` would fail now, when it would.
pub(super) fn obstacle(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    id: &str,
) -> Result<Option<RunError>> {
    match Target::find(tx, workspace, id)? {
        Some(target) => Ok(check(tx, policy, workspace, &target)?.err()),
        None => Ok(None),
    }
}

/// What a fire reads.
pub(super) struct Target {
    id: DeploymentId,
    name: String,
    /// Why nothing starts in the workspace at all.
    pub(super) closed: Option<Closed>,
    pub(super) agent: AgentReference,
    pub(super) agent_archived: bool,
    pub(super) model: String,
    pub(super) roster: Option<Vec<AgentReference>>,
    pub(super) environment_id: EnvironmentId,
    /// Whether it is archived, and its configuration as JSON.
    pub(super) environment: Option<(bool, String)>,
    initial_events: String,
    pub(super) resources: String,
    vault_ids: String,
    archived: bool,
}

impl Target {
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<Self>> {
        tx.one(
            "SELECT d.id, d.name, d.agent_id, d.agent_version, a.archived_at, v.model, v.roster, d.environment_id,
                 e.config, e.archived_at, d.initial_events, d.resources, d.vault_ids, d.archived_at, w.archived_at,
                 (SELECT disabled_at FROM organization)
             FROM deployments d
             JOIN workspaces w ON w.id = d.workspace_id
             JOIN agents a ON a.workspace_id = d.workspace_id AND a.id = d.agent_id
             JOIN agent_versions v ON v.agent_id = d.agent_id AND v.version = d.agent_version
             LEFT JOIN environments e ON e.workspace_id = d.workspace_id AND e.id = d.environment_id
             WHERE d.workspace_id = $1 AND d.id = $2",
            vals![workspace, id],
            Self::from_row,
        )
    }

    fn from_row(row: &Row<'_>) -> Result<Self> {
        let environment_archived = row.opt_time(9)?.is_some();
        Ok(Self {
            id: row.id(0)?,
            name: row.text(1)?,
            closed: Closed::of(row.opt_time(14)?, row.opt_time(15)?),
            agent: AgentReference::new(row.id(2)?, row.int(3)?),
            agent_archived: row.opt_time(4)?.is_some(),
            model: row.text(5)?,
            roster: row.opt_text(6)?.map(|roster| serde_json::from_str(&roster)).transpose()?,
            environment_id: row.id(7)?,
            environment: row.opt_text(8)?.map(|config| (environment_archived, config)),
            initial_events: row.text(10)?,
            resources: row.text(11)?,
            vault_ids: row.text(12)?,
            archived: row.opt_time(13)?.is_some(),
        })
    }
}

fn start(tx: &mut Tx<'_>, workspace: &WorkspaceId, target: &Target) -> Result<SessionId> {
    sessions::insert(
        tx,
        &sessions::NewSession {
            workspace,
            agent: &target.agent,
            changed_agent: None,
            environment: &target.environment_id,
            deployment: Some(&target.id),
            title: Some(&target.name),
            metadata: "{}",
            resources: "[]",
            vault_ids: &target.vault_ids,
            initial_events: &target.initial_events,
        },
    )
}

fn record(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: RunId,
    deployment_id: DeploymentId,
    agent: AgentReference,
    trigger: Trigger<'_>,
    started: Result<SessionId, RunError>,
) -> Result<DeploymentRun> {
    let (session_id, error) = match started {
        Ok(session_id) => (Some(session_id), None),
        Err(error) => (None, Some(error)),
    };
    let now = tx.now();
    let run = DeploymentRun {
        id,
        r#type: "deployment_run",
        deployment_id,
        agent,
        created_at: now,
        session_id,
        error,
        trigger_context: match trigger {
            Trigger::Manual { .. } => TriggerContext::Manual,
            Trigger::Schedule { scheduled_at } => TriggerContext::Schedule { scheduled_at },
        },
    };
    deployment_runs::insert(tx, workspace, &run)?;
    if let Trigger::Schedule { .. } = trigger {
        settle(tx, workspace, &run)?;
    }
    let outcome = run.error.as_ref().map_or("session_created", |error| error.r#type.as_str());
    metrics::counter!("rota_deployment_runs_total", "outcome" => outcome).increment(1);
    Ok(run)
}

/// What a scheduled fire tells webhooks, and what it changes of its deployment: when it last ran, or that it is paused.
fn settle(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &DeploymentRun) -> Result<()> {
    let ended = if run.error.is_none() { EventType::DeploymentRunSucceeded } else { EventType::DeploymentRunFailed };
    webhook_outbox::emit(tx, workspace, [EventType::DeploymentRunStarted, ended], &run.id)?;
    match &run.error {
        None => {
            tx.execute(
                "UPDATE deployments SET last_run_at = $3 WHERE workspace_id = $1 AND id = $2",
                vals![workspace, &run.deployment_id, run.created_at],
            )?;
        }
        Some(error) if error.r#type.pauses() => {
            let reason = PausedReason::Error { error: PausedError { r#type: error.r#type } };
            store::set_paused(tx, workspace, run.deployment_id.as_ref(), Some(reason))?;
        }
        Some(_) => {}
    }
    Ok(())
}

/// The run that a caller's key stands for, while the key is remembered. Otherwise the key stands for `run` from now on, and
/// whoever comes with the same key at the same moment waits here.
fn claim_key(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    key: &str,
    run: &RunId,
) -> Result<Option<DeploymentRun>> {
    let now = tx.now();
    let forgotten = now.plus_micros(-IDEMPOTENCY_MICROS);
    let claimed = tx.execute(
        "INSERT INTO idempotency_keys (deployment_id, key, run_id, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (deployment_id, key) DO UPDATE SET run_id = $3, created_at = $4
             WHERE idempotency_keys.created_at <= $5",
        vals![id, key, run, now, forgotten],
    )?;
    if claimed == 0 {
        let sql = "SELECT run_id FROM idempotency_keys WHERE deployment_id = $1 AND key = $2";
        let earlier = tx.one(sql, vals![id, key], |row| row.text(0))?;
        return earlier.map(|earlier| deployment_runs::get(tx, workspace, &earlier)).transpose();
    }
    tx.send(
        "DELETE FROM idempotency_keys WHERE (deployment_id, key) IN (
             SELECT deployment_id, key FROM idempotency_keys WHERE created_at <= $1 ORDER BY created_at LIMIT $2)",
        vals![forgotten, IDEMPOTENCY_PURGE],
    )?;
    Ok(None)
}
