//! The real server, killed again and again while clients run deployments: nothing that it acknowledged is lost, nothing
//! is done twice, and everything comes to rest.

use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client as Http, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

const ROTA: &str = env!("CARGO_BIN_EXE_rota");
/// How often the server is killed.
const KILLS: usize = 20;
/// How long a server lives at least, and how much longer at most, in milliseconds.
const LIFE_MS: (u64, u64) = (150, 700);
/// A kill waits for a request to be under way, and then at most this many microseconds.
const AIM_MICROS: u64 = 5_000;
const CLIENTS: usize = 64;
/// The longest pause of a client between two runs, in milliseconds.
const PAUSE_MS: u64 = 2_500;
/// Most keys used in all; once they are, the clients repeat old ones.
const KEYS: usize = 800;
const DEPLOYMENTS: usize = 5;
/// How long a client waits before it repeats a request that failed.
const RETRY: Duration = Duration::from_millis(10);
/// How long a server may take to be ready, and a request to be answered, before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the sessions may take to come to rest once the kills are over.
const REST: Duration = Duration::from_mins(3);
/// What every session does, one shell block each: it notes that it was here, and stays long enough to be killed there.
const BLOCKS: [&str; 2] = ["echo first >> ran && sleep 0.05", "echo second >> ran && sleep 0.05"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_and_nothing_is_done_twice() {
    adopt_orphans();
    let seed = RandomState::new().build_hasher().finish();
    println!("seed {seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server { data: folder.path(), address: free_address(), child: None };
    let key = create_key(folder.path());
    let mut starts = vec![server.start().await];
    let world = Arc::new(World::create(&server, key).await);

    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client { number, world: world.clone(), random: random.fork(), log: Vec::new() };
        clients.spawn(client.run_deployments());
    }
    for _ in 0..KILLS {
        sleep(Duration::from_millis(LIFE_MS.0 + random.below(LIFE_MS.1))).await;
        world.aim(&mut random).await;
        server.kill();
        starts.push(server.start().await);
    }
    world.killing.store(false, Ordering::Relaxed);
    let clients = clients.join_all().await;

    world.wait_for_rest().await;
    let listed = world.listed_runs().await;
    check_list(&world, &listed, &clients).await;
    let listed = Arc::new(listed);
    let mut checks = JoinSet::new();
    for client in clients {
        checks.spawn(client.check(listed.clone(), folder.path().to_owned()));
    }
    let unknown: usize = checks.join_all().await.into_iter().sum();
    wait_for_no_orphans(&server).await;

    let cut = world.cut.load(Ordering::Relaxed);
    assert!(cut > 0, "no request was under way at any kill: the test has shown nothing");
    starts.sort();
    let slowest = starts.last().expect("the server was started").as_millis();
    println!(
        "{} runs acknowledged; {cut} requests and {unknown} tool calls cut off by {KILLS} kills; slowest start {slowest} ms",
        listed.len()
    );
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
        let sessions = world.list(&format!("/v1/sessions?limit=100&deployment_id={deployment}")).await;
        assert_eq!(sessions.len(), runs.len(), "sessions and runs of {deployment}");
        let of_runs: HashSet<_> = runs.iter().map(|run| text(run, "session_id")).collect();
        let listed: HashSet<_> = sessions.iter().map(|session| text(session, "id")).collect();
        assert_eq!(listed, of_runs, "sessions of {deployment}");
    }
    let sessions = world.list("/v1/sessions?limit=100").await;
    assert_eq!(sessions.len(), listed.len(), "there are sessions that no run has started");
}

/// What the clients share: where the server is, what it offers, how the killing goes.
struct World {
    http: Http,
    base: String,
    key: String,
    deployments: Vec<String>,
    killing: AtomicBool,
    keys_used: AtomicUsize,
    under_way: AtomicUsize,
    cut: AtomicUsize,
}

