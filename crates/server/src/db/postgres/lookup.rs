//! Look-ups of one row, many at a time on one connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::sleep;
use tokio_postgres::{Client, Error as Failure, Row, Statement};

use super::{super::value::Val, connect::Connector, parameters, pause, session::Fault};
use crate::{error::Result, limits};

/// The connection for look-ups; opened when it is needed.
pub(crate) struct Lookups {
    connector: Connector,
    // Held while it is opened, so that only one is.
    open: tokio::sync::Mutex<Option<Arc<Link>>>,
}

struct Link {
    client: Client,
    statements: Mutex<HashMap<String, Statement>>,
}

impl Lookups {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, open: tokio::sync::Mutex::default() }
    }

    /// The first row of a statement.
    pub(crate) async fn one(&self, sql: &str, params: &[Val<'_>]) -> Result<Option<Row>> {
        parameters::check(params)?;
        let mut tries = 1;
        loop {
            let lost = match self.link().await {
                Ok(link) => match link.one(sql, params).await {
                    Err(failure) if Fault::of(&failure) == Fault::Lost => failure.into(),
                    found => return Ok(found?),
                },
                Err(error) => error,
            };
            if tries == limits::DATABASE_TRIES {
                return Err(lost);
            }
            sleep(pause(tries)).await;
            tries += 1;
        }
    }

    async fn link(&self) -> Result<Arc<Link>> {
        let mut open = self.open.lock().await;
        if let Some(link) = &*open
            && !link.client.is_closed()
        {
            return Ok(link.clone());
        }
        let client = self.connector.connect(|_| {}).await?;
        Ok(open.insert(Arc::new(Link { client, statements: Mutex::default() })).clone())
    }
}

impl Link {
    async fn one(&self, sql: &str, params: &[Val<'_>]) -> Result<Option<Row>, Failure> {
        let statement = self.prepared(sql).await?;
        Ok(self.client.query(&statement, &parameters::list(params)).await?.into_iter().next())
    }

    async fn prepared(&self, sql: &str) -> Result<Statement, Failure> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if statements.len() == limits::STATEMENT_CACHE {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}
