//! Firing a deployment: the one way in which it starts, for a caller and for the scheduler.

use std::sync::LazyLock;

use rota_api::{
    agent::{AgentReference, Skill},
    audit::ActorType,
    deployment::{DeploymentRun, PausedError, PausedReason, RunError, RunErrorType, TriggerContext},
    id::{DeploymentId, EnvironmentId, Id, RunId, SessionId, WorkspaceId},
    policy::{SessionChoice, Spend},
    webhook::EventType,
};

use super::{check::check, continuity, deadlines, failures, spend, store, told};
use crate::{
    app::FirePolicy,
    closed::Closed,
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::{IDEMPOTENCY_MICROS, IDEMPOTENCY_PURGE},
    resources::{
        deployment_runs::{self, Kept},
        environments, repositories,
        sessions::{self, resources::Available},
        skills,
        webhook_outbox::Outbox,
    },
};

/// A caller's wish to start a deployment.
#[derive(Clone)]
pub struct ByHand {
    /// The workspace of the caller.
    pub workspace: WorkspaceId,
    /// The deployment that is named.
    pub id: String,
    /// The caller's `Idempotency-Key`: for 24 hours it stands for the run that it led to first.
    pub key: Option<String>,
    /// Whether it starts also where it has spent what it may.
    pub force: bool,
}

/// What became of a fire by hand.
pub enum Fired {
    /// It has left a run.
    New(DeploymentRun),
    /// The key had been used before, and this is the run of that time.
    Earlier(DeploymentRun),
}

impl ByHand {
    /// Starts a session and records the run, or records why no session could be started.
    ///
    /// Everything is in the one transaction: the session with its snapshot, its first events and the run.
    ///
    /// # Errors
    /// 404 when there is no such deployment, 400 when it is archived or has spent what it may; then nothing is recorded.
    pub fn fire(&self, tx: &mut Tx<'_>, policy: &FirePolicy) -> Result<Fired> {
        let Self { workspace, id, .. } = self;
        let target = Target::find(tx, workspace, id)?.ok_or_else(|| Error::not_found("Deployment", id))?;
        let run_id = RunId::new(tx.now());
        if let Some(run) = self.earlier(tx, &run_id)? {
            return Ok(Fired::Earlier(run));
        }
        if target.archived {
            return Err(store::archived());
        }
        spend::check_by_hand(tx, &target.id, target.spend.as_ref(), self.force)?;
        start(tx, policy, workspace, &target, run_id, TriggerContext::Manual).map(Fired::New)
    }

    /// Records that [`fire`](Self::fire) failed for a reason that has no type of its own.
    ///
    /// # Errors
    /// Those of [`fire`](Self::fire).
    pub fn fail(&self, tx: &mut Tx<'_>) -> Result<Fired> {
        let Self { workspace, id, .. } = self;
        let sql = "SELECT id, agent_id, agent_version FROM deployments
            WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL";
        let found =
            tx.one(sql, vals![workspace, id], |row| Ok((row.id(0)?, AgentReference::new(row.id(1)?, row.int(2)?))))?;
        let (deployment, agent) = found.ok_or_else(|| Error::not_found("Deployment", id))?;
        let run_id = RunId::new(tx.now());
        if let Some(run) = self.earlier(tx, &run_id)? {
            return Ok(Fired::Earlier(run));
        }
        record(tx, workspace, run_id, deployment, agent, TriggerContext::Manual, Err(unknown_error())).map(Fired::New)
    }

    /// The run that the key stands for, while it is remembered. Otherwise it stands for `run` from now on, and whoever
    /// comes with the same key at the same moment waits here.
    fn earlier(&self, tx: &mut Tx<'_>, run: &RunId) -> Result<Option<DeploymentRun>> {
        let Self { workspace, id, key: Some(key), .. } = self else { return Ok(None) };
        let earlier = claim(tx, id, key, run.as_ref())?;
        earlier.map(|earlier| deployment_runs::get(tx, workspace, &earlier)).transpose()
    }
}

/// What the key of a caller stands for, while it is remembered. Otherwise it stands for `made` from now on.
pub(super) fn claim(tx: &mut Tx<'_>, deployment: &str, key: &str, made: &str) -> Result<Option<String>> {
    let now = tx.now();
    let forgotten = now.plus_micros(-IDEMPOTENCY_MICROS);
    let claimed = tx.execute(
        "INSERT INTO idempotency_keys (deployment_id, key, run_id, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (deployment_id, key) DO UPDATE SET run_id = $3, created_at = $4
             WHERE idempotency_keys.created_at <= $5",
        vals![deployment, key, made, now, forgotten],
    )?;
    if claimed == 0 {
        let sql = "SELECT run_id FROM idempotency_keys WHERE deployment_id = $1 AND key = $2";
        return tx.one(sql, vals![deployment, key], |row| row.text(0));
    }
    tx.send(
        "DELETE FROM idempotency_keys WHERE (deployment_id, key) IN (
             SELECT deployment_id, key FROM idempotency_keys WHERE created_at <= $1 ORDER BY created_at LIMIT $2)",
        vals![forgotten, IDEMPOTENCY_PURGE],
    )?;
    Ok(None)
}

