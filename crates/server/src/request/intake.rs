//! How bodies come in: whole, within bounds, before a handler acts.
//!
//! A body has a place for the memory that it takes, from its first byte until the request is answered, because what is made
//! of a body lives as long. Places are given in the order in which they are asked for, first among the bodies of a workspace
//! and then among all.

use std::{io::Read, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures_util::StreamExt;
use http::{HeaderMap, header};
use hyper::body::Body as _;
use rota_api::id::WorkspaceId;
use tokio::time::timeout;

use crate::{
    error::{Error, Result},
    limits::{
        BODIES_BYTES, BODIES_BYTES_OF_ONE, BODY_NODE_BYTES, BODY_WAIT, HOOK_BODY_TIMEOUT, MAX_BODY_BYTES,
        MAX_BODY_NODES, SMALL_BODY_BYTES, STRANGERS_BYTES, STRANGERS_BYTES_OF_ONE,
    },
    room::{Held, Room},
};

/// How the bytes of a body are coded, by its `content-encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As they are.
    Plain,
    /// With gzip. What counts is what comes out.
    Gzip,
}

impl Coding {
    /// The coding that the headers of a request name.
    ///
    /// # Errors
    /// 400 when it is another one, or there are several.
    pub fn of(headers: &HeaderMap) -> Result<Self> {
        let mut names = headers.get_all(header::CONTENT_ENCODING).iter();
        let name = match (names.next(), names.next()) {
            (None, _) => return Ok(Self::Plain),
            (Some(name), None) => name.to_str().unwrap_or("?").trim(),
            (Some(_), Some(_)) => "several",
        };
        match name.to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Plain),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            _ => Err(Error::invalid(format_args!(
                "content-encoding: {name:?} is not read; send the body with gzip, or as it is"
            ))),
        }
    }
}

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

    /// Places for the bodies of those who show no key, but a signature of the body itself.
    pub fn of_strangers() -> Self {
        Self { wait: BODY_WAIT, room: Room::new(STRANGERS_BYTES, STRANGERS_BYTES_OF_ONE) }
    }

    /// Reads such a body, of at most `most` bytes. Its place is to be kept until the request is answered.
    ///
    /// # Errors
    /// 413 when it is too large, 400 when it breaks off, 504 when it comes too slowly, 529 when it has waited too long for a place.
    pub async fn read_within(&self, share: Option<&WorkspaceId>, body: Body, most: usize) -> Result<(Bytes, Held)> {
        let too_large = || Error::TooLarge(format!("the body is larger than {} KB", most / 1024));
        let length = body.size_hint().exact().map_or(most, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if length > most {
            return Err(too_large());
        }
        let place = timeout(self.wait, self.room.take(share, length)).await;
        let place = place.map_err(|_| Error::Overloaded("as many bodies are read as there is room for; try again"))?;
        let reading = async {
            let mut bytes = Vec::new();
            let mut chunks = body.into_data_stream();
            while let Some(chunk) = chunks.next().await {
                let chunk =
                    chunk.map_err(|error| Error::invalid(format_args!("the body could not be read: {error}")))?;
                if bytes.len() + chunk.len() > most {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(bytes))
        };
        let bytes = timeout(HOOK_BODY_TIMEOUT, reading).await.map_err(|_| Error::Timeout(HOOK_BODY_TIMEOUT))??;
        Ok((bytes, place))
    }

    /// Reads a body. Its place, if it needs one, is to be kept until the request is answered.
    ///
    /// # Errors
    /// 413 when it is too large, 400 when it breaks off or is not coded as it says, 529 when it has waited too long for a place.
    pub async fn read(&self, share: Option<&WorkspaceId>, body: Body, coding: Coding) -> Result<(Bytes, Option<Held>)> {
        let length = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if length.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(too_large());
        }
        // The length of a coded body says nothing of what comes out of it.
        let length = length.filter(|_| coding == Coding::Plain);
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
        if coding == Coding::Gzip {
            bytes = self.inflated(share, &bytes, &mut place).await?;
        }
        if let Some(place) = &mut place {
            place.shrink(weight(bytes.len()));
        }
        Ok((bytes.into(), place))
    }

    /// What comes out of a body that is coded with gzip. One that seemed small takes a place before it becomes large.
    async fn inflated(&self, share: Option<&WorkspaceId>, coded: &[u8], place: &mut Option<Held>) -> Result<Vec<u8>> {
        if place.is_none() {
            match inflate(coded, SMALL_BODY_BYTES)? {
                Some(small) => return Ok(small),
                None => *place = Some(self.place(share, MAX_BODY_BYTES).await?),
            }
        }
        inflate(coded, MAX_BODY_BYTES)?.ok_or_else(too_large)
    }

    async fn place(&self, share: Option<&WorkspaceId>, bytes: usize) -> Result<Held> {
        timeout(self.wait, self.room.take(share, weight(bytes))).await.map_err(|_| {
            Error::Overloaded("the server is at work on as many large bodies as it has room for; try again")
        })
    }
}

