//! What process 1 gives up: descriptors, limits, capabilities, and through Landlock the right to write elsewhere.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid};

use super::{at, root};
use crate::sys;
use crate::wire::{ContainerIds, Failure, Identity, Launch};

/// What root inside may still do, over its own ids and its own network only: what package managers and servers need.
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE.
const KEPT_CAPABILITIES: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10;
/// One above the highest capability that a kernel could number.
const CAPABILITY_END: u32 = 64;
/// Locked memory of one process, in bytes.
const LOCKED_BYTES: u64 = 64 << 10;
/// Bytes in POSIX message queues, and signals waiting.
const QUEUED: u64 = 800 << 10;

/// What root inside may still do. Where it is the host's root that is nothing.
pub(super) fn kept_capabilities(launch: &Launch) -> u64 {
    if launch.is_root_of_host() { 0 } else { KEPT_CAPABILITIES }
}

/// Takes on id 0 of the user namespace.
pub(super) fn become_root_inside(identity: Identity) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).map_err(at("becoming group 0 inside"))?;
    if identity.has_range() {
        nix::unistd::setgroups(&[]).map_err(at("leaving the host's groups"))?;
    }
    nix::unistd::setresuid(uid, uid, uid).map_err(at("becoming user 0 inside"))
}

pub(super) fn set_rlimits(launch: &Launch) -> Result<(), Failure> {
    let limits = &launch.limits;
    let mut wanted = vec![
        (Resource::RLIMIT_CORE, limits.core_bytes),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_FSIZE, limits.disk_bytes),
        (Resource::RLIMIT_MEMLOCK, LOCKED_BYTES),
        (Resource::RLIMIT_MSGQUEUE, QUEUED),
    ];
    // It counts all processes of a user in its namespace: without one of its own those of others too.
    if launch.container.as_ref().is_none_or(|container| container.ids == ContainerIds::Own) {
        wanted.push((Resource::RLIMIT_NPROC, limits.pids));
    }
    if launch.limit_address_space {
        wanted.push((Resource::RLIMIT_AS, limits.memory_bytes));
    }
    for (resource, most) in wanted {
        let (_, hard) = getrlimit(resource).map_err(at("reading a resource limit"))?;
        let most = most.min(hard);
        setrlimit(resource, most, most).map_err(at("setting a resource limit"))?;
    }
    Ok(())
}

/// Keeps the standard streams, which are `/dev/null`, and the socket.
pub(super) fn close_descriptors_except(socket: RawFd) -> Result<(), Failure> {
    // The socket is duplicated from standard input before anything else is opened, so it is the lowest of all.
    if socket != 3 {
        return Err(Failure::lasting("closing descriptors", format!("the socket is {socket}")));
    }
    sys::close_from(socket + 1).map_err(at("closing descriptors"))
}

pub(super) fn drop_capabilities(kept: u64) -> Result<(), Failure> {
    for capability in 0..CAPABILITY_END {
        // The kernel refuses numbers that it does not know; the check from inside reads what is left.
        if kept & (1 << capability) == 0 && sys::drop_bounding(capability).is_err() {
            break;
        }
    }
    sys::clear_ambient().map_err(at("clearing the ambient capabilities"))?;
    sys::set_capabilities(kept).map_err(at("dropping capabilities"))
}

/// A second fence for files, where the kernel has it: reading everywhere, writing only where the sandbox's own files are.
pub(super) fn landlock(launch: &Launch) -> Result<String, Failure> {
    let abi = ABI::V6;
    let everything = AccessFs::from_all(abi);
    let reading = AccessFs::from_read(abi);
    let step = "setting up Landlock";
    let refused = |error: RulesetError| at(step)(io::Error::other(error));
    let open = |path: &Path| PathFd::new(path).map_err(|error| at(step)(io::Error::other(error)));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(refused)?;
    rules = rules.add_rule(PathBeneath::new(open(Path::new("/"))?, reading)).map_err(refused)?;
    for folder in root::writable_folders(launch) {
        let folder = open(&Path::new("/").join(folder))?;
        rules = rules.add_rule(PathBeneath::new(folder, everything)).map_err(refused)?;
    }
    let status = rules.restrict_self().map_err(refused)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "absent",
    }
    .to_owned())
}
