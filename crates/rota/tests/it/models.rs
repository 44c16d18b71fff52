//! Models behind the Messages API: what is sent to them, and what becomes of their failures.

use serde_json::{Value, json};

use crate::{
    given::{Parts, agent, environment, id, message, over, toolset},
    server::{Rota, appears},
    stream::{Stream, first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
};

/// A block of text.
pub fn says(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// A block that calls a tool.
pub fn calls(call: &str, tool: &str, input: &Value) -> Value {
    json!({"type": "tool_use", "id": call, "name": tool, "input": input})
}

fn overloaded() -> Reply {
    Reply::Error(529, "", json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}))
}

/// A server whose model `house` is answered for by `upstream`, and a session of an agent on it that begins with a
/// message, followed from its start.
pub async fn asked(upstream: &Upstream, changes: Value) -> (Rota, Value, Stream) {
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let base = json!({"model": "house", "system": "Be brief."});
    let agent = agent(&rota.api, over(base, &changes)).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("hello")).await;
    let stream = rota.api.stream_from(id(&session), 0).await;
    (rota, session, stream)
}

#[tokio::test]
async fn an_overloaded_model_is_asked_again_after_a_pause() {
    let upstream = Upstream::start([overloaded(), Reply::Message(vec![says("hi")])]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    let frames = stream.until("session.status_rescheduled").await;
    let events: Vec<Value> = frames.into_iter().map(|frame| frame.event).collect();
    let failed = [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "span.model_request_end",
        "session.error",
        "session.thread_status_rescheduled",
        "session.status_rescheduled",
    ];
    assert_eq!(kinds(&events), failed);
    assert_eq!(first(&events, "span.model_request_end")["is_error"], true);
    let error = &first(&events, "session.error")["error"];
    assert_eq!(
        (&error["type"], &error["retry_status"]["type"]),
        (&json!("model_overloaded_error"), &json!("retrying"))
    );
    assert!(error["message"].as_str().unwrap().contains("busy"), "{error}");
    let shown = rota.api.get(&format!("/v1/sessions/{}", id(&session))).await;
    assert_eq!(shown["status"], "rescheduling");
    assert_eq!(upstream.asked().len(), 1);

    rota.advance_seconds(1);
    let events = stream.turn().await;
    let mended = [
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ];
    assert_eq!(kinds(&events), mended);
    assert_eq!(text(first(&events, "agent.message")), "hi");
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    let used = &first(&events, "session.usage")["usage"];
    assert_eq!((&used["input_tokens"], &used["output_tokens"]), (&json!(5), &json!(7)));
    let asked = upstream.asked();
    assert_eq!(asked[0], asked[1], "the same request is made again");
}

#[tokio::test]
async fn a_model_that_stays_overloaded_ends_the_turn_and_a_later_message_works() {
    let script = std::iter::repeat_with(overloaded).take(5).chain([Reply::Message(vec![says("back")])]);
    let upstream = Upstream::start(script).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    for _ in 0..4 {
        stream.until("session.status_rescheduled").await;
        rota.advance_seconds(60);
    }
    let events = stream.turn().await;
    let error = &first(&events, "session.error")["error"];
    assert_eq!(error["retry_status"]["type"], "exhausted");
    let end = ["session.error", "session.thread_status_idle", "session.usage", "session.status_idle"];
    assert_eq!(kinds(&events)[4..], end);
    assert_eq!(stop_reason(&events)["type"], "retries_exhausted");
    assert_eq!(upstream.asked().len(), 5);
    rota.api.events(id(&session), json!([message("again")])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "back");
    let messages = upstream.asked()[5]["messages"].clone();
    assert_eq!(messages.as_array().unwrap().len(), 1, "what was said stands in one message of the user: {messages}");
}

#[tokio::test]
async fn a_request_that_the_model_refuses_is_not_made_again() {
    let refusals = [
        (401, "authentication_error", "model_request_failed_error"),
        (400, "invalid_request_error", "model_request_failed_error"),
        (402, "billing_error", "billing_error"),
    ];
    for (status, kind, told) in refusals {
        let error = json!({"type": "error", "error": {"type": kind, "message": "no"}});
        let upstream = Upstream::start([Reply::Error(status, "", error)]).await;
        let (_rota, _session, mut stream) = asked(&upstream, json!({})).await;
        let events = stream.turn().await;
        let error = &first(&events, "session.error")["error"];
        assert_eq!((&error["type"], &error["retry_status"]["type"]), (&json!(told), &json!("exhausted")));
        assert_eq!(stop_reason(&events)["type"], "retries_exhausted");
        assert_eq!(upstream.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_rate_limit_is_told_as_one() {
    let error = json!({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}});
    let limited = Reply::Error(429, "retry-after: 30\r\n", error);
    let upstream = Upstream::start([limited, Reply::Message(vec![says("hi")])]).await;
    let (rota, _session, mut stream) = asked(&upstream, json!({})).await;
    let frames = stream.until("session.status_rescheduled").await;
    let error = frames.iter().find(|frame| frame.kind() == "session.error").unwrap();
    assert_eq!(error.event["error"]["type"], "model_rate_limited_error");
    rota.advance_seconds(30);
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "hi");
}

#[tokio::test]
async fn an_interrupt_ends_the_wait_for_a_model() {
    for script in [overloaded(), Reply::Stall] {
        let retries = matches!(script, Reply::Error(..));
        let upstream = Upstream::start([script, Reply::Message(vec![says("hi")])]).await;
        let (rota, session, mut stream) = asked(&upstream, json!({})).await;
        stream.until(if retries { "session.status_rescheduled" } else { "span.model_request_start" }).await;
        rota.api.events(id(&session), json!([{"type": "user.interrupt"}])).await;
        let events = stream.turn().await;
        assert_eq!(stop_reason(&events)["type"], "end_turn");
        assert!(!kinds(&events).contains(&"agent.message"));
        let log = rota.api.all(&format!("/v1/sessions/{}/events", id(&session)), 1000).await;
        let count = |kind: &str| kinds(&log).iter().filter(|k| **k == kind).count();
        assert_eq!(count("span.model_request_start"), count("span.model_request_end"), "each request ends");
    }
}

#[tokio::test]
async fn the_conversation_that_is_sent_is_well_formed_and_cached() {
    let upstream = Upstream::start([
        Reply::Message(vec![
            says("Two things at once."),
            calls("toolu_1", "bash", &json!({"command": "echo one"})),
            calls("toolu_2", "bash", &json!({"command": "echo two; exit 1"})),
        ]),
        Reply::Message(vec![says("Done.")]),
        Reply::Message(vec![says("Bye.")]),
    ])
    .await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    let events = stream.turn().await;
    let results: Vec<&Value> = events.iter().filter(|event| event["type"] == "agent.tool_result").collect();
    assert_eq!(results.len(), 2);
    rota.api.events(id(&session), json!([message("and now?")])).await;
    stream.turn().await;

    let asked = upstream.asked();
    assert_eq!(asked.len(), 3);
    for request in &asked {
        assert_eq!(
            (&request["model"], &request["stream"], &request["max_tokens"]),
            (&json!("house-1"), &json!(true), &json!(1000))
        );
        let system = request["system"][0]["text"].as_str().unwrap();
        assert!(system.starts_with("Be brief.\n\n") && system.contains("\n\n## Network\n"), "{system}");
        assert!(request.to_string().matches("cache_control").count() <= 4);
        assert!(request["system"][0]["cache_control"].is_object());
        assert!(request["tools"].as_array().unwrap().last().unwrap()["cache_control"].is_object());
        assert_eq!(request["tools"], asked[0]["tools"], "the tools never change their order");
        check_pairs(request["messages"].as_array().unwrap());
    }
    let first_two = |request: &Value| without_marks(request["messages"].clone());
    let (early, late) = (first_two(&asked[1]), first_two(&asked[2]));
    let early = early.as_array().unwrap();
    assert_eq!(late.as_array().unwrap()[..early.len()], early[..], "what was sent before is sent again unchanged");
    let said: Vec<&str> = early[1]["content"].as_array().unwrap().iter().map(|b| b["type"].as_str().unwrap()).collect();
    assert_eq!(said, ["text", "tool_use", "tool_use"]);
    let answers = early[2]["content"].as_array().unwrap();
    assert!(answers[0]["content"][0]["text"].as_str().unwrap().contains("one"));
    assert_eq!(answers[1]["is_error"], true);
}

/// Roles alternate from the user on, nothing is empty, and the calls of a message are answered by the next one.
pub fn check_pairs(messages: &[Value]) {
    let ids = |message: &Value, kind: &str, field: &str| -> Vec<String> {
        let blocks = message["content"].as_array().unwrap().iter().filter(|block| block["type"] == kind);
        blocks.map(|block| block[field].as_str().unwrap().to_owned()).collect()
    };
    let mut called = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        assert_eq!(message["role"], if i % 2 == 0 { "user" } else { "assistant" });
        assert!(!message["content"].as_array().unwrap().is_empty());
        let mut answered = ids(message, "tool_result", "tool_use_id");
        answered.sort();
        called.sort();
        assert_eq!(answered, called, "message {i} answers the calls before it");
        called = ids(message, "tool_use", "id");
    }
    assert_eq!(messages.last().unwrap()["role"], "user");
    assert!(messages.last().unwrap()["content"].to_string().contains("cache_control"));
}

/// `value` without what marks the parts of a request that are cached.
pub fn without_marks(mut value: Value) -> Value {
    match &mut value {
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_marks(item.take())),
        Value::Object(map) => {
            map.remove("cache_control");
            map.values_mut().for_each(|item| *item = without_marks(item.take()));
        }
        _ => {}
    }
    value
}

