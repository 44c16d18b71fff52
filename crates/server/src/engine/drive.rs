//! Takes sessions up and hands each to a runner.

use std::sync::Arc;

use tokio::{sync::Semaphore, time::sleep};

use super::{
    lease::{self, Lease},
    runner::Runner,
    step::{self, Left},
};
use crate::{
    app::App,
    error::{Error, Result},
    limits,
};

/// Runs sessions until the server stops.
pub async fn run(app: App) {
    let slots = Arc::new(Semaphore::new(app.config.engine.concurrency));
    if app.config.engine.concurrency == 0 {
        return;
    }
    // Before the first session is taken up: its files will be here.
    while let Err(error) = say_alive(&app).await {
        tracing::error!(%error, "this server could not say that it is alive; it tries again before it runs sessions");
        tokio::select! {
            () = sleep(limits::RUNNER_POLL) => {}
            () = app.stopping() => return,
        }
    }
    app.spawn(renew(app.clone()));
    app.spawn(tidy(app.clone()));
    loop {
        // Waits until a slot is free; all that are free are filled at once.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let free = slots.available_permits() as i64 + 1;
        drop(slot);
        let claimed = match claim(&app, free).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::error!(%error, "no sessions could be taken up");
                Vec::new()
            }
        };
        let none = claimed.is_empty();
        for lease in claimed {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let app_ = app.clone();
            app.spawn(async move {
                drive(&app_, lease).await;
                drop(slot);
            });
        }
        if none {
            tokio::select! {
                () = app.hub.runnable() => {}
                () = sleep(limits::RUNNER_POLL) => {}
                () = app.stopping() => return,
            }
        }
    }
}

async fn claim(app: &App, count: i64) -> Result<Vec<Lease>> {
    if app.is_stopping() || !lease::is_due(&app.db, &app.node).await? {
        return Ok(Vec::new());
    }
    let node = app.node.clone();
    app.db.write(move |tx| lease::claim(tx, &node, count)).await
}

async fn renew(app: App) {
    loop {
        tokio::select! {
            () = sleep(limits::LEASE_RENEW_EVERY) => {}
            () = app.stopping() => return,
        }
        if let Err(error) = say_alive(&app).await {
            tracing::error!(%error, "the leases of this server could not be renewed");
        }
        if let Err(error) = app.db.write(lease::forget_gone).await {
            tracing::error!(%error, "servers that are gone could not be forgotten");
        }
    }
}

async fn say_alive(app: &App) -> Result<()> {
    let node = app.node.clone();
    app.db.write(move |tx| lease::renew(tx, &node)).await
}

async fn tidy(app: App) {
    loop {
        tokio::select! {
            () = sleep(limits::SANDBOX_TIDY_EVERY) => app.sandboxes.tidy().await,
            () = app.stopping() => return,
        }
    }
}

async fn drive(app: &App, lease: Lease) {
    let left = tokio::select! {
        left = run_on(app, &lease) => left,
        () = app.stopping() => Ok(()),
    };
    match left {
        Ok(()) => {}
        Err(Left::Lost) => {
            tracing::info!(session_id = %lease.session, "another runner has the session");
            end_sandbox(app, &lease).await;
        }
        Err(Left::Failed(error)) => {
            tracing::error!(session_id = %lease.session, %error, "a session could not be run on; it is taken up again");
            sleep(limits::SESSION_RETRY_FIRST).await;
        }
    }
    // Does nothing when the session has come to rest, or is another runner's.
    if let Err(error) = app.db.write(move |tx| lease::release(tx, &lease)).await {
        tracing::debug!(%error, "a lease was not released; it ends by itself");
    }
}

/// Runs a session until it comes to rest. Where that fails, and not because the database does, it is tried a few times:
/// nothing says that the next one would go better, so then the session ends.
async fn run_on(app: &App, lease: &Lease) -> Result<(), Left> {
    let mut pause = limits::SESSION_RETRY_FIRST;
    for tries in 1.. {
        let error = match Runner::load_and_run(app, lease).await {
            Err(Left::Failed(error)) if !matches!(error, Error::Database(_) | Error::Stopping) => error,
            left => return left,
        };
        if tries == limits::SESSION_TRIES {
            let (workspace, session) = (&lease.workspace, &lease.session);
            tracing::error!(workspace_id = %workspace, session_id = %session, %error, "a session is ended: it cannot be run on");
            break;
        }
        sleep(pause).await;
        pause *= 2;
    }
    step::abandon(app, lease).await
}

/// What a session left running here ends when another server has it.
async fn end_sandbox(app: &App, lease: &Lease) {
    let (lost, node) = (lease.clone(), app.node.clone());
    match app.db.read(move |tx| lease::is_elsewhere(tx, &lost, &node)).await {
        Ok(true) => app.sandboxes.backend().stop(lease.session.as_ref()).await,
        Ok(false) => {}
        Err(error) => tracing::error!(session_id = %lease.session, %error, "a lost session's sandbox may still run"),
    }
}
