//! Repositories: cloned before the model is first asked, and put below `/workspace` whole.
//!
//! That one is there is a row. When a server dies between putting it there and that row, the row says that it was about to:
//! what has the place then is the clone. From then on it is the agent's, as all of `/workspace`.

use rota_api::{
    event::{RetryStatus, SessionError},
    id::SessionResourceId,
};
use rota_sandbox::{Area, NewTree};
use tokio::{pin, time::sleep};

use super::Target;
use crate::{
    backoff::Backoff,
    db::Tx,
    error::{Error, Result},
    git::{Cloned, Failure, Wanted},
    limits::{
        CLONE_RETRY_FIRST, CLONE_RETRY_MAX, CLONE_TRIES, MAX_FRONT_MATTER_BYTES, MAX_REPOSITORY_SKILLS,
        MAX_SKILL_FOLDERS,
    },
    resources::{
        repositories::{self, SessionRepository},
        skills::{self, FoundSkill, MANIFEST},
    },
};

/// What a runner knows of its session's repositories.
pub(super) struct Repositories {
    all: Vec<Known>,
    /// What the log is to say before the rows do.
    untold: Vec<(SessionResourceId, String)>,
}

struct Known {
    repository: SessionRepository,
    is_there: bool,
    /// Whether this runner has tried.
    is_tried: bool,
}

/// Why a repository is not in its place.
enum NotThere {
    Failure(Failure),
    /// The session has it no more.
    Removed,
    /// The store does not answer.
    Store(Error),
}

impl From<Error> for NotThere {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for NotThere {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<rota_sandbox::Error> for NotThere {
    fn from(error: rota_sandbox::Error) -> Self {
        tracing::warn!(%error, "a repository could not be put in place");
        let reason = format!("it could not be put in its place: {}", error.for_client());
        Self::Failure(Failure::Clone { reason, is_passing: error.is_passing() })
    }
}

impl Known {
    fn lacks(&self, begins_turn: bool) -> bool {
        !self.is_there && !self.is_tried && (begins_turn || self.repository.failure.is_none())
    }
}

impl Repositories {
    pub(super) fn new(target: &Target, all: Vec<SessionRepository>) -> Self {
        let known = |repository: SessionRepository| {
            let is_there = repository.placed_on.as_ref() == Some(&target.app.node);
            Known { repository, is_there, is_tried: false }
        };
        Self { all: all.into_iter().map(known).collect(), untold: Vec::new() }
    }

    pub(super) fn lack(&self, begins_turn: bool) -> bool {
        self.all.iter().any(|known| known.lacks(begins_turn))
    }

    /// Clones those that are missing, one after the other, as they are now: with another token perhaps, or no more.
    pub(super) async fn bring(&mut self, target: &Target, begins_turn: bool) -> Result<Vec<SessionError>> {
        let (workspace, session) = (target.workspace.clone(), target.session.clone());
        let rows = target.app.db.read(move |tx| repositories::of_session(tx, &workspace, &session)).await?;
        let tried =
            |id: &SessionResourceId| self.all.iter().any(|known| known.is_tried && known.repository.resource == *id);
        let mut new = Self::new(target, rows);
        for known in &mut new.all {
            known.is_tried = tried(&known.repository.resource);
        }
        self.all = new.all;
        let time = target.app.git.time();
        let over = sleep(time);
        pin!(over);
        let mut errors = Vec::new();
        for known in self.all.iter_mut().filter(|known| known.lacks(begins_turn)) {
            let placed = tokio::select! {
                placed = place(target, &known.repository) => placed,
                () = &mut over => Err(NotThere::Failure(Failure::too_slow(time))),
            };
            let failure = match placed {
                Ok(()) => {
                    known.is_there = true;
                    known.repository.failure = None;
                    continue;
                }
                Err(NotThere::Removed) => {
                    known.is_tried = true;
                    continue;
                }
                Err(NotThere::Store(error)) => return Err(error),
                Err(NotThere::Failure(failure)) => failure,
            };
            known.is_tried = true;
            known.repository.failure = Some(failure.to_string());
            let SessionRepository { resource, url, .. } = &known.repository;
            tracing::warn!(session_id = %target.session, repository = url, %failure, "a repository is not there");
            let message = format!(
                "the repository {url} could not be cloned: {failure}. The session goes on without {}; the next turn tries again",
                known.repository.mount_path()
            );
            self.untold.push((resource.clone(), failure.to_string()));
            let repository_url = Some(url.clone());
            let retry_status = RetryStatus::Retrying;
            let error = SessionError::new(failure.kind(), message, retry_status);
            errors.push(SessionError { repository_url, ..error });
        }
        Ok(errors)
    }

