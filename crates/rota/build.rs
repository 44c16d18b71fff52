//! Says which programs this machine has that some tests need: these are ignored elsewhere, and say so. What runs in a sandbox has
//! to be below `/usr`.

use std::{path::Path, process::Command};

/// What shows that a sandbox has something: the name of the test's condition, and a command that succeeds.
const INSIDE: [(&str, &[&str]); 8] = [
    ("cargo_inside", &["/usr/bin/cargo", "--version"]),
    ("gem_inside", &["/usr/bin/gem", "--version"]),
    ("git_lfs", &["/usr/bin/git-lfs", "version"]),
    ("go_inside", &["/usr/local/go/bin/go", "version"]),
    ("grpc", &["/usr/bin/python3", "-c", "import grpc"]),
    ("node", &["/usr/bin/node", "--version"]),
    ("npm", &["/usr/bin/npm", "--version"]),
    ("pip", &["/usr/bin/python3", "-m", "pip", "--version"]),
];

fn main() {
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-changed=build.rs");
    // Where these programs come and go.
    println!("cargo::rerun-if-changed=/usr/bin");
    for (name, command) in INSIDE {
        has(name, Command::new(command[0]).args(&command[1..]).output().is_ok_and(|ran| ran.status.success()));
    }
    let git = Command::new("git").arg("--exec-path").output();
    let folder = git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    has("git", folder.is_ok_and(|folder| Path::new(&folder).join("git-http-backend").exists()));
}

fn has(name: &str, is_there: bool) {
    println!("cargo::rustc-check-cfg=cfg({name})");
    if is_there {
        println!("cargo::rustc-cfg={name}");
    }
}
