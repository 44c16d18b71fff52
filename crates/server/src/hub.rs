//! Wakes what waits in this process: open streams and idle runners. It holds nothing that matters: the store is the
//! truth, and whoever is woken reads it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rota_api::{
    Time,
    id::{EnvironmentId, EventId, SessionId},
};
use tokio::sync::{Notify, broadcast, watch};

use crate::{db::Notice, limits};

/// What a watcher of a session is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The session has changed this many times since somebody began to watch.
    Count(u64),
    /// The session is gone.
    Deleted,
}

/// A frame that is only for streams that are open now: it is in no store.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The start of the request to the model whose reply it comes of.
    pub request: EventId,
    /// The event that is being produced.
    pub event: EventId,
    /// Its type.
    pub of: &'static str,
    /// The name of the frame.
    pub name: &'static str,
    /// Its JSON.
    pub json: Arc<str>,
}

/// Who waits for what.
#[derive(Default)]
pub struct Hub {
    runnable: Notify,
    webhook_due: Notify,
    outputs_due: Notify,
    deleted: Mutex<Vec<SessionId>>,
    deletion: Notify,
    sessions: Mutex<HashMap<SessionId, Topic>>,
    /// Where workers wait for work, and how many do.
    environments: Mutex<HashMap<EnvironmentId, (Arc<Notify>, usize)>>,
    /// What streams that were closed a moment ago had told: by key and session, the last place in the log, and when.
    told: Mutex<HashMap<(String, SessionId), (i64, Time)>>,
}

struct Topic {
    changes: watch::Sender<Change>,
    deltas: broadcast::Sender<Delta>,
    watchers: usize,
}

impl Hub {
    /// Passes on what a committed transaction says.
    pub fn publish(&self, notice: &Notice) {
        match notice {
            Notice::SessionRunnable => self.runnable.notify_one(),
            Notice::WebhookDue => self.webhook_due.notify_one(),
            Notice::OutputsDue => self.outputs_due.notify_one(),
            Notice::WorkQueued(environment) => {
                if let Some((queued, _)) = self.environments().get(environment) {
                    queued.notify_one();
                }
            }
            Notice::SessionChanged(id) => self.change(id, |change| match change {
                Change::Count(count) => Change::Count(count + 1),
                Change::Deleted => Change::Deleted,
            }),
            Notice::SessionDeleted(id) => {
                let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
                // What is left out here is found at the next start.
                if deleted.len() < limits::MAX_DELETIONS {
                    deleted.push(id.clone());
                }
                drop(deleted);
                self.deletion.notify_one();
                self.change(id, |_| Change::Deleted);
            }
        }
    }

    fn change(&self, id: &SessionId, to: impl Fn(Change) -> Change) {
        if let Some(topic) = self.topics().get(id) {
            topic.changes.send_modify(|change| *change = to(*change));
        }
    }

    /// Sends a frame to the streams of a session that are open now.
    pub fn send_delta(&self, id: &SessionId, delta: Delta) {
        if let Some(topic) = self.topics().get(id) {
            // Nobody listening is no fault.
            drop(topic.deltas.send(delta));
        }
    }

    /// Returns when a session may have become runnable.
    pub async fn runnable(&self) {
        self.runnable.notified().await;
    }

    /// Returns when a webhook may wait to be sent.
    pub async fn webhook_due(&self) {
        self.webhook_due.notified().await;
    }

    /// Returns when outputs of a session may wait to be taken in.
    pub async fn outputs_due(&self) {
        self.outputs_due.notified().await;
    }

