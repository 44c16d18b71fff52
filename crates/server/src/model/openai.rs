//! Models behind the chat completions API of OpenAI, which most local servers and gateways speak: vLLM, Ollama, llama.cpp, LiteLLM.
//!
//! A request goes to `POST {base_url}/chat/completions` and is answered by a stream of chunks. What this API has no word for is
//! said in others, or refused, as the head of `request.rs` says.

mod reply;
mod request;

#[cfg(test)]
mod tests;

use reqwest::header::HeaderMap;

use super::{
    DeltaSink, Model, ModelError, ModelRequest, ReplyFuture,
    upstream::{Upstream, UpstreamConfig, UpstreamError, base},
};
use reply::PartialCompletion;
use request::Length;

/// Hosts whose newer models refuse a request that bounds its reply by the older name.
const HOSTS_WITH_NEW_LENGTH: [&str; 2] = ["api.openai.com", ".openai.azure.com"];

/// A provider that speaks chat completions.
#[derive(Debug)]
pub struct OpenAi {
    upstream: Upstream,
    length: Length,
}

impl OpenAi {
    /// A provider for the upstream at a `base_url` to which `/chat/completions` is appended, and `/v1` before it where the
    /// address has no path.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let mut url = base(&config.base_url, &["/chat/completions"], "/chat/completions")?;
        let version = if matches!(url.path(), "" | "/") { "/v1" } else { "" };
        let path = format!("{}{version}/chat/completions", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let host = url.host_str().unwrap_or_default();
        let is_new =
            HOSTS_WITH_NEW_LENGTH.iter().any(|end| host == *end || end.starts_with('.') && host.ends_with(end));
        let length = if is_new { Length::MaxCompletionTokens } else { Length::MaxTokens };
        Ok(Self { upstream: Upstream::new(url, HeaderMap::new(), config)?, length })
    }
}

impl Model for OpenAi {
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        Box::pin(async move {
            if let Some(message) = request::refused(request) {
                return Err(ModelError::RequestFailed { message, retryable: false });
            }
            let body = request::body(request, self.length);
            self.upstream.ask::<PartialCompletion>(body, HeaderMap::new(), deltas).await
        })
    }
}
