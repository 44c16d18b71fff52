//! Puts a [`ModelReply`] together from what arrives of it, in whichever dialect.
//!
//! What matters and cannot be read is told: a call whose arguments are no JSON object is a [`Block::UnreadableCall`], and never one
//! without arguments.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error, Visitor},
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Block, Delta, ModelError, ModelReply, Refusal, Stop, Usage,
    arguments::{self, is_none},
    failure::{self, malformed},
};

/// What has arrived of one message.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// Whether the message says that it is complete.
    pub(super) has_ended: bool,
    /// In the order in which they began.
    pub(super) parts: Vec<Placed>,
    pub(super) stop: Option<Stop>,
    pub(super) refusal: Refusal,
    pub(super) usage: Usage,
}

/// A content block on its way, and where it belongs.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) index: u64,
    pub(super) part: Part,
}

#[derive(Debug)]
pub(super) enum Part {
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

/// What a provider makes of an upstream's answer, in the dialect that the upstream speaks.
pub(super) trait Dialect: Default + Send {
    /// Takes the data of one event.
    fn read(&mut self, data: &[u8], deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError>;

    /// Whether a JSON body is a message that came as a whole, and no error under a status of success.
    fn is_message(body: &[u8]) -> bool;

    /// Takes a message that came as a whole, from a server that does not stream.
    fn read_whole(&mut self, body: &[u8], deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError>;

    /// What has arrived so far.
    fn so_far(&mut self) -> &mut Assembly;
}

/// What ends a stream of chat completions, and of some gateways that speak another dialect.
pub(super) const DONE: &[u8] = b"[DONE]";

/// A number of tokens, which some upstreams write with a point.
#[derive(Clone, Copy, Default)]
pub(super) struct Count(pub(super) u64);

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
    pub(super) fn append(&mut self, more: Option<Self>) {
        self.0.extend_from_slice(&more.unwrap_or_default().0);
    }

    pub(super) fn is_empty(&self) -> bool {
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

impl Assembly {
    /// The reply of a stream that has ended: some say why they stop and nothing after that.
    pub(super) fn finish_with_stream(self) -> Result<ModelReply, ModelError> {
        if self.stop.is_some() { self.finish() } else { Err(failure::cut_off()) }
    }

    pub(super) fn add(&mut self, index: u64, part: Part) {
        self.parts.push(Placed { index, part });
    }

    pub(super) fn add_text(&mut self, index: u64, text: Option<Words>, deltas: &mut (dyn FnMut(Delta) + Send)) {
        deltas(Delta::TextStart);
        self.add(index, Part::Text { text: text.unwrap_or_default(), shown: 0 });
        self.show(self.parts.len() - 1, deltas);
    }

    /// Passes on what is new of a text, unless another block has begun since: watchers see one block after the other.
    pub(super) fn show(&mut self, place: usize, deltas: &mut (dyn FnMut(Delta) + Send)) {
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

pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ModelError> {
    serde_json::from_slice(json).map_err(|error| malformed(&error.to_string()))
}

/// A value that stands for nothing where it is not what is expected: null, and what nobody could use.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let json = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(json.get()).unwrap_or_default())
}

/// The reasons of each dialect, in letters of any size: some gateways pass on those of another API. `pause_turn` is among the rest: an upstream
/// pauses only for tools that it runs itself, and Rota offers it none.
pub(super) fn stop_of(reason: &str) -> Result<Stop, ModelError> {
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
