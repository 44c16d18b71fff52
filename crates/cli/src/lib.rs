//! The commands that talk to a running server, over HTTP alone.

pub mod client;
pub mod limits;
pub mod output;
mod pages;
pub mod profile;

use clap::Subcommand;
use clap_complete::Shell;

use crate::output::Exit;

/// A command that talks to a server, or is about the commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write what a shell needs to complete the commands.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual page: `rota man | man -l -`.
    Man,
}

/// Does what a command of `root` says. What goes wrong is written to standard error.
pub async fn run(command: Command, root: clap::Command) -> Exit {
    let outcome = match command {
        Command::Completions { shell } => pages::completions(shell, root),
        Command::Man => pages::manual(root),
    };
    outcome.unwrap_or_else(|error| {
        let exit = error.exit();
        if exit != Exit::Done {
            eprintln!("error: {error}");
        }
        exit
    })
}
