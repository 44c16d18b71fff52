//! Webhooks: endpoints of a workspace, the events that are sent to them, and the deliveries of those events.
//!
//! Endpoints have the fields of the organization webhooks of the administration API; events are the `webhooks` of the
//! managed agents API.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    Time,
    decode::{Decoded, Node, Object},
    fields::{Decode, Kind, OneOf, Text, described, names},
    id::{WebhookEndpointId, WebhookEventId, WorkspaceId},
    rota_event::Details,
};

/// Most characters of an endpoint's name.
pub const MAX_NAME: usize = 256;
/// Most characters of an endpoint's description.
pub const MAX_DESCRIPTION: usize = 2048;
/// Most characters of an endpoint's URL.
pub const MAX_URL: usize = 2048;

names! {
    /// What an event is about: `data.type`. Each is sent by this server; the API has more, of resources that it lacks. Those that begin
    /// with `rota.` are its own. Sorted by name.
    #[derive(PartialOrd, Ord, Hash)]
    #[allow(missing_docs, reason = "the names say it")]
    EventType {
        "agent.archived" => AgentArchived,
        "agent.created" => AgentCreated,
        "agent.updated" => AgentUpdated,
        "deployment.archived" => DeploymentArchived,
        "deployment.created" => DeploymentCreated,
        "deployment.paused" => DeploymentPaused,
        "deployment.unpaused" => DeploymentUnpaused,
        "deployment.updated" => DeploymentUpdated,
        "deployment_run.failed" => DeploymentRunFailed,
        "deployment_run.started" => DeploymentRunStarted,
        "deployment_run.succeeded" => DeploymentRunSucceeded,
        "environment.archived" => EnvironmentArchived,
        "environment.created" => EnvironmentCreated,
        "environment.deleted" => EnvironmentDeleted,
        "environment.updated" => EnvironmentUpdated,
        "memory_store.archived" => MemoryStoreArchived,
        "memory_store.created" => MemoryStoreCreated,
        "memory_store.deleted" => MemoryStoreDeleted,
        "rota.deployment.silent" => RotaDeploymentSilent,
        "rota.occurrence.missed" => RotaOccurrenceMissed,
        "rota.occurrence.skipped" => RotaOccurrenceSkipped,
        "rota.run.finished" => RotaRunFinished,
        "rota.run.waiting" => RotaRunWaiting,
        "rota.spend.reached" => RotaSpendReached,
        "rota.webhook_endpoint.disabled" => RotaWebhookEndpointDisabled,
        "session.archived" => SessionArchived,
        "session.deleted" => SessionDeleted,
        "session.requires_action" => SessionRequiresAction,
        "session.status_idled" => SessionStatusIdled,
        "session.status_rescheduled" => SessionStatusRescheduled,
        "session.status_run_started" => SessionStatusRunStarted,
        "session.status_terminated" => SessionStatusTerminated,
        "session.updated" => SessionUpdated,
        "vault.archived" => VaultArchived,
        "vault.created" => VaultCreated,
        "vault.deleted" => VaultDeleted,
        "vault_credential.archived" => VaultCredentialArchived,
        "vault_credential.created" => VaultCredentialCreated,
        "vault_credential.deleted" => VaultCredentialDeleted,
        "vault_credential.refresh_failed" => VaultCredentialRefreshFailed,
    }
}

/// An event as endpoints receive it: what happened to which resource, whose state is to be asked for.
#[derive(Debug, Clone, Serialize)]
pub struct WebhookEvent<'a> {
    r#type: &'static str,
    id: &'a WebhookEventId,
    created_at: Time,
    data: EventData<'a>,
}

#[derive(Debug, Clone, Serialize)]
struct EventData<'a> {
    r#type: EventType,
    id: &'a str,
    organization_id: &'a str,
    workspace_id: &'a WorkspaceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    vault_id: Option<&'a str>,
    #[serde(flatten)]
    details: Option<&'a Details>,
}

