//! Models behind the Messages API: the hosted one, or a gateway or local server that speaks it.
//!
//! A request goes to `POST {base_url}/v1/messages` and is answered by a stream of events. A reply is returned when the
//! upstream has said why it stops and has ended the message, and not before: whatever happens on the way, nothing partial
//! leaves this module.

mod arguments;
mod failure;
mod reply;
mod request;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect, retry,
};
use tokio::time::timeout;

use super::{DeltaSink, Model, ModelError, ModelReply, ModelRequest, ReplyFuture, sse::EventReader};
use crate::tls;
use reply::PartialReply;

/// The version of the API that requests name.
const API_VERSION: &str = "2023-06-01";

/// What a request that names a speed has to name too.
const FAST_MODE: &str = "fast-mode-2026-02-01";

/// Most bytes of one event of a stream, or of a reply that is not streamed. An upstream that does not split its text sends a reply in one.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// Most bytes of the stream of one reply.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// Most bytes that are read of an error response.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// How long a connection may take to open, unless configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an upstream may send nothing, unless configured. Local servers are silent while they read a long prompt.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// How long one reply may take, unless configured.
const REPLY_TIMEOUT: Duration = Duration::from_hours(1);

/// Where an upstream is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct MessagesConfig {
    /// The address that `/v1/messages` is appended to, such as `https://api.anthropic.com`.
    pub base_url: String,
    /// What proves who is asking; `None` for an upstream that does not ask.
    pub credential: Option<Credential>,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long the upstream may send nothing before its reply counts as broken.
    pub idle_timeout: Duration,
    /// How long one reply may take.
    pub reply_timeout: Duration,
}

impl MessagesConfig {
    /// An upstream with default timeouts.
    pub fn new(base_url: impl Into<String>, credential: Option<Credential>) -> Self {
        Self {
            base_url: base_url.into(),
            credential,
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            reply_timeout: REPLY_TIMEOUT,
        }
    }
}

/// A secret and the header that it goes in. Its `Debug` output does not show it.
#[derive(Clone)]
pub enum Credential {
    /// Sent as `x-api-key`.
    ApiKey(String),
    /// Sent as `authorization: Bearer`.
    Bearer(String),
}

impl Credential {
    fn secret(&self) -> &str {
        let (Self::ApiKey(secret) | Self::Bearer(secret)) = self;
        secret
    }

    fn header(&self) -> Result<(HeaderName, HeaderValue), MessagesConfigError> {
        let (name, value) = match self {
            Self::ApiKey(key) => (HeaderName::from_static("x-api-key"), key.clone()),
            Self::Bearer(token) => (AUTHORIZATION, format!("Bearer {token}")),
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| MessagesConfigError::Credential)?;
        value.set_sensitive(true);
        if self.secret().is_empty() { Err(MessagesConfigError::Credential) } else { Ok((name, value)) }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiKey(_) => "ApiKey(..)",
            Self::Bearer(_) => "Bearer(..)",
        })
    }
}

/// Why a [`MessagesConfig`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MessagesConfigError {
    /// The address is not one of HTTP, or holds a user name or password.
    #[error("base_url must be an http or https URL without a user name and password")]
    BaseUrl,
    /// The address has what is appended to it already, or something after its path.
    #[error("base_url is where the upstream is, without /v1, /v1/messages, `?` and `#`: those are added to it")]
    BaseUrlEnd,
    /// The secret is empty or holds characters that a header cannot.
    #[error("the API key is empty or holds characters that a header cannot carry")]
    Credential,
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client could not be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// A provider that speaks the Messages API.
#[derive(Debug)]
pub struct Messages {
    client: Client,
    url: Url,
    config: MessagesConfig,
}

