//! Somebody schedules fifty agents on Friday and goes home. Their models are down, slow, refuse, hang and recover; some agents ask,
//! some run what never ends; the store goes away for a minute and the server is killed twice. Afterwards every occurrence has its
//! state, nothing waits beyond its deadline, nothing was done twice, the list of what needs somebody is exactly what is wrong, and each
//! thing on it had its webhook.
//!
//! ```sh
//! make friday
//! ```
//!
//! It takes the minutes of `ROTA_FRIDAY_MINUTES`, ten unless told otherwise and eight at least, and a few more on each database.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "it/database.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod database;
#[path = "reliability/disk.rs"]
mod disk;
#[allow(dead_code, reason = "shared with other test binaries")]
mod process;
#[path = "it/proxy.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod proxy;
#[path = "friday/receiver.rs"]
mod receiver;
#[path = "it/request.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod request;
#[path = "friday/upstreams.rs"]
mod upstreams;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use rota_server::{clock::Clock, config::DatabaseUrl};
use serde_json::{Value, json};
use tokio::time::sleep;

use database::{Database, NEEDED};
use disk::Disk;
use process::{Client, PATIENCE, Server, create_key, text};
use proxy::Proxy;
use receiver::Receiver;
use upstreams::{Manner, Provider};

/// How long a session of those that hang, or run what never ends, may take.
const LIMIT: i64 = 20;
/// By how much troubles of the server may lengthen what has a deadline: a minute without the store, and a start.
const TROUBLE: i64 = 90;
/// How long what is under way has to come to its end when nothing new begins.
const REST: Duration = Duration::from_mins(4);
/// The webhooks that tell of what needs somebody, and of ends.
const TOLD: [&str; 6] = [
    "rota.run.finished",
    "rota.run.waiting",
    "rota.occurrence.skipped",
    "rota.occurrence.missed",
    "rota.deployment.silent",
    "deployment.paused",
];

/// Deployments of one kind.
struct Kind {
    name: &'static str,
    count: usize,
    model: &'static str,
    says: &'static str,
    asks: bool,
    policy: Value,
    /// Whether its sessions end within [`LIMIT`].
    is_limited: bool,
}

fn kinds() -> Vec<Kind> {
    let kind =
        |name, count, model, policy| Kind { name, count, model, says: "hello", asks: false, policy, is_limited: false };
    let touch = "```bash\ntouch made\n```\n";
    vec![
        kind("down", 8, "down", json!({"pause_after_failures": 3})),
        kind("slow", 8, "slow", json!({})),
        kind("refuses", 6, "refuses", json!({})),
        Kind {
            is_limited: true,
            ..kind("hangs", 6, "hangs", json!({"max_session_seconds": LIMIT, "overlap": "skip"}))
        },
        kind(
            "recovers",
            6,
            "recovers",
            json!({"retry": {"max_sessions": 3, "initial_backoff_seconds": 5, "max_backoff_seconds": 10}}),
        ),
        Kind { asks: true, says: touch, ..kind("denied", 4, "playbook", json!({"unattended": "deny"})) },
        Kind {
            asks: true,
            says: touch,
            ..kind("answered for", 4, "playbook", json!({"unattended": {"answer_within_seconds": 10}}))
        },
        Kind { asks: true, says: touch, ..kind("waits", 4, "playbook", json!({})) },
        Kind {
            says: "```bash\nsleep 100000\n```\n",
            is_limited: true,
            ..kind("never ends", 4, "playbook", json!({"max_session_seconds": LIMIT}))
        },
    ]
}

/// A deployment, and its kind.
struct Deployed {
    id: String,
    kind: usize,
    created_at: Timestamp,
}

struct Weekend {
    client: Client,
    kinds: Vec<Kind>,
    deployments: Vec<Deployed>,
    receiver: Receiver,
}

impl Weekend {
    async fn begin(client: Client) -> Self {
        let receiver = Receiver::start().await;
        let endpoint = json!({"url": receiver.url, "name": "on call", "enabled_events": TOLD});
        client.post("/rota/v1/webhook_endpoints", &endpoint).await;
        let mut weekend = Self { client, kinds: kinds(), deployments: Vec::new(), receiver };
        for kind in 0..weekend.kinds.len() {
            weekend.deploy(kind).await;
        }
        weekend
    }

