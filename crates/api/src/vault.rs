//! Vaults: where sessions find credentials.

use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Dialect, Object},
    fields::fields,
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

fields! {
    /// What an update of a vault can change.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    VaultFields,
    /// An update request.
    UpdateVault {
        /// 1 to [`MAX_DISPLAY_NAME`] characters.
        display_name: String, keeps = |n| n.text(1, MAX_DISPLAY_NAME);
        /// Free pairs.
        metadata: Metadata, pairs = Changes::read;
    }
}

impl VaultFields {
    /// Reads the body of a create request.
    ///
    /// # Errors
    /// When a field is not what it should be; the message names it.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        o.required("display_name")?;
        metadata::create(o.optional("metadata"))?;
        UpdateVault::read(o)?.merged(&Self::default())
    }
}

impl UpdateVault {
    /// Reads the body of an update request.
    ///
    /// # Errors
    /// When a field is not what it should be; the message names it.
    pub fn read_change(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        Self::read(o)
    }
}
