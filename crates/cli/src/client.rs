//! A client of any server with the API: this one's, another Rota, or the hosted service.

use std::{error::Error as _, io, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use serde_json::Value;

use crate::{
    limits::{ANSWER, ANSWER_BYTES, CONNECT, PAGE, SILENCE},
    output::{Exit, clean_line},
    profile::Target,
};

/// The header that names the API.
const BETA: (&str, &str) = ("anthropic-beta", "managed-agents-2026-04-01");
/// The version of the API, which the hosted service asks for.
const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

/// Why a command did not do what it was asked for. What others wrote is harmless for a terminal in its text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was called wrongly.
    #[error("{0}")]
    Usage(String),
    /// There is no such thing, as far as the command has looked.
    #[error("{0}")]
    NotFound(String),
    /// What the command was about has failed, or something on this machine has.
    #[error("{0}")]
    Failed(String),
    /// The server answered, and did not do it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No server answers.
    #[error("cannot reach {base}: {why}")]
    Unreachable {
        /// Its address.
        base: String,
        /// What happened instead, in words.
        why: String,
    },
    /// Whoever reads what the command writes has gone away. It ends quietly.
    #[error("nobody reads the output")]
    Closed,
}

/// What a server answered instead of doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `error.type`; empty where what answers is no server with the API.
    pub kind: String,
    /// Its words.
    pub message: String,
    /// The id of the request, by which the server's log is searched.
    pub request_id: Option<String>,
}

impl std::error::Error for Refusal {}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}", clean_line(&self.message), self.status)?;
        if !self.kind.is_empty() {
            write!(f, " {}", clean_line(&self.kind))?;
        }
        if let Some(id) = &self.request_id {
            write!(f, ", request {}", clean_line(id))?;
        }
        f.write_str(")")?;
        if self.status == 401 {
            f.write_str("\nThe key comes from ROTA_API_KEY or from a profile: `rota login` writes one.")?;
        }
        Ok(())
    }
}

impl Error {
    /// How a command ends that ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NotFound(_) | Self::Refused(Refusal { status: 404, .. }) => Exit::NotFound,
            Self::Refused(Refusal { status: 401 | 403, .. }) => Exit::Refused,
            Self::Failed(_) | Self::Refused(_) => Exit::Failed,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Closed => Exit::Done,
        }
    }

    /// Of writing to standard output.
    #[allow(clippy::needless_pass_by_value, reason = "it is given to map_err")]
    pub fn writing(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}

/// What the commands return.
pub type Result<T> = std::result::Result<T, Error>;

/// A server, as whoever has a key sees it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    target: Arc<Target>,
}

/// Rows of a list.
#[derive(Debug)]
pub struct Rows {
    /// As the server sent them.
    pub data: Vec<Value>,
    /// Whether there are more than were asked for.
    pub is_cut: bool,
}

impl Client {
    /// A client of the server at `target`. Nothing is sent yet.
    ///
    /// Redirects are not followed: the key would go where they lead. Proxies are those of the environment, and a server on this
    /// machine is spoken to without one.
    ///
    /// # Errors
    /// When there is no key, or one that no header can hold.
    pub fn new(target: Target) -> Result<Self> {
        let tls = tls().map_err(|error| Error::Failed(format!("TLS cannot be set up: {error}")))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("rota-cli/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        let http = if is_loopback(&target.url) { http.no_proxy() } else { http };
        let http = http.build().map_err(|error| Error::Failed(format!("no HTTP client: {error}")))?;
        Ok(Self { http, target: Arc::new(target) })
    }

    /// The address of the server, without a slash at its end.
    pub fn base(&self) -> &str {
        self.target.url.as_str().trim_end_matches('/')
    }

    /// A request with the key and the headers of the API. `path` begins with a slash, and ids in it have gone through [`id`].
    /// It has [`ANSWER`] to be answered unless told otherwise.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base()));
        let request = request.header(BETA.0, BETA.1).header(VERSION.0, VERSION.1);
        let request = request.header("x-api-key", self.target.key.reveal()).timeout(ANSWER);
        match &self.target.workspace {
            Some(workspace) => request.header("anthropic-workspace-id", workspace),
            None => request,
        }
    }

