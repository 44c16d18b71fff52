//! Request bodies.

use axum::extract::{FromRequest, Request};
use futures_util::StreamExt;
use rota_api::decode::{self, Decoded, Object};
use serde_json::Value;

use super::Query;
use crate::{
    error::{Error, Result},
    limits::{MAX_BODY_BYTES, MAX_DRAIN_BYTES},
};

/// A JSON body, of an operation that has no parameters in its query.
pub struct Body(Value);

impl Body {
    /// Reads the body strictly: see [`rota_api::decode`]. It is read once, before the store is asked for anything.
    pub fn read<T>(self, read: impl FnOnce(&mut Object<'_>) -> Decoded<T>) -> Result<T> {
        Ok(decode::body(&self.0, read)?)
    }
}

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        Query::none(request.uri())?;
        let bytes = collect(request.into_body()).await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Error::invalid(format_args!("the body is not JSON: {error}")))
    }
}

/// Reads a whole body. One that is too large is read on and dropped for a while, so that a client that is still sending
/// sees the answer and not a closed connection.
async fn collect(body: axum::body::Body) -> Result<Vec<u8>> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Error::invalid(format_args!("the body could not be read: {error}")))?;
        length += chunk.len();
        if length <= MAX_BODY_BYTES {
            bytes.extend_from_slice(&chunk);
        } else if length > MAX_DRAIN_BYTES {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    if length > MAX_BODY_BYTES {
        let mebibytes = MAX_BODY_BYTES / 1024 / 1024;
        return Err(Error::TooLarge(format!("the body is larger than {mebibytes} MB")));
    }
    Ok(bytes)
}
