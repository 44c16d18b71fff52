//! Memory stores in the sandbox of a session: a folder each, which is brought up to date before a call and read back after it.
//!
//! What the folder had at each path when both were last the same is its base, kept with the session's files. A file that
//! differs from its base was changed by the agent: it becomes a version of the memory, unless the memory has moved on from the
//! base too. Then the agent's content is kept as a memory beside it, and the agent is told. So nothing that was written to
//! either side is lost; where both agree already, as after a crash in between, nothing is done.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::Read,
    sync::Arc,
};

use rota_api::{
    id::{MemoryStoreId, MemoryVersionId, SessionId, WorkspaceId},
    memory::{Actor, MAX_CONTENT_BYTES, MAX_SEGMENTS, check_content, check_path},
};
use rota_sandbox::{Area, Bounds, FileState, Listing};
use serde::{Deserialize, Serialize};

use super::{Failure, Target};
use crate::{
    db::Tx,
    error::{Error, Result},
    limits::{MEMORY_BATCH_BYTES, MEMORY_ENTRIES, MEMORY_NOTES, MEMORY_SETTLED_NANOS},
    resources::memory_stores::{
        attach::{self, Attached, FOLDER},
        write::{self, Head, Writing},
    },
};

/// The folders of a session's memory stores.
pub(super) struct Memory {
    target: Target,
    /// `None` until the first call.
    folders: Option<Vec<Folder>>,
    /// What the agent is told with the next result.
    notes: Vec<String>,
}

/// The folder of one store.
struct Folder {
    store: MemoryStoreId,
    slug: String,
    read_only: bool,
    base: Base,
    /// The base as this runner has saved it.
    saved: Option<Base>,
    /// Memories that could not be put here, each with what was told of it.
    unplaced: HashMap<String, String>,
    /// The hashes of files that have not changed since they were read.
    hashes: HashMap<String, (FileState, String)>,
}

/// What a folder and its store had in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Base {
    /// The store's count of changes; `None` while the folder is not known to show all of them.
    seen: Option<i64>,
    /// The hash of the content at each path.
    files: BTreeMap<String, String>,
    /// What is here, is not in the store and cannot be, each with what was told of it.
    #[serde(default)]
    kept: BTreeMap<String, String>,
}

impl Memory {
    pub(super) fn new(target: Target) -> Self {
        Self { target, folders: None, notes: Vec::new() }
    }

    /// Brings the folders up to date.
    pub(super) async fn before_call(&mut self) -> Result<(), Failure> {
        if self.folders.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        let is_first = self.load().await.map_err(|error| unreadable(&error))?;
        let session = self.target.session.clone();
        let counts = self
            .target
            .app
            .db
            .read(move |tx| attach::changes(tx, &session))
            .await
            .map_err(|error| unreadable(&error))?;
        let folders = self.folders.as_deref().unwrap_or_default();
        let is_behind = |(folder, count): (&Folder, &Option<i64>)| count.is_some() && folder.base.seen != *count;
        let behind: Vec<bool> = folders.iter().zip(&counts).map(is_behind).collect();
        // What the agent has left here since it was last looked at is not to be written over.
        if is_first || behind.contains(&true) {
            self.take_up().await;
        }
        let Self { target, folders, notes } = self;
        for (folder, _) in folders.iter_mut().flatten().zip(behind).filter(|(_, is_behind)| *is_behind) {
            folder.bring_up_to_date(target, notes).await?;
        }
        Ok(())
    }

