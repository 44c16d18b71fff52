//! Content that is too large for the store: the bytes of files.
//!
//! A blob is written once, under a temporary name, and gets its own when it is whole and on the disk. Only then the row is
//! committed that names it. Deleting is the reverse: the row goes first, and the bytes when [`sweep`] finds that no row names
//! them. So a crash leaves bytes without a row for a while, and never a row without its bytes.
//!
//! This room knows places of bytes and no rows. The `object_store` crate is used here only.

mod folder;
mod place;
pub mod sweep;

use std::{fs::File, io, mem, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{
    Stream, StreamExt, TryStreamExt,
    future::try_join,
    stream::{BoxStream, try_unfold},
};
use object_store::{GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use rota_api::id::{BlobId, Id, WorkspaceId};
use sha2::{Digest, Sha256};
use tokio::{
    io::AsyncReadExt,
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout},
};

use crate::{
    clock::Clock,
    config::Config,
    error::{Error, Result},
    hex,
    limits::{
        BLOB_ANSWER_TIMEOUT, BLOB_FLUSH_BYTES, BLOB_PARTS_BYTES, BLOB_PARTS_BYTES_OF_ONE, BLOB_READ_TIMEOUT, BODY_WAIT,
        INLINED_BYTES, INLINED_BYTES_OF_ONE,
    },
    room::{Held, Room},
    telemetry,
};
use place::Place;

pub use folder::Folder;

/// Where blobs are.
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    place: Place,
    clock: Clock,
    /// Memory for the parts of blobs that are being written.
    room: Room,
    /// Memory for blobs that models are sent.
    inlined: Room,
}

/// A blob that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its name.
    pub id: BlobId,
    /// Its bytes.
    pub size: u64,
    /// The SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}

impl Blobs {
    /// The blobs of a server: in a folder below its data, or in the bucket that its configuration names.
    ///
    /// # Errors
    /// When the folder cannot be made, or the configuration names no bucket that can be spoken to.
    pub fn open(config: &Config, clock: Clock) -> Result<Self> {
        let (store, place) = place::open(config)?;
        let room = Room::new(BLOB_PARTS_BYTES, BLOB_PARTS_BYTES_OF_ONE);
        let inlined = Room::new(INLINED_BYTES, INLINED_BYTES_OF_ONE);
        Ok(Self { store, place, clock, room, inlined })
    }

    /// Begins a blob of a workspace, as soon as there is memory for its parts.
    ///
    /// # Errors
    /// 529 when there is none for long.
    pub async fn begin(&self, workspace: &WorkspaceId) -> Result<Writing<'_>> {
        let bytes = 2 * self.place.part_bytes();
        let room = timeout(BODY_WAIT, self.room.take(Some(workspace), bytes))
            .await
            .map_err(|_| Error::Overloaded("the server is taking in as many files as it has room for; try again"))?;
        let id = BlobId::new(self.clock.now());
        Ok(Writing {
            blobs: self,
            id,
            part: BytesMut::new(),
            upload: None,
            sending: JoinSet::new(),
            spare: BytesMut::new(),
            flushing: JoinSet::new(),
            unflushed: 0,
            hash: Sha256::new(),
            size: 0,
            _room: room,
        })
    }

    /// Memory for the blobs that a model is sent with one request, as soon as there is some.
    pub async fn room_to_inline(&self, workspace: &WorkspaceId) -> Held {
        self.inlined.take(Some(workspace), INLINED_BYTES_OF_ONE).await
    }

    /// The content of a blob, piece by piece.
    ///
    /// # Errors
    /// 529 when the place of blobs does not answer, also in the middle of the content; 500 when the blob is not there.
    pub async fn read(&self, id: &BlobId) -> Result<BoxStream<'static, Result<Bytes>>> {
        let got = answered("reading", self.store.get(&key(id))).await?;
        let pieces = match got.payload {
            // In pieces larger than the library's own.
            GetResultPayload::File(file, _) => pieces_of(file).boxed(),
            GetResultPayload::Stream(pieces) => pieces.map_err(|error| failed("reading", &error)).boxed(),
        };
        Ok(in_time(pieces, BLOB_ANSWER_TIMEOUT, BLOB_READ_TIMEOUT).boxed())
    }

    /// The content of a blob as a whole, for one that is known to have at most `most` bytes.
    ///
    /// # Errors
    /// Those of [`Self::read`], and 500 when it has more.
    pub async fn read_whole(&self, id: &BlobId, most: usize) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut pieces = self.read(id).await?;
        while let Some(piece) = pieces.try_next().await? {
            if content.len() + piece.len() > most {
                return Err(Error::internal(format!("blob {id} has more than {most} bytes")));
            }
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }
}

