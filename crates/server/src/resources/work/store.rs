//! The rules of work and its rows.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rota_api::{
    Time,
    environment::EnvironmentConfig,
    id::{SessionId, WorkspaceId},
    metadata::Metadata,
    work::{
        DEFAULT_TTL_SECONDS, LeaseState, UpdateWork, Work, WorkData, WorkHeartbeat, WorkSecret, WorkState, WorkStats,
    },
};

use crate::{
    db::{Db, Row, Tx, vals},
    error::{Error, Result},
    limits::{MAX_WORKERS_COUNTED, WORK_AGAIN_MICROS, WORK_TOKENS, WORKER_NOTED_MICROS, WORKER_POLLS_MICROS},
    random,
    request::{
        CallerOrWorker, Worker,
        caller::{self, WORK_TOKEN_PREFIX},
    },
    resources::{
        environments,
        sessions::{self, WaitingFor},
        work_queue,
    },
};

/// What a heartbeat names that expects to be the first one.
const NO_HEARTBEAT: &str = "NO_HEARTBEAT";

/// Work that can be handed out at the time `$3`: what was handed out until `$4` and is not acknowledged can be handed out again.
macro_rules! due {
    () => {
        "workspace_id = $1 AND environment_id = $2 AND due_at <= $3 AND (polled_at IS NULL OR polled_at <= $4)"
    };
}

/// Whether work waits for a worker.
///
/// # Errors
/// When the environment has no work, because it is none of workers or is not there any more.
pub(super) async fn is_due(db: &Db, worker: &Worker, reclaim_ms: i64) -> Result<bool> {
    let Worker { workspace, environment, .. } = worker;
    let now = db.now();
    let sql = concat!(
        "SELECT config, (SELECT due_at FROM work WHERE ",
        due!(),
        " LIMIT 1) AS due_at FROM environments WHERE workspace_id = $1 AND id = $2"
    );
    let read = |row: &Row<'_>| Ok((row.json::<EnvironmentConfig>(0)?, row.opt_time(1)?.is_some()));
    let found = db.lookup(sql, vals![workspace, environment, now, now.plus_micros(-reclaim_ms * 1000)], read).await?;
    match found {
        None => Err(environments::not_found(environment.as_ref())),
        Some((config, is_due)) if config.is_self_hosted() => Ok(is_due),
        Some(_) => Err(Error::invalid(format_args!(
            "Only BYOC and bridge environments support work polling. Environment {environment} is anthropic_cloud."
        ))),
    }
}

/// Notes that a worker asks for work, for whoever counts; not each time, because each is a write.
pub(super) async fn note_poller(db: &Db, worker: &Worker, name: &str) -> Result<()> {
    let now = db.now();
    let sql = "SELECT 1 FROM work_pollers WHERE environment_id = $1 AND worker_id = $2 AND polled_at > $3";
    let since = now.plus_micros(-WORKER_NOTED_MICROS);
    if db.lookup(sql, vals![&worker.environment, name, since], |_| Ok(())).await?.is_some() {
        return Ok(());
    }
    let (environment, name) = (worker.environment.clone(), name.to_owned());
    db.write(move |tx| {
        let now = tx.now();
        let gone = now.plus_micros(-WORKER_POLLS_MICROS);
        tx.send("DELETE FROM work_pollers WHERE environment_id = $1 AND polled_at <= $2", vals![&environment, gone])?;
        tx.send(
            "INSERT INTO work_pollers (environment_id, worker_id, polled_at)
             SELECT $1, $2, $3 WHERE (SELECT count(*) FROM work_pollers WHERE environment_id = $1) < $4
             ON CONFLICT (environment_id, worker_id) DO UPDATE SET polled_at = $3",
            vals![&environment, &name, now, MAX_WORKERS_COUNTED],
        )
    })
    .await
}

