//! The deliveries of an endpoint: listed, and replayed.

use axum::extract::State;
use rota_api::{
    id::WorkspaceId,
    webhook::{DeliveryState, EndpointState, WebhookDelivery},
};

use super::store::ENDPOINTS;
use crate::{
    app::App,
    db::{Notice, Row, Select, Tx, vals},
    error::{Error, Result},
    page::{Order, Page},
    request::{Caller, Json, Path, PathAndQuery},
};

/// `GET /rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries`, newest first.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(endpoint, query): PathAndQuery<String>,
) -> Result<Json<Page<WebhookDelivery>>> {
    let mut select = Select::new(SELECT, &caller.workspace);
    select.text("endpoint_id =", Some(&endpoint));
    let state = query.one_of("state", DeliveryState::NAMES)?;
    // Written out, so that the index of failed deliveries is used.
    select.when(state == Some("pending"), "state = 'pending'");
    select.when(state == Some("delivered"), "state = 'delivered'");
    select.when(state == Some("failed"), "state = 'failed'");
    let paging = query.paging(20, 100, Order::Desc)?;
    app.db
        .read(move |tx| {
            ENDPOINTS.get(tx, &caller.workspace, &endpoint)?;
            let rows = select.page(tx, "event_id", &paging, from_row)?;
            Ok(paging.page(rows, |delivery| delivery.id.to_string()))
        })
        .await
        .map(Json)
}

/// `GET /rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path((endpoint, event)): Path<(String, String)>,
) -> Result<Json<WebhookDelivery>> {
    app.db.read(move |tx| get(tx, &caller.workspace, &endpoint, &event)).await.map(Json)
}

/// `POST /rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}/replay`: sends it again, now and
/// with all its attempts, whatever has become of it.
pub async fn replay(
    State(app): State<App>,
    caller: Caller,
    Path((endpoint, event)): Path<(String, String)>,
) -> Result<Json<WebhookDelivery>> {
    app.db.write(move |tx| set_replayed(tx, &caller.workspace, &endpoint, &event)).await.map(Json)
}

fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, endpoint: &str, event: &str) -> Result<WebhookDelivery> {
    ENDPOINTS.get(tx, workspace, endpoint)?;
    let sql = format!("{SELECT} AND endpoint_id = $2 AND event_id = $3");
    tx.one_or(&sql, vals![workspace, endpoint, event], from_row, || Error::not_found("Webhook delivery", event))
}

fn set_replayed(tx: &mut Tx<'_>, workspace: &WorkspaceId, endpoint: &str, event: &str) -> Result<WebhookDelivery> {
    if ENDPOINTS.get(tx, workspace, endpoint)?.state == EndpointState::Disabled {
        return Err(Error::invalid(format_args!(
            "Webhook endpoint `{endpoint}` is disabled: enable it first. What is pending is then sent by itself."
        )));
    }
    // One that is being sent needs no replay.
    tx.execute(
        "UPDATE webhook_deliveries SET state = 'pending', due_at = $4, replayed_after = attempts
         WHERE workspace_id = $1 AND endpoint_id = $2 AND event_id = $3 AND claimed_at IS NULL",
        vals![workspace, endpoint, event, tx.now()],
    )?;
    tx.after_commit(Notice::WebhookDue);
    get(tx, workspace, endpoint, event)
}

/// Stops what is not delivered to an endpoint yet: it waits until the endpoint is enabled.
pub fn park(tx: &mut Tx<'_>, endpoint: &str) -> Result<()> {
    tx.execute(
        "UPDATE webhook_deliveries SET due_at = NULL WHERE endpoint_id = $1 AND due_at IS NOT NULL",
        vals![endpoint],
    )?;
    Ok(())
}

/// Sends what was stopped, with all its attempts. One that is under way since before no longer speaks for its delivery.
pub(super) fn resume(tx: &mut Tx<'_>, endpoint: &str) -> Result<()> {
    tx.execute(
        "UPDATE webhook_deliveries SET due_at = $2, claimed_at = NULL, replayed_after = attempts
         WHERE endpoint_id = $1 AND state = 'pending' AND due_at IS NULL",
        vals![endpoint, tx.now()],
    )?;
    tx.after_commit(Notice::WebhookDue);
    Ok(())
}

const SELECT: &str = "SELECT event_id, endpoint_id, state, attempts, attempted_at, due_at, claimed_at, response_status,
    response_excerpt, error, payload, created_at FROM webhook_deliveries WHERE workspace_id = $1";

fn from_row(row: &Row<'_>) -> Result<WebhookDelivery> {
    let is_under_way = row.opt_time("claimed_at")?.is_some();
    Ok(WebhookDelivery {
        id: row.id("event_id")?,
        r#type: "webhook_delivery",
        webhook_endpoint_id: row.id("endpoint_id")?,
        state: row.name("state", DeliveryState::from_name)?,
        attempts: row.int("attempts")?,
        last_attempt_at: row.opt_time("attempted_at")?,
        next_attempt_at: row.opt_time("due_at")?.filter(|_| !is_under_way),
        response_status: row.opt_int("response_status")?,
        response_excerpt: row.opt_text("response_excerpt")?,
        error: row.opt_text("error")?,
        event: row.raw("payload")?,
        created_at: row.time("created_at")?,
    })
}
