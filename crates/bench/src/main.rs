//! `rota-bench`: Rota's promises of speed, measured on this machine beside the floors that the machine itself sets.

mod attached;
mod bare_store;
mod database;
mod disk;
mod figures;
mod files;
mod fires;
mod gate;
mod http;
mod machine;
mod memory;
mod memory_stores;
mod past;
mod postgres;
mod run_now;
mod sandboxes;
mod server;
mod sessions;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

/// Measures a Rota server over HTTP, on a temporary folder beside this program.
#[derive(Debug, Parser)]
#[command(name = "rota-bench")]
struct Cli {
    /// What to measure; everything when it is not given.
    #[command(subcommand)]
    what: Option<What>,
    /// How long each subject is measured in a round, in seconds.
    #[arg(long, default_value_t = 5, global = true, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often everything is measured. Figures are medians of the rounds.
    #[arg(long, default_value_t = 3, global = true, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The server's program. [default: `rota` beside this program]
    #[arg(long, global = true)]
    rota: Option<PathBuf>,
    /// Where the temporary folders are made: on the disk to be measured. [default: beside this program]
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// Starting deployments on demand, beside the disk and the bare store.
    RunNow,
    /// The same on PostgreSQL, beside `pgbench`. Needs `tests/with-postgres --durable`.
    Postgres,
    /// Starting deployments with files, a memory store and a vault, beside the same without.
    Attached,
    /// Uploads and downloads, beside what `cp` does.
    Files,
    /// Lists of a memory store that has as much as it may.
    MemoryStores,
    /// Sandboxes alone: their start and their end.
    Sandboxes,
    /// Sessions that work in sandboxes.
    Sessions,
    /// What sandboxes move through the gate, beside direct connections.
    Gate,
    /// Fires on schedule, also on a store with a long past, and lists of runs there.
    Fires,
    /// What strangers and one key can make of the server's memory.
    Memory,
}

/// How and where to measure.
#[derive(Debug)]
struct Settings {
    seconds: u64,
    rounds: u32,
    rota: PathBuf,
    folder: PathBuf,
}

impl Settings {
    fn new(cli: Cli) -> Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let beside = own.parent().context("this program is in a folder")?;
        let rota = cli.rota.unwrap_or_else(|| beside.join("rota"));
        ensure!(rota.is_file(), "{} is missing: build it with `cargo build --release -p rota`", rota.display());
        let folder = cli.folder.unwrap_or_else(|| beside.to_owned());
        Ok(Self { seconds: cli.seconds, rounds: cli.rounds, rota, folder })
    }

    /// A folder for one round, deleted when it is dropped.
    fn temporary(&self) -> Result<tempfile::TempDir> {
        let made = tempfile::Builder::new().prefix("rota-bench-").tempdir_in(&self.folder);
        made.with_context(|| format!("making a folder in {}", self.folder.display()))
    }
}

// One thread: the load shares the machine with the server that it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let what = cli.what;
    let settings = Settings::new(cli)?;
    println!("{}\n", machine::describe());
    if cfg!(debug_assertions) {
        println!("This is a debug build: the figures say nothing.\n");
    }
    if matches!(what, None | Some(What::RunNow)) {
        run_now::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Postgres)) {
        postgres::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Attached)) {
        attached::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Files)) {
        files::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::MemoryStores)) {
        memory_stores::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Sandboxes)) {
        sandboxes::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Sessions)) {
        sessions::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Gate)) {
        gate::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Fires)) {
        fires::measure(&settings).await?;
    }
    if matches!(what, None | Some(What::Memory)) {
        memory::measure(&settings).await?;
    }
    Ok(())
}
