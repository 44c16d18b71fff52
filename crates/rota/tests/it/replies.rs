//! Replies of models that have many blocks: each becomes an event, in its place.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    given::{Parts, agent, environment, id, message, toolset},
    models::{asked, calls, check_pairs, says, without_marks},
    server::Rota,
    stream::{Stream, first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
};

fn thinks(thought: &str) -> Value {
    json!({"type": "thinking", "thinking": thought, "signature": "c2ln"})
}

#[tokio::test]
async fn blocks_that_alternate_keep_their_order_in_the_log_and_in_the_conversation() {
    let blocks = vec![
        thinks("two things"),
        says("First."),
        calls("toolu_1", "bash", &json!({"command": "echo one"})),
        says("Between."),
        thinks("one more"),
        calls("toolu_2", "teleport", &json!({})),
        says("Last."),
        calls("toolu_3", "bash", &json!({"command": "echo two"})),
    ];
    let upstream = Upstream::start([Reply::Message(blocks.clone()), Reply::Message(vec![says("Done.")])]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session(&rota.api, json!({})).await;
    let deltas = "event_deltas[]=agent.message&event_deltas[]=agent.thinking";
    let path = format!("/v1/sessions/{}/events/stream?{deltas}", id(&session));
    let mut stream = Stream::open(rota.api.request(Method::GET, &path)).await;
    rota.api.events(id(&session), json!([message("hello")])).await;

    let turn = stream.turn().await;
    let (previews, log): (Vec<_>, Vec<_>) =
        turn.into_iter().partition(|event| event["type"].as_str().unwrap().starts_with("event_"));
    let expected = [
        "span.model_request_start",
        "agent.thinking",
        "agent.message",
        "agent.tool_use",
        "agent.message",
        "agent.thinking",
        "agent.tool_use",
        "agent.message",
        "agent.tool_use",
        "span.model_request_end",
        "agent.tool_result",
    ];
    let from = log.iter().position(|event| event["type"] == expected[0]).unwrap();
    assert_eq!(kinds(&log[from..])[..expected.len()], expected);
    let said: Vec<_> = log.iter().filter(|event| event["type"] == "agent.message").map(text).collect();
    assert_eq!(said, ["First.", "Between.", "Last.", "Done."]);
    let previewed: Vec<_> = previews.iter().filter_map(|event| event["event"]["id"].as_str()).collect();
    let shown = |event: &&Value| ["agent.message", "agent.thinking"].contains(&event["type"].as_str().unwrap());
    assert_eq!(previewed, log.iter().filter(shown).map(id).collect::<Vec<_>>(), "each under the id of its preview");

    let sent = without_marks(upstream.asked()[1]["messages"].clone());
    let mut sent_back = sent[1]["content"].as_array().unwrap().clone();
    let call_ids: Vec<_> = log.iter().filter(|event| event["type"] == "agent.tool_use").map(id).collect();
    let sent_ids: Vec<_> = sent_back.iter().filter_map(|block| block["id"].as_str()).collect();
    assert_eq!(sent_ids, call_ids);
    let names = blocks.iter().filter(|block| block["type"] == "tool_use").map(|block| block["id"].clone());
    sent_back
        .iter_mut()
        .filter(|block| block["type"] == "tool_use")
        .zip(names)
        .for_each(|(block, name)| block["id"] = name);
    assert_eq!(sent_back, blocks);
    check_pairs(upstream.asked()[1]["messages"].as_array().unwrap());
}

#[tokio::test]
async fn thoughts_are_not_shown_and_are_sent_back_as_they_were() {
    let thought = thinks("hm, a list");
    let upstream = Upstream::start([
        Reply::Message(vec![thought.clone(), calls("toolu_1", "bash", &json!({"command": "ls"}))]),
        Reply::Message(vec![says("Done.")]),
    ])
    .await;
    let (_rota, _session, mut stream) = asked(&upstream, json!({})).await;
    let events = stream.turn().await;
    assert!(kinds(&events).contains(&"agent.thinking"));
    assert!(!json!(events).to_string().contains("hm, a list"));
    assert_eq!(upstream.asked()[1]["messages"][1]["content"][0], thought);
}

#[tokio::test]
async fn calls_of_every_kind_in_one_reply_are_each_answered_once() {
    let custom = json!({"type": "custom", "name": "weather", "description": "d", "input_schema": {"type": "object"}});
    let upstream = Upstream::start([
        Reply::Message(vec![
            calls("toolu_1", "weather", &json!({"city": "Rome"})),
            calls("toolu_2", "bash", &json!({"command": "echo one"})),
            calls("toolu_3", "teleport", &json!({})),
            calls("toolu_4", "bash", &json!({"command": "echo two"})),
        ]),
        Reply::Message(vec![says("Done.")]),
    ])
    .await;
    let (rota, session, mut stream) = asked(&upstream, json!({"tools": [toolset(), custom]})).await;
    let events = stream.turn().await;
    let call = first(&events, "agent.custom_tool_use");
    assert_eq!(*stop_reason(&events), json!({"type": "requires_action", "event_ids": [id(call)]}));
    let results = events.iter().filter(|event| event["type"] == "agent.tool_result").count();
    assert_eq!(results, 3, "what need not wait has run");
    rota.api.events(id(&session), json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id(call)}])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "Done.");
    check_pairs(upstream.asked()[1]["messages"].as_array().unwrap());
}
