//! Starting otherwise: with inputs, at a time, for occurrences that were passed over, and again. Time is moved by the test.

use std::time::Duration;

use reqwest::Method;
use rota_server::clock::Clock;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    client::{Answer, Api, Refusal, conflict, invalid, not_found},
    database::NEEDED,
    given::{Parts, id, message, over},
    policies::set_policy,
    process,
    schedules::{at, every, path, range, runs, skipped, tamper},
    server::{PATIENCE, Rota},
};

pub fn runs_path(deployment: &Value) -> String {
    format!("/rota/v1/deployments/{}/runs", id(deployment))
}

async fn start(api: &Api, deployment: &Value, body: Value) -> Value {
    api.post(&runs_path(deployment), body).await
}

async fn refused(api: &Api, deployment: &Value, body: Value) -> Refusal {
    api.post_refused(&runs_path(deployment), body).await
}

/// What the session of a run was sent first.
pub async fn first_events(api: &Api, run: &Value) -> Vec<Value> {
    let session = run["session_id"].as_str().unwrap();
    let events = api.all(&format!("/v1/sessions/{session}/events"), 100).await;
    events.into_iter().map(|event| json!({"type": event["type"], "content": event["content"]})).collect()
}

/// What `GET /rota/v1/runs` lists, newest first: the trigger and the state of each, and why.
pub async fn listed(api: &Api, filter: &str) -> Vec<String> {
    let told = |run: &Value| {
        let fields = ["trigger", "state", "reason"].into_iter().filter_map(|field| run[field].as_str());
        fields.collect::<Vec<_>>().join(" ")
    };
    api.all(&format!("/rota/v1/runs?{filter}"), 2).await.iter().map(told).collect()
}

/// Brings the sessions of all deployments to rest, without an engine.
pub async fn rest(rota: &Rota) {
    tamper(rota, "UPDATE sessions SET runnable_at = NULL, status = 'idle', stop_reason = 'end_turn'".to_owned()).await;
}

async fn planned(api: &Api, start: &Value) -> Value {
    api.get(&format!("/rota/v1/starts/{}", id(start))).await
}

fn fate(start: &Value) -> (&str, Option<&str>) {
    (start["state"].as_str().unwrap(), start["reason"].as_str())
}

async fn templated(api: &Api) -> Value {
    let parts = Parts::new(api).await;
    parts.deployment(api, json!({"initial_events": [message("look at {{branch}} of {{ repo }}")]})).await
}

#[tokio::test]
async fn inputs_fill_the_first_events_and_content_follows_the_first_message() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = templated(api).await;
    let inputs = json!({"branch": "main", "repo": "{{branch}}"});
    let block = json!({"type": "text", "text": "and at {{this}}"});
    let run = start(api, &made, json!({"inputs": inputs, "content": [block]})).await;
    let filled =
        json!({"type": "user.message", "content": [{"type": "text", "text": "look at main of {{branch}}"}, block]});
    assert_eq!(first_events(api, &run).await, [filled]);
    let how = json!({"trigger": "manual", "inputs": inputs, "start_id": null, "hook_id": null, "rerun_of": null, "rerun_by": null});
    assert_eq!(run["start"], how);
    let official = api.get(&format!("/v1/deployment_runs/{}", id(&run))).await;
    let mut same = run.clone();
    same.as_object_mut().unwrap().shift_remove("start");
    assert_eq!((&official, &official["trigger_context"]), (&same, &json!({"type": "manual"})));
    assert_eq!(api.get(&format!("/rota/v1/deployment_runs/{}", id(&run))).await["start"], how);
    assert_eq!(listed(api, "").await, ["manual queued"]);
    assert_eq!(listed(api, "trigger=manual").await, ["manual queued"]);

    // Without inputs it is what the hosted service does.
    for run in [start(api, &made, json!({})).await, api.call(&format!("{}/run", path(&made))).await] {
        assert_eq!(first_events(api, &run).await, made["initial_events"].as_array().unwrap().clone());
    }
}

