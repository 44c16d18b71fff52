//! What the contract does not allow is refused, by every operation, and changes nothing. The cases are made from the
//! contract: each field left out, of a wrong type, unknown; each parameter unknown, wrong and sent twice.

use std::collections::BTreeMap;

use reqwest::Method;
use rota_server::{
    config::Role,
    http::operations::{Operation, Who, operations},
};
use serde_json::{Map, Value, json};

use crate::{
    access::{filled, let_in, one_of_each},
    client::Api,
    contract::{self, ADMINISTRATION, Contract, MANAGED_AGENTS, OWN},
    given::{Parts, id, message, over},
    memory_stores,
    server::Rota,
    tunnels::AUTHORITIES,
    vaults,
};

/// What every operation is tried on.
struct World {
    api: Api,
    ids: BTreeMap<&'static str, String>,
    parts: Parts,
    // Kept running.
    _rota: Rota,
}

impl World {
    /// One of each resource, which nothing but requests changes: no engine, no scheduler, no sender of webhooks.
    async fn new() -> Self {
        let rota = Rota::with(|config| {
            config.engine.concurrency = 0;
            config.roles = [Role::Api, Role::Runner].into_iter().collect();
        })
        .await;
        let administrator = rota.administrator().await;
        let workspace = administrator.get("/v1/organizations/workspaces?include_default=true").await;
        let api = administrator.in_workspace(id(&workspace["data"][0]));
        let mut ids = one_of_each(&api).await;
        ids.insert("{workspace_id}", id(&workspace["data"][0]).to_owned());
        let keys = api.get("/v1/organizations/api_keys").await;
        ids.insert("{api_key_id}", id(&keys["data"][0]).to_owned());
        let agent = api.get(&format!("/v1/agents/{}", ids["{agent_id}"])).await;
        let environment = api.get(&format!("/v1/environments/{}", ids["{environment_id}"])).await;
        Self { api, ids, parts: Parts { agent, environment }, _rota: rota }
    }

    /// Everything that can be read.
    async fn everything(&self) -> Vec<(String, Value)> {
        let mut read = Vec::new();
        for operation in operations().into_iter().filter(|operation| operation.method == Method::GET) {
            let path = filled(&operation, &self.ids);
            // A stream does not end, a preview reads nothing, a poll takes what it reads, and the content of an upload is for nobody.
            if ["/stream", "/schedules/preview", "/content", "/poll"].iter().any(|end| path.ends_with(end)) {
                continue;
            }
            let mut answer = self.let_in(&operation).get(&path).await;
            without_the_time(&mut answer);
            read.push((path, answer));
        }
        assert!(read.len() > 25, "{} can be read", read.len());
        read
    }

