//! What a scrape of the metrics reads beside what is counted: how much there is in the store, and how this machine and this process
//! are.
//!
//! The store is asked for little, seldom and by one scrape at a time: rows that an index names, no more than a bound of them, and what
//! was read is kept for some seconds. A store that does not answer costs a scrape a moment, and what is in it is then left out.

mod resting;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use metrics_exporter_prometheus::PrometheusHandle;
use rota_api::{Time, id::WebhookEndpointId};
use rota_sandbox::{Counts, Embedded};
use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    clock::Stopwatch,
    db::{Db, FILE, Tx, vals},
    error::Result,
    limits::{READ_CONNECTIONS, SCRAPE_ENDPOINTS, SCRAPE_KEPT_SECONDS, SCRAPE_ROWS, SCRAPE_STORE_TIMEOUT},
    telemetry::{self, Samples},
};

use resting::Resting;

/// What answers scrapes.
pub struct Scrape {
    db: Db,
    sandboxes: Arc<Embedded>,
    tasks: TaskTracker,
    data: PathBuf,
    kept: Arc<Mutex<Kept>>,
    resting: Resting,
}

/// What was read last: nothing of a store that did not answer.
#[derive(Default)]
struct Kept {
    at: Option<Stopwatch>,
    stored: Option<Stored>,
}

/// What the store says.
#[derive(Debug, Clone, Default)]
struct Stored {
    bytes: Option<i64>,
    queued: Many,
    running: i64,
    retrying: i64,
    for_human: Many,
    for_program: Many,
    behind: f64,
    failing: i64,
    servers: i64,
    webhooks: Many,
    webhooks_parked: i64,
    webhooks_failed: i64,
    endpoints_disabled: i64,
}

/// A number of rows, and for how many seconds the oldest of them has been there.
#[derive(Debug, Clone, Copy, Default)]
struct Many {
    count: i64,
    oldest: f64,
}

impl Scrape {
    /// For a server with the store `db` and the data folder `data`.
    pub fn new(db: Db, sandboxes: Arc<Embedded>, tasks: TaskTracker, data: PathBuf) -> Self {
        let resting = Resting::new(db.clone(), tasks.clone());
        Self { db, sandboxes, tasks, data, kept: Arc::default(), resting }
    }

    /// Everything, in the text format of Prometheus: what was `counted`, and what is read now.
    pub async fn text(&self, counted: &PrometheusHandle) -> String {
        let stored = self.stored().await;
        let mut samples = Samples::default();
        samples.sample("rota_store_up", &[], f64::from(u8::from(stored.is_some())));
        if let Some(stored) = &stored {
            add_stored(&mut samples, stored);
            if let Some(count) = self.resting.count() {
                samples.sample("rota_sessions", &[("state", "resting")], count as f64);
            }
        }
        add_server(&mut samples, &self.db, self.sandboxes.counts());
        let data = self.data.clone();
        let bytes = stored.and_then(|stored| stored.bytes);
        let machine = spawn_blocking(move || {
            let mut samples = Samples::default();
            add_machine(&mut samples, &data, bytes);
            add_process(&mut samples);
            samples.into_text()
        });
        [counted.render(), samples.into_text(), machine.await.unwrap_or_default()].concat()
    }

    /// What the store says, or said some seconds ago; `None` while it does not answer.
    async fn stored(&self) -> Option<Stored> {
        let asking = async {
            let mut kept = self.kept.clone().lock_owned().await;
            if kept.at.is_some_and(|at| at.seconds() < SCRAPE_KEPT_SECONDS) {
                return kept.stored.clone();
            }
            let db = self.db.clone();
            // By itself, so that whoever waits no longer leaves it the only one.
            let reading = self.tasks.spawn(async move {
                kept.stored = match read(&db).await {
                    Ok(stored) => Some(stored),
                    Err(error) => {
                        if telemetry::may_tell("what a scrape reads") {
                            tracing::warn!(%error, "the store does not answer: the metrics that are read from it are left out");
                        }
                        None
                    }
                };
                kept.at = Some(Stopwatch::start());
                kept.stored.clone()
            });
            reading.await.ok().flatten()
        };
        timeout(SCRAPE_STORE_TIMEOUT, asking).await.ok().flatten()
    }
}

