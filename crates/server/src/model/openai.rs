//! Models behind the chat completions API of OpenAI, which most local servers and gateways speak: vLLM, Ollama, llama.cpp, LiteLLM.
//!
//! A request goes to `POST {base_url}/chat/completions` and is answered by a stream of chunks. What this API has no word for is
//! said in others, or refused, as the head of `request.rs` says.

mod reply;
mod request;

#[cfg(test)]
mod tests;

use reqwest::{Url, header::HeaderMap};

use super::{
    DeltaSink, LookFuture, Model, ModelError, ModelRequest, ReplyFuture,
    upstream::{Upstream, UpstreamConfig, UpstreamError, base},
};
use reply::PartialCompletion;
use request::Length;

/// Hosts whose newer models refuse a request that bounds its reply by the older name.
const HOSTS_WITH_NEW_LENGTH: [&str; 2] = ["api.openai.com", ".openai.azure.com"];

/// The field in which the reasoning of earlier replies is sent back. Upstreams have no common one, and most refuse it or want none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningField {
    /// `reasoning_content`.
    ReasoningContent,
    /// `reasoning`.
    Reasoning,
}

/// A provider that speaks chat completions.
#[derive(Debug)]
pub struct OpenAi {
    upstream: Upstream,
    models: Url,
    length: Length,
    reasoning: Option<ReasoningField>,
}

impl OpenAi {
    /// A provider for the upstream at a `base_url` to which `/chat/completions` is appended, and `/v1` before it where the
    /// address has no path. Reasoning is sent back where there is a field for it.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: UpstreamConfig, reasoning: Option<ReasoningField>) -> Result<Self, UpstreamError> {
        let mut url = base(&config.base_url, &["/chat/completions"], "/chat/completions")?;
        let version = if matches!(url.path(), "" | "/") { "/v1" } else { "" };
        let base = format!("{}{version}", url.path().trim_end_matches('/'));
        let mut models = url.clone();
        models.set_path(&format!("{base}/models"));
        url.set_path(&format!("{base}/chat/completions"));
        let host = url.host_str().unwrap_or_default();
        let is_new =
            HOSTS_WITH_NEW_LENGTH.iter().any(|end| host == *end || end.starts_with('.') && host.ends_with(end));
        let length = if is_new { Length::MaxCompletionTokens } else { Length::MaxTokens };
        Ok(Self { upstream: Upstream::new(url, HeaderMap::new(), config)?, models, length, reasoning })
    }
}

impl Model for OpenAi {
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        Box::pin(async move {
            if let Some(message) = request::refused(request) {
                return Err(ModelError::RequestFailed { message, retryable: false });
            }
            let body = request::body(request, self.length, self.reasoning);
            self.upstream.ask::<PartialCompletion>(body, HeaderMap::new(), deltas).await
        })
    }

    fn look(&self) -> Option<LookFuture<'_>> {
        Some(Box::pin(self.upstream.look(self.models.clone())))
    }
}
