//! Hosts of the internet, played by the test: one server for HTTP and one for HTTPS, whatever name they are asked for.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::receiver;

/// The servers. They end when this is dropped.
pub struct Web {
    /// Where HTTP is.
    pub http: SocketAddr,
    /// Where HTTPS is, with a certificate that nobody trusts.
    pub https: SocketAddr,
    told: Arc<Told>,
    _serving: JoinSet<()>,
}

/// What the servers and the test tell each other.
struct Told {
    requests: Mutex<Vec<String>>,
    /// Lines of `/drip` that may be sent.
    lines: Semaphore,
}

impl Web {
    pub async fn start() -> Self {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let told = Arc::new(Told { requests: Mutex::default(), lines: Semaphore::new(0) });
        let mut serving = JoinSet::new();
        serving.spawn(serve(http, None, Arc::clone(&told)));
        serving.spawn(serve(https, Some(TlsAcceptor::from(receiver::tls())), Arc::clone(&told)));
        Self { http: addresses.0, https: addresses.1, told, _serving: serving }
    }

    /// The first lines of the requests that have come.
    pub fn requests(&self) -> Vec<String> {
        self.told.requests.lock().unwrap().clone()
    }

    /// Has the next line of `/drip` sent.
    pub fn drip(&self) {
        self.told.lines.add_permits(1);
    }

    /// `[network.hosts]` for these names.
    pub fn hosts(&self, names: &[&str]) -> Vec<(String, Vec<String>)> {
        let of = |name: &&str| {
            [(format!("{name}:80"), vec![self.http.to_string()]), (format!("{name}:443"), vec![self.https.to_string()])]
        };
        names.iter().flat_map(of).collect()
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, told: Arc<Told>) {
    let mut clients = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, told) = (tls.clone(), told.clone());
        clients.spawn(async move {
            // Clients that go away are no matter.
            let _ = match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => talk(stream, &told).await,
                    Err(error) => Err(error),
                },
                None => talk(stream, &told).await,
            };
        });
    }
}

/// Answers requests that have no body, or one that is not read.
async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, told: &Told) -> io::Result<()> {
    let (mut reader, mut writer) = split(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(reader.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        told.requests.lock().unwrap().push(format!("{host}{path}"));
        let answer = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        match path {
            "/silence" => std::future::pending().await,
            "/drip" => {
                writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await?;
                for line in ["one\n", "two\n"] {
                    told.lines.acquire().await.map_err(io::Error::other)?.forget();
                    writer.write_all(line.as_bytes()).await?;
                    writer.flush().await?;
                }
            }
            "/endless" => {
                writer.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
                loop {
                    writer.write_all(&[b'x'; 8 * 1024]).await?;
                }
            }
            "/socket" => {
                writer
                    .write_all(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                    .await?;
                copy(&mut reader, &mut writer).await?;
                return Ok(());
            }
            _ => match path.strip_prefix("/to/") {
                Some(other) => {
                    let moved = format!("HTTP/1.1 302 Found\r\nLocation: http://{other}/\r\nContent-Length: 0\r\n\r\n");
                    writer.write_all(moved.as_bytes()).await?;
                }
                None => writer.write_all(answer(&format!("hello from {host}\n")).as_bytes()).await?,
            },
        }
        writer.flush().await?;
        if head.contains("connection: close") {
            return writer.shutdown().await;
        }
    }
}
