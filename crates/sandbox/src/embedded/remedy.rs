//! What to tell the operator of a machine that refuses to isolate.

use std::fs;

use crate::error::Error;
use crate::init::{LEADING, MAPPING_OWNERS};
use crate::wire::Failure;

const PROGRAM_ADVICE: &str =
    "Run the server as root (sandboxes still run as unprivileged users), or see `rota doctor`.";
/// Where nothing better is known.
pub(super) const ROOT_ADVICE: &str = "`rota doctor` tries it again; docs/sandbox.md says what is needed.";
/// The bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// The error for a step of the setup that failed: a shortage that may pass, or else the likeliest way out.
pub(super) fn not_set_up(Failure { step, cause, passing }: Failure) -> Error {
    let machine = Machine::look();
    // A limit of zero is a shortage that never passes.
    if passing && !machine.no_namespaces {
        return Error::Host { doing: step, place: None, cause, passing };
    }
    let (why, remedy) = advise(&step, &cause, &machine);
    let cause = if why.is_empty() { format!("{step}: {cause}") } else { format!("{why}; {step}: {cause}") };
    Error::CannotIsolate { cause, remedy }
}

/// The settings of a machine that stand in the way most often.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a setting of its own.
struct Machine {
    apparmor_restricts: bool,
    debian_forbids: bool,
    no_namespaces: bool,
    filtered: bool,
    is_root: bool,
    may_administer: bool,
}

impl Machine {
    fn look() -> Self {
        let setting = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            apparmor_restricts: setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
            debian_forbids: setting("/proc/sys/kernel/unprivileged_userns_clone") == "0",
            no_namespaces: setting("/proc/sys/user/max_user_namespaces") == "0",
            filtered: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
            is_root: nix::unistd::geteuid().is_root(),
            may_administer: effective_capabilities(&status) & SYS_ADMIN != 0,
        }
    }
}

/// The capabilities in `/proc/self/status`.
fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}

fn advise(step: &str, cause: &str, machine: &Machine) -> (String, String) {
    let refused = cause.contains("not permitted") || cause.contains("ermission denied") || cause.contains("EPERM");
    let full = cause.contains("No space left") || cause.contains("ENOSPC");
    let (why, remedy): (&str, String) = if machine.no_namespaces && (full || refused) {
        ("user.max_user_namespaces = 0", "Raise it: `sysctl user.max_user_namespaces=15000`.".to_owned())
    } else if machine.is_root && !machine.may_administer && refused {
        (
            "root here has no CAP_SYS_ADMIN, as in a container",
            "Start the container with `--cap-add SYS_ADMIN --security-opt systempaths=unconfined` (and, for AppArmor, \
             `--security-opt apparmor=unconfined`), or a systemd unit with a CapabilityBoundingSet that has it."
                .to_owned(),
        )
    } else if machine.debian_forbids && refused && !machine.is_root {
        (
            "kernel.unprivileged_userns_clone = 0",
            format!("Set it: `sysctl kernel.unprivileged_userns_clone=1`. {PROGRAM_ADVICE}"),
        )
    } else if machine.apparmor_restricts && refused && !machine.is_root {
        (
            "kernel.apparmor_restrict_unprivileged_userns = 1 (the default of Ubuntu 23.10 and later)",
            format!(
                "Install an AppArmor profile that allows user namespaces for this program only (docs/sandbox.md shows \
                 one). {PROGRAM_ADVICE}"
            ),
        )
    } else if machine.filtered && refused {
        (
            "this process runs under a seccomp filter, as in a container",
            "Start the container with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined` (and, \
             for AppArmor, `--security-opt apparmor=unconfined`)."
                .to_owned(),
        )
    } else if step.contains("uid_map") && machine.is_root {
        (
            "root here may not map user ids from 1000000 up, as in a container that is itself in a user namespace",
            "Run the server as a plain user, or outside of that container.".to_owned(),
        )
    } else if step == MAPPING_OWNERS {
        (
            "the file system of the data folder cannot show files under other owners",
            "Put the data folder on ext4, XFS or btrfs (in a container: on a volume) with Linux 5.19 or later, or run the \
             server as a plain user."
                .to_owned(),
        )
    } else if step.starts_with(LEADING) {
        (
            "the network of a sandbox cannot be led to the gate",
            "Set `enabled = false` in `[network]` of the configuration: sandboxes then have no network.".to_owned(),
        )
    } else if step.starts_with("mounting proc") && refused {
        (
            "parts of /proc are hidden here, as in a container",
            "Start the container with `--security-opt systempaths=unconfined`.".to_owned(),
        )
    } else {
        ("", if machine.is_root { ROOT_ADVICE } else { PROGRAM_ADVICE }.to_owned())
    };
    (why.to_owned(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_refusal_has_its_own_way_out() {
        let plain = Machine::default;
        let cases = [
            (
                Machine { no_namespaces: true, ..plain() },
                "making namespaces",
                "No space left on device",
                "max_user_namespaces",
            ),
            (
                Machine { debian_forbids: true, ..plain() },
                "making namespaces",
                "Operation not permitted",
                "userns_clone",
            ),
            (Machine { apparmor_restricts: true, ..plain() }, "writing uid_map", "Operation not permitted", "AppArmor"),
            (
                Machine { filtered: true, ..plain() },
                "making namespaces",
                "Operation not permitted",
                "seccomp=unconfined",
            ),
            (
                Machine { is_root: true, may_administer: true, ..plain() },
                "writing uid_map",
                "Operation not permitted",
                "plain user",
            ),
            (plain(), "mounting proc on /proc", "Operation not permitted", "systempaths"),
            (plain(), "leading the network to the gate: listening", "Address already in use", "enabled = false"),
            (plain(), "anything", "Input/output error", "Run the server as root"),
            (
                Machine { is_root: true, filtered: true, ..plain() },
                "making a mount namespace as root",
                "Operation not permitted",
                "--cap-add SYS_ADMIN",
            ),
            (
                Machine { is_root: true, may_administer: true, ..plain() },
                "anything",
                "Input/output error",
                "rota doctor",
            ),
        ];
        for (machine, step, cause, wanted) in cases {
            let (_, remedy) = advise(step, cause, &machine);
            assert!(remedy.contains(wanted), "{machine:?} {step}: {remedy}");
            assert!(!(machine.is_root && remedy.contains("as root")), "it is root: {remedy}");
        }
    }

    #[test]
    fn capabilities_are_read_from_the_status_of_the_process() {
        assert_eq!(effective_capabilities("Name:\trota\nCapEff:\t00000000a80425fb\n") & SYS_ADMIN, 0);
        assert_ne!(effective_capabilities("CapEff:\t000001ffffffffff\n") & SYS_ADMIN, 0);
        assert_eq!(effective_capabilities(""), 0);
    }
}