    /// A body that the operation takes.
    fn body(&self, operation: &Operation) -> Value {
        let Self { parts, ids, .. } = self;
        let toolset = json!({"type": "agent_toolset_20260401", "default_config": {"enabled": true, "permission_policy": {"type": "always_allow"}},
            "configs": [{"name": "bash", "enabled": true, "permission_policy": {"type": "always_ask"}}]});
        let custom = json!({"type": "custom", "name": "look_up", "description": "Looks up.", "input_schema": {"type": "object", "properties": {}}});
        let agent = json!({"name": "refused", "model": {"id": "playbook"}, "description": "d", "system": "s", "tools": [toolset, custom], "metadata": {"a": "b"}});
        let cloud = json!({"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["a.example"], "allow_mcp_servers": false, "allow_package_managers": true}, "packages": {"type": "packages", "apt": ["jq"]}});
        let environment = json!({"name": "refused", "description": "d", "config": cloud, "metadata": {"a": "b"}});
        let schedule = json!({"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"});
        let deployment = json!({"name": "refused", "description": "d", "schedule": schedule, "metadata": {"a": "b"}});
        let endpoint = json!({"name": "refused", "description": "d", "url": "https://refused.invalid", "enabled_events": ["agent.created"]});
        match operation.path {
            "/v1/agents" => agent,
            "/v1/agents/{agent_id}" => over(agent, &json!({"version": parts.agent["version"]})),
            "/v1/environments" => environment,
            "/v1/environments/{environment_id}" => over(environment, &json!({"name": "refused later"})),
            "/v1/deployments" => parts.deployment_body(&deployment),
            "/v1/deployments/{deployment_id}" => deployment,
            "/v1/sessions" => parts.session_body(&json!({"title": "refused", "metadata": {"a": "b"}})),
            "/v1/sessions/{session_id}" => json!({"title": "refused", "metadata": {"a": "b"}}),
            "/v1/sessions/{session_id}/events" => json!({"events": [message("refused")]}),
            "/v1/sessions/{session_id}/resources" => {
                json!({"type": "file", "file_id": self.ids["{file_id}"], "mount_path": "refused.txt"})
            }
            "/v1/sessions/{session_id}/resources/{resource_id}" => json!({"authorization_token": "refused"}),
            "/v1/memory_stores" | "/v1/memory_stores/{memory_store_id}" => {
                json!({"name": "refused", "description": "d", "metadata": {"a": "b"}})
            }
            "/v1/memory_stores/{memory_store_id}/memories" => json!({"path": "/refused", "content": "c"}),
            "/v1/memory_stores/{memory_store_id}/memories/{memory_id}" => {
                let precondition = json!({"type": "content_sha256", "content_sha256": memory_stores::hash("of each")});
                json!({"path": "/later", "content": "c", "precondition": precondition})
            }
            "/v1/vaults" | "/v1/vaults/{vault_id}" => json!({"display_name": "refused", "metadata": {"a": "b"}}),
            "/v1/vaults/{vault_id}/credentials" => over(
                vaults::variable("REFUSED", &json!({"injection_location": {"body": true, "header": true}})),
                &json!({"display_name": "refused", "metadata": {"a": "b"}}),
            ),
            "/v1/vaults/{vault_id}/credentials/{credential_id}" => over(
                json!({"auth": {"type": "environment_variable", "secret_value": "refused", "networking": {"type": "unrestricted"},
                    "injection_location": {"body": true, "header": true}}}),
                &json!({"display_name": "refused", "metadata": {"a": "b"}}),
            ),
            "/v1/organizations/workspaces" => json!({"name": "refused", "tags": {"a": "b"}}),
            "/v1/organizations/workspaces/{workspace_id}" => json!({"name": "refused later", "tags": {"a": "b"}}),
            "/v1/organizations/api_keys/{api_key_id}" => json!({"name": "refused", "status": "active"}),
            "/v1/dreams" => {
                let store = json!({"type": "memory_store", "memory_store_id": ids["{memory_store_id}"]});
                let sessions = json!({"type": "sessions", "session_ids": [ids["{session_id}"]]});
                json!({"inputs": [store, sessions], "model": {"id": "playbook"}, "instructions": "refused", "output_behavior": {"type": "create_new"}})
            }
            "/v1/tunnels" => json!({"display_name": "refused"}),
            "/v1/tunnels/{tunnel_id}/rotate_token" => json!({"reason": "refused"}),
            "/v1/tunnels/{tunnel_id}/certificates" => json!({"ca_certificate_pem": AUTHORITIES[1]}),
            "/v1/user_profiles" | "/v1/user_profiles/{user_profile_id}" => json!({
                "name": "refused", "access_type": "passthrough", "external_id": "r", "metadata": {"a": "b"},
                "external_user_onboarded_at": "2025-01-01T00:00:00Z",
            }),
            "/v1/user_profiles/{user_profile_id}/action_urls" => json!({"action": {"type": "enroll_end_user"}}),
            "/v1/user_profiles/{user_profile_id}/providers/google/data_controls" => {
                json!({"cmek": {"type": "disabled"}, "storage": {"type": "disabled"}})
            }
            "/v1/environments/{environment_id}/work/{work_id}" => json!({"metadata": {"a": "b"}}),
            "/v1/environments/{environment_id}/work/{work_id}/stop" => json!({"force": true}),
            "/rota/v1/environments/{environment_id}/keys" => {
                json!({"name": "refused", "expires_at": "2030-01-01T00:00:00Z"})
            }
            "/rota/v1/environments/{environment_id}/image" => json!({"image": null}),
            "/rota/v1/webhook_endpoints" => endpoint,
            "/rota/v1/webhook_endpoints/{webhook_endpoint_id}" => over(endpoint, &json!({"state": "enabled"})),
            "/rota/v1/deployments/{deployment_id}/retention" => {
                json!({"sessions_days": 30, "outputs_days": 7, "runs_days": 30})
            }
            "/rota/v1/retention" => {
                json!({"sessions_days": 30, "outputs_days": 7, "runs_days": 30, "deliveries_days": 7, "egress_days": 7})
            }
            "/rota/v1/deployments/{deployment_id}/policy" => json!({
                "overlap": "skip", "max_concurrent_sessions": 1, "catch_up_seconds": 60, "jitter": "off",
                "retry": {
                    "max_attempts": 2, "max_sessions": 2, "even_after_changes": false, "initial_backoff_seconds": 30,
                    "max_backoff_seconds": 60, "multiplier": 2,
                },
                "spend": {"per_day_cents": 100, "per_month_cents": 1000}, "session": "continue", "carry_forward": 500,
                "silent_after_intervals": 5,
                "unattended": {"answer_within_seconds": 60}, "max_session_seconds": 60, "max_idle_waiting_seconds": 60,
                "pause_after_failures": 2, "starts_at": "2026-03-02T08:00:00Z", "ends_at": "2030-01-01T00:00:00Z",
            }),
            "/rota/v1/deployments/{deployment_id}/runs" => {
                let block = json!({"type": "text", "text": "refused"});
                json!({"inputs": {}, "content": [block], "at": "2026-12-01T00:00:00Z"})
            }
            "/rota/v1/deployments/{deployment_id}/hooks" => {
                json!({"name": "refused", "scheme": "github", "secret": "refused, refused", "max_per_minute": 10})
            }
            "/rota/v1/hooks/{hook_id}/rotate" => {
                json!({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "overlap_seconds": 60})
            }
            "/rota/v1/deployments/{deployment_id}/backfill" => {
                json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"})
            }
            path => panic!("{path} has a body: say here which one it takes"),
        }
    }

    /// A client that the operation lets in.
    fn let_in(&self, operation: &Operation) -> Api {
        let_in(operation, &self.api, &self.ids)
    }

    /// Sends what must be refused as wrong, in words that name `field`, and says so when it is not.
    async fn fault(&self, operation: &Operation, path: &str, body: Option<&Value>, field: &str) -> Option<String> {
        let method = &operation.method;
        let answer = self.let_in(operation).send(method.clone(), path, body).await;
        let (kind, message) = (&answer.body["error"]["type"], answer.body["error"]["message"].as_str());
        // Words of the hosted service: an id that is none is refused without the parameter's name, and an unknown field within
        // a field by its own.
        let recorded =
            |message: &str| message.starts_with("Invalid ") || message.ends_with(r#"unknown field "nonsense""#);
        let names = message.is_some_and(|message| message.contains(field) || recorded(message));
        let is_refused = answer.status == 400 && kind == "invalid_request_error" && names;
        let sent = body.map_or_else(String::new, |body| format!(" with {body}"));
        (!is_refused).then(|| format!("{method} {path}{sent}, {field}: {} {message:?}", answer.status))
    }
}

/// How long something has been there grows by itself, and sums are of the time up to now.
fn without_the_time(answer: &mut Value) {
    match answer {
        Value::Object(fields) => {
            fields.retain(|name, _| !["active_seconds", "duration_seconds", "from", "to"].contains(&name.as_str()));
            fields.values_mut().for_each(without_the_time);
        }
        Value::Array(items) => items.iter_mut().for_each(without_the_time),
        _ => {}
    }
}

fn of_the_contract(operation: &Operation) -> (&'static Contract, &'static contract::Operation) {
    let contract = match operation.who {
        _ if operation.path.starts_with("/rota/") => &*OWN,
        Who::Administrator => &*ADMINISTRATION,
        _ => &*MANAGED_AGENTS,
    };
    let mut all = contract.operations.iter();
    let found = all.find(|known| known.method == operation.method.as_str() && known.path == operation.path);
    (contract, found.unwrap_or_else(|| panic!("no contract has {} {}", operation.method, operation.path)))
}

/// Values of every type, among which a field finds some that it does not take.
fn values() -> Vec<Value> {
    vec![json!(true), json!(7), json!(1.5), json!("nonsense"), json!([]), json!([7]), json!({"nonsense": 1})]
}

/// `body` once for each object in it that lists its fields, with a field more.
fn with_an_unknown_field(body: &Value) -> Vec<Value> {
    let mut made = Vec::new();
    match body {
        Value::Object(fields) => {
            let mut more = fields.clone();
            more.insert("colour".to_owned(), json!("red"));
            made.push(Value::Object(more));
            // These are maps with keys of the caller's own.
            let own = ["metadata", "tags", "input_schema"];
            for (name, value) in fields.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
                made.extend(with_an_unknown_field(value).into_iter().map(|value| with(fields, name, value)));
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                made.extend(with_an_unknown_field(item).into_iter().map(|item| {
                    let mut items = items.clone();
                    items[i] = item;
                    Value::Array(items)
                }));
            }
        }
        _ => {}
    }
    made
}

fn with(fields: &Map<String, Value>, name: &str, value: Value) -> Value {
    let mut fields = fields.clone();
    fields.insert(name.to_owned(), value);
    Value::Object(fields)
}

#[tokio::test]
async fn a_body_that_the_contract_does_not_allow_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let before = world.everything().await;
    let (mut tried, mut faults) = (0, Vec::new());
    for operation in operations().into_iter().filter(|operation| operation.has_body) {
        let path = filled(&operation, &world.ids);
        let whole = world.body(&operation);
        let fields = whole.as_object().unwrap();
        let mut cases: Vec<(Value, String)> =
            with_an_unknown_field(&whole).into_iter().map(|body| (body, "colour".to_owned())).collect();
        cases.extend(fields.keys().map(|name| (with(fields, name, json!({"nonsense": 1})), name.clone())));
        cases.extend(values().into_iter().filter(|body| !body.is_object()).map(|body| (body, String::new())));
        let (contract, known) = of_the_contract(&operation);
        let body = known.body.as_ref().unwrap_or_else(|| panic!("the contract has no body for {}", operation.path));
        cases.extend(body.required.iter().map(|name| {
            let mut without = fields.clone();
            without.remove(name);
            (Value::Object(without), name.clone())
        }));
        for (name, schema) in &body.fields {
            let own_and_never_sent = operation.path.starts_with("/rota/") && !fields.contains_key(name);
            assert!(!own_and_never_sent, "{} is not shown to take {name}", operation.path);
            let wrong = values().into_iter().filter(|value| !contract.allows(schema, value));
            cases.extend(wrong.map(|value| (with(fields, name, value), name.clone())));
        }
        for (body, field) in &cases {
            faults.extend(world.fault(&operation, &path, Some(body), field).await);
        }
        tried += cases.len();
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(world.everything().await, before);
    assert!(tried > 500, "{tried} bodies were tried");
    // A file, which is what there is, has no credential to change; what a profile's action would lead to is the vendor's.
    let never = ["{resource_id}", "/action_urls"];
    let taken = |operation: &Operation| operation.has_body && !never.iter().any(|end| operation.path.ends_with(end));
    for operation in operations().into_iter().filter(taken) {
        let body = world.body(&operation);
        let answer = world.api.send(operation.method.clone(), &filled(&operation, &world.ids), Some(&body)).await;
        assert_eq!(answer.status, 200, "the whole body is taken by {}: {}", operation.path, answer.body);
    }
}

#[tokio::test]
async fn a_query_that_the_contract_does_not_allow_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let before = world.everything().await;
    let (mut tried, mut faults) = (0, Vec::new());
    for operation in operations() {
        let path = filled(&operation, &world.ids);
        let path = if path.ends_with("/schedules/preview") {
            format!("{path}?expression=0+9+*+*+*&timezone=UTC&")
        } else {
            format!("{path}?")
        };
        let body = operation.has_body.then(|| world.body(&operation));
        let mut cases = vec![("colour=red".to_owned(), "colour".to_owned())];
        let (contract, known) = of_the_contract(&operation);
        for contract::Parameter { name, schema } in &known.query {
            let takes = |value: Value| contract.allows(schema, &value);
            let (text, many) = (takes(json!("nonsense")), takes(json!([])));
            if !text && !takes(json!(["nonsense"])) {
                cases.push((format!("{name}=nonsense"), name.clone()));
            }
            if !many {
                let value = [json!(true), json!(7), json!("2026-03-02T08:00:00Z")]
                    .into_iter()
                    .find(|value| takes(value.clone()));
                let value = value.map_or("x".to_owned(), |value| value.to_string().replace('"', ""));
                cases.push((format!("{name}={value}&{name}={value}"), name.clone()));
            }
        }
        for (query, field) in &cases {
            faults.extend(world.fault(&operation, &format!("{path}{query}"), body.as_ref(), field).await);
        }
        tried += cases.len();
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(world.everything().await, before);
    assert!(tried > 150, "{tried} queries were tried");
}
