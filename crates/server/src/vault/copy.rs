//! Master keys without a server: beside a backup, and to see whether they open what is in a store.

use std::path::Path;

use rota_api::id::WorkspaceId;

use super::{
    master::{Masters, Source},
    seal::{DataKey, unwrap},
};
use crate::{
    config::Config,
    error::{Error, Result},
};

/// That the master keys of a server can be put beside a backup.
///
/// # Errors
/// When they are in no file.
pub fn can_copy_key(config: &Config) -> Result<()> {
    match Source::of(config) {
        Source::File { .. } => Ok(()),
        source @ Source::Variable(_) => Err(Error::invalid(format_args!(
            "vault.key_env: the key is in {}, and stays where that comes from: leave --with-keys out",
            source.place()
        ))),
    }
}

/// Writes the master keys of a server to `to`, a file that only its owner reads.
///
/// # Errors
/// When none of them is `fingerprint`, by which the data keys of the store are wrapped.
pub fn copy_key(config: &Config, fingerprint: &str, to: &Path) -> Result<()> {
    let source = Source::of(config);
    let masters = source.read()?;
    if !masters.iter().any(|master| master.fingerprint == fingerprint) {
        return Err(Error::invalid(format_args!(
            "vault: the secrets of the store are sealed with the vault key {fingerprint}, which {} does not have; where the \
             key was changed just now, run this again",
            source.place()
        )));
    }
    Source::File { path: to.to_owned(), is_own: true }.write(&masters)
}

/// The master keys of a server.
pub struct MasterKeys {
    masters: Masters,
    place: String,
}

impl MasterKeys {
    /// Those that the configuration names; none is made.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(config: &Config) -> Result<Self> {
        let source = Source::of(config);
        Ok(Self { masters: source.read()?, place: source.place() })
    }

    /// Where they are, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the key of this fingerprint is among them.
    pub fn have(&self, fingerprint: &str) -> bool {
        self.masters.iter().any(|master| master.fingerprint == fingerprint)
    }

    /// The data key of a workspace, which is `wrapped` by the master key of a fingerprint.
    ///
    /// # Errors
    /// When that is not among them, or does not open it.
    pub fn data_key(&self, workspace: &WorkspaceId, wrapped: &str, fingerprint: &str) -> Result<DataKey> {
        let master = self.masters.iter().find(|master| master.fingerprint == fingerprint);
        let master = master.ok_or_else(|| {
            Error::internal(format!(
                "the data key of {workspace} is wrapped by the vault key {fingerprint}, which {} does not have",
                self.place
            ))
        })?;
        Ok(DataKey::new(workspace.clone(), unwrap(master, workspace.as_ref(), wrapped)?))
    }
}
