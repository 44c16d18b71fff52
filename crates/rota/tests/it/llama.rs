//! An agent on llama.cpp's own server: its stream, its template and its reader of calls, with a small model that knows its answers.

use rota_server::config::{ModelConfig, Provider};
use serde_json::json;

use crate::{
    given::{Parts, agent, environment, id, message, model, over, toolset},
    server::Rota,
    stream::{first, kinds, stop_reason, text},
};

/// The address of the server.
fn address() -> String {
    std::env::var("ROTA_TEST_LLAMA").expect("ROTA_TEST_LLAMA: tests/with-llama sets it")
}

#[tokio::test]
#[ignore = "needs llama.cpp's server: tests/with-llama cargo test -p rota --test it llama -- --include-ignored"]
async fn an_agent_calls_a_tool_and_reads_its_result_on_a_real_server() {
    let house = ModelConfig {
        upstream: Some("by-heart".to_owned()),
        base_url: Some(address()),
        ..model("house", Provider::OpenAi)
    };
    let rota = Rota::with(|config| config.models = vec![house]).await;
    // One tool: the model reads letter by letter.
    let only_bash = json!({"default_config": {"enabled": false}, "configs": [{"name": "bash", "enabled": true}]});
    let tools = json!([over(toolset(), &only_bash)]);
    let agent = agent(&rota.api, json!({"model": "house", "system": "Be brief.", "tools": tools})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("What does the model say?")).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    let call = first(&events, "agent.tool_use");
    assert_eq!((&call["name"], &call["input"]), (&json!("bash"), &json!({"command": "echo from the model"})));
    assert_eq!(text(first(&events, "agent.tool_result")), "from the model\n");
    assert_eq!(text(first(&events, "agent.message")), "It said so.");
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    let usage = &first(&events, "session.usage")["usage"];
    assert!(usage["input_tokens"].as_u64().unwrap() > 100 && usage["output_tokens"] == 20, "{usage}");
    assert!(!kinds(&events).contains(&"session.error"));

    // A second turn holds the whole conversation.
    rota.api.events(id(&session), json!([message("And again?")])).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.message")), "It said so.");
}

#[tokio::test]
#[ignore = "needs llama.cpp's server: tests/with-llama cargo test -p rota --test it llama -- --include-ignored"]
async fn the_look_at_a_real_server_finds_its_model() {
    let config = |name: &str| ModelConfig {
        upstream: Some(name.to_owned()),
        base_url: Some(address()),
        ..model(name, Provider::OpenAi)
    };
    let offer = rota_server::model::Offer::new(&[config("by-heart"), config("other")]).unwrap();
    let looked = offer.look().await;
    assert_eq!(looked.len(), 1, "one address is looked at once");
    assert_eq!((&looked[0].wrong, &looked[0].unlisted), (&None, &vec!["other".to_owned()]));
}
