//! What an answer says of the upstream's limits of rate: `anthropic-ratelimit-*` of the Messages API, `x-ratelimit-*` of chat
//! completions.
//!
//! Both count in buckets that fill up evenly: `limit` is what a full one has, `remaining` what is left, and `reset` when it will be
//! full again: a moment (RFC 3339) with the former, a duration (`6m0s`, `120ms`) with the latter.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};
use reqwest::header::HeaderMap;

use crate::retry_after::LONGEST;

/// The part of a bucket of tokens that is waited for when it is empty: no request is known to need more.
const TOKENS_WAITED_FOR: u32 = 10;

/// What an answer says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateLimits {
    /// Requests that may still be sent.
    pub requests: Option<Requests>,
    /// There are no tokens left for as long as this.
    pub without_tokens: Option<Duration>,
}

/// A bucket of requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Requests {
    /// How many a full one has; no fewer than `remaining`.
    pub limit: f64,
    /// How many are left.
    pub remaining: f64,
    /// When it is full again: from now, more than nothing, at most an hour.
    pub full_in: Duration,
}

impl RateLimits {
    /// Reads the headers of an answer.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let requests = bucket(headers, "requests");
        let tokens = ["tokens", "input-tokens", "output-tokens"];
        let empty = tokens.iter().filter_map(|kind| bucket(headers, kind)).filter(|bucket| bucket.remaining < 1.0);
        let without_tokens = empty.map(|bucket| bucket.full_in / TOKENS_WAITED_FOR).max();
        Self { requests, without_tokens }
    }
}

fn bucket(headers: &HeaderMap, kind: &str) -> Option<Requests> {
    let header = |name: String| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| (0.0..1e12).contains(number));
    let (limit, remaining, full_in) = if let Some(remaining) = header(format!("anthropic-ratelimit-{kind}-remaining")) {
        let full_in = header(format!("anthropic-ratelimit-{kind}-reset")).and_then(|reset| until(reset, headers));
        (header(format!("anthropic-ratelimit-{kind}-limit")), remaining, full_in)
    } else {
        let remaining = header(format!("x-ratelimit-remaining-{kind}"))?;
        let full_in = header(format!("x-ratelimit-reset-{kind}")).and_then(duration);
        (header(format!("x-ratelimit-limit-{kind}")), remaining, full_in)
    };
    let remaining = number(remaining)?;
    // Where it is not said how many there are in all, one more is there by then.
    let limit = limit.and_then(number).unwrap_or(remaining + 1.0).max(remaining);
    let full_in = full_in?.min(LONGEST);
    (!full_in.is_zero() && limit > remaining).then_some(Requests { limit, remaining, full_in })
}

/// How long it is until `moment`, by the clock of the upstream: the two need not agree.
fn until(moment: &str, headers: &HeaderMap) -> Option<Duration> {
    let date = headers.get("date")?.to_str().ok()?;
    let now = rfc2822::parse(date.trim()).ok()?.timestamp();
    moment.parse::<Timestamp>().ok()?.duration_since(now).try_into().ok()
}

/// Reads `1h2m3.5s`, `120ms`, or a number of seconds.
fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        // More is no duration but a moment, in a form that nobody agrees on.
        return Duration::try_from_secs_f64(seconds).ok().filter(|_| seconds < 1e8);
    }
    let mut whole = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        whole += number * seconds;
        rest = &rest[end + unit.len()..];
    }
    Duration::try_from_secs_f64(whole).ok()
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn read(lines: &[(&'static str, &str)]) -> RateLimits {
        let header = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        RateLimits::read(&lines.iter().map(header).collect())
    }

    fn requests(limit: f64, remaining: f64, seconds: f64) -> Requests {
        Requests { limit, remaining, full_in: Duration::from_secs_f64(seconds) }
    }

    #[test]
    fn what_upstreams_say_of_their_limits_is_read_in_each_form() {
        let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        let in_a_minute = ("anthropic-ratelimit-requests-reset", "2026-10-21T07:29:00Z");
        let open = |remaining, limit, reset| {
            [
                ("x-ratelimit-remaining-requests", remaining),
                ("x-ratelimit-limit-requests", limit),
                ("x-ratelimit-reset-requests", reset),
            ]
        };
        let cases: [(&[(&str, &str)], _); 14] = [
            (&[], None),
            (
                &[
                    ("anthropic-ratelimit-requests-limit", "50"),
                    ("anthropic-ratelimit-requests-remaining", "49"),
                    in_a_minute,
                    date,
                ],
                Some(requests(50.0, 49.0, 60.0)),
            ),
            (&[("anthropic-ratelimit-requests-remaining", "0"), in_a_minute, date], Some(requests(1.0, 0.0, 60.0))),
            (&[("anthropic-ratelimit-requests-remaining", "0"), in_a_minute], None),
            (&open("59", "60", "1s"), Some(requests(60.0, 59.0, 1.0))),
            (&open("0", "60", "1m0.5s"), Some(requests(60.0, 0.0, 60.5))),
            (&open("0", "10", "120ms"), Some(requests(10.0, 0.0, 0.12))),
            (&open("3", "10", "2"), Some(requests(10.0, 3.0, 2.0))),
            (&open("0", "10", "99h"), Some(requests(10.0, 0.0, 3600.0))),
            (&open("0", "10", "1792567200000"), None),
            (&open("10", "10", "1s"), None),
            (&open("0", "10", "soon"), None),
            (&open("many", "10", "1s"), None),
            (&open("0", "10", "-1s"), None),
        ];
        for (lines, expected) in cases {
            assert_eq!(read(lines).requests, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_bucket_without_tokens_is_waited_for_until_there_are_some() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let told = |lines: &[(&'static str, &str)]| read(lines).without_tokens;
        let tokens = |remaining| {
            [
                ("x-ratelimit-remaining-tokens", remaining),
                ("x-ratelimit-limit-tokens", "1000"),
                ("x-ratelimit-reset-tokens", "20s"),
            ]
        };
        assert_eq!(told(&tokens("0")), seconds(2));
        assert_eq!(told(&tokens("12")), None);
        let vendors = [
            ("date", "Wed, 21 Oct 2026 07:28:00 GMT"),
            ("anthropic-ratelimit-input-tokens-limit", "10000"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-10-21T07:28:50Z"),
            ("anthropic-ratelimit-output-tokens-limit", "8000"),
            ("anthropic-ratelimit-output-tokens-remaining", "8000"),
            ("anthropic-ratelimit-output-tokens-reset", "2026-10-21T07:28:00Z"),
        ];
        assert_eq!(told(&vendors), seconds(5));
    }
}
