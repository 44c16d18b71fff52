//! Attacks on the machine's resources, and the life and death of a sandbox. The cases are listed in `fence.rs`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, unsafe_code)]

mod inside;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use inside::{Backend, CommandLine, bash, bash_for, in_containers, servers};
use rota_sandbox::{Embedded, Error, Limits, ToolCall};

const MIB: u64 = 1 << 20;

/// Memory and processor limits need cgroups, and those need root here.
fn has_cgroups() -> bool {
    let has = nix::unistd::geteuid().is_root();
    if !has {
        eprintln!("skipped: without root there are no cgroups to try");
    }
    has
}

/// How many processes on this machine have a command line with this word in it.
fn processes_with(word: &str) -> usize {
    let folders = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = folders.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

/// Waits for something that must become true; only its absence takes time.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_fork_bomb_stays_inside_and_leaves_a_sandbox_that_works() {
    let backend = Backend::with(Limits { pids: 64, ..Limits::default() });
    let sandbox = backend.open().await;
    let bomb = bash_for(&sandbox, "bomb() { bomb | bomb & }; bomb; sleep 1; sleep 77001 & wait", 3000).await;
    assert!(bomb.is_error, "{}", bomb.content);
    let daemons = "python3 -c '\nimport os,time\ntry:\n while True:\n  if os.fork()==0:\n   os.setsid()\n   time.sleep(77002)\n\
                   except OSError as e: print(e.errno)'";
    let daemons = bash_for(&sandbox, daemons, 5000).await;
    assert!(daemons.content.contains("11"), "EAGAIN inside: {}", daemons.content);
    // The shell cannot start anything now; a restart, and a file tool, clear the way.
    let read = inside::tool(&sandbox, "glob", serde_json::json!({"pattern": "*"})).await;
    assert!(!read.is_error, "{}", read.content);
    let after = bash(&sandbox, "/bin/echo works").await;
    assert!(after.content.contains("works"), "{}", after.content);
    backend.embedded.shutdown().await;
    assert_eq!(processes_with("77002"), 0);
}

#[tokio::test]
async fn a_memory_bomb_is_ended_inside_and_files_in_memory_count() {
    if !has_cgroups() {
        return;
    }
    let backend = Backend::with(Limits { memory_bytes: 256 * MIB, ..Limits::default() });
    let sandbox = backend.open().await;
    let bomb = bash(&sandbox, "python3 -c 'x = bytearray(600 << 20); print(len(x))'; echo status $?").await;
    assert!(bomb.content.contains("status 137") && !bomb.content.contains("629145600\n"), "{}", bomb.content);
    let fill = "for at in /tmp /dev/shm; do head -c 600M /dev/zero > $at/fill || stat -c %s $at/fill; done";
    let filled = bash(&sandbox, fill).await;
    assert!(filled.content.ends_with("67108864\n"), "{}", filled.content);
    let bomb = bash(&sandbox, "python3 -c 'x = bytearray(160 << 20)'; echo status $?").await;
    assert!(bomb.content.contains("status 137"), "files in memory count too: {}", bomb.content);
    let after = bash(&sandbox, "echo alive").await;
    assert!(after.content.contains("alive"), "{}", after.content);
    assert_eq!((backend.embedded.counts().up, backend.embedded.counts().out_of_memory), (1, 0));
    backend.embedded.stop("s").await;
    let counts = backend.embedded.counts();
    assert_eq!((counts.up, counts.started, counts.failed, counts.over_disk), (0, 1, 0, 0));
    // A daemon tells it only where it ended the first process.
    assert!(counts.out_of_memory == 1 || in_containers(), "{counts:?}");
}

/// Fills the buffers of loopback connections, and says how much they took, in MiB; never more than 600.
const FILL_SOCKETS: &str = "
import socket
listener = socket.create_server(('127.0.0.1', 0), backlog=512)
kept, total = [], 0
for _ in range(300):
    near = socket.create_connection(listener.getsockname())
    near.setblocking(False)
    kept += [near, listener.accept()[0]]
    try:
        while total < 600 << 20: total += near.send(bytes(1 << 20))
    except BlockingIOError: pass
print(total >> 20)";

