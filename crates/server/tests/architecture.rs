//! Holds the code to the directions of import that ARCHITECTURE.md promises.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What every room may import.
const GROUND: [&str; 5] = ["clock", "error", "hex", "limits", "telemetry"];

/// Which room imports which. A room is a file or a folder of `src`, and each resource is one of its own. A line more here
/// is a decision: nothing below a room knows it, so what two rooms need of each other belongs below both.
const IMPORTS: &[(&str, &[&str])] = &[
    (
        "app",
        &[
            "blobs",
            "brake",
            "config",
            "db",
            "gate",
            "git",
            "hub",
            "images",
            "live",
            "model",
            "packages",
            "request",
            "sandboxes",
            "scheduler",
            "scrape",
            "shares",
            "traces",
            "vault",
            "web",
        ],
    ),
    ("blobs", &["config", "room", "tls"]),
    ("config", &["scheduler"]),
    ("console", &["app", "request", "resources/api_keys"]),
    ("db", &["backoff", "config", "page", "tls"]),
    ("deadlines", &["app", "resources/deployments"]),
    ("dreams", &["app", "backoff", "db", "model", "resources/dreams", "resources/sessions"]),
    (
        "engine",
        &[
            "app",
            "backoff",
            "closed",
            "config",
            "db",
            "gate",
            "hub",
            "mcp",
            "model",
            "mounts",
            "packages",
            "places",
            "resources/checkpoints",
            "resources/deployments",
            "resources/files",
            "resources/organization",
            "resources/repositories",
            "resources/session_secrets",
            "resources/sessions",
            "resources/skills",
            "resources/work_queue",
            "room",
            "traces",
            "web",
        ],
    ),
    ("folder", &["config", "db", "random"]),
    (
        "gate",
        &["config", "db", "outgoing", "places", "resources/egress_log", "resources/session_secrets", "tls", "vault"],
    ),
    ("git", &["config", "outgoing", "places", "tls"]),
    (
        "http",
        &[
            "app",
            "config",
            "console",
            "db",
            "request",
            "resources/agents",
            "resources/api_keys",
            "resources/archiving",
            "resources/attention",
            "resources/audit",
            "resources/credentials",
            "resources/deployment_runs",
            "resources/deployments",
            "resources/dreams",
            "resources/egress",
            "resources/environment_keys",
            "resources/environments",
            "resources/files",
            "resources/hooks",
            "resources/images",
            "resources/memory_stores",
            "resources/models",
            "resources/organization",
            "resources/retention",
            "resources/run_outcomes",
            "resources/run_sums",
            "resources/runs",
            "resources/schedule_holds",
            "resources/schedules",
            "resources/session_states",
            "resources/sessions",
            "resources/skills",
            "resources/threads",
            "resources/tunnels",
            "resources/user_profiles",
            "resources/vaults",
            "resources/webhook_endpoints",
            "resources/work",
            "resources/workspaces",
            "shares",
            "traces",
        ],
    ),
    ("hub", &["db"]),
    ("images", &["outgoing", "tls"]),
    ("live", &["config", "model"]),
    ("mcp", &["app", "config", "outgoing", "places", "resources/credentials", "vault"]),
    ("model", &["backoff", "config", "json_size", "retry_after", "tls"]),
    (
        "mounts",
        &[
            "app",
            "backoff",
            "blobs",
            "db",
            "git",
            "resources/checkpoints",
            "resources/files",
            "resources/memory_stores",
            "resources/repositories",
            "resources/sessions",
            "resources/skills",
        ],
    ),
    (
        "ops",
        &[
            "blobs",
            "config",
            "db",
            "folder",
            "resources/images",
            "resources/retention",
            "resources/sessions",
            "resources/workspaces",
            "vault",
        ],
    ),
    ("outgoing", &["tls"]),
    ("packages", &["config", "db", "gate", "images", "resources/package_builds", "tls"]),
    ("renewals", &["app", "resources/credentials", "vault"]),
    ("retention", &["app", "db", "resources/deployments", "resources/retention", "resources/sessions"]),
    ("request", &["closed", "db", "page", "room"]),
    ("resources/agents", &["app", "db", "model", "page", "request", "resources/skills", "resources/webhook_outbox"]),
    ("resources/api_keys", &["app", "db", "page", "random", "request", "resources/workspaces"]),
    (
        "resources/archiving",
        &[
            "app",
            "db",
            "request",
            "resources/agents",
            "resources/api_keys",
            "resources/deployments",
            "resources/environments",
            "resources/sessions",
            "resources/workspaces",
        ],
    ),
    ("resources/checkpoints", &["db", "resources/files"]),
    (
        "resources/credentials",
        &["app", "backoff", "db", "outgoing", "page", "request", "resources/webhook_outbox", "vault"],
    ),
    ("resources/deployment_runs", &["app", "db", "page", "request"]),
    (
        "resources/deployments",
        &[
            "app",
            "closed",
            "db",
            "page",
            "request",
            "resources/agents",
            "resources/deployment_runs",
            "resources/environments",
            "resources/memory_stores",
            "resources/repositories",
            "resources/run_outcomes",
            "resources/run_starts",
            "resources/sessions",
            "resources/skills",
            "resources/vaults",
            "resources/webhook_outbox",
            "scheduler",
            "vault",
        ],
    ),
    ("resources/dreams", &["app", "db", "model", "page", "request", "resources/memory_stores"]),
    ("resources/egress", &["app", "db", "page", "request", "resources/sessions"]),
    ("resources/egress_log", &["db"]),
    ("resources/files", &["app", "blobs", "db", "page", "request"]),
    ("resources/memory_stores", &["app", "db", "page", "request", "resources/webhook_outbox", "resources/work_queue"]),
    ("resources/environment_keys", &["app", "db", "page", "random", "request", "resources/environments"]),
    (
        "resources/environments",
        &[
            "app",
            "db",
            "page",
            "request",
            "resources/package_builds",
            "resources/webhook_outbox",
            "resources/work_queue",
        ],
    ),
    (
        "resources/hooks",
        &["app", "db", "page", "random", "request", "resources/deployments", "resources/run_starts", "vault"],
    ),
    ("resources/images", &["app", "db", "images", "request", "resources/environments", "resources/package_builds"]),
    ("resources/models", &["app", "page", "request"]),
    ("resources/package_builds", &["db"]),
    ("resources/organization", &["app", "db", "random", "request"]),
    ("resources/repositories", &["app", "config", "db", "resources/session_secrets", "vault"]),
    ("resources/audit", &["app", "db", "page", "request"]),
    (
        "resources/retention",
        &[
            "app",
            "config",
            "db",
            "request",
            "resources/deployments",
            "resources/files",
            "resources/sessions",
            "resources/webhook_outbox",
        ],
    ),
    ("resources/attention", &["app", "db", "request", "resources/sessions", "scheduler"]),
    ("resources/run_sums", &["app", "db", "page", "request", "resources/runs", "resources/sessions"]),
    ("resources/runs", &["app", "db", "page", "request", "resources/deployments", "resources/sessions"]),
    (
        "resources/run_outcomes",
        &["app", "db", "request", "resources/deployment_runs", "resources/run_starts", "resources/sessions"],
    ),
    ("resources/run_starts", &["db"]),
    ("resources/session_secrets", &["db", "random", "vault"]),
    ("resources/schedule_holds", &["app", "db", "request", "resources/workspaces"]),
    ("resources/schedules", &["app", "request", "scheduler"]),
    ("resources/session_states", &["app", "db", "page", "request", "resources/sessions"]),
    (
        "resources/sessions",
        &[
            "app",
            "config",
            "db",
            "hub",
            "json_size",
            "model",
            "page",
            "request",
            "resources/agents",
            "resources/checkpoints",
            "resources/environments",
            "resources/files",
            "resources/memory_stores",
            "resources/repositories",
            "resources/session_secrets",
            "resources/skills",
            "resources/vaults",
            "resources/webhook_outbox",
            "resources/work_queue",
            "shares",
            "vault",
        ],
    ),
    ("resources/skills", &["app", "db", "page", "request", "resources/work_queue"]),
    ("resources/threads", &["app", "db", "page", "request", "resources/sessions"]),
    ("resources/tunnels", &["app", "db", "page", "random", "request", "vault"]),
    ("resources/user_profiles", &["app", "db", "page", "request"]),
    ("resources/vaults", &["app", "db", "page", "request", "resources/credentials", "resources/webhook_outbox"]),
    ("resources/webhook_endpoints", &["app", "db", "outgoing", "page", "request", "resources/webhook_outbox", "vault"]),
    ("resources/webhook_outbox", &["db", "resources/organization"]),
    (
        "resources/work",
        &[
            "app",
            "db",
            "page",
            "random",
            "request",
            "resources/environments",
            "resources/sessions",
            "resources/work_queue",
        ],
    ),
    ("resources/work_queue", &["db", "request"]),
    ("resources/workspaces", &["app", "db", "page", "random", "request", "resources/organization"]),
    ("sandboxes", &["places"]),
    ("scheduler", &["backoff"]),
    ("scrape", &["db"]),
    ("silence", &["app", "resources/deployments"]),
    (
        "sweep",
        &[
            "app",
            "blobs",
            "engine",
            "mounts",
            "resources/checkpoints",
            "resources/files",
            "resources/memory_stores",
            "resources/sessions",
            "resources/skills",
        ],
    ),
    ("tick", &["app", "db", "resources/deployments", "scheduler"]),
    ("traces", &["config", "tls"]),
    ("vault", &["config", "db", "outgoing", "retry_after"]),
    ("web", &["config", "model", "outgoing", "places"]),
    ("webhooks", &["app", "backoff", "config", "db", "outgoing", "resources/webhook_endpoints", "retry_after"]),
];

