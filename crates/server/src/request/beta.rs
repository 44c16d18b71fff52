//! The `anthropic-beta` header: which API a request is for.

use http::HeaderMap;

use crate::error::{Error, Result};

const BETA: &str = "anthropic-beta";

/// The beta name of the managed agents API.
const MANAGED_AGENTS: &str = "managed-agents-2026-04-01";

/// Beta names that a client may send. Of those that Rota does not serve, none changes an answer.
const KNOWN_BETAS: &[&str] = &[
    MANAGED_AGENTS,
    "admin-user-sign-out-2026-10-08",
    "advisor-tool-2026-03-01",
    "agent-memory-2026-07-22",
    "analytics-usage-cost-2026-08-24",
    "cache-diagnosis-2026-04-07",
    "ce-claude-code-managed-settings-2026-10-06",
    "ce-plugins-2026-09-01",
    "ce-user-management-2026-07-13",
    "code-execution-2025-05-22",
    "compact-2026-01-12",
    "compact-2026-09-04",
    "computer-use-2024-10-22",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-1m-2025-08-07",
    "context-management-2025-06-27",
    "dev-full-thinking-2025-05-14",
    "dreaming-2026-04-21",
    "experimental-claude-tag-2026-10-21",
    "extended-cache-ttl-2025-04-11",
    "fallback-credit-2026-06-01",
    "fallback-credit-2026-07-01",
    "fast-mode-2026-02-01",
    "files-api-2025-04-14",
    "inline-tools-2026-09-15",
    "interleaved-thinking-2025-05-14",
    "mcp-client-2025-04-04",
    "mcp-client-2025-11-20",
    "mcp-client-2026-09-15",
    "mcp-tunnels-2026-06-22",
    "message-batches-2024-09-24",
    "message-threads-2026-08-12",
    "mid-conversation-output-config-2026-07-01",
    "mid-conversation-system-clear-at-2026-08-21",
    "mid-conversation-tool-changes-2026-07-01",
    "model-context-window-exceeded-2025-08-26",
    "output-128k-2025-02-19",
    "output-300k-2026-03-24",
    "pdfs-2024-09-25",
    "prompt-caching-2024-07-31",
    "server-side-fallback-2026-06-01",
    "server-side-fallback-2026-07-01",
    "skills-2025-10-02",
    "spend-limit-reads-2026-09-26",
    "structured-outputs-2025-11-13",
    "task-budgets-2026-03-13",
    "telemetry-destinations-2026-08-11",
    "thinking-binding-controls-2026-08-01",
    "thinking-display-updates-2026-08-18",
    "thinking-token-count-2026-05-13",
    "token-counting-2024-11-01",
    "token-efficient-tools-2025-02-19",
    "user-profiles-2026-03-24",
    "user-profiles-2026-08-18",
    "user-profiles-2026-09-04",
    "user-profiles-billing-2026-10-01",
    "webhooks-2026-10-07",
];

/// Checks the beta header of a request for `path`, whose operations need the managed agents beta when it is `required`.
///
/// # Errors
/// 404 when it is required and not named; 400 when a name does not exist.
pub fn check(path: &str, required: bool, headers: &HeaderMap) -> Result<()> {
    let betas = betas(headers);
    if let Some(unknown) = betas.iter().find(|beta| !KNOWN_BETAS.contains(beta)) {
        return Err(Error::invalid(format_args!(
            "Unexpected value(s) `{unknown}` for the `anthropic-beta` header. Please consult our documentation at \
             docs.anthropic.com or try again without the header."
        )));
    }
    if !required || betas.contains(&MANAGED_AGENTS) {
        return Ok(());
    }
    Err(Error::NotFound(format!("Not found: {path} needs the header `anthropic-beta: {MANAGED_AGENTS}`")))
}

fn betas(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(BETA).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|beta| !beta.is_empty()).collect()
}

/// Whether a request was sent to the beta shape of an endpoint that has two.
pub fn is_beta(headers: &HeaderMap) -> bool {
    !betas(headers).is_empty()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_beta_header_decides() {
        let check = |path: &str, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(BETA, HeaderValue::from_static(value));
            }
            super::check(path, path != "/v1/models", &headers)
        };
        assert!(check("/v1/agents", &[MANAGED_AGENTS]).is_ok());
        assert!(check("/v1/agents", &["files-api-2025-04-14, managed-agents-2026-04-01"]).is_ok());
        assert!(check("/v1/agents", &["files-api-2025-04-14", MANAGED_AGENTS]).is_ok());
        assert!(matches!(check("/v1/agents", &[]), Err(Error::NotFound(_))));
        assert!(matches!(check("/v1/agents", &["nonsense"]), Err(Error::Invalid(_))));
        assert!(check("/v1/models", &[]).is_ok());
        assert!(matches!(check("/v1/models", &["nonsense"]), Err(Error::Invalid(_))));
    }
}