    /// Returns the sessions that were deleted, when there are any.
    pub async fn deleted(&self) -> Vec<SessionId> {
        self.deletion.notified().await;
        std::mem::take(&mut self.deleted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to watch a session.
    pub fn watch(self: &Arc<Self>, id: &SessionId) -> Watcher {
        let mut topics = self.topics();
        let topic = topics.entry(id.clone()).or_insert_with(|| Topic {
            changes: watch::Sender::new(Change::Count(0)),
            deltas: broadcast::Sender::new(limits::DELTA_QUEUE),
            watchers: 0,
        });
        topic.watchers += 1;
        Watcher {
            changes: topic.changes.subscribe(),
            deltas: topic.deltas.subscribe(),
            id: id.clone(),
            hub: self.clone(),
        }
    }

    /// Begins to wait for work of an environment.
    pub fn wait_for_work(self: &Arc<Self>, environment: &EnvironmentId) -> WorkWaiter {
        let mut environments = self.environments();
        let (queued, waiters) = environments.entry(environment.clone()).or_default();
        *waiters += 1;
        WorkWaiter { queued: queued.clone(), environment: environment.clone(), hub: self.clone() }
    }

    fn environments(&self) -> MutexGuard<'_, HashMap<EnvironmentId, (Arc<Notify>, usize)>> {
        self.environments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far a stream of a session had come that is closed now.
    pub fn stream_closed(&self, key: &str, session: &SessionId, seq: i64, now: Time) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= limits::CLOSED_STREAMS {
            told.retain(|_, (_, at)| is_recent(*at, now));
        }
        // Where that leaves no room, the next stream may repeat something.
        let of = (key.to_owned(), session.clone());
        if told.len() < limits::CLOSED_STREAMS || told.contains_key(&of) {
            let (farthest, at) = told.entry(of).or_insert((seq, now));
            // Another stream of the key may have been behind.
            (*farthest, *at) = (seq.max(*farthest), now);
        }
    }

    /// How far streams of this key on this session had come that were closed a moment ago.
    pub fn told_before(&self, key: &str, session: &SessionId, now: Time) -> Option<i64> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (seq, at) = told.get(&(key.to_owned(), session.clone()))?;
        is_recent(*at, now).then_some(*seq)
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<SessionId, Topic>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_recent(at: Time, now: Time) -> bool {
    now.seconds_since(at) <= limits::STREAM_LOOK_BACK.as_secs_f64()
}

/// Watches a session until it is dropped.
pub struct Watcher {
    /// Changes since the watch began.
    pub changes: watch::Receiver<Change>,
    /// Frames that are in no store.
    pub deltas: broadcast::Receiver<Delta>,
    id: SessionId,
    hub: Arc<Hub>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut topics = self.hub.topics();
        if let Some(topic) = topics.get_mut(&self.id) {
            topic.watchers -= 1;
            if topic.watchers == 0 {
                topics.remove(&self.id);
            }
        }
    }
}

/// Waits for work of an environment until it is dropped.
pub struct WorkWaiter {
    queued: Arc<Notify>,
    environment: EnvironmentId,
    hub: Arc<Hub>,
}

impl WorkWaiter {
    /// Returns when work may wait. Of several who wait, one is woken for each piece.
    pub async fn queued(&self) {
        self.queued.notified().await;
    }
}

impl Drop for WorkWaiter {
    fn drop(&mut self) {
        let mut environments = self.hub.environments();
        if let Some((_, waiters)) = environments.get_mut(&self.environment) {
            *waiters -= 1;
            if *waiters == 0 {
                environments.remove(&self.environment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rota_api::id::Id;

    use super::*;

    #[test]
    fn of_two_streams_of_a_key_the_one_that_had_come_farther_counts() {
        let (hub, now) = (Hub::default(), Time::from_micros(0));
        let (key, session) = ("apikey_1", SessionId::new(now));
        hub.stream_closed(key, &session, 20, now);
        hub.stream_closed(key, &session, 10, now);
        assert_eq!(hub.told_before(key, &session, now), Some(20));
        let later = now.plus_micros(2 * limits::STREAM_LOOK_BACK.as_micros() as i64);
        assert_eq!(hub.told_before(key, &session, later), None);
    }
}
