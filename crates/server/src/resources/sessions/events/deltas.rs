//! Pure: what a stream has received of events in the making, and where that goes among the events of the log.

use std::collections::{HashMap, VecDeque, vec_deque::Drain};

use rota_api::id::EventId;
use serde::Deserialize;

use super::log::id_of;
use crate::{hub::Delta, limits::DELTA_QUEUE};

/// Deltas that have come and were not sent. Each goes after the events of the log that were there before it, before the event
/// that it is a part of, and before the end of the request to the model that it comes of, also where the reply is broken off.
pub(super) struct Deltas {
    /// Types of events whose deltas are asked for.
    of: Vec<&'static str>,
    held: VecDeque<Delta>,
    /// The events in the making whose deltas are sent, each with its request: what is sent of an event is a prefix of it. One
    /// whose start was missed, or some of it, comes whole and without deltas.
    begun: HashMap<EventId, EventId>,
}

impl Deltas {
    /// Of events of these types.
    pub(super) fn of(of: Vec<&'static str>) -> Self {
        Self { of, held: VecDeque::new(), begun: HashMap::new() }
    }

    /// Whether any are asked for.
    pub(super) fn are_wanted(&self) -> bool {
        !self.of.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Takes one in.
    pub(super) fn hold(&mut self, delta: Delta) {
        if !self.of.contains(&delta.of) {
            return;
        }
        if self.held.len() >= DELTA_QUEUE {
            self.begun.clear();
        } else if delta.name == "event_start" {
            self.begun.insert(delta.event.clone(), delta.request.clone());
        }
        if self.begun.contains_key(&delta.event) {
            self.held.push_back(delta);
        }
    }

    /// Some were missed.
    pub(super) fn missed(&mut self) {
        self.begun.clear();
    }

    /// Those that go before an event of the log, of the type `tag`. One without a body, which is too large to be read as a
    /// whole, comes after all of its type.
    pub(super) fn before(&mut self, tag: &str, body: Option<&str>) -> Drain<'_, Delta> {
        let id = body.and_then(id_of);
        let ended = (tag == "span.model_request_end").then(|| body.and_then(request_of)).flatten();
        let last = self.held.iter().rposition(|delta| match (body, ended) {
            _ if tag == "session.status_terminated" => true,
            (_, Some(ended)) => delta.request.as_ref() == ended,
            (Some(_), None) => id == Some(delta.event.as_ref()),
            (None, _) => delta.of == tag,
        });
        // What was begun and has not come whole by the end of its request will not.
        self.begun.retain(|event, request| id != Some(event.as_ref()) && ended != Some(request.as_ref()));
        self.first(last.map_or(0, |last| last + 1))
    }

    /// The first `count`.
    pub(super) fn first(&mut self, count: usize) -> Drain<'_, Delta> {
        self.held.drain(..count)
    }
}

/// The request whose end an event tells of.
fn request_of(body: &str) -> Option<&str> {
    #[derive(Deserialize)]
    struct End<'a> {
        model_request_start_id: &'a str,
    }
    serde_json::from_str(body).ok().map(|end: End<'_>| end.model_request_start_id)
}

#[cfg(test)]
mod tests {
    use rota_api::id::Id;

    use super::*;

    /// What happened, in its order: an event of the log, or a delta.
    #[derive(Clone)]
    enum Happened {
        Log(&'static str, String),
        Sent(Delta),
    }

    fn log(tag: &'static str, id: &str) -> Happened {
        let request = id.replace("end", "start");
        Happened::Log(tag, format!(r#"{{"id":"{id}","type":"{tag}","model_request_start_id":"{request}"}}"#))
    }

    fn delta(request: &str, event: &str, name: &'static str) -> Delta {
        let [request, id] = [request, event].map(|id| EventId::trusted(id.to_owned()));
        Delta { request, event: id, of: "agent.message", name, json: format!("{name} {event}").into() }
    }

    /// A reply that is broken off and told of as `after`, then one that comes whole.
    fn story(after: &'static str) -> Vec<Happened> {
        vec![
            log("span.model_request_start", "start_1"),
            Happened::Sent(delta("start_1", "message_1", "event_start")),
            Happened::Sent(delta("start_1", "message_1", "event_delta")),
            log("span.model_request_end", "end_1"),
            log(after, "after_1"),
            log("span.model_request_start", "start_2"),
            Happened::Sent(delta("start_2", "message_2", "event_start")),
            Happened::Sent(delta("start_2", "message_2", "event_delta")),
            log("agent.message", "message_2"),
            log("span.model_request_end", "end_2"),
            log("session.status_idle", "idle_2"),
        ]
    }

    /// What a stream sends that reads after each place of `story` where `reads` has a bit.
    fn sent(story: &[Happened], reads: u32) -> Vec<String> {
        let mut deltas = Deltas::of(vec!["agent.message"]);
        let mut sent = Vec::new();
        let mut unread = Vec::new();
        for (place, happened) in story.iter().enumerate() {
            match happened.clone() {
                Happened::Log(tag, body) => unread.push((tag, body)),
                Happened::Sent(delta) => deltas.hold(delta),
            }
            if reads & (1 << place) == 0 && place + 1 < story.len() {
                continue;
            }
            for (tag, body) in unread.drain(..) {
                sent.extend(deltas.before(tag, Some(&body)).map(|delta| delta.json.to_string()));
                sent.push(id_of(&body).unwrap().to_owned());
            }
            let rest = deltas.len();
            sent.extend(deltas.first(rest).map(|delta| delta.json.to_string()));
        }
        sent
    }

    #[test]
    fn deltas_come_within_their_request_however_late_the_stream_reads() {
        for after in ["session.status_idle", "session.status_rescheduled", "session.error"] {
            let story = story(after);
            let order = sent(&story, u32::MAX);
            assert_eq!(order.len(), story.len(), "who reads at once sees all of it");
            for reads in 0..1 << story.len() {
                assert_eq!(sent(&story, reads), order, "{after}, reads {reads:b}");
            }
        }
    }

    #[test]
    fn nothing_comes_after_the_end_of_a_session() {
        let story = [
            log("span.model_request_start", "start_1"),
            Happened::Sent(delta("start_1", "message_1", "event_start")),
            log("session.status_terminated", "terminated"),
        ];
        assert_eq!(sent(&story, 0), ["start_1", "event_start message_1", "terminated"]);
    }

    #[test]
    fn of_an_event_whose_start_was_missed_no_delta_is_sent() {
        let mut deltas = Deltas::of(vec!["agent.message"]);
        deltas.hold(delta("start_1", "message_1", "event_delta"));
        assert_eq!(deltas.len(), 0, "it began before the stream");
        deltas.hold(delta("start_1", "message_2", "event_start"));
        deltas.hold(delta("start_1", "message_2", "event_delta"));
        assert_eq!(deltas.len(), 2);
        deltas.missed();
        deltas.hold(delta("start_1", "message_2", "event_delta"));
        assert_eq!(deltas.len(), 2, "what is sent of an event is a prefix of it");
    }
}
