//! The wait that an answer over HTTP asks for.

use std::time::Duration;

use jiff::fmt::rfc2822;
use reqwest::header::HeaderMap;

/// The longest wait that is taken from an answer.
pub const LONGEST: Duration = Duration::from_hours(1);

/// The wait that `retry-after-ms` or `retry-after` (RFC 9110, section 10.2.3) asks for, at most [`LONGEST`].
///
/// A date is measured against the response's own `date`, so the two clocks need not agree.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
    Some(wait.min(LONGEST))
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
            (&[("retry-after", "99999999")], Some(LONGEST)),
        ];
        for (lines, expected) in cases {
            assert_eq!(retry_after(&headers(lines)), expected, "{lines:?}");
        }
    }
}
