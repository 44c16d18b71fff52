//! Images in archives: what `docker save` writes, and an OCI layout in a tar file.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use rota_sandbox::Layers;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    Made, already, check_name,
    manifest::{self, Descriptor, ImageConfig, Manifest},
    source::{Digest, Opened, Part, lies},
    unpack,
};
use crate::{
    error::{Error, Result},
    hex,
    limits::{IMAGE_ARCHIVE_ENTRIES, IMAGE_MANIFEST_BYTES},
};

/// An archive, and where everything is in it.
struct Archive {
    file: File,
    shown: String,
    places: HashMap<String, (u64, u64)>,
}

/// An entry of `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// Makes an image of the archive at `path`.
///
/// # Errors
/// When it is none, or what is in it is not what it is named by; nothing of it is kept then.
pub fn import(images: &Layers, path: &Path, name: &str) -> Result<Made> {
    check_name(name)?;
    let archive = Archive::open(path)?;
    if archive.places.contains_key("index.json") {
        return archive.import_layout(images, name);
    }
    if archive.places.contains_key("manifest.json") {
        return archive.import_saved(images, name);
    }
    Err(archive.refused(
        "it has no index.json and no manifest.json: an archive is what `docker save` writes, or an OCI layout",
    ))
}

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let wrong = |error: std::io::Error| Error::invalid(format_args!("{shown} cannot be read: {error}"));
        let mut file = File::open(path).map_err(wrong)?;
        let mut magic = [0; 2];
        let got = file.read(&mut magic).map_err(wrong)?;
        file.seek(SeekFrom::Start(0)).map_err(wrong)?;
        if got == 2 && magic == [0x1f, 0x8b] {
            return Err(Error::invalid(format_args!("{shown} is compressed: unpack it with gunzip first")));
        }
        let mut places = HashMap::new();
        let mut archive = tar::Archive::new(file.try_clone().map_err(wrong)?);
        for entry in archive.entries_with_seek().map_err(wrong)?.raw(true) {
            let entry = entry.map_err(wrong)?;
            if places.len() == IMAGE_ARCHIVE_ENTRIES {
                return Err(Error::invalid(format_args!("{shown} has more than {IMAGE_ARCHIVE_ENTRIES} entries")));
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            let is_link = matches!(entry.header().entry_type(), tar::EntryType::Symlink | tar::EntryType::Link);
            if !is_link {
                places.insert(name, (entry.raw_file_position(), entry.size()));
            } else if let Some(target) = entry.link_name_bytes() {
                // Layers that are the same are links to one of them.
                let target = String::from_utf8_lossy(&target).trim_start_matches("../").to_owned();
                if let Some(place) = places.get(&target).copied() {
                    places.insert(name, place);
                }
            }
        }
        Ok(Self { file, shown, places })
    }

    fn refused(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid(format_args!("{}: {what}", self.shown))
    }

    fn part(&self, name: &str) -> Result<Part> {
        let (start, length) = *self.places.get(name).ok_or_else(|| self.refused(format_args!("it has no {name}")))?;
        Ok(Part::new(self.file.try_clone().map_err(Error::internal)?, start, length))
    }

    fn text(&self, name: &str) -> Result<Vec<u8>> {
        self.part(name)?.whole(IMAGE_MANIFEST_BYTES, name)
    }

    /// A text that is named by its digest.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let content = self.text(&place_of(digest))?;
        let found = Digest::of(&content);
        if found == *digest { Ok(content) } else { Err(lies(&self.shown, digest, &found)) }
    }

    fn import_layout(&self, images: &Layers, name: &str) -> Result<Made> {
        let index: Index = manifest::json(&self.text("index.json")?, "index.json")?;
        let [first] = &index.manifests[..] else {
            let number = index.manifests.len();
            return Err(self.refused(format_args!("it has {number} images, and one is imported at a time")));
        };
        let mut digest = first.digest.clone();
        for _ in 0..3 {
            match manifest::read(&self.blob(&digest)?, manifest::architecture())? {
                Manifest::Index(other) => digest = other.digest,
                Manifest::Image { config, layers } => {
                    if let Some(made) = already(images, &digest, name)? {
                        return Ok(made);
                    }
                    let config = self.blob(&config.digest)?;
                    let config: ImageConfig = manifest::json(&config, "the configuration")?;
                    let opened = layers.iter().map(|layer| {
                        let part = self.part(&place_of(&layer.digest))?;
                        self.check(self.part(&place_of(&layer.digest))?, &layer.digest)?;
                        Opened::new(part, None)
                    });
                    let new = images.begin().map_err(Error::internal)?;
                    return unpack(new, opened, &digest, &config, &self.shown, name);
                }
            }
        }
        Err(self.refused("its indexes lead nowhere"))
    }

    fn check(&self, mut part: Part, digest: &Digest) -> Result<()> {
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
        loop {
            let got = part.read(&mut buffer).map_err(Error::internal)?;
            if got == 0 {
                break;
            }
            hash.update(&buffer[..got]);
        }
        let found = hex::digits(&hash.finalize());
        if found == digest.hex() {
            return Ok(());
        }
        let found = Digest::read(&format!("sha256:{found}")).unwrap_or_else(|| digest.clone());
        Err(lies(&self.shown, digest, &found))
    }

    /// What `docker save` wrote before it wrote layouts: the image is known by the digest of its configuration, and that names its
    /// layers.
    fn import_saved(&self, images: &Layers, name: &str) -> Result<Made> {
        let text = self.text("manifest.json")?;
        let saved: Vec<Saved> = manifest::json(&text, "manifest.json")?;
        let [saved] = &saved[..] else {
            return Err(self.refused(format_args!("it has {} images, and one is imported at a time", saved.len())));
        };
        let content = self.text(&saved.config)?;
        let digest = Digest::of(&content);
        if let Some(made) = already(images, &digest, name)? {
            return Ok(made);
        }
        let config: ImageConfig = manifest::json(&content, "the configuration")?;
        if config.architecture != manifest::architecture() {
            let (own, its) = (manifest::architecture(), &config.architecture);
            return Err(self.refused(format_args!("the image is for {its}, and this machine is {own}")));
        }
        let ids = &config.rootfs.diff_ids;
        if ids.len() != saved.layers.len() || ids.is_empty() || ids.len() > crate::limits::IMAGE_LAYERS {
            return Err(self.refused("its configuration and its manifest disagree on the layers"));
        }
        let opened = saved.layers.iter().zip(ids).map(|(layer, id)| Opened::new(self.part(layer)?, Some(id.clone())));
        let new = images.begin().map_err(Error::internal)?;
        unpack(new, opened, &digest, &config, &self.shown, name)
    }
}

fn place_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
