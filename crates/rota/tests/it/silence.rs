//! Deployments that have gone silent. Who looks for them looks when a test says so.

use rota_server::{
    config::Role,
    limits::SILENCE_BATCH,
    resources::deployments::silence::{due, settle},
};
use serde_json::{Value, json};

use crate::{
    client::{Api, ENDPOINTS},
    database::NEEDED,
    given::{Parts, agent, environment, id, message, over},
    policies::set_policy,
    schedules::{every, path},
    server::Rota,
    upstream::{Reply, Upstream},
};

/// Nothing is sent: what was told is read from the record of deliveries.
async fn endpoint(api: &Api) -> String {
    let body = json!({"url": "https://hooks.invalid", "enabled_events": ["rota.deployment.silent"]});
    format!("{ENDPOINTS}/{}/deliveries", id(&api.post(ENDPOINTS, body).await))
}

/// What was told, oldest first, but for who tells.
async fn told(api: &Api, deliveries: &str) -> Vec<Value> {
    let mut told = api.all(deliveries, 100).await;
    told.reverse();
    let data = |delivery: &Value| {
        let mut data = delivery["event"]["data"].clone();
        data.as_object_mut().unwrap().retain(|name, _| !["organization_id", "workspace_id"].contains(&name.as_str()));
        data
    };
    told.iter().map(data).collect()
}

fn silent(deployment: &Value, since: &Value, intervals: u32) -> Value {
    json!({"type": "rota.deployment.silent", "id": id(deployment), "since": since, "intervals": intervals})
}

async fn look_at(rota: &Rota, time: &str) {
    rota.set_time(&format!("2026-03-{time}Z"));
    rota.look_for_silence().await;
}

/// The deployments that are silent, each with since when.
async fn attention(api: &Api) -> Vec<(String, Value)> {
    let items = api.get("/rota/v1/attention").await["data"].as_array().unwrap().clone();
    let silent = items.into_iter().filter(|item| item["kind"] == "silent");
    silent.map(|item| (item["deployment_name"].as_str().unwrap().to_owned(), item["since"].clone())).collect()
}

/// Runs a deployment by hand to its end, which is when its session stopped.
async fn run(api: &Api, deployment: &Value) -> Value {
    let run = api.call(&format!("{}/run", path(deployment))).await;
    api.stream_from(run["session_id"].as_str().unwrap(), 0).await.turn().await;
    api.get("/rota/v1/runs?limit=1").await["data"][0]["session"]["stopped_at"].clone()
}

async fn only_api(configure: impl FnOnce(&mut rota_server::config::Config)) -> Rota {
    Rota::with(|config| {
        config.roles = [Role::Api, Role::Runner].into_iter().collect();
        configure(config);
    })
    .await
}

fn hourly(name: &str) -> Value {
    over(every("0 * * * *"), &json!({"name": name, "initial_events": [message("hi")]}))
}

#[tokio::test]
async fn a_silence_is_told_once_and_ends_with_the_next_good_run() {
    let rota = only_api(|_| {}).await;
    let deliveries = endpoint(&rota.api).await;
    let made = Parts::new(&rota.api).await.deployment(&rota.api, hourly("nightly")).await;
    let since = &made["created_at"];
    rota.look_for_silence().await;
    look_at(&rota, "02T11:59:59").await;
    assert_eq!(told(&rota.api, &deliveries).await, [] as [Value; 0]);
    for time in ["02T12:00:31", "02T12:00:32", "02T13:01:00"] {
        look_at(&rota, time).await;
        assert_eq!(told(&rota.api, &deliveries).await, [silent(&made, since, 3)], "{time}");
        assert_eq!(attention(&rota.api).await, [("nightly".to_owned(), since.clone())], "{time}");
    }
    let rota = rota.restart().await;
    look_at(&rota, "02T14:01:00").await;
    assert_eq!(told(&rota.api, &deliveries).await.len(), 1, "also after a restart");
    assert_eq!(rota.other_workspace().await.get("/rota/v1/attention").await["data"], json!([]));

    let good = run(&rota.api, &made).await;
    assert_eq!(attention(&rota.api).await, []);
    for time in ["02T14:02:00", "02T17:59:59"] {
        look_at(&rota, time).await;
        assert_eq!(attention(&rota.api).await, [], "{time}");
    }
    look_at(&rota, "02T18:00:31").await;
    assert_eq!(told(&rota.api, &deliveries).await, [silent(&made, since, 3), silent(&made, &good, 3)]);
    assert_eq!(attention(&rota.api).await, [("nightly".to_owned(), good)]);
}

