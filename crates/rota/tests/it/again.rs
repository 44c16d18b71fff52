//! Another session for an occurrence whose session has died.

use rota_server::config::Role;
use serde_json::{Value, json};

use crate::{
    client::Api,
    database::NEEDED,
    given::{Parts, agent, environment, id, message, over},
    models::{calls, says},
    policies::{sessions, set_policy},
    schedules::{at, every, path, runs, tamper},
    server::Rota,
    upstream::{Reply, Upstream},
};

fn refuses() -> Reply {
    Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": "not this"}}))
}

fn good() -> Reply {
    Reply::Message(vec![says("good")])
}

fn calls_tool(tool: &str, input: &Value) -> Reply {
    Reply::Message(vec![calls("toolu_1", tool, input)])
}

/// A server whose model answers by `script`, and a deployment that fires every hour and keeps a retry of up to `max_sessions`.
async fn hourly(script: impl IntoIterator<Item = Reply>, max_sessions: u32) -> (Upstream, Rota, Value) {
    let upstream = Upstream::start(script).await;
    let rota = Rota::with(|config| config.models.push(upstream.model())).await;
    let made = deployment(&rota, max_sessions).await;
    (upstream, rota, made)
}

async fn deployment(rota: &Rota, max_sessions: u32) -> Value {
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, over(every("0 * * * *"), &json!({"name": "hourly"}))).await;
    set_policy(api, &made, json!({"retry": retry(max_sessions)})).await;
    made
}

/// Pauses are half a minute to a minute.
fn retry(max_sessions: u32) -> Value {
    json!({"max_sessions": max_sessions, "initial_backoff_seconds": 60, "multiplier": 1})
}

/// Waits until the newest session of a deployment has come to rest.
async fn rests(api: &Api, deployment: &Value) {
    let (session, _) = sessions(api, deployment).await.pop().unwrap();
    api.stream_from(&session, 0).await.turn().await;
}

/// The runs of a deployment, oldest first, as the list of all has them.
async fn listed(api: &Api, deployment: &Value) -> Vec<Value> {
    let mut runs = api.all(&format!("/rota/v1/runs?deployment_id={}", id(deployment)), 100).await;
    runs.retain(|run| run["run_id"].is_string());
    runs.reverse();
    runs
}

/// Why no other session follows each of the runs of a deployment, or `runs` where one does, or `waits`.
async fn followed(api: &Api, deployment: &Value) -> Vec<String> {
    let told = |run: &Value| {
        let followed = &run["followed"];
        match (followed["reason"].as_str(), followed["run_id"].as_str(), followed["at"].as_str()) {
            (Some(reason), None, None) => reason,
            (None, Some(_), None) => "runs",
            (None, None, Some(_)) => "waits",
            (None, None, None) => "",
            _ => panic!("{run}"),
        }
        .to_owned()
    };
    listed(api, deployment).await.iter().map(told).collect()
}

