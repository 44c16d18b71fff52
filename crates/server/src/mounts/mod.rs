//! What the sandbox of a session is given, and what is taken from it: one file for each kind.
//!
//! The engine calls this room at three moments, each in one place: before a call of a tool ([`Mounts::before_call`]), after it
//! ([`Mounts::after_call`]) and before the session comes to rest ([`Mounts::before_rest`]). A fourth one is within the
//! transaction in which it does ([`comes_to_rest`]), for what is to be done later.
//!
//! Another kind is a file here with a struct that remembers what it has done so far, a field of [`Mounts`], and a line in
//! those of the functions that concern it. The struct is as old as the runner: another runner, or another server, may have
//! gone before it, so what it finds in the sandbox is compared and not taken for granted. Files of a session are reached
//! through [`rota_sandbox::Embedded`] and in no other way.

mod memory;
pub mod outputs;
mod skills;
mod uploads;

use rota_api::id::{SessionId, WorkspaceId};

use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    resources::memory_stores::attach,
};
use memory::Memory;
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
}

impl Mounts {
    /// Of a session that a runner takes up.
    pub fn new(target: Target) -> Self {
        Self { uploads: Uploads::default(), memory: Memory::new(target.clone()), skills: Skills::default(), target }
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
        self.memory.notes()
    }

    /// Takes up what was changed since the last call: by what it left running. Clients do not see the session at rest before.
    pub async fn before_rest(&mut self) {
        self.memory.take_up().await;
    }
}

/// Notes what is to be done for a session that comes to rest with this transaction, and has files on this server.
pub fn comes_to_rest(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    outputs::comes_to_rest(tx, workspace, session)
}

/// What the agent of a session is told of its mounts, behind its own system prompt. `resources` are the session's, as JSON. A
/// worker mounts memory stores and nothing else.
pub fn prompt(resources: &str, self_hosted: bool) -> Result<Option<String>> {
    let uploads = if self_hosted { None } else { uploads::prompt(resources)? };
    let told: Vec<String> = [uploads, attach::prompt(resources, self_hosted)?].into_iter().flatten().collect();
    Ok((!told.is_empty()).then(|| told.join("\n\n")))
}
