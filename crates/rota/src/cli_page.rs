//! `docs/cli.md`: every command, as its own help tells it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{env, fmt::Write, fs, path::Path};

use clap::{Arg, Command, CommandFactory};
use rota_cli::{output::Exit, profile::HEADING};

use crate::cli::Cli;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
/// Between these lines the page is made from the code.
const BEGIN: &str = "<!-- made from the code: `make pages` -->\n";
const END: &str = "<!-- end -->\n";

/// What a line of a table has of an argument.
fn row(arg: &Arg) -> String {
    let names: Vec<String> =
        [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))]
            .into_iter()
            .flatten()
            .collect();
    let values: Vec<String> = arg.get_value_names().into_iter().flatten().map(ToString::to_string).collect();
    let takes = arg.get_action().takes_values();
    let name = [names.join(", "), if takes { values.join(" ") } else { String::new() }];
    let name = name.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
    let mut text = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    if takes && !arg.is_hide_possible_values_set() {
        let possible: Vec<_> =
            arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        if !possible.is_empty() {
            write!(text, ": {}", possible.join(", ")).unwrap();
        }
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes && !defaults.is_empty() {
        write!(text, " [default: {}]", defaults.join(" ")).unwrap();
    }
    if let Some(variable) = arg.get_env() {
        write!(text, " [{}]", variable.to_string_lossy()).unwrap();
    }
    format!("| `{name}` | {} |\n", text.replace('\n', " ").replace('|', "\\|"))
}

/// Arguments, but for those that every command has.
fn rows<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let own = args.filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()));
    let rows: String = own.map(row).collect();
    if rows.is_empty() { rows } else { format!("| | |\n|---|---|\n{rows}\n") }
}

fn is_of_the_server(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(HEADING)
}

/// A heading, what a command does and takes, then the same of those below it.
fn sections(command: &Command, name: &str, page: &mut String) {
    let about = command.get_long_about().or(command.get_about()).unwrap();
    let usage = command.clone().bin_name(name).render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage: ").to_owned();
    write!(page, "### {name}\n\n{about}.\n\n```text\n{usage}\n```\n\n").unwrap();
    *page += &rows(command.get_arguments().filter(|arg| !is_of_the_server(arg)));
    if command.get_arguments().any(is_of_the_server) {
        *page += "And the options [of the server](#the-server).\n\n";
    }
    if let Some(more) = command.get_after_long_help() {
        write!(page, "```text\n{more}\n```\n\n").unwrap();
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        sections(below, &format!("{name} {}", below.get_name()), page);
    }
}

fn made() -> String {
    let mut page = "## Exit codes\n\nOf the commands that talk to a server:\n\n| code | |\n|---|---|\n".to_owned();
    for (exit, meaning) in Exit::ALL {
        writeln!(page, "| {} | {meaning} |", exit as u8).unwrap();
    }
    let mut root = Cli::command();
    root.build();
    let run = root.find_subcommand("run").unwrap();
    write!(page, "\n## The server\n\n{}", rows(run.get_arguments().filter(|arg| is_of_the_server(arg)))).unwrap();
    page += "## Every command\n\n";
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        sections(command, &format!("rota {}", command.get_name()), &mut page);
    }
    page
}

#[test]
fn the_page_of_the_command_line_is_what_the_commands_say() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    if env::var_os("ROTA_WRITE_PAGES").is_some() {
        fs::write(Path::new(PAGE), [before, BEGIN, &made(), END, after].concat()).unwrap();
    } else {
        assert!(shown == made(), "docs/cli.md tells of other commands than there are: run `make pages`");
    }
}
