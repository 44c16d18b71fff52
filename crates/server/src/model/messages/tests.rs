use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::{
    Block, Delta, Message, ModelError, Refusal, Role, Stop, Usage,
    stand_in::{Act, Exchange, StandIn},
    upstream::{Credential, MAX_ERROR_BYTES, MAX_EVENT_BYTES, MAX_REPLY_BYTES},
};

const KEY: &str = "sk-very-secret";

/// A limit that no test reaches.
const NEVER: Duration = Duration::from_hours(1);

fn question() -> ModelRequest {
    ModelRequest {
        model: "m-1".to_owned(),
        effort: None,
        speed: None,
        inference_geo: None,
        max_tokens: 100,
        system: None,
        messages: vec![Message { role: Role::User, content: vec![Block::Text { text: "hello".to_owned() }] }],
        tools: Vec::new(),
    }
}

fn config(stand_in: &StandIn) -> UpstreamConfig {
    UpstreamConfig {
        idle_timeout: NEVER,
        reply_timeout: NEVER,
        ..UpstreamConfig::new(stand_in.base_url(), Some(Credential::ApiKey(KEY.to_owned())))
    }
}

/// Sends one request to a stand-in that follows the script.
async fn exchange(script: &[Act]) -> Exchange {
    exchange_with(script, |_| {}).await
}

async fn exchange_with(script: &[Act], configure: impl FnOnce(&mut UpstreamConfig)) -> Exchange {
    let stand_in = StandIn::start().await;
    let mut config = config(&stand_in);
    configure(&mut config);
    let model = Messages::new(config).unwrap();
    stand_in.exchange(&model, &question(), script).await
}

fn send(bytes: impl Into<Vec<u8>>) -> Act {
    Act::Send(bytes.into())
}

