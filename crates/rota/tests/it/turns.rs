//! Turns of the playbook: the order of events, permissions, custom tools, interrupts, messages that wait.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, message, over, script, toolset},
    server::{Rota, appears},
    stream::{first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
    workers::Site,
};

async fn status(api: &Api, session: &Value) -> Value {
    api.get(&format!("/v1/sessions/{}", id(session))).await["status"].clone()
}

/// The event of type `kind` that answers `to`.
fn confirmation(to: &Value, changes: &Value) -> Value {
    over(json!({"type": "user.tool_confirmation", "tool_use_id": id(to)}), changes)
}

/// An agent whose `bash` waits for a confirmation, in a sandbox.
async fn asking(api: &Api) -> Parts {
    let config = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [config]}))]);
    Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await }
}

#[tokio::test]
async fn a_turn_has_its_events_in_the_documented_order_and_idle_is_true_when_it_is_told() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("echo hello; echo oops >&2; exit 3")).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    assert_eq!(status(&rota.api, &session).await, "idle");
    let turn = [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "agent.tool_use",
        "span.model_request_end",
        "agent.tool_result",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ];
    assert_eq!(kinds(&events), turn);
    let call = first(&events, "agent.tool_use");
    assert_eq!((&call["name"], &call["evaluated_permission"]), (&json!("bash"), &json!("allow")));
    assert_eq!(
        (&call["evaluation"]["type"], &call["input"]["command"]),
        (&json!("always_allow"), &json!("echo hello; echo oops >&2; exit 3"))
    );
    let result = first(&events, "agent.tool_result");
    assert_eq!((&result["tool_use_id"], &result["is_error"]), (&call["id"], &json!(true)));
    assert!(text(result).contains("hello") && text(result).contains("oops"), "{}", text(result));
    assert!(text(first(&events, "agent.message")).starts_with("0 ok, 1 failed, 0 not run."));
    for (start, end) in [(3, 5), (7, 9)] {
        assert_eq!(events[end]["model_request_start_id"], events[start]["id"]);
        assert_eq!(events[end]["is_error"], false);
    }
    assert_eq!(stop_reason(&events)["type"], "end_turn");

    let used = |field: &str| {
        events[5]["model_usage"][field].as_u64().unwrap() + events[9]["model_usage"][field].as_u64().unwrap()
    };
    let shown = rota.api.get(&format!("/v1/sessions/{}", id(&session))).await["usage"].clone();
    for field in ["input_tokens", "output_tokens"] {
        assert!(used(field) > 0);
        assert_eq!(first(&events, "session.usage")["usage"][field], used(field));
        assert_eq!(shown[field], used(field));
    }

    rota.api.events(id(&session), json!([script("echo again")])).await;
    let events = stream.turn().await;
    assert_eq!(kinds(&events), turn, "the next turn is alike");
    let listed = rota.api.all(&format!("/v1/sessions/{}/events", id(&session)), 1000).await;
    assert_eq!(listed[turn.len()..], events[..]);
}

#[tokio::test]
async fn a_message_without_a_block_is_answered_without_a_sandbox() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, message("hi")).await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    assert!(text(first(&events, "agent.message")).starts_with("There is nothing to run in this message."));
    assert!(!kinds(&events).contains(&"agent.tool_use"));
    assert!(!rota.workspace_file(id(&session), "").exists());
}

