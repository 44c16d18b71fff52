use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::{
    Block, Delta, Message, Role, Stop, Thought, ToolDefinition, Usage,
    stand_in::{Act, Exchange, StandIn},
    upstream::Credential,
};

const KEY: &str = "sk-very-secret";

/// A limit that no test reaches.
const NEVER: Duration = Duration::from_hours(1);

fn raw(value: &Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn text(text: &str) -> Block {
    Block::Text { text: text.to_owned() }
}

fn user(content: Vec<Block>) -> Message {
    Message { role: Role::User, content }
}

fn question() -> ModelRequest {
    ModelRequest {
        model: "m-1".to_owned(),
        effort: None,
        speed: None,
        inference_geo: None,
        max_tokens: 100,
        system: None,
        messages: vec![user(vec![text("hello")])],
        tools: Vec::new(),
    }
}

async fn exchange(request: ModelRequest, answer: impl Into<Vec<u8>>) -> Exchange {
    let stand_in = StandIn::start().await;
    let config = UpstreamConfig {
        idle_timeout: NEVER,
        reply_timeout: NEVER,
        ..UpstreamConfig::new(stand_in.base_url(), Some(Credential::Bearer(KEY.to_owned())))
    };
    let model = OpenAi::new(config, None).unwrap();
    stand_in.exchange(&model, &request, &[Act::Send(answer.into())]).await
}

/// What came of a stream of these chunks, and `[DONE]`.
async fn streamed(chunks: &[Value]) -> Exchange {
    let events = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect::<Vec<_>>().concat();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    exchange(question(), format!("{head}{events}data: [DONE]\n\n")).await
}

fn answer(status: &str, body: &Value) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}")
}

#[allow(clippy::needless_pass_by_value, reason = "made in place")]
fn delta(delta: Value) -> Value {
    json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

#[allow(clippy::needless_pass_by_value, reason = "made in place")]
fn call(piece: Value) -> Value {
    delta(json!({"tool_calls": [piece]}))
}

#[tokio::test]
async fn a_streamed_reply_is_read_with_its_reasoning_text_calls_and_counts() {
    let exchange = streamed(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "Let me "})),
        delta(json!({"reasoning_content": "see."})),
        delta(json!({"content": "I "})),
        delta(json!({"content": "look."})),
        call(json!({"index": 0, "id": "call_a", "type": "function", "function": {"name": "bash", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "{\"command\""}})),
        call(json!({"index": 1, "id": "call_b", "type": "function", "function": {"name": "read", "arguments": "{\"file_path\": \"a\"}"}})),
        call(json!({"index": 0, "function": {"arguments": ": \"ls\"}"}})),
        finish("tool_calls"),
        json!({"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59,
            "prompt_tokens_details": {"cached_tokens": 32}}}),
    ])
    .await;
    assert_eq!(
        exchange.content(),
        json!([
            {"type": "thinking", "thinking": "Let me see.", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "call_a", "name": "bash", "input": {"command": "ls"}},
            {"type": "tool_use", "id": "call_b", "name": "read", "input": {"file_path": "a"}},
        ])
    );
    let usage = Usage { input_tokens: 18, output_tokens: 9, cache_read_input_tokens: 32, ..Usage::default() };
    let reply = exchange.reply.as_ref().unwrap();
    assert_eq!((reply.stop, reply.usage), (Stop::ToolUse, usage));
    assert_eq!(
        exchange.deltas,
        [
            Delta::ThinkingStart,
            Delta::TextStart,
            Delta::Text("I ".to_owned()),
            Delta::Text("look.".to_owned()),
            Delta::OtherStart,
            Delta::OtherStart,
            Delta::Usage(usage),
        ]
    );
}