    /// Takes over into the stores what the agent has changed in its folders.
    pub(super) async fn take_up(&mut self) {
        let Self { target, folders: Some(folders), notes } = self else { return };
        if folders.iter().all(|folder| folder.read_only) {
            return;
        }
        let listed = target.app.sandboxes.backend().list(target.session.as_ref(), Area::WritableMemory, BOUNDS).await;
        let listing = match listed {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(session_id = %target.session, %error, "the folders of memory stores cannot be read");
                notes.push(format!(
                    "{FOLDER} could not be read: {}. Changes there are not stored yet.",
                    error.for_client()
                ));
                return;
            }
        };
        if listing.is_cut {
            notes.push(format!(
                "{FOLDER} has more than {MEMORY_ENTRIES} files and folders: not all of them were looked at, and deletions are \
                 not taken over."
            ));
        }
        for folder in folders.iter_mut().filter(|folder| !folder.read_only) {
            if let Err(error) = folder.take_up(target, &listing, notes).await {
                tracing::warn!(session_id = %target.session, %error, "changes of memories are not stored yet");
                notes.push(format!(
                    "Changes in {FOLDER}/{} could not be stored. They stay in the folder, and are stored after the next call if \
                     that works.",
                    folder.slug
                ));
            }
        }
    }

    /// What the agent is to be told.
    pub(super) fn notes(&mut self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.notes);
        let more = notes.len().saturating_sub(MEMORY_NOTES);
        notes.truncate(MEMORY_NOTES);
        if more > 0 {
            notes.push(format!("The same holds for {more} more files in {FOLDER}."));
        }
        notes
    }

    /// Finds out which stores the session has and what their folders had. Whether this is the first time.
    async fn load(&mut self) -> Result<bool> {
        if self.folders.is_some() {
            return Ok(false);
        }
        let session = self.target.session.clone();
        let attached = self.target.app.db.read(move |tx| attach::attached(tx, &session)).await?;
        let mut folders = Vec::new();
        for Attached { store, slug, read_only } in attached {
            let base = read_base(&self.target, &slug).await?;
            let (unplaced, hashes) = <(HashMap<_, _>, HashMap<_, _>)>::default();
            let saved = Some(base.clone());
            folders.push(Folder { store, slug, read_only, base, saved, unplaced, hashes });
        }
        let had_some = folders.iter().any(|folder| folder.base.seen.is_some() || !folder.base.files.is_empty());
        self.folders = Some(folders);
        Ok(had_some)
    }
}

/// How far a listing of the folders goes. A file that is too large is seen, so that it can be told of.
const BOUNDS: Bounds = Bounds { entries: MEMORY_ENTRIES, depth: MAX_SEGMENTS + 2, file_bytes: u64::MAX };

fn unreadable(error: &Error) -> Failure {
    tracing::warn!(%error, "memory stores cannot be read");
    Failure { message: "the memory stores of the session could not be read".to_owned(), is_passing: true }
}

fn base_path(slug: &str) -> String {
    format!("memory/{slug}.json")
}

