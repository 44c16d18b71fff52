//! Where connections really go: names are resolved here, and the address that is dialled is one that was checked.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use rota_api::egress::EgressReason;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::timeout,
};

use super::names::canonical;
use crate::{
    config::NetworkConfig,
    error::{Error, Result},
    limits::{EGRESS_ADDRESSES, EGRESS_CONNECT_TIMEOUT, EGRESS_LOOKUP_TIMEOUT, EGRESS_LOOKUPS},
    outgoing,
};

/// An address that stands for a name, and the port there where it is another one.
type Fixed = (IpAddr, Option<u16>);

/// What the operator has said about addresses.
pub(super) struct Dialer {
    /// Networks that may be reached although they are not public.
    open: Vec<IpNet>,
    /// Names, some with a port, that are not resolved, and what stands for them.
    hosts: HashMap<(String, Option<u16>), Vec<Fixed>>,
    /// Ports of this server itself.
    own_ports: Vec<u16>,
    lookups: Semaphore,
}

impl Dialer {
    /// Of a configuration.
    ///
    /// # Errors
    /// When a network or an address of it is none; the message names the key.
    pub(super) fn new(config: &NetworkConfig, own_ports: Vec<u16>) -> Result<Self> {
        let open = config.open.iter().map(|text| network(text)).collect::<Result<_>>()?;
        let mut hosts = HashMap::new();
        for (name, addresses) in &config.hosts {
            let wrong = |text: &str| {
                Error::invalid(format_args!(
                    "network.hosts: \"{text}\" is not {}",
                    if text == name {
                        "a name, or a name with a port"
                    } else {
                        "an address, or an address with a port"
                    }
                ))
            };
            let key = host_and_port(name).ok_or_else(|| wrong(name))?;
            let addresses = addresses.iter().map(|text| address(text).ok_or_else(|| wrong(text)));
            hosts.insert(key, addresses.collect::<Result<Vec<_>>>()?);
        }
        Ok(Self { open, hosts, own_ports, lookups: Semaphore::new(EGRESS_LOOKUPS) })
    }

    /// The addresses of a name; none of them is checked. Empty: there is no such name.
    pub(super) async fn resolve(&self, name: &str, port: u16) -> std::result::Result<Vec<SocketAddr>, EgressReason> {
        let fixed = self.hosts.get(&(name.to_owned(), Some(port)));
        if let Some(fixed) = fixed.or_else(|| self.hosts.get(&(name.to_owned(), None))) {
            return Ok(fixed.iter().map(|(ip, at)| SocketAddr::new(*ip, at.unwrap_or(port))).collect());
        }
        // A name of which one port is said belongs to the operator at the others too.
        if self.hosts.keys().any(|(of, _)| of == name) {
            return Ok(Vec::new());
        }
        let Ok(_turn) = self.lookups.acquire().await else { return Err(EgressReason::NotResolved) };
        match timeout(EGRESS_LOOKUP_TIMEOUT, lookup_host((name, port))).await {
            Ok(Ok(addresses)) => Ok(addresses.take(EGRESS_ADDRESSES).collect()),
            Ok(Err(_)) => Ok(Vec::new()),
            Err(_) => Err(EgressReason::TimedOut),
        }
    }

    /// Whether there is such a name, at whatever port.
    pub(super) fn is_fixed(&self, name: &str) -> bool {
        self.hosts.keys().any(|(of, _)| of == name)
    }

    /// Connects to the first of `addresses` that may be reached and takes the connection.
    pub(super) async fn connect(&self, addresses: &[SocketAddr]) -> std::result::Result<TcpStream, EgressReason> {
        if addresses.is_empty() {
            return Err(EgressReason::NotResolved);
        }
        let mut why = EgressReason::PrivateAddress;
        for address in addresses {
            if !self.may_reach(*address) {
                continue;
            }
            match timeout(EGRESS_CONNECT_TIMEOUT, TcpStream::connect(*address)).await {
                Ok(Ok(stream)) => {
                    // What is passed on is not held back to be sent in larger pieces.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(_)) => why = EgressReason::NotConnected,
                Err(_) => why = EgressReason::TimedOut,
            }
        }
        Err(why)
    }

    /// Whether an address is public, or in a network that the operator has opened. An address of this machine must be opened by
    /// itself, and a port of this server stays closed.
    fn may_reach(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        if is_this_machine(ip) {
            let is_named = |network: &IpNet| network.prefix_len() == network.max_prefix_len() && network.contains(&ip);
            return self.open.iter().any(is_named) && !self.own_ports.contains(&address.port());
        }
        self.open.iter().any(|network| network.contains(&ip)) || outgoing::is_public(ip)
    }
}

fn is_this_machine(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    match rota_sandbox::host_addresses() {
        Ok(own) => own.iter().any(|own| own.to_canonical() == ip),
        Err(error) => {
            tracing::error!(%error, "the addresses of this machine cannot be read, so nothing is reached");
            true
        }
    }
}

/// A network: an address with the number of its bits, or an address alone.
fn network(text: &str) -> Result<IpNet> {
    let parsed = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    parsed.ok_or_else(|| {
        Error::invalid(format_args!("network.open: \"{text}\" is not a network such as \"10.0.0.0/8\", nor an address"))
    })
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    match text.rsplit_once(':') {
        Some((name, port)) => Some((canonical(name)?, Some(port.parse().ok()?))),
        None => Some((canonical(text)?, None)),
    }
}

fn address(text: &str) -> Option<Fixed> {
    if let Ok(ip) = text.parse() {
        return Some((ip, None));
    }
    text.parse::<SocketAddr>().ok().map(|address| (address.ip(), Some(address.port())))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn dialer(open: &[&str], hosts: &[(&str, &[&str])], own_ports: &[u16]) -> Result<Dialer> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let hosts = hosts.iter().map(|(name, to)| ((*name).to_owned(), texts(to))).collect();
        Dialer::new(&NetworkConfig { open: texts(open), hosts, ..NetworkConfig::default() }, own_ports.to_vec())
    }

