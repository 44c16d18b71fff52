//! Every route of the server.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, header};

use super::{
    hosts::Hosts,
    layers::{self, Front},
};
use crate::{
    app::App,
    config::Role,
    error::Error,
    limits,
    request::caller,
    resources::{
        agents, api_keys, deployment_runs, deployments, environments, events, models, organization, run_outcomes,
        schedules, sessions, threads, webhook_endpoints, workspaces,
    },
};

/// The whole server at `address` as a service. One without the role `api` answers only what needs no API key.
pub fn router(app: App, address: SocketAddr) -> Router {
    let mut router = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready));
    if app.config.metrics.listen.is_none() {
        router = router.route("/metrics", get(metrics));
    }
    let router = router.method_not_allowed_fallback(method_not_allowed);
    let router = if app.config.roles.has(Role::Api) { router.merge(api(&app)) } else { router.fallback(not_found) };
    in_front(app, address, router)
}

/// The metrics at an `address` of their own.
pub fn metrics_router(app: App, address: SocketAddr) -> Router {
    let router = Router::new().route("/metrics", get(metrics)).method_not_allowed_fallback(method_not_allowed);
    in_front(app, address, router.fallback(not_found))
}

fn in_front(app: App, address: SocketAddr, router: Router<App>) -> Router {
    let front = Front { app: app.clone(), hosts: Arc::new(Hosts::new(address, &app.config.http.hosts)) };
    router.layer(from_fn_with_state(front, layers::envelope)).with_state(app)
}

fn api(app: &App) -> Router<App> {
    Router::new()
        .route("/rota/v1/deployments/{deployment_id}/occurrences", get(deployments::occurrences::list))
        .route(
            "/rota/v1/deployments/{deployment_id}/policy",
            get(deployments::policy::get).post(deployments::policy::set),
        )
        .route("/rota/v1/deployment_runs/{deployment_run_id}", get(run_outcomes::retrieve))
        .route("/rota/v1/schedules/preview", get(schedules::preview))
        .route("/rota/v1/sessions/{session_id}", get(sessions::warnings::retrieve))
        .route("/rota/v1/webhook_endpoints", get(webhook_endpoints::list).post(webhook_endpoints::create))
        .route(
            "/rota/v1/webhook_endpoints/{webhook_endpoint_id}",
            get(webhook_endpoints::retrieve).post(webhook_endpoints::update).delete(webhook_endpoints::delete),
        )
        .route("/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries", get(webhook_endpoints::deliveries::list))
        .route(
            "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}",
            get(webhook_endpoints::deliveries::retrieve),
        )
        .route(
            "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}/replay",
            post(webhook_endpoints::deliveries::replay),
        )
        .route(
            "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/regenerate_signing_secret",
            post(webhook_endpoints::regenerate_signing_secret),
        )
        .route("/v1/agents", get(agents::list).post(agents::create))
        .route("/v1/agents/{agent_id}", get(agents::retrieve).post(agents::update))
        .route("/v1/agents/{agent_id}/archive", post(agents::archive))
        .route("/v1/agents/{agent_id}/versions", get(agents::versions))
        .route("/v1/deployment_runs", get(deployment_runs::list))
        .route("/v1/deployment_runs/{deployment_run_id}", get(deployment_runs::retrieve))
        .route("/v1/deployments", get(deployments::list).post(deployments::create))
        .route("/v1/deployments/{deployment_id}", get(deployments::retrieve).post(deployments::update))
        .route("/v1/deployments/{deployment_id}/archive", post(deployments::archive))
        .route("/v1/deployments/{deployment_id}/pause", post(deployments::pause))
        .route("/v1/deployments/{deployment_id}/run", post(deployments::run))
        .route("/v1/deployments/{deployment_id}/unpause", post(deployments::unpause))
        .route("/v1/environments", get(environments::list).post(environments::create))
        .route(
            "/v1/environments/{environment_id}",
            get(environments::retrieve).post(environments::update).delete(environments::delete),
        )
        .route("/v1/environments/{environment_id}/archive", post(environments::archive))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model_id}", get(models::retrieve))
        .route("/v1/organizations/api_keys", get(api_keys::list))
        .route("/v1/organizations/api_keys/{api_key_id}", get(api_keys::retrieve).post(api_keys::update))
        .route("/v1/organizations/me", get(organization::retrieve))
        .route("/v1/organizations/workspaces", get(workspaces::list).post(workspaces::create))
        .route("/v1/organizations/workspaces/{workspace_id}", get(workspaces::retrieve).post(workspaces::update))
        .route("/v1/organizations/workspaces/{workspace_id}/archive", post(workspaces::archive))
        .route("/v1/sessions", get(sessions::list).post(sessions::create))
        .route("/v1/sessions/{session_id}", get(sessions::retrieve).post(sessions::update).delete(sessions::delete))
        .route("/v1/sessions/{session_id}/archive", post(sessions::archive))
        .route("/v1/sessions/{session_id}/events", get(events::list).post(events::send))
        .route("/v1/sessions/{session_id}/events/stream", get(events::stream::open))
        .route("/v1/sessions/{session_id}/threads", get(threads::list))
        .route("/v1/sessions/{session_id}/threads/{thread_id}", get(threads::retrieve))
        .route("/v1/sessions/{session_id}/threads/{thread_id}/archive", post(threads::archive))
        .route("/v1/sessions/{session_id}/threads/{thread_id}/events", get(threads::events))
        .route("/v1/sessions/{session_id}/threads/{thread_id}/stream", get(threads::stream))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), layers::guard))
}

async fn not_found() -> Error {
    Error::NotFound("Not found".to_owned())
}

async fn method_not_allowed() -> Error {
    Error::MethodNotAllowed
}

/// Whether requests can be answered: the store must be readable, and take writes.
async fn ready(State(app): State<App>) -> Response {
    let looking = async {
        app.db.read(|tx| tx.one("SELECT 1", &[], |_| Ok(()))).await?;
        app.db.check_writable().await
    };
    match tokio::time::timeout(limits::READY_TIMEOUT, looking).await {
        Ok(Ok(())) if !app.is_stopping() => "ready\n".into_response(),
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
    let mut response = app.metrics.render().into_response();
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
