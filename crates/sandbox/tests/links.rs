//! What an agent leaves in its folders (links to files of the host, flipping while the server works) and what the server
//! does for a session on the host: start it anew, delete it, sweep. Nothing outside may change.
//!
//! The agent knows all paths of the host. It flips links in the folders of one session while the server works for another
//! one whose links lead through those; that is the only way in which files change below what the host is looking at.

#![allow(clippy::unwrap_used)]

mod inside;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inside::{CommandLine, Server, servers, small_root};
use rota_sandbox::Embedded;

/// How long the race is played for each kind of server.
const RACE: Duration = Duration::from_secs(10);
/// Makes a path of the session `flipper` now nothing, now a file of the host, now a folder of the host.
const FLIPPER: &str = r#"
import os, sys, time
targets = sys.argv[1:]
flip, spare = "/workspace/flip", "/workspace/spare"
if os.path.lexists(spare):
    os.unlink(spare)
while True:
    for target in targets:
        os.symlink(target, spare)
        os.rename(spare, flip)
        os.unlink(flip)
"#;
/// Puts links in place of everything that the agent can replace: in each of its folders, and on the way to its mount
/// points when the root itself is its own. Other owners, so that the server does not take a link for what it made.
const PLANT: &str = r"
for folder in /workspace /mnt/session/outputs /root /home /opt /srv /var; do
    for name in tmp stage upper work tree/of/link; do
        mkdir -p $folder/tree/of; rm -rf $folder/$name; ln -s $FLIP $folder/$name; chown -h 1:1 $folder/$name
    done
done 2>/dev/null
[ $ROOT = own ] && mv /mnt /moved && ln -s $FLIP /mnt
chmod 0 /workspace /home
echo planted
";

/// What of a file an attack could change.
fn state(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = if meta.is_dir() {
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        format!("{:?}", names.collect::<Vec<_>>())
    } else {
        fs::read_to_string(path).unwrap()
    };
    format!("owner {}:{} mode {:o} content {content}", meta.uid(), meta.gid(), meta.mode())
}

/// A command line, and files and folders beside its data that belong to whoever runs the server.
struct Scene {
    line: CommandLine,
    outside: Vec<PathBuf>,
    before: BTreeMap<PathBuf, String>,
}

impl Scene {
    fn new(server: Server) -> Self {
        let line = CommandLine::new(server);
        let owner = fs::metadata(line.data()).unwrap().uid();
        let mut outside = Vec::new();
        for (name, is_folder, mode) in
            [("secret", false, 0o600), ("private", true, 0o700), ("private/in", false, 0o600)]
        {
            let path = line.folder.path().join(name);
            let made = if is_folder { fs::create_dir(&path) } else { fs::write(&path, "content") };
            made.unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
            outside.push(path);
        }
        let before = outside.iter().map(|path| (path.clone(), state(path))).collect();
        Self { line, outside, before }
    }

    fn check(&self, after: &str) {
        let now: BTreeMap<_, _> = self.outside.iter().map(|path| (path.clone(), state(path))).collect();
        assert_eq!(now, self.before, "{:?}, {after}", self.line.server);
    }

    fn session(&self, id: &str) -> PathBuf {
        self.line.data().join("sessions").join(id)
    }

    fn flip(&self) -> PathBuf {
        self.session("flipper").join("workspace/flip")
    }

    fn command(&self, root: Option<&Path>) -> Command {
        let mut command = self.line.command();
        if let Some(root) = root {
            command.env("ROTA_SANDBOX_ROOT_FS", root);
        }
        command.arg(self.line.data());
        command
    }

    /// Starts the session that flips, and waits until it does.
    fn start_flipping(&self) -> Flipping {
        let targets = self.outside[..2].iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        let script = format!("cat > /workspace/flip.py <<'END'\n{FLIPPER}\nEND");
        let run = format!("/usr/bin/python3 /workspace/flip.py {targets}");
        let child = self
            .command(None)
            .args(["flipper", &script, &run])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        while fs::symlink_metadata(self.flip()).is_err() {
            assert!(Instant::now() < patience, "it never flips");
            std::thread::yield_now();
        }
        Flipping(child)
    }

