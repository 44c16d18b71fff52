//! Traces, as a collector gets them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rota_server::config::Config;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    task::JoinSet,
    time::{Duration, sleep, timeout},
};

use crate::{
    given::{Parts, id, message, script},
    request::{Request, read_request},
    schedules::every,
    server::{PATIENCE, Rota},
};

/// What a test itself says, as the client of a trace.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A collector that takes OTLP over HTTP as JSON.
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    _serving: JoinSet<()>,
}

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    pub kind: i64,
    pub attributes: BTreeMap<String, String>,
    pub is_error: bool,
    text: String,
}

fn hex(value: &Value, digits: usize) -> String {
    let text = value.as_str().unwrap();
    assert!(text.len() == digits && text.bytes().all(|c| c.is_ascii_hexdigit()), "{text}");
    text.to_owned()
}

/// Reads attributes as the protocol has them: each a key and a value of one kind.
fn attributes(list: &Value) -> BTreeMap<String, String> {
    let read = |attribute: &Value| {
        let value = attribute["value"].as_object().unwrap();
        assert_eq!(value.len(), 1, "{attribute}");
        let (kind, value) = value.iter().next().unwrap();
        let text = match kind.as_str() {
            "stringValue" => value.as_str().unwrap().to_owned(),
            // 64 bits are text.
            "intValue" => value.as_str().unwrap().parse::<i64>().unwrap().to_string(),
            "arrayValue" => value["values"].as_array().unwrap()[0]["stringValue"].as_str().unwrap().to_owned(),
            "boolValue" | "doubleValue" => value.to_string(),
            other => panic!("{other}"),
        };
        (attribute["key"].as_str().unwrap().to_owned(), text)
    };
    list.as_array().unwrap().iter().map(read).collect()
}

impl Span {
    fn read(span: &Value) -> Self {
        let [began, ended] =
            ["startTimeUnixNano", "endTimeUnixNano"].map(|key| span[key].as_str().unwrap().parse::<u64>().unwrap());
        assert!(began > 1_700_000_000_000_000_000 && ended >= began, "{span}");
        Self {
            trace: hex(&span["traceId"], 32),
            id: hex(&span["spanId"], 16),
            parent: span.get("parentSpanId").map(|parent| hex(parent, 16)),
            name: span["name"].as_str().unwrap().to_owned(),
            kind: span["kind"].as_i64().unwrap(),
            attributes: attributes(&span["attributes"]),
            is_error: span["status"]["code"] == 2,
            text: span.to_string(),
        }
    }
}