/// Why a run is made.
pub(super) struct Cause {
    /// What started it.
    pub(super) trigger: TriggerContext,
    /// What is kept of it beside.
    pub(super) kept: Kept,
}

impl From<TriggerContext> for Cause {
    fn from(trigger: TriggerContext) -> Self {
        Self { trigger, kept: Kept::default() }
    }
}

/// Starts a session of `target` and records the run, or records why no session could be started: the one way in which a
/// deployment starts, for a caller and for the scheduler.
pub(super) fn start(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    target: &Target,
    run_id: RunId,
    cause: impl Into<Cause>,
) -> Result<DeploymentRun> {
    let mut cause = cause.into();
    let started = match check(tx, policy, workspace, target)? {
        Ok(resources) => Ok(match continuity::go_on(tx, workspace, target, &cause, &run_id)? {
            Some(session) => {
                cause.kept.goes_on = true;
                if let Some(seconds) = target.session_seconds {
                    deadlines::begin(tx, workspace, &target.id, &session, seconds)?;
                }
                session
            }
            None => insert_session(tx, policy, workspace, target, &run_id, resources)?,
        }),
        Err(error) => Err(error),
    };
    record(tx, workspace, run_id, target.id.clone(), target.agent.clone(), cause, started)
}

/// What a client is told of a failure that has no type of its own.
pub(super) fn unknown_error() -> RunError {
    let message = "the session could not be created for a reason that is only in the server's log";
    RunError { r#type: RunErrorType::Unknown, message: message.to_owned() }
}

/// What a fire reads.
pub(super) struct Target {
    pub(super) id: DeploymentId,
    name: String,
    /// Why nothing starts in the workspace at all.
    pub(super) closed: Option<Closed>,
    pub(super) agent: AgentReference,
    pub(super) agent_archived: bool,
    pub(super) model: String,
    pub(super) roster: Option<Vec<AgentReference>>,
    /// Those of the agent itself.
    pub(super) skills: Option<Vec<Skill>>,
    pub(super) environment_id: EnvironmentId,
    pub(super) environment: Option<Environment>,
    pub(super) initial_events: String,
    pub(super) resources: String,
    pub(super) vault_ids: String,
    pub(super) spend: Option<Spend>,
    pub(super) session: Option<SessionChoice>,
    /// Most characters that a new session is told of an earlier run.
    pub(super) carry_forward: Option<u32>,
    pub(super) archived: bool,
    /// How long a session may take.
    session_seconds: Option<i64>,
}

/// The environment of a deployment that starts.
pub(super) struct Environment {
    pub(super) is_archived: bool,
    pub(super) kind: environments::Kind,
    /// As JSON.
    pub(super) config: String,
    /// The name of its image.
    image: Option<String>,
}

impl Target {
    /// What [`from_row`](Self::from_row) reads.
    pub(super) const COLUMNS: &str = "d.id AS deployment_id, d.name, w.archived_at AS workspace_archived_at,
        (SELECT disabled_at FROM organization) AS disabled_at, d.agent_id, d.agent_version,
        a.archived_at AS agent_archived_at, v.model, v.roster, v.skills, d.environment_id,
        e.archived_at AS environment_archived_at, e.config AS environment_config,
        e.image AS environment_image, d.initial_events, d.resources,
        d.vault_ids, d.spend_day, d.spend_month, d.session_choice, d.carry_forward, d.archived_at,
        d.max_session_seconds AS session_seconds";
    /// Where that is; the agent and the environment may be gone.
    pub(super) const TABLES: &str = "deployments d
        JOIN workspaces w ON w.id = d.workspace_id
        LEFT JOIN agents a ON a.workspace_id = d.workspace_id AND a.id = d.agent_id
        LEFT JOIN agent_versions v ON v.agent_id = d.agent_id AND v.version = d.agent_version
        LEFT JOIN environments e ON e.workspace_id = d.workspace_id AND e.id = d.environment_id";

    pub(super) fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<Self>> {
        static SQL: LazyLock<String> = LazyLock::new(|| {
            let (columns, tables) = (Target::COLUMNS, Target::TABLES);
            format!("SELECT {columns} FROM {tables} WHERE d.workspace_id = $1 AND d.id = $2 AND a.id IS NOT NULL")
        });
        tx.one(&SQL, vals![workspace, id], Self::from_row)
    }

    pub(super) fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            id: row.id("deployment_id")?,
            name: row.text("name")?,
            closed: Closed::of(row.opt_time("workspace_archived_at")?, row.opt_time("disabled_at")?),
            agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
            agent_archived: row.opt_time("agent_archived_at")?.is_some(),
            model: row.text("model")?,
            roster: row.opt_json("roster")?,
            skills: row.opt_json("skills")?,
            environment_id: row.id("environment_id")?,
            environment: {
                let is_archived = row.opt_time("environment_archived_at")?.is_some();
                let image = row.opt_text("environment_image")?;
                let config = row.opt_text("environment_config")?;
                let read = |config: String| {
                    Ok::<_, Error>(Environment { is_archived, kind: environments::Kind::of(&config)?, config, image })
                };
                config.map(read).transpose()?
            },
            initial_events: row.text("initial_events")?,
            resources: row.text("resources")?,
            vault_ids: row.text("vault_ids")?,
            spend: spend::from_row(row)?,
            session: continuity::choice_of_row(row)?,
            carry_forward: row.opt_int("carry_forward")?.map(|characters| characters as u32),
            archived: row.opt_time("archived_at")?.is_some(),
            session_seconds: row.opt_int("session_seconds")?,
        })
    }
}