#[tokio::test]
async fn only_a_run_that_comes_to_a_good_end_is_one() {
    let refuses =
        || Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}));
    let says = Reply::Message(vec![json!({"type": "text", "text": "hi"})]);
    let upstream = Upstream::start([refuses(), refuses(), says]).await;
    let rota = only_api(|config| config.models.push(upstream.model())).await;
    let api = &rota.api;
    let deliveries = endpoint(api).await;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, hourly("nightly")).await;
    rota.set_time("2026-03-02T10:30:00Z");
    run(api, &made).await;
    look_at(&rota, "02T12:00:31").await;
    assert_eq!(told(api, &deliveries).await, [silent(&made, &made["created_at"], 3)]);
    run(api, &made).await;
    assert_eq!(attention(api).await.len(), 1);
    look_at(&rota, "02T13:01:00").await;
    assert_eq!(attention(api).await.len(), 1);
    run(api, &made).await;
    assert_eq!(attention(api).await, []);
}

#[tokio::test]
async fn what_does_not_fire_is_not_silent_and_counts_from_when_it_does_again() {
    let rota = only_api(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    parts.deployment(api, json!({"name": "by hand"})).await;
    let paused = parts.deployment(api, hourly("paused")).await;
    let archived = parts.deployment(api, hourly("archived")).await;
    let changed = parts.deployment(api, hourly("changed")).await;
    let bare = parts.deployment(api, hourly("bare")).await;
    api.call(&format!("{}/pause", path(&paused))).await;
    look_at(&rota, "02T11:30:00").await;
    api.post(&path(&changed), every("30 * * * *")).await;
    look_at(&rota, "02T12:00:31").await;
    let names = async |api: &Api| attention(api).await.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(api).await, ["archived", "bare"]);
    api.call(&format!("{}/archive", path(&archived))).await;
    api.post(&path(&bare), json!({"schedule": null})).await;
    assert_eq!(names(api).await, [""; 0]);
    api.call(&format!("{}/unpause", path(&paused))).await;
    look_at(&rota, "02T15:00:31").await;
    assert_eq!(names(api).await, [""; 0], "two whole intervals of each have passed");
    look_at(&rota, "02T16:00:31").await;
    assert_eq!(names(api).await, ["changed", "paused"]);
}