/// Gives the work that waits longest to a worker, with a token; `None` when there is none. What had a worker whose lease has run
/// out begins anew, and the token of that worker reaches nothing any more.
pub(super) fn hand_out(tx: &mut Tx<'_>, worker: &Worker, reclaim_ms: i64) -> Result<Option<Work>> {
    let Worker { workspace, environment, .. } = worker;
    let now = tx.now();
    tx.send(
        "UPDATE work SET state = 'stopped', due_at = NULL, stopped_at = $3, lease_updated_at = $3
         WHERE workspace_id = $1 AND environment_id = $2 AND due_at <= $3 AND state = 'stopping' AND halted = 1",
        vals![workspace, environment, now],
    )?;
    let sql = format!(
        "WITH due AS MATERIALIZED (
             SELECT session_id FROM work WHERE {} AND (state <> 'stopping' OR halted = 0) ORDER BY due_at LIMIT 1{})
         UPDATE work SET
             lease = CASE state WHEN 'queued' THEN lease ELSE lease + 1 END,
             started_at = CASE state WHEN 'queued' THEN started_at ELSE $3 END,
             due_at = CASE state WHEN 'queued' THEN due_at ELSE $3 END,
             state = 'queued', ttl_seconds = $5, polled_at = $3, acknowledged_at = NULL, latest_heartbeat_at = NULL,
             lease_updated_at = $3, stop_requested_at = NULL
         WHERE workspace_id = $1 AND session_id IN (SELECT session_id FROM due)
         RETURNING {COLUMNS}, lease",
        due!(),
        tx.skip_locked("work")
    );
    let since = now.plus_micros(-reclaim_ms * 1000);
    let given = tx.one(&sql, vals![workspace, environment, now, since, DEFAULT_TTL_SECONDS], |row| {
        Ok((from_row(row)?, row.int("lease")?))
    })?;
    let Some((mut work, lease)) = given else { return Ok(None) };
    let token = format!("{WORK_TOKEN_PREFIX}{}", random::secret()?);
    tx.send(
        "INSERT INTO work_tokens (token_hash, session_id, environment_key_id, lease, created_at) VALUES ($1, $2, $3, $4, $5)",
        vals![&caller::hash(&token), &work.id, worker.key(), lease, now],
    )?;
    tx.send(
        "DELETE FROM work_tokens WHERE session_id = $1 AND token_hash IN (SELECT token_hash FROM work_tokens
             WHERE session_id = $1 ORDER BY lease DESC, created_at DESC LIMIT $2 OFFSET $2)",
        vals![&work.id, WORK_TOKENS],
    )?;
    let secret = serde_json::to_vec(&WorkSecret { sessions_token: &token })?;
    work.secret = Some(URL_SAFE_NO_PAD.encode(secret));
    Ok(Some(work))
}

/// What decides what may happen to a piece of work.
struct Lease {
    state: WorkState,
    /// How often it was queued.
    number: i64,
    ttl_seconds: i64,
    last_heartbeat: Option<Time>,
    updated_at: Option<Time>,
    /// When it runs out.
    due_at: Option<Time>,
    halted: bool,
}

impl Lease {
    /// Whether a worker's token was given for an earlier lease: another worker has the work, or will have it.
    fn is_anothers(&self, worker: Option<&Worker>) -> bool {
        worker.and_then(|worker| worker.token.as_ref()).is_some_and(|token| token.lease != self.number)
    }
}

fn lease(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str, id: &str) -> Result<Lease> {
    tx.lock(
        "work WHERE workspace_id = $1 AND environment_id = $2 AND session_id = $3",
        vals![workspace, environment, id],
    )?;
    tx.one_or(
        "SELECT state, lease, ttl_seconds, latest_heartbeat_at, lease_updated_at, due_at, halted FROM work
         WHERE workspace_id = $1 AND environment_id = $2 AND session_id = $3",
        vals![workspace, environment, id],
        |row| {
            Ok(Lease {
                state: row.name("state", WorkState::from_name)?,
                number: row.int("lease")?,
                ttl_seconds: row.int("ttl_seconds")?,
                last_heartbeat: row.opt_time("latest_heartbeat_at")?,
                updated_at: row.opt_time("lease_updated_at")?,
                due_at: row.opt_time("due_at")?,
                halted: row.int("halted")? == 1,
            })
        },
        || not_found(id),
    )
}

fn not_found(id: &str) -> Error {
    Error::NotFound(format!("Work item {id} not found."))
}

