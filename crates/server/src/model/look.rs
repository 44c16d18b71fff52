//! A look at an upstream before anybody needs it: whether it is there, and whether it takes the key.
//!
//! It is one request for the list of models, which costs no tokens. A server that has no such list says nothing wrong.

use std::{pin::Pin, sync::Arc};

use futures_util::{StreamExt, stream};
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;

use super::{Model, ModelError, failure};
use crate::{
    config::{ModelConfig, Provider},
    limits::MODEL_LOOKS_AT_ONCE,
};

/// What a look found. Texts are for the operator; none holds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is there and takes the key; these are its models.
    Models(Vec<String>),
    /// Something is there that has no list of models, as some local servers have none.
    NoList(String),
    /// It refuses the key.
    KeyRefused(String),
    /// Nothing answers.
    Unreachable(String),
    /// What answers is no upstream.
    NoUpstream(String),
    /// It is there, and fails.
    Failing(String),
}

/// What was found at an upstream of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The entries of `[[models]]` that have this address and this key.
    pub models: Vec<String>,
    /// Its address.
    pub base_url: String,
    /// What was found.
    pub found: Found,
    /// What is wrong with the configuration, with the name of the setting and the remedy; `None` where nothing is.
    pub wrong: Option<String>,
    /// What may be wrong: names that are not in the list of models.
    pub unlisted: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

impl Found {
    /// This without `secret`, which an upstream may repeat, and cut to what can be read.
    pub(super) fn without(mut self, secret: Option<&str>) -> Self {
        let (Self::NoList(text)
        | Self::KeyRefused(text)
        | Self::Unreachable(text)
        | Self::NoUpstream(text)
        | Self::Failing(text)) = &mut self
        else {
            return self;
        };
        let message = std::mem::take(text);
        *text = failure::shown(ModelError::Billing { message }, secret).to_string();
        self
    }
}

/// What an answer to the request for the list says.
pub(super) fn read(status: StatusCode, kind: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Found {
    let said = || failure::of_response(status, headers, body).to_string();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Found::KeyRefused(said()),
        status if status.is_redirection() => Found::NoUpstream(said()),
        StatusCode::TOO_MANY_REQUESTS => Found::Failing(said()),
        // Which path they do not know, and how they say it, differs.
        StatusCode::NOT_IMPLEMENTED => Found::NoList(said()),
        status if status.is_client_error() => Found::NoList(said()),
        status if !status.is_success() => Found::Failing(said()),
        _ => match serde_json::from_slice::<List>(body) {
            Ok(list) => Found::Models(list.data.into_iter().map(|listed| listed.id).collect()),
            Err(_) if kind == Some("text/html") => Found::NoUpstream("it answers with a page for people".to_owned()),
            Err(_) => Found::NoList("it answers with what is no list of models".to_owned()),
        },
    }
}

/// Looks at every upstream of `configs`, each with its provider: once where several models have one address and one key.
pub(super) async fn look(upstreams: Vec<(ModelConfig, Arc<dyn Model>)>) -> Vec<Looked> {
    let mut groups: Vec<(Vec<ModelConfig>, Arc<dyn Model>)> = Vec::new();
    for (config, provider) in upstreams {
        let same = |of: &ModelConfig| {
            (of.provider, &of.base_url, &of.api_key_env, of.bearer)
                == (config.provider, &config.base_url, &config.api_key_env, config.bearer)
        };
        match groups.iter_mut().find(|(group, _)| same(&group[0])) {
            Some((group, _)) => group.push(config),
            None => groups.push((vec![config], provider)),
        }
    }
    let looks: Vec<Look> =
        groups.into_iter().map(|(group, provider)| Box::pin(look_at(group, provider)) as Look).collect();
    let looked: Vec<Option<Looked>> = stream::iter(looks).buffered(MODEL_LOOKS_AT_ONCE).collect().await;
    looked.into_iter().flatten().collect()
}

type Look = Pin<Box<dyn Future<Output = Option<Looked>> + Send>>;

async fn look_at(group: Vec<ModelConfig>, provider: Arc<dyn Model>) -> Option<Looked> {
    let found = provider.look()?.await;
    Some(judged(&group, found))
}

fn judged(group: &[ModelConfig], found: Found) -> Looked {
    let first = &group[0];
    let base_url = first.base_url.clone().unwrap_or_default();
    let ends = match first.provider {
        Provider::OpenAi => "/chat/completions",
        _ => "/v1/messages",
    };
    let wrong = match &found {
        Found::Models(_) | Found::NoList(_) => None,
        Found::KeyRefused(said) => Some(match &first.api_key_env {
            Some(variable) => format!(
                "api_key_env: {said}. The key in the environment variable {variable} is not taken there: put a key of this upstream \
                 into it{}",
                if first.provider == Provider::Messages && !first.bearer {
                    ", or set bearer = true where it wants the key as a bearer token"
                } else {
                    ""
                }
            ),
            None => {
                format!("api_key_env: {said}. The upstream wants a key: name the environment variable that holds it")
            }
        }),
        Found::Unreachable(said) => Some(format!(
            "base_url: {said}. Start what is to answer there, or put the address right: requests go to what stands before {ends}"
        )),
        Found::NoUpstream(said) => {
            Some(format!("base_url: {said}. Put the address right: requests go to what stands before {ends}"))
        }
        Found::Failing(said) => Some(format!(
            "base_url: {said}. The address is right, as it seems; sessions try again until the upstream has recovered"
        )),
    };
    let unlisted = match &found {
        Found::Models(listed) if !listed.is_empty() => {
            let name = |config: &ModelConfig| config.upstream.clone().unwrap_or_else(|| config.id.clone());
            // Ollama lists what has no tag with the tag that it has then.
            let is_listed = |name: &String| listed.iter().any(|id| id == name || *id == format!("{name}:latest"));
            group.iter().map(name).filter(|name| !is_listed(name)).collect()
        }
        _ => Vec::new(),
    };
    Looked { models: group.iter().map(|config| config.id.clone()).collect(), base_url, found, wrong, unlisted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_the_look_is_judged_and_what_has_no_list_is_not_called_wrong() {
        let none = HeaderMap::new();
        let found = |status: u16, kind: &str, body: &str| {
            read(StatusCode::from_u16(status).unwrap(), Some(kind), &none, body.as_bytes())
        };
        let json = "application/json";
        let list = r#"{"object": "list", "data": [{"id": "m-1", "object": "model"}, {"id": "m-2"}]}"#;
        assert_eq!(found(200, json, list), Found::Models(vec!["m-1".to_owned(), "m-2".to_owned()]));
        assert_eq!(found(200, json, r#"{"data": []}"#), Found::Models(Vec::new()));
        for (status, kind, body) in [
            (404, json, r#"{"detail": "Not Found"}"#),
            (405, json, ""),
            (501, json, ""),
            (400, json, "what?"),
            (200, json, r#"{"models": []}"#),
        ] {
            assert!(matches!(found(status, kind, body), Found::NoList(_)), "{status} {body}");
        }
        for (status, kind, body) in [(200, "text/html", "<html>"), (301, "text/html", "")] {
            assert!(matches!(found(status, kind, body), Found::NoUpstream(_)), "{status} {body}");
        }
        for status in [401, 403] {
            assert!(matches!(found(status, json, ""), Found::KeyRefused(_)), "{status}");
        }
        for status in [429, 500, 503, 529] {
            assert!(matches!(found(status, json, ""), Found::Failing(_)), "{status}");
        }
    }
}
