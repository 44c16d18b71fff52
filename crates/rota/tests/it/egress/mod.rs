//! The network of sandboxes: what the gate lets through, what it refuses and in which words, and what the log says of it.
//!
//! Hosts of the internet are servers of the test (`web.rs`) under names that `[network.hosts]` gives them. What attacks try is
//! in `attacks.py`, a Python program that runs inside; the cases are:
//!
//! | attack | tested in |
//! |---|---|
//! | addresses, UDP, ICMP, IPv6; metadata in every spelling; names that lead to private addresses, or to this server; tunnels over names; abstract sockets; names that disagree, CONNECT, a missing name; spellings of hosts; redirects; smuggled requests | `an_attack_on_the_gate_is_refused` |
//! | a name that is resolved to another address a moment later | `gate/dial.rs`: `of_several_addresses_one_that_was_checked_is_dialled` |
//! | a first message of TLS that hides its name | `gate/hello.rs` |
//! | another sandbox's listener | `a_sandbox_reaches_no_other` |
//! | a hostile repository, in a sandbox with a network | `a_hostile_repository_reaches_no_more_than_its_sandbox` |

mod clients;
mod large_objects;
mod names;
mod outages;
mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, chown},
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use rota_server::config::Config;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::Api,
    given::{Parts, agent, id, over, script},
    process::{self, PATIENCE, create_key},
    server::{Rota, appears, containers},
    stream::{first, text},
    upstream::{Reply, Upstream},
    web::Web,
};

const ATTACKS: &str = include_str!("attacks.py");
/// `nobody`, who runs a server when the tests run as root.
const NOBODY: u32 = 65_534;
/// Names that stand for the test's servers.
const NAMES: [&str; 7] = [
    "allowed.example",
    "a.b.wild.example",
    "wild.example",
    "notwild.example",
    "denied.example",
    "allowed.example.evil.example",
    "xn--llowed-5nf.example",
];

/// What each attack must come to where the network is limited to `allowed.example`, `*.wild.example` and names that lead to
/// private addresses.
const LIMITED: &[(&str, &str)] = &[
    ("allowed", "200 hello from allowed.example"),
    ("upper_case", "200 hello from allowed.example"),
    ("trailing_dot", "200 hello from allowed.example."),
    ("below_a_wildcard", "200 hello from a.b.wild.example"),
    ("wildcard_itself", "403 Host not in allowlist: wild.example"),
    ("beside_a_wildcard", "403 Host not in allowlist: notwild.example"),
    ("suffix_of_allowed", "403 Host not in allowlist: allowed.example.evil.example"),
    ("homograph", "403 Host not in allowlist: xn--llowed-5nf.example"),
    ("denied", "403 Host not in allowlist: denied.example"),
    ("userinfo", DISAGREES),
    ("host_other", DISAGREES),
    ("host_other_port", DISAGREES),
    ("host_missing", DISAGREES),
    ("host_twice", DISAGREES),
    ("second_request", "200 then 403"),
    ("smuggled_te_last", "200"),
    ("smuggled_te_first", "200"),
    ("connect", NO_PROXY),
    ("absolute_form", NO_PROXY),
    ("long_headers", "431 "),
    ("redirect_away", "403 Host not in allowlist: denied.example"),
    ("web_socket", "101 echo this"),
    ("tls_allowed", "200 hello from allowed.example"),
    ("tls_denied", "alert access denied"),
    ("tls_other_name", "alert unrecognized name"),
    ("tls_other_connect", "alert access denied"),
    ("tls_without_name", "alert unrecognized name"),
    ("http_at_443", "closed"),
    ("address", "403 Host not in allowlist: 1.2.3.4"),
    ("address_with_allowed_host", "403 Host not in allowlist: 1.2.3.4"),
    ("address_tls", "alert access denied"),
    ("address_v6", "403 Host not in allowlist: 2606:4700::1"),
    ("gate_address", "403 198.19.200.200 stands for no name any more: look up the name of the host again."),
    ("own_loopback", "403 Host not in allowlist: 127.0.0.1"),
    ("resolves_to_private", PRIVATE),
    ("resolves_to_metadata", PRIVATE),
    ("resolves_to_rota", PRIVATE),
    ("other_port", "ECONNREFUSED"),
    ("other_port_v6", "ECONNREFUSED"),
    ("udp", "ECONNREFUSED"),
    ("quic", "ECONNREFUSED"),
    ("udp_v6", "ECONNREFUSED"),
    ("icmp_raw", "EPERM"),
    ("icmp_ping", "EACCES"),
    ("dns_any_resolver", "code 0 answers 1 in 198.18"),
    ("dns_by_tcp", "code 0 answers 1 in 198.18"),
    ("dns_denied", "code 0 answers 1 in 198.18"),
    ("dns_tunnel", "code 0 answers 1 in 198.18"),
    ("dns_text", "code 0 answers 0"),
    ("dns_https", "code 0 answers 0"),
    ("dns_address_as_name", "code 3 answers 0"),
    ("dns_reverse", "code 0 answers 0"),
    ("bind_any_80", "EADDRINUSE"),
    ("bind_one_80", "EADDRINUSE"),
    ("bind_v6_80", "EADDRINUSE"),
    ("bind_any_443", "EADDRINUSE"),
    ("bind_one_443", "EADDRINUSE"),
    ("bind_v6_443", "EADDRINUSE"),
    ("bind_53", "EADDRINUSE"),
    ("bind_53_udp", "EADDRINUSE"),
    ("own_server", "its own"),
    ("add_route", "EPERM"),
    ("delete_route", "EPERM"),
    ("abstract_socket_of_the_host", "ECONNREFUSED"),
];

