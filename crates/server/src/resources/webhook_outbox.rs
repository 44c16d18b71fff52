//! The outbox of webhooks: an event is written in the transaction of what it tells of, once for each endpoint of the
//! workspace that wants it. Where nobody does, that is one look-up of an index and nothing more.

use rota_api::{
    id::{Id, WebhookEndpointId, WebhookEventId, WorkspaceId},
    webhook::{EventType, WebhookEvent},
};

use super::organization;
use crate::{
    db::{Notice, Tx, Val, vals},
    error::Result,
};

/// Tells the endpoints of a workspace that each of `types` has happened, in this order, to the resource `id`.
pub fn emit<const N: usize>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    types: [EventType; N],
    id: impl AsRef<str>,
) -> Result<()> {
    let subscriptions = subscriptions(tx, workspace, types)?;
    if subscriptions.is_empty() {
        return Ok(());
    }
    let organization = organization::id(tx)?;
    for r#type in types {
        let wanted = subscriptions.iter().filter(|subscription| subscription.r#type == r#type.as_str());
        let endpoints: Vec<_> = wanted.map(|subscription| &subscription.endpoint).collect();
        let event = WebhookEventId::new(tx.now());
        let payload = WebhookEvent::new(&event, tx.now(), r#type, id.as_ref(), &organization, workspace);
        insert(tx, workspace, &event, &serde_json::to_string(&payload)?, &endpoints)?;
    }
    tx.after_commit(Notice::WebhookDue);
    Ok(())
}

struct Subscription {
    r#type: String,
    endpoint: WebhookEndpointId,
}

fn subscriptions<const N: usize>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    types: [EventType; N],
) -> Result<Vec<Subscription>> {
    let places: Vec<String> = (2..N + 2).map(|place| format!("${place}")).collect();
    let sql = format!(
        "SELECT type, endpoint_id FROM webhook_subscriptions WHERE workspace_id = $1 AND type IN ({})",
        places.join(", ")
    );
    let mut params = vec![Val::from(workspace)];
    params.extend(types.iter().map(|r#type| Val::from(r#type.as_str())));
    tx.all(&sql, &params, |row| Ok(Subscription { r#type: row.text(0)?, endpoint: row.id(1)? }))
}

fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    event: &WebhookEventId,
    payload: &str,
    endpoints: &[&WebhookEndpointId],
) -> Result<()> {
    for endpoint in endpoints {
        tx.send(
            "INSERT INTO webhook_deliveries
                 (event_id, endpoint_id, workspace_id, payload, state, attempts, replayed_after, due_at, created_at)
             VALUES ($1, $2, $3, $4, 'pending', 0, 0, $5, $5)",
            vals![event, *endpoint, workspace, payload, tx.now()],
        )?;
    }
    Ok(())
}
