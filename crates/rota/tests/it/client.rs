//! A client that believes nothing: what does not fit the contract ends the test.

use std::{net::SocketAddr, time::Duration};

use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderMap};
use rota_server::{clock::Clock, tls};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    contract::{ADMINISTRATION, GENERAL, MANAGED_AGENTS, OWN},
    server::PATIENCE,
    stream::Stream,
};

/// The header that names the API.
pub const BETA: (&str, &str) = ("anthropic-beta", "managed-agents-2026-04-01");

/// The beta names that the SDKs send to resources that have some of their own.
const OWN_BETAS: [(&str, &str); 3] = [
    ("/v1/dreams", "dreaming-2026-04-21"),
    ("/v1/tunnels", "mcp-tunnels-2026-06-22"),
    ("/v1/user_profiles", "user-profiles-2026-08-18"),
];
/// That of the data controls of a profile.
const DATA_CONTROLS: &str = "google-managed-data-controls-2026-09-01";

/// The beta names for what is at `path`.
fn betas(path: &str) -> String {
    let own = OWN_BETAS.iter().filter(|(beginning, _)| path.starts_with(beginning)).map(|(_, name)| *name);
    let controls = path.split('?').next().is_some_and(|path| path.ends_with("/data_controls")).then_some(DATA_CONTROLS);
    std::iter::once(BETA.1).chain(own).chain(controls).collect::<Vec<_>>().join(",")
}

/// Where webhook endpoints are.
pub const ENDPOINTS: &str = "/rota/v1/webhook_endpoints";

/// How far a fixed clock moves with each request, so that what is created one after the other has an order in time.
const STEP_MICROS: i64 = 1_000;

/// A server as a client with one key sees it.
#[derive(Clone)]
pub struct Api {
    /// The client, without key or headers.
    pub http: Client,
    /// The server, to put before a path.
    pub base: String,
    /// The key.
    pub key: String,
    clock: Clock,
    workspace: Option<String>,
}

/// An answer, held against the contract.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Value,
}

impl Api {
    /// A client of the server at `address`.
    pub fn new(address: SocketAddr, key: String, clock: Clock) -> Self {
        let http = Client::builder().tls_backend_preconfigured(tls::client_config().unwrap()).no_proxy();
        Self { http: http.build().unwrap(), base: format!("http://{address}"), key, clock, workspace: None }
    }

    /// The same client of a server at another address.
    pub fn at(self, address: SocketAddr) -> Self {
        Self { base: format!("http://{address}"), ..self }
    }

    /// The same server with another key.
    pub fn with_key(&self, key: String) -> Self {
        Self { key, ..self.clone() }
    }

    /// The same client, which names the workspace that it acts in: for an administrator's key.
    pub fn in_workspace(&self, workspace: &str) -> Self {
        Self { workspace: Some(workspace.to_owned()), ..self.clone() }
    }