async fn read(db: &Db) -> Result<Stored> {
    let stored = db.read(stored).await?;
    Ok(Stored { bytes: db.database_bytes().await?, ..stored })
}

fn stored(tx: &mut Tx<'_>) -> Result<Stored> {
    let now = tx.now();
    let since = |since: Option<Time>| since.map_or(0.0, |since| now.seconds_since(since).max(0.0));
    let mut stored = tx
        .one(AT_WORK, vals![now, SCRAPE_ROWS], |row| {
            Ok(Stored {
                queued: Many { count: row.int("queued")?, oldest: since(row.opt_time("queued_since")?) },
                running: row.int("running")?,
                retrying: row.int("retrying")?,
                ..Stored::default()
            })
        })?
        .unwrap_or_default();
    let waiting = tx.one(WAITING, vals![SCRAPE_ROWS], |row| {
        let human = Many { count: row.int("human")?, oldest: since(row.opt_time("human_since")?) };
        Ok((human, Many { count: row.int("program")?, oldest: since(row.opt_time("program_since")?) }))
    })?;
    (stored.for_human, stored.for_program) = waiting.unwrap_or_default();
    let due = "SELECT min(next_fire_at) FROM deployments WHERE next_fire_at IS NOT NULL";
    stored.behind = since(tx.one(due, &[], |row| row.opt_time(0))?.flatten());
    let mut count =
        |sql: &str| -> Result<i64> { Ok(tx.one(sql, vals![SCRAPE_ROWS], |row| row.int(0))?.unwrap_or_default()) };
    stored.failing = count("SELECT count(*) FROM (SELECT 1 FROM deployment_failures LIMIT $1) AS found")?;
    stored.webhooks_failed =
        count("SELECT count(*) FROM (SELECT 1 FROM webhook_deliveries WHERE state = 'failed' LIMIT $1) AS found")?;
    let alive = "SELECT count(*) FROM nodes WHERE alive_until > $1";
    stored.servers = tx.one(alive, vals![now], |row| row.int(0))?.unwrap_or_default();
    let waiting = tx.one(WEBHOOKS, vals![SCRAPE_ROWS], |row| {
        Ok(Many { count: row.int("waiting")?, oldest: since(row.opt_time("since")?) })
    })?;
    stored.webhooks = waiting.unwrap_or_default();
    (stored.endpoints_disabled, stored.webhooks_parked) = disabled(tx)?;
    Ok(stored)
}

/// How many endpoints are disabled, and how many webhooks are parked before them: of some endpoints, among the newest.
fn disabled(tx: &mut Tx<'_>) -> Result<(i64, i64)> {
    let sql = "SELECT count(*) FROM webhook_endpoints WHERE state = 'disabled'";
    let all = tx.one(sql, &[], |row| row.int(0))?.unwrap_or_default();
    let sql = "SELECT id FROM webhook_endpoints WHERE state = 'disabled' LIMIT $1";
    let some: Vec<WebhookEndpointId> = tx.all(sql, vals![SCRAPE_ENDPOINTS], |row| row.id(0))?;
    let each = SCRAPE_ROWS / some.len().max(1) as i64;
    let mut parked = 0;
    for endpoint in some {
        parked += tx.one(PARKED, vals![&endpoint, each], |row| row.int(0))?.unwrap_or_default();
    }
    Ok((all, parked))
}

