//! Sessions that nobody watches: what waits is answered for, what takes too long is interrupted, and what fails too often is paused.
//! Deadlines are met when a test says so.

use rota_server::{
    config::{Role, Roles},
    db::{Tx, Val},
};
use serde_json::{Value, json};

use crate::{
    client::Api,
    database::NEEDED,
    given::{Parts, agent, environment, id, message, over, script, toolset},
    occurrences::audit,
    policies::{sessions, set_policy},
    schedules::{at, every, fired, path, range, skipped},
    server::{Rota, appears},
    stream::{first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
};

/// A call that says that it has started and does not end by itself.
const ENDLESS: &str = "touch started; sleep 1000";

fn events_path(session: &str) -> String {
    format!("/v1/sessions/{session}/events")
}

/// An agent whose shell asks before it runs.
async fn asking(api: &Api) -> Parts {
    let asks = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [asks]}))]);
    Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await }
}

/// A deployment of [`asking`] that keeps `policy`.
async fn asks(api: &Api, policy: Value) -> Value {
    let made = asking(api).await.deployment(api, json!({"initial_events": [script("echo hi")]})).await;
    set_policy(api, &made, policy).await;
    made
}

/// Starts a session of a deployment by hand. Returns its run and its session.
async fn run(api: &Api, deployment: &Value) -> (Value, String) {
    let run = api.call(&format!("{}/run", path(deployment))).await;
    let session = run["session_id"].as_str().unwrap().to_owned();
    (run, session)
}

/// The same, until it waits for an answer. Returns the call, too.
async fn waits(api: &Api, deployment: &Value) -> (Value, String, Value) {
    let (run, session) = run(api, deployment).await;
    let events = api.stream_from(&session, 0).await.turn().await;
    assert_eq!(stop_reason(&events)["type"], "requires_action");
    let call = events
        .iter()
        .find(|event| ["agent.tool_use", "agent.custom_tool_use"].contains(&event["type"].as_str().unwrap()));
    (run, session, call.unwrap().clone())
}

async fn log(api: &Api, session: &str) -> Vec<Value> {
    api.all(&events_path(session), 1000).await
}

/// How many events of a type a session has.
async fn count(api: &Api, session: &str, kind: &str) -> usize {
    api.all(&format!("{}?types={kind}", events_path(session)), 1000).await.len()
}

/// Looks at all deadlines and returns the log of a session once its turn is over.
async fn after_deadline(rota: &Rota, session: &str) -> Vec<Value> {
    rota.meet_deadlines().await;
    rota.api.once(&format!("/v1/sessions/{session}"), |session| session["status"] == "idle").await;
    let log = log(&rota.api, session).await;
    assert_eq!(stop_reason(&log)["type"], "end_turn", "{log:#?}");
    log
}

/// How the session of a run fares, as the list of all runs says.
async fn listed(api: &Api, run: &Value) -> Value {
    let all = api.all("/rota/v1/runs", 100).await;
    all.into_iter().find(|listed| listed["run_id"] == run["id"]).unwrap()
}

/// How many sessions have a deadline.
async fn deadlines(rota: &Rota) -> i64 {
    let sql = "SELECT count(*) FROM session_deadlines";
    rota.server.app().db.lookup(sql, &[], |row| row.int(0)).await.unwrap().unwrap()
}

fn answers_within(seconds: u32) -> Value {
    json!({"unattended": {"answer_within_seconds": seconds}})
}

#[tokio::test]
async fn a_call_that_nobody_answers_in_time_is_denied_as_a_client_would_do_it() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = asks(api, answers_within(900)).await;
    let (run, session, call) = waits(api, &made).await;
    rota.advance_seconds(890);
    rota.meet_deadlines().await;
    assert_eq!(count(api, &session, "user.tool_confirmation").await, 0);
    assert_eq!(listed(api, &run).await["state"], "waiting");
    rota.advance_seconds(11);
    let log = after_deadline(&rota, &session).await;
    let words = "Nobody answered within 900 seconds, so the call was denied. Go on without it, and say at the end what you \
        could not do.";
    let denial = first(&log, "user.tool_confirmation");
    assert_eq!(
        (&denial["tool_use_id"], &denial["result"], &denial["deny_message"]),
        (&call["id"], &json!("deny"), &json!(words))
    );
    let place = log.iter().position(|event| event["type"] == "user.tool_confirmation").unwrap();
    let expected = [
        "user.tool_confirmation",
        "session.status_running",
        "session.thread_status_running",
        "agent.tool_result",
        "span.model_request_start",
    ];
    assert_eq!(kinds(&log)[place..place + 5], expected);
    let result = text(first(&log, "agent.tool_result"));
    assert_eq!(result, format!("Permission to use bash has been rejected. Rejection message: {words}"));
    let listed = listed(api, &run).await;
    assert_eq!((&listed["state"], &listed["session"]["interrupted_by"]), (&json!("done"), &Value::Null));
    assert_eq!(deadlines(&rota).await, 0);
    // An answer that comes later is refused as any other to what does not wait.
    let late = json!({"events": [{"type": "user.tool_confirmation", "tool_use_id": call["id"], "result": "allow"}]});
    assert_eq!(api.post_refused(&events_path(&session), late).await.status, 400);
}

