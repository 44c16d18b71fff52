//! Secrets that are made from the master key, so that all servers of a store have them and nothing keeps them.

use std::sync::PoisonError;

use ring::hmac;

use super::seal::Vault;

impl Vault {
    /// A secret for `purpose` of each master key that is known, the first of them of the current one. Nothing tells the master
    /// key from it.
    pub fn derived(&self, purpose: &str) -> Vec<[u8; 32]> {
        let masters = self.masters.read().unwrap_or_else(PoisonError::into_inner);
        let derive = |bytes: &[u8]| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), format!("rota {purpose}").as_bytes());
            tag.as_ref().try_into().expect("a tag has 32 bytes")
        };
        masters.iter().map(|master| derive(&*master.bytes)).collect()
    }
}
