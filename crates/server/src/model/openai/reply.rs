//! Reads the chunks of a streamed chat completion.
//!
//! Servers number the calls of a reply, or do not, or give all of them one number; they tell of reasoning under two names; they
//! count tokens in the last chunk, in each, or not at all. All of that is taken as it comes.

use serde::{Deserialize, de::IgnoredAny};

use crate::model::{
    Delta, ModelError, Stop, Usage,
    assembly::{Assembly, Count, DONE, Dialect, Part, Words, or_default, parse, stop_of},
    failure::{self, malformed},
};

/// What has arrived of one completion.
#[derive(Debug, Default)]
pub(super) struct PartialCompletion {
    so_far: Assembly,
    /// In the order in which they began.
    calls: Vec<Call>,
    /// What the model says in place of an answer.
    refusal: Words,
}

/// A call, as later pieces of it name it.
#[derive(Debug)]
struct Call {
    number: Option<u64>,
    id: String,
    /// Its place among the parts.
    place: usize,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    #[serde(default, deserialize_with = "or_default")]
    usage: Option<WireUsage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u64>,
    /// Of a stream.
    delta: Option<Piece>,
    /// Of a reply that came as a whole.
    message: Option<Piece>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Piece {
    content: Option<Words>,
    refusal: Option<Words>,
    reasoning_content: Option<Words>,
    reasoning: Option<Words>,
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Deserialize)]
struct CallPiece {
    index: Option<u64>,
    id: Option<Words>,
    function: Option<FunctionPiece>,
}

#[derive(Deserialize)]
struct FunctionPiece {
    name: Option<Words>,
    arguments: Option<Words>,
}

/// Token counts as the upstream reports them: those of the prompt with those of the cache.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    #[serde(deserialize_with = "or_default")]
    prompt_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    completion_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptTokens {
    #[serde(deserialize_with = "or_default")]
    cached_tokens: Count,
}

impl Dialect for PartialCompletion {
    fn read(&mut self, data: &[u8], deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        match data.trim_ascii() {
            b"" => return Ok(()),
            DONE => {
                self.so_far.has_ended = true;
                return Ok(());
            }
            _ => {}
        }
        let chunk: Chunk = parse(data)?;
        if chunk.error.is_some() {
            return Err(failure::of_event(data));
        }
        self.take(chunk, deltas)
    }

    fn is_message(body: &[u8]) -> bool {
        serde_json::from_slice::<Chunk>(body).is_ok_and(|body| body.choices.is_some() && body.error.is_none())
    }

    fn read_whole(&mut self, body: &[u8], deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        self.take(parse(body)?, deltas)
    }

    fn so_far(&mut self) -> &mut Assembly {
        &mut self.so_far
    }
}

impl PartialCompletion {
    fn take(&mut self, chunk: Chunk, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        if let Some(usage) = chunk.usage {
            usage.raise(&mut self.so_far.usage);
            deltas(Delta::Usage(self.so_far.usage));
        }
        // Only one is asked for.
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index.unwrap_or_default() == 0) {
            if let Some(piece) = choice.delta.or(choice.message) {
                self.extend(piece, deltas)?;
            }
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.stop(&reason)?;
            }
        }
        Ok(())
    }

    fn extend(&mut self, piece: Piece, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        let Piece { content, refusal, reasoning_content, reasoning, tool_calls } = piece;
        let says = |words: Option<Words>| words.filter(|words| !words.is_empty());
        if let Some(reasoning) = says(reasoning_content).or(says(reasoning)) {
            self.think(reasoning, deltas);
        }
        if let Some(content) = says(content) {
            self.say(content, deltas);
        }
        if let Some(refusal) = says(refusal) {
            self.refusal.append(Some(refusal));
        }
        tool_calls.into_iter().flatten().try_for_each(|call| self.call(call, deltas))
    }

    /// Where a new part goes: behind all others.
    fn next(&self) -> u64 {
        self.so_far.parts.len() as u64
    }

    fn think(&mut self, more: Words, deltas: &mut (dyn FnMut(Delta) + Send)) {
        if let Some(Part::Thinking { thinking, .. }) = self.so_far.parts.last_mut().map(|last| &mut last.part) {
            return thinking.append(Some(more));
        }
        deltas(Delta::ThinkingStart);
        self.so_far.add(self.next(), Part::Thinking { thinking: more, signature: Words::default() });
    }

    fn say(&mut self, more: Words, deltas: &mut (dyn FnMut(Delta) + Send)) {
        if let Some(Part::Text { text, .. }) = self.so_far.parts.last_mut().map(|last| &mut last.part) {
            text.append(Some(more));
            return self.so_far.show(self.so_far.parts.len() - 1, deltas);
        }
        self.so_far.add_text(self.next(), Some(more), deltas);
    }

    /// Takes a piece of a call: of the one that it names, or else of a new one.
    fn call(&mut self, piece: CallPiece, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), ModelError> {
        let CallPiece { index: number, id, function } = piece;
        let id = id.unwrap_or_default().text();
        let (name, arguments) = function.map_or((None, None), |function| (function.name, function.arguments));
        let name = name.filter(|name| !name.is_empty());
        let known = match number {
            Some(_) => self.calls.iter().rev().find(|call| call.number == number),
            None => self.calls.last(),
        };
        // Without a number, a name begins a call; with one, an id that is another one does.
        let is_new =
            |call: &&Call| !id.is_empty() && id != call.id || number.is_none() && id.is_empty() && name.is_some();
        let place = if let Some(call) = known.filter(|call| !is_new(call)) {
            call.place
        } else {
            let name = name.ok_or_else(|| malformed("a call names no tool"))?.text();
            deltas(Delta::OtherStart);
            let place = self.so_far.parts.len();
            let call = Part::Call { id: id.clone(), name, whole: None, pieces: Words::default() };
            self.so_far.add(self.next(), call);
            self.calls.push(Call { number, id, place });
            place
        };
        if let Part::Call { pieces, .. } = &mut self.so_far.parts[place].part {
            pieces.append(arguments);
        }
        Ok(())
    }

    fn stop(&mut self, reason: &str) -> Result<(), ModelError> {
        let mut stop = stop_of(reason)?;
        if stop == Stop::EndTurn && !self.refusal.is_empty() {
            stop = Stop::Refusal;
        }
        if !self.refusal.is_empty() {
            self.so_far.refusal.explanation = Some(self.refusal.text());
        }
        self.so_far.stop = Some(stop);
        Ok(())
    }
}

impl WireUsage {
    /// Counts are of the whole reply so far, and not all of them in each chunk.
    fn raise(&self, usage: &mut Usage) {
        let cached = self.prompt_tokens_details.as_ref().map_or(0, |details| details.cached_tokens.0);
        usage.cache_read_input_tokens = usage.cache_read_input_tokens.max(cached);
        usage.input_tokens = usage.input_tokens.max(self.prompt_tokens.0.saturating_sub(cached));
        usage.output_tokens = usage.output_tokens.max(self.completion_tokens.0);
    }
}
