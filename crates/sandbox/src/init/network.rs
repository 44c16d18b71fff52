//! The network inside: every address is the sandbox's own, and the gate's listeners are made here and handed out.
//!
//! A route of the kind `local` for all addresses makes the kernel take in whatever is sent to any of them. So a listener at
//! the wildcard address of a port has each connection to that port, whoever it is for, and there is no way to anything else:
//! no device but loopback, no packet filter that could be left out, and no power inside to change the routes. A socket stays
//! in the namespace that made it, so whoever is handed a listener accepts connections of this sandbox only.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::at;
use crate::wire::{self, Failure, FromInit};

/// The port of the domain name system.
const NAMES: u16 = 53;
/// Connections to a listener that wait to be accepted; the namespace's `net.core.somaxconn` is a bound too.
const BACKLOG: i32 = 4096;
/// The number of the loopback device, which every network namespace begins with.
const LOOPBACK: u32 = 1;

/// How the steps begin that give a sandbox its network.
pub(crate) const LEADING: &str = "leading the network to the gate";

/// Leads the network to listeners, and hands them out over `socket`. None of them stays here.
pub(super) fn hand_out_listeners(ports: &[u16], socket: &UnixStream) -> Result<(), Failure> {
    let failed = |step: &str| format!("{LEADING}: {step}");
    route_all(AddressFamily::INET).map_err(at(failed("adding the route of IPv4")))?;
    // Without IPv6 on this machine its addresses stay out of reach.
    let ipv6 = route_all(AddressFamily::INET6).is_ok();
    let mut listeners = vec![
        open(ipv6, SocketType::DGRAM, NAMES).map_err(at(failed("listening at port 53")))?,
        open(ipv6, SocketType::STREAM, NAMES).map_err(at(failed("listening at port 53")))?,
    ];
    for port in ports {
        let listener = open(ipv6, SocketType::STREAM, *port);
        listeners.push(listener.map_err(at(failed(&format!("listening at port {port}"))))?);
    }
    let borrowed: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    send(socket, &FromInit::Listening { ipv6 }, &borrowed).map_err(at(failed("handing out the listeners")))
}

/// Makes every address of a family a local one.
fn route_all(family: AddressFamily) -> io::Result<()> {
    // Protocol 0 of netlink is NETLINK_ROUTE.
    let kernel = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // A socket that is not connected speaks to the kernel.
    rustix::net::send(&kernel, &local_route(family), SendFlags::empty())?;
    let mut answer = [0; 256];
    let (got, _) = rustix::net::recv(&kernel, &mut answer, RecvFlags::empty())?;
    acknowledged(&answer[..got])
}

/// The message of rtnetlink(7) that adds the route: what `ip route add local default dev lo` sends.
fn local_route(family: AddressFamily) -> Vec<u8> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = Vec::with_capacity(36);
    // struct nlmsghdr; its length, which comes first, is put in at the end.
    message.extend([0; 4]);
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    // struct rtmsg: the family, no bits of a destination or a source, no type of service, the table, who added it, how far
    // it reaches, its kind, no flags.
    message.extend([family.as_raw() as u8, 0, 0, 0]);
    message.extend([libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT, libc::RT_SCOPE_HOST, libc::RTN_LOCAL]);
    message.extend(0_u32.to_ne_bytes());
    // One attribute: the device.
    message.extend(8_u16.to_ne_bytes());
    message.extend(libc::RTA_OIF.to_ne_bytes());
    message.extend(LOOPBACK.to_ne_bytes());
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// Whether the kernel's answer says that it was done.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    // struct nlmsgerr behind the header: zero, or an error as a negative number.
    let code = answer.get(16..20).map(|bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    match (kind.map(i32::from), code) {
        (Some(libc::NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(libc::NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A socket that takes what is sent to `port`, at whatever address. Nobody inside can share the port: that would take an
/// option on this socket too.
fn open(ipv6: bool, kind: SocketType, port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, any): (_, SocketAddr) = if ipv6 {
        (AddressFamily::INET6, (Ipv6Addr::UNSPECIFIED, port).into())
    } else {
        (AddressFamily::INET, (Ipv4Addr::UNSPECIFIED, port).into())
    };
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if ipv6 {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &any)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Sends a frame together with descriptors.
fn send(socket: &UnixStream, message: &FromInit, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let frame = wire::encode(message);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL)?;
    // A frame of a few bytes is sent whole or not at all.
    if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
