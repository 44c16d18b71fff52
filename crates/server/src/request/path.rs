//! Parameters of paths.

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The parameters of a path. What is no UTF-8 text, or has a character that no stored text has, names nothing that is there.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        if parts.uri.path().contains("%00") {
            return Err(Error::NotFound("Not found".to_owned()));
        }
        let parameters = axum::extract::Path::from_request_parts(parts, state).await;
        parameters.map(|axum::extract::Path(inner)| Self(inner)).map_err(|_| Error::NotFound("Not found".to_owned()))
    }
}
