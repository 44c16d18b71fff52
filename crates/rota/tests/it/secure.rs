//! Hosts of the internet with certificates of an authority of the test's: they say what they were sent, and have files. They
//! speak gRPC and WebSocket too: what comes is sent back.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use axum::body::{Body, Bytes, to_bytes};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::stream;
use hyper::{
    HeaderMap, Request, Response,
    body::{Body as HttpBody, Frame, Incoming},
    header,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::{
    ServerConfig,
    crypto::ring as cryptography,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// An authority, and a file with its certificate.
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl TestAuthority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A certificate of the same name would pass for one that has signed itself.
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        let coded = STANDARD.encode(issuer.der());
        let lines: Vec<&str> = (0..coded.len()).step_by(64).map(|i| &coded[i..coded.len().min(i + 64)]).collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        fs::write(folder.path().join("authority.pem"), pem).unwrap();
        Self { issuer, folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// What a server of these names is configured with that speaks these protocols.
    pub fn server(&self, names: &[&str], protocols: &[&str]) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(cryptography::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// What the hosts have, and were sent.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    /// Files and their types, by host and path.
    files: Mutex<HashMap<String, (&'static str, Vec<u8>)>>,
    /// What hosts want to be asked with.
    wanted: Mutex<HashMap<String, String>>,
    /// Connections that were changed to another protocol.
    sockets: Mutex<JoinSet<()>>,
}

/// The hosts. They end when this is dropped.
pub struct Secure {
    pub authority: TestAuthority,
    http: SocketAddr,
    https: SocketAddr,
    seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

impl Secure {
    /// Hosts with a certificate for these names.
    pub async fn start(names: &[&str]) -> Self {
        Self::speaking(names, &["h2", "http/1.1"]).await
    }

    pub async fn speaking(names: &[&str], protocols: &[&str]) -> Self {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let authority = TestAuthority::new();
        let tls = TlsAcceptor::from(authority.server(names, protocols));
        let seen: Arc<Seen> = Arc::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(http, None, Arc::clone(&seen)));
        serving.spawn(serve(https, Some(tls), Arc::clone(&seen)));
        Self { authority, http: addresses.0, https: addresses.1, seen, _serving: serving }
    }

    /// `[network.hosts]` for these names.
    pub fn hosts(&self, names: &[&str]) -> Vec<(String, Vec<String>)> {
        let of = |name: &&str| {
            [(format!("{name}:80"), vec![self.http.to_string()]), (format!("{name}:443"), vec![self.https.to_string()])]
        };
        names.iter().flat_map(of).collect()
    }

    /// Has a file at `place`, which is a host and a path. A host with files has nothing else.
    pub fn put(&self, place: impl Into<String>, kind: &'static str, content: impl Into<Vec<u8>>) {
        self.seen.files.lock().unwrap().insert(place.into(), (kind, content.into()));
    }

    /// Has `host` answer only who sends this as `Authorization`.
    pub fn wants(&self, host: &str, authorization: &str) {
        self.seen.wanted.lock().unwrap().insert(host.to_owned(), authorization.to_owned());
    }

    /// What was sent so far: of each request its first line, its headers and its body.
    pub fn seen(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, seen: Arc<Seen>) {
    let mut clients = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, seen) = (tls.clone(), seen.clone());
        clients.spawn(async move {
            // Clients that go away are no matter.
            match tls {
                None => talk(stream, false, seen).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        talk(stream, is_h2, seen).await;
                    }
                }
            }
        });
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, is_h2: bool, seen: Arc<Seen>) {
    let service = service_fn(move |request| {
        let seen = seen.clone();
        async move { Ok::<_, Infallible>(answer(request, &seen).await) }
    });
    let stream = TokioIo::new(stream);
    if is_h2 {
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await);
    } else {
        drop(http1::Builder::new().serve_connection(stream, service).with_upgrades().await);
    }
}

async fn answer(mut request: Request<Incoming>, seen: &Seen) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let text =
        |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let (authorization, key, kind) = (text("authorization"), text("sec-websocket-key"), text("content-type"));
    let host = request.uri().host().map_or_else(|| text("host"), str::to_owned);
    let mut told = format!("{} {:?} {}\n", request.method(), request.version(), request.uri());
    for (name, value) in request.headers() {
        told += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let wanted = seen.wanted.lock().unwrap().get(&host).cloned();
    if wanted.is_some_and(|wanted| wanted != authorization) {
        seen.requests.lock().unwrap().push(told);
        let refused = Response::builder().status(401).header(header::WWW_AUTHENTICATE, "Basic realm=\"here\"");
        return refused.body(Body::empty()).unwrap();
    }
    if path == "/socket" {
        seen.requests.lock().unwrap().push(told);
        let upgraded = hyper::upgrade::on(&mut request);
        let accepted = (!key.is_empty()).then(|| accepted(&key));
        let speaks_messages = accepted.is_some();
        seen.sockets.lock().unwrap().spawn(async move {
            let Ok(upgraded) = upgraded.await else { return };
            let mut stream = TokioIo::new(upgraded);
            if speaks_messages {
                drop(send_messages_back(&mut stream).await);
            } else {
                let (mut reader, mut writer) = split(stream);
                drop(copy(&mut reader, &mut writer).await);
            }
        });
        let switching = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        let switching = accepted.into_iter().fold(switching, |all, own| all.header("sec-websocket-accept", own));
        return switching.body(Body::empty()).unwrap();
    }
    if kind.starts_with("application/grpc") {
        seen.requests.lock().unwrap().push(told);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-told", format!("authorized by {authorization}").parse().unwrap());
        let back = Body::new(Back { messages: request.into_body(), trailers: Some(trailers) });
        return Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(back).unwrap();
    }
    let body = to_bytes(Body::new(request.into_body()), 1 << 24).await.unwrap_or_default();
    told += &format!("\n{}", String::from_utf8_lossy(&body));
    seen.requests.lock().unwrap().push(told.clone());
    let response = Response::builder();
    let (has_files, file) = {
        let files = seen.files.lock().unwrap();
        let beginning = format!("{host}/");
        (files.keys().any(|place| place.starts_with(&beginning)), files.get(&format!("{host}{path}")).cloned())
    };
    if has_files {
        return match file {
            Some((kind, content)) => response.header(header::CONTENT_TYPE, kind).body(Body::from(content)).unwrap(),
            None => response.status(404).body(Body::from("not found")).unwrap(),
        };
    }
    let pieces = |text: Vec<u8>| {
        Body::from_stream(stream::iter(text.into_iter().map(|byte| Ok::<_, Infallible>(Bytes::from(vec![byte])))))
    };
    let response = match path.as_str() {
        "/pieces" => response.body(pieces(told.into_bytes())),
        "/header" => response.header("x-echo", &authorization).body(Body::from("in a header\n")),
        "/gzip" => {
            let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut coder, told.as_bytes()).unwrap();
            response.header(header::CONTENT_ENCODING, "gzip").body(Body::from(coder.finish().unwrap()))
        }
        "/odd" => response.header(header::CONTENT_ENCODING, "br").body(Body::from(told)),
        _ => match path.strip_prefix("/to/") {
            Some(other) => response.status(302).header("location", format!("https://{other}/")).body(Body::empty()),
            None => response.body(Body::from(told)),
        },
    };
    response.unwrap()
}

/// The messages of a gRPC call as they come, and then trailers.
struct Back {
    messages: Incoming,
    trailers: Option<HeaderMap>,
}

impl HttpBody for Back {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.messages).poll_frame(cx));
        Poll::Ready(frame.or_else(|| self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))))
    }
}

/// What a server of WebSocket says to a client's key (RFC 6455, section 4.2.2).
fn accepted(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Sends each message back, up to the one that closes the connection: short and whole ones, as clients mask them (RFC 6455,
/// section 5.2).
async fn send_messages_back(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let mut head = [0; 6];
        stream.read_exact(&mut head).await?;
        let [kind, length, mask @ ..] = head;
        let mut message = vec![0; usize::from(length & 0x7f)];
        stream.read_exact(&mut message).await?;
        for (i, byte) in message.iter_mut().enumerate() {
            *byte ^= mask[i % 4];
        }
        stream.write_all(&[&[kind, length & 0x7f], &message[..]].concat()).await?;
        stream.flush().await?;
        if kind & 0xf == 8 {
            return Ok(());
        }
    }
}
