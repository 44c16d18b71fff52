//! Images and what is made of environments on this server. They are Rota's own.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Object},
    fields::{Text, described, names},
    id::EnvironmentId,
};

/// Most characters of the name of an image.
pub const MAX_IMAGE_NAME: usize = 64;

/// A root file system that is unpacked on the server that answers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Image {
    /// The name that environments use.
    pub name: String,
    /// Always `image`.
    pub r#type: &'static str,
    /// `sha256:` and the digits of its manifest, or of its configuration where it came without one.
    pub digest: String,
    /// Where it came from: a reference of a registry, or the path of an archive.
    pub reference: String,
    /// What processors its programs are for.
    pub architecture: String,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// When it was unpacked.
    pub created_at: Time,
}

/// All images of the server that answers, by name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Images {
    /// The images.
    pub data: Vec<Image>,
}

/// The image that new sessions of an environment have.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EnvironmentImage {
    /// Always `environment_image`.
    pub r#type: &'static str,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// The name of the image; null is the default of the server that creates a session.
    pub image: Option<String>,
}

described! {
    /// What can be said of the image of an environment.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    ImageOfEnvironment,
    /// A request to set the image of an environment.
    SetEnvironmentImage {
        /// The name of the image; null is the default of the server.
        image: String, clears as Text(1, MAX_IMAGE_NAME);
    }
}

/// How the packages of an environment were installed last.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EnvironmentBuild {
    /// Always `environment_build`.
    pub r#type: &'static str,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// What has come of it.
    pub state: BuildState,
    /// The end of what the package managers printed; null while they run, and where nothing was installed for this environment.
    pub log: Option<String>,
    /// Why it failed, naming the package manager and its packages; null unless it did.
    pub error: Option<String>,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
}

names! {
    /// What has come of the installation of an environment's packages.
    #[derive(JsonSchema)]
    BuildState {
        /// No session has needed one yet, or all packages were there already.
        "not_built" => NotBuilt,
        /// It is under way.
        "building" => Building,
        /// The packages are there.
        "ready" => Ready,
        /// They are not. The next session tries again.
        "failed" => Failed,
    }
}

impl SetEnvironmentImage {
    /// Reads the body of a request.
    pub fn image(o: &mut Object<'_>) -> Decoded<Option<String>> {
        let said = Self::read(o)?;
        Ok(said.merged(&ImageOfEnvironment::default())?.image)
    }
}
