//! What a scrape of the metrics says, and what the log does.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs,
    io::Write,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
};

use rota_server::{
    config::PriceConfig,
    limits::READ_CONNECTIONS,
    telemetry::table::{self, Kind, Metric},
};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Duration, sleep, timeout},
};

use crate::{
    given::{Parts, agent, environment, id, message, script},
    process,
    server::{PATIENCE, Rota},
    upstream::{Reply, Upstream},
};

async fn scrape(rota: &Rota) -> String {
    rota.api.http.get(format!("{}/metrics", rota.api.base)).send().await.unwrap().text().await.unwrap()
}

/// Returns once each of these series of a scrape has a value from the one bound to the other: those that time moves go on meanwhile.
async fn says(rota: &Rota, wanted: &[(&str, [f64; 2])]) {
    let mut last = String::new();
    let looking = async {
        loop {
            last = scrape(rota).await;
            let is_so = |(series, [least, most]): &(&str, [f64; 2])| {
                let value =
                    last.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
                value.is_some_and(|value| (*least..=*most).contains(&value))
            };
            if wanted.iter().all(is_so) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let is_so = timeout(PATIENCE, looking).await.is_ok();
    assert!(is_so, "a scrape does not say {wanted:?}: {last}");
}

/// Just this.
fn is(value: u32) -> [f64; 2] {
    [value.into(), value.into()]
}

/// A server whose agents ask a priced upstream, and one turn of it.
async fn after_a_turn() -> (Rota, Upstream) {
    let upstream = Upstream::start([Reply::Message(vec![json!({"type": "text", "text": "hi"})])]).await;
    let mut model = upstream.model();
    model.price =
        Some(PriceConfig { input: 3.0, output: 15.0, cache_read: None, cache_write_5m: None, cache_write_1h: None });
    let rota = Rota::with(|config| config.models = vec![model]).await;
    let parts = Parts {
        agent: agent(&rota.api, json!({"model": "house"})).await,
        environment: environment(&rota.api, "e").await,
    };
    let made = parts.deployment(&rota.api, json!({"initial_events": [message("hi")]})).await;
    let run = rota.api.call(&format!("/v1/deployments/{}/run", id(&made))).await;
    rota.api.stream_from(run["session_id"].as_str().unwrap(), 0).await.turn().await;
    (rota, upstream)
}

/// The name of a series and the names of its labels.
fn parts(series: &str) -> (&str, Vec<&str>) {
    let Some((name, labels)) = series.split_once('{') else { return (series, Vec::new()) };
    let labels = labels.strip_suffix('}').unwrap().split("\",").map(|label| label.split_once("=\"").unwrap().0);
    (name, labels.collect())
}

#[tokio::test]
async fn each_series_of_a_scrape_is_of_a_metric_that_says_what_it_is() {
    let (rota, _upstream) = after_a_turn().await;
    let text = scrape(&rota).await;
    let table: BTreeMap<&str, &Metric> = table::all().map(|metric| (metric.name, metric)).collect();
    let mut told = HashSet::new();
    let mut seen = HashSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(about) = line.strip_prefix("# ") {
            let mut words = about.splitn(3, ' ');
            let [what, name, rest] = [0; 3].map(|_| words.next().unwrap());
            let metric = table.get(name).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(rest, if what == "HELP" { metric.help } else { metric.kind.name() });
            assert!(told.insert((what.to_owned(), name.to_owned())), "{line} is there twice");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        assert!(seen.insert(series.to_owned()), "{series} is there twice");
        let (name, mut labels) = parts(series);
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let name = histogram.filter(|name| table.contains_key(name)).unwrap_or(name);
        let metric = table.get(name).unwrap_or_else(|| panic!("{line}"));
        labels.retain(|label| !(matches!(metric.kind, Kind::Histogram(_)) && *label == "le"));
        assert_eq!(labels, metric.labels.iter().map(|(label, _)| *label).collect::<Vec<_>>(), "{line}");
        for what in ["HELP", "TYPE"] {
            assert!(told.contains(&(what.to_owned(), name.to_owned())), "{name} has no {what}");
        }
    }
    for line in [
        "rota_sessions_ended_total{reason=\"end_turn\",error=\"none\"}",
        "rota_model_tokens_total{model=\"house\",upstream=\"house\",kind=\"output\"}",
        "rota_model_cost_nanos_total{model=\"house\",upstream=\"house\"}",
        "rota_commit_seconds_count",
        "rota_commit_writes_bucket{le=\"1\"}",
        "rota_store_size_bytes",
        "rota_disk_free_bytes",
        "process_resident_memory_bytes",
        "rota_build_info{version=",
    ] {
        assert!(seen.iter().any(|series| series.starts_with(line)), "{line}: {text}");
    }
}

#[tokio::test]
async fn sessions_that_wait_for_a_runner_are_counted_with_the_age_of_the_oldest() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    parts.session_with(&rota.api, message("hi")).await;
    rota.advance_seconds(100);
    parts.session_with(&rota.api, message("hi")).await;
    rota.advance_seconds(20);
    parts.session(&rota.api, json!({})).await;
    let wanted = [
        ("rota_store_up", is(1)),
        ("rota_sessions{state=\"queued\"}", is(2)),
        ("rota_sessions{state=\"running\"}", is(0)),
        ("rota_sessions{state=\"resting\"}", is(1)),
        ("rota_sessions{state=\"waiting_for_human\"}", is(0)),
        ("rota_sessions_oldest_seconds{state=\"queued\"}", [120.0, 121.0]),
        ("rota_sessions_oldest_seconds{state=\"waiting_for_human\"}", is(0)),
    ];
    says(&rota, &wanted).await;
}

#[tokio::test]
async fn sessions_that_wait_for_a_human_are_told_from_those_that_wait_for_a_program() {
    let rota = Rota::start().await;
    let asks =
        json!({"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}}});
    let parts = Parts {
        agent: agent(&rota.api, json!({"tools": [asks]})).await,
        environment: environment(&rota.api, "e").await,
    };
    let session = parts.session_with(&rota.api, script("echo hello")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    rota.advance_seconds(50);
    let wanted = [
        ("rota_sessions{state=\"queued\"}", is(0)),
        ("rota_sessions{state=\"waiting_for_human\"}", is(1)),
        ("rota_sessions{state=\"waiting_for_program\"}", is(0)),
        ("rota_sessions_oldest_seconds{state=\"waiting_for_human\"}", [50.0, 51.0]),
    ];
    says(&rota, &wanted).await;
}

#[tokio::test]
async fn what_is_late_fails_or_is_disabled_is_counted() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let schedule = json!({"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"});
    parts.deployment(&rota.api, json!({"schedule": schedule})).await;
    let body = json!({"name": "n", "url": "https://hooks.example/x", "enabled_events": ["session.status_idled"]});
    let made = rota.api.post("/rota/v1/webhook_endpoints", body).await;
    says(&rota, &[("rota_schedule_behind_seconds", is(0)), ("rota_webhook_endpoints_disabled", is(0))]).await;
    let off = format!("/rota/v1/webhook_endpoints/{}", id(&made));
    rota.api.post(&off, json!({"state": "disabled"})).await;
    // A day on, nobody has looked at what was due an hour from the start.
    rota.advance_seconds(24 * 3600);
    let wanted = [
        ("rota_webhook_endpoints_disabled", is(1)),
        ("rota_webhook_deliveries{state=\"parked\"}", is(0)),
        // An hour less, and its delay.
        ("rota_schedule_behind_seconds", [22.0 * 3600.0, 24.0 * 3600.0]),
    ];
    says(&rota, &wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_leaves_out_what_is_in_it_and_nothing_else() {
    let rota = Rota::without_engine().await;
    let (begin, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    // All connections that read are taken until `release` is dropped.
    let mut taken = JoinSet::new();
    for _ in 0..READ_CONNECTIONS {
        let (db, begin, held) = (rota.server.app().db.clone(), begin.clone(), held.clone());
        let hold = move |_: &mut rota_server::db::Tx<'_>| {
            begin.send(()).unwrap();
            let _ = held.lock().unwrap().recv();
            Ok(())
        };
        taken.spawn(async move { db.read(hold).await.unwrap() });
    }
    for _ in 0..READ_CONNECTIONS {
        timeout(PATIENCE, begun.recv()).await.expect("reads begin").unwrap();
    }
    let text = scrape(&rota).await;
    assert!(text.lines().any(|line| line == "rota_store_up 0"), "{text}");
    assert!(!text.contains("rota_sessions{"), "{text}");
    let busy = format!("rota_database_read_connections{{state=\"busy\"}} {READ_CONNECTIONS}");
    for line in [&busy, "process_cpu_seconds_total", "rota_disk_free_bytes", "rota_commit_seconds_count"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    drop(release);
    while let Some(read) = taken.join_next().await {
        read.unwrap();
    }
    says(&rota, &[("rota_store_up", is(1)), ("rota_sessions{state=\"queued\"}", is(0))]).await;
}

/// The programs of `tests/with-promtool`.
fn promtool(arguments: &[&str], input: &str) {
    let program = std::env::var("ROTA_TEST_PROMTOOL").expect("tests/with-promtool says where promtool is");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = input.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[tokio::test]
#[ignore = "needs promtool: tests/with-promtool"]
async fn promtool_has_nothing_to_say_of_a_scrape() {
    let (rota, _upstream) = after_a_turn().await;
    promtool(&["check", "metrics"], &scrape(&rota).await);
}

#[test]
#[ignore = "needs promtool: tests/with-promtool"]
fn promtool_takes_the_alerts_and_they_say_what_they_should() {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
    promtool(&["check", "rules", &format!("{deploy}/alerts.yml")], "");
    promtool(&["test", "rules", &format!("{deploy}/alerts-test.yml")], "");
}

/// JSON in which no object has a key twice.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut keys = HashSet::new();
                while let Some((key, Strict)) = map.next_entry::<String, Strict>()? {
                    if let Some(key) = keys.replace(key) {
                        return Err(A::Error::custom(format!("the key {key} is there twice")));
                    }
                }
                Ok(Strict)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strict, A::Error> {
                while let Some(Strict) = list.next_element()? {}
                Ok(Strict)
            }

            fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[test]
fn the_strict_reader_refuses_a_key_that_is_there_twice() {
    for (text, is_strict) in [
        (r#"{"a":1,"b":[{"a":null},{"a":"x"}]}"#, true),
        (r#"{"a":1,"a":1}"#, false),
        (r#"{"b":[{"c":{"d":1.5,"e":true,"d":-1}}]}"#, false),
    ] {
        assert_eq!(serde_json::from_str::<Strict>(text).is_ok(), is_strict, "{text}");
    }
}

/// A line of the log whose text is `message`.
fn told<'a>(lines: &'a [Value], message: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["fields"]["message"] == message);
    found.unwrap_or_else(|| panic!("the log does not say \"{message}\": {lines:#?}"))
}

/// What is known on the way to a line: the fields of its spans.
fn around(line: &Value) -> BTreeMap<&str, &str> {
    let spans = line["spans"].as_array().into_iter().flatten();
    let fields = spans.flat_map(|span| span.as_object().unwrap());
    fields.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect()
}

#[tokio::test]
async fn the_log_tells_of_fires_ends_keys_and_policies_in_json_without_a_key_twice() {
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    fs::create_dir(&data).unwrap();
    let key = process::create_key(&data, &[]);
    let mut server = process::Server::new(&data, &["--log-format", "json"]);
    server.log = Some(log.clone());
    server.start().await;
    let client = process::Client::new(server.address, key);
    let agent = client.post("/v1/agents", &json!({"name": "worker", "model": "playbook"})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e", "config": {"type": "self_hosted"}})).await;
    let body = json!({"name": "nightly", "agent": id(&agent), "environment_id": id(&environment), "initial_events": [message("hi")]});
    let made = client.post("/v1/deployments", &body).await;
    client.post(&format!("/rota/v1/deployments/{}/policy", id(&made)), &json!({"overlap": "skip"})).await;
    let key = client.post(&format!("/rota/v1/environments/{}/keys", id(&environment)), &json!({"name": "k"})).await;
    let request = client.request(reqwest::Method::POST, &format!("/v1/deployments/{}/run", id(&made)));
    let response = request.send().await.unwrap();
    let request_id = response.headers()["request-id"].to_str().unwrap().to_owned();
    let run: Value = response.json().await.unwrap();
    let session = format!("/v1/sessions/{}", run["session_id"].as_str().unwrap());
    let resting = async {
        while client.get(&session).await["status"] != "idle" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, resting).await.expect("the session comes to rest");
    // The line about the end is written once the end is there.
    let logged = || String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    let written = async {
        while !logged().contains("a turn of a session has ended") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("the log tells of the end");
    server.kill();

    let text = logged();
    // Of a line that was being written when the server was killed there may be a half.
    let whole = &text[..=text.rfind('\n').unwrap()];
    for line in whole.lines() {
        serde_json::from_str::<Strict>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    let lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fired = told(&lines, "a deployment fired");
    assert_eq!(fired["level"], "INFO");
    let fields = &fired["fields"];
    let expected = [id(&made), id(&run), run["session_id"].as_str().unwrap(), "manual", "session_created"];
    let told_of =
        ["deployment_id", "run_id", "session_id", "trigger", "outcome"].map(|field| fields[field].as_str().unwrap());
    assert_eq!(told_of, expected);
    assert_eq!(around(fired)["request_id"], request_id);
    assert!(around(fired)["key_id"].starts_with("apikey_"), "{fired}");
    let ended = told(&lines, "a turn of a session has ended");
    assert_eq!((&ended["fields"]["reason"], &ended["fields"]["session_id"]), (&json!("end_turn"), &run["session_id"]));
    assert_eq!(around(ended)["request_id"], request_id, "{ended}");
    assert_eq!(told(&lines, "a key of an environment was made")["fields"]["changed_key_id"], key["id"]);
    assert_eq!(told(&lines, "the policy of a deployment was set")["fields"]["deployment_id"], made["id"]);
    assert!(!text.contains(key["secret"].as_str().unwrap()), "a secret is in the log");
}
