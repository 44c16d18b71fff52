//! Keys of environments: with one, workers take up the work of a self-hosted environment. They are Rota's own: the hosted service
//! has them in its console.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Object},
    id::{EnvironmentId, EnvironmentKeyId},
};

/// Most characters of a key's name.
pub const MAX_NAME: usize = 256;

/// A key as the API shows it: never with its secret.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EnvironmentKey {
    /// Its id.
    pub id: EnvironmentKeyId,
    /// Always `environment_key`.
    pub r#type: &'static str,
    /// The environment that it reaches.
    pub environment_id: EnvironmentId,
    /// A name for people.
    pub name: String,
    /// How the key begins and ends, so that people recognise it.
    pub partial_key_hint: String,
    /// When it was created.
    pub created_at: Time,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}

/// A key that was just made.
#[derive(Serialize, JsonSchema)]
pub struct NewEnvironmentKey {
    /// What the API shows of it later.
    #[serde(flatten)]
    pub key: EnvironmentKey,
    /// The key itself. Nothing else ever shows it.
    pub secret: String,
}

/// A request for a key.
#[derive(Debug, Clone)]
pub struct CreateEnvironmentKey {
    /// 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// When it ends by itself; never, where nobody says so.
    pub expires_at: Option<Time>,
}

impl CreateEnvironmentKey {
    /// Reads the body of a create request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        Ok(Self {
            name: o.required("name")?.text(1, MAX_NAME)?,
            expires_at: o.kept("expires_at", |at| {
                at.string()?.parse().map_err(|_| at.invalid("Input should be a valid RFC 3339 time"))
            })?,
        })
    }
}