#[tokio::test]
async fn buffers_of_sockets_count() {
    if !has_cgroups() {
        return;
    }
    let backend = Backend::with(Limits { memory_bytes: 256 * MIB, ..Limits::default() });
    let sandbox = backend.open().await;
    let output = bash(&sandbox, &format!("python3 -c \"{FILL_SOCKETS}\"")).await;
    let taken = output.content.trim().parse::<u64>();
    // Where they count as memory the program may have been ended for it.
    assert!(output.is_error || taken.as_ref().is_ok_and(|mib| *mib < 256), "{}", output.content);
    let works = "import socket; l = socket.create_server((\"127.0.0.1\", 0)); \
                 a = socket.create_connection(l.getsockname()); a.send(b\"x\"); print(l.accept()[0].recv(1))";
    assert_eq!(bash(&sandbox, &format!("python3 -c '{works}'")).await.content, "b'x'\n");
}

#[tokio::test]
async fn without_cgroups_a_process_is_limited_by_its_address_space() {
    for server in servers() {
        if server == inside::Server::Root {
            continue;
        }
        let output = CommandLine::new(server).run(&["python3 -c 'x = bytearray(3 << 30)' 2>&1 | tail -1"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("MemoryError"), "{text}");
    }
}

#[tokio::test]
async fn a_processor_hog_is_throttled() {
    if !has_cgroups() {
        return;
    }
    let backend = Backend::with(Limits { cpus: 0.2, ..Limits::default() });
    let sandbox = backend.open().await;
    let pid = std::process::id();
    bash(&sandbox, "python3 -c 'import time\nwhile time.process_time() < 0.5: pass'").await;
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(own.contains("cpu") || mounts.contains("cgroup2"));
    assert!(throttled(Path::new("/sys/fs/cgroup")) > 0, "no cgroup of a sandbox was throttled");
}

/// The periods in which any sandbox's group was throttled.
fn throttled(folder: &Path) -> u64 {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.path().is_dir() {
            continue;
        }
        let names = if in_containers() { ["/libpod", "/docker"] } else { ["/rota-"; 2] };
        let of = |parent: &Path| names.iter().any(|name| parent.to_string_lossy().contains(name));
        let of_rota = entry.path().parent().is_some_and(of);
        if of_rota {
            let stat = std::fs::read_to_string(entry.path().join("cpu.stat")).unwrap_or_default();
            let periods = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            count += periods.map_or(0, |periods| periods.trim().parse().unwrap());
        }
        count += throttled(&entry.path());
    }
    count
}

#[tokio::test]
async fn a_sandbox_that_fills_the_disk_is_stopped_and_can_clean_up() {
    let backend = Backend::with(Limits { disk_bytes: 64 * MIB, files: 5000, ..Limits::default() });
    let sandbox = backend.open().await;
    let one = bash(&sandbox, "head -c 100M /dev/zero > big; echo status $?; stat -c %s big").await;
    assert!(!one.content.contains("status 0"), "no file grows past the limit: {}", one.content);
    let many =
        bash_for(&sandbox, "rm big; while :; do i=$((i+1)); head -c 20M /dev/zero > $i; sleep 0.1; done", 60_000).await;
    assert!(many.is_error && many.content.contains("the limit is 67108864"), "{}", many.content);
    let clean = bash(&sandbox, "rm -f /workspace/*; truncate -s 40M sparse; echo clean").await;
    assert!(clean.content.contains("clean") && !clean.is_error, "{}", clean.content);
    let inodes = bash_for(&sandbox, "python3 -c 'for i in range(10**9): open(str(i), \"w\")'", 60_000).await;
    assert!(inodes.is_error && inodes.content.contains("more than 5000 files"), "{}", inodes.content);
    let counts = backend.embedded.counts();
    assert!(counts.over_disk >= 2 && counts.up == 1, "{counts:?}");
}

/// Writes files of 16 MiB, ten a second, where `place` puts them; the first lines of each program.
const WRITER: &str = r#"
import os, signal, socket, sys, time, ctypes
kept = []
def forever(place):
    number = 0
    while True:
        number += 1
        file = os.open(f"file{number}", os.O_CREAT | os.O_RDWR)
        place(f"file{number}", file)
        time.sleep(0.1)
def fill(file): os.write(file, bytes(16 << 20))
def visible(name, file): fill(file); os.close(file)
def deleted(name, file): os.unlink(name); fill(file); kept.append(file)
"#;

