//! Attacks on the fence itself: the kernel's surface, other processes, devices, and a machine that refuses to isolate.
//!
//! The cases have numbers, which the tests of this folder name:
//!
//! | cases | tested in |
//! |---|---|
//! | 1 kernel settings · 2 /proc · 3 process ids · 4 other processes · 5 namespaces · 6 mounts · 7, 8 devices · 9 kernel surface · 10 io_uring · 11 keyrings · 12 socket families · 13 terminals · 15 file handles · 18 cgroups · 19 other system call interfaces · 47 hard links | `an_attack_from_inside_gets_the_kernel_s_refusal` |
//! | 14 setuid files | `a_setuid_file_gives_nothing_inside_and_belongs_to_nobody_outside` |
//! | 16 the init's own program | `nothing_inside_reaches_the_init_s_program`; sealing: unit test in `embedded/program.rs` |
//! | 17 leaked descriptors | `a_descriptor_left_open_by_the_server_is_not_there_inside` |
//! | 20 fail closed | `a_machine_that_refuses_a_step_runs_nothing` |
//! | 21 to 35 network | the gate's own tests, `crates/rota/tests/it/egress`; its listeners: `gate.rs`; that there is no way out at all without the gate: `an_attack_from_inside_gets_the_kernel_s_refusal` |
//! | 36 to 43 resources | `limits.rs` |
//! | 44 archives in the files API | the files API's own tests |
//! | 45, 46, 50, 51 tools | `tools.rs` |
//! | 48 hostile repository | `limits.rs`: `a_hostile_repository_runs_its_hooks_inside_only` |
//! | 49 memory stores and skills mounted read-only | those resources' own tests; the read-only uploads folder: `an_attack_from_inside_gets_the_kernel_s_refusal` |
//! | 52 environment | `the_server_s_environment_is_not_there_inside` |
//! | 53 archives that are unpacked on the host | `images.rs`; no snapshots exist |
//!
//! What commands do to the shell that they run in is in `shell.rs`.
//!
//! `tests/with-containers` runs the same in containers. What does not apply there is in the Makefile (`NOT_IN_CONTAINERS`), and what is
//! answered otherwise is in [`IN_CONTAINERS`]. Of containers of root's Docker, whose root is the host's, ids do not differ and setuid
//! files are root's: `root_inside_is_nobody_outside` and `a_setuid_file_gives_nothing…` do not hold, and docs/containers.md says so.
//!
//! Attacks are Python programs, so these tests need `python3` and an x86-64 machine. Run by root they try a server run
//! by root and one run by `nobody`; run by a plain user they try that user's only, and say so.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, unsafe_code)]

mod inside;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use inside::{CommandLine, Server, in_containers, servers, small_root};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

const ATTACKS: &str = include_str!("inside/attacks.py");

