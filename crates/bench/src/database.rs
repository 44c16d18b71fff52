//! A PostgreSQL database of a benchmark's own.

use anyhow::Result;
use tokio_postgres::{Client, NoTls};

/// The variable that names the PostgreSQL server, without a database: `tests/with-postgres` sets it.
const SERVER: &str = "ROTA_TEST_DATABASE";

/// A new database. It stays until [`Database::drop`].
pub struct Database {
    pub url: String,
    name: String,
    administrator: Client,
}

impl Database {
    /// Makes one for `purpose`. `None`, said in words, when there is no PostgreSQL server to measure on.
    pub async fn create(purpose: &str) -> Result<Option<Self>> {
        let Ok(server) = std::env::var(SERVER) else {
            println!("PostgreSQL is skipped: {SERVER} names no server. `make bench` starts one.\n");
            return Ok(None);
        };
        let name = format!("rota_bench_{purpose}_{}", std::process::id());
        let administrator = connect(&format!("{server}/postgres")).await?;
        administrator.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        Ok(Some(Self { url: format!("{server}/{name}"), name, administrator }))
    }

    /// Deletes it, whoever is connected.
    pub async fn drop(self) -> Result<()> {
        Ok(self.administrator.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await?)
    }
}

#[allow(clippy::disallowed_methods, reason = "it ends with the client")]
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("the connection to the database ended: {error}");
        }
    });
    Ok(client)
}
