//! What the real store says of a deployment, as the invariants ask it.

use jiff::{SignedDuration, Timestamp};
use rota_api::{
    Time,
    id::{DeploymentId, Id},
    policy::{Jitter, Overlap},
};
use rota_server::{
    db::{Row, Tx, Val},
    error::Result,
    resources::deployments::active,
    scheduler::{cron::Cron, pending::Pending, settle::State},
};
use serde_json::Value;

use super::{Known, now};
use crate::{
    server::Rota,
    simulation::{
        history::{History, Run, Skip, Span, Waiting},
        policies,
    },
};

/// How many sessions of a deployment are at work.
#[derive(Debug)]
pub struct AtWork {
    pub all: usize,
    /// Those that were not told to stop.
    pub undisturbed: usize,
}

impl AtWork {
    pub async fn of(rota: &Rota, deployment: &str) -> Self {
        let sql =
            "SELECT (SELECT count(*) FROM session_inputs i WHERE i.session_id = s.id AND i.type = 'user.interrupt')
            FROM sessions s WHERE s.deployment_id = $1 AND s.status = 'running'";
        let interrupts = read(rota, deployment, sql, |row| row.int(0)).await;
        Self { all: interrupts.len(), undisturbed: interrupts.iter().filter(|count| **count == 0).count() }
    }
}

/// Brings the session that works longest to rest, as a runner does it.
pub async fn come_to_rest(rota: &Rota, deployment: &str) {
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.clone();
    let deployment = DeploymentId::trusted(deployment.to_owned());
    let rest = move |tx: &mut Tx<'_>| {
        let first = "SELECT min(id) FROM sessions WHERE deployment_id = $1 AND status = 'running'";
        let sql = format!("UPDATE sessions SET status = 'idle', runnable_at = NULL WHERE id = ({first})");
        tx.execute(&sql, &[Val::Text(deployment.as_ref())])?;
        active::leave(tx, &workspace, &deployment)
    };
    rota.server.app().db.write(rest).await.unwrap();
}

/// The scheduled runs of a deployment.
pub async fn runs(rota: &Rota, deployment: &str) -> Vec<Value> {
    let runs = rota.api.all(&format!("/v1/deployment_runs?deployment_id={deployment}"), 1000).await;
    runs.into_iter().filter(|run| run["trigger_context"]["type"] == "schedule").collect()
}

/// The occurrence that is not decided on.
pub async fn pending(rota: &Rota, known: &Known) -> Option<Waiting> {
    let at_work = AtWork::of(rota, &known.id).await.all;
    let is_held_up = policies::holds_up(&known.policy, at_work);
    let sql = "SELECT pending, next_fire_at FROM deployments WHERE id = $1 AND pending IS NOT NULL";
    let found = read(rota, &known.id, sql, move |row| {
        let pending: Pending = row.json(0)?;
        Ok(Waiting {
            occurrence: pending.scheduled_at.timestamp(),
            retry_at: pending.retry_at.map(Time::timestamp),
            next_fire_at: row.opt_time(1)?.map(Time::timestamp),
            is_held_up,
        })
    });
    found.await.pop()
}

/// Everything that has happened to a deployment.
pub async fn history(rota: &Rota, known: &Known, clock_went_back: bool) -> History {
    let default = rota.server.app().config.scheduler.timing();
    let timings: Vec<_> = known.policies.iter().map(|policy| policies::timing(policy, default)).collect();
    let queues =
        known.policies.iter().any(|policy| policy.overlap == Some(Overlap::QueueOne) || policy.retry.is_some());
    let time = |text: &Value| text.as_str().unwrap().parse::<Timestamp>().unwrap();
    let run = |run: &Value| Run {
        occurrence: time(&run["trigger_context"]["scheduled_at"]),
        created_at: time(&run["created_at"]),
        timings: timings.clone(),
        was_pending: queues,
    };
    let id = &known.id;
    let spans = "SELECT since, cron, timezone, state, starts_at, ends_at FROM deployment_spans WHERE deployment_id = $1 ORDER BY seq";
    let skips = "SELECT first_at, last_at, reason FROM deployment_skips WHERE deployment_id = $1 ORDER BY first_at";
    let settled = "SELECT coalesce(settled_at, 0) FROM deployments WHERE id = $1";
    let settled = read(rota, id, settled, |row| row.time(0)).await[0].timestamp();
    let is_delayed = timings.iter().any(|timing| timing.jitter != Jitter::OFF);
    let delay = if is_delayed { SignedDuration::from_mins(9) } else { SignedDuration::ZERO };
    History {
        id: id.clone(),
        spans: read(rota, id, spans, span).await,
        skips: read(rota, id, skips, skip).await,
        runs: runs(rota, id).await.iter().map(run).collect(),
        pending: pending(rota, known).await,
        until: settled.max(now(rota) - delay),
        latest: now(rota),
        clock_went_back,
    }
}

fn span(row: &Row<'_>) -> Result<Span> {
    let schedule = row.opt_text(1)?.zip(row.opt_text(2)?);
    let cron = schedule.map(|(expression, zone)| Cron::parse(&expression, &zone).unwrap());
    let state = State::from_name(&row.text(3)?).unwrap();
    let time = |column: usize| row.opt_time(column).map(|time| time.map(Time::timestamp));
    Ok(Span { since: row.time(0)?.timestamp(), cron, from: time(4)?, until: time(5)?, state })
}

fn skip(row: &Row<'_>) -> Result<Skip> {
    let time = |column| row.time(column).map(Time::timestamp);
    Ok(Skip { first: time(0)?, last: time(1)?, reason: row.text(2)? })
}

/// What `sql` finds of a deployment.
async fn read<T: Send + 'static>(
    rota: &Rota,
    deployment: &str,
    sql: &'static str,
    map: impl Fn(&Row<'_>) -> Result<T> + Send + Sync + 'static,
) -> Vec<T> {
    let deployment = deployment.to_owned();
    let rows = move |tx: &mut Tx<'_>| tx.all(sql, &[Val::Text(&deployment)], &map);
    rota.server.app().db.read(rows).await.unwrap()
}
