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
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{LogFormat, ServeArgs},
    notify,
    reload::{DEFAULT_LOG, SetLog, Source},
    store,
};

/// The file in the data folder that has the first key where there is no terminal to show it on.
const FIRST_KEY: &str = "first_key";

/// The file in the data folder that has the address of the console.
const CONSOLE_ADDRESS: &str = "console_address";

pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    let file = args.config.clone();
    let text = file.as_ref().map(fs::read_to_string).and_then(Result::ok).unwrap_or_default();
    let config = configure(&args)?;
    let set_log = start_log(&args, config.log.as_deref())?;
    descriptors::raise();
    vault::no_core_dumps();
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
    server.app().spawn(notify::watchdog(server.app().clone()));
    // Before anybody is told that the server is ready: a signal would end it.
    let (mut stop, mut again) = (StopSignal::new()?, signal(SignalKind::hangup())?);
    notify::ready();
    let mut source = Source { file, text, configure: || configure(&args), set_log };
    loop {
        tokio::select! {
            () = stop.received() => break,
            _ = again.recv() => {
                notify::reloading();
                source.reload(&server);
                notify::ready();
            }
        }
    }
    notify::stopping();
    tracing::info!("stopping: nothing more is begun, and what is under way has a while");
    tokio::select! {
        () = server.drain() => {}
        () = stop.received() => tracing::info!("told to stop again: what is under way is cut off"),
    }
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

fn configure(args: &ServeArgs) -> Result<Config> {
    let mut config = store::configured(args.config.as_deref(), args.data.clone(), args.database.clone())?;
    if let Some(listen) = &args.listen {
        config.listen.clone_from(listen);
    }
    if !args.roles.is_empty() {
        config.roles = args.roles.iter().copied().collect();
    }
    if let Some(concurrency) = args.concurrency {
        config.engine.concurrency = concurrency;
    }
    if let Some(limit) = args.sessions_per_minute {
        config.rate.sessions_per_minute = limit;
    }
    if args.root_fs.is_some() {
        config.sandbox.root_fs.clone_from(&args.root_fs);
    }
    Ok(config)
}

/// Begins to log, and returns what sets the filter anew where the configuration file says what is logged.
fn start_log(args: &ServeArgs, configured: Option<&str>) -> Result<Option<SetLog>> {
    let log = args.log.as_deref().or(configured).unwrap_or(DEFAULT_LOG);
    let log = tracing_subscriber::fmt().with_env_filter(filter(log)?).with_writer(std::io::stderr);
    let set: SetLog = match args.log_format {
        LogFormat::Text => {
            let log = log.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |log| Ok(handle.reload(filter(log)?)?))
        }
        LogFormat::Json => {
            let log = log.json().with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |log| Ok(handle.reload(filter(log)?)?))
        }
    };
    Ok(args.log.is_none().then_some(set))
}

/// What servers of users do is no error of this one, and at its lower levels the client of MCP servers logs what is said.
fn filter(log: &str) -> Result<EnvFilter> {
    Ok(EnvFilter::try_new(log)?.add_directive("rmcp=off".parse()?))
}

/// What tells the server to end.
struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns when one has come.
    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
