//! The blobs that rows name, and what the rows say of them.

use rota_api::id::BlobId;

use crate::{
    db::{Tx, vals},
    error::Result,
    limits::NAMED_BLOBS_AT_ONCE,
};

/// A blob that rows name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) id: BlobId,
    /// How many bytes it has, where the rows say so.
    pub(super) bytes: Option<i64>,
    /// The SHA-256 of its content, where the rows say so.
    pub(super) sha256: Option<String>,
}

/// Rows that name blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    /// What they are, for people.
    pub(super) what: &'static str,
    sql: &'static str,
}

/// All rows that name blobs.
pub(super) const ROWS: [Rows; 5] = [
    Rows {
        what: "a file",
        sql: "SELECT blob_id, min(size_bytes), min(sha256) FROM files WHERE blob_id > $1
              GROUP BY blob_id ORDER BY blob_id LIMIT $2",
    },
    Rows {
        what: "a skill",
        sql: "SELECT blob_id, CAST(NULL AS BIGINT), CAST(NULL AS TEXT) FROM skill_versions WHERE blob_id > $1
              GROUP BY blob_id ORDER BY blob_id LIMIT $2",
    },
    Rows {
        what: "a skill of a session",
        sql: "SELECT blob_id, CAST(NULL AS BIGINT), CAST(NULL AS TEXT) FROM session_skills WHERE blob_id > $1
              GROUP BY blob_id ORDER BY blob_id LIMIT $2",
    },
    Rows {
        what: "the list of a checkpoint",
        sql: "SELECT manifest_blob, CAST(NULL AS BIGINT), min(manifest_sha256) FROM session_checkpoints WHERE manifest_blob > $1
              GROUP BY manifest_blob ORDER BY manifest_blob LIMIT $2",
    },
    Rows {
        what: "a checkpoint",
        sql: "SELECT blob_id, CAST(NULL AS BIGINT), CAST(NULL AS TEXT) FROM session_checkpoint_blobs WHERE blob_id > $1
              GROUP BY blob_id ORDER BY blob_id LIMIT $2",
    },
];

impl Rows {
    /// The next blobs that these rows name, after `after` in the order of their ids; none at the end.
    pub(super) fn page(self, tx: &mut Tx<'_>, after: &str) -> Result<Vec<Named>> {
        tx.all(self.sql, vals![after, NAMED_BLOBS_AT_ONCE], |row| {
            Ok(Named { id: row.id(0)?, bytes: row.opt_int(1)?, sha256: row.opt_text(2)? })
        })
    }

    /// Whether these rows still name a blob.
    pub(super) fn name(self, tx: &mut Tx<'_>, id: &BlobId) -> Result<bool> {
        // The id before it: no other one lies between.
        let before = &id.as_ref()[..id.as_ref().len() - 1];
        Ok(tx.all(self.sql, vals![before, NAMED_BLOBS_AT_ONCE], |row| row.id::<BlobId>(0))?.contains(id))
    }
}
