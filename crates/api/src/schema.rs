//! Schemas of types that stand in answers of Rota's own (`contract/rota.json`). What the official contract describes is named there, and
//! not described twice. Those of requests come of their declarations: [`described!`](crate::fields).

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    Time,
    agent::AgentReference,
    deployment::RunError,
    environment_key::{self, CreateEnvironmentKey},
    event::{SessionError, StopReason},
    id::{
        AgentId, AuditEventId, DeploymentId, EgressId, EnvironmentId, EnvironmentKeyId, EventId, HookId, RequestId,
        RunId, SessionId, StartId, TunnelTokenId, WebhookEndpointId, WebhookEventId, WorkspaceId,
    },
    policy::{Jitter, NamedJitter},
    session::{MonetaryAmount, SessionUsage, Status},
    webhook::EventType,
};

macro_rules! schemas {
    ($($type:ident $schema:tt;)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

schemas! {
    AgentId {"type": "string"};
    AuditEventId {"type": "string"};
    DeploymentId {"type": "string"};
    EgressId {"type": "string"};
    EnvironmentId {"type": "string"};
    EnvironmentKeyId {"type": "string"};
    EventId {"type": "string"};
    HookId {"type": "string"};
    RequestId {"type": "string"};
    RunId {"type": "string"};
    SessionId {"type": "string"};
    StartId {"type": "string"};
    TunnelTokenId {"type": "string"};
    WebhookEndpointId {"type": "string"};
    WebhookEventId {"type": "string"};
    WorkspaceId {"type": "string"};
    Time {"type": "string", "format": "date-time"};
    Jitter {"anyOf": [{"enum": (NamedJitter::NAMES)}, {"type": "integer", "minimum": 1}]};
    EventType {"enum": (EventType::NAMES)};
    AgentReference {"$ref": "openapi.json#/paths/~1v1~1deployment_runs~1%7Bdeployment_run_id%7D/get/responses/200/content/application~1json/schema/properties/agent"};
    RunError {"$ref": "openapi.json#/paths/~1v1~1deployment_runs~1%7Bdeployment_run_id%7D/get/responses/200/content/application~1json/schema/properties/error"};
    SessionError {"$ref": "openapi.json#/components/schemas/BetaManagedAgentsSessionErrorEvent/properties/error"};
    StopReason {"$ref": "openapi.json#/components/schemas/BetaManagedAgentsSessionStatusIdleEvent/properties/stop_reason"};
    SessionUsage {"$ref": "openapi.json#/components/schemas/BetaManagedAgentsSessionUsage"};
    MonetaryAmount {"$ref": "openapi.json#/components/schemas/BetaMonetaryAmount"};
    Status {"$ref": "openapi.json#/paths/~1v1~1sessions~1%7Bsession_id%7D/get/responses/200/content/application~1json/schema/properties/status"};

    CreateEnvironmentKey {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": (environment_key::MAX_NAME)},
            "expires_at": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        },
        "required": ["name"],
        "additionalProperties": false,
    };
}