#[tokio::test]
async fn what_nobody_watches_is_denied_at_once_also_of_a_scheduled_session() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let body = over(every("0 * * * *"), &json!({"initial_events": [script("echo hi")]}));
    let made = asking(api).await.deployment(api, body).await;
    set_policy(api, &made, json!({"unattended": "deny"})).await;
    at(&rota, "02T09:00:00").await;
    let (session, _) = sessions(api, &made).await.pop().unwrap();
    api.stream_from(&session, 0).await.turn().await;
    let log = after_deadline(&rota, &session).await;
    let said = first(&log, "user.tool_confirmation")["deny_message"].as_str().unwrap();
    assert!(said.starts_with("Nobody watches this session, so the call was denied."), "{said}");
}

#[tokio::test]
async fn a_custom_tool_without_a_result_has_one_that_says_so() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let weather = json!({"type": "custom", "name": "weather", "description": "d", "input_schema": {"type": "object"}});
    let parts =
        Parts { agent: agent(api, json!({"tools": [weather]})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, json!({"initial_events": [message("```weather\n{}\n```")]})).await;
    set_policy(api, &made, answers_within(60)).await;
    let (_, session, call) = waits(api, &made).await;
    rota.advance_seconds(61);
    let log = after_deadline(&rota, &session).await;
    let result = first(&log, "user.custom_tool_result");
    assert_eq!((&result["custom_tool_use_id"], &result["is_error"]), (&call["id"], &json!(true)));
    assert!(text(result).starts_with("Nobody answered within 60 seconds, so the call has no result."), "{result}");
}

#[tokio::test]
async fn an_answer_and_the_deadline_at_the_same_moment_make_one_answer() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = asks(api, answers_within(60)).await;
    for _ in 0..8 {
        let (_, session, call) = waits(api, &made).await;
        rota.advance_seconds(61);
        let answer =
            json!({"events": [{"type": "user.tool_confirmation", "tool_use_id": call["id"], "result": "allow"}]});
        let path = events_path(&session);
        let request = api.request(reqwest::Method::POST, &path).json(&answer);
        let (answer, (), ()) = tokio::join!(api.answer(request), rota.meet_deadlines(), rota.meet_deadlines());
        let log = after_deadline(&rota, &session).await;
        let decisions: Vec<_> = log.iter().filter(|event| event["type"] == "user.tool_confirmation").collect();
        assert_eq!(decisions.len(), 1, "{log:#?}");
        let wins = decisions[0]["result"] == "allow";
        assert_eq!(answer.status.is_success(), wins, "whoever is refused has not decided: {answer:?}");
    }
}

#[tokio::test]
async fn a_deadline_that_comes_while_no_server_runs_is_met_when_one_does() {
    let rota = Rota::start().await;
    let made = asks(&rota.api, answers_within(60)).await;
    let (_, session, _) = waits(&rota.api, &made).await;
    let clock = rota.clock.clone();
    // This time the server looks by itself.
    let rota = rota.restart_after(async move { clock.advance_micros(86_400_000_000) }, |config| {
        config.roles = Roles::default();
    });
    let rota = rota.await;
    rota.api.once(&format!("/v1/sessions/{session}"), |session| session["status"] == "idle").await;
    rota.api.once("/rota/v1/attention", |needs| needs["data"] == json!([])).await;
    assert_eq!(count(&rota.api, &session, "user.tool_confirmation").await, 1);
}

