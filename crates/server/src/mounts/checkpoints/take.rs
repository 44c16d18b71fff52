//! Taking a checkpoint: what changed since the last one is read and written to blobs, then the row.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use rota_api::id::BlobId;
use rota_sandbox::{Contents, Entry, Reach, SessionFiles, What, path_inside, pieces, state_of};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    manifest::{Content, Manifest, seen},
    placed_here,
};
use crate::{
    app::App,
    error::{Error, Result},
    hex,
    limits::{
        CHECKPOINT_DEPTH, CHECKPOINT_ENTRIES, CHECKPOINT_LIST_BYTES, CHECKPOINT_PACK_BYTES, CHECKPOINT_SETTLED_NANOS,
        CHECKPOINT_SMALL_FILE, CHECKPOINT_TOLD,
    },
    resources::checkpoints::{self, Due, Kept, Moment, New, Placed, Taken},
};

const REACH: Reach = Reach { entries: CHECKPOINT_ENTRIES, depth: CHECKPOINT_DEPTH, told: CHECKPOINT_TOLD };
/// Bytes that are read at a time.
const PIECE: usize = 256 * 1024;
/// After how many pieces of a large file it is looked whether that is still of use: 64 MiB.
const LOOK_EVERY: u32 = 16;

/// How taking a checkpoint ended.
pub(super) enum Ended {
    /// The checkpoint has the files as they are, or had them before.
    Kept,
    /// The session has gone on.
    TooLate,
    /// What it was to share is gone.
    Again,
    /// It is beyond a bound; the words are for people.
    Refused(String),
}

impl From<Kept> for Ended {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Yes => Self::Kept,
            Kept::TooLate => Self::TooLate,
            Kept::Again => Self::Again,
        }
    }
}

/// What is known before the files are looked at.
struct Begun {
    moment: Moment,
    taken: Option<Taken>,
    placed: Placed,
    shareable: Vec<(String, u64, BlobId)>,
}

pub(super) async fn take(app: &App, due: &Due) -> Result<Ended> {
    let (of, node) = (due.clone(), app.node.clone());
    let begun = app.db.read(move |tx| {
        let Due { session, workspace, .. } = &of;
        let Some(moment) = checkpoints::moment(tx, workspace, session, &node)? else { return Ok(None) };
        Ok(Some(Begun {
            moment,
            taken: checkpoints::of_session(tx, workspace, session)?,
            placed: placed_here(tx, session, &node)?,
            shareable: checkpoints::shareable(tx, workspace, session)?,
        }))
    });
    let Some(begun) = begun.await? else { return Ok(Ended::TooLate) };
    let files = app.sandboxes.backend().session_files(due.session.as_ref()).map_err(Error::internal)?;
    let Some(files) = files.map(Arc::new) else {
        return Ok(Ended::Refused("this server does not have them".to_owned()));
    };
    let looking = files.clone();
    let (contents, note) = blocking(move || Ok((looking.list(REACH)?, looking.note(CHECKPOINT_LIST_BYTES)?))).await?;
    if contents.is_cut {
        return Ok(Ended::Refused(format!("there are more than {CHECKPOINT_ENTRIES} files and folders")));
    }
    let most = app.config.sandbox.checkpoint_mib * 1024 * 1024;
    let known: u64 = contents.entries.iter().filter_map(whole_size).fold(0, u64::saturating_add);
    if known > most {
        return Ok(too_large(app));
    }
    let former = match &begun.taken {
        None => None,
        Some(taken) => former(app, taken, note).await?,
    };
    let mut taking = Taking::new(app, due, &begun, files.clone(), former, most);
    let Some(manifest) = taking.read_all(&contents).await? else { return Ok(taking.ended(app)) };
    if let (Some(former), Some(taken)) = (&taking.former, &begun.taken)
        && former.is_as(&manifest)
    {
        if *former != manifest {
            note_beside(due, files, taken.sha256.clone(), manifest).await;
        }
        let (of, node, moment) = (due.clone(), app.node.clone(), begun.moment.clone());
        let same = move |tx: &mut crate::db::Tx<'_>| checkpoints::is_the_same(tx, &of, &node, &moment, &begun.placed);
        return app.db.write(same).await.map(Into::into);
    }
    let files_in = manifest.entries.len() as i64;
    let (manifest, packed) = blocking(move || {
        let packed = manifest.pack().map_err(io::Error::other)?;
        Ok((manifest, packed))
    })
    .await?;
    if packed.len() as u64 > CHECKPOINT_LIST_BYTES {
        return Ok(Ended::Refused("their names are too long together".to_owned()));
    }
    let list = taking.write(&packed).await?;
    let shared: Vec<BlobId> =
        manifest.blobs.iter().filter(|(blob, _)| taking.shared.contains(blob)).map(|(blob, _)| blob.clone()).collect();
    let counted = |(blob, bytes): (BlobId, u64)| {
        let bytes = if shared.contains(&blob) { 0 } else { i64::try_from(bytes).unwrap_or(i64::MAX) };
        (blob, bytes)
    };
    let mut blobs: Vec<(BlobId, i64)> = manifest.blobs.iter().cloned().map(counted).collect();
    blobs.push((list.id.clone(), list.size as i64));
    let sha256 = list.sha256.clone();
    let new = New {
        moment: begun.moment.clone(),
        manifest: (list.id, list.sha256),
        blobs,
        shared,
        files: files_in,
        placed: begun.placed,
    };
    let (of, node, quota) = (due.clone(), app.node.clone(), app.config.blobs.workspace_bytes());
    let kept = app.db.write(move |tx| checkpoints::keep(tx, &of, &node, &new, quota)).await?;
    if kept == Kept::Yes {
        note_beside(due, files, sha256, manifest).await;
    }
    Ok(kept.into())
}

