//! The `rota` command: a self-hosted server for managed agents.

mod backup;
mod check;
mod cli;
#[cfg(test)]
mod cli_page;
mod demo;
mod doctor;
mod images;
mod keys;
mod migrate;
mod models;
mod notify;
mod org;
mod reload;
mod restore;
mod retention;
mod schedules;
mod serve;
mod store;
mod vault;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

/// Static programs have an allocator of their own: that of musl has one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads may go on after everything else is done.
const LAST_MOMENT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    rota_sandbox::heap::keep_little();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Serve(args) => serve::run(args).await,
            Command::Backup(args) => backup::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Doctor(args) => doctor::run(&args).await,
            Command::Images(args) => images::run(args).await,
            Command::Keys(args) => keys::run(args).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::Models(args) => models::run(&args).await,
            Command::Org(args) => org::run(args).await,
            Command::Retention(args) => retention::run(args).await,
            Command::Schedules(args) => schedules::run(args).await,
            Command::Vault(args) => vault::run(args).await,
            Command::Client(command) => Ok(rota_cli::run(command, Cli::command()).await.into()),
        }
    });
    // Not longer: what does not end by now would keep the process for ever.
    runtime.shutdown_timeout(LAST_MOMENT);
    outcome
}
