//! Models with several upstreams: which one is asked, what is said of one that fails, and what another one is sent.

use std::collections::VecDeque;

use reqwest::Method;
use rota_server::config::{ModelConfig, Provider};
use serde_json::{Value, json};

use crate::{
    dialects::whole_turn,
    given::{Parts, agent, environment, id, message, toolset},
    models::{calls, says},
    server::Rota,
    stream::{Stream, first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
};

/// What an upstream says that is overloaded, or that does not take the key.
fn refuses(status: u16, kind: &str) -> Reply {
    Reply::Error(status, "", json!({"type": "error", "error": {"type": kind, "message": "no"}}))
}

fn busy() -> Reply {
    refuses(529, "overloaded_error")
}

fn thinks(text: &str, signature: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": signature})
}

/// A model `house` that falls back to a model `second`.
fn two(first: &Upstream, second: &Upstream) -> Vec<ModelConfig> {
    let fallbacks = vec!["second".to_owned()];
    vec![ModelConfig { fallbacks, ..first.named("house") }, second.named("second")]
}

/// A server with the two, and a session of an agent on `house` that has nothing to do.
async fn session_on(first: &Upstream, second: &Upstream) -> (Rota, String, Stream) {
    let rota = Rota::with(|config| config.models = two(first, second)).await;
    let agent = agent(&rota.api, json!({"model": "house", "tools": [toolset()]})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = id(&parts.session(&rota.api, json!({})).await).to_owned();
    let stream = rota.api.stream_from(&session, 0).await;
    (rota, session, stream)
}

async fn says_to(rota: &Rota, session: &str, text: &str) {
    rota.api.events(session, json!([message(text)])).await;
}

fn said(events: &[Value]) -> Vec<&str> {
    events.iter().filter(|event| event["type"] == "agent.message").map(text).collect()
}

#[tokio::test]
async fn another_upstream_is_asked_at_once_and_the_first_one_is_left_alone_for_a_while() {
    let one = Upstream::start([busy(), Reply::Message(vec![says("one is back")])]).await;
    let second =
        Upstream::speaking(Provider::OpenAi, ["two", "three"].map(|text| Reply::Message(vec![says(text)]))).await;
    let (rota, session, mut stream) = session_on(&one, &second).await;
    says_to(&rota, &session, "hello").await;
    let events = stream.turn().await;
    let expected = [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "span.model_request_end",
        "session.error",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ];
    assert_eq!(kinds(&events), expected, "nothing waits");
    let error = &first(&events, "session.error")["error"];
    assert_eq!(
        (&error["type"], &error["retry_status"]["type"]),
        (&json!("model_overloaded_error"), &json!("retrying"))
    );
    assert!(error["message"].as_str().unwrap().ends_with("; \"second\" is asked in its place"), "{error}");
    assert_eq!(second.asked()[0]["model"], "second-1");

    says_to(&rota, &session, "again").await;
    let events = stream.turn().await;
    assert_eq!((said(&events), kinds(&events).contains(&"session.error")), (vec!["three"], false));
    assert_eq!(one.asked().len(), 1, "it was not looked at again yet");

    let metrics = rota.api.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for (upstream, outcome) in [("house", "overloaded"), ("second", "ok")] {
        let counted =
            format!(r#"rota_model_requests_total{{model="house",upstream="{upstream}",outcome="{outcome}"}}"#);
        assert!(metrics.contains(&counted), "{counted}");
    }

    rota.advance_seconds(15);
    says_to(&rota, &session, "and now").await;
    assert_eq!(said(&stream.turn().await), ["one is back"]);
    assert_eq!((one.asked().len(), second.asked().len()), (2, 2));
}

#[tokio::test]
async fn a_key_that_is_wrong_is_said_and_the_next_upstream_is_asked() {
    for (status, kind, told) in [
        (401, "authentication_error", "model_request_failed_error"),
        (404, "not_found_error", "model_request_failed_error"),
        (402, "billing_error", "billing_error"),
        (429, "rate_limit_error", "model_rate_limited_error"),
    ] {
        let one = Upstream::start([refuses(status, kind)]).await;
        let second = Upstream::start([Reply::Message(vec![says("two")])]).await;
        let (rota, session, mut stream) = session_on(&one, &second).await;
        says_to(&rota, &session, "hello").await;
        let events = stream.turn().await;
        let error = &first(&events, "session.error")["error"];
        assert_eq!((&error["type"], &error["retry_status"]["type"]), (&json!(told), &json!("retrying")), "{status}");
        assert_eq!(said(&events), ["two"]);
    }
}

#[tokio::test]
async fn what_the_model_itself_does_not_take_is_asked_nowhere_else() {
    for (status, kind) in [(400, "invalid_request_error"), (413, "request_too_large")] {
        let one = Upstream::start([refuses(status, kind)]).await;
        let second = Upstream::start([]).await;
        let (rota, session, mut stream) = session_on(&one, &second).await;
        says_to(&rota, &session, "hello").await;
        assert_eq!(stop_reason(&stream.turn().await)["type"], "retries_exhausted", "{status}");
        assert_eq!(second.asked().len(), 0);
    }
}

#[tokio::test]
async fn a_reply_that_breaks_in_the_middle_is_asked_anew() {
    let one = Upstream::start([Reply::Cut(vec![says("half a")])]).await;
    let second = Upstream::start([Reply::Message(vec![says("a whole")])]).await;
    let (rota, session, mut stream) = session_on(&one, &second).await;
    says_to(&rota, &session, "hello").await;
    let events = stream.turn().await;
    assert_eq!(said(&events), ["a whole"]);
    assert_eq!(one.asked()[0]["messages"], second.asked()[0]["messages"]);
    let spent: Vec<_> = events.iter().filter(|event| event["type"] == "span.model_request_end").collect();
    assert_eq!(
        spent.iter().map(|end| &end["is_error"]).collect::<Vec<_>>(),
        [&json!(true), &json!(false)],
        "what the half cost is counted"
    );
    assert_eq!(first(&events, "session.usage")["usage"]["input_tokens"], 10);
}

#[tokio::test]
async fn a_try_is_all_upstreams_and_one_that_can_pass_is_worth_another() {
    // The key of the fallback is wrong for good; it is not looked at again soon.
    let one = Upstream::start([busy(), busy(), Reply::Message(vec![says("back")])]).await;
    let second = Upstream::start([refuses(401, "authentication_error")]).await;
    let (rota, session, mut stream) = session_on(&one, &second).await;
    says_to(&rota, &session, "hello").await;
    for _ in 0..2 {
        stream.until("session.status_rescheduled").await;
        rota.advance_seconds(60);
    }
    assert_eq!(said(&stream.turn().await), ["back"]);
    assert_eq!((one.asked().len(), second.asked().len()), (3, 1));
}

#[tokio::test]
async fn when_all_upstreams_stay_down_the_tries_end_as_with_one() {
    let script = || std::iter::repeat_with(busy).take(20);
    let (one, second) = (Upstream::start(script()).await, Upstream::start(script()).await);
    let (rota, session, mut stream) = session_on(&one, &second).await;
    says_to(&rota, &session, "hello").await;
    for _ in 0..4 {
        stream.until("session.status_rescheduled").await;
        rota.advance_seconds(60);
    }
    assert_eq!(stop_reason(&stream.turn().await)["type"], "retries_exhausted");
}

#[tokio::test]
async fn thoughts_go_back_to_the_upstream_that_had_them_and_to_no_other() {
    let look = |n: usize| calls(&format!("toolu_{n}"), "glob", &json!({"pattern": "*"}));
    let one = Upstream::start([
        Reply::Message(vec![thinks("zyzzyva", "c2ln"), look(1)]),
        busy(),
        Reply::Message(vec![says("I am back.")]),
    ])
    .await;
    let second = Upstream::speaking(
        Provider::OpenAi,
        [Reply::Message(vec![thinks("quokka", ""), look(2)]), Reply::Message(vec![says("done")])],
    )
    .await;
    let rota = Rota::with(|config| {
        config.models = two(&one, &second);
        config.models[1].reasoning_field = Some(rota_server::config::ReasoningFieldConfig::Reasoning);
    })
    .await;
    let agent = agent(&rota.api, json!({"model": "house", "tools": [toolset()]})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("hello")).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    assert_eq!(said(&stream.turn().await), ["done"]);
    let to_second = second.asked();
    let thought: Vec<_> = to_second[1]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|message| message["reasoning"].as_str())
        .collect();
    assert_eq!(thought, ["quokka"]);
    assert!(!to_second[1].to_string().contains("zyzzyva") && !to_second[1].to_string().contains("c2ln"));
    rota.advance_seconds(15);
    says_to(&rota, id(&session), "and?").await;
    assert_eq!(said(&stream.turn().await), ["I am back."]);
    let sent = one.asked()[2]["messages"].to_string();
    assert!(sent.contains("zyzzyva") && sent.contains("c2ln") && !sent.contains("quokka"), "{sent}");
}

#[tokio::test]
async fn a_session_of_a_deployment_outlasts_a_night_in_which_both_upstreams_come_and_go() {
    let mut outages: VecDeque<Reply> = VecDeque::new();
    outages.extend((0..30).map(|_| Reply::Nothing));
    outages.push_back(Reply::Message(vec![says("up")]));
    let one = Upstream::start(outages).await;
    let second = Upstream::answering(Provider::OpenAi, |_| refuses(503, "api_error")).await;
    let rota = Rota::with(|config| {
        config.models = two(&one, &second);
        config.engine.unattended_model_tries = 40;
    })
    .await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let deployment = parts.deployment(&rota.api, json!({"initial_events": [message("hello")]})).await;
    let run = rota.api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let session = run["session_id"].as_str().unwrap();
    let mut stream = rota.api.stream_from(session, 0).await;
    let log = whole_turn(&rota, session, &mut stream).await;
    assert_eq!((said(&log), stop_reason(&log)["type"].as_str()), (vec!["up"], Some("end_turn")));
}
