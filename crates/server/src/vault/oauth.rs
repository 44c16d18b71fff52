//! Exchanges a refresh token for a new access token (RFC 6749, section 6).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Client, Response, StatusCode, header};
use rota_api::{
    Time,
    credential::{HttpResponse, Refresh, Secrets, TokenEndpointAuth},
    secret::Secret,
};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::capture;
use crate::{
    error::{Error, Result},
    limits::{REFRESH_AHEAD_MICROS, REFRESH_TIMEOUT},
    outgoing,
    retry_after::retry_after,
};

/// The client for token endpoints and MCP servers.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(allow_private: bool) -> Result<Client> {
    outgoing::client(allow_private)?.timeout(REFRESH_TIMEOUT).build().map_err(Error::internal)
}

/// When a token that expires at `expires_at` is renewed: well before, and a short-lived one after half its time.
pub fn due(now: Time, expires_at: Time) -> Time {
    let left = (expires_at.micros() - now.micros()).max(0);
    expires_at.plus_micros(-REFRESH_AHEAD_MICROS.min(left / 2))
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Exchanged {
    /// With new tokens.
    Tokens(Tokens),
    /// With a refusal that does not pass by itself: somebody has to authorize again, or to set the client right.
    Refused {
        /// The error's name: `invalid_grant`.
        code: String,
        /// The answer.
        response: HttpResponse,
    },
    /// With something that may pass.
    Failed {
        /// What happened.
        why: String,
        /// The answer, if there was one.
        response: Option<HttpResponse>,
        /// How long the endpoint asks to be left alone.
        wait: Option<Duration>,
    },
}

/// What an exchange gives.
#[derive(Debug)]
pub struct Tokens {
    /// The new access token.
    pub access_token: Secret,
    /// The new refresh token; the old one goes on when there is none.
    pub refresh_token: Option<Secret>,
    /// For how long the access token is good, in seconds, if that was said.
    pub expires_in: Option<i64>,
}

/// Asks for a new access token.
pub async fn exchange(client: &Client, allow_private: bool, refresh: &Refresh, secrets: &Secrets) -> Exchanged {
    let failed = |why: String| Exchanged::Failed { why, response: None, wait: None };
    let Some(refresh_token) = &secrets.refresh_token else { return failed("there is no refresh token".to_owned()) };
    // What the configuration allows may have changed since the credential was created.
    let url = match outgoing::url(&refresh.token_endpoint, allow_private) {
        Ok(url) => url,
        Err(error) => return failed(format!("the token endpoint {error}")),
    };
    let client_secret = secrets.client_secret.as_ref().map(Secret::reveal).unwrap_or_default();
    let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token.reveal())];
    form.extend(refresh.scope.as_deref().map(|scope| ("scope", scope)));
    form.extend(refresh.resource.as_deref().map(|resource| ("resource", resource)));
    let mut request = client.post(url).header(header::ACCEPT, "application/json");
    match refresh.token_endpoint_auth {
        TokenEndpointAuth::Open => form.push(("client_id", &refresh.client_id)),
        TokenEndpointAuth::Post => form.extend([("client_id", &*refresh.client_id), ("client_secret", client_secret)]),
        TokenEndpointAuth::Basic => {
            request = request.header(header::AUTHORIZATION, basic(&refresh.client_id, client_secret));
        }
    }
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
    match request.send().await {
        Ok(response) => judge(response, secrets).await,
        Err(error) => failed(outgoing::causes(error)),
    }
}

/// HTTP Basic authentication, in which RFC 6749 codes both parts as a form does.
fn basic(client_id: &str, client_secret: &str) -> String {
    let coded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", coded(client_id), coded(client_secret)));
    format!("Basic {}", STANDARD.encode(pair.as_bytes()))
}

async fn judge(mut response: Response, secrets: &Secrets) -> Exchanged {
    let status = response.status();
    let wait = retry_after(response.headers());
    let (body, is_cut) = capture::body(&mut response).await;
    let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
    let shown = || capture::shown(&response, &body, is_cut, &secrets.all().collect::<Vec<_>>());
    if let Some(code) = answer.error {
        // Some endpoints refuse with 200.
        let passes = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || is_temporary(&code);
        let code: String = code.chars().filter(char::is_ascii_graphic).take(64).collect();
        return if passes {
            Exchanged::Failed { why: format!("{status}: {code}"), response: Some(shown()), wait }
        } else {
            Exchanged::Refused { code, response: shown() }
        };
    }
    match answer.access_token.map(Secret::new) {
        Some(access_token) if status.is_success() && is_token(&access_token) => Exchanged::Tokens(Tokens {
            access_token,
            refresh_token: answer.refresh_token.map(Secret::new),
            expires_in: answer.expires_in.as_ref().and_then(seconds).filter(|seconds| *seconds > 0),
        }),
        _ if status == StatusCode::BAD_REQUEST
            || status == StatusCode::UNAUTHORIZED
            || status == StatusCode::FORBIDDEN =>
        {
            Exchanged::Refused { code: status.as_u16().to_string(), response: shown() }
        }
        _ => {
            let why = if status.is_success() { "an answer without a token".to_owned() } else { status.to_string() };
            Exchanged::Failed { why, response: Some(shown()), wait }
        }
    }
}

fn is_temporary(code: &str) -> bool {
    matches!(code, "temporarily_unavailable" | "server_error" | "slow_down")
}

fn is_token(token: &Secret) -> bool {
    !token.reveal().is_empty() && !token.reveal().chars().any(char::is_control)
}

/// What a token endpoint answers (RFC 6749, sections 5.1 and 5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<Value>,
    error: Option<String>,
}

/// A number of seconds, which some endpoints write as a text.
fn seconds(value: &Value) -> Option<i64> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    (number.is_finite() && (0.0..1e10).contains(&number)).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_renewed_five_minutes_before_it_expires_and_a_short_one_after_half_its_time() {
        for (left, due_in) in [(3600, 3300), (600, 300), (60, 30), (0, 0), (-10, -10)] {
            let now = Time::from_micros(1_800_000_000_000_000);
            let after = |seconds: i64| now.plus_micros(seconds * 1_000_000);
            assert_eq!(due(now, after(left)), after(due_in), "{left}");
        }
    }

    #[test]
    fn basic_authentication_codes_both_parts() {
        // RFC 6749 codes as a form does, and then in base64: "a%3Ab:c+d%2F".
        assert_eq!(basic("a:b", "c d/"), "Basic YSUzQWI6YytkJTJG");
    }

    #[test]
    fn lifetimes_are_read_as_endpoints_write_them() {
        for (value, expected) in [
            (json!(3600), Some(3600)),
            (json!("3600"), Some(3600)),
            (json!(3599.9), Some(3599)),
            (json!("soon"), None),
            (json!(1e300), None),
            (json!(-1), None),
        ] {
            assert_eq!(seconds(&value), expected, "{value}");
        }
    }
}
