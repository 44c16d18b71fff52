//! The check from inside, before the first tool: what the kernel says of this process must be what was asked for.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use super::at;
use super::confine::KEPT_CAPABILITIES;
use super::filter::FILTERS;
use crate::wire::{Failure, Launch};

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The namespaces of this process, by kind.
pub(super) fn namespaces() -> io::Result<Vec<(String, String)>> {
    NAMESPACES
        .into_iter()
        .map(|kind| {
            Ok((kind.to_owned(), fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned()))
        })
        .collect()
}

/// Compares everything that matters with what it must be; the first difference is a failure.
pub(super) fn check(launch: &Launch, socket: RawFd, host: &[(String, String)]) -> Result<(), Failure> {
    own_namespaces(host)?;
    same("process id", &nix::unistd::getpid().to_string(), "1")?;
    id_map("uid_map", &launch.identity.uid_map())?;
    id_map("gid_map", &launch.identity.gid_map())?;
    status()?;
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
    for ((kind, inside), (_, outside)) in namespaces().map_err(at("reading /proc/self/ns"))?.iter().zip(host) {
        if inside == outside {
            let cause = format!("the {kind} namespace is the host's");
            return Err(Failure::lasting("checking the namespaces from inside", cause));
        }
    }
    Ok(())
}

fn id_map(file: &str, wanted: &str) -> Result<(), Failure> {
    let found = fs::read_to_string(format!("/proc/self/{file}")).map_err(at(format!("reading {file}")))?;
    let words = |text: &str| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    same(file, &words(&found), &words(wanted))
}

fn status() -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status").map_err(at("reading /proc/self/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or("").trim().to_owned()
    };
    let kept = format!("{KEPT_CAPABILITIES:016x}");
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