#[tokio::test]
async fn a_policy_says_after_how_many_intervals() {
    let rota = only_api(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let deliveries = endpoint(api).await;
    let parts = Parts::new(api).await;
    let soon = parts.deployment(api, hourly("soon")).await;
    let late = parts.deployment(api, hourly("late")).await;
    set_policy(api, &soon, json!({"silent_after_intervals": 1})).await;
    look_at(&rota, "02T08:30:00").await;
    look_at(&rota, "02T10:00:31").await;
    assert_eq!(told(api, &deliveries).await, [silent(&soon, &soon["created_at"], 1)]);
    set_policy(api, &late, json!({"silent_after_intervals": 1})).await;
    rota.look_for_silence().await;
    assert_eq!(told(api, &deliveries).await[1..], [silent(&late, &late["created_at"], 1)]);
    set_policy(api, &soon, json!({"silent_after_intervals": null})).await;
    rota.look_for_silence().await;
    assert_eq!(attention(api).await, [("late".to_owned(), late["created_at"].clone())]);
    assert_eq!(told(api, &deliveries).await.len(), 2);
}

#[tokio::test]
async fn a_good_run_between_a_look_and_its_record_is_no_silence() {
    let rota = only_api(|_| {}).await;
    let api = &rota.api;
    let deliveries = endpoint(api).await;
    let made = Parts::new(api).await.deployment(api, hourly("nightly")).await;
    rota.set_time("2026-03-02T12:00:31Z");
    let db = &rota.server.app().db;
    let looks = db.read(|tx| due(tx, SILENCE_BATCH)).await.unwrap();
    assert_eq!(looks.len(), 1);
    run(api, &made).await;
    assert_eq!(db.write(move |tx| settle(tx, &looks)).await.unwrap(), []);
    assert_eq!(attention(api).await, []);
    assert_eq!(told(api, &deliveries).await, [] as [Value; 0]);
}

#[tokio::test]
async fn more_deployments_than_one_look_takes_are_all_told() {
    let rota = only_api(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let deliveries = endpoint(api).await;
    let parts = Parts::new(api).await;
    let count = SILENCE_BATCH as usize + 1;
    for number in 0..count {
        parts.deployment(api, hourly(&number.to_string())).await;
    }
    look_at(&rota, "02T12:00:31").await;
    assert_eq!(told(api, &deliveries).await.len(), count);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn two_servers_tell_of_a_silence_once() {
    let one = only_api(|config| config.engine.concurrency = 0).await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let deliveries = endpoint(&one.api).await;
    let parts = Parts::new(&one.api).await;
    for number in 0..20 {
        parts.deployment(&one.api, hourly(&number.to_string())).await;
    }
    one.set_time("2026-03-02T12:00:31Z");
    tokio::join!(one.look_for_silence(), two.look_for_silence(), one.look_for_silence(), two.look_for_silence());
    let told = told(&one.api, &deliveries).await;
    let mut about: Vec<&str> = told.iter().map(|told| told["id"].as_str().unwrap()).collect();
    about.sort_unstable();
    about.dedup();
    assert_eq!((told.len(), about.len()), (20, 20));
}

#[tokio::test]
async fn schedules_that_are_held_are_not_silent_and_count_from_when_they_go_on() {
    let rota = only_api(|config| config.engine.concurrency = 0).await;
    let (administrator, other) = (rota.administrator().await, rota.other_workspace().await);
    let mut watched = Vec::new();
    for (api, name) in [(&rota.api, "here"), (&other, "there")] {
        let deliveries = endpoint(api).await;
        watched.push((api, deliveries, Parts::new(api).await.deployment(api, hourly(name)).await));
    }
    let all_quiet = async |time: &str, told_before: [usize; 2]| {
        look_at(&rota, time).await;
        for ((api, deliveries, _), before) in watched.iter().zip(told_before) {
            assert_eq!(told(api, deliveries).await.len(), before, "{time}");
            assert_eq!(attention(api).await, [], "{time}");
        }
    };
    all_quiet("02T09:30:00", [0, 0]).await;
    administrator.call("/rota/v1/schedules/hold").await;
    all_quiet("02T12:00:31", [0, 0]).await;
    all_quiet("02T15:00:31", [0, 0]).await;
    let here = rota.api.get("/rota/v1/retention").await["workspace_id"].as_str().unwrap().to_owned();
    administrator.call(&format!("/rota/v1/workspaces/{here}/schedules/hold")).await;
    rota.set_time("2026-03-02T15:30:00Z");
    administrator.call("/rota/v1/schedules/release").await;
    all_quiet("02T18:59:59", [0, 0]).await;
    look_at(&rota, "02T19:00:31").await;
    assert_eq!(told(&rota.api, &watched[0].1).await, [] as [Value; 0], "held still");
    let since = attention(&other).await.pop().unwrap().1;
    assert!(since.as_str().unwrap().starts_with("2026-03-02T15:30:00"), "{since}");
    assert_eq!(told(&other, &watched[1].1).await, [silent(&watched[1].2, &since, 3)]);

    // One that is silent when its schedule is held is so no more, and is told again only after whole intervals of its own.
    administrator.call("/rota/v1/schedules/hold").await;
    all_quiet("02T19:20:00", [0, 1]).await;
    rota.set_time("2026-03-02T20:30:00Z");
    administrator.call("/rota/v1/schedules/release").await;
    administrator.call(&format!("/rota/v1/workspaces/{here}/schedules/release")).await;
    all_quiet("02T23:59:59", [0, 1]).await;
    look_at(&rota, "03T00:00:31").await;
    for ((api, deliveries, made), before) in watched.iter().zip([0, 1]) {
        let since = attention(api).await.pop().unwrap().1;
        assert!(since.as_str().unwrap().starts_with("2026-03-02T20:30:00"), "{since}");
        assert_eq!(told(api, deliveries).await[before..], [silent(made, &since, 3)]);
    }
}

#[tokio::test]
async fn a_hold_between_a_look_and_its_record_is_no_silence() {
    let rota = only_api(|config| config.engine.concurrency = 0).await;
    let deliveries = endpoint(&rota.api).await;
    Parts::new(&rota.api).await.deployment(&rota.api, hourly("nightly")).await;
    rota.set_time("2026-03-02T12:00:31Z");
    let db = &rota.server.app().db;
    let looks = db.read(|tx| due(tx, SILENCE_BATCH)).await.unwrap();
    assert_eq!(looks.len(), 1);
    rota.administrator().await.call("/rota/v1/schedules/hold").await;
    assert_eq!(db.write(move |tx| settle(tx, &looks)).await.unwrap(), []);
    assert_eq!(told(&rota.api, &deliveries).await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_hold_that_nobody_has_looked_at_ends_a_silence_too() {
    let rota = only_api(|config| config.engine.concurrency = 0).await;
    let (api, administrator) = (&rota.api, rota.administrator().await);
    let deliveries = endpoint(api).await;
    let made = Parts::new(api).await.deployment(api, hourly("nightly")).await;
    look_at(&rota, "02T09:00:00").await;
    look_at(&rota, "02T12:00:31").await;
    rota.set_time("2026-03-02T12:05:00Z");
    administrator.call("/rota/v1/schedules/hold").await;
    administrator.call("/rota/v1/schedules/release").await;
    look_at(&rota, "02T12:12:00").await;
    assert_eq!(attention(api).await, []);
    look_at(&rota, "02T15:59:59").await;
    assert_eq!(told(api, &deliveries).await, [silent(&made, &made["created_at"], 3)]);
    look_at(&rota, "02T16:00:31").await;
    let since = attention(api).await.pop().unwrap().1;
    assert_eq!(told(api, &deliveries).await[1..], [silent(&made, &since, 3)], "another silence");
}
