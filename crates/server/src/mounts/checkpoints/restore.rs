//! Putting a checkpoint back: at the server that takes a session over.
//!
//! All is fetched and checked in a folder of the server's first ([`fetch`]), and then moved into the place of the session's files
//! ([`place`]). In between the session's home becomes this server, so that its files are not taken for those of an earlier stay;
//! the row says that they are about to come. What is cut off begins anew.

use std::{
    collections::BTreeMap,
    io::{self, Seek, SeekFrom, Write},
    sync::Arc,
};

use futures_util::TryStreamExt;
use rota_api::id::BlobId;
use rota_sandbox::{Entry, NewTree};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{
    super::{Failure, Target},
    manifest::{Content, Manifest, bytes},
    take::listed,
};
use crate::{
    error::Error,
    hex,
    limits::{CHECKPOINT_DEPTH, CHECKPOINT_PACK_BYTES, CHECKPOINT_SMALL_FILE, CHECKPOINT_TIMEOUT},
    resources::checkpoints::{Placed, Taken},
};

/// The most bytes of a blob that is fetched as a whole: one that small files share.
const WHOLE: u64 = CHECKPOINT_PACK_BYTES as u64 + CHECKPOINT_SMALL_FILE;

/// The files of a checkpoint, fetched and not in their place yet.
pub struct Fetched {
    tree: Arc<NewTree>,
    entries: Arc<Vec<Entry>>,
    had_shell: bool,
    placed: Placed,
    left_out: Vec<String>,
    left_out_count: usize,
}

impl Fetched {
    /// What the server that took the checkpoint had put among the files.
    pub fn placed(&self) -> &Placed {
        &self.placed
    }

    /// What the agent is told of what the checkpoint does not have, if it lacks anything.
    pub fn note(&self) -> Option<String> {
        let more = self.left_out_count.saturating_sub(self.left_out.len());
        let more = if more > 0 { format!("\n- and {more} more") } else { String::new() };
        (self.left_out_count > 0).then(|| {
            format!(
                "The session has moved to another server, with its files but for these, which could not be kept as they were:\n- {}{more}",
                self.left_out.join("\n- ")
            )
        })
    }
}

/// Why a checkpoint cannot be put back.
pub enum Unfetched {
    /// It is not what was written, or not all of it is there: another try would not go better.
    Damaged(String),
    /// Something else is in the way.
    Failure(Failure),
}

impl From<Error> for Unfetched {
    fn from(error: Error) -> Self {
        match error {
            Error::Internal(error) => Self::Damaged(error.to_string()),
            other => Self::Failure(other.into()),
        }
    }
}

impl From<rota_sandbox::Error> for Unfetched {
    fn from(error: rota_sandbox::Error) -> Self {
        Self::Failure(error.into())
    }
}

/// Fetches the files of a checkpoint. Dropped, it leaves nothing.
pub async fn fetch(target: &Target, taken: &Taken) -> Result<Fetched, Unfetched> {
    let fetching = timeout(CHECKPOINT_TIMEOUT, fetch_all(target, taken));
    fetching.await.unwrap_or_else(|_| {
        let message = "the files of the session could not be fetched in time".to_owned();
        Err(Unfetched::Failure(Failure { message, is_passing: true }))
    })
}

async fn fetch_all(target: &Target, taken: &Taken) -> Result<Fetched, Unfetched> {
    let manifest = listed(&target.app, taken).await?;
    let entries = Arc::new(manifest.restored()?);
    let tree = Arc::new(target.app.sandboxes.backend().new_tree().await?);
    let made = entries.clone();
    on_thread(&tree, move |tree| tree.restore(&made, CHECKPOINT_DEPTH)).await?;
    for part in parts(&manifest)? {
        fetch_part(target, &tree, &manifest.blobs, part).await?;
    }
    Ok(Fetched {
        tree,
        entries,
        had_shell: manifest.had_shell,
        placed: taken.placed.clone(),
        left_out: manifest.left_out,
        left_out_count: manifest.left_out_count,
    })
}

/// What is in a blob: by where it begins there, a content and the files that have it.
type Inside = BTreeMap<u64, (Content, Vec<Vec<u8>>)>;
/// A blob, by its place in the list, with what is in it.
type Part = (Option<usize>, Inside);

/// The files by their blobs; those of which nothing is kept have none.
fn parts(manifest: &Manifest) -> crate::error::Result<Vec<Part>> {
    let mut parts: BTreeMap<Option<usize>, Inside> = BTreeMap::new();
    let mut empty = Vec::new();
    for (content, path) in manifest.contents() {
        let path = bytes(path)?;
        if content.stored == 0 {
            empty.push((None, BTreeMap::from([(0, (content.clone(), vec![path]))])));
            continue;
        }
        let of = parts.entry(Some(content.blob)).or_default();
        let (known, paths) = of.entry(content.at).or_insert_with(|| (content.clone(), Vec::new()));
        let same = |content: &Content| (content.sha256.clone(), content.size, content.stored, content.pieces.clone());
        if same(known) != same(content) {
            return Err(Error::internal("a checkpoint has two contents at one place"));
        }
        paths.push(path);
    }
    Ok(parts.into_iter().chain(empty).collect())
}