#[tokio::test]
async fn a_call_of_a_tool_that_is_not_there_is_denied_and_told_to_the_model() {
    let upstream = Upstream::start([
        Reply::Message(vec![calls("toolu_1", "teleport", &json!({"to": "Rome"}))]),
        Reply::Message(vec![says("Sorry.")]),
    ])
    .await;
    let (_rota, _session, mut stream) = asked(&upstream, json!({})).await;
    let events = stream.turn().await;
    let call = first(&events, "agent.tool_use");
    assert_eq!((&call["evaluated_permission"], &call["input"]), (&json!("deny"), &json!({"to": "Rome"})));
    let result = first(&events, "agent.tool_result");
    assert_eq!((text(result), &result["is_error"]), ("The agent has no tool named \"teleport\".", &json!(true)));
    assert_eq!(text(first(&events, "agent.message")), "Sorry.");
    check_pairs(upstream.asked()[1]["messages"].as_array().unwrap());
}

#[tokio::test]
async fn a_call_with_arguments_that_do_not_fit_is_told_to_the_model() {
    let upstream = Upstream::start([
        Reply::Message(vec![calls("toolu_1", "read", &json!({"nothing": 1}))]),
        Reply::Message(vec![says("Sorry.")]),
    ])
    .await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    let events = stream.turn().await;
    assert_eq!(first(&events, "agent.tool_result")["is_error"], true);
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    assert!(!rota.workspace_file(id(&session), "").exists(), "no sandbox was needed");
}

