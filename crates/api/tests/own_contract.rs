//! The contract of what is Rota's own, `/rota/v1`: `contract/rota.json` is made from the types of its answers and
//! requests. `make pages` writes it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{env, fs};

use rota_api::{
    Deleted,
    audit::{ActorType, AuditEvent},
    egress::{EgressConnection, EgressOutcome},
    environment_key::{CreateEnvironmentKey, EnvironmentKey, NewEnvironmentKey},
    hook::{CreateHook, Hook, HookDelivery, NewHook, RotateHook, SlackChallenge},
    image::{EnvironmentBuild, EnvironmentImage, Images, SetEnvironmentImage},
    listed_run::{Attention, ListedRun, RunState, RunTrigger},
    occurrence::{AuditedOccurrence, OccurrenceOutcome},
    policy::{DeploymentPolicy, UpdatePolicy},
    retention::{
        DeploymentRetention, RetentionPreview, UpdateDeploymentRetention, UpdateWorkspaceRetention, WorkspaceRetention,
    },
    rota_event::{EndpointDisabled, PassedOver, RunFinished, RunWaiting, Silent, SpendReached},
    run_outcome::RunWithOutcome,
    run_sum::{RunSums, SumBy},
    schedule::SchedulePreview,
    schedule_hold::ScheduleHolds,
    session_state::{STOP_REASONS, SessionState, SessionWithState},
    start::{Backfill, PlannedBackfill, PlannedStart, SentStartRun, StartState, StartedRun},
    tunnel::TunnelWithStatus,
    warning::SessionWithWarnings,
    webhook::{
        CreateEndpoint, DeliveryState, NewWebhookEndpoint, SigningSecret, UpdateEndpoint, WebhookDelivery,
        WebhookEndpoint,
    },
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contract");

const RUN: &str = "/v1/deployment_runs/{deployment_run_id}";
const SESSION: &str = "/v1/sessions/{session_id}";
const TUNNEL: &str = "/v1/tunnels/{tunnel_id}";
const POLICY: &str = "/rota/v1/deployments/{deployment_id}/policy";
const BACKFILL: &str = "/rota/v1/deployments/{deployment_id}/backfill";
const HOOKS: &str = "/rota/v1/deployments/{deployment_id}/hooks";
const HOOK: &str = "/rota/v1/hooks/{hook_id}";
const ROTATE: &str = "/rota/v1/hooks/{hook_id}/rotate";
const RUNS: &str = "/rota/v1/deployments/{deployment_id}/runs";
const RETENTION: &str = "/rota/v1/retention";
const DEPLOYMENT_RETENTION: &str = "/rota/v1/deployments/{deployment_id}/retention";
const KEYS: &str = "/rota/v1/environments/{environment_id}/keys";
const REVOKE: &str = "/rota/v1/environments/{environment_id}/keys/{environment_key_id}/revoke";
const IMAGE: &str = "/rota/v1/environments/{environment_id}/image";
const ENDPOINTS: &str = "/rota/v1/webhook_endpoints";
const ENDPOINT: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}";
const SECRET: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/regenerate_signing_secret";
const DELIVERIES: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries";
const DELIVERY: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}";
const REPLAY: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}/replay";

/// The contract as it grows.
struct Contract {
    generator: SchemaGenerator,
    official: Value,
    paths: Map<String, Value>,
    events: Map<String, Value>,
}

impl Contract {
    /// The schema of an answer, or of a body of a request.
    fn schema<T: JsonSchema>(&mut self) -> Value {
        self.generator.subschema_for::<T>().to_value()
    }

    /// A page of a list with a cursor.
    fn page<T: JsonSchema>(&mut self) -> Value {
        let data = json!({"type": "array", "items": self.schema::<T>()});
        let properties = json!({"data": data, "next_page": {"type": ["string", "null"]}});
        json!({"type": "object", "required": ["data"], "properties": properties})
    }

    /// A page of a list whose cursors are ids.
    fn by_ids<T: JsonSchema>(&mut self) -> Value {
        let (data, id) = (json!({"type": "array", "items": self.schema::<T>()}), json!({"type": ["string", "null"]}));
        let properties = json!({"data": data, "has_more": {"type": "boolean"}, "first_id": id, "last_id": id});
        json!({"type": "object", "required": ["data", "has_more", "first_id", "last_id"], "properties": properties})
    }

