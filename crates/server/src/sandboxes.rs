//! The sandboxes of the sessions that run here: opened when a tool needs one, ended when they have been idle for long or when
//! another one needs the room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::join_all;
use rota_api::id::{Id, SessionId, WorkspaceId};
use rota_sandbox::{Embedded, Error, Sandbox, Setup, ToolCall, ToolOutput};

use crate::{clock::Stopwatch, limits::SANDBOX_IDLE, places::Places};

/// The sandboxes of this process.
pub struct Sandboxes {
    backend: Arc<Embedded>,
    /// Each call holds a place. Those that no call holds are for sandboxes that are idle.
    places: Arc<Places>,
    /// Sessions whose sandbox is up and in no call, and for how long.
    idle: Mutex<HashMap<SessionId, Stopwatch>>,
}

impl Sandboxes {
    /// Sandboxes of `backend`, of which at most `places` are up at the same time.
    pub fn new(backend: Arc<Embedded>, places: usize) -> Self {
        Self { backend, places: Places::new(places), idle: Mutex::default() }
    }

    /// The backend, for what concerns all sandboxes.
    pub fn backend(&self) -> &Arc<Embedded> {
        &self.backend
    }

    /// Runs tools in the sandbox of a session, side by side, as soon as there is a place for `workspace`; a new sandbox has `setup`,
    /// which is asked for then only, and before the tools run the sandbox is shown to `opened`. The answers are in the order of
    /// the tools. Dropping the future interrupts them.
    ///
    /// # Errors
    /// The outer one is that of `setup`, the next one that of a sandbox that could not be started.
    pub async fn call<E>(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        tools: &[(&str, &ToolCall)],
        setup: impl Future<Output = Result<Setup, E>>,
        opened: impl FnOnce(&Sandbox),
    ) -> Result<Result<Vec<Result<ToolOutput, Error>>, Error>, E> {
        // Dropped after all that follows: the sandbox is idle before its place is another's.
        let _place = self.places.take(workspace).await;
        self.idle().remove(session);
        let _busy = Busy { sandboxes: self, session };
        self.make_room().await;
        let sandbox = match self.backend.running(session.as_ref()).await {
            Some(sandbox) => Ok(sandbox),
            None => self.backend.open_with(session.as_ref(), setup.await?).await,
        };
        Ok(match sandbox {
            Ok(sandbox) => {
                opened(&sandbox);
                Ok(join_all(tools.iter().map(|(call, tool)| sandbox.call(call, tool))).await)
            }
            Err(error) => Err(error),
        })
    }

    /// Ends idle sandboxes, the longest idle first, until all that are up have a place.
    async fn make_room(&self) {
        while let Some(session) = self.surplus() {
            self.backend.stop_unused(session.as_ref()).await;
        }
    }

    fn surplus(&self) -> Option<SessionId> {
        let mut idle = self.idle();
        if idle.len() <= self.places.free() {
            return None;
        }
        let longest = idle.iter().max_by(|a, b| a.1.seconds().total_cmp(&b.1.seconds()))?.0.clone();
        idle.remove(&longest);
        Some(longest)
    }

    /// Ends the sandboxes that have been idle for long. Their files stay.
    pub async fn tidy(&self) {
        let is_over = |since: &Stopwatch| since.seconds() >= SANDBOX_IDLE.as_secs_f64();
        let over: Vec<SessionId> =
            self.idle().extract_if(|_, since| is_over(since)).map(|(session, _)| session).collect();
        for session in over {
            self.backend.stop_unused(session.as_ref()).await;
        }
    }

    /// Ends the sandboxes that are in no call, whatever runs in them in the background. Their files stay.
    pub async fn end_idle(&self) {
        let idle: Vec<SessionId> = self.idle().drain().map(|(session, _)| session).collect();
        for session in idle {
            self.backend.stop_unused(session.as_ref()).await;
        }
    }

    /// Ends the sandbox of a session, whatever runs in it. Its files stay.
    pub async fn end(&self, session: &SessionId) {
        self.idle().remove(session);
        self.backend.stop(session.as_ref()).await;
    }

    /// Ends the sandbox of a session that is gone and deletes its files. Whether they are gone.
    pub async fn remove(&self, session: &str) -> bool {
        self.idle().remove(&SessionId::trusted(session.to_owned()));
        let removed = self.backend.remove(session).await;
        removed
            .inspect_err(|error| {
                tracing::error!(session, %error, "the files of a deleted session remain; the next start tries again");
            })
            .is_ok()
    }

    /// The same, if that `is_to_be` when nobody can open the sandbox. Otherwise everything stays as it is.
    pub async fn remove_if(&self, session: &str, is_to_be: impl Future<Output = bool> + Send + 'static) {
        match self.backend.remove_if(session, is_to_be).await {
            Ok(true) => drop(self.idle().remove(&SessionId::trusted(session.to_owned()))),
            Ok(false) => {}
            Err(error) => tracing::error!(session, %error, "files that are not needed remain; they are tried again"),
        }
    }

    /// Ends the sandbox of a session that the store does not know, and sets its files aside.
    pub async fn set_aside(&self, session: &str, at: i64) -> Result<(), Error> {
        self.idle().remove(&SessionId::trusted(session.to_owned()));
        self.backend.set_aside(session, at).await
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