#[tokio::test]
async fn calls_are_told_apart_however_a_server_numbers_them() {
    let whole = |index: Value, id: Value, name: &str, arguments: &str| {
        let mut piece = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        for (field, value) in [("index", index), ("id", id)] {
            if !value.is_null() {
                piece[field] = value;
            }
        }
        piece
    };
    let two = |first: Value, second: Value| vec![call(first), call(second), finish("tool_calls")];
    for (case, chunks) in [
        ("one number for all", two(whole(json!(0), json!("a"), "x", "{}"), whole(json!(0), json!("b"), "y", "{}"))),
        ("no numbers", two(whole(Value::Null, json!("a"), "x", "{}"), whole(Value::Null, json!("b"), "y", "{}"))),
        (
            "neither numbers nor ids",
            two(whole(Value::Null, Value::Null, "x", "{}"), whole(Value::Null, Value::Null, "y", "{}")),
        ),
        (
            "in one chunk, and a reason that is not the right one",
            vec![
                delta(
                    json!({"tool_calls": [whole(json!(0), json!("a"), "x", "{}"), whole(json!(1), json!("b"), "y", "{}")]}),
                ),
                finish("stop"),
            ],
        ),
        (
            "id and name in each piece",
            vec![
                call(whole(json!(0), json!("a"), "x", "{")),
                call(whole(json!(0), json!("a"), "x", "}")),
                call(whole(json!(1), json!("b"), "y", "{}")),
                finish("tool_calls"),
            ],
        ),
    ] {
        let exchange = streamed(&chunks).await;
        let content = exchange.content();
        let calls: Vec<_> =
            content.as_array().unwrap().iter().map(|call| (call["name"].clone(), call["input"].clone())).collect();
        assert_eq!(calls, [(json!("x"), json!({})), (json!("y"), json!({}))], "{case}");
        assert_eq!(exchange.reply.unwrap().stop, Stop::ToolUse, "{case}");
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_read_are_answered_and_a_call_that_is_cut_is_not_kept() {
    let begun =
        |arguments: &str| call(json!({"index": 0, "id": "a", "function": {"name": "bash", "arguments": arguments}}));
    let exchange = streamed(&[begun("{\"command\": ls}"), finish("tool_calls")]).await;
    let content = exchange.reply.unwrap().content;
    assert!(matches!(&content[..], [Block::UnreadableCall { name, .. }] if name == "bash"), "{content:?}");

    let exchange = streamed(&[delta(json!({"content": "Now"})), begun("{\"command\": \"rm"), finish("length")]).await;
    let reply = exchange.reply.unwrap();
    assert_eq!((reply.stop, reply.content.len()), (Stop::CutCall, 1));
}

#[tokio::test]
async fn a_reply_that_is_not_streamed_is_read_too() {
    let message = json!({"role": "assistant", "content": "hello", "reasoning": "hm", "tool_calls": null});
    let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3.0, "completion_tokens": 1}});
    let exchange = exchange(question(), answer("200 OK", &body)).await;
    assert_eq!(
        exchange.content(),
        json!([{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "hello"}])
    );
    assert_eq!(exchange.reply.unwrap().usage, Usage { input_tokens: 3, output_tokens: 1, ..Usage::default() });
}

#[tokio::test]
async fn reasons_to_stop_are_those_of_the_engine() {
    for (reason, stop) in [("stop", Stop::EndTurn), ("length", Stop::MaxTokens), ("content_filter", Stop::Refusal)] {
        let exchange = streamed(&[delta(json!({"content": "x"})), finish(reason)]).await;
        assert_eq!(exchange.reply.unwrap().stop, stop, "{reason}");
    }
    let refused =
        streamed(&[delta(json!({"refusal": "I "})), delta(json!({"refusal": "will not."})), finish("stop")]).await;
    let reply = refused.reply.unwrap();
    assert_eq!((reply.stop, reply.refusal.explanation.as_deref()), (Stop::Refusal, Some("I will not.")));
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_no_reply() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let begun = format!("{head}data: {}\n\n", delta(json!({"content": "half"})));
    let failure = exchange(question(), begun.clone()).await.failure();
    assert!(matches!(failure, ModelError::Overloaded { .. }), "{failure}");

    let error = json!({"error": {"message": "out of memory", "type": "internal_server_error", "code": 500}});
    let failure = exchange(question(), format!("{begun}data: {error}\n\n")).await.failure();
    assert!(
        matches!(failure, ModelError::Overloaded { .. }) && failure.to_string().contains("out of memory"),
        "{failure}"
    );

    // Some servers end without a last word, once they have said why.
    let ended = format!("{begun}data: {}\n\n", finish("stop"));
    assert_eq!(exchange(question(), ended).await.content(), json!([{"type": "text", "text": "half"}]));
}

