//! A thousand deployments that fire every minute, on servers that are killed and frozen: no occurrence fires twice, and
//! none is without a run or a reason.
//!
//! ```sh
//! cargo test --release -p rota --test outages -- --ignored --nocapture
//! tests/with-postgres cargo test --release -p rota --test outages -- --ignored --nocapture
//! ```
//!
//! On SQLite one server is killed every 20 s. On the PostgreSQL server of `ROTA_TEST_DATABASE` two servers share the work:
//! one is killed every 20 s, the other is frozen and goes on. `ROTA_OUTAGE_MINUTES` is how long it takes, 5 by default.

mod process;

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp, Unit};
use rota_api::Time;
use rota_server::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use process::{Client, Random, Server, create_key, text};

const DEPLOYMENTS: usize = 1000;
const MINUTES: u64 = 5;
/// Every so many seconds a server is killed: a minute is a multiple, so that one of three kills is amid the fires.
const KILL_EVERY: i64 = 20;
/// How long after such a moment, at most, in milliseconds: all of a minute's fires are made within a time like this.
const AIM_MS: u64 = 700;
/// How long the other server is frozen, in milliseconds.
const FREEZE_MS: u64 = 8_000;
/// Clients that create the deployments.
const CLIENTS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn no_occurrence_is_lost_or_doubled_by_kills_and_freezes() {
    let seed = RandomState::new().build_hasher().finish();
    let minutes = std::env::var("ROTA_OUTAGE_MINUTES").map_or(MINUTES, |minutes| minutes.parse().expect("a number"));
    println!("seed {seed}, {minutes} minutes");
    let mut random = Random(seed);
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
    let database = std::env::var("ROTA_TEST_DATABASE").ok().map(|server| format!("{server}/postgres"));
    let store: Vec<&str> = database.iter().flat_map(|url| ["--database", url]).collect();
    let options = [&store[..], &["--concurrency", "0"]].concat();
    let mut killed = Server::new(folders[0].path(), &options);
    let mut frozen = database.is_some().then(|| Server::new(folders[1].path(), &options));
    let key = create_key(folders[0].path(), &store);
    let mut slowest = killed.start().await;
    if let Some(frozen) = &mut frozen {
        frozen.start_beside(folders[0].path()).await;
    }
    let client = Client::new(killed.address, key);
    let created = create_deployments(&client).await;

    let end = now() + SignedDuration::from_mins(i64::try_from(minutes).expect("a few minutes"));
    let mut freezing = JoinSet::new();
    if let Some(frozen) = &frozen {
        freezing.spawn(freeze(frozen.pid().expect("it runs"), random.fork(), end));
    }
    let mut kills = 0;
    while now() < end {
        until(KILL_EVERY, random.below(AIM_MS)).await;
        killed.kill();
        kills += 1;
        slowest = slowest.max(killed.start().await);
    }
    for times in freezing.join_all().await {
        println!("frozen {times} times for {FREEZE_MS} ms");
    }
    // A minute without a kill, and time enough to look at everything once more.
    until(60, 0).await;
    let last = now().round(Unit::Minute).expect("the year is not 9999");
    sleep(Duration::from_secs(5)).await;

    let runs = client.list("/v1/deployment_runs?limit=1000").await;
    let ran = occurrences_of(&runs);
    let mut skipped = 0;
    for (deployment, created_at) in &created {
        skipped += account(&client, deployment, *created_at, last, &ran).await;
    }
    every_run_has_a_session_of_its_own(&client, &runs).await;

    let mut late: Vec<f64> = runs.iter().map(lateness).collect();
    late.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    println!(
        "{} runs, {skipped} occurrences skipped with a reason; {kills} kills, slowest start {} ms; lateness p50 {:.2} s, \
         p99 {:.2} s, max {:.2} s",
        runs.len(),
        slowest.as_millis(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Makes the deployments; says when each was created.
async fn create_deployments(client: &Client) -> HashMap<String, Timestamp> {
    let agent = client.post("/v1/agents", &json!({"name": "outages", "model": "playbook"})).await;
    let environment = client.post("/v1/environments", &json!({"name": "outages"})).await;
    let body = |number| {
        json!({
            "name": format!("outages {number}"),
            "agent": agent["id"],
            "environment_id": environment["id"],
            "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "hello"}]}],
            "schedule": {"type": "cron", "expression": "* * * * *", "timezone": "UTC"},
        })
    };
    let create = async |number| client.post("/v1/deployments", &body(number)).await;
    let created: Vec<Value> = stream::iter(0..DEPLOYMENTS).map(create).buffer_unordered(CLIENTS).collect().await;
    created.iter().map(|made| (text(made, "id").to_owned(), time(made, "created_at"))).collect()
}

/// Freezes a server again and again, for a while each time. Returns how often.
async fn freeze(pid: u32, mut random: Random, end: Timestamp) -> u32 {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    let mut times = 0;
    while now() < end {
        until(KILL_EVERY, random.below(AIM_MS)).await;
        kill_process(pid, Signal::STOP).expect("it runs");
        sleep(Duration::from_millis(FREEZE_MS)).await;
        kill_process(pid, Signal::CONT).expect("it runs");
        times += 1;
    }
    times
}

/// Returns at the next multiple of `seconds`, and then some milliseconds.
async fn until(seconds: i64, then_ms: u64) {
    let period = seconds * 1_000_000;
    let wait = period - now().as_microsecond().rem_euclid(period);
    sleep(Duration::from_micros(wait.unsigned_abs()) + Duration::from_millis(then_ms)).await;
}

/// The deployment and the time of each run's occurrence. No occurrence has two.
fn occurrences_of(runs: &[Value]) -> HashSet<(String, Timestamp)> {
    let mut ran = HashSet::new();
    for run in runs {
        assert_eq!(run["error"], Value::Null, "{run}");
        let occurrence = (text(run, "deployment_id").to_owned(), time(&run["trigger_context"], "scheduled_at"));
        assert!(ran.insert(occurrence), "an occurrence fired twice: {run}");
    }
    ran
}

/// Each minute up to `last` has a run, or the audit says why not. Returns how many have none.
async fn account(
    client: &Client,
    deployment: &str,
    created_at: Timestamp,
    last: Timestamp,
    ran: &HashSet<(String, Timestamp)>,
) -> usize {
    let audit = client.list(&format!("/rota/v1/deployments/{deployment}/occurrences?limit=1000")).await;
    let audit: HashMap<Timestamp, &Value> = audit.iter().map(|row| (time(row, "scheduled_at"), row)).collect();
    let mut skipped = 0;
    let minutes = std::iter::successors(Some(last), |at| Some(*at - SignedDuration::from_mins(1)));
    for at in minutes.take_while(|at| *at > created_at) {
        let row = audit.get(&at).unwrap_or_else(|| panic!("the audit of {deployment} leaves out {at}"));
        if ran.contains(&(deployment.to_owned(), at)) {
            assert_eq!(row["outcome"], "ran", "{row}");
        } else {
            assert_eq!(row["outcome"], "skipped", "it has neither a run nor a reason: {deployment} {row}");
            skipped += 1;
        }
    }
    skipped
}

async fn every_run_has_a_session_of_its_own(client: &Client, runs: &[Value]) {
    let sessions = client.list("/v1/sessions?limit=100").await;
    let sessions: HashSet<_> = sessions.iter().map(|session| text(session, "id")).collect();
    let of_runs: HashSet<_> = runs.iter().map(|run| text(run, "session_id")).collect();
    assert_eq!(of_runs.len(), runs.len(), "two runs have one session");
    assert_eq!(sessions, of_runs, "sessions and runs");
}

/// From the occurrence to its run, in seconds.
fn lateness(run: &Value) -> f64 {
    time(run, "created_at").duration_since(time(&run["trigger_context"], "scheduled_at")).as_secs_f64()
}

fn time(value: &Value, field: &str) -> Timestamp {
    text(value, field).parse::<Time>().expect("a time").timestamp()
}

fn now() -> Timestamp {
    Clock::System.now().timestamp()
}
