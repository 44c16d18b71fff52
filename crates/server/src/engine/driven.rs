//! The sessions that this process drives. Only their leases are kept: one that was claimed and that nobody drives any more,
//! however that came about, is free when its lease has run out.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use rota_api::{Time, id::SessionId};
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use crate::limits::LEASE_MICROS;

/// The sessions that this process drives.
#[derive(Debug, Default)]
pub(super) struct Driven {
    sessions: Mutex<HashMap<SessionId, Entry>>,
    /// When their leases were kept last, in microseconds.
    kept_at: AtomicI64,
}

#[derive(Debug, Clone)]
struct Entry {
    lease: Lease,
    lost: CancellationToken,
    ended: CancellationToken,
}

/// A session is driven until this is dropped.
#[derive(Debug)]
pub(super) struct Driving {
    driven: Arc<Driven>,
    session: SessionId,
    lost: CancellationToken,
}

impl Driven {
    /// Begins to drive a session, once a runner of this process that had an earlier lease of it has left. `None` when there
    /// is one with a later lease.
    pub(super) async fn begin(self: &Arc<Self>, lease: &Lease) -> Option<Driving> {
        loop {
            let earlier = {
                let mut sessions = self.sessions();
                let Some(earlier) = sessions.get(&lease.session) else {
                    let (lost, ended) = (CancellationToken::new(), CancellationToken::new());
                    let entry = Entry { lease: lease.clone(), lost: lost.clone(), ended };
                    sessions.insert(lease.session.clone(), entry);
                    return Some(Driving { driven: self.clone(), session: lease.session.clone(), lost });
                };
                earlier.clone()
            };
            if earlier.lease.is_after(lease) {
                return None;
            }
            earlier.lost.cancel();
            earlier.ended.cancelled().await;
        }
    }

    /// The leases of all of them.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.sessions().values().map(|entry| entry.lease.clone()).collect()
    }

    /// Notes that the leases were kept at `now`.
    pub(super) fn kept(&self, now: Time) {
        self.kept_at.store(now.micros(), Ordering::Relaxed);
    }

    /// Whether leases may soon run out, or have: this process was held up, or the database was away.
    pub(super) fn is_late(&self, now: Time) -> bool {
        now.micros() - self.kept_at.load(Ordering::Relaxed) > LEASE_MICROS / 2
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driving {
    /// Returns when this process has a later lease of the session.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        if let Some(entry) = self.driven.sessions().remove(&self.session) {
            entry.ended.cancel();
        }
    }
}