async fn fetch_part(
    target: &Target,
    tree: &Arc<NewTree>,
    blobs: &[(BlobId, u64)],
    (blob, contents): Part,
) -> Result<(), Unfetched> {
    let Some((blob, size)) = blob.map(|blob| &blobs[blob]) else {
        return on_thread(tree, move |tree| fill_all(tree, &[], contents.into_values())).await;
    };
    if *size <= WHOLE {
        let whole = target.app.blobs.read_whole(blob, *size as usize).await?;
        return on_thread(tree, move |tree| fill_all(tree, &whole, contents.into_values())).await;
    }
    for (content, paths) in contents.into_values() {
        stream(target, tree, blob, content, paths).await?;
    }
    Ok(())
}

/// Makes files of what is in a blob.
fn fill_all(tree: &NewTree, blob: &[u8], contents: impl Iterator<Item = (Content, Vec<Vec<u8>>)>) -> io::Result<()> {
    for (content, paths) in contents {
        let begin = content.at as usize;
        let bytes = blob.get(begin..begin + content.stored as usize).ok_or_else(damaged)?;
        if hex::digits(&Sha256::digest(bytes)) != content.sha256 {
            return Err(damaged());
        }
        for path in paths {
            Filling::begin(tree, &path, &content)?.write(bytes)?;
        }
    }
    Ok(())
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the content of a checkpoint is not what was written")
}

/// Makes files of a large blob, piece by piece.
async fn stream(
    target: &Target,
    tree: &Arc<NewTree>,
    blob: &BlobId,
    content: Content,
    paths: Vec<Vec<u8>>,
) -> Result<(), Unfetched> {
    let of = content.clone();
    let begin = move |tree: &NewTree| paths.iter().map(|path| Filling::begin(tree, path, &of)).collect();
    let mut filling: Vec<Filling> = on_thread(tree, begin).await?;
    let mut hash = Sha256::new();
    let (mut skip, mut left) = (content.at, content.stored);
    let mut pieces = target.app.blobs.read(blob).await?;
    while left > 0
        && let Some(piece) = pieces.try_next().await?
    {
        let from = skip.min(piece.len() as u64);
        skip -= from;
        let piece = piece.slice(from as usize..);
        let piece = piece.slice(..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        left -= piece.len() as u64;
        let work = move |_: &NewTree| {
            hash.update(&piece);
            filling.iter_mut().try_for_each(|file| file.write(&piece))?;
            Ok((hash, filling))
        };
        (hash, filling) = on_thread(tree, work).await?;
    }
    if left > 0 || hex::digits(&hash.finalize()) != content.sha256 {
        return Err(Unfetched::Damaged(damaged().to_string()));
    }
    Ok(())
}

/// A file that is being filled: the bytes that are kept go where they belong.
struct Filling {
    file: std::fs::File,
    /// Where bytes belong that have not come, in their order.
    pieces: Vec<(u64, u64)>,
}

impl Filling {
    fn begin(tree: &NewTree, path: &[u8], content: &Content) -> io::Result<Self> {
        let file = tree.restored(path, content.size)?;
        let mut pieces = content.pieces.clone().unwrap_or_else(|| vec![(0, content.size)]);
        pieces.reverse();
        Ok(Self { file, pieces })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Some((at, length)) = self.pieces.last_mut() else { return Err(damaged()) };
            let now = bytes.len().min(usize::try_from(*length).unwrap_or(usize::MAX));
            self.file.seek(SeekFrom::Start(*at))?;
            self.file.write_all(&bytes[..now])?;
            *at += now as u64;
            *length -= now as u64;
            if *length == 0 {
                self.pieces.pop();
            }
            bytes = &bytes[now..];
        }
        Ok(())
    }
}

/// Works on the tree on a thread for blocking work. What is not as it was written is told apart from what the machine lacks.
async fn on_thread<T: Send + 'static>(
    tree: &Arc<NewTree>,
    work: impl FnOnce(&NewTree) -> io::Result<T> + Send + 'static,
) -> Result<T, Unfetched> {
    let work = move |tree: &NewTree| match work(tree) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            Ok(Err(Unfetched::Damaged(error.to_string())))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Err(Unfetched::Damaged(error.to_string()))),
        done => done.map(Ok),
    };
    tree.on_thread(work).await?
}

/// Puts the files in the place of all that the session has here.
pub async fn place(target: &Target, fetched: Fetched) -> Result<(), Failure> {
    let Fetched { tree, entries, had_shell, .. } = fetched;
    let backend = target.app.sandboxes.backend();
    Ok(backend.place_session(target.session.as_ref(), tree, entries, had_shell).await?)
}
