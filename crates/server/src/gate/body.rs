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

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
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
                Poll::Pending if this.pieces.are_held() => {
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