/// Sessions that have something to do, and what.
const AT_WORK: &str = "SELECT
        coalesce(sum(CASE WHEN runnable_at > $1 THEN 1 ELSE 0 END), 0) AS retrying,
        coalesce(sum(CASE WHEN runnable_at <= $1 AND lease_expires_at > $1 THEN 1 ELSE 0 END), 0) AS running,
        coalesce(sum(CASE WHEN runnable_at <= $1 AND coalesce(lease_expires_at, 0) <= $1 THEN 1 ELSE 0 END), 0) AS queued,
        min(CASE WHEN runnable_at <= $1 AND coalesce(lease_expires_at, 0) <= $1 THEN runnable_at END) AS queued_since
    FROM (SELECT runnable_at, lease_expires_at FROM sessions WHERE runnable_at IS NOT NULL LIMIT $2) AS at_work";

/// Sessions that wait for answers, and whose: `WaitingFor::is_of_a_human` says of which kind that is.
const WAITING: &str = r#"SELECT
        coalesce(sum(for_human), 0) AS human, min(CASE WHEN for_human = 1 THEN stopped_at END) AS human_since,
        coalesce(sum(1 - for_human), 0) AS program, min(CASE WHEN for_human = 0 THEN stopped_at END) AS program_since
    FROM (SELECT CASE WHEN waiting_on LIKE '%confirmation"%' THEN 1 ELSE 0 END AS for_human, stopped_at FROM sessions
          WHERE stop_reason = 'requires_action' LIMIT $1) AS waiting"#;

const WEBHOOKS: &str = "SELECT count(*) AS waiting, min(due_at) AS since
    FROM (SELECT due_at FROM webhook_deliveries WHERE due_at IS NOT NULL LIMIT $1) AS found";

const PARKED: &str = "SELECT count(*) FROM (SELECT state, due_at FROM webhook_deliveries WHERE endpoint_id = $1
        ORDER BY event_id DESC LIMIT $2) AS newest
    WHERE state = 'pending' AND due_at IS NULL";

fn add_stored(samples: &mut Samples, stored: &Stored) {
    for (state, count) in [
        ("queued", stored.queued.count),
        ("running", stored.running),
        ("retrying", stored.retrying),
        ("waiting_for_human", stored.for_human.count),
        ("waiting_for_program", stored.for_program.count),
    ] {
        samples.sample("rota_sessions", &[("state", state)], count as f64);
    }
    for (state, many) in [
        ("queued", stored.queued),
        ("waiting_for_human", stored.for_human),
        ("waiting_for_program", stored.for_program),
    ] {
        samples.sample("rota_sessions_oldest_seconds", &[("state", state)], many.oldest);
    }
    samples.sample("rota_schedule_behind_seconds", &[], stored.behind);
    samples.sample("rota_deployments_failing", &[], stored.failing as f64);
    samples.sample("rota_servers_alive", &[], stored.servers as f64);
    for (state, count) in
        [("waiting", stored.webhooks.count), ("parked", stored.webhooks_parked), ("failed", stored.webhooks_failed)]
    {
        samples.sample("rota_webhook_deliveries", &[("state", state)], count as f64);
    }
    samples.sample("rota_webhook_behind_seconds", &[], stored.webhooks.oldest);
    samples.sample("rota_webhook_endpoints_disabled", &[], stored.endpoints_disabled as f64);
}

fn add_server(samples: &mut Samples, db: &Db, sandboxes: Counts) {
    samples.sample("rota_write_queue_writes", &[], db.writes_waiting() as f64);
    let busy = db.reads_under_way();
    for (state, count) in [("busy", busy), ("free", READ_CONNECTIONS - busy)] {
        samples.sample("rota_database_read_connections", &[("state", state)], count as f64);
    }
    samples.sample("rota_sandboxes_up", &[], sandboxes.up as f64);
    for (outcome, count) in [("started", sandboxes.started), ("failed", sandboxes.failed)] {
        samples.sample("rota_sandbox_starts_total", &[("outcome", outcome)], count as f64);
    }
    for (reason, count) in [("memory", sandboxes.out_of_memory), ("disk", sandboxes.over_disk)] {
        samples.sample("rota_sandboxes_killed_total", &[("reason", reason)], count as f64);
    }
    let build = [("version", env!("CARGO_PKG_VERSION")), ("database", db.kind())];
    samples.sample("rota_build_info", &build, 1.0);
}

