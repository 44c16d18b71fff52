//! Answers questions for names: with an address of the gate's own for each, never with a real one.
//!
//! A name that the session may reach is resolved before it is answered, so that programs hear of names that do not exist. Of
//! one that it may not reach nothing leaves this machine: it has an address all the same, so that the connection to it is
//! refused in words.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket},
    sync::Arc,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
};
use rota_api::egress::EgressReason;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Session, names};
use crate::limits::{ACCEPT_RETRY, EGRESS_DNS_AT_ONCE, EGRESS_DNS_BYTES, EGRESS_DNS_SECONDS, EGRESS_HEADER_TIMEOUT};

/// Answers questions that come by UDP.
pub(super) async fn by_udp(session: Arc<Session>, socket: StdUdpSocket) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    let places = Arc::new(Semaphore::new(EGRESS_DNS_AT_ONCE));
    let mut answers = JoinSet::new();
    let mut question = vec![0; EGRESS_DNS_BYTES];
    loop {
        while answers.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let (length, client) = match socket.recv_from(&mut question).await {
            Ok(received) => received,
            // Somebody did not wait for an earlier answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let (session, socket, question) = (session.clone(), socket.clone(), question[..length].to_vec());
        answers.spawn(async move {
            if let Some(answer) = answer(&session, &question).await {
                let _ = socket.send_to(&answer, client).await;
            }
            drop(place);
        });
    }
}

/// Answers questions that come by TCP.
pub(super) async fn by_tcp(session: Arc<Session>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(EGRESS_DNS_AT_ONCE));
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let Ok((client, _)) = listener.accept().await else {
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        let session = session.clone();
        clients.spawn(async move {
            let _ = serve_client(&session, client).await;
            drop(place);
        });
    }
}

async fn serve_client(session: &Session, mut client: TcpStream) -> io::Result<()> {
    loop {
        let length = timeout(EGRESS_HEADER_TIMEOUT, client.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        timeout(EGRESS_HEADER_TIMEOUT, client.read_exact(&mut question)).await??;
        let Some(answer) = answer(session, &question).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        // In one piece: there are clients that read no more than once.
        client.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
    }
}

/// The answer to a message; `None` when it is none that has an answer.
async fn answer(session: &Session, question: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    if asked.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
    answer.metadata.recursion_desired = asked.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&asked.queries);
    let (code, addresses) = match &asked.queries[..] {
        _ if asked.metadata.op_code != OpCode::Query => (ResponseCode::NotImp, Vec::new()),
        [query] if query.query_class() == DNSClass::IN => {
            look_up(session, &query.name().to_ascii(), query.query_type()).await
        }
        _ => (ResponseCode::NotImp, Vec::new()),
    };
    answer.metadata.response_code = code;
    if let Some(query) = asked.queries.first() {
        let record = |address| Record::from_rdata(query.name().clone(), EGRESS_DNS_SECONDS, address);
        answer.add_answers(addresses.into_iter().map(record));
    }
    answer.to_vec().ok()
}

/// The address of a name, of the kind that was asked for. What is asked of a name otherwise has no answer: no mail servers,
/// no texts, and nothing that would hide the name of a TLS connection.
async fn look_up(session: &Session, name: &str, kind: RecordType) -> (ResponseCode, Vec<RData>) {
    let Some(name) = names::canonical(name) else { return (ResponseCode::NXDomain, Vec::new()) };
    if name == "localhost" || name.ends_with(".localhost") {
        return (ResponseCode::NoError, of_kind(kind, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, true));
    }
    if session.policy.allows(&name) {
        match exists(session, &name).await {
            Ok(true) => {}
            Ok(false) => return (ResponseCode::NXDomain, Vec::new()),
            Err(_) => return (ResponseCode::ServFail, Vec::new()),
        }
    }
    let number = session.names().number(&name);
    (ResponseCode::NoError, of_kind(kind, names::v4(number), names::v6(number), session.ipv6))
}

fn of_kind(kind: RecordType, v4: Ipv4Addr, v6: Ipv6Addr, ipv6: bool) -> Vec<RData> {
    match kind {
        RecordType::A => vec![RData::A(v4.into())],
        RecordType::AAAA if ipv6 => vec![RData::AAAA(v6.into())],
        _ => Vec::new(),
    }
}

/// Whether there is such a name. What it resolves to is used for the connection that mostly follows.
async fn exists(session: &Session, name: &str) -> Result<bool, EgressReason> {
    if session.gate.dialer.is_fixed(name) || session.names().fresh(name).is_some() {
        return Ok(true);
    }
    let addresses = resolve(session, name, 0).await?;
    let is_there = !addresses.is_empty();
    if is_there {
        let mut names = session.names();
        names.number(name);
        names.resolved(name, &addresses);
    }
    Ok(is_there)
}

/// The addresses of a name, as a few at a time for one session.
pub(super) async fn resolve(session: &Session, name: &str, port: u16) -> Result<Vec<SocketAddr>, EgressReason> {
    let Ok(_turn) = session.lookups.acquire().await else { return Err(EgressReason::NotResolved) };
    session.gate.dialer.resolve(name, port).await
}
