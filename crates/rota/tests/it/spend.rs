//! What a deployment may spend.

use reqwest::Method;
use rota_server::config::{PriceConfig, Provider};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, ENDPOINTS, invalid},
    given::{Parts, agent, environment, id, over},
    models::says,
    policies::set_policy,
    schedules::{at, every, fired, path, range, skipped},
    server::Rota,
    upstream::{Reply, Upstream},
};

/// A server whose model costs 60 cents a reply, for five tokens and seven, and a deployment of it that fires every hour.
async fn hourly() -> (Upstream, Rota, Value) {
    let upstream = Upstream::answering(Provider::Messages, |_| Reply::Message(vec![says("hi")])).await;
    let mut model = upstream.model();
    let (input, output) = (50_000.0, 50_000.0);
    model.price = Some(PriceConfig { input, output, cache_read: None, cache_write_5m: None, cache_write_1h: None });
    let rota = Rota::with(|config| config.models.push(model)).await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let made = parts.deployment(api, over(every("0 * * * *"), &json!({"name": "dear"}))).await;
    (upstream, rota, made)
}

async fn fires_and_rests(rota: &Rota, made: &Value, time: &str) {
    at(rota, time).await;
    let (session, _) = crate::policies::sessions(&rota.api, made).await.pop().unwrap();
    rota.api.stream_from(&session, 0).await.turn().await;
}

async fn run_by_hand(api: &Api, made: &Value, force: Option<&str>) -> Answer {
    let request = api.request(Method::POST, &format!("{}/run", path(made)));
    api.answer(match force {
        Some(force) => request.header("rota-force", force),
        None => request,
    })
    .await
}

/// What needs somebody for what was spent: the kind of each, and its words.
async fn attention(api: &Api) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = api.get("/rota/v1/attention").await["data"].clone();
    let items = items.as_array().unwrap().iter().map(|item| (text(&item["kind"]), text(&item["message"])));
    items.filter(|(kind, _)| kind.starts_with("spend")).collect()
}

fn spends(kind: &str, message: &str) -> Vec<(String, String)> {
    vec![(kind.to_owned(), message.to_owned())]
}

#[tokio::test]
async fn beyond_a_ceiling_occurrences_are_skipped_until_the_day_is_over() {
    let (_upstream, rota, made) = hourly().await;
    let api = &rota.api;
    let body = json!({"url": "https://hooks.invalid", "enabled_events": ["rota.spend.reached"]});
    let deliveries = format!("{ENDPOINTS}/{}/deliveries", id(&api.post(ENDPOINTS, body).await));
    let set = set_policy(api, &made, json!({"spend": {"per_day_cents": 70}})).await;
    assert_eq!(set["spend"], json!({"per_day_cents": 70, "per_month_cents": null}));
    fires_and_rests(&rota, &made, "02T09:00:00").await;
    assert_eq!(attention(api).await, spends("spend_near", "has spent $0.60 of $0.70 today (UTC)"));
    fires_and_rests(&rota, &made, "02T10:00:00").await;
    assert_eq!(attention(api).await, spends("spend_reached", "has spent $1.20 of $0.70 today (UTC)"));
    let told = api.all(&deliveries, 100).await;
    let [told] = &told[..] else { panic!("it is told once: {told:?}") };
    let data = &told["event"]["data"];
    assert_eq!((&data["id"], &data["period"], &data["ceiling_cents"]), (&made["id"], &json!("day"), &json!(70)));
    assert_eq!(data["spent"], json!({"micro_cents": 120_000_000, "currency": "USD"}));
    let rota = rota.restart().await;
    let api = &rota.api;
    for time in ["02T11:00:00", "02T12:00:00"] {
        at(&rota, time).await;
    }
    assert_eq!(fired(api, &made).await, ["02T09:00:00", "02T10:00:00"]);
    assert_eq!(skipped(&rota, &made).await, [range("02T11:00:00", "02T12:00:00", "spend")]);
    let listed = api.get("/rota/v1/runs?state=skipped").await["data"][0].clone();
    assert_eq!((&listed["reason"], &listed["scheduled_at"]), (&json!("spend"), &json!("2026-03-02T11:00:00.000000Z")));
    fires_and_rests(&rota, &made, "03T00:00:00").await;
    assert_eq!(fired(api, &made).await.pop().unwrap(), "03T00:00:00", "a new day of UTC");
    assert_eq!(attention(api).await, spends("spend_near", "has spent $0.60 of $0.70 today (UTC)"));
}

