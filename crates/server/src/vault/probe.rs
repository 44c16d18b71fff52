//! Tries a token at an MCP server: opens a session there, and asks for the tools.

use reqwest::{Client, Response, StatusCode, header};
use rota_api::{
    credential::{HttpResponse, Secrets},
    secret::Secret,
};
use serde_json::{Value, json};

use super::capture;
use crate::outgoing;

/// The revision of the protocol that is spoken.
const PROTOCOL: &str = "2025-06-18";
const SESSION: &str = "mcp-session-id";

/// How a probe ended.
#[derive(Debug)]
pub enum Probed {
    /// The server took the token.
    Accepted,
    /// The server refused the token: 401.
    Unauthorized(Failure),
    /// The server refused what the token may do: 403.
    Forbidden(Failure),
    /// It cannot be told.
    Unclear(Failure),
}

/// The step that failed.
#[derive(Debug)]
pub struct Failure {
    /// The method.
    pub method: &'static str,
    /// What was answered, if anything was.
    pub response: Option<HttpResponse>,
}

/// Tries `token` at the server at `url`.
pub async fn probe(client: &Client, allow_private: bool, url: &str, token: &Secret, secrets: &Secrets) -> Probed {
    let mut session = Session { client, allow_private, url, token, secrets, id: None };
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": PROTOCOL,
        "capabilities": {}, "clientInfo": {"name": "rota", "version": env!("CARGO_PKG_VERSION")}}});
    let probed = match session.ask("initialize", &hello).await {
        Ok(()) => {
            // It has no answer, and a server that wants none of it says so at the next step.
            drop(session.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await);
            session.ask("tools/list", &json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})).await
        }
        failed => failed,
    };
    session.end().await;
    probed.map_or_else(|failed| failed, |()| Probed::Accepted)
}

struct Session<'a> {
    client: &'a Client,
    allow_private: bool,
    url: &'a str,
    token: &'a Secret,
    secrets: &'a Secrets,
    id: Option<header::HeaderValue>,
}

impl Session<'_> {
    async fn send(&self, message: &Value) -> Option<Response> {
        let url = outgoing::url(self.url, self.allow_private).ok()?;
        let request = self.client.post(url).json(message).header(header::ACCEPT, "application/json, text/event-stream");
        self.with_headers(request).send().await.ok()
    }

    fn with_headers(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token.reveal()));
        match &self.id {
            Some(id) => request.header(SESSION, id).header("mcp-protocol-version", PROTOCOL),
            None => request,
        }
    }

    async fn ask(&mut self, method: &'static str, message: &Value) -> Result<(), Probed> {
        let Some(mut response) = self.send(message).await else {
            return Err(Probed::Unclear(Failure { method, response: None }));
        };
        let status = response.status();
        if let Some(id) = response.headers().get(SESSION) {
            self.id = Some(id.clone());
        }
        let streams = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("text/event-stream")));
        // A stream need not end, and that it began is answer enough.
        if status.is_success() && streams {
            return Ok(());
        }
        let (body, is_cut) = capture::body(&mut response).await;
        let answered = || serde_json::from_slice::<Value>(&body).is_ok_and(|answer| answer.get("result").is_some());
        if status.is_success() && (is_cut || answered()) {
            return Ok(());
        }
        let secrets: Vec<&Secret> = self.secrets.all().collect();
        let failure = Failure { method, response: Some(capture::shown(&response, &body, is_cut, &secrets)) };
        Err(match status {
            StatusCode::UNAUTHORIZED => Probed::Unauthorized(failure),
            StatusCode::FORBIDDEN => Probed::Forbidden(failure),
            _ => Probed::Unclear(failure),
        })
    }

    /// Tells the server that nobody comes back. Whatever it says to that does not matter.
    async fn end(&self) {
        if self.id.is_some()
            && let Ok(url) = outgoing::url(self.url, self.allow_private)
        {
            drop(self.with_headers(self.client.delete(url)).send().await);
        }
    }
}
