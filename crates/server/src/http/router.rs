//! Every route of the server: those of `operations.rs`, and the probes.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, header};

use super::{
    absent::{method_not_allowed, not_found, nothing},
    hosts::Hosts,
    layers::{self, Front},
    operations,
};
use crate::{app::App, config::Role, console, error::Error, limits, request::caller, resources::work};

/// The whole server at `address` as a service. One without the role `api` answers only what needs no API key.
pub fn router(app: App, address: SocketAddr) -> Router {
    let mut router = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready));
    if app.config.metrics.listen.is_none() {
        router = router.route("/metrics", get(metrics));
    }
    let router = router.method_not_allowed_fallback(method_not_allowed);
    let router = if app.config.roles.has(Role::Api) {
        router.merge(api(&app)).merge(console()).layer(from_fn(console::lead_to))
    } else {
        router.fallback(nothing)
    };
    in_front(app, address, router)
}

/// The metrics at an `address` of their own.
pub fn metrics_router(app: App, address: SocketAddr) -> Router {
    let router = Router::new().route("/metrics", get(metrics)).method_not_allowed_fallback(method_not_allowed);
    in_front(app, address, router.fallback(nothing))
}

fn in_front(app: App, address: SocketAddr, router: Router<App>) -> Router {
    let front = Front { app: app.clone(), hosts: Arc::new(Hosts::new(address, &app.config.http.hosts)) };
    router.layer(from_fn_with_state(front, layers::envelope)).with_state(app)
}

fn console() -> Router<App> {
    console::routes().method_not_allowed_fallback(method_not_allowed)
}

fn api(app: &App) -> Router<App> {
    let table = operations::operations().into_iter();
    table
        .fold(Router::new(), |router, operation| router.route(operation.path, operation.handler))
        .route("/v1/environments/{environment_id}/work/poll", post(work::update_poll))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), layers::guard))
}

/// Whether requests can be answered: the store must be readable, and take writes.
async fn ready(State(app): State<App>) -> Response {
    let looking = async {
        app.db.read(|tx| tx.one("SELECT 1", &[], |_| Ok(()))).await?;
        app.db.check_writable().await
    };
    match tokio::time::timeout(limits::READY_TIMEOUT, looking).await {
        Ok(Ok(())) if !app.is_stopping() && !app.brake.is_draining() => "ready\n".into_response(),
        Ok(Ok(())) => Error::Stopping.into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(_) => Error::Database("it does not answer".into()).into_response(),
    }
}

/// Everything that is counted, in the Prometheus text format.
async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let sent = caller::key_of(&headers).map(caller::hash);
    if app.metrics_key.is_some() && app.metrics_key != sent {
        return Error::Unauthenticated("the metrics need their key, as `Authorization: Bearer`").into_response();
    }
    let mut response = app.scrape.text(&app.metrics).await.into_response();
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
