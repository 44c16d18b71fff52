//! Finds the store of a server, as the server itself does: by the configuration file, and by what is put over it.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rota_api::audit::{Actor, ActorType};
use rota_server::{
    config::{Config, DatabaseUrl},
    db::{Act, Db, Writer, acting},
    open_or_begin_store, open_store,
};

use crate::cli::StoreArgs;

/// The store that a command is about.
pub struct Store {
    db: Db,
    writer: Writer,
}

impl Store {
    /// Does what `changing` is, which the audit list shows as done by the command line: `operation` of a `resource`.
    pub async fn change<F: Future>(&self, operation: &str, resource: &str, changing: F) -> F::Output {
        let act = Act {
            actor: Actor::of(ActorType::CommandLine),
            operation: operation.to_owned(),
            resource: resource.to_owned(),
            id: None,
            parent: None,
            workspace: None,
            fields: None,
        };
        acting(Some(act), changing).await
    }

    /// Leaves the store whole: what was written is all in its place.
    pub async fn close(self) {
        drop(self.db);
        rota_server::close(self.writer).await;
    }
}

impl Deref for Store {
    type Target = Db;

    fn deref(&self) -> &Db {
        &self.db
    }
}

/// The store that a command is about, which must be there.
pub async fn open(args: &StoreArgs) -> Result<Store> {
    let (db, writer) = open_store(&of(args)?).await?;
    Ok(Store { db, writer })
}

/// The same, made when there is none: for the first key.
pub async fn open_or_begin(args: &StoreArgs) -> Result<Store> {
    let (db, writer) = open_or_begin_store(&of(args)?).await?;
    Ok(Store { db, writer })
}

/// The configuration of the server that a command is about.
pub fn of(args: &StoreArgs) -> Result<Config> {
    configured(args.config.as_deref(), args.data.clone(), args.database.clone())
}

/// The configuration in `file`, over which `data` and `database` are put.
pub fn configured(file: Option<&Path>, data: Option<PathBuf>, database: Option<DatabaseUrl>) -> Result<Config> {
    let mut config = file.map(Config::from_file).transpose()?.unwrap_or_default();
    if let Some(data) = data {
        config.data = data;
    }
    if database.is_some() {
        config.database = database;
    }
    Ok(config)
}
