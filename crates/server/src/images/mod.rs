//! Images: root file systems that are unpacked on this machine, from a registry or from an archive.

mod archive;
mod manifest;
mod registry;
mod source;

pub use archive::import;
pub use registry::{Credentials, Reference, pull};

use std::path::Path;

use rota_sandbox::{About, Layer, Layers, NewLayer, UnpackBounds, UnpackError, Unpacking};
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::{
    clock::Clock,
    error::{Error, Result},
    limits::{IMAGE_BYTES, IMAGE_ENTRIES, IMAGE_TIMEOUT, IMAGE_VARIABLE_BYTES, IMAGE_VARIABLES},
};
use manifest::ImageConfig;
use source::{Digest, Opened};

/// The images of this machine as those see them who start sessions.
#[derive(Clone)]
pub struct Images {
    layers: Layers,
    /// The name of the one that sessions have whose environment says nothing.
    default: Option<String>,
}

/// An image as a session keeps it: its name, and what the name stood for when the session was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The name.
    pub name: String,
    /// The key. `None`: the server that created the session did not have the image.
    pub key: Option<String>,
}

impl Images {
    /// The images in `layers`.
    pub fn new(layers: Layers, default: Option<String>) -> Self {
        Self { layers, default }
    }

    /// What a session keeps whose environment has this image, as it is stored. `None`: the programs of the machine.
    pub fn of_new_session(&self, environment: Option<&str>) -> Option<String> {
        let name = environment.or(self.default.as_deref())?;
        Some(Chosen { key: self.layers.named(name), name: name.to_owned() }.to_string())
    }

    /// Whether there is an image of this name.
    pub fn has(&self, name: &str) -> bool {
        self.layers.named(name).is_some_and(|key| self.layers.get(&key).is_ok_and(|image| image.is_some()))
    }

    /// The image that a session keeps.
    ///
    /// # Errors
    /// What is missing and what to do, for whoever reads the session's error.
    pub fn get(&self, stored: &str) -> Result<Layer, String> {
        let chosen = Chosen::read(stored);
        let key = chosen.key.clone().or_else(|| self.layers.named(&chosen.name));
        let found = match &key {
            Some(key) => self.layers.get(key).map_err(|error| format!("the image \"{}\": {error}", chosen.name))?,
            None => None,
        };
        found.ok_or_else(|| {
            let Chosen { name, key } = chosen;
            let which = key.map(|key| format!(" (sha256:{key})")).unwrap_or_default();
            format!(
                "the image \"{name}\"{which} of this session is not on this server: its operator can bring it back with \
                 `rota images pull` or `rota images import`"
            )
        })
    }

    /// The images themselves.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }
}

impl Chosen {
    /// Reads what [`Self::fmt`](std::fmt::Display) writes.
    pub fn read(stored: &str) -> Self {
        match stored.split_once('@') {
            Some((name, key)) => Self { name: name.to_owned(), key: Some(key.to_owned()) },
            None => Self { name: stored.to_owned(), key: None },
        }
    }
}

impl std::fmt::Display for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}@{key}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What was made of an image.
#[derive(Debug)]
pub struct Made {
    /// The image.
    pub layer: Layer,
    /// Its name.
    pub name: String,
    /// Whether it was there already.
    pub was_there: bool,
    /// Devices, FIFOs and the like, which are left out.
    pub left_out: u64,
}

/// That an image can be named so.
///
/// # Errors
/// What a name is.
pub fn check_name(name: &str) -> Result<()> {
    if rota_sandbox::is_name(name) {
        return Ok(());
    }
    Err(Error::invalid(format_args!(
        "\"{name}\" is no name of an image: 1 to 64 small letters, digits, `.`, `_` and `-`, not a dot or dash first"
    )))
}

