//! HTTP for the client of MCP servers: by this server's own client, whose addresses are checked, with the session's credential, and
//! with bounds on all that comes back.
//!
//! A request is answered here with a stream at once, in which the answer follows. What goes wrong with it is an error in that
//! stream, so that it ends this request and nothing else, and is kept beside under the request's id: whether a call was run is not
//! to be read from words.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use rmcp::{
    model::{ClientJsonRpcMessage, ClientNotification, ClientRequest, RequestId, ServerJsonRpcMessage},
    transport::streamable_http_client::{
        SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    },
};
use rota_api::secret::Secret;
use serde_json::json;
use sse_stream::{Sse, SseStream};

use crate::{
    limits::{MCP_ANSWER_BYTES, MCP_NOTICE_TIMEOUT, MCP_PROBLEMS, MCP_UNASKED_BYTES},
    outgoing,
};

const SESSION: &str = "mcp-session-id";
const LAST_EVENT: &str = "last-event-id";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// Requests to one MCP server, for one session.
#[derive(Clone)]
pub(super) struct Http(Arc<Inner>);

struct Inner {
    client: Client,
    url: Url,
    token: Mutex<Option<Secret>>,
    /// How long the answer to the first request may take.
    opens_within: Duration,
    /// How long the answer to any other may take.
    answers_within: Duration,
    /// What went wrong with the first request.
    opening: Mutex<Option<Problem>>,
    /// What went wrong with others.
    problems: Mutex<HashMap<RequestId, Problem>>,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// The server wants another credential: 401.
    Unauthorized,
    /// The server says with this status that it does not know the session any more. It has not looked at the request.
    SessionGone(StatusCode),
    /// The server answered with this status.
    Status(StatusCode),
    /// There was no answer; whether the request was sent.
    NoAnswer { why: String, was_sent: bool },
    /// What was answered is no answer.
    Unfit(String),
}

impl Problem {
    /// Whether the server may have done what it was asked for.
    pub(super) fn may_have_run(&self) -> bool {
        match self {
            Self::Unauthorized | Self::SessionGone(_) => false,
            Self::Status(status) => status.is_server_error(),
            Self::NoAnswer { was_sent, .. } => *was_sent,
            Self::Unfit(_) => true,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized => f.write_str("it answers HTTP 401"),
            Self::SessionGone(status) => write!(f, "it does not know the session (HTTP {})", status.as_u16()),
            Self::Status(StatusCode::FORBIDDEN) => f.write_str("access forbidden (HTTP 403)"),
            Self::Status(status) if status.is_server_error() => {
                write!(f, "upstream server error (HTTP {})", status.as_u16())
            }
            Self::Status(status) => write!(f, "it answers HTTP {}", status.as_u16()),
            Self::NoAnswer { why, .. } => f.write_str(why),
            Self::Unfit(why) => write!(f, "it does not answer as an MCP server does: {why}"),
        }
    }
}

impl std::error::Error for Problem {}

