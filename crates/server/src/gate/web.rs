//! HTTP, in clear at port 80 and on opened connections: each request is read, checked and passed on, so that none that follows
//! another on the same connection goes to another host.

use std::pin::{Pin, pin};

use axum::body::Body;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    uri::{Authority, PathAndQuery, Scheme, Uri},
};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Executor,
    server::conn as server,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rota_api::egress::EgressReason;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    Session,
    names::{Target, canonical},
    opened::Opened,
    placement::Swaps,
    record::Connection,
};
use crate::limits::{
    EGRESS_CONNECTION_WINDOW, EGRESS_COPY_IN_BYTES, EGRESS_COPY_OUT_BYTES, EGRESS_HEADER_BYTES, EGRESS_HEADER_TIMEOUT,
    EGRESS_STREAM_WINDOW, EGRESS_STREAMS,
};

/// Headers that concern one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"];

/// What the requests of a connection go over.
#[derive(Default)]
pub(super) struct Leg {
    /// What is put into them; `None` in clear.
    pub(super) opened: Option<Opened>,
    /// Whether client and host speak HTTP/2.
    pub(super) is_h2: bool,
}

/// A connection to a host.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

pub(super) fn transport(stream: impl Transport + 'static) -> Box<dyn Transport> {
    Box::new(stream)
}

/// Something that runs beside a connection, and ends with it.
type Task<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The connection to the host, which the requests of a client follow each other on.
struct Upstream {
    sender: Option<Sender>,
    /// A connection that was made, or could not be made, before there was a request.
    first: Option<Result<Box<dyn Transport>, EgressReason>>,
    /// Takes what moves its bytes, in clear: in the task of the client's connection, so that no thread waits for another with each
    /// piece.
    here: mpsc::UnboundedSender<Task<'static>>,
    /// The same where they are encrypted, which is worth a thread. Ended with this.
    elsewhere: JoinSet<()>,
    /// Both ends of a connection that speaks another protocol from now on.
    upgraded: Option<(OnUpgrade, OnUpgrade)>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    /// On which requests do not wait for each other.
    Two(http2::SendRequest<Body>),
}

/// What serves a connection.
#[derive(Clone, Copy)]
struct Way<'a> {
    session: &'a Session,
    connection: &'a Connection,
    leg: &'a Leg,
    upstream: &'a Mutex<Upstream>,
}

/// Serves a connection on which HTTP is spoken. `first` is the one to the host, where it is there already.
pub(super) async fn serve<S>(
    session: &Session,
    connection: &Connection,
    stream: S,
    leg: &Leg,
    first: Option<Result<Box<dyn Transport>, EgressReason>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (here, moving) = mpsc::unbounded_channel();
    let upstream = Upstream { sender: None, first, here, elsewhere: JoinSet::new(), upgraded: None };
    let upstream = Mutex::new(upstream);
    let way = Way { session, connection, leg, upstream: &upstream };
    let service = service_fn(async |request| {
        let answered = way.pass_on(request).await;
        Ok::<_, std::convert::Infallible>(answered.unwrap_or_else(|reason| {
            connection.refuse(reason);
            refusal(session, connection, leg, reason)
        }))
    });
    let stream = TokioIo::new(stream);
    let (requests, new) = mpsc::unbounded_channel();
    let mut tasks = Tasks { moving, requests: new, running: FuturesUnordered::new() };
    let served = if leg.is_h2 {
        // Each request is a future beside the connection: what is under way ends with it.
        let mut http = server::http2::Builder::new(Beside(requests));
        http.timer(TokioTimer::new()).max_concurrent_streams(EGRESS_STREAMS);
        http.max_header_list_size(EGRESS_HEADER_BYTES as u32).max_send_buf_size(EGRESS_STREAM_WINDOW as usize);
        http.initial_stream_window_size(EGRESS_STREAM_WINDOW).initial_connection_window_size(EGRESS_CONNECTION_WINDOW);
        tasks.beside(http.serve_connection(stream, service)).await
    } else {
        drop(requests);
        let mut http = server::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(EGRESS_HEADER_TIMEOUT);
        http.max_buf_size(EGRESS_HEADER_BYTES).preserve_header_case(true);
        tasks.beside(http.serve_connection(stream, service).with_upgrades()).await
    };
    if served.is_err_and(|error| error.is_parse()) {
        connection.refuse(EgressReason::WrongProtocol);
    }
    let upgraded = upstream.lock().await.upgraded.take();
    if let Some((client, host)) = upgraded
        && let (Ok(client), Ok(host)) = tasks.beside(async { tokio::join!(client, host) }).await
    {
        let (mut client, mut host) = (TokioIo::new(client), TokioIo::new(host));
        let _ =
            copy_bidirectional_with_sizes(&mut client, &mut host, EGRESS_COPY_OUT_BYTES, EGRESS_COPY_IN_BYTES).await;
    }
}

