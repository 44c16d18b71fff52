//! Images of the tests: little more than bash, in layers of which the second takes something away.

use std::{io::Write, path::Path, process::Command};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::static_host::StaticHost;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image, as a registry has it.
#[derive(Debug, Clone)]
pub struct Image {
    pub config: Vec<u8>,
    /// As they are before they are compressed, the lowest first.
    pub layers: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
}

pub fn digest(content: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap());
    format!("sha256:{}", Sha256::digest(content).iter().flat_map(digits).collect::<String>())
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The architecture of this machine, as images name it.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A layer of files: a path, a mode and a content.
pub fn layer(files: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(EntryType::Regular);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// The programs that a shell of the tests uses, with their libraries, packed from this machine.
fn programs() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let script = "mkdir -p $0/bin $0/etc $0/usr/bin && cd $0 && \
        for p in bash cat chmod dd echo id ls mkdir mv od rm sleep tr true; do cp -L /bin/$p bin/; done && \
        ldd bin/* | grep -o '/lib[^ ]*' | sort -u | while read f; do mkdir -p .$(dirname $f); cp -L $f .$f; done && \
        echo original > etc/note && chmod -R a+rX . && tar --owner=0 --group=0 -cf $0.tar .";
    let root = folder.path().join("root");
    assert!(Command::new("bash").args(["-c", script]).arg(&root).status().unwrap().success());
    std::fs::read(folder.path().join("root.tar")).unwrap()
}

impl Image {
    /// An image with these files over the programs of [`programs`]; `/bin/mv` is taken away again.
    pub fn with(files: &[(&str, u32, &str)]) -> Self {
        Self::of(vec![programs(), layer(&[files, &[("bin/.wh.mv", 0o644, "")]].concat())])
    }

    /// An image of these layers.
    pub fn of(layers: Vec<Vec<u8>>) -> Self {
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin", "FROM_IMAGE=yes"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>()},
        });
        let config = config.to_string().into_bytes();
        let described =
            |kind: &str, content: &[u8]| json!({"mediaType": kind, "digest": digest(content), "size": content.len()});
        let packed = layers.iter().map(|layer| described("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(layer)));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": described("application/vnd.oci.image.config.v1+json", &config),
            "layers": packed.collect::<Vec<Value>>(),
        });
        Self { config, layers, manifest: manifest.to_string().into_bytes() }
    }

    /// Puts it into a registry, below an index that has one for another machine too.
    pub fn publish(&self, registry: &StaticHost, repository: &str, tag: &str) {
        let at = |kind: &str, name: &str| format!("/v2/{repository}/{kind}/{name}");
        let other = json!({"digest": digest(b"other"), "platform": {"architecture": "s390x", "os": "linux"}});
        let own = json!({
            "digest": digest(&self.manifest), "size": self.manifest.len(),
            "platform": {"architecture": architecture(), "os": "linux"},
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, own]}).to_string();
        registry.put(at("manifests", tag), INDEX, index);
        registry.put(at("manifests", &digest(&self.manifest)), MANIFEST, self.manifest.clone());
        for content in self.blobs() {
            registry.put(at("blobs", &digest(&content)), "application/octet-stream", content);
        }
    }

    /// The configuration and the compressed layers.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        [self.config.clone()].into_iter().chain(self.layers.iter().map(|layer| gzip(layer))).collect()
    }

    /// Writes what `docker save` wrote before it wrote layouts.
    pub fn save(&self, path: &Path) {
        let mut files = vec![("config.json".to_owned(), self.config.clone())];
        for (i, layer) in self.layers.iter().enumerate() {
            files.push((format!("{i}/layer.tar"), layer.clone()));
        }
        let layers: Vec<&str> = files[1..].iter().map(|(name, _)| name.as_str()).collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": ["shell:1"], "Layers": layers}]).to_string();
        files.push(("manifest.json".to_owned(), manifest.into_bytes()));
        write(path, &files);
    }

    /// Writes an OCI layout.
    pub fn save_layout(&self, path: &Path) {
        let mut files = vec![("oci-layout".to_owned(), b"{\"imageLayoutVersion\": \"1.0.0\"}".to_vec())];
        let index =
            json!({"schemaVersion": 2, "manifests": [{"digest": digest(&self.manifest), "size": self.manifest.len()}]});
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        for content in self.blobs().into_iter().chain([self.manifest.clone()]) {
            files.push((format!("blobs/sha256/{}", digest(&content).trim_start_matches("sha256:")), content));
        }
        write(path, &files);
    }
}

fn write(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut archive = Builder::new(std::fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, &content[..]).unwrap();
    }
    archive.finish().unwrap();
}