/// What each attack must be answered with; alternatives are separated by `|`.
const REFUSALS: &[(&str, &str)] = &[
    // 1
    ("write_/proc/sys/kernel/core_pattern", "EROFS|EACCES"),
    ("write_/proc/sys/kernel/modprobe", "EROFS|EACCES|ENOENT"),
    ("write_/proc/sys/vm/overcommit_memory", "EROFS|EACCES"),
    ("write_/proc/sys/net/ipv4/ip_forward", "EROFS|EACCES"),
    ("mount_/proc/sys", "ro,nosuid,nodev"),
    ("mount_/proc/irq", "ro,nosuid,nodev"),
    ("mount_/usr", "ro,nosuid,nodev"),
    ("mount_/etc/ssl", "ro,nosuid,nodev"),
    ("mount_/mnt/session/uploads", "ro,nosuid,nodev"),
    ("mount_/workspace", "nosuid,nodev"),
    ("mount_/tmp", "nosuid,nodev"),
    ("mount_/root", "nosuid,nodev"),
    // 2
    ("write_/proc/sysrq-trigger", "EROFS|EACCES|ENOENT"),
    ("read_/proc/kcore", "0|EACCES|ENOENT"),
    ("read_/proc/kallsyms", "0|EACCES|ENOENT"),
    ("read_/proc/kmsg", "0|EACCES|ENOENT"),
    ("read_/proc/keys", "0|EACCES|ENOENT"),
    ("read_/proc/timer_list", "0|EACCES|ENOENT"),
    // 3, 4
    ("pids_above", "0"),
    ("kill_host", "ESRCH"),
    ("write_/proc/1/mem", "EACCES"),
    ("ptrace", "EPERM"),
    ("process_vm_readv", "EPERM"),
    ("process_vm_writev", "EPERM"),
    ("kcmp", "EPERM"),
    ("pidfd_getfd", "EPERM"),
    // 5
    ("unshare_user", "EPERM"),
    ("unshare_mnt", "EPERM"),
    ("unshare_pid", "EPERM"),
    ("unshare_net", "EPERM"),
    ("unshare_ipc", "EPERM"),
    ("unshare_uts", "EPERM"),
    ("unshare_cgroup", "EPERM"),
    ("unshare_time", "EPERM"),
    ("clone_user", "EPERM"),
    ("clone_mnt", "EPERM"),
    ("clone_net", "EPERM"),
    ("clone3", "ENOSYS"),
    ("setns", "EPERM"),
    // 6
    ("mount", "EPERM"),
    ("umount2", "EPERM"),
    ("pivot_root", "EPERM"),
    ("chroot", "EPERM"),
    ("open_tree", "EPERM"),
    ("open_tree_attr", "EPERM"),
    ("move_mount", "EPERM"),
    ("fsopen", "EPERM"),
    ("fsconfig", "EPERM"),
    ("fsmount", "EPERM"),
    ("fspick", "EPERM"),
    ("mount_setattr", "EPERM"),
    // 7, 8
    ("mknod_block", "EPERM"),
    ("mknod_char", "EPERM"),
    ("dev", "fd,full,null,ptmx,pts,random,shell,shm,stderr,stdin,stdout,tty,urandom,zero"),
    // 9
    ("bpf", "EPERM"),
    ("perf_event_open", "EPERM"),
    ("userfaultfd", "EPERM"),
    ("kexec_load", "EPERM"),
    ("init_module", "EPERM"),
    ("finit_module", "EPERM"),
    ("syslog", "EPERM"),
    ("fanotify_init", "EPERM"),
    ("iopl", "EPERM"),
    ("modify_ldt", "EPERM"),
    ("reboot", "EPERM"),
    ("swapon", "EPERM"),
    ("settimeofday", "EPERM"),
    ("sethostname", "EPERM"),
    ("acct", "EPERM"),
    ("quotactl", "EPERM"),
    ("unknown_call", "ENOSYS"),
    // 10
    ("io_uring_setup", "ENOSYS"),
    ("io_uring_enter", "ENOSYS"),
    ("io_uring_register", "ENOSYS"),
    // 11
    ("keyctl", "EPERM"),
    ("add_key", "EPERM"),
    ("request_key", "EPERM"),
    // 12
    ("socket_vsock", "EAFNOSUPPORT"),
    ("socket_vsock_high_bits", "EAFNOSUPPORT"),
    ("socket_alg", "EAFNOSUPPORT"),
    ("socket_packet", "EAFNOSUPPORT"),
    ("socket_bluetooth", "EAFNOSUPPORT"),
    ("socket_can", "EAFNOSUPPORT"),
    ("socket_tipc", "EAFNOSUPPORT"),
    ("socket_xdp", "EAFNOSUPPORT"),
    ("socket_netlink_audit", "EAFNOSUPPORT"),
    ("socket_netlink_netfilter", "EAFNOSUPPORT"),
    ("socket_netlink_route", "ok"),
    ("socket_raw", "EPERM"),
    ("socketpair_tipc", "EAFNOSUPPORT"),
    // 13
    ("TIOCSTI", "EPERM"),
    ("TIOCSTI_high_bits", "EPERM"),
    ("TIOCLINUX", "EPERM"),
    ("TIOCLINUX_high_bits", "EPERM"),
    ("TIOCSETD", "EPERM"),
    ("TIOCSETD_high_bits", "EPERM"),
    // 15
    ("open_by_handle_at", "EPERM"),
    ("name_to_handle_at", "EPERM"),
    // 16
    ("write_/proc/1/exe", "EACCES"),
    ("link_/proc/1/exe", "EACCES"),
    ("list_/proc/1/fd", "EACCES"),
    ("write_/proc/1/root/etc/hostname", "EACCES"),
    // 18
    ("cgroup_mounts", "0"),
    ("release_agent", "False"),
    // 19
    ("int80", "SIGSYS|SIGSEGV"),
    ("x32", "SIGSYS"),
    // 47, and files that are the host's
    ("hardlink", "EXDEV"),
    ("write_/usr/bin/env", "EROFS|EACCES"),
    ("write_/etc/passwd", "EROFS|EACCES"),
    ("write_/mnt/session/uploads/new", "EROFS|EACCES|ENOENT"),
    // The network: loopback and nothing else.
    ("interfaces", "lo"),
    ("loopback", "ok"),
    ("connect_loopback_closed", "ECONNREFUSED"),
    ("connect_outside", "ENETUNREACH"),
];

