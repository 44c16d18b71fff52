//! The store of a test: SQLite in its folder, or a database of its own on the server that `ROTA_TEST_DATABASE` names.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rota_server::config::DatabaseUrl;
use tokio_postgres::NoTls;

/// The variable that names a PostgreSQL server, without a database: `tests/with-postgres` sets it.
const SERVER: &str = "ROTA_TEST_DATABASE";

/// Why a test that needs PostgreSQL fails where it is asked for without: such tests are ignored otherwise.
pub const NEEDED: &str = "ROTA_TEST_DATABASE names a PostgreSQL server: tests/with-postgres";

/// The host and the port of the server. `None` when tests run on SQLite.
pub fn address() -> Option<String> {
    let url = std::env::var(SERVER).ok()?;
    url.rsplit_once('@').map(|(_, address)| address.to_owned())
}

/// A database that is dropped with this.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// An empty database. `None` when tests run on SQLite.
    pub fn create() -> Option<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let server = std::env::var(SERVER).ok()?;
        let name = format!("rota_{}_{}", std::process::id(), CREATED.fetch_add(1, Ordering::Relaxed));
        let database = Self { server, name };
        database.administer(format!("CREATE DATABASE {}", database.name));
        Some(database)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn url(&self) -> DatabaseUrl {
        DatabaseUrl(format!("{}/{}", self.server, self.name))
    }

    /// Runs statements in the database, beside the servers that use it.
    pub fn run(&self, sql: &str) {
        run(self.url().0, sql.to_owned());
    }

    fn administer(&self, sql: String) {
        run(format!("{}/postgres", self.server), sql);
    }
}

/// Runs statements on a thread of their own: a drop cannot wait in the runtime of a test.
pub fn run(url: String, sql: String) {
    let running = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::select! {
                ran = client.batch_execute(&sql) => ran.unwrap(),
                lost = connection => panic!("{lost:?}"),
            }
        });
    });
    running.join().unwrap();
}

impl Drop for Database {
    fn drop(&mut self) {
        self.administer(format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}