/// Notes beside the files how they looked. Without that the next checkpoint reads all of them again.
async fn note_beside(due: &Due, files: Arc<SessionFiles>, sha256: String, manifest: Manifest) {
    let noting = blocking(move || {
        let packed = manifest.pack().map_err(io::Error::other)?;
        files.keep_note(&[sha256.as_bytes(), &packed].concat())
    });
    if let Err(error) = noting.await {
        tracing::warn!(session_id = %due.session, %error, "what a checkpoint has was not noted beside the files");
    }
}

/// The bytes of a file that are known to be read: those of one with holes may be fewer.
fn whole_size(entry: &Entry) -> Option<u64> {
    match entry.what {
        What::File { state, is_sparse: false } => Some(state.size),
        _ => None,
    }
}

fn too_large(app: &App) -> Ended {
    Ended::Refused(format!(
        "they have more than {} MiB, which is the most that is kept of a session (`sandbox.checkpoint_mib`)",
        app.config.sandbox.checkpoint_mib
    ))
}

/// The list of the last checkpoint: as it was noted beside the files, where that is of this one, and otherwise from its blob.
/// Then nothing is known of how the files looked here. One that cannot be read is as none.
async fn former(app: &App, taken: &Taken, note: Option<Vec<u8>>) -> Result<Option<Manifest>> {
    if let Some(note) = note
        && taken.node == app.node
        && note.starts_with(taken.sha256.as_bytes())
    {
        let begins = taken.sha256.len();
        let read = blocking(move || Ok(Manifest::unpack(&note[begins..]).ok())).await?;
        if read.is_some() {
            return Ok(read);
        }
    }
    match listed(app, taken).await {
        Ok(mut manifest) => {
            manifest.forget_seen();
            Ok(Some(manifest))
        }
        Err(Error::Internal(error)) => {
            tracing::error!(%error, "the list of a checkpoint cannot be read: a whole one is taken");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The list of a checkpoint, from its blob.
///
/// # Errors
/// 529 when the place of blobs does not answer, 500 when it is not what the row says.
pub(super) async fn listed(app: &App, taken: &Taken) -> Result<Manifest> {
    let packed = app.blobs.read_whole(&taken.manifest, CHECKPOINT_LIST_BYTES as usize).await?;
    let sha256 = taken.sha256.clone();
    blocking(move || {
        if hex::digits(&Sha256::digest(&packed)) != sha256 {
            return Err(io::Error::other("the list of a checkpoint is not what was written"));
        }
        Manifest::unpack(&packed).map_err(io::Error::other)
    })
    .await
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(Error::internal)?.map_err(Error::internal)
}

/// What a content is known by: its SHA-256, and how many bytes are kept.
type Key = (String, u64);

/// A checkpoint that is being taken.
struct Taking<'a> {
    app: &'a App,
    due: &'a Due,
    moment: &'a Moment,
    files: Arc<SessionFiles>,
    former: Option<Manifest>,
    /// Bytes that may be kept.
    left: u64,
    /// All blobs that content can be in.
    blobs: Vec<(BlobId, u64)>,
    /// Those that are content of files of the session.
    shared: HashSet<BlobId>,
    /// Where content is that need not be written.
    known: HashMap<Key, (usize, u64)>,
    /// Numbers of bytes of which there is some.
    sizes: HashSet<u64>,
    /// By path.
    done: HashMap<Vec<u8>, Content>,
    /// What was being written while it was read, or cannot be read, in words for people.
    torn: Vec<String>,
    /// Why it is given up.
    ended: Option<Over>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    TooLate,
    TooLarge,
}

/// What was read of small files for one blob.
struct Pack {
    bytes: Vec<u8>,
    /// By path: what was read, and whether it changed meanwhile.
    read: Vec<(Vec<u8>, Content, bool)>,
    /// Files that have become large.
    large: Vec<Vec<u8>>,
    /// Files that this server may not read, in words for people.
    unreadable: Vec<String>,
}

fn unreadable(path: &[u8]) -> String {
    format!("{}: the server may not read it", path_inside(path))
}

impl<'a> Taking<'a> {
    fn new(
        app: &'a App,
        due: &'a Due,
        begun: &'a Begun,
        files: Arc<SessionFiles>,
        former: Option<Manifest>,
        most: u64,
    ) -> Self {
        let mut taking = Self {
            app,
            due,
            moment: &begun.moment,
            files,
            left: most,
            blobs: former.as_ref().map(|former| former.blobs.clone()).unwrap_or_default(),
            shared: HashSet::new(),
            known: HashMap::new(),
            sizes: HashSet::new(),
            done: HashMap::new(),
            torn: Vec::new(),
            ended: None,
            former,
        };
        for (sha256, size, blob) in &begun.shareable {
            taking.shared.insert(blob.clone());
            taking.blobs.push((blob.clone(), *size));
            taking.know((sha256.clone(), *size), (taking.blobs.len() - 1, 0));
        }
        taking
    }

    fn know(&mut self, key: Key, place: (usize, u64)) {
        self.sizes.insert(key.1);
        self.known.insert(key, place);
    }

    /// How it ended before its time.
    fn ended(&self, app: &App) -> Ended {
        match self.ended {
            Some(Over::TooLarge) => too_large(app),
            Some(Over::TooLate) | None => Ended::TooLate,
        }
    }

    /// Reads what is new and writes it to blobs. `None` when it is given up.
    async fn read_all(&mut self, contents: &Contents) -> Result<Option<Manifest>> {
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for entry in self.changed(contents) {
            match entry.what {
                What::File { state, is_sparse } if is_sparse || state.size > CHECKPOINT_SMALL_FILE => {
                    large.push(entry.path.clone());
                }
                _ => small.push(entry.path.clone()),
            }
        }
        let mut small = small.into_iter();
        while small.len() > 0 {
            if !self.goes_on().await? {
                return Ok(None);
            }
            let (files, known, clock) = (self.files.clone(), std::mem::take(&mut self.known), self.app.clock.clone());
            let reading = blocking(move || {
                let now = i128::from(clock.now().micros()) * 1000;
                let pack = read_pack(&files, &mut small, &known, now)?;
                Ok((pack, small, known))
            });
            let pack;
            (pack, small, self.known) = reading.await?;
            self.add_pack(pack, &mut large).await?;
        }
        for path in large {
            if !self.goes_on().await? {
                return Ok(None);
            }
            self.read_large(path).await?;
        }
        if self.ended.is_some() {
            return Ok(None);
        }
        Ok(Some(Manifest::new(contents, std::mem::take(&mut self.done), &self.blobs, (&self.torn, CHECKPOINT_TOLD))))
    }

    /// The files that are not known to be what the last checkpoint has, and those whose place there is given up.
    fn changed<'c>(&mut self, contents: &'c Contents) -> Vec<&'c Entry> {
        let files = || contents.entries.iter().filter(|entry| matches!(entry.what, What::File { .. }));
        let Some(former) = self.former.take() else { return files().collect() };
        let of: HashMap<&str, &Content> = former.contents().map(|(content, path)| (path, content)).collect();
        let same = |entry: &Entry| {
            let What::File { state, .. } = entry.what else { return None };
            let content = *of.get(&*super::manifest::text(&entry.path))?;
            (content.size == state.size && content.seen == Some(seen(&state))).then(|| content.clone())
        };
        let unchanged: Vec<(&Entry, Option<Content>)> = files().map(|entry| (entry, same(entry))).collect();
        // Where nothing is new, nothing is put together anew.
        let is_new = unchanged.iter().any(|(_, content)| content.is_none());
        let worn = if is_new { former.worn() } else { HashSet::new() };
        let (mut changed, mut known) = (Vec::new(), Vec::new());
        for (content, _) in former.contents().filter(|(content, _)| !worn.contains(&content.blob)) {
            known.push(((content.sha256.clone(), content.stored), (content.blob, content.at)));
        }
        for (entry, content) in unchanged {
            match content.filter(|content| content.stored == 0 || !worn.contains(&content.blob)) {
                Some(content) => {
                    self.left = self.left.saturating_sub(content.stored);
                    self.done.insert(entry.path.clone(), content);
                }
                None => changed.push(entry),
            }
        }
        for (key, place) in known {
            self.know(key, place);
        }
        self.former = Some(former);
        changed
    }

    /// Whether it is worth going on: the session is still at rest, and here.
    async fn goes_on(&mut self) -> Result<bool> {
        if self.ended.is_some() {
            return Ok(false);
        }
        let (of, node) = (self.due.clone(), self.app.node.clone());
        let at = self.app.db.read(move |tx| checkpoints::moment(tx, &of.workspace, &of.session, &node)).await?;
        if at.as_ref() != Some(self.moment) {
            self.ended = Some(Over::TooLate);
        }
        Ok(self.ended.is_none())
    }

    /// Takes up that a file has this content.
    fn has(&mut self, path: Vec<u8>, content: Content, is_torn: bool) {
        if is_torn {
            self.torn.push(format!("{}: it was being written while it was kept", path_inside(&path)));
        }
        match self.left.checked_sub(content.stored) {
            Some(left) => self.left = left,
            None => self.ended = Some(Over::TooLarge),
        }
        self.done.insert(path, content);
    }

    async fn add_pack(&mut self, pack: Pack, large: &mut Vec<Vec<u8>>) -> Result<()> {
        large.extend(pack.large);
        self.torn.extend(pack.unreadable);
        let place = self.blobs.len();
        if !pack.bytes.is_empty() {
            let written = self.write(&pack.bytes).await?;
            self.blobs.push((written.id, written.size));
        }
        for (path, mut content, is_torn) in pack.read {
            if content.blob == NEW {
                content.blob = place;
                self.know((content.sha256.clone(), content.stored), (place, content.at));
            }
            self.has(path, content, is_torn);
        }
        Ok(())
    }

    /// Writes a blob.
    async fn write(&self, bytes: &[u8]) -> Result<crate::blobs::Written> {
        let mut writing = self.app.blobs.begin(&self.due.workspace).await?;
        writing.write(bytes).await?;
        writing.finish().await
    }

    /// Reads a file that has a blob of its own.
    async fn read_large(&mut self, path: Vec<u8>) -> Result<()> {
        for is_last in [false, true] {
            let (files, at) = (self.files.clone(), path.clone());
            let opened = blocking(move || {
                let (file, state) = match files.open(&at) {
                    Ok(Some(opened)) => opened,
                    Ok(None) => return Ok(Err(None)),
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Ok(Err(Some(unreadable(&at))));
                    }
                    Err(error) => return Err(error),
                };
                let parts = pieces(&file, state.size)?;
                Ok(Ok((file, state, parts)))
            });
            let (file, state, parts) = match opened.await? {
                Ok(opened) => opened,
                Err(told) => {
                    self.torn.extend(told);
                    return Ok(());
                }
            };
            let stored: u64 = parts.iter().map(|(_, length)| length).sum();
            if stored > self.left {
                self.ended = Some(Over::TooLarge);
                return Ok(());
            }
            let now = i128::from(self.app.clock.now().micros()) * 1000;
            let read = self.read_parts(file, &parts, stored).await?;
            let Some((file, sha256, (blob, offset))) = read else { continue };
            let after = blocking(move || state_of(&file)).await?;
            let is_torn = after != state;
            if is_torn && !is_last {
                continue;
            }
            let is_whole = stored == state.size;
            let seen = (!is_torn && now - state.changed_ns > CHECKPOINT_SETTLED_NANOS).then(|| seen(&state));
            let pieces = (!is_whole).then_some(parts);
            let content = Content { sha256, size: state.size, stored, blob, at: offset, pieces, seen };
            self.has(path, content, is_torn);
            return Ok(());
        }
        // It becomes shorter each time that it is read.
        self.torn.push(format!("{}: it was being written all the time", path_inside(&path)));
        Ok(())
    }

    /// Reads parts of a file into a blob, unless one has them. `None` when they are not there any more.
    async fn read_parts(
        &mut self,
        mut file: File,
        parts: &[(u64, u64)],
        stored: u64,
    ) -> Result<Option<(File, String, (usize, u64))>> {
        if stored == 0 {
            return Ok(Some((file, hex::digits(&Sha256::digest([])), (0, 0))));
        }
        if self.sizes.contains(&stored) {
            let of = parts.to_vec();
            let (back, sha256) = blocking(move || {
                let mut hash = Sha256::new();
                let is_whole = read_on(&mut file, &of, |bytes| hash.update(bytes))?;
                Ok((file, is_whole.then(|| hex::digits(&hash.finalize()))))
            })
            .await?;
            file = back;
            let Some(sha256) = sha256 else { return Ok(None) };
            if let Some(place) = self.known.get(&(sha256.clone(), stored)) {
                return Ok(Some((file, sha256, *place)));
            }
        }
        let mut writing = self.app.blobs.begin(&self.due.workspace).await?;
        let mut until_look = LOOK_EVERY;
        for (at, length) in parts {
            let (mut at, mut length) = (*at, *length);
            while length > 0 {
                until_look -= 1;
                if until_look == 0 {
                    until_look = LOOK_EVERY;
                    if !self.goes_on().await? {
                        return Ok(None);
                    }
                }
                let most = length.min(16 * PIECE as u64) as usize;
                let (back, bytes) = blocking(move || {
                    let mut bytes = vec![0; most];
                    file.seek(SeekFrom::Start(at))?;
                    let read = match file.read_exact(&mut bytes) {
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                        read => read.map(|()| Some(bytes))?,
                    };
                    Ok((file, read))
                })
                .await?;
                file = back;
                let Some(bytes) = bytes else { return Ok(None) };
                writing.write(&bytes).await?;
                at += most as u64;
                length -= most as u64;
            }
        }
        let written = writing.finish().await?;
        self.blobs.push((written.id, written.size));
        let place = (self.blobs.len() - 1, 0);
        self.know((written.sha256.clone(), stored), place);
        Ok(Some((file, written.sha256, place)))
    }
}

