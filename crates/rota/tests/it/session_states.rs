//! All sessions with what each is doing.

use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, message, over, script, toolset},
    schedules::path,
    server::{Rota, appears},
    stream::first,
    upstream::{Reply, Upstream},
};

const SESSIONS: &str = "/rota/v1/sessions";

async fn list(api: &Api, filter: &str) -> Vec<Value> {
    api.all(&format!("{SESSIONS}?{filter}"), 100).await
}

/// The ids of those that a filter finds, newest first.
async fn found(api: &Api, filter: &str) -> Vec<String> {
    list(api, filter).await.iter().map(|session| id(session).to_owned()).collect()
}

async fn shown(api: &Api, session: &str) -> Value {
    list(api, "include_archived=true").await.into_iter().find(|listed| id(listed) == session).unwrap()
}

#[tokio::test]
async fn a_session_is_listed_with_what_it_does_and_since_when() {
    let rota = Rota::without_engine().await;
    let asks = json!({"name": "write", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [asks]}))]);
    let parts = Parts {
        agent: agent(&rota.api, json!({ "tools": tools })).await,
        environment: environment(&rota.api, "e").await,
    };
    let works = script("touch begun; while [ ! -e go ]; do sleep 0.02; done");
    let made = parts.deployment(&rota.api, json!({"name": "nightly", "initial_events": [works]})).await;
    let run = rota.api.call(&format!("{}/run", path(&made))).await;
    let session = run["session_id"].as_str().unwrap();
    let official = rota.api.get(&format!("/v1/sessions/{session}")).await;
    let queued = json!({
        "id": session,
        "type": "session_state",
        "title": "nightly",
        "status": "running",
        "state": "queued",
        "since": official["created_at"],
        "retry_at": null,
        "waits_for_human": false,
        "waiting_on": [],
        "stop_reason": null,
        "error": null,
        "deployment_id": id(&made),
        "deployment_name": "nightly",
        "run_id": id(&run),
        "agent": made["agent"],
        "model": "playbook",
        "environment_id": id(&parts.environment),
        "usage": shown(&rota.api, session).await["usage"],
        "cost": null,
        "created_at": official["created_at"],
        "archived_at": null,
    });
    assert_eq!(list(&rota.api, "state=queued").await, [queued]);

    let rota = rota.restart_with(|config| config.engine.concurrency = 4).await;
    let api = &rota.api;
    appears(rota.workspace_file(session, "begun")).await;
    let working = shown(api, session).await;
    assert_eq!((&working["state"], &working["since"]), (&json!("working"), &official["created_at"]));
    let bare =
        parts.session_with(api, message("```write\n{\"file_path\": \"/workspace/a\", \"content\": \"a\"}\n```")).await;
    let call = id(first(&api.stream_from(id(&bare), 0).await.turn().await, "agent.tool_use")).to_owned();
    rota.advance_seconds(60);
    let waiting = shown(api, id(&bare)).await;
    assert_eq!((&waiting["state"], &waiting["stop_reason"]), (&json!("waiting"), &json!("requires_action")));
    assert_eq!(waiting["waiting_on"], json!([{"event_id": call, "answer": "user.tool_confirmation"}]));
    assert_eq!((&waiting["waits_for_human"], &waiting["deployment_id"]), (&json!(true), &Value::Null));
    let attention = api.get("/rota/v1/attention").await["data"][0].clone();
    assert_eq!((&waiting["id"], &waiting["since"]), (&attention["session_id"], &attention["since"]));
    let never = parts.session(api, json!({})).await;

    for (filter, expected) in [
        ("state=queued", &[][..]),
        ("state=working", &[session]),
        ("state=waiting", &[id(&bare)]),
        ("state=resting", &[id(&never)]),
        ("state=retrying", &[]),
        ("state=ended", &[]),
        ("stop_reason=requires_action", &[id(&bare)]),
        ("stop_reason=end_turn", &[]),
    ] {
        assert_eq!(found(api, filter).await, expected, "{filter}");
    }
    std::fs::write(rota.workspace_file(session, "go"), "").unwrap();
    api.stream_from(session, 0).await.turn().await;
    api.events(id(&bare), json!([{"type": "user.interrupt"}])).await;
    assert_eq!(found(api, "state=resting").await, [id(&never), id(&bare), session]);
    assert_eq!(found(api, "stop_reason=end_turn").await, [id(&bare), session]);
    api.call(&format!("/v1/sessions/{}/archive", id(&bare))).await;
    assert_eq!(found(api, "").await, [id(&never), session]);
    let ended = list(api, "state=ended&include_archived=true").await;
    assert_eq!((&ended[0]["id"], &ended[0]["since"]), (&bare["id"], &ended[0]["archived_at"]));
    assert_eq!(rota.other_workspace().await.get(SESSIONS).await["data"], json!([]));
}

