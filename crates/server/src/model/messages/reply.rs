//! Assembles a [`ModelReply`] from the events of a streamed message.
//!
//! Many servers speak the Messages API almost right. What does not matter is taken as it comes: null where nothing is
//! meant, counts with a point, blocks that run side by side, ends that are told in another dialect. What matters and
//! cannot be read is told: a call whose arguments are no JSON object is a [`Block::UnreadableCall`], and never one
//! without arguments.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error, Visitor},
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    arguments::{self, is_none},
    failure::{self, malformed},
};
use crate::model::{Block, Delta, ModelError, ModelReply, Refusal, Stop, Usage};

/// The categories of a refusal that the API's types have.
const CATEGORIES: [&str; 5] = ["cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms"];

/// The types of deltas that are read. A delta without a type is read by its fields.
const DELTAS: [&str; 4] = ["text_delta", "input_json_delta", "thinking_delta", "signature_delta"];

/// What some gateways send when a stream has ended, as those of another API do.
const DONE: &[u8] = b"[DONE]";

/// What has arrived of one message.
#[derive(Debug, Default)]
pub(super) struct PartialReply {
    ended: bool,
    /// In the order in which they began.
    parts: Vec<Placed>,
    stop: Option<Stop>,
    refusal: Refusal,
    usage: Usage,
}

/// A content block on its way, and where it belongs.
#[derive(Debug)]
struct Placed {
    index: u64,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Text {
        text: Words,
        /// The bytes of it that were passed on.
        shown: usize,
    },
    Call {
        /// Empty where it came without one.
        id: String,
        name: String,
        /// The arguments, where the block had them as it began.
        whole: Option<Box<RawValue>>,
        /// The arguments as deltas brought them.
        pieces: Words,
    },
    Thinking {
        thinking: Words,
        signature: Words,
    },
    /// A block that is whole as it begins: one of a type that is not known goes back to the upstream as it came.
    Whole(Box<RawValue>),
    /// A block of a type that is not known, of which pieces came: it cannot be put together, so it is left out.
    Pieces,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct MessageStart {
    #[serde(default, deserialize_with = "or_default")]
    message: StartedMessage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StartedMessage {
    #[serde(deserialize_with = "or_default")]
    usage: WireUsage,
}

#[derive(Deserialize)]
struct BlockStart {
    index: Option<u64>,
    content_block: Box<RawValue>,
}

#[derive(Deserialize)]
struct StartedBlock {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<Words>,
    id: Option<Words>,
    name: Option<Words>,
    input: Option<Box<RawValue>>,
    thinking: Option<Words>,
    signature: Option<Words>,
}

#[derive(Deserialize)]
struct BlockDelta {
    index: Option<u64>,
    delta: Option<PartDelta>,
}

#[derive(Deserialize)]
struct PartDelta {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<Words>,
    partial_json: Option<Words>,
    thinking: Option<Words>,
    signature: Option<Words>,
}

#[derive(Deserialize)]
struct MessageDelta {
    delta: Option<MessageEnd>,
    #[serde(default, deserialize_with = "or_default")]
    usage: WireUsage,
}

/// Why a message stopped.
#[derive(Deserialize)]
struct MessageEnd {
    stop_reason: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    stop_details: StopDetails,
}

/// A message that came as a whole, from a server that does not stream.
#[derive(Deserialize)]
struct WholeMessage {
    content: Vec<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StopDetails {
    category: Option<String>,
    explanation: Option<Words>,
}

/// Token counts as the upstream reports them: cumulative, and not all of them in each report.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    #[serde(deserialize_with = "or_default")]
    input_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    output_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    cache_read_input_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    cache_creation_input_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    cache_creation: Option<CacheCreation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    #[serde(deserialize_with = "or_default")]
    ephemeral_5m_input_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    ephemeral_1h_input_tokens: Count,
}

/// A number of tokens, which some upstreams write with a point.
#[derive(Clone, Copy, Default)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A cast to an integer saturates, and makes 0 of what is less.
        f64::deserialize(deserializer).map(|count| Self(count.round() as u64))
    }
}