/// What the agent does so that its files are not counted.
const WALKED_PAST: [(&str, &str); 6] = [
    (
        "beyond any path",
        r#"
for _ in range(60): os.mkdir("d" * 200); os.chdir("d" * 200)
forever(visible)"#,
    ),
    ("deleted and open", "forever(deleted)"),
    (
        "by a look that is ended",
        r#"
os.mkdir("many")
for i in range(5000): os.mkdir(f"many/{i}")
own = {1, os.getpid(), os.getppid()}
if os.fork() == 0:
    own.add(os.getpid())
    while True:
        for pid in os.listdir("/proc"):
            if pid.isdigit() and int(pid) not in own:
                try: os.kill(int(pid), signal.SIGKILL)
                except OSError: pass
forever(visible)"#,
    ),
    (
        "by a look that is held",
        r#"
os.mkdir("many")
for i in range(5000): os.mkdir(f"many/{i}")
own = {1, os.getpid(), os.getppid()}
if os.fork() == 0:
    own.add(os.getpid())
    while True:
        for pid in os.listdir("/proc"):
            if pid.isdigit() and int(pid) not in own:
                try: os.kill(int(pid), signal.SIGSTOP)
                except OSError: pass
forever(visible)"#,
    ),
    (
        "behind a process that nobody may look into",
        r"
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
forever(deleted)",
    ),
    (
        "without a process left for a look",
        r"
try:
    while True:
        if os.fork() == 0: time.sleep(1000)
except OSError: pass
forever(visible)",
    ),
];

#[tokio::test]
async fn no_way_to_hide_files_goes_past_the_disk_limit() {
    for (way, program) in WALKED_PAST {
        let limits = Limits { disk_bytes: 64 * MIB, disk_reserve_bytes: 32 * MIB, pids: 48, ..Limits::default() };
        let Some((backend, _disk)) = Backend::on_small_disk(2048 * MIB, limits) else { return };
        let sandbox = backend.open().await;
        let command = format!("cat > /tmp/writer.py <<'END'\n{WRITER}{program}\nEND\nexec python3 /tmp/writer.py");
        let output = bash_for(&sandbox, &command, 30_000).await;
        assert!(output.is_error && output.content.contains("the limit is 67108864"), "{way}: {}", output.content);
        let again = bash(&sandbox, "rm -rf /workspace/*; echo clean").await;
        assert!(again.content.contains("clean") && !again.is_error, "{way}: {}", again.content);
        backend.embedded.shutdown().await;
    }
}

/// Where no process has it and no folder: in a message that waits to be read.
const IN_FLIGHT: &str = r"
near, far = socket.socketpair()
def in_flight(name, file):
    os.unlink(name); fill(file)
    socket.send_fds(near, [b'x'], [file]); os.close(file)
forever(in_flight)";

#[tokio::test]
async fn what_no_look_finds_ends_before_the_disk_is_full() {
    let limits = Limits { disk_bytes: 64 * MIB, disk_reserve_bytes: 256 * MIB, ..Limits::default() };
    let Some((backend, _disk)) = Backend::on_small_disk(512 * MIB, limits) else { return };
    let bystander = backend.embedded.open("bystander").await.unwrap();
    bash(&bystander, "x=kept").await;
    let sandbox = backend.open().await;
    let command = format!("cat > /tmp/writer.py <<'END'\n{WRITER}{IN_FLIGHT}\nEND\nexec python3 /tmp/writer.py");
    let output = bash_for(&sandbox, &command, 30_000).await;
    assert!(output.is_error && output.content.contains("bytes left and is being filled"), "{}", output.content);
    assert_eq!(bash(&bystander, "echo $x").await.content, "kept\n", "who does nothing is left alone");
}

#[tokio::test]
async fn what_outlives_its_shell_is_watched_too() {
    let limits = Limits { disk_bytes: 64 * MIB, disk_reserve_bytes: 32 * MIB, ..Limits::default() };
    let Some((backend, _disk)) = Backend::on_small_disk(2048 * MIB, limits) else { return };
    let sandbox = backend.open().await;
    let command = format!(
        "cat > /tmp/writer.py <<'END'\n{WRITER}forever(visible)\nEND\nsetsid python3 /tmp/writer.py 77015 >&- 2>&- & \
         until [ -e file1 ]; do sleep 0.05; done; exit"
    );
    bash(&sandbox, &command).await;
    eventually("it writes", || processes_with("77015") > 0).await;
    eventually("it is ended", || processes_with("77015") == 0).await;
}

#[tokio::test]
async fn folders_nested_beyond_any_path_are_deleted() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let nest = "python3 -c '\nimport os\nfor i in range(6000):\n os.mkdir(\"d\")\n os.chdir(\"d\")'; mkdir -p shut/in; chmod 0 shut";
    let nested = bash(&sandbox, nest).await;
    assert!(!nested.is_error, "{}", nested.content);
    backend.embedded.remove("s").await.unwrap();
    assert!(!backend.workspace().exists());
    assert_eq!(std::fs::read_dir(backend.folder.path().join("sessions/.trash")).unwrap().count(), 0);
}

