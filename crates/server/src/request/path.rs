//! Parameters of paths.
//!
//! Which of the two extractors an operation takes says whether it has parameters in its query too.

use axum::extract::FromRequestParts;
use http::request::Parts;
use rota_api::id::{Id, SessionId};
use serde::{Deserialize, de::DeserializeOwned};

use super::Query;
use crate::error::{Error, Result};

/// The parameters of a path, for an operation that has none in its query. What is no UTF-8 text, or has a character that no
/// stored text has, names nothing that is there.
pub struct Path<T>(pub T);

/// The same, for an operation that has parameters in its query.
pub struct PathAndQuery<T>(pub T, pub Query);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Query::none(&parts.uri)?;
        read(parts, state).await.map(Self)
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathAndQuery<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let query = Query::from_request_parts(parts, state).await?;
        Ok(Self(read(parts, state).await?, query))
    }
}

/// The id of a session in a path. An older spelling of its prefix is read too.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
pub struct SessionRef(pub String);

impl From<String> for SessionRef {
    fn from(id: String) -> Self {
        match id.strip_prefix("session_") {
            Some(rest) => Self([SessionId::PREFIX, rest].concat()),
            None => Self(id),
        }
    }
}

async fn read<T: DeserializeOwned + Send>(parts: &mut Parts, state: &(impl Send + Sync)) -> Result<T> {
    if parts.uri.path().contains("%00") {
        return Err(Error::NotFound("Not found".to_owned()));
    }
    let parameters = axum::extract::Path::from_request_parts(parts, state).await;
    parameters.map(|axum::extract::Path(inner)| inner).map_err(|_| Error::NotFound("Not found".to_owned()))
}