/// The same where the network is unrestricted.
const UNRESTRICTED: &[(&str, &str)] = &[
    ("any_host", "200 hello from allowed.example"),
    ("other_host", "200 hello from denied.example"),
    ("tls_any_host", "200 hello from denied.example"),
    ("host_other", DISAGREES),
    ("tls_other_name", "alert unrecognized name"),
    ("resolves_to_private", PRIVATE),
    ("resolves_to_metadata", PRIVATE),
    ("resolves_to_rota", PRIVATE),
    ("metadata", PRIVATE),
    ("metadata_tls", "alert access denied"),
    ("metadata_as_2852039166", PRIVATE),
    ("metadata_as_0251.0376.0251.0376", PRIVATE),
    ("metadata_as_0xa9fea9fe", PRIVATE),
    ("metadata_as_::ffff:169.254.169.254", PRIVATE),
    ("metadata_as_64:ff9b::a9fe:a9fe", PRIVATE),
    ("10.0.0.1", PRIVATE),
    ("172.16.0.1", PRIVATE),
    ("192.168.0.1", PRIVATE),
    ("100.100.100.200", PRIVATE),
    ("168.63.129.16", PRIVATE),
    ("192.0.0.192", PRIVATE),
    ("fd00:ec2::254", PRIVATE),
    ("fd20:ce::254", PRIVATE),
    ("::1", PRIVATE),
];

const PRIVATE: &str = "403 Destination IP is in a private/reserved range";
const DISAGREES: &str = "403 The request is not for allowed.example, which is the host that was connected to: its Host header \
                         names another one, or none.";
const NO_PROXY: &str = "403 There is no proxy here: connect to the host itself, and send it the path alone.";

/// A network limited to these hosts.
fn limited(hosts: &[&str]) -> Value {
    json!({"type": "limited", "allowed_hosts": hosts})
}

fn unrestricted() -> Value {
    json!({"type": "unrestricted"})
}

/// A server whose sandboxes reach `web` by [`NAMES`], configured by `configure`.
async fn rota(web: &Web, configure: impl FnOnce(&mut Config)) -> Rota {
    Rota::with(|config| {
        config.network.open = vec!["127.0.0.1".to_owned()];
        config.network.hosts = web.hosts(&NAMES).into_iter().collect();
        configure(config);
    })
    .await
}

async fn parts(api: &Api, networking: Value) -> Parts {
    // Names are unique.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("network {}", COUNT.fetch_add(1, Ordering::Relaxed));
    let body = json!({"name": name, "config": {"type": "cloud", "networking": networking}});
    Parts { agent: agent(api, json!({})).await, environment: api.post("/v1/environments", body).await }
}

