//! Pure: whether who sends to a hook knows its secret. Secrets and signatures are compared in constant time.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use ring::hmac;
use rota_api::{Time, hook::HookScheme};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    hex,
    limits::{HOOK_TOLERANCE_SECONDS, MAX_DELIVERY_ID},
};

/// What a secret of Standard Webhooks begins with.
pub(super) const STANDARD_PREFIX: &str = "whsec_";
/// Bytes of such a secret (Standard Webhooks: 24 to 64).
const STANDARD_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What a request says of itself before its body is read.
#[derive(Debug)]
pub(super) enum Claim<'h> {
    Standard { id: &'h str, timestamp: &'h str, signatures: &'h str },
    Github { signature: [u8; 32], delivery: Option<&'h str> },
    Slack { signature: [u8; 32], timestamp: &'h str },
    Bearer { token: &'h str, delivery: Option<&'h str> },
}

/// A request whose sender does not know the secret, or not any more: what it is told.
pub(super) type Forged = &'static str;

impl<'h> Claim<'h> {
    /// Reads the headers of `scheme`.
    ///
    /// # Errors
    /// When one is missing, cannot be read, or has a time that is too far from `now`.
    pub(super) fn read(scheme: HookScheme, headers: &'h HeaderMap, now: Time) -> Result<Self, Forged> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match scheme {
            HookScheme::Standard => {
                let missing =
                    "the headers webhook-id, webhook-timestamp and webhook-signature are required (Standard Webhooks)";
                let (Some(id), Some(timestamp), Some(signatures)) =
                    (text("webhook-id"), text("webhook-timestamp"), text("webhook-signature"))
                else {
                    return Err(missing);
                };
                check_id(id)?;
                check_time(timestamp, now)?;
                Ok(Self::Standard { id, timestamp, signatures })
            }
            HookScheme::Github => {
                let signature = text("x-hub-signature-256").and_then(|value| digest(value.strip_prefix("sha256=")?));
                let signature = signature
                    .ok_or("the header x-hub-signature-256 is required, as sha256= and 64 hexadecimal digits")?;
                let delivery = text("x-github-delivery");
                delivery.map_or(Ok(()), check_id)?;
                Ok(Self::Github { signature, delivery })
            }
            HookScheme::Slack => {
                let timestamp = text("x-slack-request-timestamp");
                let timestamp = timestamp.ok_or("the header x-slack-request-timestamp is required")?;
                let signature = text("x-slack-signature").and_then(|value| digest(value.strip_prefix("v0=")?));
                let signature =
                    signature.ok_or("the header x-slack-signature is required, as v0= and 64 hexadecimal digits")?;
                check_time(timestamp, now)?;
                Ok(Self::Slack { signature, timestamp })
            }
            HookScheme::Bearer => {
                let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
                let token = sent.and_then(|sent| sent.split_once(' '));
                let token =
                    token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
                let token =
                    token.ok_or("the header authorization is required, as Bearer and the secret of the hook")?;
                let delivery = text("idempotency-key");
                delivery.map_or(Ok(()), check_id)?;
                Ok(Self::Bearer { token, delivery })
            }
        }
    }

    /// Whether it was made with `secret` for `body`. The sender's own id of the delivery, where it has one.
    ///
    /// # Errors
    /// When it was not.
    pub(super) fn check(&self, secret: &[u8], body: &[u8]) -> Result<Option<String>, Forged> {
        const FORGED: Forged = "the signature is not that of this body with the secret of the hook";
        match self {
            Self::Standard { id, timestamp, signatures } => {
                let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
                let key = hmac::Key::new(hmac::HMAC_SHA256, &standard_key(secret).ok_or(FORGED)?);
                let given = signatures.split(' ').filter_map(|one| one.strip_prefix("v1,"));
                let mut given = given.filter_map(|one| STANDARD.decode(one).ok());
                if given.any(|tag| hmac::verify(&key, &signed, &tag).is_ok()) {
                    return Ok(Some((*id).to_owned()));
                }
            }
            Self::Github { signature, delivery } => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                if hmac::verify(&key, body, signature).is_ok() {
                    // Who sends none is known by what is signed.
                    return Ok(Some(delivery.map_or_else(|| hex::digits(signature), str::to_owned)));
                }
            }
            Self::Slack { signature, timestamp } => {
                let signed = [b"v0:", timestamp.as_bytes(), b":", body].concat();
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                if hmac::verify(&key, &signed, signature).is_ok() {
                    return Ok(Some(slack_event(body).unwrap_or_else(|| hex::digits(signature))));
                }
            }
            Self::Bearer { token, delivery } => {
                // Two tags under one key are the same when, and only when, the texts are.
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                let of_token = hmac::sign(&key, token.as_bytes());
                if hmac::verify(&key, secret, of_token.as_ref()).is_ok() {
                    return Ok(delivery.map(str::to_owned));
                }
                return Err("the token is not the secret of the hook");
            }
        }
        Err(FORGED)
    }
}

