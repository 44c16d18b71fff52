//! Models as clients see them.

use serde::Serialize;

use crate::Time;

/// A model that the server's configuration offers.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// The name that agents use.
    pub id: String,
    /// Always `model`.
    pub r#type: &'static str,
    /// A name for people.
    pub display_name: String,
    /// When the model was made available, as far as the configuration says.
    pub created_at: Time,
    /// Always `active`.
    pub lifecycle: &'static str,
    /// When the model is deprecated.
    pub deprecated_at: Option<Time>,
    /// When the model retires.
    pub retires_at: Option<Time>,
    /// The family, where there is one.
    pub line: Option<&'static str>,
    /// Most tokens of a request, where the configuration says.
    pub max_input_tokens: Option<u32>,
    /// Most tokens of a reply.
    pub max_tokens: Option<u32>,
    /// What a session can use of the model, by the API's names.
    pub capabilities: serde_json::Value,
    /// Models that may stand in. Only in the beta shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_fallback_models: Option<Vec<String>>,
}
