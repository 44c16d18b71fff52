"""Tries what a sandbox must refuse, from inside, and prints one line a try: a name, a space, and what the kernel answered."""

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import signal
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
host_pid = int(sys.argv[1])

# Numbers of the x86-64 interface.
CALLS = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "open_tree_attr": 467, "ptrace": 101,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438, "setns": 308, "bpf": 321,
    "perf_event_open": 298, "userfaultfd": 323, "kexec_load": 246, "init_module": 175, "finit_module": 313,
    "syslog": 103, "keyctl": 250, "add_key": 248, "request_key": 249, "open_by_handle_at": 304,
    "name_to_handle_at": 303, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435,
    "reboot": 169, "swapon": 167, "settimeofday": 164, "sethostname": 170, "acct": 163, "quotactl": 179,
    "fanotify_init": 300, "iopl": 172, "modify_ldt": 154, "unknown_call": 5000,
}


def said(name, result):
    print(name, result, flush=True)


def answer(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a) for a in arguments])
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def attempt(name, action):
    try:
        action()
        said(name, "ok")
    except OSError as error:
        said(name, errno.errorcode.get(error.errno, str(error)))


def fate(name, action):
    """Runs an action in a child and prints how the child ended."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    said(name, signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "ran")


def write(path):
    os.close(os.open(path, os.O_WRONLY))


def machine_code(code):
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CFUNCTYPE(ctypes.c_int)(address)()


for call, number in CALLS.items():
    said(call, answer(number, 0, 0, 0, 0, 0))

for path in ["kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory", "net/ipv4/ip_forward"]:
    attempt(f"write_/proc/sys/{path}", lambda: write(f"/proc/sys/{path}"))
for path in ["/proc/sysrq-trigger", "/proc/1/mem", "/proc/1/exe", "/proc/1/root/etc/hostname", "/usr/bin/env", "/etc/passwd",
             "/mnt/session/uploads/new"]:
    attempt(f"write_{path}", lambda: write(path))
# The mounts' own flags: a refusal by owner alone would look the same above.
for path in ["/proc/sys", "/proc/irq", "/usr", "/etc/ssl", "/mnt/session/uploads", "/workspace", "/tmp", "/root"]:
    flags = os.statvfs(path).f_flag
    named = [(os.ST_RDONLY, "ro"), (os.ST_NOSUID, "nosuid"), (os.ST_NODEV, "nodev")]
    said(f"mount_{path}", ",".join(name for flag, name in named if flags & flag))
attempt("list_/proc/1/fd", lambda: os.listdir("/proc/1/fd"))
attempt("link_/proc/1/exe", lambda: os.readlink("/proc/1/exe"))
for path in ["kcore", "kallsyms", "kmsg", "keys", "timer_list"]:
    try:
        with open(f"/proc/{path}", "rb") as file:
            said(f"read_/proc/{path}", len(file.read(16)))
    except OSError as error:
        said(f"read_/proc/{path}", errno.errorcode[error.errno])

attempt("kill_host", lambda: os.kill(host_pid, 0))
attempt("kill_init", lambda: os.kill(1, signal.SIGKILL))
said("pids_above", len([p for p in os.listdir("/proc") if p.isdigit() and int(p) > 2000]))

for name, flag in {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000,
                   "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}.items():
    said(f"unshare_{name}", answer(272, flag))
    if name != "time":
        said(f"clone_{name}", answer(56, flag | signal.SIGCHLD, 0, 0, 0, 0))

attempt("mknod_block", lambda: os.mknod("/workspace/b", 0o60666, os.makedev(254, 0)))
attempt("mknod_char", lambda: os.mknod("/workspace/c", 0o20666, os.makedev(1, 1)))
said("dev", ",".join(sorted(os.listdir("/dev"))))

for name, family in {"vsock": 40, "alg": 38, "packet": 17, "bluetooth": 31, "can": 29, "tipc": 30, "xdp": 44}.items():
    said(f"socket_{name}", answer(41, family, socket.SOCK_DGRAM, 0))
said("socket_vsock_high_bits", answer(41, 40 | 1 << 32, socket.SOCK_DGRAM, 0))
said("socket_netlink_audit", answer(41, 16, socket.SOCK_RAW, 9))
said("socket_netlink_netfilter", answer(41, 16, socket.SOCK_RAW, 12))
said("socket_netlink_route", answer(41, 16, socket.SOCK_RAW, 0))
said("socket_raw", answer(41, socket.AF_INET, socket.SOCK_RAW, 1))
said("socketpair_tipc", answer(53, 30, socket.SOCK_STREAM, 0, 0))

terminal, _ = pty.openpty()
for name, request in {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCSETD": 0x5423}.items():
    said(name, answer(16, terminal, request, 0))
    said(f"{name}_high_bits", answer(16, terminal, request | 1 << 32, 0))

attempt("hardlink", lambda: os.link("/usr/bin/env", "/workspace/env"))
said("cgroup_mounts", sum(" cgroup" in line.split(" - ")[1] for line in open("/proc/self/mountinfo")))
said("release_agent", os.path.exists("/sys/fs/cgroup"))
said("interfaces", ",".join(name for _, name in socket.if_nameindex()))
attempt("connect_loopback_closed", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("connect_outside", lambda: socket.create_connection(("1.2.3.4", 443), timeout=5))


def loopback_works():
    listener = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(listener.getsockname())


attempt("loopback", loopback_works)

# mov eax, 20 (getpid of the 32-bit interface); int 0x80; ret
fate("int80", lambda: machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"))
fate("x32", lambda: libc.syscall(ctypes.c_long(0x40000000 + 39)))
