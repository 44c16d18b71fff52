//! What answers hold while nobody reads them.

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    response::{IntoResponse, Response},
};
use rota_api::id::WorkspaceId;

use crate::{
    app::App,
    error::Error,
    limits::{LARGE_ANSWER, MAX_UNREAD_BYTES},
    shares::Share,
};

/// Counts a large answer for its workspace until it has gone out. One to a request that only `reads` is refused when the
/// workspace has too much that is not read; any other one says what was done.
pub(super) async fn counted(app: &App, workspace: &WorkspaceId, reads: bool, response: Response) -> Response {
    let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
    let Some(size) = size.filter(|size| *size > LARGE_ANSWER) else { return response };
    let most = if reads { MAX_UNREAD_BYTES } else { usize::MAX };
    let Some(share) = app.answers.take(workspace, size, most) else {
        return Error::TooManyUnread(MAX_UNREAD_BYTES).into_response();
    };
    let (parts, body) = response.into_parts();
    match to_bytes(body, size).await {
        Ok(bytes) => Response::from_parts(parts, Body::from(Bytes::from_owner(Held { bytes, _share: share }))),
        Err(error) => Error::internal(error).into_response(),
    }
}

/// The bytes of an answer, until the last of them was written to the connection.
struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
