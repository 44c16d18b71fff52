//! The gate's side of a sandbox's network: sockets that were made inside and handed out.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::wire::MAX_DESCRIPTORS;

/// Sockets of a sandbox's network namespace, which do not block. Whatever the sandbox sends to one of their ports, at any
/// address, arrives here; the address that it was sent to is the local address of the accepted connection.
#[derive(Debug)]
pub struct Listeners {
    /// Questions for names, at port 53.
    pub names: UdpSocket,
    /// The same over TCP.
    pub names_by_tcp: TcpListener,
    /// Connections, and the port that they are made to.
    pub ports: Vec<(u16, TcpListener)>,
    /// Whether connections to IPv6 addresses arrive too.
    pub ipv6: bool,
}

impl Listeners {
    /// Of what an init has sent for `ports`.
    pub(super) fn new(descriptors: Vec<OwnedFd>, ports: &[u16], ipv6: bool) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        if descriptors.len() != 2 + ports.len() {
            return Err(invalid());
        }
        let mut descriptors = descriptors.into_iter();
        let names = descriptors.next().ok_or_else(invalid)?.into();
        let names_by_tcp = descriptors.next().ok_or_else(invalid)?.into();
        let ports = ports.iter().copied().zip(descriptors.map(TcpListener::from)).collect();
        Ok(Self { names, names_by_tcp, ports, ipv6 })
    }
}

/// Reads as many bytes as `buffer` has, and the descriptors that come with them.
pub(super) async fn read_exact(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        match stream.async_io(Interest::READABLE, || receive(stream, rest, descriptors)).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => filled += got,
        }
    }
    Ok(())
}

fn receive(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok(received.bytes)
}

/// The addresses that this machine itself has now.
///
/// # Errors
/// When the kernel does not tell them.
pub fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_its_loopback_address() {
        assert!(host_addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