    pub(super) async fn failures_are_told(&mut self, target: &Target) -> Result<()> {
        let (session, untold) = (target.session.clone(), std::mem::take(&mut self.untold));
        let note = move |tx: &mut Tx<'_>| {
            untold.iter().try_for_each(|(resource, failure)| repositories::has_failed(tx, &session, resource, failure))
        };
        target.app.db.write(note).await
    }

    /// Those of the session, and what is known of each.
    pub(super) fn all(&self) -> Vec<&SessionRepository> {
        self.all.iter().map(|known| &known.repository).collect()
    }
}

/// Puts a repository in its place.
async fn place(target: &Target, repository: &SessionRepository) -> Result<(), NotThere> {
    let Target { app, workspace, session } = target;
    let key = app.vault.key(&app.db, workspace).await?;
    let wanted =
        Wanted { url: repository.url.clone(), checkout: repository.checkout.clone(), token: repository.token(&key)? };
    let Cloned { tree, commit } = cloned(target, &wanted).await?;
    let path = format!("{}/{SKILLS}", repository.mount_path());
    let looking = tokio::task::spawn_blocking(move || {
        let found = discover(&tree, &path);
        (tree, found)
    });
    let (tree, (found, skipped)) = looking.await.map_err(Error::internal)?;
    let (of, resource, node) = (session.clone(), repository.resource.clone(), app.node.clone());
    if !app.db.write(move |tx| repositories::is_placing(tx, &of, &resource, &node)).await? {
        return Err(NotThere::Removed);
    }
    let backend = app.sandboxes.backend();
    let placed = backend.place_tree(session.as_ref(), Area::Workspace, &repository.path, tree).await?;
    if !placed && repository.placing_on.as_ref() != Some(&app.node) {
        let (of, resource) = (session.clone(), repository.resource.clone());
        app.db.write(move |tx| repositories::is_not_placed(tx, &of, &resource)).await?;
        let reason = format!("something else is at {} already", repository.mount_path());
        return Err(Failure::Clone { reason, is_passing: false }.into());
    }
    let (of, resource, node) = (session.clone(), repository.resource.clone(), app.node.clone());
    let note = move |tx: &mut Tx<'_>| {
        let mut skipped = skipped.clone();
        let without = skills::keep_found(tx, &of, resource.as_ref(), &found)?;
        if without > 0 {
            skipped.push(format!("{without} more than a session can have"));
        }
        repositories::is_placed(tx, &of, &resource, &node, (commit.as_deref(), &skipped))
    };
    app.db.write(note).await?;
    Ok(())
}

/// Clones a repository. What may be gone a moment later is tried again.
async fn cloned(target: &Target, wanted: &Wanted) -> Result<Cloned, Failure> {
    let Target { app, workspace, session } = target;
    let backoff = Backoff::doubling(CLONE_RETRY_FIRST, CLONE_RETRY_MAX);
    let mut failures = 0;
    loop {
        match app.git.clone(app.sandboxes.backend(), workspace, wanted.clone()).await {
            Err(failure) if failure.is_passing() && failures + 1 < CLONE_TRIES => {
                failures += 1;
                tracing::info!(session_id = %session, repository = wanted.url, %failure, "a clone is tried again");
                sleep(backoff.pause(failures)).await;
            }
            ended => return ended,
        }
    }
}

/// Where a repository has skills.
const SKILLS: &str = ".claude/skills";

/// The skills of a clone that is to be at `path`'s folder, and which are passed over, with the reason.
fn discover(tree: &NewTree, path: &str) -> (Vec<FoundSkill>, Vec<String>) {
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    let folders = match tree.folders(SKILLS, MAX_SKILL_FOLDERS) {
        Ok(folders) => folders,
        Err(error) => return (found, vec![format!("{path}: {error}")]),
    };
    let mut further = 0;
    for folder in folders {
        match described(tree, &folder) {
            Ok((name, description)) if found.len() < MAX_REPOSITORY_SKILLS => {
                found.push(FoundSkill { name, description, path: format!("{path}/{folder}") });
            }
            Err(reason) if skipped.len() < MAX_REPOSITORY_SKILLS => {
                skipped.push(format!("{path}/{folder}/{MANIFEST}: {reason}"));
            }
            _ => further += 1,
        }
    }
    if further > 0 {
        skipped
            .push(format!("{path}: {further} further ones; a repository has at most {MAX_REPOSITORY_SKILLS} skills"));
    }
    (found, skipped)
}

fn described(tree: &NewTree, folder: &str) -> Result<(String, String), String> {
    let read = tree.read(&format!("{SKILLS}/{folder}/{MANIFEST}"), MAX_FRONT_MATTER_BYTES as u64 + 1024);
    let Some(manifest) = read.map_err(|error| error.to_string())? else { return Err("there is none".to_owned()) };
    skills::described(folder, &String::from_utf8_lossy(&manifest))
}
