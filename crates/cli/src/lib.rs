//! The commands that talk to a running server, over HTTP alone.

mod answers;
mod apply;
pub mod client;
pub mod find;
mod follow;
pub mod limits;
mod login;
pub mod output;
mod overview;
mod pages;
pub mod profile;
mod resources;
mod sse;
mod start;
mod story;
mod top;

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::Shell;

use crate::{find::Kind, output::Exit};

/// A command that talks to a server, or is about the commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a deployment now, or at a time, and follow its session if told to.
    Run(start::RunArgs),
    /// Show what was said and done in a session.
    Logs(overview::LogsArgs),
    /// List the sessions that are at work or wait for somebody.
    Ps(overview::PsArgs),
    /// List runs, the newest first, and what was skipped or missed, with the reason.
    Runs(overview::RunsArgs),
    /// List what needs somebody now.
    Attention(overview::AttentionArgs),
    /// Show what goes on, live, until Ctrl-C.
    Top(top::TopArgs),
    /// Let calls run that a session waits with.
    Approve(answers::AnswerArgs),
    /// Refuse calls that a session waits with. The agent reads that, and goes on.
    Deny(answers::DenyArgs),
    /// Stop what a session does. It rests, and goes on when it is sent something.
    Interrupt(answers::InterruptArgs),
    /// List, show, pause, unpause and archive deployments.
    #[command(subcommand)]
    Deployments(resources::DeploymentAct),
    /// List, show and archive agents.
    #[command(subcommand)]
    Agents(resources::Act),
    /// List, show and archive sessions.
    #[command(subcommand)]
    Sessions(resources::Act),
    /// List, show and archive environments.
    #[command(subcommand)]
    Environments(resources::Act),
    /// Make the server have what the files of a directory say: agents, environments, deployments, skills, vaults, webhooks.
    Apply(apply::ApplyArgs),
    /// Write what the server has as the files that `rota apply` reads. Secrets are not in them.
    Export(apply::ExportArgs),
    /// Write the same of the hosted service, or of another Rota, or apply it at once.
    Import(apply::ImportArgs),
    /// Keep a server's address and a key in a profile. The key is read from standard input.
    Login(login::LoginArgs),
    /// Write what a shell needs to complete the commands.
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual page: `rota man | man -l -`.
    Man {
        /// Write a page for each command into this folder.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
}

/// Does what a command of `root` says. What goes wrong is written to standard error.
pub async fn run(command: Command, root: clap::Command) -> Exit {
    let outcome = match command {
        Command::Run(args) => start::run(args).await,
        Command::Logs(args) => overview::logs(args).await,
        Command::Ps(args) => overview::ps(args).await,
        Command::Runs(args) => overview::runs(args).await,
        Command::Attention(args) => overview::attention(args).await,
        Command::Top(args) => top::top(args).await,
        Command::Approve(args) => answers::approve(args).await,
        Command::Deny(args) => answers::deny(args).await,
        Command::Interrupt(args) => answers::interrupt(args).await,
        Command::Deployments(act) => act.run().await,
        Command::Agents(act) => act.run(Kind::Agents).await,
        Command::Sessions(act) => act.run(Kind::Sessions).await,
        Command::Environments(act) => act.run(Kind::Environments).await,
        Command::Apply(args) => apply::apply(args).await,
        Command::Export(args) => apply::export(args).await,
        Command::Import(args) => apply::import(args).await,
        Command::Login(args) => login::login(args).await,
        Command::Completions { shell } => pages::completions(shell, root),
        Command::Man { to } => pages::manual(to.as_deref(), root),
    };
    outcome.unwrap_or_else(|error| {
        let exit = error.exit();
        if exit != Exit::Done {
            eprintln!("error: {error}");
        }
        exit
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_commands_know_a_server_by_http_alone() {
        let manifest = include_str!("../Cargo.toml");
        assert!(!manifest.contains("rota-server") && !manifest.contains("rota-sandbox"));
    }
}