#[tokio::test]
async fn what_is_tried_again_says_when_and_what_died_is_found() {
    let busy =
        Reply::Error(529, "", json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}));
    let refuses =
        Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}));
    let upstream = Upstream::start([busy, refuses]).await;
    let rota = Rota::with(|config| config.models.push(upstream.model())).await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let session = parts.session_with(api, message("hi")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.until("session.status_rescheduled").await;
    let retrying = list(api, "state=retrying").await.remove(0);
    assert_eq!((&retrying["id"], &retrying["status"]), (&session["id"], &json!("rescheduling")));
    assert_eq!(retrying["error"]["type"], "model_overloaded_error");
    let retry_at = retrying["retry_at"].as_str().unwrap();
    assert!(retry_at > session["created_at"].as_str().unwrap(), "{retrying}");
    rota.advance_seconds(60);
    stream.turn().await;
    let died = list(api, "stop_reason=retries_exhausted").await.remove(0);
    assert_eq!((&died["id"], &died["state"], &died["retry_at"]), (&session["id"], &json!("resting"), &Value::Null));
    assert_eq!(died["error"]["type"], "model_request_failed_error");
}

#[tokio::test]
async fn sessions_are_found_by_what_started_them_and_when_page_by_page() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let other = Parts { agent: agent(api, json!({"name": "other"})).await, environment: environment(api, "f").await };
    let (one, two) = (parts.deployment(api, json!({})).await, other.deployment(api, json!({})).await);
    let mut of_one = Vec::new();
    for hour in 8..13 {
        rota.set_time(&format!("2026-03-02T{hour:02}:30:00Z"));
        of_one.insert(0, api.call(&format!("{}/run", path(&one))).await["session_id"].as_str().unwrap().to_owned());
        api.call(&format!("{}/run", path(&two))).await;
        parts.session(api, json!({})).await;
    }
    let all = found(api, "").await;
    assert_eq!(all.len(), 15);
    for limit in 1..=4 {
        let paged = api.all(SESSIONS, limit).await;
        assert_eq!(paged.iter().map(id).collect::<Vec<_>>(), all, "by {limit}");
        let paged = api.all(&format!("{SESSIONS}?deployment_id={}", id(&one)), limit).await;
        assert_eq!(paged.iter().map(id).collect::<Vec<_>>(), of_one, "by {limit}");
    }
    assert_eq!(found(api, &format!("deployment_id={}&state=resting", id(&one))).await, [""; 0]);
    assert_eq!(found(api, &format!("deployment_id={}&state=queued", id(&one))).await, of_one);
    assert_eq!(found(api, &format!("agent_id={}", id(&other.agent))).await.len(), 5);
    assert_eq!(found(api, "from=2026-03-02T10:30:00Z&to=2026-03-02T11:30:00Z").await.len(), 3);
    let of_a_time = format!("deployment_id={}&from=2026-03-02T10:30:00Z&to=2026-03-02T12:30:00Z", id(&one));
    assert_eq!(found(api, &of_a_time).await, of_one[1..3]);

    for (filter, message) in [
        ("state=fine", "state: \"fine\" is not a valid value"),
        ("stop_reason=bored", "stop_reason: \"bored\" is not a valid value"),
        ("deployment_id=agent_1", "deployment_id: is no id of this kind"),
        ("to=yesterday", "to: Input should be a valid RFC 3339 time"),
        ("limit=101", "limit: value must be less than or equal to 100"),
        ("order=asc", "order: Extra inputs are not permitted"),
    ] {
        assert_eq!(api.get_refused(&format!("{SESSIONS}?{filter}")).await, invalid(message), "{filter}");
    }
}