async fn read_base(target: &Target, slug: &str) -> Result<Base> {
    let session = target.session.as_ref();
    let opened = target.app.sandboxes.backend().open_file(session, Area::Server, &base_path(slug)).await;
    let Some((file, _)) = opened.map_err(Error::internal)? else { return Ok(Base::default()) };
    let bytes = read(file, u64::MAX).await?;
    // One that cannot be read is one that is not there: what is in the folder is then compared with the store alone.
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The bytes of a file, at most so many.
async fn read(file: std::fs::File, most: u64) -> Result<Vec<u8>> {
    let reading = move || {
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map(|_| bytes)
    };
    tokio::task::spawn_blocking(reading).await.map_err(Error::internal)?.map_err(Error::internal)
}

/// A change of the agent's.
#[derive(Debug)]
struct Change {
    path: String,
    /// The content and its hash; `None` where the file is gone.
    content: Option<(String, String)>,
    /// The hash that was at the path before.
    base: Option<String>,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// The store has it.
    Stored,
    /// The memory had been deleted meanwhile, and is there again.
    Restored,
    /// The memory had been changed meanwhile: the agent's content is at this path.
    Beside(String),
    /// The memory had been changed meanwhile: it is not deleted.
    NotDeleted,
    /// Why the store cannot have it.
    Refused(String),
}

impl Folder {
    fn area(&self) -> Area {
        if self.read_only { Area::Memory } else { Area::WritableMemory }
    }

    /// Below the area.
    fn place(&self, path: &str) -> String {
        format!("{}{path}", self.slug)
    }

    /// As the agent sees it.
    fn shown(&self, path: &str) -> String {
        format!("{FOLDER}/{}{path}", self.slug)
    }

    async fn save(&mut self, target: &Target) {
        if self.saved.as_ref() == Some(&self.base) {
            return;
        }
        let text = match serde_json::to_vec(&self.base) {
            Ok(text) => text,
            Err(error) => return tracing::error!(%error, "the base of a memory store cannot be written as JSON"),
        };
        let backend = target.app.sandboxes.backend();
        match backend.put(target.session.as_ref(), Area::Server, &base_path(&self.slug), text).await {
            Ok(()) => self.saved = Some(self.base.clone()),
            Err(error) => {
                tracing::warn!(session_id = %target.session, %error, "the base of a memory store is not saved");
            }
        }
    }

    /// Takes over what differs from the base.
    async fn take_up(&mut self, target: &Target, listing: &Listing, notes: &mut Vec<String>) -> Result<()> {
        let prefix = format!("{}/", self.slug);
        let found: Vec<(String, FileState)> = listing
            .files
            .iter()
            .filter_map(|file| Some((format!("/{}", file.path.strip_prefix(&prefix)?), file.state)))
            .collect();
        self.tell_of_skipped(listing, notes);
        let there: HashSet<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        self.base.kept.retain(|path, _| there.contains(path.as_str()) || path.ends_with(SKIPPED));
        self.hashes.retain(|path, _| there.contains(path.as_str()));
        let gone = self.base.files.iter().filter(|(path, _)| !there.contains(path.as_str()));
        let gone = gone.filter(|(path, _)| !listing.is_cut && !is_skipped(listing, &self.place(path)));
        let mut changes: Vec<Change> =
            gone.map(|(path, hash)| Change { path: path.clone(), content: None, base: Some(hash.clone()) }).collect();
        self.commit(target, std::mem::take(&mut changes), notes).await?;
        let mut bytes = 0;
        for (path, state) in found {
            let Some(content) = self.changed(target, &path, state, notes).await? else { continue };
            bytes += content.0.len();
            changes.push(Change { base: self.base.files.get(&path).cloned(), path, content: Some(content) });
            if bytes > MEMORY_BATCH_BYTES {
                self.commit(target, std::mem::take(&mut changes), notes).await?;
                bytes = 0;
            }
        }
        self.commit(target, changes, notes).await?;
        self.save(target).await;
        Ok(())
    }

    /// The content of a file and its hash, when it differs from the base and a memory can hold it.
    async fn changed(
        &mut self,
        target: &Target,
        path: &str,
        state: FileState,
        notes: &mut Vec<String>,
    ) -> Result<Option<(String, String)>> {
        let known = self.hashes.get(path).filter(|(known, _)| *known == state).map(|(_, hash)| hash);
        if known.is_some_and(|hash| self.base.files.get(path) == Some(hash)) {
            return Ok(None);
        }
        let too_large = format!("it has more than {MAX_CONTENT_BYTES} bytes, which is the most that a memory can have");
        let refused = if let Err(message) = check_path(path) {
            Some(format!("its path {message}"))
        } else if state.size > MAX_CONTENT_BYTES as u64 {
            Some(too_large.clone())
        } else {
            None
        };
        if let Some(reason) = refused {
            self.keep(path, &reason, notes);
            return Ok(None);
        }
        let backend = target.app.sandboxes.backend();
        let opened = backend.open_file(target.session.as_ref(), self.area(), &self.place(path)).await;
        let Some((file, state)) = opened.map_err(Error::internal)? else { return Ok(None) };
        let bytes = read(file, MAX_CONTENT_BYTES as u64 + 1).await?;
        let hash = write::hash(&bytes);
        let age = i128::from(target.app.clock.now().micros()) * 1000 - state.changed_ns;
        if age > MEMORY_SETTLED_NANOS {
            // A change at the same tick of the kernel's clock would leave no trace.
            self.hashes.insert(path.to_owned(), (state, hash.clone()));
        } else {
            self.hashes.remove(path);
        }
        if self.base.files.get(path) == Some(&hash) {
            self.base.kept.remove(path);
            return Ok(None);
        }
        let refused = match String::from_utf8(bytes) {
            Err(_) => "it is no UTF-8 text, and a memory is nothing else".to_owned(),
            Ok(text) if text.len() > MAX_CONTENT_BYTES => too_large,
            Ok(text) => match check_content(&text) {
                Ok(()) => return Ok(Some((text, hash))),
                Err(message) => format!("its content {message}"),
            },
        };
        self.keep(path, &refused, notes);
        Ok(None)
    }

    /// Leaves a file where it is that the store cannot have, and tells of it once.
    fn keep(&mut self, path: &str, reason: &str, notes: &mut Vec<String>) {
        if self.base.kept.insert(path.to_owned(), reason.to_owned()).as_deref() != Some(reason) {
            notes.push(format!(
                "{} was not stored: {reason}. The file stays where it is, in this session only.",
                self.shown(path)
            ));
        }
    }

    /// Tells once of what is there and is no file.
    fn tell_of_skipped(&mut self, listing: &Listing, notes: &mut Vec<String>) {
        let prefix = format!("{}/", self.slug);
        let skipped: Vec<&str> = listing.skipped.iter().filter_map(|text| text.strip_prefix(&prefix)).collect();
        self.base.kept.retain(|key, text| !key.ends_with(SKIPPED) || skipped.contains(&text.as_str()));
        for text in skipped {
            let key = format!("{text}{SKIPPED}");
            if self.base.kept.insert(key, text.to_owned()).is_none() {
                notes.push(format!("{}/{text}. It was not stored.", self.shown("")));
            }
        }
    }

    /// Writes changes to the store, as far as it can have them.
    async fn commit(&mut self, target: &Target, changes: Vec<Change>, notes: &mut Vec<String>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes = Arc::new(changes);
        let (workspace, session, store) = (target.workspace.clone(), target.session.clone(), self.store.clone());
        let written = Arc::clone(&changes);
        let commit = move |tx: &mut Tx<'_>| commit(tx, &workspace, &session, &store, &written);
        let Committed { counts, outcomes } = target.app.db.write(commit).await?;
        if let Some((before, after)) = counts
            && self.base.seen == Some(before)
        {
            self.base.seen = Some(after);
        }
        for (change, outcome) in changes.iter().zip(outcomes) {
            self.settle(change, &outcome, notes);
        }
        self.save(target).await;
        Ok(())
    }

    /// Notes what became of a change.
    fn settle(&mut self, change: &Change, outcome: &Outcome, notes: &mut Vec<String>) {
        let Change { path, content, .. } = change;
        let shown = self.shown(path);
        match outcome {
            Outcome::Stored => {}
            Outcome::Restored => notes.push(format!(
                "{shown} had been deleted in the store by somebody else while you changed it. It is there again, with your content."
            )),
            Outcome::Beside(beside) => {
                notes.push(format!(
                    "{shown} was changed in the store by somebody else while you changed it. Your version is kept as {}; {shown} \
                     will have the other one. Read both, write what holds, and delete the file that you do not need.",
                    self.shown(beside)
                ));
            }
            Outcome::NotDeleted => {
                notes.push(format!(
                    "{shown} was not deleted: somebody else changed it in the store meanwhile. It will be there again."
                ));
            }
            Outcome::Refused(reason) => return self.keep(path, reason, notes),
        }
        self.base.kept.remove(path);
        // What the folder has now; where the store has something else, that is what brings the folder up to date.
        match content {
            Some((_, hash)) => drop(self.base.files.insert(path.clone(), hash.clone())),
            None => drop(self.base.files.remove(path)),
        }
        if matches!(outcome, Outcome::Beside(_) | Outcome::NotDeleted) {
            self.base.seen = None;
        }
    }

    /// Makes the folder what the store is, but for files that are kept.
    async fn bring_up_to_date(&mut self, target: &Target, notes: &mut Vec<String>) -> Result<(), Failure> {
        let (workspace, store) = (target.workspace.clone(), self.store.clone());
        let read = move |tx: &mut Tx<'_>| {
            let count = write::changes(tx, &workspace, store.as_ref())?;
            Ok((count, write::heads(tx, store.as_ref())?))
        };
        let (Some(count), heads) = target.app.db.read(read).await.map_err(|error| unreadable(&error))? else {
            return Ok(());
        };
        let backend = target.app.sandboxes.backend();
        let session = target.session.as_ref();
        if self.base.files.is_empty() {
            let made = backend.make_folder(session, self.area(), &self.slug).await;
            made.map_err(|error| unwritable(&error))?;
        }
        let mut is_whole = true;
        let there: BTreeSet<&str> = heads.iter().map(|head| head.path.as_str()).collect();
        let gone: Vec<String> = self.base.files.keys().filter(|path| !there.contains(path.as_str())).cloned().collect();
        for path in gone.iter().filter(|path| !self.base.kept.contains_key(*path)) {
            let place = self.place(path);
            match backend.remove_file(session, self.area(), &place).await {
                Ok(()) => drop(self.base.files.remove(path)),
                Err(error) => {
                    is_whole = false;
                    notes.push(format!("{} could not be deleted: {}.", self.shown(path), error.for_client()));
                }
            }
        }
        let is_new = |head: &Head| self.base.files.get(&head.path) != Some(&head.content_sha256);
        let new: Vec<&Head> =
            heads.iter().filter(|head| is_new(head) && !self.base.kept.contains_key(&head.path)).collect();
        for heads in new.chunks(BATCH) {
            let versions: Vec<MemoryVersionId> = heads.iter().map(|head| head.version_id.clone()).collect();
            let read = move |tx: &mut Tx<'_>| write::contents(tx, &versions);
            let contents = target.app.db.read(read).await.map_err(|error| unreadable(&error))?;
            for (head, content) in heads.iter().zip(contents) {
                let Some(content) = content else {
                    // It was changed again in this moment.
                    is_whole = false;
                    continue;
                };
                let put = backend.put(session, self.area(), &self.place(&head.path), content.into_bytes()).await;
                match put {
                    Ok(()) => {
                        self.unplaced.remove(&head.path);
                        self.base.files.insert(head.path.clone(), head.content_sha256.clone());
                    }
                    Err(error) => {
                        is_whole = false;
                        let reason = format!("what the store has there could not be put there: {}", error.for_client());
                        if self.unplaced.insert(head.path.clone(), reason.clone()).as_ref() != Some(&reason) {
                            tracing::warn!(session_id = %target.session, %error, "a memory is not in its folder");
                            notes.push(format!("{}: {reason}.", self.shown(&head.path)));
                        }
                    }
                }
            }
        }
        self.base.seen = is_whole.then_some(count);
        self.save(target).await;
        Ok(())
    }
}

