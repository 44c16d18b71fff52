//! Tells the webhooks of Rota's own what becomes of a run when its session stops.

use rota_api::{
    event::SessionError,
    id::{DeploymentId, RunId, SessionId, WorkspaceId},
    listed_run::Cost,
    policy::InterruptedBy,
    rota_event::{Details, FailureReason, Finish, RunFinished, RunWaiting},
    webhook::EventType,
};

use super::{
    Waiting,
    status::{StartedBy, TERMINATED},
};
use crate::{
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::FAILURE_BYTES,
    resources::webhook_outbox,
};

/// Tells of a session that has stopped for `reason`, the type of a stop reason or [`TERMINATED`]: its run has come to its end, or
/// waits for a human. What waits for a program only is told to nobody: a program knows.
pub(super) fn stopped(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    started_by: Option<&StartedBy>,
    reason: &'static str,
) -> Result<()> {
    let Some(StartedBy { deployment, run: Some(run), interrupted_by }) = started_by else { return Ok(()) };
    if reason == "requires_action" {
        return webhook_outbox::emit_own(tx, workspace, EventType::RotaRunWaiting, run, |tx| {
            waiting(tx, workspace, session, deployment)
        });
    }
    finished(tx, workspace, session, (deployment, run), reason, *interrupted_by)
}

fn waiting(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    deployment: &DeploymentId,
) -> Result<Option<Details>> {
    let sql = "SELECT waiting_on FROM sessions WHERE workspace_id = $1 AND id = $2";
    let waiting: Vec<Waiting> =
        tx.one(sql, vals![workspace, session], |row| row.opt_json(0))?.flatten().unwrap_or_default();
    if !waiting.iter().any(|waiting| waiting.for_.is_of_a_human()) {
        return Ok(None);
    }
    Ok(Some(Details::RunWaiting(RunWaiting {
        deployment_id: deployment.clone(),
        session_id: session.clone(),
        waiting_on: waiting.into_iter().map(Into::into).collect(),
    })))
}

fn finished(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    (deployment, run): (&DeploymentId, &RunId),
    reason: &'static str,
    interrupted_by: Option<InterruptedBy>,
) -> Result<()> {
    let died = ["retries_exhausted", TERMINATED].contains(&reason);
    webhook_outbox::emit_own(tx, workspace, EventType::RotaRunFinished, run, |tx| {
        let sql = "SELECT error, cost_nanos FROM sessions WHERE workspace_id = $1 AND id = $2";
        let read = |row: &Row<'_>| Ok((row.opt_json::<SessionError>(0)?, row.opt_int(1)?));
        let (error, nanos) = tx.one_or(sql, vals![workspace, session], read, || super::not_found(session.as_ref()))?;
        Ok(Some(Details::RunFinished(RunFinished {
            deployment_id: deployment.clone(),
            session_id: Some(session.clone()),
            outcome: if died || interrupted_by.is_some() { Finish::Failed } else { Finish::Done },
            stop_reason: Some(reason.to_owned()),
            error: match interrupted_by {
                Some(by) => Some(FailureReason {
                    r#type: by.as_str().to_owned(),
                    message: format!("interrupted by `{}` of the deployment's policy", by.as_str()),
                }),
                None => error.filter(|_| died).map(failure).transpose()?,
            },
            cost: nanos.map(Cost::from_nanos),
        })))
    })
}

fn failure(error: SessionError) -> Result<FailureReason> {
    let r#type = serde_json::to_value(error.r#type)?;
    let r#type = r#type.as_str().ok_or_else(|| Error::internal("a type of error that is no name"))?.to_owned();
    let mut message = error.message;
    message.truncate(message.floor_char_boundary(FAILURE_BYTES));
    Ok(FailureReason { r#type, message })
}
