//! Shares the places for attempts among the endpoints that something is due for.

use std::{collections::HashMap, iter, sync::Arc};

use reqwest::Client;
use rota_api::id::WebhookEndpointId;
use tokio::{
    task::{JoinError, JoinSet},
    time::sleep,
};

use super::{
    claim::{self, Claim},
    next::{Ended, claim_micros, next},
    send::{self, Outcome},
};
use crate::{app::App, db::Tx, error::Result, limits, telemetry};

/// Sends webhooks until the server stops.
pub async fn run(app: App) {
    let client = match send::client(&app.config.webhooks) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "webhooks cannot be sent");
            return;
        }
    };
    app.spawn(purge(app.clone()));
    let mut dispatcher =
        Dispatcher { app: app.clone(), client, sends: JoinSet::new(), busy: HashMap::new(), last: String::new() };
    while !app.is_stopping() {
        if let Err(error) = dispatcher.fill().await
            && telemetry::may_tell("webhooks that are due")
        {
            tracing::error!(%error, "no webhooks could be taken up");
        }
        tokio::select! {
            Some(sent) = dispatcher.sends.join_next() => dispatcher.ended(sent),
            () = app.hub.webhook_due() => {}
            () = sleep(limits::WEBHOOK_POLL) => {}
            () = app.stopping() => {}
        }
    }
    // Each ends by itself when the server stops.
    while dispatcher.sends.join_next().await.is_some() {}
}

struct Dispatcher {
    app: App,
    client: Client,
    sends: JoinSet<WebhookEndpointId>,
    /// How many attempts are under way, by endpoint.
    busy: HashMap<WebhookEndpointId, usize>,
    /// The endpoint that was given a place last: the one after it is the first in the next round.
    last: String,
}

impl Dispatcher {
    /// Starts as many attempts as there are places for.
    async fn fill(&mut self) -> Result<()> {
        let free = limits::WEBHOOK_SENDS - self.sends.len();
        if free == 0 {
            return Ok(());
        }
        let last = self.last.clone();
        let waiting = self.app.db.read(move |tx| round(tx, &last)).await?;
        let shares = share(waiting, &self.busy, free);
        let Some((last, _)) = shares.last() else { return Ok(()) };
        self.last = last.to_string();
        let lasts = claim_micros(self.app.config.webhooks.timeout_seconds);
        let shares = Arc::new(shares);
        let claims = self
            .app
            .db
            .write(move |tx| {
                let until = tx.now().plus_micros(lasts);
                let mut claims = Vec::new();
                for (endpoint, count) in shares.iter() {
                    claims.extend(claim::claim(tx, endpoint, *count as i64, until)?);
                }
                Ok(claims)
            })
            .await?;
        for claim in claims {
            *self.busy.entry(claim.endpoint.clone()).or_default() += 1;
            self.sends.spawn(deliver(self.app.clone(), self.client.clone(), claim));
        }
        Ok(())
    }

    /// Frees the place of an attempt that has ended, and of those that have by now.
    fn ended(&mut self, first: Result<WebhookEndpointId, JoinError>) {
        let others = iter::from_fn(|| self.sends.try_join_next());
        for endpoint in iter::once(first).chain(others).flatten() {
            if let Some(count) = self.busy.get_mut(&endpoint) {
                *count -= 1;
            }
        }
        self.busy.retain(|_, count| *count > 0);
        // One that panicked did not say whose place it had.
        if self.sends.is_empty() {
            self.busy.clear();
        }
    }
}

/// The endpoints that something is due for, those after `last` first.
fn round(tx: &mut Tx<'_>, last: &str) -> Result<Vec<WebhookEndpointId>> {
    let mut waiting = claim::waiting(tx, last, limits::WEBHOOK_ROUND)?;
    if !last.is_empty() {
        let others = claim::waiting(tx, "", limits::WEBHOOK_ROUND)?;
        waiting.extend(others.into_iter().filter(|endpoint| endpoint.as_ref() <= last));
    }
    Ok(waiting)
}

