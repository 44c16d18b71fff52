//! What became of runs.

use rota_server::config::PriceConfig;
use rota_server::{db::Tx, resources::api_keys};
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, message, over, script, toolset},
    server::{Rota, appears},
    stream::first,
    upstream::{Reply, Upstream},
};

/// Starts a session of `deployment` and returns the run.
async fn run(api: &Api, deployment: &Value) -> Value {
    api.call(&format!("/v1/deployments/{}/run", id(deployment))).await
}

fn path(run: &Value) -> String {
    format!("/rota/v1/deployment_runs/{}", id(run))
}

fn session(run: &Value) -> &str {
    run["session_id"].as_str().unwrap()
}

/// A deployment that sends `event` to an agent with `changes`.
async fn deployment(api: &Api, changes: Value, event: Value) -> Value {
    let parts = Parts { agent: agent(api, changes).await, environment: environment(api, "e").await };
    parts.deployment(api, json!({"initial_events": [event]})).await
}

#[tokio::test]
async fn a_run_is_told_with_what_its_session_has_done_and_used() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let run = run(api, &deployment(api, json!({}), message("hi")).await).await;
    let events = api.stream_from(session(&run), 0).await.turn().await;
    let shown = api.get(&format!("/v1/sessions/{}", session(&run))).await;
    rota.advance_seconds(3600);
    let told = api.get(&path(&run)).await;
    let outcome = &told["outcome"];
    let expected = json!({
        "status": "idle",
        "stop_reason": {"type": "end_turn"},
        "reply_cut": null,
        "waits_for_human": false,
        "waiting_on": [],
        "error": null,
        "interrupted_by": null,
        "usage": shown["usage"],
        "list_cost": null,
        "active_seconds": shown["stats"]["active_seconds"],
        "duration_seconds": outcome["session"]["duration_seconds"],
    });
    let warnings = &outcome["warnings"];
    assert_eq!(outcome, &json!({"session": expected, "lateness_ms": null, "warnings": warnings}));
    assert_eq!(first(&events, "session.usage")["usage"]["output_tokens"], expected["usage"]["output_tokens"]);
    assert!(expected["duration_seconds"].as_f64().unwrap() < 60.0, "the time after the turn does not count");
    let mut bare = told.clone();
    bare.as_object_mut().unwrap().retain(|name, _| !["outcome", "start"].contains(&name.as_str()));
    assert_eq!(bare, api.get(&format!("/v1/deployment_runs/{}", id(&run))).await);
}

#[tokio::test]
async fn what_a_session_cost_is_summed_over_its_turns_where_its_model_has_a_price() {
    let upstream = Upstream::start([1, 2].map(|_| Reply::Message(vec![json!({"type": "text", "text": "hi"})]))).await;
    let mut model = upstream.model();
    // 0.4 cents for a token of input, one cent for a token of output.
    model.price = Some(PriceConfig {
        input: 4_000.0,
        output: 10_000.0,
        cache_read: None,
        cache_write_5m: None,
        cache_write_1h: None,
    });
    let rota = Rota::with(|config| config.models = vec![model]).await;
    let run = run(&rota.api, &deployment(&rota.api, json!({"model": "house"}), message("hi")).await).await;
    let events = rota.api.stream_from(session(&run), 0).await.turn().await;
    let usage = &first(&events, "session.usage")["usage"];
    let nine_cents = json!({"amount": "9", "currency": "USD"});
    assert_eq!(
        (&usage["input_tokens"], &usage["output_tokens"], &usage["list_cost"]),
        (&json!(5), &json!(7), &nine_cents)
    );
    assert_eq!(rota.api.get(&path(&run)).await["outcome"]["session"]["list_cost"], nine_cents);

    let rota = rota.restart().await;
    // The first event is not of a moment ago.
    rota.advance_seconds(6);
    let mut stream = rota.api.stream(session(&run)).await;
    rota.api.events(session(&run), json!([message("again")])).await;
    stream.turn().await;
    let told = rota.api.get(&path(&run)).await;
    assert_eq!(told["outcome"]["session"]["list_cost"], json!({"amount": "18", "currency": "USD"}));
}

