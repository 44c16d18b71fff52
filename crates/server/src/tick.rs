//! Fires what is due.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use rota_api::deployment::RunError;
use tokio::time::sleep;

use crate::{
    app::{App, FirePolicy},
    db::Tx,
    error::{Error, Result},
    limits::{DUE_BATCH, FIRE_GROUPS_IN_FLIGHT, FIRES_AT_ONCE, SCHEDULER_POLL_MICROS},
    resources::deployments::{
        again, count_run,
        due::{self, Due, Report, Settled},
        starts,
    },
    scheduler::pending::Pending,
    telemetry,
};

/// Fires deployments at their time until the server stops.
pub async fn run(app: App) {
    while !app.is_stopping() {
        if let Err(error) = fire_due(&app).await
            && telemetry::may_tell("deployments that are due")
        {
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
/// A few of them share a transaction, and a few transactions are under way at the same time. Where one cannot be settled,
/// each of its group is settled alone, so that it keeps no other from its fire.
///
/// # Errors
/// When the store cannot be read. A deployment that the database failed stays due; its failure is logged.
pub async fn fire_due(app: &App) -> Result<()> {
    again::start_due(app).await;
    starts::fire_due(app).await?;
    let mut last: Option<Due> = None;
    loop {
        let after = last.clone();
        let batch = app.db.read(move |tx| due::list(tx, after.as_ref(), DUE_BATCH)).await?;
        let Some(end) = batch.last() else { return Ok(()) };
        last = Some(end.clone());
        let groups = stream::iter(batch.chunks(FIRES_AT_ONCE));
        groups.for_each_concurrent(FIRE_GROUPS_IN_FLIGHT, |group| settle(app, group)).await;
        if app.is_stopping() {
            return Ok(());
        }
    }
}

async fn settle(app: &App, group: &[Due]) {
    match write(app, group, due::settle).await {
        Ok(reports) => reports.iter().for_each(|report| count(app, report)),
        Err(Error::Stopping) => {}
        Err(_) if group.len() > 1 => {
            let each = stream::iter(group.chunks(1));
            each.for_each_concurrent(None, |one| Box::pin(settle(app, one))).await;
        }
        Err(Error::Database(cause)) => {
            if telemetry::may_tell("a fire that the database failed") {
                let id = of(group);
                tracing::error!(deployment_id = id, error = %cause, "the database failed a fire; it is tried again");
            }
        }
        Err(cause) => settle_failed(app, group, &cause).await,
    }
}

/// Records that the only one of `group` could not be settled for `cause`.
async fn settle_failed(app: &App, group: &[Due], cause: &Error) {
    match write(app, group, due::settle_failed).await {
        Ok(reports) => {
            tracing::error!(deployment_id = of(group), error = %cause, "a fire failed");
            for report in &reports {
                count(app, report);
            }
        }
        Err(error) => {
            tracing::error!(deployment_id = of(group), %cause, %error, "a fire failed, and so did its record");
        }
    }
}

fn of(group: &[Due]) -> Option<&str> {
    group.first().map(|due| due.id.as_ref())
}

type Settle = fn(&mut Tx<'_>, &FirePolicy, &[Due]) -> Result<Vec<Report>>;

async fn write(app: &App, group: &[Due], settle: Settle) -> Result<Vec<Report>> {
    let (policy, group) = (app.fire_policy(), group.to_vec());
    app.db.write(move |tx| settle(tx, &policy, &group)).await
}

fn count(app: &App, report: &Report) {
    let id = &report.id;
    for reason in &report.skipped {
        metrics::counter!("rota_schedule_gaps_total", "reason" => reason.as_str()).increment(1);
    }
    match &report.settled {
        Settled::Waits(_) => {}
        Settled::Paused => tracing::warn!(deployment_id = %id, "paused a deployment whose runs have failed too often"),
        Settled::Archived => tracing::info!(deployment_id = %id, "archived a deployment whose agent is gone"),
        Settled::Retries(Pending { error, retry_at, .. }) => {
            metrics::counter!("rota_scheduled_retries_total").increment(1);
            let (kind, error) = error.as_ref().map(|error| (error.r#type.as_str(), &error.message)).unzip();
            let retry_at = retry_at.map(tracing::field::display);
            tracing::warn!(deployment_id = %id, kind, error, retry_at, "a scheduled session could not be started");
        }
        Settled::Fired { run, due_at } => {
            count_run(run);
            app.traces.scheduled(run);
            metrics::counter!("rota_scheduled_fires_total", "outcome" => run.outcome()).increment(1);
            metrics::histogram!("rota_fire_lateness_seconds").record(run.created_at.seconds_since(*due_at));
            if let Some(RunError { r#type, message }) = &run.error {
                let kind = r#type.as_str();
                tracing::warn!(deployment_id = %id, run_id = %run.id, kind, error = message, "a scheduled run failed");
            }
        }
    }
}
