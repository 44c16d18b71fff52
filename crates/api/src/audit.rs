//! The audit list: who changed what, and when.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    fields::names,
    id::{AuditEventId, RequestId, WorkspaceId},
};

/// A change of a resource.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditEvent {
    /// Sorts by the time of the change.
    pub id: AuditEventId,
    /// Always `audit_event`.
    pub r#type: &'static str,
    /// The workspace that the resource is in. None: it is the organization's.
    pub workspace_id: Option<WorkspaceId>,
    /// Who changed it.
    pub actor: Actor,
    /// What was done, such as `agents.update`: the segments of the path, then what the method means.
    pub operation: String,
    /// What was changed.
    pub resource: AuditedResource,
    /// The fields of the resource that have another value since. Null of what has none: it was created, archived or deleted.
    pub changed_fields: Option<Vec<String>>,
    /// The request that asked for it. None: no request did.
    pub request_id: Option<RequestId>,
    /// When, in the time of the transaction that made the change.
    pub created_at: Time,
}

/// Who changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Actor {
    /// Which kind it is.
    pub r#type: ActorType,
    /// The key that was used: an API key, or that of an environment. Of a cascade, that of the change that it came of.
    pub id: Option<String>,
}

names! {
    /// The kinds of those who change something.
    #[derive(JsonSchema)]
    ActorType {
        /// An API key, in a request.
        "api_key" => ApiKey,
        /// A worker, with the key of its environment or a token that it got with that.
        "worker" => Worker,
        /// The program `rota`, on a machine that has the store.
        "command_line" => CommandLine,
        /// The scheduler: a fire has failed, or found no agent.
        "scheduler" => Scheduler,
        /// The policy of a deployment, for whoever does not answer.
        "policy" => Policy,
        /// Another change: what goes with an agent, a vault or a workspace.
        "cascade" => Cascade,
        /// The server itself, for another reason.
        "server" => Server,
    }
}

impl Actor {
    /// One that is no key.
    pub const fn of(r#type: ActorType) -> Self {
        Self { r#type, id: None }
    }

    /// The key `id`.
    pub fn key(r#type: ActorType, id: impl AsRef<str>) -> Self {
        Self { r#type, id: Some(id.as_ref().to_owned()) }
    }
}

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AuditedResource {
    /// Its kind, such as `agent`.
    pub r#type: String,
    /// Its id.
    pub id: Option<String>,
    /// The id of what it is part of, such as the vault of a credential.
    pub parent_id: Option<String>,
}