/// That the data folder is one that the calling user's server would use.
///
/// # Errors
/// When it is another's.
pub fn check_owner(data: &Path) -> Result<()> {
    let Ok(meta) = std::fs::metadata(data) else { return Ok(()) };
    let (owner, own) = (std::os::unix::fs::MetadataExt::uid(&meta), rustix::process::geteuid().as_raw());
    if owner == own {
        return Ok(());
    }
    let data = data.display();
    Err(Error::invalid(format_args!(
        "{data} belongs to user {owner}, and this is user {own}: images are unpacked by the user that runs the server, as \
         `sudo -u`"
    )))
}

/// Unpacks the layers of an image, which are in files whose digests were checked, and gives it its name.
fn unpack(
    new: NewLayer,
    layers: impl IntoIterator<Item = Result<Opened>>,
    digest: &Digest,
    config: &ImageConfig,
    reference: &str,
    name: &str,
) -> Result<Made> {
    let images = new.layers().clone();
    let bounds = UnpackBounds { bytes: IMAGE_BYTES.min(room(&new)?), entries: IMAGE_ENTRIES, time: IMAGE_TIMEOUT };
    let mut unpacking = Unpacking::new(&new, bounds).map_err(Error::internal)?;
    for layer in layers {
        let mut layer = layer?;
        unpacking.layer(&mut layer).map_err(|error| match error {
            UnpackError::Refused(what) => Error::invalid(format_args!("{reference}: {what}; nothing of it was kept")),
            UnpackError::Io(error) => Error::invalid(format_args!("{reference}: a layer cannot be unpacked: {error}")),
        })?;
        layer.finish(reference)?;
    }
    let (bytes, files, left_out) = unpacking.finish().map_err(Error::internal)?;
    let about = About {
        reference: reference.to_owned(),
        architecture: config.architecture.clone(),
        bytes,
        files,
        environment: variables(config),
        made_at: Clock::System.now().micros(),
    };
    let layer = new.place(digest.hex(), &about).map_err(Error::internal)?;
    images.name(name, layer.key()).map_err(Error::internal)?;
    Ok(Made { layer, name: name.to_owned(), was_there: false, left_out })
}

/// Gives an image that is there already its name.
fn already(images: &Layers, digest: &Digest, name: &str) -> Result<Option<Made>> {
    let Some(layer) = images.get(digest.hex()).map_err(Error::internal)? else { return Ok(None) };
    images.name(name, layer.key()).map_err(Error::internal)?;
    Ok(Some(Made { layer, name: name.to_owned(), was_there: true, left_out: 0 }))
}

/// What the disk has left for an image: never the last tenth.
fn room(new: &NewLayer) -> Result<u64> {
    let disk = statvfs(new.aside()).map_err(|error| Error::internal(std::io::Error::from(error)))?;
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Error::invalid("the data folder is on a file system that is read-only"));
    }
    Ok((disk.f_bavail * disk.f_frsize).saturating_sub(disk.f_blocks * disk.f_frsize / 10))
}

/// The variables that programs of the image expect. The shell's own stay as they are.
fn variables(config: &ImageConfig) -> Vec<String> {
    const OF_THE_SHELL: [&str; 6] = ["HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR"];
    let fits = |variable: &&String| {
        let Some((name, _)) = variable.split_once('=') else { return false };
        variable.len() <= IMAGE_VARIABLE_BYTES && !variable.contains('\0') && !OF_THE_SHELL.contains(&name)
    };
    config.config.env.iter().flatten().filter(fits).take(IMAGE_VARIABLES).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_keeps_is_read_as_it_is_written() {
        for key in [None, Some("ab".to_owned())] {
            let chosen = Chosen { name: "debian-12".to_owned(), key };
            assert_eq!(Chosen::read(&chosen.to_string()), chosen);
        }
    }

    #[test]
    fn an_image_says_what_its_programs_need_and_not_who_runs_them() {
        let long = format!("LONG={}", "x".repeat(IMAGE_VARIABLE_BYTES));
        let text =
            serde_json::json!({"config": {"Env": ["PATH=/opt/bin", "HOME=/home/other", "no variable", long, "A=b"]}});
        let config: ImageConfig = serde_json::from_value(text).unwrap();
        assert_eq!(variables(&config), ["PATH=/opt/bin", "A=b"]);
    }
}
