//! What a deployment may spend, and what it has spent: a counter for each day, which grows in the transaction that writes what a
//! session has cost.
//!
//! Whoever holds the row of a day may want that of the deployment's failures next, never the other way round (`failures.rs`).

use axum::extract::FromRequestParts;
use http::request::Parts;
use rota_api::{
    id::{DeploymentId, SessionId, WorkspaceId},
    listed_run::Cost,
    policy::Spend,
    rota_event::{Details, SpendPeriod, SpendReached},
    webhook::EventType,
};

use crate::{
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::{RETENTION_ROWS, SPEND_KEPT_MICROS},
    resources::webhook_outbox,
    scheduler::spend::{self, Period, Spent},
};

/// Adds to what the deployment of a session has spent, where it has one, by what the session's cost grows to `nanos`. To be called before
/// that is written. Whoever wants to know is told when a ceiling is reached.
pub fn add(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, nanos: i64) -> Result<()> {
    let now = tx.now();
    let of = "SELECT d.id, d.spend_day, d.spend_month, coalesce(s.cost_nanos, 0) AS cost
        FROM sessions s JOIN deployments d ON d.workspace_id = s.workspace_id AND d.id = s.deployment_id
        WHERE s.workspace_id = $1 AND s.id = $2 AND (d.spend_day IS NOT NULL OR d.spend_month IS NOT NULL)";
    let read =
        |row: &Row<'_>| Ok((row.id::<DeploymentId>("id")?, from_row(row)?.unwrap_or_default(), row.int("cost")?));
    let limited = tx.one(of, vals![workspace, session], read)?;
    tx.send(
        "INSERT INTO deployment_spend (deployment_id, day, workspace_id, nanos, spent_at)
         SELECT deployment_id, CAST($3 AS BIGINT), workspace_id, CAST($4 AS BIGINT) - coalesce(cost_nanos, 0), CAST($5 AS BIGINT)
             FROM sessions WHERE workspace_id = $1 AND id = $2 AND deployment_id IS NOT NULL
                 AND coalesce(cost_nanos, 0) < CAST($4 AS BIGINT)
         ON CONFLICT (deployment_id, day) DO UPDATE
             SET nanos = deployment_spend.nanos + excluded.nanos, spent_at = excluded.spent_at",
        vals![workspace, session, spend::day(now), nanos, now],
    )?;
    let Some((deployment, ceiling, cost)) = limited else { return Ok(()) };
    // The row of the day is held by now: of two sessions that add to it, the second one sees what the first has added.
    let after = spent(tx, &deployment)?;
    let more = (nanos - cost).max(0);
    let before = Spent { day: after.day - more, month: after.month - more };
    let Some(period) = spend::crossed(&ceiling, before, after) else { return Ok(()) };
    let (period, cents, spent) = match period {
        Period::Day => (SpendPeriod::Day, ceiling.per_day_cents, after.day),
        Period::Month => (SpendPeriod::Month, ceiling.per_month_cents, after.month),
    };
    let details = SpendReached { period, ceiling_cents: cents.unwrap_or_default(), spent: Cost::from_nanos(spent) };
    webhook_outbox::emit_own(tx, workspace, EventType::RotaSpendReached, &deployment, |_| {
        Ok(Some(Details::SpendReached(details)))
    })
}

/// Reads the columns `spend_day` and `spend_month`.
pub(super) fn from_row(row: &Row<'_>) -> Result<Option<Spend>> {
    let cents = |column| row.opt_int(column).map(|cents| cents.map(|cents| cents as u32));
    let spend = Spend { per_day_cents: cents("spend_day")?, per_month_cents: cents("spend_month")? };
    Ok(Some(spend).filter(|spend| *spend != Spend::default()))
}

/// The ceiling that a deployment has reached, if it has one that it has reached, and what it has spent. One that has none costs nothing.
pub(super) fn reached(
    tx: &mut Tx<'_>,
    deployment: &DeploymentId,
    spend: Option<&Spend>,
) -> Result<Option<(Spent, Period)>> {
    let Some(spend) = spend else { return Ok(None) };
    let spent = spent(tx, deployment)?;
    Ok(spend::reached(spend, spent).map(|period| (spent, period)))
}

fn spent(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<Spent> {
    let (today, first) = (spend::day(tx.now()), spend::first_of_month(tx.now()));
    let sql = "SELECT day, nanos FROM deployment_spend WHERE deployment_id = $1 AND day >= $2 AND day <= $3";
    let days = tx.all(sql, vals![deployment, first, today], |row| Ok((row.int(0)?, row.int(1)?)))?;
    Ok(days.into_iter().fold(Spent::default(), |Spent { day, month }, (of, nanos)| Spent {
        day: if of == today { nanos } else { day },
        month: month.saturating_add(nanos),
    }))
}

/// Removes what was spent on days that no policy asks for any more, some of it in each transaction. Whether there may be more.
pub fn forget(tx: &mut Tx<'_>) -> Result<bool> {
    let first = spend::first_of_month(tx.now().plus_micros(-SPEND_KEPT_MICROS));
    let removed = tx.execute(
        "DELETE FROM deployment_spend WHERE (deployment_id, day) IN (
             SELECT deployment_id, day FROM deployment_spend WHERE day < $1 ORDER BY day LIMIT $2)",
        vals![first, RETENTION_ROWS],
    )?;
    Ok(removed as i64 == RETENTION_ROWS)
}

/// That somebody may start a deployment by hand, as far as what it may spend goes. Who forces it may.
///
/// # Errors
/// 400 with the code `spend_ceiling_reached`.
pub(super) fn check_by_hand(
    tx: &mut Tx<'_>,
    deployment: &DeploymentId,
    spend: Option<&Spend>,
    force: bool,
) -> Result<()> {
    let Some(ceiling) = spend.filter(|_| !force) else { return Ok(()) };
    match reached(tx, deployment, spend)? {
        None => Ok(()),
        Some((spent, period)) => Err(Error::Rejected {
            code: "spend_ceiling_reached",
            message: format!(
                "the deployment has spent {}; raise `spend` in its policy, or start it all the same with the header \
                 `rota-force: true`",
                spend::words(ceiling, spent, period)
            ),
        }),
    }
}

/// Whether a request starts a deployment also where it has spent what it may: its header `rota-force`.
pub struct Force(pub bool);

impl<S: Sync> FromRequestParts<S> for Force {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        match parts.headers.get("rota-force").map(http::HeaderValue::as_bytes) {
            None | Some(b"false") => Ok(Self(false)),
            Some(b"true") => Ok(Self(true)),
            Some(_) => Err(Error::invalid("the rota-force header must be `true` or `false`")),
        }
    }
}
