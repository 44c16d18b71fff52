//! Webhook endpoints of a workspace: where its events are sent, and what has become of each delivery.

pub mod deliveries;
mod store;

use axum::extract::State;
use rota_api::{
    Deleted,
    webhook::{EndpointFields, NewWebhookEndpoint, SigningSecret, UpdateEndpoint, WebhookEndpoint},
};

use crate::{
    app::App,
    error::{Error, Result},
    outgoing,
    page::{IdPage, Order},
    request::{Body, Caller, Json, Path, Query},
};

use store::ENDPOINTS;
pub use store::{
    Unsealed, disable, has_failed_for_too_long, record_failure, record_success, seal, secret_key, unsealed,
};

/// `POST /rota/v1/webhook_endpoints`.
pub async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<NewWebhookEndpoint>> {
    let fields = body.read(EndpointFields::read)?;
    check_url(&app, &fields.url)?;
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    app.db.write(move |tx| store::insert(tx, &caller.workspace, &fields, &key)).await.map(Json)
}

fn check_url(app: &App, url: &str) -> Result<()> {
    let checked = outgoing::url(url, app.config.webhooks.allow_private);
    checked.map(drop).map_err(|error| Error::invalid(format_args!("url: {error}")))
}

/// `GET /rota/v1/webhook_endpoints/{webhook_endpoint_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<WebhookEndpoint>> {
    app.db.read(move |tx| ENDPOINTS.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /rota/v1/webhook_endpoints/{webhook_endpoint_id}`.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<WebhookEndpoint>> {
    let update = body.read(UpdateEndpoint::read)?;
    if let Some(url) = &update.url {
        check_url(&app, url)?;
    }
    app.db.write(move |tx| store::update(tx, &caller.workspace, &id, &update)).await.map(Json)
}

/// `GET /rota/v1/webhook_endpoints`.
///
/// `before_id` gives the first endpoints of the list that come before it, as the administration API has it.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<IdPage<WebhookEndpoint>>> {
    let limit = match query.integer("limit", 0, 100)? {
        None | Some(0) => 20,
        Some(limit) => limit as usize,
    };
    let order = query.one_of("order", &["asc", "desc"])?.map_or(Order::Desc, Order::from_name);
    let (after, before) = (query.text("after_id").map(str::to_owned), query.text("before_id").map(str::to_owned));
    query.finish()?;
    if after.is_some() && before.is_some() {
        return Err(Error::invalid("after_id: cannot be combined with before_id"));
    }
    // A workspace has few enough to read all of them.
    let mut all = app.db.read(move |tx| ENDPOINTS.all(tx, &caller.workspace)).await?;
    if order == Order::Desc {
        all.reverse();
    }
    let place = |id: &str| {
        let found = all.iter().position(|endpoint| endpoint.id.as_ref() == id);
        found.ok_or_else(|| Error::invalid(format_args!("\"{id}\" is not a webhook endpoint of this list")))
    };
    let first = after.as_deref().map(place).transpose()?.map_or(0, |after| after + 1);
    let end = before.as_deref().map(place).transpose()?.unwrap_or(all.len());
    let data: Vec<WebhookEndpoint> = all.drain(first..end).take(limit).collect();
    Ok(Json(IdPage {
        has_more: first + data.len() < end,
        first_id: data.first().map(|endpoint| endpoint.id.to_string()),
        last_id: data.last().map(|endpoint| endpoint.id.to_string()),
        data,
    }))
}

/// `DELETE /rota/v1/webhook_endpoints/{webhook_endpoint_id}`.
pub async fn delete(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deleted>> {
    app.db.write(move |tx| store::remove(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /rota/v1/webhook_endpoints/{webhook_endpoint_id}/regenerate_signing_secret`.
pub async fn regenerate_signing_secret(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<SigningSecret>> {
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    let of = id.clone();
    let secret = app.db.write(move |tx| store::replace_secret(tx, &caller.workspace, &of, &key)).await?;
    tracing::info!(webhook_endpoint_id = id, "the signing secret of a webhook endpoint was replaced");
    Ok(Json(secret))
}