/// What of [`REFUSALS`] is about the host's own programs and settings. An image has its own, which its root may change for itself.
const OF_THE_HOST: [&str; 5] =
    ["mount_/usr", "mount_/etc/ssl", "mount_/root", "write_/usr/bin/env", "write_/etc/passwd"];

/// What is answered otherwise in containers, whose mounts and `/dev` a daemon makes.
const IN_CONTAINERS: &[(&str, &str)] = &[
    // The root is read-only as a whole, and `no_new_privs` holds everywhere.
    ("mount_/usr", "ro"),
    ("mount_/etc/ssl", "ro"),
    ("dev", "fd,full,mqueue,null,ptmx,pts,random,shell,shm,stderr,stdin,stdout,tty,urandom,zero"),
    // They are below /sys, which is covered, and read-only.
    ("cgroup_mounts", "*"),
    // Which numbers there are, not what is behind them.
    ("list_/proc/1/fd", "ok|EACCES"),
    // Docker can ask for no more, and `no_new_privs` and the filter hold there too.
    ("mount_/mnt/session/uploads", "ro,nosuid,nodev|ro"),
    ("mount_/workspace", "nosuid,nodev|"),
    ("mount_/root", "nosuid,nodev|"),
];

fn wanted_of(attack: &str, wanted: &'static str) -> &'static str {
    let otherwise = IN_CONTAINERS.iter().find(|(other, _)| *other == attack);
    otherwise.filter(|_| in_containers()).map_or(wanted, |(_, otherwise)| otherwise)
}

fn check_refusals(fence: &CommandLine, is_asked: impl Fn(&str) -> bool) {
    let answers = fence.python(ATTACKS, &std::process::id().to_string());
    let wrong: BTreeMap<_, _> = REFUSALS
        .iter()
        .filter(|(attack, _)| is_asked(attack))
        .filter_map(|(attack, wanted)| {
            let found = answers.get(*attack).map_or("(no answer)", String::as_str);
            let wanted = wanted_of(attack, wanted);
            let is_wanted = wanted.split('|').any(|wanted| wanted == found || wanted == "*");
            (!is_wanted).then_some((attack, (found, wanted)))
        })
        .collect();
    assert!(wrong.is_empty(), "{:?}, found and wanted: {wrong:#?}", fence.server);
}

#[test]
fn an_attack_from_inside_gets_the_kernel_s_refusal() {
    for server in servers() {
        check_refusals(&CommandLine::new(server), |_| true);
    }
}

#[test]
fn an_attack_from_inside_an_image_gets_the_same_refusal() {
    for server in servers() {
        let fence = CommandLine::new(server).on_python_image();
        check_refusals(&fence, |attack| !OF_THE_HOST.contains(&attack));
        let ids = "id -u; while read line; do echo $line; done < /proc/self/uid_map; while read name value; do case $name in \
                   CapEff: | CapBnd:) echo $name $value ;; esac; done < /proc/self/status";
        let text = fence.answers("other", &[ids]).remove(0);
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(
            (words[0], words[1], words[5], words[7]),
            ("0", "0", "00000000000004fb", "00000000000004fb"),
            "{text}"
        );
        assert_ne!(words[2], "0", "host id 0 is mapped: {text}");
    }
}

#[test]
fn root_inside_is_nobody_outside() {
    for server in servers() {
        let output =
            CommandLine::new(server).run(&["id -u; cat /proc/self/uid_map; grep -E 'Cap(Eff|Bnd)' /proc/self/status"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(&words[..2], ["0", "0"], "{text}");
        assert_ne!(words[2], "0", "host id 0 is mapped: {text}");
        assert_eq!((words[5], words[7]), ("00000000000004fb", "00000000000004fb"), "{text}");
    }
}

#[test]
fn a_root_file_system_of_the_operator_s_is_seen_and_never_changed() {
    for server in servers() {
        let line = CommandLine::new(server);
        let root = line.folder.path().join("root");
        small_root(&root);
        let run = |commands: &[&str]| {
            let mut command = line.command();
            command.env("ROTA_SANDBOX_ROOT_FS", &root).arg(line.data()).arg("s").args(commands);
            let output = command.output().unwrap();
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        };
        let first = run(&["ls -d /usr /proc/1 /workspace; cat /etc/note; echo new > /added && cat /added; id -u; \
                           echo kept > /workspace/file; echo done > /mnt/session/outputs/o; echo x > /tmp/t; rm /added; \
                           echo again > /again; echo x > /proc/sys/kernel/core_pattern"]);
        for wanted in ["'/usr': No such", "original\nnew\n0\n", "core_pattern: "] {
            assert!(first.contains(wanted), "{server:?}: {wanted:?} in {first}");
        }
        let second = run(&["cat /again /workspace/file /etc/note; ls /added"]);
        assert!(second.contains("again\nkept\noriginal\n") && second.contains("'/added': No such"), "{second}");
        assert!(!root.join("again").exists() && !root.join("workspace").exists(), "the operator's folder was changed");
        // The agent owns the upper layer: a link where a mount point was must not lead the next set-up anywhere.
        let victim = line.folder.path().join("victim");
        std::fs::create_dir(&victim).unwrap();
        let upper = line.data().join("sessions/s/upper");
        std::fs::remove_dir_all(upper.join("mnt")).unwrap();
        std::os::unix::fs::symlink(&victim, upper.join("mnt")).unwrap();
        let third = run(&["echo escaped"]);
        assert!(third.contains("making /mnt") && !third.contains("escaped\n"), "{third}");
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "a folder of the host was written to");
    }
}

#[test]
fn a_setuid_file_gives_nothing_inside_and_belongs_to_nobody_outside() {
    for server in servers() {
        let line = CommandLine::new(server);
        let drop_to_nobody = "import os,sys\n\
            if sys.argv[1] == 'range': os.setgid(1000); os.setuid(1000)\n\
            os.execv('/workspace/id', ['id', '-u'])";
        let ids = if server == Server::Root { "range" } else { "single" };
        let output = line.run(&[
            "cp /usr/bin/id /workspace/id && chmod 6755 /workspace/id && chmod 755 /workspace",
            &format!("/usr/bin/python3 -c \"{drop_to_nobody}\" {ids}"),
        ]);
        let text = String::from_utf8(output.stdout).unwrap();
        let wanted = if server == Server::Root { "1000" } else { "0" };
        assert_eq!(
            text.trim_end().lines().last(),
            Some(wanted),
            "{server:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let meta = std::fs::metadata(line.workspace().join("id")).unwrap();
        assert_ne!(meta.uid(), 0, "a setuid file of the host's root");
        let store = std::fs::metadata(line.data().join("sessions")).unwrap();
        assert_eq!(store.mode() & 0o777, 0o700, "others on the host could run it");
    }
}

#[test]
fn nothing_inside_reaches_the_init_s_program() {
    for server in servers() {
        let line = CommandLine::new(server);
        let before = inside::content(&line.program());
        let attack = "for exe in /proc/[0-9]*/exe; do (exec 3>>$exe && echo owned >&3) 2>/dev/null; done; \
                      for fd in /proc/1/fd/*; do (echo owned > $fd) 2>/dev/null; done; echo tried";
        let output = line.run(&[attack, "echo alive"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("tried") && text.contains("alive"), "{text}");
        assert_eq!(inside::content(&line.program()), before);
    }
}

#[test]
fn a_descriptor_left_open_by_the_server_is_not_there_inside() {
    for server in servers() {
        let line = CommandLine::new(server);
        let mut command = line.command();
        command.arg(line.data()).args(["s", "/usr/bin/python3 -c 'import os; print(os.listdir(\"/proc/self/fd\"))'"]);
        // SAFETY: dup2 is async-signal-safe; the descriptors are left open for the program on purpose.
        unsafe {
            command.pre_exec(|| {
                for leaked in [3, 9, 251] {
                    libc::dup2(2, leaked);
                }
                Ok(())
            });
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.trim(), "['0', '1', '2', '3']", "the fourth is the listing itself; {output:?}");
    }
}

#[test]
fn the_server_s_environment_is_not_there_inside() {
    for server in servers() {
        let line = CommandLine::new(server);
        let mut command = line.command();
        command.env("ROTA_TEST_SECRET", "hunter2").arg(line.data()).args([
            "s",
            "env; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; cat /proc/1/environ && echo READ",
        ]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("HOME=/root"), "{output:?}");
        assert!(!text.contains("hunter2") && !text.contains("READ\n"), "{text}");
    }
}

/// Makes a program start on a machine that answers EPERM to one system call, or to it with some flag or request.
fn refuse(command: &mut Command, call: libc::c_long, argument: Option<(u8, u64)>) {
    answer(command, call, argument, libc::EPERM);
}

/// The same with another answer.
fn answer(command: &mut Command, call: libc::c_long, argument: Option<(u8, u64)>, errno: i32) {
    let rules = argument.map(|(index, value)| {
        let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(value), value);
        SeccompRule::new(vec![condition.unwrap()]).unwrap()
    });
    let rules = [(call, rules.into_iter().collect())].into();
    let answer = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, TargetArch::x86_64).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    // As containers do it: what hides its flags from filters is not there.
    let hidden = [(libc::SYS_clone3, Vec::new())].into();
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(hidden, SeccompAction::Allow, absent, TargetArch::x86_64).unwrap();
    let without_clone3: BpfProgram = filter.try_into().unwrap();
    // SAFETY: between fork and exec this makes three system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let apply = |program| seccompiler::apply_filter(program).map_err(|_| std::io::ErrorKind::PermissionDenied);
            apply(&without_clone3)?;
            Ok(apply(&program)?)
        });
    }
}

