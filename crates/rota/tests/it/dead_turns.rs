//! Turns that die: what the client is told, and that the next one works.

use serde_json::{Value, json};

use crate::{
    given::{id, message},
    models::{asked, calls, check_pairs, says},
    stream::{first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
};

fn refuses(said: &str) -> Reply {
    Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": said}}))
}

/// A reply that ends within a call.
fn cut() -> Reply {
    Reply::Stopped(
        vec![says("I write it."), calls("toolu_1", "write", &json!({"file_path": "/workspace/a"}))],
        "max_tokens",
    )
}

/// What the upstream was sent with its request `number`, as a text for each message.
fn conversation(upstream: &Upstream, number: usize) -> Vec<String> {
    let asked = upstream.asked();
    let messages = asked[number]["messages"].as_array().unwrap();
    check_pairs(messages);
    let texts = |message: &Value| {
        let blocks = message["content"].as_array().unwrap().iter();
        blocks.filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join(", ")
    };
    messages.iter().map(texts).collect()
}

/// The error that ended a turn, and how it rests.
fn death(events: &[Value]) -> (&Value, &Value) {
    (&events.iter().rfind(|event| event["type"] == "session.error").unwrap()["error"], stop_reason(events))
}

#[tokio::test]
async fn a_message_that_the_model_refuses_is_in_the_log_and_is_not_sent_again() {
    let upstream = Upstream::start([
        Reply::Message(vec![says("hi")]),
        Reply::Message(vec![calls("toolu_1", "bash", &json!({"command": "echo seen"}))]),
        refuses("messages.3.content.0.image: not supported"),
        Reply::Message(vec![says("good")]),
    ])
    .await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    stream.turn().await;
    rota.api.events(id(&session), json!([message("bad")])).await;
    let events = stream.turn().await;
    let (error, stop) = death(&events);
    assert_eq!((&error["type"], &stop["type"]), (&json!("model_request_failed_error"), &json!("retries_exhausted")));
    rota.api.events(id(&session), json!([message("better")])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "good");
    assert_eq!(conversation(&upstream, 2), ["hello", "hi", "bad", "", ""]);
    assert_eq!(conversation(&upstream, 3), ["hello", "hi", "better"]);
    let log = rota.api.all(&format!("/v1/sessions/{}/events?types=user.message", id(&session)), 100).await;
    assert_eq!(log.iter().map(text).collect::<Vec<_>>(), ["hello", "bad", "better"]);
}

#[tokio::test]
async fn a_conversation_that_is_too_long_is_told_as_such_and_the_next_message_works() {
    let upstream = Upstream::start([
        refuses("prompt is too long: 210000 tokens > 200000 maximum"),
        Reply::Stopped(vec![calls("toolu_1", "bash", &json!({}))], "model_context_window_exceeded"),
        Reply::Message(vec![says("good")]),
    ])
    .await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    for next in ["longer", "shorter"] {
        let events = stream.turn().await;
        let (error, stop) = death(&events);
        assert_eq!(
            (&error["type"], &error["retry_status"]["type"], &stop["type"]),
            (&json!("compaction_limit_reached_error"), &json!("exhausted"), &json!("retries_exhausted"))
        );
        let told = error["message"].as_str().unwrap();
        assert!(told.starts_with("the conversation is longer than the model takes"), "{told}");
        rota.api.events(id(&session), json!([message(next)])).await;
    }
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "good");
    assert_eq!(conversation(&upstream, 2), ["shorter"]);
}

#[tokio::test]
async fn a_reply_that_is_cut_off_within_a_call_is_asked_for_again() {
    let upstream = Upstream::start([cut(), Reply::Message(vec![says("done")])]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    let frames = stream.until("session.status_rescheduled").await;
    let events: Vec<Value> = frames.into_iter().map(|frame| frame.event).collect();
    assert!(!kinds(&events).contains(&"agent.message"), "nothing of it is kept");
    let error = &first(&events, "session.error")["error"];
    assert_eq!(
        (&error["type"], &error["retry_status"]["type"]),
        (&json!("tool_use_limit_reached_error"), &json!("retrying"))
    );
    let end = first(&events, "span.model_request_end");
    assert_eq!((&end["is_error"], &end["model_usage"]["output_tokens"]), (&json!(true), &json!(7)));
    rota.advance_seconds(1);
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.message")), "done");
    assert_eq!(upstream.asked()[0], upstream.asked()[1]);
    let used = rota.api.get(&format!("/v1/sessions/{}", id(&session))).await["usage"]["output_tokens"].clone();
    assert_eq!(used, 14, "both replies cost something");
}

#[tokio::test]
async fn replies_that_are_all_cut_off_within_a_call_end_the_turn() {
    let upstream = Upstream::start([cut(), cut(), cut(), Reply::Message(vec![says("good")])]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    for _ in 0..2 {
        stream.until("session.status_rescheduled").await;
        rota.advance_seconds(60);
    }
    let events = stream.turn().await;
    let (error, stop) = death(&events);
    assert_eq!(
        (&error["type"], &error["retry_status"]["type"], &stop["type"]),
        (&json!("tool_use_limit_reached_error"), &json!("exhausted"), &json!("retries_exhausted"))
    );
    assert_eq!(upstream.asked().len(), 3);
    rota.api.events(id(&session), json!([message("smaller")])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "good");
    assert_eq!(conversation(&upstream, 3), ["hello, smaller"]);
}
