//! Decisions on calls that ask for one, as the audit list has them: the log of the session says what was decided, and the list who did.

use rota_api::{
    audit::{Actor, ActorType, AuditedResource},
    event::{Confirmation, EventBody},
    id::{SessionId, WorkspaceId},
};

use crate::{db::Tx, request::CallerOrWorker};

/// Leaves a row for each call that `events` decide on. Without a `caller` it is the policy of the deployment that does.
pub(super) fn audit(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    caller: Option<&CallerOrWorker>,
    session: &SessionId,
    events: &[EventBody],
) {
    for event in events {
        let EventBody::UserToolConfirmation { tool_use_id, result, .. } = event else { continue };
        let operation = match result {
            Confirmation::Allow => "sessions.tool_calls.allow",
            Confirmation::Deny => "sessions.tool_calls.deny",
        };
        let call = AuditedResource {
            r#type: "tool_call".to_owned(),
            id: Some(tool_use_id.clone()),
            parent_id: Some(session.to_string()),
        };
        tx.audit_decision(actor(caller), workspace, operation, &call);
    }
}

/// A worker decides on nothing.
fn actor(caller: Option<&CallerOrWorker>) -> Actor {
    caller.map_or(Actor::of(ActorType::Policy), |caller| Actor::key(ActorType::ApiKey, caller.key()))
}