    /// What the official contract answers at `path`, with the fields of `T` beside its own.
    fn beside<T: JsonSchema>(&mut self, path: &str) -> Value {
        let mut own = <T as JsonSchema>::json_schema(&mut self.generator).to_value();
        let answer = &self.official["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let mut answer = answer.clone();
        into_the_official(&mut answer);
        let (fields, required) = (own["properties"].as_object_mut().unwrap(), &mut answer["properties"]);
        required.as_object_mut().unwrap().append(fields);
        let more = own["required"].as_array_mut().unwrap();
        answer["required"].as_array_mut().unwrap().append(more);
        answer
    }

    /// One answer or another.
    fn either(one: &Value, other: &Value) -> Value {
        json!({"anyOf": [one, other]})
    }

    fn add(&mut self, method: &str, path: &str, query: &[(&str, Value)], answer: &Value) {
        let parameters: Vec<Value> =
            query.iter().map(|(name, schema)| json!({"name": name, "in": "query", "schema": schema})).collect();
        let content = json!({"application/json": {"schema": answer}});
        let operation =
            json!({"parameters": parameters, "responses": {"200": {"description": "ok", "content": content}}});
        let path = self.paths.entry(path).or_insert_with(|| json!({}));
        path[method] = operation;
    }

    /// An event of Rota's own: what every event says, and what `T` says beside it.
    fn event<T: JsonSchema>(&mut self, name: &str) {
        let (text, time) = (json!({"type": "string"}), json!({"type": "string", "format": "date-time"}));
        let mut data = <T as JsonSchema>::json_schema(&mut self.generator).to_value();
        data["properties"]["type"] = json!({ "const": name });
        for every in ["id", "organization_id", "workspace_id"] {
            data["properties"][every] = text.clone();
        }
        let required = data["required"].as_array_mut().unwrap();
        required.extend(["type", "id", "organization_id", "workspace_id"].map(Value::from));
        let event = json!({
            "type": "object",
            "required": ["type", "id", "created_at", "data"],
            "properties": {"type": {"const": "event"}, "id": text, "created_at": time, "data": data},
        });
        let content = json!({"application/json": {"schema": event}});
        self.events.insert(name.to_owned(), json!({"post": {"requestBody": {"required": true, "content": content}}}));
    }

    /// What was added last at `path` as a POST has a body.
    fn takes<T: JsonSchema>(&mut self, path: &str) {
        let content = json!({"application/json": {"schema": self.schema::<T>()}});
        self.paths[path]["post"]["requestBody"] = json!({"required": true, "content": content});
    }
}

/// Names what the official contract has as it is named from beside it.
fn into_the_official(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(place) if name == "$ref" => place.insert_str(0, "openapi.json"),
                    value => into_the_official(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(into_the_official),
        _ => {}
    }
}

/// Descriptions are the code's; the contract has none.
fn bare(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, value| !(["description", "title"].contains(&name.as_str()) && value.is_string()));
            fields.values_mut().for_each(bare);
        }
        Value::Array(items) => items.iter_mut().for_each(bare),
        _ => {}
    }
}

