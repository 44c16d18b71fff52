//! What holds for every request: an id, a key, the beta header, a time limit, the error envelope.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rota_api::{
    error::{ErrorBody, ErrorDetail, ErrorDetails},
    id::{Id, RequestId},
};

use super::answers;
use crate::{
    app::App,
    clock::Stopwatch,
    error::{Error, Result},
    limits,
    request::{
        beta,
        caller::{self, Admission},
    },
};

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const ORGANIZATION_ID: HeaderName = HeaderName::from_static("anthropic-organization-id");
const WORKSPACE_ID: HeaderName = HeaderName::from_static("anthropic-workspace-id");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The outermost layer: gives the request an id, and writes what went wrong.
pub(super) async fn envelope(State(app): State<App>, request: Request, next: Next) -> Response {
    let watch = Stopwatch::start();
    let id = RequestId::new(app.clock.now());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = caught(next.run(request)).await;
    let route = response.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    if let Some(error) = response.extensions_mut().remove::<Arc<Error>>() {
        if let Error::Database(cause) | Error::Internal(cause) = &*error {
            tracing::error!(request_id = %id, %method, path, error = %cause, "request failed");
        }
        write_error(&mut response, &error, &id);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, value(id.as_ref()));
    headers.insert(ORGANIZATION_ID, app.organization_header.clone());
    let status = response.status().as_u16();
    tracing::debug!(request_id = %id, %method, path, status, seconds = watch.seconds(), "request");
    let labels = [("method", method.to_string()), ("route", route), ("status", status.to_string())];
    metrics::counter!("rota_http_requests_total", &labels).increment(1);
    metrics::histogram!("rota_http_request_seconds", &labels[..2]).record(watch.seconds());
    response
}

/// The answer, also when what makes it panics.
async fn caught(answering: impl Future<Output = Response>) -> Response {
    let answered = AssertUnwindSafe(answering).catch_unwind().await;
    answered.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Error::internal(format!("a handler panicked: {}", said.unwrap_or("no message"))).into_response()
    })
}

fn write_error(response: &mut Response, error: &Error, id: &RequestId) {
    let message = match error {
        Error::Database(_) | Error::Internal(_) => "Internal server error".to_owned(),
        told => told.to_string(),
    };
    let details = match error {
        Error::Rejected { code, .. } => Some(ErrorDetails { error_code: code }),
        _ => None,
    };
    let body = ErrorBody {
        r#type: "error",
        error: ErrorDetail { r#type: error.wire_type(), message: &message, details },
        request_id: id.as_ref(),
    };
    let text = serde_json::to_vec(&body).expect("an error is plain text");
    *response.body_mut() = axum::body::Body::from(text);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // The SDKs repeat a 409 unless they are told that it cannot help.
    if matches!(error, Error::Conflict(_)) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if matches!(error, Error::RateLimited(_)) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
}

/// Lets nobody in without a key, and checks the beta header.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let admitted = admit(&app, request.uri().path(), request.headers()).await;
    let mut response = match admitted {
        Ok(admission) => {
            let workspace = admission.workspace().cloned();
            let reads = request.method().is_safe();
            request.extensions_mut().insert(admission);
            let mut response = match tokio::time::timeout(limits::REQUEST_TIMEOUT, next.run(request)).await {
                Ok(response) => response,
                Err(_) => Error::Timeout.into_response(),
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

async fn admit(app: &App, path: &str, headers: &HeaderMap) -> Result<Admission> {
    let authenticating = tokio::time::timeout(limits::REQUEST_TIMEOUT, caller::authenticate(&app.db, headers));
    let admission = authenticating.await.map_err(|_| Error::Timeout)??;
    beta::check(path, headers)?;
    Ok(admission)
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