fn check_id(id: &str) -> Result<(), Forged> {
    if (1..=MAX_DELIVERY_ID).contains(&id.len()) {
        Ok(())
    } else {
        Err("the id of the delivery has 1 to 255 characters")
    }
}

/// That a time, in seconds since the epoch, is not far from `now`: what was signed long ago is sent again by somebody else.
fn check_time(timestamp: &str, now: Time) -> Result<(), Forged> {
    let seconds: i64 = timestamp.parse().map_err(|_| "the timestamp is no number of seconds since 1970")?;
    let now = now.micros().div_euclid(1_000_000);
    if now.abs_diff(seconds) <= HOOK_TOLERANCE_SECONDS {
        return Ok(());
    }
    Err("the timestamp is more than 5 minutes from the time of this server: it was sent too late, or a clock is wrong")
}

/// What of a JSON body of Slack counts here.
#[derive(Debug, Deserialize)]
pub(super) struct SlackBody {
    pub(super) r#type: Option<String>,
    pub(super) challenge: Option<String>,
    event_id: Option<String>,
}

impl SlackBody {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The id that Slack gives an event. What it sends again, because it was not answered in time, has the same.
fn slack_event(body: &[u8]) -> Option<String> {
    SlackBody::read(body)?.event_id.filter(|id| check_id(id).is_ok())
}

/// The key that a secret of Standard Webhooks stands for.
fn standard_key(secret: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let encoded = secret.strip_prefix(STANDARD_PREFIX.as_bytes())?;
    STANDARD.decode(encoded).ok().map(Zeroizing::new)
}

/// Why a secret that a caller brings cannot be one of `scheme`.
pub(super) fn unusable(scheme: HookScheme, secret: &str) -> Option<&'static str> {
    let usable = scheme != HookScheme::Standard
        || standard_key(secret.as_bytes()).is_some_and(|key| STANDARD_BYTES.contains(&key.len()));
    (!usable).then_some("a secret of Standard Webhooks is whsec_ and 24 to 64 bytes in base64")
}

