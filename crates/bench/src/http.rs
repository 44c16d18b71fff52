//! The least HTTP/1.1 client that keeps a connection alive: it takes as little of the machine as it can.

use std::{net::SocketAddr, str};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// Most bytes of an answer; a larger one is a fault.
const MAX_ANSWER: usize = 4 << 20;

/// The bytes of a request with a JSON body, which may be empty.
pub fn request(method: &str, path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\nanthropic-beta: managed-agents-2026-04-01\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The bytes of a request for the stream of a session, from the log's start on.
pub fn stream_request(session: &str, key: &str) -> Vec<u8> {
    format!(
        "GET /v1/sessions/{session}/events/stream HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\n\
         anthropic-beta: managed-agents-2026-04-01\r\nlast-event-id: 0\r\n\r\n"
    )
    .into_bytes()
}

/// The bytes of a request that uploads a file of `length` bytes: what comes before and after them.
pub fn upload_request(path: &str, key: &str, length: usize) -> (Vec<u8>, Vec<u8>) {
    let head = "--bench\r\ncontent-disposition: form-data; name=\"file\"; filename=\"bench.bin\"\r\n\r\n";
    let tail = "\r\n--bench--\r\n";
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\nanthropic-beta: managed-agents-2026-04-01\r\n\
         content-type: multipart/form-data; boundary=bench\r\ncontent-length: {}\r\n\r\n{head}",
        head.len() + length + tail.len()
    );
    (request.into_bytes(), tail.as_bytes().to_vec())
}

/// A connection that is kept alive between requests.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(16 << 10) })
    }

    /// Sends a request and reads the answer's body.
    ///
    /// # Errors
    /// When the answer is not a 200.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.send(request).await?;
        self.answer().await
    }

    /// Reads the body of the answer to what was sent.
    ///
    /// # Errors
    /// When the answer is not a 200.
    pub async fn answer(&mut self) -> Result<&[u8]> {
        self.received.clear();
        let head = self.read_until(END_OF_HEAD).await?;
        let (ok, length) = read_head(&self.received[..head])?;
        while self.received.len() < head + length {
            self.receive().await?;
        }
        let body = &self.received[head..head + length];
        if !ok {
            bail!("the server answered {}", String::from_utf8_lossy(&self.received[..head + length]));
        }
        Ok(body)
    }

    pub async fn send(&mut self, request: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(request).await?)
    }

    /// Reads an answer whose body may be of any length, and forgets it. Returns how long it was.
    ///
    /// # Errors
    /// When the answer is not a 200.
    pub async fn skip_answer(&mut self) -> Result<usize> {
        self.received.clear();
        let head = self.read_until(END_OF_HEAD).await?;
        let (ok, length) = read_head(&self.received[..head])?;
        if !ok {
            bail!("the server answered {}", String::from_utf8_lossy(&self.received));
        }
        let mut left = length + head - self.received.len();
        self.received.clear();
        while left > 0 {
            self.receive().await?;
            left = left.checked_sub(self.received.len()).context("no more comes than was announced")?;
            self.received.clear();
        }
        Ok(length)
    }

    /// Reads until `text` has come in, and forgets everything up to its end.
    pub async fn skip_past(&mut self, text: &str) -> Result<()> {
        let end = self.read_until(text.as_bytes()).await?;
        self.received.drain(..end);
        Ok(())
    }

    /// Returns where `wanted` ends in what was received.
    async fn read_until(&mut self, wanted: &[u8]) -> Result<usize> {
        let mut searched = 0;
        loop {
            if let Some(place) = find(&self.received[searched..], wanted) {
                return Ok(searched + place + wanted.len());
            }
            searched = self.received.len().saturating_sub(wanted.len() - 1);
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.received).await? == 0 {
            bail!("the server closed the connection");
        }
        if self.received.len() > MAX_ANSWER {
            bail!("an answer is longer than {MAX_ANSWER} bytes");
        }
        Ok(())
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Whether an answer is all there: its head, and as much after it as the head says.
pub fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = find(answer, END_OF_HEAD).map(|place| place + END_OF_HEAD.len()) else { return false };
    read_head(&answer[..head]).is_ok_and(|(_, length)| answer.len() >= head + length)
}

/// Whether the status is 200, and the length of the body.
fn read_head(head: &[u8]) -> Result<(bool, usize)> {
    let head = str::from_utf8(head).context("a head is ASCII")?;
    let lengths = head.lines().filter_map(|line| line.split_once(": "));
    let length = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value).next();
    let length = length.context("the answer has no content-length")?.parse()?;
    Ok((head.starts_with("HTTP/1.1 200 "), length))
}
