//! Models as clients see them.

use serde::Serialize;

use crate::{Time, fields::names};

names! {
    /// How far a model is on its way out.
    #[derive(Default)]
    Lifecycle {
        /// It can be used, and no end is in sight.
        #[default]
        "active" => Active,
        /// It can be used, and is headed for retirement.
        "deprecated" => Deprecated,
        /// It cannot be used any more: it stays in the catalogue as a record.
        "retired" => Retired,
    }
}

names! {
    /// The model lines that the API has names for.
    #[allow(missing_docs, reason = "the names say it")]
    Line {
        "haiku" => Haiku,
        "sonnet" => Sonnet,
        "opus" => Opus,
        "fable" => Fable,
        "mythos" => Mythos,
    }
}

/// A model that the server's configuration offers.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// The name that agents use.
    pub id: String,
    /// Always `model`.
    pub r#type: &'static str,
    /// A name for people.
    pub display_name: String,
    /// When the model was released; the epoch where the configuration does not say.
    pub created_at: Time,
    /// How far it is on its way out.
    pub lifecycle: Lifecycle,
    /// When it was deprecated; null while it is active.
    pub deprecated_at: Option<Time>,
    /// When it retires, as far as that is known; null while it is active.
    pub retires_at: Option<Time>,
    /// Its model line, where it belongs to one.
    pub line: Option<Line>,
    /// Most tokens of a request, where the configuration says.
    pub max_input_tokens: Option<u32>,
    /// Most tokens of a reply.
    pub max_tokens: Option<u32>,
    /// What a session can use of the model, by the API's names.
    pub capabilities: serde_json::Value,
    /// Models that may stand in: none. Only in the beta shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_fallback_models: Option<Vec<String>>,
}
