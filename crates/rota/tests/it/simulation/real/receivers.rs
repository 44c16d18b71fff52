//! Two receivers of webhooks: one that is always well, and one that fails, moves away and comes back.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    client::{Api, ENDPOINTS},
    given::id,
    receiver::{Receiver, Reply},
    server::{PATIENCE, Rota},
    simulation::dice::Dice,
    webhook_events::endpoint,
};

/// The events of a scheduled run.
const TYPES: Option<&[&str]> = Some(&["deployment_run.started", "deployment_run.succeeded", "deployment_run.failed"]);

pub struct Receivers {
    steady: Receiver,
    moody: Receiver,
    /// The endpoints of the two.
    endpoints: [String; 2],
}

async fn set(api: &Api, endpoint: &str, state: &str) {
    api.post(endpoint, json!({ "state": state })).await;
}

impl Receivers {
    pub async fn start(api: &Api) -> Self {
        let (steady, moody) = (Receiver::start().await, Receiver::start().await);
        let endpoints = [endpoint(api, &steady, TYPES).await, endpoint(api, &moody, TYPES).await];
        let path = |endpoint: &Value| format!("{ENDPOINTS}/{}", id(endpoint));
        Self { endpoints: [path(&endpoints[0]), path(&endpoints[1])], steady, moody }
    }

    /// The moody one changes its mood, or a client disables or enables its endpoint.
    pub async fn change(&self, api: &Api, dice: &mut Dice) {
        match dice.within(0..6) {
            0 => self.moody.replies(Reply::Status(200, "")),
            1..=2 => self.moody.replies(Reply::Status(500, "")),
            3 => self.moody.replies(Reply::Redirect("http://127.0.0.1:1/".to_owned())),
            4 => set(api, &self.endpoints[1], "disabled").await,
            _ => set(api, &self.endpoints[1], "enabled").await,
        }
    }

    /// What is not sent any more is of an endpoint that is disabled, or has failed.
    pub async fn check(&self, rota: &Rota) -> Result<(), String> {
        let sql = "SELECT d.event_id FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
            WHERE e.state = 'enabled' AND d.state = 'pending' AND d.due_at IS NULL";
        let stuck = rota.server.app().db.read(move |tx| tx.all(sql, &[], |row| row.text(0))).await.unwrap();
        if stuck.is_empty() { Ok(()) } else { Err(format!("nobody sends {stuck:?}")) }
    }

    /// Both are well again, and what is pending is due, also where the clock was set back since. Then each event of `runs` has arrived at the steady one, and whatever was for the other one
    /// has arrived or is seen to have failed.
    pub async fn end(mut self, rota: &Rota, runs: &[Value]) -> Result<(), String> {
        self.check(rota).await?;
        let api = &rota.api;
        self.moody.replies(Reply::Status(200, ""));
        for endpoint in &self.endpoints {
            set(api, endpoint, "disabled").await;
            set(api, endpoint, "enabled").await;
        }
        for endpoint in &self.endpoints {
            let pending = format!("{endpoint}/deliveries?state=pending&limit=1");
            let none = api.once(&pending, |page| page["data"].as_array().unwrap().is_empty());
            timeout(PATIENCE / 2, none).await.map_err(|_| "a webhook is neither sent nor given up".to_owned())?;
        }
        let arrived = self.steady.so_far();
        let arrived: HashSet<_> = arrived.iter().map(|event| (event.about(), event.kind())).collect();
        for run in runs {
            let ended = if run["error"].is_null() { "deployment_run.succeeded" } else { "deployment_run.failed" };
            for kind in ["deployment_run.started", ended] {
                if !arrived.contains(&(id(run), kind)) {
                    return Err(format!("nobody was told of {kind} of {run}"));
                }
            }
        }
        let accepted = self.moody.so_far().into_iter().filter(|event| event.is_accepted);
        let accepted: HashSet<_> = accepted.map(|event| event.id).collect();
        for delivery in api.all(&format!("{}/deliveries", self.endpoints[1]), 100).await {
            let right = match delivery["state"].as_str() {
                Some("delivered") => accepted.contains(id(&delivery)),
                Some("failed") => delivery["attempts"].as_i64() >= Some(2),
                _ => false,
            };
            if !right {
                return Err(format!("not as the receiver has seen it: {delivery:#}"));
            }
        }
        for endpoint in &self.endpoints {
            api.delete(endpoint).await;
        }
        Ok(())
    }
}
