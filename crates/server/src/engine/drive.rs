//! Takes sessions up and hands each to a runner.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use tokio::time::sleep;
use tracing::Instrument;

use super::{
    brakes,
    driven::Driven,
    lease::{self, Lease},
    runner::Runner,
    step::{self, Left},
};
use crate::{
    app::App,
    backoff::Backoff,
    error::{Error, Result},
    limits,
    mcp::Mcp,
    places::{Place, Places},
    room::Room,
    telemetry,
};

/// What runs sessions in this process.
struct Engine {
    app: App,
    driven: Arc<Driven>,
    /// Places of driven sessions.
    sessions: Arc<Places>,
    /// Memory for large conversations.
    conversations: Room,
    /// Sessions at MCP servers.
    mcp: Arc<Mcp>,
    /// Places of sessions at work: those that read their log or ask their model, and do not wait for a call.
    at_work: Arc<Places>,
}

/// Whether sessions were found.
enum Found {
    /// Some were taken up.
    Some,
    /// None waits that could be taken up.
    None,
    /// There are only sessions of workspaces that use all places that they may.
    NoPlace,
}

/// Runs sessions until the server stops.
pub async fn run(app: App) {
    let concurrency = app.config.engine.concurrency;
    if concurrency == 0 {
        return;
    }
    let mcp = match Mcp::new(&app.config.mcp) {
        Ok(mcp) => Arc::new(mcp),
        Err(error) => {
            tracing::error!(%error, "no sessions are run: TLS cannot be set up");
            return;
        }
    };
    let engine = Arc::new(Engine {
        app: app.clone(),
        driven: Arc::default(),
        sessions: Places::new(limits::MAX_DRIVEN_SESSIONS),
        conversations: Room::new(limits::LARGE_LOGS_BYTES, limits::LARGE_LOGS_BYTES_OF_ONE),
        mcp,
        at_work: Places::new(concurrency),
    });
    // Before the first session is taken up: its files will be here.
    while let Err(error) = keep(&engine).await {
        if telemetry::may_tell("being alive") {
            tracing::error!(%error, "this server could not say that it is alive; it tries again before it runs sessions");
        }
        tokio::select! {
            () = sleep(limits::RUNNER_POLL) => {}
            () = app.stopping() => return,
        }
    }
    app.spawn(renew(engine.clone()));
    app.spawn(tidy(engine.clone()));
    app.spawn(brakes::watch(app.clone()));
    // The workspace whose turn was last.
    let mut last = String::new();
    while !app.is_stopping() && !app.brake.is_draining() {
        let found = take_up(&engine, &mut last).await.unwrap_or_else(|error| {
            if telemetry::may_tell("sessions that are due") {
                tracing::error!(%error, "no sessions could be taken up");
            }
            Found::None
        });
        let no_place = match found {
            Found::Some => continue,
            Found::None => false,
            Found::NoPlace => true,
        };
        tokio::select! {
            () = app.hub.runnable() => {}
            () = engine.sessions.freed(), if no_place => {}
            () = sleep(limits::RUNNER_POLL) => {}
            () = app.stopping() => return,
        }
    }
}

/// Takes up sessions of the next workspace that has some waiting and may have more places. Workspaces have their turns in
/// the order of their ids.
async fn take_up(engine: &Arc<Engine>, last: &mut String) -> Result<Found> {
    let app = &engine.app;
    if engine.driven.is_late(app.clock.now()) {
        // First, or sessions that are driven here would seem to wait for a runner.
        keep(engine).await?;
    }
    let mut passed_over = Vec::new();
    let mut no_place = false;
    loop {
        let mut next = lease::next_workspace(&app.db, &app.node, last).await?;
        if next.is_none() && !last.is_empty() {
            next = lease::next_workspace(&app.db, &app.node, "").await?;
        }
        let Some(workspace) = next else {
            last.clear();
            return Ok(Found::None);
        };
        if passed_over.contains(&workspace) {
            return Ok(if no_place { Found::NoPlace } else { Found::None });
        }
        workspace.as_ref().clone_into(last);
        let places = engine.sessions.take_free(&workspace, limits::CLAIM_BATCH);
        if places.is_empty() {
            no_place = true;
            passed_over.push(workspace);
            continue;
        }
        let (node, of, count) = (app.node.clone(), workspace.clone(), places.len() as i64);
        let leases = app.db.write(move |tx| lease::claim(tx, &node, &of, count)).await?;
        if leases.is_empty() {
            // Another server was faster, or somebody holds the row at this moment.
            passed_over.push(workspace);
            continue;
        }
        for (lease, place) in leases.into_iter().zip(places) {
            app.spawn(app.driving.track_future(drive(engine.clone(), lease, place)));
        }
        return Ok(Found::Some);
    }
}

async fn renew(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = sleep(limits::LEASE_RENEW_EVERY) => {}
            () = engine.app.stopping() => return,
        }
        if let Err(error) = keep(&engine).await {
            tracing::error!(%error, "the leases of this server could not be renewed");
        }
        if let Err(error) = engine.app.db.write(lease::forget_gone).await {
            tracing::error!(%error, "servers that are gone could not be forgotten");
        }
    }
}