/// A worker takes the work that it was given.
pub(super) fn acknowledge(tx: &mut Tx<'_>, worker: &Worker, id: &str) -> Result<Work> {
    let Worker { workspace, environment, .. } = worker;
    let lease = lease(tx, workspace, environment.as_ref(), id)?;
    if lease.state != WorkState::Queued || lease.is_anothers(Some(worker)) {
        let state = lease.state.as_str();
        return Err(Error::Conflict(format!(
            "Work item {id} must be in QUEUED state to acknowledge. Current state: {state}."
        )));
    }
    let now = tx.now();
    tx.execute(
        "UPDATE work SET state = 'starting', acknowledged_at = $3, lease_updated_at = $3, polled_at = NULL, due_at = $4
         WHERE workspace_id = $1 AND session_id = $2",
        vals![workspace, id, now, now.plus_micros(lease.ttl_seconds * 1_000_000)],
    )?;
    get(tx, workspace, environment.as_ref(), id)
}

/// A worker keeps its work, or takes it where it has not acknowledged it yet. `expected` is the heartbeat that it believes to be
/// the last one.
pub(super) fn beat(
    tx: &mut Tx<'_>,
    worker: &Worker,
    id: &str,
    ttl_seconds: Option<i64>,
    expected: Option<&str>,
) -> Result<WorkHeartbeat> {
    let Worker { workspace, environment, .. } = worker;
    let lease = lease(tx, workspace, environment.as_ref(), id)?;
    let ttl_seconds = ttl_seconds.unwrap_or(lease.ttl_seconds);
    let answer = |state, last: Option<Time>, lease_extended| WorkHeartbeat {
        last_heartbeat: last.map(|at| at.to_string()).unwrap_or_default(),
        lease_extended,
        state,
        ttl_seconds,
        r#type: "work_heartbeat",
    };
    let is_anothers = lease.is_anothers(Some(worker));
    match lease.state {
        WorkState::Stopped => return Ok(answer(lease.state, lease.last_heartbeat, false)),
        WorkState::Stopping if !is_anothers => return Ok(answer(lease.state, lease.last_heartbeat, false)),
        _ => {}
    }
    let actual = lease.last_heartbeat.map(|at| at.to_string());
    let is_expected = expected.is_none_or(|expected| match &actual {
        Some(actual) => actual == expected,
        None => expected == NO_HEARTBEAT,
    });
    if is_anothers || !is_expected {
        let (expected, actual) = (expected.unwrap_or("the lease of this token"), actual.as_deref().unwrap_or("NULL"));
        return Err(Error::LeaseLost {
            message: format!("Heartbeat precondition failed: expected {expected}, actual was {actual}"),
            state: Box::new(LeaseState {
                state: lease.state,
                ttl_seconds: lease.ttl_seconds,
                last_heartbeat: lease.last_heartbeat,
                lease_extended: false,
                lease_updated_at: lease.updated_at,
            }),
        });
    }
    let now = tx.now();
    tx.execute(
        "UPDATE work SET state = 'active', acknowledged_at = coalesce(acknowledged_at, $3), latest_heartbeat_at = $3,
             lease_updated_at = $3, polled_at = NULL, ttl_seconds = $4, due_at = $5
         WHERE workspace_id = $1 AND session_id = $2",
        vals![workspace, id, now, ttl_seconds, now.plus_micros(ttl_seconds * 1_000_000)],
    )?;
    Ok(answer(WorkState::Active, Some(now), true))
}

/// Stops work: at once when `force` says so or no worker has it, or else when its worker hears of it. Where a worker itself
/// stops although calls of the session wait, the work is queued again.
pub(super) fn stop(tx: &mut Tx<'_>, caller: &CallerOrWorker, environment: &str, id: &str, force: bool) -> Result<Work> {
    let workspace = &caller.workspace;
    sessions::lock(tx, workspace, id)?;
    let lease = lease(tx, workspace, environment, id)?;
    if lease.state == WorkState::Stopped {
        return get(tx, workspace, environment, id);
    }
    if lease.is_anothers(caller.worker()) {
        return Err(Error::Conflict(format!("Work item {id} was handed to another worker, and is not stopped.")));
    }
    let halted = lease.halted || caller.worker().is_none();
    let at_once = force || lease.state == WorkState::Queued;
    let now = tx.now();
    let (state, stopped_at, due_at) =
        if at_once { (WorkState::Stopped, Some(now), None) } else { (WorkState::Stopping, None, lease.due_at) };
    tx.execute(
        "UPDATE work SET halted = $4, stop_requested_at = coalesce(stop_requested_at, $3), lease_updated_at = $3,
             state = $5, stopped_at = $6, due_at = $7, polled_at = NULL
         WHERE workspace_id = $1 AND session_id = $2",
        vals![workspace, id, now, i64::from(halted), state.as_str(), stopped_at, due_at],
    )?;
    let stopped = get(tx, workspace, environment, id)?;
    if at_once && !halted {
        let session = sessions::control(tx, workspace, id)?;
        if session.waiting.iter().any(|waiting| waiting.for_ == WaitingFor::ToolResult) {
            let at = now.plus_micros(WORK_AGAIN_MICROS);
            work_queue::need_again(tx, workspace, &stopped.environment_id, &session.id, at)?;
        }
    }
    Ok(stopped)
}