/// What runs beside a connection.
struct Tasks<'a> {
    moving: mpsc::UnboundedReceiver<Task<'static>>,
    requests: mpsc::UnboundedReceiver<Task<'a>>,
    running: FuturesUnordered<Task<'a>>,
}

impl Tasks<'_> {
    /// Runs `main` to its end, and the others meanwhile.
    async fn beside<T>(&mut self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        loop {
            tokio::select! {
                done = &mut main => return done,
                Some(task) = self.moving.recv() => self.running.push(task),
                Some(task) = self.requests.recv() => self.running.push(task),
                Some(()) = self.running.next() => {}
            }
        }
    }
}

/// Hands what hyper wants to run beside a connection to whoever serves that.
#[derive(Clone)]
struct Beside<'a>(mpsc::UnboundedSender<Task<'a>>);

impl<'a, F: Future<Output = ()> + Send + 'a> Executor<F> for Beside<'a> {
    fn execute(&self, task: F) {
        // Nobody takes it when the connection is over.
        let _ = self.0.send(Box::pin(task));
    }
}

impl Way<'_> {
    /// Checks a request, and sends it to the host that it is for.
    async fn pass_on(self, mut request: Request<Incoming>) -> Result<Response<Body>, EgressReason> {
        let Self { session, connection, leg, upstream } = self;
        check(&request, &connection.target, connection.port)?;
        session.admits(&connection.target)?;
        let of_client = upgrade::on(&mut request);
        let wanted = upgrade_header(request.headers());
        let takes_trailers = leg.is_h2 && request.headers().get(header::TE).is_some_and(|value| value == "trailers");
        strip(request.headers_mut(), wanted.as_ref());
        if takes_trailers {
            // Without it servers of gRPC refuse a request. It is of no one connection in HTTP/2.
            request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        }
        request.headers_mut().remove(header::EXPECT);
        *request.version_mut() = if leg.is_h2 { Version::HTTP_2 } else { Version::HTTP_11 };
        if leg.is_h2 {
            name_the_host(&mut request);
        }
        let request = request.map(Body::new);
        let (request, also) = match &leg.opened {
            Some(opened) => {
                // What cannot be sent has no secret in it, and is not counted.
                upstream.lock().await.sender(self).await?;
                opened.place(request, &connection.placed)?
            }
            None => (request, Swaps::default()),
        };
        let mut response = self.send(request).await?;
        let given = upgrade_header(response.headers());
        strip(response.headers_mut(), given.as_ref());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upstream.lock().await.upgraded = Some((of_client, upgrade::on(&mut response)));
        }
        let response = response.map(Body::new);
        match &leg.opened {
            Some(opened) if response.status() != StatusCode::SWITCHING_PROTOCOLS => opened.mask(response, also),
            _ => Ok(response),
        }
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Incoming>, EgressReason> {
        let mut upstream = self.upstream.lock().await;
        let sent = match upstream.sender(self).await? {
            Sender::One(sender) => sender.send_request(request).await,
            Sender::Two(sender) => {
                let mut sender = sender.clone();
                drop(upstream);
                sender.send_request(request).await
            }
        };
        sent.map_err(|_| EgressReason::NotConnected)
    }

    async fn connect(self) -> Result<Box<dyn Transport>, EgressReason> {
        let Self { session, connection, leg, .. } = self;
        if let Some(opened) = &leg.opened {
            return opened.reach_again(session, connection, leg.is_h2).await.map(transport);
        }
        let stream = session.dial(&connection.target, connection.port).await?;
        connection.opened();
        Ok(transport(stream))
    }
}

impl Upstream {
    /// The connection to the host, made anew when there is none any more.
    async fn sender(&mut self, way: Way<'_>) -> Result<&mut Sender, EgressReason> {
        let is_ready = match &mut self.sender {
            Some(Sender::One(sender)) => sender.ready().await.is_ok(),
            Some(Sender::Two(sender)) => sender.ready().await.is_ok(),
            None => false,
        };
        if !is_ready {
            let stream = match self.first.take() {
                Some(first) => first?,
                None => way.connect().await?,
            };
            let shaken = self.shake_hands(stream, way.leg).await;
            self.sender = Some(shaken.map_err(|_| EgressReason::NotConnected)?);
        }
        self.sender.as_mut().ok_or(EgressReason::NotConnected)
    }

