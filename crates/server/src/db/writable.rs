//! Whether writes can be made: a disk may be full, or a database read-only, while everything can still be read.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Mutex;

use super::Db;
use crate::{clock::Stopwatch, error::Result, limits::WRITABLE_SECONDS};

/// What was found when a write was last tried, and whether one has failed since.
#[derive(Default)]
pub(super) struct Writable {
    failed: Failed,
    // Held while a write is tried, so that there is one at a time, however many ask.
    tried: Mutex<Option<Stopwatch>>,
}

/// Where a writer says that it could not commit.
#[derive(Clone, Default)]
pub(super) struct Failed(Arc<AtomicBool>);

impl Failed {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Writable {
    /// For the writers.
    pub(super) fn failed(&self) -> Failed {
        self.failed.clone()
    }
}

impl Db {
    /// That a write can be made. One is tried unless one has been a moment ago and none has failed since.
    ///
    /// # Errors
    /// With what the database says about the write.
    pub async fn check_writable(&self) -> Result<()> {
        let mut tried = self.writable.tried.lock().await;
        let has_failed = self.writable.failed.take();
        if !has_failed && tried.is_some_and(|at| at.seconds() < WRITABLE_SECONDS) {
            return Ok(());
        }
        *tried = None;
        // Something that differs from what is there: a database may leave out a write that changes nothing.
        let sql = "UPDATE organization SET writes_tried = writes_tried + 1";
        self.write(move |tx| tx.execute(sql, &[]).map(drop)).await?;
        *tried = Some(Stopwatch::start());
        Ok(())
    }
}
