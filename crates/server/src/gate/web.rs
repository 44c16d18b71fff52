//! HTTP in clear, at port 80: each request is read, checked and passed on, so that none that follows another on the same
//! connection goes to another host.

use std::sync::Arc;

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    uri::{Authority, PathAndQuery, Uri},
};
use hyper::{
    body::Incoming,
    client::conn::http1::{self as client, SendRequest},
    server::conn::http1 as server,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rota_api::egress::EgressReason;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    sync::Mutex,
    task::JoinSet,
};

use super::{
    Session,
    names::{Target, canonical},
    record::Connection,
};
use crate::limits::{EGRESS_COPY_IN_BYTES, EGRESS_COPY_OUT_BYTES, EGRESS_HEADER_BYTES, EGRESS_HEADER_TIMEOUT};

/// The port of HTTP, which a Host header may leave out.
const PORT: u16 = 80;
/// Headers that concern one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"];

/// The connection to the host, which the requests of a client follow each other on.
#[derive(Default)]
struct Upstream {
    sender: Option<SendRequest<Incoming>>,
    /// What moves its bytes. Ended with this.
    tasks: JoinSet<()>,
    /// Both ends of a connection that speaks another protocol from now on.
    upgraded: Option<(OnUpgrade, OnUpgrade)>,
}

/// Serves a connection to the port of HTTP.
pub(super) async fn serve<S>(session: &Session, connection: &Connection, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upstream = Arc::new(Mutex::new(Upstream::default()));
    let service = service_fn(|request| {
        let upstream = upstream.clone();
        async move {
            let answered = pass_on(session, connection, &upstream, request).await;
            Ok::<_, std::convert::Infallible>(answered.unwrap_or_else(|reason| {
                connection.refuse(reason);
                refusal(session, connection, reason)
            }))
        }
    });
    let mut http = server::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(EGRESS_HEADER_TIMEOUT);
    http.max_buf_size(EGRESS_HEADER_BYTES).preserve_header_case(true);
    let served = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    if served.is_err_and(|error| error.is_parse()) {
        connection.refuse(EgressReason::WrongProtocol);
    }
    let upgraded = upstream.lock().await.upgraded.take();
    if let Some((client, host)) = upgraded
        && let (Ok(client), Ok(host)) = tokio::join!(client, host)
    {
        let (mut client, mut host) = (TokioIo::new(client), TokioIo::new(host));
        let _ =
            copy_bidirectional_with_sizes(&mut client, &mut host, EGRESS_COPY_OUT_BYTES, EGRESS_COPY_IN_BYTES).await;
    }
}

/// Checks a request, and sends it to the host that it is for.
async fn pass_on(
    session: &Session,
    connection: &Connection,
    upstream: &Mutex<Upstream>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, EgressReason> {
    check(&request, &connection.target)?;
    session.admits(&connection.target)?;
    let of_client = upgrade::on(&mut request);
    let wanted = upgrade_header(request.headers());
    strip(request.headers_mut(), wanted.as_ref());
    request.headers_mut().remove(header::EXPECT);
    *request.version_mut() = Version::HTTP_11;
    let mut upstream = upstream.lock().await;
    let sender = upstream.sender(session, connection).await?;
    let mut response = sender.send_request(request).await.map_err(|_| EgressReason::NotConnected)?;
    let given = upgrade_header(response.headers());
    strip(response.headers_mut(), given.as_ref());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        upstream.upgraded = Some((of_client, upgrade::on(&mut response)));
    }
    Ok(response.map(Body::new))
}

impl Upstream {
    /// The connection to the host, made anew when there is none any more.
    async fn sender(
        &mut self,
        session: &Session,
        connection: &Connection,
    ) -> Result<&mut SendRequest<Incoming>, EgressReason> {
        let is_ready = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !is_ready {
            let stream = session.dial(&connection.target, connection.port).await?;
            connection.opened();
            let mut http = client::Builder::new();
            http.max_buf_size(EGRESS_HEADER_BYTES).preserve_header_case(true);
            let made = http.handshake(TokioIo::new(stream)).await;
            let (sender, moving) = made.map_err(|_| EgressReason::NotConnected)?;
            self.tasks.spawn(async move {
                // How it ended shows in the answer.
                let _ = moving.with_upgrades().await;
            });
            self.sender = Some(sender);
        }
        self.sender.as_mut().ok_or(EgressReason::NotConnected)
    }
}

/// Whether a request is one to the host that its connection is for.
fn check(request: &Request<Incoming>, target: &Target) -> Result<(), EgressReason> {
    let uri = request.uri();
    if *request.method() == Method::CONNECT || *request.method() == Method::TRACE || is_absolute(uri) {
        return Err(EgressReason::ProxyRequest);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(EgressReason::NamesDisagree) };
    agrees(host, target).then_some(()).ok_or(EgressReason::NamesDisagree)
}

fn is_absolute(uri: &Uri) -> bool {
    uri.scheme().is_some()
        || uri.authority().is_some()
        || uri.path_and_query().is_none_or(|path| *path == PathAndQuery::from_static("*"))
}

/// Whether a Host header names what was asked for. Who connects to an address may give it any name: it is the address that
/// is decided on.
fn agrees(host: &HeaderValue, target: &Target) -> bool {
    let Target::Name(name) = target else { return true };
    let Some(host) = host.to_str().ok().filter(|host| !host.contains('@')) else { return false };
    let Ok(host) = host.parse::<Authority>() else { return false };
    host.port_u16().is_none_or(|port| port == PORT) && canonical(host.host()).as_deref() == Some(&**name)
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
fn refusal(session: &Session, connection: &Connection, reason: EgressReason) -> Response<Body> {
    let status = match reason {
        EgressReason::NotResolved | EgressReason::NotConnected => StatusCode::BAD_GATEWAY,
        EgressReason::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::FORBIDDEN,
    };
    let mut response = Response::new(Body::from(words(reason, &connection.target.host(), session.policy.is_limited())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
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
            assert_eq!(agrees(&HeaderValue::from_static(host), &target), agrees_with_it, "{host}");
        }
        assert!(agrees(&HeaderValue::from_static("any.example"), &Target::Address([192, 0, 2, 1].into())));
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