#[tokio::test]
async fn a_refused_request_says_why_and_never_shows_the_key() {
    let told =
        |message: &str, kind: &str, code: &str| json!({"error": {"message": message, "type": kind, "code": code}});
    let wrong_key = told(&format!("Incorrect API key provided: {KEY}"), "invalid_request_error", "invalid_api_key");
    let failure = exchange(question(), answer("401 Unauthorized", &wrong_key)).await.failure();
    assert!(matches!(failure, ModelError::Unusable { .. }), "{failure}");
    assert!(!failure.to_string().contains(KEY) && failure.to_string().contains("Incorrect API key"), "{failure}");

    let quota = told("You exceeded your current quota", "insufficient_quota", "insufficient_quota");
    let failure = exchange(question(), answer("429 Too Many Requests", &quota)).await.failure();
    assert!(matches!(failure, ModelError::Billing { .. }), "{failure}");

    let limited = answer(
        "429 Too Many Requests\r\nretry-after: 7",
        &told("Rate limit reached", "requests", "rate_limit_exceeded"),
    );
    let failure = exchange(question(), limited).await.failure();
    assert!(
        matches!(failure, ModelError::RateLimited { retry_after: Some(after), .. } if after.as_secs() == 7),
        "{failure}"
    );

    let too_long = told("This model's maximum context length is 8192 tokens", "BadRequestError", "400");
    let failure = exchange(question(), answer("400 Bad Request", &too_long)).await.failure();
    assert!(matches!(failure, ModelError::TooLong { .. }), "{failure}");

    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>Ollama is running</html>";
    let failure = exchange(question(), page).await.failure();
    assert!(matches!(failure, ModelError::Unusable { .. }), "{failure}");
}