#[test]
fn whoever_runs_the_server_can_delete_what_an_agent_shut() {
    for server in servers() {
        let line = CommandLine::new(server);
        line.run(&["mkdir -p a/b/c; touch a/b/c/f; chmod 0 a/b/c a/b a; chmod 0 /workspace"]);
        let output = line.command().arg(line.data()).args(["remove", "s"]).output().unwrap();
        assert!(output.status.success(), "{server:?}: {output:?}");
        assert!(!line.data().join("sessions/s").exists());
    }
}

#[tokio::test]
async fn endless_output_is_cut_and_the_command_ended() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let flood = bash(&sandbox, "yes").await;
    assert!(flood.is_error && flood.content.contains("bytes cut here"), "{}", &flood.content[..100]);
    assert!(flood.content.contains("it printed more than") && flood.content.len() < 20_000);
    assert!(flood.shell_restarted);
    assert!(bash(&sandbox, "echo next").await.content.contains("next"));
}

#[tokio::test]
async fn what_runs_in_the_background_does_not_hold_a_call_and_ends_with_the_sandbox() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let started =
        bash(&sandbox, "sleep 77003 & setsid sleep 77004 & (trap '' TERM HUP; sleep 77005) & echo started").await;
    assert!(started.content.contains("started") && !started.is_error, "{}", started.content);
    // The shell goes on before what it has started is what it will be.
    let all_there = async {
        while ["77003", "77004", "77005"].into_iter().any(|word| processes_with(word) == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_there).await.expect("what was started runs");
    backend.embedded.stop("s").await;
    for word in ["77003", "77004", "77005"] {
        assert_eq!(processes_with(word), 0, "{word}");
    }
}

#[tokio::test]
async fn a_command_that_runs_out_of_time_ends_with_all_it_started() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let command = "echo before; x=kept; (trap '' TERM; while :; do sleep 1; done) & timeout 77006 sleep 77006 & \
                   sleep 77007";
    let output = bash_for(&sandbox, command, 500).await;
    assert!(output.is_error && output.shell_restarted, "{}", output.content);
    assert!(output.content.starts_with("before\n[timed out"), "{}", output.content);
    let left = bash(&sandbox, "echo \"x=$x\"; ps -eo args | grep -c '[s]leep'").await;
    assert!(left.content.contains("x=\n0"), "{}", left.content);
    assert!(!left.shell_restarted, "it was told once");
}

#[tokio::test]
async fn a_cancelled_call_ends_its_processes_and_the_next_one_runs() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let running = sandbox.clone();
    let call = async move { running.call("first", &ToolCall::bash("echo started; sleep 77008")).await };
    let cancel = async {
        eventually("the command starts", || processes_with("77008") > 0).await;
        sandbox.cancel("first").await;
    };
    let (output, ()) = tokio::join!(call, cancel);
    let output = output.unwrap();
    assert!(output.is_error && output.content.contains("interrupted"), "{}", output.content);
    assert_eq!(processes_with("77008"), 0);
    // A call whose future is dropped is cancelled too, and the next waits for its end.
    let dropped =
        tokio::time::timeout(Duration::from_millis(300), sandbox.call("second", &ToolCall::bash("sleep 77009"))).await;
    assert!(dropped.is_err());
    assert!(bash(&sandbox, "echo next").await.content.contains("next"));
    assert_eq!(processes_with("77009"), 0);
}

#[test]
fn the_death_of_the_server_ends_its_sandboxes() {
    for server in servers() {
        let line = CommandLine::new(server);
        let mut command = line.command();
        let nap = format!("setsid sleep {0} & sleep {0}", if server == inside::Server::Root { 77_010 } else { 77_011 });
        let word = nap.split_whitespace().last().unwrap().to_owned();
        let mut child = command.arg(line.data()).args(["s", &nap]).stdout(Stdio::null()).spawn().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sleeping = || processes_with("sleep\0") >= 2 && processes_with(&word) >= 2;
        runtime.block_on(eventually("it runs", sleeping));
        // SIGKILL: nothing of the server's own code runs any more.
        child.kill().unwrap();
        child.wait().unwrap();
        runtime.block_on(eventually("everything inside is gone", || processes_with(&word) == 0));
    }
}

