//! What the sender asks of the outbox and writes to it.

use rota_api::{
    Time,
    audit::ActorType,
    id::{self, WebhookEndpointId, WebhookEventId, WorkspaceId},
};

use super::{next::Next, send::Answer};
use crate::{
    db::{Also, Tx, vals},
    error::Result,
    limits::{WEBHOOK_PURGE, WEBHOOK_RETENTION_MICROS},
    resources::webhook_endpoints,
};

/// A delivery that this sender may attempt, until the claim runs out.
#[derive(Clone)]
pub(super) struct Claim {
    pub(super) workspace: WorkspaceId,
    pub(super) endpoint: WebhookEndpointId,
    pub(super) event: WebhookEventId,
    /// Which attempt this is, of all.
    attempts: i64,
    /// Which attempt this is since the last replay, from 1.
    pub(super) attempt: i64,
    pub(super) payload: String,
    pub(super) url: String,
    /// As it is stored.
    pub(super) secret: String,
}

/// At most `limit` endpoints that something is due for, in the order of their ids and beyond `after`.
///
/// It reads one index entry an endpoint that anything waits for, however much that is.
pub(super) fn waiting(tx: &mut Tx<'_>, after: &str, limit: i64) -> Result<Vec<WebhookEndpointId>> {
    tx.all(
        "WITH RECURSIVE waiting (id) AS (
             SELECT min(endpoint_id) FROM webhook_deliveries WHERE due_at IS NOT NULL AND endpoint_id > $1
             UNION ALL
             SELECT (SELECT min(d.endpoint_id) FROM webhook_deliveries d
                     WHERE d.due_at IS NOT NULL AND d.endpoint_id > w.id)
             FROM waiting w WHERE w.id IS NOT NULL)
         SELECT w.id FROM waiting w
         WHERE EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.endpoint_id = w.id AND d.due_at <= $2) LIMIT $3",
        vals![after, tx.now(), limit],
        |row| row.id(0),
    )
}

/// Takes at most `count` deliveries to an endpoint, those first that have waited longest. The claims run out at `until`.
pub(super) fn claim(tx: &mut Tx<'_>, endpoint: &WebhookEndpointId, count: i64, until: Time) -> Result<Vec<Claim>> {
    let mut found = enabled(tx, endpoint)?;
    if found.is_none() {
        // Somebody may be enabling it at this moment: what is due then is not to be parked after that.
        tx.lock("webhook_endpoints WHERE id = $1", vals![endpoint])?;
        found = enabled(tx, endpoint)?;
    }
    let Some((workspace, url, secret)) = found else {
        // An event was written at the moment in which its endpoint went.
        webhook_endpoints::deliveries::park(tx, endpoint.as_ref())?;
        return Ok(Vec::new());
    };
    let sql = format!(
        "WITH due AS MATERIALIZED (
             SELECT event_id FROM webhook_deliveries WHERE endpoint_id = $1 AND due_at <= $2
             ORDER BY due_at LIMIT $4{})
         UPDATE webhook_deliveries SET due_at = $3, claimed_at = $2, attempted_at = $2, attempts = attempts + 1
         WHERE endpoint_id = $1 AND event_id IN (SELECT event_id FROM due)
         RETURNING event_id, attempts, attempts - replayed_after, payload",
        tx.skip_locked("webhook_deliveries")
    );
    tx.all(&sql, vals![endpoint, tx.now(), until, count], |row| {
        Ok(Claim {
            workspace: workspace.clone(),
            endpoint: endpoint.clone(),
            event: row.id(0)?,
            attempts: row.int(1)?,
            attempt: row.int(2)?,
            payload: row.text(3)?,
            url: url.clone(),
            secret: secret.clone(),
        })
    })
}

/// The workspace, the URL and the secret of an endpoint that is enabled.
fn enabled(tx: &mut Tx<'_>, endpoint: &WebhookEndpointId) -> Result<Option<(WorkspaceId, String, String)>> {
    let sql = "SELECT workspace_id, url, secret FROM webhook_endpoints WHERE id = $1 AND state = 'enabled'";
    tx.one(sql, vals![endpoint], |row| Ok((row.id(0)?, row.text(1)?, row.text(2)?)))
}

