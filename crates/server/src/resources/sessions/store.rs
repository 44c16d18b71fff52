//! The rows of sessions.

use rota_api::{
    Time,
    agent::AgentReference,
    event::EventBody,
    id::{DeploymentId, EnvironmentId, EventId, Id, OutcomeId, RunId, SessionId, WorkspaceId},
    run_outcome::WaitingOn,
    session::{Session, SessionUsage, Stats, Status},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    events::log,
    resources::{self, Available},
    status,
};
use crate::{
    db::{Notice, Row, Select, Tx, vals},
    error::{Error, Result},
    limits::{DELETED_SESSIONS_KEPT_MICROS, MAX_OUTCOMES_BYTES},
    request::CallerOrWorker,
    resources::work_queue,
    vault::DataKey,
};

macro_rules! columns {
    () => {
        "s.id, s.status, coalesce(s.agent, v.snapshot) AS agent, s.environment_id, s.deployment_id, s.title, s.metadata,
         s.resources, s.vault_ids, s.outcomes, s.usage, s.active_micros, s.running_since, s.created_at, s.updated_at,
         s.archived_at"
    };
}

macro_rules! joins {
    () => {
        "FROM sessions s JOIN agent_versions v ON v.agent_id = s.agent_id AND v.version = s.agent_version"
    };
}

const SELECT: &str = concat!("SELECT ", columns!(), ", s.id AS key ", joins!(), " WHERE s.workspace_id = $1");

const SELECT_BY_RUN: &str = concat!(
    "SELECT ",
    columns!(),
    ", r.id AS key ",
    joins!(),
    // A session of several runs has the place of the first.
    " JOIN deployment_runs r ON r.session_id = s.id AND r.goes_on = 0 WHERE r.workspace_id = $1 AND s.workspace_id = $1"
);

/// The SELECT of a list.
pub(super) fn select(workspace: &WorkspaceId) -> Select {
    Select::new(SELECT, workspace)
}

/// The SELECT of a list that is walked along the runs of a deployment.
pub(super) fn select_by_run(workspace: &WorkspaceId) -> Select {
    Select::new(SELECT_BY_RUN, workspace)
}

/// A row of a list and its place there.
pub(super) struct Listed {
    pub(super) session: Session,
    pub(super) key: String,
}

pub(super) fn listed(row: &Row<'_>, now: Time) -> Result<Listed> {
    Ok(Listed { session: from_row(row, now)?, key: row.text("key")? })
}

/// The error for a session that does not exist, or belongs to another workspace.
pub fn not_found(id: &str) -> Error {
    Error::NotFound(format!("Session not found: {id}"))
}

/// The session `id` of a workspace.
///
/// # Errors
/// 404 when there is none.
pub fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Session> {
    find(tx, workspace, id)?.ok_or_else(|| not_found(id))
}

/// The session `id` of a workspace. `None` when there is none.
pub fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<Session>> {
    let now = tx.now();
    tx.one(&format!("{SELECT} AND s.id = $2"), vals![workspace, id], |row| from_row(row, now))
}

fn from_row(row: &Row<'_>, now: Time) -> Result<Session> {
    let usage = row.opt_json::<SessionUsage>("usage")?;
    let (created_at, updated_at, archived_at) =
        (row.time("created_at")?, row.time("updated_at")?, row.opt_time("archived_at")?);
    let status = stored_status(&row.text("status")?)?;
    let running = row.opt_time("running_since")?.map_or(0.0, |since| now.seconds_since(since).max(0.0));
    let active_seconds = row.int("active_micros")? as f64 / 1e6 + running;
    let until = if status == Status::Terminated { archived_at.unwrap_or(updated_at) } else { now };
    Ok(Session {
        id: row.id("id")?,
        r#type: "session",
        status,
        agent: row.raw("agent")?,
        environment_id: row.id("environment_id")?,
        deployment_id: row.opt_id("deployment_id")?,
        title: row.opt_text("title")?,
        metadata: row.raw("metadata")?,
        budget: None,
        resources: row.raw("resources")?,
        vault_ids: row.raw("vault_ids")?,
        outcome_evaluations: row.raw("outcomes")?,
        stats: Stats { active_seconds, duration_seconds: until.seconds_since(created_at).max(0.0) },
        usage: SessionUsage { active_seconds, ..usage.unwrap_or_default() },
        created_at,
        updated_at,
        archived_at,
    })
}

/// The status of a session as the store has it.
pub fn stored_status(name: &str) -> Result<Status> {
    Status::from_name(name).ok_or_else(|| Error::internal(format!("the store has a session of status {name}")))
}

