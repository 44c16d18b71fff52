//! Request bodies.

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use rota_api::decode::{self, Decoded, Object};
use serde_json::Value;
use zeroize::Zeroize;

use super::Query;
use crate::{
    error::{Error, Result},
    limits::{MAX_BODY_BYTES, MAX_BODY_NODES},
};

/// A JSON body, of an operation that has no parameters in its query.
pub struct Body(Value);

impl Body {
    /// Reads the body strictly: see [`rota_api::decode`]. It is read once, before the store is asked for anything.
    pub fn read<T>(self, read: impl FnOnce(&mut Object<'_>) -> Decoded<T>) -> Result<T> {
        Ok(decode::body(&self.0, read)?)
    }

    fn of(bytes: &[u8]) -> Result<Self> {
        Ok(Self(decode::json(bytes, MAX_BODY_NODES)?))
    }

    /// The same of a body with secrets, whose texts are wiped.
    pub fn read_secret<T>(mut self, read: impl FnOnce(&mut Object<'_>) -> Decoded<T>) -> Result<T> {
        let read = decode::body(&self.0, read);
        wipe(&mut self.0);
        Ok(read?)
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The same, of an operation that has parameters in its query too. It takes them first, with
/// [`PathAndQuery`](super::PathAndQuery): what is wrong with them is said before what is wrong with the body.
pub struct BodyOnly(Bytes);

impl BodyOnly {
    /// The same as [`Body::read`].
    pub fn read<T>(self, read: impl FnOnce(&mut Object<'_>) -> Decoded<T>) -> Result<T> {
        Body::of(&self.0)?.read(read)
    }
}

impl<S: Sync> FromRequest<S> for BodyOnly {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        bytes_of(request).await.map(Self)
    }
}

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        Query::none(request.uri())?;
        Self::of(&bytes_of(request).await?)
    }
}

/// They are there already: see [`super::Intake`].
async fn bytes_of(request: Request) -> Result<Bytes> {
    to_bytes(request.into_body(), MAX_BODY_BYTES).await.map_err(Error::internal)
}