/// The head of a stream that ends with the connection.
fn stream_head() -> Act {
    send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n")
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

fn message_start() -> Value {
    json!({"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "content": [], "usage": {"input_tokens": 5, "output_tokens": 1}}})
}

fn block_start(index: usize, block: &Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn block_delta(index: usize, delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn block_stop(index: usize) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn message_delta(stop_reason: &str) -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 7}})
}

fn message_stop() -> Value {
    json!({"type": "message_stop"})
}

/// The events of a block that arrives in these deltas.
fn block(index: usize, start: &Value, deltas: &[Value]) -> Vec<Value> {
    let mut events = vec![block_start(index, start)];
    events.extend(deltas.iter().map(|delta| block_delta(index, delta)));
    events.push(block_stop(index));
    events
}

fn text_block(index: usize, pieces: &[&str]) -> Vec<Value> {
    let deltas: Vec<Value> = pieces.iter().map(|text| json!({"type": "text_delta", "text": text})).collect();
    block(index, &json!({"type": "text", "text": ""}), &deltas)
}

fn tool_block(index: usize, pieces: &[&str]) -> Vec<Value> {
    let delta = |json| json!({"type": "input_json_delta", "partial_json": json});
    let deltas: Vec<Value> = pieces.iter().map(delta).collect();
    block(index, &json!({"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {}}), &deltas)
}

/// A whole message of these blocks.
fn message(blocks: &[Vec<Value>], stop_reason: &str) -> Vec<Value> {
    let mut events = vec![message_start()];
    events.extend(blocks.concat());
    events.extend([message_delta(stop_reason), message_stop()]);
    events
}

fn stream(events: &[Value]) -> Vec<Act> {
    vec![stream_head(), send(events.iter().map(event).collect::<String>())]
}

fn respond(status: &str, headers: &str, body: &str) -> Vec<Act> {
    vec![send(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    ))]
}

/// A failure as a word, so that tables can name it.
fn kind(error: &ModelError) -> &'static str {
    match error {
        ModelError::Overloaded { .. } => "overloaded",
        ModelError::RateLimited { .. } => "rate limited",
        ModelError::Billing { .. } => "billing",
        ModelError::TooLong { .. } => "too long",
        ModelError::Unusable { .. } => "unusable",
        ModelError::RequestFailed { retryable: true, .. } => "failed, retryable",
        ModelError::RequestFailed { retryable: false, .. } => "failed",
    }
}

#[tokio::test]
async fn a_streamed_text_is_passed_on_as_it_arrives_and_returned_whole() {
    let exchange = exchange(&stream(&message(&[text_block(0, &["Hel", "", "lo."])], "end_turn"))).await;
    assert_eq!(exchange.content(), json!([{"type": "text", "text": "Hello."}]));
    let reply = exchange.reply.unwrap();
    assert_eq!(reply.stop, Stop::EndTurn);
    assert_eq!(reply.usage, Usage { input_tokens: 5, output_tokens: 7, ..Usage::default() });
    let used = |output_tokens| Delta::Usage(Usage { input_tokens: 5, output_tokens, ..Usage::default() });
    let text = |text: &str| Delta::Text(text.to_owned());
    assert_eq!(exchange.deltas, [used(1), Delta::TextStart, text("Hel"), text("lo."), used(7)]);
}

#[tokio::test]
async fn the_request_names_the_key_and_the_version_of_the_api() {
    let answer = stream(&message(&[text_block(0, &["x"])], "end_turn"));
    let with_key = exchange(&answer).await.asked;
    assert!(with_key.head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{}", with_key.head);
    for header in ["x-api-key: sk-very-secret", "anthropic-version: 2023-06-01", "content-type: application/json"] {
        assert!(with_key.head.lines().any(|line| line == header), "{header} in {}", with_key.head);
    }
    let body: Value = serde_json::from_str(&with_key.body).unwrap();
    assert_eq!((&body["model"], &body["stream"], &body["max_tokens"]), (&json!("m-1"), &json!(true), &json!(100)));

    let with_token = exchange_with(&answer, |config| {
        config.credential = Some(Credential::Bearer("token".to_owned()));
        config.base_url += "/gateway/";
    });
    let head = with_token.await.asked.head;
    assert!(head.starts_with("POST /gateway/v1/messages HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer token\r\n") && !head.contains("x-api-key"), "{head}");
}

#[tokio::test]
async fn every_stop_reason_is_understood_or_refused() {
    let cases = [
        ("end_turn", Ok(Stop::EndTurn)),
        ("stop_sequence", Ok(Stop::EndTurn)),
        ("max_tokens", Ok(Stop::MaxTokens)),
        ("model_context_window_exceeded", Ok(Stop::ContextFull)),
        ("refusal", Ok(Stop::Refusal)),
        ("stop", Ok(Stop::EndTurn)),
        ("LENGTH", Ok(Stop::MaxTokens)),
        ("content_filter", Ok(Stop::Refusal)),
        ("tool_calls", Err("failed, retryable")),
        ("pause_turn", Err("failed")),
        ("something_new", Err("failed")),
        ("tool_use", Err("failed, retryable")),
    ];
    for (reason, expected) in cases {
        let reply = exchange(&stream(&message(&[text_block(0, &["x"])], reason))).await.reply;
        assert_eq!(reply.map(|reply| reply.stop).map_err(|error| kind(&error)), expected, "{reason}");
    }
}

#[tokio::test]
async fn the_arguments_of_a_call_are_joined_from_their_pieces_or_the_call_says_what_is_wrong_with_them() {
    let cases: &[(Value, &[&str], Result<Value, &str>)] = &[
        (json!({}), &["", "{\"comm", "and\": \"ec", "ho 'Grü", "ße'\"}"], Ok(json!({"command": "echo 'Grüße'"}))),
        (json!({}), &[""], Ok(json!({}))),
        (json!({}), &[], Ok(json!({}))),
        (Value::Null, &[], Ok(json!({}))),
        (json!({"command": "ls"}), &[], Ok(json!({"command": "ls"}))),
        (json!({"command": "ls"}), &["{}"], Ok(json!({"command": "ls"}))),
        (json!({"command": "ls"}), &["{\"command\": \"pwd\"}"], Ok(json!({"command": "pwd"}))),
        (json!("{\"command\": \"ls\"}"), &[], Ok(json!({"command": "ls"}))),
        (json!({}), &["{\"command\": \"\\ud83d\"}"], Ok(json!({"command": "\u{fffd}"}))),
        (json!({}), &["{\"command\": "], Err("EOF")),
        (json!({}), &["[1]"], Err("sequence")),
        (json!({}), &["{} {}"], Err("trailing")),
        (json!({}), &["{\"n\": 1e999}"], Err("out of range")),
    ];
    for (whole, pieces, expected) in cases {
        let delta = |json| json!({"type": "input_json_delta", "partial_json": json});
        let deltas: Vec<Value> = pieces.iter().map(delta).collect();
        let call = json!({"type": "tool_use", "id": "toolu_1", "name": "bash", "input": whole});
        let exchange = exchange(&stream(&message(&[block(0, &call, &deltas)], "tool_use"))).await;
        let reply = exchange.reply.unwrap();
        assert_eq!(reply.stop, Stop::ToolUse);
        match (&reply.content[..], expected) {
            ([Block::ToolUse { name, input, .. }], Ok(expected)) => {
                let input: Value = serde_json::from_str(input.get()).unwrap();
                assert_eq!((&**name, &input), ("bash", expected), "{pieces:?}");
            }
            ([Block::UnreadableCall { name, problem }], Err(expected)) => {
                assert!(name == "bash" && problem.contains(expected), "{pieces:?}: {problem}");
            }
            (content, _) => panic!("{whole} {pieces:?}: {content:?}"),
        }
    }
}

#[tokio::test]
async fn characters_that_are_cut_in_two_are_put_together_and_halves_that_stand_alone_are_marked() {
    let frame = |text: &[u8]| {
        let mut frame =
            br#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""#.to_vec();
        frame.extend_from_slice(text);
        frame.extend_from_slice(b"\"}}\n\n");
        Act::Send(frame)
    };
    let cases: [(&[&[u8]], &[&str]); 7] = [
        (&[br"a\ud83d", br"\ude00b"], &["a", "\u{1f600}b"]),
        (&[b"a\xf0\x9f", b"\x98\x80b"], &["a", "\u{1f600}b"]),
        (&[b"\xc3", b"\xa9"], &["é"]),
        (&[br"a\ud83d", b"b"], &["a", "\u{fffd}b"]),
        (&[br"a\ude00b"], &["a\u{fffd}b"]),
        (&[b"a\xffb"], &["a\u{fffd}b"]),
        (&[br"a\ud83d"], &["a"]),
    ];
    for (pieces, shown) in cases {
        let mut script = stream(&[message_start(), block_start(0, &json!({"type": "text", "text": ""}))]);
        script.extend(pieces.iter().map(|piece| frame(piece)));
        script.push(send(
            [block_stop(0), message_delta("end_turn"), message_stop()].iter().map(event).collect::<String>(),
        ));
        let exchange = exchange(&script).await;
        let mut whole = shown.concat();
        // A half whose other half may still come is not shown, and stands in the reply.
        if pieces.concat().ends_with(br"\ud83d") {
            whole.push('\u{fffd}');
        }
        assert_eq!(exchange.content(), json!([{"type": "text", "text": whole}]), "{pieces:?}");
        let texts = exchange.deltas.into_iter().filter_map(|delta| match delta {
            Delta::Text(text) => Some(text),
            _ => None,
        });
        assert_eq!(texts.collect::<Vec<_>>(), shown, "{pieces:?}");
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_off_keeps_no_half_of_a_call_or_of_reasoning() {
    let half_thought = block(1, &json!({"type": "thinking", "thinking": "", "signature": ""}), &[]);
    let cases = [
        (vec![text_block(0, &["so"]), tool_block(1, &["{\"comm"])], "max_tokens", Stop::CutCall, 1),
        (vec![text_block(0, &["so"]), tool_block(1, &["{}"])], "refusal", Stop::Refusal, 1),
        (vec![text_block(0, &["so"]), half_thought], "max_tokens", Stop::MaxTokens, 1),
        (vec![tool_block(0, &["{\"comm"])], "max_tokens", Stop::CutCall, 0),
    ];
    for (blocks, reason, stop, kept) in cases {
        let reply = exchange(&stream(&message(&blocks, reason))).await.reply.unwrap();
        assert_eq!((reply.stop, reply.content.len()), (stop, kept), "{blocks:?}");
    }
    let full = message(&[tool_block(0, &["{\"comm"])], "model_context_window_exceeded");
    assert_eq!(kind(&exchange(&stream(&full)).await.reply.unwrap_err()), "too long");
}

#[tokio::test]
async fn a_call_counts_even_if_the_stop_reason_forgets_it() {
    let reply = exchange(&stream(&message(&[tool_block(0, &["{}"])], "end_turn"))).await.reply.unwrap();
    assert_eq!(reply.stop, Stop::ToolUse);
}

#[tokio::test]
async fn blank_text_is_not_kept() {
    let blocks = [text_block(0, &[]), text_block(1, &["\n\n"]), text_block(2, &["x"])];
    assert_eq!(
        exchange(&stream(&message(&blocks, "end_turn"))).await.content(),
        json!([{"type": "text", "text": "x"}])
    );
}

#[tokio::test]
async fn a_text_stands_without_its_citations() {
    let deltas = [
        json!({"type": "text_delta", "text": "It is "}),
        json!({"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "blue"}}),
        json!({"type": "text_delta", "text": "blue."}),
    ];
    let cited = block(0, &json!({"type": "text", "text": "", "citations": []}), &deltas);
    let exchange = exchange(&stream(&message(&[cited], "end_turn"))).await;
    assert_eq!(exchange.content(), json!([{"type": "text", "text": "It is blue."}]));
}

#[tokio::test]
async fn reasoning_goes_back_to_the_upstream_as_it_came() {
    let redacted = json!({"type": "redacted_thinking", "data": "b64=="});
    let unknown = json!({"type": "from_the_future", "payload": {"n": 1.50}});
    let blocks = [
        block(
            0,
            &json!({"type": "thinking", "thinking": "", "signature": ""}),
            &[
                json!({"type": "thinking_delta", "thinking": "First, "}),
                json!({"type": "thinking_delta", "thinking": "look."}),
                json!({"type": "signature_delta", "signature": "c2ln"}),
            ],
        ),
        block(1, &redacted, &[]),
        block(2, &unknown, &[]),
        tool_block(3, &["{}"]),
    ];
    let first = exchange(&stream(&message(&blocks, "tool_use"))).await;
    let thinking = json!({"type": "thinking", "thinking": "First, look.", "signature": "c2ln"});
    let call = json!({"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {}});
    assert_eq!(first.content(), json!([thinking, redacted, unknown, call]));
    let begun: Vec<_> = first.deltas.into_iter().filter(|delta| !matches!(delta, Delta::Usage(_))).collect();
    assert_eq!(begun, [Delta::ThinkingStart, Delta::ThinkingStart, Delta::OtherStart, Delta::OtherStart]);

    let mut next = question();
    next.messages.push(Message { role: Role::Assistant, content: first.reply.unwrap().content });
    let sent: Value = serde_json::from_slice(&request::body(&next, None).unwrap()).unwrap();
    assert_eq!(sent["messages"][1]["content"], json!([thinking, redacted, unknown, call]));
}

#[tokio::test]
async fn usage_is_the_latest_of_each_count() {
    let cases = [
        (
            json!({"input_tokens": 5, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 30, "output_tokens": 1,
                "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}}),
            json!({"output_tokens": 50, "cache_creation_input_tokens": 30}),
            [5, 50, 10, 20, 10],
        ),
        (
            json!({"input_tokens": 5, "cache_creation_input_tokens": 30}),
            json!({"input_tokens": 6, "output_tokens": 2, "cache_read_input_tokens": null}),
            [6, 2, 0, 30, 0],
        ),
        (json!({}), json!({}), [0; 5]),
        (Value::Null, json!({"input_tokens": 6.0, "output_tokens": null, "cache_creation": null}), [6, 0, 0, 0, 0]),
        (json!("none"), json!({"input_tokens": -3, "output_tokens": "7"}), [0; 5]),
    ];
    for (at_start, at_end, [input, output, read, five_minutes, one_hour]) in cases {
        let mut events = message(&[text_block(0, &["x"])], "end_turn");
        events[0]["message"]["usage"] = at_start;
        let delta = events.len() - 2;
        events[delta]["usage"] = at_end;
        let expected = Usage {
            input_tokens: input,
            output_tokens: output,
            cache_read_input_tokens: read,
            cache_creation_5m_input_tokens: five_minutes,
            cache_creation_1h_input_tokens: one_hour,
            cost_nanos: None,
        };
        assert_eq!(exchange(&stream(&events)).await.reply.unwrap().usage, expected);
    }
}

#[tokio::test]
async fn pings_comments_and_unknown_events_are_skipped() {
    let mut events = message(&[text_block(0, &["x"])], "end_turn");
    for (at, extra) in [(0, "ping"), (2, "ping"), (3, "from_the_future")] {
        events.insert(at, json!({"type": extra}));
    }
    let mut script = stream(&events);
    script.insert(1, send(": a comment\n\n"));
    assert_eq!(exchange(&script).await.content(), json!([{"type": "text", "text": "x"}]));
}

#[tokio::test]
async fn deltas_and_blocks_of_unknown_types_end_no_reply_and_half_of_one_is_not_kept() {
    let future = json!({"type": "delta_from_the_future", "payload": {"n": 1}});
    let known = json!({"type": "input_json_delta", "partial_json": "{}"});
    let blocks = [
        block(0, &json!({"type": "text", "text": "a"}), &[future.clone(), json!({"type": "text_delta", "text": "b"})]),
        block(1, &json!({"type": "block_from_the_future", "whole": true}), &[]),
        block(2, &json!({"type": "block_from_the_future"}), std::slice::from_ref(&future)),
        block(3, &json!({"type": "block_from_the_future"}), &[known.clone(), known]),
        block(4, &json!({"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {}}), &[future]),
    ];
    let exchange = exchange(&stream(&message(&blocks, "tool_use"))).await;
    let expected = json!([
        {"type": "text", "text": "ab"},
        {"type": "block_from_the_future", "whole": true},
        {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {}},
    ]);
    assert_eq!(exchange.content(), expected);
}

#[tokio::test]
async fn a_character_split_between_packets_arrives_whole() {
    let text: String = message(&[text_block(0, &["Grüße 🦀"])], "end_turn").iter().map(event).collect();
    let mut script = vec![stream_head()];
    script.extend(text.as_bytes().chunks(1).map(send));
    assert_eq!(exchange(&script).await.content(), json!([{"type": "text", "text": "Grüße 🦀"}]));
}

#[tokio::test]
async fn an_error_status_says_whether_a_retry_helps() {
    let cases = [
        ("400 Bad Request", "failed"),
        ("401 Unauthorized", "unusable"),
        ("402 Payment Required", "billing"),
        ("403 Forbidden", "unusable"),
        ("404 Not Found", "unusable"),
        ("408 Request Timeout", "overloaded"),
        ("413 Payload Too Large", "too long"),
        ("429 Too Many Requests", "rate limited"),
        ("500 Internal Server Error", "overloaded"),
        ("502 Bad Gateway", "overloaded"),
        ("503 Service Unavailable", "overloaded"),
        ("504 Gateway Timeout", "overloaded"),
        ("529 Overloaded", "overloaded"),
        ("307 Temporary Redirect", "unusable"),
        ("409 Conflict", "overloaded"),
        ("524 Timeout", "overloaded"),
    ];
    let body = json!({"type": "error", "error": {"type": "some_error", "message": "what went wrong"}}).to_string();
    for (status, expected) in cases {
        let headers = "request-id: req_7\r\nlocation: /elsewhere\r\n";
        let error = exchange(&respond(status, headers, &body)).await.reply.unwrap_err();
        assert_eq!(kind(&error), expected, "{status}");
        let message = error.to_string();
        assert!(message.contains(&status[..3]) && message.ends_with("to request req_7: what went wrong"), "{message}");
    }
}

#[tokio::test]
async fn the_wait_that_an_upstream_asks_for_is_passed_on() {
    let asked = exchange(&respond("429 Too Many Requests", "retry-after: 12\r\n", "{}")).await.reply.unwrap_err();
    assert!(
        matches!(asked, ModelError::RateLimited { retry_after: Some(wait), .. } if wait.as_secs() == 12),
        "{asked:?}"
    );
    let asked = exchange(&respond("529 Overloaded", "retry-after-ms: 1500\r\n", "")).await.reply.unwrap_err();
    assert!(
        matches!(asked, ModelError::Overloaded { retry_after: Some(wait), .. } if wait.as_millis() == 1500),
        "{asked:?}"
    );
}

#[tokio::test]
async fn the_type_of_an_error_counts_more_than_its_status() {
    for (status, kind_of_error, expected) in [
        ("400 Bad Request", "billing_error", "billing"),
        ("400 Bad Request", "overloaded_error", "overloaded"),
        ("400 Bad Request", "api_error", "overloaded"),
        ("403 Forbidden", "rate_limit_error", "rate limited"),
        ("529 Overloaded", "rate_limit_error", "rate limited"),
        ("400 Bad Request", "request_too_large", "too long"),
        ("400 Bad Request", "from_the_future", "failed"),
    ] {
        let body = json!({"type": "error", "error": {"type": kind_of_error, "message": "so it is"}}).to_string();
        let error = exchange(&respond(status, "", &body)).await.reply.unwrap_err();
        assert_eq!(kind(&error), expected, "{status} {kind_of_error}");
    }
}

#[tokio::test]
async fn an_error_within_the_stream_or_under_a_status_of_success_may_pass_unless_it_is_known_not_to() {
    let cases = [
        (json!({"type": "overloaded_error", "message": "so it is"}), "overloaded", "overloaded_error: so it is"),
        (json!({"type": "api_error", "message": "so it is"}), "overloaded", "api_error: so it is"),
        (json!({"type": "timeout_error", "message": "so it is"}), "overloaded", "timeout_error: so it is"),
        (json!({"type": "rate_limit_error", "message": "so it is"}), "rate limited", "rate_limit_error: so it is"),
        (json!({"type": "billing_error", "message": "so it is"}), "billing", "billing_error: so it is"),
        (json!({"type": "not_found_error", "message": "so it is"}), "unusable", "not_found_error: so it is"),
        (json!({"type": "invalid_request_error", "message": "so it is"}), "failed", "invalid_request_error: so it is"),
        (json!({"type": "from_the_future", "message": "so it is"}), "overloaded", "from_the_future: so it is"),
        (json!({"code": "server_error", "message": "so it is"}), "overloaded", "server_error: so it is"),
        (json!({"message": "so it is"}), "overloaded", ": so it is"),
        (json!({"type": null, "message": "so it is"}), "overloaded", ": so it is"),
        (json!("so it is"), "overloaded", ": so it is"),
        (json!({"message": "prompt is too long: 9 > 8"}), "too long", ": prompt is too long: 9 > 8"),
    ];
    for (error, expected, said) in cases {
        let typed = json!({"type": "error", "error": error});
        let begun = [message_start(), block_start(0, &json!({"type": "text", "text": "par"})), typed.clone()];
        let untyped = format!("data: {}\n\n", json!({"error": error}));
        let json = "content-type: Application/JSON; charset=utf-8\r\n";
        for script in [stream(&begun), vec![stream_head(), send(untyped)], respond("200 OK", json, &typed.to_string())]
        {
            let failure = exchange(&script).await.reply.unwrap_err();
            assert_eq!(kind(&failure), expected, "{error}");
            assert!(failure.to_string().ends_with(said), "{failure}");
        }
    }
}

#[tokio::test]
async fn a_stream_cut_anywhere_before_it_says_why_it_stops_is_no_reply() {
    let events = message(&[text_block(0, &["Hello"])], "end_turn");
    for kept in 0..events.len() - 2 {
        let failure = exchange(&stream(&events[..kept])).await.reply.unwrap_err();
        assert_eq!(kind(&failure), "overloaded", "after {kept} events");
    }
}

#[tokio::test]
async fn a_message_ends_in_the_words_of_another_api_or_with_the_stream_once_it_has_said_why() {
    let mut events = message(&[text_block(0, &["Hello"])], "end_turn");
    events.pop();
    let mut done = stream(&events);
    done.push(send("data: [DONE]\n\n"));
    for script in [stream(&events), done] {
        let exchange = exchange(&script).await;
        assert_eq!(exchange.content(), json!([{"type": "text", "text": "Hello"}]));
    }
    let unexplained = exchange(&[stream_head(), send("data: [DONE]\n\n")]).await.reply.unwrap_err();
    assert!(unexplained.to_string().contains("no stop reason"), "{unexplained}");
}

#[tokio::test]
async fn a_message_that_is_not_streamed_is_taken_as_a_whole() {
    let call = json!({"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}});
    let body = json!({
        "type": "message", "role": "assistant", "content": [{"type": "text", "text": "Look."}, call],
        "stop_reason": "tool_use", "usage": {"input_tokens": 5, "output_tokens": 7},
    });
    let exchange = exchange(&respond("200 OK", "content-type: application/json\r\n", &body.to_string())).await;
    assert_eq!(exchange.content(), body["content"]);
    let reply = exchange.reply.unwrap();
    assert_eq!((reply.stop, reply.usage.input_tokens, reply.usage.output_tokens), (Stop::ToolUse, 5, 7));
}

#[tokio::test]
async fn the_stream_is_known_by_its_media_type_in_letters_of_any_size() {
    let text: String = message(&[text_block(0, &["x"])], "end_turn").iter().map(event).collect();
    for header in ["content-type: Text/Event-Stream\r\n", "content-type: TEXT/PLAIN; charset=UTF-8\r\n", ""] {
        let exchange = exchange(&respond("200 OK", header, &text)).await;
        assert_eq!(exchange.content(), json!([{"type": "text", "text": "x"}]), "{header}");
    }
}

#[tokio::test]
async fn blocks_that_run_side_by_side_stand_where_their_index_says() {
    let text = json!({"type": "text", "text": ""});
    let call = |id: &str| json!({"type": "tool_use", "id": id, "name": "bash", "input": {}});
    let says = |index, text: &str| block_delta(index, &json!({"type": "text_delta", "text": text}));
    let input = |index, json: &str| block_delta(index, &json!({"type": "input_json_delta", "partial_json": json}));
    let mut events = vec![
        message_start(),
        block_start(1, &call("toolu_1")),
        block_start(0, &text),
        block_start(2, &call("toolu_2")),
        input(2, "{\"b\":"),
        says(0, "Look."),
        input(1, "{\"a\":1}"),
        block_stop(1),
        input(2, "2}"),
        says(0, " Here."),
    ];
    events.extend([message_delta("tool_use"), message_stop()]);
    let expected = json!([
        {"type": "text", "text": "Look. Here."},
        {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"a": 1}},
        {"type": "tool_use", "id": "toolu_2", "name": "bash", "input": {"b": 2}},
    ]);
    assert_eq!(exchange(&stream(&events)).await.content(), expected);
    // A server that gives each block the same index.
    let same = message(&[text_block(0, &["a"]), tool_block(0, &["{}"]), text_block(0, &["b"])], "tool_use");
    let content = exchange(&stream(&same)).await.content();
    assert_eq!(
        (&content[0]["text"], &content[1]["name"], &content[2]["text"]),
        (&json!("a"), &json!("bash"), &json!("b"))
    );
}

#[tokio::test]
async fn what_does_not_matter_ends_no_reply() {
    let says = |index, text: Value| block_delta(index, &json!({"type": "text_delta", "text": text}));
    let text = || block_start(0, &json!({"type": "text", "text": null}));
    let end = [message_delta("end_turn"), message_stop()];
    let scripts = [
        ("no message_start, no content_block_stop", vec![text(), says(0, json!("x"))]),
        ("null for a text", vec![message_start(), text(), says(0, Value::Null), says(0, json!("x")), block_stop(0)]),
        ("a text that did not begin", vec![message_start(), says(0, json!("x")), block_stop(0)]),
        ("a delta without a type", vec![message_start(), text(), block_delta(0, &json!({"text": "x"}))]),
        ("a delta that is null", vec![message_start(), text(), block_delta(0, &Value::Null), says(0, json!("x"))]),
        ("a block that ends and did not begin", vec![message_start(), text(), says(0, json!("x")), block_stop(7)]),
        ("message_start twice", vec![message_start(), message_start(), text(), says(0, json!("x"))]),
        (
            "a delta for a block that did not begin",
            vec![message_start(), text(), says(0, json!("x")), block_delta(5, &json!({"type": "new_delta", "n": 1}))],
        ),
    ];
    for (what, mut events) in scripts {
        events.extend(end.clone());
        let exchange = exchange(&stream(&events)).await;
        assert_eq!(exchange.content(), json!([{"type": "text", "text": "x"}]), "{what}");
    }
    let anonymous = block(0, &json!({"type": "tool_use", "id": null, "name": "bash", "input": null}), &[]);
    let reply = exchange(&stream(&message(&[anonymous], "tool_use"))).await.reply.unwrap();
    assert!(matches!(&reply.content[..], [Block::ToolUse { name, .. }] if name == "bash"), "{reply:?}");
}

#[tokio::test]
async fn a_refusal_says_what_the_upstream_said_of_it() {
    let details = |details: Value| async move {
        let mut events = message(&[], "refusal");
        let place = events.len() - 2;
        events[place]["delta"]["stop_details"] = details;
        exchange(&stream(&events)).await.reply.unwrap().refusal
    };
    let told = |category: Option<&str>, explanation: Option<&str>| Refusal {
        category: category.map(str::to_owned),
        explanation: explanation.map(str::to_owned),
    };
    let bio = json!({"type": "refusal", "category": "bio", "explanation": "It could harm."});
    assert_eq!(details(bio).await, told(Some("bio"), Some("It could harm.")));
    let unknown = json!({"type": "refusal", "category": "from_the_future", "explanation": null});
    assert_eq!(details(unknown).await, told(None, None), "the API's types have no such category");
    assert_eq!(details(Value::Null).await, told(None, None));
}

#[tokio::test]
async fn a_speed_is_sent_with_what_it_needs() {
    let answer = stream(&message(&[text_block(0, &["x"])], "end_turn"));
    for speed in [None, Some("fast".to_owned())] {
        let stand_in = StandIn::start().await;
        let model = Messages::new(config(&stand_in)).unwrap();
        let request = ModelRequest { speed: speed.clone(), inference_geo: Some("us".to_owned()), ..question() };
        let mut sink = |_| {};
        let (_, asked) = tokio::join!(model.reply(&request, &mut sink), stand_in.answer(&answer));
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!((body["speed"].as_str(), &body["inference_geo"]), (speed.as_deref(), &json!("us")));
        assert_eq!(asked.head.contains("anthropic-beta: fast-mode-2026-02-01\r\n"), speed.is_some());
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_worth_a_retry() {
    let begun = event(&message_start());
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let scripts = [
        vec![],
        vec![send("HTTP/1.1 200")],
        vec![send(format!("{chunked}{:x}\r\n{begun}\r\n", begun.len()))],
        vec![send(format!("{chunked}{:x}\r\n{begun}", begun.len() + 50))],
    ];
    for script in scripts {
        let failure = exchange(&script).await.reply.unwrap_err();
        assert_eq!(kind(&failure), "overloaded", "{script:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_given_up() {
    let scripts = [
        vec![Act::Stall],
        vec![stream_head(), Act::Stall],
        vec![stream_head(), send(event(&message_start())), Act::Stall],
    ];
    for script in scripts {
        let exchange = exchange_with(&script, |config| config.idle_timeout = Duration::from_millis(50)).await;
        let failure = exchange.reply.unwrap_err();
        assert_eq!(kind(&failure), "overloaded");
        assert!(failure.to_string().contains("sent nothing for 50ms"), "{failure}");
    }
}

#[tokio::test]
async fn an_upstream_that_never_finishes_is_given_up() {
    let script = [stream_head(), send(event(&json!({"type": "ping"}))), Act::Stall];
    let exchange = exchange_with(&script, |config| config.reply_timeout = Duration::from_millis(50)).await;
    let failure = exchange.reply.unwrap_err();
    assert_eq!(kind(&failure), "overloaded");
    assert!(failure.to_string().contains("took more than 50ms"), "{failure}");
}

#[tokio::test]
async fn an_upstream_that_does_not_listen_is_worth_a_retry() {
    let gone = StandIn::start().await.base_url();
    let model = Messages::new(UpstreamConfig::new(gone, None)).unwrap();
    let failure = model.reply(&question(), &mut |_| {}).await.unwrap_err();
    assert_eq!(kind(&failure), "overloaded");
    assert!(failure.to_string().contains("refused"), "{failure}");
}

#[tokio::test]
async fn events_that_make_no_message_are_refused() {
    let text = || block_start(0, &json!({"type": "text", "text": ""}));
    let arguments = || block_delta(0, &json!({"type": "input_json_delta", "partial_json": "{}"}));
    let cases = [
        ("no stop reason", vec![message_stop()]),
        ("a second message", vec![message_start(), text(), message_start()]),
        ("arguments arrive for what is no call", vec![message_start(), arguments()]),
        ("arguments arrive for what is no call", vec![message_start(), text(), arguments()]),
        ("a call names no tool", vec![message_start(), block_start(0, &json!({"type": "tool_use", "id": "toolu_1"}))]),
        ("no stop reason", vec![message_start(), message_stop()]),
        ("calls none", message(&[], "tool_use")),
    ];
    for (expected, events) in cases {
        let failure = exchange(&stream(&events)).await.reply.unwrap_err();
        assert_eq!(kind(&failure), "failed, retryable", "{expected}");
        assert!(failure.to_string().contains(expected), "{failure}, not {expected}");
    }
}

#[tokio::test]
async fn frames_that_are_no_events_are_refused() {
    let cases: [(&str, &[u8]); 4] = [
        ("expected value", b"data: Oops!\n\n"),
        ("EOF while parsing", b"data: {\"type\": \"message_start\"\n\n"),
        ("has no type", b"data: {}\n\n"),
        ("missing field `content_block`", b"data: {\"type\": \"content_block_start\"}\n\n"),
    ];
    for (expected, bytes) in cases {
        let failure = exchange(&[stream_head(), send(bytes)]).await.reply.unwrap_err();
        assert_eq!(kind(&failure), "failed, retryable", "{expected}");
        assert!(failure.to_string().contains(expected), "{failure}, not {expected}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let endless_event = [stream_head(), send("data: "), send(vec![b'x'; MAX_EVENT_BYTES + 1])];
    let comments = format!(":{}\n", "x".repeat(MAX_EVENT_BYTES - 2));
    let mut endless_stream = vec![stream_head()];
    endless_stream.resize(2 + MAX_REPLY_BYTES / comments.len(), send(comments));
    for (script, expected) in [(&endless_event[..], "an event is larger"), (&endless_stream, "it is larger")] {
        let failure = exchange(script).await.reply.unwrap_err();
        assert_eq!(kind(&failure), "failed, retryable");
        assert!(failure.to_string().contains(expected), "{failure}, not {expected}");
    }
}

#[tokio::test]
async fn the_body_of_an_error_is_read_up_to_a_bound() {
    let body = vec![b'x'; 2 * MAX_ERROR_BYTES];
    let script = [send("HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n"), send(body), Act::Stall];
    let message = exchange(&script).await.reply.unwrap_err().to_string();
    assert!(message.len() < 1100, "{} bytes", message.len());
    assert!(message.starts_with("the upstream answered 500") && message.ends_with("xxx…"), "{message}");
}

#[tokio::test]
async fn a_page_in_place_of_a_stream_is_refused() {
    let failure = exchange(&respond("200 OK", "content-type: text/html\r\n", "<p>Hi</p>")).await.reply.unwrap_err();
    assert_eq!(kind(&failure), "unusable");
    assert!(failure.to_string().contains("text/html"), "{failure}");
}

#[tokio::test]
async fn the_key_is_in_no_message_and_in_no_debug_output() {
    let body = json!({"error": {"type": "authentication_error", "message": format!("bad key {KEY}")}}).to_string();
    let echo = json!({"type": "error", "error": {"type": "api_error", "message": format!("{KEY} is bad")}});
    for script in [respond("401 Unauthorized", "", &body), respond("400 Bad Request", "", KEY), stream(&[echo])] {
        let failure = exchange(&script).await.reply.unwrap_err();
        assert!(failure.to_string().contains("[key]"), "{failure}");
        assert!(!format!("{failure:?}").contains(KEY), "{failure:?}");
    }
    for credential in [Credential::ApiKey(KEY.to_owned()), Credential::Bearer(KEY.to_owned())] {
        let model = Messages::new(UpstreamConfig::new("https://example.com", Some(credential))).unwrap();
        assert!(!format!("{model:?}").contains(KEY), "{model:?}");
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let key = |key: &str| Some(Credential::ApiKey(key.to_owned()));
    let cases = [
        ("", None, "base_url"),
        ("api.example.com", None, "base_url"),
        ("ftp://example.com", None, "base_url"),
        ("https://user:pass@example.com", None, "base_url"),
        ("https://example.com", key(""), "API key"),
        ("https://example.com", key("two\nlines"), "API key"),
    ];
    for (base_url, credential, expected) in cases {
        let error = Messages::new(UpstreamConfig::new(base_url, credential)).unwrap_err().to_string();
        assert!(error.contains(expected), "{base_url}: {error}");
    }
}
