//! A body in which texts are replaced while it passes.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use hyper::body::Frame;
use tokio::time::{Sleep, sleep};
use zeroize::Zeroizing;

use super::{
    opened::mask_headers,
    placement::{Pieces, Swaps, Way},
};
use crate::limits::{EGRESS_HELD, EGRESS_INFLATED_AT_ONCE};

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all.
    Plain,
    /// Compressed; it is passed on as it was before.
    Gzip,
}

/// The body.
pub(super) struct Swapped {
    inner: Body,
    swaps: Arc<Swaps>,
    way: Way,
    pieces: Pieces,
    gzip: Option<Inflating>,
    found: Box<dyn Fn(usize) + Send>,
    /// Until what is held waits no longer.
    waiting: Option<Pin<Box<Sleep>>>,
    trailers: Option<HeaderMap>,
    is_over: bool,
}

impl Swapped {
    /// `inner`, going this way; `found` is told of each credential.
    pub(super) fn new(
        inner: Body,
        swaps: Arc<Swaps>,
        way: Way,
        coding: Coding,
        found: Box<dyn Fn(usize) + Send>,
    ) -> Self {
        let gzip = (coding == Coding::Gzip).then(Inflating::default);
        Self { inner, swaps, way, pieces: Pieces::new(way), gzip, found, waiting: None, trailers: None, is_over: false }
    }

    /// What can be passed on of a piece, or of the end.
    fn pass(&mut self, piece: &[u8], is_end: bool) -> Option<Bytes> {
        self.waiting = None;
        let out = self.pieces.push(&self.swaps, piece, is_end, &self.found);
        bytes(out)
    }

    fn end(&mut self) -> io::Result<Option<Bytes>> {
        let rest = self.gzip.as_mut().map(Inflating::end).transpose()?.unwrap_or_default();
        Ok(self.pass(&rest, true))
    }
}

fn bytes(mut text: Zeroizing<Vec<u8>>) -> Option<Bytes> {
    (!text.is_empty()).then(|| std::mem::take(&mut *text).into())
}

impl HttpBody for Swapped {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(gzip) = this.gzip.as_mut().filter(|gzip| gzip.has_more()) {
                let piece = gzip.some().map_err(axum::Error::new)?;
                if let Some(out) = this.pass(&piece, false) {
                    return Poll::Ready(Some(Ok(Frame::data(out))));
                }
                continue;
            }
            if this.is_over {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(frame) => frame.transpose()?,
                Poll::Pending if this.pieces.need_not_wait() => {
                    let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(EGRESS_HELD)));
                    ready!(waiting.as_mut().poll(cx));
                    this.waiting = None;
                    match bytes(this.pieces.release()) {
                        Some(out) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                        None => continue,
                    }
                }
                Poll::Pending => return Poll::Pending,
            };
            let out = match frame.map(Frame::into_data) {
                Some(Ok(data)) => match &mut this.gzip {
                    Some(gzip) => {
                        gzip.input = data;
                        continue;
                    }
                    None => this.pass(&data, false),
                },
                Some(Err(other)) => {
                    if let Ok(mut trailers) = other.into_trailers() {
                        if this.way == Way::Back {
                            mask_headers(&this.swaps, &mut trailers);
                        }
                        this.trailers = Some(trailers);
                    }
                    this.is_over = true;
                    this.end().map_err(axum::Error::new)?
                }
                None => {
                    this.is_over = true;
                    this.end().map_err(axum::Error::new)?
                }
            };
            if let Some(out) = out {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

/// A compressed body, some of it at a time.
struct Inflating {
    decoder: MultiGzDecoder<Vec<u8>>,
    input: Bytes,
    has_begun: bool,
}

impl Default for Inflating {
    fn default() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), input: Bytes::new(), has_begun: false }
    }
}

impl Inflating {
    fn has_more(&self) -> bool {
        self.input.has_remaining()
    }

