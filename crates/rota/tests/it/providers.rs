//! The same agent behind upstreams of each dialect: what the log says of it is the same.

use rota_server::config::{ModelConfig, Provider};
use serde_json::{Value, json};

use crate::{
    dialects::{custom, whole_turn},
    given::{Parts, agent, environment, id, message, toolset},
    models::{calls, says},
    server::Rota,
    stream::{first, kinds, text},
    upstream::{Reply, Upstream},
};

/// What an upstream answers to the requests of one turn, and what the log must have of it, if nothing else.
struct Scenario {
    what: &'static str,
    answers: fn() -> Vec<Reply>,
    has: &'static [&'static str],
}

fn thinks(text: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": ""})
}

fn says_done() -> Reply {
    Reply::Message(vec![says("done")])
}

const SCENARIOS: &[Scenario] = &[
    Scenario { what: "a text", answers: || vec![says_done()], has: &["agent.message"] },
    Scenario {
        what: "reasoning before a text",
        answers: || vec![Reply::Message(vec![thinks("hm"), says("done")])],
        has: &["agent.thinking", "agent.message"],
    },
    Scenario {
        what: "calls of tools, two of them in one reply",
        answers: || {
            let two = vec![
                thinks("hm"),
                says("I look."),
                calls("call_a", "bash", &json!({"command": "echo one"})),
                calls("call_b", "bash", &json!({"command": "exit 3"})),
            ];
            vec![Reply::Message(two), says_done()]
        },
        has: &["agent.tool_use", "agent.tool_use", "agent.tool_result", "agent.tool_result", "agent.message"],
    },
    Scenario {
        what: "a call of the client's tool",
        answers: || vec![Reply::Message(vec![calls("call_a", "weather", &json!({"city": "Rome"}))]), says_done()],
        has: &["agent.custom_tool_use", "user.custom_tool_result", "agent.message"],
    },
    Scenario {
        what: "a call whose arguments cannot be read",
        answers: || vec![Reply::Message(vec![calls("call_a", "bash", &json!("[1"))]), says_done()],
        has: &["agent.tool_use", "agent.tool_result", "agent.message"],
    },
    Scenario {
        what: "a reply that breaks off, and one that does not",
        answers: || vec![Reply::Cut(vec![says("half")]), says_done()],
        has: &["session.error", "session.status_rescheduled", "agent.message"],
    },
    Scenario {
        what: "a limit of rate, and then a reply",
        answers: || {
            let busy = json!({"error": {"type": "rate_limit_error", "message": "slow down"}});
            vec![Reply::Error(429, "", busy), says_done()]
        },
        has: &["session.error", "session.status_rescheduled", "agent.message"],
    },
    Scenario {
        what: "a limit of rate that says how long it lasts",
        answers: || {
            let busy = json!({"error": {"type": "rate_limit_error", "message": "slow down"}});
            vec![Reply::Error(429, "retry-after: 60\r\n", busy), says_done()]
        },
        has: &["session.error", "session.status_rescheduled", "agent.message"],
    },
    Scenario {
        what: "an overload",
        answers: || {
            let busy = json!({"error": {"type": "overloaded_error", "message": "busy"}});
            vec![Reply::Error(529, "", busy), says_done()]
        },
        has: &["session.error", "session.status_rescheduled", "agent.message"],
    },
    Scenario {
        what: "a connection that ends",
        answers: || vec![Reply::Nothing, says_done()],
        has: &["session.error", "session.status_rescheduled", "agent.message"],
    },
    Scenario {
        what: "a reply that comes byte by byte",
        answers: || {
            let look = calls("call_a", "bash", &json!({"command": "echo one"}));
            vec![Reply::ByByte(Box::new(Reply::Message(vec![thinks("hm"), says("ü"), look]))), says_done()]
        },
        has: &["agent.thinking", "agent.message", "agent.tool_use", "agent.tool_result", "agent.message"],
    },
    Scenario {
        what: "a model that is not there",
        answers: || {
            let wrong = json!({"error": {"type": "not_found_error", "message": "no such model"}});
            vec![Reply::Error(404, "", wrong)]
        },
        has: &["session.error"],
    },
    Scenario {
        what: "a key that is wrong",
        answers: || {
            let wrong = json!({"error": {"type": "authentication_error", "message": "no such key"}});
            vec![Reply::Error(401, "", wrong)]
        },
        has: &["session.error"],
    },
    Scenario { what: "a refusal", answers: || vec![Reply::Refusal], has: &["session.status_idle"] },
    Scenario {
        what: "a reply that is as long as it may be",
        answers: || vec![Reply::Stopped(vec![says("and so on")], "max_tokens")],
        has: &["agent.message"],
    },
];

/// A log without what is never the same: ids, times, and seconds at work. Of a turn with a request that failed the tokens are
/// left out too: chat completions are counted at their end, so one that breaks off is not.
fn plain(log: &[Value]) -> Vec<Value> {
    let failed = log.iter().any(|event| event["type"] == "span.model_request_end" && event["is_error"] == true);
    log.iter().map(|event| without(event, !failed)).collect()
}