impl From<Problem> for StreamableHttpError<Problem> {
    fn from(problem: Problem) -> Self {
        Self::Client(problem)
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<Sse, SseError>> + Send>>;

impl Http {
    pub(super) fn new(client: Client, url: Url, opens_within: Duration, answers_within: Duration) -> Self {
        Self(Arc::new(Inner {
            client,
            url,
            token: Mutex::default(),
            opens_within,
            answers_within,
            opening: Mutex::default(),
            problems: Mutex::default(),
        }))
    }

    /// Sends this token from now on.
    pub(super) fn authorize(&self, token: Option<Secret>) {
        *lock(&self.0.token) = token;
    }

    /// What went wrong with the first request, if that did.
    pub(super) fn opening(&self) -> Option<Problem> {
        lock(&self.0.opening).take()
    }

    /// What went wrong with a request, if something did.
    pub(super) fn problem_of(&self, id: &RequestId) -> Option<Problem> {
        lock(&self.0.problems).remove(id)
    }

    fn request(
        &self,
        method: Method,
        session: Option<&str>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> RequestBuilder {
        let mut all: HeaderMap = headers.into_iter().collect();
        if let Some(session) = session.and_then(|session| HeaderValue::from_str(session).ok()) {
            all.insert(SESSION, session);
        }
        if let Some(token) = &*lock(&self.0.token)
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
        {
            value.set_sensitive(true);
            all.insert(header::AUTHORIZATION, value);
        }
        self.0.client.request(method, self.0.url.clone()).headers(all)
    }

    /// Sends a message. The answer, once its head is there.
    async fn post(
        &self,
        message: &ClientJsonRpcMessage,
        session: Option<&str>,
        headers: HashMap<HeaderName, HeaderValue>,
        within: Duration,
    ) -> Result<Response, Problem> {
        let request = self.request(Method::POST, session, headers).header(header::ACCEPT, format!("{JSON}, {EVENTS}"));
        let response = request.json(message).timeout(within).send().await.map_err(|error| no_answer(error, within))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED => Err(Problem::Unauthorized),
            // The second is what servers answer that know no sessions by this name.
            status @ (StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST) if session.is_some() => {
                Err(Problem::SessionGone(status))
            }
            status => Err(Problem::Status(status)),
        }
    }

    /// The events of an answer: its own, or the one that it is.
    async fn answer(&self, response: Response, within: Duration) -> Result<Events, Problem> {
        let kind = content_type(&response);
        if kind.starts_with(EVENTS) {
            return Ok(events(response, MCP_ANSWER_BYTES));
        }
        if response.status() == StatusCode::ACCEPTED || response.status() == StatusCode::NO_CONTENT {
            return Err(Problem::Unfit("it takes a request as if it wanted no answer".to_owned()));
        }
        if !kind.starts_with(JSON) {
            let kind = if kind.is_empty() { "no content type" } else { &*kind };
            return Err(Problem::Unfit(format!("its answer has {kind}, and not {JSON} or {EVENTS}")));
        }
        let body = whole(response, within).await?;
        let text = String::from_utf8(body).map_err(|_| Problem::Unfit("its answer is not UTF-8".to_owned()))?;
        if let Err(error) = serde_json::from_str::<ServerJsonRpcMessage>(&text) {
            return Err(Problem::Unfit(format!("its answer cannot be read ({error})")));
        }
        let event = Sse { data: Some(text), ..Sse::default() };
        Ok(stream::once(async { Ok(event) }).boxed())
    }

    /// The answer to a request as a stream: what went wrong is an error in it that the client understands.
    async fn answered(
        self,
        id: RequestId,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Events {
        let within = self.0.answers_within;
        let answered = match self.post(&message, session.as_deref(), headers, within).await {
            Ok(response) => self.answer(response, within).await,
            Err(problem) => Err(problem),
        };
        answered.unwrap_or_else(|problem| {
            let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": problem.to_string()}});
            let mut problems = lock(&self.0.problems);
            // Those of requests that nobody waited for any more.
            if problems.len() >= MCP_PROBLEMS {
                problems.clear();
            }
            problems.insert(id, problem);
            drop(problems);
            let event = Sse { data: Some(error.to_string()), ..Sse::default() };
            stream::once(async { Ok(event) }).boxed()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn content_type(response: &Response) -> String {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.unwrap_or_default().to_ascii_lowercase()
}

fn no_answer(error: reqwest::Error, within: Duration) -> Problem {
    let was_sent = !error.is_connect() && !error.is_builder();
    let why = if error.is_timeout() && was_sent {
        format!("it does not answer within {} s", within.as_secs())
    } else {
        format!("it cannot be reached: {}", outgoing::causes(error))
    };
    Problem::NoAnswer { why, was_sent }
}

async fn whole(mut response: Response, within: Duration) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| no_answer(error, within))? {
        if body.len() + piece.len() > MCP_ANSWER_BYTES {
            return Err(Problem::Unfit(format!("its answer has more than {} MiB", MCP_ANSWER_BYTES / 1024 / 1024)));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The events of a stream, each of at most `most` bytes.
fn events(response: Response, most: usize) -> Events {
    let mut event = EventSize::default();
    let pieces = response.bytes_stream().map(move |piece| {
        let piece = piece.map_err(outgoing::causes)?;
        if event.after(&piece) > most { Err(format!("an event has more than {most} bytes")) } else { Ok(piece) }
    });
    let pieces = pieces.map(|piece: Result<Bytes, String>| piece.map_err(std::io::Error::other));
    SseStream::from_bytes_stream(pieces).boxed()
}

/// Counts the bytes of the event that a stream is in. A blank line ends one.
#[derive(Default)]
struct EventSize {
    bytes: usize,
    line_is_blank: bool,
}

impl EventSize {
    /// The most that an event has had within this piece.
    fn after(&mut self, piece: &[u8]) -> usize {
        let mut most = 0;
        for byte in piece {
            self.bytes += 1;
            most = most.max(self.bytes);
            match byte {
                b'\n' if self.line_is_blank => self.bytes = 0,
                b'\n' => self.line_is_blank = true,
                b'\r' => {}
                _ => self.line_is_blank = false,
            }
        }
        most
    }
}

impl StreamableHttpClient for Http {
    type Error = Problem;

    async fn post_message(
        &self,
        _: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, StreamableHttpError<Problem>> {
        let opens = |problem: Problem| {
            *lock(&self.0.opening) = Some(problem.clone());
            StreamableHttpError::Client(problem)
        };
        match &message {
            ClientJsonRpcMessage::Request(request)
                if !matches!(
                    request.request,
                    ClientRequest::InitializeRequest(_) | ClientRequest::DiscoverRequest(_)
                ) =>
            {
                let answered = self.clone().answered(request.id.clone(), message, session, headers);
                Ok(StreamableHttpPostResponse::Sse(stream::once(answered).flatten().boxed(), None))
            }
            ClientJsonRpcMessage::Request(_) => {
                let within = self.0.opens_within;
                let response = self.post(&message, None, headers, within).await.map_err(opens)?;
                let session = response.headers().get(SESSION).and_then(|session| session.to_str().ok());
                let session = session.map(str::to_owned);
                let answer = self.answer(response, within).await.map_err(opens)?;
                Ok(StreamableHttpPostResponse::Sse(answer, session))
            }
            other => {
                let is_needed = matches!(
                    other,
                    ClientJsonRpcMessage::Notification(notice)
                        if matches!(notice.notification, ClientNotification::InitializedNotification(_))
                );
                match self.post(&message, session.as_deref(), headers, MCP_NOTICE_TIMEOUT).await {
                    Err(problem) if is_needed => Err(opens(problem)),
                    _ => Ok(StreamableHttpPostResponse::Accepted),
                }
            }
        }
    }

    /// Whatever a server says to that does not matter.
    async fn delete_session(
        &self,
        _: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), StreamableHttpError<Problem>> {
        drop(self.request(Method::DELETE, Some(&session), headers).timeout(MCP_NOTICE_TIMEOUT).send().await);
        Ok(())
    }

    /// A server need not have a stream for what nobody asked for, whatever the status in which it says so.
    async fn get_stream(
        &self,
        _: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<Events, StreamableHttpError<Problem>> {
        let mut request = self.request(Method::GET, session.as_deref(), headers).header(header::ACCEPT, EVENTS);
        let resumes = last_event_id.is_some();
        if let Some(last) = last_event_id {
            request = request.header(LAST_EVENT, last);
        }
        let response = match request.send().await {
            Ok(response) if response.status().is_success() && content_type(&response).starts_with(EVENTS) => response,
            Ok(response) if resumes => return Err(Problem::Status(response.status()).into()),
            Err(error) if resumes => return Err(no_answer(error, Duration::ZERO).into()),
            _ => return Err(StreamableHttpError::ServerDoesNotSupportSse),
        };
        Ok(events(response, if resumes { MCP_ANSWER_BYTES } else { MCP_UNASKED_BYTES }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_a_blank_line() {
        for (pieces, expect) in [
            (&["data: 1\n\n", "data: 2\n\n"][..], &[9, 9][..]),
            (&["data: 1\r\n\r\ndata: 2\r\n\r\n"], &[11]),
            (&["data", ": 1\n", "\n"], &[4, 8, 9]),
            (&["data: 1\ndata: 2\n\n"], &[17]),
        ] {
            let mut event = EventSize::default();
            let sizes: Vec<usize> = pieces.iter().map(|piece| event.after(piece.as_bytes())).collect();
            assert_eq!(sizes, expect, "{pieces:?}");
        }
    }

    #[test]
    fn what_was_not_run_is_told_from_what_may_have_been() {
        let unsent = |was_sent| Problem::NoAnswer { why: String::new(), was_sent };
        for (problem, may_have_run) in [
            (Problem::Unauthorized, false),
            (Problem::SessionGone(StatusCode::NOT_FOUND), false),
            (Problem::Status(StatusCode::FORBIDDEN), false),
            (Problem::Status(StatusCode::FOUND), false),
            (Problem::Status(StatusCode::BAD_GATEWAY), true),
            (unsent(false), false),
            (unsent(true), true),
            (Problem::Unfit(String::new()), true),
        ] {
            assert_eq!(problem.may_have_run(), may_have_run, "{problem:?}");
        }
    }
}