#[tokio::test]
async fn a_changed_policy_holds_for_what_waits_already() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = asks(api, json!({})).await;
    let (_, session, _) = waits(api, &made).await;
    rota.advance_seconds(500);
    rota.meet_deadlines().await;
    assert_eq!(deadlines(&rota).await, 0, "by default nothing ever ends a wait");
    set_policy(api, &made, answers_within(900)).await;
    rota.meet_deadlines().await;
    assert_eq!((deadlines(&rota).await, count(api, &session, "user.tool_confirmation").await), (1, 0));
    set_policy(api, &made, answers_within(600)).await;
    set_policy(api, &made, answers_within(9000)).await;
    rota.advance_seconds(500);
    rota.meet_deadlines().await;
    assert_eq!(
        count(api, &session, "user.tool_confirmation").await,
        0,
        "it counts from when the session began to wait"
    );
    set_policy(api, &made, json!({"unattended": null})).await;
    rota.meet_deadlines().await;
    assert_eq!(deadlines(&rota).await, 0);
    set_policy(api, &made, answers_within(900)).await;
    after_deadline(&rota, &session).await;
}

#[tokio::test]
async fn a_session_that_is_gone_or_was_answered_has_no_deadline() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = asks(api, answers_within(60)).await;
    let (_, archived, _) = waits(api, &made).await;
    let (_, deleted, _) = waits(api, &made).await;
    let (_, interrupted, _) = waits(api, &made).await;
    let (_, answered, call) = waits(api, &made).await;
    api.call(&format!("/v1/sessions/{archived}/archive")).await;
    api.delete(&format!("/v1/sessions/{deleted}")).await;
    api.events(&interrupted, json!([{"type": "user.interrupt"}])).await;
    let allow = json!({"type": "user.tool_confirmation", "tool_use_id": call["id"], "result": "allow"});
    api.events(&answered, json!([allow])).await;
    api.once(&format!("/v1/sessions/{answered}"), |session| session["status"] == "idle").await;
    // A deployment that is archived goes on to say what becomes of its sessions.
    let (_, left, _) = waits(api, &made).await;
    api.call(&format!("{}/archive", path(&made))).await;
    rota.advance_seconds(61);
    after_deadline(&rota, &left).await;
    assert_eq!(deadlines(&rota).await, 0);
    for session in [&archived, &interrupted] {
        assert_eq!(count(api, session, "user.tool_confirmation").await, 0);
    }
    assert_eq!(count(api, &answered, "user.tool_confirmation").await, 1);
    let needs = api.get("/rota/v1/attention").await;
    assert_eq!(needs["data"], json!([]), "an interrupted session waits for nothing");
}

#[tokio::test]
async fn a_wait_that_is_too_long_interrupts_the_session_and_is_a_failure() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = asks(api, json!({"max_idle_waiting_seconds": 60})).await;
    let (run, session, _) = waits(api, &made).await;
    rota.advance_seconds(61);
    let log = after_deadline(&rota, &session).await;
    let from = log.iter().position(|event| event["type"] == "session.status_idle").unwrap() + 1;
    let expected =
        ["agent.tool_result", "user.interrupt", "session.thread_status_idle", "session.usage", "session.status_idle"];
    assert_eq!(kinds(&log)[from..], expected);
    let listed_run = listed(api, &run).await;
    let shown = (&listed_run["state"], &listed_run["session"]["interrupted_by"], &listed_run["session"]["stop_reason"]);
    assert_eq!(shown, (&json!("failed"), &json!("max_idle_waiting_seconds"), &json!("end_turn")));
    let told = api.get(&format!("/rota/v1/deployment_runs/{}", id(&run))).await;
    assert_eq!(told["outcome"]["session"]["interrupted_by"], "max_idle_waiting_seconds");
    let needs = api.get("/rota/v1/attention").await["data"].clone();
    let words = "the session was interrupted: nobody answered it within max_idle_waiting_seconds (60)";
    assert_eq!((&needs[0]["kind"], &needs[0]["message"], &needs[1]), (&json!("failing"), &json!(words), &Value::Null));
    for (filter, found) in [("state=failed", 1), ("state=done", 0), ("state=waiting", 0)] {
        assert_eq!(api.all(&format!("/rota/v1/runs?{filter}"), 10).await.len(), found, "{filter}");
    }
    // Somebody goes on with it.
    let mut stream = api.stream_from(&session, 0).await;
    stream.turn().await;
    stream.turn().await;
    api.events(&session, json!([message("go on")])).await;
    stream.turn().await;
    let listed = listed(api, &run).await;
    assert_eq!((&listed["state"], &listed["session"]["interrupted_by"]), (&json!("done"), &Value::Null));
}