fn insert_session(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    target: &Target,
    run: &RunId,
    mut resources: Vec<Available>,
) -> Result<SessionId> {
    let mut key = None;
    if resources.iter().any(|resource| matches!(resource, Available::Repository(_))) {
        let of = policy.vault.key_in(tx, workspace)?;
        for (place, token) in repositories::tokens(tx, &of, workspace, &target.id)? {
            if let Some(Available::Repository(repository)) = resources.get_mut(place) {
                repository.authorization_token = Some(token);
            }
        }
        key = Some(of);
    }
    let environment = target.environment.as_ref();
    let image = environment
        .filter(|environment| !environment.kind.is_self_hosted)
        .and_then(|environment| policy.images.of_new_session(environment.image.as_deref()));
    let told = continuity::told(tx, workspace, target)?;
    let id = sessions::insert(
        tx,
        &sessions::NewSession {
            workspace,
            agent: &target.agent,
            changed_agent: None,
            environment: &target.environment_id,
            self_hosted: environment.is_some_and(|environment| environment.kind.is_self_hosted),
            network: environment.and_then(|environment| environment.kind.network.as_deref()),
            image: image.as_deref(),
            packages: environment.and_then(|environment| environment.kind.packages.as_deref()),
            deployment: Some(&target.id),
            run: Some(run),
            title: Some(&target.name),
            metadata: "{}",
            resources: &resources,
            vault_ids: &target.vault_ids,
            initial_events: told.as_deref().unwrap_or(&target.initial_events),
            key: key.as_ref(),
        },
    )?;
    if let Some(skills) = &target.skills {
        skills::pin(tx, workspace, &id, skills)?;
    }
    if let Some(seconds) = target.session_seconds {
        deadlines::begin(tx, workspace, &target.id, &id, seconds)?;
    }
    Ok(id)
}

pub(super) fn record(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: RunId,
    deployment_id: DeploymentId,
    agent: AgentReference,
    cause: impl Into<Cause>,
    started: Result<SessionId, RunError>,
) -> Result<DeploymentRun> {
    let Cause { trigger, kept } = cause.into();
    let (session_id, error) = match started {
        Ok(session_id) => (Some(session_id), None),
        Err(error) => (None, Some(error)),
    };
    let created_at = tx.now();
    let run = DeploymentRun {
        id,
        r#type: "deployment_run",
        deployment_id,
        agent,
        created_at,
        session_id,
        error,
        trigger_context: trigger,
    };
    deployment_runs::insert(tx, workspace, &run, &kept)?;
    if let Some(error) = &run.error {
        told::could_not_start(tx, workspace, &run, error)?;
        failures::count(tx, workspace, &run.deployment_id, Some(&run.id), &error.message)?;
    }
    Ok(run)
}

/// What the run of an occurrence means beyond itself: webhooks, and the pause that its error may bring.
pub(super) fn tell(tx: &mut Tx<'_>, outbox: &mut Outbox, workspace: &WorkspaceId, run: &DeploymentRun) -> Result<()> {
    let ended = if run.error.is_none() { EventType::DeploymentRunSucceeded } else { EventType::DeploymentRunFailed };
    outbox.emit(tx, workspace, [EventType::DeploymentRunStarted, ended], &run.id)?;
    match &run.error {
        Some(error) if error.r#type.pauses() => {
            let reason = PausedReason::Error { error: PausedError { r#type: error.r#type } };
            let id = run.deployment_id.as_ref();
            store::audit(tx, workspace, id, ActorType::Scheduler, "deployments.pause");
            store::set_paused(tx, workspace, id, Some(reason)).map(drop)
        }
        _ => Ok(()),
    }
}
