//! What the tests of the fence share: a backend over a temporary folder, and the same from the command line.

#![allow(dead_code)] // Each test program uses a part of it.

use std::collections::HashMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use rota_sandbox::{Config, Containers, Embedded, Engine, Limits, Sandbox, ToolCall, ToolOutput};

/// The command line around a backend.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_rota-sandbox");

/// The daemon whose containers the sandboxes of these tests are, where they are to be some: `podman=SOCKET=IMAGE`.
/// `tests/with-containers` sets it.
const CONTAINERS: &str = "ROTA_TEST_CONTAINERS";

/// The daemon's containers, for a server of this name. `None`: these tests are about Rota's own namespaces.
pub fn containers(server: &str) -> Option<Containers> {
    let text = std::env::var(CONTAINERS).ok()?;
    let parts: Vec<&str> = text.splitn(3, '=').collect();
    let engine = if parts[0] == "podman" { Engine::Podman } else { Engine::Docker };
    let (socket, image) = (parts[1].into(), parts[2].to_owned());
    Some(Containers { engine, socket, image, runtime: None, server: server.to_owned() })
}

/// Whether the sandboxes of these tests are containers.
pub fn in_containers() -> bool {
    std::env::var_os(CONTAINERS).is_some()
}

/// The configuration of sandboxes over a folder.
pub fn config(folder: &Path) -> Config {
    Config { containers: containers(&folder.to_string_lossy()), ..Config::new(folder) }
}

/// A backend over a folder that is deleted with it.
pub struct Backend {
    pub embedded: Arc<Embedded>,
    pub folder: tempfile::TempDir,
}

impl Backend {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { limits, ..config(folder.path()) };
        Self { embedded: Embedded::new(config).unwrap(), folder }
    }

    /// A backend whose data is on a disk of this many bytes. `None` without root, who alone can make one.
    pub fn on_small_disk(bytes: u64, limits: Limits) -> Option<(Self, SmallDisk)> {
        let disk = SmallDisk::new(bytes)?;
        let config = Config { limits, ..config(disk.0.path()) };
        Some((Self { embedded: Embedded::new(config).unwrap(), folder: tempfile::tempdir().unwrap() }, disk))
    }

    pub async fn open(&self) -> Sandbox {
        self.embedded.open("s").await.unwrap()
    }

    pub fn workspace(&self) -> PathBuf {
        self.embedded.session_dir("s").unwrap().join("workspace")
    }
}

/// A file system in memory.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: without root no disk can be made");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.unwrap().success());
        Some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

/// Runs a command in the shell.
pub async fn bash(sandbox: &Sandbox, command: &str) -> ToolOutput {
    sandbox.call("call", &ToolCall::bash(command)).await.unwrap()
}

/// Runs a command with a time limit in milliseconds.
pub async fn bash_for(sandbox: &Sandbox, command: &str, timeout_ms: u64) -> ToolOutput {
    let call = ToolCall::Bash { command: Some(command.to_owned()), timeout_ms: Some(timeout_ms), restart: false };
    sandbox.call("call", &call).await.unwrap()
}

/// Calls a tool by name with a JSON input.
pub async fn tool(sandbox: &Sandbox, name: &str, input: serde_json::Value) -> ToolOutput {
    let input = serde_json::value::RawValue::from_string(input.to_string()).unwrap();
    sandbox.call("call", &ToolCall::parse(name, &input).unwrap()).await.unwrap()
}

/// Who starts the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Root,
    PlainUser,
}

/// The kinds of server that can be tried here: both when the tests run as root, else only the plain user.
pub fn servers() -> Vec<Server> {
    if in_containers() {
        vec![Server::Root]
    } else if nix::unistd::geteuid().is_root() {
        vec![Server::Root, Server::PlainUser]
    } else {
        eprintln!("skipped: the server run by root, because these tests do not run as root");
        vec![Server::PlainUser]
    }
}

/// A folder that `nobody` may use, with a copy of the program in it.
pub struct CommandLine {
    pub server: Server,
    pub folder: tempfile::TempDir,
    /// The key of the image that sandboxes are made from.
    pub image: Option<&'static str>,
}