/// Contents that are read together: no more than these can have.
const BATCH: usize = MEMORY_BATCH_BYTES / MAX_CONTENT_BYTES;

/// Ends the key of something that is told of and is no file; no path has it.
const SKIPPED: char = '\0';

/// Whether a listing has skipped what is at `path`, or a folder above it.
fn is_skipped(listing: &Listing, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    let names: Vec<String> = ends.map(|end| format!("{}: ", &path[..end])).collect();
    listing.skipped.iter().any(|skipped| names.iter().any(|name| skipped.starts_with(name)))
}

fn unwritable(error: &rota_sandbox::Error) -> Failure {
    Failure {
        message: format!("the memory stores of the session could not be put into its sandbox: {}", error.for_client()),
        is_passing: error.is_passing(),
    }
}

struct Committed {
    /// The store's count of changes before and after; `None` when the store is gone.
    counts: Option<(i64, i64)>,
    /// One for each change.
    outcomes: Vec<Outcome>,
}

/// Writes the changes of a session's agent.
fn commit(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    store: &MemoryStoreId,
    changes: &[Change],
) -> Result<Committed> {
    let all = |reason: &str| changes.iter().map(|_| Outcome::Refused(reason.to_owned())).collect();
    let Some(mut writing) = Writing::find(tx, workspace, store.as_ref())? else {
        return Ok(Committed { counts: None, outcomes: all("its memory store was deleted") });
    };
    let before = writing.changes;
    let outcomes = if writing.archived {
        all("its memory store is archived, and takes no changes")
    } else {
        let actor = Actor::Session { session_id: session.clone() };
        let each = changes.iter().map(|change| apply(tx, &mut writing, &actor, change));
        each.collect::<Result<Vec<_>>>()?
    };
    Ok(Committed { counts: Some((before, writing.changes)), outcomes })
}

