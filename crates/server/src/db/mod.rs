//! The store: closures over a transaction, committed in groups.
//!
//! ```ignore
//! let run = app.db.write(move |tx| deployments::run::fire(tx, &workspace, &id, Trigger::Manual)).await?;
//! let page = app.db.read(move |tx| deployment_runs::list(tx, &workspace, &filter)).await?;
//! ```
//!
//! A closure is `Fn`: a batch may run it again, so it has no effect outside its [`Tx`]. It cannot be cancelled half-way
//! by a client that hangs up. What it wants to happen after the commit it says with [`Tx::after_commit`].
//!
//! SQL is written once for every database: `$1` placeholders, `RETURNING`, `ON CONFLICT`; what differs is in [`dialect`].

mod dialect;
mod migrate;
mod select;
mod sqlite;

use rota_api::{
    Time,
    id::{Id, SessionId},
};

use crate::{clock::Clock, error::Result};

pub use select::Select;
pub use sqlite::{Db, Writer};

/// Something to tell the rest of the server once a transaction is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A session has new events, or new inputs.
    SessionChanged(SessionId),
    /// A session waits for a runner.
    SessionRunnable,
    /// A session was deleted.
    SessionDeleted(SessionId),
    /// A webhook waits to be sent.
    WebhookDue,
}

/// A transaction, as a closure sees it.
pub struct Tx<'c> {
    connection: &'c rusqlite::Connection,
    now: Time,
    notices: Vec<Notice>,
}

impl<'c> Tx<'c> {
    fn new(connection: &'c rusqlite::Connection, clock: &Clock) -> Self {
        Self { connection, now: clock.now(), notices: Vec::new() }
    }

    /// The time of this transaction: one for all that it writes.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Says something to the rest of the server when, and only when, this transaction has become durable.
    pub fn after_commit(&mut self, notice: Notice) {
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// Runs a statement that returns no rows. Returns how many rows it touched.
    pub fn execute(&mut self, sql: &str, params: &[Val<'_>]) -> Result<usize> {
        let mut statement = self.connection.prepare_cached(&dialect::placeholders(sql))?;
        Ok(statement.execute(rusqlite::params_from_iter(params))?)
    }

    /// Runs a statement whose count nobody needs, without waiting for the database to answer: where that is another
    /// process, several statements then cost one round trip. An error shows with a later statement or the commit, and
    /// undoes the transaction all the same.
    pub fn send(&mut self, sql: &str, params: &[Val<'_>]) -> Result<()> {
        self.execute(sql, params).map(drop)
    }

    /// Keeps rows from being changed by other transactions until this one ends: what is read after it stays true. To be
    /// called before whatever is read to decide what to write.
    ///
    /// `rows` is a table and a condition: `"agents WHERE workspace_id = $1 AND id = $2"`. SQLite has one writer, which
    /// is lock enough.
    pub fn lock(&mut self, rows: &str, params: &[Val<'_>]) -> Result<()> {
        let _ = (rows, params);
        Ok(())
    }

    /// What ends a sub-select that takes rows for itself, so that two servers do not take the same ones: rows that
    /// another transaction holds are left out, and the others are held until this one ends.
    pub fn skip_locked(&self) -> &'static str {
        ""
    }

    /// Runs a statement and maps its first row. `None` when there is none.
    pub fn one<T>(&mut self, sql: &str, params: &[Val<'_>], map: impl Fn(&Row<'_>) -> Result<T>) -> Result<Option<T>> {
        let mut statement = self.connection.prepare_cached(&dialect::placeholders(sql))?;
        let mut rows = statement.query(rusqlite::params_from_iter(params))?;
        let mapped = rows.next()?.map(|row| map(&Row(row))).transpose()?;
        // A statement that changes rows must run to its end, or only its first row is changed.
        while rows.next()?.is_some() {}
        Ok(mapped)
    }

    /// Runs a statement and maps all its rows.
    pub fn all<T>(&mut self, sql: &str, params: &[Val<'_>], map: impl Fn(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(&dialect::placeholders(sql))?;
        let mut rows = statement.query(rusqlite::params_from_iter(params))?;
        let mut mapped = Vec::new();
        while let Some(row) = rows.next()? {
            mapped.push(map(&Row(row))?);
        }
        Ok(mapped)
    }
}

/// A parameter of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Val<'a> {
    /// NULL.
    Null,
    /// BIGINT.
    Int(i64),
    /// TEXT.
    Text(&'a str),
}

impl rusqlite::ToSql for Val<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};

        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl<'a> From<&'a str> for Val<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Val<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Val<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<Time> for Val<'_> {
    fn from(time: Time) -> Self {
        Self::Int(time.micros())
    }
}

impl<'a, T: Into<Val<'a>>> From<Option<T>> for Val<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

macro_rules! ids {
    ($($id:ident)*) => {$(
        impl<'a> From<&'a rota_api::id::$id> for Val<'a> {
            fn from(id: &'a rota_api::id::$id) -> Self {
                Self::Text(id.as_ref())
            }
        }
    )*};
}

ids! {
    AgentId ApiKeyId DeploymentId EnvironmentId EventId RunId SessionId WebhookEndpointId WebhookEventId WorkspaceId
}

/// The parameters of a statement: `vals![id, now, title]`.
macro_rules! vals {
    ($($value:expr),* $(,)?) => { &[$($crate::db::Val::from($value)),*] };
}
pub(crate) use vals;

/// A row of a result. Columns count from 0.
pub struct Row<'a>(&'a rusqlite::Row<'a>);

impl Row<'_> {
    /// A TEXT.
    pub fn text(&self, column: usize) -> Result<String> {
        Ok(self.0.get(column)?)
    }

    /// A TEXT that may be NULL.
    pub fn opt_text(&self, column: usize) -> Result<Option<String>> {
        Ok(self.0.get(column)?)
    }

    /// A BIGINT.
    pub fn int(&self, column: usize) -> Result<i64> {
        Ok(self.0.get(column)?)
    }

    /// A BIGINT that may be NULL.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        Ok(self.0.get(column)?)
    }

    /// A time.
    pub fn time(&self, column: usize) -> Result<Time> {
        self.int(column).map(Time::from_micros)
    }

    /// A time that may be NULL.
    pub fn opt_time(&self, column: usize) -> Result<Option<Time>> {
        Ok(self.opt_int(column)?.map(Time::from_micros))
    }

    /// An id.
    pub fn id<I: Id>(&self, column: usize) -> Result<I> {
        self.text(column).map(I::trusted)
    }

    /// An id that may be NULL.
    pub fn opt_id<I: Id>(&self, column: usize) -> Result<Option<I>> {
        Ok(self.opt_text(column)?.map(I::trusted))
    }

    /// JSON text, kept as it is.
    pub fn raw(&self, column: usize) -> Result<Box<serde_json::value::RawValue>> {
        Ok(serde_json::value::RawValue::from_string(self.text(column)?)?)
    }

    /// JSON text, read into `T`.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T> {
        let text = self.0.get_ref(column)?.as_str().map_err(crate::error::Error::internal)?;
        Ok(serde_json::from_str(text)?)
    }
}

/// What a write closure may return besides its value: see [`Db::write`].
pub(crate) type Publish = Box<dyn Fn(&Notice) + Send + Sync>;
