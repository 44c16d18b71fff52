//! The status of a session, and the events that tell of it. Nothing else writes these columns of `sessions`: `status`,
//! `runnable_at`, `running_since`, `active_micros`, `waiting_on`, `request_id`, `stop_reason`, `stopped_at`, `error` and
//! `interrupted_by`.
//!
//! What a client sends sets a session to work ([`begin`]). Its runner tells of it when it takes the session up, and then
//! lets it [`pause`], [`rest`] or [`terminate`].

use rota_api::{
    Time,
    event::{EventBody, SessionError, StopDetails, StopReason, ThreadName},
    id::{DeploymentId, RunId, SessionId, ThreadId, WorkspaceId},
    policy::InterruptedBy,
    session::{SessionUsage, Status},
};
use serde::Deserialize;

use super::{Waiting, events::log, told};
use crate::{
    db::{Notice, Row, Tx, vals},
    error::{Error, Result},
    resources::{repositories, work_queue},
};

/// The status of a new session, and since when it has been running.
pub(super) fn of_new(has_events: bool, now: Time) -> (Status, Option<Time>) {
    if has_events { (Status::Running, Some(now)) } else { (Status::Idle, None) }
}

/// Sets a session at rest to work: a runner takes it up, and says on behalf of which request it works.
pub fn begin(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<()> {
    let request = tx.request();
    tx.send(
        "UPDATE sessions SET status = 'running', running_since = $3, runnable_at = $3, request_id = $4, stop_reason = NULL,
             error = NULL, interrupted_by = NULL
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, tx.now(), request.as_deref()],
    )?;
    tx.after_commit(Notice::SessionRunnable);
    Ok(())
}

/// Sets the sessions of a deleted environment to work whose calls wait for its workers: a runner closes those calls.
pub fn begin_without_workers(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str) -> Result<()> {
    tx.send(
        r#"UPDATE sessions SET status = 'running', running_since = $3, runnable_at = $3, stop_reason = NULL
         WHERE workspace_id = $1 AND environment_id = $2 AND self_hosted = 1 AND status = 'idle'
             AND waiting_on LIKE '%"tool_result"%'"#,
        vals![workspace, environment, tx.now()],
    )?;
    tx.after_commit(Notice::SessionRunnable);
    Ok(())
}

/// Goes on after a pause.
pub fn resume(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<()> {
    tx.send(
        "UPDATE sessions SET status = 'running', running_since = coalesce(running_since, $3), error = NULL
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, tx.now()],
    )
}

/// Gives a session back until a retry is due, in `micros`. `error` is what happened.
pub fn pause(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &SessionId,
    micros: i64,
    error: Option<&SessionError>,
) -> Result<()> {
    let error = error.map(serde_json::to_string).transpose()?;
    tx.send(
        "UPDATE sessions SET status = 'rescheduling', runnable_at = $3, lease_owner = NULL, lease_expires_at = NULL,
             active_micros = active_micros + coalesce($4 - running_since, 0), running_since = NULL, error = $5
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, tx.now().plus_micros(micros), tx.now(), error.as_deref()],
    )
}