    async fn deploy(&mut self, place: usize) {
        let (client, kind) = (&self.client, &self.kinds[place]);
        let permission = if kind.asks { "always_ask" } else { "always_allow" };
        let tools = json!([{
            "type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": permission}}
        }]);
        let agent = json!({"name": kind.name, "model": kind.model, "tools": tools});
        let agent = client.post("/v1/agents", &agent).await;
        let environment = client.post("/v1/environments", &json!({"name": kind.name})).await;
        for number in 0..kind.count {
            let message = json!({"type": "user.message", "content": [{"type": "text", "text": kind.says}]});
            let body = json!({
                "name": format!("{} {number}", kind.name), "agent": agent["id"], "environment_id": environment["id"],
                "initial_events": [message],
                "schedule": {"type": "cron", "expression": "* * * * *", "timezone": "UTC"},
            });
            let made = client.post("/v1/deployments", &body).await;
            let id = text(&made, "id").to_owned();
            if kind.policy != json!({}) {
                client.post(&format!("/rota/v1/deployments/{id}/policy"), &kind.policy).await;
            }
            let created_at = text(&made, "created_at").parse().unwrap();
            self.deployments.push(Deployed { id, kind: place, created_at });
        }
    }

    /// What became of each occurrence from one minute to another, once nothing of it is to be decided any more.
    async fn occurrences(&self, deployed: &Deployed, from: Timestamp, to: Timestamp) -> Vec<Value> {
        let path = format!("/rota/v1/deployments/{}/occurrences?from={from}&to={to}&limit=1000", deployed.id);
        let begin = Instant::now();
        loop {
            let found = self.client.list(&path).await;
            if found.iter().all(|occurrence| occurrence["outcome"] != "pending") {
                return found;
            }
            assert!(begin.elapsed() < REST, "{}: not every occurrence is decided: {found:#?}", self.name(deployed));
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn name(&self, deployed: &Deployed) -> &'static str {
        self.kinds[deployed.kind].name
    }

    /// All runs and all occurrences without one.
    async fn runs(&self) -> Vec<Value> {
        self.client.list("/rota/v1/runs?limit=100").await
    }

    async fn attention(&self) -> Vec<Value> {
        let answer = self.client.get("/rota/v1/attention").await;
        assert_ne!(answer["is_cut"], true, "{answer:#}");
        answer["data"].as_array().unwrap().clone()
    }

    /// Every occurrence has its state.
    async fn check_occurrences(&self, from: Timestamp, to: Timestamp) {
        let mut counts = BTreeMap::<(&str, String), usize>::new();
        for deployed in &self.deployments {
            let found = self.occurrences(deployed, from, to).await;
            let times: BTreeSet<Timestamp> =
                found.iter().map(|occurrence| text(occurrence, "scheduled_at").parse().unwrap()).collect();
            let minutes: BTreeSet<Timestamp> =
                (0..to.duration_since(from).as_mins()).map(|n| from + SignedDuration::from_mins(n)).collect();
            assert_eq!(times, minutes, "{}", self.name(deployed));
            assert_eq!(found.len(), minutes.len(), "{}: one occurrence, one state", self.name(deployed));
            for occurrence in &found {
                let outcome = text(occurrence, "outcome");
                assert!(["ran", "failed", "skipped"].contains(&outcome), "{}: {occurrence:#}", self.name(deployed));
                let reason = occurrence["reason"].as_str().map_or(String::new(), |reason| format!(" {reason}"));
                *counts.entry((self.name(deployed), format!("{outcome}{reason}"))).or_default() += 1;
                // Of a pause `deployment.paused` tells, once.
                if outcome == "skipped" && occurrence["reason"] != "paused" {
                    self.is_told_of_skip(deployed, text(occurrence, "scheduled_at").parse().unwrap()).await;
                }
            }
        }
        println!("{counts:#?}");
    }

    /// That no occurrence was run twice, and no run has the session of another one.
    fn check_once(runs: &[Value]) {
        let (mut sessions, mut attempts) = (HashSet::new(), HashSet::new());
        for run in runs.iter().filter(|run| run["run_id"].is_string()) {
            if let Some(session) = run["session"]["id"].as_str() {
                assert!(sessions.insert(session.to_owned()), "two runs have {session}");
            }
            let key = [&run["deployment_id"], &run["scheduled_at"], &run["attempt"]].map(ToString::to_string);
            assert!(attempts.insert(key), "twice: {run:#}");
        }
    }

    /// What waits, waits because nobody said for how long; and nothing that has a deadline has taken longer.
    fn check_deadlines(&self, runs: &[Value]) {
        for deployed in &self.deployments {
            let kind = &self.kinds[deployed.kind];
            for run in runs.iter().filter(|run| run["deployment_id"] == *deployed.id && run["session"].is_object()) {
                match text(run, "state") {
                    "done" | "failed" => {}
                    "waiting" => assert_eq!(kind.name, "waits", "{run:#}"),
                    _ => panic!("{} is still under way: {run:#}", kind.name),
                }
                if kind.is_limited {
                    let took = run["session"]["duration_seconds"].as_f64().unwrap();
                    assert!(took <= (LIMIT + TROUBLE) as f64, "{} took {took} s: {run:#}", kind.name);
                }
            }
        }
    }

    /// What is wrong with each deployment, as its runs show: which kinds must be on the list, and which may be.
    fn wrong(deployed: &Deployed, runs: &[Value], is_paused: bool, now: Timestamp) -> [BTreeSet<&'static str>; 2] {
        let of_it = || runs.iter().filter(|run| run["deployment_id"] == *deployed.id && run["run_id"].is_string());
        let ended_at = |run: &Value| {
            let at = run["session"]["stopped_at"].as_str().or(run["at"].as_str());
            at.and_then(|at| at.parse::<Timestamp>().ok())
        };
        let ended = |state: &'static str| of_it().filter(move |run| run["state"] == state).filter_map(ended_at).max();
        let (good, bad) = (ended("done"), ended("failed"));
        let mut must = BTreeSet::new();
        let mut may = BTreeSet::new();
        if bad.is_some() && bad > good {
            must.insert("failing");
        }
        if is_paused {
            must.insert("paused");
        }
        if of_it().any(|run| run["state"] == "waiting") {
            must.insert("waiting");
        }
        let quiet = now.duration_since(good.unwrap_or(deployed.created_at));
        // Three intervals, each whole, then the look.
        if !is_paused && quiet > SignedDuration::from_mins(5) {
            must.insert("silent");
        } else if !is_paused && quiet > SignedDuration::from_mins(3) {
            may.insert("silent");
        }
        [must, may]
    }

    /// The list of what needs somebody is exactly what is wrong, and each of it was told.
    async fn check_attention(&self) {
        let begin = Instant::now();
        loop {
            let (runs, attention) = (self.runs().await, self.attention().await);
            match self.compare(&runs, &attention, now()).await {
                Ok(()) => return,
                // What changes between two reads is looked at again.
                Err(wrong) => assert!(begin.elapsed() < Duration::from_mins(1), "{wrong}"),
            }
            sleep(Duration::from_secs(2)).await;
        }
    }

    async fn compare(&self, runs: &[Value], attention: &[Value], now: Timestamp) -> Result<(), String> {
        let known: HashSet<&str> = self.deployments.iter().map(|deployed| deployed.id.as_str()).collect();
        if let Some(other) = attention.iter().find(|item| !known.contains(item["deployment_id"].as_str().unwrap_or("")))
        {
            return Err(format!("nothing is wrong with {other:#}"));
        }
        for deployed in &self.deployments {
            let shown = self.client.get(&format!("/v1/deployments/{}", deployed.id)).await;
            let [must, may] = Self::wrong(deployed, runs, shown["status"] == "paused", now);
            let listed: BTreeSet<&str> = attention
                .iter()
                .filter(|item| item["deployment_id"] == *deployed.id)
                .map(|item| text(item, "kind"))
                .collect();
            let too_many: Vec<_> = listed.iter().filter(|kind| !must.contains(*kind) && !may.contains(*kind)).collect();
            let missing: Vec<_> = must.iter().filter(|kind| !listed.contains(*kind)).collect();
            if !too_many.is_empty() || !missing.is_empty() {
                return Err(format!("{}: {missing:?} missing, {too_many:?} too many", self.name(deployed)));
            }
            for (kind, told) in [("paused", "deployment.paused"), ("silent", "rota.deployment.silent")] {
                if listed.contains(kind) {
                    self.is_told(told, &deployed.id).await;
                }
            }
        }
        for run in runs.iter().filter(|run| run["run_id"].is_string()) {
            match text(run, "state") {
                "waiting" => self.is_told("rota.run.waiting", text(run, "run_id")).await,
                "done" | "failed" => self.is_told("rota.run.finished", text(run, "run_id")).await,
                _ => {}
            }
        }
        Ok(())
    }

    async fn is_told(&self, event: &str, id: &str) {
        let begin = Instant::now();
        while !self.receiver.told(event).iter().any(|data| data["id"] == id) {
            assert!(begin.elapsed() < PATIENCE, "nobody was told {event} of {id}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn is_told_of_skip(&self, deployed: &Deployed, at: Timestamp) {
        let covers = |data: &Value| {
            let time = |field: &str| data[field].as_str().and_then(|time| time.parse::<Timestamp>().ok());
            let from = time("scheduled_at").unwrap();
            data["id"] == *deployed.id && (from..=time("scheduled_until").unwrap_or(from)).contains(&at)
        };
        let begin = Instant::now();
        loop {
            let told = ["rota.occurrence.skipped", "rota.occurrence.missed"].map(|event| self.receiver.told(event));
            if told.iter().flatten().any(covers) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "nobody was told that {} was skipped at {at}", self.name(deployed));
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Pauses everything, and waits until what is under way has ended.
    async fn goes_home(&self) -> Vec<Value> {
        for deployed in &self.deployments {
            let path = format!("/v1/deployments/{}", deployed.id);
            if self.client.get(&path).await["status"] != "paused" {
                self.client.answer(self.client.request(Method::POST, &format!("{path}/pause"))).await;
            }
        }
        let begin = Instant::now();
        loop {
            let runs = self.runs().await;
            let under_way = |run: &&Value| ["queued", "working", "retrying"].contains(&text(run, "state"));
            let Some(run) = runs.iter().find(under_way) else { return runs };
            assert!(begin.elapsed() < REST, "it does not end: {run:#}");
            sleep(Duration::from_secs(2)).await;
        }
    }
}

/// The providers that are there, and the configuration that names them all.
async fn providers(folder: &Path) -> (Vec<Provider>, Vec<String>) {
    let manners = [
        ("slow", Manner::Slow),
        ("refuses", Manner::Refuses),
        ("hangs", Manner::Hangs),
        ("recovers", Manner::Recovers),
    ];
    let mut running = Vec::new();
    // Nothing listens there: the port is taken by nobody else while this is alive.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let mut models = vec![("down", down)];
    for (name, manner) in manners {
        let provider = Provider::start(manner).await;
        models.push((name, provider.base_url.clone()));
        running.push(provider);
    }
    let mut settings =
        "[engine]\nunattended_model_tries = 2\nmodel_tries = 2\n[webhooks]\nallow_private = true\n".to_owned();
    for (name, url) in models {
        settings += &format!("[[models]]\nid = \"{name}\"\nprovider = \"messages\"\nbase_url = \"{url}\"\n");
    }
    let config = folder.join("rota.toml");
    fs::write(&config, settings).unwrap();
    (running, vec!["--config".to_owned(), config.display().to_string(), "--concurrency".to_owned(), "64".to_owned()])
}

fn now() -> Timestamp {
    Clock::System.now().timestamp()
}

fn minutes() -> i64 {
    let minutes = env::var("ROTA_FRIDAY_MINUTES").map_or(10, |minutes| minutes.parse().expect("a number"));
    assert!(minutes >= 8, "silences take five minutes, and begin anew after a kill");
    minutes
}

/// Sleeps until so much of the time is over.
async fn until(begin: Timestamp, share: f64) {
    let at = begin + SignedDuration::from_secs_f64(minutes() as f64 * 60.0 * share);
    let left = at.duration_since(now());
    sleep(Duration::try_from(left).unwrap_or_default()).await;
}

async fn friday(url: Option<&DatabaseUrl>, mut store: impl AsyncFnMut(bool), prepare: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let of_store: Vec<&str> = url.iter().flat_map(|url| ["--database", &url.0]).collect();
    let key = create_key(data, &of_store);
    prepare(data);
    let (providers, options) = providers(data).await;
    let options: Vec<&str> = options.iter().map(String::as_str).chain(of_store).collect();
    let mut server = Server::new(data, &options);
    server.start().await;
    let weekend = Weekend::begin(Client::new(server.address, key)).await;

    // The first minute that all of them see.
    let begin = Timestamp::from_second((now().as_second() / 60 + 1) * 60).unwrap();
    until(begin, 0.15).await;
    server.kill();
    server.start().await;
    until(begin, 0.25).await;
    store(false).await;
    sleep(Duration::from_mins(1)).await;
    store(true).await;
    until(begin, 0.42).await;
    server.kill();
    sleep(Duration::from_secs(5)).await;
    server.start().await;
    until(begin, 0.5).await;
    providers.iter().for_each(Provider::recovers);
    until(begin, 1.0).await;

    let end = begin + SignedDuration::from_mins(minutes());
    weekend.check_attention().await;
    weekend.check_occurrences(begin, end).await;
    let runs = weekend.goes_home().await;
    Weekend::check_once(&runs);
    weekend.check_deadlines(&runs);
    println!("{} runs and occurrences without one", runs.len());
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes a quarter of an hour: make friday"]
async fn fifty_deployments_are_left_alone() {
    let disk = Disk::mount(512).expect("only root can make a small file system");
    let fill = async |is_there: bool| if is_there { disk.free() } else { disk.fill() };
    friday(None, fill, |data| disk.takes_the_store(data)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes a quarter of an hour: make friday"]
async fn on_postgresql_fifty_deployments_are_left_alone() {
    let (proxy, database) = (Proxy::start().expect(NEEDED), Database::create().expect(NEEDED));
    let url = proxy.url(&database.url());
    let switch = async |is_there: bool| if is_there { proxy.open() } else { proxy.close() };
    friday(Some(&url), switch, |_| {}).await;
}
