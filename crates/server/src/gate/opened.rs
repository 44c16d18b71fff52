//! Connections of TLS that the gate opens, because the session has a credential for the host: what is put into requests, and
//! masked in answers.
//!
//! The host is verified before anything is sent to it. What a connection knows of credentials is as they were when it was made.

use std::{
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use axum::body::{Body, HttpBody};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use rota_api::egress::EgressReason;
use rustls::{RootCertStore, pki_types::ServerName, server::Acceptor};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, join, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client::TlsStream};

use super::{
    Session,
    body::{Coding, Swapped},
    names::Target,
    placement::{LEAST_MASKED, Swaps, Way, spellings},
    record::{Connection, Placed},
    tunnel, web,
};
use crate::{
    error::{Error, Result},
    limits::{EGRESS_CONNECT_TIMEOUT, EGRESS_HEADER_TIMEOUT, EGRESS_LOOKUP_TIMEOUT},
    resources::session_secrets,
    telemetry, tls,
};

/// What connections are opened for here, by their names in TLS (RFC 7301).
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// The credentials of a session for one host.
pub(super) struct Opened {
    host: Arc<str>,
    roots: Arc<RootCertStore>,
    /// Their ids. What is replaced names its credential by the place here.
    ids: Arc<[String]>,
    /// Placeholders and secrets, for headers.
    headers: Swaps,
    /// The same for bodies.
    bodies: Arc<Swaps>,
    /// Secrets, in each of their spellings, and placeholders.
    answers: Arc<Swaps>,
    /// Whether a secret was sent on this connection.
    has_sent: Arc<AtomicBool>,
    /// Why no request is sent, which each of them is told.
    failure: Option<EgressReason>,
}

impl Session {
    /// What is put into requests on a connection; `None` where it is not to be opened. Where the store does not say, it is opened to
    /// say so.
    pub(super) async fn opened(&self, target: &Target, port: u16) -> Option<Opened> {
        let Target::Name(host) = target else { return None };
        if self.authority.is_none() || self.gate.is_never_opened(host) {
            return None;
        }
        let read = timeout(EGRESS_LOOKUP_TIMEOUT, self.credentials(host, port)).await;
        read.unwrap_or_else(|_| Err(Error::internal("the store does not answer"))).unwrap_or_else(|error| {
            if telemetry::may_tell("credentials of the gate") {
                tracing::error!(session_id = %self.id, %error, "the credentials for a host could not be read");
            }
            let opened = self.opened_with(host, Vec::new(), [Swaps::default(), Swaps::default(), Swaps::default()]);
            Some(Opened { failure: Some(EgressReason::CredentialUnusable), ..opened })
        })
    }

    async fn credentials(&self, host: &Arc<str>, port: u16) -> Result<Option<Opened>> {
        let (workspace, id) = (self.workspace.clone(), self.id.clone());
        let all = self.gate.db.read(move |tx| session_secrets::of_session(tx, &workspace, &id)).await?;
        let (mut headers, mut bodies, mut answers) = (Swaps::default(), Swaps::default(), Swaps::default());
        let mut ids = Vec::new();
        for held in all.iter().filter(|held| held.purpose.is_for(host, port)) {
            let Some(placeholder) = held.placeholder.as_deref().map(str::as_bytes) else { continue };
            let key = self.gate.vault.key(&self.gate.db, &self.workspace).await?;
            let secret = held.open(&key)?;
            let (value, place) = (secret.reveal(), ids.len());
            if held.location.header {
                headers.add(placeholder, value.as_bytes(), place);
            }
            if held.location.body {
                bodies.add(placeholder, value.as_bytes(), place);
            }
            if value.len() >= LEAST_MASKED {
                for spelling in spellings(value) {
                    answers.add(&spelling, placeholder, place);
                }
            }
            ids.push(held.id.clone());
        }
        if ids.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.opened_with(host, ids, [headers, bodies, answers])))
    }

    fn opened_with(&self, host: &Arc<str>, ids: Vec<String>, [headers, bodies, answers]: [Swaps; 3]) -> Opened {
        Opened {
            host: host.clone(),
            roots: self.gate.roots(),
            ids: ids.into(),
            headers,
            bodies: Arc::new(bodies),
            answers: Arc::new(answers),
            has_sent: Arc::default(),
            failure: None,
        }
    }
}