/// What `command` prints in a sandbox of a new session with this network, and the session.
async fn run(api: &Api, networking: Value, command: &str) -> (String, Value) {
    let session = parts(api, networking).await.session_with(api, script(command)).await;
    let events = api.stream_from(id(&session), 0).await.turn().await;
    (text(first(&events, "agent.tool_result")).to_owned(), session)
}

/// The result of the call at `place` among those of a session.
async fn result_at(api: &Api, session: &Value, place: usize) -> String {
    let results = |page: &Value| -> Vec<Value> {
        let events = page["data"].as_array().unwrap().iter();
        events.filter(|event| event["type"] == "agent.tool_result").cloned().collect()
    };
    let path = format!("/v1/sessions/{}/events?limit=100", id(session));
    let page = api.once(&path, |page| results(page).len() > place).await;
    text(&results(&page)[place]).to_owned()
}

fn egress(session: &Value) -> String {
    format!("/rota/v1/sessions/{}/egress", id(session))
}

/// The egress log of a session, oldest first, once it has `count` rows that have ended.
async fn log(api: &Api, session: &Value, count: usize) -> Vec<Value> {
    let path = format!("{}?limit=100", egress(session));
    let ended = |page: &Value| {
        let rows = page["data"].as_array().unwrap();
        rows.iter().filter(|row| row["duration_ms"].is_i64()).count() >= count
    };
    let mut rows = api.once(&path, ended).await["data"].as_array().unwrap().clone();
    rows.reverse();
    rows
}

#[tokio::test]
async fn each_connection_is_a_row_of_the_session_s_log() {
    let web = Web::start().await;
    let nowhere = ("halfway.example:443".to_owned(), vec![web.https.to_string()]);
    let rota = rota(&web, |config| config.network.hosts.extend([nowhere])).await;
    let api = &rota.api;
    let command = "for host in allowed denied halfway; do curl -s http://$host.example/; done
                   curl -sk https://allowed.example/";
    let network = limited(&["allowed.example", "halfway.example"]);
    let (said, session) = run(api, network, command).await;
    let wanted = "hello from allowed.example\nHost not in allowlist: denied.example\nThe network of this environment is limited. \
                  Add the host to networking.allowed_hosts of the environment to allow it to new sessions.\nThe name halfway.example \
                  cannot be resolved.\nhello from allowed.example";
    assert_eq!(said.trim(), wanted);
    let rows = log(api, &session, 4).await;
    // The clock stands still, so their order is any.
    let told = |row: &Value| json!([row["host"], row["port"], row["outcome"], row["reason"]]).to_string();
    let told: BTreeSet<String> = rows.iter().map(told).collect();
    let wanted = [
        json!(["allowed.example", 80, "allowed", null]),
        json!(["denied.example", 80, "refused", "host_not_allowed"]),
        json!(["halfway.example", 80, "failed", "not_resolved"]),
        json!(["allowed.example", 443, "allowed", null]),
    ];
    assert_eq!(told, wanted.iter().map(Value::to_string).collect());
    for row in &rows {
        assert_eq!((&row["type"], &row["session_id"]), (&json!("egress_connection"), &session["id"]));
        assert!(row["bytes_in"].as_i64() > Some(50) && row["bytes_out"].as_i64() > Some(50), "{row}");
    }
    assert_eq!(web.requests(), ["allowed.example/", "allowed.example/"]);
    let path = egress(&session);
    let refused = api.get(&format!("{path}?outcome=refused")).await;
    assert_eq!(refused["data"].as_array().unwrap().len(), 1);
    let mut pages = api.all(&path, 1).await;
    pages.reverse();
    assert_eq!(pages, rows);
    rota.other_workspace().await.get_refused(&path).await;
    api.delete(&format!("/v1/sessions/{}", id(&session))).await;
    api.get_refused(&path).await;
}