/// A system call, the argument and value by which it is meant, and what the error must name.
type Refusal = (libc::c_long, Option<(u8, u64)>, &'static str);

#[test]
fn a_machine_that_refuses_a_step_runs_nothing() {
    let new_user = Some((0, libc::CLONE_NEWUSER as u64));
    let new_cgroup = Some((0, libc::CLONE_NEWCGROUP as u64));
    let interface_up = Some((1, libc::SIOCSIFFLAGS));
    let cases: &[Refusal] = &[
        (libc::SYS_clone, new_user, "making user, mount, pid"),
        (libc::SYS_unshare, new_cgroup, "making a cgroup namespace"),
        (libc::SYS_setresuid, None, "becoming user 0 inside"),
        (libc::SYS_sethostname, None, "naming the host"),
        (libc::SYS_ioctl, interface_up, "bringing up loopback"),
        (libc::SYS_mount, None, "making the mounts private"),
        (libc::SYS_fsopen, None, "mounting the new root"),
        (libc::SYS_move_mount, None, "attaching the new root"),
        (libc::SYS_open_tree, None, "showing /usr"),
        (libc::SYS_mount_setattr, None, "showing /usr"),
        (libc::SYS_pivot_root, None, "changing the root"),
        (libc::SYS_umount2, None, "detaching the host's root"),
        (libc::SYS_prlimit64, None, "a resource limit"),
        (libc::SYS_setsid, None, "starting a session"),
        (libc::SYS_close_range, None, "the init ended before the fence stood"),
        (libc::SYS_capset, None, "dropping capabilities"),
        (libc::SYS_seccomp, None, "installing the seccomp filter"),
    ];
    for server in servers() {
        let line = CommandLine::new(server);
        for (call, argument, step) in cases {
            let mut command = line.command();
            command.arg(line.data()).args(["s", "echo escaped"]);
            refuse(&mut command, *call, *argument);
            let output = command.output().unwrap();
            let shown = format!("{server:?}: {output:?}");
            assert!(!String::from_utf8_lossy(&output.stdout).contains("escaped"), "{shown}");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains(step) && error.contains("No agent tool runs without isolation"), "{step}: {shown}");
            assert!(!error.contains(line.data().to_str().unwrap()), "a path of the host: {shown}");
        }
    }
}