#[tokio::test]
async fn a_call_that_asks_waits_and_runs_when_it_is_allowed() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let session = asking(api).await.session_with(api, script("echo allowed")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    let call = first(&events, "agent.tool_use");
    assert_eq!((&call["evaluated_permission"], &call["evaluation"]["type"]), (&json!("ask"), &json!("always_ask")));
    assert_eq!(*stop_reason(&events), json!({"type": "requires_action", "event_ids": [id(call)]}));
    let end = [
        "agent.tool_use",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ];
    assert_eq!(kinds(&events)[4..], end);
    assert_eq!(status(api, &session).await, "idle");

    let refused = invalid(format!(
        "Invalid user.message event at events[0]: waiting on responses to events [{}]; only `user.tool_confirmation`, \
         `user.custom_tool_result`, `user.tool_result`, or `user.interrupt` may be sent (a `system.message` may trail a tool \
         result)",
        id(call)
    ));
    let events_path = format!("/v1/sessions/{}/events", id(&session));
    assert_eq!(api.post_refused(&events_path, json!({"events": [message("hurry")]})).await, refused);
    let stray = json!({"type": "user.tool_confirmation", "tool_use_id": "sevt_other", "result": "allow"});
    let refused =
        invalid("Invalid user.tool_confirmation event at events[0]: `sevt_other` is not an event that waits for it");
    assert_eq!(api.post_refused(&events_path, json!({"events": [stray]})).await, refused);
    let twice = json!({"events": [confirmation(call, &json!({"result": "allow"})), confirmation(call, &json!({"result": "deny"}))]});
    assert_eq!(api.post_refused(&events_path, twice).await.status, 400);
    assert_eq!(
        api.get(&events_path).await["data"].as_array().unwrap().len(),
        events.len(),
        "refused events leave nothing"
    );

    let sent = api.events(id(&session), json!([confirmation(call, &json!({"result": "allow"}))])).await;
    assert!(sent["data"][0]["processed_at"].is_string());
    let events = stream.turn().await;
    let resumed =
        ["user.tool_confirmation", "session.status_running", "session.thread_status_running", "agent.tool_result"];
    assert_eq!(kinds(&events)[..4], resumed);
    let result = first(&events, "agent.tool_result");
    assert_eq!((&result["tool_use_id"], &result["is_error"]), (&call["id"], &json!(false)));
    assert!(text(result).contains("allowed"));
    assert_eq!(stop_reason(&events)["type"], "end_turn");
}

#[tokio::test]
async fn a_call_that_is_denied_does_not_run_and_the_agent_goes_on() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = asking(api).await;
    for (changes, told) in [
        (
            json!({"result": "deny", "deny_message": "not today"}),
            "Permission to use bash has been rejected. Rejection message: not today",
        ),
        (json!({"result": "deny"}), "Permission to use bash has been rejected."),
    ] {
        let session = parts.session_with(api, script("touch ran")).await;
        let mut stream = api.stream_from(id(&session), 0).await;
        let call = first(&stream.turn().await, "agent.tool_use").clone();
        api.events(id(&session), json!([confirmation(&call, &changes)])).await;
        let events = stream.turn().await;
        let result = first(&events, "agent.tool_result");
        assert_eq!((text(result), &result["is_error"]), (told, &json!(true)));
        assert!(text(first(&events, "agent.message")).starts_with("0 ok, 1 failed"));
        assert!(!rota.workspace_file(id(&session), "ran").exists());
    }
}

#[tokio::test]
async fn an_interrupt_closes_what_waits_and_frees_the_session() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let session = asking(api).await.session_with(api, script("touch ran")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.turn().await;
    api.events(id(&session), json!([{"type": "user.interrupt"}])).await;
    let events = stream.turn().await;
    let end =
        ["agent.tool_result", "user.interrupt", "session.thread_status_idle", "session.usage", "session.status_idle"];
    assert_eq!(kinds(&events), end);
    assert_eq!(text(&events[0]), "Tool execution was interrupted before completion. Please retry.");
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    api.events(id(&session), json!([message("nothing")])).await;
    let events = stream.turn().await;
    assert!(!kinds(&events).contains(&"agent.tool_use"), "what was interrupted is not taken up again");
}

#[tokio::test]
async fn the_client_runs_custom_tools_and_the_agent_reads_their_results() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let weather = json!({"type": "custom", "name": "weather", "description": "d", "input_schema": {"type": "object"}});
    let parts =
        Parts { agent: agent(api, json!({"tools": [weather]})).await, environment: environment(api, "e").await };
    let session = parts.session_with(api, message("```weather\n{\"city\": \"Rome\"}\n```")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    let call = first(&events, "agent.custom_tool_use");
    assert_eq!((&call["name"], &call["input"]), (&json!("weather"), &json!({"city": "Rome"})));
    assert_eq!(*stop_reason(&events), json!({"type": "requires_action", "event_ids": [id(call)]}));
    let wrong = json!({"events": [confirmation(call, &json!({"result": "allow"}))]});
    assert_eq!(api.post_refused(&format!("/v1/sessions/{}/events", id(&session)), wrong).await.status, 400);
    let content = json!([{"type": "text", "text": "sunny"}]);
    let result = json!({"type": "user.custom_tool_result", "custom_tool_use_id": id(call), "content": content});
    api.events(id(&session), json!([result])).await;
    let events = stream.turn().await;
    let resumed = ["user.custom_tool_result", "session.status_running", "session.thread_status_running"];
    assert_eq!(kinds(&events)[..3], resumed);
    let report = text(first(&events, "agent.message"));
    assert!(report.starts_with("1 ok") && report.contains("sunny"), "{report}");

    api.events(id(&session), json!([message("```weather\n{}\n```")])).await;
    let call = first(&stream.turn().await, "agent.custom_tool_use").clone();
    let failure = json!({"type": "user.custom_tool_result", "custom_tool_use_id": id(&call), "is_error": true});
    api.events(id(&session), json!([failure])).await;
    assert!(text(first(&stream.turn().await, "agent.message")).starts_with("0 ok, 1 failed"));
}

