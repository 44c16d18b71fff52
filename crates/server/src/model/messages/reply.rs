//! Reads the events of a streamed message.
//!
//! Many servers speak the Messages API almost right. What does not matter is taken as it comes: null where nothing is
//! meant, counts with a point, blocks that run side by side, ends that are told in another dialect.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::model::{
    Delta, ModelError, Refusal, Usage,
    assembly::{Assembly, Count, DONE, Dialect, Part, Words, or_default, parse, stop_of},
    failure::{self, malformed},
};

/// The categories of a refusal that the API's types have.
const CATEGORIES: [&str; 5] = ["cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms"];

/// The types of deltas that are read. A delta without a type is read by its fields.
const DELTAS: [&str; 4] = ["text_delta", "input_json_delta", "thinking_delta", "signature_delta"];

/// What has arrived of one message.
#[derive(Debug, Default)]
pub(super) struct PartialReply(Assembly);

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

impl Dialect for PartialReply {
    /// Kinds of events that are not known are skipped, as the API's versioning asks.
    fn read(&mut self, data: &[u8], deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        match data.trim_ascii() {
            b"" => return Ok(()),
            DONE => {
                self.0.has_ended = true;
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
            Some("message_start") if self.0.parts.is_empty() => {
                parse::<MessageStart>(text().as_bytes())?.message.usage.add_to(&mut self.0.usage);
                deltas(Delta::Usage(self.0.usage));
            }
            Some("message_start") => return Err(malformed("a second message begins")),
            Some("content_block_start") => {
                let BlockStart { index, content_block } = parse(text().as_bytes())?;
                self.begin(index, &content_block, deltas)?;
            }
            Some("content_block_delta") => self.extend(parse(data)?, deltas)?,
            Some("message_delta") => {
                let MessageDelta { delta, usage } = parse(text().as_bytes())?;
                usage.add_to(&mut self.0.usage);
                deltas(Delta::Usage(self.0.usage));
                delta.map_or(Ok(()), |end| self.take_stop(end))?;
            }
            Some("message_stop") => self.0.has_ended = true,
            // Where a block ends does not matter: what comes for it later belongs to it too.
            Some(_) => {}
        }
        Ok(())
    }

    fn is_message(body: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Members {
            content: Option<Vec<serde::de::IgnoredAny>>,
            error: Option<serde::de::IgnoredAny>,
        }
        serde_json::from_slice::<Members>(body).is_ok_and(|body| body.content.is_some() && body.error.is_none())
    }

    fn read_whole(&mut self, body: &[u8], deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        parse::<StartedMessage>(body)?.usage.add_to(&mut self.0.usage);
        deltas(Delta::Usage(self.0.usage));
        for block in parse::<WholeMessage>(body)?.content {
            self.begin(None, &block, deltas)?;
        }
        self.take_stop(parse(body)?)
    }

    fn so_far(&mut self) -> &mut Assembly {
        &mut self.0
    }
}

impl PartialReply {
    fn begin(
        &mut self,
        index: Option<u64>,
        block: &RawValue,
        deltas: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<(), ModelError> {
        let index = index.unwrap_or(self.0.parts.len() as u64);
        let StartedBlock { kind, text, id, name, input, thinking, signature } = parse(block.get().as_bytes())?;
        match kind.as_deref() {
            Some("text") => self.0.add_text(index, text, deltas),
            None if text.is_some() => self.0.add_text(index, text, deltas),
            None => self.0.add(index, Part::Pieces),
            Some("tool_use") => {
                deltas(Delta::OtherStart);
                let name = name.filter(|name| !name.is_empty()).ok_or_else(|| malformed("a call names no tool"))?;
                let (id, name) = (id.unwrap_or_default().text(), name.text());
                self.0.add(index, Part::Call { id, name, whole: input, pieces: Words::default() });
            }
            Some("thinking") => {
                deltas(Delta::ThinkingStart);
                let (thinking, signature) = (thinking.unwrap_or_default(), signature.unwrap_or_default());
                self.0.add(index, Part::Thinking { thinking, signature });
            }
            Some(kind) => {
                deltas(if kind == "redacted_thinking" { Delta::ThinkingStart } else { Delta::OtherStart });
                self.0.add(index, Part::Whole(block.to_owned()));
            }
        }
        Ok(())
    }

    fn extend(&mut self, event: BlockDelta, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        let BlockDelta { index, delta: Some(delta) } = event else { return Ok(()) };
        let index = index.unwrap_or_else(|| self.0.parts.last().map_or(0, |placed| placed.index));
        let place = self.0.parts.iter().rposition(|placed| placed.index == index);
        let is_known = delta.kind.as_deref().is_none_or(|kind| DELTAS.contains(&kind));
        match (place.map(|place| &mut self.0.parts[place].part), is_known) {
            (Some(part @ Part::Whole(_)), _) => *part = Part::Pieces,
            // Of a citation, which points into a document of the client, and of whatever is added to the API: the block
            // stands without it.
            (Some(Part::Pieces), _) | (_, false) => {}
            (Some(Part::Text { text, .. }), true) if delta.partial_json.is_none() => {
                text.append(delta.text);
                self.0.show(place.unwrap_or_default(), deltas);
            }
            (Some(Part::Call { pieces, .. }), true) if delta.text.is_none() => pieces.append(delta.partial_json),
            (Some(Part::Thinking { thinking, signature }), true)
                if delta.text.is_none() && delta.partial_json.is_none() =>
            {
                thinking.append(delta.thinking);
                signature.append(delta.signature);
            }
            // Text without a block of its own.
            _ if delta.text.is_some() => self.0.add_text(index, delta.text, deltas),
            // Arguments of nobody knows what. They must not be lost: the reply is asked for again.
            _ if delta.partial_json.is_some() => return Err(malformed("arguments arrive for what is no call")),
            _ => {}
        }
        Ok(())
    }

    fn take_stop(&mut self, end: MessageEnd) -> Result<(), ModelError> {
        let Some(reason) = end.stop_reason else { return Ok(()) };
        self.0.stop = Some(stop_of(&reason)?);
        self.0.refusal = Refusal {
            category: end.stop_details.category.filter(|category| CATEGORIES.contains(&&**category)),
            explanation: end.stop_details.explanation.map(|words| words.text()),
        };
        Ok(())
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
