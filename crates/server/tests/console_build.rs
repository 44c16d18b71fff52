//! Holds the built console to its sources: what is embedded is what `make console` made of what is in `console/`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// What the console is made from, as `console/vite.config.ts` has it.
const SOURCES: [&str; 8] = [
    "index.html",
    "package-lock.json",
    "package.json",
    "public",
    "src",
    "svelte.config.js",
    "tsconfig.json",
    "vite.config.ts",
];

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

/// A hash over each file's path and bytes, in the order of the paths.
fn hash(folder: &Path, files: Vec<PathBuf>) -> String {
    let mut named: Vec<(String, PathBuf)> =
        files.into_iter().map(|file| (file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), file)).collect();
    named.sort();
    let mut sum = Sha256::new();
    for (name, file) in named {
        let bytes = fs::read(file).unwrap();
        sum.update(format!("{name}\n{}\n", bytes.len()));
        sum.update(bytes);
    }
    sum.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn the_built_console_is_what_its_sources_give() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../console");
    let recorded = fs::read_to_string(folder.join("dist/BUILD")).unwrap();
    let recorded = |name: &str| recorded.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let sources = SOURCES.iter().flat_map(|path| files(&folder.join(path))).collect();
    assert_eq!(hash(&folder, sources), recorded("sources"), "the sources have changed: `make console` builds it anew");
    let built = files(&folder.join("dist")).into_iter().filter(|file| !file.ends_with("BUILD")).collect();
    assert_eq!(
        hash(&folder, built),
        recorded("built"),
        "what was built has been changed by hand: `make console` builds it anew"
    );
}
