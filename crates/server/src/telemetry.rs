//! What the server counts, how often it says the same, and which request it is that something is done for.

mod samples;
pub mod table;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError},
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rota_sandbox::heap;
pub use samples::Samples;
use tokio::{task::spawn_blocking, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Stopwatch,
    limits::{LOG_LINES_A_MINUTE, SPARE_MEMORY_BYTES, UPKEEP_EVERY},
};

/// The process's metrics. There is one recorder a process, however many servers a test starts in it.
///
/// Every label comes from a closed set: what a client can choose would be a new series each time, for ever.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = table::with_buckets(PrometheusBuilder::new());
            let handle = builder.install_recorder().expect("nothing else installs a recorder");
            table::describe();
            handle
        })
        .clone()
}

tokio::task_local! {
    static REQUEST: Arc<str>;
}

/// Handles the request `id`: what it writes knows that, and so does the log of what comes of it.
pub fn of_request<F: Future>(id: &str, handling: F) -> impl Future<Output = F::Output> + use<F> {
    REQUEST.scope(id.into(), handling)
}

/// The id of the request that is handled; none for what the server does by itself.
pub fn request() -> Option<Arc<str>> {
    REQUEST.try_with(Arc::clone).ok()
}

/// Sums up what was measured, which would otherwise be kept value by value until somebody reads it; says what was left
/// out of the log; gives memory back that is not used any more.
pub async fn upkeep(metrics: PrometheusHandle, stop: CancellationToken) {
    let mut ticks = interval(UPKEEP_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                metrics.run_upkeep();
                let (since, causes) = &*LINES;
                let over = left_out(&mut causes.lock().unwrap_or_else(PoisonError::into_inner), since.seconds());
                for (cause, count) in over {
                    tracing::warn!(cause, count, "more log lines of this cause were left out");
                }
                // It fails only when the runtime ends.
                let _ = spawn_blocking(|| heap::give_back(SPARE_MEMORY_BYTES)).await;
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Whether a line about `cause` may be written to the log now: so many a minute, so that no burst of failures fills the
/// disk. Causes come from a closed set.
pub fn may_tell(cause: &str) -> bool {
    let (since, causes) = &*LINES;
    is_one_more(&mut causes.lock().unwrap_or_else(PoisonError::into_inner), cause, since.seconds())
}

/// The log lines of each cause, and since when their times are counted.
static LINES: LazyLock<(Stopwatch, Mutex<HashMap<String, Cause>>)> =
    LazyLock::new(|| (Stopwatch::start(), Mutex::default()));

/// The lines of a cause within a minute.
struct Cause {
    /// When the minute began, in seconds.
    began: f64,
    lines: u32,
    left_out: u64,
}

fn is_one_more(causes: &mut HashMap<String, Cause>, cause: &str, now: f64) -> bool {
    if !causes.contains_key(cause) {
        causes.insert(cause.to_owned(), Cause { began: now, lines: 0, left_out: 0 });
    }
    let Some(cause) = causes.get_mut(cause) else { return true };
    if cause.lines < LOG_LINES_A_MINUTE {
        cause.lines += 1;
        return true;
    }
    cause.left_out += 1;
    false
}

/// Forgets the causes whose minute is over, and says how many of their lines were left out.
fn left_out(causes: &mut HashMap<String, Cause>, now: f64) -> Vec<(String, u64)> {
    let over = causes.extract_if(|_, cause| now - cause.began >= 60.0);
    over.filter(|(_, cause)| cause.left_out > 0).map(|(name, cause)| (name, cause.left_out)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_cause_are_bounded_a_minute_and_what_is_left_out_is_counted() {
        let mut causes = HashMap::new();
        let told = (0..1000).filter(|_| is_one_more(&mut causes, "request /v1/agents", 0.5)).count();
        assert_eq!(told, LOG_LINES_A_MINUTE as usize);
        assert!(is_one_more(&mut causes, "request /v1/sessions", 30.0), "another cause is told of");
        assert_eq!(left_out(&mut causes, 59.0), []);
        assert_eq!(left_out(&mut causes, 61.0), [("request /v1/agents".to_owned(), 990)]);
        assert!(is_one_more(&mut causes, "request /v1/agents", 61.0), "a new minute");
        assert_eq!(left_out(&mut causes, 200.0), []);
        assert!(causes.is_empty());
    }
}
