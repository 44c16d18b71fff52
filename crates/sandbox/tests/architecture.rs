//! Holds the crate to its rule for files of sessions: on the host only `folder.rs` touches them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What reaches a file by its name.
const BY_NAME: [&str; 18] = [
    "fs::",
    "File::",
    "OpenOptions",
    "DirBuilder",
    "Dir::",
    "open_tree(",
    "openat",
    "chdir(",
    "chmod",
    "chown",
    "canonicalize",
    "read_link",
    "read_dir",
    "metadata(",
    ".exists()",
    ".is_dir()",
    ".is_file()",
    ".is_symlink()",
];

/// The modules that may use it, and for what.
const MAY: [(&str, &str); 23] = [
    ("folder.rs", "files of sessions: an open folder, one name at a time, no link followed"),
    ("bin/rota-sandbox.rs", "archives that a test names"),
    ("heap.rs", "/proc"),
    ("containers/mod.rs", "the server's own folder for containers: the init, sockets, authorities"),
    ("embedded/cgroup.rs", "the kernel's cgroup files"),
    ("embedded/identity.rs", "/etc/subuid and the programs that map ids"),
    (
        "embedded/layers.rs",
        "folders of layers and their locks, which the server alone writes; what is in them by open folders",
    ),
    (
        "embedded/unpack.rs",
        "layers of images: below an open folder that is the root of every path, and what was opened there",
    ),
    ("embedded/program.rs", "the program that a test puts in the place of the init"),
    ("embedded/records.rs", "the records of what runs, which the server alone writes"),
    ("embedded/remedy.rs", "/proc"),
    ("init/mod.rs", "/dev/null, id maps in /proc, the kernel's cgroup files"),
    ("init/root.rs", "the host's /usr, /etc and /dev, and mounts of what is open"),
    // From here on inside, where the host's files do not exist.
    ("init/disk.rs", "inside"),
    ("init/processes.rs", "inside"),
    ("init/shell.rs", "inside"),
    ("init/syntax.rs", "inside, files in memory"),
    ("init/usage.rs", "inside"),
    ("init/verify.rs", "inside"),
    ("init/worker.rs", "inside"),
    ("tools/files.rs", "inside"),
    ("tools/output.rs", "inside"),
    ("tools/search.rs", "inside"),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Each file's name below `src`, and its lines of code without its tests.
fn sources() -> Vec<(String, Vec<String>)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().map(str::trim).filter(|line| !line.starts_with("//")).map(str::to_owned).collect();
        (path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), lines)
    };
    files(&src).into_iter().map(read).collect()
}

fn reaches_by_name(line: &str) -> bool {
    BY_NAME.iter().any(|word| line.contains(word))
}

#[test]
fn only_one_module_touches_files_of_sessions_on_the_host() {
    let mut wrong = Vec::new();
    for (name, lines) in sources() {
        if !MAY.iter().any(|(may, _)| *may == name) {
            let found = lines.iter().filter(|line| reaches_by_name(line));
            wrong.extend(found.map(|line| format!("{name}: {line}")));
        }
    }
    assert!(wrong.is_empty(), "reached by name: {wrong:#?}");
}

/// `init/root.rs` has the host's power and shows the host's folders by path: those of the session it opens.
#[test]
fn the_builder_of_the_root_joins_nothing_to_the_path_of_a_session() {
    let sources = sources();
    let (_, lines) = sources.iter().find(|(name, _)| name == "init/root.rs").unwrap();
    let uses: Vec<_> = lines.iter().filter(|line| line.contains("session_dir")).collect();
    assert!(!uses.is_empty());
    for line in uses {
        assert!(line.contains("Folder::open(&launch.session_dir)"), "{line}");
    }
}

#[test]
fn the_list_names_only_modules_that_need_it() {
    let sources = sources();
    let needs = |may: &str| sources.iter().any(|(name, lines)| name == may && lines.iter().any(|l| reaches_by_name(l)));
    let wrong: Vec<_> = MAY.iter().filter(|(may, _)| !needs(may)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
