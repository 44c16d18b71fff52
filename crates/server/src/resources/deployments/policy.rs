//! Policies of deployments: Rota's own, beside the hosted API, which knows none. What is not set is as the hosted service
//! does it.

use axum::extract::State;
use rota_api::{
    id::{DeploymentId, WorkspaceId},
    policy::{DeploymentPolicy, Overlap, Policy, SessionChoice, Spend, UpdatePolicy},
    session_retry::NoRetry,
};

use super::{active, again, continuity, spend, store};
use crate::{
    app::App,
    db::{Row, Tx, vals},
    error::{Error, Result},
    request::{Body, Caller, Json, Path},
    scheduler::{again::is_wanted, policy::timing, settle::Timing},
};

/// `GET /rota/v1/deployments/{deployment_id}/policy`.
pub async fn get(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<DeploymentPolicy>> {
    let default = app.config.scheduler.timing();
    app.db.read(move |tx| read(tx, &caller.workspace, &id).map(|found| shown(found, default))).await.map(Json)
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
    let write = move |tx: &mut Tx<'_>| write(tx, &caller.workspace, &id, &update).map(|found| shown(found, default));
    app.db.write(write).await.map(Json)
}

fn shown((deployment_id, policy): (DeploymentId, Policy), default: Timing) -> DeploymentPolicy {
    let timing = timing(&policy, default);
    DeploymentPolicy {
        r#type: "deployment_policy",
        deployment_id,
        overlap: policy.overlap.unwrap_or_default(),
        max_concurrent_sessions: policy.max_concurrent_sessions,
        retry: policy.retry.unwrap_or_default(),
        catch_up_seconds: timing.catch_up.as_secs() as u32,
        jitter: timing.jitter,
        spend: policy.spend,
        session: policy.session.unwrap_or_default(),
        carry_forward: policy.carry_forward,
    }
}

fn read(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<(DeploymentId, Policy)> {
    tx.one_or(
        "SELECT id, overlap, max_concurrent_sessions, retry, catch_up_seconds, jitter, spend_day, spend_month,
             session_choice, carry_forward FROM deployments
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id],
        |row| Ok((row.id("id")?, from_row(row)?)),
        || Error::not_found("Deployment", id),
    )
}

/// Reads the columns `overlap`, `max_concurrent_sessions`, `retry`, `catch_up_seconds`, `jitter`, `spend_day`, `spend_month`,
/// `session_choice` and `carry_forward`.
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
        spend: spend::from_row(row)?,
        session: continuity::choice_of_row(row)?,
        carry_forward: number("carry_forward")?,
    })
}

fn write(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdatePolicy) -> Result<(DeploymentId, Policy)> {
    store::get_open(tx, workspace, id)?;
    let (id, stored) = read(tx, workspace, id)?;
    let mut policy = update.merged(&stored)?;
    // What is as it is by default anyway costs nothing while it is not set.
    policy.overlap = policy.overlap.filter(|overlap| *overlap != Overlap::Allow);
    policy.session = policy.session.filter(|session| *session != SessionChoice::New);
    if policy == stored {
        return Ok((id, policy));
    }
    let cents = |of: fn(Spend) -> Option<u32>| policy.spend.and_then(of).map(i64::from);
    // The scheduler looks at once: what is due, and what waits, may be decided otherwise now.
    tx.execute(
        "UPDATE deployments SET overlap = $3, max_concurrent_sessions = $4, retry = $5, catch_up_seconds = $6,
             jitter = $7, spend_day = $9, spend_month = $10, session_choice = $11, carry_forward = $12,
             next_fire_at = CASE WHEN next_fire_at > $8 THEN $8 ELSE next_fire_at END
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
            policy.carry_forward.map(i64::from)
        ],
    )?;
    if !is_wanted(&policy) {
        again::end_all(tx, id.as_ref(), NoRetry::Policy)?;
    }
    // A session that comes to rest meanwhile would still see the old policy, and wake nobody.
    if policy.overlap == Some(Overlap::QueueOne) && stored.overlap != policy.overlap {
        active::hold(tx, &id)?;
    }
    Ok((id, policy))
}
