//! The events that a reply is becoming, for streams that watch it.

use std::collections::VecDeque;

use rota_api::id::{EventId, Id};
use serde_json::json;

use super::lease::Lease;
use crate::{app::App, hub, model::Delta};

/// The events that a reply is becoming: each has its id from its first piece on.
pub(super) struct Drafts<'a> {
    app: &'a App,
    lease: &'a Lease,
    messages: VecDeque<(EventId, String)>,
    thinking: VecDeque<EventId>,
}

impl<'a> Drafts<'a> {
    pub(super) fn new(app: &'a App, lease: &'a Lease) -> Self {
        Self { app, lease, messages: VecDeque::new(), thinking: VecDeque::new() }
    }

    pub(super) fn receive(&mut self, delta: Delta) {
        match delta {
            Delta::TextStart => {
                let id = EventId::new(self.app.clock.now());
                self.send(
                    &id,
                    "agent.message",
                    "event_start",
                    &json!({"type": "event_start", "event": {"id": id, "type": "agent.message"}}),
                );
                self.messages.push_back((id, String::new()));
            }
            Delta::Text(text) => {
                let Some((id, so_far)) = self.messages.back_mut() else { return };
                so_far.push_str(&text);
                let delta = json!({"type": "content_delta", "index": 0, "content": {"type": "text", "text": text}});
                let frame = json!({"type": "event_delta", "event_id": id, "delta": delta});
                let id = id.clone();
                self.send(&id, "agent.message", "event_delta", &frame);
            }
            Delta::ThinkingStart => {
                let id = EventId::new(self.app.clock.now());
                let frame = json!({"type": "event_start", "event": {"id": id, "type": "agent.thinking"}});
                self.send(&id, "agent.thinking", "event_start", &frame);
                self.thinking.push_back(id);
            }
        }
    }

    fn send(&self, event: &EventId, of: &'static str, name: &'static str, frame: &serde_json::Value) {
        let delta = hub::Delta { event: event.clone(), of, name, json: frame.to_string().into() };
        self.app.hub.send_delta(&self.lease.session, delta);
    }

    /// The id under which a message was shown while it was produced. Blank texts are in no reply.
    pub(super) fn message(&mut self, text: &str) -> Option<EventId> {
        while let Some((id, shown)) = self.messages.pop_front() {
            if shown == text {
                return Some(id);
            }
        }
        None
    }

    pub(super) fn thinking(&mut self) -> Option<EventId> {
        self.thinking.pop_front()
    }
}