/// Ends the pause of a session: what it waits for may be tried at once.
pub fn wake(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<()> {
    tx.send(
        "UPDATE sessions SET runnable_at = $3 WHERE workspace_id = $1 AND id = $2 AND runnable_at > $3",
        vals![workspace, id, tx.now()],
    )?;
    tx.after_commit(Notice::SessionRunnable);
    Ok(())
}

/// Sets what the client must answer before a session goes on.
pub fn wait(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId, waiting: &[Waiting]) -> Result<()> {
    let text = (!waiting.is_empty()).then(|| serde_json::to_string(waiting)).transpose()?;
    tx.send(
        "UPDATE sessions SET waiting_on = $3 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, text.as_deref()],
    )
}

/// What started a session.
#[derive(Debug)]
pub struct StartedBy {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its run; `None` of a session that an older program started.
    pub run: Option<RunId>,
    /// The limit for which the session was told to stop, where it was.
    pub interrupted_by: Option<InterruptedBy>,
}

/// Notes for which limit a session is interrupted with this transaction.
pub fn is_interrupted_by(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId, by: InterruptedBy) -> Result<()> {
    let sql = "UPDATE sessions SET interrupted_by = $3 WHERE workspace_id = $1 AND id = $2";
    tx.send(sql, vals![workspace, id, by.as_str()])
}

/// Brings a session to rest and tells of it. `error` is what its last turn died of. Returns what started it.
///
/// The status is set before the events: whoever sees them and asks for the session finds it at rest.
pub fn rest(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &SessionId,
    thread: ThreadName,
    usage: SessionUsage,
    (reason, details): (StopReason, Option<StopDetails>),
    error: Option<&SessionError>,
) -> Result<Option<StartedBy>> {
    let name = reason.name();
    let (active_micros, started_by) = stop(tx, workspace, id, (Status::Idle, name), error)?;
    let usage = SessionUsage { active_seconds: active_micros as f64 / 1e6, ..usage };
    tell_rest(tx, workspace, id, thread, usage, (reason, details))?;
    told::stopped(tx, workspace, id, started_by.as_ref(), name)?;
    Ok(started_by)
}

/// Tells that a session at rest has stayed so, after something was sent that does not set it to work.
pub fn stay_at_rest(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId, reason: StopReason) -> Result<()> {
    let sql = "UPDATE sessions SET stop_reason = $3 WHERE workspace_id = $1 AND id = $2
         RETURNING usage, active_micros, deployment_id, run_id, interrupted_by";
    let read = |row: &Row<'_>| Ok((row.opt_text(0)?, row.int(1)?, started_by(row)?));
    let name = reason.name();
    let (usage, active_micros, started_by) = tx.one(sql, vals![workspace, id, name], read)?.unwrap_or_default();
    let usage: SessionUsage = usage.and_then(|usage| serde_json::from_str(&usage).ok()).unwrap_or_default();
    let usage = SessionUsage { active_seconds: active_micros as f64 / 1e6, ..usage };
    if !matches!(reason, StopReason::RequiresAction { .. }) {
        // It waits no more, and has no deadline.
        tx.send(
            "UPDATE sessions SET stop_reason = $3, stopped_at = $4 WHERE workspace_id = $1 AND id = $2",
            vals![workspace, id, reason.name(), tx.now()],
        )?;
        tx.send("DELETE FROM session_deadlines WHERE session_id = $1", vals![id])?;
    }
    let thread = primary(tx, workspace, id)?;
    let waits = matches!(reason, StopReason::RequiresAction { .. });
    tell_rest(tx, workspace, id, thread, usage, (reason, None))?;
    // That it waits was told when it came to rest.
    if waits { Ok(()) } else { told::stopped(tx, workspace, id, started_by.as_ref(), name) }
}

/// Reads the columns `deployment_id` and `run_id`.
fn started_by(row: &Row<'_>) -> Result<Option<StartedBy>> {
    let run = row.opt_id("run_id")?;
    let interrupted_by = row.opt_text("interrupted_by")?.and_then(|by| InterruptedBy::from_name(&by));
    Ok(row.opt_id("deployment_id")?.map(|deployment| StartedBy { deployment, run, interrupted_by }))
}

/// Recorded order: the thread is idle, then what was used, then the session is idle.
fn tell_rest(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &SessionId,
    thread: ThreadName,
    usage: SessionUsage,
    (stop_reason, stop_details): (StopReason, Option<StopDetails>),
) -> Result<()> {
    let events = [
        EventBody::ThreadStatusIdle { thread, stop_reason: stop_reason.clone(), stop_details: stop_details.clone() },
        EventBody::Usage { usage },
        EventBody::StatusIdle { stop_reason, stop_details },
    ];
    log::append(tx, workspace, id, &events).map(drop)
}

/// Ends a session for good and tells of it. `error` is why. Returns what started it.
pub fn terminate(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &SessionId,
    thread: ThreadName,
    error: Option<&SessionError>,
) -> Result<Option<StartedBy>> {
    let (_, started_by) = stop(tx, workspace, id, (Status::Terminated, TERMINATED), error)?;
    work_queue::end(tx, workspace, id)?;
    repositories::forget_of_session(tx, workspace, id)?;
    let events = [EventBody::ThreadStatusTerminated { thread }, EventBody::StatusTerminated {}];
    log::append(tx, workspace, id, &events)?;
    told::stopped(tx, workspace, id, started_by.as_ref(), TERMINATED)?;
    Ok(started_by)
}

/// What the store has for the reason of a stop, where the session has ended for good.
pub const TERMINATED: &str = "terminated";

fn stop(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &SessionId,
    (status, reason): (Status, &'static str),
    error: Option<&SessionError>,
) -> Result<(i64, Option<StartedBy>)> {
    let error = error.map(serde_json::to_string).transpose()?;
    let stopped = tx.one(
        "UPDATE sessions SET status = $4, runnable_at = NULL, lease_owner = NULL, lease_expires_at = NULL,
             active_micros = active_micros + coalesce($3 - running_since, 0), running_since = NULL, stop_reason = $5,
             stopped_at = $3, error = $6
         WHERE workspace_id = $1 AND id = $2 RETURNING active_micros, deployment_id, run_id,
             interrupted_by",
        vals![workspace, id, tx.now(), status.as_str(), reason, error.as_deref()],
        |row| Ok((row.int("active_micros")?, started_by(row)?)),
    )?;
    stopped.ok_or_else(|| Error::not_found("Session", id.as_ref()))
}

/// Archives a session that is at rest, or has ended. Its thread is left as it is.
pub(super) fn archive(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId, from: Status) -> Result<()> {
    tx.execute(
        "UPDATE sessions SET archived_at = $3, updated_at = $3, status = 'terminated', waiting_on = NULL,
             runnable_at = NULL, running_since = NULL,
             stop_reason = CASE stop_reason WHEN 'requires_action' THEN NULL ELSE stop_reason END
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, tx.now()],
    )?;
    work_queue::end(tx, workspace, id)?;
    if from != Status::Terminated {
        log::append(tx, workspace, id, &[EventBody::StatusTerminated {}])?;
    }
    Ok(())
}

/// The events of a session that goes to work, in the recorded order.
pub fn runs(thread: ThreadName) -> [EventBody; 2] {
    [EventBody::StatusRunning {}, EventBody::ThreadStatusRunning { thread }]
}

/// The events of a session that tries again later.
pub fn is_rescheduled(thread: ThreadName) -> [EventBody; 2] {
    [EventBody::ThreadStatusRescheduled { thread }, EventBody::StatusRescheduled {}]
}

/// The thread that a session begins with, as events name it.
pub fn primary_named(session: &SessionId, agent_name: &str) -> ThreadName {
    ThreadName { session_thread_id: ThreadId::primary_of(session), agent_name: agent_name.to_owned() }
}

/// The same, from the store. The name is empty where the store no longer has it: that is no reason not to come to rest.
pub fn primary(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &SessionId) -> Result<ThreadName> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let sql = "SELECT coalesce(s.agent, v.snapshot) FROM sessions s
         JOIN agent_versions v ON v.agent_id = s.agent_id AND v.version = s.agent_version
         WHERE s.workspace_id = $1 AND s.id = $2";
    let agent = tx.one(sql, vals![workspace, id], |row| row.text(0))?;
    let named = agent.and_then(|agent| serde_json::from_str::<Named>(&agent).ok());
    Ok(primary_named(id, &named.map(|named| named.name).unwrap_or_default()))
}