fn made() -> String {
    let official = fs::read_to_string(format!("{CONTRACT}/openapi.json")).unwrap();
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    let generator = settings.into_generator();
    let official = serde_json::from_str(&official).unwrap();
    let mut c = Contract { generator, official, paths: Map::new(), events: Map::new() };
    let (text, integer) = (json!({"type": "string"}), json!({"type": "integer"}));
    let time = json!({"type": "string", "format": "date-time"});
    let (limit, page) = (("limit", integer.clone()), ("page", text.clone()));

    let answer = c.beside::<RunWithOutcome>(RUN);
    c.add("get", &format!("/rota{RUN}"), &[], &answer);
    let answer = c.beside::<SessionWithWarnings>(SESSION);
    c.add("get", &format!("/rota{SESSION}"), &[], &answer);
    let query = [limit.clone(), page.clone(), ("outcome", json!({"enum": EgressOutcome::NAMES}))];
    let answer = c.page::<EgressConnection>();
    c.add("get", &format!("/rota{SESSION}/egress"), &query, &answer);
    let answer = c.beside::<TunnelWithStatus>(TUNNEL);
    c.add("get", &format!("/rota{TUNNEL}"), &[], &answer);
    let outcome = ("outcome", json!({"enum": OccurrenceOutcome::NAMES}));
    let query = [limit.clone(), page.clone(), ("from", time.clone()), ("to", time.clone()), outcome];
    let answer = c.page::<AuditedOccurrence>();
    c.add("get", "/rota/v1/deployments/{deployment_id}/occurrences", &query, &answer);
    let answer = c.schema::<DeploymentPolicy>();
    c.add("get", POLICY, &[], &answer);
    c.add("post", POLICY, &[], &answer);
    c.takes::<UpdatePolicy>(POLICY);
    let query = [("expression", text.clone()), ("timezone", text.clone()), ("after", time), ("count", integer)];
    let answer = c.schema::<SchedulePreview>();
    c.add("get", "/rota/v1/schedules/preview", &query, &answer);
    let answer = c.schema::<ScheduleHolds>();
    c.add("get", "/rota/v1/schedules/hold", &[], &answer);
    for verb in ["hold", "release"] {
        c.add("post", &format!("/rota/v1/schedules/{verb}"), &[], &answer);
        c.add("post", &format!("/rota/v1/workspaces/{{workspace_id}}/schedules/{verb}"), &[], &answer);
    }
    let answer = c.page::<EnvironmentKey>();
    c.add("get", KEYS, &[limit.clone(), page.clone()], &answer);
    let answer = c.schema::<NewEnvironmentKey>();
    c.add("post", KEYS, &[], &answer);
    c.takes::<CreateEnvironmentKey>(KEYS);
    let answer = c.schema::<EnvironmentKey>();
    c.add("post", REVOKE, &[], &answer);
    let answer = c.schema::<EnvironmentImage>();
    c.add("get", IMAGE, &[], &answer);
    c.add("post", IMAGE, &[], &answer);
    c.takes::<SetEnvironmentImage>(IMAGE);
    let answer = c.schema::<EnvironmentBuild>();
    c.add("get", "/rota/v1/environments/{environment_id}/build", &[], &answer);
    let answer = c.schema::<Images>();
    c.add("get", "/rota/v1/images", &[], &answer);
    let answer = c.schema::<WorkspaceRetention>();
    c.add("get", RETENTION, &[], &answer);
    c.add("post", RETENTION, &[], &answer);
    c.takes::<UpdateWorkspaceRetention>(RETENTION);
    let answer = c.schema::<DeploymentRetention>();
    c.add("get", DEPLOYMENT_RETENTION, &[], &answer);
    c.add("post", DEPLOYMENT_RETENTION, &[], &answer);
    c.takes::<UpdateDeploymentRetention>(DEPLOYMENT_RETENTION);
    let answer = c.schema::<RetentionPreview>();
    c.add("get", "/rota/v1/retention/preview", &[], &answer);
    let answer = c.schema::<Attention>();
    c.add("get", "/rota/v1/attention", &[], &answer);
    let answer = c.page::<ListedRun>();
    let time = |name| (name, json!({"type": "string", "format": "date-time"}));
    let query = [
        limit.clone(),
        page.clone(),
        ("state", json!({"enum": RunState::NAMES})),
        ("trigger", json!({"enum": RunTrigger::NAMES})),
        ("deployment_id", text.clone()),
        ("agent_id", text.clone()),
        time("from"),
        time("to"),
    ];
    c.add("get", "/rota/v1/runs", &query, &answer);
    let answer = c.beside::<StartedRun>(RUN);
    c.add("post", "/rota/v1/runs/{deployment_run_id}/rerun", &[], &answer);
    let planned = c.schema::<PlannedStart>();
    c.add("post", RUNS, &[], &Contract::either(&answer, &planned));
    c.takes::<SentStartRun>(RUNS);
    c.add("get", "/rota/v1/starts/{start_id}", &[], &planned);
    c.add("post", "/rota/v1/starts/{start_id}/cancel", &[], &planned);
    let answer = c.page::<PlannedStart>();
    let query = [limit.clone(), page.clone(), ("state", json!({"enum": StartState::NAMES}))];
    c.add("get", "/rota/v1/deployments/{deployment_id}/starts", &query, &answer);
    let answer = c.schema::<PlannedBackfill>();
    c.add("post", BACKFILL, &[], &answer);
    c.takes::<Backfill>(BACKFILL);
    let answer = c.page::<Hook>();
    c.add("get", HOOKS, &[limit.clone(), page.clone()], &answer);
    let answer = c.schema::<NewHook>();
    c.add("post", HOOKS, &[], &answer);
    c.takes::<CreateHook>(HOOKS);
    let answer = c.schema::<Hook>();
    c.add("get", HOOK, &[], &answer);
    let answer = c.schema::<Deleted>();
    c.add("delete", HOOK, &[], &answer);
    let answer = Contract::either(&c.schema::<HookDelivery>(), &c.schema::<SlackChallenge>());
    c.add("post", HOOK, &[], &answer);
    let answer = c.schema::<NewHook>();
    c.add("post", ROTATE, &[], &answer);
    c.takes::<RotateHook>(ROTATE);
    let answer = c.schema::<RunSums>();
    let by = ("by", json!({"type": "array", "items": {"enum": SumBy::NAMES}}));
    let query = [by, ("deployment_id", text.clone()), ("agent_id", text.clone()), time("from"), time("to")];
    c.add("get", "/rota/v1/runs/sums", &query, &answer);
    let answer = c.page::<SessionWithState>();
    let query = [
        limit.clone(),
        page.clone(),
        ("state", json!({"enum": SessionState::NAMES})),
        ("stop_reason", json!({"enum": STOP_REASONS})),
        ("deployment_id", text.clone()),
        ("agent_id", text.clone()),
        time("from"),
        time("to"),
        ("include_archived", json!({"type": "boolean"})),
    ];
    c.add("get", "/rota/v1/sessions", &query, &answer);
    let order = ("order", json!({"enum": ["asc", "desc"]}));
    let answer = c.page::<AuditEvent>();
    let query = [
        limit.clone(),
        page.clone(),
        order.clone(),
        ("format", json!({"enum": ["json", "jsonl"]})),
        ("workspace_id", text.clone()),
        ("actor_type", json!({"enum": ActorType::NAMES})),
        ("actor_id", text.clone()),
        ("operation", text.clone()),
        ("resource_type", text.clone()),
        ("resource_id", text.clone()),
        time("from"),
        time("to"),
    ];
    c.add("get", "/rota/v1/audit", &query, &answer);
    let query = [limit.clone(), order, ("after_id", text.clone()), ("before_id", text)];
    let answer = c.by_ids::<WebhookEndpoint>();
    c.add("get", ENDPOINTS, &query, &answer);
    let answer = c.schema::<NewWebhookEndpoint>();
    c.add("post", ENDPOINTS, &[], &answer);
    c.takes::<CreateEndpoint>(ENDPOINTS);
    let answer = c.schema::<WebhookEndpoint>();
    c.add("get", ENDPOINT, &[], &answer);
    c.add("post", ENDPOINT, &[], &answer);
    c.takes::<UpdateEndpoint>(ENDPOINT);
    let answer = c.schema::<Deleted>();
    c.add("delete", ENDPOINT, &[], &answer);
    let answer = c.schema::<SigningSecret>();
    c.add("post", SECRET, &[], &answer);
    let answer = c.page::<WebhookDelivery>();
    c.add("get", DELIVERIES, &[limit, page, ("state", json!({"enum": DeliveryState::NAMES}))], &answer);
    let answer = c.schema::<WebhookDelivery>();
    c.add("get", DELIVERY, &[], &answer);
    c.add("post", REPLAY, &[], &answer);

    c.event::<Silent>("rota.deployment.silent");
    c.event::<PassedOver>("rota.occurrence.missed");
    c.event::<PassedOver>("rota.occurrence.skipped");
    c.event::<RunFinished>("rota.run.finished");
    c.event::<RunWaiting>("rota.run.waiting");
    c.event::<SpendReached>("rota.spend.reached");
    c.event::<EndpointDisabled>("rota.webhook_endpoint.disabled");

    let schemas = c.generator.take_definitions(true);
    let mut contract = json!({
        "openapi": "3.1.0",
        "info": {"title": "wire contract of Rota's own", "version": "1"},
        "paths": c.paths,
        "webhooks": c.events,
        "components": {"schemas": schemas},
    });
    bare(&mut contract);
    contract.sort_all_objects();
    serde_json::to_string_pretty(&contract).unwrap() + "\n"
}

#[test]
fn the_contract_of_what_is_our_own_is_what_its_types_give() {
    let (path, made) = (format!("{CONTRACT}/rota.json"), made());
    if env::var_os("ROTA_WRITE_PAGES").is_some() {
        fs::write(path, made).unwrap();
        return;
    }
    assert!(
        fs::read_to_string(path).unwrap_or_default() == made,
        "contract/rota.json is not what the types give: run `make pages`"
    );
}
