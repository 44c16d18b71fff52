//! API keys: who may call, and what for.

use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Object},
    id::{ApiKeyId, WorkspaceId},
};

/// Most characters of a key's name.
pub const MAX_NAME: usize = 256;

/// An API key as the API shows it: never with its secret.
#[derive(Debug, Serialize)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Always `api_key`.
    pub r#type: &'static str,
    /// A name for people.
    pub name: String,
    /// What it reaches.
    pub scope: KeyScope,
    /// How the key begins and ends, so that people recognise it.
    pub partial_key_hint: String,
    /// Whether it counts.
    pub status: KeyStatus,
    /// Always null: keys are made at the command line, by nobody whom the server knows.
    pub created_by: Option<()>,
    /// Always null: a key acts for itself, not for a user.
    pub principal: Option<()>,
    /// When it was created.
    pub created_at: Time,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
}

/// What a key reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KeyScope {
    /// The organization's own resources, and any workspace that a request names.
    Organization,
    /// The resources of one workspace.
    Workspace {
        /// The workspace.
        workspace_id: WorkspaceId,
    },
}

/// Whether a key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// Requests with it are answered.
    Active,
    /// Switched off, for now.
    Inactive,
    /// Ended for good.
    Archived,
    /// Its time is over.
    Expired,
}

impl KeyStatus {
    /// The names on the wire.
    pub const NAMES: [&str; 4] = ["active", "inactive", "archived", "expired"];

    /// The names that an update can set.
    pub const SETTABLE: [&str; 3] = ["active", "inactive", "archived"];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Archived => "archived",
            Self::Expired => "expired",
        }
    }

    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Inactive, Self::Archived, Self::Expired].into_iter().find(|s| s.as_str() == name)
    }
}

/// An update request. `None` keeps what is stored.
#[derive(Debug)]
pub struct UpdateApiKey {
    /// A new name, 1 to [`MAX_NAME`] characters.
    pub name: Option<String>,
    /// One of [`KeyStatus::SETTABLE`].
    pub status: Option<KeyStatus>,
}

impl UpdateApiKey {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        let status = o.optional("status").map(|n| n.one_of(&KeyStatus::SETTABLE)).transpose()?;
        Ok(Self {
            name: o.optional("name").map(|n| n.text(1, MAX_NAME)).transpose()?,
            status: status.and_then(KeyStatus::from_name),
        })
    }
}
