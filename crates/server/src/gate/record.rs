//! One connection of a sandbox: what it is for, and what is told of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rota_api::{
    egress::{EgressConnection, EgressCredential, EgressOutcome, EgressReason},
    id::{EgressId, Id},
};

use super::{Session, flow::Flow, names::Target};
use crate::{clock::Stopwatch, limits::EGRESS_CREDENTIALS_TOLD, resources::egress_log::Entry};

/// Which credentials were put into the requests of a connection, and how often.
#[derive(Default)]
pub(super) struct Placed(Mutex<BTreeMap<String, i64>>);

impl Placed {
    /// Notes that one was.
    pub(super) fn note(&self, credential: &str) {
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(credential) {
            *count += 1;
        } else if counts.len() < EGRESS_CREDENTIALS_TOLD {
            counts.insert(credential.to_owned(), 1);
        }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> Vec<EgressCredential> {
        let counts = self.counts();
        counts.iter().map(|(id, times)| EgressCredential { credential_id: id.clone(), times: *times }).collect()
    }
}

/// A connection, from when it was taken until it is dropped; then its row has its end.
pub(super) struct Connection {
    pub(super) target: Target,
    pub(super) port: u16,
    pub(super) flow: Arc<Flow>,
    pub(super) placed: Arc<Placed>,
    session: Arc<Session>,
    id: EgressId,
    started_at: rota_api::Time,
    since: Stopwatch,
    is_open: AtomicBool,
    /// Whether there is, or will be, a row of it since it was opened.
    is_known: AtomicBool,
    refused: OnceLock<EgressReason>,
}

impl Connection {
    pub(super) fn new(session: Arc<Session>, target: Target, port: u16) -> Self {
        let started_at = session.gate.clock.now();
        metrics::gauge!("rota_egress_connections_open").increment(1.0);
        Self {
            target,
            port,
            flow: Flow::new(session.budget.clone()),
            placed: Arc::default(),
            id: EgressId::new(started_at),
            session,
            started_at,
            since: Stopwatch::start(),
            is_open: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            refused: OnceLock::new(),
        }
    }

    /// Notes that it is made.
    pub(super) fn opened(&self) {
        self.flow.bound();
        if !self.is_open.swap(true, Relaxed) {
            self.is_known.store(self.session.gate.log.note(self.entry(None, false)), Relaxed);
        }
    }

    /// Notes why it was refused, or failed. The first reason counts.
    pub(super) fn refuse(&self, reason: EgressReason) {
        let _ = self.refused.set(reason);
    }

    fn entry(&self, duration_ms: Option<i64>, is_known: bool) -> Entry {
        let reason = self.refused.get().copied();
        let bytes = |counter: &std::sync::atomic::AtomicU64| i64::try_from(counter.load(Relaxed)).unwrap_or(i64::MAX);
        let connection = EgressConnection {
            id: self.id.clone(),
            r#type: "egress_connection",
            session_id: self.session.id.clone(),
            host: self.target.host(),
            port: i64::from(self.port),
            outcome: reason.map_or(EgressOutcome::Allowed, EgressReason::outcome),
            reason,
            bytes_in: bytes(&self.flow.received),
            bytes_out: bytes(&self.flow.sent),
            credentials: self.placed.told(),
            started_at: self.started_at,
            duration_ms,
        };
        Entry { workspace: self.session.workspace.clone(), connection, is_known }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let entry = self.entry(Some((self.since.seconds() * 1000.0) as i64), self.is_known.load(Relaxed));
        let EgressConnection { outcome, reason, bytes_in, bytes_out, .. } = &entry.connection;
        let reason = reason.map_or("none", EgressReason::as_str);
        metrics::counter!("rota_egress_connections_total", "outcome" => outcome.as_str(), "reason" => reason)
            .increment(1);
        metrics::counter!("rota_egress_bytes_total", "direction" => "in").increment(bytes_in.unsigned_abs());
        metrics::counter!("rota_egress_bytes_total", "direction" => "out").increment(bytes_out.unsigned_abs());
        metrics::gauge!("rota_egress_connections_open").decrement(1.0);
        self.session.gate.log.note(entry);
    }
}
