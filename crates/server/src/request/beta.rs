//! The `anthropic-beta` header: which API a request is for.

use http::HeaderMap;
use rota_api::user_profile::Shape;

use crate::error::{Error, Result};

const BETA: &str = "anthropic-beta";

/// Most characters of the name of a beta.
const MAX_BETA_NAME: usize = 128;

/// The beta name of the managed agents API.
const MANAGED_AGENTS: &str = "managed-agents-2026-04-01";

/// The beta name of memory stores.
const AGENT_MEMORY: &str = "agent-memory-2026-07-22";

/// Checks the beta header of a request for `path`, whose operations need the managed agents beta when it is `required`. Names
/// that Rota does not know are those of other parts of the API, or of later versions of it: beside the one that counts here
/// they change nothing.
///
/// # Errors
/// 404 when it is required and not named; 400 when what is named is no name of a beta.
pub fn check(path: &str, required: bool, headers: &HeaderMap) -> Result<()> {
    let betas = betas(headers);
    if let Some(wrong) = betas.iter().find(|beta| **beta != MANAGED_AGENTS && !is_well_formed(beta)) {
        return Err(unexpected(wrong));
    }
    if !required || betas.contains(&MANAGED_AGENTS) {
        return Ok(());
    }
    Err(Error::NotFound(format!("Not found: {path} needs the header `anthropic-beta: {MANAGED_AGENTS}`")))
}

/// The same for `path` whose operations need a beta of their own, `name`.
///
/// # Errors
/// 404 when it is not named; 400 when what is named is no name of a beta.
pub fn check_named(path: &str, name: &str, headers: &HeaderMap) -> Result<()> {
    check(path, false, headers)?;
    if betas(headers).contains(&name) {
        return Ok(());
    }
    Err(Error::NotFound(format!("Not found: {path} needs the header `anthropic-beta: {name}`")))
}

/// The shape of user profiles that a request asks for: the newest that it names, and the general one when it names none.
pub fn user_profiles(headers: &HeaderMap) -> Shape {
    betas(headers).into_iter().filter_map(Shape::of_beta).max().unwrap_or(Shape::General)
}

/// Checks the beta header of a request for memory stores, at `path`: it names their beta or that of the managed agents API.
///
/// # Errors
/// 404 when it names neither; 400 when it names both, or what is no name of a beta.
pub fn check_memory(path: &str, headers: &HeaderMap) -> Result<()> {
    check(path, false, headers)?;
    let betas = betas(headers);
    match (betas.contains(&AGENT_MEMORY), betas.contains(&MANAGED_AGENTS)) {
        (true, true) => Err(Error::invalid(format_args!(
            "anthropic-beta: `{AGENT_MEMORY}` and `{MANAGED_AGENTS}` cannot be combined on {path}; send one of them"
        ))),
        (false, false) => {
            Err(Error::NotFound(format!("Not found: {path} needs the header `anthropic-beta: {AGENT_MEMORY}`")))
        }
        _ => Ok(()),
    }
}

fn unexpected(name: &str) -> Error {
    Error::invalid(format_args!(
        "Unexpected value(s) `{name}` for the `anthropic-beta` header. Please consult our documentation at \
         docs.anthropic.com or try again without the header."
    ))
}

/// Whether a text can be the name of a beta: words in lower case and the date of a day, such as `files-api-2025-04-14`.
fn is_well_formed(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let Some((date, words)) = parts.split_last_chunk::<3>().map(|(words, date)| (date, words)) else { return false };
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    let is_word = |word: &&str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.')
    };
    name.len() <= MAX_BETA_NAME
        && !words.is_empty()
        && words.iter().all(is_word)
        && digits(date[0], 4)
        && digits(date[1], 2)
        && digits(date[2], 2)
}

fn betas(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(BETA).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|beta| !beta.is_empty()).collect()
}

/// Whether a request names the managed agents beta.
pub fn is_managed_agents(headers: &HeaderMap) -> bool {
    betas(headers).contains(&MANAGED_AGENTS)
}

/// Whether a request was sent to the beta shape of an endpoint that has two.
pub fn is_beta(headers: &HeaderMap) -> bool {
    !betas(headers).is_empty()
}

/// Whether a request names this beta.
pub fn names(headers: &HeaderMap, beta: &str) -> bool {
    betas(headers).contains(&beta)
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
        for later in ["efs-2026-10-01", "google-managed-data-controls-2026-09-01", "of-a-release-to-come-2031-01-31"] {
            assert!(check("/v1/agents", &[MANAGED_AGENTS, later]).is_ok(), "{later}");
            assert!(matches!(check("/v1/agents", &[later]), Err(Error::NotFound(_))), "{later}");
        }
        for wrong in ["nonsense", "2026-04-01", "-2026-04-01", "Files-2026-04-01", "files-2026-4-01", "a b-2026-04-01"]
        {
            assert!(matches!(check("/v1/agents", &[MANAGED_AGENTS, wrong]), Err(Error::Invalid(_))), "{wrong}");
        }
        assert!(matches!(check("/v1/agents", &[]), Err(Error::NotFound(_))));
        assert!(matches!(check("/v1/agents", &["nonsense"]), Err(Error::Invalid(_))));
        for (values, status) in [
            (&[][..], Some(404)),
            (&["files-api-2025-04-14"], Some(404)),
            (&[AGENT_MEMORY], None),
            (&[MANAGED_AGENTS], None),
            (&[AGENT_MEMORY, MANAGED_AGENTS], Some(400)),
            (&[AGENT_MEMORY, "nonsense"], Some(400)),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(BETA, HeaderValue::from_static(value));
            }
            let refused = check_memory("/v1/memory_stores", &headers).err().map(|error| error.status().as_u16());
            assert_eq!(refused, status, "{values:?}");
        }
        assert!(check("/v1/models", &[]).is_ok());
        assert!(matches!(check("/v1/models", &["nonsense"]), Err(Error::Invalid(_))));
    }
}
