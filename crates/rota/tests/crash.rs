//! The real server, killed again and again while clients run deployments: nothing that it acknowledged is lost, nothing
//! is done twice, everything comes to rest, and webhooks tell of all of it.

#[path = "crash/dreams.rs"]
mod dreams;
#[path = "crash/files.rs"]
mod files;
#[path = "crash/memory.rs"]
mod memory;
#[allow(dead_code, reason = "shared with other test binaries")]
mod process;
#[path = "crash/receiver.rs"]
mod receiver;
#[path = "it/request.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod request;
#[path = "crash/work.rs"]
mod work;

use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use process::{PATIENCE, Random, Server, create_key, text};
use receiver::Receiver;

/// How often the server is killed.
const KILLS: usize = 20;
/// How long a server lives at least, and how much longer at most, in milliseconds.
const LIFE_MS: (u64, u64) = (150, 700);
/// A kill waits for a request to be under way, and then at most this many microseconds.
const AIM_MICROS: u64 = 5_000;
const CLIENTS: usize = 64;
/// Clients that upload files meanwhile.
const UPLOADERS: usize = 4;
/// The longest pause of a client between two runs, in milliseconds.
const PAUSE_MS: u64 = 2_500;
/// Most keys used in all; once they are, the clients repeat old ones.
const KEYS: usize = 800;
const DEPLOYMENTS: usize = 5;
/// How long a client waits before it repeats a request that failed.
const RETRY: Duration = Duration::from_millis(10);
/// How long the sessions may take to come to rest once the kills are over.
const REST: Duration = Duration::from_mins(3);
/// What webhooks are to tell: that a session ran, and that it rests.
const WANTED: [&str; 2] = ["session.status_run_started", "session.status_idled"];
/// What every session does, one shell block each: it notes that it was here, and stays long enough to be killed there.
const BLOCKS: [&str; 2] = ["echo first >> ran && sleep 0.05", "echo second >> ran && sleep 0.05"];

/// Random numbers that differ each time, of a seed that the test prints.
fn random() -> Random {
    let seed = RandomState::new().build_hasher().finish();
    println!("seed {seed}");
    Random(seed)
}

