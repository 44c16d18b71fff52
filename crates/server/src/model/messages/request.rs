//! Writes a [`ModelRequest`] as the body of `POST /v1/messages`, with the breakpoints of the prompt cache.
//!
//! The upstream accepts four breakpoints. They stand on the last tool, on the system prompt and on the last two messages
//! of the user: the last one writes the cache, the one before is where the previous request wrote it. The upstream looks
//! for an earlier entry only a few blocks back from a breakpoint, and one turn may add more blocks than that.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::Thinking;
use crate::model::{Block, Message, ModelRequest, Role, ToolDefinition};

/// How many of the user's messages carry a breakpoint.
const CACHED_USER_MESSAGES: usize = 2;

/// What is sent in place of a message that has nothing to send.
const EMPTY_MESSAGE: &str = "(empty message)";

/// What a breakpoint adds to a JSON object, in place of its closing brace.
const BREAKPOINT: &str = r#","cache_control":{"type":"ephemeral"}}"#;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<ThinkingBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_geo: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Part<'a, ToolDefinition>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<[Box<RawValue>; 1]>,
    messages: Vec<MessageBody<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ThinkingBody {
    Adaptive,
    Enabled { budget_tokens: u32 },
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    effort: &'a str,
}

#[derive(Serialize)]
struct MessageBody<'a> {
    role: Role,
    content: Vec<Part<'a, Cow<'a, Block>>>,
}

/// A tool or a block, as it is or with a breakpoint.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a, T> {
    Plain(&'a T),
    Marked(Box<RawValue>),
}

/// The members of a block that decide whether it may carry a breakpoint.
#[derive(Deserialize)]
struct Markable<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
    cache_control: Option<IgnoredAny>,
}

/// The JSON text of the request.
pub(super) fn body(request: &ModelRequest, thinking: Option<Thinking>) -> serde_json::Result<Vec<u8>> {
    let system = request.system.as_deref().filter(|system| !is_blank(system));
    let conversation: Vec<_> = request.messages.iter().map(|message| (message.role, sendable(message))).collect();
    serde_json::to_vec(&Body {
        model: &request.model,
        max_tokens: request.max_tokens,
        stream: true,
        thinking: thinking.and_then(|thinking| thought(request, thinking)),
        output_config: request.effort.as_deref().map(|effort| OutputConfig { effort }),
        speed: request.speed.as_deref(),
        inference_geo: request.inference_geo.as_deref(),
        tools: marked_at(&request.tools, request.tools.len().checked_sub(1))?,
        system: system.map(|text| marked(&Block::Text { text: text.to_owned() }).map(|block| [block])).transpose()?,
        messages: messages(&conversation)?,
    })
}

/// How the model is to think. With a budget it wants its own thoughts at the head of a reply whose calls are being answered; where
/// another upstream made that reply they are not there, and it goes on without until the next turn.
fn thought(request: &ModelRequest, thinking: Thinking) -> Option<ThinkingBody> {
    let budget_tokens = match thinking {
        Thinking::Adaptive => return Some(ThinkingBody::Adaptive),
        // The upstream wants less than the reply may have.
        Thinking::Budget(budget) => budget.min(request.max_tokens.saturating_sub(1)),
    };
    let is_result = |block: &Block| matches!(block, Block::ToolResult { .. });
    let answers = request.messages.last().is_some_and(|message| message.content.iter().any(is_result));
    let replied = request.messages.iter().rfind(|message| message.role == Role::Assistant);
    let thought = replied.is_some_and(|reply| matches!(reply.content.first(), Some(Block::Thought(_))));
    (!answers || thought).then_some(ThinkingBody::Enabled { budget_tokens })
}

