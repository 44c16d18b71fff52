//! Where the rows of a store are read by a command: in the file, which a server may be writing to, or in the database.

use std::path::PathBuf;

use tokio::runtime::Handle;

use crate::{
    config::Config,
    db::{self, Db, Tx},
    error::{Error, Result},
    folder,
};

/// Where rows are read.
pub(super) enum Source {
    /// In a file of SQLite.
    File(PathBuf),
    /// In a database, from a thread for blocking work.
    Database(Db, Handle),
}

impl Source {
    /// The store of a configuration; `database` where that names one.
    pub(super) fn of(config: &Config, database: Option<Db>) -> Result<Self> {
        if let Some(db) = database {
            return Ok(Self::Database(db, Handle::current()));
        }
        folder::check_without_database(&config.data)?;
        let file = config.data.join(db::FILE);
        if !file.is_file() {
            return Err(Error::invalid(format_args!("{} has no store", config.data.display())));
        }
        Ok(Self::File(file))
    }

    /// Runs `f` on a snapshot.
    pub(super) fn read<T: Send + 'static>(&self, f: impl Fn(&mut Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        match self {
            Self::File(file) => db::read_file(file, f),
            Self::Database(db, handle) => handle.block_on(db.read(f)),
        }
    }
}
