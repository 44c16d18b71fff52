//! What an upstream's refusals, and failures on the way to it, mean to the engine.

use std::{error::Error, time::Duration};

use reqwest::{StatusCode, header::HeaderMap};
use serde_json::Value;

use crate::{model::ModelError, retry_after::retry_after};

/// Most characters of a message that the engine is given.
const MESSAGE_CHARS: usize = 1_000;

/// What upstreams say of a conversation that is longer than the model takes, in lower case. They have no type for it.
const TOO_LONG: [&str; 6] =
    ["prompt is too long", "context window", "context length", "context limit", "context size", "too many tokens"];

/// The types of errors that say that the upstream does not let this server in, or does not have the model.
const UNUSABLE: [&str; 3] = ["authentication_error", "permission_error", "not_found_error"];

/// What an upstream says of an error, as far as it says it in a form that is known.
#[derive(Default)]
struct Told {
    /// Its type; empty where it has none.
    kind: String,
    /// Its words.
    words: String,
}

impl Told {
    /// Reads `{"error": {"type", "message"}}` and what comes close to it: an error that is a text, one that has a code in
    /// place of a type, words that stand beside it. Anything else is words.
    fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let plain = || Self { words: text.trim().to_owned(), ..Self::default() };
        let Ok(Value::Object(body)) = serde_json::from_str::<Value>(&text) else { return plain() };
        let error = body.get("error").unwrap_or(&Value::Null);
        let kind = word(error.get("type")).or_else(|| word(error.get("code")));
        let kind = kind.or_else(|| word(body.get("type")).filter(|kind| *kind != "error"));
        let words = word(error.get("message")).or_else(|| word(Some(error)));
        let words = words.or_else(|| word(body.get("message"))).or_else(|| word(body.get("detail")));
        match words {
            Some(words) => Self { kind: kind.unwrap_or_default().to_owned(), words: words.to_owned() },
            None if kind.is_some() => Self { kind: kind.unwrap_or_default().to_owned(), words: String::new() },
            None if body.is_empty() => Self::default(),
            None => plain(),
        }
    }

    /// What follows from it. A type that is known counts more than the status, which is absent within a stream.
    fn judged(&self, status: Option<StatusCode>, message: String, retry_after: Option<Duration>) -> ModelError {
        let failed = |message| ModelError::RequestFailed { message, retryable: false };
        let is_unusable = UNUSABLE.contains(&&*self.kind);
        match &*self.kind {
            "billing_error" | "insufficient_quota" => return ModelError::Billing { message },
            "rate_limit_error" | "rate_limit_exceeded" => return ModelError::RateLimited { message, retry_after },
            "overloaded_error" | "api_error" | "timeout_error" => {
                return ModelError::Overloaded { message, retry_after };
            }
            "request_too_large" => return ModelError::TooLong { message },
            _ => {}
        }
        match status {
            Some(StatusCode::PAYMENT_REQUIRED) => ModelError::Billing { message },
            Some(StatusCode::TOO_MANY_REQUESTS) => ModelError::RateLimited { message, retry_after },
            Some(StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_EARLY) => {
                ModelError::Overloaded { message, retry_after }
            }
            Some(status) if status.is_server_error() => ModelError::Overloaded { message, retry_after },
            Some(StatusCode::PAYLOAD_TOO_LARGE) => ModelError::TooLong { message },
            _ if is_too_long(&self.words) => ModelError::TooLong { message },
            _ if is_unusable || status.is_some_and(is_of_another_place) => ModelError::Unusable { message },
            Some(status) if !status.is_success() => failed(message),
            // Every other type may pass, also one that is not known.
            _ if self.kind == "invalid_request_error" => failed(message),
            _ => ModelError::Overloaded { message, retry_after },
        }
    }
}

/// Whether a status says that the key or the address is wrong, and nothing of the request.
fn is_of_another_place(status: StatusCode) -> bool {
    use StatusCode as Status;

    status.is_redirection()
        || matches!(
            status,
            Status::UNAUTHORIZED | Status::FORBIDDEN | Status::NOT_FOUND | Status::METHOD_NOT_ALLOWED | Status::GONE
        )
}

fn word(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).map(str::trim).filter(|word| !word.is_empty())
}

/// `before`, and after it those of `words` that say something.
fn said(before: &str, words: [&str; 2]) -> String {
    let mut message = before.to_owned();
    for word in words.into_iter().filter(|word| !word.is_empty()) {
        message.push_str(": ");
        message.push_str(word);
    }
    message
}

/// The failure that an `error` event within a stream reports.
pub(super) fn of_event(data: &[u8]) -> ModelError {
    let told = Told::read(data);
    told.judged(None, said("the upstream broke off its reply", [&told.kind, &told.words]), None)
}

/// The failure that a response reports: one with a status other than success, or one whose body is an error all the same.
pub(super) fn of_response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ModelError {
    let told = Told::read(body);
    let id = headers.get("request-id").and_then(|id| id.to_str().ok());
    let request = id.map(|id| format!(" to request {id}")).unwrap_or_default();
    let kind = if status.is_success() { &*told.kind } else { "" };
    let message = said(&format!("the upstream answered {}{request}", named(status)), [kind, &told.words]);
    told.judged(Some(status), message, retry_after(headers))
}

