//! Vaults: where sessions find credentials.

use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Dialect, Object},
    id::VaultId,
    metadata::{self, Changes, Metadata},
};

/// Most characters of the name of a vault or a credential.
pub const MAX_DISPLAY_NAME: usize = 255;
/// Most credentials of a vault that are not archived.
pub const MAX_CREDENTIALS: usize = 20;

/// A vault as the API shows it.
#[derive(Debug, Serialize)]
pub struct Vault {
    /// Its id.
    pub id: VaultId,
    /// Always `vault`.
    pub r#type: &'static str,
    /// A name for people.
    pub display_name: String,
    /// Free pairs.
    pub metadata: Metadata,
    /// When it was created.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// When it was archived, and its secrets purged.
    pub archived_at: Option<Time>,
}

/// A create request.
#[derive(Debug, Clone)]
pub struct CreateVault {
    /// 1 to [`MAX_DISPLAY_NAME`] characters.
    pub display_name: String,
    /// Free pairs.
    pub metadata: Metadata,
}

impl CreateVault {
    /// Reads the body of a create request.
    ///
    /// # Errors
    /// When a field is not what it should be; the message names it.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        Ok(Self {
            display_name: o.required("display_name")?.text(1, MAX_DISPLAY_NAME)?,
            metadata: metadata::create(o.optional("metadata"))?,
        })
    }
}

/// An update request; what it leaves out, or is null, is kept.
#[derive(Debug, Clone)]
pub struct UpdateVault {
    /// A new name.
    pub display_name: Option<String>,
    /// Pairs to set and to delete.
    pub metadata: Changes,
}

impl UpdateVault {
    /// Reads the body of an update request.
    ///
    /// # Errors
    /// When a field is not what it should be; the message names it.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        Ok(Self {
            display_name: o.kept("display_name", |n| n.text(1, MAX_DISPLAY_NAME))?,
            metadata: Changes::read(o.patch("metadata"))?,
        })
    }
}
