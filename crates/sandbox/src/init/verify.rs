//! The check from inside, before the first tool: what the kernel says of this process must be what was asked for.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use super::at;
use super::confine::kept_capabilities;
use super::filter::FILTERS;
use crate::wire::{Container, ContainerIds, Failure, Identity, Launch};

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The namespaces of this process, by kind.
pub(crate) fn namespaces() -> io::Result<Vec<(String, String)>> {
    NAMESPACES
        .into_iter()
        .map(|kind| {
            Ok((kind.to_owned(), fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned()))
        })
        .collect()
}

/// Compares everything that matters with what it must be; the first difference is a failure.
pub(super) fn check(launch: &Launch, socket: RawFd, host: &[(String, String)]) -> Result<(), Failure> {
    same("process id", &nix::unistd::getpid().to_string(), "1")?;
    match &launch.container {
        None => own_namespaces(host)?,
        Some(container) => {
            own_namespaces(&needed(container))?;
            nothing_but_loopback()?;
        }
    }
    match launch.container.as_ref().map(|container| container.ids) {
        None | Some(ContainerIds::Own) => own_ids(launch.identity)?,
        Some(ContainerIds::OfUser) => host_root_is_not_mapped()?,
        Some(ContainerIds::OfHost) => {}
    }
    status(kept_capabilities(launch))?;
    descriptors(socket)?;
    kernel_settings_are_closed()?;
    host_root_is_gone()
}

fn same(what: &str, found: &str, wanted: &str) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    Err(Failure::lasting(format!("checking {what} from inside"), format!("found {found:?}, wanted {wanted:?}")))
}

fn own_namespaces(host: &[(String, String)]) -> Result<(), Failure> {
    for own in &namespaces().map_err(at("reading /proc/self/ns"))? {
        if host.contains(own) {
            let cause = format!("the {} namespace is the host's", own.0);
            return Err(Failure::lasting("checking the namespaces from inside", cause));
        }
    }
    Ok(())
}

/// The namespaces of the host that a container must not be in. That of cgroups tells names only, and is the daemon's affair.
fn needed(container: &Container) -> Vec<(String, String)> {
    let is_needed = |kind: &str| kind != "cgroup" && (kind != "user" || container.ids != ContainerIds::OfHost);
    container.host_namespaces.iter().filter(|(kind, _)| is_needed(kind)).cloned().collect()
}

/// That all routes lead to loopback: a container that was given a network has others.
fn nothing_but_loopback() -> Result<(), Failure> {
    // The device is the first word in the one file, below a line of titles, and the last in the other.
    let read = |file: &str| fs::read_to_string(format!("/proc/self/net/{file}"));
    let of_ipv4 = read("route").map_err(at("reading the routes"))?;
    // Without IPv6 there is no such file.
    let of_ipv6 = read("ipv6_route").unwrap_or_default();
    let first = of_ipv4.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let last = of_ipv6.lines().filter_map(|line| line.split_whitespace().next_back());
    match first.chain(last).find(|device| *device != "lo") {
        None => Ok(()),
        Some(device) => {
            Err(Failure::lasting("checking the network from inside", format!("there is a way out through {device}")))
        }
    }
}

fn own_ids(identity: Identity) -> Result<(), Failure> {
    id_map("uid_map", &identity.uid_map())?;
    id_map("gid_map", &identity.gid_map())
}

/// That no id inside stands for root of the user namespace that the daemon is in, if that is the host's.
fn host_root_is_not_mapped() -> Result<(), Failure> {
    let map = fs::read_to_string("/proc/self/uid_map").map_err(at("reading uid_map"))?;
    if map.lines().any(|line| line.split_whitespace().nth(1) == Some("0")) {
        return Err(Failure::lasting("checking uid_map from inside", "root of the host is mapped"));
    }
    Ok(())
}

fn id_map(file: &str, wanted: &str) -> Result<(), Failure> {
    let found = fs::read_to_string(format!("/proc/self/{file}")).map_err(at(format!("reading {file}")))?;
    let words = |text: &str| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    same(file, &words(&found), &words(wanted))
}

fn status(kept: u64) -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status").map_err(at("reading /proc/self/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or("").trim().to_owned()
    };
    let kept = format!("{kept:016x}");
    let none = format!("{:016x}", 0);
    for (name, wanted) in [
        ("CapEff", kept.as_str()),
        ("CapPrm", &kept),
        ("CapBnd", &kept),
        ("CapInh", &none),
        ("CapAmb", &none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Threads", "1"),
    ] {
        same(name, &field(name), wanted)?;
    }
    let filters = field("Seccomp_filters").parse::<u32>().unwrap_or(0);
    if filters < FILTERS {
        return same("Seccomp_filters", &filters.to_string(), &FILTERS.to_string());
    }
    Ok(())
}

fn descriptors(socket: RawFd) -> Result<(), Failure> {
    let mut open: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .map_err(at("reading /proc/self/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    open.sort_unstable();
    // Reading the folder takes one descriptor itself, the next after the socket.
    same("the open descriptors", &format!("{open:?}"), &format!("{:?}", [0, 1, 2, socket, socket + 1]))
}

fn kernel_settings_are_closed() -> Result<(), Failure> {
    match fs::OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern") {
        Err(_) => Ok(()),
        Ok(_) => Err(Failure::lasting(
            "checking the kernel's settings from inside",
            "core_pattern can be opened for writing",
        )),
    }
}

fn host_root_is_gone() -> Result<(), Failure> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(at("reading /proc/self/mountinfo"))?;
    let roots = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count();
    same("the number of mounts on /", &roots.to_string(), "1")
}
