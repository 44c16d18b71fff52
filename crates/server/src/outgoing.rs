//! Where requests go that the server makes for its users: to public addresses, over TLS, without redirects.
//!
//! A name is resolved once, its addresses are checked, and the connection goes to one that was checked. So a name that
//! resolves to something else a moment later reaches nothing.

use std::{
    error::Error as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Client, ClientBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect, retry,
};

use crate::{error::Error, tls};

/// A client for requests of users. With `allow_private` it reaches every address, also without TLS.
///
/// No proxy of the machine's environment is used: it would connect to addresses that nobody has checked.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(allow_private: bool) -> Result<ClientBuilder, Error> {
    let builder = Client::builder()
        .tls_backend_preconfigured(tls::client_config().map_err(Error::internal)?)
        .user_agent(concat!("rota/", env!("CARGO_PKG_VERSION")))
        .https_only(!allow_private)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never());
    Ok(if allow_private { builder } else { builder.dns_resolver(Arc::new(PublicOnly)) })
}

/// Reads a URL that a user gave. The error completes "url: ".
///
/// A name is not resolved here: what it stands for may change, so it is checked when a connection is made.
///
/// # Errors
/// When it is no URL, holds a space, is not one of HTTPS, names a user, or names a private address.
pub fn url(text: &str, allow_private: bool) -> Result<Url, String> {
    let url = parsed(text, allow_private, "must be an absolute https URL")?;
    check_literal(&url, allow_private)?;
    Ok(url)
}

/// The same of a page of the web, which may be without TLS. Whether its address is private is not looked at.
///
/// # Errors
/// When it is no URL, holds a space, is not one of HTTP, or names a user.
pub fn page_url(text: &str) -> Result<Url, String> {
    parsed(text, true, "must be an absolute URL that begins with https:// or http://")
}

fn parsed(text: &str, with_http: bool, wanted: &str) -> Result<Url, String> {
    // They would be dropped or encoded, and the URL be another than the one that is shown.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("must not hold spaces or control characters".to_owned());
    }
    let Ok(url) = Url::parse(text) else { return Err(wanted.to_owned()) };
    let is_of_scheme = url.scheme() == "https" || (with_http && url.scheme() == "http");
    if !is_of_scheme || url.host_str().is_none_or(str::is_empty) {
        return Err(wanted.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or a password".to_owned());
    }
    Ok(url)
}

/// That a URL has no private address in place of a name: a client would connect to it without resolving anything.
///
/// # Errors
/// When it has one.
pub fn check_literal(url: &Url, allow_private: bool) -> Result<(), String> {
    match literal(url).filter(|address| !allow_private && !is_public(*address)) {
        Some(address) => Err(format!("{address} is a private address, which this server does not send to")),
        None => Ok(()),
    }
}

/// The address that a URL has in place of a name.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A name that stands for an address that is not public.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} resolves to {address}, a private address, which this server does not send to")]
pub struct PrivateAddress {
    name: String,
    address: IpAddr,
}

impl PrivateAddress {
    /// What was refused, if that is why a request failed.
    pub fn of(error: &reqwest::Error) -> Option<&Self> {
        let mut source = error.source();
        while let Some(error) = source {
            if let Some(refused) = error.downcast_ref() {
                return Some(refused);
            }
            source = error.source();
        }
        None
    }
}

/// Why a request had no answer, with all its causes. The URL is left out: it may hold what only its owner should see.
pub fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut causes = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes += &format!(": {error}");
        cause = error.source();
    }
    causes
}

/// Why a host has no address to connect to.
#[derive(Debug)]
pub enum Unresolved {
    /// It has one that is not public.
    Private(PrivateAddress),
    /// Its name could not be resolved.
    Unknown(std::io::Error),
}

/// The addresses of a host for a program that connects to one of them and resolves nothing itself. With `allow_private` they
/// may be any, otherwise all must be public. `host` is a name, or an address.
///
/// # Errors
/// When there is none, or one is not allowed.
pub async fn addresses(host: &str, port: u16, allow_private: bool) -> Result<Vec<IpAddr>, Unresolved> {
    let resolved = tokio::net::lookup_host((host, port)).await.map_err(Unresolved::Unknown)?;
    allowed(host, resolved.map(|address| address.ip()), allow_private)
}

/// The same where the addresses of a host are known.
///
/// # Errors
/// When there is none, or one is not allowed.
pub fn allowed(
    host: &str,
    addresses: impl Iterator<Item = IpAddr>,
    allow_private: bool,
) -> Result<Vec<IpAddr>, Unresolved> {
    let mut addresses: Vec<IpAddr> = addresses.collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(Unresolved::Unknown(std::io::ErrorKind::NotFound.into()));
    }
    match addresses.iter().find(|address| !allow_private && !is_public(**address)) {
        Some(private) => Err(Unresolved::Private(PrivateAddress { name: host.to_owned(), address: *private })),
        None => Ok(addresses),
    }
}