#[tokio::test]
async fn a_session_that_takes_too_long_is_interrupted_at_work_and_where_it_waits() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, json!({"initial_events": [script(ENDLESS)]})).await;
    set_policy(api, &made, json!({"max_session_seconds": 600})).await;
    let (works, session) = run(api, &made).await;
    appears(rota.workspace_file(&session, "started")).await;
    rota.advance_seconds(590);
    rota.meet_deadlines().await;
    assert_eq!(api.get(&format!("/v1/sessions/{session}")).await["status"], "running");
    rota.advance_seconds(11);
    let log = after_deadline(&rota, &session).await;
    assert_eq!(count(api, &session, "user.interrupt").await, 1);
    assert_eq!(log.iter().filter(|event| event["type"] == "session.status_idle").count(), 1);
    let listed_run = listed(api, &works).await;
    let shown = (&listed_run["state"], &listed_run["session"]["interrupted_by"]);
    assert_eq!(shown, (&json!("failed"), &json!("max_session_seconds")));
    let needs = api.get("/rota/v1/attention").await["data"].clone();
    assert_eq!(
        (&needs[0]["kind"], &needs[0]["failures"], &needs[0]["run_id"]),
        (&json!("failing"), &json!(1), &works["id"])
    );

    let waiting = asks(api, json!({"max_session_seconds": 600})).await;
    let (run, session, _) = waits(api, &waiting).await;
    rota.advance_seconds(601);
    after_deadline(&rota, &session).await;
    assert_eq!(listed(api, &run).await["session"]["interrupted_by"], "max_session_seconds");
    assert_eq!(deadlines(&rota).await, 0);
}

#[tokio::test]
async fn the_time_of_a_session_ends_with_its_turn_and_counts_anew_with_the_next_one() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, json!({"initial_events": [message("hi")]})).await;
    set_policy(api, &made, json!({"max_session_seconds": 600})).await;
    let (run, session) = run(api, &made).await;
    api.stream_from(&session, 0).await.turn().await;
    rota.advance_seconds(10_000);
    api.events(&session, json!([script(ENDLESS)])).await;
    appears(rota.workspace_file(&session, "started")).await;
    rota.meet_deadlines().await;
    rota.advance_seconds(590);
    rota.meet_deadlines().await;
    assert_eq!(count(api, &session, "user.interrupt").await, 0);
    rota.advance_seconds(11);
    after_deadline(&rota, &session).await;
    assert_eq!(listed(api, &run).await["session"]["interrupted_by"], "max_session_seconds");
}

#[tokio::test]
async fn a_session_that_was_told_to_stop_is_not_told_again() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, json!({})).await;
    let (_, session) = run(api, &made).await;
    api.events(&session, json!([{"type": "user.interrupt"}])).await;
    // It was there before there was a limit.
    set_policy(api, &made, json!({"max_session_seconds": 60})).await;
    rota.advance_seconds(61);
    rota.meet_deadlines().await;
    rota.advance_seconds(61);
    rota.meet_deadlines().await;
    assert_eq!(count(api, &session, "user.interrupt").await, 1);
    let rota = rota.restart_with(|config| config.engine.concurrency = 4).await;
    rota.api.once(&format!("/v1/sessions/{session}"), |session| session["status"] == "idle").await;
    assert_eq!(rota.api.all("/rota/v1/runs", 10).await[0]["state"], "done", "somebody else has stopped it");
    rota.advance_seconds(61);
    rota.meet_deadlines().await;
    assert_eq!(deadlines(&rota).await, 0);
}

#[tokio::test]
async fn what_would_wait_for_ever_is_warned_of() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = asking(api).await.deployment(api, json!({})).await;
    let warned = set_policy(api, &made, json!({"overlap": "skip"})).await["warnings"].clone();
    assert_eq!(warned[0]["code"], "waits_without_end");
    assert!(warned[0]["message"].as_str().unwrap().contains(": bash;"), "{warned}");
    for policy in [json!({"unattended": "deny"}), answers_within(60)] {
        assert_eq!(set_policy(api, &made, policy).await["warnings"], json!([]));
    }
    set_policy(api, &made, json!({"unattended": "wait"})).await;
    assert_eq!(set_policy(api, &made, json!({"max_idle_waiting_seconds": 60})).await["warnings"], json!([]));
    set_policy(api, &made, json!({"max_idle_waiting_seconds": null})).await;
    // Servers of MCP ask unless they are told otherwise.
    let server = json!({"type": "url", "name": "tracker", "url": "https://mcp.example.com"});
    let with = json!({"mcp_servers": [server], "tools": [{"type": "mcp_toolset", "mcp_server_name": "tracker"}]});
    let agent = agent(api, with).await;
    api.post(&path(&made), json!({"agent": id(&agent)})).await;
    let warned = api.get(&format!("/rota{}/policy", path(&made))).await["warnings"].clone();
    assert!(warned[0]["message"].as_str().unwrap().contains(": mcp_toolset tracker;"), "{warned}");
}

