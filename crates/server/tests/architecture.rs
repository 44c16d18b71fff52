//! Holds the code to the directions of import that ARCHITECTURE.md promises.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the files below a folder never import.
const NEVER: [(&str, &[&str]); 17] = [
    ("db", &["request", "resources", "engine", "http", "model", "scheduler", "app", "hub"]),
    ("page.rs", &["db", "request", "resources", "engine", "http"]),
    ("request", &["resources", "engine", "http", "model", "app"]),
    ("model", &["db", "request", "resources", "engine", "http", "app"]),
    ("scheduler/cron.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
    ("scheduler/schedule.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
    ("scheduler/occurrences.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
    ("scheduler/pending.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
    ("scheduler/policy.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
    ("scheduler/preview.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
    ("scheduler/settle.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
    ("scheduler/tick.rs", &["request", "engine", "http"]),
    ("egress.rs", &["db", "request", "resources", "engine", "http", "app", "webhooks"]),
    ("resources", &["engine", "http", "webhooks"]),
    ("engine", &["http", "request", "webhooks"]),
    ("webhooks", &["engine", "http", "request"]),
    ("webhooks/next.rs", &["db", "request", "resources", "engine", "http", "app", "clock"]),
];

/// The engine's pure parts look at nothing but the log.
const PURE: [&str; 3] = ["engine/fold.rs", "engine/next.rs", "engine/permission.rs"];

fn files(folder: &Path) -> Vec<PathBuf> {
    if folder.is_file() {
        return vec![folder.to_owned()];
    }
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

/// The modules of this crate that a file names in code: `crate::db::Tx`, or `use crate::{db::Tx, error::Result}`.
fn imports(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && c.is_alphanumeric() => {
                    found.push(word(&group[i..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn imports_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (place, never) in NEVER {
        for file in files(&src.join(place)) {
            let found = imports(&file).into_iter().filter(|module| never.contains(&module.as_str()));
            wrong.extend(found.map(|module| format!("{} imports {module}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_parts_do_nothing() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for place in PURE {
        let text = fs::read_to_string(src.join(place)).unwrap();
        for word in ["async ", "app.", "tx.", "clock"] {
            assert!(!text.contains(word), "{place} contains `{word}`");
        }
    }
}

/// Who writes the status of a session is one module, and the statement that adds a session.
#[test]
fn one_module_writes_the_status_of_sessions() {
    const COLUMNS: [&str; 5] = ["status", "runnable_at", "running_since", "active_micros", "waiting_on"];
    const OWNER: &str = "resources/sessions/status.rs";
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut owned = 0;
    let mut wrong = Vec::new();
    for file in files(&src) {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("UPDATE sessions SET") {
            let set = text[at..].split("WHERE").next().unwrap();
            let written = COLUMNS.iter().any(|column| set.contains(&format!("{column} =")));
            if written && file.ends_with(OWNER) {
                owned += 1;
            } else if written {
                wrong.push(format!("{}: {set}", file.display()));
            }
        }
        let adds = text.matches("INSERT INTO sessions").count();
        assert_eq!(adds, usize::from(file.ends_with("resources/sessions/store.rs")), "{}", file.display());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(owned > 5, "the statements are found: {owned}");
}

/// A log line has its text as `message`: a field of that name would be a second one in the same JSON object.
#[test]
fn no_log_line_has_a_field_named_message() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut lines = 0;
    for file in ["server/src", "sandbox/src", "rota/src"].iter().flat_map(|src| files(&crates.join(src))) {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("tracing::") {
            let Some((level, rest)) = text[at + "tracing::".len()..].split_once("!(") else { continue };
            if !["error", "warn", "info", "debug"].contains(&level) {
                continue;
            }
            let fields = rest.split('"').next().unwrap().split(',');
            let names = fields.map(|field| field.split('=').next().unwrap().trim().trim_start_matches(['%', '?']));
            assert!(!names.clone().any(|name| name == "message"), "{}: {level}!({}", file.display(), &rest[..80]);
            lines += 1;
        }
    }
    assert!(lines > 30, "log lines are found: {lines}");
}

/// An agent may put a link to a file of the host in place of anything below its session's folder. Only the sandbox crate's
/// `folder.rs` knows how to reach what is there; the server lists the folders of sessions and no more.
#[test]
fn the_server_reaches_no_file_of_a_session() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in files(&src) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains(".session_dir("), "{} names the folder of a session", file.display());
        let lists = text.matches(".sessions_dir()").count();
        assert_eq!(
            lists,
            text.matches("fs::read_dir(app.sandboxes.backend().sessions_dir())").count(),
            "{}",
            file.display()
        );
    }
}

#[test]
fn a_group_of_imports_is_read_whole() {
    let file = std::env::temp_dir().join(format!("rota-imports-{}.rs", std::process::id()));
    fs::write(&file, "use crate::{\n    db::{Tx, vals},\n    error::Result,\n};\nuse crate::page::Page;\n").unwrap();
    let found = imports(&file);
    fs::remove_file(&file).unwrap();
    assert_eq!(found, ["db", "error", "page"]);
}
