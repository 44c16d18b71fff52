//! The upstreams of a model, in the order in which they are asked: its own, then its fallbacks.
//!
//! A request is made by a [`Turn`], which is had of one upstream. Who asks says which upstreams have failed it already in this try;
//! of the others the first one that is up is asked, and one that was found down is passed over until it is time to look again. So a
//! broken upstream costs a request now and then, and not one of each session.

use std::{sync::Arc, time::Duration};

use rota_api::{Time, id::WorkspaceId};

use super::{
    Block, Delta, DeltaSink, Message, Model, ModelError, ModelReply, ModelRequest, Price, Thought, Usage,
    offer::Offered,
    queue::{Outcome, Queue, Slot},
};
use crate::{
    clock::{Clock, Stopwatch},
    limits::{MODEL_FALLBACK_PATIENCE, MODEL_LINE_PATIENCE, MODEL_LINE_PAUSE},
    telemetry,
};

/// An upstream, and what it is asked for: an entry of `[[models]]`.
#[derive(Clone)]
pub struct Route {
    /// The id of the entry.
    pub name: String,
    /// The name that the upstream knows the model by.
    pub model: String,
    /// Whose dialect it speaks, by the names of OpenTelemetry.
    pub speaks: &'static str,
    /// Most tokens of a reply.
    pub max_tokens: u32,
    /// What it costs, where that is configured.
    pub price: Option<Price>,
    /// Who answers.
    pub(super) provider: Arc<dyn Model>,
    pub(super) queue: Arc<Queue>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Workspaces have their turns one after the other.
    pub workspace: &'a WorkspaceId,
    /// Since when it wants to ask: within a workspace the earliest comes first.
    pub since: Time,
}

/// The right to send one request to an upstream. It ends when this is dropped.
pub struct Turn {
    route: Arc<Route>,
    slot: Slot,
    /// The model that was asked for.
    model: String,
    /// What was used so far.
    used: Usage,
    is_over: bool,
}

/// There was no turn: every upstream that could be asked has its limits of rate reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InLine {
    /// For the client to read.
    pub message: String,
    /// When to come again.
    pub wait: Duration,
}

impl Offered {
    /// Waits for a turn of the first upstream that is up, but for those that have `failed`; a while only, and less of one that has
    /// another behind it.
    ///
    /// # Errors
    /// When there is none until then.
    pub async fn turn(&self, clock: &Clock, asker: Asker<'_>, failed: &[&str]) -> Result<Turn, InLine> {
        let now = clock.now();
        let left: Vec<&Arc<Route>> = self.left(failed).collect();
        // They have all failed where the configuration was changed meanwhile.
        let left = if left.is_empty() { self.routes.iter().collect() } else { left };
        let those = |is: fn(&Queue, Time) -> bool| -> Vec<&Arc<Route>> {
            left.iter().copied().filter(|route| is(&route.queue, now)).collect()
        };
        let [up, usable] = [those(Queue::is_up), those(|queue, now| !queue.is_unusable(now))];
        // That it is down is no reason not to ask the last one that there is.
        let candidates = [up, usable].into_iter().find(|some| !some.is_empty()).unwrap_or(left.clone());
        for (place, route) in candidates.iter().enumerate() {
            let is_last = place + 1 == candidates.len();
            let patience = if is_last { MODEL_LINE_PATIENCE } else { MODEL_FALLBACK_PATIENCE };
            if let Some(slot) = route.slot(clock, asker, patience).await {
                return Ok(Turn {
                    route: (*route).clone(),
                    slot,
                    model: self.wire.id.clone(),
                    used: Usage::default(),
                    is_over: false,
                });
            }
        }
        Err(InLine {
            message: format!(
                "model \"{}\" has reached the limits of its upstream; {} requests wait for their turn, and this session is among them",
                self.wire.id,
                candidates.iter().map(|route| route.queue.waiting()).sum::<usize>() + 1
            ),
            wait: candidates
                .iter()
                .map(|route| route.queue.opens_in(clock.now()))
                .min()
                .unwrap_or_default()
                .max(MODEL_LINE_PAUSE),
        })
    }

    /// The upstreams but for those that have `failed`.
    pub fn left(&self, failed: &[&str]) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter().filter(move |route| !failed.contains(&&*route.name))
    }

    /// The upstream that is asked next, after the last of `failed` did with `error`. What the model's own does not take of a request is
    /// a matter of the request, and no other one is asked.
    pub fn after(&self, failed: &[&str], error: &ModelError, now: Time) -> Option<&Arc<Route>> {
        let is_own = self.routes.first().is_some_and(|own| failed.last().is_some_and(|last| *last == own.name));
        let is_of_the_request =
            matches!(error, ModelError::TooLong { .. } | ModelError::RequestFailed { retryable: false, .. });
        let next = self.left(failed).find(|route| !route.queue.is_unusable(now));
        next.filter(|_| !(is_own && is_of_the_request))
    }

    /// Whether a turn of its own upstream could be had at once.
    pub fn is_free(&self, now: Time) -> bool {
        self.routes.first().is_some_and(|route| route.queue.is_up(now) && route.queue.is_free(now))
    }
}

impl Route {
    async fn slot(&self, clock: &Clock, asker: Asker<'_>, patience: Duration) -> Option<Slot> {
        let _waiting = Counted::new(&self.name);
        self.queue.slot(clock, asker.workspace, asker.since, patience).await
    }