fn refuses() -> Reply {
    Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": "not this"}}))
}

fn says(text: &str) -> Reply {
    Reply::Message(vec![json!({"type": "text", "text": text})])
}

#[tokio::test]
async fn runs_that_fail_one_after_the_other_pause_the_deployment_and_unpausing_counts_anew() {
    let script = [refuses(), says("good"), refuses(), refuses(), refuses(), refuses()];
    let upstream = Upstream::start(script).await;
    let rota = Rota::with(|config| config.models.push(upstream.model())).await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, over(every("0 * * * *"), &json!({"name": "flaky"}))).await;
    set_policy(api, &made, json!({"pause_after_failures": 2})).await;
    let mut last = Value::Null;
    for (place, status) in ["active", "active", "active", "paused"].into_iter().enumerate() {
        let (run, session) = run(api, &made).await;
        api.stream_from(&session, 0).await.turn().await;
        rota.meet_deadlines().await;
        assert_eq!(api.get(&path(&made)).await["status"], status, "after run {place}");
        last = run;
    }
    let shown = api.get(&path(&made)).await["paused_reason"].clone();
    assert_eq!(shown, json!({"type": "error", "error": {"type": "unknown_error"}}), "as far as official clients know");
    let paused_by = api.get(&format!("/rota{}/policy", path(&made))).await["paused_by"].clone();
    assert_eq!((&paused_by["failures"], &paused_by["run_id"]), (&json!(2), &last["id"]));
    assert!(paused_by["message"].as_str().unwrap().contains("not this"), "{paused_by}");
    let needs = api.get("/rota/v1/attention").await["data"].clone();
    let paused = needs.as_array().unwrap().iter().find(|item| item["kind"] == "paused").unwrap();
    let message = paused["message"].as_str().unwrap();
    assert!(message.starts_with("paused after 2 failed runs in a row: "), "{message}");
    at(&rota, "02T09:00:00").await;
    assert_eq!(fired(api, &made).await, [""; 0]);

    api.call(&format!("{}/unpause", path(&made))).await;
    assert_eq!(api.get(&format!("/rota{}/policy", path(&made))).await["paused_by"], Value::Null);
    assert_eq!(api.get("/rota/v1/attention").await["data"], json!([]));
    at(&rota, "02T10:00:00").await;
    let (session, _) = sessions(api, &made).await.pop().unwrap();
    api.stream_from(&session, 0).await.turn().await;
    rota.meet_deadlines().await;
    assert_eq!(api.get(&path(&made)).await["status"], "active", "one failure is none in a row");
    let (_, session) = run(api, &made).await;
    api.stream_from(&session, 0).await.turn().await;
    // Nobody has looked since, and an occurrence comes: it does not fire.
    at(&rota, "02T11:00:00").await;
    assert_eq!(fired(api, &made).await, ["02T10:00:00"]);
    assert_eq!(api.get(&path(&made)).await["status"], "paused");
    assert_eq!(
        audit(api, &made, "from=2026-03-02T10:30:00Z&to=2026-03-02T11:30:00Z").await,
        ["02T11:00 skipped paused"]
    );
}

#[tokio::test]
async fn failures_from_before_the_policy_count_and_so_do_starts_that_are_refused() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, json!({})).await;
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    for _ in 0..2 {
        api.call(&format!("{}/run", path(&made))).await;
    }
    rota.meet_deadlines().await;
    assert_eq!(api.get(&path(&made)).await["status"], "active");
    set_policy(api, &made, json!({"pause_after_failures": 3})).await;
    rota.meet_deadlines().await;
    assert_eq!(api.get(&path(&made)).await["status"], "active");
    set_policy(api, &made, json!({"pause_after_failures": 2})).await;
    rota.meet_deadlines().await;
    assert_eq!(api.get(&path(&made)).await["status"], "paused");
}