#[tokio::test]
async fn in_a_self_hosted_environment_calls_wait_for_the_results_of_a_worker() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let environment = api.post("/v1/environments", json!({"name": "mine", "config": {"type": "self_hosted"}})).await;
    let site = Site::of(api, Parts { agent: agent(api, json!({})).await, environment }).await;
    let session = site.session(api).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    let call = first(&events, "agent.tool_use");
    assert_eq!(call["evaluated_permission"], "allow");
    assert_eq!(*stop_reason(&events), json!({"type": "requires_action", "event_ids": [id(call)]}));
    let send = format!("/v1/sessions/{}/events", id(&session));
    let wrong = json!({"events": [confirmation(call, &json!({"result": "allow"}))]});
    assert_eq!(api.post_refused(&send, wrong).await.status, 400);
    let content = json!([{"type": "text", "text": "workbench"}]);
    let result = json!([{"type": "user.tool_result", "tool_use_id": id(call), "content": content}]);
    site.worker.events(id(&session), result).await;
    let events = stream.turn().await;
    assert_eq!(kinds(&events)[..3], ["user.tool_result", "session.status_running", "session.thread_status_running"]);
    assert!(text(first(&events, "agent.message")).contains("workbench"));
    assert!(!rota.workspace_file(id(&session), "").exists(), "nothing ran here");
}

#[tokio::test]
async fn an_interrupt_ends_a_running_command_and_a_later_message_works() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, script("touch started; sleep 600; touch done")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    let sent = api.events(id(&session), json!([{"type": "user.interrupt"}])).await;
    assert!(sent["data"][0].get("processed_at").is_none());
    let events = stream.turn().await;
    let at = kinds(&events).iter().rposition(|kind| *kind == "agent.tool_result").unwrap();
    let end =
        ["agent.tool_result", "user.interrupt", "session.thread_status_idle", "session.usage", "session.status_idle"];
    assert_eq!(kinds(&events)[at..], end);
    let result = first(&events, "agent.tool_result");
    let told = "Tool execution was interrupted before completion. Please retry.";
    assert_eq!((text(result), &result["is_error"]), (told, &json!(true)));
    assert_eq!(result["tool_use_id"], first(&events, "agent.tool_use")["id"]);
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    assert_eq!(status(api, &session).await, "idle");

    let still_there = "ls; grep -lx sleep /proc/[0-9]*/comm || echo nobody sleeps";
    api.events(id(&session), json!([script(still_there)])).await;
    let events = stream.turn().await;
    let result = text(first(&events, "agent.tool_result"));
    assert!(result.contains("started") && !result.contains("done"), "{result}");
    assert!(result.contains("nobody sleeps"), "{result}");
}