#[tokio::test]
async fn inputs_that_do_not_fit_the_first_events_are_refused_and_start_nothing() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = templated(api).await;
    let missing = "One or more files not found. Check that each `file_id` exists and is accessible";
    let file = json!({"type": "image", "source": {"type": "file", "file_id": "file_nobody"}});
    for (body, said) in [
        (
            json!({"inputs": {"branch": "a"}}),
            invalid("inputs.repo: Field required: the first events of the deployment have {{repo}}"),
        ),
        (
            json!({"inputs": {"branch": "a", "repo": "b", "tag": "c"}}),
            invalid(
                "inputs.tag: the first events of the deployment have no {{tag}}; what they have is {{branch}}, {{repo}}",
            ),
        ),
        (json!({"at": "2026-03-02T08:00:00Z"}), invalid("at: must be a time in the future; leave it out to start now")),
        (json!({"at": "2027-03-04T08:00:00Z"}), invalid("at: must be within 366 days from now")),
        (json!({"content": [file]}), not_found(format!("{missing}: file_nobody"))),
    ] {
        assert_eq!(refused(api, &made, body).await, said);
    }
    let nobody = api.post_refused("/rota/v1/deployments/depl_nobody/runs", json!({})).await;
    assert_eq!(nobody, not_found("Deployment `depl_nobody` not found."));
    assert_eq!(runs(api, &made).await, [Value::Null; 0]);
    api.call(&format!("{}/archive", path(&made))).await;
    assert_eq!(refused(api, &made, json!({})).await, invalid("Cannot modify archived deployment"));
}

#[tokio::test]
async fn a_key_stands_for_what_it_led_to_first() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = templated(api).await;
    let ask = async |path: &str, key: &str, body: Value| -> Answer {
        api.answer(api.request(Method::POST, path).header("idempotency-key", key).json(&body)).await
    };
    let path = runs_path(&made);
    let now = ask(&path, "one", json!({})).await.success();
    assert_eq!(ask(&path, "one", json!({"inputs": {"branch": "other", "repo": "b"}})).await.success(), now);
    let later = ask(&path, "two", json!({"at": "2026-03-02T09:00:00Z"})).await.success();
    assert_eq!(ask(&path, "two", json!({"at": "2026-03-02T09:00:00Z"})).await.success(), later);
    assert_eq!(later["type"], "planned_start");
    let official = format!("/v1/deployments/{}/run", id(&made));
    let official = api.answer(api.request(Method::POST, &official).header("idempotency-key", "two")).await.success();
    assert_eq!(official["type"], "deployment_run", "its keys are others");
    assert_eq!(runs(api, &made).await.len(), 2);
    // What was refused has used no key.
    ask(&path, "three", json!({"inputs": {}})).await.refusal();
    assert_ne!(ask(&path, "three", json!({})).await.success()["id"], now["id"]);
}

