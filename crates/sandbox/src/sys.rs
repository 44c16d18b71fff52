//! The system calls that no safe crate offers; nearly all of this crate's unsafe code is here.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of [`clone_namespaces`] the caller is on.
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The caller; the new process has this id.
    Parent(i32),
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks into new namespaces, and into a cgroup of version 2 where there is one. The caller must have no other thread.
pub(crate) fn clone_namespaces(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    if let Some(cgroup) = cgroup {
        return clone_into(flags, cgroup);
    }
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: with no new stack and without CLONE_VM this is fork: the child runs on a copy of the address space. The
    // process has one thread, so no lock is held by a thread that does not exist in the copy.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok(if pid == 0 { Cloned::Child } else { Cloned::Parent(pid as i32) })
}

fn clone_into(flags: libc::c_int, cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    /// Beyond what the flags of `clone` have room for.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    // SAFETY: an all-zero `clone_args` is a valid value: no flags, no stack, no places to write to.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags as u32) | CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: as for `clone` above. The arguments live through the call and their true size is given.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) })?;
    Ok(if pid == 0 { Cloned::Child } else { Cloned::Parent(pid as i32) })
}

/// Forks. The caller must have no other thread.
pub(crate) fn fork() -> io::Result<Cloned> {
    // SAFETY: the init has one thread, so the child may do anything that the parent may.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok(if pid == 0 { Cloned::Child } else { Cloned::Parent(pid as i32) })
}

/// Ends the process without running exit handlers: for forked children.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(code) }
}

/// Sets attributes of a detached tree of mounts, on every mount in it.
pub(crate) fn mount_setattr(tree: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_attributes(tree, libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 })
}

/// Shows the owners in a detached tree of mounts as the map of a user namespace says.
pub(crate) fn map_owners(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let (attr_set, userns_fd) = (libc::MOUNT_ATTR_IDMAP, namespace.as_raw_fd() as u64);
    set_attributes(tree, libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd })
}

fn set_attributes(tree: BorrowedFd<'_>, attr: libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a NUL-terminated literal, `attr` lives through the call and its true size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Closes every descriptor from `first` up.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the callers hold no owned descriptor in this range that they use, or drop, afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })?;
    Ok(())
}

/// Takes over standard input, which the server set to its end of the socket pair.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 is open (the server set it) and is only borrowed to be duplicated.
    let copy = check(libc::c_long::from(unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) }))?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// Makes descriptor `target` a copy of `from`, without close-on-exec.
pub(crate) fn dup_onto(from: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if from.as_raw_fd() == target {
        // dup2 onto itself would keep close-on-exec.
        // SAFETY: the descriptor is borrowed, so it is open.
        check(libc::c_long::from(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }))?;
        return Ok(());
    }
    // SAFETY: the callers pass standard streams or numbers that no owned descriptor of theirs has.
    check(libc::c_long::from(unsafe { libc::dup2(from.as_raw_fd(), target) }))?;
    Ok(())
}

/// Brings up the loopback device of the network namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: creating a socket touches no memory.
    let socket =
        check(libc::c_long::from(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }))?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket as RawFd) };
    // SAFETY: an all-zero `ifreq` is a valid value: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives through the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request)
    }))?;
    Ok(())
}

/// Removes a capability from the bounding set. An error means that the kernel has no such capability.
pub(crate) fn drop_bounding(capability: u32) -> io::Result<()> {
    // SAFETY: this prctl takes a number.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }))?;
    Ok(())
}

/// Empties the ambient set of capabilities.
pub(crate) fn clear_ambient() -> io::Result<()> {
    // SAFETY: this prctl takes numbers.
    check(libc::c_long::from(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0)
    }))?;
    Ok(())
}

/// Makes `mask` the effective and permitted capabilities, and the inheritable ones none.
pub(crate) fn set_capabilities(mask: u64) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: VERSION, pid: 0 };
    let half = |bits: u64| Sets { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let sets = [half(mask & 0xffff_ffff), half(mask >> 32)];
    // SAFETY: version 3 reads a header and two sets, laid out as the kernel's; both live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) })?;
    Ok(())
}

/// Receives what is there without waiting. `Ok(0)` is the end of the stream.
pub(crate) fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into the buffer.
    let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    Ok(check(got as libc::c_long)? as usize)
}

/// Makes SIGPIPE end the process again and unblocks all signals: what a program expects to be started with.
pub(crate) fn restore_signals() {
    // SAFETY: default dispositions and an empty mask hold no pointer into this program.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut empty: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
    }
}

/// Replaces the process. Returns only when that fails.
pub(crate) fn exec(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    match nix::unistd::execve(program, arguments, environment) {
        Err(error) => error.into(),
        Ok(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::path::Path;

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_process_can_be_born_in_a_cgroup_of_version_2() {
        let name = format!("rota-test-{}", std::process::id());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
        let folder = mounted.map(|mounted| Path::new(mounted).join(&name));
        let Some(folder) = folder.filter(|folder| fs::create_dir(folder).is_ok()) else {
            eprintln!("skipped: no cgroup of version 2 can be made here");
            return;
        };
        let group = File::open(&folder).unwrap();
        let child = match clone_namespaces(0, Some(group.as_fd())).unwrap() {
            Cloned::Child => loop {
                // SAFETY: waiting for a signal has no precondition, and the child does nothing else.
                unsafe { libc::pause() };
            },
            Cloned::Parent(child) => child,
        };
        let own = fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
        kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
        waitpid(Pid::from_raw(child), None).unwrap();
        fs::remove_dir(&folder).unwrap();
        assert!(own.lines().any(|line| line.starts_with("0::") && line.ends_with(&name)), "{own}");
    }
}
