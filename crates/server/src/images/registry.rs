//! Images from registries, by the distribution API (OCI distribution specification 1.1).

use std::{fs::File, io::Write, path::PathBuf, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Client, Response, StatusCode, header, redirect};
use rota_sandbox::{Layers, NewLayer};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::{
    Made, already, check_name,
    manifest::{self, Descriptor, ImageConfig, MANIFESTS, Manifest},
    source::{Digest, Opened, lies},
    unpack,
};
use crate::{
    error::{Error, Result},
    hex,
    limits::{IMAGE_BYTES, IMAGE_IDLE, IMAGE_MANIFEST_BYTES, IMAGE_REDIRECTS, IMAGE_TIMEOUT},
    outgoing, tls,
};

/// Where names lead that say no registry.
const HUB: &str = "registry-1.docker.io";

/// Who pulls, where a registry wants to know.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password, or a token.
    pub password: String,
}

/// An image of a registry: `[REGISTRY/]NAME[:TAG|@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    /// A tag, or a digest.
    version: String,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format_args!(
                "\"{text}\" names no image: write [REGISTRY/]NAME[:TAG] or [REGISTRY/]NAME@sha256:…, as debian:12"
            ))
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::read(digest).ok_or_else(wrong)?.to_string())),
            None => (text, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (HUB, name),
        };
        let registry = if registry == "docker.io" { HUB } else { registry };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (path, None),
        };
        let of_path = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
        let of_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_path = !path.is_empty() && path.len() <= 255 && path.bytes().all(of_path);
        let has_steps = path.split('/').any(|step| step.is_empty() || step.starts_with('.'));
        let is_tag = tag.as_ref().is_none_or(|tag| (1..=128).contains(&tag.len()) && tag.bytes().all(of_tag));
        let is_registry = registry.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
            && registry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte));
        if !is_path || has_steps || !is_tag || !is_registry {
            return Err(wrong());
        }
        let repository =
            if registry == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        let version = digest.or(tag).unwrap_or_else(|| "latest".to_owned());
        Ok(Self { registry: registry.to_owned(), repository, version })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let between = if self.version.starts_with("sha256:") { '@' } else { ':' };
        let registry = if self.registry == HUB { "docker.io" } else { &self.registry };
        write!(f, "{registry}/{}{between}{}", self.repository, self.version)
    }
}

impl Reference {
    /// The name that the image has where nobody says another.
    pub fn default_name(&self) -> String {
        let last = self.repository.rsplit('/').next().unwrap_or(&self.repository);
        match self.version.as_str() {
            "latest" => last.to_owned(),
            digest if digest.starts_with("sha256:") => last.to_owned(),
            tag => format!("{last}-{}", tag.to_ascii_lowercase()),
        }
    }

