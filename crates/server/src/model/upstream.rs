//! How upstreams are spoken to, whatever their dialect: one request, answered by a stream of events.
//!
//! A reply is returned when the upstream has said why it stops and has ended the message, and not before: whatever happens on the
//! way, nothing partial leaves this module.

use std::{fmt, mem, time::Duration};

use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect, retry,
};
use tokio::time::timeout;

use super::{
    Delta, DeltaSink, ModelError, ModelReply, RateLimits,
    assembly::Dialect,
    failure,
    look::{self, Found},
    sse::EventReader,
};
use crate::{limits::MODEL_LOOK_TIMEOUT, tls};

/// Most bytes of one event of a stream, or of a reply that is not streamed. An upstream that does not split its text sends a reply in one.
pub(super) const MAX_EVENT_BYTES: usize = 4 << 20;

/// Most bytes of the stream of one reply.
pub(super) const MAX_REPLY_BYTES: usize = 64 << 20;

/// Most bytes that are read of an error response.
pub(super) const MAX_ERROR_BYTES: usize = 64 << 10;

/// How long a connection may take to open, unless configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an upstream may send nothing, unless configured. Local servers are silent while they read a long prompt.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// How long one reply may take, unless configured.
const REPLY_TIMEOUT: Duration = Duration::from_hours(1);

/// Where an upstream is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The address that the path of requests is appended to, such as `https://api.anthropic.com`.
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

impl UpstreamConfig {
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

    fn header(&self) -> Result<(HeaderName, HeaderValue), UpstreamError> {
        let (name, value) = match self {
            Self::ApiKey(key) => (HeaderName::from_static("x-api-key"), key.clone()),
            Self::Bearer(token) => (AUTHORIZATION, format!("Bearer {token}")),
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| UpstreamError::Credential)?;
        value.set_sensitive(true);
        if self.secret().is_empty() { Err(UpstreamError::Credential) } else { Ok((name, value)) }
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

/// Why an [`UpstreamConfig`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The address is not one of HTTP, or holds a user name or password.
    #[error("base_url must be an http or https URL without a user name and password")]
    BaseUrl,
    /// The address has what is appended to it already, or something after its path.
    #[error("base_url is where the upstream is, without {0}, `?` and `#`: those are added to it")]
    BaseUrlEnd(&'static str),
    /// The secret is empty or holds characters that a header cannot.
    #[error("the API key is empty or holds characters that a header cannot carry")]
    Credential,
    /// The version of the API is none.
    #[error("api_version holds characters that a header cannot carry")]
    ApiVersion,
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client could not be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// The address that `base_url` is, with a path that ends in no slash.
///
/// # Errors
/// When it is none, or ends in one of `ends`, or in what comes after a path.
pub(super) fn base(base_url: &str, ends: &[&str], without: &'static str) -> Result<Url, UpstreamError> {
    let mut url = Url::parse(base_url).map_err(|_| UpstreamError::BaseUrl)?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(UpstreamError::BaseUrl);
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if ends.iter().any(|end| path.ends_with(end)) || url.query().is_some() || url.fragment().is_some() {
        return Err(UpstreamError::BaseUrlEnd(without));
    }
    url.set_path(&path);
    Ok(url)
}

/// An upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    client: Client,
    url: Url,
    config: UpstreamConfig,
}

impl Upstream {
    /// One to which requests are sent at `url`, each with `headers`, over a pool of connections of its own. Nothing is sent yet.
    ///
    /// Redirects are not followed, so the key goes to `url` and nowhere else.
    pub(super) fn new(url: Url, mut headers: HeaderMap, config: UpstreamConfig) -> Result<Self, UpstreamError> {
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

    /// Where requests go.
    #[cfg(test)]
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Sends `body` once, with `headers`, and reads the whole reply in the dialect `D`.
    pub(super) async fn ask<D: Dialect>(
        &self,
        body: serde_json::Result<Vec<u8>>,
        headers: HeaderMap,
        deltas: DeltaSink<'_>,
    ) -> Result<ModelReply, ModelError> {
        let limit = self.config.reply_timeout;
        let reply = timeout(limit, self.exchange::<D>(body, headers, deltas)).await;
        let secret = self.config.credential.as_ref().map(Credential::secret);
        reply.unwrap_or_else(|_| Err(failure::overdue(limit))).map_err(|failure| failure::shown(failure, secret))
    }

    async fn exchange<D: Dialect>(
        &self,
        body: serde_json::Result<Vec<u8>>,
        headers: HeaderMap,
        deltas: DeltaSink<'_>,
    ) -> Result<ModelReply, ModelError> {
        let body = body.map_err(|error| ModelError::RequestFailed {
            message: format!("the request cannot be written: {error}"),
            retryable: false,
        })?;
        let mut response = self.send(body, headers, deltas).await?;
        let mut reply = D::default();
        match media_type(&response).as_deref() {
            // What is left of a type when a proxy does not know it.
            None | Some("text/event-stream" | "text/plain" | "application/octet-stream") => {}
            Some("application/json") => {
                let body = self.body(&mut response, MAX_EVENT_BYTES).await;
                if !D::is_message(&body) {
                    return Err(failure::of_response(response.status(), response.headers(), &body));
                }
                reply.read_whole(String::from_utf8_lossy(&body).as_bytes(), deltas)?;
                return mem::take(reply.so_far()).finish();
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
                if reply.so_far().has_ended {
                    return mem::take(reply.so_far()).finish();
                }
            }
        }
        mem::take(reply.so_far()).finish_with_stream()
    }

    /// Looks at `url`, the list of the models that the upstream has. Nothing is asked of a model.
    pub(super) async fn look(&self, url: Url) -> Found {
        let looking = async {
            let request = self.client.get(url).header(ACCEPT, "application/json");
            let mut response = match self.within_idle(request.send()).await {
                Ok(response) => response,
                Err(error) => return Found::Unreachable(error.to_string()),
            };
            let body = self.body(&mut response, MAX_EVENT_BYTES).await;
            look::read(response.status(), media_type(&response).as_deref(), response.headers(), &body)
        };
        let found = timeout(MODEL_LOOK_TIMEOUT, looking).await;
        let found =
            found.unwrap_or_else(|_| Found::Unreachable(format!("it did not answer within {MODEL_LOOK_TIMEOUT:?}")));
        found.without(self.config.credential.as_ref().map(Credential::secret))
    }

    /// Sends the request; returns an answer with a status of success.
    async fn send(&self, body: Vec<u8>, headers: HeaderMap, deltas: DeltaSink<'_>) -> Result<Response, ModelError> {
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        let mut response = self.within_idle(request.send()).await?;
        deltas(Delta::Answers(RateLimits::read(response.headers())));
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

/// The media type of a response in small letters, without parameters.
fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?;
    let value = String::from_utf8_lossy(value.as_bytes());
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).filter(|kind| !kind.is_empty())
}