/// Serves a connection that begins with `first`, and that is to be opened.
pub(super) async fn serve<S>(session: &Session, connection: &Connection, first: Vec<u8>, client: S, opened: Opened)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(authority) = &session.authority else { return };
    let (reader, writer) = split(client);
    let client = join(Cursor::new(first.clone()).chain(reader), writer);
    let hello = timeout(EGRESS_HEADER_TIMEOUT, LazyConfigAcceptor::new(Acceptor::default(), client)).await;
    let Ok(Ok(mut start)) = hello else { return connection.refuse(EgressReason::WrongProtocol) };
    let asked: Vec<Vec<u8>> = start.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    let is_ours = |protocol: &Vec<u8>| protocol == H2 || protocol == HTTP_1_1;
    let mut offers: Vec<Vec<u8>> = asked.iter().filter(|protocol| is_ours(protocol)).cloned().collect();
    if offers.is_empty() && !asked.is_empty() {
        // Another protocol than HTTP: nothing can be put in, so nothing is read.
        if let Err(reason) = tunnel::pass(session, connection, &first, &mut start.io).await {
            connection.refuse(reason);
        }
        return;
    }
    if offers.is_empty() {
        offers.push(HTTP_1_1.to_vec());
    }
    let reached = opened.reach(session, connection, offers.clone()).await;
    let is_h2 = match &reached {
        Ok(host) => host.get_ref().1.alpn_protocol() == Some(H2),
        // What is said instead is said in a protocol that the client speaks.
        Err(_) => !offers.iter().any(|protocol| protocol == HTTP_1_1),
    };
    let speaks = if is_h2 { H2 } else { HTTP_1_1 };
    let Ok(config) = authority.server(&opened.host, vec![speaks.to_vec()]) else {
        return connection.refuse(EgressReason::CredentialUnusable);
    };
    match timeout(EGRESS_HEADER_TIMEOUT, start.into_stream(config)).await {
        Ok(Ok(client)) => {
            let leg = web::Leg { opened: Some(opened), is_h2 };
            web::serve(session, connection, client, &leg, Some(reached.map(web::transport))).await;
        }
        Ok(Err(error)) => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            connection.refuse(match cause {
                Some(rustls::Error::NoApplicationProtocol) => EgressReason::WrongProtocol,
                _ => EgressReason::CertificateRefused,
            });
        }
        Err(_) => connection.refuse(EgressReason::TimedOut),
    }
}