/// What comes out of `coded`, unless that is more than `most` bytes: no more is made of it then.
fn inflate(coded: &[u8], most: usize) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let reading = MultiGzDecoder::new(coded).take(most as u64 + 1).read_to_end(&mut bytes);
    reading.map_err(|error| Error::invalid(format_args!("the body is not gzip, as it says: {error}")))?;
    Ok((bytes.len() <= most).then_some(bytes))
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
        let (_, held) = intake.read(Some(&one), body(MAX_BODY_BYTES), Coding::Plain).await.unwrap();
        assert!(held.is_some());
        let refused = intake.read(Some(&one), body(MAX_BODY_BYTES / 2), Coding::Plain).await.map(drop).unwrap_err();
        assert_eq!(refused.status().as_u16(), 529, "{refused}");
        let small = intake.read(Some(&one), body(SMALL_BODY_BYTES), Coding::Plain).await.unwrap();
        assert!(small.1.is_none(), "a small body needs no place");
        let (bytes, there) = intake.read(Some(&other), body(MAX_BODY_BYTES), Coding::Plain).await.unwrap();
        assert_eq!(bytes.len(), MAX_BODY_BYTES, "another workspace has places");
        drop((held, there));
        intake.read(Some(&one), body(MAX_BODY_BYTES), Coding::Plain).await.unwrap();
    }

    #[tokio::test]
    async fn bodies_of_many_values_count_for_what_those_take() {
        assert!(weight(MAX_BODY_BYTES) <= BODIES_BYTES_OF_ONE, "the largest has room");
        let intake = Intake::waiting(Duration::from_millis(20));
        let one = workspace("one");
        let mut held = Vec::new();
        while let Ok(read) = intake.read(Some(&one), body(4 * MAX_BODY_NODES), Coding::Plain).await {
            held.push(read);
        }
        assert_eq!(held.len(), 2, "of 0.8 MB, each with as many values as there may be");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;

        let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        coder.write_all(bytes).unwrap();
        coder.finish().unwrap()
    }

    #[tokio::test]
    async fn of_a_gzip_body_what_comes_out_of_it_counts() {
        let intake = Intake::waiting(Duration::from_millis(20));
        let one = workspace("one");
        let read = async |coded: Vec<u8>| intake.read(Some(&one), Body::from(coded), Coding::Gzip).await;
        let (small, place) = read(gzip(b"{}")).await.unwrap();
        assert_eq!((&small[..], place.is_some()), (&b"{}"[..], false));
        let two = [gzip(b"{\"a\":"), gzip(b"1}")].concat();
        assert_eq!(&read(two).await.unwrap().0[..], b"{\"a\":1}", "members follow each other");
        let (large, place) = read(gzip(&b" ".repeat(1_000_000))).await.unwrap();
        assert_eq!((large.len(), place.is_some()), (1_000_000, true), "it has a place, though little of it was sent");
        drop(place);
        let most = gzip(&b" ".repeat(MAX_BODY_BYTES));
        assert!(most.len() < 100_000);
        assert_eq!(read(most).await.unwrap().0.len(), MAX_BODY_BYTES);
        let bomb = gzip(&b" ".repeat(MAX_BODY_BYTES + 1));
        assert_eq!(read(bomb).await.map(drop).unwrap_err().status().as_u16(), 413);
        for wrong in [b"{}".to_vec(), gzip(b"{\"name\": 1}")[..15].to_vec()] {
            assert_eq!(read(wrong).await.map(drop).unwrap_err().status().as_u16(), 400);
        }
    }

    #[test]
    fn a_coding_that_is_not_read_is_named() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, http::HeaderValue::from_static(value));
            }
            Coding::of(&headers).map_err(|error| error.to_string())
        };
        assert_eq!(of(&[]), Ok(Coding::Plain));
        assert_eq!(of(&["identity"]), Ok(Coding::Plain));
        assert_eq!(of(&["GZIP"]), Ok(Coding::Gzip));
        for (values, name) in [(&["br"][..], "br"), (&["gzip, br"], "gzip, br"), (&["gzip", "gzip"], "several")] {
            let refused = format!("content-encoding: {name:?} is not read; send the body with gzip, or as it is");
            assert_eq!(of(values), Err(refused));
        }
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_takes_a_place_as_soon_as_it_is_not_small() {
        let intake = Intake::waiting(Duration::from_millis(20));
        let one = workspace("one");
        let short = Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("{}")]));
        assert!(intake.read(Some(&one), short, Coding::Plain).await.unwrap().1.is_none());
        let (bytes, place) = intake.read(Some(&one), pieces(9), Coding::Plain).await.unwrap();
        assert_eq!(bytes.len(), 9000);
        let largest = intake.read(Some(&one), body(MAX_BODY_BYTES), Coding::Plain).await;
        assert!(largest.is_ok() && place.is_some(), "there is room for what it turned out not to need");
        drop(largest);
        let (_, other) = intake.read(Some(&one), body(1_000_000), Coding::Plain).await.unwrap();
        let refused = intake.read(Some(&one), pieces(9), Coding::Plain).await.map(drop).unwrap_err();
        assert_eq!(refused.status().as_u16(), 529, "it may turn out to be as large as a body can be: {refused}");
        drop(other);
        let too_large =
            intake.read(None, pieces(MAX_BODY_BYTES / 1000 + 1), Coding::Plain).await.map(drop).unwrap_err();
        assert_eq!(too_large.status().as_u16(), 413);
    }
}