    /// Starts a sandbox of the session and leaves links everywhere in it. True when it started.
    fn plant(&self, id: &str, root: Option<&Path>) -> bool {
        let whose = if root.is_some() { "own" } else { "host" };
        let plant = format!("FLIP={} ROOT={whose}\n{PLANT}", self.flip().display());
        let output = self.command(root).args([id, &plant]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("planted")
    }
}

/// A process that is ended with this value.
struct Flipping(Child);

impl Drop for Flipping {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_link_in_place_of_a_folder_that_the_server_makes_is_left_alone() {
    for server in servers() {
        let scene = Scene::new(server);
        for target in
            ["/nowhere".to_owned(), scene.outside[0].display().to_string(), scene.outside[1].display().to_string()]
        {
            let swap = format!("rm -rf /var/tmp && ln -s {target} /var/tmp; chmod 0 /var");
            for commands in [&swap, "readlink /var/tmp"] {
                let output = scene.command(None).args(["s", commands]).output().unwrap();
                assert!(output.status.success(), "{server:?}, {target}: {output:?}");
            }
            scene.check(&target);
        }
        let output = scene.command(None).args(["remove", "s"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        scene.check("deleted");
    }
}

#[tokio::test]
async fn the_operator_may_put_the_sessions_elsewhere_by_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (data, elsewhere) = (folder.path().join("data"), folder.path().join("elsewhere"));
    fs::create_dir(&data).unwrap();
    fs::create_dir_all(elsewhere.join("sessions")).unwrap();
    symlink(elsewhere.join("sessions"), data.join("sessions")).unwrap();
    let embedded = Embedded::new(inside::config(&data)).unwrap();
    let sandbox = embedded.open("s").await.unwrap();
    inside::bash(&sandbox, "echo kept > file").await;
    assert_eq!(fs::read_to_string(elsewhere.join("sessions/s/workspace/file")).unwrap(), "kept\n");
    // A deletion was cut off, and the session came back.
    fs::create_dir_all(elsewhere.join("sessions/.trash/s/first/workspace")).unwrap();
    embedded.remove("s").await.unwrap();
    assert!(!elsewhere.join("sessions/s").exists());
    assert_eq!(fs::read_dir(elsewhere.join("sessions/.trash")).unwrap().count(), 0);
}

#[test]
fn var_tmp_is_there_for_everyone_inside() {
    for server in servers() {
        let line = CommandLine::new(server);
        let output = line.run(&["stat -c '%a %u %F' /var/tmp; touch /var/tmp/kept", "rm -r /var/tmp"]);
        assert!(output.stdout.starts_with(b"1777 0 directory\n"), "{server:?}: {output:?}");
        let output = line.run(&["stat -c '%a %u %F' /var/tmp"]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("\n1777 0 directory"), "made again: {output:?}");
    }
}

#[test]
fn ten_seconds_of_flipping_links_change_nothing_outside() {
    for server in servers() {
        let scene = Scene::new(server);
        let root = scene.line.folder.path().join("root");
        small_root(&root);
        let over = Instant::now() + RACE;
        while Instant::now() < over {
            let flipping = scene.start_flipping();
            for (id, root, reopened_for) in [("s", None, "1500"), ("own_root", Some(root.as_path()), "500")] {
                assert!(scene.plant(id, root), "{server:?}: the agent of {id} does its part");
                scene.command(root).args(["reopen", id, reopened_for]).output().unwrap();
                scene.check("started anew");
            }
            for id in ["s", "own_root"] {
                scene.command(None).args(["remove", id]).output().unwrap();
                scene.check("deleted");
                assert!(!scene.session(id).exists(), "deleted whatever was in it");
            }
            // The agent is at work in what is deleted: to this server its session is not one that runs.
            scene.command(None).args(["remove", "flipper"]).output().unwrap();
            scene.check("deleted while it flips");
            // It ends the flipping session, and what it left of the deletion.
            scene.command(None).arg("sweep").output().unwrap();
            scene.check("swept");
            drop(flipping);
        }
    }
}
