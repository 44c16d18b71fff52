//! The bytes of a connection: what hyper does to them, and does not bound or put into words itself.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::guests::Guest;
use crate::limits::{LINGER, WRITE_TIMEOUT};

/// What is sent in place of an answer that hyper gives itself, which has a status and no words: by its status.
pub(super) type Refuse = dyn Fn(u16) -> Vec<u8> + Send + Sync;

/// A connection. Bounds unfinished headers, answers that nobody reads, and gives the answers of hyper the error envelope.
pub(super) struct Wire {
    stream: TcpStream,
    guest: Arc<Guest>,
    refuse: Arc<Refuse>,
    /// What is left to send in place of what hyper said.
    refusal: Option<Vec<u8>>,
    /// How long the client may read nothing of what is sent.
    patience: Duration,
    /// Runs while it reads nothing.
    unread: Option<Pin<Box<Sleep>>>,
    /// Bytes that are still read and dropped before the connection is closed, and for how long.
    linger: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, guest: Arc<Guest>, refuse: Arc<Refuse>) -> Self {
        Self { stream, guest, refuse, refusal: None, patience: WRITE_TIMEOUT, unread: None, linger: None }
    }

    /// The end of a write: an error when the client has read nothing for too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        let patience = self.patience;
        let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(unread.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read the answer")))
    }

    /// Sends what is to be sent in place of `said`. `None` when that is to be sent as it is.
    fn instead(&mut self, cx: &mut Context<'_>, said: &[u8]) -> Option<Poll<io::Result<()>>> {
        if self.refusal.is_none() {
            let status = if self.guest.is_owed_an_answer() { None } else { status(said) };
            self.refusal = Some((self.refuse)(status?));
            self.linger = Some((LINGER.0, Box::pin(sleep(LINGER.1))));
        }
        while let Some(left) = self.refusal.as_mut().filter(|left| !left.is_empty()) {
            let sent = Pin::new(&mut self.stream).poll_write(cx, left);
            match sent {
                Poll::Ready(Ok(sent)) => drop(left.drain(..sent)),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(self.written(cx, Poll::Pending)),
            }
        }
        Some(Poll::Ready(Ok(())))
    }
}

/// The status of an answer that begins with `said`, if it is one of those that hyper gives itself.
fn status(said: &[u8]) -> Option<u16> {
    let after = said.strip_prefix(b"HTTP/1.1 ").or_else(|| said.strip_prefix(b"HTTP/1.0 "))?;
    let status = std::str::from_utf8(after.get(..3)?).ok()?.parse().ok()?;
    matches!(status, 400 | 414 | 431).then_some(status)
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        if !this.guest.is_served() && !this.guest.takes_headers(read) {
            let error = "there is no room for more unfinished headers";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::OutOfMemory, error)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(sent) = this.instead(cx, bytes) {
            return sent.map_ok(|()| bytes.len());
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let first = pieces.first().map_or(&[][..], |piece| piece);
        if let Some(sent) = this.instead(cx, first) {
            return sent.map_ok(|()| pieces.iter().map(|piece| piece.len()).sum());
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has handed over everything that it has.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.guest.is_sent_everything();
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        let Some((left, ends)) = &mut this.linger else { return Poll::Ready(Ok(())) };
        let mut dropped = [0; 8192];
        while *left > 0 && ends.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut dropped);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
            *left = left.saturating_sub(buffer.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::http::guests::Places;

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let place = Places::new(1).take().await;
        place.guest.speaks();
        let mut wire = Wire::new(stream, place.guest.clone(), Arc::new(|_| Vec::new()));
        wire.patience = Duration::from_millis(20);
        let piece = vec![b'x'; 1 << 20];
        let error = loop {
            if let Err(error) = wire.write_all(&piece).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        drop(client);
    }

    #[test]
    fn the_answers_that_hyper_gives_itself_are_known() {
        assert_eq!(status(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"), Some(431));
        assert_eq!(status(b"HTTP/1.1 400 Bad Request\r\n"), Some(400));
        for other in [&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.1 4", b"5\r\nHTTP/1.1 400", b""] {
            assert_eq!(status(other), None);
        }
    }
}
