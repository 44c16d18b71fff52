//! Versions that are kept no longer.
//!
//! A version is kept for 30 days after it was written. The newest of a memory that is there are kept whatever their age, and
//! those of one that was deleted for 30 days after that, so that it can be written again.

use rota_api::Time;

use crate::{
    db::{Tx, vals},
    error::Result,
    limits::{MEMORY_VERSION_KEPT_MICROS, MEMORY_VERSIONS_KEPT, MEMORY_VERSIONS_PURGE},
};

/// Notes that the version which stands behind the newest ones of a memory may go in time.
pub(super) fn version_was_added(tx: &mut Tx<'_>, memory: &str) -> Result<()> {
    tx.send(
        "UPDATE memory_versions SET purge_at = created_at + $2 WHERE id = (
             SELECT id FROM memory_versions WHERE memory_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $3)",
        vals![memory, MEMORY_VERSION_KEPT_MICROS, MEMORY_VERSIONS_KEPT],
    )
}

/// Notes that all versions of a memory that is deleted at `now` may go in time.
pub(super) fn memory_is_deleted(tx: &mut Tx<'_>, memory: &str, now: Time) -> Result<()> {
    tx.send(
        "UPDATE memory_versions SET purge_at = $2 WHERE memory_id = $1 AND purge_at IS NULL",
        vals![memory, now.plus_micros(MEMORY_VERSION_KEPT_MICROS)],
    )
}

/// Deletes the versions of a store that is being deleted, as far as they are few.
pub(super) fn store_is_deleted(tx: &mut Tx<'_>, store: &str) -> Result<()> {
    if delete_of(tx, store)? {
        tx.execute("INSERT INTO deleted_memory_stores (store_id) VALUES ($1)", vals![store])?;
    }
    Ok(())
}

/// Whether there may be more.
fn delete_of(tx: &mut Tx<'_>, store: &str) -> Result<bool> {
    let deleted = tx.execute(
        "DELETE FROM memory_versions WHERE id IN (SELECT id FROM memory_versions WHERE store_id = $1 LIMIT $2)",
        vals![store, MEMORY_VERSIONS_PURGE],
    )?;
    Ok(deleted as i64 >= MEMORY_VERSIONS_PURGE)
}

/// Deletes some versions that are kept no longer. Whether there may be more.
pub fn purge(tx: &mut Tx<'_>) -> Result<bool> {
    if let Some(store) = tx.one("SELECT store_id FROM deleted_memory_stores LIMIT 1", &[], |row| row.text(0))? {
        if !delete_of(tx, &store)? {
            tx.execute("DELETE FROM deleted_memory_stores WHERE store_id = $1", vals![&store])?;
        }
        return Ok(true);
    }
    let deleted = tx.execute(
        "DELETE FROM memory_versions WHERE id IN (
             SELECT id FROM memory_versions WHERE purge_at <= $1 ORDER BY purge_at LIMIT $2)",
        vals![tx.now(), MEMORY_VERSIONS_PURGE],
    )?;
    Ok(deleted as i64 >= MEMORY_VERSIONS_PURGE)
}
