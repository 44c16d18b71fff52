//! The bytes of a connection: counted, bounded, and watched for silence.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

/// The bytes that all connections of a session may move, and have moved.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    most: u64,
}

impl Budget {
    pub(super) fn new(most: u64) -> Self {
        Self { used: AtomicU64::new(0), most }
    }

    /// Counts bytes that were moved.
    pub(super) fn use_up(&self, bytes: u64) {
        self.used.fetch_add(bytes, Relaxed);
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.used.load(Relaxed) >= self.most
    }
}

/// What one connection has moved. Seen from the sandbox: `received` came in, `sent` went out.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    budget: Arc<Budget>,
    /// Whether it is one to a host, and so ends at the bound. Who is refused can still read why.
    is_bounded: AtomicBool,
}

impl Flow {
    pub(super) fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            budget,
            is_bounded: AtomicBool::new(false),
        })
    }

    /// Ends with the bytes that the session may move.
    pub(super) fn bound(&self) {
        self.is_bounded.store(true, Relaxed);
    }

    fn moved(&self) -> u64 {
        self.received.load(Relaxed) + self.sent.load(Relaxed)
    }

    /// Returns when nothing has moved for `time`, or for up to a half longer.
    pub(super) async fn silence(&self, time: Duration) {
        let mut before = self.moved();
        let mut still = 0;
        while still < 2 {
            sleep(time / 2).await;
            let now = self.moved();
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
    }

    /// Counts bytes that went out.
    pub(super) fn count_sent(&self, bytes: usize) -> io::Result<()> {
        self.count(&self.sent, bytes)
    }

    /// Counts bytes that came in.
    pub(super) fn count_received(&self, bytes: usize) -> io::Result<()> {
        self.count(&self.received, bytes)
    }

    fn count(&self, counter: &AtomicU64, bytes: usize) -> io::Result<()> {
        counter.fetch_add(bytes as u64, Relaxed);
        self.budget.use_up(bytes as u64);
        if self.is_bounded.load(Relaxed) && self.budget.is_used_up() {
            return Err(io::Error::other("the session has moved as many bytes as it may"));
        }
        Ok(())
    }
}

/// The sandbox's side of a connection.
pub(super) struct Metered<S> {
    stream: S,
    flow: Arc<Flow>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, flow: Arc<Flow>) -> Self {
        Self { stream, flow }
    }

    /// The stream itself, and where its bytes are counted.
    pub(super) fn parts(&self) -> (&S, &Flow) {
        (&self.stream, &self.flow)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        Poll::Ready(self.flow.count(&self.flow.sent, buffer.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.flow.count(&self.flow.received, written)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, buffers))?;
        self.flow.count(&self.flow.received, written)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::yield_now,
    };

    use super::*;

    #[tokio::test]
    async fn bytes_are_counted_by_where_they_go_and_end_at_the_bound() {
        let budget = Arc::new(Budget::new(10));
        let flow = Flow::new(budget.clone());
        flow.bound();
        let (inside, mut outside) = tokio::io::duplex(64);
        let mut inside = Metered::new(inside, flow.clone());
        outside.write_all(b"abcd").await.unwrap();
        inside.read_exact(&mut [0; 4]).await.unwrap();
        inside.write_all(b"abcde").await.unwrap();
        assert_eq!((flow.sent.load(Relaxed), flow.received.load(Relaxed)), (4, 5));
        assert!(!budget.is_used_up());
        assert!(inside.write_all(b"x").await.is_err(), "the tenth byte ends it");
        let other = Flow::new(budget);
        assert!(other.count(&other.sent, 1).is_ok(), "who is refused can read why");
        other.bound();
        assert!(other.count(&other.sent, 1).is_err(), "every other connection of the session ends too");
    }

    #[tokio::test]
    async fn a_connection_is_silent_when_nothing_moves() {
        let flow = Flow::new(Arc::new(Budget::new(u64::MAX)));
        flow.count(&flow.sent, 1).unwrap();
        flow.silence(Duration::from_millis(20)).await;
        let talking = async {
            loop {
                flow.count(&flow.sent, 1).unwrap();
                yield_now().await;
            }
        };
        tokio::select! {
            () = flow.silence(Duration::from_millis(20)) => panic!("it talks"),
            () = talking => {}
            () = sleep(Duration::from_millis(200)) => {}
        }
    }
}
