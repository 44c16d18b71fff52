//! The sandboxes of the sessions that run here: opened when a tool needs one, ended when they have been idle for long or
//! when there are too many.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rota_api::id::SessionId;
use rota_sandbox::{Embedded, Error, Sandbox, ToolCall, ToolOutput};

use crate::{clock::Stopwatch, limits::SANDBOX_IDLE};

/// The sandboxes of this process.
pub struct Sandboxes {
    backend: Embedded,
    // Sessions whose sandbox is up and in no call, and for how long.
    idle: Mutex<HashMap<SessionId, Stopwatch>>,
}

impl Sandboxes {
    /// Sandboxes of `backend`.
    pub fn new(backend: Embedded) -> Self {
        Self { backend, idle: Mutex::default() }
    }

    /// The backend, for what concerns all sandboxes.
    pub fn backend(&self) -> &Embedded {
        &self.backend
    }

    /// Runs a tool in the sandbox of a session. Dropping the future interrupts the tool.
    pub async fn call(&self, session: &SessionId, call: &str, tool: &ToolCall) -> Result<ToolOutput, Error> {
        self.idle().remove(session);
        let _busy = Busy { sandboxes: self, session };
        let sandbox: Sandbox = self.backend.open(session.as_ref()).await?;
        sandbox.call(call, tool).await
    }

    /// Ends the sandboxes that nobody needs now. Their files stay.
    pub async fn tidy(&self) {
        for session in self.superfluous() {
            self.backend.stop(session.as_ref()).await;
        }
    }

    fn superfluous(&self) -> Vec<SessionId> {
        let mut idle = self.idle();
        let mut by_age: Vec<(f64, SessionId)> = idle.iter().map(|(id, since)| (since.seconds(), id.clone())).collect();
        by_age.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ends: Vec<SessionId> = by_age
            .into_iter()
            .enumerate()
            .filter(|(i, (age, _))| *i >= 64 || *age >= SANDBOX_IDLE.as_secs_f64())
            .map(|(_, (_, id))| id)
            .collect();
        for id in &ends {
            idle.remove(id);
        }
        ends
    }

    /// Ends the sandbox of a session that is gone and deletes its files.
    pub async fn remove(&self, session: &str) {
        self.idle().remove(&rota_api::id::Id::trusted(session.to_owned()));
        if let Err(error) = self.backend.remove(session).await {
            tracing::error!(session, %error, "the files of a deleted session remain; the next start tries again");
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<SessionId, Stopwatch>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of a session is under way; when it ends, or its future is dropped, the sandbox is idle.
struct Busy<'a> {
    sandboxes: &'a Sandboxes,
    session: &'a SessionId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.sandboxes.idle().insert(self.session.clone(), Stopwatch::start());
    }
}