#[tokio::test]
async fn a_schedule_has_no_occurrences_before_it_starts_and_after_it_ends() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, every("0 * * * *")).await;
    let window = json!({"starts_at": "2026-03-02T10:00:00Z", "ends_at": "2026-03-02T11:30:00Z"});
    set_policy(api, &made, window).await;
    let upcoming = async || {
        let times = api.get(&path(&made)).await["schedule"]["upcoming_runs_at"].clone();
        times.as_array().unwrap().iter().map(|at| at.as_str().unwrap()[11..16].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(upcoming().await, ["10:00", "11:00"]);
    for time in ["02T09:00:00", "02T09:30:00", "02T10:00:00"] {
        at(&rota, time).await;
    }
    assert_eq!(fired(api, &made).await, ["02T10:00:00"]);
    assert_eq!(upcoming().await, ["11:00"]);
    // What came before the end may fire after it.
    at(&rota, "02T11:40:00").await;
    assert_eq!(fired(api, &made).await, ["02T10:00:00", "02T11:00:00"]);
    assert_eq!(upcoming().await, [""; 0]);
    at(&rota, "02T15:30:00").await;
    let all = "from=2026-03-02T00:00:00Z&to=2026-03-03T00:00:00Z";
    assert_eq!(audit(api, &made, all).await, ["02T10:00 ran", "02T11:00 ran"]);
    // It goes on: nothing is made up for.
    set_policy(api, &made, json!({"starts_at": null, "ends_at": "2026-03-02T18:00:00Z"})).await;
    at(&rota, "02T16:00:00").await;
    rota.set_time("2026-03-02T17:00:01Z");
    // It is ended while an occurrence is due.
    set_policy(api, &made, json!({"ends_at": "2026-03-02T16:30:00Z"})).await;
    at(&rota, "02T19:00:00").await;
    assert_eq!(skipped(&rota, &made).await, [range("02T17:00:00", "02T17:00:00", "superseded")]);
    let expected = ["02T10:00 ran", "02T11:00 ran", "02T16:00 ran", "02T17:00 skipped superseded"];
    assert_eq!(audit(api, &made, all).await, expected);
    assert_eq!(upcoming().await, [""; 0]);
}

#[tokio::test]
async fn the_last_occurrence_of_a_schedule_gets_its_place_when_there_is_one() {
    let rota = Rota::without_engine().await;
    let made = Parts::new(&rota.api).await.deployment(&rota.api, every("0 * * * *")).await;
    set_policy(&rota.api, &made, json!({"overlap": "queue_one", "ends_at": "2026-03-02T10:30:00Z"})).await;
    at(&rota, "02T09:00:00").await;
    at(&rota, "02T10:00:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00"]);
    let rota = rota.restart_with(|config| config.engine.concurrency = 4).await;
    let (session, _) = sessions(&rota.api, &made).await.pop().unwrap();
    rota.api.stream_from(&session, 0).await.turn().await;
    at(&rota, "02T12:00:00").await;
    assert_eq!(fired(&rota.api, &made).await, ["02T09:00:00", "02T10:00:00"]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn two_servers_meet_a_deadline_once() {
    let rota = Rota::start().await;
    let other = rota.beside(|config| config.roles = [Role::Api].into_iter().collect()).await.expect(NEEDED);
    let made = asks(&rota.api, answers_within(60)).await;
    let endless = Parts::new(&rota.api).await.deployment(&rota.api, json!({"initial_events": [script(ENDLESS)]})).await;
    set_policy(&rota.api, &endless, json!({"max_session_seconds": 60})).await;
    for _ in 0..5 {
        let (_, waiting, _) = waits(&rota.api, &made).await;
        let (_, working) = run(&rota.api, &endless).await;
        appears(rota.workspace_file(&working, "started")).await;
        rota.advance_seconds(61);
        tokio::join!(rota.meet_deadlines(), other.meet_deadlines(), other.meet_deadlines());
        after_deadline(&rota, &waiting).await;
        after_deadline(&rota, &working).await;
        assert_eq!(count(&rota.api, &waiting, "user.tool_confirmation").await, 1);
        assert_eq!(count(&rota.api, &working, "user.interrupt").await, 1);
    }
    let failures = "SELECT failures FROM deployment_failures";
    let read = move |tx: &mut Tx<'_>| tx.one(failures, &[] as &[Val<'_>], |row| row.int(0));
    assert_eq!(rota.server.app().db.read(read).await.unwrap(), Some(5));
}
