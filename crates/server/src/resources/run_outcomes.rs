//! What became of deployment runs. A run records that a session was created; the rest is read from that session.

use axum::extract::State;
use rota_api::{
    Time,
    deployment::{DeploymentRun, TriggerContext},
    event::{Event, EventBody, SessionError, StopReason},
    id::{SessionId, WorkspaceId},
    policy::InterruptedBy,
    run_outcome::{RunOutcome, RunWithOutcome, SessionOutcome, WaitingOn},
    session::{Session, Status},
};
use serde::Deserialize;

use super::{
    deployment_runs, run_starts,
    sessions::{
        self,
        warnings::{self, Can},
    },
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::Result,
    request::{Caller, Json, Path},
};

/// `GET /rota/v1/deployment_runs/{deployment_run_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<RunWithOutcome>> {
    let can = Can::of(&app.config);
    app.db.read(move |tx| get(tx, &caller.workspace, &id, can)).await.map(Json)
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, can: Can) -> Result<RunWithOutcome> {
    let run = deployment_runs::get(tx, workspace, id)?;
    let session = match &run.session_id {
        Some(id) => sessions::find(tx, workspace, id.as_ref())?,
        None => None,
    };
    let (session, warnings) = match session {
        Some(session) => {
            let warnings = warnings::of_session(tx, workspace, &session, can)?;
            (Some(outcome(tx, workspace, &session)?), warnings)
        }
        None => (None, Vec::new()),
    };
    let outcome = RunOutcome { session, lateness_ms: lateness_ms(&run), warnings };
    let start = run_starts::of(tx, workspace, &run)?;
    Ok(RunWithOutcome { run, start, outcome })
}

/// Milliseconds from the time that the schedule named to the run. `None` for a run that was started by hand.
pub fn lateness_ms(run: &DeploymentRun) -> Option<i64> {
    match run.trigger_context {
        TriggerContext::Schedule { scheduled_at } => Some((run.created_at.micros() - scheduled_at.micros()) / 1000),
        TriggerContext::Manual => None,
    }
}

fn outcome(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &Session) -> Result<SessionOutcome> {
    let waiting = sessions::control(tx, workspace, session.id.as_ref())?.waiting;
    let works = matches!(session.status, Status::Running | Status::Rescheduling);
    let (stop_reason, until) =
        if works { (None, tx.now()) } else { rest(tx, session)?.unwrap_or((None, session.created_at)) };
    let has_error = match &stop_reason {
        Some(reason) => *reason == StopReason::RetriesExhausted,
        None => matches!(session.status, Status::Rescheduling | Status::Terminated),
    };
    let reply_cut = if stop_reason == Some(StopReason::EndTurn) { cut(tx, &session.id)? } else { None };
    let error = if has_error { last_error(tx, &session.id)? } else { None };
    Ok(SessionOutcome {
        status: session.status,
        stop_reason,
        reply_cut,
        waits_for_human: waiting.iter().any(|waiting| waiting.for_.is_of_a_human()),
        waiting_on: waiting.into_iter().map(WaitingOn::from).collect(),
        error,
        interrupted_by: interrupted_by(tx, workspace, &session.id)?,
        usage: session.usage,
        list_cost: session.usage.list_cost,
        active_seconds: session.stats.active_seconds,
        duration_seconds: until.seconds_since(session.created_at).max(0.0),
    })
}

fn interrupted_by(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Option<InterruptedBy>> {
    let sql = "SELECT interrupted_by FROM sessions WHERE workspace_id = $1 AND id = $2";
    let by = tx.one(sql, vals![workspace, session], |row| row.opt_text(0))?.flatten();
    Ok(by.and_then(|by| InterruptedBy::from_name(&by)))
}

/// Why and when the last turn ended. A turn that the session's own end cut short has no reason.
fn rest(tx: &mut Tx<'_>, session: &Session) -> Result<Option<(Option<StopReason>, Time)>> {
    let turn = "type IN ('session.status_idle', 'session.status_running')";
    if let Some((EventBody::StatusIdle { stop_reason, .. }, at)) = last(tx, &session.id, turn)? {
        return Ok(Some((Some(stop_reason), at)));
    }
    Ok(last(tx, &session.id, "type = 'session.status_terminated'")?.map(|(_, at)| (None, at)))
}

/// Why the last reply is not whole, where it was cut off: the engine keeps that beside the end of the request.
fn cut(tx: &mut Tx<'_>, session: &SessionId) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct RequestEnded {
        cut: Option<String>,
    }
    let sql = "SELECT hidden FROM session_events WHERE session_id = $1 AND type = 'span.model_request_end'
         ORDER BY seq DESC LIMIT 1";
    let hidden = tx.one(sql, vals![session], |row| row.opt_text(0))?.flatten();
    let ended: Option<RequestEnded> = hidden.map(|hidden| serde_json::from_str(&hidden)).transpose()?;
    Ok(ended.and_then(|ended| ended.cut))
}

fn last_error(tx: &mut Tx<'_>, session: &SessionId) -> Result<Option<SessionError>> {
    Ok(match last(tx, session, "type = 'session.error'")? {
        Some((EventBody::SessionError { error }, _)) => Some(error),
        _ => None,
    })
}

/// The last event that meets `condition`. What is asked for stands near the end of the log, from where it is looked for.
fn last(tx: &mut Tx<'_>, session: &SessionId, condition: &str) -> Result<Option<(EventBody, Time)>> {
    let sql = format!(
        "SELECT body, processed_at FROM session_events WHERE session_id = $1 AND {condition} ORDER BY seq DESC LIMIT 1"
    );
    tx.one(&sql, vals![session], |row| Ok((row.json::<Event>(0)?.body, row.time(1)?)))
}