    /// A conversation as this upstream understands it: without what others thought. Only they can read the signatures of it.
    pub fn understood(&self, messages: &[Message]) -> Vec<Message> {
        let is_known = |block: &&Block| match block {
            Block::Thought(thought) => thought.from.as_ref().is_none_or(|from| *from == self.name),
            _ => true,
        };
        let message = |message: &Message| Message {
            role: message.role,
            content: message.content.iter().filter(is_known).cloned().collect(),
        };
        messages.iter().map(message).collect()
    }
}

impl Turn {
    /// Who is asked.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Sends `request` and returns the whole reply; what it has of reasoning says who thought it. A limit of rate always says how
    /// long it lasts: what the upstream leaves open is answered by how often it has refused.
    ///
    /// # Errors
    /// When there is no reply.
    pub async fn reply(mut self, request: &ModelRequest, deltas: DeltaSink<'_>) -> Result<ModelReply, ModelError> {
        let route = self.route.clone();
        let watch = Stopwatch::start();
        let (slot, used) = (&mut self.slot, &mut self.used);
        let mut sink = |delta| match delta {
            Delta::Answers(limits) => slot.answered(&limits),
            delta => {
                if let Delta::Usage(told) = &delta {
                    *used = *told;
                }
                deltas(delta);
            }
        };
        let mut replied = route.provider.reply(request, &mut sink).await;
        metrics::histogram!("rota_model_request_seconds", "upstream" => route.name.clone()).record(watch.seconds());
        if let Ok(reply) = &replied {
            self.used = reply.usage;
        }
        self.take_note(&replied);
        match &mut replied {
            Ok(reply) => {
                for block in &mut reply.content {
                    if let Block::Verbatim(thought) = block {
                        *block = Block::Thought(Thought { from: Some(route.name.clone()), block: thought.clone() });
                    }
                }
            }
            Err(ModelError::RateLimited { retry_after, .. }) if retry_after.is_none_or(|wait| wait.is_zero()) => {
                *retry_after = Some(route.queue.opens_in(self.slot.now()));
            }
            Err(_) => {}
        }
        replied
    }

    /// Counts what came of the request, and tells of an upstream that is down or up again.
    fn take_note(&mut self, replied: &Result<ModelReply, ModelError>) {
        let asked = |wait: Option<Duration>| wait.filter(|wait| !wait.is_zero());
        let (label, outcome) = match replied {
            Ok(_) => ("ok", Outcome::Up),
            Err(ModelError::RateLimited { retry_after, .. }) => ("rate_limited", Outcome::Refused(asked(*retry_after))),
            Err(ModelError::Overloaded { retry_after, .. }) if asked(*retry_after).is_some() => {
                ("overloaded", Outcome::Refused(*retry_after))
            }
            Err(ModelError::Overloaded { .. }) => ("overloaded", Outcome::Down),
            Err(ModelError::RequestFailed { retryable: true, .. }) => ("no_reply", Outcome::Down),
            Err(ModelError::Unusable { .. }) => ("unusable", Outcome::Unusable),
            Err(ModelError::Billing { .. }) => ("billing", Outcome::Unusable),
            // It works, and does not take this one.
            Err(ModelError::TooLong { .. }) => ("too_long", Outcome::Up),
            Err(ModelError::RequestFailed { .. }) => ("refused", Outcome::Up),
        };
        self.is_over = true;
        self.count(label);
        let (model, upstream) = (&self.model, &self.route.name);
        if self.slot.came_to(outcome) && telemetry::may_tell("upstreams that are down or up again") {
            match replied {
                Err(error) if outcome != Outcome::Up => {
                    tracing::warn!(upstream, %error, "an upstream of models is down");
                }
                _ => tracing::info!(upstream, "an upstream of models is up again"),
            }
        }
        if replied.is_ok() && model != upstream && telemetry::may_tell("answers of fallbacks") {
            tracing::info!(model, by = upstream, "a fallback answered");
        }
        tracing::debug!(model, by = upstream, outcome = label, "a model was asked");
    }

    fn count(&self, outcome: &'static str) {
        let labels =
            [("model", self.model.clone()), ("upstream", self.route.name.clone()), ("outcome", outcome.into())];
        metrics::counter!("rota_model_requests_total", &labels).increment(1);
        self.count_used();
    }

    fn count_used(&self) {
        let used = &self.used;
        let cache_write = used.cache_creation_5m_input_tokens + used.cache_creation_1h_input_tokens;
        for (kind, tokens) in [
            ("input", used.input_tokens),
            ("output", used.output_tokens),
            ("cache_read", used.cache_read_input_tokens),
            ("cache_write", cache_write),
        ] {
            if tokens > 0 {
                let labels =
                    [("model", self.model.clone()), ("upstream", self.route.name.clone()), ("kind", kind.into())];
                metrics::counter!("rota_model_tokens_total", &labels).increment(tokens);
            }
        }
        if let Some(price) = self.route.price {
            let labels = [("model", self.model.clone()), ("upstream", self.route.name.clone())];
            metrics::counter!("rota_model_cost_nanos_total", &labels).increment(price.of(used));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            self.count("interrupted");
        }
    }
}

/// One more that waits, until this is dropped.
struct Counted(metrics::Gauge);

impl Counted {
    fn new(upstream: &str) -> Self {
        let gauge = metrics::gauge!("rota_model_requests_waiting", "upstream" => upstream.to_owned());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