#[tokio::test]
async fn a_conversation_is_written_in_the_words_of_chat_completions() {
    let use_of = |id: &str, command: &str| Block::ToolUse {
        id: id.to_owned(),
        name: "bash".to_owned(),
        input: raw(&json!({"command": command})),
    };
    let result =
        |id: &str, content: Vec<Block>, is_error| Block::ToolResult { tool_use_id: id.to_owned(), content, is_error };
    let image = raw(&json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}));
    let pdf = json!({"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}});
    let notes = json!({"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "tea"}});
    let thinking = raw(&json!({"type": "thinking", "thinking": "hm", "signature": ""}));
    let request = ModelRequest {
        effort: Some("max".to_owned()),
        system: Some("Be brief.".to_owned()),
        tools: vec![ToolDefinition {
            name: "bash".to_owned(),
            description: "runs it".to_owned(),
            input_schema: raw(&json!({"type": "object"})),
        }],
        messages: vec![
            user(vec![
                text("look"),
                Block::Verbatim(image.clone()),
                Block::Verbatim(raw(&pdf)),
                Block::Verbatim(raw(&notes)),
            ]),
            Message {
                role: Role::Assistant,
                content: vec![
                    Block::Thought(Thought { from: None, block: thinking }),
                    text("I do."),
                    use_of("a", "ls"),
                    use_of("b", "cat x"),
                ],
            },
            user(vec![
                result("a", vec![text("x"), Block::Verbatim(image)], false),
                result("b", vec![text("no such file")], true),
                text("and?"),
            ]),
            Message { role: Role::System, content: vec![text("Stop soon.")] },
            Message { role: Role::Assistant, content: vec![use_of("c", "true")] },
            user(vec![result("c", vec![text("done")], false)]),
        ],
        ..question()
    };
    let exchange = exchange(request, answer("500 Oops", &json!({}))).await;
    assert!(exchange.asked.head.starts_with("POST /v1/chat/completions "), "{}", exchange.asked.head);
    assert!(exchange.asked.head.contains(&format!("authorization: Bearer {KEY}")));
    let url = "data:image/png;base64,aGk=";
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "bash", "arguments": arguments}});
    assert_eq!(
        serde_json::from_str::<Value>(&exchange.asked.body).unwrap(),
        json!({
            "model": "m-1",
            "max_tokens": 100,
            "stream": true,
            "stream_options": {"include_usage": true},
            "reasoning_effort": "high",
            "tools": [{"type": "function", "function": {"name": "bash", "description": "runs it", "parameters": {"type": "object"}}}],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
                    {"type": "text", "text": "Document \"Notes\":\n\ntea"},
                ]},
                {"role": "assistant", "content": "I do.", "tool_calls": [call("a", r#"{"command":"ls"}"#), call("b", r#"{"command":"cat x"}"#)]},
                {"role": "tool", "tool_call_id": "a", "content": "x"},
                {"role": "tool", "tool_call_id": "b", "content": "The tool failed:\nno such file"},
                {"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": "and?"},
                    {"type": "text", "text": "The operator of this conversation says, with the weight of the system prompt:"},
                    {"type": "text", "text": "Stop soon."},
                ]},
                {"role": "assistant", "content": null, "tool_calls": [call("c", r#"{"command":"true"}"#)]},
                {"role": "tool", "tool_call_id": "c", "content": "done"},
            ],
        })
    );
}

#[test]
fn reasoning_is_sent_back_in_the_field_of_the_configuration_and_in_no_other() {
    let thought = |text: &str| {
        let block = raw(&json!({"type": "thinking", "thinking": text, "signature": ""}));
        Block::Thought(Thought { from: None, block })
    };
    let reply = vec![thought("hm"), text("I do."), thought("so"), thought(" ")];
    let messages = vec![user(vec![text("go")]), Message { role: Role::Assistant, content: reply }];
    let request = ModelRequest { messages, ..question() };
    for (field, sent) in [
        (None, json!({})),
        (Some(ReasoningField::ReasoningContent), json!({"reasoning_content": "hm\n\nso"})),
        (Some(ReasoningField::Reasoning), json!({"reasoning": "hm\n\nso"})),
    ] {
        let body: Value = serde_json::from_slice(&request::body(&request, Length::MaxTokens, field).unwrap()).unwrap();
        let mut expected = json!({"role": "assistant", "content": "I do."});
        expected.as_object_mut().unwrap().extend(sent.as_object().unwrap().clone());
        assert_eq!(body["messages"][1], expected);
    }
}

#[tokio::test]
async fn what_the_dialect_has_no_word_for_is_refused_and_not_left_out() {
    for (field, request) in [
        ("speed", ModelRequest { speed: Some("fast".to_owned()), ..question() }),
        ("inference_geo", ModelRequest { inference_geo: Some("us".to_owned()), ..question() }),
    ] {
        let model = OpenAi::new(UpstreamConfig::new("http://127.0.0.1:1", None), None).unwrap();
        let failure = model.reply(&request, &mut |_| {}).await.unwrap_err();
        assert!(matches!(failure, ModelError::RequestFailed { retryable: false, .. }), "{failure}");
        assert!(failure.to_string().contains(field), "{failure}");
    }
}

#[test]
fn an_address_is_taken_as_it_is_pasted_and_a_whole_one_is_refused() {
    for (base_url, url, length) in [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434/v1/chat/completions", Length::MaxTokens),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1/chat/completions", Length::MaxTokens),
        ("https://gateway.example/api/v1", "https://gateway.example/api/v1/chat/completions", Length::MaxTokens),
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions", Length::MaxCompletionTokens),
        ("https://notapi.openai.com/v1", "https://notapi.openai.com/v1/chat/completions", Length::MaxTokens),
    ] {
        let model = OpenAi::new(UpstreamConfig::new(base_url, None), None).unwrap();
        assert_eq!((model.upstream.url().as_str(), model.length), (url, length), "{base_url}");
    }
    for base_url in ["", "ftp://a", "http://u:p@a", "http://a/v1/chat/completions", "http://a/v1?x=1"] {
        OpenAi::new(UpstreamConfig::new(base_url, None), None).unwrap_err();
    }
}