/// A server that has been started in `folder`, and who calls it.
async fn at_work(folder: &Path) -> (Server, process::Client) {
    let mut server = Server::new(folder, &[]);
    let key = create_key(folder, &[]);
    server.start().await;
    let client = process::Client::new(server.address, key);
    (server, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_and_nothing_is_done_twice() {
    adopt_orphans();
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("rota.toml");
    fs::write(&config, "[webhooks]\nallow_private = true\n").expect("a configuration");
    let receiver = Receiver::start().await;
    let mut server = Server::new(folder.path(), &["--config", config.to_str().expect("UTF-8")]);
    let key = create_key(folder.path(), &[]);
    let mut starts = vec![server.start().await];
    let world = Arc::new(World::create(&server, key).await);
    let wants = json!({"url": receiver.url, "enabled_events": WANTED});
    let endpoint = world.client.post("/rota/v1/webhook_endpoints", &wants).await;

    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client { number, world: world.clone(), random: random.fork(), log: Vec::new() };
        clients.spawn(client.run_deployments());
    }
    let mut uploads = JoinSet::new();
    for _ in 0..UPLOADERS {
        uploads.spawn(files::upload(world.clone(), random.fork()));
    }
    for _ in 0..KILLS {
        sleep(Duration::from_millis(LIFE_MS.0 + random.below(LIFE_MS.1))).await;
        world.aim(&mut random).await;
        server.kill();
        starts.push(server.start().await);
    }
    world.killing.store(false, Ordering::Relaxed);
    let clients = clients.join_all().await;
    let uploads = uploads.join_all().await;

    world.wait_for_rest().await;
    let listed = world.listed_runs().await;
    check_list(&world, &listed, &clients).await;
    let listed = Arc::new(listed);
    let mut checks = JoinSet::new();
    for client in clients {
        checks.spawn(client.check(listed.clone(), folder.path().to_owned()));
    }
    let unknown: usize = checks.join_all().await.into_iter().sum();
    let repeated = check_webhooks(&world, &receiver, &endpoint, &listed).await;
    wait_for_no_orphans(&server).await;
    let files = files::check(&world, folder.path(), &uploads).await;

    let cut = world.cut.load(Ordering::Relaxed);
    assert!(cut > 0, "no request was under way at any kill: the test has shown nothing");
    starts.sort();
    let slowest = starts.last().expect("the server was started").as_millis();
    println!(
        "{} runs and {files} files acknowledged; {cut} requests, {unknown} tool calls and {repeated} webhooks cut off by {KILLS} kills; \
         slowest start {slowest} ms",
        listed.len()
    );
}

/// Every session has told once that it ran and once that it rests, however often that was sent. Returns how many events
/// were sent more than once: a kill came between sending and recording.
async fn check_webhooks(
    world: &World,
    receiver: &Receiver,
    endpoint: &Value,
    listed: &HashMap<String, Value>,
) -> usize {
    let deliveries = format!("/rota/v1/webhook_endpoints/{}/deliveries", text(endpoint, "id"));
    let begin = Instant::now();
    while world.client.get(&format!("{deliveries}?limit=1&state=pending")).await["data"] != json!([]) {
        assert!(begin.elapsed() < REST, "webhooks are not delivered");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.client.get(&format!("{deliveries}?limit=1&state=failed")).await["data"], json!([]));
    let events = receiver.events();
    let mut told: HashMap<(&str, &str), usize> = HashMap::new();
    for received in events.values() {
        *told.entry((text(&received.event["data"], "type"), text(&received.event["data"], "id"))).or_default() += 1;
    }
    for session in listed.values().map(|run| text(run, "session_id")) {
        for kind in WANTED {
            assert_eq!(told.get(&(kind, session)), Some(&1), "{kind} of {session}");
        }
    }
    assert_eq!(told.len(), WANTED.len() * listed.len());
    let repeated = events.values().filter(|received| received.times > 1).count();
    assert!(repeated > 0, "no webhook was under way at any kill: the test has shown nothing");
    repeated
}

/// The list holds exactly one run for each key, and each run has a session that no other run has.
async fn check_list(world: &World, listed: &HashMap<String, Value>, clients: &[Client]) {
    let acknowledged: Vec<&Acknowledged> = clients.iter().flat_map(|client| &client.log).collect();
    let ids: HashSet<_> = acknowledged.iter().map(|run| &run.id).collect();
    assert_eq!(ids.len(), acknowledged.len(), "two keys stand for one run");
    for deployment in &world.deployments {
        let keys = acknowledged.iter().filter(|run| run.deployment == *deployment).count();
        let runs: Vec<_> = listed.values().filter(|run| run["deployment_id"] == **deployment).collect();
        assert_eq!(runs.len(), keys, "runs of {deployment} and the keys that were sent to it");
        let sessions = world.client.list(&format!("/v1/sessions?limit=100&deployment_id={deployment}")).await;
        assert_eq!(sessions.len(), runs.len(), "sessions and runs of {deployment}");
        let of_runs: HashSet<_> = runs.iter().map(|run| text(run, "session_id")).collect();
        let listed: HashSet<_> = sessions.iter().map(|session| text(session, "id")).collect();
        assert_eq!(listed, of_runs, "sessions of {deployment}");
    }
    let sessions = world.client.list("/v1/sessions?limit=100").await;
    assert_eq!(sessions.len(), listed.len(), "there are sessions that no run has started");
}

/// What the clients share: where the server is, what it offers, how the killing goes.
struct World {
    client: process::Client,
    deployments: Vec<String>,
    killing: AtomicBool,
    keys_used: AtomicUsize,
    under_way: AtomicUsize,
    cut: AtomicUsize,
    cut_uploads: AtomicUsize,
}

impl World {
    async fn create(server: &Server, key: String) -> Self {
        let mut world = Self {
            client: process::Client::new(server.address, key),
            deployments: Vec::new(),
            killing: AtomicBool::new(true),
            keys_used: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
            cut_uploads: AtomicUsize::new(0),
        };
        let tools = json!([{"type": "agent_toolset_20260401"}]);
        let agent = json!({"name": "crash", "model": "playbook", "tools": tools});
        let agent = world.client.post("/v1/agents", &agent).await;
        let environment = json!({"name": "crash"});
        let environment = world.client.post("/v1/environments", &environment).await;
        let playbook = BLOCKS.map(|block| format!("```bash\n{block}\n```\n")).concat();
        for number in 0..DEPLOYMENTS {
            let body = json!({
                "name": format!("crash {number}"),
                "agent": agent["id"],
                "environment_id": environment["id"],
                "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": playbook}]}],
            });
            let deployment = world.client.post("/v1/deployments", &body).await;
            world.deployments.push(text(&deployment, "id").to_owned());
        }
        world
    }

    /// Every run of the list, by id.
    async fn listed_runs(&self) -> HashMap<String, Value> {
        let runs = self.client.list("/v1/deployment_runs?limit=100").await;
        let count = runs.len();
        let by_id: HashMap<_, _> = runs.into_iter().map(|run| (text(&run, "id").to_owned(), run)).collect();
        assert_eq!(by_id.len(), count, "a run is listed twice");
        by_id
    }

    /// Returns at a moment at which a request is likely to be half done.
    async fn aim(&self, random: &mut Random) {
        let begin = Instant::now();
        while self.under_way.load(Ordering::Relaxed) == 0 {
            assert!(begin.elapsed() < PATIENCE, "no client asks for anything any more");
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_micros(random.below(AIM_MICROS))).await;
    }

    async fn wait_for_rest(&self) {
        let begin = Instant::now();
        loop {
            let path = "/v1/sessions?limit=1&statuses[]=running&statuses[]=rescheduling&statuses[]=terminated";
            let page = self.client.get(path).await;
            let Some(session) = page["data"].get(0) else { return };
            assert!(begin.elapsed() < REST, "a session does not come to rest: {session}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The log of a session that is idle, each event with its place in it.
    async fn log(&self, session: &str) -> Vec<(u64, Value)> {
        let path = format!("/v1/sessions/{session}/events/stream");
        let request = self.client.request(Method::GET, &path).header("last-event-id", "0");
        let mut stream = request.send().await.expect("a stream");
        let mut unread = String::new();
        let mut log = Vec::new();
        loop {
            let chunk = stream.chunk().await.expect("the stream goes on").expect("the stream does not end");
            unread += std::str::from_utf8(&chunk).expect("UTF-8");
            while let Some((frame, rest)) = unread.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                    log.push((id.parse().expect("a number"), serde_json::from_str(data).expect("JSON")));
                }
                unread = rest.to_owned();
            }
            if log.last().is_some_and(|(_, event): &(u64, Value)| event["type"] == "session.status_idle") {
                return log;
            }
        }
    }
}

