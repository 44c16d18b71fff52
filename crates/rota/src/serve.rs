//! `rota serve`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::{clock::Clock, config::Config, descriptors};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{LogFormat, ServeArgs},
    store,
};

pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    start_log(&args)?;
    descriptors::raise();
    let config = configure(args)?;
    let data = config.data.display().to_string();
    let server = rota_server::serve(config, Clock::System).await?;
    if let Some(first) = &server.first_key {
        println!("This is a new store. Its first API key, shown only now:\n\n  {}\n", first.key);
        println!("It reaches the workspace {} (Default). `rota keys create` makes others.", first.workspace_id);
    }
    tracing::info!(address = %server.address, data, "listening");
    stop_signal().await?;
    tracing::info!("stopping");
    server.stop().await;
    Ok(ExitCode::SUCCESS)
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
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(&args.log)?).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
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