#[tokio::test]
async fn a_session_keeps_the_network_that_its_environment_had_when_it_was_created() {
    let web = Web::start().await;
    let rota = rota(&web, |_| {}).await;
    let api = &rota.api;
    let parts = parts(api, limited(&["allowed.example"])).await;
    let session = parts.session(api, json!({})).await;
    let environment = format!("/v1/environments/{}", id(&parts.environment));
    let open = json!({"config": {"type": "cloud", "networking": unrestricted()}});
    api.post(&environment, open).await;
    let ask = json!([script("curl -s http://allowed.example/; curl -s http://denied.example/")]);
    api.events(id(&session), ask.clone()).await;
    let events = api.stream_from(id(&session), 0).await.turn().await;
    let said = text(first(&events, "agent.tool_result"));
    assert!(said.starts_with("hello from allowed.example\nHost not in allowlist: denied.example\n"), "{said}");
    let later = parts.session(api, json!({})).await;
    api.delete(&environment).await;
    api.events(id(&later), ask).await;
    let events = api.stream_from(id(&later), 0).await.turn().await;
    let said = text(first(&events, "agent.tool_result"));
    assert_eq!(said.trim(), "hello from allowed.example\nhello from denied.example");
}

#[tokio::test]
async fn mcp_servers_are_reached_where_the_environment_allows_them() {
    let web = Web::start().await;
    let rota = rota(&web, |_| {}).await;
    let api = &rota.api;
    let server = json!([{"type": "url", "name": "tracker", "url": "https://allowed.example/mcp"}]);
    let tools = json!([{"type": "agent_toolset_20260401"}, {"type": "mcp_toolset", "mcp_server_name": "tracker"}]);
    let network = over(limited(&[]), &json!({"allow_mcp_servers": true}));
    let mut parts = parts(api, network).await;
    parts.agent = agent(api, json!({"mcp_servers": server, "tools": tools})).await;
    let command = script("curl -s http://allowed.example/; curl -s http://denied.example/ | head -1");
    let session = parts.session_with(api, command).await;
    let events = api.stream_from(id(&session), 0).await.turn().await;
    let said = text(first(&events, "agent.tool_result"));
    assert_eq!(said.trim(), "hello from allowed.example\nHost not in allowlist: denied.example");
}

#[tokio::test]
async fn an_agent_is_told_what_its_sandbox_reaches() {
    let upstream = Upstream::start((0..3).map(|_| Reply::Message(vec![json!({"type": "text", "text": "hi"})]))).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    for networking in [unrestricted(), limited(&["*.example.com"]), limited(&[])] {
        let mut parts = parts(api, networking).await;
        parts.agent = agent(api, json!({"model": "house", "system": "Be brief."})).await;
        let session = parts.session_with(api, crate::given::message("hello")).await;
        api.stream_from(id(&session), 0).await.turn().await;
    }
    let asked = upstream.asked();
    let system = |i: usize| asked[i]["system"].to_string();
    for (i, told) in ["The sandbox reaches the internet.", "- *.example.com", "its environment allows no hosts"]
        .into_iter()
        .enumerate()
    {
        assert!(system(i).contains("Be brief.") && system(i).contains(told), "{}", system(i));
    }
}

#[tokio::test]
async fn without_a_network_there_is_none_and_the_session_says_so() {
    let web = Web::start().await;
    let rota = rota(&web, |config| config.network.enabled = false).await;
    let (said, session) = run(&rota.api, unrestricted(), "curl -sS http://1.1.1.1/ 2>&1; echo $?").await;
    assert!(said.trim().ends_with('7'), "curl cannot connect: {said}");
    let warnings = rota.api.get(&format!("/rota/v1/sessions/{}", id(&session))).await["warnings"].to_string();
    assert!(warnings.contains("network_not_available"), "{warnings}");
}

