//! One connection of a sandbox: what it is for, and what is told of it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use rota_api::{
    egress::{EgressConnection, EgressOutcome, EgressReason},
    id::{EgressId, Id},
};

use super::{Session, flow::Flow, names::Target};
use crate::{clock::Stopwatch, resources::egress_log::Entry};

/// A connection, from when it was taken until it is dropped; then its row has its end.
pub(super) struct Connection {
    pub(super) target: Target,
    pub(super) port: u16,
    pub(super) flow: Arc<Flow>,
    session: Arc<Session>,
    id: EgressId,
    started_at: rota_api::Time,
    since: Stopwatch,
    is_open: AtomicBool,
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
            id: EgressId::new(started_at),
            session,
            started_at,
            since: Stopwatch::start(),
            is_open: AtomicBool::new(false),
            refused: OnceLock::new(),
        }
    }

    /// Notes that it is made.
    pub(super) fn opened(&self) {
        self.flow.bound();
        if !self.is_open.swap(true, Relaxed) {
            self.session.gate.log.note(self.entry(None, false));
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
            started_at: self.started_at,
            duration_ms,
        };
        Entry { workspace: self.session.workspace.clone(), connection, is_known }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let entry = self.entry(Some((self.since.seconds() * 1000.0) as i64), self.is_open.load(Relaxed));
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