    /// A request with the key and the beta header, which names what belongs to the path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request = request.header("x-api-key", &self.key).header(BETA.0, betas(path));
        match &self.workspace {
            Some(workspace) => request.header("anthropic-workspace-id", workspace),
            None => request,
        }
    }

    /// Sends a request and checks the answer, whatever its status.
    pub async fn answer(&self, request: RequestBuilder) -> Answer {
        self.clock.advance_micros(STEP_MICROS);
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let beta = request.headers().contains_key(BETA.0);
        let response = self.http.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        assert_eq!(headers["content-type"], "application/json", "{method} {path}: {status}");
        let body: Value = response.json().await.unwrap();
        let answer = Answer { status, headers, body };
        answer.check_headers();
        match (status.is_success(), beta) {
            (true, _) if path.starts_with("/rota/") => OWN.check(method.as_str(), &path, &answer.body),
            (true, _) if path.starts_with("/v1/organizations/") => {
                ADMINISTRATION.check(method.as_str(), &path, &answer.body);
            }
            (true, true) => MANAGED_AGENTS.check(method.as_str(), &path, &answer.body),
            (true, false) => GENERAL.check(method.as_str(), &path, &answer.body),
            (false, _) => answer.check_envelope(),
        }
        answer
    }

    /// Sends `body`, where there is one.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path);
        self.answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// `GET`, which must succeed.
    pub async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, None).await.success()
    }

    /// `POST` of a body, which must succeed.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.send(Method::POST, path, Some(&body)).await.success()
    }

    /// `POST` without a body, which must succeed.
    pub async fn call(&self, path: &str) -> Value {
        self.send(Method::POST, path, None).await.success()
    }

    /// `DELETE`, which must succeed.
    pub async fn delete(&self, path: &str) -> Value {
        self.send(Method::DELETE, path, None).await.success()
    }

    /// `GET`, which must fail; the status, the error's type and its message.
    pub async fn get_refused(&self, path: &str) -> Refusal {
        self.send(Method::GET, path, None).await.refusal()
    }

    /// `POST`, which must fail.
    pub async fn post_refused(&self, path: &str, body: Value) -> Refusal {
        self.send(Method::POST, path, Some(&body)).await.refusal()
    }

    /// `POST` without a body, which must fail.
    pub async fn call_refused(&self, path: &str) -> Refusal {
        self.send(Method::POST, path, None).await.refusal()
    }

    /// Every row of a list, page by page, `limit` at a time.
    pub async fn all(&self, path: &str, limit: usize) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut page = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let list = self.get(&format!("{path}{separator}limit={limit}{page}")).await;
            let data = list["data"].as_array().unwrap();
            assert!(data.len() <= limit);
            rows.extend_from_slice(data);
            match list["next_page"].as_str() {
                Some(next) => page = format!("&page={next}"),
                None => return rows,
            }
        }
    }

    /// What is at `path`, once it is as `wanted` says.
    pub async fn once(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let looking = async {
            loop {
                let found = self.get(path).await;
                if wanted(&found) {
                    return found;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{path} does not become so"))
    }

    /// Opens the stream of a session, from now on.
    pub async fn stream(&self, session: &str) -> Stream {
        Stream::open(self.request(Method::GET, &format!("/v1/sessions/{session}/events/stream"))).await
    }

    /// Opens the stream of a session after the event with the id `last` of the stream; 0 is its beginning.
    pub async fn stream_from(&self, session: &str, last: i64) -> Stream {
        let request = self.request(Method::GET, &format!("/v1/sessions/{session}/events/stream"));
        Stream::open(request.header("last-event-id", last)).await
    }

    /// Sends events to a session.
    pub async fn events(&self, session: &str, events: Value) -> Value {
        self.post(&format!("/v1/sessions/{session}/events"), json!({ "events": events })).await
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `error.type`.
    pub kind: String,
    /// `error.message`.
    pub message: String,
}

/// The refusal of a wrong request.
pub fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { status: 400, kind: "invalid_request_error".to_owned(), message: message.into() }
}

/// The refusal of a request for, or about, something that is not there.
pub fn not_found(message: impl Into<String>) -> Refusal {
    Refusal { status: 404, kind: "not_found_error".to_owned(), message: message.into() }
}

/// The refusal of a request that the key does not allow.
pub fn forbidden(message: impl Into<String>) -> Refusal {
    Refusal { status: 403, kind: "permission_error".to_owned(), message: message.into() }
}

/// The refusal of a request that came too late.
pub fn conflict(message: impl Into<String>) -> Refusal {
    Refusal { status: 409, kind: "invalid_request_error".to_owned(), message: message.into() }
}

impl Answer {
    /// The body of an answer that must be a success.
    pub fn success(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{:#}", self.body);
        self.body
    }

    /// Why the request was refused, as it must have been.
    pub fn refusal(&self) -> Refusal {
        assert!(!self.status.is_success(), "{:#}", self.body);
        let text = |field: &str| self.body["error"][field].as_str().unwrap().to_owned();
        Refusal { status: self.status.as_u16(), kind: text("type"), message: text("message") }
    }

    fn check_headers(&self) {
        assert!(self.headers["request-id"].to_str().unwrap().starts_with("req_"));
        assert_eq!(self.headers["anthropic-organization-id"].len(), 36, "a UUID");
    }

    fn check_envelope(&self) {
        let body = &self.body;
        let fields = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        assert_eq!(fields(body).unwrap(), ["type", "error", "request_id"], "{body}");
        assert_eq!(body["type"], "error");
        assert_eq!(body["request_id"], self.headers["request-id"].to_str().unwrap());
        let mut detail = fields(&body["error"]).unwrap();
        // What stands in the way of a memory.
        let beside = ["conflicting_memory_id", "conflicting_path", "details"];
        detail.retain(|field| !beside.contains(&field.as_str()));
        assert_eq!(detail, ["type", "message"], "{body}");
    }
}
