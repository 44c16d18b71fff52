//! Meets the deadlines of sessions that nobody watches, and pauses deployments that have failed too often.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::time::sleep;

use crate::{
    app::App,
    error::{Error, Result},
    limits::{
        DEADLINES_BATCH, DEADLINES_IN_FLIGHT, DEADLINES_POLL, DEADLINES_SWEEP_EVERY, DEADLINES_TAKEN, PAUSES_AT_ONCE,
    },
    resources::deployments::{
        deadlines::{self, Done, Due},
        failures,
    },
    telemetry,
};

/// Meets deadlines until the server stops.
pub async fn run(app: App) {
    let mut swept: Option<Instant> = None;
    while !app.is_stopping() {
        let sweeps = swept.is_none_or(|at| at.elapsed() >= DEADLINES_SWEEP_EVERY);
        let looked = if sweeps { meet_all(&app).await } else { meet_due(&app).await };
        match looked {
            Ok(()) if sweeps => swept = Some(Instant::now()),
            Ok(()) => {}
            Err(error) => {
                if telemetry::may_tell("deadlines that are due") {
                    tracing::error!(%error, "the deadlines that are due could not be read");
                }
            }
        }
        let pause = pause(&app).await;
        tokio::select! {
            () = sleep(pause) => {}
            () = app.stopping() => return,
        }
    }
}

/// Until the next deadline, but no longer than [`DEADLINES_POLL`]: others may write an earlier one meanwhile.
async fn pause(app: &App) -> Duration {
    match deadlines::earliest(&app.db).await {
        Ok(Some(at)) if at > app.clock.now() => {
            let wait = Duration::from_micros((at.micros() - app.clock.now().micros()).max(0).unsigned_abs());
            wait.min(DEADLINES_POLL)
        }
        // What is due already could not be met just now, or there is nothing.
        _ => DEADLINES_POLL,
    }
}

/// Looks for sessions that may have a deadline without being known to have one, and then at all that is due.
///
/// # Errors
/// When the store fails. What could not be done stays due.
pub async fn meet_all(app: &App) -> Result<()> {
    while app.db.write(|tx| deadlines::take_in(tx, None)).await? as i64 >= DEADLINES_TAKEN {}
    meet_due(app).await
}

/// Looks once at each session whose deadline may have come, and at each deployment that may have failed too often.
///
/// # Errors
/// When the store cannot be read. What the database failed stays due; its failure is logged.
async fn meet_due(app: &App) -> Result<()> {
    pause_failing(app).await?;
    let mut last: Option<Due> = None;
    loop {
        let after = last.clone();
        let batch = app.db.read(move |tx| deadlines::list(tx, after.as_ref(), DEADLINES_BATCH)).await?;
        let Some(end) = batch.last() else { return Ok(()) };
        last = Some(end.clone());
        stream::iter(&batch).for_each_concurrent(DEADLINES_IN_FLIGHT, |due| meet(app, due)).await;
        if app.is_stopping() {
            return Ok(());
        }
    }
}

async fn meet(app: &App, due: &Due) {
    let of = due.clone();
    let failed = match app.db.write(move |tx| deadlines::settle(tx, &of)).await {
        Ok(done) => return tell(due, done),
        Err(Error::Stopping) => return,
        Err(failed) => failed,
    };
    if telemetry::may_tell("a deadline that was not met") {
        tracing::error!(session_id = %due.session, error = %failed, "the deadline of a session was not met; it is tried again");
    }
    if matches!(failed, Error::Database(_)) {
        return;
    }
    let of = due.clone();
    if let Err(error) = app.db.write(move |tx| deadlines::put_off(tx, &of)).await {
        tracing::error!(session_id = %due.session, %error, "and could not be put off");
    }
}

fn tell(due: &Due, done: Option<Done>) {
    match done {
        None => {}
        Some(Done::Denied) => {
            tracing::info!(session_id = %due.session, workspace_id = %due.workspace, "denied what nobody has answered");
        }
        Some(Done::Interrupted(by)) => {
            let limit = by.as_str();
            tracing::info!(session_id = %due.session, workspace_id = %due.workspace, limit, "interrupted a session");
        }
    }
}

/// Pauses the deployments whose newest runs have failed as often as their policies say.
async fn pause_failing(app: &App) -> Result<()> {
    loop {
        let some = app.db.read(failures::pausing).await?;
        for (workspace, deployment) in &some {
            let (of, id) = (workspace.clone(), deployment.clone());
            if app.db.write(move |tx| failures::pause(tx, &of, &id)).await? {
                tracing::warn!(deployment_id = %deployment, workspace_id = %workspace, "paused a deployment whose runs have failed too often");
            }
        }
        if (some.len() as i64) < PAUSES_AT_ONCE || app.is_stopping() {
            return Ok(());
        }
    }
}
