//! Fires what is due.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use rota_api::deployment::RunError;
use tokio::time::sleep;

use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    limits::{DUE_BATCH, FIRES_IN_FLIGHT, SCHEDULER_POLL_MICROS},
    resources::deployments::{
        FirePolicy,
        due::{self, Due, Report, Settled},
    },
};

/// Fires deployments at their time until the server stops.
pub async fn run(app: App) {
    while !app.is_stopping() {
        if let Err(error) = fire_due(&app).await {
            tracing::error!(%error, "the deployments that are due could not be read");
        }
        let pause = pause(&app).await;
        tokio::select! {
            () = sleep(pause) => {}
            () = app.stopping() => return,
        }
    }
}

/// Until the earliest deployment is due, but at most until the next whole second: the wall clock may be set while the
/// scheduler sleeps, and what other requests write is due at a whole second.
async fn pause(app: &App) -> Duration {
    let now = app.clock.now().micros();
    let poll = SCHEDULER_POLL_MICROS - now.rem_euclid(SCHEDULER_POLL_MICROS);
    let wait = match due::earliest(&app.db).await {
        Ok(Some(at)) if at.micros() > now => (at.micros() - now).min(poll),
        // What is due already could not be fired just now.
        _ => poll,
    };
    Duration::from_micros(wait.unsigned_abs())
}

/// Looks once at every deployment that is due, and fires those whose time has come.
///
/// Each has a transaction of its own, and many are under way at the same time: the store commits them in groups, and one
/// that fails or panics is alone.
///
/// # Errors
/// When the store cannot be read. A deployment that the database failed stays due; its failure is logged.
pub async fn fire_due(app: &App) -> Result<()> {
    let mut last: Option<Due> = None;
    loop {
        let after = last.clone();
        let batch = app.db.read(move |tx| due::list(tx, after.as_ref(), DUE_BATCH)).await?;
        let Some(end) = batch.last() else { return Ok(()) };
        last = Some(end.clone());
        stream::iter(batch).for_each_concurrent(FIRES_IN_FLIGHT, |due| settle(app, due)).await;
        if app.is_stopping() {
            return Ok(());
        }
    }
}

async fn settle(app: &App, due: Due) {
    let report = match write(app, &due, due::settle).await {
        Ok(report) => report,
        Err(Error::Stopping) => return,
        Err(Error::Database(cause)) => {
            tracing::error!(deployment_id = %due.id, error = %cause, "the database failed a fire; it is tried again");
            return;
        }
        Err(cause) => match write(app, &due, due::settle_failed).await {
            Ok(report) => {
                tracing::error!(deployment_id = %due.id, error = %cause, "a fire failed");
                report
            }
            Err(error) => {
                tracing::error!(deployment_id = %due.id, %cause, %error, "a fire failed, and so did its record");
                return;
            }
        },
    };
    count(&due, &report);
}

async fn write(app: &App, due: &Due, settle: fn(&mut Tx<'_>, &FirePolicy, &Due) -> Result<Report>) -> Result<Report> {
    let (policy, due) = (app.fire_policy(), due.clone());
    app.db.write(move |tx| settle(tx, &policy, &due)).await
}

fn count(due: &Due, report: &Report) {
    for reason in &report.skipped {
        metrics::counter!("rota_schedule_gaps_total", "reason" => reason.as_str()).increment(1);
    }
    match &report.settled {
        Settled::NotDue | Settled::Waits => {}
        Settled::Archived => tracing::info!(deployment_id = %due.id, "archived a deployment whose agent is gone"),
        Settled::Retries { error, at } => {
            metrics::counter!("rota_scheduled_retries_total").increment(1);
            let (kind, message) = (error.r#type.as_str(), &error.message);
            tracing::warn!(deployment_id = %due.id, kind, message, retry_at = %at, "a scheduled session could not be started");
        }
        Settled::Fired { run, due_at } => {
            let outcome = run.error.as_ref().map_or("session_created", |error| error.r#type.as_str());
            metrics::counter!("rota_scheduled_fires_total", "outcome" => outcome).increment(1);
            metrics::histogram!("rota_fire_lateness_seconds").record(run.created_at.seconds_since(*due_at));
            if let Some(RunError { r#type, message }) = &run.error {
                let kind = r#type.as_str();
                tracing::warn!(deployment_id = %due.id, run_id = %run.id, kind, message, "a scheduled run failed");
            }
        }
    }
}