#[tokio::test]
async fn what_an_earlier_server_left_running_is_swept_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = inside::config(folder.path());
    let earlier = Embedded::new(config.clone()).unwrap();
    let sandbox = earlier.open("s").await.unwrap();
    bash(&sandbox, "sleep 77012 & cd /tmp; touch /workspace/kept").await;
    // The earlier server still lives, as far as the kernel is concerned: its sandbox is an orphan all the same.
    let later = Embedded::new(config).unwrap();
    later.sweep().await.unwrap();
    eventually("the orphan is gone", || processes_with("77012") == 0 && !sandbox.is_alive()).await;
    let sandbox = later.open("s").await.unwrap();
    let output = bash(&sandbox, "pwd; ls").await;
    assert!(output.shell_restarted && output.content.contains("[the shell was restarted"), "{}", output.content);
    assert!(output.content.ends_with("/workspace\nkept\n"), "{}", output.content);
    assert!(!bash(&sandbox, "pwd").await.shell_restarted);
}

#[tokio::test]
async fn a_sandbox_that_dies_fails_its_call_and_the_next_opening_has_the_files() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    bash(&sandbox, "echo precious > file").await;
    let running = sandbox.clone();
    let call = tokio::spawn(async move { running.call("c", &ToolCall::bash("sleep 77013")).await });
    eventually("the command starts", || processes_with("77013") > 0).await;
    backend.embedded.stop("s").await;
    assert!(matches!(call.await.unwrap(), Err(Error::Died { .. })));
    assert!(!sandbox.is_alive());
    assert!(matches!(sandbox.call("c", &ToolCall::bash("true")).await, Err(Error::Died { .. })));
    let again = backend.open().await;
    assert!(bash(&again, "cat file").await.content.ends_with("precious\n"));
}

#[tokio::test]
async fn two_openings_of_a_session_share_one_sandbox_and_sessions_do_not_see_each_other() {
    let backend = Backend::new();
    let (first, second) = tokio::join!(backend.embedded.open("a"), backend.embedded.open("a"));
    let (first, second) = (first.unwrap(), second.unwrap());
    bash(&first, "x=shared; sleep 77014 & touch /workspace/mine /tmp/mine").await;
    assert_eq!(bash(&second, "echo $x").await.content, "shared\n");
    let other = backend.embedded.open("b").await.unwrap();
    let seen = bash(&other, "ls -A /workspace /tmp; ps -e -o args | grep -c '[7]7014'").await;
    assert!(!seen.content.contains("mine") && seen.content.contains('0'), "{}", seen.content);
}

#[tokio::test]
async fn zombies_are_reaped() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let storm = "python3 -c '\nimport os\nfor i in range(300):\n if os.fork()==0:\n  if os.fork()==0: os._exit(0)\n  os._exit(0)\n\
                 os._exit(0)'; sleep 0.3; ps -e -o stat= | grep -c '^Z'";
    assert!(bash(&sandbox, storm).await.content.starts_with("0\n"), "zombies are left");
}

#[tokio::test]
async fn descriptors_and_watches_are_bounded() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let open = "python3 -c '\nimport os\nn=0\ntry:\n while True: os.open(\"/dev/null\",0); n+=1\nexcept OSError as e: print(n<4096, e.errno)'";
    assert_eq!(bash(&sandbox, open).await.content, "True 24\n");
    let core = bash(&sandbox, "ulimit -c; ulimit -Hc; ulimit -n").await;
    assert_eq!(core.content, "0\n0\n4096\n");
}

#[tokio::test]
async fn a_hostile_repository_runs_its_hooks_inside_only() {
    if !Path::new("/usr/bin/git").exists() {
        eprintln!("skipped: git is not installed");
        return;
    }
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let marker = backend.folder.path().join("owned");
    let script = format!(
        "git init -q evil && cd evil && printf '#!/bin/sh\\ntouch {0} /workspace/hook\\n' > hook && chmod +x hook && \
         git config core.fsmonitor /workspace/evil/hook && rm -rf .git/hooks && ln -s /etc .git/hooks; git status -s; \
         cd ..; git clone -q evil copy; ls /workspace",
        marker.display()
    );
    let output = bash(&sandbox, &script).await;
    assert!(output.content.contains("hook"), "the hook did run: {}", output.content);
    inside::tool(&sandbox, "grep", serde_json::json!({"pattern": "hook", "path": "evil"})).await;
    backend.embedded.remove("s").await.unwrap();
    assert!(!marker.exists());
}

#[tokio::test]
async fn an_id_that_is_not_one_reaches_no_path() {
    let backend = Backend::new();
    for id in ["", "..", "a/../b", "a b"] {
        assert!(matches!(backend.embedded.open(id).await, Err(Error::BadSessionId(_))), "{id:?}");
        assert!(matches!(backend.embedded.remove(id).await, Err(Error::BadSessionId(_))), "{id:?}");
    }
}