/// A text, or pieces of one, in bytes: upstreams cut characters in two, as bytes or as the halves of a surrogate pair,
/// which stand here in the three bytes that UTF-8 would have for them.
#[derive(Debug, Default)]
pub(super) struct Words(Vec<u8>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Words, E> {
                Ok(Words(text.as_bytes().to_vec()))
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Words, E> {
                Ok(Words(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl Words {
    fn append(&mut self, more: Option<Self>) {
        self.0.extend_from_slice(&more.unwrap_or_default().0);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text; what is no character is U+FFFD.
    pub(super) fn text(&self) -> String {
        characters(&self.0, true).0
    }
}

/// The characters of `bytes`, and how many bytes they are. Unless they are `all` that there is, a character whose end may be
/// on its way is left out.
fn characters(bytes: &[u8], all: bool) -> (String, usize) {
    let mut text = String::new();
    let mut at = 0;
    loop {
        let error = match str::from_utf8(&bytes[at..]) {
            Ok(rest) => {
                text.push_str(rest);
                return (text, bytes.len());
            }
            Err(error) => error,
        };
        let (valid, rest) = bytes[at..].split_at(error.valid_up_to());
        text.push_str(str::from_utf8(valid).expect("just found to be so"));
        at += valid.len();
        let (character, length) = match (surrogate(rest), rest.get(3..).and_then(surrogate)) {
            (Some(high @ 0xD800..0xDC00), Some(low @ 0xDC00..0xE000)) => {
                (char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00)), 6)
            }
            (Some(0xD800..0xDC00), None) if rest.len() == 3 && !all => return (text, at),
            (Some(_), _) => (None, 3),
            (None, _) if error.error_len().is_none() && !all => return (text, at),
            (None, _) => (None, error.error_len().unwrap_or(rest.len())),
        };
        text.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        at += length;
    }
}

/// The half of a surrogate pair that `bytes` begin with.
fn surrogate(bytes: &[u8]) -> Option<u32> {
    match bytes {
        [0xED, second @ 0xA0..=0xBF, third @ 0x80..=0xBF, ..] => {
            Some(0xD000 | (u32::from(second & 0x3F) << 6) | u32::from(third & 0x3F))
        }
        _ => None,
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "thinking")]
struct ThinkingBlock<'a> {
    thinking: &'a str,
    signature: &'a str,
}

impl PartialReply {
    /// Takes the data of one event. Kinds of events that are not known are skipped, as the API's versioning asks.
    pub(super) fn read(&mut self, data: &[u8], deltas: &mut dyn FnMut(Delta)) -> Result<(), ModelError> {
        match data.trim_ascii() {
            b"" => return Ok(()),
            DONE => {
                self.ended = true;
                return Ok(());
            }
            _ => {}
        }
        let Kind { kind, error } = parse(data)?;
        let text = || String::from_utf8_lossy(data);
        match kind.as_deref() {
            Some("error") => return Err(failure::of_event(data)),
            None if error.is_some() => return Err(failure::of_event(data)),
            None => return Err(malformed("an event has no type")),
            Some("message_start") if self.parts.is_empty() => {
                parse::<MessageStart>(text().as_bytes())?.message.usage.add_to(&mut self.usage);
                deltas(Delta::Usage(self.usage));
            }
            Some("message_start") => return Err(malformed("a second message begins")),
            Some("content_block_start") => {
                let BlockStart { index, content_block } = parse(text().as_bytes())?;
                self.begin(index, &content_block, deltas)?;
            }
            Some("content_block_delta") => self.extend(parse(data)?, deltas)?,
            Some("message_delta") => {
                let MessageDelta { delta, usage } = parse(text().as_bytes())?;
                usage.add_to(&mut self.usage);
                deltas(Delta::Usage(self.usage));
                delta.map_or(Ok(()), |end| self.take_stop(end))?;
            }
            Some("message_stop") => self.ended = true,
            // Where a block ends does not matter: what comes for it later belongs to it too.
            Some(_) => {}
        }
        Ok(())
    }

    /// Takes a message that came as a whole.
    pub(super) fn read_whole(&mut self, body: &[u8], deltas: &mut dyn FnMut(Delta)) -> Result<(), ModelError> {
        parse::<StartedMessage>(body)?.usage.add_to(&mut self.usage);
        deltas(Delta::Usage(self.usage));
        for block in parse::<WholeMessage>(body)?.content {
            self.begin(None, &block, deltas)?;
        }
        self.take_stop(parse(body)?)
    }

    /// Whether the message says that it is complete.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The reply of a stream that has ended: some say why they stop and nothing after that.
    pub(super) fn finish_with_stream(self) -> Result<ModelReply, ModelError> {
        if self.stop.is_some() { self.finish() } else { Err(failure::cut_off()) }
    }

    fn begin(&mut self, index: Option<u64>, block: &RawValue, deltas: &mut dyn FnMut(Delta)) -> Result<(), ModelError> {
        let index = index.unwrap_or(self.parts.len() as u64);
        let StartedBlock { kind, text, id, name, input, thinking, signature } = parse(block.get().as_bytes())?;
        match kind.as_deref() {
            Some("text") => self.add_text(index, text, deltas),
            None if text.is_some() => self.add_text(index, text, deltas),
            None => self.add(index, Part::Pieces),
            Some("tool_use") => {
                deltas(Delta::OtherStart);
                let name = name.filter(|name| !name.is_empty()).ok_or_else(|| malformed("a call names no tool"))?;
                let (id, name) = (id.unwrap_or_default().text(), name.text());
                self.add(index, Part::Call { id, name, whole: input, pieces: Words::default() });
            }
            Some("thinking") => {
                deltas(Delta::ThinkingStart);
                let (thinking, signature) = (thinking.unwrap_or_default(), signature.unwrap_or_default());
                self.add(index, Part::Thinking { thinking, signature });
            }
            Some(kind) => {
                deltas(if kind == "redacted_thinking" { Delta::ThinkingStart } else { Delta::OtherStart });
                self.add(index, Part::Whole(block.to_owned()));
            }
        }
        Ok(())
    }

    fn add(&mut self, index: u64, part: Part) {
        self.parts.push(Placed { index, part });
    }

    fn add_text(&mut self, index: u64, text: Option<Words>, deltas: &mut dyn FnMut(Delta)) {
        deltas(Delta::TextStart);
        self.add(index, Part::Text { text: text.unwrap_or_default(), shown: 0 });
        self.show(self.parts.len() - 1, deltas);
    }

    /// Passes on what is new of a text, unless another block has begun since: watchers see one block after the other.
    fn show(&mut self, place: usize, deltas: &mut dyn FnMut(Delta)) {
        if place + 1 != self.parts.len() {
            return;
        }
        if let Part::Text { text, shown } = &mut self.parts[place].part {
            let (new, length) = characters(&text.0[*shown..], false);
            *shown += length;
            if !new.is_empty() {
                deltas(Delta::Text(new));
            }
        }
    }

    fn extend(&mut self, event: BlockDelta, deltas: &mut dyn FnMut(Delta)) -> Result<(), ModelError> {
        let BlockDelta { index, delta: Some(delta) } = event else { return Ok(()) };
        let index = index.unwrap_or_else(|| self.parts.last().map_or(0, |placed| placed.index));
        let place = self.parts.iter().rposition(|placed| placed.index == index);
        let is_known = delta.kind.as_deref().is_none_or(|kind| DELTAS.contains(&kind));
        match (place.map(|place| &mut self.parts[place].part), is_known) {
            (Some(part @ Part::Whole(_)), _) => *part = Part::Pieces,
            // Of a citation, which points into a document of the client, and of whatever is added to the API: the block
            // stands without it.
            (Some(Part::Pieces), _) | (_, false) => {}
            (Some(Part::Text { text, .. }), true) if delta.partial_json.is_none() => {
                text.append(delta.text);
                self.show(place.unwrap_or_default(), deltas);
            }
            (Some(Part::Call { pieces, .. }), true) if delta.text.is_none() => pieces.append(delta.partial_json),
            (Some(Part::Thinking { thinking, signature }), true)
                if delta.text.is_none() && delta.partial_json.is_none() =>
            {
                thinking.append(delta.thinking);
                signature.append(delta.signature);
            }
            // Text without a block of its own.
            _ if delta.text.is_some() => self.add_text(index, delta.text, deltas),
            // Arguments of nobody knows what. They must not be lost: the reply is asked for again.
            _ if delta.partial_json.is_some() => return Err(malformed("arguments arrive for what is no call")),
            _ => {}
        }
        Ok(())
    }

    fn take_stop(&mut self, end: MessageEnd) -> Result<(), ModelError> {
        let Some(reason) = end.stop_reason else { return Ok(()) };
        self.stop = Some(stop_of(&reason)?);
        self.refusal = Refusal {
            category: end.stop_details.category.filter(|category| CATEGORIES.contains(&&**category)),
            explanation: end.stop_details.explanation.map(|words| words.text()),
        };
        Ok(())
    }

    /// The reply. Its calls and its stop agree: there is a call exactly if the stop is [`Stop::ToolUse`].
    ///
    /// A reply that was cut off may end inside a call or inside its reasoning; neither is kept, for no upstream takes
    /// them back. Neither is blank text, for the same reason. So the reply may be empty.
    pub(super) fn finish(mut self) -> Result<ModelReply, ModelError> {
        let mut stop = self.stop.ok_or_else(|| malformed("it has no stop reason"))?;
        // Blocks may run side by side. Of those with one index, as of a server that counts nothing, the first came first.
        self.parts.sort_by_key(|placed| placed.index);
        let cut = matches!(stop, Stop::MaxTokens | Stop::ContextFull | Stop::Refusal);
        let called = self.parts.iter().any(|placed| matches!(placed.part, Part::Call { .. }));
        let mut content = Vec::new();
        for Placed { part, .. } in self.parts {
            match part {
                Part::Text { text, .. } if text.text().trim().is_empty() => {}
                Part::Call { .. } if cut => {}
                Part::Thinking { signature, .. } if cut && signature.is_empty() => {}
                part => content.extend(block(part)),
            }
        }
        let calls = called && !cut;
        match stop {
            Stop::ToolUse if !calls => return Err(malformed("it stops for a tool and calls none")),
            Stop::EndTurn if calls => stop = Stop::ToolUse,
            Stop::MaxTokens if called => stop = Stop::CutCall,
            Stop::ContextFull if called => return Err(failure::context_full()),
            _ => {}
        }
        Ok(ModelReply { content, stop, refusal: self.refusal, usage: self.usage })
    }
}

impl WireUsage {
    fn add_to(&self, usage: &mut Usage) {
        let raise = |count: &mut u64, reported: u64| *count = (*count).max(reported);
        raise(&mut usage.input_tokens, self.input_tokens.0);
        raise(&mut usage.output_tokens, self.output_tokens.0);
        raise(&mut usage.cache_read_input_tokens, self.cache_read_input_tokens.0);
        let by_age = self.cache_creation.as_ref();
        raise(&mut usage.cache_creation_1h_input_tokens, by_age.map_or(0, |cache| cache.ephemeral_1h_input_tokens.0));
        let five_minutes = match by_age {
            Some(cache) => cache.ephemeral_5m_input_tokens.0,
            None => self.cache_creation_input_tokens.0.saturating_sub(usage.cache_creation_1h_input_tokens),
        };
        raise(&mut usage.cache_creation_5m_input_tokens, five_minutes);
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ModelError> {
    serde_json::from_slice(json).map_err(|error| malformed(&error.to_string()))
}

/// A value that stands for nothing where it is not what is expected: null, and what nobody could use.
fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    let json = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(json.get()).unwrap_or_default())
}

/// Some gateways pass on the reasons of another API, in letters of any size. `pause_turn` is among the rest: an upstream
/// pauses only for tools that it runs itself, and Rota offers it none.
fn stop_of(reason: &str) -> Result<Stop, ModelError> {
    match &*reason.to_ascii_lowercase() {
        "end_turn" | "stop_sequence" | "stop" => Ok(Stop::EndTurn),
        "tool_use" | "tool_calls" | "function_call" => Ok(Stop::ToolUse),
        "max_tokens" | "length" => Ok(Stop::MaxTokens),
        "model_context_window_exceeded" => Ok(Stop::ContextFull),
        "refusal" | "content_filter" => Ok(Stop::Refusal),
        _ => Err(ModelError::RequestFailed {
            message: format!("the model stopped for a reason that Rota does not handle: {reason}"),
            retryable: false,
        }),
    }
}

fn block(part: Part) -> Option<Block> {
    Some(match part {
        Part::Text { text, .. } => Block::Text { text: text.text() },
        Part::Call { id, name, whole, pieces } => {
            let pieces = pieces.text();
            let whole = whole.as_ref().map(|whole| whole.get());
            let json = whole.filter(|_| is_none(&pieces)).unwrap_or(&pieces);
            match arguments::read(json) {
                Ok(input) => Block::ToolUse { id, name, input },
                Err(problem) => Block::UnreadableCall { name, problem },
            }
        }
        Part::Thinking { thinking, signature } => {
            let (thinking, signature) = (thinking.text(), signature.text());
            let block = ThinkingBlock { thinking: &thinking, signature: &signature };
            Block::Verbatim(to_raw_value(&block).expect("two strings are JSON"))
        }
        Part::Whole(block) => Block::Verbatim(block),
        Part::Pieces => return None,
    })
}
