//! What became of deployment runs. A run records that a session was created; the rest is read from that session.

use axum::extract::State;
use rota_api::{
    Time,
    deployment::{DeploymentRun, TriggerContext},
    event::{Event, EventBody, SessionError, StopReason},
    id::{SessionId, WorkspaceId},
    run_outcome::{RunOutcome, RunWithOutcome, SessionOutcome, WaitingOn},
    session::{Session, Status},
};

use super::{
    deployment_runs,
    sessions::{self, WaitingFor},
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::Result,
    request::{Caller, Json, Path, Query},
};

/// `GET /rota/v1/deployment_runs/{deployment_run_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Result<Json<RunWithOutcome>> {
    query.finish()?;
    app.db.read(move |tx| get(tx, &caller.workspace, &id)).await.map(Json)
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<RunWithOutcome> {
    let run = deployment_runs::get(tx, workspace, id)?;
    let session = match &run.session_id {
        Some(id) => sessions::find(tx, workspace, id.as_ref())?,
        None => None,
    };
    let session = session.map(|session| outcome(tx, workspace, &session)).transpose()?;
    let outcome = RunOutcome { session, lateness_ms: lateness_ms(&run) };
    Ok(RunWithOutcome { run, outcome })
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
    let rest = if works { None } else { last_rest(tx, &session.id)? };
    let has_error = session.status == Status::Rescheduling || matches!(rest, Some((StopReason::RetriesExhausted, _)));
    let error = if has_error { last_error(tx, &session.id)? } else { None };
    let until = match &rest {
        Some((_, at)) => *at,
        None if works => tx.now(),
        None => session.created_at,
    };
    Ok(SessionOutcome {
        status: session.status,
        stop_reason: rest.map(|(reason, _)| reason),
        waits_for_human: waiting.iter().any(|waiting| waiting.for_ == WaitingFor::Confirmation),
        waiting_on: waiting.into_iter().map(|w| WaitingOn { event_id: w.id, answer: answer(w.for_) }).collect(),
        error,
        usage: session.usage,
        list_cost: session.usage.list_cost,
        active_seconds: session.stats.active_seconds,
        duration_seconds: until.seconds_since(session.created_at).max(0.0),
    })
}

fn answer(to: WaitingFor) -> &'static str {
    match to {
        WaitingFor::Confirmation => "user.tool_confirmation",
        WaitingFor::CustomToolResult => "user.custom_tool_result",
        WaitingFor::ToolResult => "user.tool_result",
    }
}

/// Why and when the agent last came to rest.
fn last_rest(tx: &mut Tx<'_>, session: &SessionId) -> Result<Option<(StopReason, Time)>> {
    Ok(match last(tx, session, "session.status_idle")? {
        Some((EventBody::StatusIdle { stop_reason, .. }, at)) => Some((stop_reason, at)),
        _ => None,
    })
}

fn last_error(tx: &mut Tx<'_>, session: &SessionId) -> Result<Option<SessionError>> {
    Ok(match last(tx, session, "session.error")? {
        Some((EventBody::SessionError { error }, _)) => Some(error),
        _ => None,
    })
}

/// The last event of a type. What is asked for stands near the end of the log, from where it is looked for.
fn last(tx: &mut Tx<'_>, session: &SessionId, tag: &str) -> Result<Option<(EventBody, Time)>> {
    let sql = "SELECT body, processed_at FROM session_events WHERE session_id = $1 AND type = $2
        ORDER BY seq DESC LIMIT 1";
    tx.one(sql, vals![session, tag], |row| Ok((row.json::<Event>(0)?.body, row.time(1)?)))
}
