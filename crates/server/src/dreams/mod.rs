//! The work of dreams: each reads its sessions one after the other, part by part, and has a model change its memory store.
//!
//! What a part has led to is written as the model calls for it; how far the dream has read is written after each part. A
//! worker that ends in between leaves the part to be read again.

mod conversation;
mod tools;
mod transcript;

use std::time::Duration;

use rota_api::id::MemoryStoreId;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    app::App,
    backoff::Backoff,
    error::{Error, Result},
    limits::{self, DREAM_MICROS, DREAM_TRIES},
    resources::dreams::work::{self, Claim, Failure},
    telemetry,
};

pub use work::release_all_of;

const PAUSES: Backoff = Backoff::doubling(limits::DREAM_RETRY_FIRST, limits::DREAM_RETRY_MAX);

/// Works on dreams until the server stops.
pub async fn run(app: App) {
    let mut at_work = JoinSet::new();
    while !app.is_stopping() {
        let claimed = if at_work.len() < limits::DREAMS_AT_ONCE && !app.brake.is_draining() {
            let node = app.node.clone();
            app.db.write(move |tx| work::claim(tx, &node)).await
        } else {
            Ok(None)
        };
        match claimed {
            Ok(Some(claim)) => {
                at_work.spawn(work_on(app.clone(), claim));
                // There may be another.
                continue;
            }
            Err(error) if telemetry::may_tell("dreams that are due") => {
                tracing::error!(%error, "no dream could be taken up");
            }
            Ok(None) | Err(_) => {}
        }
        tokio::select! {
            Some(_) = at_work.join_next() => {}
            () = sleep(limits::DREAM_POLL) => {}
            () = app.stopping() => {}
        }
    }
    // Each ends by itself when the server stops.
    while at_work.join_next().await.is_some() {}
}

/// Why a worker leaves a dream before it has read everything.
#[derive(Debug)]
enum Left {
    /// It was canceled, or another worker has it.
    Lost,
    /// The server stops.
    Stopping,
    /// It cannot go on.
    Failed(Failure),
    /// It may go on later; the pause that was asked for.
    Later(Failure, Duration),
}

impl From<Error> for Left {
    fn from(error: Error) -> Self {
        tracing::warn!(%error, "a dream could not go on");
        Self::Later(Failure::new("internal_error", "the server could not go on; its log says why"), Duration::ZERO)
    }
}

impl From<Failure> for Left {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Works on one dream until it has ended, or has to wait.
async fn work_on(app: App, claim: Claim) {
    let left = tokio::select! {
        left = dream(&app, &claim) => left,
        () = lost(&app, &claim) => Err(Left::Lost),
        () = app.stopping() => Err(Left::Stopping),
        () = app.brake.halted() => Err(Left::Stopping),
    };
    let (id, failures) = (claim.id.clone(), claim.failures);
    let recorded = match left {
        Ok(()) => app.db.write(move |tx| claim.end(tx, None)).await,
        Err(Left::Lost) => Ok(()),
        Err(Left::Stopping) => app.db.write(move |tx| claim.release(tx, 0, false)).await,
        Err(Left::Failed(why)) => app.db.write(move |tx| claim.end(tx, Some(&why))).await,
        Err(Left::Later(why, _)) if failures >= DREAM_TRIES => app.db.write(move |tx| claim.end(tx, Some(&why))).await,
        Err(Left::Later(_, asked)) => {
            let pause = PAUSES.pause(failures).max(asked.min(limits::DREAM_RETRY_MAX)).as_micros() as i64;
            app.db.write(move |tx| claim.release(tx, pause, true)).await
        }
    };
    if let Err(error) = recorded {
        // Its lease runs out, and it is taken up again.
        tracing::warn!(dream = %id, %error, "what became of a dream could not be written");
    }
}

/// Returns when the dream is this worker's no more: it is not to wait for a model's answer then.
async fn lost(app: &App, claim: &Claim) {
    loop {
        sleep(limits::INTERRUPT_POLL).await;
        let held = claim.clone();
        if matches!(app.db.read(move |tx| held.is_current(tx)).await, Ok(false)) {
            return;
        }
    }
}

/// That the dream has not gone on for too long.
fn check_time(app: &App, claim: &Claim) -> Result<(), Left> {
    if app.clock.now() < claim.started_at.plus_micros(DREAM_MICROS) {
        return Ok(());
    }
    let hours = DREAM_MICROS / 3_600_000_000;
    Err(Failure::new("timeout", format!("the dream had not ended {hours} hours after it began")).into())
}

async fn dream(app: &App, claim: &Claim) -> Result<(), Left> {
    if claim.failures > DREAM_TRIES {
        let message = format!("the dream was begun {DREAM_TRIES} times and came no further");
        return Err(Failure::new("internal_error", message).into());
    }
    check_time(app, claim)?;
    let begun = claim.clone();
    let output = app.db.write(move |tx| begun.begin(tx)).await?.ok_or(Left::Lost)??;
    if !claim.is_copied {
        copy(app, claim, &output).await?;
    }
    let (mut after, mut part) = (claim.after_seq, claim.part);
    for place in claim.place..claim.sessions.len() {
        loop {
            check_time(app, claim)?;
            let session = claim.sessions[place].clone();
            let workspace = claim.workspace.clone();
            let read = app.db.read(move |tx| {
                let known = work::has_session(tx, &workspace, &session)?;
                if known { transcript::read(tx, &session, after).map(Some) } else { Ok(None) }
            });
            let Some(read) = read.await? else {
                let message = format!("session {} was deleted while the dream was under way", claim.sessions[place]);
                return Err(Failure::new("session_unavailable", message).into());
            };
            if !read.text.is_empty() {
                conversation::hold(app, claim, &output, &claim.sessions[place], part, &read.text).await?;
            }
            let next = if read.more { (place, read.last, part + 1) } else { (place + 1, 0, 1) };
            let held = claim.clone();
            if !app.db.write(move |tx| held.advance(tx, next.0, next.1, next.2)).await? {
                return Err(Left::Lost);
            }
            (after, part) = (next.1, next.2);
            if !read.more {
                break;
            }
        }
    }
    Ok(())
}

/// Copies the store that is read into the one that is written.
async fn copy(app: &App, claim: &Claim, output: &MemoryStoreId) -> Result<(), Left> {
    loop {
        let (held, output) = (claim.clone(), output.clone());
        if !app.db.write(move |tx| held.copy(tx, &output)).await?.ok_or(Left::Lost)?? {
            return Ok(());
        }
    }
}
