//! The names that a sandbox has asked for, and the addresses that it was given for them.
//!
//! Each name has an address of its own that is nobody's else, so a connection to the address says which name it is for. The
//! real addresses of a name never get into a sandbox.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    clock::Stopwatch,
    limits::{EGRESS_NAMES, EGRESS_RESOLVED_FRESH},
};

/// The first of the addresses that names are given: the network that is set aside for tests of devices (RFC 2544), which
/// nobody routes.
const FIRST_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// How many there are.
const COUNT: u32 = 1 << 17;
/// The same of IPv6, in a local network (RFC 4193) with a number of its own.
const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0xfd52, 0x6f74, 0x6100, 0, 0, 0, 0, 0);

/// The one spelling of a host name: in lower case, without a dot at the end. `None` for what is none.
pub(super) fn canonical(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A resolver may take a last label of digits for an address that is written in another way.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    (name.len() <= 253 && name.split('.').all(is_label) && !is_number).then(|| name.to_ascii_lowercase())
}

/// What an address inside stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A name that was asked for.
    Name(Arc<str>),
    /// Itself.
    Address(IpAddr),
    /// A name that is forgotten.
    Forgotten(IpAddr),
}

impl Target {
    /// As the log shows it.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Name(name) => (**name).to_owned(),
            Self::Address(address) | Self::Forgotten(address) => address.to_string(),
        }
    }
}

/// The names of one sandbox; the ones that were asked for longest ago are forgotten.
#[derive(Default)]
pub(super) struct Names {
    known: HashMap<Arc<str>, Known>,
    by_number: HashMap<u32, Arc<str>>,
    by_use: BTreeMap<u64, Arc<str>>,
    next_number: u32,
    uses: u64,
}

struct Known {
    number: u32,
    used: u64,
    /// What the name was last resolved to, and when.
    resolved: Option<(Stopwatch, Vec<SocketAddr>)>,
}

impl Names {
    /// The number of a name, a new one if it has none.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        self.uses += 1;
        if let Some(known) = self.known.get_mut(name) {
            if let Some(name) = self.by_use.remove(&known.used) {
                self.by_use.insert(self.uses, name);
                known.used = self.uses;
            }
            return known.number;
        }
        if self.known.len() == EGRESS_NAMES
            && let Some((_, oldest)) = self.by_use.pop_first()
            && let Some(known) = self.known.remove(&oldest)
        {
            self.by_number.remove(&known.number);
        }
        // There are far more numbers than names, so one is free.
        loop {
            self.next_number = (self.next_number + 1) % COUNT;
            if !self.by_number.contains_key(&self.next_number) {
                break;
            }
        }
        let (name, number): (Arc<str>, _) = (name.into(), self.next_number);
        self.by_number.insert(number, name.clone());
        self.by_use.insert(self.uses, name.clone());
        self.known.insert(name, Known { number, used: self.uses, resolved: None });
        number
    }

    /// What an address stands for.
    pub(super) fn target(&self, address: IpAddr) -> Target {
        let Some(number) = number_of(address) else { return Target::Address(address) };
        match self.by_number.get(&number) {
            Some(name) => Target::Name(name.clone()),
            None => Target::Forgotten(address),
        }
    }

    /// Remembers what a name was resolved to.
    pub(super) fn resolved(&mut self, name: &str, addresses: &[SocketAddr]) {
        if let Some(known) = self.known.get_mut(name) {
            known.resolved = Some((Stopwatch::start(), addresses.to_vec()));
        }
    }

    /// What a name was resolved to a moment ago.
    pub(super) fn fresh(&self, name: &str) -> Option<Vec<SocketAddr>> {
        let (since, addresses) = self.known.get(name)?.resolved.as_ref()?;
        (since.seconds() < EGRESS_RESOLVED_FRESH.as_secs_f64()).then(|| addresses.clone())
    }
}

/// The IPv4 address of a number.
pub(super) fn v4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_V4.to_bits() + number)
}

/// The IPv6 address of a number.
pub(super) fn v6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(FIRST_V6.to_bits() + u128::from(number))
}

fn number_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(FIRST_V4.to_bits()).filter(|number| *number < COUNT),
        IpAddr::V6(v6) => {
            let number = v6.to_bits().checked_sub(FIRST_V6.to_bits())?;
            u32::try_from(number).ok().filter(|number| *number < COUNT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling_and_what_may_be_an_address_is_no_name() {
        let long = format!("{}.example", "a".repeat(63));
        let too_long = format!("{}.example", "a".repeat(64));
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        for (text, name) in [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("xn--mller-kva.example", Some("xn--mller-kva.example")),
            ("_service.example.com", Some("_service.example.com")),
            ("localhost", Some("localhost")),
            (&long, Some(&*long)),
            (&longest, Some(&*longest)),
            (&too_long, None),
            (&format!("{longest}x.y"), None),
            ("example.com..", None),
            ("", None),
            (".", None),
            ("a..b", None),
            ("müller.example", None),
            ("allowed.example@evil.example", None),
            ("evil.example/allowed.example", None),
            ("a b.example", None),
            ("127.0.0.1", None),
            ("2130706433", None),
            ("0x7f.1", None),
            ("127.0.0.0x1", None),
            ("0177.0.0.01", None),
        ] {
            assert_eq!(canonical(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn each_name_has_an_address_of_its_own_in_both_families() {
        let mut names = Names::default();
        let (a, b) = (names.number("a.example"), names.number("b.example"));
        assert_ne!(a, b);
        assert_eq!(names.number("a.example"), a);
        for address in [IpAddr::V4(v4(a)), IpAddr::V6(v6(a))] {
            assert_eq!(names.target(address), Target::Name("a.example".into()));
        }
        let other = IpAddr::V4(v4(COUNT - 1));
        assert_eq!(names.target(other), Target::Forgotten(other));
        for address in ["198.17.255.255", "198.20.0.0", "1.1.1.1", "fd52:6f74:6100::2:0", "fd52::1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(names.target(address), Target::Address(address));
        }
    }

    #[test]
    fn names_are_bounded_and_those_in_use_are_kept() {
        let mut names = Names::default();
        let kept = names.number("kept.example");
        let forgotten = names.number("forgotten.example");
        for i in 0..2 * COUNT {
            names.number(&format!("n{i}.example"));
            assert_eq!(names.number("kept.example"), kept);
        }
        assert_eq!(names.known.len(), EGRESS_NAMES);
        assert_eq!((names.by_number.len(), names.by_use.len()), (EGRESS_NAMES, EGRESS_NAMES));
        assert_eq!(names.target(v4(kept).into()), Target::Name("kept.example".into()));
        assert_ne!(names.target(v4(forgotten).into()), Target::Name("forgotten.example".into()));
    }

    #[test]
    fn what_a_name_was_resolved_to_is_known_for_a_moment() {
        let mut names = Names::default();
        let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 0))];
        names.resolved("a.example", &addresses);
        assert_eq!(names.fresh("a.example"), None, "it was not asked for");
        names.number("a.example");
        names.resolved("a.example", &addresses);
        assert_eq!(names.fresh("a.example"), Some(addresses));
    }
}
