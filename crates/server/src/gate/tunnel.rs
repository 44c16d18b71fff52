//! Connections whose bytes pass through as they are: TLS, and the operator's further ports.

use rota_api::egress::EgressReason;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::timeout,
};

use super::{Session, flow::Metered, hello, names::Target, opened, record::Connection, splice};
use crate::limits::{EGRESS_COPY_IN_BYTES, EGRESS_COPY_OUT_BYTES, EGRESS_HEADER_TIMEOUT};

/// A TLS record with a fatal alert, up to its code (RFC 8446, section 6).
const ALERT: [u8; 6] = [21, 3, 3, 0, 2, 2];
/// The codes of alerts.
const ACCESS_DENIED: u8 = 49;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// Serves a connection to the port of HTTPS: the name that TLS is opened for must be the one that was asked for.
/// Where the session has a credential for the host, it is opened.
pub(super) async fn tls(session: &Session, connection: &Connection, mut client: Metered<TcpStream>) {
    let read = timeout(EGRESS_HEADER_TIMEOUT, hello::read(&mut client)).await;
    let Ok(read) = read else { return connection.refuse(EgressReason::TimedOut) };
    let Ok((bytes, hello)) = read else { return connection.refuse(EgressReason::WrongProtocol) };
    let agreed = session.admits(&connection.target).and_then(|()| agrees(session, &connection.target, &hello));
    let passed = match agreed {
        Ok(()) => match session.opened(&connection.target, connection.port).await {
            Some(opened) => return opened::serve(session, connection, bytes, client, opened).await,
            None => pass_unread(session, connection, &bytes, &client).await,
        },
        Err(reason) => Err(reason),
    };
    if let Err(reason) = passed {
        connection.refuse(reason);
        // Who does not wait for it does not need it.
        let _ = client.write_all(&[&ALERT[..], &[alert(reason)]].concat()).await;
        let _ = client.shutdown().await;
    }
}

/// Whether what TLS is opened for is what was asked for, as far as anybody but the host can tell.
fn agrees(session: &Session, target: &Target, hello: &hello::Hello) -> Result<(), EgressReason> {
    if let Target::Name(name) = target {
        let said = hello.name.as_deref().and_then(super::names::canonical);
        if said.as_deref() != Some(&**name) {
            return Err(EgressReason::NamesDisagree);
        }
    }
    if hello.is_encrypted && session.policy.is_limited() {
        return Err(EgressReason::NameEncrypted);
    }
    Ok(())
}

fn alert(reason: EgressReason) -> u8 {
    match reason {
        EgressReason::NamesDisagree => UNRECOGNIZED_NAME,
        EgressReason::NotResolved
        | EgressReason::NotConnected
        | EgressReason::TimedOut
        | EgressReason::CredentialUnusable => INTERNAL_ERROR,
        _ => ACCESS_DENIED,
    }
}

/// Serves a connection to one of the operator's ports: what is said there is not read.
pub(super) async fn plain(session: &Session, connection: &Connection, client: Metered<TcpStream>) {
    let passed = match session.admits(&connection.target) {
        Ok(()) => pass_unread(session, connection, &[], &client).await,
        Err(reason) => Err(reason),
    };
    if let Err(reason) = passed {
        connection.refuse(reason);
    }
}

/// Connects to the host, and passes on what was read and what follows, both ways and to both ends.
async fn pass_unread(
    session: &Session,
    connection: &Connection,
    first: &[u8],
    client: &Metered<TcpStream>,
) -> Result<(), EgressReason> {
    let mut host = session.dial(&connection.target, connection.port).await?;
    connection.opened();
    host.write_all(first).await.map_err(|_| EgressReason::NotConnected)?;
    let (client, flow) = client.parts();
    // A connection that breaks is over, as at its own end.
    let _ = splice::both_ways(client, &host, flow).await;
    Ok(())
}

/// The same of what is not a connection of the kernel alone.
pub(super) async fn pass(
    session: &Session,
    connection: &Connection,
    first: &[u8],
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<(), EgressReason> {
    let mut host = session.dial(&connection.target, connection.port).await?;
    connection.opened();
    host.write_all(first).await.map_err(|_| EgressReason::NotConnected)?;
    // A connection that breaks is over, as at its own end.
    let _ = copy_bidirectional_with_sizes(client, &mut host, EGRESS_COPY_OUT_BYTES, EGRESS_COPY_IN_BYTES).await;
    Ok(())
}
