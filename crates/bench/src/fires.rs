//! Fires on schedule: how late many deployments are that are due in the same minute, on a new store and on one with a long
//! past, and how long lists of runs take there; on SQLite and on PostgreSQL.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rota_api::Time;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    Settings,
    database::Database,
    figures::{milliseconds, verdict},
    http::{Connection, request},
    machine::{Shares, Used, Watch},
    past,
    server::Server,
};

/// Deployments that are due in the same minute.
const DEPLOYMENTS: usize = 10_000;
/// Runs of the past.
const PAST: usize = 1_000_000;
/// How long after its minute the last fire is waited for.
const PATIENCE: Duration = Duration::from_secs(50);
/// Requests of each kind of list.
const LISTS: usize = 3_000;
/// Lists of runs, and those that say what became of each: their longest p99 may take so many milliseconds.
const KINDS: [(&str, f64); 2] = [("lists of runs", 5.0), ("what became of runs, and attention", 10.0)];
/// Most runs on a page.
const PAGE: usize = 1_000;
const MINUTE_MICROS: i64 = 60_000_000;
/// How much of a minute must be left for the next one to be measured: what a server makes up for at its start takes this.
const REST_MICROS: i64 = 15_000_000;
/// Deployments that a scheduler with much to remember holds.
const SCHEDULED: usize = 100_000;
/// How long after its minute the fires are asked for: asking earlier would slow them.
const FIRING_MICROS: i64 = 5_000_000;

/// What was seen of fires, or of one kind of list.
struct Seen {
    /// How late or how long, in milliseconds, sorted.
    took: Vec<f64>,
    /// Who used the machine meanwhile.
    shares: Shares,
}

impl Seen {
    fn new(mut took: Vec<f64>, used: Used) -> Self {
        took.sort_unstable_by(f64::total_cmp);
        Self { took, shares: used.shares() }
    }

    fn at(&self, share: f64) -> f64 {
        self.took[((self.took.len() - 1) as f64 * share) as usize]
    }

    fn others(&self) -> String {
        let disturbed = if self.shares.disturbed() { " DISTURBED" } else { "" };
        format!("{:.0} %{disturbed}", self.shares.others * 100.0)
    }
}

pub async fn measure(settings: &Settings) -> Result<()> {
    println!(
        "## Fires\n\n{DEPLOYMENTS} deployments on `* * * * *`; {} minutes a row, all fires of them.\n",
        settings.rounds
    );
    println!("| store | p50 ms | p99 ms | max ms | memory MiB | others |\n|---|---:|---:|---:|---:|---:|");
    let mut figures = Figures { rounds: settings.rounds, ..Figures::default() };
    let folder = settings.temporary()?;
    let mut server = Server::start(&settings.rota, &folder.path().join("sqlite"), 0).await?;
    create(&server, DEPLOYMENTS, "* * * * *").await?;
    figures.fires("SQLite, new", &server).await?;
    server.kill()?;
    past::add(&server.store(), PAST)?;
    server.start_again().await?;
    figures.fires("SQLite, 1,000,000 past runs", &server).await?;
    figures.lists("SQLite", &server).await?;
    if let Some(new) = Database::create("new").await? {
        let server = Server::start_on(&settings.rota, &folder.path().join("new"), 0, Some(&new.url)).await?;
        create(&server, DEPLOYMENTS, "* * * * *").await?;
        figures.fires("PostgreSQL, new", &server).await?;
        drop(server);
        new.drop().await?;
    }
    if let Some(past) = Database::create("past").await? {
        server.move_to(&past.url).await?;
        figures.fires("PostgreSQL, 1,000,000 past runs", &server).await?;
        figures.lists("PostgreSQL", &server).await?;
        drop(server);
        past.drop().await?;
    }
    figures.memory = memory(settings).await?;
    figures.show();
    Ok(())
}