    /// `GET`.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let mut asked = form_urlencoded::Serializer::new(String::new());
        let asked = asked.extend_pairs(query).finish();
        let separator = if asked.is_empty() { "" } else { "?" };
        self.answer(self.request(Method::GET, &format!("{path}{separator}{asked}"))).await
    }

    /// `POST` of a body, or of none where it is null.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.request(Method::POST, path);
        self.answer(if body.is_null() { request } else { request.json(body) }).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.answer(self.request(Method::DELETE, path)).await
    }

    /// At most `most` rows of a list, page by page: by `page` and `next_page`, or by `after_id` where the list has that.
    pub async fn list(&self, path: &str, query: &[(&str, &str)], most: usize) -> Result<Rows> {
        let mut data = Vec::new();
        let is_cut = self
            .each(path, query, most, |row| {
                data.push(row.take());
                Ok(())
            })
            .await?;
        Ok(Rows { data, is_cut })
    }

    /// The same, with something done for each row as its page comes. Whether there are more.
    pub async fn each(
        &self,
        path: &str,
        query: &[(&str, &str)],
        most: usize,
        mut each: impl FnMut(&mut Value) -> Result<()>,
    ) -> Result<bool> {
        let mut left = most;
        let mut cursor: Option<(&str, String)> = None;
        loop {
            let limit = PAGE.min(left).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &limit));
            query.extend(cursor.as_ref().map(|(name, value)| (*name, value.as_str())));
            let mut page = self.get(path, &query).await?;
            let next = next(&page);
            let Some(Value::Array(mut rows)) = page.get_mut("data").map(Value::take) else {
                return Err(self.is_no_server("a list without `data`"));
            };
            let is_more = rows.len() > left || next.is_some();
            rows.truncate(left);
            left -= rows.len();
            rows.iter_mut().try_for_each(&mut each)?;
            if !is_more || left == 0 {
                return Ok(is_more);
            }
            if next.is_none() || next == cursor {
                return Err(self.is_no_server("a list whose pages do not end"));
            }
            cursor = next;
        }
    }

    /// Sends a request and returns its answer, once it is known to be a success. Its body is not read yet.
    pub async fn open(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let to = response.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or_default().to_owned();
            let base = self.base();
            let words = format!("{base} leads to {}, where the key is not sent: name that address", clean_line(&to));
            return Err(Error::Failed(words));
        }
        let header = response.headers().get("request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let body = self.body(response).await?;
        Err(Error::Refused(refusal(status, header, &body)))
    }

    /// Sends a request and reads its answer, which is JSON.
    pub async fn answer(&self, request: RequestBuilder) -> Result<Value> {
        let response = self.open(request).await?;
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|_| self.is_no_server("something that is not JSON"))
    }

    /// Reads the body of an answer to its end.
    pub async fn body(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err(self.is_no_server(&format!("more than {} MiB", ANSWER_BYTES >> 20)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What has happened to a connection, in words.
    pub fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable { base: self.base().to_owned(), why: why(error) }
    }

    fn is_no_server(&self, sent: &str) -> Error {
        Error::Failed(format!("{} sent {sent}: is it the address of a server with the API?", self.base()))
    }
}

/// An id that stands in a path.
///
/// # Errors
/// When it is none: it has other characters than letters, digits, underscores and hyphens.
pub fn id(text: &str) -> Result<&str> {
    let is_id = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_id { Ok(text) } else { Err(Error::Usage(format!("\"{}\" is not an id", clean_line(text)))) }
}

/// What a page says of the one that follows it.
fn next(page: &Value) -> Option<(&'static str, String)> {
    if let Some(next) = page["next_page"].as_str() {
        return Some(("page", next.to_owned()));
    }
    let last = page["last_id"].as_str().filter(|_| page["has_more"] == true)?;
    Some(("after_id", last.to_owned()))
}

fn refusal(status: StatusCode, header: Option<String>, body: &[u8]) -> Refusal {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let message = text(&body["error"]["message"]);
    Refusal {
        status: status.as_u16(),
        kind: text(&body["error"]["type"]).unwrap_or_default(),
        message: message.unwrap_or_else(|| status.canonical_reason().unwrap_or("it was refused").to_owned()),
        request_id: text(&body["request_id"]).or(header),
    }
}

/// Why a request has no answer, in words.
fn why(error: &reqwest::Error) -> String {
    let mut source = error.source();
    let mut last = None;
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => return "nothing listens there. Is the server running?".to_owned(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                    return "the connection ended before the answer".to_owned();
                }
                _ => {}
            }
        }
        last = Some(inner.to_string());
        source = inner.source();
    }
    let seconds = |time: Duration| time.as_secs();
    match last {
        _ if error.is_timeout() && error.is_connect() => format!("no connection within {} s", seconds(CONNECT)),
        _ if error.is_timeout() => format!("no answer within {} s", seconds(ANSWER)),
        Some(last) if last.contains("certificate") => {
            format!("{}. Trusted are the authorities of this machine, or those of SSL_CERT_FILE", clean_line(&last))
        }
        Some(last) => clean_line(&last).into_owned(),
        None => "the request was not sent".to_owned(),
    }
}