fn without(value: &Value, with_tokens: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let same = |name: &str| {
                !["id", "_ids", "_at", "_seconds"].iter().any(|end| name.ends_with(end))
                    && (with_tokens || !name.ends_with("_tokens"))
            };
            let field = |(name, value): (&String, &Value)| {
                let value = if same(name) { without(value, with_tokens) } else { json!("…") };
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        Value::Array(items) => items.iter().map(|item| without(item, with_tokens)).collect(),
        other => other.clone(),
    }
}

/// The log of a turn in which an upstream of this dialect answers so.
async fn log_of(scenario: &Scenario, provider: Provider) -> Vec<Value> {
    let upstream = Upstream::speaking(provider, (scenario.answers)()).await;
    let log = log_with(vec![upstream.model()]).await;
    assert_eq!(upstream.asked().len(), (scenario.answers)().len(), "{}: each answer was asked for", scenario.what);
    log
}

/// The log of a turn of an agent on the model `house`.
async fn log_with(models: Vec<ModelConfig>) -> Vec<Value> {
    let rota = Rota::with(|config| config.models = models).await;
    let api = &rota.api;
    let agent = agent(api, json!({"model": "house", "system": "Be brief.", "tools": [toolset(), custom()]})).await;
    let parts = Parts { agent, environment: environment(api, "e").await };
    let session = parts.session_with(api, message("hello")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    whole_turn(&rota, id(&session), &mut stream).await
}

#[tokio::test]
async fn the_log_of_an_agent_is_the_same_whatever_its_upstream_speaks() {
    for scenario in SCENARIOS {
        let messages = log_of(scenario, Provider::Messages).await;
        let completions = log_of(scenario, Provider::OpenAi).await;
        let mut wanted = scenario.has.iter().peekable();
        for kind in kinds(&messages) {
            wanted.next_if(|next| **next == kind);
        }
        assert_eq!(wanted.peek(), None, "{}: {:?}", scenario.what, kinds(&messages));
        assert_eq!(plain(&completions), plain(&messages), "{}", scenario.what);
    }
}

#[tokio::test]
async fn the_log_of_a_fallback_is_the_same_whichever_dialect_fails() {
    let failures: [fn() -> Reply; 3] = [
        || Reply::Cut(vec![says("half")]),
        || Reply::Error(429, "", json!({"error": {"type": "rate_limit_error", "message": "slow down"}})),
        || Reply::Error(401, "", json!({"error": {"type": "authentication_error", "message": "no such key"}})),
    ];
    for failure in failures {
        let mut logs = Vec::new();
        for [own, other] in [[Provider::Messages, Provider::OpenAi], [Provider::OpenAi, Provider::Messages]] {
            let own = Upstream::speaking(own, [failure()]).await;
            let other = Upstream::speaking(other, [Reply::Message(vec![thinks("hm"), says("done")])]).await;
            let model = ModelConfig { fallbacks: vec!["other".to_owned()], ..own.model() };
            logs.push(plain(&log_with(vec![model, other.named("other")]).await));
        }
        assert_eq!(kinds(&logs[0]).iter().filter(|kind| **kind == "session.error").count(), 1);
        assert_eq!(logs[0], logs[1]);
    }
}

#[tokio::test]
async fn results_of_tools_go_back_under_the_ids_of_their_calls() {
    let answers = || {
        vec![
            Reply::Message(vec![says("I look."), calls("call_a", "bash", &json!({"command": "echo one"}))]),
            says_done(),
        ]
    };
    let upstream = Upstream::speaking(Provider::OpenAi, answers()).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let agent = agent(api, json!({"model": "house", "tools": [toolset()]})).await;
    let parts = Parts { agent, environment: environment(api, "e").await };
    let session = parts.session_with(api, message("hello")).await;
    let log = api.stream_from(id(&session), 0).await.turn().await;
    assert_eq!(text(first(&log, "agent.tool_result")), "one\n");
    let asked = upstream.asked();
    let (first, second) = (&asked[0], &asked[1]["messages"]);
    assert_eq!((&first["model"], &first["max_tokens"]), (&json!("house-1"), &json!(1000)));
    let tools = first["tools"].as_array().unwrap();
    assert!(tools.iter().all(|tool| tool["type"] == "function" && tool["function"]["parameters"]["type"] == "object"));
    assert_eq!(
        (&first["messages"][0]["role"], &first["messages"][1]),
        (&json!("system"), &json!({"role": "user", "content": "hello"}))
    );
    let call = &second[2]["tool_calls"][0];
    assert_eq!((&second[2]["content"], &call["function"]["name"]), (&json!("I look."), &json!("bash")));
    assert_eq!(second[3], json!({"role": "tool", "tool_call_id": call["id"], "content": "one\n"}));
}
