//! Writes a [`ModelRequest`] as the body of `POST …/chat/completions`.
//!
//! This API has fewer words than the Messages API. Reasoning of earlier replies is sent back only where the configuration names the
//! field for it. The system speaks once, at the
//! beginning: what it says later is a part of the user's message, because the templates of many models take no other. A
//! tool that failed says so in the first line of its result; images of results follow in a message of the user, because a
//! result holds nothing but text. Effort has three levels: `xhigh` and `max` are `high`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ReasoningField;
use crate::model::{Block, Message, ModelRequest, Role, Thought, ToolDefinition};

/// What is sent in place of a message that has nothing to send.
const EMPTY_MESSAGE: &str = "(empty message)";

/// What the result of a tool that failed begins with.
const FAILED: &str = "The tool failed:\n";

/// The name under which a reply is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// `max_tokens`: what every server knows.
    MaxTokens,
    /// `max_completion_tokens`: its successor, the only one that reasoning models of the vendor take.
    MaxCompletionTokens,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    messages: Vec<Turn<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a RawValue,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum Turn<'a> {
    System {
        content: &'a str,
    },
    User {
        content: Content,
    },
    Assistant {
        content: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning_content: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Call<'a>>,
    },
    Tool {
        tool_call_id: &'a str,
        content: String,
    },
}

/// Text alone is sent as such: not every server takes a list.
#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
    File { file: File },
}

#[derive(Serialize)]
struct ImageUrl {
    url: String,
}

#[derive(Serialize)]
struct File {
    filename: String,
    file_data: String,
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    r#type: &'static str,
    function: Called<'a>,
}

#[derive(Serialize)]
struct Called<'a> {
    name: &'a str,
    arguments: &'a str,
}

/// The blocks of the client that are passed on.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Known {
    Image { source: Source },
    Document { source: Source, title: Option<String>, context: Option<String> },
    Thinking {},
    RedactedThinking {},
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source {
    Base64 { media_type: String, data: String },
    Text { data: String },
    Url { url: String },
}

/// Why a request cannot be made in this dialect at all.
pub(super) fn refused(request: &ModelRequest) -> Option<String> {
    let field = match (&request.speed, &request.inference_geo) {
        (Some(_), _) => "speed",
        (None, Some(_)) => "inference_geo",
        (None, None) => return None,
    };
    Some(format!(
        "the agent's model has `{field}`, which an upstream of the provider `openai` knows nothing of; leave it out"
    ))
}

