//! Searches through a provider that the operator has configured: Brave, Tavily, or an instance of SearXNG.

use std::{env, future::Future, pin::Pin};

use reqwest::{Client, RequestBuilder, StatusCode, Url};
use rota_api::secret::Secret;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::Failure;
use crate::{
    config::{SearchConfig, SearchProvider},
    error::{Error, Result},
    limits::{WEB_CONNECT_TIMEOUT, WEB_HIT_CHARACTERS, WEB_SEARCH_BYTES},
    outgoing,
};

/// Results of a search, at most. So many it was recorded to have.
pub(super) const HITS: usize = 10;
/// The most characters of a query.
const MAX_QUERY: usize = 400;

/// A result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Where it is.
    pub url: Url,
    /// What it is called.
    pub title: String,
    /// An excerpt of it, or its title where the provider has none. Never blank.
    pub text: String,
}

/// The future that [`Provider::search`] returns.
type Searching<'a> = Pin<Box<dyn Future<Output = Result<Vec<Hit>, Failure>> + Send + 'a>>;

/// Who searches the web.
pub(super) trait Provider: Send + Sync {
    /// Sends one query; `country` is where the user is, as `DE`, if that is known.
    fn search<'a>(&'a self, query: &'a str, country: Option<&'a str>) -> Searching<'a>;
}

/// The provider that is configured.
pub(super) fn provider(config: &SearchConfig) -> Result<Box<dyn Provider>> {
    let http = Http::new(config)?;
    Ok(match config.provider {
        SearchProvider::Brave => Box::new(Brave(http)),
        SearchProvider::Tavily => Box::new(Tavily(http)),
        SearchProvider::Searxng => Box::new(Searxng(http)),
    })
}

/// What all providers have in common.
struct Http {
    /// Reaches private addresses too: the provider is the operator's choice, and may be in his network.
    client: Client,
    base: Url,
    key: Option<Secret>,
}

impl Http {
    fn new(config: &SearchConfig) -> Result<Self> {
        let base = config.base_url.as_deref().or(config.provider.base_url());
        let base = base.ok_or_else(|| Error::invalid("web.search: this provider needs a base_url"))?;
        let base =
            outgoing::page_url(base).map_err(|why| Error::invalid(format_args!("web.search.base_url: {why}")))?;
        let key = config.api_key_env.as_deref().map(key).transpose()?;
        let client = outgoing::client(true)?.connect_timeout(WEB_CONNECT_TIMEOUT).build().map_err(Error::internal)?;
        Ok(Self { client, base, key })
    }

    /// A path below the base, which may have one of its own.
    fn at(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// The answer to a request. What the provider says goes to the model; it never has the key.
    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let unreachable = |error| {
            let causes = outgoing::causes(error);
            Failure::search("unavailable", format_args!("the search provider could not be reached: {causes}"))
        };
        let mut response = request.send().await.map_err(unreachable)?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::TOO_MANY_REQUESTS => {
                let words = "the search provider takes no more searches at this moment: wait before you search again";
                return Err(Failure::search("too_many_requests", words));
            }
            status => {
                tracing::warn!(%status, provider = self.base.host_str(), "a search was refused");
                let words = format_args!("the search provider answered with {status}");
                return Err(Failure::search("unavailable", words));
            }
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&piece);
            if body.len() > WEB_SEARCH_BYTES {
                return Err(Failure::search("unavailable", "the search provider answered with too much"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| {
            let line = (error.line(), error.column());
            tracing::warn!(?line, provider = self.base.host_str(), "what a search provider answered cannot be read");
            Failure::search("unavailable", "the search provider answered with what is no result")
        })
    }
}

fn key(name: &str) -> Result<Secret> {
    let key = env::var(name).ok().filter(|key| !key.trim().is_empty());
    let missing = || Error::invalid(format_args!("web.search.api_key_env: {name} is not in the environment, or empty"));
    key.map(Secret::new).ok_or_else(missing)
}

/// A query as a provider is sent it.
///
/// # Errors
/// When it is too short or too long.
pub(super) fn checked(query: &str) -> Result<&str, Failure> {
    let query = query.trim();
    match query.chars().count() {
        0 | 1 => Err(Failure::search("invalid_tool_input", "the query needs at least 2 characters")),
        2..=MAX_QUERY => Ok(query),
        long => Err(Failure::search(
            "query_too_long",
            format_args!("the query has {long} characters; the most is {MAX_QUERY}"),
        )),
    }
}

/// What providers have of a result. Whatever is missing is empty.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    url: String,
    #[serde(default)]
    title: Option<String>,
    /// Tavily, SearXNG.
    #[serde(default)]
    content: Option<String>,
    /// Brave.
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    extra_snippets: Option<Vec<String>>,
}