/// `database` is the size of the store where it is not in the data folder.
fn add_machine(samples: &mut Samples, data: &Path, database: Option<i64>) {
    let length = |name: &str| fs::metadata(data.join(name)).map_or(0, |file| file.len()) as f64;
    let file = || Some(length(FILE) + length(&format!("{FILE}-wal"))).filter(|bytes| *bytes > 0.0);
    if let Some(bytes) = database.map(|bytes| bytes as f64).or_else(file) {
        samples.sample("rota_store_size_bytes", &[], bytes);
    }
    if let Ok(disk) = statvfs(data) {
        samples.sample("rota_disk_free_bytes", &[], disk.f_bavail as f64 * disk.f_frsize as f64);
        samples.sample("rota_disk_size_bytes", &[], disk.f_blocks as f64 * disk.f_frsize as f64);
    }
}

/// The unit of times in `/proc`: the same on every machine, whatever the kernel was built with.
const TICKS_A_SECOND: f64 = 100.0;

fn add_process(samples: &mut Samples) {
    // What follows the name, which may have spaces and parentheses.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    // By the numbers of proc(5), where the name is field 2.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        samples.sample("process_cpu_seconds_total", &[], (user + system) / TICKS_A_SECOND);
    }
    if let Some(threads) = field(20) {
        samples.sample("process_threads", &[], threads);
    }
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot =
        boot.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.trim().parse::<f64>().ok());
    if let (Some(boot), Some(started)) = (boot, field(22)) {
        samples.sample("process_start_time_seconds", &[], boot + started / TICKS_A_SECOND);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    if let Some(kibibytes) = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<f64>().ok()) {
        samples.sample("process_resident_memory_bytes", &[], kibibytes * 1024.0);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        samples.sample("process_open_fds", &[], open.count() as f64);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        samples.sample("process_max_fds", &[], most as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    /// On a store with a million sessions at rest, a scrape looks at none of them.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_scrape_asks_of_large_tables_is_in_an_index() {
        let folder = tempfile::TempDir::new().unwrap();
        let (db, _writer) = Db::open(folder.path(), Clock::System, Box::new(|_| {})).unwrap();
        let failed = "SELECT count(*) FROM (SELECT 1 FROM webhook_deliveries WHERE state = 'failed' LIMIT $1) AS found";
        let due = "SELECT min(next_fire_at) FROM deployments WHERE next_fire_at IS NOT NULL";
        for (sql, parameters) in
            [(AT_WORK, 2), (WAITING, 1), (WEBHOOKS, 1), (PARKED, 2), (failed, 1), (due, 0), (resting::SOME, 2)]
        {
            let plan = db
                .read(move |tx| {
                    let values = [1_i64, 2];
                    let values: Vec<_> =
                        values[..parameters].iter().map(|value| crate::db::Val::from(*value)).collect();
                    tx.all(&format!("EXPLAIN QUERY PLAN {sql}"), &values, |row| row.text(3))
                })
                .await
                .unwrap();
            let reads = plan
                .iter()
                .filter(|step| ["sessions", "webhook_deliveries", "deployments"].iter().any(|t| step.contains(t)));
            let reads: Vec<_> = reads.collect();
            assert!(!reads.is_empty() && reads.iter().all(|step| step.contains("USING")), "{sql}: {plan:?}");
            let is_counted = sql == resting::SOME;
            assert!(
                !is_counted || reads.iter().all(|step| step.contains("COVERING INDEX sessions_resting")),
                "{plan:?}"
            );
        }
    }

    #[test]
    fn a_process_is_seen() {
        let mut samples = Samples::default();
        add_process(&mut samples);
        let text = samples.into_text();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse::<f64>().unwrap()
        };
        let started = value("process_start_time_seconds");
        let now = Clock::System.now().micros() as f64 / 1e6;
        assert!(started > now - 86_400.0 && started < now + 60.0, "{started} {now}");
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0 && value("process_threads") >= 1.0);
    }
}
