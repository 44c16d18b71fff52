//! Policies of deployments: Rota's own, beside the hosted API, which knows none. What is not set is as the hosted service
//! does it.

use axum::extract::State;
use rota_api::{
    id::{DeploymentId, WorkspaceId},
    policy::{DeploymentPolicy, Overlap, Policy, UpdatePolicy},
};

use super::{active, store};
use crate::{
    app::App,
    db::{Row, Tx, vals},
    error::{Error, Result},
    request::{Body, Caller, Json, Path},
    scheduler::{policy::timing, settle::Timing},
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
    let policy = app.db.write(write).await?;
    tracing::info!(deployment_id = %policy.deployment_id, "the policy of a deployment was set");
    Ok(Json(policy))
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
    }
}

fn read(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<(DeploymentId, Policy)> {
    tx.one_or(
        "SELECT id, overlap, max_concurrent_sessions, retry, catch_up_seconds, jitter FROM deployments
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id],
        |row| Ok((row.id("id")?, from_row(row)?)),
        || Error::not_found("Deployment", id),
    )
}

/// Reads the columns `overlap`, `max_concurrent_sessions`, `retry`, `catch_up_seconds` and `jitter`.
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
    })
}

fn write(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, update: &UpdatePolicy) -> Result<(DeploymentId, Policy)> {
    store::get_open(tx, workspace, id)?;
    let (id, stored) = read(tx, workspace, id)?;
    let mut policy = update.merged(&stored)?;
    // What is as it is by default anyway costs nothing while it is not set.
    policy.overlap = policy.overlap.filter(|overlap| *overlap != Overlap::Allow);
    if policy == stored {
        return Ok((id, policy));
    }
    // The scheduler looks at once: what is due, and what waits, may be decided otherwise now.
    tx.execute(
        "UPDATE deployments SET overlap = $3, max_concurrent_sessions = $4, retry = $5, catch_up_seconds = $6,
             jitter = $7, next_fire_at = CASE WHEN next_fire_at > $8 THEN $8 ELSE next_fire_at END
         WHERE workspace_id = $1 AND id = $2",
        vals![
            workspace,
            &id,
            policy.overlap.map(Overlap::as_str),
            policy.max_concurrent_sessions.map(i64::from),
            policy.retry.map(|retry| serde_json::to_string(&retry)).transpose()?.as_deref(),
            policy.catch_up_seconds.map(i64::from),
            policy.jitter.map(|jitter| jitter.to_string()).as_deref(),
            tx.now()
        ],
    )?;
    // A session that comes to rest meanwhile would still see the old policy, and wake nobody.
    if policy.overlap == Some(Overlap::QueueOne) && stored.overlap != policy.overlap {
        active::hold(tx, &id)?;
    }
    Ok((id, policy))
}
