//! The answer to a delete.

use schemars::JsonSchema;
use serde::Serialize;

/// What is gone.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Deleted {
    /// The id that it had.
    pub id: String,
    /// The resource and `_deleted`: `environment_deleted`.
    pub r#type: &'static str,
}

impl Deleted {
    /// The answer to the delete of `id`.
    pub fn new(r#type: &'static str, id: &str) -> Self {
        Self { id: id.to_owned(), r#type }
    }
}
