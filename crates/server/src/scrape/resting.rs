//! How many sessions are at rest. There may be millions, so no scrape counts them: they are counted beside the scrapes, some at a time
//! and seldom, from an index that has nothing else.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::{
    clock::Stopwatch,
    db::{Db, Tx, vals},
    error::Result,
    limits::{RESTING_AT_ONCE, RESTING_KEPT_SECONDS},
    telemetry,
};

/// Those behind `$1`: at most `$2` of them, which are neither at work nor wait. The index `sessions_resting` has the same words.
pub(super) const SOME: &str = "SELECT count(*) AS counted, max(id) AS last FROM (SELECT id FROM sessions
    WHERE status = 'idle' AND runnable_at IS NULL AND coalesce(stop_reason, '') <> 'requires_action' AND id > $1
    ORDER BY id LIMIT $2) AS found";

/// What is known of them.
pub(super) struct Resting {
    db: Db,
    tasks: TaskTracker,
    /// Negative until they were counted for the first time.
    counted: Arc<AtomicI64>,
    /// When the last count was begun. Whoever counts holds it.
    begun: Arc<Mutex<Option<Stopwatch>>>,
}

impl Resting {
    pub(super) fn new(db: Db, tasks: TaskTracker) -> Self {
        Self { db, tasks, counted: Arc::new(AtomicI64::new(-1)), begun: Arc::default() }
    }

    /// How many there were when they were counted last. Has them counted again where that is long ago.
    pub(super) fn count(&self) -> Option<i64> {
        if let Ok(mut begun) = self.begun.clone().try_lock_owned()
            && begun.is_none_or(|begun| begun.seconds() >= RESTING_KEPT_SECONDS)
        {
            *begun = Some(Stopwatch::start());
            let (db, counted) = (self.db.clone(), self.counted.clone());
            self.tasks.spawn(async move {
                let _counting = begun;
                match count(&db).await {
                    Ok(count) => counted.store(count, Ordering::Relaxed),
                    Err(error) => {
                        if telemetry::may_tell("sessions at rest") {
                            tracing::warn!(%error, "sessions at rest could not be counted; it is tried again");
                        }
                    }
                }
            });
        }
        Some(self.counted.load(Ordering::Relaxed)).filter(|count| *count >= 0)
    }
}

async fn count(db: &Db) -> Result<i64> {
    let (mut count, mut after) = (0, String::new());
    loop {
        let behind = after.clone();
        let (counted, last) = db.read(move |tx| some(tx, &behind)).await?;
        count += counted;
        let Some(last) = last.filter(|_| counted == RESTING_AT_ONCE) else { return Ok(count) };
        after = last;
    }
}

fn some(tx: &mut Tx<'_>, behind: &str) -> Result<(i64, Option<String>)> {
    let read = |row: &crate::db::Row<'_>| Ok((row.int("counted")?, row.opt_text("last")?));
    Ok(tx.one(SOME, vals![behind, RESTING_AT_ONCE], read)?.unwrap_or_default())
}