#[tokio::test]
async fn a_planned_start_fires_at_its_time_and_once() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = templated(api).await;
    let inputs = json!({"branch": "main", "repo": "r"});
    let block = json!({"type": "text", "text": "more"});
    let plan = start(api, &made, json!({"at": "2026-03-02T09:00:00Z", "inputs": inputs, "content": [block]})).await;
    let expected = json!({
        "id": plan["id"], "type": "planned_start", "deployment_id": id(&made), "trigger": "at", "at": "2026-03-02T09:00:00.000000Z",
        "scheduled_at": null, "state": "planned", "reason": null, "inputs": inputs, "hook_id": null, "run_id": null,
        "created_at": plan["created_at"], "ended_at": null,
    });
    assert_eq!(plan, expected);
    at(&rota, "02T08:59:59.999999").await;
    assert_eq!(runs(api, &made).await, [Value::Null; 0]);
    for time in ["02T09:00:00", "02T09:00:00", "02T09:00:01", "02T10:00:00"] {
        at(&rota, time).await;
        assert_eq!(runs(api, &made).await.len(), 1, "{time}");
    }
    let run = runs(api, &made).await.remove(0);
    assert_eq!(run["trigger_context"], json!({"type": "manual"}));
    let text = json!({"type": "text", "text": "look at main of r"});
    assert_eq!(first_events(api, &run).await, [json!({"type": "user.message", "content": [text, block]})]);
    let told = api.get(&format!("/rota/v1/deployment_runs/{}", id(&run))).await;
    let start = &told["start"];
    assert_eq!((&start["trigger"], &start["start_id"], &start["inputs"]), (&json!("at"), &plan["id"], &inputs));
    let after = planned(api, &plan).await;
    assert_eq!((fate(&after), &after["run_id"]), (("ran", None), &run["id"]));
    assert_eq!(
        (listed(api, "trigger=at").await, listed(api, "trigger=manual").await),
        (vec!["at queued".to_owned()], vec![])
    );
    let refused = api.call_refused(&format!("/rota/v1/starts/{}/cancel", id(&plan))).await;
    let said = format!("start {} is not planned any more, and cannot be cancelled: its state is ran", id(&plan));
    assert_eq!(refused, conflict(said));
}

#[tokio::test]
async fn a_planned_start_that_is_cancelled_never_fires_and_is_listed() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, json!({})).await;
    let mut plans = Vec::new();
    for minute in 1..=3 {
        plans.push(start(api, &made, json!({"at": format!("2026-03-02T09:0{minute}:00Z")})).await);
    }
    let cancel = format!("/rota/v1/starts/{}/cancel", id(&plans[1]));
    let cancelled = api.call(&cancel).await;
    assert_eq!(fate(&cancelled), ("cancelled", None));
    assert_eq!(api.call(&cancel).await, cancelled, "once");
    at(&rota, "02T09:05:00").await;
    let list = format!("/rota/v1/deployments/{}/starts", id(&made));
    let all = api.all(&list, 2).await;
    let fates: Vec<_> = all.iter().map(|start| (id(start), fate(start).0)).collect();
    assert_eq!(fates, [(id(&plans[2]), "ran"), (id(&plans[1]), "cancelled"), (id(&plans[0]), "ran")]);
    assert_eq!(api.all(&format!("{list}?state=cancelled"), 2).await, [cancelled]);
    assert_eq!(
        api.call_refused("/rota/v1/starts/start_nobody/cancel").await,
        not_found("Planned start `start_nobody` not found.")
    );
    assert_eq!(runs(api, &made).await.len(), 2);
}

