//! Workspaces and API keys, with the fields that the administration API gives them.

use serde::Serialize;

use crate::{
    Time,
    id::{ApiKeyId, WorkspaceId},
};

/// Most characters of a workspace's or a key's name.
pub const MAX_NAME: usize = 256;

/// A workspace.
#[derive(Debug, Clone, Serialize)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// A name for people, unique among workspaces that are not archived.
    pub name: String,
    /// When it was created.
    pub created_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// An API key, without the secret.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// A name for people.
    pub name: String,
    /// The workspace whose resources it reaches.
    pub workspace_id: WorkspaceId,
    /// How the key begins and ends, so that people recognise it.
    pub partial_key_hint: String,
    /// `active`, `inactive` or `archived`.
    pub status: String,
    /// When it was created.
    pub created_at: Time,
}
