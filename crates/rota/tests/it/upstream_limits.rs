//! Upstreams that take only so many requests: sessions wait for their turn, in sight, and none is lost.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use rota_api::{
    Time,
    id::{Id, WorkspaceId},
};
use rota_server::{
    clock::Clock,
    config::{ModelConfig, Provider},
    db::Tx,
    model::Asker,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    dialects::whole_turn,
    given::{Parts, agent, environment, id, message},
    models::says,
    server::{PATIENCE, Rota},
    stream::{first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
};

fn hi() -> Reply {
    Reply::Message(vec![says("hi")])
}

fn limited(headers: &'static str) -> Reply {
    Reply::Error(429, headers, json!({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}))
}

/// A server whose model `house` is `model`.
async fn offering(model: ModelConfig) -> (Rota, Parts) {
    let rota = Rota::with(|config| config.models = vec![model]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let environment = environment(&rota.api, "e").await;
    (rota, Parts { agent, environment })
}

/// Moves the time on while this is there.
fn time_goes_by(clock: &Clock) -> JoinSet<()> {
    let clock = clock.clone();
    let mut moving = JoinSet::new();
    moving.spawn(async move {
        loop {
            sleep(Duration::from_millis(5)).await;
            clock.advance_micros(20_000);
        }
    });
    moving
}

/// Returns when so many sessions are idle, for as long as something still changes.
async fn come_to_rest(rota: &Rota, count: i64) {
    let (mut last, mut unchanged) = (Vec::new(), Duration::ZERO);
    loop {
        let read = |tx: &mut Tx<'_>| {
            let by_status =
                "SELECT status, count(*), CAST(sum(next_seq) AS BIGINT) FROM sessions GROUP BY status ORDER BY status";
            tx.all(by_status, &[], |row| Ok((row.text(0)?, row.int(1)?, row.int(2)?)))
        };
        let now = rota.server.app().db.read(read).await.unwrap();
        if now.iter().any(|(status, idle, _)| status == "idle" && *idle == count) {
            return;
        }
        unchanged = if now == last { unchanged + Duration::from_millis(50) } else { Duration::ZERO };
        assert!(unchanged < PATIENCE, "{now:?}");
        last = now;
        sleep(Duration::from_millis(50)).await;
    }
}

/// The status of a session.
async fn status(rota: &Rota, session: &str) -> String {
    rota.api.get(&format!("/v1/sessions/{session}")).await["status"].as_str().unwrap().to_owned()
}

/// What an upstream answers that takes ten requests in any second of `clock`, and how often it refused each conversation.
fn ten_a_second(
    clock: Clock,
    refusal: &'static str,
    refused: Arc<Mutex<HashMap<String, u32>>>,
) -> impl FnMut(&Value) -> Reply {
    let mut answered: VecDeque<Time> = VecDeque::new();
    move |request| {
        let now = clock.now();
        while answered.front().is_some_and(|earlier| now.seconds_since(*earlier) >= 1.0) {
            answered.pop_front();
        }
        if answered.len() < 10 {
            answered.push_back(now);
            return hi();
        }
        let said = request["messages"].as_array().unwrap().last().unwrap()["content"].to_string();
        *refused.lock().unwrap().entry(said).or_default() += 1;
        limited(refusal)
    }
}

#[tokio::test]
async fn two_hundred_sessions_share_an_upstream_that_takes_ten_requests_a_second() {
    tokio::join!(
        two_hundred_share(Provider::Messages, "retry-after: 1\r\n", None),
        two_hundred_share(Provider::OpenAi, "", None),
        two_hundred_share(Provider::Messages, "", Some(10.0)),
    );
}

/// The same of an upstream that refuses so, and whose rate the configuration may tell.
async fn two_hundred_share(provider: Provider, refusal: &'static str, rate: Option<f64>) {
    let clock = Clock::fixed(crate::server::START.parse().unwrap());
    let refused = Arc::<Mutex<HashMap<String, u32>>>::default();
    let upstream = Upstream::answering(provider, ten_a_second(clock.clone(), refusal, refused.clone())).await;
    let model = ModelConfig { requests_per_second: rate, ..upstream.model() };
    let rota = Rota::at(clock, |config| config.models = vec![model]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let moving = time_goes_by(&rota.clock);
    for n in 0..200 {
        parts.session_with(&rota.api, message(&format!("number {n}"))).await;
    }
    come_to_rest(&rota, 200).await;
    drop(moving);
    let read = |tx: &mut Tx<'_>| {
        let sql = "SELECT body FROM session_events WHERE type IN ('session.status_idle', 'session.error')";
        tx.all(sql, &[], |row| row.json::<Value>(0))
    };
    let told = rota.server.app().db.read(read).await.unwrap();
    let (idle, errors): (Vec<_>, Vec<_>) = told.into_iter().partition(|event| event["type"] == "session.status_idle");
    assert!(idle.iter().all(|event| event["stop_reason"]["type"] == "end_turn"), "none dies");
    assert_eq!(idle.len(), 200);
    assert!(errors.iter().all(|event| event["error"]["type"] == "model_rate_limited_error"));
    let refused = refused.lock().unwrap();
    let (most, all) = (refused.values().max().copied().unwrap_or(0), refused.values().sum::<u32>());
    println!("{provider:?} {refusal:?} {rate:?}: {all} refusals, at most {most} of one session, {} told", errors.len());
    // After 24 refusals in a row its tries would begin.
    assert!(most < 24 && all < 400, "{all} refusals, at most {most} of one session");
}

#[tokio::test]
async fn a_request_is_tried_as_often_as_the_configuration_says() {
    let upstream = Upstream::start([Reply::Nothing, Reply::Nothing]).await;
    let rota = Rota::with(|config| {
        config.models = vec![upstream.model()];
        config.engine.model_tries = 2;
    })
    .await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("hello")).await;
    let log = whole_turn(&rota, id(&session), &mut rota.api.stream_from(id(&session), 0).await).await;
    assert_eq!(stop_reason(&log)["type"], "retries_exhausted");
    assert_eq!(upstream.asked().len(), 2);
}

