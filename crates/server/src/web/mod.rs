//! The web tools: pages are fetched and the web is searched by the server, never from a sandbox.
//!
//! What an environment allows its sandboxes does not bind these tools, as in the hosted service: what binds them are the lists of
//! domains of the agent, and which URLs the conversation has shown (`rules.rs`).

mod fetch;
mod markdown;
mod page;
mod pdf;
pub mod rules;
mod search;

use std::{fmt, sync::Arc};

use rota_api::id::WorkspaceId;
use tokio::time::timeout;

pub use page::Page;
use rules::Domains;
pub use search::Hit;

use crate::{
    config::{Config, WebConfig},
    error::Result,
    limits::{WEB_CALLS, WEB_TIMEOUT},
    places::Places,
};

/// What answers the web tools.
pub struct Web {
    fetcher: Option<fetch::Fetcher>,
    search: Option<Box<dyn search::Provider>>,
    /// Calls at the same time.
    places: Arc<Places>,
}

/// Why a web tool has no answer, for the model to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    tool: &'static str,
    code: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn fetch(code: &'static str, message: impl fmt::Display) -> Self {
        Self { tool: "fetch", code, message: message.to_string() }
    }

    pub(crate) fn search(code: &'static str, message: impl fmt::Display) -> Self {
        Self { tool: "search", code, message: message.to_string() }
    }
}

/// Recorded for `web_fetch`: `Web fetch error: url_not_allowed — …`.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Web {} error: {} — {}", self.tool, self.code, self.message)
    }
}

impl Web {
    /// What the configuration says, on a server that runs sessions.
    ///
    /// # Errors
    /// When TLS cannot be set up, or a key is not in the environment.
    pub fn new(config: &Config) -> Result<Self> {
        let WebConfig { fetch, allow_private, search } = &config.web;
        let search = search.as_ref().filter(|_| config.runs_sessions());
        Ok(Self {
            fetcher: fetch.then(|| fetch::Fetcher::new(*allow_private)).transpose()?,
            search: search.map(search::provider).transpose()?,
            places: Places::new(WEB_CALLS),
        })
    }

    /// Fetches a page that the conversation has shown.
    ///
    /// # Errors
    /// For the model to read.
    pub async fn fetch(&self, workspace: &WorkspaceId, url: &str, domains: Domains<'_>) -> Result<Page, Failure> {
        let Some(fetcher) = &self.fetcher else {
            return Err(Failure::fetch("unavailable", "the operator of this server has switched web_fetch off"));
        };
        let _place = self.places.take(workspace).await;
        let late = |_| Failure::fetch("url_not_accessible", "the page was not there in time");
        timeout(WEB_TIMEOUT, fetcher.fetch(url, domains)).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    /// Searches the web. What the lists of domains leave out is not there.
    ///
    /// # Errors
    /// For the model to read.
    pub async fn search(
        &self,
        workspace: &WorkspaceId,
        query: &str,
        country: Option<&str>,
        domains: Domains<'_>,
    ) -> Result<Vec<Hit>, Failure> {
        let Some(search) = &self.search else {
            return Err(Failure::search("unavailable", "no search provider is configured on this server"));
        };
        let query = search::checked(query)?;
        let _place = self.places.take(workspace).await;
        let late = |_| Failure::search("unavailable", "the search provider did not answer in time");
        let found = timeout(WEB_TIMEOUT, search.search(query, country)).await;
        let hits = found.unwrap_or_else(|elapsed| Err(late(elapsed)))?;
        Ok(hits.into_iter().filter(|hit| domains.admit(&hit.url)).take(search::HITS).collect())
    }
}

#[cfg(test)]
mod tests {
    use rota_api::{agent::BuiltInTool, id::Id};

    use super::*;

    #[tokio::test]
    async fn what_is_not_configured_is_not_offered_and_says_so() {
        let off = WebConfig { fetch: false, ..WebConfig::default() };
        for tool in BuiltInTool::ALL {
            assert_eq!(off.offers(tool), !BuiltInTool::WEB.contains(&tool), "{tool:?}");
        }
        assert!(WebConfig::default().offers(BuiltInTool::WebFetch));
        let web = Web::new(&Config { web: off, ..Config::default() }).unwrap();
        let workspace = WorkspaceId::trusted("wrkspc_1".to_owned());
        let fetched = web.fetch(&workspace, "https://example.com", Domains::default()).await.unwrap_err();
        assert_eq!(
            fetched.to_string(),
            "Web fetch error: unavailable — the operator of this server has switched web_fetch off"
        );
        let found = web.search(&workspace, "query", None, Domains::default()).await.unwrap_err();
        assert!(found.to_string().starts_with("Web search error: unavailable — no search provider"), "{found}");
    }
}