#[tokio::test]
async fn a_month_is_the_sum_of_its_days_also_of_those_before_there_was_a_ceiling() {
    let (_upstream, rota, made) = hourly().await;
    let api = &rota.api;
    fires_and_rests(&rota, &made, "02T09:00:00").await;
    fires_and_rests(&rota, &made, "03T09:00:00").await;
    set_policy(api, &made, json!({"spend": {"per_day_cents": 1000, "per_month_cents": 120}})).await;
    assert_eq!(attention(api).await, spends("spend_reached", "has spent $1.20 of $1.20 this month (UTC)"));
    at(&rota, "04T09:00:00").await;
    assert_eq!(fired(api, &made).await.len(), 2);
    let audited = &api.get(&format!("/rota/v1{}/occurrences", &path(&made)[3..])).await["data"][0];
    assert_eq!((&audited["outcome"], &audited["reason"]), (&json!("skipped"), &json!("spend")));
    set_policy(api, &made, json!({"spend": {"per_month_cents": 121}})).await;
    at(&rota, "04T10:00:00").await;
    assert_eq!(fired(api, &made).await.len(), 3, "the ceiling was raised");
    set_policy(api, &made, json!({"spend": null})).await;
    assert!(attention(api).await.is_empty());
}

#[tokio::test]
async fn a_run_by_hand_is_refused_beyond_a_ceiling_unless_it_is_forced() {
    let (_upstream, rota, made) = hourly().await;
    let api = &rota.api;
    set_policy(api, &made, json!({"spend": {"per_day_cents": 60}})).await;
    let first = run_by_hand(api, &made, None).await.success();
    api.stream_from(first["session_id"].as_str().unwrap(), 0).await.turn().await;
    let refused = run_by_hand(api, &made, None).await;
    assert_eq!(refused.body["error"]["details"]["error_code"], "spend_ceiling_reached");
    let message = "the deployment has spent $0.60 of $0.60 today (UTC); raise `spend` in its policy, or start it all the same \
                   with the header `rota-force: true`";
    assert_eq!(refused.refusal(), invalid(message));
    assert_eq!(run_by_hand(api, &made, Some("false")).await.refusal(), invalid(message));
    let wrong = run_by_hand(api, &made, Some("yes")).await.refusal();
    assert_eq!(wrong, invalid("the rota-force header must be `true` or `false`"));
    let listed = api.all(&format!("/v1/deployment_runs?deployment_id={}", id(&made)), 100).await;
    assert_eq!(listed.len(), 1, "what is refused leaves nothing");
    let forced = run_by_hand(api, &made, Some("true")).await.success();
    assert!(forced["session_id"].is_string());
}

#[tokio::test]
async fn a_key_that_was_used_before_the_ceiling_still_stands_for_its_run() {
    let (_upstream, rota, made) = hourly().await;
    let api = &rota.api;
    set_policy(api, &made, json!({"spend": {"per_day_cents": 60}})).await;
    let keyed = |key: &str| {
        api.answer(api.request(Method::POST, &format!("{}/run", path(&made))).header("idempotency-key", key.to_owned()))
    };
    let first = keyed("one").await.success();
    api.stream_from(first["session_id"].as_str().unwrap(), 0).await.turn().await;
    assert_eq!(keyed("one").await.success(), first);
    assert_eq!(keyed("two").await.status, 400);
    set_policy(api, &made, json!({"spend": null})).await;
    assert_ne!(keyed("two").await.success()["id"], first["id"], "a refusal does not use up a key");
}

#[tokio::test]
async fn days_of_months_that_are_over_are_forgotten() {
    let (_upstream, rota, made) = hourly().await;
    let api = &rota.api;
    set_policy(api, &made, json!({"spend": {"per_month_cents": 1000}})).await;
    for time in ["02T09:00:00", "31T09:00:00"] {
        fires_and_rests(&rota, &made, time).await;
    }
    // More than one transaction removes, of another deployment and long ago.
    let many = "INSERT INTO deployment_spend (deployment_id, day, workspace_id, nanos, spent_at)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)
        SELECT 'depl_gone', n.i, 'wrkspc_gone', 1, 0 FROM n";
    crate::schedules::tamper(&rota, many.to_owned()).await;
    let kept = async || {
        rota_server::retention::once(rota.server.app()).await.unwrap();
        let sql = "SELECT day FROM deployment_spend ORDER BY day";
        let read = move |tx: &mut rota_server::db::Tx<'_>| tx.all(sql, &[], |row| row.int(0));
        rota.server.app().db.read(read).await.unwrap()
    };
    // Days from the first of January 1970: the second and the last one of March.
    assert_eq!(kept().await, [20_514, 20_543], "a month stays whole");
    rota.set_time("2026-04-01T12:00:00Z");
    assert_eq!(kept().await, [20_514, 20_543], "somebody's clock may be late");
    rota.set_time("2026-04-02T00:00:00Z");
    assert_eq!(kept().await, [0; 0]);
}
