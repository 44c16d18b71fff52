//! What the engine asks of a language model and what comes back; each provider is one file beside this one, and what they have in
//! common is `upstream.rs` and `assembly.rs`.
//!
//! A provider turns a [`ModelRequest`] into one [`ModelReply`], passing text to the caller's [`DeltaSink`] as it
//! arrives. It keeps no state and retries nothing: the engine decides on retries, because it journals them. Which upstream is asked,
//! and when, is `route.rs` and `queue.rs`.

mod arguments;
mod assembly;
pub mod dreaming;
mod failure;
pub mod look;
pub mod messages;
pub mod offer;
pub mod openai;
pub mod playbook;
mod price;
mod queue;
mod rate_limits;
mod route;
mod sse;
#[cfg(test)]
mod stand_in;
pub mod upstream;

pub use offer::Offer;
pub use price::Price;
pub use rate_limits::RateLimits;
pub use route::{Asker, InLine, Route, Turn};

use std::{future::Future, pin::Pin, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// One request to a model: the whole conversation so far and what the model may call.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// The name the upstream knows the model by.
    pub model: String,
    /// Reasoning effort (`low`, `medium`, `high`, `xhigh`, `max`), when the agent names one.
    pub effort: Option<String>,
    /// How fast the model answers, where the agent wants another speed than `standard`.
    pub speed: Option<String>,
    /// Where inference runs (`us`, `global`), when the agent says so.
    pub inference_geo: Option<String>,
    /// Most tokens that the reply may have.
    pub max_tokens: u32,
    /// The system prompt.
    pub system: Option<String>,
    /// The conversation, oldest first, beginning with the user. The user and the model alternate; a turn of the system stands
    /// behind one of the user.
    pub messages: Vec<Message>,
    /// The tools on offer, in an order that does not change between requests (a prompt cache depends on it).
    pub tools: Vec<ToolDefinition>,
}

/// One turn of the conversation.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, never empty.
    pub content: Vec<Block>,
}

/// Who speaks in a [`Message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The client, or the result of a tool.
    User,
    /// The client, as the one who instructs the model.
    System,
    /// The model.
    Assistant,
}

/// A piece of a message. It serializes to the Messages API's content block.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// The model's call of a tool.
    ToolUse {
        /// The id that the result refers to.
        id: String,
        /// The tool's name.
        name: String,
        /// The arguments, a JSON object.
        input: Box<RawValue>,
    },
    /// The answer to a [`Block::ToolUse`].
    ToolResult {
        /// The call that this answers.
        tool_use_id: String,
        /// What the tool returned.
        content: Vec<Block>,
        /// Whether the tool failed.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    /// The model's call of a tool with arguments that cannot be read. In replies only: it is answered, and never run.
    #[serde(skip)]
    UnreadableCall {
        /// The tool's name.
        name: String,
        /// What is wrong with the arguments, for the model to read.
        problem: String,
    },
    /// What a model has thought.
    #[serde(untagged)]
    Thought(Thought),
    /// A block that Rota passes through unread: images and documents of the client, a provider's reasoning in its reply.
    #[serde(untagged)]
    Verbatim(Box<RawValue>),
}

/// What a model has thought: a block that its upstream wants back as it was, and that nobody else understands.
#[derive(Debug, Clone)]
pub struct Thought {
    /// The name of the upstream that answered; `None` of one that answered an earlier version of the server.
    pub from: Option<String>,
    /// The block.
    pub block: Box<RawValue>,
}

impl Serialize for Thought {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.block.serialize(serializer)
    }
}

/// A tool that the model may call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolDefinition {
    /// The name that the model calls it by.
    pub name: String,
    /// What it does, for the model to read.
    pub description: String,
    /// JSON schema of the arguments.
    pub input_schema: Box<RawValue>,
}

