//! Which names the server answers to.
//!
//! A page in a browser can give its own name the address of this server and then reads what the server answers: metrics,
//! health, and with a key everything. The browser says in `Host` which name it asked for, so a server that only this
//! machine reaches answers to no name that is not known to be its own. An IP address cannot be given away like a name.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};

/// The names that are answered to.
#[derive(Debug, Clone)]
pub(super) enum Hosts {
    /// Every name.
    All,
    /// `localhost`, IP addresses and these, in small letters.
    Own(Vec<String>),
}

impl Hosts {
    /// What a server at `address` answers to, that is `configured` to have these names.
    pub(super) fn new(address: SocketAddr, configured: &[String]) -> Self {
        if configured.is_empty() && !address.ip().is_loopback() {
            return Self::All;
        }
        Self::Own(configured.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether a request with these headers is for this server. One that names no host comes from no browser.
    pub(super) fn answers(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::All => true,
            Self::Own(names) => headers.get_all(header::HOST).iter().all(|host| is_own(host, names)),
        }
    }
}

fn is_own(host: &HeaderValue, names: &[String]) -> bool {
    let Ok(host) = host.to_str() else { return false };
    if let Some((bracketed, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return bracketed.parse::<IpAddr>().is_ok();
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok() || names.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_loopback_answers_to_no_name_that_is_not_its_own() {
        let check = |address: &str, configured: &[&str], host: &str, answers: bool| {
            let configured: Vec<String> = configured.iter().map(|&name| name.to_owned()).collect();
            let hosts = Hosts::new(address.parse().unwrap(), &configured);
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
            assert_eq!(hosts.answers(&headers), answers, "{address} {configured:?} {host}");
        };
        let (loopback, all) = ("127.0.0.1:7420", "0.0.0.0:7420");
        for host in
            ["127.0.0.1:7420", "127.8.8.8", "localhost", "LocalHost:7420", "a.localhost.", "[::1]:7420", "10.0.0.7"]
        {
            check(loopback, &[], host, true);
        }
        for host in ["rota.example.com", "localhost.example.com", "127.0.0.1.example.com", "[x]", "", "\u{e9}"] {
            check(loopback, &[], host, false);
        }
        check(loopback, &["Rota.example.com"], "rota.EXAMPLE.com:443", true);
        check(loopback, &["rota.example.com"], "evil.example.com", false);
        check("[::1]:7420", &[], "evil.example.com", false);
        check(all, &[], "evil.example.com", true);
        check(all, &["rota.example.com"], "evil.example.com", false);
        check(all, &["rota.example.com"], "10.0.0.7:7420", true);
        let none = Hosts::new(loopback.parse().unwrap(), &[]);
        assert!(none.answers(&HeaderMap::new()), "HTTP/1.0");
    }
}
