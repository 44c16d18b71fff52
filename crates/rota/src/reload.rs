//! Reads the configuration file of a running server again.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use rota_server::{Server, config::Config, live};
use tracing_subscriber::EnvFilter;

/// Sets what is logged.
pub type SetLog = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// What a server was started with, and what it has read last.
pub struct Source<F> {
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// Its text.
    pub text: String,
    /// The whole configuration that the file gives, with what the command line puts over it.
    pub configure: F,
    /// Sets what is logged; absent where the command line says what is.
    pub set_log: Option<SetLog>,
}

impl<F: Fn() -> Result<Config>> Source<F> {
    /// Takes what may change while the server runs. A file that is wrong changes nothing.
    pub fn reload(&mut self, server: &Server) {
        let Some(file) = &self.file else {
            tracing::warn!("there is no configuration file to be read again: it is named by --config or ROTA_CONFIG");
            return;
        };
        let file = file.display().to_string();
        match self.read(server) {
            Ok(changed) => tell(&file, &changed),
            Err(error) => tracing::error!(file, %error, "the configuration file is wrong: nothing of it is taken"),
        }
    }

    fn read(&mut self, server: &Server) -> Result<Vec<live::Change>> {
        let text = self.file.as_ref().map(fs::read_to_string).transpose()?.unwrap_or_default();
        let changed = live::changes(&self.text, &text)?;
        let config = (self.configure)()?;
        let log = config.log.as_deref().unwrap_or(DEFAULT_LOG);
        // All that may be wrong, before anything is changed.
        EnvFilter::try_new(log).with_context(|| format!("log: \"{log}\" is no filter"))?;
        server.reload(&config)?;
        if let Some(set_log) = &self.set_log {
            set_log(log)?;
        }
        self.text = text;
        Ok(changed)
    }
}

/// What is logged where nobody says.
pub const DEFAULT_LOG: &str = "info";

fn tell(file: &str, changed: &[live::Change]) {
    let named = |needs_restart: bool| {
        let those = changed.iter().filter(|change| change.needs_restart == needs_restart);
        those.map(|change| &*change.key).collect::<Vec<_>>().join(", ")
    };
    let (taken, left) = (named(false), named(true));
    if changed.is_empty() {
        tracing::info!(file, "the configuration file was read again: nothing has changed");
    }
    if !taken.is_empty() {
        tracing::info!(file, keys = taken, "the configuration file was read again: these keys have changed");
    }
    if !left.is_empty() {
        tracing::warn!(file, keys = left, "these keys have changed and take effect with a restart of the server");
    }
}
