//! What holds for every request: an id, a key, the beta header, a time limit, the error envelope.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use rota_api::{
    error::{ErrorBody, ErrorDetail, ErrorDetails},
    id::{Id, RequestId},
};
use tracing::{Instrument, Span, field};

use super::{
    acts, answers,
    guests::Guest,
    hosts::Hosts,
    operations::{self, Beta},
};
use crate::{
    app::App,
    clock::Stopwatch,
    db::acting,
    error::{Error, Result},
    limits,
    request::{
        Coding, beta,
        caller::{self, Admission},
    },
    telemetry, traces,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const ORGANIZATION_ID: HeaderName = HeaderName::from_static("anthropic-organization-id");
const WORKSPACE_ID: HeaderName = HeaderName::from_static("anthropic-workspace-id");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What every request is held against.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) app: App,
    pub(super) hosts: Arc<Hosts>,
}

/// The outermost layer: gives the request an id, and writes what went wrong.
pub(super) async fn envelope(State(Front { app, hosts }): State<Front>, request: Request, next: Next) -> Response {
    let watch = Stopwatch::start();
    let id = RequestId::new(app.clock.now());
    let method = known(request.method());
    let path = request.uri().path().to_owned();
    let mut span = traced(&app, &id, &path, request.headers());
    let mut response = if let Some(error) = refused(method, &hosts, request.headers()) {
        error.into_response()
    } else {
        let handling = telemetry::of_request(id.as_ref(), caught(next.run(request)));
        handling.instrument(tracing::info_span!("request", request_id = %id, key_id = field::Empty)).await
    };
    let method = method.unwrap_or("other");
    let route = response.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    if let Some(error) = response.extensions_mut().remove::<Arc<Error>>() {
        if let Error::Database(cause) | Error::Internal(cause) = &*error
            && telemetry::may_tell(&route)
        {
            let path: String = path.chars().take(limits::LOGGED_PATH).collect();
            tracing::error!(request_id = %id, method, path, error = %cause, "request failed");
        }
        write_error(&mut response, &error, &id);
        if is_final(&error, &path, &route) {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, value(id.as_ref()));
    headers.insert(ORGANIZATION_ID, app.organization_header.clone());
    let status = response.status().as_u16();
    tracing::debug!(request_id = %id, method, path, status, seconds = watch.seconds(), "request");
    span.rename(|| format!("{method} {route}"));
    span.set("http.request.method", method);
    span.set("http.route", route.as_str());
    span.set("http.response.status_code", status);
    if status >= 500 {
        span.fail(&status.to_string());
    }
    drop(span);
    count(method, route, status, watch);
    response
}

/// The span of a request; none of those that only look how the server is.
fn traced(app: &App, id: &RequestId, path: &str, headers: &HeaderMap) -> traces::Span {
    if matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return traces::Span::none();
    }
    let traceparent = headers.get("traceparent").and_then(|header| header.to_str().ok());
    let mut span = app.traces.request(id.as_ref(), || "request".to_owned(), traceparent);
    span.set("rota.request.id", id.to_string());
    span
}

fn count(method: &'static str, route: String, status: u16, watch: Stopwatch) {
    let labels = [("method", method.to_owned()), ("route", route), ("status", status.to_string())];
    metrics::counter!("rota_http_requests_total", &labels).increment(1);
    metrics::histogram!("rota_http_request_seconds", &labels[..2]).record(watch.seconds());
}

/// The name of a method that HTTP has.
fn known(method: &Method) -> Option<&'static str> {
    Some(match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => return None,
    })
}

/// Why a request is not looked at any further.
fn refused(method: Option<&str>, hosts: &Hosts, headers: &HeaderMap) -> Option<Error> {
    if method.is_none() {
        return Some(Error::MethodNotAllowed);
    }
    if method == Some("OPTIONS") && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        let message = "CORS requests are not answered: pages of other origins cannot call this server from a browser, which \
            would show their readers its key; call it from the page's own server";
        return Some(Error::Forbidden(message.to_owned()));
    }
    let message = "the `Host` header names none of this server's hosts: its operator lists them in `[http] hosts`";
    (!hosts.answers(headers)).then(|| Error::Forbidden(message.to_owned()))
}

