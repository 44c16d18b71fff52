//! Pure: what manifests and configurations of images say (OCI image specification 1.1, and Docker's schema 2 before it).

use serde::{Deserialize, Deserializer};

use super::source::Digest;
use crate::{
    error::{Error, Result},
    limits::IMAGE_LAYERS,
};

/// The types of manifests that a registry is asked for, and an archive may hold.
pub(super) const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Something that is named by its digest.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    /// Its bytes.
    #[serde(default)]
    pub(super) size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An image for one kind of machine, or a list of those.
#[derive(Debug, Deserialize)]
struct Written {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// What a manifest says.
#[derive(Debug)]
pub(super) enum Manifest {
    /// The one for this machine is another.
    Index(Descriptor),
    /// The configuration, and the layers from the lowest up.
    Image { config: Descriptor, layers: Vec<Descriptor> },
}

/// What an image says of its programs.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) config: Execution,
    #[serde(default)]
    pub(super) rootfs: RootFs,
}

/// How its programs are run.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Execution {
    #[serde(rename = "Env")]
    pub(super) env: Option<Vec<String>>,
}

/// Its layers.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RootFs {
    /// The digests of the layers as they are before they are compressed.
    #[serde(default)]
    pub(super) diff_ids: Vec<Digest>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The architecture of this machine, as images name it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads a manifest and chooses what is for a machine of `architecture`.
///
/// # Errors
/// When it is none, or has nothing for such a machine.
pub(super) fn read(text: &[u8], architecture: &str) -> Result<Manifest> {
    let written: Written = json(text, "the manifest")?;
    match written {
        Written { manifests: Some(all), .. } => {
            let fits = |found: &&Descriptor| {
                found.platform.as_ref().is_none_or(|on| on.os == "linux" && on.architecture == architecture)
            };
            let found = all.iter().find(fits).cloned();
            found.map(Manifest::Index).ok_or_else(|| {
                Error::invalid(format_args!(
                    "the image is not there for linux/{architecture}, which this machine needs"
                ))
            })
        }
        Written { config: Some(config), layers: Some(layers), .. } if (1..=IMAGE_LAYERS).contains(&layers.len()) => {
            Ok(Manifest::Image { config, layers })
        }
        Written { config: Some(_), layers: Some(layers), .. } => Err(Error::invalid(format_args!(
            "the image has {} layers, and 1 to {IMAGE_LAYERS} are taken",
            layers.len()
        ))),
        _ => Err(Error::invalid("the manifest is of a kind that is not known: schema 2 of Docker, or OCI")),
    }
}

/// Reads a text of an image.
pub(super) fn json<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| Error::invalid(format_args!("{what} of the image cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_image_for_this_machine_is_chosen() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let index = json!({"manifests": [
            {"digest": digest("a"), "platform": {"architecture": "arm64", "os": "linux"}},
            {"digest": digest("b"), "platform": {"architecture": "amd64", "os": "windows"}},
            {"digest": digest("c"), "platform": {"architecture": "amd64", "os": "linux"}, "size": 7},
        ]});
        let index = index.to_string();
        let Manifest::Index(found) = read(index.as_bytes(), "amd64").unwrap() else { panic!("an index") };
        assert_eq!((found.digest.hex(), found.size), ("c".repeat(64).as_str(), 7));
        let error = read(index.as_bytes(), "riscv64").unwrap_err().to_string();
        assert_eq!(error, "the image is not there for linux/riscv64, which this machine needs");
    }

    #[test]
    fn a_manifest_that_cannot_be_used_is_refused_in_words() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let layers = vec![json!({"digest": digest}); IMAGE_LAYERS + 1];
        for (text, part) in [
            (json!([]), "cannot be read"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "not known"),
            (json!({"config": {"digest": digest}, "layers": []}), "0 layers"),
            (json!({"config": {"digest": digest}, "layers": layers}), "layers, and 1 to"),
            (json!({"config": {"digest": "md5:00"}, "layers": []}), "cannot be read"),
            (json!({"config": {"digest": "sha256:../../etc"}, "layers": []}), "cannot be read"),
        ] {
            let error = read(text.to_string().as_bytes(), "amd64").unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