#[tokio::test]
async fn an_upstream_that_has_refused_one_session_is_not_asked_by_the_next_until_it_is_time() {
    let upstream = Upstream::start([limited("retry-after: 600\r\n"), hi(), hi()]).await;
    let (rota, parts) = offering(upstream.model()).await;
    let one = parts.session_with(&rota.api, message("one")).await;
    rota.api.stream_from(id(&one), 0).await.until("session.status_rescheduled").await;
    let two = parts.session_with(&rota.api, message("two")).await;
    let mut stream = rota.api.stream_from(id(&two), 0).await;
    let events: Vec<Value> =
        stream.until("session.status_rescheduled").await.into_iter().map(|frame| frame.event).collect();
    let expected = [
        "session.status_running",
        "session.thread_status_running",
        "session.error",
        "session.thread_status_rescheduled",
        "session.status_rescheduled",
    ];
    assert_eq!(kinds(&events), expected, "no request has begun");
    let error = &first(&events, "session.error")["error"];
    assert_eq!(
        (&error["type"], &error["retry_status"]["type"]),
        (&json!("model_rate_limited_error"), &json!("retrying"))
    );
    assert!(error["message"].as_str().unwrap().contains("wait for their turn"), "{error}");
    assert_eq!(status(&rota, id(&two)).await, "rescheduling");
    assert_eq!(upstream.asked().len(), 1);

    // Nothing of it is lost with the server, but what it knew of the upstream.
    let rota = rota.restart().await;
    assert_eq!(status(&rota, id(&two)).await, "rescheduling");
    rota.advance_seconds(600);
    for session in [&one, &two] {
        let log = whole_turn(&rota, id(session), &mut rota.api.stream_from(id(session), 0).await).await;
        assert_eq!(stop_reason(&log)["type"], "end_turn");
    }
    assert_eq!(upstream.asked().len(), 3);
}

#[tokio::test]
async fn who_waits_in_line_is_interrupted_at_once_and_costs_no_request() {
    let upstream = Upstream::start([Reply::Stall, hi()]).await;
    let (rota, parts) = offering(ModelConfig { concurrency: Some(1), ..upstream.model() }).await;
    let one = parts.session_with(&rota.api, message("one")).await;
    let mut first_stream = rota.api.stream_from(id(&one), 0).await;
    first_stream.until("span.model_request_start").await;
    let two = parts.session_with(&rota.api, message("two")).await;
    // Most likely it is taken up by then, and waits. If it is not, the same must be true.
    sleep(Duration::from_millis(50)).await;
    rota.api.events(id(&two), json!([{"type": "user.interrupt"}])).await;
    let events = rota.api.stream_from(id(&two), 0).await.turn().await;
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    assert!(!kinds(&events).contains(&"span.model_request_start"));
    assert!(upstream.asked().len() <= 1);

    // The place in the line of the one that is interrupted is the next one's.
    rota.api.events(id(&two), json!([message("again")])).await;
    rota.api.events(id(&one), json!([{"type": "user.interrupt"}])).await;
    first_stream.turn().await;
    let path = format!("/v1/sessions/{}/events", id(&two));
    let is_answered =
        |page: &Value| page["data"].as_array().unwrap().iter().any(|event| event["type"] == "agent.message");
    rota.api.once(&path, is_answered).await;
}

