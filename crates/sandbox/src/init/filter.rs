//! The seccomp filter: system calls that a sandboxed program never needs, or that reach past the namespaces.

use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::at;
use crate::wire::Failure;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// `AUDIT_ARCH_*`, which the kernel gives the filter with each call.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// The highest system call that this filter was written for (`listns`, Linux 6.19). A later one is answered with ENOSYS.
const LAST_KNOWN: u32 = 470;
/// Bit 30 marks a call of the x32 interface, whose numbers would slip past every rule.
const X32_BIT: u32 = 0x4000_0000;

const NEW_NAMESPACES: [libc::c_int; 8] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
    0x80, // CLONE_NEWTIME
];

/// Answered with EPERM whatever the arguments.
const REFUSED: &[libc::c_long] = &[
    // Other mounts, other roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    467, // open_tree_attr
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    // The kernel's larger surfaces, and what is not divided by namespaces.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_memfd_secret,
    libc::SYS_lookup_dcookie,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    // Files by handle reach past a mount's root.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The machine itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
];

/// The same, where only this processor has them.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
    libc::SYS_ustat,
    libc::SYS_sysfs,
];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[libc::c_long] = &[];

/// Answered with ENOSYS, so that programs fall back to what is filtered: `clone3` hides its flags from the filter, and
/// io_uring makes system calls that no filter sees.
const ABSENT: &[libc::c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Socket families that stay inside the network namespace.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

type Rules = Vec<(libc::c_long, Vec<SeccompRule>)>;

/// Installs the filter on this process and all that it starts.
pub(super) fn install() -> Result<(), Failure> {
    let step = "installing the seccomp filter";
    let refused_program = |error: seccompiler::BackendError| at(step)(io::Error::other(error));
    let not_installed = |error: seccompiler::Error| at(step)(io::Error::other(error));
    let compiled = [
        compile(refused(), libc::EPERM),
        compile(absent(), libc::ENOSYS),
        compile(foreign_sockets(), libc::EAFNOSUPPORT),
    ];
    for program in compiled {
        seccompiler::apply_filter(&program.map_err(refused_program)?).map_err(not_installed)?;
    }
    seccompiler::apply_filter(&by_number()).map_err(not_installed)
}

/// How many filters [`install`] stacks.
pub(super) const FILTERS: u32 = 4;

fn compile(rules: Rules, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let answer = SeccompAction::Errno(errno as u32);
    SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, answer, ARCH)?.try_into()
}

/// A rule over one 32-bit argument: the kernel ignores the high half of these, and so must the rule.
fn when(argument: u8, operator: SeccompCmpOp, value: libc::c_int) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value as u32))
        .expect("an argument's number is below 6")
}

fn rule(conditions: Vec<SeccompCondition>) -> SeccompRule {
    SeccompRule::new(conditions).expect("every rule has a condition")
}

fn refused() -> Rules {
    let mut rules: Rules = REFUSED.iter().chain(REFUSED_HERE).map(|call| (*call, Vec::new())).collect();
    let new_namespace = || -> Vec<SeccompRule> {
        let flag = |flag: libc::c_int| rule(vec![when(0, SeccompCmpOp::MaskedEq(flag as u64), flag)]);
        NEW_NAMESPACES.into_iter().map(flag).collect()
    };
    rules.push((libc::SYS_unshare, new_namespace()));
    rules.push((libc::SYS_clone, clone_namespaces()));
    // Typing into a terminal, and the console's own version of that.
    let terminal = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD, libc::TIOCCONS];
    rules.push((libc::SYS_ioctl, terminal.map(|call| rule(vec![when(1, SeccompCmpOp::Eq, call as i32)])).into()));
    rules
}

/// As for `unshare`, but in `clone` the low byte is a signal, so the flag of the time namespace cannot be meant.
fn clone_namespaces() -> Vec<SeccompRule> {
    let flags = NEW_NAMESPACES.into_iter().filter(|flag| *flag > 0xff);
    flags.map(|flag| rule(vec![when(0, SeccompCmpOp::MaskedEq(flag as u64), flag)])).collect()
}

fn absent() -> Rules {
    ABSENT.iter().map(|call| (*call, Vec::new())).collect()
}

fn foreign_sockets() -> Rules {
    let none_of = FAMILIES.map(|family| when(0, SeccompCmpOp::Ne, family)).into();
    let other_netlink =
        vec![when(0, SeccompCmpOp::Eq, libc::AF_NETLINK), when(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE)];
    vec![
        (libc::SYS_socket, vec![rule(none_of), rule(other_netlink)]),
        (libc::SYS_socketpair, vec![rule(vec![when(0, SeccompCmpOp::Ne, libc::AF_UNIX)])]),
    ]
}

/// What cannot be said as a rule over known calls: calls of another interface end the process, unknown ones are absent.
fn by_number() -> BpfProgram {
    /// Offsets in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const INTERFACE: u32 = 4;
    let load = |offset| sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let jump_if_equal = |value, jt, jf| sock_filter { code: 0x15, jt, jf, k: value };
    let jump_if_above = |value, jt, jf| sock_filter { code: 0x25, jt, jf, k: value };
    let answer = |action| sock_filter { code: 0x06, jt: 0, jf: 0, k: action };
    vec![
        load(INTERFACE),
        jump_if_equal(AUDIT_ARCH, 0, 4),
        load(NUMBER),
        jump_if_above(X32_BIT - 1, 2, 0),
        jump_if_above(LAST_KNOWN, 2, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile() {
        for (rules, errno) in [(refused(), 1), (absent(), 38), (foreign_sockets(), 97)] {
            assert!(compile(rules, errno).unwrap().len() > 3);
        }
    }
}