/// Writes down what was answered to an attempt, and what becomes of the delivery `next`. Whether the endpoint was
/// disabled, and why.
///
/// It writes nothing when the claim has run out and another attempt was made: that one speaks for the delivery.
pub(super) fn record(tx: &mut Tx<'_>, claim: &Claim, answer: &Answer, next: Next) -> Result<Option<String>> {
    let (state, due_at) = match next {
        Next::Delivered => ("delivered", None),
        Next::Again { pause_micros } => ("pending", Some(tx.now().plus_micros(pause_micros))),
        Next::GivenUp => ("failed", None),
        Next::Parked => ("pending", None),
    };
    // Before the delivery, in the order in which an endpoint is changed too.
    tx.lock("webhook_endpoints WHERE id = $1", vals![&claim.endpoint])?;
    // What was stopped while it was being sent stays so.
    let recorded = tx.execute(
        "UPDATE webhook_deliveries SET state = $4, claimed_at = NULL,
             due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($5 AS BIGINT) END,
             response_status = $6, response_excerpt = $7, error = $8
         WHERE endpoint_id = $1 AND event_id = $2 AND attempts = $3 AND claimed_at IS NOT NULL",
        vals![
            &claim.endpoint,
            &claim.event,
            claim.attempts,
            state,
            due_at,
            answer.status,
            answer.excerpt.as_deref(),
            answer.error.as_deref()
        ],
    )?;
    if recorded == 0 {
        return Ok(None);
    }
    let error = answer.error.as_deref().unwrap_or_default();
    let reason = match next {
        Next::Delivered => {
            webhook_endpoints::record_success(tx, &claim.endpoint)?;
            None
        }
        Next::Parked => Some(error.to_owned()),
        Next::GivenUp if webhook_endpoints::record_failure(tx, &claim.endpoint)? => {
            Some(format!("Deliveries have failed for too long. The last: {error}"))
        }
        Next::GivenUp | Next::Again { .. } => None,
    };
    if let Some(reason) = &reason {
        webhook_endpoints::disable(tx, &claim.workspace, claim.endpoint.as_ref(), reason)?;
        tx.audit_also(&Also {
            by: ActorType::Server,
            operation: "webhook_endpoints.disable",
            resource: "webhook_endpoint",
            id: claim.endpoint.as_ref(),
            workspace: Some(&claim.workspace),
        });
    }
    Ok(reason)
}

/// Gives a delivery back that was not sent to its end: it is due at once.
pub(super) fn release(tx: &mut Tx<'_>, claim: &Claim) -> Result<()> {
    tx.execute(
        "UPDATE webhook_deliveries SET claimed_at = NULL,
             due_at = CASE WHEN due_at IS NULL THEN NULL ELSE CAST($4 AS BIGINT) END
         WHERE endpoint_id = $1 AND event_id = $2 AND attempts = $3 AND claimed_at IS NOT NULL",
        vals![&claim.endpoint, &claim.event, claim.attempts, tx.now()],
    )?;
    Ok(())
}

/// Ends the claims of an earlier process, for a store that only one process at a time can have.
pub fn release_all(tx: &mut Tx<'_>) -> Result<()> {
    tx.execute(
        "UPDATE webhook_deliveries SET due_at = $1, claimed_at = NULL
         WHERE due_at IS NOT NULL AND claimed_at IS NOT NULL",
        vals![tx.now()],
    )?;
    Ok(())
}

/// Removes deliveries of events that are too old. Whether there may be more.
pub(super) fn purge(tx: &mut Tx<'_>) -> Result<bool> {
    let oldest = id::floor::<WebhookEventId>(tx.now().plus_micros(-WEBHOOK_RETENTION_MICROS));
    let removed = tx.execute(
        "DELETE FROM webhook_deliveries WHERE (endpoint_id, event_id) IN (
             SELECT endpoint_id, event_id FROM webhook_deliveries WHERE event_id < $1 ORDER BY event_id LIMIT $2)",
        vals![&oldest, WEBHOOK_PURGE],
    )?;
    Ok(removed as i64 == WEBHOOK_PURGE)
}
