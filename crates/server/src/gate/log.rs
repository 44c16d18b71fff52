//! The egress log: rows are written in batches beside the connections, which never wait for the store.

use std::{collections::HashMap, time::Duration};

use rota_api::id::{EgressId, SessionId, WorkspaceId};
use tokio::{
    sync::mpsc,
    time::{interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    db::Db,
    error::Error,
    limits::{
        EGRESS_BATCH, EGRESS_KEPT_MICROS, EGRESS_LOG_EVERY, EGRESS_LOG_QUEUE, EGRESS_LOG_RETRY, EGRESS_PURGE_EVERY,
        EGRESS_ROWS_SLACK,
    },
    resources::egress_log::{self, Entry},
    telemetry,
};

/// Where connections say what becomes of them.
#[derive(Clone)]
pub(super) struct Log(mpsc::Sender<Entry>);

/// What writes it down.
pub struct Writer {
    entries: mpsc::Receiver<Entry>,
    /// Rows of each session that were added since it was last looked whether it has too many.
    added: HashMap<SessionId, usize>,
}

pub(super) fn open() -> (Log, Writer) {
    let (sender, entries) = mpsc::channel(EGRESS_LOG_QUEUE);
    (Log(sender), Writer { entries, added: HashMap::new() })
}

impl Log {
    /// Notes what became of a connection. Whether it did: where the store has been away for long there is no room, and the row is
    /// lost.
    pub(super) fn note(&self, entry: Entry) -> bool {
        let is_noted = self.0.try_send(entry).is_ok();
        if !is_noted {
            metrics::counter!("rota_egress_rows_lost_total").increment(1);
            if telemetry::may_tell("egress rows that were lost") {
                tracing::error!("the egress log cannot be written for so long that rows of it are lost");
            }
        }
        is_noted
    }
}

impl Writer {
    /// Writes until the server stops and the last of `sessions` has ended.
    pub(super) async fn run(mut self, db: Db, clock: Clock, stop: CancellationToken, sessions: TaskTracker) {
        let mut purge = interval(EGRESS_PURGE_EVERY);
        loop {
            tokio::select! {
                Some(first) = self.entries.recv() => {
                    let batch = self.gather(first, EGRESS_LOG_EVERY).await;
                    self.write(&db, batch, &stop).await;
                }
                _ = purge.tick() => forget_old(&db, &clock).await,
                () = stop.cancelled() => break,
            }
        }
        sessions.close();
        sessions.wait().await;
        while let Ok(first) = self.entries.try_recv() {
            let batch = self.gather(first, Duration::ZERO).await;
            self.write(&db, batch, &stop).await;
        }
    }

    /// What comes within a while, the last of each connection.
    async fn gather(&mut self, first: Entry, time: Duration) -> Vec<Entry> {
        let mut entries = vec![first];
        let more = async {
            while entries.len() < EGRESS_BATCH
                && let Some(entry) = self.entries.recv().await
            {
                entries.push(entry);
            }
        };
        // What was gathered until then is written.
        let _ = timeout(time, more).await;
        while entries.len() < EGRESS_BATCH
            && let Ok(entry) = self.entries.try_recv()
        {
            entries.push(entry);
        }
        last_of_each(entries)
    }

    /// Tries until the store has them.
    async fn write(&mut self, db: &Db, batch: Vec<Entry>, stop: &CancellationToken) {
        let trim = self.count(&batch);
        loop {
            let (entries, full) = (batch.clone(), trim.clone());
            let written = db.write(move |tx| {
                egress_log::record(tx, &entries)?;
                full.iter().try_for_each(|(workspace, session)| egress_log::trim(tx, workspace, session))
            });
            match written.await {
                Ok(()) => return,
                Err(Error::Database(error)) if !stop.is_cancelled() => {
                    if telemetry::may_tell("the egress log") {
                        tracing::warn!(%error, "the egress log cannot be written; it is tried again");
                    }
                    sleep(EGRESS_LOG_RETRY).await;
                }
                Err(error) => {
                    metrics::counter!("rota_egress_rows_lost_total").increment(batch.len() as u64);
                    tracing::error!(%error, rows = batch.len(), "rows of the egress log are lost");
                    return;
                }
            }
        }
    }

    /// Counts the new rows. The sessions that may have too many.
    fn count(&mut self, batch: &[Entry]) -> Vec<(WorkspaceId, SessionId)> {
        let mut full = Vec::new();
        if self.added.len() > EGRESS_LOG_QUEUE {
            self.added.clear();
        }
        for entry in batch.iter().filter(|entry| !entry.is_known) {
            let session = &entry.connection.session_id;
            let added = self.added.entry(session.clone()).or_default();
            *added += 1;
            if *added >= EGRESS_ROWS_SLACK {
                self.added.remove(session);
                full.push((entry.workspace.clone(), session.clone()));
            }
        }
        full
    }
}

/// Of each connection the last entry, in the place of its first one.
fn last_of_each(entries: Vec<Entry>) -> Vec<Entry> {
    let mut places: HashMap<EgressId, usize> = HashMap::new();
    let mut last: Vec<Entry> = Vec::new();
    for entry in entries {
        if let Some(place) = places.get(&entry.connection.id) {
            last[*place] = Entry { is_known: last[*place].is_known, ..entry };
        } else {
            places.insert(entry.connection.id.clone(), last.len());
            last.push(entry);
        }
    }
    last
}

async fn forget_old(db: &Db, clock: &Clock) {
    let before = clock.now().plus_micros(-EGRESS_KEPT_MICROS);
    loop {
        match db.write(move |tx| egress_log::purge(tx, before)).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                if telemetry::may_tell("old rows of the egress log") {
                    tracing::warn!(%error, "old rows of the egress log could not be deleted; it is tried again later");
                }
                return;
            }
        }
    }
}