impl Messages {
    /// A provider with its own pool of connections. Nothing is sent yet.
    ///
    /// Redirects are not followed, so the key goes to `base_url` and nowhere else.
    pub fn new(config: MessagesConfig) -> Result<Self, MessagesConfigError> {
        let url = endpoint(&config.base_url)?;
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", HeaderValue::from_static(API_VERSION));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(config.credential.as_ref().map(Credential::header).transpose()?);
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config()?)
            .user_agent(concat!("rota/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(config.connect_timeout)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .build()?;
        Ok(Self { client, url, config })
    }

    async fn exchange(&self, request: &ModelRequest, deltas: DeltaSink<'_>) -> Result<ModelReply, ModelError> {
        let body = request::body(request).map_err(|error| ModelError::RequestFailed {
            message: format!("the request cannot be written: {error}"),
            retryable: false,
        })?;
        let mut response = self.send(body, request.speed.is_some()).await?;
        let mut reply = PartialReply::default();
        match media_type(&response).as_deref() {
            // What is left of a type when a proxy does not know it.
            None | Some("text/event-stream" | "text/plain" | "application/octet-stream") => {}
            Some("application/json") => {
                let body = self.body(&mut response, MAX_EVENT_BYTES).await;
                if !has_content(&body) {
                    return Err(failure::of_response(response.status(), response.headers(), &body));
                }
                reply.read_whole(String::from_utf8_lossy(&body).as_bytes(), deltas)?;
                return reply.finish();
            }
            Some(other) => {
                let body = self.body(&mut response, MAX_ERROR_BYTES).await;
                return Err(failure::of_page(other, &body));
            }
        }
        let mut events = EventReader::new(MAX_EVENT_BYTES);
        let mut bytes = 0;
        while let Some(chunk) = self.within_idle(response.chunk()).await? {
            bytes += chunk.len();
            if bytes > MAX_REPLY_BYTES {
                return Err(failure::malformed(&format!("it is larger than {MAX_REPLY_BYTES} bytes")));
            }
            events.feed(chunk);
            while let Some(data) = events.next_event().map_err(|error| failure::malformed(&error.to_string()))? {
                reply.read(&data, deltas)?;
                if reply.has_ended() {
                    return reply.finish();
                }
            }
        }
        reply.finish_with_stream()
    }

    /// Sends the request; returns an answer with a status of success.
    async fn send(&self, body: Vec<u8>, with_speed: bool) -> Result<Response, ModelError> {
        let mut request = self.client.post(self.url.clone()).body(body);
        if with_speed {
            request = request.header("anthropic-beta", FAST_MODE);
        }
        let mut response = self.within_idle(request.send()).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = self.body(&mut response, MAX_ERROR_BYTES).await;
        Err(failure::of_response(response.status(), response.headers(), &body))
    }

    /// The beginning of a body, as far as it can be read.
    async fn body(&self, response: &mut Response, most: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = self.within_idle(response.chunk()).await {
            let room = most - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                break;
            }
        }
        body
    }

    async fn within_idle<T>(&self, step: impl Future<Output = reqwest::Result<T>>) -> Result<T, ModelError> {
        let limit = self.config.idle_timeout;
        timeout(limit, step).await.map_err(|_| failure::stalled(limit))?.map_err(failure::of_connection)
    }
}

impl Model for Messages {
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        Box::pin(async move {
            let limit = self.config.reply_timeout;
            let reply = timeout(limit, self.exchange(request, deltas)).await;
            let secret = self.config.credential.as_ref().map(Credential::secret);
            reply.unwrap_or_else(|_| Err(failure::overdue(limit))).map_err(|failure| failure::shown(failure, secret))
        })
    }
}

/// The media type of a response in small letters, without parameters.
fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?;
    let value = String::from_utf8_lossy(value.as_bytes());
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).filter(|kind| !kind.is_empty())
}

/// Whether a JSON body has the content of a message, and is not an error under a status of success.
fn has_content(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Members {
        content: Option<Vec<serde::de::IgnoredAny>>,
        error: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Members>(body).is_ok_and(|body| body.content.is_some() && body.error.is_none())
}

/// The address of the Messages endpoint below `base_url`.
fn endpoint(base_url: &str) -> Result<Url, MessagesConfigError> {
    let mut url = Url::parse(base_url).map_err(|_| MessagesConfigError::BaseUrl)?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(MessagesConfigError::BaseUrl);
    }
    let path = url.path().trim_end_matches('/');
    if ["/v1", "/v1/messages"].iter().any(|end| path.ends_with(end))
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(MessagesConfigError::BaseUrlEnd);
    }
    let path = format!("{path}/v1/messages");
    url.set_path(&path);
    Ok(url)
}