#[tokio::test]
async fn a_planned_start_that_cannot_run_says_why() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let nine = json!({"at": "2026-03-02T09:00:00Z"});
    let [paused, archived, changed, broken] =
        [(); 4].map(|()| parts.deployment_body(&json!({"initial_events": [message("{{a}}")]})));
    let mut plans = Vec::new();
    for body in [paused, archived, changed, broken] {
        let made = api.post("/v1/deployments", body).await;
        let plan = start(api, &made, over(nine.clone(), &json!({"inputs": {"a": "b"}}))).await;
        plans.push((made, plan));
    }
    api.call(&format!("{}/pause", path(&plans[0].0))).await;
    api.call(&format!("{}/archive", path(&plans[1].0))).await;
    api.post(&path(&plans[2].0), json!({"initial_events": [message("{{other}}")]})).await;
    tamper(&rota, format!("UPDATE deployments SET resources = '[{{}}]' WHERE id = '{}'", id(&plans[3].0))).await;
    at(&rota, "02T09:00:00").await;
    let mut fates = Vec::new();
    for (_, plan) in &plans {
        fates.push(planned(api, plan).await);
    }
    let told: Vec<_> = fates.iter().map(fate).collect();
    assert_eq!(told, [("skipped", Some("paused")), ("skipped", Some("archived")), ("failed", None), ("failed", None)]);
    let run = async |plan: &Value| api.get(&format!("/v1/deployment_runs/{}", plan["run_id"].as_str().unwrap())).await;
    let error = run(&fates[2]).await["error"].clone();
    assert_eq!(error["type"], "session_creation_rejected_error");
    let said =
        "session creation rejected: inputs.other: Field required: the first events of the deployment have {{other}}";
    assert_eq!(error["message"], said);
    assert_eq!(run(&fates[3]).await["error"]["type"], "unknown_error");

    let made = parts.deployment(api, json!({})).await;
    set_policy(api, &made, json!({"catch_up_seconds": 600})).await;
    let plan = start(api, &made, json!({"at": "2026-03-02T10:00:00Z"})).await;
    at(&rota, "02T10:10:01").await;
    assert_eq!(fate(&planned(api, &plan).await), ("missed", Some("missed")));
    let attention = api.get("/rota/v1/attention").await;
    let missed = attention["data"].as_array().unwrap().iter().find(|item| item["kind"] == "missed").cloned().unwrap();
    assert_eq!((&missed["deployment_id"], &missed["since"]), (&made["id"], &json!("2026-03-02T10:00:00.000000Z")));
    assert_eq!(
        listed(api, "trigger=at").await,
        ["at missed missed", "at failed", "at failed", "at skipped archived", "at skipped paused"]
            .map(str::to_owned)
            .to_vec(),
        "newest first"
    );
}

#[tokio::test]
async fn a_planned_start_keeps_the_policy_of_its_deployment() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, json!({})).await;
    start(api, &made, json!({})).await;
    set_policy(api, &made, json!({"overlap": "skip"})).await;
    let skips = start(api, &made, json!({"at": "2026-03-02T09:00:00Z"})).await;
    at(&rota, "02T09:00:00").await;
    assert_eq!(fate(&planned(api, &skips).await), ("skipped", Some("overlap")));
    set_policy(api, &made, json!({"overlap": "queue_one"})).await;
    let waits = start(api, &made, json!({"at": "2026-03-02T10:00:00Z"})).await;
    at(&rota, "02T10:00:00").await;
    at(&rota, "02T15:00:00").await;
    assert_eq!(fate(&planned(api, &waits).await), ("planned", Some("queued")), "it is not late, it waits");
    rest(&rota).await;
    at(&rota, "02T15:00:01").await;
    assert_eq!(fate(&planned(api, &waits).await), ("ran", None));
    set_policy(api, &made, json!({"overlap": "cancel_previous"})).await;
    let cancels = start(api, &made, json!({"at": "2026-03-02T16:00:00Z"})).await;
    at(&rota, "02T16:00:00").await;
    assert_eq!(fate(&planned(api, &cancels).await), ("ran", None));
    assert_eq!(runs(api, &made).await.len(), 3);
}

#[tokio::test]
async fn a_planned_start_survives_a_restart_and_an_earlier_clock() {
    let rota = Rota::without_engine().await;
    let made = Parts::new(&rota.api).await.deployment(&rota.api, json!({})).await;
    let plan = start(&rota.api, &made, json!({"at": "2026-03-02T09:00:00Z"})).await;
    let rota = rota.restart().await;
    at(&rota, "02T09:00:01").await;
    let rota = rota.restart().await;
    at(&rota, "02T08:30:00").await;
    at(&rota, "02T09:00:01").await;
    assert_eq!(runs(&rota.api, &made).await.len(), 1);
    assert_eq!(fate(&planned(&rota.api, &plan).await), ("ran", None));
}