#[tokio::test]
async fn a_port_of_the_operator_passes_what_is_said_there_to_allowed_hosts_only() {
    let web = Web::start().await;
    let rota = rota(&web, |config| {
        config.network.ports = vec![5432];
        for name in ["allowed.example", "denied.example"] {
            config.network.hosts.insert(format!("{name}:5432"), vec![web.http.to_string()]);
        }
    })
    .await;
    let command = "curl -s http://allowed.example:5432/; curl -s http://denied.example:5432/ || echo refused";
    let (said, session) = run(&rota.api, limited(&["allowed.example"]), command).await;
    assert_eq!(said.trim(), "hello from allowed.example:5432\nrefused");
    let rows = log(&rota.api, &session, 2).await;
    let told: BTreeSet<String> = rows.iter().map(|row| json!([row["port"], row["reason"]]).to_string()).collect();
    assert_eq!(told, [json!([5432, null]), json!([5432, "host_not_allowed"])].iter().map(Value::to_string).collect());
}

#[tokio::test]
async fn a_thousand_connections_at_once_are_all_answered_and_keep_no_other_session_waiting() {
    let web = Web::start().await;
    let rota = rota(&web, |_| {}).await;
    let api = &rota.api;
    let slow = "for i in $(seq 300); do curl -s -m 300 http://allowed.example/silence & done; touch started; wait";
    let held = parts(api, unrestricted()).await.session_with(api, script(slow)).await;
    appears(rota.workspace_file(id(&held), "started")).await;
    let crowd = format!("cat > a.py <<'END_OF_PROGRAM'\n{ATTACKS}\nEND_OF_PROGRAM\n/usr/bin/python3 a.py crowd 1000");
    let (said, _) = run(api, unrestricted(), &crowd).await;
    assert_eq!(said.trim(), "1000");
    api.events(id(&held), json!([{"type": "user.interrupt"}])).await;
}

