//! What tests of self-hosted environments begin with.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::Api,
    given::{Parts, agent, id, script},
};

/// A self-hosted environment, an agent for it, and the key with which workers take up its work.
pub struct Site {
    /// An agent of the playbook and the environment.
    pub parts: Parts,
    /// The key, as the API shows it.
    pub key: Value,
    /// A client with that key.
    pub worker: Api,
}

impl Site {
    /// One with the agent that `changes` say.
    pub async fn new(api: &Api, changes: Value) -> Self {
        let environment =
            api.post("/v1/environments", json!({"name": "mine", "config": {"type": "self_hosted"}})).await;
        Self::of(api, Parts { agent: agent(api, changes).await, environment }).await
    }

    /// The same of parts that are there.
    pub async fn of(api: &Api, parts: Parts) -> Self {
        let keys = format!("/rota/v1/environments/{}/keys", id(&parts.environment));
        let key = api.post(&keys, json!({"name": "bench"})).await;
        let worker = api.with_key(key["secret"].as_str().unwrap().to_owned());
        Self { parts, key, worker }
    }

    /// One with the playbook's agent, and a session there that has something to do.
    pub async fn at_work(api: &Api) -> (Self, Value) {
        let site = Self::new(api, json!({})).await;
        let session = site.session(api).await;
        (site, session)
    }

    /// The path of the work of the environment, and `rest`.
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/environments/{}/work{rest}", id(&self.parts.environment))
    }

    /// A session that has something to do in the shell.
    pub async fn session(&self, api: &Api) -> Value {
        self.parts.session_with(api, script("hostname")).await
    }

    /// What a worker is given that asks now: work or null.
    pub async fn poll(&self) -> Value {
        self.worker.get(&self.path("/poll")).await
    }

    /// The same, taken: a client with the token of the work.
    pub async fn take(&self) -> (Value, Api) {
        let work = self.poll().await;
        assert!(work.is_object(), "no work waits");
        let token = self.worker.with_key(token(&work));
        let work = self.worker.call(&self.path(&format!("/{}/ack", id(&work)))).await;
        (work, token)
    }

    /// A heartbeat of a client.
    pub async fn beat(&self, by: &Api, work: &Value, query: &str) -> crate::client::Answer {
        by.send(Method::POST, &self.path(&format!("/{}/heartbeat{query}", id(work))), None).await
    }
}

/// The token in the secret of work that was just given.
pub fn token(work: &Value) -> String {
    let secret = URL_SAFE_NO_PAD.decode(work["secret"].as_str().unwrap()).unwrap();
    let secret: Value = serde_json::from_slice(&secret).unwrap();
    secret["sessions_token"].as_str().unwrap().to_owned()
}

/// A worker's result of a call.
pub fn result(call: &Value, text: &str) -> Value {
    json!({"type": "user.tool_result", "tool_use_id": id(call), "content": [{"type": "text", "text": text}]})
}