#[tokio::test]
async fn a_planned_start_fires_once_though_its_server_is_killed_before_and_after() {
    let folder = TempDir::new().unwrap();
    let mut server = process::Server::new(folder.path(), &["--concurrency", "0"]);
    server.start().await;
    let client = process::Client::new(server.address, process::create_key(folder.path(), &[]));
    let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook"})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    let body = json!({"name": "d", "agent": id(&agent), "environment_id": id(&environment), "initial_events": [message("hi")]});
    let made = client.post("/v1/deployments", &body).await;
    let soon = Clock::System.now().plus_micros(8_000_000).to_string();
    let plan = client.post(&runs_path(&made), &json!({ "at": soon })).await;
    server.kill();
    server.start().await;
    let starts = format!("/rota/v1/starts/{}", id(&plan));
    let fires = async {
        while client.get(&starts).await["state"] != "ran" {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, fires).await.expect("it fires");
    let run = client.get(&starts).await["run_id"].clone();
    server.kill();
    server.start().await;
    let runs = client.list(&format!("/v1/deployment_runs?deployment_id={}", id(&made))).await;
    assert_eq!(runs.iter().map(|run| &run["id"]).collect::<Vec<_>>(), [&run]);
    assert_eq!(client.get(&starts).await["run_id"], run);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn of_several_servers_one_fires_a_planned_start() {
    let one = Rota::without_engine().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let api = &one.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, json!({})).await;
    for second in 0..20 {
        start(api, &made, json!({"at": format!("2026-03-02T09:00:{second:02}Z")})).await;
    }
    one.set_time("2026-03-02T09:01:00Z");
    for _ in 0..3 {
        tokio::join!(one.tick(), two.tick());
    }
    assert_eq!(runs(api, &made).await.len(), 20);
    let scheduled = parts.deployment(api, every("0 * * * *")).await;
    one.set_time("2026-03-02T13:30:00Z");
    two.tick().await;
    let backfill = format!("/rota/v1/deployments/{}/backfill", id(&scheduled));
    let range = json!({"from": "2026-03-02T00:00:00Z", "to": "2026-03-03T00:00:00Z"});
    let asks = [api.post(&backfill, range.clone()), two.api.post(&backfill, range)];
    let planned: i64 =
        futures_util::future::join_all(asks).await.iter().map(|asked| asked["planned"].as_i64().unwrap()).sum();
    assert_eq!(planned, 3, "each occurrence once");
    one.set_time("2026-03-02T13:31:00Z");
    for _ in 0..5 {
        rest(&one).await;
        tokio::join!(one.tick(), two.tick());
    }
    let mut occurrences: Vec<_> =
        runs(api, &scheduled).await.iter().map(|run| run["trigger_context"].to_string()).collect();
    occurrences.sort();
    occurrences.dedup();
    assert_eq!((occurrences.len(), runs(api, &scheduled).await.len()), (4, 4));
}

#[tokio::test]
async fn a_failed_run_is_done_again_with_what_it_was_given_and_both_name_each_other() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, json!({"initial_events": [message("{{a}}")]})).await;
    let given = json!({"inputs": {"a": "b"}, "content": [{"type": "text", "text": "c"}]});
    let well = start(api, &made, given.clone()).await;
    let rerun = |run: &Value| format!("/rota/v1/runs/{}/rerun", id(run));
    let not_failed = format!(
        "run {} has not failed: only a run that has an error, or whose session has died or was interrupted by a limit, is done again",
        id(&well)
    );
    assert_eq!(api.call_refused(&rerun(&well)).await, conflict(not_failed));
    let dies = "UPDATE sessions SET runnable_at = NULL, status = 'terminated', stop_reason = 'terminated' WHERE id";
    tamper(&rota, format!("{dies} = '{}'", well["session_id"].as_str().unwrap())).await;
    let again = api.call(&rerun(&well)).await;
    assert_eq!(first_events(api, &again).await, first_events(api, &well).await);
    let start_of = &again["start"];
    assert_eq!(
        (&start_of["trigger"], &start_of["rerun_of"], &start_of["inputs"]),
        (&json!("rerun"), &well["id"], &given["inputs"])
    );
    let first = api.get(&format!("/rota/v1/deployment_runs/{}", id(&well))).await;
    assert_eq!(first["start"]["rerun_by"], again["id"]);
    let said = format!("run {} was done again already, as {}; if that has failed, rerun it", id(&well), id(&again));
    assert_eq!(api.call_refused(&rerun(&well)).await, conflict(said));
    assert_eq!(
        api.get(&format!("/v1/deployment_runs/{}", id(&again))).await["trigger_context"],
        json!({"type": "manual"})
    );
    let all = api.all("/rota/v1/runs", 10).await;
    assert_eq!((&all[0]["rerun_of"], &all[1]["rerun_by"]), (&well["id"], &again["id"]));
    assert_eq!(listed(api, "trigger=rerun").await, ["rerun queued"]);

    // One that left no session, of a schedule.
    let hourly = parts.deployment(api, every("0 9 * * *")).await;
    tamper(&rota, format!("UPDATE environments SET archived_at = 1 WHERE id = '{}'", id(&parts.environment))).await;
    at(&rota, "02T09:00:00").await;
    let failed = runs(api, &hourly).await.remove(0);
    assert_eq!(failed["error"]["type"], "environment_archived_error");
    let again = api.call(&rerun(&failed)).await;
    assert_eq!(again["error"]["type"], "environment_archived_error");
    tamper(&rota, "UPDATE environments SET archived_at = NULL".to_owned()).await;
    assert_eq!(api.call(&rerun(&again)).await["error"], Value::Null);
    assert_eq!(
        api.call_refused("/rota/v1/runs/drun_nobody/rerun").await,
        not_found("Deployment run `drun_nobody` not found.")
    );
}