fn apply(tx: &mut Tx<'_>, writing: &mut Writing, actor: &Actor, change: &Change) -> Result<Outcome> {
    let Change { path, content, base } = change;
    let head = writing.at(tx, path)?;
    let Some((content, hash)) = content else {
        return Ok(match head {
            None => Outcome::Stored,
            Some(head) if Some(&head.content_sha256) == base.as_ref() => {
                writing.delete(tx, actor, &head)?;
                Outcome::Stored
            }
            Some(_) => Outcome::NotDeleted,
        });
    };
    match head {
        None => {
            let stored = if base.is_some() { Outcome::Restored } else { Outcome::Stored };
            refusable(writing.create(tx, actor, path, content).map(|_| stored))
        }
        Some(head) if head.content_sha256 == *hash => Ok(Outcome::Stored),
        Some(head) if Some(&head.content_sha256) == base.as_ref() => {
            writing.update(tx, actor, &head, None, Some(content))?;
            Ok(Outcome::Stored)
        }
        Some(_) => {
            // The same content twice is kept once.
            let beside = format!("{path}.conflict-{}", &hash[..8]);
            if writing.at(tx, &beside)?.is_some_and(|kept| kept.content_sha256 == *hash) {
                return Ok(Outcome::Beside(beside));
            }
            let why = |reason: String| {
                Outcome::Refused(format!(
                    "somebody else changed it in the store, and it cannot be kept beside that: {reason}"
                ))
            };
            if let Err(message) = check_path(&beside) {
                return Ok(why(format!("the path `{beside}` {message}")));
            }
            Ok(match refusable(writing.create(tx, actor, &beside, content).map(|_| Outcome::Beside(beside)))? {
                Outcome::Refused(reason) => why(reason),
                kept => kept,
            })
        }
    }
}

/// What a caller would be told as an error, as an outcome.
fn refusable(outcome: Result<Outcome>) -> Result<Outcome> {
    match outcome {
        Err(error @ (Error::Invalid(_) | Error::MemoryPathConflict { .. })) => Ok(Outcome::Refused(error.to_string())),
        outcome => outcome,
    }
}
