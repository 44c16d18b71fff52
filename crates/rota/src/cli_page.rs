//! `docs/cli.md`: every command, as its own help tells it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{env, fs, path::Path};

use clap::{Command, CommandFactory};
use rota_cli::output::Exit;

use crate::cli::Cli;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
/// Between these lines the page is made from the code.
const BEGIN: &str = "<!-- made from the code: `make pages` -->\n";
const END: &str = "<!-- end -->\n";

/// A heading and the help of a command, then of those below it. What is set in the environment is not shown.
fn sections(command: &Command, name: &str, page: &mut String) {
    let mut shown =
        command.clone().mut_args(|arg| arg.hide_env_values(true)).bin_name(name).disable_help_subcommand(true);
    let help = shown.render_long_help().to_string();
    let help: Vec<_> = help.trim().lines().map(str::trim_end).collect();
    page.push_str(&format!("### {name}\n\n```text\n{}\n```\n\n", help.join("\n")));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        sections(below, &format!("{name} {}", below.get_name()), page);
    }
}

fn made() -> String {
    let mut page = "## Exit codes\n\n| code | |\n|---|---|\n".to_owned();
    for (exit, meaning) in Exit::ALL {
        page.push_str(&format!("| {} | {meaning} |\n", exit as u8));
    }
    page.push_str("\n## Every command\n\n");
    let mut root = Cli::command();
    root.build();
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