impl<'a> WebhookEvent<'a> {
    /// The event `id`: `type` happened to `resource` at `created_at`.
    pub fn new(
        id: &'a WebhookEventId,
        created_at: Time,
        r#type: EventType,
        resource: &'a str,
        organization_id: &'a str,
        workspace_id: &'a WorkspaceId,
    ) -> Self {
        let data = EventData { r#type, id: resource, organization_id, workspace_id, vault_id: None, details: None };
        Self { r#type: "event", id, created_at, data }
    }

    /// The same event, told as one of something in the vault `vault_id`, where there is one.
    #[must_use]
    pub fn in_vault(mut self, vault_id: Option<&'a str>) -> Self {
        self.data.vault_id = vault_id;
        self
    }

    /// The same event, with what one of Rota's own says, where it is one.
    #[must_use]
    pub fn saying(mut self, details: Option<&'a Details>) -> Self {
        self.data.details = details;
        self
    }
}

names! {
    /// Whether events are delivered to an endpoint.
    #[derive(JsonSchema)]
    EndpointState {
        /// They are.
        "enabled" => Enabled,
        /// They are not. Events that happen meanwhile are never delivered to it.
        "disabled" => Disabled,
    }
}

/// An endpoint of a workspace.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WebhookEndpoint {
    /// Its id.
    pub id: WebhookEndpointId,
    /// When it was created.
    pub created_at: Time,
    /// Notes; empty when none were given.
    pub description: String,
    /// Why the server disabled it. Empty while it is enabled, or when a caller disabled it.
    pub disabled_reason: String,
    /// The types of events that are delivered to it, sorted.
    pub enabled_events: Vec<EventType>,
    /// A label; empty when none was given.
    pub name: String,
    /// Whether events are delivered to it.
    pub state: EndpointState,
    /// When it was last changed.
    pub updated_at: Time,
    /// Where deliveries are sent.
    pub url: String,
}

/// A new endpoint, with the secret that no other answer shows.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewWebhookEndpoint {
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: WebhookEndpoint,
    /// What its deliveries are signed with.
    #[serde(flatten)]
    pub secret: SigningSecret,
}

/// What an endpoint's deliveries are signed with.
#[derive(Serialize, JsonSchema)]
pub struct SigningSecret {
    /// `whsec_` and the key in base64.
    pub signing_secret: String,
}

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

described! {
    /// What a new endpoint is made of.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    EndpointFields,
    /// A create request.
    CreateEndpoint {
        /// A label.
        name: String, keeps as Text(0, MAX_NAME);
        /// Notes.
        description: String, keeps as Text(0, MAX_DESCRIPTION);
        /// The URL, as it was sent.
        url: String, required as Text(1, MAX_URL);
        /// At least one, sorted, each once.
        enabled_events: Vec<EventType>, required as EventTypes(1);
    }
}

described! {
    /// What an update of an endpoint can change.
    #[derive(Debug, Clone, PartialEq, Eq)]
    EndpointSettings,
    /// An update request.
    UpdateEndpoint {
        /// A label.
        name: String, needs as Text(0, MAX_NAME);
        /// Notes.
        description: String, needs as Text(0, MAX_DESCRIPTION);
        /// The URL, as it was sent.
        url: String, needs as Text(1, MAX_URL);
        /// Sorted, each once. None leaves them as they are.
        enabled_events: Vec<EventType>, needs as EventTypes(0);
        /// Whether events are delivered to it.
        state: EndpointState, needs as OneOf(EndpointState::NAMES);
    }
}

impl EndpointFields {
    /// Reads the body of a create request.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        CreateEndpoint::read(o)?.merged(&Self::default())
    }
}

impl UpdateEndpoint {
    /// What `stored` becomes.
    ///
    /// # Errors
    /// None.
    pub fn over(&self, stored: &EndpointSettings) -> Decoded<EndpointSettings> {
        let mut settings = self.merged(stored)?;
        if settings.enabled_events.is_empty() {
            settings.enabled_events.clone_from(&stored.enabled_events);
        }
        Ok(settings)
    }
}

/// Types of events: at least so many, sorted, each once.
struct EventTypes(usize);

impl Kind<Vec<EventType>> for EventTypes {
    fn read(&self, node: &Node<'_>) -> Decoded<Vec<EventType>> {
        let mut events = node.items(self.0, EventType::NAMES.len(), EventType::decode)?;
        events.sort_unstable();
        events.dedup();
        Ok(events)
    }

