//! How bodies come in: whole, within bounds, before a handler acts.
//!
//! A body has a place for the memory that it takes, from its first byte until the request is answered, because what is made
//! of a body lives as long. Places are given in the order in which they are asked for, first among the bodies of a workspace
//! and then among all.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Body as _;
use rota_api::id::WorkspaceId;
use tokio::time::timeout;

use crate::{
    error::{Error, Result},
    limits::{
        BODIES_BYTES, BODIES_BYTES_OF_ONE, BODY_NODE_BYTES, BODY_WAIT, MAX_BODY_BYTES, MAX_BODY_NODES, SMALL_BODY_BYTES,
    },
    room::{Held, Room},
};

/// The places for bodies.
pub struct Intake {
    wait: Duration,
    room: Room,
}

impl Default for Intake {
    fn default() -> Self {
        Self::waiting(BODY_WAIT)
    }
}

impl Intake {
    /// Places for which a body waits at most so long.
    fn waiting(wait: Duration) -> Self {
        Self { wait, room: Room::new(BODIES_BYTES, BODIES_BYTES_OF_ONE) }
    }

    /// Reads a body. Its place, if it needs one, is to be kept until the request is answered.
    ///
    /// # Errors
    /// 413 when it is too large, 400 when it breaks off, 529 when it has waited too long for a place.
    pub async fn read(&self, share: Option<&WorkspaceId>, body: Body) -> Result<(Bytes, Option<Held>)> {
        let length = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if length.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(too_large());
        }
        let mut place = match length {
            Some(length) if length > SMALL_BODY_BYTES => Some(self.place(share, length).await?),
            _ => None,
        };
        let mut bytes = Vec::with_capacity(length.unwrap_or_default());
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Error::invalid(format_args!("the body could not be read: {error}")))?;
            let so_far = bytes.len() + chunk.len();
            if so_far > MAX_BODY_BYTES {
                return Err(too_large());
            }
            // Of one that does not say how long it is, anything can come.
            if so_far > SMALL_BODY_BYTES && place.is_none() {
                place = Some(self.place(share, MAX_BODY_BYTES).await?);
            }
            bytes.extend_from_slice(&chunk);
        }
        if let Some(place) = &mut place {
            place.shrink(weight(bytes.len()));
        }
        Ok((bytes.into(), place))
    }

    async fn place(&self, share: Option<&WorkspaceId>, bytes: usize) -> Result<Held> {
        timeout(self.wait, self.room.take(share, weight(bytes))).await.map_err(|_| {
            Error::Overloaded("the server is at work on as many large bodies as it has room for; try again")
        })
    }
}

fn too_large() -> Error {
    Error::TooLarge(format!("the body is larger than {} MB", MAX_BODY_BYTES / 1024 / 1024))
}

/// The memory that a body of so many bytes counts for: these, and a value in every four of them. Shorter values take less.
fn weight(bytes: usize) -> usize {
    bytes + BODY_NODE_BYTES * MAX_BODY_NODES.min(bytes / 4)
}

#[cfg(test)]
mod tests {
    use rota_api::id::Id;

    use super::*;

    fn workspace(name: &str) -> WorkspaceId {
        WorkspaceId::trusted(name.to_owned())
    }

    fn body(length: usize) -> Body {
        Body::from(vec![b' '; length])
    }

    /// A body that does not say how long it is.
    fn pieces(count: usize) -> Body {
        let pieces = futures_util::stream::iter((0..count).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1000])));
        Body::from_stream(pieces)
    }

    #[tokio::test]
    async fn a_slow_body_holds_up_its_own_workspace_alone_and_not_for_ever() {
        let intake = Intake::waiting(Duration::from_millis(20));
        let (one, other) = (workspace("one"), workspace("other"));
        let (_, held) = intake.read(Some(&one), body(MAX_BODY_BYTES)).await.unwrap();
        assert!(held.is_some());
        let refused = intake.read(Some(&one), body(MAX_BODY_BYTES / 2)).await.map(drop).unwrap_err();
        assert_eq!(refused.status().as_u16(), 529, "{refused}");
        let small = intake.read(Some(&one), body(SMALL_BODY_BYTES)).await.unwrap();
        assert!(small.1.is_none(), "a small body needs no place");
        let (bytes, there) = intake.read(Some(&other), body(MAX_BODY_BYTES)).await.unwrap();
        assert_eq!(bytes.len(), MAX_BODY_BYTES, "another workspace has places");
        drop((held, there));
        intake.read(Some(&one), body(MAX_BODY_BYTES)).await.unwrap();
    }

    #[tokio::test]
    async fn bodies_of_many_values_count_for_what_those_take() {
        assert!(weight(MAX_BODY_BYTES) <= BODIES_BYTES_OF_ONE, "the largest has room");
        let intake = Intake::waiting(Duration::from_millis(20));
        let one = workspace("one");
        let mut held = Vec::new();
        while let Ok(read) = intake.read(Some(&one), body(4 * MAX_BODY_NODES)).await {
            held.push(read);
        }
        assert_eq!(held.len(), 2, "of 0.8 MB, each with as many values as there may be");
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_takes_a_place_as_soon_as_it_is_not_small() {
        let intake = Intake::waiting(Duration::from_millis(20));
        let one = workspace("one");
        let short = Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("{}")]));
        assert!(intake.read(Some(&one), short).await.unwrap().1.is_none());
        let (bytes, place) = intake.read(Some(&one), pieces(9)).await.unwrap();
        assert_eq!(bytes.len(), 9000);
        let largest = intake.read(Some(&one), body(MAX_BODY_BYTES)).await;
        assert!(largest.is_ok() && place.is_some(), "there is room for what it turned out not to need");
        drop(largest);
        let (_, other) = intake.read(Some(&one), body(1_000_000)).await.unwrap();
        let refused = intake.read(Some(&one), pieces(9)).await.map(drop).unwrap_err();
        assert_eq!(refused.status().as_u16(), 529, "it may turn out to be as large as a body can be: {refused}");
        drop(other);
        let too_large = intake.read(None, pieces(MAX_BODY_BYTES / 1000 + 1)).await.map(drop).unwrap_err();
        assert_eq!(too_large.status().as_u16(), 413);
    }
}
