//! Another session for an occurrence whose session has died. The wish for it is written in the transaction that ends the session, and
//! taken up by the scheduler: by one server, once.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use rota_api::{
    Time,
    agent::AgentReference,
    deployment::{DeploymentRun, TriggerContext},
    id::{DeploymentId, Id, RunId, SessionId, WorkspaceId},
    session_retry::{Followed, NoRetry},
};

use super::{
    active,
    check::check,
    count_run, held, policy,
    run::{self, Cause, Target},
    standing::Standing,
};
use crate::{
    app::{App, FirePolicy},
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::{DUE_BATCH, FIRE_GROUPS_IN_FLIGHT, SESSION_RETRY_LOOK_MICROS},
    resources::{deployment_runs::Kept, sessions::events, webhook_outbox::Outbox},
    scheduler::{
        again::{self, Died, Step},
        pending::Pending,
        policy::{HELD, Policy, Verdict},
    },
    telemetry,
};

/// The session of `run` has died: notes whether and when another one follows, where the schedule started it and the policy says so.
/// `has_acted` looks whether its agent has called a tool that may change something, since the run was started. A turn that dies after the
/// run has come to its end is of whoever sent to the session then.
pub fn died(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    (deployment, run): (&DeploymentId, Option<&RunId>),
    has_acted: impl FnOnce(&mut Tx<'_>, Time) -> Result<bool>,
) -> Result<()> {
    let Some(run) = run else { return Ok(()) };
    let sql = format!(
        "SELECT r.scheduled_at, r.attempt, r.created_at, {}, d.cron, d.timezone, d.paused_reason, d.archived_at
         FROM deployments d JOIN deployment_runs r ON r.workspace_id = d.workspace_id AND r.id = $3
         WHERE d.workspace_id = $1 AND d.id = $2 AND d.retry IS NOT NULL AND r.scheduled_at IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM session_events e WHERE e.session_id = r.session_id AND e.type = 'session.status_idle'
                 AND e.processed_at > r.created_at AND e.body LIKE '%\"end_turn\"%')",
        policy::COLUMNS
    );
    let found = tx.one(&sql, vals![workspace, deployment, run], |row| {
        let (policy, standing) = (policy::from_row(row)?, Standing::from_row(row)?);
        let died =
            Died { scheduled_at: row.time("scheduled_at")?, attempt: row.int("attempt")? as u32, has_acted: false };
        Ok((died, row.time("created_at")?, policy, standing))
    })?;
    let Some((died, since, policy, standing)) = found.filter(|(_, _, policy, _)| again::is_wanted(policy)) else {
        return Ok(());
    };
    let died = Died { has_acted: has_acted(tx, since)?, ..died };
    let cron = standing.cron();
    let next = again::after_death(&policy, deployment.as_ref(), &died, (standing.state, cron.as_ref()), tx.now());
    let Some(next) = next else { return Ok(()) };
    let (pending, reason) = (next.as_ref().ok(), next.as_ref().err());
    tx.send(
        "INSERT INTO session_retries (run_id, workspace_id, deployment_id, scheduled_at, attempt, has_acted, look_at, pending, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (run_id) DO NOTHING",
        vals![
            run,
            workspace,
            deployment,
            died.scheduled_at,
            i64::from(died.attempt),
            i64::from(died.has_acted),
            pending.and_then(|pending| pending.retry_at),
            pending.map(serde_json::to_string).transpose()?.as_deref(),
            reason.map(|reason| reason.as_str())
        ],
    )
}

/// No session follows those of a deployment that died, as far as none has yet.
pub(super) fn end_all(tx: &mut Tx<'_>, deployment: &str, reason: NoRetry) -> Result<()> {
    tx.send(
        "UPDATE session_retries SET look_at = NULL, pending = NULL, reason = $2
         WHERE deployment_id = $1 AND look_at IS NOT NULL",
        vals![deployment, reason.as_str()],
    )
}