    fn run(&mut self, is_opened: bool, task: impl Future<Output = ()> + Send + 'static) {
        if is_opened {
            self.elsewhere.spawn(task);
        } else {
            // Nobody takes it when the connection is over.
            let _ = self.here.send(Box::pin(task));
        }
    }

    async fn shake_hands(&mut self, stream: Box<dyn Transport>, leg: &Leg) -> hyper::Result<Sender> {
        let (stream, is_h2, is_opened) = (TokioIo::new(stream), leg.is_h2, leg.opened.is_some());
        // How the connections end shows in the answers.
        if is_h2 {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new()).max_header_list_size(EGRESS_HEADER_BYTES as u32);
            http.initial_stream_window_size(EGRESS_STREAM_WINDOW);
            http.initial_connection_window_size(EGRESS_CONNECTION_WINDOW);
            http.max_send_buf_size(EGRESS_STREAM_WINDOW as usize);
            let (sender, moving) = http.handshake(stream).await?;
            self.run(is_opened, async move {
                let _ = moving.await;
            });
            Ok(Sender::Two(sender))
        } else {
            let mut http = http1::Builder::new();
            http.max_buf_size(EGRESS_HEADER_BYTES).preserve_header_case(true);
            let (sender, moving) = http.handshake(stream).await?;
            self.run(is_opened, async move {
                let _ = moving.with_upgrades().await;
            });
            Ok(Sender::One(sender))
        }
    }
}

