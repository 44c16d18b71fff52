//! How busy a store is, for whoever measures it.

use super::{Db, Row, Store};
use crate::{clock::Stopwatch, error::Result, limits};

/// Counts a transaction of so many writes that was made durable, which began at `since`.
pub(super) fn committed(since: Stopwatch, writes: usize) {
    metrics::histogram!("rota_commit_seconds").record(since.seconds());
    metrics::histogram!("rota_commit_writes").record(writes as f64);
}

/// Counts one that was not.
pub(super) fn not_committed() {
    metrics::counter!("rota_commit_failures_total").increment(1);
}

impl Db {
    /// Writes that wait for their transaction.
    pub fn writes_waiting(&self) -> usize {
        limits::WRITE_QUEUE - self.queue.capacity()
    }

    /// Reads that are under way, each on a connection.
    pub fn reads_under_way(&self) -> usize {
        limits::READ_CONNECTIONS - self.reading.available_permits()
    }

    /// `sqlite` or `postgresql`.
    pub fn kind(&self) -> &'static str {
        match &self.store {
            Store::Sqlite(_) => "sqlite",
            Store::Postgres(..) => "postgresql",
        }
    }

    /// The size of the database; `None` of one that is a file.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn database_bytes(&self) -> Result<Option<i64>> {
        match &self.store {
            Store::Sqlite(_) => Ok(None),
            Store::Postgres(_, lookups) => {
                let row = lookups.one("SELECT pg_database_size(current_database())", &[]).await?;
                row.map(|row| Row::postgres(&row).int(0)).transpose()
            }
        }
    }
}