async fn backfill(api: &Api, deployment: &Value, from: &str, to: &str) -> Value {
    let range = json!({"from": format!("2026-03-{from}Z"), "to": format!("2026-03-{to}Z")});
    api.post(&format!("/rota/v1/deployments/{}/backfill", id(deployment)), range).await
}

/// The occurrences of a deployment and what became of each, oldest first.
async fn audit(api: &Api, deployment: &Value) -> Vec<String> {
    let mut all = api.all(&format!("/rota/v1/deployments/{}/occurrences", id(deployment)), 3).await;
    all.reverse();
    let told = |one: &Value| {
        let (at, outcome) = (one["scheduled_at"].as_str().unwrap(), one["outcome"].as_str().unwrap());
        format!("{} {outcome}", &at[11..13])
    };
    all.iter().map(told).collect()
}

#[tokio::test]
async fn occurrences_that_were_passed_over_are_made_up_for_under_their_own_times_and_once() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = Parts::new(api).await.deployment(api, every("0 * * * *")).await;
    at(&rota, "02T09:00:00").await;
    at(&rota, "02T15:30:00").await;
    let before = ["09 ran", "10 skipped", "11 skipped", "12 skipped", "13 skipped", "14 skipped", "15 ran"];
    assert_eq!(audit(api, &made).await, before);
    set_policy(api, &made, json!({"max_concurrent_sessions": 1})).await;
    let planned = backfill(api, &made, "02T09:00:00", "02T14:00:00").await;
    let expected = json!({
        "type": "planned_backfill", "deployment_id": id(&made), "planned": 4,
        "first_at": "2026-03-02T10:00:00.000000Z", "last_at": "2026-03-02T13:00:00.000000Z",
    });
    assert_eq!(planned, expected);
    assert_eq!(backfill(api, &made, "02T00:00:00", "02T13:00:00").await["planned"], 0, "they are planned already");
    at(&rota, "02T15:30:01").await;
    assert_eq!(audit(api, &made).await, before, "two sessions are at work");
    let starts = format!("/rota/v1/deployments/{}/starts?state=planned", id(&made));
    let noon =
        api.all(&starts, 100).await.into_iter().find(|start| start["scheduled_at"] == "2026-03-02T12:00:00.000000Z");
    api.call(&format!("/rota/v1/starts/{}/cancel", id(&noon.unwrap()))).await;
    for second in 2..=5 {
        rest(&rota).await;
        for _ in 0..2 {
            at(&rota, &format!("02T15:30:0{second}")).await;
        }
        let ran = runs(api, &made).await.len();
        assert_eq!(ran, (second + 1).min(5), "one after the other");
    }
    let after = ["09 ran", "10 ran", "11 ran", "12 skipped", "13 ran", "14 skipped", "15 ran"];
    assert_eq!(audit(api, &made).await, after);
    let left = ["12", "14"].map(|hour| range(&format!("02T{hour}:00:00"), &format!("02T{hour}:00:00"), "missed"));
    assert_eq!(skipped(&rota, &made).await, left, "what was made up for is missed no more");
    assert_eq!(listed(api, "state=missed").await.len(), 2);
    assert_eq!(listed(api, "trigger=backfill").await, ["backfill done"; 3]);
    let official = api.all(&format!("/v1/deployment_runs?deployment_id={}&trigger_type=schedule", id(&made)), 10).await;
    assert_eq!(official.len(), 5);
    assert_eq!(backfill(api, &made, "02T09:00:00", "02T12:00:00").await["planned"], 0);
    assert_eq!(
        backfill(api, &made, "02T12:00:00", "02T12:00:00.000001").await["planned"],
        1,
        "what was cancelled can be asked for again"
    );
    at(&rota, "02T16:00:00").await;
    let later = [range("02T14:00:00", "02T14:00:00", "missed"), range("02T16:00:00", "02T16:00:00", "concurrency")];
    assert_eq!(skipped(&rota, &made).await, later, "the schedule goes on, by its policy");
}

