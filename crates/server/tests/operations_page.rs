//! Holds the lists of operations in docs/compatibility.md to the table of operations and to the contract. `make pages` writes
//! them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{env, fmt::Write, fs};

use rota_server::http::operations::{Beta, NOT_SERVED, Operation, PARTIAL, Who, not_served, operations};
use serde_json::Value;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
const BEGIN: &str = "<!-- operations: `make pages` writes this list from crates/server/src/http/operations.rs -->\n";
const END: &str = "<!-- end of operations -->";
const COVERAGE_BEGIN: &str =
    "<!-- coverage: `make pages` writes this from contract/ and crates/server/src/http/operations.rs -->\n";
const COVERAGE_END: &str = "<!-- end of coverage -->";
const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contract");

fn list() -> String {
    let mut list = String::from("| served | body | key of | beta header |\n|---|---|---|---|\n");
    for operation in operations() {
        let body = match () {
            () if operation.uploads => "files",
            () if operation.has_body => "yes",
            () => "",
        };
        let who = match operation.who {
            Who::Workspace => "a workspace",
            Who::Starter => "a workspace, also an archived one: the run says that nothing starts",
            Who::WorkspaceOrWorker => "a workspace, or a worker",
            Who::Worker => "a worker",
            Who::Administrator => "an administrator",
            Who::Signed => "none: a signature",
            Who::Reader => "a workspace, or an administrator",
        };
        let beta = match operation.beta {
            Beta::Required => "required",
            Beta::Named(name) => name,
            Beta::AgentMemory => "required, or that of memory stores",
            Beta::Optional => "",
        };
        writeln!(list, "| `{} {}` | {body} | {who} | {beta} |", operation.method, operation.path).unwrap();
    }
    list += "\n| not served: 404, which says so | |\n|---|---|\n";
    for (path, what) in NOT_SERVED {
        writeln!(list, "| `{path}` | {what} |").unwrap();
    }
    list
}

/// The operations of a file of the contract, by method and path.
fn contract(file: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("{CONTRACT}/{file}")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = paths.flat_map(of_path).collect();
    all.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    all
}

/// What is served of a file of the contract: `serves` says of an operation of the table whether it is served there.
fn covered(title: &str, file: &str, serves: impl Fn(&Operation) -> Result<(), &'static str>) -> String {
    let table = operations();
    let (mut rows, mut counts) = (String::new(), [0; 3]);
    for (method, path) in contract(file) {
        let same = |operation: &&Operation| operation.method.as_str() == method && operation.path == path;
        let partial = PARTIAL.iter().find(|(of, at, _)| *of == method && *at == path);
        let (kind, state, missing) = match (table.iter().find(same).map(&serves), partial) {
            (Some(Ok(())), None) => (0, "complete", ""),
            (Some(Ok(())), Some((_, _, missing))) => (1, "partial", *missing),
            (Some(Err(why)), _) => (2, "absent", why),
            (None, _) => {
                let what = not_served(&path);
                (2, "absent", what.unwrap_or_else(|| panic!("neither table of operations has {method} {path}")))
            }
        };
        counts[kind] += 1;
        writeln!(rows, "| `{method} {path}` | {state} | {missing} |").unwrap();
    }
    let all: usize = counts.iter().sum();
    let [complete, partial, absent] = counts;
    format!(
        "**{title}**: of {all} operations {complete} are complete, {partial} partial and {absent} absent.\n\n\
         | operation | state | what is missing |\n|---|---|---|\n{rows}"
    )
}

fn coverage() -> String {
    let with = covered("With a beta header", "openapi.json", |_| Ok(()));
    let without = covered("Without one", "general.json", |operation| match operation.beta {
        Beta::Optional => Ok(()),
        Beta::Required | Beta::Named(_) | Beta::AgentMemory => Err("served with its beta header only"),
    });
    format!("{with}\n{without}")
}

/// Holds what stands between two marks to what it should be, or writes it.
fn check(begin: &str, end: &str, wanted: &str) {
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(begin).unwrap();
    let (shown, after) = rest.split_once(end).unwrap();
    if env::var_os("ROTA_WRITE_PAGES").is_some() {
        fs::write(PAGE, [before, begin, wanted, end, after].concat()).unwrap();
    } else {
        assert!(shown == wanted, "docs/compatibility.md lists other operations than the tables: run `make pages`");
    }
}

#[test]
fn the_page_lists_the_operations_of_the_table_and_what_they_cover_of_the_contract() {
    check(BEGIN, END, &list());
    check(COVERAGE_BEGIN, COVERAGE_END, &coverage());
}

#[test]
fn what_is_partial_is_served_and_in_the_contract() {
    let (table, contract) = (operations(), contract("openapi.json"));
    for (method, path, missing) in PARTIAL {
        assert!(table.iter().any(|known| known.method.as_str() == method && known.path == path), "{method} {path}");
        assert!(contract.iter().any(|(of, at)| of == method && at == path), "{method} {path}");
        assert!(!missing.is_empty());
    }
}
