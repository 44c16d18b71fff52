//! Assembles a [`ModelReply`] from the events of a streamed message.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::failure::{self, malformed};
use crate::model::{Block, Delta, ModelError, ModelReply, Stop, Usage};

/// What has arrived of one message.
#[derive(Debug, Default)]
pub(super) struct PartialReply {
    started: bool,
    ended: bool,
    closed: Vec<Part>,
    open: Option<Part>,
    stop: Option<Stop>,
    usage: Usage,
}

/// A content block on its way.
#[derive(Debug)]
enum Part {
    Text(String),
    Call {
        id: String,
        name: String,
        input: String,
    },
    Thinking {
        thinking: String,
        signature: String,
    },
    /// A block that is whole as it begins: one of a type that is not known goes back to the upstream as it came.
    Whole(Box<RawValue>),
    /// A block of a type that is not known, of which pieces came: it cannot be put together, so it is left out.
    Pieces,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct MessageStart {
    message: StartedMessage,
}

#[derive(Deserialize)]
struct StartedMessage {
    #[serde(default)]
    usage: WireUsage,
}

#[derive(Deserialize)]
struct BlockStart {
    index: usize,
    content_block: Box<RawValue>,
}

#[derive(Deserialize)]
struct StartedText {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct StartedCall {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct StartedThinking {
    #[serde(default)]
    thinking: String,
    #[serde(default)]
    signature: String,
}

#[derive(Deserialize)]
struct BlockDelta {
    index: usize,
    delta: PartDelta,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum PartDelta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "signature_delta")]
    Signature { signature: String },
    /// Of a citation, which points into a document of the client, and of whatever is added to the API: the block stands
    /// without it.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct BlockStop {
    index: usize,
}

#[derive(Deserialize)]
struct MessageDelta {
    delta: StopDelta,
    #[serde(default)]
    usage: WireUsage,
}

#[derive(Deserialize)]
struct StopDelta {
    stop_reason: Option<String>,
}

/// Token counts as the upstream reports them: cumulative, and not all of them in each report.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "thinking")]
struct ThinkingBlock<'a> {
    thinking: &'a str,
    signature: &'a str,
}

impl PartialReply {
    /// Takes the data of one event. Kinds of events that are not known are skipped, as the API's versioning asks.
    pub(super) fn read(&mut self, data: &str, deltas: &mut dyn FnMut(Delta)) -> Result<(), ModelError> {
        let kind = parse::<Kind<'_>>(data)?.kind;
        match &*kind {
            "error" => return Err(failure::of_event(parse(data)?)),
            "message_start" if self.started => return Err(malformed("a second message begins")),
            "message_start" => {
                self.started = true;
                parse::<MessageStart>(data)?.message.usage.add_to(&mut self.usage);
            }
            "content_block_start" | "content_block_delta" | "content_block_stop" | "message_delta" | "message_stop"
                if !self.started =>
            {
                return Err(malformed("no message has begun"));
            }
            "content_block_start" => self.open_block(&parse(data)?, deltas)?,
            "content_block_delta" => self.extend_block(parse(data)?, deltas)?,
            "content_block_stop" => self.close_block(&parse(data)?)?,
            "message_delta" => self.take_stop(parse(data)?)?,
            "message_stop" => self.ended = true,
            _ => {}
        }
        Ok(())
    }