    fn some(&mut self) -> io::Result<Vec<u8>> {
        self.has_begun = true;
        let piece = self.input.split_to(EGRESS_INFLATED_AT_ONCE.min(self.input.len()));
        self.decoder.write_all(&piece)?;
        Ok(std::mem::take(self.decoder.get_mut()))
    }

    fn end(&mut self) -> io::Result<Vec<u8>> {
        if self.has_begun {
            self.decoder.try_finish()?;
        }
        Ok(std::mem::take(self.decoder.get_mut()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::to_bytes;
    use flate2::{Compression, write::GzEncoder};
    use futures_util::{StreamExt, stream};

    use super::*;

    fn swaps() -> Arc<Swaps> {
        let mut swaps = Swaps::default();
        swaps.add(b"secret-value", b"rota_0123456789", 0);
        Arc::new(swaps)
    }

    fn swapped(inner: Body, coding: Coding) -> Body {
        Body::new(Swapped::new(inner, swaps(), Way::Back, coding, Box::new(|_| {})))
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
        coder.write_all(text).unwrap();
        coder.finish().unwrap()
    }

    fn in_pieces(bytes: &[u8], size: usize) -> Body {
        let pieces: Vec<_> =
            bytes.chunks(size).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_compressed_body_is_looked_into_however_it_is_cut_and_one_that_breaks_off_is_an_error() {
        let text = [&b"x".repeat(100_000)[..], b" secret-value ", &b"y".repeat(100_000)].concat();
        let wanted = [&b"x".repeat(100_000)[..], b" rota_0123456789 ", &b"y".repeat(100_000)].concat();
        let coded = gzip(&text);
        for size in [1, 7, 5000, coded.len()] {
            let got = to_bytes(swapped(in_pieces(&coded, size), Coding::Gzip), usize::MAX).await.unwrap();
            assert_eq!(got, wanted, "{size}");
        }
        let two = [gzip(b"secret"), gzip(b"-value")].concat();
        assert_eq!(to_bytes(swapped(Body::from(two), Coding::Gzip), 100).await.unwrap(), "rota_0123456789");
        let cut = in_pieces(&coded[..coded.len() - 9], 50);
        assert!(to_bytes(swapped(cut, Coding::Gzip), usize::MAX).await.is_err());
        assert!(to_bytes(swapped(Body::from("no gzip"), Coding::Gzip), 100).await.is_err());
        assert_eq!(to_bytes(swapped(Body::empty(), Coding::Gzip), 100).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_piece_that_nothing_follows_is_passed_on_unless_it_ends_in_much_of_a_secret() {
        let body = |text: &'static str| {
            let pieces = stream::iter([Ok::<_, Infallible>(Bytes::from(text))]).chain(stream::pending());
            swapped(Body::from_stream(pieces), Coding::Plain).into_data_stream()
        };
        let mut short = body("event: sec");
        assert_eq!(short.next().await.unwrap().unwrap(), "event: ");
        assert_eq!(short.next().await.unwrap().unwrap(), "sec", "after a while");
        let mut long = body("event: secret-valu");
        assert_eq!(long.next().await.unwrap().unwrap(), "event: ");
        let more = tokio::time::timeout(4 * EGRESS_HELD, long.next()).await;
        assert!(more.is_err(), "so much of a secret is passed on by no waiting");
    }

    /// Frames, one after the other.
    struct Frames(std::vec::IntoIter<Frame<Bytes>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(Ok))
        }
    }

    #[tokio::test]
    async fn trailers_follow_what_was_held_and_are_masked() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-message", "not for secret-value".parse().unwrap());
        let frames = vec![Frame::data(Bytes::from("message secret")), Frame::trailers(trailers)];
        let mut body = swapped(Body::new(Frames(frames.into_iter())), Coding::Plain);
        let mut got = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            got.push(match frame.unwrap().into_data() {
                Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
                Err(frame) => frame.into_trailers().unwrap()["grpc-message"].to_str().unwrap().to_owned(),
            });
        }
        assert_eq!(got, ["message ", "secret", "not for rota_0123456789"]);
    }
}