/// 32 bytes from their hexadecimal digits.
fn digest(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn at(seconds: i64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn check(
        scheme: HookScheme,
        pairs: &[(&'static str, &str)],
        (secret, body): (&str, &str),
        now: i64,
    ) -> Result<Option<String>, Forged> {
        let headers = headers(pairs);
        Claim::read(scheme, &headers, at(now))?.check(secret.as_bytes(), body.as_bytes())
    }

    /// What the tests of Standard Webhooks' own libraries sign.
    const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const STANDARD_BODY: &str = "{\"test\": 2432232314}";
    const STANDARD_AT: i64 = 1_614_265_330;

    fn standard(signature: &str) -> [(&'static str, &str); 3] {
        [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", signature),
        ]
    }

    #[test]
    fn the_example_of_standard_webhooks_is_taken() {
        let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let with =
            |signature: &str, secret, body, now| check(HookScheme::Standard, &standard(signature), (secret, body), now);
        let id = Ok(Some("msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()));
        assert_eq!(with(good, STANDARD_SECRET, STANDARD_BODY, STANDARD_AT), id);
        let several = format!("v1a,other v1,Zm9yZ2Vk {good} nonsense");
        assert_eq!(
            with(&several, STANDARD_SECRET, STANDARD_BODY, STANDARD_AT),
            id,
            "one of several, as while secrets change"
        );
        for (late, taken) in [(300, true), (301, false), (-300, true), (-301, false)] {
            assert_eq!(with(good, STANDARD_SECRET, STANDARD_BODY, STANDARD_AT + late).is_ok(), taken, "{late}");
        }
        for (signature, secret, body) in [
            ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA=", STANDARD_SECRET, STANDARD_BODY),
            (&good.replace("v1,", "v2,"), STANDARD_SECRET, STANDARD_BODY),
            ("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", STANDARD_SECRET, STANDARD_BODY),
            ("", STANDARD_SECRET, STANDARD_BODY),
            ("v1,", STANDARD_SECRET, STANDARD_BODY),
            (good, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx", STANDARD_BODY),
            (good, STANDARD_SECRET, "{\"test\": 2432232315}"),
        ] {
            assert!(with(signature, secret, body, STANDARD_AT).is_err(), "{signature} {secret} {body}");
        }
        let mut other = standard(good);
        other[0].1 = "msg_other";
        assert!(check(HookScheme::Standard, &other, (STANDARD_SECRET, STANDARD_BODY), STANDARD_AT).is_err());
        let mut other = standard(good);
        other[1].1 = "1614265331";
        assert!(check(HookScheme::Standard, &other, (STANDARD_SECRET, STANDARD_BODY), STANDARD_AT).is_err());
        for missing in 0..3 {
            let some: Vec<_> = (0..3).filter(|i| *i != missing).map(|i| standard(good)[i]).collect();
            assert!(check(HookScheme::Standard, &some, (STANDARD_SECRET, STANDARD_BODY), STANDARD_AT).is_err());
        }
    }

    /// The example of "Validating webhook deliveries" in GitHub's documentation.
    #[test]
    fn the_example_of_github_is_taken() {
        const SECRET: &str = "It's a Secret to Everybody";
        let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let with = |signature: &str, secret, body| {
            let pairs = [("x-hub-signature-256", signature), ("x-github-delivery", "72d3162e")];
            check(HookScheme::Github, &pairs, (secret, body), 0)
        };
        assert_eq!(with(good, SECRET, "Hello, World!"), Ok(Some("72d3162e".to_owned())));
        let unnamed = check(HookScheme::Github, &[("x-hub-signature-256", good)], (SECRET, "Hello, World!"), 0);
        assert_eq!(unnamed, Ok(Some(good[7..].to_owned())), "what is signed names it");
        for (signature, secret, body) in [
            (good, SECRET, "Hello, World?"),
            (good, "It's a Secret to Nobody!!!", "Hello, World!"),
            (&good.replace("7571", "7572"), SECRET, "Hello, World!"),
            (&good[7..], SECRET, "Hello, World!"),
            (&good[..70], SECRET, "Hello, World!"),
            (&good.replace("7571", "757g"), SECRET, "Hello, World!"),
            ("sha256=", SECRET, "Hello, World!"),
        ] {
            assert!(with(signature, secret, body).is_err(), "{signature}");
        }
        assert!(check(HookScheme::Github, &[], (SECRET, "Hello, World!"), 0).is_err());
    }

    /// The example of "Verifying requests from Slack" in Slack's documentation.
    #[test]
    fn the_example_of_slack_is_taken() {
        const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
        const AT: i64 = 1_531_420_618;
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
            &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https\
            %3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015\
            .47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let good = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
        let with = |signature: &str, timestamp: &str, secret, body, now| {
            let pairs = [("x-slack-signature", signature), ("x-slack-request-timestamp", timestamp)];
            check(HookScheme::Slack, &pairs, (secret, body), now)
        };
        assert_eq!(with(good, "1531420618", SECRET, body, AT), Ok(Some(good[3..].to_owned())));
        for (late, taken) in [(300, true), (301, false), (-301, false)] {
            assert_eq!(with(good, "1531420618", SECRET, body, AT + late).is_ok(), taken, "{late}");
        }
        for (signature, timestamp, secret, body) in [
            (good, "1531420619", SECRET, body),
            (good, "1531420618", SECRET, "token=other"),
            (good, "1531420618", "8f742231b10e8888abcd99yyyzzz85a6", body),
            (&good.replace("v0=", "v1="), "1531420618", SECRET, body),
            (good, "soon", SECRET, body),
            (good, "9223372036854775808", SECRET, body),
            (good, "-9223372036854775808", SECRET, body),
        ] {
            assert!(with(signature, timestamp, secret, body, AT).is_err(), "{signature} {timestamp}");
        }
    }

    #[test]
    fn an_event_of_slack_is_known_by_its_own_id() {
        assert_eq!(slack_event(br#"{"type": "event_callback", "event_id": "Ev1"}"#), Some("Ev1".to_owned()));
        assert_eq!(slack_event(br#"{"type": "event_callback"}"#), None);
        assert_eq!(slack_event(b"token=1"), None);
    }

    #[test]
    fn a_bearer_is_who_has_the_secret() {
        let with = |pairs: &[(&'static str, &str)]| check(HookScheme::Bearer, pairs, ("0123456789abcdef", "body"), 0);
        assert_eq!(with(&[("authorization", "Bearer 0123456789abcdef")]), Ok(None));
        let keyed = [("authorization", "bearer 0123456789abcdef"), ("idempotency-key", "one")];
        assert_eq!(with(&keyed), Ok(Some("one".to_owned())));
        for wrong in
            ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "Bearer ", "Bearer", "Basic 0123456789abcdef", ""]
        {
            assert!(with(&[("authorization", wrong)]).is_err(), "{wrong}");
        }
        assert!(with(&[("x-api-key", "0123456789abcdef")]).is_err());
        let long = "x".repeat(256);
        assert!(with(&[("authorization", "Bearer 0123456789abcdef"), ("idempotency-key", &long)]).is_err());
    }

    #[test]
    fn a_secret_of_standard_webhooks_has_its_own_form() {
        for (secret, usable) in [
            (STANDARD_SECRET, true),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", false),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa", false),
            ("whsec_?????????????????????????", false),
        ] {
            assert_eq!(unusable(HookScheme::Standard, secret).is_none(), usable, "{secret}");
        }
        assert_eq!(unusable(HookScheme::Github, "It's a Secret to Everybody"), None);
    }
}