    fn is_of_this_machine(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Pulls an image and gives it a name. `plain` allows HTTP without TLS; for a registry on this machine it is tried anyway.
///
/// # Errors
/// When the registry does not give it, or what it gives is not what it is named by; nothing is kept then.
pub async fn pull(
    images: &Layers,
    reference: &Reference,
    name: &str,
    plain: bool,
    credentials: Option<Credentials>,
) -> Result<Made> {
    check_name(name)?;
    let pulling = pull_within(images, reference, name, plain, credentials);
    timeout(IMAGE_TIMEOUT, pulling).await.unwrap_or_else(|_| {
        Err(Error::invalid(format_args!(
            "{reference}: pulling it took longer than {} seconds",
            IMAGE_TIMEOUT.as_secs()
        )))
    })
}

async fn pull_within(
    images: &Layers,
    reference: &Reference,
    name: &str,
    plain: bool,
    credentials: Option<Credentials>,
) -> Result<Made> {
    let mut registry = Registry::new(reference, plain, credentials)?;
    let (mut digest, mut text) = registry.manifest(&reference.version).await?;
    for _ in 0..3 {
        match manifest::read(&text, manifest::architecture())? {
            Manifest::Index(chosen) => (digest, text) = registry.manifest(&chosen.digest.to_string()).await?,
            Manifest::Image { config, layers } => {
                if let Some(made) = already(images, &digest, name)? {
                    return Ok(made);
                }
                let new = images.begin().map_err(Error::internal)?;
                let bytes: u64 = layers.iter().map(|layer| layer.size).fold(config.size, u64::saturating_add);
                if bytes > IMAGE_BYTES {
                    return Err(Error::invalid(format_args!(
                        "{reference}: its layers have {bytes} bytes, and an image may have {IMAGE_BYTES}"
                    )));
                }
                let file = registry.blob(&config, &new, 0, IMAGE_MANIFEST_BYTES).await?;
                let config: ImageConfig =
                    manifest::json(&std::fs::read(file).map_err(Error::internal)?, "the configuration")?;
                let mut files = Vec::new();
                for (i, layer) in layers.iter().enumerate() {
                    files.push(registry.blob(layer, &new, i + 1, IMAGE_BYTES).await?);
                }
                let (reference, name) = (reference.to_string(), name.to_owned());
                let unpacking = tokio::task::spawn_blocking(move || {
                    let opened =
                        files.into_iter().map(|file| Opened::new(File::open(file).map_err(Error::internal)?, None));
                    unpack(new, opened, &digest, &config, &reference, &name)
                });
                return unpacking.await.map_err(Error::internal)?;
            }
        }
    }
    Err(Error::invalid(format_args!("{reference}: its indexes lead nowhere")))
}

/// A repository of a registry.
struct Registry<'a> {
    client: Client,
    base: String,
    reference: &'a Reference,
    credentials: Option<Credentials>,
    authorization: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Registry<'a> {
    fn new(reference: &'a Reference, plain: bool, credentials: Option<Credentials>) -> Result<Self> {
        let plain = plain || reference.is_of_this_machine();
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config().map_err(Error::internal)?)
            .user_agent(concat!("rota/", env!("CARGO_PKG_VERSION")))
            .https_only(!plain)
            .redirect(redirect::Policy::limited(IMAGE_REDIRECTS))
            .read_timeout(IMAGE_IDLE)
            .connect_timeout(IMAGE_IDLE)
            .build()
            .map_err(Error::internal)?;
        let scheme = if plain { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}", reference.registry, reference.repository);
        Ok(Self { client, base, reference, credentials, authorization: None })
    }

    fn refused(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid(format_args!("{}: {what}", self.reference))
    }

    fn failed(&self, error: reqwest::Error) -> Error {
        self.refused(format_args!("the registry does not answer: {}", outgoing::causes(error)))
    }

