//! The events that a reply is becoming, for streams that watch it.

use std::collections::VecDeque;

use rota_api::id::{EventId, Id};
use serde_json::json;

use super::lease::Lease;
use crate::{app::App, hub, model::Delta};

/// The events that a reply is becoming: each has its id from its first piece on. Texts that follow each other are one
/// message. A text is shown from its first letter on, for one that stays blank is in no reply.
pub(super) struct Drafts<'a> {
    app: &'a App,
    lease: &'a Lease,
    /// The start of the request that is answered.
    request: &'a EventId,
    messages: VecDeque<EventId>,
    thinking: VecDeque<EventId>,
    /// The message that further texts belong to, and how many of them it has.
    open: Option<(EventId, usize)>,
    /// The text that began last, while nothing but white space has come of it.
    blank: Option<String>,
}

impl<'a> Drafts<'a> {
    pub(super) fn new(app: &'a App, lease: &'a Lease, request: &'a EventId) -> Self {
        let (messages, thinking) = (VecDeque::new(), VecDeque::new());
        Self { app, lease, request, messages, thinking, open: None, blank: None }
    }

    pub(super) fn receive(&mut self, delta: Delta) {
        match delta {
            Delta::TextStart => self.blank = Some(String::new()),
            Delta::Text(text) => self.text(text),
            Delta::ThinkingStart => {
                self.open = None;
                let id = EventId::new(self.app.clock.now());
                let frame = json!({"type": "event_start", "event": {"id": id, "type": "agent.thinking"}});
                self.send(&id, "agent.thinking", "event_start", &frame);
                self.thinking.push_back(id);
            }
            Delta::OtherStart => self.open = None,
            Delta::Usage(_) | Delta::Answers(_) => {}
        }
    }

    fn text(&mut self, more: String) {
        let text = match self.blank.take() {
            None => more,
            Some(blank) => {
                let text = blank + &more;
                if text.trim().is_empty() {
                    self.blank = Some(text);
                    return;
                }
                self.begin_text();
                text
            }
        };
        let Some((id, texts)) = self.open.clone() else { return };
        let content = json!({"type": "text", "text": text});
        let delta = json!({"type": "content_delta", "index": texts - 1, "content": content});
        let frame = json!({"type": "event_delta", "event_id": id, "delta": delta});
        self.send(&id, "agent.message", "event_delta", &frame);
    }

    fn begin_text(&mut self) {
        if let Some((_, texts)) = &mut self.open {
            *texts += 1;
            return;
        }
        let id = EventId::new(self.app.clock.now());
        let frame = json!({"type": "event_start", "event": {"id": id, "type": "agent.message"}});
        self.send(&id, "agent.message", "event_start", &frame);
        self.messages.push_back(id.clone());
        self.open = Some((id, 1));
    }

    fn send(&self, event: &EventId, of: &'static str, name: &'static str, frame: &serde_json::Value) {
        let (request, event, json) = (self.request.clone(), event.clone(), frame.to_string().into());
        let delta = hub::Delta { request, event, of, name, json };
        self.app.hub.send_delta(&self.lease.session, delta);
    }

    /// The id under which the next message was shown while it was produced.
    pub(super) fn message(&mut self) -> Option<EventId> {
        self.messages.pop_front()
    }

    pub(super) fn thinking(&mut self) -> Option<EventId> {
        self.thinking.pop_front()
    }
}
