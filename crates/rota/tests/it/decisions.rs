//! Who allowed and denied calls of tools, by the audit list.

use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, message, over, toolset},
    policies::set_policy,
    schedules::path,
    server::Rota,
};

const AUDIT: &str = "/rota/v1/audit";

/// Parts whose agent asks before it writes.
async fn asking(api: &Api) -> Parts {
    let asks = json!({"name": "write", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [asks]}))]);
    Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await }
}

fn writes() -> Value {
    message("```write\n{\"file_path\": \"/workspace/a\", \"content\": \"a\"}\n```")
}

/// The call of a session that waits for a decision.
async fn call(api: &Api, session: &str) -> String {
    let events = api.stream_from(session, 0).await.turn().await;
    let asked: Vec<&Value> = events.iter().filter(|event| event["type"] == "agent.tool_use").collect();
    let [asked] = asked[..] else { panic!("one call waits: {events:?}") };
    id(asked).to_owned()
}

fn decides(call: &str, result: &str) -> Value {
    json!({"type": "user.tool_confirmation", "tool_use_id": call, "result": result})
}

/// The rows of decisions, newest first.
async fn decisions(api: &Api) -> Vec<Value> {
    api.all(&format!("{AUDIT}?resource_type=tool_call"), 100).await
}

#[tokio::test]
async fn each_decision_on_a_call_is_in_the_audit_list_with_its_key_and_once() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = asking(api).await;
    let key = rota.server.first_key.as_ref().unwrap().id.to_string();
    for (count, result) in [(1, "allow"), (2, "deny")] {
        let session = parts.session_with(api, writes()).await;
        let session = id(&session);
        let asked = call(api, session).await;
        let events = format!("/v1/sessions/{session}/events");
        let twice = json!({"events": [decides(&asked, result), decides(&asked, "deny")]});
        let said =
            format!("Invalid user.tool_confirmation event at events[1]: `{asked}` is not an event that waits for it");
        assert_eq!(api.post_refused(&events, twice).await, invalid(said));
        assert_eq!(decisions(api).await.len(), count - 1, "what is refused decides nothing");

        rota.advance_seconds(1);
        api.events(session, json!([decides(&asked, result)])).await;
        api.post_refused(&events, json!({"events": [decides(&asked, "deny")]})).await;
        let rows = decisions(api).await;
        assert_eq!(rows.len(), count, "a call is decided on once");
        let row = &rows[0];
        assert_eq!(row["operation"], format!("sessions.tool_calls.{result}"));
        assert_eq!(row["resource"], json!({"type": "tool_call", "id": asked, "parent_id": session}));
        assert_eq!(row["actor"], json!({"type": "api_key", "id": key}));
        assert!(row["request_id"].is_string() && row["changed_fields"].is_null(), "{row:#}");
        assert_eq!(api.all(&format!("{AUDIT}?resource_id={asked}"), 10).await, rows[..1]);
        assert!(api.all(&format!("{AUDIT}?actor_id={key}"), 100).await.contains(row));
    }
    assert_eq!(decisions(&rota.other_workspace().await).await, [] as [Value; 0]);
}

#[tokio::test]
async fn what_a_policy_denies_it_denied() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = asking(api).await;
    let made = parts.deployment(api, json!({"initial_events": [writes()]})).await;
    set_policy(api, &made, json!({"unattended": {"answer_within_seconds": 60}})).await;
    let run = api.call(&format!("{}/run", path(&made))).await;
    let asked = call(api, run["session_id"].as_str().unwrap()).await;
    rota.advance_seconds(61);
    rota.meet_deadlines().await;
    let rows =
        api.once(&format!("{AUDIT}?resource_id={asked}"), |page| !page["data"].as_array().unwrap().is_empty()).await;
    let rows = rows["data"].as_array().unwrap();
    let [row] = &rows[..] else { panic!("it is denied once: {rows:#?}") };
    assert_eq!(row["operation"], "sessions.tool_calls.deny");
    assert_eq!((&row["actor"], &row["request_id"]), (&json!({"type": "policy", "id": null}), &Value::Null));
}
