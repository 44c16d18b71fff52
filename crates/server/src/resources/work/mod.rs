//! The work of self-hosted environments, as workers and their operators see it: a session that needs a worker is handed to one
//! at a time, which keeps it with heartbeats. The rules and rows are in `store.rs`; what makes a session work is in
//! `work_queue.rs`.

mod store;

use axum::extract::State;
use http::HeaderMap;
use rota_api::work::{StopWork, TTL_SECONDS, UpdateWork, Work, WorkHeartbeat, WorkStats};
use serde::Deserialize;
use tokio::{pin, time::sleep};

use crate::{
    app::App,
    db::Select,
    error::{Error, Result},
    limits::{MAX_WORK_RECLAIM_MS, MAX_WORKER_ID, WORK_POLL, WORK_RECLAIM_MS},
    page::{NullPage, Order},
    request::{Body, Caller, CallerOrWorker, Json, List, Path, PathAndQuery, Query, Worker},
    resources::environments,
};

/// The longest that a poll waits, in milliseconds.
const MAX_BLOCK_MS: i64 = 999;
/// What reads and describes work of others.
const SCOPES: &str = "user:developer, workspace:developer";
/// How a worker names itself, to be counted.
const WORKER_ID: &str = "anthropic-worker-id";

/// `GET /v1/environments/{environment_id}/work/poll`: work for this worker, or null.
pub async fn poll(
    State(app): State<App>,
    worker: Worker,
    PathAndQuery(environment, query): PathAndQuery<String>,
    headers: HeaderMap,
) -> Result<Json<Option<Work>>> {
    let block = bounded(&query, "block_ms", 1, MAX_BLOCK_MS)?;
    let reclaim = bounded(&query, "reclaim_older_than_ms", 1, MAX_WORK_RECLAIM_MS)?.unwrap_or(WORK_RECLAIM_MS);
    query.finish()?;
    check_key(&worker, &environment)?;
    let waiter = app.hub.wait_for_work(&worker.environment);
    let mut is_due = store::is_due(&app.db, &worker, reclaim).await?;
    if let Some(name) = worker_id(&headers)? {
        store::note_poller(&app.db, &worker, name).await?;
    }
    let until = sleep(std::time::Duration::from_millis(block.unwrap_or(0).unsigned_abs()));
    pin!(until);
    let mut last = block.is_none();
    loop {
        if is_due {
            let by = worker.clone();
            let given = app.db.write(move |tx| store::hand_out(tx, &by, reclaim)).await?;
            if given.is_some() {
                return Ok(Json(given));
            }
        }
        if last {
            return Ok(Json(None));
        }
        tokio::select! {
            () = waiter.queued() => {}
            () = sleep(WORK_POLL) => {}
            () = &mut until => last = true,
            () = app.stopping() => last = true,
        }
        is_due = store::is_due(&app.db, &worker, reclaim).await?;
    }
}

/// `POST /v1/environments/{environment_id}/work/{work_id}/ack`.
pub async fn ack(
    State(app): State<App>,
    worker: Worker,
    Path((environment, WorkRef(id))): Path<(String, WorkRef)>,
) -> Result<Json<Work>> {
    let id = of_worker(&worker, &environment, id)?;
    app.db.write(move |tx| store::acknowledge(tx, &worker, &id)).await.map(Json)
}

/// `POST /v1/environments/{environment_id}/work/{work_id}/heartbeat`.
pub async fn heartbeat(
    State(app): State<App>,
    worker: Worker,
    PathAndQuery((environment, WorkRef(id)), query): PathAndQuery<(String, WorkRef)>,
) -> Result<Json<WorkHeartbeat>> {
    let ttl = bounded(&query, "desired_ttl_seconds", TTL_SECONDS.0, TTL_SECONDS.1)?;
    let expected = query.text("expected_last_heartbeat").map(str::to_owned);
    query.finish()?;
    let id = of_worker(&worker, &environment, id)?;
    app.db.write(move |tx| store::beat(tx, &worker, &id, ttl, expected.as_deref())).await.map(Json)
}

/// `POST /v1/environments/{environment_id}/work/{work_id}/stop`.
pub async fn stop(
    State(app): State<App>,
    caller: CallerOrWorker,
    Path((environment, WorkRef(id))): Path<(String, WorkRef)>,
    body: Body,
) -> Result<Json<Work>> {
    let StopWork { force } = body.read(StopWork::read)?;
    let id = match caller.worker() {
        Some(worker) => of_worker(worker, &environment, id)?,
        None => id?,
    };
    app.db.write(move |tx| store::stop(tx, &caller, &environment, &id, force)).await.map(Json)
}

/// `GET /v1/environments/{environment_id}/work/stats`.
pub async fn stats(
    State(app): State<App>,
    caller: CallerOrWorker,
    Path(environment): Path<String>,
) -> Result<Json<WorkStats>> {
    if let Some(worker) = caller.worker() {
        check_environment(worker, &environment)?;
    }
    app.db.read(move |tx| store::stats(tx, &caller.workspace, &environment)).await.map(Json)
}