/// Gives a request of HTTP/2 an authority where only its Host header says which host it is for (RFC 9113, section 8.3.1).
fn name_the_host(request: &mut Request<Incoming>) {
    if request.uri().authority().is_some() {
        return;
    }
    let host = request.headers_mut().remove(header::HOST);
    let mut parts = request.uri().clone().into_parts();
    parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    parts.scheme = Some(Scheme::HTTPS);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Whether a request is one to the host that its connection is for.
fn check(request: &Request<Incoming>, target: &Target, port: u16) -> Result<(), EgressReason> {
    let uri = request.uri();
    let is_h2 = request.version() == Version::HTTP_2;
    // What HTTP/2 has instead of a Host header (RFC 9113, section 8.3.1).
    let authority = uri.authority().filter(|_| is_h2);
    if *request.method() == Method::CONNECT || *request.method() == Method::TRACE || (!is_h2 && is_absolute(uri)) {
        return Err(EgressReason::ProxyRequest);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let agreed = match (authority, hosts.next(), hosts.next()) {
        (Some(authority), None, None) => is_host(authority, target, port),
        (Some(authority), Some(host), None) => is_host(authority, target, port) && agrees(host, target, port),
        (None, Some(host), None) => agrees(host, target, port),
        _ => false,
    };
    agreed.then_some(()).ok_or(EgressReason::NamesDisagree)
}

fn is_absolute(uri: &Uri) -> bool {
    uri.scheme().is_some()
        || uri.authority().is_some()
        || uri.path_and_query().is_none_or(|path| *path == PathAndQuery::from_static("*"))
}

/// Whether a Host header names what was asked for. Who connects to an address may give it any name: it is the address that
/// is decided on.
fn agrees(host: &HeaderValue, target: &Target, port: u16) -> bool {
    let Target::Name(_) = target else { return true };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|host| is_host(&host, target, port))
}

fn is_host(host: &Authority, target: &Target, port: u16) -> bool {
    let Target::Name(name) = target else { return true };
    !host.as_str().contains('@')
        && host.port_u16().is_none_or(|own| own == port)
        && canonical(host.host()).as_deref() == Some(&**name)
}

/// What a message wants to change its connection to.
fn upgrade_header(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get(header::CONNECTION)?.to_str().ok()?;
    let wants = connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

/// Removes what concerns the connection that a message came over.
fn strip(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|options| options.to_str().ok())
        .flat_map(|options| options.split(','))
        .filter_map(|option| option.trim().parse().ok())
        // These are of the message, whatever it says.
        .filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

/// The answer to a request that goes no further, and the end of its connection.
fn refusal(session: &Session, connection: &Connection, leg: &Leg, reason: EgressReason) -> Response<Body> {
    let status = match reason {
        EgressReason::NotResolved
        | EgressReason::NotConnected
        | EgressReason::NotTrusted
        | EgressReason::UnreadableAnswer
        | EgressReason::CredentialUnusable => StatusCode::BAD_GATEWAY,
        EgressReason::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::FORBIDDEN,
    };
    let mut response = Response::new(Body::from(words(reason, &connection.target.host(), session.policy.is_limited())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if !leg.is_h2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert("x-rota-egress", HeaderValue::from_static(reason.as_str()));
    response
}

/// What the agent reads: first what the hosted service was recorded to say, where it was; then what to change.
fn words(reason: EgressReason, host: &str, is_limited: bool) -> String {
    match reason {
        EgressReason::HostNotAllowed if is_limited => format!(
            "Host not in allowlist: {host}\nThe network of this environment is limited. Add the host to \
             networking.allowed_hosts of the environment to allow it to new sessions.\n"
        ),
        EgressReason::HostNotAllowed => format!("Host not in allowlist: {host}\n"),
        EgressReason::PrivateAddress => format!(
            "Destination IP is in a private/reserved range\n{host} is, or resolves to, such an address. The operator of the \
             server can open a network with `open` in [network].\n"
        ),
        EgressReason::NameForgotten => {
            format!("{host} stands for no name any more: look up the name of the host again.\n")
        }
        EgressReason::NamesDisagree => format!(
            "The request is not for {host}, which is the host that was connected to: its Host header names another one, or \
             none.\n"
        ),
        EgressReason::NameEncrypted => format!("The name of the host behind {host} is encrypted.\n"),
        EgressReason::WrongProtocol => "This is not HTTP.\n".to_owned(),
        EgressReason::ProxyRequest => {
            "There is no proxy here: connect to the host itself, and send it the path alone.\n".to_owned()
        }
        EgressReason::BytesUsedUp => {
            "The session has moved as many bytes as it may (`session_mib` in [network] of the \
             server's configuration).\n"
                .to_owned()
        }
        EgressReason::CredentialUnusable => format!(
            "A credential of the session for {host} cannot be used: it could not be read, or its value cannot stand in a header. \
             The request was not sent.\n"
        ),
        EgressReason::NotTrusted => format!(
            "The certificate of {host} is not one that the server trusts, so no credential is sent to it. The operator of the server \
             can add an authority with `authorities` in [network].\n"
        ),
        EgressReason::CertificateRefused => {
            format!("The program did not trust the certificate that was shown for {host}.\n")
        }
        EgressReason::UnreadableAnswer => format!(
            "{host} compressed its answer in a way that was not asked for. A credential was sent to it, and nobody could look \
             whether the answer shows it.\n"
        ),
        EgressReason::NotResolved => format!("The name {host} cannot be resolved.\n"),
        EgressReason::NotConnected => format!("{host} does not take the connection, or broke it.\n"),
        EgressReason::TimedOut => format!("{host} does not answer.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_names_what_was_asked_for_in_any_spelling_and_nothing_else() {
        let target = Target::Name("allowed.example".into());
        for (host, agrees_with_it) in [
            ("allowed.example", true),
            ("ALLOWED.example", true),
            ("allowed.example.", true),
            ("allowed.example:80", true),
            ("allowed.example:8080", false),
            ("evil.example", false),
            ("allowed.example.evil.example", false),
            ("evil.example@allowed.example", false),
            ("allowed.example@evil.example", false),
            ("allowed.example evil.example", false),
            ("allowed.example,evil.example", false),
            ("", false),
        ] {
            assert_eq!(agrees(&HeaderValue::from_static(host), &target, 80), agrees_with_it, "{host}");
        }
        assert!(agrees(&HeaderValue::from_static("any.example"), &Target::Address([192, 0, 2, 1].into()), 80));
    }

    #[test]
    fn what_is_of_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-mine, host, content-length"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("host", "a.example"),
            ("content-length", "3"),
            ("authorization", "Bearer x"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(upgrade_header(&headers), None, "it is not asked for");
        strip(&mut headers, None);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length", "host"]);
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        let wanted = upgrade_header(&headers);
        strip(&mut headers, wanted.as_ref());
        assert_eq!(
            (&headers["connection"], &headers["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }

    #[test]
    fn a_refusal_begins_as_recorded_and_names_the_host_and_the_setting() {
        let text = words(EgressReason::HostNotAllowed, "evil.example", true);
        assert!(text.starts_with("Host not in allowlist: evil.example\n") && text.contains("networking.allowed_hosts"));
        let text = words(EgressReason::PrivateAddress, "169.254.169.254", false);
        assert!(text.starts_with("Destination IP is in a private/reserved range\n169.254.169.254 is"), "{text}");
    }
}
