//! Models behind the Messages API: the hosted one, or a gateway or local server that speaks it.
//!
//! A request goes to `POST {base_url}/v1/messages` and is answered by a stream of events.

mod reply;
mod request;

#[cfg(test)]
mod tests;

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::{
    DeltaSink, LookFuture, Model, ModelRequest, ReplyFuture,
    upstream::{Upstream, UpstreamConfig, UpstreamError, base},
};
use reply::PartialReply;

/// The version of the API that requests name, unless they are told another.
const API_VERSION: &str = "2023-06-01";

/// How a model is asked to think before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    /// As much as it finds right.
    Adaptive,
    /// For at most so many tokens.
    Budget(u32),
}

/// What a request that names a speed has to name too.
const FAST_MODE: &str = "fast-mode-2026-02-01";

/// A provider that speaks the Messages API.
#[derive(Debug)]
pub struct Messages {
    upstream: Upstream,
    models: Url,
    thinking: Option<Thinking>,
}

impl Messages {
    /// A provider for the upstream at a `base_url` to which `/v1/messages` is appended, which is not asked to think.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        Self::speaking(None, None, config)
    }

    /// The same in another version of the API, and with thinking.
    ///
    /// # Errors
    /// The same, and when the version is none that a header can carry.
    pub fn speaking(
        api_version: Option<&str>,
        thinking: Option<Thinking>,
        config: UpstreamConfig,
    ) -> Result<Self, UpstreamError> {
        let mut url = base(&config.base_url, &["/v1", "/v1/messages"], "/v1, /v1/messages")?;
        let base = url.path().trim_end_matches('/').to_owned();
        let mut models = url.clone();
        models.set_path(&format!("{base}/v1/models"));
        models.set_query(Some("limit=1000"));
        url.set_path(&format!("{base}/v1/messages"));
        let mut headers = HeaderMap::new();
        let version = HeaderValue::from_str(api_version.unwrap_or(API_VERSION));
        headers.insert("anthropic-version", version.map_err(|_| UpstreamError::ApiVersion)?);
        Ok(Self { upstream: Upstream::new(url, headers, config)?, models, thinking })
    }
}

impl Model for Messages {
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        let mut headers = HeaderMap::new();
        if request.speed.is_some() {
            headers.insert(HeaderName::from_static("anthropic-beta"), HeaderValue::from_static(FAST_MODE));
        }
        Box::pin(self.upstream.ask::<PartialReply>(request::body(request, self.thinking), headers, deltas))
    }

    fn look(&self) -> Option<LookFuture<'_>> {
        Some(Box::pin(self.upstream.look(self.models.clone())))
    }
}