/// What follows the deaths of the sessions of some occurrences, by their runs.
pub(super) fn followed(
    tx: &mut Tx<'_>,
    deployment: &str,
    first: Time,
    last: Time,
) -> Result<HashMap<String, Followed>> {
    let sql = "SELECT run_id, pending AS retry_pending, reason AS retry_reason, next_run_id FROM session_retries
         WHERE deployment_id = $1 AND scheduled_at >= $2 AND scheduled_at <= $3";
    let found = tx.all(sql, vals![deployment, first, last], |row| Ok((row.text("run_id")?, followed_of_row(row)?)))?;
    Ok(found.into_iter().filter_map(|(run, followed)| Some((run, followed?))).collect())
}

/// Reads the columns `retry_pending`, `retry_reason` and `next_run_id`. `None` where the session has not died, or nothing is to follow.
pub fn followed_of_row(row: &Row<'_>) -> Result<Option<Followed>> {
    let pending: Option<Pending> = row.opt_json("retry_pending")?;
    let reason = row.opt_text("retry_reason")?;
    let followed = Followed {
        at: pending.and_then(|pending| pending.retry_at),
        run_id: row.opt_id("next_run_id")?,
        reason: reason.as_deref().and_then(NoRetry::from_name),
    };
    let is_there = followed.at.is_some() || followed.run_id.is_some() || followed.reason.is_some();
    Ok(is_there.then_some(followed))
}

/// A session that is due to follow one that died.
#[derive(Debug, Clone)]
pub struct Due {
    workspace: WorkspaceId,
    deployment: DeploymentId,
    /// The run whose session died.
    run: RunId,
}

/// At most `limit` of those that are due, the longest waiting first.
pub fn due(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<Due>> {
    let sql = "SELECT workspace_id, deployment_id, run_id FROM session_retries WHERE look_at <= $1
         ORDER BY look_at, run_id LIMIT $2";
    tx.all(sql, vals![tx.now(), limit], |row| {
        Ok(Due { workspace: row.id(0)?, deployment: row.id(1)?, run: row.id(2)? })
    })
}

/// Looks once at every session that is due to follow another one. What cannot be decided stays due; its failure is logged.
pub async fn start_due(app: &App) {
    let sql = "SELECT 1 FROM session_retries WHERE look_at <= $1 LIMIT 1";
    let found = match app.db.lookup(sql, vals![app.db.now()], |_| Ok(())).await {
        Ok(None) => return,
        Ok(Some(())) => app.db.read(|tx| due(tx, DUE_BATCH)).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(due) => stream::iter(&due).for_each_concurrent(FIRE_GROUPS_IN_FLIGHT, |due| start(app, due)).await,
        Err(error) => not_started(None, &error),
    }
}

async fn start(app: &App, due: &Due) {
    let decided = match settle(app, due, Attempt::Start).await {
        Err(cause @ Error::Internal(_)) => {
            not_started(Some(&due.run), &cause);
            settle(app, due, Attempt::Fail).await
        }
        decided => decided,
    };
    match decided {
        Ok(Some(Decided::Started(run))) => {
            count_run(&run);
            metrics::counter!("rota_sessions_followed_total", "outcome" => run.outcome()).increment(1);
            tracing::info!(deployment_id = %due.deployment, run_id = %run.id, retry_of = %due.run, "a session that died is followed");
        }
        Ok(Some(Decided::Ended(reason))) => {
            metrics::counter!("rota_sessions_followed_total", "outcome" => reason.as_str()).increment(1);
        }
        Ok(Some(Decided::Waits) | None) | Err(Error::Stopping) => {}
        Err(error) => not_started(Some(&due.run), &error),
    }
}

fn not_started(run: Option<&RunId>, error: &Error) {
    if telemetry::may_tell("sessions that follow others") {
        tracing::error!(retry_of = run.map(tracing::field::display), %error, "a session could not be started in place of one that died");
    }
}

async fn settle(app: &App, due: &Due, attempt: Attempt) -> Result<Option<Decided>> {
    let (policy, due) = (app.fire_policy(), due.clone());
    app.db.write(move |tx| decide(tx, &policy, &due, attempt)).await
}

/// How a session is started in place of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// As every session.
    Start,
    /// Not at all: it was tried and failed for a reason that has no type of its own.
    Fail,
}