/// How much waits in an environment. One of the server's own sandboxes has no work.
pub(super) fn stats(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str) -> Result<WorkStats> {
    let config = environments::config(tx, workspace, environment)?;
    let config = config.ok_or_else(|| environments::not_found(environment))?;
    let now = tx.now();
    let counted = tx.one(
        "SELECT count(*) FILTER (WHERE polled_at IS NULL AND (state = 'queued' OR due_at <= $3)),
             count(*) FILTER (WHERE polled_at IS NOT NULL),
             min(started_at) FILTER (WHERE state = 'queued')
         FROM work WHERE workspace_id = $1 AND environment_id = $2 AND due_at IS NOT NULL",
        vals![workspace, environment, now],
        |row| Ok((row.int(0)?, row.int(1)?, row.opt_time(2)?)),
    )?;
    let (depth, pending, oldest_queued_at) = counted.unwrap_or_default();
    let since = now.plus_micros(-WORKER_POLLS_MICROS);
    let sql = "SELECT count(*) FROM work_pollers WHERE environment_id = $1 AND polled_at > $2";
    let polling = tx.one(sql, vals![environment, since], |row| row.int(0))?;
    Ok(WorkStats {
        depth,
        pending,
        oldest_queued_at,
        workers_polling: polling.filter(|_| config.is_self_hosted()),
        r#type: "work_queue_stats",
    })
}

/// A piece of work.
///
/// # Errors
/// 404 when there is none of this id in the environment.
pub(super) fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str, id: &str) -> Result<Work> {
    let sql = format!("{SELECT} AND environment_id = $2 AND session_id = $3");
    tx.one_or(&sql, vals![workspace, environment, id], from_row, || not_found(id))
}

/// Changes what is free to be changed.
pub(super) fn set(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    environment: &str,
    id: &str,
    update: &UpdateWork,
) -> Result<Work> {
    lease(tx, workspace, environment, id)?;
    let stored = get(tx, workspace, environment, id)?;
    let metadata: Metadata = update.metadata.over(&stored.metadata)?;
    let sql = "UPDATE work SET metadata = $3 WHERE workspace_id = $1 AND session_id = $2";
    tx.execute(sql, vals![workspace, id, &serde_json::to_string(&metadata)?])?;
    Ok(Work { metadata, ..stored })
}

macro_rules! columns {
    () => {
        "session_id, acknowledged_at, created_at, environment_id, latest_heartbeat_at, metadata, started_at, state,
         stop_requested_at, stopped_at"
    };
}

const COLUMNS: &str = columns!();

pub(super) const SELECT: &str = concat!("SELECT ", columns!(), " FROM work WHERE workspace_id = $1");

pub(super) fn from_row(row: &Row<'_>) -> Result<Work> {
    let id: SessionId = row.id("session_id")?;
    Ok(Work {
        data: WorkData { id: id.clone(), r#type: "session" },
        id,
        acknowledged_at: row.opt_time("acknowledged_at")?,
        actor: None,
        created_at: row.time("created_at")?,
        environment_id: row.id("environment_id")?,
        latest_heartbeat_at: row.opt_time("latest_heartbeat_at")?,
        metadata: row.json("metadata")?,
        secret: None,
        started_at: row.opt_time("started_at")?,
        state: row.name("state", WorkState::from_name)?,
        stop_requested_at: row.opt_time("stop_requested_at")?,
        stopped_at: row.opt_time("stopped_at")?,
        r#type: "work",
    })
}
