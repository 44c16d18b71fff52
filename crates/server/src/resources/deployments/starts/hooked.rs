//! What a hook starts: now, when a session has come to rest, or not at all, as the policy of the deployment has it.

use rota_api::{
    deployment::{DeploymentRun, RunErrorType, TriggerContext},
    id::{DeploymentId, HookId, Id, RunId, StartId, WorkspaceId},
    listed_run::RunTrigger,
    occurrence::OccurrenceReason,
    start::{PlannedStart, StartState},
};

use super::{
    super::{active, policy, run::Target},
    Settings, begin,
    store::{self, New, PLANNED},
};
use crate::{
    app::FirePolicy,
    db::{Tx, vals},
    error::{Error, Result},
    resources::{
        run_starts::{Cause, Given},
        sessions::events,
    },
    scheduler::{policy::Verdict, settle::State, starts::reason_of},
};

/// What a call of a hook has led to.
pub enum Called {
    /// A run.
    Ran(DeploymentRun),
    /// A start that waits until a session has come to rest.
    Queued(StartId),
    /// Nothing.
    Skipped(OccurrenceReason),
}

/// Starts the deployment of a hook, with what was sent to it.
///
/// # Errors
/// 403 when nothing starts in the workspace, 404 when the deployment is archived, 409 when it is paused, 429 when the workspace
/// has created as many sessions as it may; then nothing is recorded, and the sender may try again.
pub fn by_hook(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    hook: &HookId,
    given: &Given,
) -> Result<Called> {
    let id = deployment.as_ref();
    // Two calls at the same moment must not both find the last place.
    tx.lock(
        "deployments WHERE workspace_id = $1 AND id = $2
         AND (overlap IS NOT NULL OR max_concurrent_sessions IS NOT NULL)",
        vals![workspace, id],
    )?;
    let settings = Settings::find(tx, workspace, id)?;
    let target = Target::find(tx, workspace, id)?;
    let gone = || Error::Gone {
        code: "deployment_archived",
        message: format!("deployment {id} is archived: nothing starts it"),
    };
    let (Some(settings), Some(target)) = (settings, target) else { return Err(gone()) };
    if let Some(closed) = target.closed {
        return Err(closed.into());
    }
    match settings.state {
        State::Active => {}
        State::Archived => return Err(gone()),
        State::Paused => {
            let message = format!("deployment {id} is paused: nothing starts it until it is unpaused");
            return Err(Error::Conflict(message));
        }
    }
    let verdict = policy::verdict(tx, deployment, &settings.policy)?;
    let interrupts = match verdict {
        Verdict::Fires => 0,
        Verdict::Interrupts(count) => count,
        Verdict::Skipped(reason) => return Ok(Called::Skipped(reason_of(reason))),
        Verdict::Waits => return queue(tx, workspace, deployment, hook, given).map(Called::Queued),
    };
    let in_its_way = if interrupts > 0 { active::oldest(tx, deployment, interrupts)? } else { Vec::new() };
    let cause = Cause { hook: Some(hook.clone()), ..Cause::of(RunTrigger::Hook) };
    let run_id = RunId::new(tx.now());
    let run = begin(tx, policy, workspace, target, run_id, TriggerContext::Manual, (&cause, given))?;
    if run.error.as_ref().is_some_and(|error| error.r#type == RunErrorType::SessionRateLimited) {
        return Err(Error::RateLimited(policy.sessions_per_minute));
    }
    if run.session_id.is_some() {
        for session in in_its_way {
            events::interrupt(tx, workspace, &session)?;
        }
    }
    Ok(Called::Ran(run))
}

/// Has a call wait for its place. At most one does: it takes the place of an earlier one, as a later occurrence does.
fn queue(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    hook: &HookId,
    given: &Given,
) -> Result<StartId> {
    let waiting = "SELECT id FROM planned_starts WHERE deployment_id = $1 AND kind = 'hook' AND state = 'planned'";
    for earlier in tx.all(waiting, vals![deployment], |row| row.text("id"))? {
        let earlier = PLANNED.get(tx, workspace, &earlier)?;
        let (state, reason) = (StartState::Skipped, Some(OccurrenceReason::Overlap));
        store::end(tx, workspace, &PlannedStart { state, reason, ..earlier })?;
    }
    store::check_room(tx, deployment, 1)?;
    let (id, now) = (StartId::new(tx.now()), tx.now());
    let new = New {
        workspace,
        deployment,
        trigger: RunTrigger::Hook,
        at: now,
        scheduled_at: None,
        given,
        hook: Some(hook),
        look_at: Some(now),
    };
    store::insert(tx, &id, &new)?;
    Ok(id)
}
