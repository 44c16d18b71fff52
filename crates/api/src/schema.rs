//! Schemas of types that stand in answers and requests of Rota's own (`contract/rota.json`). What the official contract describes is named
//! there, and not described twice.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    Time,
    deployment::RunError,
    event::{SessionError, StopReason},
    id::{DeploymentId, EventId, RunId, SessionId, WebhookEndpointId, WebhookEventId},
    policy::{
        Jitter, MAX_ATTEMPTS, MAX_BACKOFF_MULTIPLIER, MAX_BACKOFF_SECONDS, MAX_CATCH_UP_SECONDS,
        MAX_CONCURRENT_SESSIONS, MAX_INITIAL_BACKOFF_SECONDS, MAX_JITTER_SECONDS, NamedJitter, Overlap, UpdatePolicy,
    },
    session::{MonetaryAmount, SessionUsage, Status},
    webhook::{EndpointFields, EndpointState, EventType, MAX_DESCRIPTION, MAX_NAME, MAX_URL, UpdateEndpoint},
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
    DeploymentId {"type": "string"};
    EventId {"type": "string"};
    RunId {"type": "string"};
    SessionId {"type": "string"};
    WebhookEndpointId {"type": "string"};
    WebhookEventId {"type": "string"};
    Time {"type": "string", "format": "date-time"};
    Jitter {"anyOf": [{"enum": (NamedJitter::NAMES)}, {"type": "integer", "minimum": 1}]};
    EventType {"enum": (EventType::NAMES)};
    RunError {"$ref": "openapi.json#/paths/~1v1~1deployment_runs~1%7Bdeployment_run_id%7D/get/responses/200/content/application~1json/schema/properties/error"};
    SessionError {"$ref": "openapi.json#/components/schemas/BetaManagedAgentsSessionErrorEvent/properties/error"};
    StopReason {"$ref": "openapi.json#/components/schemas/BetaManagedAgentsSessionStatusIdleEvent/properties/stop_reason"};
    SessionUsage {"$ref": "openapi.json#/components/schemas/BetaManagedAgentsSessionUsage"};
    MonetaryAmount {"$ref": "openapi.json#/components/schemas/BetaMonetaryAmount"};
    Status {"$ref": "openapi.json#/paths/~1v1~1sessions~1%7Bsession_id%7D/get/responses/200/content/application~1json/schema/properties/status"};

    EndpointFields {
        "type": "object",
        "properties": {
            "name": {"type": ["string", "null"], "maxLength": MAX_NAME},
            "description": {"type": ["string", "null"], "maxLength": MAX_DESCRIPTION},
            "url": {"type": "string", "minLength": 1, "maxLength": MAX_URL},
            "enabled_events": {"type": "array", "items": {"enum": (EventType::NAMES)}, "minItems": 1, "maxItems": (EventType::NAMES.len())},
        },
        "required": ["url", "enabled_events"],
        "additionalProperties": false,
    };
    UpdateEndpoint {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": MAX_NAME},
            "description": {"type": "string", "maxLength": MAX_DESCRIPTION},
            "url": {"type": "string", "minLength": 1, "maxLength": MAX_URL},
            "enabled_events": {"type": "array", "items": {"enum": (EventType::NAMES)}, "maxItems": (EventType::NAMES.len())},
            "state": {"enum": (EndpointState::NAMES)},
        },
        "additionalProperties": false,
    };
    UpdatePolicy {
        "type": "object",
        "properties": {
            "overlap": {"anyOf": [{"enum": (Overlap::NAMES)}, {"type": "null"}]},
            "max_concurrent_sessions": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CONCURRENT_SESSIONS},
            "retry": {
                "type": ["object", "null"],
                "properties": {
                    "max_attempts": {"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPTS},
                    "initial_backoff_seconds": {"type": "integer", "minimum": 1, "maximum": MAX_INITIAL_BACKOFF_SECONDS},
                    "max_backoff_seconds": {"type": "integer", "minimum": 1, "maximum": MAX_BACKOFF_SECONDS},
                    "multiplier": {"type": "integer", "minimum": 1, "maximum": MAX_BACKOFF_MULTIPLIER},
                },
                "additionalProperties": false,
            },
            "catch_up_seconds": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_CATCH_UP_SECONDS},
            "jitter": {"anyOf": [
                {"enum": (NamedJitter::NAMES)},
                {"type": "integer", "minimum": 1, "maximum": MAX_JITTER_SECONDS},
                {"type": "null"},
            ]},
        },
        "additionalProperties": false,
    };
}
