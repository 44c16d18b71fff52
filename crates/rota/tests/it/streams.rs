//! Histories and streams: nothing is missed, nothing is told twice.

use std::time::Duration;

use reqwest::Method;
use rota_server::{
    db::Tx,
    limits::{MAX_STREAMS_PER_WORKSPACE, STREAM_PIECE},
    resources::{api_keys, organization},
};
use serde_json::{Value, json};

use crate::{
    client::{Refusal, invalid},
    given::{Parts, id, message, script},
    server::{PATIENCE, Rota},
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
    rota.advance_seconds(6);
    let mut stream = rota.api.stream(id(&session)).await;
    rota.api.events(id(&session), json!([message("second")])).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "user.message")), "second");
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
async fn an_event_that_is_told_in_pieces_is_the_one_that_was_sent() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session(&rota.api, json!({})).await;
    let mut stream = rota.api.stream(id(&session)).await;
    // Around the length of one piece and of two, with characters of one to four bytes.
    let whole = STREAM_PIECE;
    for length in [whole - 100, whole, whole + 1, 2 * whole, 2 * whole + 7] {
        let said: String = "aé漢🦀\n".chars().cycle().take(length).collect();
        let sent = rota.api.events(id(&session), json!([message(&said)])).await;
        let told = stream.turn().await;
        assert_eq!(text(first(&told, "user.message")), said);
        assert_eq!(first(&told, "user.message")["id"], sent["data"][0]["id"]);
    }
    let again = rota.api.stream_from(id(&session), 0).await.turn().await;
    let log = rota.api.all(&format!("/v1/sessions/{}/events", id(&session)), 1000).await;
    assert_eq!(again[..], log[..again.len()]);
}

#[tokio::test]
async fn a_workspace_has_so_many_streams_and_one_that_ends_leaves_its_place() {
    let rota = Rota::without_engine().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, message("hi")).await;
    let workspace = &rota.server.first_key.as_ref().unwrap().workspace_id;
    let most = MAX_STREAMS_PER_WORKSPACE;
    let take = |count| rota.server.app().streams.take(workspace, count, most);
    let others = take(most - 1).unwrap();
    let last = rota.api.stream(id(&session)).await;
    let refused = rota.api.get_refused(&format!("/v1/sessions/{}/events/stream", id(&session))).await;
    let said = "the workspace has 500 open streams at this server, which is the most; close those that nobody reads";
    assert_eq!(refused, Refusal { status: 429, kind: "rate_limit_error".to_owned(), message: said.to_owned() });
    drop(last);
    let free = async {
        while take(1).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.expect("the stream that is closed leaves its place");
    drop(others);
}

#[tokio::test]
async fn a_stream_ends_soon_after_its_key_no_longer_counts() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let mut open = Vec::new();
    for name in ["revoked", "expired", "archived", "disabled"] {
        let expires_at = (name == "expired").then(|| rota.clock.now().plus_micros(3_600_000_000));
        let create = move |tx: &mut Tx<'_>| api_keys::create_key(tx, Some(name), name, expires_at);
        let key = rota.server.app().db.write(create).await.unwrap();
        let api = rota.api.with_key(key.key.clone());
        let session = Parts::new(&api).await.session_with(&api, message("hi")).await;
        api.post(&format!("/v1/sessions/{}", id(&session)), json!({"title": "one"})).await;
        let mut stream = api.stream_from(id(&session), 0).await;
        stream.next().await.unwrap();
        let inside = administrator.in_workspace(key.workspace_id.as_ref());
        let beside = inside.stream_from(id(&session), 1).await;
        open.push((key, stream, beside, inside, session));
    }
    rota.advance_seconds(3600);
    for (i, (key, ..)) in open.iter().enumerate() {
        let _: Value = match i {
            0 => {
                administrator
                    .post(&format!("/v1/organizations/api_keys/{}", key.id), json!({"status": "inactive"}))
                    .await
            }
            2 => administrator.call(&format!("/v1/organizations/workspaces/{}/archive", key.workspace_id)).await,
            _ => json!(null),
        };
    }
    for (_, stream, ..) in &mut open[..3] {
        assert!(stream.next().await.is_none(), "the stream ends");
    }
    rota.server.app().db.write(organization::disable).await.unwrap();
    assert!(open[3].1.next().await.is_none(), "the stream ends");
    // An administrator still reads, and so do the streams of one.
    let (_, _, beside, inside, session) = &mut open[3];
    rota.server.app().db.write(organization::enable).await.unwrap();
    let _: Value = inside.post(&format!("/v1/sessions/{}", id(session)), json!({"title": "two"})).await;
    assert_eq!(beside.next().await.unwrap().kind(), "session.updated");
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
    // The pair that tells of the turn stands before the message that began it, at the same time.
    let second = log.iter().rposition(|event| event["type"] == "session.status_running").unwrap();
    let at = log[second]["processed_at"].as_str().unwrap();
    assert_eq!(api.all(&format!("{list}?created_at[gte]={at}"), 4).await, log[second..]);
    assert_eq!(api.all(&format!("{list}?created_at[lt]={at}"), 4).await, log[..second]);
    assert_eq!(*first(&log, "session.status_running"), log[0]);
}
