//! Fetches a page, redirect by redirect: each URL is checked as the first one was.

use std::sync::Arc;

use reqwest::{Client, Response, Url, header};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    Failure,
    page::{Fetched, Page, read},
    rules::Domains,
};
use crate::{
    error::{Error, Result},
    limits::{WEB_CONNECT_TIMEOUT, WEB_PAGE_BYTES, WEB_READS, WEB_REDIRECTS, WEB_URL_BYTES},
    outgoing::{self, PrivateAddress},
};

/// Fetches pages.
pub(super) struct Fetcher {
    client: Client,
    allow_private: bool,
    /// Pages whose text is made at the same time.
    reads: Arc<Semaphore>,
}

impl Fetcher {
    pub(super) fn new(allow_private: bool) -> Result<Self> {
        let client = outgoing::client(allow_private)?
            // Which of the URLs may be without TLS is decided for each.
            .https_only(false)
            .connect_timeout(WEB_CONNECT_TIMEOUT)
            .build()
            .map_err(Error::internal)?;
        Ok(Self { client, allow_private, reads: Arc::new(Semaphore::new(WEB_READS)) })
    }

    pub(super) async fn fetch(&self, url: &str, domains: Domains<'_>) -> Result<Page, Failure> {
        if url.len() > WEB_URL_BYTES {
            let most = format_args!("the URL has {} bytes; the most is {WEB_URL_BYTES}", url.len());
            return Err(Failure::fetch("url_too_long", most));
        }
        let mut url = self.check(url, domains)?;
        for _ in 0..=WEB_REDIRECTS {
            let response = self.client.get(url.clone()).header(header::ACCEPT, ACCEPTED).send().await;
            let response = response.map_err(|error| unreachable(&url, error))?;
            if let Some(location) = redirect(&response) {
                let target = location.and_then(|location| url.join(&location).ok());
                let target = target.ok_or_else(|| unaccessible(&url, "redirects to what is no URL"))?;
                url = self.check(target.as_str(), domains)?;
                continue;
            }
            if !response.status().is_success() {
                return Err(unaccessible(&url, format_args!("answered with {}", response.status())));
            }
            let fetched = receive(url, response).await?;
            return self.read(fetched).await;
        }
        Err(unaccessible(&url, format_args!("is behind more than {WEB_REDIRECTS} redirects")))
    }

    /// Makes text of a page beside all else. Who waits for it may give up, and its place is taken until it is done.
    async fn read(&self, fetched: Fetched) -> Result<Page, Failure> {
        let place = self.reads.clone().acquire_owned().await;
        let reading = spawn_blocking(move || {
            let _place = place;
            read(fetched)
        });
        reading.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a page could not be read");
            Err(Failure::fetch("unavailable", "the page could not be read"))
        })
    }

    fn check(&self, url: &str, domains: Domains<'_>) -> Result<Url, Failure> {
        let wrong = |why| Failure::fetch("invalid_tool_input", format_args!("the URL {why}"));
        let url = outgoing::page_url(url).map_err(wrong)?;
        domains.check(&url)?;
        let private = |why| Failure::fetch("url_not_allowed", why);
        outgoing::check_literal(&url, self.allow_private).map_err(private)?;
        Ok(url)
    }
}

/// What pages are asked for as.
const ACCEPTED: &str =
    "text/markdown, text/html;q=0.9, application/xhtml+xml;q=0.9, application/pdf;q=0.8, text/*;q=0.8, */*;q=0.5";

/// Where a response redirects to, if it does; the inner one is `None` where it does not say.
#[allow(clippy::option_option, reason = "a redirect may lead nowhere")]
fn redirect(response: &Response) -> Option<Option<String>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    Some(response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok()).map(str::to_owned))
}

/// The body of a response, as far as it is read.
async fn receive(url: Url, mut response: Response) -> Result<Fetched, Failure> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let content_type = text(header::CONTENT_TYPE);
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
    {
        return Err(unaccessible(
            &url,
            format_args!("answered in the encoding \"{encoding}\", which was not asked for"),
        ));
    }
    let mut body = Vec::new();
    let mut is_cut = false;
    while let Some(piece) = response.chunk().await.map_err(|error| unreachable(&url, error))? {
        let room = WEB_PAGE_BYTES - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            is_cut = true;
            break;
        }
    }
    Ok(Fetched { url, content_type, body, is_cut })
}

fn unaccessible(url: &Url, why: impl std::fmt::Display) -> Failure {
    Failure::fetch("url_not_accessible", format_args!("{} {why}", url.host_str().unwrap_or_default()))
}

fn unreachable(url: &Url, error: reqwest::Error) -> Failure {
    if let Some(private) = PrivateAddress::of(&error) {
        return Failure::fetch("url_not_allowed", private);
    }
    unaccessible(url, format_args!("could not be reached: {}", outgoing::causes(error)))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;

    /// A server that answers each request with this, and its port.
    async fn serve(answer: impl Fn(u16) -> String + Send + 'static) -> (u16, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = answer(port);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = [0; 4096];
                drop(connection.read(&mut request).await);
                drop(connection.write_all(answer.as_bytes()).await);
            }
        });
        (port, serving)
    }

    #[tokio::test]
    async fn a_redirect_leads_to_no_private_address() {
        let (port, _serving) = serve(|port| {
            format!("HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:{port}/b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        })
        .await;
        // The name leads there all the same, as one of the public internet would lead elsewhere.
        let client = outgoing::client(true).unwrap().build().unwrap();
        let fetcher = Fetcher { client, ..Fetcher::new(false).unwrap() };
        let refused = fetcher.fetch(&format!("http://localhost:{port}/a"), Domains::default()).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Web fetch error: url_not_allowed — 127.0.0.1 is a private address, which this server does not send to"
        );
    }

    #[tokio::test]
    async fn a_url_that_is_too_long_or_packed_is_refused() {
        let (port, _serving) = serve(|_| {
            let head = "content-type: text/plain\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\nconnection: close";
            format!("HTTP/1.1 200 x\r\n{head}\r\n\r\nxx")
        })
        .await;
        let fetcher = Fetcher::new(true).unwrap();
        let packed = fetcher.fetch(&format!("http://127.0.0.1:{port}/"), Domains::default()).await.unwrap_err();
        assert!(packed.to_string().contains("answered in the encoding \"gzip\""), "{packed}");
        let long = format!("http://127.0.0.1:{port}/{}", "x".repeat(WEB_URL_BYTES));
        let long = fetcher.fetch(&long, Domains::default()).await.unwrap_err();
        assert!(long.to_string().starts_with("Web fetch error: url_too_long — "), "{long}");
    }
}
