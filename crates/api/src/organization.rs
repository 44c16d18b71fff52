//! The organization: the owner of every workspace of a server.

use serde::Serialize;

/// The organization as the API shows it.
#[derive(Debug, Serialize)]
pub struct Organization {
    /// A UUID, made with the store.
    pub id: String,
    /// Always `organization`.
    pub r#type: &'static str,
    /// A name for people.
    pub name: String,
}
