//! Models behind the Messages API: the hosted one, or a gateway or local server that speaks it.
//!
//! A request goes to `POST {base_url}/v1/messages` and is answered by a stream of events.

mod reply;
mod request;

#[cfg(test)]
mod tests;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{
    DeltaSink, Model, ModelRequest, ReplyFuture,
    upstream::{Upstream, UpstreamConfig, UpstreamError, base},
};
use reply::PartialReply;

/// The version of the API that requests name.
const API_VERSION: &str = "2023-06-01";

/// What a request that names a speed has to name too.
const FAST_MODE: &str = "fast-mode-2026-02-01";

/// A provider that speaks the Messages API.
#[derive(Debug)]
pub struct Messages(Upstream);

impl Messages {
    /// A provider for the upstream at a `base_url` to which `/v1/messages` is appended.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let mut url = base(&config.base_url, &["/v1", "/v1/messages"], "/v1, /v1/messages")?;
        let path = format!("{}/v1/messages", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", HeaderValue::from_static(API_VERSION));
        Upstream::new(url, headers, config).map(Self)
    }
}

impl Model for Messages {
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        let mut headers = HeaderMap::new();
        if request.speed.is_some() {
            headers.insert(HeaderName::from_static("anthropic-beta"), HeaderValue::from_static(FAST_MODE));
        }
        Box::pin(self.0.ask::<PartialReply>(request::body(request), headers, deltas))
    }
}