impl Opened {
    /// Connects to the host and verifies it.
    async fn reach(
        &self,
        session: &Session,
        connection: &Connection,
        protocols: Vec<Vec<u8>>,
    ) -> Result<TlsStream<TcpStream>, EgressReason> {
        if let Some(reason) = self.failure {
            return Err(reason);
        }
        let host = session.dial(&connection.target, connection.port).await?;
        connection.opened();
        let unusable = |_| EgressReason::NotConnected;
        let mut config = tls::client_config_with(self.roots.clone()).map_err(unusable)?;
        config.alpn_protocols = protocols;
        let name = ServerName::try_from(self.host.to_string()).map_err(|_| EgressReason::NotTrusted)?;
        match timeout(EGRESS_CONNECT_TIMEOUT, TlsConnector::from(Arc::new(config)).connect(name, host)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
                let is_certificate = matches!(cause, Some(rustls::Error::InvalidCertificate(_)));
                Err(if is_certificate { EgressReason::NotTrusted } else { EgressReason::NotConnected })
            }
            Err(_) => Err(EgressReason::TimedOut),
        }
    }

    /// The same once more, for a client that speaks this protocol already.
    pub(super) async fn reach_again(
        &self,
        session: &Session,
        connection: &Connection,
        is_h2: bool,
    ) -> Result<TlsStream<TcpStream>, EgressReason> {
        let speaks = if is_h2 { H2 } else { HTTP_1_1 };
        let host = self.reach(session, connection, vec![speaks.to_vec()]).await?;
        let agrees = (host.get_ref().1.alpn_protocol() == Some(H2)) == is_h2;
        agrees.then_some(host).ok_or(EgressReason::NotConnected)
    }

    /// Puts secrets into a request. What is to be masked in the answer to it, beside what always is.
    pub(super) fn place(
        &self,
        request: Request<Body>,
        placed: &Arc<Placed>,
    ) -> Result<(Request<Body>, Swaps), EgressReason> {
        let (mut head, mut body) = request.into_parts();
        let mut also = Swaps::default();
        for value in head.headers.values_mut() {
            let mut of = 0;
            let found = |place: usize| {
                of = place;
                self.has_sent.store(true, Relaxed);
                placed.note(&self.ids[place]);
            };
            let Some(header) = self.headers.in_header(value.as_bytes(), found) else { continue };
            *value = HeaderValue::from_bytes(&header.value).map_err(|_| EgressReason::CredentialUnusable)?;
            // So that it is kept in no table of a connection.
            value.set_sensitive(true);
            if let Some((was, is)) = header.coded {
                also.add(without_padding(&is), without_padding(&was), of);
            }
        }
        // An answer that is compressed cannot be looked into.
        head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if !self.bodies.is_empty() && !body.is_end_stream() && coding(&head.headers) == Some(Coding::Plain) {
            if !self.bodies.keep_lengths() {
                head.headers.remove(header::CONTENT_LENGTH);
            }
            let (ids, placed, has_sent) = (self.ids.clone(), placed.clone(), self.has_sent.clone());
            let found = move |place: usize| {
                has_sent.store(true, Relaxed);
                placed.note(&ids[place]);
            };
            body = Body::new(Swapped::new(body, self.bodies.clone(), Way::Out, Coding::Plain, Box::new(found)));
        }
        Ok((Request::from_parts(head, body), also))
    }

    /// Masks secrets in an answer.
    pub(super) fn mask(&self, response: Response<Body>, also: Swaps) -> Result<Response<Body>, EgressReason> {
        let mut answers = self.answers.clone();
        if !also.is_empty() {
            Arc::make_mut(&mut answers).add_all(also);
        }
        let (mut head, mut body) = response.into_parts();
        mask_headers(&answers, &mut head.headers);
        if body.is_end_stream() || answers.is_empty() {
            return Ok(Response::from_parts(head, body));
        }
        match coding(&head.headers) {
            Some(coding) => {
                if coding == Coding::Gzip {
                    head.headers.remove(header::CONTENT_ENCODING);
                }
                if coding == Coding::Gzip || !answers.keep_lengths() {
                    head.headers.remove(header::CONTENT_LENGTH);
                }
                body = Body::new(Swapped::new(body, answers, Way::Back, coding, Box::new(|_| {})));
            }
            None if self.has_sent.load(Relaxed) => return Err(EgressReason::UnreadableAnswer),
            // It knows no secret.
            None => {}
        }
        Ok(Response::from_parts(head, body))
    }
}

/// Masks secrets in the values of headers, or of trailers.
pub(super) fn mask_headers(answers: &Swaps, headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if let Some(masked) = answers.replaced(value.as_bytes(), |_| {}) {
            // A placeholder can stand in a header.
            *value = HeaderValue::from_bytes(&masked).unwrap_or(HeaderValue::from_static(""));
        }
    }
}

fn without_padding(base64: &[u8]) -> &[u8] {
    let end = base64.iter().rposition(|byte| *byte != b'=').map_or(0, |at| at + 1);
    &base64[..end]
}

/// How a body is coded; `None` where nobody here can look into it.
fn coding(headers: &HeaderMap) -> Option<Coding> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let coding = match (codings.next(), codings.next()) {
        (None, _) => return Some(Coding::Plain),
        (Some(coding), None) => coding.to_str().ok()?.trim(),
        _ => return None,
    };
    match () {
        () if coding.is_empty() || coding.eq_ignore_ascii_case("identity") => Some(Coding::Plain),
        () if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => Some(Coding::Gzip),
        () => None,
    }
}
