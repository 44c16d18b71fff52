//! The folder of blobs as commands see it: by the paths of its files.

use std::path::PathBuf;

use rota_api::id::BlobId;

use super::{key, place::FOLDER};
use crate::config::Config;

/// The folder in which a server keeps the content of files.
pub struct Folder(PathBuf);

impl Folder {
    /// That of a configuration. `None` where they are in a bucket.
    pub fn of(config: &Config) -> Option<Self> {
        let blobs = &config.blobs;
        let own = || config.data.join(FOLDER);
        blobs.bucket.is_none().then(|| Self(blobs.folder.clone().unwrap_or_else(own)))
    }

    /// The file with the content of a blob.
    pub fn file(&self, id: &BlobId) -> PathBuf {
        self.0.join(Self::place(id))
    }

    /// Where it is in any such folder.
    pub fn place(id: &BlobId) -> String {
        key(id).to_string()
    }
}