#[test]
fn a_shortage_at_the_start_of_a_sandbox_is_told_from_a_refusal() {
    const MAY_PASS: Option<i32> = Some(75);
    let new_user = Some((0, libc::CLONE_NEWUSER as u64));
    let cases = [
        (libc::SYS_memfd_create, None, libc::EMFILE, MAY_PASS),
        (libc::SYS_clone, new_user, libc::EAGAIN, MAY_PASS),
        (libc::SYS_clone, new_user, libc::ENOMEM, MAY_PASS),
        (libc::SYS_clone, new_user, libc::ENOSPC, MAY_PASS),
        (libc::SYS_fsopen, None, libc::ENOMEM, MAY_PASS),
        (libc::SYS_pivot_root, None, libc::EBUSY, Some(1)),
        (libc::SYS_open_tree, None, libc::ENOENT, Some(1)),
        (libc::SYS_seccomp, None, libc::EINVAL, Some(1)),
    ];
    for server in servers() {
        let line = CommandLine::new(server);
        for (call, argument, errno, code) in cases {
            let mut command = line.command();
            command.arg(line.data()).args(["s", "echo escaped"]);
            answer(&mut command, call, argument, errno);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), code, "{server:?}, {call} answers {errno}: {output:?}");
            assert!(!String::from_utf8_lossy(&output.stdout).contains("escaped"), "{output:?}");
        }
    }
}

#[test]
fn a_refusal_as_in_a_container_is_answered_with_the_way_out() {
    for server in servers() {
        let line = CommandLine::new(server);
        let mut command = line.command();
        command.arg(line.data()).args(["s", "echo escaped"]);
        refuse(&mut command, libc::SYS_clone, Some((0, libc::CLONE_NEWUSER as u64)));
        let error = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(error.contains("under a seccomp filter") && error.contains("seccomp=unconfined"), "{error}");
    }
}
