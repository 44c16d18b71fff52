//! Bytes that no row names: what a crash left, and what was deleted.

use std::{fs, io, path::Path};

use futures_util::{Stream, TryStreamExt, stream::try_unfold};
use object_store::{ObjectStoreExt, path};
use rota_api::{
    Time,
    id::{BlobId, Id},
};

use tokio::time::timeout;

use super::{Blobs, answered, failed, place::Place, silent};
use crate::{
    error::{Error, Result},
    limits::{BLOB_ANSWER_TIMEOUT, BLOB_GRACE, BLOB_SWEEP_BATCH},
};

/// A blob that was found.
pub struct Found {
    /// Its name.
    pub id: BlobId,
    at: path::Path,
}

impl Blobs {
    /// Every blob that is older than the grace, in batches of a bounded size. What is there under another name is nobody's
    /// business here. Fails with 529 when the place of blobs does not answer.
    pub fn old(&self) -> impl Stream<Item = Result<Vec<Found>>> + Send + '_ {
        let before = self.grace();
        try_unfold(Some(self.store.list(None)), move |listed| async move {
            let Some(mut listed) = listed else { return Ok(None) };
            let mut batch = Vec::new();
            while batch.len() < BLOB_SWEEP_BATCH {
                let next = timeout(BLOB_ANSWER_TIMEOUT, listed.try_next()).await.map_err(|_| silent("listing"))?;
                let Some(meta) = next.map_err(|error| failed("listing", &error))? else {
                    return Ok((!batch.is_empty()).then_some((batch, None)));
                };
                if let Some(Ok(id)) = meta.location.filename().map(str::parse::<BlobId>)
                    && id.made_at() < before
                {
                    batch.push(Found { id, at: meta.location });
                }
            }
            Ok(Some((batch, Some(listed))))
        })
    }

    /// What was begun before then has its row by now, or never will: writing a blob has a bound of its own.
    fn grace(&self) -> Time {
        self.clock.now().plus_micros(-i64::try_from(BLOB_GRACE.as_micros()).unwrap_or(i64::MAX))
    }

    /// Deletes the bytes of a blob that no row names.
    ///
    /// # Errors
    /// 529 when the place of blobs does not answer.
    pub async fn delete(&self, found: &Found) -> Result<()> {
        match answered("deleting", self.store.delete(&found.at)).await {
            // Another server was faster.
            Err(Error::Internal(_)) => Ok(()),
            deleted => deleted,
        }
    }

    /// Deletes what is left of blobs that an earlier server was writing. A bucket does it by a rule of its own.
    ///
    /// # Errors
    /// 500 when the folder cannot be read.
    pub async fn delete_unfinished(&self) -> Result<()> {
        let Place::Folder(folder) = &self.place else { return Ok(()) };
        let (folder, before) = (folder.clone(), self.grace());
        let deleting = tokio::task::spawn_blocking(move || delete_unfinished(&folder, before));
        deleting.await.map_err(Error::internal)?.map_err(Error::internal)
    }
}

/// `object_store` writes to `<name>#<number>` before it renames.
fn delete_unfinished(folder: &Path, before: Time) -> io::Result<()> {
    for sub in fs::read_dir(folder)? {
        let sub = sub?.path();
        if !sub.is_dir() {
            continue;
        }
        for file in fs::read_dir(sub)? {
            let file = file?;
            let name = file.file_name();
            let unfinished = name.to_str().and_then(|name| name.split_once('#')?.0.parse::<BlobId>().ok());
            if unfinished.is_some_and(|id| id.made_at() < before) {
                fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}