#[tokio::test]
async fn a_backfill_of_a_deployment_that_does_not_run_is_refused_and_one_under_way_waits() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, every("* * * * *")).await;
    at(&rota, "02T09:00:00").await;
    at(&rota, "03T03:00:00").await;
    let ask = format!("/rota/v1/deployments/{}/backfill", id(&made));
    let range = |from: &str, to: &str| json!({"from": format!("2026-03-{from}Z"), "to": format!("2026-03-{to}Z")});
    let wrong = api.post_refused(&ask, range("02T10:00:00", "02T10:00:00")).await;
    assert_eq!(wrong, invalid("to: must be later than from"));
    let large = api.post_refused(&ask, range("01T00:00:00", "03T04:00:00")).await;
    let said = "to: a backfill looks through at most 50000 occurrences, of which at most 1000 may have been passed over; ask for a \
        shorter range";
    assert_eq!(large, invalid(said));
    assert_eq!(backfill(api, &made, "02T10:00:00", "02T10:10:00").await["planned"], 10);
    api.call(&format!("{}/pause", path(&made))).await;
    let paused = api.post_refused(&ask, range("02T10:00:00", "02T11:00:00")).await;
    assert_eq!(
        paused,
        conflict(format!("deployment {} is paused; unpause it before its occurrences are run", id(&made)))
    );
    let before = runs(api, &made).await.len();
    at(&rota, "03T03:00:01").await;
    assert_eq!(runs(api, &made).await.len(), before);
    api.call(&format!("{}/unpause", path(&made))).await;
    rest(&rota).await;
    at(&rota, "03T03:00:02").await;
    assert_eq!(runs(api, &made).await.len(), before + 4, "as many at a time where the policy has no number");
    api.call(&format!("{}/archive", path(&made))).await;
    at(&rota, "03T03:00:03").await;
    let starts = api.all(&format!("/rota/v1/deployments/{}/starts", id(&made)), 100).await;
    let fates = starts.iter().filter(|start| fate(start) == ("skipped", Some("archived"))).count();
    assert_eq!(fates, 6);
    assert_eq!(
        api.post_refused(&ask, range("02T10:00:00", "02T11:00:00")).await,
        invalid("Cannot modify archived deployment")
    );
}
