//! `rota serve`.

use std::{
    fs::{self, File},
    io::{ErrorKind, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::ExitCode,
};

use anyhow::Result;
use rota_sandbox::{Protection, ProtectionState};
use rota_server::{Server, clock::Clock, config::Config, descriptors, resources::api_keys::CreatedKey, vault};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{LogFormat, ServeArgs},
    store,
};

/// The file in the data folder that has the first key where there is no terminal to show it on.
const FIRST_KEY: &str = "first_key";

/// The file in the data folder that has the address of the console.
const CONSOLE_ADDRESS: &str = "console_address";

pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    start_log(&args)?;
    descriptors::raise();
    vault::no_core_dumps();
    let config = configure(args)?;
    let data = config.data.clone();
    let server = rota_server::serve(config, Clock::System).await?;
    if let Some(first) = &server.first_key {
        show(first, &data);
    }
    tracing::info!(address = %server.address, data = %data.display(), "listening");
    if let Some(address) = server.console_address()? {
        show_console(&address, &data);
    }
    tell_of_missing_isolation(&server);
    stop_signal().await?;
    tracing::info!("stopping");
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Shows the first key of a new store, once: on the terminal, or in a file that only the server's user reads. What a service
/// prints is in a log for years, and whoever reads that must not have the key.
fn show(first: &CreatedKey, data: &Path) {
    let CreatedKey { key, workspace_id, .. } = first;
    if std::io::stdout().is_terminal() {
        println!("This is a new store. Its first API key, shown only now:\n\n  {key}\n");
        println!("It reaches the workspace {workspace_id} (Default). `rota keys create` makes others.");
        return;
    }
    let file = data.join(FIRST_KEY);
    match write_private(&file, key) {
        Ok(()) => tracing::warn!(
            %workspace_id, file = %file.display(),
            "this is a new store: its first API key is in this file. Read it there, and delete the file"
        ),
        Err(error) => tracing::error!(
            %error, file = %file.display(),
            "this is a new store, and its first API key could not be written: `rota keys create` makes another"
        ),
    }
}

/// Shows the address that signs in to the console: on the terminal, or in a file beside the key's.
fn show_console(address: &str, data: &Path) {
    if std::io::stdout().is_terminal() {
        println!("\nThe console, signed in by this address once, for the next 15 minutes:\n\n  {address}\n");
        return;
    }
    let file = data.join(CONSOLE_ADDRESS);
    match write_private(&file, address) {
        Ok(()) => {
            tracing::info!(file = %file.display(), "an address that signs in to the console once is in this file");
        }
        Err(error) => tracing::warn!(
            %error, file = %file.display(),
            "the address that signs in to the console could not be written: a key signs in too"
        ),
    }
}

/// Writes a file that is there only when it is whole.
fn write_private(file: &Path, key: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    writeln!(File::options().write(true).create_new(true).mode(0o600).open(&new)?, "{key}")?;
    fs::rename(new, file)
}

/// Says once that no tool of an agent can run on this machine. Sessions that need none work.
fn tell_of_missing_isolation(server: &Server) {
    let app = server.app().clone();
    if !app.config.runs_sessions() {
        return;
    }
    let look = async move {
        let looking = spawn_blocking(move || app.sandboxes.backend().probe());
        let missing = |row: &Protection| row.state == ProtectionState::Missing;
        for Protection { name, detail, remedy, .. } in looking.await.into_iter().flatten().filter(missing) {
            tracing::error!(
                missing = name,
                cause = detail,
                remedy,
                "this machine cannot isolate agents: every call of a tool will fail here"
            );
        }
    };
    server.app().spawn(look);
}

fn configure(args: ServeArgs) -> Result<Config> {
    let mut config = store::configured(args.config.as_deref(), args.data, args.database)?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    if !args.roles.is_empty() {
        config.roles = args.roles.into_iter().collect();
    }
    if let Some(concurrency) = args.concurrency {
        config.engine.concurrency = concurrency;
    }
    if let Some(limit) = args.sessions_per_minute {
        config.rate.sessions_per_minute = limit;
    }
    if args.root_fs.is_some() {
        config.sandbox.root_fs = args.root_fs;
    }
    Ok(config)
}

fn start_log(args: &ServeArgs) -> Result<()> {
    // What servers of users do is no error of this one, and at its lower levels the client of MCP servers logs what is said.
    let filter = EnvFilter::try_new(&args.log)?.add_directive("rmcp=off".parse()?);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

async fn stop_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