/// Whether an address is this machine's own, which no proxy stands before.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Trusts what the machine trusts; Mozilla's authorities, built in, where it has none.
fn tls() -> std::result::Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_holds_nothing_that_changes_a_path() {
        assert_eq!(id("sesn_1-a").unwrap(), "sesn_1-a");
        for text in ["", "..", "a/b", "a?b", "a%2fb", "a b", "ä"] {
            assert_eq!(id(text).unwrap_err().exit(), Exit::Usage, "{text}");
        }
    }

    #[test]
    fn the_next_page_is_named_in_either_style() {
        for (page, wanted) in [
            (json!({"data": [], "next_page": "p2"}), Some(("page", "p2"))),
            (json!({"data": [], "next_page": null}), None),
            (json!({"data": [], "has_more": true, "last_id": "a"}), Some(("after_id", "a"))),
            (json!({"data": [], "has_more": false, "last_id": "a"}), None),
            (json!({}), None),
        ] {
            assert_eq!(next(&page), wanted.map(|(name, value)| (name, value.to_owned())), "{page}");
        }
    }

    #[test]
    fn a_refusal_says_the_words_of_the_server_and_the_request_and_nothing_that_acts_on_a_terminal() {
        let body = br#"{"type": "error", "error": {"type": "not_found_error", "message": "no \u001b[2Jsuch"}, "request_id": "req_1"}"#;
        let refused = refusal(StatusCode::NOT_FOUND, None, body);
        assert_eq!(refused.to_string(), "no \\u{1b}[2Jsuch (404 not_found_error, request req_1)");
        assert_eq!(Error::from(refused).exit(), Exit::NotFound);
        let other = refusal(StatusCode::BAD_GATEWAY, Some("req_2".to_owned()), b"<html>");
        assert_eq!(other.to_string(), "Bad Gateway (502, request req_2)");
        assert_eq!(Error::from(other).exit(), Exit::Failed);
    }

    #[test]
    fn this_machine_is_known_by_its_address() {
        for (url, wanted) in [
            ("http://127.0.0.1:7420", true),
            ("http://127.1.2.3", true),
            ("http://localhost", true),
            ("http://[::1]:1", true),
            ("http://localhost.example.com", false),
            ("https://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), wanted, "{url}");
        }
    }
}