/// `nobody`, when the tests run as root.
const NOBODY: u32 = 65_534;

impl CommandLine {
    pub fn new(server: Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: a descriptor open for writing here could be inherited by what another test starts, and a
        // file that is open for writing cannot be run.
        assert!(Command::new("cp").arg(PROGRAM).arg(folder.path().join("program")).status().unwrap().success());
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        if server == Server::PlainUser && nix::unistd::geteuid().is_root() {
            chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { server, folder, image: None }
    }

    pub fn program(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    /// A command that starts the program as the kind of user that runs the server.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        if self.server == Server::PlainUser && nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.envs(self.image.map(|key| ("ROTA_SANDBOX_IMAGE", key)));
        command.envs(std::env::var_os(CONTAINERS).map(|daemon| ("ROTA_SANDBOX_CONTAINERS", daemon)));
        command
    }

    /// Makes all sandboxes from an image with bash and Python, packed from this machine.
    pub fn on_python_image(mut self) -> Self {
        const KEY: &str = "00000000000000000000000000000000000000000000000000000000000000ff";
        let root = self.folder.path().join("python");
        small_root(&root);
        let script = "cd $0 && mkdir -p usr/bin usr/lib etc/ssl root && echo root:x:0:0::/root:/bin/bash > etc/passwd && \
                      python=$(readlink -f /usr/bin/python3) && cp $python usr/bin/python3 && \
                      cp /usr/bin/env usr/bin/ && name=$(basename $python) && \
                      tar -C /usr/lib --exclude=test --exclude=__pycache__ --exclude='config-*' -cf - $name | tar -C usr/lib -xf - && \
                      ldd usr/bin/* usr/lib/$name/lib-dynload/*.so | grep -o '/[^ ]*lib[^ ]*\\.so[^ :]*' | sort -u | \
                      while read f; do mkdir -p .$(dirname $f); cp -nL $f .$f; done; \
                      chmod -R a+rX . && tar --owner=0 --group=0 -cf $0.tar . && chmod a+r $0.tar";
        assert!(Command::new("bash").args(["-c", script]).arg(&root).status().unwrap().success());
        assert_eq!(self.import(KEY, &[self.folder.path().join("python.tar")]), "");
        self.image = Some(KEY);
        self
    }

    /// Makes an image of layers, the lowest first. What was refused.
    pub fn import(&self, key: &str, archives: &[PathBuf]) -> String {
        let output = self.command().arg(self.data()).args(["import", key]).args(archives).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs shell commands in one sandbox.
    pub fn run(&self, commands: &[&str]) -> Output {
        self.command().arg(self.data()).arg("s").args(commands).output().unwrap()
    }

    /// What shell commands answer in a sandbox of a session of their own.
    pub fn answers(&self, session: &str, commands: &[&str]) -> Vec<String> {
        let output = self.command().arg("--json").arg(self.data()).arg(session).args(commands).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn workspace(&self) -> PathBuf {
        self.data().join("sessions/s/workspace")
    }

    /// What a Python program printed inside, as names and values.
    pub fn python(&self, program: &str, arguments: &str) -> HashMap<String, String> {
        let output = self.run(&[
            &format!("cat > /workspace/attack.py <<'END_OF_PROGRAM'\n{program}\nEND_OF_PROGRAM"),
            &format!("/usr/bin/python3 /workspace/attack.py {arguments}"),
        ]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

/// A file's content, to tell whether it was changed.
pub fn content(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// A root file system of little more than bash.
pub fn small_root(folder: &Path) {
    let script = "mkdir -p $0/bin $0/etc && cd $0 && for p in bash cat chmod chown id ln ls mkdir mv rm; do cp /bin/$p bin/; done && \
                  ldd bin/* | grep -o '/lib[^ ]*' | sort -u | while read f; do mkdir -p .$(dirname $f); cp $f .$f; done && \
                  echo original > etc/note && chmod -R a+rX .";
    assert!(Command::new("bash").args(["-c", script]).arg(folder).status().unwrap().success());
}