/// What decides what may happen to a session.
#[derive(Debug, Clone)]
pub struct Control {
    /// Its id.
    pub id: SessionId,
    /// Its status.
    pub status: Status,
    /// When it was archived.
    pub archived_at: Option<Time>,
    /// What the client must answer before the session goes on.
    pub waiting: Vec<Waiting>,
    /// How many events it has.
    pub events: i64,
    /// Their bytes.
    pub bytes: i64,
    /// Where its tools run.
    pub environment: EnvironmentId,
    /// Whether they run at a worker of the user.
    pub self_hosted: bool,
}

/// An event that waits for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The event.
    pub id: EventId,
    /// What it waits for.
    pub for_: WaitingFor,
}

impl From<Waiting> for WaitingOn {
    fn from(Waiting { id, for_ }: Waiting) -> Self {
        Self { event_id: id, answer: for_.answer() }
    }
}

/// What an event waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// A `user.tool_confirmation`.
    Confirmation,
    /// A `user.tool_confirmation` and, where that allows the call, the `user.tool_result` of a worker.
    WorkerConfirmation,
    /// A `user.custom_tool_result`.
    CustomToolResult,
    /// A `user.tool_result`, from a worker of a self-hosted environment.
    ToolResult,
}

impl WaitingFor {
    /// Whether a human decides, and no program.
    pub fn is_of_a_human(self) -> bool {
        matches!(self, Self::Confirmation | Self::WorkerConfirmation)
    }

    /// The type of the event that answers it.
    fn answer(self) -> &'static str {
        match self {
            Self::Confirmation | Self::WorkerConfirmation => "user.tool_confirmation",
            Self::CustomToolResult => "user.custom_tool_result",
            Self::ToolResult => "user.tool_result",
        }
    }
}

/// Keeps the session `id` from being changed until this transaction ends.
pub fn lock(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    tx.lock("sessions WHERE workspace_id = $1 AND id = $2", vals![workspace, id])
}

/// That a worker, where one calls, reaches the session `id`: with a key those of its environment, with a token the one that it
/// works on.
///
/// # Errors
/// 404 for the session of others; 403 when the work of the token has ended, or is another worker's.
pub fn check_reach(tx: &mut Tx<'_>, caller: &CallerOrWorker, id: &str) -> Result<()> {
    let Some(worker) = caller.worker() else { return Ok(()) };
    let found = tx.one(
        "SELECT s.status, w.lease, w.state FROM sessions s LEFT JOIN work w ON w.session_id = s.id
         WHERE s.workspace_id = $1 AND s.id = $2 AND s.environment_id = $3",
        vals![&worker.workspace, id, &worker.environment],
        |row| Ok((row.text(0)?, row.opt_int(1)?, row.opt_text(2)?)),
    )?;
    let (status, lease, state) = found.ok_or_else(|| not_found(id))?;
    match &worker.token {
        None => Ok(()),
        Some(token) if token.session.as_ref() != id => Err(not_found(id)),
        Some(token) if token.reaches(lease, state.as_deref(), Some(&status)) => Ok(()),
        Some(_) => Err(work_queue::has_ended(id)),
    }
}

/// The state of the session `id`.
///
/// # Errors
/// 404 when there is none.
pub fn control(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Control> {
    let found = tx.one(
        "SELECT id, status, archived_at, waiting_on, next_seq, log_bytes, environment_id, self_hosted FROM sessions
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id],
        |row| {
            let waiting = row.opt_text(3)?.map(|waiting| serde_json::from_str(&waiting)).transpose()?;
            Ok(Control {
                id: row.id(0)?,
                status: stored_status(&row.text(1)?)?,
                archived_at: row.opt_time(2)?,
                waiting: waiting.unwrap_or_default(),
                events: row.int(4)? - 1,
                bytes: row.int(5)?,
                environment: row.id(6)?,
                self_hosted: row.int(7)? == 1,
            })
        },
    )?;
    found.ok_or_else(|| not_found(id))
}

