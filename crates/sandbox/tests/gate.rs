//! The listeners of a sandbox's network, as who attends to them has them. What the gate does with them is tested with the server.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod inside;

use std::net::{IpAddr, SocketAddr};

use rota_sandbox::{Config, Embedded};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};

use inside::bash;

#[tokio::test]
async fn what_is_sent_to_any_address_arrives_at_who_took_the_listeners() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = Embedded::new(Config { gate_ports: Some(vec![80]), ..inside::config(folder.path()) }).unwrap();
    let sandbox = embedded.open("s").await.unwrap();
    let listeners = sandbox.take_listeners().unwrap();
    assert!(sandbox.take_listeners().is_none(), "they are one taker's");
    let (port, listener) = listeners.ports.into_iter().next().unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let mut addresses: Vec<IpAddr> = vec!["1.2.3.4".parse().unwrap(), "169.254.169.254".parse().unwrap()];
    addresses.extend(listeners.ipv6.then(|| "2606:4700::1".parse::<IpAddr>().unwrap()));
    for address in addresses {
        let command = format!("exec 3<>/dev/tcp/{address}/80; cat <&3; exec 3>&-");
        let accepted = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let at = stream.local_addr().unwrap();
            SocketAddr::new(at.ip().to_canonical(), at.port())
        };
        let (output, at) = tokio::join!(bash(&sandbox, &command), accepted);
        assert_eq!((output.content.trim(), at), ("hello", SocketAddr::new(address, port)));
    }
    let names = UdpSocket::from_std(listeners.names).unwrap();
    let mut question = [0; 16];
    let (_, (length, _)) = tokio::join!(bash(&sandbox, "echo -n name > /dev/udp/8.8.8.8/53"), async {
        names.recv_from(&mut question).await.unwrap()
    });
    assert_eq!(&question[..length], b"name");
    let closed = bash(&sandbox, "exec 3<>/dev/tcp/1.2.3.4/8080").await;
    assert!(closed.content.contains("Connection refused"), "{}", closed.content);
    let ended = sandbox.ended();
    drop(sandbox);
    embedded.stop("s").await;
    ended.await;
}

#[tokio::test]
async fn without_a_gate_there_are_no_listeners_and_no_way_out() {
    let backend = inside::Backend::new();
    let sandbox = backend.open().await;
    assert!(sandbox.take_listeners().is_none());
    let outside = bash(&sandbox, "exec 3<>/dev/tcp/1.2.3.4/80").await;
    assert!(outside.content.contains("Network is unreachable"), "{}", outside.content);
}
