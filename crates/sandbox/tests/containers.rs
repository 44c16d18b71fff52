//! Containers of a daemon: what becomes of them, and of calls, when the daemon, the server or somebody's hand is in the way. That the
//! fence of a container holds is asked by the tests beside this one, which `tests/with-containers` runs on containers.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod inside;

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use inside::{CommandLine, Server, bash, content};
use rota_sandbox::{
    About, Config, Containers, Embedded, Engine, Error, ProtectionState, Root, ToolCall, UnpackBounds, Unpacking,
};

type Change = fn(&mut Containers);

/// A server whose daemon is reached by a link, which a test can take away.
struct Fixture {
    folder: tempfile::TempDir,
    containers: Containers,
    daemon: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let named = inside::containers(&folder.path().to_string_lossy());
        let named = named.expect("these tests need a container daemon: tests/with-containers");
        let (daemon, socket) = (named.socket.clone(), folder.path().join("daemon.sock"));
        let fixture = Self { folder, containers: Containers { socket, ..named }, daemon };
        fixture.come_back();
        fixture
    }

    fn embedded(&self) -> Arc<Embedded> {
        self.with(|_| ())
    }

    fn with(&self, change: impl FnOnce(&mut Containers)) -> Arc<Embedded> {
        let mut containers = self.containers.clone();
        change(&mut containers);
        let config = Config { containers: Some(containers), ..Config::new(self.folder.path()) };
        Embedded::new(config).unwrap()
    }

    /// The daemon goes away, as this server sees it.
    fn go_away(&self) {
        std::fs::remove_file(&self.containers.socket).unwrap();
    }

    fn come_back(&self) {
        symlink(&self.daemon, &self.containers.socket).unwrap();
    }

    /// The containers of a server: their names and states.
    fn list(&self, server: &str) -> Vec<(String, String)> {
        let all = ask(&self.daemon, "GET", "/containers/json?all=true");
        let all: serde_json::Value = serde_json::from_str(&all).unwrap();
        let own = all.as_array().unwrap().iter().filter(|one| one["Labels"]["rota.server"] == server);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        own.map(|one| (text(&one["Names"][0]).trim_start_matches('/').to_owned(), text(&one["State"]))).collect()
    }

    fn own(&self) -> Vec<(String, String)> {
        self.list(&self.containers.server)
    }
}

/// What a daemon answers: the body.
fn ask(socket: &Path, method: &str, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: daemon\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Waits for something that must become true; only its absence takes time.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
#[ignore = "needs a container daemon: tests/with-containers"]
async fn a_daemon_that_goes_away_takes_no_call_with_it() {
    let fixture = Fixture::new();
    let (embedded, workspace) = (fixture.embedded(), fixture.folder.path().join("sessions/s/workspace"));
    let sandbox = embedded.open("s").await.unwrap();
    let running = sandbox.clone();
    let command = "touch begun; until [ -e go ]; do sleep 0.05; done; echo went on";
    let call = tokio::spawn(async move { running.call("c", &ToolCall::bash(command)).await });
    eventually("the command begins", || workspace.join("begun").exists()).await;
    fixture.go_away();
    std::fs::write(workspace.join("go"), "").unwrap();
    assert_eq!(call.await.unwrap().unwrap().content, "went on\n");
    assert_eq!(bash(&sandbox, "echo next").await.content, "next\n");
    // It also ends without the daemon.
    embedded.stop("s").await;
    assert!(!sandbox.is_alive());
    let error = embedded.open("s").await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("daemon.sock"), "{error}");
    let told = error.for_client();
    assert!(told.contains("`socket` in [sandbox]") && !told.contains("daemon.sock"), "{told}");
    fixture.come_back();
    eventually("the daemon sees that it has ended", || fixture.own().iter().all(|(_, state)| state != "running")).await;
    let again = embedded.open("s").await.unwrap();
    assert!(bash(&again, "ls").await.content.ends_with("begun\ngo\n"));
    assert_eq!(fixture.own().len(), 1, "the one that had ended is gone");
    embedded.shutdown().await;
    assert_eq!(fixture.own(), []);
}

#[tokio::test]
#[ignore = "needs a container daemon: tests/with-containers"]
async fn an_absent_daemon_is_told_of_and_is_used_once_it_is_there() {
    let fixture = Fixture::new();
    fixture.go_away();
    let embedded = fixture.embedded();
    let rows = embedded.probe();
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert!(row.state == ProtectionState::Missing && row.remedy.contains("`socket` in [sandbox]"), "{row:?}");
    embedded.sweep().await.unwrap();
    assert!(embedded.open("s").await.unwrap_err().is_passing());
    fixture.come_back();
    assert!(embedded.probe().iter().all(|row| row.state != ProtectionState::Missing), "{:?}", embedded.probe());
    assert_eq!(bash(&embedded.open("s").await.unwrap(), "echo there").await.content, "there\n");
    embedded.shutdown().await;
}