/// What became of a session that was due to follow another one.
#[derive(Debug)]
pub enum Decided {
    /// It waits, for a place or for another attempt to start it.
    Waits,
    /// It has a run, which may hold an error.
    Started(Box<DeploymentRun>),
    /// There is none.
    Ended(NoRetry),
}

/// Starts a session in place of the one of a run that died, or says why there is none. `None` where it is not due any more, for
/// another server has decided on it.
pub fn decide(tx: &mut Tx<'_>, policy: &FirePolicy, due: &Due, attempt: Attempt) -> Result<Option<Decided>> {
    let Due { workspace, deployment, run } = due;
    // First the deployment: who pauses it, or changes its policy, holds it and then ends what is to follow.
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2", vals![workspace, deployment])?;
    let Some(dead) = Dead::find(tx, workspace, run)? else { return Ok(None) };
    let Some(of) = Of::find(tx, workspace, deployment)? else {
        return end(tx, run, NoRetry::Archived);
    };
    let cron = of.standing.cron();
    let standing = (of.standing.state, cron.as_ref());
    let step = again::step(&dead.pending, &of.policy, &dead.died, standing, dead.is_untouched, tx.now(), || {
        if of.is_held {
            return Ok(HELD);
        }
        if attempt == Attempt::Fail {
            return Ok(Verdict::Fires);
        }
        policy::verdict(tx, deployment, &of.policy)
    })?;
    let interrupts = match step {
        Step::End(reason) => return end(tx, run, reason),
        Step::Hold(pending) => return hold(tx, run, &pending),
        Step::Start(interrupts) => interrupts,
    };
    let target = of.target.as_ref().map_err(|error| Error::internal(error.to_string()));
    let error = match attempt {
        Attempt::Start => check(tx, policy, workspace, target?)?.err(),
        Attempt::Fail => Some(run::unknown_error()),
    };
    let next = again::next_occurrence(cron.as_ref(), &dead.died);
    if let Some(pending) =
        error.and_then(|error| dead.pending.failed(&of.policy, deployment.as_ref(), error, tx.now(), next))
    {
        return hold(tx, run, &pending);
    }
    let in_its_way = if interrupts > 0 { active::oldest(tx, deployment, interrupts)? } else { Vec::new() };
    let started = of.start(tx, policy, due, &dead, attempt)?;
    tx.send(
        "UPDATE session_retries SET look_at = NULL, pending = NULL, next_run_id = $2 WHERE run_id = $1",
        vals![run, &started.id],
    )?;
    finish(tx, workspace, &started, in_its_way)?;
    Ok(Some(Decided::Started(Box::new(started))))
}

/// What a fire means beyond its run: interrupts, webhooks, and the pause that an error may bring.
fn finish(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &DeploymentRun, in_its_way: Vec<SessionId>) -> Result<()> {
    let deployment = run.deployment_id.as_ref();
    run::tell(tx, &mut Outbox::default(), workspace, run)?;
    if run.error.is_some() {
        return Ok(());
    }
    for session in in_its_way {
        events::interrupt(tx, workspace, &session)?;
    }
    let sql = "UPDATE deployments SET last_run_at = $3 WHERE workspace_id = $1 AND id = $2";
    tx.send(sql, vals![workspace, deployment, run.created_at])
}

fn end(tx: &mut Tx<'_>, run: &RunId, reason: NoRetry) -> Result<Option<Decided>> {
    let sql = "UPDATE session_retries SET look_at = NULL, pending = NULL, reason = $2 WHERE run_id = $1";
    tx.send(sql, vals![run, reason.as_str()])?;
    Ok(Some(Decided::Ended(reason)))
}