/// The whole answer to what is not HTTP: hyper knows its status, and nothing else is known about the request.
pub(super) fn not_http(app: &App, status: u16) -> Vec<u8> {
    let id = RequestId::new(app.clock.now());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let message = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            format!("the request has more than {} KB or 100 fields of headers", limits::MAX_HEADER_BYTES / 1024)
        }
        StatusCode::URI_TOO_LONG => "the URL is too long".to_owned(),
        _ => "the request is not HTTP/1.1: its first line or one of its headers cannot be read".to_owned(),
    };
    let body = error_text(&Error::Invalid(message), &id);
    count("other", "none".to_owned(), status.as_u16(), Stopwatch::start());
    let organization = app.organization_header.to_str().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\
         {REQUEST_ID}: {}\r\n{ORGANIZATION_ID}: {organization}\r\n\r\n",
        body.len(),
        id.as_ref()
    );
    [head.into_bytes(), body].concat()
}

/// The answer, also when what makes it panics.
fn caught(answering: impl Future<Output = Response>) -> impl Future<Output = Response> {
    AssertUnwindSafe(answering).catch_unwind().map(|answered| {
        answered.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Error::internal(format!("a handler panicked: {}", said.unwrap_or("no message"))).into_response()
        })
    })
}

fn error_text(error: &Error, id: &RequestId) -> Vec<u8> {
    let message = match error {
        Error::Database(_) | Error::Internal(_) => "Internal server error".to_owned(),
        told => told.to_string(),
    };
    let details = match error {
        Error::Rejected { code, .. } | Error::Gone { code, .. } => {
            Some(ErrorDetails { current_state: None, error_visibility: None, error_code: code })
        }
        Error::LeaseLost { state, .. } => Some(ErrorDetails {
            current_state: Some((**state).clone()),
            error_visibility: Some("user_facing"),
            error_code: "heartbeat_precondition_failed",
        }),
        _ => None,
    };
    let (conflicting_memory_id, conflicting_path) = match error {
        Error::MemoryPathConflict { memory_id, path, .. } => (Some(memory_id.as_str()), Some(path.as_str())),
        _ => (None, None),
    };
    let body = ErrorBody {
        r#type: "error",
        error: ErrorDetail {
            r#type: error.wire_type(),
            message: &message,
            conflicting_memory_id,
            conflicting_path,
            details,
        },
        request_id: id.as_ref(),
    };
    serde_json::to_vec(&body).expect("an error is plain text")
}

fn write_error(response: &mut Response, error: &Error, id: &RequestId) {
    *response.body_mut() = Body::from(error_text(error, id));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(error, Error::RateLimited(_) | Error::TooManyDeliveries(_)) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
}

/// Whether an error says that no try will do better, with `x-should-retry: false`. As the hosted service was recorded to do:
/// what nobody may enter says so, unknown paths, and each refusal of an environment or of what administrators manage; the other
/// resources never do, not even for a stale version. Rota's own do.
fn is_final(error: &Error, path: &str, route: &str) -> bool {
    let resource = || path.split('/').nth(2).unwrap_or_default();
    match error {
        Error::Unauthenticated(_) | Error::Held(_) | Error::MemoryPathConflict { .. } | Error::MemoryPrecondition => {
            true
        }
        Error::NotFound(_) if route == "none" => !matches!(resource(), "deployments" | "dreams"),
        Error::Invalid(_)
        | Error::Rejected { .. }
        | Error::Forbidden(_)
        | Error::NotFound(_)
        | Error::Gone { .. }
        | Error::MethodNotAllowed
        | Error::Conflict(_)
        | Error::LeaseLost { .. }
        | Error::TooLarge(_) => {
            path.starts_with("/rota/") || matches!(resource(), "environments" | "files" | "organizations" | "skills")
        }
        Error::RateLimited(_)
        | Error::TooManyDeliveries(_)
        | Error::TooManyStreams(_)
        | Error::TooManyUnread(_)
        | Error::Timeout(_)
        | Error::Overloaded(_)
        | Error::Stopping
        | Error::Database(_)
        | Error::Internal(_) => false,
    }
}