/// What was measured, to be shown when all is.
#[derive(Default)]
struct Figures {
    rounds: u32,
    /// p99 of each store, in milliseconds.
    late: Vec<(&'static str, f64)>,
    /// Rows of lists, and the longest p99 of each store, in milliseconds: one of each kind.
    lists: Vec<String>,
    slowest: Vec<(&'static str, [f64; KINDS.len()])>,
    memory: f64,
}

impl Figures {
    async fn fires(&mut self, store: &'static str, server: &Server) -> Result<()> {
        let seen = fires(server, self.rounds).await?;
        let (p50, p99, max, others) = (seen.at(0.5), seen.at(0.99), seen.at(1.0), seen.others());
        println!("| {store} | {p50:.0} | {p99:.0} | {max:.0} | {:.0} | {others} |", server.memory_mib());
        self.late.push((store, p99));
        Ok(())
    }

    async fn lists(&mut self, store: &'static str, server: &Server) -> Result<()> {
        let mut slowest = [0.0; KINDS.len()];
        for (name, kind, seen) in lists(server).await? {
            let (p50, p99, max, others) = (seen.at(0.5), seen.at(0.99), seen.at(1.0), seen.others());
            self.lists.push(format!("| {store}: {name} | {p50:.2} | {p99:.2} | {max:.1} | {others} |"));
            slowest[kind] = p99.max(slowest[kind]);
        }
        self.slowest.push((store, slowest));
        Ok(())
    }

    fn show(&self) {
        println!("\n| list of runs, 20 a page | p50 ms | p99 ms | max ms | others |\n|---|---:|---:|---:|---:|");
        self.lists.iter().for_each(|row| println!("{row}"));
        println!("\n| target | measured | |\n|---|---:|---|");
        for (store, p99) in &self.late {
            println!("| {store}: lateness p99 at most 2 s | {:.2} s | {} |", p99 / 1e3, verdict(*p99 <= 2_000.0));
        }
        for (store, slowest) in &self.slowest {
            for ((what, most), slowest) in KINDS.iter().zip(slowest) {
                println!("| {store}: {what}, p99 at most {most} ms | {slowest:.1} ms | {} |", verdict(slowest <= most));
            }
        }
        let memory = self.memory;
        println!(
            "| memory with {SCHEDULED} scheduled deployments at most 150 MB | {memory:.0} MiB | {} |\n",
            verdict(memory <= 143.0)
        );
    }
}

async fn create(server: &Server, count: usize, expression: &str) -> Result<()> {
    let schedule = json!({"type": "cron", "expression": expression, "timezone": "UTC"});
    let deployments = server.create_deployments(count, "Nightly report.", &json!({ "schedule": schedule })).await?;
    ensure!(deployments.len() == count, "every deployment is made");
    Ok(())
}

/// The memory of a server, in MiB, that was just started on a store with many scheduled deployments and has looked at them
/// for some seconds.
async fn memory(settings: &Settings) -> Result<f64> {
    let folder = settings.temporary()?;
    let mut server = Server::start(&settings.rota, &folder.path().join("data"), 0).await?;
    create(&server, SCHEDULED, "0 3 1 1 *").await?;
    server.kill_and_start().await?;
    sleep(Duration::from_secs(5)).await;
    Ok(server.memory_mib())
}

/// Waits for `minutes` whole minutes and returns how late their fires were.
async fn fires(server: &Server, minutes: u32) -> Result<Seen> {
    let (mut late, mut used) = (Vec::new(), Used::default());
    let first = (now().micros() + REST_MICROS) / MINUTE_MICROS + 1;
    for minute in first..first + i64::from(minutes) {
        let at = Time::from_micros(minute * MINUTE_MICROS);
        wait_until(at).await;
        let watch = Watch::start(Some(server.pid()));
        wait_until(at.plus_micros(FIRING_MICROS)).await;
        used += watch.used();
        late.extend(fires_of(server, at).await?);
    }
    Ok(Seen::new(late, used))
}

async fn wait_until(time: Time) {
    sleep(Duration::from_micros((time.micros() - now().micros()).max(0).unsigned_abs())).await;
}

/// How late the fires of the occurrence `at` were, in milliseconds, once there are all.
async fn fires_of(server: &Server, at: Time) -> Result<Vec<f64>> {
    let begin = Instant::now();
    loop {
        let late = lateness(server, at).await?;
        if late.len() == DEPLOYMENTS {
            return Ok(late);
        }
        ensure!(begin.elapsed() < PATIENCE, "{} of {DEPLOYMENTS} deployments have fired at {at}", late.len());
        sleep(Duration::from_secs(1)).await;
    }
}

async fn lateness(server: &Server, at: Time) -> Result<Vec<f64>> {
    let mut connection = server.connect().await?;
    let mut late = Vec::with_capacity(DEPLOYMENTS);
    let path = format!("/v1/deployment_runs?trigger_type=schedule&created_at[gte]={at}&limit={PAGE}");
    let mut page = String::new();
    loop {
        let list = get(&mut connection, server, &format!("{path}{page}")).await?;
        for run in list["data"].as_array().context("a list")? {
            let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Time>().ok()).context("a time");
            ensure!(run["error"].is_null(), "a fire failed: {run}");
            if time(&run["trigger_context"]["scheduled_at"])? == at {
                late.push(time(&run["created_at"])?.seconds_since(at) * 1e3);
            }
        }
        let Some(next) = list["next_page"].as_str() else { return Ok(late) };
        page = format!("&page={next}");
    }
}

/// Measures lists of runs by one client: each with its name and its kind, a place in [`KINDS`].
async fn lists(server: &Server) -> Result<Vec<(&'static str, usize, Seen)>> {
    let mut connection = server.connect().await?;
    let newest = get(&mut connection, server, "/v1/deployment_runs?limit=20").await?;
    let deployment = newest["data"][0]["deployment_id"].as_str().context("a run")?;
    let month_ago = now().plus_micros(-14 * 24 * 3600 * 1_000_000);
    let deep =
        get(&mut connection, server, &format!("/v1/deployment_runs?limit=20&created_at[lte]={month_ago}")).await?;
    let cursor = deep["next_page"].as_str().context("there is more")?;
    let mut measured = Vec::new();
    let runs = |query: &str| format!("/v1/deployment_runs?limit=20{query}");
    let outcomes = |query: &str| format!("/rota/v1/runs?limit=20{query}");
    for (name, path) in [
        ("newest", runs("")),
        ("in the middle of the past", runs(&format!("&created_at[lte]={month_ago}&page={cursor}"))),
        ("of a deployment", runs(&format!("&deployment_id={deployment}"))),
        ("of the schedule", runs("&trigger_type=schedule")),
        ("with an error: none has", runs("&has_error=true")),
        ("with what became of them: newest", outcomes("")),
        ("the same: in the middle of the past", outcomes(&format!("&to={month_ago}"))),
        ("the same: failed, one in 10,000", outcomes("&state=failed")),
        ("the same: waiting for an answer, none", outcomes("&state=waiting")),
        ("the same: tried again, none", outcomes("&state=retrying")),
        ("the same: their session is deleted, none", outcomes("&state=deleted")),
        ("what needs attention", "/rota/v1/attention".to_owned()),
    ] {
        let asked = request("GET", &path, &server.key, "");
        let watch = Watch::start(Some(server.pid()));
        let mut took = Vec::with_capacity(LISTS);
        for _ in 0..LISTS {
            let begin = Instant::now();
            connection.exchange(&asked).await?;
            took.push(milliseconds(begin.elapsed()));
        }
        let kind = usize::from(path.starts_with("/rota"));
        measured.push((name, kind, Seen::new(took, watch.used())));
    }
    Ok(measured)
}

async fn get(connection: &mut Connection, server: &Server, path: &str) -> Result<Value> {
    Ok(serde_json::from_slice(connection.exchange(&request("GET", path, &server.key, "")).await?)?)
}

#[allow(clippy::disallowed_methods, reason = "the server's clock is the machine's, and so is this program's")]
fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(since.as_micros() as i64)
}
