//! Removes what is kept no longer, in small batches beside the work, until the server stops.
//!
//! Rows go here. The bytes that no row names any more, and the folders of sessions that are gone, go with the sweeps that
//! look for those anyway.

use std::{collections::BTreeMap, time::Duration};

use rota_api::{id::WorkspaceId, retention::RetentionKind};
use tokio::time::{interval, sleep};

use crate::{
    app::App,
    clock::Stopwatch,
    db::Tx,
    error::Result,
    limits::{
        FREE_PAGES_KEPT, GIVEN_BACK_PAGES, RETENTION_DEPLOYMENTS, RETENTION_EVERY, RETENTION_PAUSES, RETENTION_ROWS,
        RETENTION_SESSIONS,
    },
    resources::{
        deployments::spend,
        retention::{self, Kept, Place},
        sessions,
    },
};

/// Looks every hour, if no other server on the store does.
pub async fn run(app: App) {
    let mut looks = interval(RETENTION_EVERY);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = app.stopping() => return,
        }
        let swept = async {
            if app.db.write(retention::claim).await? { Sweep::new(&app, RETENTION_PAUSES).all().await } else { Ok(()) }
        };
        if let Err(error) = swept.await {
            tracing::error!(%error, "what is kept no longer could not be removed; it is tried again within an hour");
        }
    }
}

/// Removes all that is kept no longer, without pauses, once.
///
/// # Errors
/// When the store does not answer.
pub async fn once(app: &App) -> Result<BTreeMap<RetentionKind, u64>> {
    let mut sweep = Sweep::new(app, 0.0);
    sweep.all().await?;
    Ok(sweep.removed)
}

/// A way through all that is kept.
struct Sweep<'a> {
    app: &'a App,
    /// For each second of work so many of rest.
    pauses: f64,
    removed: BTreeMap<RetentionKind, u64>,
}

impl<'a> Sweep<'a> {
    fn new(app: &'a App, pauses: f64) -> Self {
        Self { app, pauses, removed: BTreeMap::new() }
    }

    async fn all(&mut self) -> Result<()> {
        let config = self.app.config.retention;
        let mut after = String::new();
        loop {
            let behind = after.clone();
            let some = self.app.db.read(move |tx| retention::workspaces(tx, &config, &behind)).await?;
            let Some(last) = some.last() else { break };
            after = last.to_string();
            for workspace in &some {
                self.workspace(workspace).await?;
            }
        }
        for kind in [RetentionKind::Deliveries, RetentionKind::Egress, RetentionKind::Audit] {
            self.kind(kind, None).await?;
        }
        while self.app.db.write(sessions::forget_events).await? && !self.app.is_stopping() {
            self.pause(Stopwatch::start()).await;
        }
        loop {
            let watch = Stopwatch::start();
            let more = self.app.db.write(spend::forget).await?;
            self.pause(watch).await;
            if !more || self.app.is_stopping() {
                break;
            }
        }
        while self.app.db.write(|tx| tx.give_back(GIVEN_BACK_PAGES, FREE_PAGES_KEPT)).await? > 0
            && !self.app.is_stopping()
        {
            self.pause(Stopwatch::start()).await;
        }
        for (kind, count) in &self.removed {
            metrics::counter!("rota_retention_removed_total", "kind" => kind.as_str()).increment(*count);
            tracing::info!(kind = kind.as_str(), count, "removed what is kept no longer");
        }
        Ok(())
    }

    async fn workspace(&mut self, workspace: &WorkspaceId) -> Result<()> {
        for kind in [RetentionKind::Sessions, RetentionKind::Outputs] {
            self.kind(kind, Some(workspace)).await?;
        }
        if self.is_limited(RetentionKind::Runs, Some(workspace)).await? {
            self.histories(workspace).await?;
        }
        self.kind(RetentionKind::Runs, Some(workspace)).await
    }

    async fn is_limited(&self, kind: RetentionKind, workspace: Option<&WorkspaceId>) -> Result<bool> {
        let (config, of) = (self.app.config.retention, workspace.cloned());
        let of = move |tx: &mut Tx<'_>| {
            retention::is_limited(tx, kind, of.as_ref().map_or(Kept::Everywhere, Kept::In), &config)
        };
        self.app.db.read(of).await
    }

    /// Before the runs: an occurrence whose run is gone would be one of which nobody knows what became.
    async fn histories(&mut self, workspace: &WorkspaceId) -> Result<()> {
        let mut after = Some(String::new());
        while let Some(behind) = after.take().filter(|_| !self.app.is_stopping()) {
            let (config, of) = (self.app.config.retention, workspace.clone());
            let (found, next) = self.app.db.read(move |tx| retention::histories(tx, &of, &config, &behind)).await?;
            for some in found.chunks(RETENTION_DEPLOYMENTS) {
                loop {
                    let watch = Stopwatch::start();
                    let (of, some) = (workspace.clone(), some.to_vec());
                    let more = self.app.db.write(move |tx| retention::shorten(tx, &of, &some)).await?;
                    self.pause(watch).await;
                    if !more {
                        break;
                    }
                }
            }
            after = next;
        }
        Ok(())
    }

    async fn kind(&mut self, kind: RetentionKind, workspace: Option<&WorkspaceId>) -> Result<()> {
        if !self.is_limited(kind, workspace).await? {
            return Ok(());
        }
        let config = self.app.config.retention;
        let size = if kind == RetentionKind::Sessions { RETENTION_SESSIONS } else { RETENTION_ROWS as usize };
        let mut after = Some(Place::default());
        while let Some(at) = after.take().filter(|_| !self.app.is_stopping()) {
            let (watch, of) = (Stopwatch::start(), workspace.cloned());
            let look = move |tx: &mut Tx<'_>| {
                let of = of.as_ref().map_or(Kept::Everywhere, Kept::In);
                retention::look(tx, kind, of, &config, &at)
            };
            let looked = self.app.db.read(look).await?;
            self.pause(watch).await;
            for some in looked.going.chunks(size) {
                let (watch, some) = (Stopwatch::start(), some.to_vec());
                let removed = self.app.db.write(move |tx| retention::remove(tx, kind, &some, &config)).await?;
                *self.removed.entry(kind).or_default() += removed;
                self.pause(watch).await;
            }
            after = looked.next;
        }
        Ok(())
    }

    /// Leaves the store to others for a while.
    async fn pause(&self, work: Stopwatch) {
        let pause = Duration::from_secs_f64(work.seconds() * self.pauses);
        if pause.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = self.app.stopping() => {}
        }
    }
}