/// The JSON text of the request.
pub(super) fn body(
    request: &ModelRequest,
    length: Length,
    reasoning: Option<ReasoningField>,
) -> serde_json::Result<Vec<u8>> {
    let bound = |own| (length == own).then_some(request.max_tokens);
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if let Some(content) = request.system.as_deref().filter(|system| !is_blank(system)) {
        messages.push(Turn::System { content });
    }
    for message in &request.messages {
        match message.role {
            Role::Assistant => messages.push(assistant(message, reasoning)),
            Role::User | Role::System => user(message, &mut messages),
        }
    }
    serde_json::to_vec(&Body {
        model: &request.model,
        max_tokens: bound(Length::MaxTokens),
        max_completion_tokens: bound(Length::MaxCompletionTokens),
        stream: true,
        stream_options: StreamOptions { include_usage: true },
        reasoning_effort: request.effort.as_deref().map(|effort| match effort {
            "xhigh" | "max" => "high",
            other => other,
        }),
        tools: request.tools.iter().map(tool).collect(),
        messages,
    })
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn tool(tool: &ToolDefinition) -> Tool<'_> {
    let function = Function { name: &tool.name, description: &tool.description, parameters: &tool.input_schema };
    Tool { r#type: "function", function }
}

fn assistant(message: &Message, field: Option<ReasoningField>) -> Turn<'_> {
    let mut thoughts = Vec::new();
    let mut texts = Vec::new();
    let mut tool_calls = Vec::new();
    for block in &message.content {
        match block {
            Block::Text { text } if !is_blank(text) => texts.push(text.as_str()),
            Block::ToolUse { id, name, input } => {
                let function = Called { name, arguments: input.get() };
                tool_calls.push(Call { id, r#type: "function", function });
            }
            Block::Thought(thought) if field.is_some() => thoughts.extend(thinking(thought)),
            _ => {}
        }
    }
    if texts.is_empty() && tool_calls.is_empty() {
        texts.push(EMPTY_MESSAGE);
    }
    let content = (!texts.is_empty()).then(|| texts.join("\n\n"));
    let thoughts = (!thoughts.is_empty()).then(|| thoughts.join("\n\n"));
    let (reasoning_content, reasoning) = match field {
        Some(ReasoningField::ReasoningContent) => (thoughts, None),
        Some(ReasoningField::Reasoning) => (None, thoughts),
        None => (None, None),
    };
    Turn::Assistant { content, reasoning_content, reasoning, tool_calls }
}

/// The text of a thought.
fn thinking(thought: &Thought) -> Option<String> {
    #[derive(Deserialize)]
    struct Thinking {
        thinking: String,
    }
    let read: Thinking = serde_json::from_str(thought.block.get()).ok()?;
    Some(read.thinking).filter(|text| !is_blank(text))
}

/// The results of a message and what else is in it, at the end of `turns`. Two turns of one speaker become one.
fn user<'a>(message: &'a Message, turns: &mut Vec<Turn<'a>>) {
    let mut parts = Vec::new();
    for block in &message.content {
        match block {
            Block::ToolResult { tool_use_id, content, is_error } => {
                let (texts, others): (Vec<_>, Vec<_>) =
                    content.iter().filter_map(part).partition(|part| matches!(part, Part::Text { .. }));
                let failed = if *is_error { FAILED } else { "" };
                let said = joined(texts);
                let none = said.is_empty() && !others.is_empty();
                let content = format!("{failed}{}", if none { "(see what follows)" } else { &said });
                turns.push(Turn::Tool { tool_call_id: tool_use_id, content });
                parts.extend(others);
            }
            block => parts.extend(part(block)),
        }
    }
    let has_results = message.content.iter().any(|block| matches!(block, Block::ToolResult { .. }));
    if parts.is_empty() {
        if has_results {
            return;
        }
        parts.push(Part::Text { text: EMPTY_MESSAGE.to_owned() });
    }
    if message.role == Role::System {
        parts.insert(
            0,
            Part::Text {
                text: "The operator of this conversation says, with the weight of the system prompt:".to_owned(),
            },
        );
    }
    if let Some(Turn::User { content }) = turns.last_mut() {
        let mut all = match std::mem::replace(content, Content::Parts(Vec::new())) {
            Content::Text(text) => vec![Part::Text { text }],
            Content::Parts(parts) => parts,
        };
        all.extend(parts);
        *content = of_parts(all);
    } else {
        turns.push(Turn::User { content: of_parts(parts) });
    }
}

fn of_parts(parts: Vec<Part>) -> Content {
    if parts.iter().all(|part| matches!(part, Part::Text { .. })) {
        Content::Text(joined(parts))
    } else {
        Content::Parts(parts)
    }
}

/// The texts among `parts`.
fn joined(parts: Vec<Part>) -> String {
    let texts = parts.into_iter().filter_map(|part| if let Part::Text { text } = part { Some(text) } else { None });
    texts.collect::<Vec<_>>().join("\n\n")
}

/// What a block of the user is here; `None` for one that says nothing.
fn part(block: &Block) -> Option<Part> {
    match block {
        Block::Text { text } if is_blank(text) => None,
        Block::Text { text } => Some(Part::Text { text: text.clone() }),
        Block::Verbatim(json) => match serde_json::from_str(json.get()) {
            Ok(Known::Image { source }) => Some(image(source)),
            Ok(Known::Document { source, title, context }) => Some(document(source, title, context)),
            Ok(Known::Thinking {} | Known::RedactedThinking {}) => None,
            // What has no counterpart can still be read.
            Err(_) => Some(Part::Text { text: json.get().to_owned() }),
        },
        Block::Thought(_) | Block::ToolUse { .. } | Block::ToolResult { .. } | Block::UnreadableCall { .. } => None,
    }
}

fn image(source: Source) -> Part {
    match source {
        Source::Base64 { media_type, data } => {
            Part::ImageUrl { image_url: ImageUrl { url: format!("data:{media_type};base64,{data}") } }
        }
        Source::Url { url } => Part::ImageUrl { image_url: ImageUrl { url } },
        Source::Text { data } => Part::Text { text: data },
    }
}

fn document(source: Source, title: Option<String>, context: Option<String>) -> Part {
    let named = |title: Option<String>| title.map(|title| format!(" \"{title}\"")).unwrap_or_default();
    let context = context.map(|context| format!("\n({context})")).unwrap_or_default();
    match source {
        Source::Base64 { media_type, data } => {
            let filename = title.unwrap_or_else(|| "document".to_owned());
            Part::File { file: File { filename, file_data: format!("data:{media_type};base64,{data}") } }
        }
        Source::Text { data } => Part::Text { text: format!("Document{}:{context}\n\n{data}", named(title)) },
        Source::Url { url } => Part::Text { text: format!("Document{} at {url}{context}", named(title)) },
    }
}