#[tokio::test]
async fn a_session_that_died_is_followed_by_another_one_and_each_names_the_other() {
    let (_upstream, rota, made) = hourly([refuses(), good()], 2).await;
    at(&rota, "02T09:00:00").await;
    rests(&rota.api, &made).await;
    let died = listed(&rota.api, &made).await.remove(0);
    assert_eq!((&died["state"], &died["attempt"], &died["retry_of"]), (&json!("failed"), &json!(1), &Value::Null));
    let due = died["followed"]["at"].as_str().unwrap().to_owned();
    assert!(("2026-03-02T09:00:30".."2026-03-02T09:01:01").contains(&&due[..19]), "{due}");
    at(&rota, "02T09:00:29").await;
    assert_eq!(runs(&rota.api, &made).await.len(), 1, "not yet");

    // Whoever looks next knows of it, and of several that look one starts it.
    let rota = rota.restart().await;
    rota.set_time("2026-03-02T09:01:10Z");
    tokio::join!(rota.tick(), rota.tick(), rota.tick());
    rests(&rota.api, &made).await;
    rota.tick().await;
    let all = listed(&rota.api, &made).await;
    let states: Vec<_> = all.iter().map(|run| run["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "done"]);
    assert_eq!(all[0]["followed"], json!({"at": null, "run_id": all[1]["run_id"], "reason": null}));
    assert_eq!((&all[1]["attempt"], &all[1]["retry_of"]), (&json!(2), &all[0]["run_id"]));
    assert_ne!(all[0]["session"]["id"], all[1]["session"]["id"]);

    // In the official record both are runs of the occurrence.
    let official = runs(&rota.api, &made).await;
    let occurrence = json!({"type": "schedule", "scheduled_at": "2026-03-02T09:00:00.000000Z"});
    assert_eq!([&official[0]["trigger_context"], &official[1]["trigger_context"]], [&occurrence; 2]);
    let audited = &rota.api.get(&format!("/rota/v1{}/occurrences", &path(&made)[3..])).await["data"][0];
    assert_eq!((&audited["outcome"], &audited["run_id"]), (&json!("ran"), &all[0]["run_id"]));
    let attempt = |run: &Value| {
        json!({"run_id": run["run_id"], "at": run["at"], "session_id": run["session"]["id"], "error": null,
               "followed": run["followed"]})
    };
    assert_eq!(audited["attempts"], json!([attempt(&all[0]), attempt(&all[1])]));
    assert_eq!(rota.api.get("/rota/v1/attention").await["data"], json!([]));
    at(&rota, "02T10:00:00").await;
    assert_eq!(runs(&rota.api, &made).await.len(), 3, "the next occurrence fires as ever");
}

#[tokio::test]
async fn there_are_no_more_sessions_than_the_policy_allows() {
    let (upstream, rota, made) = hourly([refuses(), refuses(), refuses()], 3).await;
    for time in ["02T09:00:00", "02T09:01:10", "02T09:02:20", "02T09:03:30", "02T09:50:00"] {
        at(&rota, time).await;
        rests(&rota.api, &made).await;
    }
    assert_eq!(followed(&rota.api, &made).await, ["runs", "runs", "attempts"]);
    let attempts: Vec<_> = listed(&rota.api, &made).await.iter().map(|run| run["attempt"].clone()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(upstream.asked().len(), 3);
    let failing = rota.api.get("/rota/v1/attention").await["data"][0].clone();
    assert_eq!((&failing["kind"], &failing["failures"]), (&json!("failing"), &json!(3)));
}

#[tokio::test]
async fn only_a_policy_that_asks_for_others_and_only_a_schedule_has_them() {
    let (_upstream, rota, made) = hourly([refuses(), refuses()], 1).await;
    at(&rota, "02T09:00:00").await;
    rests(&rota.api, &made).await;
    set_policy(&rota.api, &made, json!({"retry": retry(2)})).await;
    let by_hand = rota.api.call(&format!("{}/run", path(&made))).await;
    rota.api.stream_from(by_hand["session_id"].as_str().unwrap(), 0).await.turn().await;
    at(&rota, "02T09:05:00").await;
    assert_eq!(followed(&rota.api, &made).await, ["", ""]);
}

#[tokio::test]
async fn a_message_of_which_a_session_dies_after_its_run_has_ended_concerns_nobody() {
    let (_upstream, rota, made) = hourly([good(), refuses()], 2).await;
    at(&rota, "02T09:00:00").await;
    rests(&rota.api, &made).await;
    let (session, _) = sessions(&rota.api, &made).await.pop().unwrap();
    let mut stream = rota.api.stream_from(&session, 0).await;
    stream.turn().await;
    rota.advance_seconds(60);
    rota.api.events(&session, json!([message("go on")])).await;
    stream.turn().await;
    assert_eq!(followed(&rota.api, &made).await, [""]);
}

#[tokio::test]
async fn what_may_have_changed_something_is_followed_only_if_the_policy_says_so() {
    let looks = || calls_tool("glob", &json!({"pattern": "*"}));
    let acts = || calls_tool("bash", &json!({"command": "touch there"}));
    let script = [looks(), refuses(), acts(), refuses(), acts(), refuses(), good()];
    let (_upstream, rota, made) = hourly(script, 2).await;
    at(&rota, "02T09:00:00").await;
    rests(&rota.api, &made).await;
    assert_eq!(followed(&rota.api, &made).await, ["waits"], "it has only looked");
    set_policy(&rota.api, &made, json!({"retry": null})).await;
    assert_eq!(followed(&rota.api, &made).await, ["policy"]);
    set_policy(&rota.api, &made, json!({"retry": retry(2)})).await;
    at(&rota, "02T10:00:00").await;
    rests(&rota.api, &made).await;
    assert_eq!(followed(&rota.api, &made).await, ["policy", "changes"]);
    let bold = over(retry(2), &json!({"even_after_changes": true}));
    set_policy(&rota.api, &made, json!({ "retry": bold })).await;
    at(&rota, "02T11:00:00").await;
    rests(&rota.api, &made).await;
    at(&rota, "02T11:01:10").await;
    rests(&rota.api, &made).await;
    assert_eq!(followed(&rota.api, &made).await, ["policy", "changes", "runs", ""]);
}

#[tokio::test]
async fn what_happens_in_between_ends_it_with_its_reason() {
    for (what, reason) in [
        ("pause", "paused"),
        ("edit", "superseded"),
        ("archive", "archived"),
        ("late", "overtaken"),
        ("message", "resumed"),
    ] {
        let (_upstream, rota, made) = hourly([refuses(), good()], 3).await;
        let api = &rota.api;
        at(&rota, "02T09:00:00").await;
        rests(api, &made).await;
        assert_eq!(followed(api, &made).await, ["waits"], "{what}");
        let mut time = "02T09:02:00";
        match what {
            "pause" => {
                api.call(&format!("{}/pause", path(&made))).await;
                api.call(&format!("{}/unpause", path(&made))).await;
            }
            "edit" => drop(api.post(&path(&made), every("30 * * * *")).await),
            "archive" => drop(api.call(&format!("{}/archive", path(&made))).await),
            "late" => time = "02T10:00:00",
            _ => {
                let (session, _) = sessions(api, &made).await.pop().unwrap();
                let mut stream = api.stream_from(&session, 0).await;
                stream.turn().await;
                api.events(&session, json!([message("go on")])).await;
                stream.turn().await;
            }
        }
        at(&rota, time).await;
        assert_eq!(followed(api, &made).await[0], reason, "{what}");
        let again = listed(api, &made).await.iter().filter(|run| run["attempt"] != 1).count();
        assert_eq!(again, 0, "{what}");
    }
}

#[tokio::test]
async fn the_overlap_policy_decides_on_it_as_on_an_occurrence() {
    let (_upstream, rota, made) = hourly([refuses(), Reply::Stall], 2).await;
    let api = &rota.api;
    set_policy(api, &made, json!({"overlap": "skip"})).await;
    at(&rota, "02T09:00:00").await;
    rests(api, &made).await;
    // One by hand is at work.
    api.call(&format!("{}/run", path(&made))).await;
    at(&rota, "02T09:01:10").await;
    assert_eq!(followed(api, &made).await, ["overlap", ""]);

    let (_upstream, rota, made) = hourly([refuses(), Reply::Stall, good()], 2).await;
    let api = &rota.api;
    set_policy(api, &made, json!({"overlap": "queue_one"})).await;
    at(&rota, "02T09:00:00").await;
    rests(api, &made).await;
    let by_hand = api.call(&format!("{}/run", path(&made))).await["session_id"].as_str().unwrap().to_owned();
    let mut stream = api.stream_from(&by_hand, 0).await;
    stream.until("span.model_request_start").await;
    at(&rota, "02T09:01:10").await;
    assert_eq!(listed(api, &made).await.len(), 2, "it waits for its place");
    api.events(&by_hand, json!([{"type": "user.interrupt"}])).await;
    stream.turn().await;
    at(&rota, "02T09:01:20").await;
    rests(api, &made).await;
    assert_eq!(followed(api, &made).await, ["runs", "", ""]);
}

#[tokio::test]
async fn a_start_that_fails_is_a_run_with_its_error_or_is_tried_again_if_it_passes() {
    let upstream = Upstream::start([refuses(), good()]).await;
    let rota = Rota::with(|config| {
        config.models.push(upstream.model());
        config.rate.sessions_per_minute = 1;
    })
    .await;
    let made = deployment(&rota, 2).await;
    let api = &rota.api;
    set_policy(api, &made, json!({"retry": over(retry(2), &json!({"max_attempts": 3}))})).await;
    at(&rota, "02T09:00:00").await;
    rests(api, &made).await;
    rota.set_time("2026-03-02T09:01:00.5Z");
    let session = json!({"agent": made["agent"], "environment_id": made["environment_id"]});
    api.post("/v1/sessions", session).await;
    at(&rota, "02T09:01:02").await;
    assert_eq!(followed(api, &made).await, ["waits"], "the workspace has used up its sessions of the minute");
    at(&rota, "02T09:02:05").await;
    assert_eq!(followed(api, &made).await, ["runs", ""]);

    let (_upstream, rota, made) = hourly([refuses()], 2).await;
    let api = &rota.api;
    at(&rota, "02T09:00:00").await;
    rests(api, &made).await;
    api.call(&format!("/v1/environments/{}/archive", made["environment_id"].as_str().unwrap())).await;
    at(&rota, "02T09:01:10").await;
    let all = listed(api, &made).await;
    assert_eq!((&all[1]["state"], &all[1]["retry_of"]), (&json!("failed"), &all[0]["run_id"]));
    assert_eq!(all[1]["error"]["type"], "environment_archived_error");
    assert_eq!(api.get(&path(&made)).await["status"], "paused", "as where an occurrence fails so");
}

#[tokio::test]
async fn a_start_that_breaks_is_recorded() {
    let (_upstream, rota, made) = hourly([refuses()], 2).await;
    at(&rota, "02T09:00:00").await;
    rests(&rota.api, &made).await;
    tamper(&rota, format!("UPDATE deployments SET initial_events = '[' WHERE id = '{}'", id(&made))).await;
    at(&rota, "02T09:01:10").await;
    let all = listed(&rota.api, &made).await;
    assert_eq!((all.len(), &all[1]["error"]["type"]), (2, &json!("unknown_error")));
    assert_eq!(all[1]["retry_of"], all[0]["run_id"]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn of_two_servers_one_starts_the_other_session() {
    let (_upstream, one, made) = hourly([refuses(), good()], 2).await;
    let two = one.beside(|config| config.roles = [Role::Api].into_iter().collect()).await.expect(NEEDED);
    at(&two, "02T09:00:00").await;
    rests(&two.api, &made).await;
    one.set_time("2026-03-02T09:01:10Z");
    tokio::join!(one.tick(), two.tick(), one.tick(), two.tick());
    rests(&one.api, &made).await;
    tokio::join!(one.tick(), two.tick());
    assert_eq!(followed(&two.api, &made).await, ["runs", ""]);
    assert_eq!(sessions(&two.api, &made).await.len(), 2);
}
