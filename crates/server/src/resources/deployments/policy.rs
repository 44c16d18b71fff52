//! Policies of deployments: Rota's own, beside the hosted API, which knows none. What is not set is as the hosted service
//! does it.

use axum::extract::State;
use rota_api::{
    agent::AgentReference,
    id::{DeploymentId, WorkspaceId},
    policy::{
        DeploymentPolicy, Overlap, PausedByPolicy, Policy, SILENT_AFTER_INTERVALS, SessionChoice, Spend, UpdatePolicy,
    },
    session_retry::NoRetry,
    warning::Warning,
};

use super::{active, again, continuity, deadlines, silence, spend, standing, store};
use crate::{
    app::App,
    db::{Row, Tx, vals},
    error::{Error, Result},
    request::{Body, Caller, Json, Path},
    scheduler::{
        again::is_wanted,
        policy::{self, Verdict, counts_sessions, timing},
        settle::{SkipReason, State as Standing, Timing},
    },
};

/// `GET /rota/v1/deployments/{deployment_id}/policy`.
pub async fn get(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<DeploymentPolicy>> {
    let default = app.config.scheduler.timing();
    app.db.read(move |tx| read(tx, &caller.workspace, &id)?.shown(tx, default)).await.map(Json)
}

/// `POST /rota/v1/deployments/{deployment_id}/policy`.
pub async fn set(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<DeploymentPolicy>> {
    let update = body.read(UpdatePolicy::read)?;
    let default = app.config.scheduler.timing();
    let write = move |tx: &mut Tx<'_>| {
        write(tx, &caller.workspace, &id, &update)?;
        read(tx, &caller.workspace, &id)?.shown(tx, default)
    };
    let policy = app.db.write(write).await?;
    tracing::info!(deployment_id = %policy.deployment_id, "the policy of a deployment was set");
    Ok(Json(policy))
}

/// A policy, and what of its deployment is shown with it.
struct Stored {
    id: DeploymentId,
    policy: Policy,
    agent: AgentReference,
    paused_by: Option<PausedByPolicy>,
}

impl Stored {
    fn shown(self, tx: &mut Tx<'_>, default: Timing) -> Result<DeploymentPolicy> {
        let warnings = deadlines::warnings(tx, &self.agent, &self.policy)?;
        Ok(shown(self, warnings, default))
    }
}

fn shown(stored: Stored, warnings: Vec<Warning>, default: Timing) -> DeploymentPolicy {
    let policy = stored.policy;
    let timing = timing(&policy, default);
    DeploymentPolicy {
        r#type: "deployment_policy",
        deployment_id: stored.id,
        overlap: policy.overlap.unwrap_or_default(),
        max_concurrent_sessions: policy.max_concurrent_sessions,
        retry: policy.retry.unwrap_or_default(),
        catch_up_seconds: timing.catch_up.as_secs() as u32,
        jitter: timing.jitter,
        silent_after_intervals: policy.silent_after_intervals.unwrap_or(SILENT_AFTER_INTERVALS),
        unattended: policy.unattended.unwrap_or_default(),
        max_session_seconds: policy.max_session_seconds,
        max_idle_waiting_seconds: policy.max_idle_waiting_seconds,
        pause_after_failures: policy.pause_after_failures,
        starts_at: policy.starts_at,
        ends_at: policy.ends_at,
        paused_by: stored.paused_by,
        warnings,
        spend: policy.spend,
        session: policy.session.unwrap_or_default(),
        carry_forward: policy.carry_forward,
    }
}

fn read(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Stored> {
    let sql = format!(
        "SELECT d.id, {COLUMNS}, d.agent_id, d.agent_version, d.paused_reason
         FROM deployments d WHERE d.workspace_id = $1 AND d.id = $2"
    );
    tx.one_or(
        &sql,
        vals![workspace, id],
        |row| {
            // Of what pauses for another reason it says nothing.
            let paused_by = row.opt_text("paused_reason")?.and_then(|reason| serde_json::from_str(&reason).ok());
            Ok(Stored {
                id: row.id("id")?,
                policy: from_row(row)?,
                agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
                paused_by,
            })
        },
        || Error::not_found("Deployment", id),
    )
}

/// What [`from_row`] reads of deployments `d`.
pub(super) const COLUMNS: &str =
    "d.overlap, d.max_concurrent_sessions, d.retry, d.catch_up_seconds, d.jitter, d.silent_after_intervals,
    d.spend_day, d.spend_month, d.session_choice, d.carry_forward, d.unattended, d.max_session_seconds,
    d.max_idle_waiting_seconds, d.pause_after_failures, d.starts_at, d.ends_at";

pub(super) fn from_row(row: &Row<'_>) -> Result<Policy> {
    let unknown = |what: &str| Error::internal(format!("the store has a policy with {what}"));
    let number = |column| row.opt_int(column).map(|number| number.map(|number| number as u32));
    let overlap = row.opt_text("overlap")?.map(|name| Overlap::from_name(&name).ok_or_else(|| unknown(&name)));
    Ok(Policy {
        overlap: overlap.transpose()?,
        max_concurrent_sessions: number("max_concurrent_sessions")?,
        retry: row.opt_json("retry")?,
        catch_up_seconds: number("catch_up_seconds")?,
        jitter: row.opt_text("jitter")?.map(|jitter| jitter.parse()).transpose().map_err(|e: String| unknown(&e))?,
        silent_after_intervals: number("silent_after_intervals")?,
        spend: spend::from_row(row)?,
        session: continuity::choice_of_row(row)?,
        carry_forward: number("carry_forward")?,
        ..deadlines::of_row(row)?
    })
}

/// The times of the schedule stand in the policy: a change of them is one of the schedule.
fn write(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdatePolicy) -> Result<()> {
    standing::changing(tx, workspace, id, |tx, state| match state {
        Standing::Archived => Err(store::archived()),
        Standing::Active | Standing::Paused => set_policy(tx, workspace, id, update),
    })
}

fn set_policy(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdatePolicy) -> Result<()> {
    let Stored { id, policy: stored, .. } = read(tx, workspace, id)?;
    let mut policy = deadlines::without_defaults(update.merged(&stored)?);
    if policy.starts_at.zip(policy.ends_at).is_some_and(|(starts_at, ends_at)| ends_at <= starts_at) {
        return Err(Error::invalid("ends_at: must be later than starts_at"));
    }
    // What is as it is by default anyway costs nothing while it is not set.
    policy.overlap = policy.overlap.filter(|overlap| *overlap != Overlap::Allow);
    policy.session = policy.session.filter(|session| *session != SessionChoice::New);
    if policy == stored {
        return Ok(());
    }
    // A session that comes to rest meanwhile would still see the old policy, and wake nobody. Sessions are held before what is counted
    // of them: so their runners do.
    if policy.overlap == Some(Overlap::QueueOne) && stored.overlap != policy.overlap {
        active::hold(tx, &id)?;
    }
    deadlines::set(tx, workspace, &id, &policy, &stored)?;
    let cents = |of: fn(Spend) -> Option<u32>| policy.spend.and_then(of).map(i64::from);
    // The scheduler looks at once: what is due, and what waits, may be decided otherwise now.
    tx.execute(
        "UPDATE deployments SET overlap = $3, max_concurrent_sessions = $4, retry = $5, catch_up_seconds = $6,
             jitter = $7, spend_day = $9, spend_month = $10, session_choice = $11, carry_forward = $12,
             next_fire_at = CASE WHEN next_fire_at > $8 THEN $8 ELSE next_fire_at END, silent_after_intervals = $13
         WHERE workspace_id = $1 AND id = $2",
        vals![
            workspace,
            &id,
            policy.overlap.map(Overlap::as_str),
            policy.max_concurrent_sessions.map(i64::from),
            policy.retry.map(|retry| serde_json::to_string(&retry)).transpose()?.as_deref(),
            policy.catch_up_seconds.map(i64::from),
            policy.jitter.map(|jitter| jitter.to_string()).as_deref(),
            tx.now(),
            cents(|spend| spend.per_day_cents),
            cents(|spend| spend.per_month_cents),
            policy.session.map(SessionChoice::as_str),
            policy.carry_forward.map(i64::from),
            policy.silent_after_intervals.map(i64::from)
        ],
    )?;
    if policy.silent_after_intervals != stored.silent_after_intervals {
        silence::look_soon(tx, &id)?;
    }
    if !is_wanted(&policy) {
        again::end_all(tx, id.as_ref(), NoRetry::Policy)?;
    }
    Ok(())
}

/// What becomes of a start now, by what the deployment has spent and how many of its sessions are at work.
pub(super) fn verdict(tx: &mut Tx<'_>, deployment: &DeploymentId, of: &Policy) -> Result<Verdict> {
    if spend::reached(tx, deployment, of.spend.as_ref())?.is_some() {
        return Ok(Verdict::Skipped(SkipReason::Spend));
    }
    if !counts_sessions(of) {
        return Ok(Verdict::Fires);
    }
    Ok(policy::verdict(of, active::count(tx, deployment)?))
}