#[tokio::test]
async fn an_answer_to_one_of_two_waiting_calls_leaves_the_other_waiting() {
    let upstream = Upstream::start([
        Reply::Message(vec![
            calls("toolu_1", "bash", &json!({"command": "touch one"})),
            calls("toolu_2", "bash", &json!({"command": "touch two"})),
        ]),
        Reply::Message(vec![says("Done.")]),
    ])
    .await;
    let asks = json!({"default_config": {"permission_policy": {"type": "always_ask"}}});
    let (rota, session, mut stream) = asked(&upstream, json!({"tools": [over(toolset(), &asks)]})).await;
    let events = stream.turn().await;
    let waiting = stop_reason(&events)["event_ids"].as_array().unwrap().clone();
    assert_eq!(waiting.len(), 2);
    let answer = |place: usize, result: &str| json!([{"type": "user.tool_confirmation", "tool_use_id": waiting[place], "result": result}]);
    rota.api.events(id(&session), answer(1, "allow")).await;
    let events = stream.turn().await;
    assert_eq!(*stop_reason(&events), json!({"type": "requires_action", "event_ids": [waiting[0]]}));
    assert!(!kinds(&events).contains(&"agent.message"));
    assert_eq!(rota.api.get(&format!("/v1/sessions/{}", id(&session))).await["status"], "idle");
    rota.api.events(id(&session), answer(0, "deny")).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.message")), "Done.");
    assert!(rota.workspace_file(id(&session), "two").exists());
    assert!(!rota.workspace_file(id(&session), "one").exists());
    check_pairs(upstream.asked()[1]["messages"].as_array().unwrap());
}