    fn schema(&self) -> Value {
        let (items, most) = (json!({"enum": EventType::NAMES}), EventType::NAMES.len());
        let mut schema = json!({"type": "array", "items": items, "maxItems": most});
        if self.0 > 0 {
            schema["minItems"] = self.0.into();
        }
        schema
    }
}

names! {
    /// What has become of a delivery.
    #[derive(JsonSchema)]
    DeliveryState {
        /// It is tried, or tried again later; for an endpoint that is disabled, when it is enabled again.
        "pending" => Pending,
        /// The endpoint has accepted it.
        "delivered" => Delivered,
        /// The endpoint has not accepted it, and it is not tried again unless it is replayed.
        "failed" => Failed,
    }
}

/// The delivery of an event to an endpoint. It has the id of the event: what the endpoint sees as `webhook-id`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WebhookDelivery {
    /// The event's id.
    pub id: WebhookEventId,
    /// `webhook_delivery`.
    pub r#type: &'static str,
    /// The endpoint.
    pub webhook_endpoint_id: WebhookEndpointId,
    /// What has become of it.
    pub state: DeliveryState,
    /// How often it was sent.
    pub attempts: i64,
    /// When it was last sent.
    pub last_attempt_at: Option<Time>,
    /// When it is sent next; null when it is not, and while it is under way.
    pub next_attempt_at: Option<Time>,
    /// The HTTP status of the last answer, where there was one.
    pub response_status: Option<i64>,
    /// The beginning of the body of the last answer, where that was no success.
    pub response_excerpt: Option<String>,
    /// Why the last attempt did not succeed.
    pub error: Option<String>,
    /// The event as it is sent.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub event: Box<RawValue>,
    /// When the event happened.
    pub created_at: Time,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode;

    #[test]
    fn event_types_are_sorted_and_read_back() {
        assert!(EventType::NAMES.is_sorted(), "{:?}", EventType::NAMES);
        for r#type in EventType::ALL {
            assert_eq!(EventType::from_name(r#type.as_str()), Some(r#type));
        }
    }

    #[test]
    fn a_create_is_read_strictly() {
        let read = |body| decode::body(&body, EndpointFields::read).map_err(|error| error.to_string());
        let twice = json!({"url": "https://a.example", "enabled_events": ["session.updated", "agent.created", "session.updated"]});
        let fields = read(twice).unwrap();
        assert_eq!(fields.enabled_events, [EventType::AgentCreated, EventType::SessionUpdated]);
        assert_eq!((&*fields.name, &*fields.description), ("", ""));
        for (body, message) in [
            (json!({"enabled_events": ["agent.created"]}), "url: Field required"),
            (json!({"url": "u"}), "enabled_events: Field required"),
            (json!({"url": "u", "enabled_events": []}), "enabled_events: value must contain at least 1 item"),
            (
                json!({"url": "u", "enabled_events": ["agent.exploded"]}),
                "enabled_events[0]: \"agent.exploded\" is not a valid value",
            ),
            (
                json!({"url": "u", "enabled_events": ["agent.created"], "state": "enabled"}),
                "state: Extra inputs are not permitted",
            ),
        ] {
            assert_eq!(read(body).unwrap_err(), message);
        }
    }

    #[test]
    fn an_update_changes_what_it_names_and_an_empty_list_nothing() {
        let stored = EndpointSettings {
            name: "a".to_owned(),
            description: "b".to_owned(),
            url: "u".to_owned(),
            enabled_events: vec![EventType::AgentCreated],
            state: EndpointState::Enabled,
        };
        let read = |body| {
            let update = decode::body(&body, UpdateEndpoint::read).map_err(|error| error.to_string())?;
            Ok::<_, String>(update.over(&stored).unwrap())
        };
        let changed = read(json!({"enabled_events": [], "state": "disabled", "name": ""})).unwrap();
        let wanted = EndpointSettings { name: String::new(), state: EndpointState::Disabled, ..stored.clone() };
        assert_eq!(changed, wanted);
        assert_eq!(read(json!({"state": "asleep"})).unwrap_err(), "state: \"asleep\" is not a valid value");
        assert_eq!(read(json!({"url": null})).unwrap_err(), "url: value cannot be null");
    }
}