impl World {
    async fn create(server: &Server<'_>, key: String) -> Self {
        let tls = rota_server::tls::client_config().expect("a TLS configuration");
        let builder = Http::builder().tls_backend_preconfigured(tls).no_proxy().timeout(PATIENCE);
        let mut world = Self {
            http: builder.build().expect("an HTTP client"),
            base: format!("http://{}", server.address),
            key,
            deployments: Vec::new(),
            killing: AtomicBool::new(true),
            keys_used: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
        };
        let tools = json!([{"type": "agent_toolset_20260401"}]);
        let agent = json!({"name": "crash", "model": "playbook", "tools": tools});
        let agent = world.answer(world.request(Method::POST, "/v1/agents").json(&agent)).await;
        let environment = json!({"name": "crash"});
        let environment = world.answer(world.request(Method::POST, "/v1/environments").json(&environment)).await;
        let playbook = BLOCKS.map(|block| format!("```bash\n{block}\n```\n")).concat();
        for number in 0..DEPLOYMENTS {
            let body = json!({
                "name": format!("crash {number}"),
                "agent": agent["id"],
                "environment_id": environment["id"],
                "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": playbook}]}],
            });
            let deployment = world.answer(world.request(Method::POST, "/v1/deployments").json(&body)).await;
            world.deployments.push(text(&deployment, "id").to_owned());
        }
        world
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        request.header("x-api-key", &self.key).header("anthropic-beta", "managed-agents-2026-04-01")
    }

    async fn answer(&self, request: RequestBuilder) -> Value {
        let response = request.send().await.expect("an answer");
        let (status, body) = (response.status(), response.text().await.expect("a body"));
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    async fn get(&self, path: &str) -> Value {
        self.answer(self.request(Method::GET, path)).await
    }

    /// Everything on all pages of a list.
    async fn list(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut page = self.get(path).await;
        loop {
            all.extend(page["data"].as_array().expect("a list").iter().cloned());
            let Some(cursor) = page["next_page"].as_str() else { return all };
            page = self.get(&format!("{path}&page={cursor}")).await;
        }
    }

    /// Every run of the list, by id.
    async fn listed_runs(&self) -> HashMap<String, Value> {
        let runs = self.list("/v1/deployment_runs?limit=100").await;
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
            let page = self.get(path).await;
            let Some(session) = page["data"].get(0) else { return };
            assert!(begin.elapsed() < REST, "a session does not come to rest: {session}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The log of a session that is idle, each event with its place in it.
    async fn log(&self, session: &str) -> Vec<(u64, Value)> {
        let path = format!("/v1/sessions/{session}/events/stream");
        let request = self.request(Method::GET, &path).header("last-event-id", "0");
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
            let request = self.world.request(Method::POST, &path).header("idempotency-key", &key);
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
            let stored = self.world.get(&format!("/v1/deployment_runs/{id}")).await;
            assert_eq!(listed.get(id), Some(&stored), "an acknowledged run is not in the list");
            assert_eq!((text(&stored, "deployment_id"), text(&stored, "session_id")), (&**deployment, &**session));
            let resting = self.world.get(&format!("/v1/sessions/{session}")).await;
            assert_eq!((text(&resting, "status"), text(&resting, "deployment_id")), ("idle", &**deployment));
            let log = self.world.log(session).await;
            let ran = fs::read_to_string(data.join("sessions").join(session).join("workspace/ran")).unwrap_or_default();
            unknown += check_log(session, &log, &ran);
            let events = self.world.list(&format!("/v1/sessions/{session}/events?limit=100")).await;
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
    assert_eq!(log[0].1["type"], "user.message", "{session}: {log:#?}");
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
            assert!(text(&result[0]["content"][0], "text").contains("unknown"), "{session}: {}", result[0]);
            assert!(times <= 1, "{session} ran {name} {times} times");
            unknown += 1;
        } else {
            assert_eq!(times, 1, "{session} ran {name} so many times: {ran}");
        }
    }
    unknown
}

/// The server as a process.
struct Server<'a> {
    data: &'a Path,
    address: SocketAddr,
    child: Option<Child>,
}

impl Server<'_> {
    /// Starts it. Returns how long it took until it was ready.
    async fn start(&mut self) -> Duration {
        let begin = Instant::now();
        let mut command = rota();
        command.arg("serve").arg("--data").arg(self.data).args(["--listen", &self.address.to_string()]);
        let child = command.args(["--log", "error"]).stdout(Stdio::null()).spawn().expect("the server starts");
        let child = self.child.insert(child);
        let tls = rota_server::tls::client_config().expect("a TLS configuration");
        let http = Http::builder().tls_backend_preconfigured(tls).no_proxy().build().expect("an HTTP client");
        let url = format!("http://{}/readyz", self.address);
        while !http.get(&url).send().await.is_ok_and(|response| response.status() == StatusCode::OK) {
            assert_eq!(child.try_wait().expect("its status"), None, "the server ended instead of being ready");
            assert!(begin.elapsed() < PATIENCE, "the server is not ready");
            sleep(Duration::from_millis(5)).await;
        }
        begin.elapsed()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("SIGKILL reaches it");
            child.wait().expect("it ends");
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command, untouched by settings of whoever runs the test.
fn rota() -> Command {
    let mut command = Command::new(ROTA);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

fn create_key(data: &Path) -> String {
    let output = rota().args(["keys", "create", "--json", "--data"]).arg(data).output().expect("the command runs");
    let created: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    text(&created, "key").to_owned()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Makes this process the parent of whatever a killed server leaves running.
fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("adopting orphans");
}

/// What killed servers left running: living children of this process that it did not start.
fn orphans(server: &Server<'_>) -> Vec<String> {
    let (own, started) = (std::process::id().to_string(), server.child.as_ref().map(Child::id));
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

async fn wait_for_no_orphans(server: &Server<'_>) {
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

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}"))
}

/// Random numbers that follow from a seed: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
