//! A host that has files and nothing else: a registry of images, an index of packages.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::{
    ServerConfig,
    crypto::ring as cryptography,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::request::read_request;

/// The authority, and the certificate, of [`StaticHost::over_tls`].
pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/packages.pem");
/// The name that it stands for.
pub const NAME: &str = "packages.example";

/// A file.
#[derive(Debug, Clone)]
pub struct Served {
    pub kind: &'static str,
    pub content: Vec<u8>,
    /// So many bytes are sent of it before the connection is closed.
    pub cut_at: Option<usize>,
    /// It is not closed, and nothing more comes.
    pub hangs: bool,
}

/// The host. It ends when it is dropped.
pub struct StaticHost {
    pub address: SocketAddr,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct State {
    files: Mutex<HashMap<String, Served>>,
    asked: Mutex<Vec<String>>,
    /// Without this only a token is given: at `/token`.
    token: Mutex<Option<String>>,
}

impl StaticHost {
    pub async fn start() -> Self {
        Self::serving(None).await
    }

    /// The same over TLS, with a certificate that no machine trusts.
    pub async fn over_tls() -> Self {
        let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(cryptography::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        Self::serving(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serving(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::new(State::default()));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, tls, state.clone()));
        Self { address, state, _serving: serving }
    }

    /// Has a file at `path`.
    pub fn put(&self, path: impl Into<String>, kind: &'static str, content: impl Into<Vec<u8>>) {
        let served = Served { kind, content: content.into(), cut_at: None, hangs: false };
        self.state.files.lock().unwrap().insert(path.into(), served);
    }

    /// Changes a file.
    pub fn change(&self, path: &str, how: impl FnOnce(&mut Served)) {
        how(self.state.files.lock().unwrap().get_mut(path).unwrap_or_else(|| panic!("no file at {path}")));
    }

    /// Wants a token from now on.
    pub fn protect(&self, token: &str) {
        *self.state.token.lock().unwrap() = Some(token.to_owned());
    }

    /// The paths that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let mut clients = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        let (tls, state, address) = (tls.clone(), state.clone(), listener.local_addr().unwrap());
        clients.spawn(async move {
            match tls {
                None => talk(connection, &state, address).await,
                Some(tls) => match tls.accept(connection).await {
                    Ok(connection) => talk(connection, &state, address).await,
                    Err(_) => None,
                },
            }
        });
    }
}

/// Ends when the client has gone.
async fn talk(mut connection: impl AsyncRead + AsyncWrite + Unpin, state: &State, address: SocketAddr) -> Option<()> {
    while let Some(request) = read_request(&mut connection).await {
        let path = request.line.split(' ').nth(1).unwrap_or_default().to_owned();
        state.asked.lock().unwrap().push(path.clone());
        let path = path.split('?').next().unwrap_or_default();
        let token = state.token.lock().unwrap().clone();
        if let Some(token) = &token {
            let wanted = format!("Bearer {token}");
            if path == "/token" {
                send(&mut connection, "200 OK", "", format!("{{\"token\": \"{token}\"}}").as_bytes(), None).await?;
                continue;
            }
            if request.headers.get("authorization") != Some(&wanted) {
                let how = format!(
                    "www-authenticate: Bearer realm=\"http://{address}/token\",service=\"tests\",scope=\"repository:x:pull\"\r\n"
                );
                send(&mut connection, "401 Unauthorized", &how, b"", None).await?;
                continue;
            }
        }
        let found = state.files.lock().unwrap().get(path).cloned();
        match found {
            None => send(&mut connection, "404 Not Found", "", b"", None).await?,
            Some(Served { kind, content, cut_at, hangs }) => {
                let headers = format!("content-type: {kind}\r\n");
                let sent = send(&mut connection, "200 OK", &headers, &content, cut_at).await;
                if hangs {
                    std::future::pending::<()>().await;
                }
                sent?;
            }
        }
    }
    None
}

async fn send(
    connection: &mut (impl AsyncWrite + Unpin),
    status: &str,
    headers: &str,
    content: &[u8],
    cut_at: Option<usize>,
) -> Option<()> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", content.len());
    connection.write_all(head.as_bytes()).await.ok()?;
    connection.write_all(&content[..cut_at.unwrap_or(content.len()).min(content.len())]).await.ok()?;
    connection.flush().await.ok()?;
    if cut_at.is_none() { Some(()) } else { None }
}
