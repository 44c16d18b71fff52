//! Where blobs are: a folder on this machine, or a bucket of an S3-compatible service.

use std::{env, path::PathBuf, sync::Arc, time::Duration};

use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    client::{HttpClient, HttpConnector},
    local::LocalFileSystem,
    prefix::PrefixStore,
};

use super::RETRIES;
use crate::{
    config::{BlobsConfig, Config},
    error::{Error, Result},
    limits::{BLOB_ANSWER_TIMEOUT, BLOB_PART_BYTES_OF_A_BUCKET, BLOB_PART_BYTES_OF_A_FOLDER},
    tls,
};

/// The folder of blobs in the data folder.
pub(super) const FOLDER: &str = "blobs";

/// Where blobs are.
pub(super) enum Place {
    Folder(PathBuf),
    Bucket,
}

impl Place {
    /// Bytes of a part of a blob.
    pub(super) fn part_bytes(&self) -> usize {
        match self {
            Self::Folder(_) => BLOB_PART_BYTES_OF_A_FOLDER,
            Self::Bucket => BLOB_PART_BYTES_OF_A_BUCKET,
        }
    }

    /// The file that a blob is written to before it has its name, `<name>#<number>` by the library; `None` in a bucket. No two
    /// blobs have one name, so the number is the first.
    pub(super) fn unfinished(&self, at: &object_store::path::Path) -> Option<PathBuf> {
        let Self::Folder(folder) = self else { return None };
        Some(folder.join(format!("{at}#1")))
    }
}

pub(super) fn open(config: &Config) -> Result<(Arc<dyn ObjectStore>, Place)> {
    let blobs = &config.blobs;
    let Some(bucket) = &blobs.bucket else {
        if config.database.is_some() && blobs.folder.is_none() {
            tracing::warn!(
                "files are kept in this server's data folder, where no other server on the database reads them: name a bucket, or \
                 a folder that they share, in [blobs]"
            );
        }
        let folder = blobs.folder.clone().unwrap_or_else(|| config.data.join(FOLDER));
        let making = |error: std::io::Error| {
            Error::invalid(format_args!("the folder of files {} cannot be used: {error}", folder.display()))
        };
        private(&folder).map_err(making)?;
        let folder = folder.canonicalize().map_err(making)?;
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(Error::internal)?.with_fsync(true);
        return Ok((Arc::new(store), Place::Folder(folder)));
    };
    let store = s3(bucket, blobs)?;
    let store: Arc<dyn ObjectStore> = match blobs.prefix.as_deref().map(|prefix| prefix.trim_matches('/')) {
        None | Some("") => Arc::new(store),
        Some(prefix) => Arc::new(PrefixStore::new(store, prefix)),
    };
    Ok((store, Place::Bucket))
}

/// Makes a folder that only the server may enter.
fn private(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

fn s3(bucket: &str, blobs: &BlobsConfig) -> Result<object_store::aws::AmazonS3> {
    let retry = RetryConfig { max_retries: 3, retry_timeout: RETRIES, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(blobs.region.as_deref().unwrap_or("us-east-1"))
        .with_retry(retry)
        .with_http_connector(Connector);
    if let Some(endpoint) = &blobs.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let secret = |key: &str, variable: &str| {
        env::var(variable)
            .ok()
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Error::invalid(format_args!("blobs.{key}: the environment variable {variable} is not set")))
    };
    if let (Some(id), Some(key)) = (&blobs.access_key_id_env, &blobs.secret_access_key_env) {
        builder = builder
            .with_access_key_id(secret("access_key_id_env", id)?)
            .with_secret_access_key(secret("secret_access_key_env", key)?);
    }
    builder.build().map_err(|error| Error::invalid(format_args!("blobs: {error}")))
}

/// Connects as all else of the server does: with its own roots and cryptography.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let generic = |error: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
            store: "S3",
            source: error,
        };
        let tls = tls::client_config().map_err(|error| generic(error.into()))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(BLOB_ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| generic(error.into()))?;
        Ok(HttpClient::new(client))
    }
}
