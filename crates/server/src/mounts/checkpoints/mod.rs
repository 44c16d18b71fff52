//! Checkpoints: the files of a session at rest, in the place of blobs, for the server that takes it over.
//!
//! That a session came to rest after a change is a row, written in the transaction of the rest; the server that has the files
//! takes the checkpoint after that. What is in it is said by [`rota_sandbox::SessionFiles`]: all that the agent may write. Uploads
//! and memory stores are brought anew; skills and clones are the agent's to change once they are there, so they are in it, and
//! content that is a file of the session already, as an output is, is shared with that.
//!
//! A session is not held up: a checkpoint is the session's only if no runner has taken the session up since it was begun, and is
//! given up otherwise. What background processes write meanwhile is read once more, and then as it is.

mod manifest;
mod restore;
mod take;

pub use restore::{Fetched, Unfetched, fetch, place};

use std::collections::HashSet;

use futures_util::{StreamExt, stream::FuturesUnordered};
use rota_api::id::{SessionId, WorkspaceId};
use tokio::time::{sleep, timeout};

use crate::{
    app::App,
    backoff::Backoff,
    clock::Stopwatch,
    db::{Tx, vals},
    error::{Error, Result},
    limits::{CHECKPOINT_POLL, CHECKPOINT_RETRY_FIRST, CHECKPOINT_RETRY_MAX, CHECKPOINT_TIMEOUT, CHECKPOINTS_AT_ONCE},
    resources::checkpoints::{self, Due, Next, Placed},
    telemetry,
};
use take::Ended;

/// Takes the checkpoints of sessions whose files are here, until the server stops.
pub async fn run(app: App) {
    if !app.config.sandbox.checkpoints {
        return;
    }
    let mut under_way = FuturesUnordered::new();
    let mut busy = HashSet::new();
    loop {
        if under_way.len() < CHECKPOINTS_AT_ONCE {
            let (node, most) = (app.node.clone(), (CHECKPOINTS_AT_ONCE + busy.len()) as i64);
            match app.db.read(move |tx| checkpoints::due(tx, &node, most)).await {
                Ok(due) => {
                    for due in due {
                        if under_way.len() < CHECKPOINTS_AT_ONCE && busy.insert(due.session.clone()) {
                            under_way.push(take(&app, due));
                        }
                    }
                }
                Err(error) if telemetry::may_tell("checkpoints") => {
                    tracing::error!(%error, "checkpoints that are due could not be looked for");
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            Some(session) = under_way.next(), if !under_way.is_empty() => {
                busy.remove(&session);
            }
            () = sleep(CHECKPOINT_POLL) => {}
            () = app.stopping() => return,
        }
    }
}

/// Takes a checkpoint and writes what became of it.
async fn take(app: &App, due: Due) -> SessionId {
    let since = Stopwatch::start();
    let taken = timeout(CHECKPOINT_TIMEOUT, take::take(app, &due)).await;
    let pause = Backoff::doubling(CHECKPOINT_RETRY_FIRST, CHECKPOINT_RETRY_MAX);
    let pause = |failures: i64| pause.pause(u32::try_from(failures).unwrap_or(u32::MAX).saturating_add(1));
    let later = |failures| Next::In { micros: pause(failures).as_micros() as i64, failed: failures > 0 };
    let next = match taken {
        Ok(Ok(Ended::Kept)) => {
            tracing::debug!(session_id = %due.session, seconds = since.seconds(), "the files of a session are kept");
            return due.session;
        }
        Ok(Ok(Ended::TooLate | Ended::Again)) => later(0),
        Ok(Ok(Ended::Refused(problem)) | Err(Error::Rejected { message: problem, .. })) => {
            tracing::warn!(session_id = %due.session, problem, "the files of a session are not kept for other servers");
            Next::Never { problem }
        }
        Ok(Err(error)) => {
            tracing::warn!(session_id = %due.session, %error, "the checkpoint of a session is not taken yet");
            later(due.failures + 1)
        }
        Err(_) => {
            let minutes = CHECKPOINT_TIMEOUT.as_secs() / 60;
            tracing::warn!(session_id = %due.session, minutes, "a checkpoint took too long");
            Next::Never { problem: format!("keeping them took longer than {minutes} minutes") }
        }
    };
    let (noted, node) = (due.clone(), app.node.clone());
    if let Err(error) = app.db.write(move |tx| checkpoints::is_not_taken(tx, &noted, &node, &next)).await {
        // It is taken anew at once.
        tracing::debug!(session_id = %due.session, %error, "that a checkpoint was not taken was not noted");
    }
    due.session
}

/// What this server has put among the files of a session by now.
fn placed_here(tx: &mut Tx<'_>, session: &SessionId, node: &str) -> Result<Placed> {
    let skills = "SELECT place FROM session_skills WHERE session_id = $1 AND placed_on = $2 ORDER BY place";
    let skills = tx.all(skills, vals![session, node], |row| row.int(0))?;
    let repositories =
        "SELECT resource_id FROM session_repositories WHERE session_id = $1 AND placed_on = $2 ORDER BY place";
    let repositories = tx.all(repositories, vals![session, node], |row| row.text(0))?;
    Ok(Placed { skills, repositories })
}

/// Notes that the files of a checkpoint are in their place at this server, and with them what another one had put among them.
pub fn is_restored(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    node: &str,
    placed: &Placed,
) -> Result<()> {
    checkpoints::is_restored(tx, workspace, session)?;
    for place in &placed.skills {
        let sql = "UPDATE session_skills SET placed_on = $3 WHERE session_id = $1 AND place = $2";
        tx.send(sql, vals![session, *place, node])?;
    }
    for resource in &placed.repositories {
        let sql = "UPDATE session_repositories SET placed_on = $3 WHERE session_id = $1 AND resource_id = $2";
        tx.send(sql, vals![session, resource.as_str(), node])?;
    }
    Ok(())
}
