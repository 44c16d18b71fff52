//! What the server counts, and how much it says of one cause.

use std::sync::{Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{clock::Stopwatch, limits::LOG_LINES_A_MINUTE};

/// Upper bounds of the buckets of durations, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Keeps a cause that comes again and again, such as a database that is away, from filling the log.
///
/// ```
/// # use rota_server::telemetry::EveryMinute;
/// static FAILED: EveryMinute = EveryMinute::new();
/// if let Some(left_out) = FAILED.line() {
///     tracing::error!(left_out, "it failed");
/// }
/// ```
pub struct EveryMinute(Mutex<Option<Minute>>);

struct Minute {
    since: Stopwatch,
    lines: u32,
    left_out: u64,
}

impl EveryMinute {
    /// No line yet. One `static` stands for one cause.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether a line is to be written: [`LOG_LINES_A_MINUTE`] times a minute. It tells how many were left out before it.
    pub fn line(&self) -> Option<u64> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = match &mut *current {
            Some(minute) if minute.since.seconds() < 60.0 && minute.lines == LOG_LINES_A_MINUTE => {
                minute.left_out += 1;
                return None;
            }
            Some(minute) if minute.since.seconds() < 60.0 => {
                minute.lines += 1;
                return Some(0);
            }
            before => before.take().map_or(0, |minute| minute.left_out),
        };
        *current = Some(Minute { since: Stopwatch::start(), lines: 1, left_out: 0 });
        Some(left_out)
    }
}

impl Default for EveryMinute {
    fn default() -> Self {
        Self::new()
    }
}

/// The process's metrics. There is one recorder a process, however many servers a test starts in it.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
                .expect("there are buckets");
            builder.install_recorder().expect("nothing else installs a recorder")
        })
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_so_many_lines_a_minute_and_the_next_minute_tells_how_many_were_left_out() {
        let cause = EveryMinute::new();
        let told = |times: u32| -> Vec<u64> { (0..times).filter_map(|_| cause.line()).collect() };
        assert_eq!(told(LOG_LINES_A_MINUTE + 3), vec![0; LOG_LINES_A_MINUTE as usize]);
        cause.0.lock().unwrap().as_mut().unwrap().since = Stopwatch::started_seconds_ago(61).unwrap();
        assert_eq!(told(2), [3, 0]);
    }
}
