//! Builds the init of sandboxes, a program of its own, for `embedded/program.rs` to embed.
//!
//! The init is this crate without its feature `host`. A second cargo builds it with the profile `init` of the workspace,
//! which makes it small, in a folder of its own, so that builds of all profiles share one. It is linked statically: in a container it
//! runs on the image's files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The program's name.
const NAME: &str = "rota-init";
/// The profile of the workspace's `Cargo.toml` that it is built with.
const PROFILE: &str = "init";
/// The feature of the server's side. Cargo leaves this variable to what a build script starts.
const HOST: &str = "CARGO_FEATURE_HOST";
/// What must not reach the second cargo: the feature, and flags and wrappers of this build (`cargo clippy` is one), which
/// would have the init built anew by each kind of build.
const NOT_FOR_THE_INIT: [&str; 5] =
    [HOST, "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"];

/// Links all libraries into the program, also that of C.
const STATICALLY: &str = "-Ctarget-feature=+crt-static";

fn main() {
    for read in ["build.rs", "Cargo.toml", "src", "../../Cargo.toml", "../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={read}");
    }
    if env::var_os(HOST).is_none() {
        return; // This is the build of the init.
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    let target_dir = beside_the_profiles(&out).join(PROFILE);
    let target = variable("TARGET");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.args([
        "build",
        "--locked",
        "--no-default-features",
        "--bin",
        NAME,
        "--profile",
        PROFILE,
        "--target",
        &target,
    ]);
    cargo.arg("--manifest-path").arg(Path::new(&variable("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target_dir);
    for name in NOT_FOR_THE_INIT {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", STATICALLY);
    let status = cargo.status().unwrap_or_else(|error| panic!("cargo cannot be started: {error}"));
    assert!(
        status.success(),
        "the init of sandboxes could not be built: {status}; it needs the C library for static linking (Debian: libc6-dev, Fedora: \
         glibc-static)"
    );
    let built = target_dir.join(&target).join(PROFILE).join(NAME);
    fs::copy(&built, out.join(NAME)).unwrap_or_else(|error| panic!("{} cannot be copied: {error}", built.display()));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// The folder that has one folder a profile: above `<profile>/build/<crate>/out`. Where cargo lays its files otherwise,
/// the crate's own.
fn beside_the_profiles(out: &Path) -> &Path {
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    build.and_then(|build| build.parent()?.parent()).unwrap_or(out)
}