    #[test]
    fn only_public_addresses_and_what_the_operator_opens_are_reached() {
        let dialer = dialer(&["10.1.0.0/16", "fd00::/8", "192.168.0.7"], &[], &[7420]).unwrap();
        for (address, reached) in [
            ("1.1.1.1:443", true),
            ("[2606:4700::1]:443", true),
            ("[::ffff:1.1.1.1]:443", true),
            ("10.1.2.3:443", true),
            ("[::ffff:10.1.2.3]:443", true),
            ("192.168.0.7:80", true),
            ("[fd00::1]:80", true),
            ("1.1.1.1:7420", true),
            ("10.2.0.1:443", false),
            ("192.168.0.8:80", false),
            ("127.0.0.1:443", false),
            ("0.0.0.0:443", false),
            ("[::1]:443", false),
            ("[::ffff:127.0.0.1]:443", false),
            ("169.254.169.254:80", false),
            ("[::ffff:169.254.169.254]:80", false),
            ("[64:ff9b::a9fe:a9fe]:80", false),
            ("[fd00:ec2::254]:80", true), // The operator has opened fd00::/8.
            ("[fe80::1]:80", false),
            ("100.100.100.200:80", false),
            ("168.63.129.16:80", false),
            ("192.0.0.192:80", false),
            ("224.0.0.1:80", false),
            ("255.255.255.255:80", false),
            ("198.18.0.1:80", false),
        ] {
            assert_eq!(dialer.may_reach(address.parse().unwrap()), reached, "{address}");
        }
    }

    #[test]
    fn an_address_of_this_machine_is_reached_only_where_it_is_opened_by_itself_and_this_server_never() {
        let own = rota_sandbox::host_addresses().unwrap();
        let closed = dialer(&["0.0.0.0/0", "::/0"], &[], &[7420]).unwrap();
        let named: Vec<String> = own.iter().map(IpAddr::to_string).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let open = dialer(&named, &[], &[7420]).unwrap();
        for ip in own {
            assert!(!closed.may_reach(SocketAddr::new(ip, 443)), "{ip}");
            assert!(open.may_reach(SocketAddr::new(ip, 443)), "{ip}");
            assert!(!open.may_reach(SocketAddr::new(ip, 7420)), "{ip}");
        }
        assert!(!open.may_reach("[::ffff:127.0.0.1]:7420".parse().unwrap()));
        assert!(!closed.may_reach("0.0.0.0:443".parse().unwrap()));
    }

    #[tokio::test]
    async fn names_of_the_operator_are_not_resolved() {
        let dialer =
            dialer(&[], &[("db.example", &["10.0.0.1", "[fd00::1]:99"]), ("API.example:443", &["10.0.0.2:8443"])], &[])
                .unwrap();
        let resolve = async |name: &str, port| dialer.resolve(name, port).await.unwrap();
        let addresses: Vec<SocketAddr> = vec!["10.0.0.1:80".parse().unwrap(), "[fd00::1]:99".parse().unwrap()];
        assert_eq!(resolve("db.example", 80).await, addresses);
        assert_eq!(resolve("api.example", 443).await, ["10.0.0.2:8443".parse().unwrap()]);
        assert_eq!(resolve("api.example", 80).await, []);
    }

    #[tokio::test]
    async fn of_several_addresses_one_that_was_checked_is_dialled() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let there = listener.local_addr().unwrap();
        let dialer = dialer(&["127.0.0.1"], &[], &[]).unwrap();
        let denied = SocketAddr::from(([127, 0, 0, 2], there.port()));
        let to =
            async |addresses: &[SocketAddr]| dialer.connect(addresses).await.map(|stream| stream.peer_addr().unwrap());
        assert_eq!(to(&[denied, there]).await, Ok(there));
        assert_eq!(to(&[denied]).await, Err(EgressReason::PrivateAddress));
        assert_eq!(to(&[]).await, Err(EgressReason::NotResolved));
        drop(listener);
        assert_eq!(to(&[there]).await, Err(EgressReason::NotConnected));
    }

    #[test]
    fn what_the_operator_wrote_wrong_is_named() {
        let error = |open: &[&str], hosts: &[(&str, &[&str])]| dialer(open, hosts, &[]).err().unwrap().to_string();
        assert!(error(&["10.0.0.0/33"], &[]).contains("network.open: \"10.0.0.0/33\""));
        assert!(error(&[], &[("a b", &["10.0.0.1"])]).contains("network.hosts: \"a b\" is not a name"));
        assert!(
            error(&[], &[("a.example", &["b.example"])]).contains("network.hosts: \"b.example\" is not an address")
        );
    }
}
