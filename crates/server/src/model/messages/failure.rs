//! What an upstream's refusals, and failures on the way to it, mean to the engine.

use std::{error::Error, time::Duration};

use jiff::fmt::rfc2822;
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;

use crate::model::ModelError;

/// Most characters of a message that the engine is given.
const MESSAGE_CHARS: usize = 1_000;

/// The longest wait that is taken from an upstream.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What upstreams say of a conversation that is longer than the model takes, in lower case. They have no type for it.
const TOO_LONG: [&str; 6] =
    ["prompt is too long", "context window", "context length", "context limit", "context size", "too many tokens"];

/// The body of an error response, and the data of an `error` event.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    message: String,
}

/// The failure that an `error` event within a stream reports.
pub(super) fn of_event(body: ErrorBody) -> ModelError {
    let ErrorDetail { kind, message } = body.error;
    let message = format!("the upstream broke off its reply: {kind}: {message}");
    match &*kind {
        "overloaded_error" | "api_error" | "timeout_error" => ModelError::Overloaded { message, retry_after: None },
        "rate_limit_error" => ModelError::RateLimited { message, retry_after: None },
        "billing_error" => ModelError::Billing { message },
        _ if is_too_long(&message) => ModelError::TooLong { message },
        _ => ModelError::RequestFailed { message, retryable: false },
    }
}

/// The failure that a response with a status other than success reports.
pub(super) fn of_response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ModelError {
    let detail = serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error);
    let billing =
        status == StatusCode::PAYMENT_REQUIRED || detail.as_ref().is_some_and(|detail| detail.kind == "billing_error");
    let said = detail.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), |detail| detail.message);
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let id = headers.get("request-id").and_then(|id| id.to_str().ok());
    let request = id.map(|id| format!(" to request {id}")).unwrap_or_default();
    let message = format!("the upstream answered {status}{request}{said}");
    let retry_after = retry_after(headers);
    match status {
        _ if billing => ModelError::Billing { message },
        StatusCode::TOO_MANY_REQUESTS => ModelError::RateLimited { message, retry_after },
        StatusCode::REQUEST_TIMEOUT => ModelError::Overloaded { message, retry_after },
        status if status.is_server_error() => ModelError::Overloaded { message, retry_after },
        StatusCode::PAYLOAD_TOO_LARGE => ModelError::TooLong { message },
        _ if is_too_long(&message) => ModelError::TooLong { message },
        _ => ModelError::RequestFailed { message, retryable: false },
    }
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

/// The wait that `retry-after-ms` or `retry-after` (RFC 9110, section 10.2.3) asks for.
///
/// A date is measured against the response's own `date`, so the two clocks need not agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |name: &str| header(name).and_then(|value| value.parse::<f64>().ok());
    let seconds = number("retry-after-ms").map(|milliseconds| milliseconds / 1000.0);
    let wait = if let Some(seconds) = seconds.or_else(|| number("retry-after")) {
        Duration::try_from_secs_f64(seconds).ok()?
    } else {
        let until = rfc2822::parse(header("retry-after")?).ok()?;
        let now = rfc2822::parse(header("date")?).ok()?;
        until.duration_since(&now).try_into().unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(header).collect()
    }

    #[test]
    fn the_wait_is_read_in_each_form_that_upstreams_use() {
        let now = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let cases: [(&[(&str, &str)], _); 15] = [
            (&[], None),
            (&[("retry-after", "30")], seconds(30)),
            (&[("retry-after", " 0 ")], seconds(0)),
            (&[("retry-after", "1.5")], Some(Duration::from_millis(1500))),
            (&[("retry-after-ms", "250")], Some(Duration::from_millis(250))),
            (&[("retry-after-ms", "250"), ("retry-after", "30")], Some(Duration::from_millis(250))),
            (&[("retry-after-ms", "soon"), ("retry-after", "30")], seconds(30)),
            (&[("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT"), now], seconds(90)),
            (&[("retry-after", "Wed, 21 Oct 2026 07:00:00 GMT"), now], seconds(0)),
            (&[("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT")], None),
            (&[("retry-after", "-5")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "later")], None),
            (&[("retry-after", "99999999999999999999999")], None),
            (&[("retry-after", "99999999")], Some(MAX_RETRY_AFTER)),
        ];
        for (lines, expected) in cases {
            assert_eq!(retry_after(&headers(lines)), expected, "{lines:?}");
        }
    }

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