    /// Whether the message is complete.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    fn open_block(&mut self, start: &BlockStart, deltas: &mut dyn FnMut(Delta)) -> Result<(), ModelError> {
        if self.open.is_some() || start.index != self.closed.len() {
            return Err(malformed("a block begins out of order"));
        }
        let block = start.content_block.get();
        let part = match &*parse::<Kind<'_>>(block)?.kind {
            "text" => {
                let text = parse::<StartedText>(block)?.text;
                deltas(Delta::TextStart);
                send_text(&text, deltas);
                Part::Text(text)
            }
            "tool_use" => {
                let StartedCall { id, name } = parse(block)?;
                Part::Call { id, name, input: String::new() }
            }
            "thinking" => {
                let StartedThinking { thinking, signature } = parse(block)?;
                deltas(Delta::ThinkingStart);
                Part::Thinking { thinking, signature }
            }
            kind => {
                if kind == "redacted_thinking" {
                    deltas(Delta::ThinkingStart);
                }
                Part::Whole(start.content_block.clone())
            }
        };
        self.open = Some(part);
        Ok(())
    }

    fn extend_block(&mut self, event: BlockDelta, deltas: &mut dyn FnMut(Delta)) -> Result<(), ModelError> {
        if event.index != self.closed.len() {
            return Err(malformed("a delta is for a block that is not open"));
        }
        match (&mut self.open, event.delta) {
            (Some(Part::Text(text)), PartDelta::Text { text: more }) => {
                send_text(&more, deltas);
                text.push_str(&more);
            }
            (Some(Part::Call { input, .. }), PartDelta::Input { partial_json }) => input.push_str(&partial_json),
            (Some(Part::Thinking { thinking, .. }), PartDelta::Thinking { thinking: more }) => thinking.push_str(&more),
            (Some(Part::Thinking { signature, .. }), PartDelta::Signature { signature: more }) => {
                signature.push_str(&more);
            }
            (Some(part @ Part::Whole(_)), _) => *part = Part::Pieces,
            (Some(_), PartDelta::Other) | (Some(Part::Pieces), _) => {}
            _ => return Err(malformed("a delta does not fit its block")),
        }
        Ok(())
    }

    fn close_block(&mut self, stop: &BlockStop) -> Result<(), ModelError> {
        let part = self.open.take().filter(|_| stop.index == self.closed.len());
        self.closed.push(part.ok_or_else(|| malformed("a block ends that is not open"))?);
        Ok(())
    }

    fn take_stop(&mut self, event: MessageDelta) -> Result<(), ModelError> {
        event.usage.add_to(&mut self.usage);
        if let Some(reason) = event.delta.stop_reason {
            self.stop = Some(stop_of(&reason)?);
        }
        Ok(())
    }

    /// The reply. Its calls and its stop agree: there is a call exactly if the stop is [`Stop::ToolUse`].
    ///
    /// A reply that was cut off may end inside a call or inside its reasoning; neither is kept, for no upstream takes
    /// them back. Neither is blank text, for the same reason. So the reply may be empty.
    pub(super) fn finish(self) -> Result<ModelReply, ModelError> {
        if !self.ended || self.open.is_some() {
            return Err(malformed("it ends inside a block"));
        }
        let mut stop = self.stop.ok_or_else(|| malformed("it has no stop reason"))?;
        let cut = matches!(stop, Stop::MaxTokens | Stop::ContextFull | Stop::Refusal);
        let called = self.closed.iter().any(|part| matches!(part, Part::Call { .. }));
        let mut content = Vec::new();
        for part in self.closed {
            match part {
                Part::Text(text) if text.trim().is_empty() => {}
                Part::Call { .. } if cut => {}
                Part::Thinking { signature, .. } if cut && signature.is_empty() => {}
                part => content.extend(block(part)?),
            }
        }
        let calls = content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        match stop {
            Stop::ToolUse if !calls => return Err(malformed("it stops for a tool and calls none")),
            Stop::EndTurn if calls => stop = Stop::ToolUse,
            Stop::MaxTokens if called => stop = Stop::CutCall,
            Stop::ContextFull if called => return Err(failure::context_full()),
            _ => {}
        }
        Ok(ModelReply { content, stop, usage: self.usage })
    }
}

impl WireUsage {
    fn add_to(&self, usage: &mut Usage) {
        let raise = |count: &mut u64, reported: Option<u64>| *count = (*count).max(reported.unwrap_or(0));
        raise(&mut usage.input_tokens, self.input_tokens);
        raise(&mut usage.output_tokens, self.output_tokens);
        raise(&mut usage.cache_read_input_tokens, self.cache_read_input_tokens);
        let by_age = self.cache_creation.as_ref();
        raise(&mut usage.cache_creation_1h_input_tokens, by_age.map(|cache| cache.ephemeral_1h_input_tokens));
        let five_minutes = match by_age {
            Some(cache) => Some(cache.ephemeral_5m_input_tokens),
            None => {
                self.cache_creation_input_tokens.map(|total| total.saturating_sub(usage.cache_creation_1h_input_tokens))
            }
        };
        raise(&mut usage.cache_creation_5m_input_tokens, five_minutes);
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, ModelError> {
    serde_json::from_str(json).map_err(|error| malformed(&error.to_string()))
}

fn send_text(text: &str, deltas: &mut dyn FnMut(Delta)) {
    if !text.is_empty() {
        deltas(Delta::Text(text.to_owned()));
    }
}

/// `pause_turn` is among the rest: an upstream pauses only for tools that it runs itself, and Rota offers it none.
fn stop_of(reason: &str) -> Result<Stop, ModelError> {
    match reason {
        "end_turn" | "stop_sequence" => Ok(Stop::EndTurn),
        "tool_use" => Ok(Stop::ToolUse),
        "max_tokens" => Ok(Stop::MaxTokens),
        "model_context_window_exceeded" => Ok(Stop::ContextFull),
        "refusal" => Ok(Stop::Refusal),
        other => Err(ModelError::RequestFailed {
            message: format!("the model stopped for a reason that Rota does not handle: {other}"),
            retryable: false,
        }),
    }
}

fn block(part: Part) -> Result<Option<Block>, ModelError> {
    Ok(Some(match part {
        Part::Text(text) => Block::Text { text },
        Part::Call { id, name, input } => Block::ToolUse { input: arguments(&name, input)?, id, name },
        Part::Thinking { thinking, signature } => {
            let block = ThinkingBlock { thinking: &thinking, signature: &signature };
            Block::Verbatim(to_raw_value(&block).expect("two strings are JSON"))
        }
        Part::Whole(block) => Block::Verbatim(block),
        Part::Pieces => return Ok(None),
    }))
}

/// The arguments of a call; none at all stand for an empty object.
fn arguments(tool: &str, json: String) -> Result<Box<RawValue>, ModelError> {
    let json = if json.is_empty() { "{}".to_owned() } else { json };
    RawValue::from_string(json)
        .ok()
        .filter(|arguments| arguments.get().starts_with('{'))
        .ok_or_else(|| malformed(&format!("the arguments of `{tool}` are not a JSON object")))
}