#[tokio::test]
async fn a_long_line_is_left_for_a_while_and_the_log_says_so_once() {
    let upstream = Upstream::start([Reply::Stall, hi()]).await;
    let (rota, parts) = offering(ModelConfig { concurrency: Some(1), ..upstream.model() }).await;
    let one = parts.session_with(&rota.api, message("one")).await;
    let mut holding = rota.api.stream_from(id(&one), 0).await;
    holding.until("span.model_request_start").await;
    let two = parts.session_with(&rota.api, message("two")).await;
    let mut stream = rota.api.stream_from(id(&two), 0).await;
    stream.until("session.status_rescheduled").await;
    rota.api.events(id(&one), json!([{"type": "user.interrupt"}])).await;
    holding.turn().await;
    rota.advance_seconds(60);
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.message")), "hi");
    assert!(!kinds(&events).contains(&"session.error"));
}

#[tokio::test]
async fn who_has_waited_in_line_for_a_day_waits_no_more() {
    let upstream = Upstream::start([hi()]).await;
    let rota = Rota::with(|config| {
        config.models = vec![ModelConfig { concurrency: Some(1), ..upstream.model() }];
        config.engine.model_tries = 1;
    })
    .await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    // Somebody has the one place, and keeps it.
    let app = rota.server.app();
    let offer = app.offer();
    let offered = offer.get("house").unwrap();
    let somebody = WorkspaceId::new(app.clock.now());
    let asker = Asker { workspace: &somebody, since: app.clock.now() };
    let held = offered.turn(&app.clock, asker, &[]).await;
    assert!(held.is_ok());
    let session = parts.session_with(&rota.api, message("hello")).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    stream.until("session.status_rescheduled").await;
    // It comes again once more, and stands in line as long as it did.
    rota.advance_seconds(25 * 3600);
    let events = stream.turn().await;
    assert_eq!(stop_reason(&events)["type"], "retries_exhausted");
    assert_eq!(first(&events, "session.error")["error"]["type"], "model_rate_limited_error");
    assert!(upstream.asked().is_empty());
    drop(held);
    rota.api.events(id(&session), json!([message("again")])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "hi");
}

#[tokio::test]
async fn limits_that_answers_tell_are_kept_before_anybody_is_refused() {
    // The next request is one too many for another minute.
    let headers =
        "x-ratelimit-limit-requests: 1\r\nx-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m0s\r\n";
    let upstream = Upstream::speaking(
        Provider::OpenAi,
        [Reply::Headed(headers.to_owned(), vec![says("one")]), Reply::Message(vec![says("two")])],
    )
    .await;
    let (rota, parts) = offering(upstream.model()).await;
    let session = parts.session_with(&rota.api, message("hello")).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    stream.turn().await;
    rota.api.events(id(&session), json!([message("again")])).await;
    stream.until("session.status_rescheduled").await;
    assert_eq!(upstream.asked().len(), 1);
    rota.advance_seconds(61);
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "two");
}

#[tokio::test]
async fn sessions_of_a_deployment_outlast_ten_minutes_without_their_upstream() {
    let clock = Clock::fixed(crate::server::START.parse().unwrap());
    let back = clock.now().plus_micros(600 * 1_000_000);
    let of_upstream = clock.clone();
    let upstream =
        Upstream::answering(Provider::Messages, move |_| if of_upstream.now() < back { Reply::Nothing } else { hi() })
            .await;
    let rota = Rota::at(clock, |config| config.models = vec![upstream.model()]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let deployment = parts.deployment(&rota.api, json!({"initial_events": [message("hello")]})).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let run = rota.api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
        sessions.push(run["session_id"].as_str().unwrap().to_owned());
    }
    for session in &sessions {
        let log = whole_turn(&rota, session, &mut rota.api.stream_from(session, 0).await).await;
        assert_eq!(stop_reason(&log)["type"], "end_turn");
    }
}

#[tokio::test]
async fn a_reply_that_comes_byte_by_byte_is_the_same_reply() {
    for provider in [Provider::Messages, Provider::OpenAi] {
        let blocks = vec![says("ü — 好, one byte at a time")];
        let upstream = Upstream::speaking(provider, [Reply::ByByte(Box::new(Reply::Message(blocks)))]).await;
        let (rota, parts) = offering(upstream.model()).await;
        let session = parts.session_with(&rota.api, message("hello")).await;
        let events = rota.api.stream_from(id(&session), 0).await.turn().await;
        assert_eq!(text(first(&events, "agent.message")), "ü — 好, one byte at a time");
    }
}
