//! Connections that pass unread. What comes in large amounts goes from one to the other within the kernel.

use std::io;

use rustix::{
    net::{Shutdown, shutdown},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

use super::flow::Flow;
use crate::limits::{EGRESS_COPY_BYTES, EGRESS_SPLICE_BYTES};

/// Passes bytes on, both ways and to both ends.
///
/// # Errors
/// When either connection breaks, or the session has moved all that it may.
pub(super) async fn both_ways(client: &TcpStream, host: &TcpStream, flow: &Flow) -> io::Result<()> {
    tokio::try_join!(
        one_way(client, host, |bytes| flow.count_sent(bytes)),
        one_way(host, client, |bytes| flow.count_received(bytes))
    )?;
    Ok(())
}

/// Passes bytes on to their end, and then says that there are no more.
async fn one_way(from: &TcpStream, to: &TcpStream, count: impl Fn(usize) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; EGRESS_COPY_BYTES];
    loop {
        from.readable().await?;
        let got = match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        write_all(to, &buffer[..got]).await?;
        count(got)?;
        if got == buffer.len() && within_the_kernel(from, to, &count).await? {
            break;
        }
    }
    Ok(shutdown(to, Shutdown::Write)?)
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The same without copying, until nothing is there at the moment, or until the end. Whether that has come.
async fn within_the_kernel(
    from: &TcpStream,
    to: &TcpStream,
    count: &impl Fn(usize) -> io::Result<()>,
) -> io::Result<bool> {
    // Where there is no descriptor left, it is copied.
    let Ok((out, into)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else { return Ok(false) };
    let most = EGRESS_SPLICE_BYTES;
    loop {
        let take = || Ok(splice(from, None, &into, None, most, SpliceFlags::NONBLOCK)?);
        let taken = match from.try_io(Interest::READABLE, take) {
            Ok(0) => return Ok(true),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut held = taken;
        while held > 0 {
            let give = || Ok(splice(&out, None, to, None, held, SpliceFlags::NONBLOCK)?);
            held -= to.async_io(Interest::WRITABLE, give).await?;
        }
        count(taken)?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering::Relaxed};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::flow::Budget, *};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(there), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    #[tokio::test]
    async fn much_and_little_pass_both_ways_as_they_are_and_each_end_is_told() {
        let (mut client, inside) = pair().await;
        let (outside, mut host) = pair().await;
        let flow = Flow::new(Arc::new(Budget::new(u64::MAX)));
        let passing = both_ways(&inside, &outside, &flow);
        let much: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let talking = async {
            // One after the other: what is little is not kept until there is more.
            for round in 0..3 {
                client.write_all(b"ask").await.unwrap();
                let mut asked = [0; 3];
                host.read_exact(&mut asked).await.unwrap();
                assert_eq!(&asked, b"ask");
                let mut got = vec![0; much.len()];
                let (sent, read) = tokio::join!(host.write_all(&much), client.read_exact(&mut got));
                sent.unwrap();
                read.unwrap();
                assert!(got == much, "{round}");
            }
            client.shutdown().await.unwrap();
            assert_eq!(host.read(&mut [0]).await.unwrap(), 0, "the end comes");
            host.write_all(b"still there").await.unwrap();
            drop(host);
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"still there", "the other way goes on");
        };
        let (passed, ()) = tokio::join!(passing, talking);
        passed.unwrap();
        let counted = (flow.sent.load(Relaxed), flow.received.load(Relaxed));
        assert_eq!(counted, (9, 3 * much.len() as u64 + 11));
    }

    #[tokio::test]
    async fn it_ends_at_the_bound_whoever_waits() {
        let (mut client, inside) = pair().await;
        let (outside, mut host) = pair().await;
        let flow = Flow::new(Arc::new(Budget::new(1_000_000)));
        flow.bound();
        let passing = both_ways(&inside, &outside, &flow);
        let endless = async {
            let piece = vec![0; 65_536];
            while host.write_all(&piece).await.is_ok() {}
        };
        let reading = async {
            let mut piece = vec![0; 65_536];
            while client.read(&mut piece).await.is_ok_and(|got| got > 0) {}
        };
        let passed = tokio::select! {
            passed = passing => passed,
            () = endless => panic!("nobody hung up"),
            () = reading => panic!("nobody hung up"),
        };
        assert!(passed.is_err());
        assert!(flow.received.load(Relaxed) < 4_000_000);
    }
}
