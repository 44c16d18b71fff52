//! What the sandbox of a session is given, and what is taken from it: one file for each kind.
//!
//! The engine calls this room at four moments, each in one place: before the model is asked, where a repository is missing
//! ([`Mounts::clone_repositories`]), before a call of a tool ([`Mounts::before_call`]), after it ([`Mounts::after_call`]) and
//! before the session comes to rest ([`Mounts::before_rest`]). A fifth one is within the transaction in which it does
//! ([`comes_to_rest`]), for what is to be done later. Beside them it has the files of a session brought that has moved
//! ([`checkpoints`]), and begins with mounts of its own after that ([`Mounts::start_over`]).
//!
//! Another kind is a file here with a struct that remembers what it has done so far, a field of [`Mounts`], and a line in
//! those of the functions that concern it. The struct is as old as the runner: another runner, or another server, may have
//! gone before it, so what it finds in the sandbox is compared and not taken for granted. Files of a session are reached
//! through [`rota_sandbox::Embedded`] and in no other way.

pub mod checkpoints;
mod memory;
pub mod outputs;
mod repositories;
mod skills;
mod uploads;

use rota_api::{
    event::SessionError,
    id::{SessionId, WorkspaceId},
};

use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    resources::{
        checkpoints::is_due,
        repositories::{SessionRepository, of_session},
    },
};
use memory::Memory;
use repositories::Repositories;
use skills::Skills;
use uploads::Uploads;

/// The session whose sandbox is meant.
#[derive(Clone)]
pub struct Target {
    /// The server.
    pub app: App,
    /// The session's workspace.
    pub workspace: WorkspaceId,
    /// The session.
    pub session: SessionId,
}

/// Why a call cannot be run: something that belongs into the sandbox is not there.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For the agent and for clients: names nothing of the host's.
    pub message: String,
    /// The cause may be gone a moment later.
    pub is_passing: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Overloaded(message) => Self { message: message.to_owned(), is_passing: true },
            Error::Database(_) | Error::Stopping => {
                Self { message: "what is mounted could not be looked up".to_owned(), is_passing: true }
            }
            other => {
                tracing::error!(error = %other, "what is mounted could not be brought into a sandbox");
                Self { message: "a mounted file cannot be read".to_owned(), is_passing: false }
            }
        }
    }
}

impl From<rota_sandbox::Error> for Failure {
    fn from(error: rota_sandbox::Error) -> Self {
        tracing::warn!(%error, "what is mounted could not be put into a sandbox");
        Self { message: error.for_client(), is_passing: error.is_passing() }
    }
}

/// What a runner knows of the mounts of its session.
pub struct Mounts {
    target: Target,
    uploads: Uploads,
    memory: Memory,
    skills: Skills,
    repositories: Repositories,
    /// What the agent is told with the next result.
    notes: Vec<String>,
}

impl Mounts {
    /// Of a session that a runner takes up, and that has these repositories.
    pub fn new(target: Target, repositories: Vec<SessionRepository>) -> Self {
        let memory = Memory::new(target.clone());
        let repositories = Repositories::new(&target, repositories);
        Self { uploads: Uploads::default(), memory, skills: Skills::default(), repositories, notes: Vec::new(), target }
    }

    /// The session whose mounts these are.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Begins anew: the files are others now. `note` is for the agent, behind its next result.
    pub async fn start_over(&mut self, note: Option<String>) -> Result<()> {
        let (workspace, session) = (self.target.workspace.clone(), self.target.session.clone());
        let rows = self.target.app.db.read(move |tx| of_session(tx, &workspace, &session)).await?;
        *self = Self::new(self.target.clone(), rows);
        self.notes.extend(note);
        Ok(())
    }

    /// Whether a repository is not there and is to be cloned now. One that could not be is tried again when a turn begins.
    pub fn lack_repositories(&self, begins_turn: bool) -> bool {
        self.repositories.lack(begins_turn)
    }

    /// Clones the repositories that are not there. Why some still are not; the session goes on without them. An interrupt
    /// drops the future.
    pub async fn clone_repositories(&mut self, begins_turn: bool) -> Result<Vec<SessionError>> {
        self.repositories.bring(&self.target, begins_turn).await
    }

    /// Notes that the log has what [`Self::clone_repositories`] said.
    pub async fn failures_are_told(&mut self) -> Result<()> {
        self.repositories.failures_are_told(&self.target).await
    }

    /// The session's repositories, with what is known of each.
    pub fn repositories(&self) -> Vec<&SessionRepository> {
        self.repositories.all()
    }

    /// Brings what is mounted up to date. An interrupt drops the future.
    pub async fn before_call(&mut self) -> Result<(), Failure> {
        self.uploads.bring(&self.target).await?;
        self.skills.bring(&self.target).await?;
        self.memory.before_call().await
    }

    /// Takes up what a call has changed, also when it was interrupted or the sandbox died over it. What comes back is told to
    /// the agent, behind the call's result.
    pub async fn after_call(&mut self) -> Vec<String> {
        self.memory.take_up().await;
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(self.memory.notes());
        notes
    }

    /// Takes up what was changed since the last call: by what it left running. Clients do not see the session at rest before.
    pub async fn before_rest(&mut self) {
        self.memory.take_up().await;
    }
}

/// Notes what is to be done for a session that comes to rest with this transaction, and has files on this server. `changed` is
/// the last event that may have changed them, where checkpoints are taken.
pub fn comes_to_rest(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    changed: Option<i64>,
) -> Result<()> {
    outputs::comes_to_rest(tx, workspace, session)?;
    changed.map_or(Ok(()), |changed| is_due(tx, workspace, session, changed))
}
