//! Settings that change while the server runs: models with their prices, and limits. What is read of them is one moment's.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use toml::{Table, Value};

use crate::{
    config::Config,
    error::{Error, Result},
    model::Offer,
};

/// What of the configuration takes effect without a restart, by the beginnings of the names of its keys.
const LIVE: [&str; 6] = [
    "models.",
    "rate.sessions_per_minute",
    "engine.model_tries",
    "engine.unattended_model_tries",
    "engine.drain_seconds",
    "log",
];

/// The settings of one moment.
#[derive(Clone)]
pub struct Settings {
    /// The models on offer.
    pub offer: Offer,
    /// Sessions that a workspace may create in any minute; 0 is no limit.
    pub sessions_per_minute: u32,
    /// Tries of a request to a model.
    pub model_tries: u32,
    /// The same in sessions that deployments start.
    pub unattended_model_tries: u32,
    /// How long what is under way may go on when the server is told to end.
    pub drain_seconds: u64,
}

/// The settings as they are now.
pub struct Live(RwLock<Arc<Settings>>);

impl Settings {
    /// Those of a configuration, with these models.
    pub fn new(config: &Config, offer: Offer) -> Self {
        Self {
            offer,
            sessions_per_minute: config.rate.sessions_per_minute,
            model_tries: config.engine.model_tries,
            unattended_model_tries: config.engine.unattended_model_tries,
            drain_seconds: config.engine.drain_seconds,
        }
    }
}

impl Live {
    /// Begins with these.
    pub fn new(settings: Settings) -> Self {
        Self(RwLock::new(Arc::new(settings)))
    }

    /// The settings of this moment.
    pub fn get(&self) -> Arc<Settings> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes those of a configuration.
    ///
    /// # Errors
    /// When a model of it cannot be offered; then nothing is changed.
    pub fn reload(&self, config: &Config) -> Result<()> {
        let offer = Offer::after(&self.get().offer, &config.models)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings::new(config, offer));
        Ok(())
    }
}

/// A key of the configuration file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name, with its section; of a model, with its id.
    pub key: String,
    /// Whether it takes effect only with a restart.
    pub needs_restart: bool,
}

/// What differs between two texts of a configuration file. Values are not told: they may be secret.
///
/// # Errors
/// When one is not TOML.
pub fn changes(before: &str, after: &str) -> Result<Vec<Change>> {
    let (before, after) = (keys(before)?, keys(after)?);
    let mut changed: Vec<&String> =
        before.iter().filter(|(key, value)| after.get(*key) != Some(value)).map(|(key, _)| key).collect();
    changed.extend(after.keys().filter(|key| !before.contains_key(*key)));
    changed.sort();
    let change =
        |key: &String| Change { key: key.clone(), needs_restart: !LIVE.iter().any(|live| key.starts_with(live)) };
    Ok(changed.into_iter().map(change).collect())
}

fn keys(text: &str) -> Result<BTreeMap<String, Value>> {
    let table: Table = toml::from_str(text).map_err(|_| Error::invalid("the configuration file is not TOML"))?;
    let mut keys = BTreeMap::new();
    for (section, value) in table {
        match value {
            Value::Table(section_keys) => {
                keys.extend(section_keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
            }
            Value::Array(entries) if section == "models" => {
                for entry in entries {
                    let Value::Table(entry) = entry else { continue };
                    let id = entry.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
                    keys.extend(entry.into_iter().map(|(key, value)| (format!("models.{id}.{key}"), value)));
                }
            }
            value => {
                keys.insert(section, value);
            }
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named_and_whether_it_needs_a_restart() {
        let before = "listen = \"a\"\n[rate]\nsessions_per_minute = 1\n[engine]\nconcurrency = 1\nmodel_tries = 2\n\
            [[models]]\nid = \"one\"\nprovider = \"playbook\"\n[[models]]\nid = \"two\"\nprovider = \"playbook\"\n";
        let after = "listen = \"b\"\n[rate]\nsessions_per_minute = 2\n[engine]\nconcurrency = 2\nmodel_tries = 2\n\
            [[models]]\nid = \"one\"\nprovider = \"playbook\"\nprice = { input = 1, output = 2 }\n\
            [[models]]\nid = \"three\"\nprovider = \"playbook\"\n";
        let found: Vec<_> =
            changes(before, after).unwrap().into_iter().map(|change| (change.key, change.needs_restart)).collect();
        let expected = [
            ("engine.concurrency", true),
            ("listen", true),
            ("models.one.price", false),
            ("models.three.id", false),
            ("models.three.provider", false),
            ("models.two.id", false),
            ("models.two.provider", false),
            ("rate.sessions_per_minute", false),
        ];
        assert_eq!(found, expected.map(|(key, needs)| (key.to_owned(), needs)));
        assert_eq!(changes(before, before).unwrap(), []);
        assert!(changes(before, "=").is_err());
    }
}