fn hold(tx: &mut Tx<'_>, run: &RunId, pending: &Pending) -> Result<Option<Decided>> {
    // What waits for a place has no time: a place may be free when it is looked for again.
    let look_at = pending.retry_at.unwrap_or_else(|| tx.now().plus_micros(SESSION_RETRY_LOOK_MICROS));
    tx.send(
        "UPDATE session_retries SET look_at = $2, pending = $3 WHERE run_id = $1",
        vals![run, look_at, &serde_json::to_string(pending)?],
    )?;
    Ok(Some(Decided::Waits))
}

/// A session that died, and what is to follow it.
struct Dead {
    died: Died,
    pending: Pending,
    /// Whether nobody has set it to work since.
    is_untouched: bool,
}

impl Dead {
    /// That of a run, while it is due that something follows.
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &RunId) -> Result<Option<Self>> {
        let sql = "SELECT x.scheduled_at, x.attempt, x.has_acted, x.pending, CAST(CASE WHEN s.id IS NULL
                 OR s.archived_at IS NOT NULL OR s.stop_reason IN ('retries_exhausted', 'terminated') THEN 1 ELSE 0 END AS BIGINT) AS is_untouched
             FROM session_retries x
             JOIN deployment_runs r ON r.workspace_id = x.workspace_id AND r.id = x.run_id
             LEFT JOIN sessions s ON s.workspace_id = r.workspace_id AND s.id = r.session_id
             WHERE x.workspace_id = $1 AND x.run_id = $2 AND x.look_at <= $3 AND x.pending IS NOT NULL";
        tx.one(sql, vals![workspace, run, tx.now()], |row| {
            let (scheduled_at, attempt) = (row.time("scheduled_at")?, row.int("attempt")? as u32);
            Ok(Self {
                died: Died { scheduled_at, attempt, has_acted: row.int("has_acted")? != 0 },
                pending: row.json("pending")?,
                is_untouched: row.int("is_untouched")? != 0,
            })
        })
    }
}

/// The deployment of it.
struct Of {
    target: Result<Target>,
    policy: Policy,
    standing: Standing,
    /// Whether the schedules of its workspace are held.
    is_held: bool,
    agent: AgentReference,
}

impl Of {
    /// `None` where its agent is gone.
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &DeploymentId) -> Result<Option<Self>> {
        let sql = format!(
            "SELECT {}, {}, {}, d.cron, d.timezone, d.paused_reason
             FROM {} WHERE d.workspace_id = $1 AND d.id = $2 AND a.id IS NOT NULL",
            Target::COLUMNS,
            policy::COLUMNS,
            held::COLUMNS,
            Target::TABLES
        );
        tx.one(&sql, vals![workspace, deployment], |row| {
            Ok(Self {
                target: Target::from_row(row),
                policy: policy::from_row(row)?,
                standing: Standing::from_row(row)?,
                is_held: held::is_held(row)?,
                agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
            })
        })
    }

    fn start(
        &self,
        tx: &mut Tx<'_>,
        policy: &FirePolicy,
        due: &Due,
        dead: &Dead,
        attempt: Attempt,
    ) -> Result<DeploymentRun> {
        let Due { workspace, deployment, run } = due;
        let Died { scheduled_at, attempt: number, .. } = dead.died;
        let cause = Cause {
            trigger: TriggerContext::Schedule { scheduled_at },
            kept: Kept { follows: Some((number + 1, run.clone())), goes_on: false },
        };
        let id = RunId::new(tx.now());
        if let (Attempt::Start, Ok(target)) = (attempt, &self.target) {
            return run::start(tx, policy, workspace, target, id, cause);
        }
        let (deployment, agent, error) = (deployment.clone(), self.agent.clone(), run::unknown_error());
        run::record(tx, workspace, id, deployment, agent, cause, Err(error))
    }
}