/// Gives each endpoint of `waiting` in its turn the places that it may still have, until none is free.
fn share(
    waiting: Vec<WebhookEndpointId>,
    busy: &HashMap<WebhookEndpointId, usize>,
    mut free: usize,
) -> Vec<(WebhookEndpointId, usize)> {
    let mut shares = Vec::new();
    for endpoint in waiting {
        let under_way = busy.get(&endpoint).copied().unwrap_or_default();
        let count = limits::WEBHOOK_SENDS_PER_ENDPOINT.saturating_sub(under_way).min(free);
        if count > 0 {
            free -= count;
            shares.push((endpoint, count));
        }
    }
    shares
}

/// Makes one attempt and records it. A server that stops gives the delivery back.
async fn deliver(app: App, client: Client, claim: Claim) -> WebhookEndpointId {
    let endpoint = claim.endpoint.clone();
    let event = claim.event.clone();
    let done = tokio::select! {
        done = send_and_record(&app, &client, claim.clone()) => done,
        () = app.stopping() => app.db.write(move |tx| claim::release(tx, &claim)).await,
    };
    if let Err(error) = done {
        tracing::error!(webhook_endpoint_id = %endpoint, webhook_event_id = %event, %error,
            "a webhook was not recorded; it is sent again");
    }
    endpoint
}

async fn send_and_record(app: &App, client: &Client, claim: Claim) -> Result<()> {
    let config = &app.config.webhooks;
    let Outcome { ended, answer } = send::attempt(app, client, &claim).await?;
    let (endpoint, event, attempt) = (claim.endpoint.clone(), claim.event.clone(), claim.attempt);
    let next = next(ended, attempt, config.attempts, random());
    let name = match ended {
        Ended::Accepted => "accepted",
        Ended::Failed | Ended::Postponed { .. } => "failed",
        Ended::Refused => "refused",
    };
    metrics::counter!("rota_webhook_attempts_total", "outcome" => name).increment(1);
    if let Some(error) = &answer.error {
        tracing::info!(webhook_endpoint_id = %endpoint, webhook_event_id = %event, attempt, error,
            "a webhook was not accepted");
    }
    let disabled = app.db.write(move |tx| claim::record(tx, &claim, &answer, next)).await?;
    if let Some(reason) = disabled {
        tracing::warn!(webhook_endpoint_id = %endpoint, reason, "a webhook endpoint was disabled");
    }
    Ok(())
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_ne_bytes(bytes)
}

/// Removes deliveries that are too old: at the start, and now and then.
async fn purge(app: App) {
    loop {
        match app.db.write(claim::purge).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "old webhook deliveries could not be removed"),
        }
        tokio::select! {
            () = sleep(limits::WEBHOOK_PURGE_EVERY) => {}
            () = app.stopping() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use rota_api::id::Id;

    use super::*;

    #[test]
    fn an_endpoint_has_no_more_places_than_leave_some_for_the_others() {
        let id = |name: &str| WebhookEndpointId::trusted(name.to_owned());
        let check = |waiting: &[&str], busy: &[(&str, usize)], free, expect: &[(&str, usize)]| {
            let busy = busy.iter().map(|(name, count)| (id(name), *count)).collect();
            let expect: Vec<_> = expect.iter().map(|(name, count)| (id(name), *count)).collect();
            assert_eq!(share(waiting.iter().map(|name| id(name)).collect(), &busy, free), expect);
        };
        check(&["a", "b"], &[], 64, &[("a", 4), ("b", 4)]);
        check(&["a", "b"], &[("a", 4), ("b", 1)], 59, &[("b", 3)]);
        check(&["a", "b", "c"], &[], 6, &[("a", 4), ("b", 2)]);
        check(&[], &[("a", 4)], 60, &[]);
    }
}