/// Says that this server is alive, and keeps the leases of the sessions that it drives.
async fn keep(engine: &Engine) -> Result<()> {
    let (app, driven) = (&engine.app, engine.driven.clone());
    let (node, now) = (app.node.clone(), app.clock.now());
    app.db.write(move |tx| lease::keep(tx, &node, &driven.leases())).await?;
    engine.driven.kept(now);
    Ok(())
}

async fn tidy(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = sleep(limits::SANDBOX_TIDY_EVERY) => {}
            () = engine.app.stopping() => return,
        }
        engine.mcp.tidy();
        engine.app.sandboxes.tidy().await;
    }
}

/// Drives a session until it rests or is another's. `driving` goes last: until then no other runner of this process has it.
async fn drive(engine: Arc<Engine>, lease: Lease, place: Place) {
    let app = &engine.app;
    let Some(driving) = engine.driven.begin(&lease).await else { return };
    let span = tracing::info_span!("session", id = %lease.session);
    let left = tokio::select! {
        left = run_on(&engine, &lease).instrument(span) => left,
        () = driving.lost() => Err(Left::Lost),
        () = app.brake.halted() => Err(Left::Halted),
        () = app.stopping() => Ok(()),
    };
    let is_drained = matches!(left, Err(Left::Drained));
    match left {
        Err(Left::Drained) => tracing::debug!(session_id = %lease.session, "a session is handed over"),
        Err(Left::Halted) => {
            engine.mcp.end(&lease.session);
            app.sandboxes.end(&lease.session).await;
        }
        Ok(()) | Err(Left::Outgrown | Left::Failed(Error::Stopping)) => {}
        Err(Left::Lost) => {
            tracing::info!(session_id = %lease.session, "another runner has the session");
            engine.mcp.end(&lease.session);
            end_sandbox(app, &lease).await;
        }
        Err(Left::Failed(error)) => {
            tracing::error!(session_id = %lease.session, %error, "a session could not be ended; it is taken up again");
        }
    }
    // Does nothing when the session has come to rest, or is another runner's.
    let released = lease.clone();
    let release = if is_drained { lease::hand_over } else { lease::release };
    if let Err(error) = app.db.write(move |tx| release(tx, &released)).await
        && telemetry::may_tell("sessions that were not given back")
    {
        tracing::warn!(session_id = %lease.session, %error, "a session was not given back; it is free when its lease has run out");
    }
    drop((place, driving));
}

/// Runs a session until it comes to rest. While the database fails it is tried again: nobody else could do more. Where
/// something else fails it is tried a few times: nothing says that the next one would go better, so then the session ends.
async fn run_on(engine: &Engine, lease: &Lease) -> Result<(), Left> {
    let (workspace, session) = (&lease.workspace, &lease.session);
    let _room = match usize::try_from(lease.bytes) {
        Ok(bytes) if lease.bytes > limits::LARGE_LOG_BYTES => {
            Some(engine.conversations.take(Some(workspace), bytes).await)
        }
        _ => None,
    };
    let mut finished = Vec::new();
    let backoff = Backoff::doubling(limits::SESSION_RETRY_FIRST, limits::SESSION_RETRY_MAX);
    let (mut failures, mut tries) = (0, 0);
    loop {
        // It is large, for it holds whatever a session may wait for.
        let running = Box::pin(Runner::load_and_run(&engine.app, lease, &engine.at_work, &engine.mcp, &mut finished));
        let error = match AssertUnwindSafe(running).catch_unwind().await {
            Ok(Err(Left::Failed(error))) if !matches!(error, Error::Stopping) => error,
            Ok(left) => return left,
            Err(panic) => Error::internal(panicked(&*panic)),
        };
        if let Error::Database(_) = error {
            if telemetry::may_tell("sessions that wait for the database") {
                tracing::error!(workspace_id = %workspace, session_id = %session, %error, "a session waits for the database");
            }
        } else {
            tries += 1;
            if tries == limits::SESSION_TRIES {
                tracing::error!(workspace_id = %workspace, session_id = %session, %error, "a session is ended: it cannot be run on");
                return step::abandon(&engine.app, lease).await;
            }
        }
        failures += 1;
        sleep(backoff.pause(failures)).await;
    }
}

/// What a panic said.
fn panicked(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the runner panicked: {}", said.unwrap_or("without a word"))
}

/// What a session left running here ends when another server has it.
async fn end_sandbox(app: &App, lease: &Lease) {
    let (lost, node) = (lease.clone(), app.node.clone());
    match app.db.read(move |tx| lease::is_elsewhere(tx, &lost, &node)).await {
        Ok(true) => app.sandboxes.end(&lease.session).await,
        Ok(false) => {}
        Err(error) => tracing::error!(session_id = %lease.session, %error, "a lost session's sandbox may still run"),
    }
}