/// The totals of a session as they were last stored; nothing where they cannot be read.
pub fn usage(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<SessionUsage> {
    let sql = "SELECT usage FROM sessions WHERE workspace_id = $1 AND id = $2";
    let stored = tx.one(sql, vals![workspace, id], |row| row.opt_text(0))?.flatten();
    Ok(stored.and_then(|usage| serde_json::from_str(&usage).ok()).unwrap_or_default())
}

/// What a new session is made of. The texts are JSON.
pub struct NewSession<'a> {
    /// Its workspace.
    pub workspace: &'a WorkspaceId,
    /// The agent that it runs.
    pub agent: &'a AgentReference,
    /// The agent as the session changes it, where it does.
    pub changed_agent: Option<&'a str>,
    /// Where its tools run.
    pub environment: &'a EnvironmentId,
    /// Whether they run at a worker of the user.
    pub self_hosted: bool,
    /// What a sandbox of this server reaches, as JSON.
    pub network: Option<&'a str>,
    /// The image that it is made from, as [`crate::images::Chosen`] is written.
    pub image: Option<&'a str>,
    /// What is installed in it, as JSON.
    pub packages: Option<&'a str>,
    /// The deployment that starts it.
    pub deployment: Option<&'a DeploymentId>,
    /// Its run.
    pub run: Option<&'a RunId>,
    /// A title for people.
    pub title: Option<&'a str>,
    /// Free pairs.
    pub metadata: &'a str,
    /// What is mounted, which is there.
    pub resources: &'a [Available],
    /// Where its credentials are.
    pub vault_ids: &'a str,
    /// Its first events, as a client sent them. A session that has some runs at once.
    pub initial_events: &'a str,
    /// The key under which the tokens of its repositories are sealed, where it has some.
    pub key: Option<&'a DataKey>,
}

/// Adds a session and its first events, and wakes a runner when there is something to do.
pub fn insert(tx: &mut Tx<'_>, new: &NewSession<'_>) -> Result<SessionId> {
    let now = tx.now();
    let id = SessionId::new(now);
    let events: Vec<&RawValue> = serde_json::from_str(new.initial_events)?;
    let (status, running_since) = status::of_new(!events.is_empty(), now);
    let mut outcomes = Vec::new();
    for (place, event) in (1..).zip(&events) {
        outcomes.extend(log::insert_initial(tx, &id, place, event)?);
    }
    let resources = match new.resources {
        [] => "[]".to_owned(),
        some => resources::attach_all(tx, new.key, new.workspace, &id, some)?,
    };
    let outcomes = if outcomes.is_empty() { "[]".to_owned() } else { serde_json::to_string(&outcomes)? };
    let request = tx.request();
    tx.add(
        "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id, deployment_id, title,
             metadata, resources, vault_ids, outcomes, status, active_micros, running_since, next_seq, next_input, runnable_at,
             lease_epoch, created_at, updated_at, log_bytes, request_id, self_hosted,
             network, image, packages, run_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, $14, 1, $15, $14, 0, $16, $16, 0, $17, $18, $19,
             $20, $21, $22)",
        vals![
            &id,
            new.workspace,
            &new.agent.id,
            new.agent.version,
            new.changed_agent,
            new.environment,
            new.deployment,
            new.title,
            new.metadata,
            &resources,
            new.vault_ids,
            &outcomes,
            status.as_str(),
            running_since,
            events.len() as i64 + 1,
            now,
            request.as_deref(),
            i64::from(new.self_hosted),
            new.network,
            new.image,
            new.packages,
            new.run
        ],
    )?;
    if status == Status::Running {
        if new.self_hosted {
            work_queue::need(tx, new.workspace, new.environment, &id)?;
        }
        tx.after_commit(Notice::SessionRunnable);
    }
    Ok(id)
}

/// The state of an outcome that was just defined. It is `pending` for as long as nobody has graded it.
pub fn new_outcome(id: &OutcomeId, description: &str) -> serde_json::Value {
    json!({
        "type": "outcome_evaluation",
        "outcome_id": id,
        "description": description,
        "iteration": 0,
        "result": "pending",
        "explanation": null,
        "completed_at": null,
    })
}

/// Notes what of a session's outputs was not taken in.
pub fn outputs_are_left_out(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &SessionId,
    left_out: &[String],
) -> Result<()> {
    let left_out = if left_out.is_empty() { None } else { Some(serde_json::to_string(left_out)?) };
    let sql = "UPDATE sessions SET outputs_left_out = $3 WHERE workspace_id = $1 AND id = $2";
    tx.send(sql, vals![workspace, id, left_out.as_deref()])
}