#[tokio::test]
async fn a_session_moves_no_more_bytes_than_it_may_and_another_one_does_not_notice() {
    let web = Web::start().await;
    let rota = rota(&web, |config| config.network.session_mib = 1).await;
    let api = &rota.api;
    let command = "curl -s http://allowed.example/endless | wc -c; curl -s http://allowed.example/";
    let (said, session) = run(api, unrestricted(), command).await;
    let (bytes, words) = said.trim().split_once('\n').unwrap();
    let bytes: u64 = bytes.trim().parse().unwrap();
    // The piece that reaches the bound still arrives.
    assert!((1..1024 * 1024 + 512 * 1024).contains(&bytes), "{bytes}");
    assert!(words.starts_with("The session has moved as many bytes as it may (`session_mib`"), "{words}");
    let rows = log(api, &session, 2).await;
    assert!(rows.iter().all(|row| row["reason"] == "bytes_used_up"), "{rows:?}");
    let (said, _) = run(api, unrestricted(), "curl -s http://allowed.example/").await;
    assert_eq!(said.trim(), "hello from allowed.example");
    // What was moved before a sandbox was there counts too.
    rota.server.app().sandboxes.end(&id(&session).parse().unwrap()).await;
    let again = async {
        for place in 1.. {
            api.events(id(&session), json!([script("curl -s http://allowed.example/")])).await;
            if result_at(api, &session, place).await.contains("The session has moved as many bytes") {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("the session may move bytes again");
}

#[tokio::test]
async fn what_a_slow_host_sends_arrives_piece_by_piece() {
    let web = Web::start().await;
    let rota = rota(&web, |_| {}).await;
    let api = &rota.api;
    let network = parts(api, unrestricted()).await;
    for scheme in ["http", "https"] {
        let command =
            format!("curl -skN {scheme}://allowed.example/drip | while read -r line; do touch $line; done; ls");
        let session = network.session_with(api, script(&command)).await;
        for line in ["one", "two"] {
            web.drip();
            // The next one is not sent before this has arrived.
            appears(rota.workspace_file(id(&session), line)).await;
        }
        assert_eq!(result_at(api, &session, 0).await.trim(), "one\ntwo");
    }
}

#[tokio::test]
async fn connections_end_with_their_sandbox_and_their_rows_say_so() {
    let web = Web::start().await;
    let rota = rota(&web, |_| {}).await;
    let api = &rota.api;
    let command = "curl -s http://allowed.example/silence & curl -sk https://allowed.example/silence & sleep 600";
    let session = parts(api, unrestricted()).await.session_with(api, script(command)).await;
    while web.requests().len() < 2 {
        sleep(std::time::Duration::from_millis(10)).await;
    }
    api.once(&egress(&session), |page| page["data"].as_array().unwrap().len() == 2).await;
    rota.server.app().sandboxes.end(&id(&session).parse().unwrap()).await;
    for row in log(api, &session, 2).await {
        assert_eq!((&row["outcome"], &row["reason"]), (&json!("allowed"), &Value::Null));
    }
}

#[tokio::test]
async fn a_sandbox_reaches_no_other() {
    let web = Web::start().await;
    let rota = rota(&web, |_| {}).await;
    let api = &rota.api;
    let listens = "python3 -m http.server 8099 >/dev/null 2>&1 & for i in $(seq 600); do curl -s -o /dev/null http://127.0.0.1:8099/ && \
                   touch started && break; sleep 0.1; done; sleep 600";
    let other = parts(api, unrestricted()).await.session_with(api, script(listens)).await;
    appears(rota.workspace_file(id(&other), "started")).await;
    let (said, _) =
        run(api, unrestricted(), "for a in 127.0.0.1 198.18.0.1 9.9.9.9; do curl -s http://$a:8099/; echo $?; done")
            .await;
    assert_eq!(said.trim(), "7\n7\n7");
}

#[tokio::test]
async fn a_hostile_repository_reaches_no_more_than_its_sandbox() {
    let web = Web::start().await;
    let rota = rota(&web, |_| {}).await;
    let command = "git init -q evil && cd evil && mkdir -p hooks && printf '#!/bin/sh\\ncurl -s http://denied.example/ > /workspace/told\\n' \
                   > hooks/pre-commit && chmod +x hooks/pre-commit && git config core.hooksPath hooks && \
                   git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x; head -1 /workspace/told";
    let (said, _) = run(&rota.api, limited(&["allowed.example"]), command).await;
    assert_eq!(said.trim(), "Host not in allowlist: denied.example");
    assert!(web.requests().is_empty());
}

/// The kinds of server that can be tried here: who runs it.
fn users() -> Vec<Option<u32>> {
    if containers().is_some() {
        return vec![None];
    }
    if rustix::process::geteuid().is_root() {
        return vec![None, Some(NOBODY)];
    }
    eprintln!("skipped: the server run by root, because these tests do not run as root");
    vec![None]
}

/// A server as a process, whose sandboxes reach `web`, and a client of it.
async fn process(folder: &Path, web: &Web, user: Option<u32>) -> (process::Server, process::Client) {
    process_with(folder, web, user, "", &[]).await
}

/// The same with further settings of `[network]`, and further names.
async fn process_with(
    folder: &Path,
    web: &Web,
    user: Option<u32>,
    settings: &str,
    names: &[(String, Vec<String>)],
) -> (process::Server, process::Client) {
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let config = folder.join("rota.toml");
    let mut server = process::Server::new(&data, &["--config", config.to_str().unwrap()]);
    server.log = (!names.is_empty()).then(|| folder.join("log"));
    let key = create_key(&data, &[]);
    if let Some(user) = user {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let program = folder.join("rota");
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_rota")).arg(&program).status().unwrap().success());
        server.user = Some((user, program));
        for entry in fs::read_dir(&data).unwrap() {
            chown(entry.unwrap().path(), Some(user), Some(user)).unwrap();
        }
        chown(&data, Some(user), Some(user)).unwrap();
    }
    let mut hosts = web.hosts(&NAMES);
    hosts.push(("private.example".to_owned(), vec!["127.0.0.2".to_owned(), "10.0.0.1".to_owned()]));
    hosts.push(("metadata.example".to_owned(), vec!["169.254.169.254".to_owned()]));
    hosts.push(("rota.example:80".to_owned(), vec![server.address.to_string()]));
    hosts.extend_from_slice(names);
    let hosts: Vec<String> = hosts.iter().map(|(name, to)| format!("\"{name}\" = {to:?}")).collect();
    let hosts = hosts.join("\n");
    let sandbox = containers().unwrap_or_default();
    fs::write(&config, format!("{sandbox}[network]\nopen = [\"127.0.0.1\"]\n{settings}\n[network.hosts]\n{hosts}\n"))
        .unwrap();
    server.start().await;
    let client = process::Client::new(server.address, key);
    (server, client)
}

/// What `command` prints in the sandbox of a new session, and the session.
async fn run_at(client: &process::Client, networking: &Value, command: &str) -> (String, String) {
    let agent =
        client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": [crate::given::toolset()]})).await;
    let config = json!({"type": "cloud", "networking": networking});
    let environment = client.post("/v1/environments", &json!({"name": networking.to_string(), "config": config})).await;
    let body = json!({"agent": id(&agent), "environment_id": id(&environment), "initial_events": [script(command)]});
    let session = id(&client.post("/v1/sessions", &body).await).to_owned();
    (result(client, &session, 0).await, session)
}

/// The result of the call at `place` among those of a session.
async fn result(client: &process::Client, session: &str, place: usize) -> String {
    let looking = async {
        loop {
            let events = client.list(&format!("/v1/sessions/{session}/events?limit=100")).await;
            let mut results = events.iter().filter(|event| event["type"] == "agent.tool_result");
            if let Some(result) = results.nth(place) {
                return text(result).to_owned();
            }
            sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(4 * PATIENCE, looking).await.expect("a result")
}

#[tokio::test]
async fn an_attack_on_the_gate_is_refused() {
    let abstract_name = format!("rota-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _of_the_host = UnixListener::bind_addr(&address).unwrap();
    for user in users() {
        let web = Web::start().await;
        let folder = tempfile::tempdir().unwrap();
        let (_server, client) = process(folder.path(), &web, user).await;
        let hosts = ["allowed.example", "*.wild.example", "private.example", "metadata.example", "rota.example"];
        let cases = [
            (limited(&hosts), format!("limited {abstract_name}"), LIMITED),
            (unrestricted(), "unrestricted".to_owned(), UNRESTRICTED),
        ];
        for (networking, arguments, wanted) in cases {
            let command =
                format!("cat > a.py <<'END_OF_PROGRAM'\n{ATTACKS}\nEND_OF_PROGRAM\n/usr/bin/python3 a.py {arguments}");
            let (said, _) = run_at(&client, &networking, &command).await;
            let answers: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();
            let wrong: BTreeMap<_, _> = wanted
                .iter()
                .map(|(attack, wanted)| (*attack, (*wanted, answers.get(attack).copied().unwrap_or("(no answer)"))))
                .filter(|(_, (wanted, found))| wanted != found)
                .collect();
            assert!(wrong.is_empty(), "{user:?} {arguments}, wanted and found: {wrong:#?}\n{said}");
        }
        let smuggled = web.requests().into_iter().find(|request| request.contains("smuggled"));
        assert_eq!(smuggled, None, "a hidden request is one to its own host");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_with_connections_open_goes_on_with_its_network() {
    let web = Web::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut server, client) = process(folder.path(), &web, None).await;
    let agent =
        client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": [crate::given::toolset()]})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    let command = script("curl -s http://allowed.example/silence");
    let body = json!({"agent": id(&agent), "environment_id": id(&environment), "initial_events": [command]});
    let session = id(&client.post("/v1/sessions", &body).await).to_owned();
    let rows = format!("/rota/v1/sessions/{session}/egress");
    let open = async {
        while client.get(&rows).await["data"].as_array().unwrap().is_empty() {
            sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, open).await.expect("a connection");
    server.kill();
    server.start().await;
    result(&client, &session, 0).await;
    let again = json!({"events": [script("curl -s http://allowed.example/")]});
    client.post(&format!("/v1/sessions/{session}/events"), &again).await;
    let said = result(&client, &session, 1).await;
    assert!(said.trim().ends_with("\nhello from allowed.example"), "{said}");
    let rows = client.get(&rows).await["data"].as_array().unwrap().clone();
    let first = rows.last().unwrap();
    assert_eq!((&first["outcome"], &first["duration_ms"]), (&json!("allowed"), &Value::Null), "nobody saw its end");
}