#[tokio::test]
async fn a_message_to_a_working_session_waits_and_is_shown_when_it_is_taken_up() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, script("touch started; while [ ! -e go ]; do sleep 0.01; done")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    let sent = api.events(id(&session), json!([script("echo later")])).await["data"][0].clone();
    assert!(sent.get("processed_at").is_none(), "what waits has not been processed");
    let list = format!("/v1/sessions/{}/events", id(&session));
    let waiting = api.get(&list).await["data"].as_array().unwrap().clone();
    assert_eq!(*waiting.last().unwrap(), sent, "what waits stands at the end of the history");
    assert_eq!(api.get(&format!("{list}?order=desc&limit=1")).await["data"], json!([sent]));
    assert_eq!(api.all(&list, 2).await, waiting, "pages go on from the log into what waits");
    let mut downwards = api.all(&format!("{list}?order=desc"), 2).await;
    downwards.reverse();
    assert_eq!(downwards, waiting);

    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    let frames = stream.until("session.status_idle").await;
    let shown: Vec<_> = frames.iter().filter(|frame| frame.event["id"] == sent["id"]).collect();
    assert_eq!(shown.len(), 1);
    assert!(shown[0].id.is_some() && shown[0].event["processed_at"].is_string());
    let log = api.get(&list).await["data"].as_array().unwrap().clone();
    assert_eq!(log.iter().filter(|event| event["id"] == sent["id"]).count(), 1);
    let place = log.iter().position(|event| event["id"] == sent["id"]).unwrap();
    let around = [&log[place - 1]["type"], &log[place + 1]["type"]];
    assert_eq!(around, ["agent.tool_result", "span.model_request_start"], "the very next request has it");
    let report = log.iter().rfind(|event| event["type"] == "agent.message").unwrap();
    assert!(text(report).starts_with("2 ok") && text(report).contains("later"), "{report}");
    assert_eq!(kinds(&log).iter().filter(|kind| **kind == "session.status_idle").count(), 1);
}

#[tokio::test]
async fn a_web_tool_that_the_server_does_not_have_is_not_offered_and_says_so() {
    // The model calls them all the same.
    let fetch = json!({"type": "tool_use", "id": "t1", "name": "web_fetch", "input": {"url": "https://example.com"}});
    let search = json!({"type": "tool_use", "id": "t2", "name": "web_search", "input": {"query": "rust"}});
    let said = json!({"type": "text", "text": "so be it"});
    let upstream = Upstream::start([Reply::Message(vec![fetch, search]), Reply::Message(vec![said])]).await;
    let rota = Rota::with(|config| {
        config.models = vec![upstream.model()];
        config.web.fetch = false;
    })
    .await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let session = parts.session_with(api, message("look up https://example.com")).await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    let told: Vec<_> = events.iter().filter(|event| event["type"] == "agent.tool_result").map(text).collect();
    let expected = [
        "Web fetch error: unavailable — the operator of this server has switched web_fetch off",
        "Web search error: unavailable — no search provider is configured on this server",
    ];
    assert_eq!(told, expected);
    let offered = upstream.asked()[0]["tools"].clone();
    let names: Vec<_> = offered.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bash", "read", "write", "edit", "glob", "grep"]);
}

#[tokio::test]
async fn a_tool_that_is_switched_off_is_not_offered() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let off = json!([over(toolset(), &json!({"configs": [{"name": "bash", "enabled": false}]}))]);
    let parts = Parts { agent: agent(api, json!({ "tools": off })).await, environment: environment(api, "e").await };
    let session = parts.session_with(api, script("echo hello")).await;
    let events = api.stream_from(id(&session), 0).await.turn().await;
    assert!(text(first(&events, "agent.message")).contains("not run, because the agent has no `bash` tool"));
}

#[tokio::test]
async fn on_a_machine_that_cannot_isolate_nothing_runs_and_the_session_says_so() {
    let rota = Rota::with(|config| config.sandbox.init_program = Some("/bin/false".into())).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, script("touch ran")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    let error = &first(&events, "session.error")["error"];
    assert_eq!((&error["type"], &error["retry_status"]["type"]), (&json!("unknown_error"), &json!("exhausted")));
    let result = first(&events, "agent.tool_result");
    assert_eq!(text(result), "The tool was not run: no sandbox could be started.");
    assert_eq!(stop_reason(&events)["type"], "retries_exhausted");
    assert!(!rota.workspace_file(id(&session), "ran").exists());
    api.events(id(&session), json!([message("nothing to run")])).await;
    assert_eq!(stop_reason(&stream.turn().await)["type"], "end_turn");
}

#[tokio::test]
async fn many_sessions_run_at_the_same_time_and_all_come_to_rest() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment = parts.deployment(api, json!({"initial_events": [message("hi")]})).await;
    let path = format!("/v1/deployments/{}/run", id(&deployment));
    let runs = join_all((0..40).map(|_| api.call(&path))).await;
    let turns = runs.iter().map(async |run| {
        let session = run["session_id"].as_str().unwrap();
        stop_reason(&api.stream_from(session, 0).await.turn().await)["type"].clone()
    });
    assert!(join_all(turns).await.iter().all(|reason| reason == "end_turn"));
    assert_eq!(api.all("/v1/sessions?statuses[]=idle", 100).await.len(), 40);
}