#[tokio::test]
async fn a_reply_that_was_cut_off_is_told_as_such_until_one_is_whole() {
    for reason in ["max_tokens", "model_context_window_exceeded"] {
        let says = |text: &str| vec![json!({"type": "text", "text": text})];
        let script = [Reply::Stopped(says("The answer is"), reason), Reply::Message(says("42."))];
        let upstream = Upstream::start(script).await;
        let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
        let run = run(&rota.api, &deployment(&rota.api, json!({"model": "house"}), message("hi")).await).await;
        rota.api.stream_from(session(&run), 0).await.turn().await;
        let told = rota.api.get(&path(&run)).await["outcome"]["session"].clone();
        assert_eq!((&told["stop_reason"]["type"], &told["reply_cut"]), (&json!("end_turn"), &json!(reason)));
        let mut stream = rota.api.stream(session(&run)).await;
        rota.api.events(session(&run), json!([message("go on")])).await;
        stream.turn().await;
        assert_eq!(rota.api.get(&path(&run)).await["outcome"]["session"]["reply_cut"], Value::Null);
    }
}

#[tokio::test]
async fn a_session_at_work_is_told_as_such() {
    let rota = Rota::without_engine().await;
    let run = run(&rota.api, &deployment(&rota.api, json!({}), message("hi")).await).await;
    rota.advance_seconds(100);
    let told = rota.api.get(&path(&run)).await["outcome"]["session"].clone();
    assert_eq!((&told["status"], &told["stop_reason"]), (&json!("running"), &Value::Null));
    assert!(told["duration_seconds"].as_f64().unwrap() >= 100.0);
}

#[tokio::test]
async fn what_waits_for_a_human_is_named_until_it_is_answered() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let asks = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [asks]}))]);
    let run = run(api, &deployment(api, json!({ "tools": tools }), script("echo hi")).await).await;
    let mut stream = api.stream_from(session(&run), 0).await;
    let events = stream.turn().await;
    let call = id(first(&events, "agent.tool_use"));
    let told = api.get(&path(&run)).await["outcome"]["session"].clone();
    assert_eq!(told["stop_reason"], json!({"type": "requires_action", "event_ids": [call]}));
    assert_eq!(told["waits_for_human"], true);
    assert_eq!(told["waiting_on"], json!([{"event_id": call, "answer": "user.tool_confirmation"}]));

    let denied = json!({"type": "user.tool_confirmation", "tool_use_id": call, "result": "deny"});
    api.events(session(&run), json!([denied])).await;
    stream.turn().await;
    let told = api.get(&path(&run)).await["outcome"]["session"].clone();
    assert_eq!((&told["waits_for_human"], &told["waiting_on"]), (&json!(false), &json!([])));
    assert_eq!(told["stop_reason"]["type"], "end_turn");
}

#[tokio::test]
async fn what_a_session_died_of_or_tries_again_is_told() {
    let busy =
        || Reply::Error(529, "", json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}));
    let upstream = Upstream::start(std::iter::repeat_with(busy).take(17)).await;
    let rota = Rota::with(|config| config.models.push(upstream.model())).await;
    let api = &rota.api;
    let run = run(api, &deployment(api, json!({"model": "house"}), message("hi")).await).await;
    let mut stream = api.stream_from(session(&run), 0).await;
    for _ in 0..16 {
        stream.until("session.status_rescheduled").await;
        let told = api.get(&path(&run)).await["outcome"]["session"].clone();
        assert_eq!((&told["status"], &told["stop_reason"]), (&json!("rescheduling"), &Value::Null));
        assert_eq!(told["error"]["retry_status"]["type"], "retrying");
        rota.advance_seconds(60);
    }
    let events = stream.turn().await;
    let told = api.get(&path(&run)).await["outcome"]["session"].clone();
    assert_eq!((&told["status"], &told["stop_reason"]["type"]), (&json!("idle"), &json!("retries_exhausted")));
    assert_eq!(told["error"], first(&events, "session.error")["error"]);
    assert_eq!(told["error"]["type"], "model_overloaded_error");
}