/// The place of a blob that is being filled.
const NEW: usize = usize::MAX;

/// Reads small files until there are enough for a blob. What is `known` is not read into it.
fn read_pack(
    files: &SessionFiles,
    paths: &mut std::vec::IntoIter<Vec<u8>>,
    known: &HashMap<Key, (usize, u64)>,
    now: i128,
) -> io::Result<Pack> {
    let mut pack = Pack { bytes: Vec::new(), read: Vec::new(), large: Vec::new(), unreadable: Vec::new() };
    let mut here: HashMap<Key, u64> = HashMap::new();
    while pack.bytes.len() < CHECKPOINT_PACK_BYTES
        && let Some(path) = paths.next()
    {
        let read = match read_small(files, &path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                pack.unreadable.push(unreadable(&path));
                continue;
            }
            read => read?,
        };
        let Some(Small { bytes, state, is_torn }) = read else { continue };
        if bytes.len() as u64 > CHECKPOINT_SMALL_FILE {
            pack.large.push(path);
            continue;
        }
        let stored = bytes.len() as u64;
        let key = (hex::digits(&Sha256::digest(&bytes)), stored);
        let (blob, at) = match (known.get(&key), here.get(&key)) {
            _ if stored == 0 => (0, 0),
            (Some(place), _) => *place,
            (None, Some(at)) => (NEW, *at),
            (None, None) => {
                let at = pack.bytes.len() as u64;
                pack.bytes.extend_from_slice(&bytes);
                here.insert(key.clone(), at);
                (NEW, at)
            }
        };
        let seen = (!is_torn && now - state.changed_ns > CHECKPOINT_SETTLED_NANOS).then(|| seen(&state));
        let content = Content { sha256: key.0, size: stored, stored, blob, at, pieces: None, seen };
        pack.read.push((path, content, is_torn));
    }
    Ok(pack)
}