/// `GET /v1/environments/{environment_id}/work`.
pub async fn list(
    State(app): State<App>,
    worker: Worker,
    PathAndQuery(environment, query): PathAndQuery<String>,
) -> Result<Json<NullPage<Work>>> {
    let paging = query.paging(20, 100, Order::Desc)?;
    check_key(&worker, &environment)?;
    let (workspace, of) = (worker.workspace.clone(), environment.clone());
    let config = app.db.read(move |tx| environments::config(tx, &workspace, &of)).await?;
    if !config.is_some_and(|config| config.is_self_hosted()) {
        return Err(Error::NotFound(format!(
            "Environment `{environment}` not found, or does not support work listing. The work API is only available for \
             self-hosted environments."
        )));
    }
    let mut select = Select::new(store::SELECT, &worker.workspace);
    select.text("environment_id =", Some(environment));
    let list = List { select, key: "session_id", paging };
    list.null_page(&app.db, store::from_row, |work| work.id.to_string()).await
}

/// `GET /v1/environments/{environment_id}/work/{work_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: CallerOrWorker,
    Path((environment, WorkRef(id))): Path<(String, WorkRef)>,
) -> Result<Json<Work>> {
    let Caller { workspace, .. } = caller.only_caller(SCOPES)?;
    let id = id?;
    app.db.read(move |tx| store::get(tx, &workspace, &environment, &id)).await.map(Json)
}

/// `POST /v1/environments/{environment_id}/work/{work_id}`.
pub async fn update(
    State(app): State<App>,
    caller: CallerOrWorker,
    Path((environment, WorkRef(id))): Path<(String, WorkRef)>,
    body: Body,
) -> Result<Json<Work>> {
    let Caller { workspace, .. } = caller.only_caller(SCOPES)?;
    let update = body.read(UpdateWork::read)?;
    let id = id?;
    app.db.write(move |tx| store::set(tx, &workspace, &environment, &id, &update)).await.map(Json)
}

/// `POST /v1/environments/{environment_id}/work/poll`: recorded to be an update of work with this name, which there is none of.
pub async fn update_poll(caller: CallerOrWorker, body: Body) -> Result<Json<Work>> {
    caller.only_caller(SCOPES)?;
    body.read(UpdateWork::read)?;
    let WorkRef(id) = "poll".to_owned().into();
    Err(Error::internal(format!("{} is work", id?)))
}

/// The id of a piece of work in a path, which is its session's.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
pub struct WorkRef(Result<String>);

impl From<String> for WorkRef {
    fn from(id: String) -> Self {
        Self(match id.strip_prefix("session_") {
            Some(rest) => Ok(format!("sesn_{rest}")),
            None if ["sesn_", "cse_", "work_"].iter().any(|prefix| id.starts_with(prefix)) => Ok(id),
            None => Err(Error::invalid(format_args!(
                "Invalid work ID format: expected session_*, cse_*, or work_* prefix, got \"{id}\"."
            ))),
        })
    }
}

/// That a worker's key or token is of the environment of a path.
fn check_environment(worker: &Worker, environment: &str) -> Result<()> {
    if worker.environment.as_ref() == environment {
        return Ok(());
    }
    Err(Error::Forbidden("Token not authorized for this environment".to_owned()))
}

/// The same, for what a key alone reaches.
fn check_key(worker: &Worker, environment: &str) -> Result<()> {
    check_environment(worker, environment)?;
    if worker.token.is_none() {
        return Ok(());
    }
    Err(Error::Forbidden(
        "this needs the key of the environment: a token reaches the work that it was given for".to_owned(),
    ))
}

/// The work that a path names, when the worker reaches it.
fn of_worker(worker: &Worker, environment: &str, id: Result<String>) -> Result<String> {
    check_environment(worker, environment)?;
    let id = id?;
    match &worker.token {
        Some(token) if token.session.as_ref() != id => {
            Err(Error::Forbidden(format!("the token was given for other work than `{id}`")))
        }
        _ => Ok(id),
    }
}

/// A parameter in the bounds and words of this API (recorded of `reclaim_older_than_ms`).
fn bounded(query: &Query, name: &'static str, least: i64, most: i64) -> Result<Option<i64>> {
    let number = query.integer(name, i64::MIN, i64::MAX)?;
    match number {
        Some(number) if number < least => {
            Err(Error::invalid(format_args!("{name}: Input should be greater than or equal to {least}")))
        }
        Some(number) if number > most => {
            Err(Error::invalid(format_args!("{name}: Input should be less than or equal to {most}")))
        }
        within => Ok(within),
    }
}

fn worker_id(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = headers.get(WORKER_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    let name = value.to_str().ok().filter(|name| name.len() <= MAX_WORKER_ID);
    name.map(Some).ok_or_else(|| {
        Error::invalid(format_args!("the Anthropic-Worker-ID header has at most {MAX_WORKER_ID} ASCII characters"))
    })
}
