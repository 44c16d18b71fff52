//! A request's body, lent to whoever answers the request: what is left of it afterwards is read and dropped, so that a
//! client that is still sending sees the answer and not a closed connection.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, header};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::{sync::oneshot, time::timeout};

/// A body that comes back when it is dropped before its end.
struct Lent {
    body: Option<Incoming>,
    /// The client waits to be told to send the body; reading it tells so.
    waits: bool,
    back: Option<oneshot::Sender<Incoming>>,
}

/// What may come back of a body.
pub(super) struct Rest(Option<oneshot::Receiver<Incoming>>);

/// Lends the body of a request.
pub(super) fn lend(request: Request<Incoming>) -> (Request<Body>, Rest) {
    if request.body().is_end_stream() {
        return (request.map(|_| Body::empty()), Rest(None));
    }
    let waits = request.headers().contains_key(header::EXPECT);
    let (back, rest) = oneshot::channel();
    let lent = |body| Body::new(Lent { body: Some(body), waits, back: Some(back) });
    (request.map(lent), Rest(Some(rest)))
}

impl Rest {
    /// Reads and drops at most so many bytes, for at most so long.
    pub(super) async fn drop_it(self, (most, time): (usize, Duration)) {
        let Some(mut body) = self.0.and_then(|mut back| back.try_recv().ok()) else { return };
        let dropping = async {
            let mut left = most;
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // A client that goes on sending, or does not send, has had its chance.
        let _ = timeout(time, dropping).await;
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        this.waits = false;
        this.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, hyper::body::Body::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back), false) = (self.body.take(), self.back.take(), self.waits)
            && !body.is_end_stream()
        {
            // Nobody waits for it when the connection is gone.
            let _ = back.send(body);
        }
    }
}
