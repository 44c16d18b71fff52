//! What a stream has not sent yet, read from the store in batches that are bounded in rows and in bytes.

use rota_api::{Time, id::SessionId};

use crate::{
    db::{Row, Tx, vals},
    error::Result,
    limits::{STREAM_BATCH, STREAM_BATCH_BYTES, STREAM_PIECE},
};

/// A batch of what a stream has not sent.
pub(super) struct News {
    /// What is in the log.
    pub(super) log: Vec<Item>,
    /// Whether there is more already.
    pub(super) more: bool,
}

/// An event and its place.
pub(super) struct Item {
    pub(super) place: i64,
    pub(super) tag: String,
    /// `None` for one of the log that is read in [pieces](piece).
    pub(super) body: Option<String>,
    pub(super) processed_at: Option<Time>,
}

/// The next events beyond the place `seq` in the log.
pub(super) fn read(tx: &mut Tx<'_>, session: &SessionId, seq: i64) -> Result<News> {
    let (mut log, cut) = tx.within(
        STREAM_BATCH_BYTES,
        "SELECT seq, type, CASE WHEN octet_length(body) <= CAST($4 AS BIGINT) THEN body END, processed_at FROM session_events
         WHERE session_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        vals![session, seq, STREAM_BATCH, STREAM_PIECE as i64],
        item,
    )?;
    let mut more = cut || log.len() as i64 == STREAM_BATCH;
    if let Some(large) = log.iter().position(|item| item.body.is_none()) {
        log.truncate(large + 1);
        more = true;
    }
    Ok(News { log, more })
}

fn item(row: &Row<'_>) -> Result<Item> {
    Ok(Item { place: row.int(0)?, tag: row.text(1)?, body: row.opt_text(2)?, processed_at: row.opt_time(3)? })
}

/// At most [`STREAM_PIECE`] characters of the event at `seq`, after the first `from`, and whether there are more. `None` when
/// it is gone.
pub(super) fn piece(tx: &mut Tx<'_>, session: &SessionId, seq: i64, from: usize) -> Result<Option<(String, bool)>> {
    // One more than is sent, to know whether there are others.
    let piece = tx.one(
        "SELECT substr(body, CAST(CAST($3 AS BIGINT) AS INTEGER), CAST(CAST($4 AS BIGINT) AS INTEGER))
         FROM session_events WHERE session_id = $1 AND seq = $2",
        vals![session, seq, from as i64 + 1, STREAM_PIECE as i64 + 1],
        |row| row.text(0),
    )?;
    Ok(piece.map(|mut text| match text.char_indices().nth(STREAM_PIECE) {
        Some((end, _)) => {
            text.truncate(end);
            (text, true)
        }
        None => (text, false),
    }))
}