#[tokio::test]
#[ignore = "needs a container daemon: tests/with-containers"]
async fn a_container_that_somebody_removes_fails_its_call_and_the_next_one_has_the_files() {
    let fixture = Fixture::new();
    let (embedded, workspace) = (fixture.embedded(), fixture.folder.path().join("sessions/s/workspace"));
    let sandbox = embedded.open("s").await.unwrap();
    let call = tokio::spawn(async move { sandbox.call("c", &ToolCall::bash("echo precious > file; sleep 600")).await });
    eventually("the command begins", || workspace.join("file").exists()).await;
    let (name, _) = fixture.own().remove(0);
    ask(&fixture.daemon, "DELETE", &format!("/containers/{name}?force=true&v=true"));
    assert!(matches!(call.await.unwrap(), Err(Error::Died { .. })));
    let again = embedded.open("s").await.unwrap();
    let output = bash(&again, "cat file").await;
    assert!(output.shell_restarted && output.content.ends_with("precious\n"), "{}", output.content);
    embedded.shutdown().await;
}

#[tokio::test]
#[ignore = "needs a container daemon: tests/with-containers"]
async fn what_a_killed_server_left_is_found_by_its_label_and_no_other_is_touched() {
    let (other, line) = (Fixture::new(), CommandLine::new(Server::Root));
    let beside = other.embedded().open("s").await.unwrap();
    let server = line.data().to_string_lossy().into_owned();
    let mut child =
        line.command().arg(line.data()).args(["s", "touch begun; sleep 600"]).stdout(Stdio::null()).spawn().unwrap();
    eventually("it runs", || line.workspace().join("begun").exists()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it ends by itself", || other.list(&server).iter().all(|(_, state)| state == "exited")).await;
    assert_eq!(other.list(&server).len(), 1);
    assert!(line.command().arg(line.data()).arg("sweep").status().unwrap().success());
    assert_eq!(other.list(&server), []);
    assert_eq!(bash(&beside, "echo untouched").await.content, "untouched\n");
    // A session that was in a container then goes on with its files.
    assert_eq!(line.answers("s", &["ls"]).remove(0).lines().next_back(), Some("begun"));
}

#[tokio::test]
#[ignore = "needs a container daemon: tests/with-containers"]
async fn what_is_not_there_or_does_not_fit_is_named_with_the_way_out() {
    let fixture = Fixture::new();
    let is_podman = fixture.containers.engine == Engine::Podman;
    let no_image = |containers: &mut Containers| containers.image = "localhost/nothing:1".to_owned();
    let no_runtime = |containers: &mut Containers| containers.runtime = Some("nothing".to_owned());
    let runtime = if is_podman { "`runtime` in [sandbox] is \"nothing\"" } else { "refused to make a container" };
    let cases: [(Change, &str); 2] = [(no_image, "pull localhost/nothing:1"), (no_runtime, runtime)];
    for (change, wanted) in cases {
        let error = fixture.with(change).open("s").await.unwrap_err();
        let is_lasting = matches!(error, Error::CannotIsolate { .. });
        assert!(is_lasting && error.for_client().contains(wanted), "{wanted}: {error}");
        assert_eq!(fixture.own(), [], "nothing is left of it");
    }
    let embedded = fixture.embedded();
    let image = image(&embedded, fixture.folder.path());
    let root = Root { image: Some(image), ..Root::default() };
    let error = embedded.open_with("s", root.into()).await.unwrap_err();
    assert!(error.for_client().contains("`image` in [sandbox]"), "{error}");
}

/// An image of this server's own, with nothing in it.
fn image(embedded: &Embedded, folder: &Path) -> rota_sandbox::Layer {
    const KEY: &str = "00000000000000000000000000000000000000000000000000000000000000fe";
    let archive = folder.join("empty.tar");
    tar::Builder::new(std::fs::File::create(&archive).unwrap()).finish().unwrap();
    let new = embedded.images().begin().unwrap();
    let bounds = UnpackBounds { bytes: 1 << 20, entries: 10, time: Duration::from_mins(1) };
    let mut unpacking = Unpacking::new(&new, bounds).unwrap();
    unpacking.layer(std::fs::File::open(archive).unwrap()).unwrap();
    unpacking.finish().unwrap();
    new.place(KEY, &About::default()).unwrap()
}

#[tokio::test]
#[ignore = "needs a container daemon: tests/with-containers"]
async fn root_of_a_container_has_no_power_and_a_root_that_is_read_only() {
    let fixture = Fixture::new();
    let embedded = fixture.embedded();
    let sandbox = embedded.open("s").await.unwrap();
    let look = "id -u; cut -c1- /proc/self/uid_map | tr -s ' '; grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; \
                hostname=$(cat /etc/hostname); echo $hostname; touch /new /usr/new /etc/new; touch ~/own && ls ~; ls /sys";
    let text = bash(&sandbox, look).await.content;
    let words: Vec<_> = text.split_whitespace().collect();
    let (capabilities, own_ids) = if fixture.containers.engine == Engine::Podman {
        ("00000000000004fb", true)
    } else {
        ("0000000000000000", false)
    };
    assert_eq!((words[0], words[1], words[2] != "0"), ("0", "0", own_ids), "{text}");
    for wanted in [
        &format!("CapEff:\t{capabilities}"),
        &format!("CapBnd:\t{capabilities}"),
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "\nsandbox\n",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
    assert!(text.ends_with("own\n"), "{text}");
    let before = content(&fixture.folder.path().join("containers/init"));
    let attack =
        "echo owned > /run/rota-init; chmod 777 /run/rota-init; rm -f /run/rota-init; ls /run/rota-door; echo tried";
    assert!(bash(&sandbox, attack).await.content.ends_with("\ntried\n"));
    assert_eq!(content(&fixture.folder.path().join("containers/init")), before);
    embedded.shutdown().await;
}