/// The results, without those that are nowhere on the web.
fn hits(found: Vec<Found>) -> Vec<Hit> {
    let hit = |found: Found| {
        let url = outgoing::page_url(found.url.trim()).ok()?;
        let excerpts = found.content.or(found.description).into_iter().chain(found.extra_snippets.unwrap_or_default());
        let excerpts: Vec<String> = excerpts.filter(|text| !text.trim().is_empty()).collect();
        let title = found.title.filter(|title| !title.trim().is_empty()).unwrap_or_else(|| url.to_string());
        let text = if excerpts.is_empty() { title.clone() } else { excerpts.join("\n") };
        let text = text.chars().take(WEB_HIT_CHARACTERS).collect();
        Some(Hit { url, title: title.chars().take(WEB_HIT_CHARACTERS).collect(), text })
    };
    found.into_iter().filter_map(hit).collect()
}

/// <https://api-dashboard.search.brave.com/app/documentation/web-search>
struct Brave(Http);

#[derive(Deserialize)]
struct BraveAnswer {
    web: Option<Results>,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Found>,
}

impl Provider for Brave {
    fn search<'a>(&'a self, query: &'a str, country: Option<&'a str>) -> Searching<'a> {
        Box::pin(async move {
            let Self(http) = self;
            let count = HITS.to_string();
            let mut asked = vec![("q", query), ("count", &count), ("text_decorations", "false")];
            asked.extend(country.map(|country| ("country", country)));
            let mut request = http.client.get(http.at("/res/v1/web/search", &asked));
            if let Some(key) = &http.key {
                request = request.header("x-subscription-token", key.reveal());
            }
            let answer: BraveAnswer = http.answer(request).await?;
            Ok(hits(answer.web.map(|web| web.results).unwrap_or_default()))
        })
    }
}

/// <https://docs.tavily.com/documentation/api-reference/endpoint/search>
struct Tavily(Http);

impl Provider for Tavily {
    fn search<'a>(&'a self, query: &'a str, _: Option<&'a str>) -> Searching<'a> {
        Box::pin(async move {
            let Self(http) = self;
            let mut request = http.client.post(http.at("/search", &[]));
            request = request.json(&json!({"query": query, "max_results": HITS, "search_depth": "basic"}));
            if let Some(key) = &http.key {
                request = request.bearer_auth(key.reveal());
            }
            Ok(hits(http.answer::<Results>(request).await?.results))
        })
    }
}

/// <https://docs.searxng.org/dev/search_api.html>. Its settings must allow the format `json`.
struct Searxng(Http);

impl Provider for Searxng {
    fn search<'a>(&'a self, query: &'a str, _: Option<&'a str>) -> Searching<'a> {
        Box::pin(async move {
            let Self(http) = self;
            let mut request = http.client.get(http.at("/search", &[("q", query), ("format", "json")]));
            if let Some(key) = &http.key {
                request = request.bearer_auth(key.reveal());
            }
            Ok(hits(http.answer::<Results>(request).await?.results))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_a_length() {
        for (query, code) in
            [("", "invalid_tool_input"), (" a ", "invalid_tool_input"), (&*"x".repeat(401), "query_too_long")]
        {
            assert!(checked(query).unwrap_err().to_string().contains(code), "{query}");
        }
        assert_eq!(checked(" ab "), Ok("ab"));
        assert!(checked(&"é".repeat(400)).is_ok());
    }

    #[test]
    fn a_result_has_a_url_a_title_and_a_text_whatever_the_provider_leaves_out() {
        let found = json!([
            {"url": "https://a.example/", "title": "A", "content": "about a"},
            {"url": "https://b.example/", "title": "B", "description": "about b", "extra_snippets": ["more", " "]},
            {"url": "https://c.example/", "title": "", "content": null},
            {"url": "javascript:alert(1)", "title": "D"},
            {"title": "E"},
        ]);
        let hits = hits(serde_json::from_value(found).unwrap());
        let told: Vec<_> = hits.iter().map(|hit| (hit.url.as_str(), &*hit.title, &*hit.text)).collect();
        assert_eq!(
            told,
            [
                ("https://a.example/", "A", "about a"),
                ("https://b.example/", "B", "about b\nmore"),
                ("https://c.example/", "https://c.example/", "https://c.example/"),
            ]
        );
    }
}