impl Collector {
    /// Starts it, and returns where it is.
    pub async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spans = Arc::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&spans)));
        (Self { spans, _serving: serving }, format!("http://{address}"))
    }

    /// The spans of which `is_of` is so, once there is one of each of `names`.
    pub async fn once(&self, is_of: impl Fn(&Span) -> bool, names: &[&str]) -> Vec<Span> {
        let mut found = Vec::new();
        let looking = async {
            loop {
                found = self.spans.lock().unwrap().iter().filter(|span| is_of(span)).cloned().collect();
                if names.iter().all(|name| found.iter().any(|span| span.name == *name)) {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let are_there = timeout(PATIENCE, looking).await.is_ok();
        assert!(are_there, "the collector has no {names:?}: {found:#?}");
        found
    }
}

/// Takes what servers send.
async fn serve(listener: TcpListener, spans: Arc<Mutex<Vec<Span>>>) {
    let mut clients = JoinSet::new();
    while let Ok((mut connection, _)) = listener.accept().await {
        let spans = spans.clone();
        clients.spawn(async move {
            while let Some(request) = read_request(&mut connection).await {
                take(&spans, &request);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                connection.write_all(answer).await.unwrap();
            }
        });
    }
}

fn take(spans: &Mutex<Vec<Span>>, request: &Request) {
    assert_eq!(request.line, "POST /v1/traces");
    assert_eq!(request.headers["content-type"], "application/json");
    let body: Value = serde_json::from_str(&request.body).unwrap();
    for resource in body["resourceSpans"].as_array().unwrap() {
        assert_eq!(attributes(&resource["resource"]["attributes"])["service.name"], "rota");
        for scope in resource["scopeSpans"].as_array().unwrap() {
            let sent = scope["spans"].as_array().unwrap().iter().map(Span::read);
            spans.lock().unwrap().extend(sent);
        }
    }
}

pub fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {spans:#?}"))
}

/// Sends traces there.
pub fn to(endpoint: &str, content: bool) -> impl FnOnce(&mut Config) {
    move |config| {
        config.telemetry.otlp_endpoint = Some(endpoint.to_owned());
        config.telemetry.content = content;
    }
}

const RUN: &str = "POST /v1/deployments/{deployment_id}/run";

#[tokio::test]
async fn a_request_is_traced_to_the_calls_that_came_of_it() {
    let (collector, endpoint) = Collector::start().await;
    let rota = Rota::with(to(&endpoint, false)).await;
    let parts = Parts::new(&rota.api).await;
    let secret = "sesame-opens";
    let body = json!({"initial_events": [script(&format!("echo {secret}"))]});
    let made = parts.deployment(&rota.api, body).await;
    let request = rota.api.request(reqwest::Method::POST, &format!("/v1/deployments/{}/run", id(&made)));
    let run = rota.api.answer(request.header("traceparent", format!("00-{TRACE}-{SPAN}-01"))).await.body;
    rota.api.stream_from(run["session_id"].as_str().unwrap(), 0).await.turn().await;

    let names = [RUN, "fire", "invoke_agent worker", "chat playbook", "execute_tool bash"];
    let spans = collector.once(|span| span.trace == TRACE, &names).await;
    let [request, fire, turn, chat, tool] = names.map(|name| named(&spans, name));
    assert_eq!((request.parent.as_deref(), request.kind), (Some(SPAN), 2));
    assert_eq!(fire.parent.as_ref(), Some(&request.id));
    assert_eq!(turn.parent.as_ref(), Some(&fire.id));
    assert_eq!((chat.parent.as_ref(), chat.kind), (Some(&turn.id), 3));
    assert_eq!(tool.parent.as_ref(), Some(&turn.id));
    assert!(spans.iter().all(|span| !span.is_error), "{spans:#?}");
    let session = run["session_id"].as_str().unwrap();
    for (span, key, value) in [
        (request, "http.response.status_code", "200"),
        (request, "http.route", "/v1/deployments/{deployment_id}/run"),
        (fire, "rota.run.id", id(&run)),
        (turn, "gen_ai.operation.name", "invoke_agent"),
        (turn, "gen_ai.conversation.id", session),
        (chat, "gen_ai.operation.name", "chat"),
        (chat, "gen_ai.request.model", "playbook"),
        (chat, "gen_ai.response.finish_reasons", "tool_call"),
        (tool, "gen_ai.operation.name", "execute_tool"),
        (tool, "gen_ai.tool.name", "bash"),
    ] {
        assert_eq!(span.attributes.get(key).map(String::as_str), Some(value), "{key} of {span:#?}");
    }
    assert!(chat.attributes["gen_ai.usage.output_tokens"].parse::<u64>().is_ok());
    let said: Vec<_> = spans.iter().filter(|span| span.text.contains(secret)).collect();
    assert!(said.is_empty(), "what was said is noted unasked: {said:#?}");
}

#[tokio::test]
async fn what_was_said_is_noted_where_the_configuration_asks_for_it() {
    let (collector, endpoint) = Collector::start().await;
    let rota = Rota::with(to(&endpoint, true)).await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("echo sesame-$((40 + 2))")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    let names = ["invoke_agent worker", "chat playbook", "execute_tool bash"];
    // Two requests: what the tool said is in the second one.
    let spans = collector.once(|_| true, &names).await;
    let tool = named(&spans, "execute_tool bash");
    assert!(tool.attributes["gen_ai.tool.call.arguments"].contains("echo sesame"), "{tool:#?}");
    assert_eq!(tool.attributes["gen_ai.tool.call.result"].trim(), "sesame-42");
    let chat = named(&spans, "chat playbook");
    let messages: Value = serde_json::from_str(&chat.attributes["gen_ai.input.messages"]).unwrap();
    assert_eq!((&messages[0]["role"], &messages[0]["parts"][0]["type"]), (&json!("user"), &json!("text")));
}

#[tokio::test]
async fn a_request_without_a_trace_begins_one_and_a_scheduled_fire_too() {
    let (collector, endpoint) = Collector::start().await;
    let rota = Rota::with(to(&endpoint, false)).await;
    let parts = Parts::new(&rota.api).await;
    let mut body = every("* * * * *");
    body["initial_events"] = json!([message("hi")]);
    let made = parts.deployment(&rota.api, body).await;
    rota.api.call(&format!("/v1/deployments/{}/run", id(&made))).await;
    let names = [RUN, "fire", "invoke_agent worker"];
    let spans = collector.once(|_| true, &names).await;
    let (request, turn) = (named(&spans, RUN), named(&spans, "invoke_agent worker"));
    assert_eq!(request.parent, None);
    assert_eq!(turn.trace, request.trace);

    rota.advance_seconds(120);
    rota.tick().await;
    let spans =
        collector.once(|span| span.trace != turn.trace, &["fire", "invoke_agent worker", "chat playbook"]).await;
    let (fire, turn) = (named(&spans, "fire"), named(&spans, "invoke_agent worker"));
    assert_eq!((fire.parent.as_ref(), turn.parent.as_ref()), (None, Some(&fire.id)));
    assert_eq!(fire.trace, turn.trace);
}

#[tokio::test]
async fn a_trace_that_its_client_does_not_note_is_not_noted_here() {
    let (collector, endpoint) = Collector::start().await;
    let rota = Rota::with(to(&endpoint, false)).await;
    let parts = Parts::new(&rota.api).await;
    let made = parts.deployment(&rota.api, json!({"initial_events": [message("hi")]})).await;
    let request = rota.api.request(reqwest::Method::POST, &format!("/v1/deployments/{}/run", id(&made)));
    let run = rota.api.answer(request.header("traceparent", format!("00-{TRACE}-{SPAN}-00"))).await.body;
    rota.api.stream_from(run["session_id"].as_str().unwrap(), 0).await.turn().await;
    // What comes after it is there, and so would it be.
    rota.api.get("/v1/agents").await;
    let spans = collector.once(|_| true, &["GET /v1/agents"]).await;
    assert!(spans.iter().all(|span| span.trace != TRACE && span.name != RUN), "{spans:#?}");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nothing_but_spans_that_are_counted() {
    // A port at which nobody listens any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rota = Rota::with(to(&format!("http://{gone}"), false)).await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, message("hi")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    let counted = async {
        loop {
            let text =
                rota.api.http.get(format!("{}/metrics", rota.api.base)).send().await.unwrap().text().await.unwrap();
            if text.contains("rota_trace_spans_total{outcome=\"dropped\"}") {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("they are counted");
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_with_the_key_s_name() {
    let wrong = |endpoint: &str| Config {
        telemetry: rota_server::config::TelemetryConfig {
            otlp_endpoint: Some(endpoint.to_owned()),
            ..Default::default()
        },
        ..Config::default()
    };
    for endpoint in ["collector", "grpc://collector:4317"] {
        let folder = tempfile::TempDir::new().unwrap();
        let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..wrong(endpoint) };
        let Err(refused) = rota_server::serve(config, rota_server::clock::Clock::System).await else {
            panic!("{endpoint} is taken")
        };
        assert!(refused.to_string().contains("telemetry.otlp_endpoint"), "{refused}");
    }
}