/// What of a session's outputs was not taken in, each with the reason.
pub(super) fn left_out_outputs(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<Vec<String>> {
    let sql = "SELECT outputs_left_out FROM sessions WHERE workspace_id = $1 AND id = $2";
    Ok(tx.one(sql, vals![workspace, id], |row| row.opt_json(0))?.flatten().unwrap_or_default())
}

/// Adds the outcomes that `events` define to those of a session.
pub fn add_outcomes(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId, events: &[EventBody]) -> Result<()> {
    let defined: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            EventBody::UserDefineOutcome { outcome_id, description, .. } => Some(new_outcome(outcome_id, description)),
            _ => None,
        })
        .collect();
    if defined.is_empty() {
        return Ok(());
    }
    let sql = "SELECT outcomes FROM sessions WHERE workspace_id = $1 AND id = $2";
    let stored: Option<Vec<serde_json::Value>> = tx.one(sql, vals![workspace, id], |row| row.json(0))?;
    let outcomes: Vec<_> = stored.unwrap_or_default().into_iter().chain(defined).collect();
    let text = serde_json::to_string(&outcomes)?;
    if text.len() > MAX_OUTCOMES_BYTES {
        return Err(Error::invalid(format_args!(
            "the outcomes of session {id} would have more than {MAX_OUTCOMES_BYTES} bytes; create another session"
        )));
    }
    let sql = "UPDATE sessions SET outcomes = $3 WHERE workspace_id = $1 AND id = $2";
    tx.execute(sql, vals![workspace, id, &text])?;
    Ok(())
}

/// Whether a session at work was given an outcome since it was last at rest.
pub fn has_outcome_in_turn(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<bool> {
    let waits = "SELECT 1 FROM session_inputs WHERE session_id = $1 AND type = 'user.define_outcome' LIMIT 1";
    if tx.one(waits, vals![id], |_| Ok(()))?.is_some() {
        return Ok(true);
    }
    let last = "SELECT e.type FROM session_events e JOIN sessions s ON s.id = e.session_id
         WHERE s.workspace_id = $2 AND e.session_id = $1 AND e.type IN ('user.define_outcome', 'session.status_idle')
         ORDER BY e.seq DESC LIMIT 1";
    let last = tx.one(last, vals![id, workspace], |row| row.text(0))?;
    Ok(last.is_some_and(|last| last == "user.define_outcome"))
}

/// Whether a workspace has created `limit` sessions within the last minute. It reads at most `limit` index entries.
pub fn is_rate_limited(tx: &mut Tx<'_>, workspace: &WorkspaceId, limit: u32) -> Result<bool> {
    if limit == 0 {
        return Ok(false);
    }
    tx.lock("workspaces WHERE id = $1", vals![workspace])?;
    let sql = "SELECT created_at FROM sessions WHERE workspace_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2";
    let nth = tx.one(sql, vals![workspace, i64::from(limit) - 1], |row| row.time(0))?;
    Ok(nth.is_some_and(|at| tx.now().seconds_since(at) < 60.0))
}

/// What the store says of files of a session that a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesOf {
    /// The session is there, and these are its files.
    Needed,
    /// The session is there, and has files on another server.
    Moved,
    /// A user deleted the session.
    Deleted,
    /// There is no such session, and nobody deleted one.
    Unknown,
}

/// What the files are that `node` has of a session `id` of any workspace: their folders know none.
pub fn files_of(tx: &mut Tx<'_>, id: &str, node: &str) -> Result<FilesOf> {
    let sql = "SELECT s.home FROM workspaces w CROSS JOIN sessions s WHERE s.workspace_id = w.id AND s.id = $1 LIMIT 1";
    match tx.one(sql, vals![id], |row| row.opt_text(0))? {
        Some(Some(home)) if home != node => return Ok(FilesOf::Moved),
        Some(_) => return Ok(FilesOf::Needed),
        None => {}
    }
    let deleted = tx.one("SELECT 1 FROM deleted_sessions WHERE session_id = $1", vals![id], |_| Ok(()))?;
    Ok(if deleted.is_some() { FilesOf::Deleted } else { FilesOf::Unknown })
}

/// Notes that a session which has files somewhere is being deleted, until they are gone.
pub(super) fn files_are_to_go(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    tx.send(
        "INSERT INTO deleted_sessions (session_id, deleted_at)
         SELECT id, $3 FROM sessions WHERE workspace_id = $1 AND id = $2 AND home IS NOT NULL",
        vals![workspace, id, tx.now()],
    )
}

/// Notes that the files of a deleted session are gone.
pub fn files_are_gone(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    tx.send("DELETE FROM deleted_sessions WHERE session_id = $1", vals![id])
}

/// Forgets sessions that were deleted so long ago that no server with their files will come back.
pub fn forget_deleted(tx: &mut Tx<'_>) -> Result<()> {
    let long_ago = tx.now().plus_micros(-DELETED_SESSIONS_KEPT_MICROS);
    tx.send("DELETE FROM deleted_sessions WHERE deleted_at <= $1", vals![long_ago])
}