/// Pure files, which import nothing that acts: no store, no time, no state of the server.
const NOTHING_THAT_ACTS: [&str; 14] = [
    "gate/keystore.rs",
    "gate/placement.rs",
    "scheduler/cron.rs",
    "scheduler/pending.rs",
    "scheduler/policy.rs",
    "scheduler/preview.rs",
    "scheduler/schedule.rs",
    "scheduler/settle.rs",
    "scheduler/spans.rs",
    "scheduler/unattended.rs",
    "web/markdown.rs",
    "web/rules.rs",
    "webhooks/next.rs",
    "page.rs",
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

/// The code of a file, without comments and without its tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The module that a file is, as the names on its path.
fn module(file: &Path, src: &Path) -> Vec<String> {
    let path = file.strip_prefix(src).unwrap().with_extension("");
    let mut names: Vec<String> = path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    names.pop_if(|last| last == "mod");
    names
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The paths that `tree` names, which is what stands behind `crate::` or `super::`: `db::{Tx, vals}` or `error::Result`.
fn paths(base: &[String], tree: &str) -> Vec<Vec<String>> {
    if let Some(group) = tree.strip_prefix('{') {
        let mut found = Vec::new();
        let (mut depth, mut start) = (0, 0);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    let member = group[start..i].trim();
                    if !member.is_empty() {
                        found.extend(paths(base, member));
                    }
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return found;
    }
    let end = tree.find(|c| !is_of_a_name(c)).unwrap_or(tree.len());
    let (name, rest) = tree.split_at(end);
    let mut path = base.to_vec();
    if !name.is_empty() && name != "self" {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(rest) => paths(&path, rest),
        None => vec![path],
    }
}

/// Every path that the code of `module` names from the crate's root, whether by `crate::` or by `super::`.
fn named(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for word in ["crate::", "super::"] {
        for (at, _) in code.match_indices(word) {
            let before = &code[..at];
            // The second of `super::super::`, and the end of a longer word.
            if before.ends_with(is_of_a_name) || before.ends_with("super::") {
                continue;
            }
            let mut rest = &code[at..];
            let mut base = if word == "crate::" { &[][..] } else { module };
            while let Some(next) = rest.strip_prefix("super::") {
                base = &base[..base.len() - 1];
                rest = next;
            }
            found.extend(paths(base, rest.strip_prefix("crate::").unwrap_or(rest)));
        }
    }
    found
}

/// The room that a path leads into; `None` for the crate itself and what it does not have.
fn room(path: &[String], rooms: &BTreeSet<String>) -> Option<String> {
    let long = path.get(..2).map(|two| two.join("/"));
    long.filter(|long| rooms.contains(long)).or_else(|| path.first().filter(|first| rooms.contains(*first)).cloned())
}

/// Which room imports which, and one file that does.
fn graph() -> BTreeMap<(String, String), PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<PathBuf> = files(&src).into_iter().filter(|file| !file.ends_with("src/lib.rs")).collect();
    let rooms = files.iter().map(|file| {
        let module = module(file, &src);
        let resource = module[0] == "resources" && module.len() > 1;
        module[..if resource { 2 } else { 1 }].join("/")
    });
    let rooms: BTreeSet<String> = rooms.collect();
    let mut graph = BTreeMap::new();
    for file in files {
        let module = module(&file, &src);
        let own = room(&module, &rooms).unwrap();
        let targets = named(&module, &code(&file)).into_iter().filter_map(|path| room(&path, &rooms));
        for target in targets.filter(|target| *target != own) {
            graph.insert((own.clone(), target), file.clone());
        }
    }
    graph
}

#[test]
fn each_room_imports_what_its_line_says_and_nothing_else() {
    let graph = graph();
    let mut wrong = Vec::new();
    for ((from, to), file) in &graph {
        let is_said = IMPORTS.iter().any(|(room, imports)| room == from && imports.contains(&to.as_str()));
        let is_ground = GROUND.contains(&to.as_str());
        if is_ground && is_said {
            wrong.push(format!("{to} is ground: {from} needs no line for it"));
        } else if !is_ground && !is_said {
            wrong.push(format!("{from} imports {to}, in {}", file.display()));
        }
    }
    for (from, imports) in IMPORTS {
        let unused = imports.iter().filter(|to| !graph.contains_key(&((*from).to_owned(), (**to).to_owned())));
        wrong.extend(unused.map(|to| format!("{from} does not import {to}: take it out of its line")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_room_imports_itself_through_others() {
    let mut left: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in graph().into_keys() {
        left.entry(to.clone()).or_default();
        left.entry(from).or_default().insert(to);
    }
    // What imports nothing that is left is in no cycle.
    while let Some(free) = left.iter().find(|(_, imports)| imports.is_empty()).map(|(room, _)| room.clone()) {
        left.remove(&free);
        for imports in left.values_mut() {
            imports.remove(&free);
        }
    }
    assert!(left.is_empty(), "a cycle is among {left:#?}");
}

#[test]
fn what_only_decides_imports_nothing_that_acts() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let acting = ["app", "clock", "db", "engine", "http", "hub", "request", "resources", "sandboxes", "tick"];
    for file in NOTHING_THAT_ACTS {
        let file = src.join(file);
        let found = named(&module(&file, &src), &code(&file));
        let found: Vec<_> =
            found.iter().filter(|path| path.first().is_some_and(|p| acting.contains(&p.as_str()))).collect();
        assert!(found.is_empty(), "{} imports {found:?}", file.display());
    }
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

/// A function that reads rows does so by name: the order of a SELECT, perhaps of another file, is none of its business. A
/// closure beside its statement may count.
#[test]
fn no_function_reads_a_row_by_number() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/resources");
    let mut readers = 0;
    for file in files(&src).into_iter().filter(|file| !file.to_str().unwrap().contains("sessions/events/")) {
        let code = code(&file);
        for reader in code
            .split("fn ")
            .filter(|rest| rest.split_once('(').is_some_and(|(_, parameters)| parameters.starts_with("row: &Row<'_>")))
        {
            let body = reader.split("\n}").next().unwrap();
            let by_number = body.match_indices("row.").find(|(at, _)| {
                let asked =
                    body[*at..].split_once('(').map(|(_, column)| column.starts_with(|c: char| c.is_ascii_digit()));
                asked == Some(true)
            });
            let line = by_number.map(|(at, _)| body[at..].lines().next().unwrap());
            assert_eq!(line, None, "{}", file.display());
            readers += 1;
        }
    }
    assert!(readers > 10, "{readers} functions that read rows were found");
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
        let only_lists = ["app.sandboxes.backend()", "self.0.backend"]
            .map(|backend| text.matches(&format!("fs::read_dir({backend}.sessions_dir())")).count());
        assert_eq!(lists, only_lists.iter().sum::<usize>(), "{}", file.display());
    }
}

#[test]
fn imports_are_read_in_every_form() {
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Vec<_>>();
    let found = |code: &str| named(&path("resources::sessions::write"), code);
    for (code, expect) in [
        ("use crate::page::Page;", &["page::Page"][..]),
        (
            "use crate::{\n    db::{Tx, vals},\n    error::{self, Result},\n};",
            &["db::Tx", "db::vals", "error", "error::Result"],
        ),
        ("use super::{store, write::set};", &["resources::sessions::store", "resources::sessions::write::set"]),
        ("use super::super::agents;", &["resources::agents"]),
        ("    let x = crate::telemetry::may_tell(y);", &["telemetry::may_tell"]),
        ("pub(super) fn f(a: &super::Control) {}", &["resources::sessions::Control"]),
        ("my_crate::x", &[]),
    ] {
        assert_eq!(found(code), expect.iter().map(|text| path(text)).collect::<Vec<_>>(), "{code}");
    }
}