    /// A manifest, and the digest of what came.
    async fn manifest(&mut self, version: &str) -> Result<(Digest, Vec<u8>)> {
        let url = format!("{}/manifests/{version}", self.base);
        let mut answer = self.get(&url, Some(&MANIFESTS.join(", "))).await?;
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failed(error))? {
            text.extend_from_slice(&chunk);
            if text.len() as u64 > IMAGE_MANIFEST_BYTES {
                return Err(self.refused(format_args!("its manifest has more than {IMAGE_MANIFEST_BYTES} bytes")));
            }
        }
        let found = Digest::of(&text);
        match Digest::read(version) {
            Some(named) if named != found => Err(lies(&self.reference.to_string(), &named, &found)),
            _ => Ok((found, text)),
        }
    }

    /// Downloads what a descriptor names into a file beside the new image, and checks that it is that.
    async fn blob(&mut self, of: &Descriptor, new: &NewLayer, number: usize, most: u64) -> Result<PathBuf> {
        let url = format!("{}/blobs/{}", self.base, of.digest);
        let mut answer = self.get(&url, None).await?;
        let path = new.aside().join(format!("blob-{number}"));
        let mut file = File::create(&path).map_err(Error::internal)?;
        let most = if of.size == 0 { most } else { most.min(of.size) };
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failed(error))? {
            bytes += chunk.len() as u64;
            if bytes > most {
                return Err(self.refused(format_args!("{} has more than {most} bytes, which it may not", of.digest)));
            }
            hash.update(&chunk);
            file.write_all(&chunk)
                .map_err(|error| self.refused(format_args!("a layer cannot be written to the data folder: {error}")))?;
        }
        let found = hex::digits(&hash.finalize());
        if found == of.digest.hex() {
            return Ok(path);
        }
        let found = Digest::read(&format!("sha256:{found}")).unwrap_or_else(|| of.digest.clone());
        Err(lies(&self.reference.to_string(), &of.digest, &found))
    }

    async fn get(&mut self, url: &str, accept: Option<&str>) -> Result<Response> {
        for _ in 0..2 {
            let mut request = self.client.get(url);
            if let Some(accept) = accept {
                request = request.header(header::ACCEPT, accept);
            }
            if let Some(authorization) = &self.authorization {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let answer = request.send().await.map_err(|error| self.failed(error))?;
            match answer.status() {
                StatusCode::OK => return Ok(answer),
                StatusCode::UNAUTHORIZED if self.authorization.is_none() => {
                    let asked = answer.headers().get(header::WWW_AUTHENTICATE).and_then(|asked| asked.to_str().ok());
                    self.authorization = Some(self.authorize(asked.unwrap_or_default().to_owned()).await?);
                }
                StatusCode::NOT_FOUND => return Err(self.refused("the registry has no such image")),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => break,
                status => return Err(self.refused(format_args!("the registry answers {status}"))),
            }
        }
        Err(self.refused(
            "the registry wants a user who may pull it: set ROTA_REGISTRY_USER and ROTA_REGISTRY_PASSWORD, or look whether \
             the name is right",
        ))
    }

    /// What a request is to be sent with, after the registry has asked for it.
    async fn authorize(&self, asked: String) -> Result<String> {
        let basic = self
            .credentials
            .as_ref()
            .map(|Credentials { user, password }| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        let Some(parameters) = asked.strip_prefix("Bearer ").or_else(|| asked.strip_prefix("bearer ")) else {
            return basic.ok_or_else(|| {
                self.refused("the registry wants a user: set ROTA_REGISTRY_USER and ROTA_REGISTRY_PASSWORD")
            });
        };
        let of = |name: &str| parameter(parameters, name);
        let realm = of("realm").ok_or_else(|| self.refused("the registry does not say where it gives tokens"))?;
        let scope = of("scope").unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        let query: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(of("service").map(|service| ("service", service)))
            .append_pair("scope", &scope)
            .finish();
        let mut request = self.client.get(format!("{realm}?{query}"));
        if let Some(basic) = basic {
            request = request.header(header::AUTHORIZATION, basic);
        }
        let mut answer = request.send().await.map_err(|error| self.failed(error))?;
        if !answer.status().is_success() {
            return Err(self.refused(format_args!("the registry gives no token: {}", answer.status())));
        }
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failed(error))? {
            text.extend_from_slice(&chunk);
            if text.len() as u64 > IMAGE_MANIFEST_BYTES {
                return Err(self.refused("the registry's token is too long"));
            }
        }
        let token: Token = manifest::json(&text, "the token")?;
        let token = token.token.or(token.access_token);
        token.map(|token| format!("Bearer {token}")).ok_or_else(|| self.refused("the registry gives no token"))
    }
}

/// A value of `name="value",other="value"`.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while let Some((key, value)) = rest.trim_start_matches([' ', ',']).split_once("=\"") {
        let (value, more) = value.split_once('"')?;
        if key == name {
            return Some(value.to_owned());
        }
        rest = more;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_as_people_write_it() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, shown, name) in [
            ("debian", "docker.io/library/debian:latest", "debian"),
            ("debian:12-slim", "docker.io/library/debian:12-slim", "debian-12-slim"),
            ("team/app:V1", "docker.io/team/app:V1", "app-v1"),
            ("docker.io/team/app", "docker.io/team/app:latest", "app"),
            ("ghcr.io/a/b/c:1", "ghcr.io/a/b/c:1", "c-1"),
            ("localhost:5000/x", "localhost:5000/x:latest", "x"),
            ("127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1", "x-1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.default_name().as_str()), (shown, name), "{text}");
        }
        let by_digest: Reference = format!("a.example/x@{digest}").parse().unwrap();
        assert_eq!(by_digest.to_string(), format!("a.example/x@{digest}"));
        for wrong in ["", "UPPER", "a b", "a@sha256:1", "x:", "../x", "a.example/../x", "a.example/", "a.example?/x"] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong}");
        }
        let is_here = |text: &str| text.parse::<Reference>().unwrap().is_of_this_machine();
        assert!(is_here("localhost/x") && is_here("127.0.0.1:5000/x") && !is_here("10.0.0.1:5000/x") && !is_here("x"));
    }

    #[test]
    fn what_a_registry_asks_for_is_read() {
        let asked = r#"realm="https://auth.example/token",service="reg.example",scope="repository:a:pull,push""#;
        assert_eq!(parameter(asked, "realm").as_deref(), Some("https://auth.example/token"));
        assert_eq!(parameter(asked, "scope").as_deref(), Some("repository:a:pull,push"));
        assert_eq!(parameter(asked, "error"), None);
    }
}