#[tokio::test]
async fn a_run_without_a_session_has_no_session_to_tell_of() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = deployment(api, json!({}), message("hi")).await;
    let deleted = run(api, &made).await;
    api.stream_from(session(&deleted), 0).await.turn().await;
    api.delete(&format!("/v1/sessions/{}", session(&deleted))).await;
    let told = api.get(&path(&deleted)).await;
    assert_eq!(told["outcome"], json!({"session": null, "lateness_ms": null, "warnings": []}));
    assert_eq!(told["session_id"], session(&deleted));

    api.call(&format!("/v1/environments/{}/archive", made["environment_id"].as_str().unwrap())).await;
    let failed = run(api, &made).await;
    let told = api.get(&path(&failed)).await;
    assert_eq!(told["outcome"], json!({"session": null, "lateness_ms": null, "warnings": []}));
    assert_eq!(told["error"]["type"], "environment_archived_error");
    let refused = api.get_refused(&format!("{}?wide=true", path(&failed))).await;
    assert_eq!(refused, invalid("wide: Extra inputs are not permitted"));
}

#[tokio::test]
async fn a_session_that_ended_with_its_workspace_tells_of_that() {
    let rota = Rota::start().await;
    let administrator = rota.administrator().await;
    let create = |tx: &mut Tx<'_>| api_keys::create_key(tx, Some("Team"), "a key", None);
    let key = rota.server.app().db.write(create).await.unwrap();
    let team = rota.api.with_key(key.key);
    let long = script("touch started; while [ ! -e go ]; do sleep 0.02; done");
    let run = run(&team, &deployment(&team, json!({}), long).await).await;
    appears(rota.workspace_file(session(&run), "started")).await;
    administrator.call(&format!("/v1/organizations/workspaces/{}/archive", key.workspace_id)).await;
    rota.advance_seconds(20);
    let inside = administrator.in_workspace(key.workspace_id.as_ref());
    let mut stream = inside.stream_from(session(&run), 0).await;
    std::fs::write(rota.workspace_file(session(&run), "go"), "").unwrap();
    stream.until("session.status_terminated").await;
    rota.advance_seconds(3600);
    let told = inside.get(&path(&run)).await["outcome"]["session"].clone();
    assert_eq!((&told["status"], &told["stop_reason"]), (&json!("terminated"), &Value::Null));
    assert_eq!(told["error"]["message"], "the workspace is archived");
    let seconds = told["duration_seconds"].as_f64().unwrap();
    assert!((20.0..60.0).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_run_and_its_session_say_what_they_ask_for_and_do_not_get() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let run = run(api, &parts.deployment(api, json!({})).await).await;
    let told = api.get(&path(&run)).await["outcome"]["warnings"].clone();
    let codes: Vec<_> = told.as_array().unwrap().iter().map(|warning| warning["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["web_search_not_offered"]);
    assert!(told[0]["message"].as_str().unwrap().contains("[web.search]"), "{told}");
    let mut shown = api.get(&format!("/rota/v1/sessions/{}", session(&run))).await;
    assert_eq!(shown.as_object_mut().unwrap().remove("warnings").unwrap(), told);
    let mut session = api.get(&format!("/v1/sessions/{}", session(&run))).await;
    // These grow while it is at work.
    for field in ["stats", "usage"] {
        assert_eq!(shown[field].take().is_object(), session[field].take().is_object());
    }
    assert_eq!(shown, session);
}