/// What was read of a small file.
struct Small {
    bytes: Vec<u8>,
    state: rota_sandbox::FileState,
    is_torn: bool,
}

/// Reads a small file, once more where it changed meanwhile. `None` when it is gone, or something else.
fn read_small(files: &SessionFiles, path: &[u8]) -> io::Result<Option<Small>> {
    let mut last = None;
    for _ in 0..2 {
        let Some((mut file, state)) = files.open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        (&mut file).take(CHECKPOINT_SMALL_FILE + 1).read_to_end(&mut bytes)?;
        let is_torn = state_of(&file)? != state || bytes.len() as u64 != state.size.min(CHECKPOINT_SMALL_FILE + 1);
        last = Some(Small { bytes, state, is_torn });
        if !is_torn {
            break;
        }
    }
    Ok(last)
}

/// Hands on what is in parts of a file. Whether all of it is there.
fn read_on(file: &mut File, parts: &[(u64, u64)], mut take: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut piece = vec![0; PIECE];
    for (at, length) in parts {
        file.seek(SeekFrom::Start(*at))?;
        let mut left = *length;
        while left > 0 {
            let most = left.min(PIECE as u64) as usize;
            match file.read(&mut piece[..most])? {
                0 => return Ok(false),
                read => {
                    take(&piece[..read]);
                    left -= read as u64;
                }
            }
        }
    }
    Ok(true)
}
