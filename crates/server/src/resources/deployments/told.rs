//! Tells the webhooks of Rota's own of runs that could not start a session, and of occurrences that have no run.

use rota_api::{
    Time,
    deployment::{DeploymentRun, RunError},
    id::WorkspaceId,
    occurrence::OccurrenceReason,
    rota_event::{Details, FailureReason, Finish, PassedOver, RunFinished},
    webhook::EventType,
};

use crate::{
    db::Tx,
    error::{Error, Result},
    resources::webhook_outbox,
    scheduler::settle::SkipReason,
};

/// Tells that `run` has no session, for `error`: that is its end.
pub(super) fn could_not_start(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    run: &DeploymentRun,
    error: &RunError,
) -> Result<()> {
    webhook_outbox::emit_own(tx, workspace, EventType::RotaRunFinished, &run.id, |_| {
        Ok(Some(Details::RunFinished(RunFinished {
            deployment_id: run.deployment_id.clone(),
            session_id: None,
            outcome: Finish::Failed,
            stop_reason: None,
            error: Some(FailureReason { r#type: error.r#type.as_str().to_owned(), message: error.message.clone() }),
            cost: None,
        })))
    })
}

/// Tells that occurrences of the deployment `id`, from the first to the last, never fire, for `reason`.
pub(super) fn passed_over(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    (first, last): (Time, Time),
    reason: SkipReason,
) -> Result<()> {
    let r#type = match reason {
        SkipReason::Missed => EventType::RotaOccurrenceMissed,
        _ => EventType::RotaOccurrenceSkipped,
    };
    webhook_outbox::emit_own(tx, workspace, r#type, id, |_| {
        let reason = reason.as_str();
        let unknown = || Error::internal(format!("the API has no reason {reason}"));
        Ok(Some(Details::PassedOver(PassedOver {
            scheduled_at: first,
            scheduled_until: (last != first).then_some(last),
            reason: OccurrenceReason::from_name(reason).ok_or_else(unknown)?,
        })))
    })
}