/// A run as a client knows it: what it asked for and what was answered.
struct Acknowledged {
    deployment: String,
    key: String,
    id: String,
    session: String,
}

struct Client {
    number: usize,
    world: Arc<World>,
    random: Random,
    log: Vec<Acknowledged>,
}

impl Client {
    /// Runs deployments until the kills are over, and now and then repeats an earlier request.
    async fn run_deployments(mut self) -> Self {
        while self.world.killing.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(self.random.below(PAUSE_MS))).await;
            let known = self.log.len();
            let repeats = known > 0 && self.random.below(4) == 0;
            if !repeats && self.world.keys_used.fetch_add(1, Ordering::Relaxed) < KEYS {
                let deployments = &self.world.deployments;
                let deployment = deployments[self.random.below(deployments.len() as u64) as usize].clone();
                let run = self.run(deployment, format!("client {} run {known}", self.number)).await;
                self.log.push(run);
            } else if known > 0 {
                let place = self.random.below(known as u64) as usize;
                self.repeat(place).await;
            }
        }
        self
    }

    async fn repeat(&self, place: usize) {
        let before = &self.log[place];
        let again = self.run(before.deployment.clone(), before.key.clone()).await;
        assert_eq!((&again.id, &again.session), (&before.id, &before.session), "{} stands for two runs", before.key);
    }

    /// Asks for a run, with the same key until it is acknowledged.
    async fn run(&self, deployment: String, key: String) -> Acknowledged {
        let path = format!("/v1/deployments/{deployment}/run");
        loop {
            let request = self.world.client.request(Method::POST, &path).header("idempotency-key", &key);
            self.world.under_way.fetch_add(1, Ordering::Relaxed);
            let answer = match request.send().await {
                Ok(response) => {
                    let status = response.status();
                    response.text().await.map(|body| (status, body))
                }
                Err(error) => Err(error),
            };
            self.world.under_way.fetch_sub(1, Ordering::Relaxed);
            match answer {
                Ok((status, body)) => {
                    assert_eq!(status, StatusCode::OK, "{body}");
                    let run: Value = serde_json::from_str(&body).expect("JSON");
                    assert_eq!(run["error"], Value::Null, "{run}");
                    let [id, session] = ["id", "session_id"].map(|field| text(&run, field).to_owned());
                    return Acknowledged { deployment, key, id, session };
                }
                Err(error) => {
                    if !error.is_connect() {
                        self.world.cut.fetch_add(1, Ordering::Relaxed);
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Checks what this client was told against what the server says now. Returns how many tool calls were cut off.
    async fn check(self, listed: Arc<HashMap<String, Value>>, data: PathBuf) -> usize {
        let mut unknown = 0;
        for (place, run) in self.log.iter().enumerate() {
            self.repeat(place).await;
            let Acknowledged { deployment, id, session, .. } = run;
            let stored = self.world.client.get(&format!("/v1/deployment_runs/{id}")).await;
            assert_eq!(listed.get(id), Some(&stored), "an acknowledged run is not in the list");
            assert_eq!((text(&stored, "deployment_id"), text(&stored, "session_id")), (&**deployment, &**session));
            let resting = self.world.client.get(&format!("/v1/sessions/{session}")).await;
            assert_eq!((text(&resting, "status"), text(&resting, "deployment_id")), ("idle", &**deployment));
            let log = self.world.log(session).await;
            let ran = fs::read_to_string(data.join("sessions").join(session).join("workspace/ran")).unwrap_or_default();
            unknown += check_log(session, &log, &ran);
            let events = self.world.client.list(&format!("/v1/sessions/{session}/events?limit=100")).await;
            let streamed: Vec<Value> = log.into_iter().map(|(_, event)| event).collect();
            assert_eq!(events, streamed, "{session} is listed as it is streamed");
        }
        unknown
    }
}

/// Checks the log of a session that has done its one turn, and what its blocks left behind. Returns how many of them
/// were cut off.
fn check_log(session: &str, log: &[(u64, Value)], ran: &str) -> usize {
    let places: Vec<u64> = log.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, (1..=log.len() as u64).collect::<Vec<_>>(), "{session} has gaps: {log:#?}");
    let ids: HashSet<_> = log.iter().map(|(_, event)| text(event, "id")).collect();
    assert_eq!(ids.len(), log.len(), "{session} has one event twice: {log:#?}");
    let of = |r#type: &str| -> Vec<&Value> {
        log.iter().map(|(_, event)| event).filter(|event| event["type"] == r#type).collect()
    };
    assert_eq!(log[2].1["type"], "user.message", "{session}: {log:#?}");
    assert_eq!(of("session.error"), [&Value::Null; 0], "{session}");
    let idle = of("session.status_idle");
    assert_eq!(idle.len(), 1, "{session} came to rest more than once: {log:#?}");
    assert_eq!(idle[0]["stop_reason"]["type"], "end_turn", "{session}: {log:#?}");
    let (starts, ends) = (of("span.model_request_start"), of("span.model_request_end"));
    for start in &starts {
        let ended = ends.iter().filter(|end| end["model_request_start_id"] == start["id"]).count();
        assert_eq!(ended, 1, "{session}: {start} has {ended} ends");
    }
    assert_eq!(starts.len(), ends.len(), "{session}: {log:#?}");
    let (calls, results) = (of("agent.tool_use"), of("agent.tool_result"));
    let commands: Vec<_> = calls.iter().map(|call| text(&call["input"], "command")).collect();
    assert_eq!(commands, BLOCKS, "{session} called each block once, in order");
    assert_eq!(results.len(), calls.len(), "{session}: {log:#?}");
    let mut unknown = 0;
    for (call, name) in calls.iter().zip(["first", "second"]) {
        let result: Vec<_> = results.iter().filter(|result| result["tool_use_id"] == call["id"]).collect();
        assert_eq!(result.len(), 1, "{session}: {call} has {} results", result.len());
        let times = ran.lines().filter(|line| *line == name).count();
        if result[0]["is_error"] == true {
            let told = text(&result[0]["content"][0], "text");
            assert!(
                told.starts_with("The server was restarted"),
                "{session}: a running call was ended by a server: {told}"
            );
            assert!(times <= 1, "{session} ran {name} {times} times");
            unknown += 1;
        } else {
            assert_eq!(times, 1, "{session} ran {name} so many times: {ran}");
        }
    }
    unknown
}

/// Makes this process the parent of whatever a killed server leaves running.
fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("adopting orphans");
}

/// What killed servers left running: living children of this process that it did not start.
fn orphans(server: &Server) -> Vec<String> {
    let (own, started) = (std::process::id().to_string(), server.pid());
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let living_child = |stat: &String| {
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        let (state, rest) = rest.split_once(' ').expect("a state");
        rest.split(' ').next() == Some(&own) && !["Z", "X"].contains(&state)
    };
    processes
        .filter(|process| started.map(|pid| pid.to_string()).as_deref() != process.file_name().to_str())
        .filter_map(|process| fs::read_to_string(process.path().join("stat")).ok())
        .filter(living_child)
        .collect()
}

async fn wait_for_no_orphans(server: &Server) {
    let begin = Instant::now();
    loop {
        let left = orphans(server);
        if left.is_empty() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "killed servers left processes: {left:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}
