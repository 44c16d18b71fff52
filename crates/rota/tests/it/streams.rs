//! Histories and streams: nothing is missed, nothing is told twice.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::invalid,
    given::{Parts, id, message, script},
    server::Rota,
    stream::{Frame, Stream, first, kinds, text},
};

#[tokio::test]
async fn a_stream_numbers_the_log_and_tells_it_as_the_history_does() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("echo hello")).await;
    let frames = rota.api.stream_from(id(&session), 0).await.until("session.status_idle").await;
    let ids: Vec<i64> = frames.iter().map(|frame| frame.id.unwrap()).collect();
    assert_eq!(ids, (1..=frames.len() as i64).collect::<Vec<_>>());
    let log = rota.api.get(&format!("/v1/sessions/{}/events", id(&session))).await;
    let told: Vec<_> = frames.into_iter().map(|frame| frame.event).collect();
    assert_eq!(log["data"], json!(told));
}

#[tokio::test]
async fn a_stream_without_a_place_begins_now() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, message("first")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    let mut stream = rota.api.stream(id(&session)).await;
    rota.api.events(id(&session), json!([message("second")])).await;
    let events = stream.turn().await;
    assert_eq!(text(&events[0]), "second");
}

#[tokio::test]
async fn a_stream_that_resumes_repeats_nothing_and_misses_nothing() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("echo hello")).await;
    let mut told: Vec<Frame> = Vec::new();
    // Each stream is dropped after three frames; the next one goes on from the last of them.
    while told.last().is_none_or(|frame| frame.kind() != "session.status_idle") {
        let last = told.last().map_or(0, |frame| frame.id.unwrap());
        let mut stream = rota.api.stream_from(id(&session), last).await;
        for _ in 0..3 {
            told.push(stream.next().await.unwrap());
            if told.last().unwrap().kind() == "session.status_idle" {
                break;
            }
        }
    }
    let log = rota.api.get(&format!("/v1/sessions/{}/events", id(&session))).await;
    assert_eq!(log["data"], json!(told.iter().map(|frame| &frame.event).collect::<Vec<_>>()));

    let mut ahead = rota.api.stream_from(id(&session), 1_000_000).await;
    rota.api.events(id(&session), json!([message("more")])).await;
    assert_eq!(ahead.next().await.unwrap().id, Some(told.len() as i64 + 1), "an id from the future is now");
    let path = format!("/v1/sessions/{}/events/stream", id(&session));
    for place in ["x", "-1", "1.5", "sevt_1"] {
        let request = rota.api.request(Method::GET, &path).header("last-event-id", place);
        let refused = rota.api.answer(request).await.refusal();
        assert_eq!(refused, invalid("the Last-Event-ID header is not an id of this stream"), "{place}");
    }
}

/// The frames of a turn on a stream that watches how messages are made.
async fn watched(rota: &Rota, query: &str) -> Vec<Frame> {
    let parts = Parts::new(&rota.api).await;
    let session = parts.session(&rota.api, json!({})).await;
    let path = format!("/v1/sessions/{}/events/stream{query}", id(&session));
    let mut stream = Stream::open(rota.api.request(Method::GET, &path)).await;
    // The report repeats the output, which makes it long enough for several deltas.
    rota.api.events(id(&session), json!([script("seq 1 400")])).await;
    stream.until("session.status_idle").await
}

#[tokio::test]
async fn deltas_come_before_their_message_under_its_id_and_spell_its_beginning() {
    let rota = Rota::start().await;
    let frames = watched(&rota, "?event_deltas[]=agent.message").await;
    let of = |kind: &str| frames.iter().filter(|frame| frame.kind() == kind).collect::<Vec<_>>();
    let place = |kind: &str| frames.iter().rposition(|frame| frame.kind() == kind).unwrap();
    let (starts, deltas, messages) = (of("event_start"), of("event_delta"), of("agent.message"));
    assert_eq!((starts.len(), messages.len()), (1, 1));
    assert!(deltas.len() > 1);
    let message = &messages[0].event;
    assert_eq!(starts[0].event["event"], json!({"id": id(message), "type": "agent.message"}));
    assert!(deltas.iter().all(|delta| delta.event["event_id"] == message["id"] && delta.id.is_none()));
    let spelled: String = deltas.iter().map(|d| d.event["delta"]["content"]["text"].as_str().unwrap()).collect();
    assert!(text(message).starts_with(&spelled));
    assert!(place("event_start") < place("event_delta") && place("event_delta") < place("agent.message"));
    assert!(starts.iter().all(|start| start.id.is_none()), "deltas are in no log");
}

#[tokio::test]
async fn deltas_are_told_to_nobody_who_did_not_ask() {
    for query in ["", "?event_deltas[]=agent.thinking"] {
        let frames = watched(&Rota::start().await, query).await;
        assert!(frames.iter().all(|frame| !frame.kind().starts_with("event_")), "{frames:#?}");
    }
}

#[tokio::test]
async fn a_history_is_filtered_ordered_and_paged() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, script("echo hello")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.turn().await;
    rota.advance_seconds(60);
    api.events(id(&session), json!([message("second")])).await;
    stream.turn().await;
    let list = format!("/v1/sessions/{}/events", id(&session));
    let log: Vec<Value> = api.get(&list).await["data"].as_array().unwrap().clone();
    let reversed: Vec<Value> = log.iter().rev().cloned().collect();
    for limit in [1, 3, 1000] {
        assert_eq!(api.all(&list, limit).await, log);
        assert_eq!(api.all(&format!("{list}?order=desc"), limit).await, reversed);
        let typed = api.all(&format!("{list}?types[]=agent.message&types[]=user.message"), limit).await;
        assert_eq!(kinds(&typed), ["user.message", "agent.message", "user.message", "agent.message"]);
    }
    let second = log.iter().rposition(|event| event["type"] == "user.message").unwrap();
    let at = log[second]["processed_at"].as_str().unwrap();
    assert_eq!(api.all(&format!("{list}?created_at[gte]={at}"), 4).await, log[second..]);
    assert_eq!(api.all(&format!("{list}?created_at[lt]={at}"), 4).await, log[..second]);
    assert_eq!(*first(&log, "user.message"), log[0]);
}
