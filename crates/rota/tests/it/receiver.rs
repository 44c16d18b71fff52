//! A server that webhooks are sent to: it tells the test what arrives and answers as the test says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;
use rustls::{
    ServerConfig,
    crypto::ring as cryptography,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    contract::{MANAGED_AGENTS, OWN},
    request::read_request,
    server::PATIENCE,
};

/// How requests are answered from now on.
#[derive(Debug, Clone)]
pub enum Reply {
    /// With a status and a body.
    Status(u16, &'static str),
    /// With a status, and with the seconds after which to come again.
    Later(u16, u32),
    /// With a redirect to a URL.
    Redirect(String),
    /// Never.
    Silence,
}

/// A running receiver. It ends when it is dropped.
pub struct Receiver {
    /// Where webhooks are to be sent.
    pub url: String,
    reply: Arc<Mutex<Reply>>,
    arrived: mpsc::UnboundedReceiver<Delivery>,
    _serving: JoinSet<()>,
}

/// A request that arrived, whose event has been held against the contract.
#[derive(Debug)]
pub struct Delivery {
    /// `webhook-id`, which is the id of the event.
    pub id: String,
    /// The event.
    pub event: Value,
    /// Whether it was answered with a success.
    pub is_accepted: bool,
    timestamp: i64,
    signature: String,
    body: String,
}

impl Receiver {
    /// A receiver that accepts everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        Self::serving(listener, url, None)
    }

    /// A receiver that accepts everything over TLS, as `localhost`, with a certificate that no machine trusts: [`CERTIFICATE`].
    pub async fn over_tls() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/hooks", listener.local_addr().unwrap().port());
        Self::serving(listener, url, Some(TlsAcceptor::from(tls())))
    }

    fn serving(listener: TcpListener, url: String, tls: Option<TlsAcceptor>) -> Self {
        let reply = Arc::new(Mutex::new(Reply::Status(200, "")));
        let (tell, arrived) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, tls, reply.clone(), tell));
        Self { url, reply, arrived, _serving: serving }
    }

    /// Answers in another way from now on.
    pub fn replies(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// The next request that arrives.
    pub async fn next(&mut self) -> Delivery {
        timeout(PATIENCE, self.arrived.recv()).await.expect("no webhook arrives").unwrap()
    }

    /// What has arrived by now and was not asked for yet.
    pub fn so_far(&mut self) -> Vec<Delivery> {
        std::iter::from_fn(|| self.arrived.try_recv().ok()).collect()
    }
}

impl Delivery {
    /// `data.type` of the event.
    pub fn kind(&self) -> &str {
        self.event["data"]["type"].as_str().unwrap()
    }

    /// `data.id` of the event.
    pub fn about(&self) -> &str {
        self.event["data"]["id"].as_str().unwrap()
    }

    /// Whether it was signed with `secret`, as Standard Webhooks has it.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let tag = STANDARD.decode(self.signature.strip_prefix("v1,").unwrap()).unwrap();
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes(), &tag).is_ok()
    }

    /// When it was signed, in seconds since the epoch.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }
}

/// The certificate of receivers over TLS, which has signed itself.
pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/certificate.pem");

/// What answers as `localhost` with [`CERTIFICATE`].
pub fn tls() -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(cryptography::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(config.with_single_cert(vec![certificate], key).unwrap())
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    reply: Arc<Mutex<Reply>>,
    tell: mpsc::UnboundedSender<Delivery>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let (tls, reply, tell) = (tls.clone(), reply.clone(), tell.clone());
        connections.spawn(async move {
            match tls {
                None => answer(connection, reply, tell).await,
                Some(tls) => {
                    // A client that does not trust the certificate ends the handshake.
                    if let Ok(connection) = tls.accept(connection).await {
                        answer(connection, reply, tell).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection, request by request. A request is answered as the receiver replies when it arrives.
async fn answer(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    reply: Arc<Mutex<Reply>>,
    tell: mpsc::UnboundedSender<Delivery>,
) {
    while let Some(request) = read_request(&mut connection).await {
        let reply = reply.lock().unwrap().clone();
        let is_accepted = matches!(reply, Reply::Status(200..=299, _));
        drop(tell.send(delivery(&request.headers, request.body, is_accepted)));
        let (status, header, body) = match reply {
            Reply::Status(status, body) => (status, String::new(), body),
            Reply::Later(status, seconds) => (status, format!("retry-after: {seconds}\r\n"), ""),
            Reply::Redirect(url) => (302, format!("location: {url}\r\n"), ""),
            Reply::Silence => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} x\r\n{header}content-length: {}\r\n\r\n", body.len());
        // A sender may well hang up before it has read everything.
        drop(connection.write_all(format!("{head}{body}").as_bytes()).await);
    }
}

fn delivery(headers: &HashMap<String, String>, body: String, is_accepted: bool) -> Delivery {
    assert_eq!(headers["content-type"], "application/json");
    assert!(headers["user-agent"].starts_with("rota/"));
    let event: Value = serde_json::from_str(&body).unwrap();
    let is_own = event["data"]["type"].as_str().is_some_and(|kind| kind.starts_with("rota."));
    if is_own {
        OWN.check_event(&event);
    } else {
        MANAGED_AGENTS.check_event(&event);
    }
    assert_eq!(event["id"], headers["webhook-id"]);
    Delivery {
        id: headers["webhook-id"].clone(),
        event,
        is_accepted,
        timestamp: headers["webhook-timestamp"].parse().unwrap(),
        signature: headers["webhook-signature"].clone(),
        body,
    }
}
