//! What most tests begin with.

use rota_api::model::Lifecycle;
use rota_server::config::{ModelConfig, Provider};
use serde_json::{Value, json};

use crate::client::Api;

/// The built-in tools, all of which run at once.
pub fn toolset() -> Value {
    json!({"type": "agent_toolset_20260401"})
}

/// A message of the user.
pub fn message(text: &str) -> Value {
    json!({"type": "user.message", "content": [{"type": "text", "text": text}]})
}

/// A message that asks the playbook to run `script` in the shell.
pub fn script(script: &str) -> Value {
    message(&format!("```bash\n{script}\n```"))
}

/// The id of a resource.
pub fn id(resource: &Value) -> &str {
    resource["id"].as_str().unwrap()
}

/// An object with the fields of `changes` put over those of `base`.
pub fn over(mut base: Value, changes: &Value) -> Value {
    let fields = base.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    base
}

/// An agent of the playbook with the built-in tools, but for `changes`.
pub async fn agent(api: &Api, changes: Value) -> Value {
    let body = json!({"name": "worker", "model": "playbook", "tools": [toolset()]});
    api.post("/v1/agents", over(body, &changes)).await
}

/// An environment `name`.
pub async fn environment(api: &Api, name: &str) -> Value {
    api.post("/v1/environments", json!({ "name": name })).await
}

/// An agent and an environment.
pub struct Parts {
    /// The agent.
    pub agent: Value,
    /// The environment.
    pub environment: Value,
}

impl Parts {
    /// An agent of the playbook and an environment of Rota's own sandboxes.
    pub async fn new(api: &Api) -> Self {
        Self { agent: agent(api, json!({})).await, environment: environment(api, "workshop").await }
    }

    /// What creates a deployment of the two, but for `changes`.
    pub fn deployment_body(&self, changes: &Value) -> Value {
        let body = json!({
            "name": "nightly",
            "agent": id(&self.agent),
            "environment_id": id(&self.environment),
            "initial_events": [script("echo hello")],
        });
        over(body, changes)
    }

    /// A deployment of the two, but for `changes`.
    pub async fn deployment(&self, api: &Api, changes: Value) -> Value {
        api.post("/v1/deployments", self.deployment_body(&changes)).await
    }

    /// What creates a session of the two, but for `changes`.
    pub fn session_body(&self, changes: &Value) -> Value {
        over(json!({"agent": id(&self.agent), "environment_id": id(&self.environment)}), changes)
    }

    /// A session of the two, but for `changes`.
    pub async fn session(&self, api: &Api, changes: Value) -> Value {
        api.post("/v1/sessions", self.session_body(&changes)).await
    }

    /// A session that begins with `event`.
    pub async fn session_with(&self, api: &Api, event: Value) -> Value {
        self.session(api, json!({"initial_events": [event]})).await
    }
}

/// The configuration of a model `id`.
pub fn model(id: &str, provider: Provider) -> ModelConfig {
    ModelConfig {
        id: id.to_owned(),
        provider,
        display_name: None,
        upstream: None,
        base_url: None,
        api_key_env: None,
        bearer: false,
        max_tokens: 1000,
        max_input_tokens: None,
        price: None,
        aliases: Vec::new(),
        released_at: None,
        lifecycle: Lifecycle::Active,
        deprecated_at: None,
        retires_at: None,
        line: None,
        fallbacks: Vec::new(),
        concurrency: None,
        requests_per_second: None,
        api_version: None,
        thinking: None,
        reasoning_field: None,
    }
}