/// A model's complete answer.
#[derive(Debug, Clone)]
pub struct ModelReply {
    /// The blocks in the order the model produced them. What a provider gives as [`Block::Verbatim`] is reasoning.
    pub content: Vec<Block>,
    /// Why the model stopped.
    pub stop: Stop,
    /// More about a refusal.
    pub refusal: Refusal,
    /// Tokens used.
    pub usage: Usage,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It has said what it wanted to say.
    EndTurn,
    /// It waits for the results of its tool calls.
    ToolUse,
    /// `max_tokens` was reached.
    MaxTokens,
    /// `max_tokens` was reached within the call of a tool, which is not in the reply.
    CutCall,
    /// The model's context window was full.
    ContextFull,
    /// It declined to answer.
    Refusal,
}

/// What a model says of its refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of harm that it sees: one of those that the API's types have.
    pub category: Option<String>,
    /// Its words.
    pub explanation: Option<String>,
}

/// Tokens that one model request used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read, without those of the cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: u64,
    /// Tokens written to the prompt cache for five minutes.
    pub cache_creation_5m_input_tokens: u64,
    /// Tokens written to the prompt cache for one hour.
    pub cache_creation_1h_input_tokens: u64,
    /// What they cost at the model's list price, in billionths of a US dollar; `None` for a model that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_nanos: Option<u64>,
}

/// Why a model request failed, as far as it matters to the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    /// The upstream is overloaded, cannot be reached or fails in a way that may pass (529, 5xx, a connection that breaks or
    /// stalls, an error of a type that is not known). Worth a retry.
    #[error("{message}")]
    Overloaded {
        /// For the client to read; never holds a secret.
        message: String,
        /// How long the upstream asks to wait.
        retry_after: Option<Duration>,
    },
    /// The upstream limits the rate (429). Worth a retry.
    #[error("{message}")]
    RateLimited {
        /// For the client to read; never holds a secret.
        message: String,
        /// How long the upstream asks to wait.
        retry_after: Option<Duration>,
    },
    /// The account behind the key cannot pay (402). A retry cannot help.
    #[error("{message}")]
    Billing {
        /// For the client to read; never holds a secret.
        message: String,
    },
    /// The conversation is longer than the model takes. A retry cannot help.
    #[error("{message}")]
    TooLong {
        /// For the client to read; never holds a secret.
        message: String,
    },
    /// The upstream does not let this server in, or does not have the model (401, 403, 404, another kind of server). A retry
    /// cannot help.
    #[error("{message}")]
    Unusable {
        /// For the client to read; never holds a secret.
        message: String,
    },
    /// The upstream refused the request or sent what is no answer.
    #[error("{message}")]
    RequestFailed {
        /// For the client to read; never holds a secret.
        message: String,
        /// Whether the same request may succeed when it is sent again.
        retryable: bool,
    },
}

/// The text of the result that closes a call which an interrupt cut off. It tells a model, and the playbook, that the
/// turn has ended there.
pub const INTERRUPTED: &str = "Tool execution was interrupted before completion. Please retry.";

/// A piece of a reply while it is being produced.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// A text block begins. Deltas of it follow.
    TextStart,
    /// More text of the block that began last.
    Text(String),
    /// A block of reasoning begins; its content is not shown.
    ThinkingStart,
    /// A block begins that is not shown while it is produced, such as a call.
    OtherStart,
    /// The upstream begins to answer, and tells this of its limits.
    Answers(RateLimits),
    /// Tokens that were used so far. What was told last counts, also of a request that does not come to its end.
    Usage(Usage),
}

/// Where a provider sends what it receives, as it receives it.
pub type DeltaSink<'a> = &'a mut (dyn FnMut(Delta) + Send);

/// The future that [`Model::reply`] returns.
pub type ReplyFuture<'a> = Pin<Box<dyn Future<Output = Result<ModelReply, ModelError>> + Send + 'a>>;

/// The future that [`Model::look`] returns.
pub type LookFuture<'a> = Pin<Box<dyn Future<Output = look::Found> + Send + 'a>>;

/// A provider of model replies. Dropping the future ends the request.
pub trait Model: Send + Sync {
    /// Sends `request` once and returns the whole reply.
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a>;

    /// Looks whether the upstream is there and takes the key, without asking the model anything. `None` where there is none.
    fn look(&self) -> Option<LookFuture<'_>> {
        None
    }
}