/// Lets nobody in without a key, checks the beta header, and reads the body: no handler acts on half of a request.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let matched = parts.extensions.get::<MatchedPath>().cloned();
    if matched.as_ref().is_some_and(|path| operations::is_signed(&parts.method, path.as_str())) {
        return signed(Request::from_parts(parts, body), matched, next).await;
    }
    let admitted = admit(&app, &parts).await;
    let mut response = match admitted {
        Ok(admission) => {
            Span::current().record("key_id", admission.key_id());
            let workspace = admission.workspace().cloned();
            let reads = parts.method.is_safe();
            let uploads = matched.as_ref().is_some_and(|path| operations::uploads(&parts.method, path.as_str()));
            let most = if uploads { limits::UPLOAD_TIMEOUT } else { limits::REQUEST_TIMEOUT };
            let answering = answer(&app, admission, parts, body, uploads, next);
            let mut response = match tokio::time::timeout(most, answering).await {
                Ok(response) => response.unwrap_or_else(Error::into_response),
                Err(_) => Error::Timeout(most).into_response(),
            };
            if let Some(workspace) = workspace {
                response = answers::counted(&app, &workspace, reads, response).await;
                response.headers_mut().insert(WORKSPACE_ID, value(workspace.as_ref()));
            }
            response
        }
        Err(error) => error.into_response(),
    };
    if let Some(matched) = matched {
        response.extensions_mut().insert(matched);
    }
    response
}

/// A request whose body says whether it may come in: its handler reads that, within bounds of its own.
async fn signed(request: Request, matched: Option<MatchedPath>, next: Next) -> Response {
    let answering = tokio::time::timeout(limits::REQUEST_TIMEOUT, next.run(request));
    let mut response = match answering.await {
        Ok(response) => response,
        Err(_) => Error::Timeout(limits::REQUEST_TIMEOUT).into_response(),
    };
    if let Some(matched) = matched {
        response.extensions_mut().insert(matched);
    }
    response
}

async fn admit(app: &App, parts: &Parts) -> Result<Admission> {
    let authenticating = caller::authenticate(&app.db, &app.sign_ins, &parts.headers);
    let authenticating = tokio::time::timeout(limits::REQUEST_TIMEOUT, authenticating);
    let admission = authenticating.await.map_err(|_| Error::Timeout(limits::REQUEST_TIMEOUT))??;
    if let Some(guest) = parts.extensions.get::<Arc<Guest>>() {
        guest.shows_key();
    }
    // Where nothing is, that is what is said, whatever header is missing.
    if let Some(path) = parts.extensions.get::<MatchedPath>() {
        match operations::beta(path.as_str()) {
            Some(Beta::Named(name)) => beta::check_named(parts.uri.path(), name, &parts.headers)?,
            Some(Beta::AgentMemory) => beta::check_memory(parts.uri.path(), &parts.headers)?,
            rule => beta::check(parts.uri.path(), rule == Some(Beta::Required), &parts.headers)?,
        }
    }
    Ok(admission)
}

/// A handler that takes an upload reads its body itself.
async fn answer(
    app: &App,
    admission: Admission,
    mut parts: Parts,
    body: Body,
    uploads: bool,
    next: Next,
) -> Result<Response> {
    if uploads {
        let act = acts::of(&admission, &parts, &[]);
        parts.extensions.insert(admission);
        return Ok(acting(act, next.run(Request::from_parts(parts, body))).await);
    }
    let coding = Coding::of(&parts.headers)?;
    // Apart, so that what is made for each request has no room for it.
    let (bytes, _place) = Box::pin(app.intake.read(admission.workspace(), body, coding)).await?;
    let act = acts::of(&admission, &parts, &bytes);
    parts.extensions.insert(admission);
    Ok(acting(act, next.run(Request::from_parts(parts, bytes.into()))).await)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids are plain ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_with_an_internal_error_that_tells_the_log_why() {
        let mut response = caught(async { panic!("the {} is out", "cat") }).await;
        assert_eq!(response.status(), 500);
        let error = response.extensions_mut().remove::<Arc<Error>>().expect("an error for the envelope");
        let Error::Internal(cause) = &*error else { panic!("{error}") };
        assert_eq!(cause.to_string(), "a handler panicked: the cat is out");
    }
}
