//! API keys: who may call, and what for. The body of an update is not [declared](crate::fields): no request creates a key.

use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Object},
    fields::{Decode, names},
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

names! {
    /// Whether a key counts.
    KeyStatus {
        /// Requests with it are answered.
        "active" => Active,
        /// Switched off, for now.
        "inactive" => Inactive,
        /// Ended for good.
        "archived" => Archived,
        /// Its time is over.
        "expired" => Expired,
    }
}

/// An update request. `None` keeps what is stored.
#[derive(Debug)]
pub struct UpdateApiKey {
    /// A new name, 1 to [`MAX_NAME`] characters.
    pub name: Option<String>,
    /// Any but [`KeyStatus::Expired`].
    pub status: Option<KeyStatus>,
}

impl UpdateApiKey {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        Ok(Self {
            name: o.kept("name", |n| n.text(1, MAX_NAME))?,
            status: o.kept("status", |n| match KeyStatus::decode(n)? {
                KeyStatus::Expired => Err(n.not_a_value(KeyStatus::Expired.as_str())),
                settable => Ok(settable),
            })?,
        })
    }
}