/// A blob that is being written. Dropped before [`Self::finish`] it is as if it had never begun.
pub struct Writing<'a> {
    blobs: &'a Blobs,
    id: BlobId,
    /// What does not fill a part yet.
    part: BytesMut,
    /// From the first full part on.
    upload: Option<Upload>,
    /// The part before, which is hashed and sent while this one comes in, and its memory for the next one.
    sending: JoinSet<Result<(Sha256, BytesMut)>>,
    spare: BytesMut,
    /// Brings parts that were sent to the disk while further ones come in.
    flushing: JoinSet<io::Result<()>>,
    /// Bytes that were sent since that began.
    unflushed: usize,
    /// Of what was sent.
    hash: Sha256,
    size: u64,
    _room: Held,
}

impl Writing<'_> {
    /// Appends bytes.
    ///
    /// # Errors
    /// 529 when the place of blobs does not take them.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        let most = self.blobs.place.part_bytes();
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(most - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
            if self.part.len() == most {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    /// Has the disk begin with what was sent, once it has done what it was told before. A bucket needs no telling.
    async fn flush(&mut self) -> Result<()> {
        let Some(unfinished) = self.blobs.place.unfinished(&key(&self.id)) else { return Ok(()) };
        self.is_flushed().await?;
        self.unflushed = 0;
        self.flushing.spawn_blocking(move || File::open(unfinished)?.sync_data());
        Ok(())
    }

    async fn is_flushed(&mut self) -> Result<()> {
        match timeout(BLOB_ANSWER_TIMEOUT, self.flushing.join_next()).await {
            Ok(None) => Ok(()),
            Ok(Some(flushed)) => flushed.map_err(Error::internal)?.map_err(|error| failed_here("writing", &error)),
            Err(_) => Err(silent("writing")),
        }
    }

    /// How many bytes there are so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Begins to hash and to send what has come in, once the part before is there.
    async fn send_part(&mut self) -> Result<()> {
        self.is_sent().await?;
        if self.unflushed >= BLOB_FLUSH_BYTES {
            self.flush().await?;
        }
        self.unflushed += self.part.len();
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => {
                let begun = answered("writing", self.blobs.store.put_multipart(&key(&self.id))).await?;
                none.insert(Upload(Some(begun)))
            }
        };
        let part = mem::replace(&mut self.part, mem::take(&mut self.spare)).freeze();
        self.part.reserve(self.blobs.place.part_bytes());
        let hashing = hashed(mem::take(&mut self.hash), part.clone());
        let sending = upload.begun().put_part(PutPayload::from_bytes(part.clone()));
        self.sending.spawn(async move {
            let (hash, ()) = try_join(hashing, answered("writing", sending)).await?;
            let mut spare = part.try_into_mut().unwrap_or_default();
            spare.clear();
            Ok((hash, spare))
        });
        Ok(())
    }

    /// Waits until the part that was sent last is there.
    async fn is_sent(&mut self) -> Result<()> {
        if let Some(sent) = self.sending.join_next().await {
            (self.hash, self.spare) = sent.map_err(Error::internal)??;
        }
        Ok(())
    }

    /// Makes it a blob: whole, on the disk, under its name.
    ///
    /// # Errors
    /// 529 when the place of blobs does not take it; then there is no blob.
    pub async fn finish(mut self) -> Result<Written> {
        if self.upload.is_none() {
            let content = self.part.split().freeze();
            let at = key(&self.id);
            let sending = self.blobs.store.put(&at, PutPayload::from_bytes(content.clone()));
            let hashing = hashed(mem::take(&mut self.hash), content);
            self.hash = try_join(hashing, answered("writing", sending)).await?.0;
        } else {
            if !self.part.is_empty() {
                self.send_part().await?;
            }
            self.is_sent().await?;
            self.is_flushed().await?;
            if let Some(mut upload) = self.upload.take() {
                answered("writing", upload.begun().complete()).await?;
                upload.0 = None;
            }
        }
        let sha256 = hex::digits(&self.hash.finalize());
        Ok(Written { id: self.id, size: self.size, sha256 })
    }
}