#[tokio::test]
async fn a_reply_that_is_cut_off_leaves_nothing_and_is_asked_for_again() {
    let upstream = Upstream::start([Reply::Cut(vec![says("half a")]), Reply::Message(vec![says("whole")])]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    stream.until("session.status_rescheduled").await;
    rota.advance_seconds(1);
    stream.turn().await;
    let log = rota.api.all(&format!("/v1/sessions/{}/events", id(&session)), 1000).await;
    let said: Vec<&str> = log.iter().filter(|event| event["type"] == "agent.message").map(text).collect();
    assert_eq!(said, ["whole"]);
    assert_eq!(first(&log, "session.error")["error"]["type"], "model_overloaded_error");
}

#[tokio::test]
async fn a_refusal_is_told_as_the_reason_to_rest() {
    let upstream = Upstream::start([Reply::Refusal, Reply::Message(vec![says("but this")])]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    let events = stream.turn().await;
    assert_eq!(*stop_reason(&events), json!({"type": "refusal"}));
    assert_eq!(events.last().unwrap()["stop_details"]["type"], "refusal");
    rota.api.events(id(&session), json!([message("something else")])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "but this");
    check_pairs(upstream.asked()[1]["messages"].as_array().unwrap());
}

#[tokio::test]
async fn a_conversation_that_was_interrupted_is_well_formed_when_it_goes_on() {
    let custom = json!({"type": "custom", "name": "weather", "description": "d", "input_schema": {"type": "object"}});
    let waits = json!({"command": "touch started; sleep 600"});
    let first_reply = |tool: &str, input: &Value| Reply::Message(vec![says("Wait."), calls("toolu_1", tool, input)]);
    for (tool, input) in [("weather", json!({})), ("bash", waits)] {
        let upstream = Upstream::start([first_reply(tool, &input), Reply::Message(vec![says("Yes.")])]).await;
        let (rota, session, mut stream) = asked(&upstream, json!({"tools": [toolset(), custom]})).await;
        if tool == "bash" {
            appears(rota.workspace_file(id(&session), "started")).await;
        } else {
            stream.turn().await;
        }
        rota.api.events(id(&session), json!([{"type": "user.interrupt"}, message("still there?")])).await;
        let events = stream.turn().await;
        assert_eq!(text(events.iter().rfind(|event| event["type"] == "agent.message").unwrap()), "Yes.");
        let asked = upstream.asked();
        let messages = asked[1]["messages"].as_array().unwrap();
        check_pairs(messages);
        let last = messages.last().unwrap()["content"].as_array().unwrap();
        let interrupted = "Tool execution was interrupted before completion. Please retry.";
        assert_eq!(last[0]["content"][0]["text"], interrupted);
        assert_eq!(last.last().unwrap()["text"], "still there?");
    }
}

#[tokio::test]
async fn images_and_documents_reach_the_model_as_they_were_sent() {
    let upstream = Upstream::start([Reply::Message(vec![says("hi")]), Reply::Message(vec![says("Nice.")])]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    stream.turn().await;
    let image = json!({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}});
    let document = json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}});
    let content = json!([image, document, says("What is it?")]);
    rota.api.events(id(&session), json!([{"type": "user.message", "content": content}])).await;
    stream.turn().await;
    assert_eq!(without_marks(upstream.asked()[1]["messages"][2]["content"].clone()), content);
}
