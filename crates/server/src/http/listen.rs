//! Accepts connections, within bounds, until the server stops.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    time::{sleep, timeout},
};
use tower::ServiceExt;

use super::{
    guests::{Guest, Places},
    layers,
    lent::lend,
    wire::{Refuse, Wire},
};
use crate::{
    app::App,
    error::{Error, Result},
    limits,
};

/// Listens on the first of the addresses of `HOST:PORT` that can be listened on.
///
/// # Errors
/// When there is none.
pub async fn bind(listen: &str) -> Result<(TcpListener, SocketAddr)> {
    let refused = |error: io::Error| Error::invalid(format_args!("cannot listen on {listen}: {error}"));
    let mut listener = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in lookup_host(listen).await.map_err(refused)? {
        listener = bind_to(address);
        if listener.is_ok() {
            break;
        }
    }
    let listener = listener.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that starts again takes its address back at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::LISTEN_BACKLOG)
}

/// Serves `router` to as many `connections` at a time until the server stops, then lets requests under way end.
pub async fn listen(app: App, listener: TcpListener, router: Router, connections: usize) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits::HEADER_TIMEOUT).max_buf_size(limits::MAX_HEADER_BYTES);
    let places = Places::new(connections);
    let graceful = GracefulShutdown::new();
    let refuse: Arc<Refuse> = {
        let app = app.clone();
        Arc::new(move |status| layers::not_http(&app, status))
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.stopping() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Mostly too many open files: the next try would fail at once.
                if crate::telemetry::may_tell("accept") {
                    tracing::error!(%error, "a connection was not accepted");
                }
                places.make_room();
                sleep(limits::ACCEPT_RETRY).await;
                continue;
            }
        };
        // Small answers go out at once and do not wait for more to be sent with them.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let place = tokio::select! {
            place = places.take() => place,
            () = app.stopping() => break,
        };
        let (router, guest) = (router.clone(), place.guest.clone());
        let service = service_fn(move |request| {
            guest.speaks();
            answer(router.clone(), Served(guest.clone()), request)
        });
        let wire = Wire::new(stream, place.guest.clone(), refuse.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(wire), service));
        app.spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended early");
                    }
                }
                why = place.guest.must_leave() => tracing::debug!(why, "a connection was closed"),
            }
        });
    }
    if timeout(limits::STOP_GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the server stopped");
    }
}

async fn answer(router: Router, served: Served, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let (mut request, rest) = lend(request);
    request.extensions_mut().insert(served.0.clone());
    let response = router.oneshot(request).await?;
    rest.drop_it(if served.0.has_key() { limits::DRAIN } else { limits::DRAIN_OF_STRANGERS }).await;
    Ok(response.map(|body| Answer { body, _served: served }))
}

/// A connection on which a request is being answered, until this is dropped.
struct Served(Arc<Guest>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.is_answered();
    }
}

/// The body of an answer, which is complete when this is dropped.
struct Answer {
    body: Body,
    _served: Served,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_waits_to_be_accepted() {
        let (_listener, address) = bind("127.0.0.1:0").await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..400 {
            let connecting = timeout(Duration::from_secs(30), TcpStream::connect(address)).await;
            waiting.push(connecting.expect("room to wait in").unwrap());
        }
    }
}