/// Takes content into a hash, on a thread on which nobody waits.
async fn hashed(mut hash: Sha256, content: Bytes) -> Result<Sha256> {
    let hashing = spawn_blocking(move || {
        hash.update(&content);
        hash
    });
    hashing.await.map_err(Error::internal)
}

/// Parts that were sent and are no blob yet.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    fn begun(&mut self) -> &mut Box<dyn MultipartUpload> {
        self.0.as_mut().expect("it is taken only when it is complete")
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else { return };
        // Parts that remain are the place's to forget: a bucket does it by a lifecycle rule.
        #[allow(clippy::disallowed_methods, reason = "it ends by itself, and what it leaves is swept")]
        runtime.spawn(async move { drop(timeout(BLOB_ANSWER_TIMEOUT, upload.abort()).await) });
    }
}

/// The same pieces, of which each comes within `each`, and all of them within `all`. Only what the place takes is counted, not
/// the time between two pieces that the reader takes.
fn in_time(
    pieces: BoxStream<'static, Result<Bytes>>,
    each: Duration,
    all: Duration,
) -> impl Stream<Item = Result<Bytes>> + Send {
    try_unfold((pieces, all), move |(mut pieces, left)| async move {
        let asked = Instant::now();
        let next = timeout(each.min(left), pieces.next()).await.map_err(|_| silent("reading"))?;
        let left = left.saturating_sub(asked.elapsed());
        Ok(next.transpose()?.map(|piece| (piece, (pieces, left))))
    })
}

/// What is in a file of the folder of blobs.
fn pieces_of(file: File) -> impl Stream<Item = Result<Bytes>> + Send {
    let file = tokio::fs::File::from_std(file);
    try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await.map_err(|error| failed_here("reading", &error))?;
        Ok((read > 0).then(|| (piece.freeze(), file)))
    })
}

/// Bytes of a file that are read at a time.
const PIECE: usize = 256 * 1024;

/// Where a blob is. The last characters of an id are random: they spread the blobs over folders.
fn key(id: &BlobId) -> Path {
    let text = id.as_ref();
    Path::from_iter([&text[text.len().saturating_sub(2)..], text])
}

/// What the place of blobs answers, if it does so in time.
async fn answered<T>(doing: &'static str, asked: impl Future<Output = object_store::Result<T>>) -> Result<T> {
    match timeout(BLOB_ANSWER_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(doing, &error)),
        Err(_) => Err(silent(doing)),
    }
}

fn failed(doing: &'static str, error: &object_store::Error) -> Error {
    if let object_store::Error::NotFound { .. } = error {
        return Error::internal(format!("{doing} a blob: {error}"));
    }
    if telemetry::may_tell("blobs") {
        tracing::error!(%error, doing, "the place of blobs failed");
    }
    unavailable()
}

fn failed_here(doing: &'static str, error: &io::Error) -> Error {
    if telemetry::may_tell("blobs") {
        tracing::error!(%error, doing, "the folder of blobs failed");
    }
    unavailable()
}

fn silent(doing: &'static str) -> Error {
    if telemetry::may_tell("blobs") {
        let seconds = BLOB_ANSWER_TIMEOUT.as_secs();
        tracing::error!(doing, seconds, "the place of blobs did not answer in time");
    }
    unavailable()
}

/// The error when the place of blobs does not do its part.
fn unavailable() -> Error {
    Error::Overloaded("the place where files are kept does not answer, or has no room; try again")
}

/// How long a request to a bucket is tried again.
const RETRIES: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn content_that_comes_by_the_drop_ends_in_time_and_a_reader_may_take_longer() {
        let (each, all) = (Duration::from_mins(1), Duration::from_millis(50));
        let drops = || {
            let drop = |()| async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(Some((Bytes::from_static(b"x"), ())))
            };
            try_unfold((), drop).boxed()
        };
        let error = in_time(drops(), each, all).try_for_each(|_| async { Ok(()) }).await.unwrap_err();
        assert!(matches!(error, Error::Overloaded(_)), "{error}");
        let three = futures_util::stream::iter([b"a", b"b", b"c"]).map(|piece| Ok(Bytes::from_static(piece)));
        let slow = |_| async {
            tokio::time::sleep(all).await;
            Ok(())
        };
        in_time(three.boxed(), each, all).try_for_each(slow).await.unwrap();
    }
}