/// A status by its number and words, also one that HTTP does not know.
fn named(status: StatusCode) -> String {
    let words = status.canonical_reason().unwrap_or(match status.as_u16() {
        499 => "Client Closed Request",
        520 => "Unknown Error",
        521 => "Web Server Is Down",
        522 => "Connection Timed Out",
        523 => "Origin Is Unreachable",
        524 => "A Timeout Occurred",
        529 => "Overloaded",
        400..500 => "Client Error",
        500..600 => "Server Error",
        _ => "Unknown Status",
    });
    format!("{} {words}", status.as_u16())
}

fn is_too_long(message: &str) -> bool {
    let message = message.to_lowercase();
    TOO_LONG.iter().any(|words| message.contains(words))
}

/// The failure of a reply that filled the model's context window within the call of a tool.
pub(super) fn context_full() -> ModelError {
    ModelError::TooLong { message: "the model's context window was full within the call of a tool".to_owned() }
}

/// The failure of a connection.
pub(super) fn of_connection(error: reqwest::Error) -> ModelError {
    // The URL may hold what only the operator should see.
    let error = error.without_url();
    let mut causes = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push_str(": ");
        causes.push_str(&error.to_string());
        cause = error.source();
    }
    let message = format!("the connection to the upstream failed: {error}{causes}");
    ModelError::Overloaded { message, retry_after: None }
}

/// The failure of an upstream that is silent for too long.
pub(super) fn stalled(limit: Duration) -> ModelError {
    ModelError::Overloaded { message: format!("the upstream sent nothing for {limit:?}"), retry_after: None }
}

/// The failure of an upstream whose reply takes too long altogether.
pub(super) fn overdue(limit: Duration) -> ModelError {
    ModelError::Overloaded { message: format!("the upstream's reply took more than {limit:?}"), retry_after: None }
}

/// The failure of a stream that ends before the message does.
pub(super) fn cut_off() -> ModelError {
    ModelError::Overloaded { message: "the upstream's reply was cut off".to_owned(), retry_after: None }
}

/// The failure of a response that is neither a stream of events nor JSON: there is something else at the address.
pub(super) fn of_page(kind: &str, body: &[u8]) -> ModelError {
    let body = String::from_utf8_lossy(body);
    let message =
        said(&format!("the upstream answered with {kind} and not with a stream of events"), [body.trim(), ""]);
    ModelError::Unusable { message }
}

/// The failure of an upstream that sends what is no reply. Another try may get one.
pub(super) fn malformed(what: &str) -> ModelError {
    ModelError::RequestFailed { message: format!("the upstream's reply is malformed: {what}"), retryable: true }
}

/// The failure with its message cut to [`MESSAGE_CHARS`] and without `secret`, which an upstream may repeat.
pub(super) fn shown(mut failure: ModelError, secret: Option<&str>) -> ModelError {
    let (ModelError::Overloaded { message, .. }
    | ModelError::RateLimited { message, .. }
    | ModelError::Billing { message }
    | ModelError::TooLong { message }
    | ModelError::Unusable { message }
    | ModelError::RequestFailed { message, .. }) = &mut failure;
    if let Some(secret) = secret {
        *message = message.replace(secret, "[key]");
    }
    if let Some((cut, _)) = message.char_indices().nth(MESSAGE_CHARS) {
        message.truncate(cut);
        message.push('…');
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_that_is_too_long_is_told_from_other_refusals() {
        let refused = |status: u16, said: &str| {
            let body = format!(r#"{{"error": {{"type": "invalid_request_error", "message": "{said}"}}}}"#);
            of_response(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
        };
        for (status, said, too_long) in [
            (400, "prompt is too long: 210000 tokens > 200000 maximum", true),
            (400, "input length and `max_tokens` exceed context limit: 190000 + 16000 > 200000", true),
            (400, "This model's maximum context length is 8192 tokens", true),
            (413, "Request exceeds the maximum size", true),
            (400, "messages.1.content.0.image.source: cannot be read", false),
            (429, "too many tokens per minute", false),
        ] {
            assert_eq!(matches!(refused(status, said), ModelError::TooLong { .. }), too_long, "{status} {said}");
        }
    }

    #[test]
    fn a_status_has_a_number_and_words() {
        for (status, expected) in [
            (404, "404 Not Found"),
            (429, "429 Too Many Requests"),
            (499, "499 Client Closed Request"),
            (524, "524 A Timeout Occurred"),
            (529, "529 Overloaded"),
            (450, "450 Client Error"),
            (599, "599 Server Error"),
            (700, "700 Unknown Status"),
        ] {
            assert_eq!(named(StatusCode::from_u16(status).unwrap()), expected);
        }
    }

    #[test]
    fn a_message_is_cut_after_the_secret_is_gone() {
        let secret = "sk-1234";
        for before in [0, MESSAGE_CHARS - 3, MESSAGE_CHARS + 1] {
            let message = format!("{}{secret}{}", "ü".repeat(before), "x".repeat(MESSAGE_CHARS));
            let shown = shown(ModelError::Billing { message }, Some(secret)).to_string();
            assert!(!shown.contains("sk-"), "{shown}");
            assert_eq!(shown.chars().count(), MESSAGE_CHARS + 1);
        }
    }
}
