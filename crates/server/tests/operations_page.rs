//! Holds the list of operations in docs/compatibility.md to the table of operations. `make pages` writes it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{env, fmt::Write, fs};

use rota_server::http::operations::{Beta, NOT_SERVED, Who, operations};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
const BEGIN: &str = "<!-- operations: `make pages` writes this list from crates/server/src/http/operations.rs -->\n";
const END: &str = "<!-- end of operations -->";

fn list() -> String {
    let mut list = String::from("| served | body | key of | beta header |\n|---|---|---|---|\n");
    for operation in operations() {
        let body = if operation.has_body { "yes" } else { "" };
        let who = match operation.who {
            Who::Workspace => "a workspace",
            Who::Starter => "a workspace, also an archived one: the run says that nothing starts",
            Who::Administrator => "an administrator",
        };
        let beta = if operation.beta == Beta::Required { "required" } else { "" };
        writeln!(list, "| `{} {}` | {body} | {who} | {beta} |", operation.method, operation.path).unwrap();
    }
    list += "\n| not served: 404, which says so | |\n|---|---|\n";
    for (path, what) in NOT_SERVED {
        writeln!(list, "| `{path}` | {what} |").unwrap();
    }
    list
}

#[test]
fn the_page_lists_the_operations_of_the_table() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    let list = list();
    if env::var_os("ROTA_WRITE_PAGES").is_some() {
        fs::write(PAGE, [before, BEGIN, &list, END, after].concat()).unwrap();
    } else {
        assert!(shown == list, "docs/compatibility.md lists other operations than the table: run `make pages`");
    }
}