/// Resolves names as the machine does, and refuses those with an address that is not public.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let resolved: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(private) = resolved.iter().find(|address| !is_public(address.ip())) {
                let refused = PrivateAddress { name: name.as_str().to_owned(), address: private.ip() };
                return Err(refused.into());
            }
            Ok(Box::new(resolved.into_iter()) as Addrs)
        })
    }
}

/// IPv4 networks that are not the public internet (IANA's special-purpose registry), and the address at which machines
/// of one cloud find their host.
const PRIVATE_V4: [(Ipv4Addr, u32); 17] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Of the IPv6 addresses only `2000::/3` are public; these networks of it are not.
const PRIVATE_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address is one of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let within = |(network, bits): &(Ipv4Addr, u32)| (address.to_bits() ^ network.to_bits()).leading_zeros() >= *bits;
    !PRIVATE_V4.iter().any(within)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let within = |(network, bits): &(Ipv6Addr, u32)| (address.to_bits() ^ network.to_bits()).leading_zeros() >= *bits;
    address.segments()[0] & 0xe000 == 0x2000 && !PRIVATE_V6.iter().any(within)
}

/// The IPv4 address that an IPv6 address leads to: mapped (`::ffff:0:0/96`) or through NAT64 (`64:ff9b::/96`).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        let rows = [
            ("1.1.1.1", true),
            ("8.8.8.8", true),
            ("100.63.255.255", true),
            ("100.128.0.0", true),
            ("172.15.255.255", true),
            ("172.32.0.0", true),
            ("168.63.129.15", true),
            ("192.167.255.255", true),
            ("223.255.255.255", true),
            ("2606:4700:4700::1111", true),
            ("2a00:1450:4001::200e", true),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::8.8.8.8", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.0.0.1", false),
            ("10.255.255.255", false),
            ("100.64.0.1", false),
            ("100.100.100.200", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("168.63.129.16", false),
            ("169.254.169.254", false),
            ("169.254.170.2", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.192", false),
            ("192.168.1.1", false),
            ("198.18.0.1", false),
            ("203.0.113.7", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::7f00:1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b:1::1", false),
            ("100::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::", false),
            ("3fff::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ];
        for (address, public) in rows {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn a_url_is_refused_with_what_is_wrong() {
        let https = "must be an absolute https URL";
        let private = |address: &str| format!("{address} is a private address, which this server does not send to");
        for (text, error) in [
            ("hooks.example.com/a", https.to_owned()),
            ("/a", https.to_owned()),
            ("http://hooks.example.com/a", https.to_owned()),
            ("ftp://hooks.example.com", https.to_owned()),
            ("https://", https.to_owned()),
            ("https://me:word@hooks.example.com", "must not hold a user name or a password".to_owned()),
            ("https://me@hooks.example.com", "must not hold a user name or a password".to_owned()),
            (" https://hooks.example.com", "must not hold spaces or control characters".to_owned()),
            ("https://hooks.example.com\n", "must not hold spaces or control characters".to_owned()),
            ("https://hooks.exam\tple.com", "must not hold spaces or control characters".to_owned()),
            ("https://127.0.0.1/a", private("127.0.0.1")),
            // Other ways to write an address.
            ("https://0x7f.1/a", private("127.0.0.1")),
            ("https://2130706433/a", private("127.0.0.1")),
            ("https://[::ffff:10.0.0.1]/a", private("::ffff:10.0.0.1")),
            ("https://[fd00::1]:8443/a", private("fd00::1")),
        ] {
            assert_eq!(url(text, false).unwrap_err(), error, "{text}");
        }
        for text in ["https://hooks.example.com/a?b=c", "https://8.8.8.8:8443", "https://localhost/a"] {
            assert!(url(text, false).is_ok(), "{text}");
        }
        for text in ["http://127.0.0.1:9/a", "https://10.0.0.1"] {
            assert!(url(text, true).is_ok(), "{text}");
        }
        assert!(url("ftp://127.0.0.1", true).is_err());
    }

    #[tokio::test]
    async fn a_host_has_addresses_unless_one_of_them_is_private() {
        let Err(Unresolved::Private(refused)) = addresses("localhost", 443, false).await else {
            panic!("it is allowed")
        };
        assert_eq!(refused.name, "localhost");
        assert!(addresses("localhost", 443, true).await.unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(addresses("8.8.8.8", 443, false).await.unwrap(), ["8.8.8.8".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_of_a_private_address_is_told_from_other_failures() {
        let client = client(false).unwrap().build().unwrap();
        let refused = client.post("https://localhost:1/").send().await.unwrap_err();
        let of = PrivateAddress::of(&refused).expect("it is why the request failed");
        assert_eq!(of.name, "localhost");
        let client = super::client(true).unwrap().build().unwrap();
        let closed = client.post("http://localhost:1/").send().await.unwrap_err();
        assert_eq!(PrivateAddress::of(&closed), None);
    }
}