/// The blocks of a message that an upstream takes: it refuses a request with blank text in it. No client can send such text
/// and no tool gives it, but the log of a session may have it from before that was so.
fn sendable(message: &Message) -> Vec<Cow<'_, Block>> {
    let is_blank = |block: &Block| matches!(block, Block::Text { text } if is_blank(text));
    let mut blocks: Vec<Cow<'_, Block>> = Vec::with_capacity(message.content.len());
    for block in message.content.iter().filter(|block| !is_blank(block)) {
        blocks.push(match block {
            Block::ToolResult { tool_use_id, content, is_error } if content.iter().any(is_blank) => {
                let content = content.iter().filter(|block| !is_blank(block)).cloned().collect();
                Cow::Owned(Block::ToolResult { tool_use_id: tool_use_id.clone(), content, is_error: *is_error })
            }
            block => Cow::Borrowed(block),
        });
    }
    if blocks.is_empty() {
        blocks.push(Cow::Owned(Block::Text { text: EMPTY_MESSAGE.to_owned() }));
    }
    blocks
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn messages<'a>(messages: &'a [(Role, Vec<Cow<'a, Block>>)]) -> serde_json::Result<Vec<MessageBody<'a>>> {
    let users = messages.iter().filter(|(role, _)| *role == Role::User).count();
    let mut users_before = 0;
    messages
        .iter()
        .map(|(role, content)| {
            let mut mark = None;
            if *role == Role::User {
                users_before += 1;
                if users_before + CACHED_USER_MESSAGES > users {
                    mark = content.iter().rposition(|block| takes_breakpoint(block));
                }
            }
            Ok(MessageBody { role: *role, content: marked_at(content, mark)? })
        })
        .collect()
}

fn marked_at<T: Serialize>(parts: &[T], mark: Option<usize>) -> serde_json::Result<Vec<Part<'_, T>>> {
    let part = |(index, part)| Ok(if Some(index) == mark { Part::Marked(marked(part)?) } else { Part::Plain(part) });
    parts.iter().enumerate().map(part).collect()
}

/// The JSON of a block or tool with a breakpoint on it.
fn marked(part: &impl Serialize) -> serde_json::Result<Box<RawValue>> {
    let mut json = serde_json::to_string(part)?;
    json.pop();
    json.push_str(BREAKPOINT);
    RawValue::from_string(json)
}

/// Whether the upstream allows a breakpoint on the block: not on reasoning. One that has its own keeps that.
fn takes_breakpoint(block: &Block) -> bool {
    match block {
        Block::Text { .. } | Block::ToolUse { .. } | Block::ToolResult { .. } => true,
        Block::Verbatim(json) => serde_json::from_str::<Markable<'_>>(json.get()).is_ok_and(|block| {
            block.cache_control.is_none() && !matches!(block.kind, "thinking" | "redacted_thinking")
        }),
        Block::Thought(_) | Block::UnreadableCall { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Thought;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn text(text: &str) -> Block {
        Block::Text { text: text.to_owned() }
    }

    fn message(role: Role, content: Vec<Block>) -> Message {
        Message { role, content }
    }

    fn tool(name: &str) -> ToolDefinition {
        let input_schema = raw(&json!({"type": "object"}));
        ToolDefinition { name: name.to_owned(), description: "does it".to_owned(), input_schema }
    }

    fn request(messages: Vec<Message>) -> ModelRequest {
        ModelRequest {
            model: "m-1".to_owned(),
            effort: None,
            speed: None,
            inference_geo: None,
            max_tokens: 1000,
            system: None,
            messages,
            tools: Vec::new(),
        }
    }

    fn written(request: &ModelRequest) -> Value {
        serde_json::from_slice(&body(request, None).unwrap()).unwrap()
    }

    #[test]
    fn a_request_is_written_as_the_messages_api_wants_it() {
        let call =
            Block::ToolUse { id: "t1".to_owned(), name: "bash".to_owned(), input: raw(&json!({"command": "ls"})) };
        let result = Block::ToolResult { tool_use_id: "t1".to_owned(), content: vec![text("a.txt")], is_error: true };
        let thinking = Block::Verbatim(raw(&json!({"type": "thinking", "thinking": "hm", "signature": "s=="})));
        let request = ModelRequest {
            effort: Some("high".to_owned()),
            speed: Some("fast".to_owned()),
            inference_geo: Some("us".to_owned()),
            system: Some("Be brief.".to_owned()),
            tools: vec![tool("bash"), tool("read")],
            ..request(vec![
                message(Role::User, vec![text("list")]),
                message(Role::Assistant, vec![thinking, call]),
                message(Role::User, vec![result]),
            ])
        };
        let cached = json!({"type": "ephemeral"});
        assert_eq!(
            written(&request),
            json!({
                "model": "m-1",
                "max_tokens": 1000,
                "stream": true,
                "output_config": {"effort": "high"},
                "speed": "fast",
                "inference_geo": "us",
                "system": [{"type": "text", "text": "Be brief.", "cache_control": cached}],
                "tools": [
                    {"name": "bash", "description": "does it", "input_schema": {"type": "object"}},
                    {"name": "read", "description": "does it", "input_schema": {"type": "object"}, "cache_control": cached},
                ],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "list", "cache_control": cached}]},
                    {"role": "assistant", "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s=="},
                        {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}},
                    ]},
                    {"role": "user", "content": [{
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "a.txt"}],
                        "is_error": true,
                        "cache_control": cached,
                    }]},
                ],
            })
        );
    }

    #[test]
    fn thinking_is_asked_for_as_the_configuration_says() {
        let call = Block::ToolUse { id: "t1".to_owned(), name: "bash".to_owned(), input: raw(&json!({})) };
        let thought = || {
            let block = raw(&json!({"type": "thinking", "thinking": "hm", "signature": "s=="}));
            Block::Thought(Thought { from: None, block })
        };
        let result = Block::ToolResult { tool_use_id: "t1".to_owned(), content: vec![text("x")], is_error: false };
        let begun = || message(Role::User, vec![text("go")]);
        let answering = |reply: Vec<Block>| {
            request(vec![begun(), message(Role::Assistant, reply), message(Role::User, vec![result.clone()])])
        };
        let asked = |request: &ModelRequest, thinking| {
            let written: Value = serde_json::from_slice(&body(request, Some(thinking)).unwrap()).unwrap();
            written["thinking"].clone()
        };
        let budget = |tokens| json!({"type": "enabled", "budget_tokens": tokens});
        let new = request(vec![begun()]);
        assert_eq!(asked(&new, Thinking::Adaptive), json!({"type": "adaptive"}));
        assert_eq!(asked(&new, Thinking::Budget(500)), budget(500));
        assert_eq!(asked(&new, Thinking::Budget(5000)), budget(999), "less than the reply may have");
        let (thinks, does_not) = (answering(vec![thought(), call.clone()]), answering(vec![call]));
        assert_eq!(asked(&thinks, Thinking::Budget(500)), budget(500));
        assert_eq!(asked(&does_not, Thinking::Budget(500)), Value::Null, "the reply is another upstream's");
        assert_eq!(asked(&does_not, Thinking::Adaptive), json!({"type": "adaptive"}));
        let sent: Value = serde_json::from_slice(&body(&thinks, None).unwrap()).unwrap();
        assert_eq!(
            sent["messages"][1]["content"][0],
            json!({"type": "thinking", "thinking": "hm", "signature": "s=="})
        );
    }

    #[test]
    fn blank_text_of_an_old_log_is_not_sent() {
        let call = Block::ToolUse { id: "t1".to_owned(), name: "bash".to_owned(), input: raw(&json!({})) };
        let result = |content| Block::ToolResult { tool_use_id: "t1".to_owned(), content, is_error: false };
        let image = Block::Verbatim(raw(&json!({"type": "image"})));
        let request = ModelRequest {
            system: Some(" \n".to_owned()),
            ..request(vec![
                message(Role::User, vec![text(""), text("run it"), text("  ")]),
                message(Role::Assistant, vec![call.clone()]),
                message(Role::User, vec![result(vec![text("")])]),
                message(Role::Assistant, vec![call]),
                message(Role::User, vec![result(vec![text("\n"), image, text("seen")])]),
                message(Role::User, vec![text("")]),
            ])
        };
        let written = written(&request);
        assert_eq!(written.get("system"), None);
        let content = |message: usize| written["messages"][message]["content"].clone();
        assert_eq!(content(0), json!([{"type": "text", "text": "run it"}]));
        assert_eq!(content(2)[0]["content"], json!([]), "a result may be without content");
        assert_eq!(content(4)[0]["content"], json!([{"type": "image"}, {"type": "text", "text": "seen"}]));
        assert_eq!(content(5)[0]["text"], "(empty message)", "a message may not be without content");
    }

    #[test]
    fn what_the_request_leaves_out_is_not_written() {
        let request =
            ModelRequest { system: Some(String::new()), ..request(vec![message(Role::User, vec![text("x")])]) };
        let written = written(&request);
        for absent in ["system", "tools", "thinking", "output_config", "speed", "inference_geo"] {
            assert_eq!(written.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn a_message_is_cached_up_to_its_last_block_that_allows_it() {
        let image = json!({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}});
        let own = json!({"type": "document", "cache_control": {"type": "ephemeral", "ttl": "1h"}});
        let verbatim = |value: &Value| Block::Verbatim(raw(value));
        let cases = [
            (vec![text("a"), text("b")], Some(1)),
            (vec![text("a"), verbatim(&image)], Some(1)),
            (vec![text("a"), text("")], Some(0)),
            (vec![text("a"), verbatim(&json!({"type": "thinking"}))], Some(0)),
            (vec![text("a"), verbatim(&json!({"type": "redacted_thinking"}))], Some(0)),
            (vec![text("a"), verbatim(&own)], Some(0)),
            (vec![verbatim(&json!("no object"))], None),
        ];
        for (content, expected) in cases {
            let written = written(&request(vec![message(Role::User, content)]));
            let blocks = written["messages"][0]["content"].as_array().unwrap();
            let mark = blocks.iter().position(|block| block["cache_control"] == json!({"type": "ephemeral"}));
            assert_eq!(mark, expected, "{written}");
        }
    }

    #[test]
    fn a_long_conversation_has_four_breakpoints() {
        let turn = |n: usize| message(if n.is_multiple_of(2) { Role::User } else { Role::Assistant }, vec![text("x")]);
        let request = ModelRequest {
            system: Some("s".to_owned()),
            tools: vec![tool("a"), tool("b")],
            ..request((0..9).map(turn).collect())
        };
        let written = written(&request);
        let marked: Vec<usize> =
            (0..9).filter(|n| !written["messages"][n]["content"][0]["cache_control"].is_null()).collect();
        assert_eq!(marked, [6, 8]);
        assert_eq!(written.to_string().matches("cache_control").count(), 4);
    }
}
