//! A transaction, as a closure sees it.

use std::sync::Arc;

use rota_api::Time;

use super::{
    Notice,
    audit::Noted,
    dialect,
    fault::KeyTaken,
    postgres::{Answer, Session},
    value::{Owned, Row, Val},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
};

/// A transaction, as a closure sees it.
pub struct Tx<'c> {
    connection: Connection<'c>,
    now: Time,
    pub(super) request: Option<Arc<str>>,
    pub(super) notices: Vec<Notice>,
    pub(super) noted: Noted,
}

enum Connection<'c> {
    Sqlite(&'c rusqlite::Connection),
    Postgres(&'c mut Session),
}

/// What was asked of the database, see [`Tx::ask`].
pub struct Question(Way);

enum Way {
    /// It is asked when somebody waits for it.
    Sqlite { sql: String, params: Vec<Owned> },
    /// It is on its way.
    Postgres(Answer),
}

impl<'c> Tx<'c> {
    pub(super) fn sqlite(connection: &'c rusqlite::Connection, clock: &Clock) -> Self {
        Self::new(Connection::Sqlite(connection), clock)
    }

    pub(super) fn postgres(session: &'c mut Session, clock: &Clock) -> Self {
        Self::new(Connection::Postgres(session), clock)
    }

    fn new(connection: Connection<'c>, clock: &Clock) -> Self {
        Self { connection, now: clock.now(), request: None, notices: Vec::new(), noted: Noted::default() }
    }

    /// The time of this transaction: one for all that it writes.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The id of the request that this write is part of; none for what the server does by itself.
    pub fn request(&self) -> Option<Arc<str>> {
        self.request.clone()
    }

    /// Says something to the rest of the server when, and only when, this transaction has become durable.
    pub fn after_commit(&mut self, notice: Notice) {
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// Keeps rows from being changed by other transactions until this one ends: what is read after it stays true. To be
    /// called before whatever is read to decide what to write.
    ///
    /// `rows` is a table and a condition: `"agents WHERE workspace_id = $1 AND id = $2"`. SQLite has one writer, which
    /// is lock enough.
    pub fn lock(&mut self, rows: &str, params: &[Val<'_>]) -> Result<()> {
        match &mut self.connection {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(session) => session.send(&dialect::lock(rows), params),
        }
    }

    /// The same for rows that are referred to and not changed: other transactions may do so too, and none has to wait for that.
    pub fn lock_shared(&mut self, rows: &str, params: &[Val<'_>]) -> Result<()> {
        match &mut self.connection {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(session) => session.send(&dialect::lock_shared(rows), params),
        }
    }

    /// Keeps other transactions from changing anything in a table until this one ends: for what must be there once and
    /// has no row yet that could be locked.
    pub fn lock_table(&mut self, table: &str) -> Result<()> {
        match &mut self.connection {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(session) => session.send(&dialect::lock_table(table), &[]),
        }
    }

    /// What ends a select that takes rows of `table`, or of what it is called there, for itself, so that two servers do
    /// not take the same ones: rows that another transaction holds are left out, and the others are held until this one
    /// ends.
    pub fn skip_locked(&self, table: &str) -> String {
        match &self.connection {
            Connection::Sqlite(_) => String::new(),
            Connection::Postgres(_) => dialect::skip_locked(table),
        }
    }

    /// Runs a statement that returns no rows. Returns how many rows it touched.
    pub fn execute(&mut self, sql: &str, params: &[Val<'_>]) -> Result<usize> {
        let touched = match &mut self.connection {
            Connection::Sqlite(connection) => {
                check_open(connection)?;
                let mut statement = connection.prepare_cached(&dialect::placeholders(sql))?;
                statement.execute(rusqlite::params_from_iter(params))?
            }
            Connection::Postgres(session) => session.execute(sql, params)?,
        };
        self.noted.changed |= touched > 0;
        Ok(touched)
    }

    /// Runs a statement that takes a unique key, such as a name, which another transaction may take at the same moment:
    /// `taken` is the error then. No look before it can tell, so none is needed.
    pub fn execute_unless_taken(
        &mut self,
        sql: &str,
        params: &[Val<'_>],
        taken: impl FnOnce() -> Error,
    ) -> Result<usize> {
        self.execute(sql, params).map_err(|error| if KeyTaken::is_cause_of(&error) { taken() } else { error })
    }

    /// Runs a statement whose count nobody needs, without waiting for the database to answer: where that is another
    /// process, several statements then cost one round trip. An error shows with a later statement or the commit, and
    /// undoes the transaction all the same.
    pub fn send(&mut self, sql: &str, params: &[Val<'_>]) -> Result<()> {
        match &mut self.connection {
            Connection::Sqlite(_) => self.execute(sql, params).map(drop),
            Connection::Postgres(session) => {
                self.noted.changed = true;
                session.send(sql, params)
            }
        }
    }

    /// Adds a row: `sql` has one `VALUES (…)` with all its parameters, and what comes of it nobody needs. Rows that are
    /// added to the same statement one after the other, or in turn with rows of others, may be sent together: a database
    /// that is another process then has far less to do. Whatever is run next sees them; an error shows there or with the
    /// commit, and undoes the transaction all the same.
    pub fn add(&mut self, sql: &str, params: &[Val<'_>]) -> Result<()> {
        match &mut self.connection {
            Connection::Sqlite(_) => self.execute(sql, params).map(drop),
            Connection::Postgres(session) => {
                self.noted.changed = true;
                session.add(sql, params)
            }
        }
    }

    /// Runs a statement and maps its first row. `None` when there is none.
    pub fn one<T>(&mut self, sql: &str, params: &[Val<'_>], map: impl Fn(&Row<'_>) -> Result<T>) -> Result<Option<T>> {
        let found = match &mut self.connection {
            Connection::Sqlite(connection) => {
                check_open(connection)?;
                let mut statement = connection.prepare_cached(&dialect::placeholders(sql))?;
                let mut rows = statement.query(rusqlite::params_from_iter(params))?;
                let mapped = rows.next()?.map(|row| map(&Row::sqlite(row))).transpose()?;
                // A statement that changes rows must run to its end, or only its first row is changed.
                while rows.next()?.is_some() {}
                mapped
            }
            Connection::Postgres(session) => {
                session.query(sql, params)?.first().map(|row| map(&Row::postgres(row))).transpose()?
            }
        };
        self.noted.changed |= found.is_some() && dialect::writes(sql);
        Ok(found)
    }

    /// The same, where there must be a row: `missing` is the error when there is none.
    pub fn one_or<T>(
        &mut self,
        sql: &str,
        params: &[Val<'_>],
        map: impl Fn(&Row<'_>) -> Result<T>,
        missing: impl FnOnce() -> Error,
    ) -> Result<T> {
        self.one(sql, params, map)?.ok_or_else(missing)
    }

    /// Runs a statement that changes one row, once: `… AND archived_at IS NULL`. Whether it did now.
    pub fn changes(&mut self, sql: &str, params: &[Val<'_>]) -> Result<bool> {
        Ok(self.execute(sql, params)? > 0)
    }

    /// Runs a statement and maps all its rows.
    pub fn all<T>(&mut self, sql: &str, params: &[Val<'_>], map: impl Fn(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        let found = match &mut self.connection {
            Connection::Sqlite(connection) => {
                check_open(connection)?;
                let mut statement = connection.prepare_cached(&dialect::placeholders(sql))?;
                let mut rows = statement.query(rusqlite::params_from_iter(params))?;
                let mut mapped = Vec::new();
                while let Some(row) = rows.next()? {
                    mapped.push(map(&Row::sqlite(row))?);
                }
                mapped
            }
            Connection::Postgres(session) => {
                session.query(sql, params)?.iter().map(|row| map(&Row::postgres(row))).collect::<Result<Vec<_>>>()?
            }
        };
        self.noted.changed |= !found.is_empty() && dialect::writes(sql);
        Ok(found)
    }

    /// Asks for rows without waiting for them: where the database is another process, several questions then cost one round trip.
    /// [`answer`](Self::answer) waits; an error shows there or earlier, as that of [`send`](Self::send) does. Nothing that the
    /// answer depends on is to be written before it is waited for: SQLite looks then.
    pub fn ask(&mut self, sql: &str, params: &[Val<'_>]) -> Result<Question> {
        debug_assert!(!dialect::writes(sql), "a question changes nothing: {sql}");
        Ok(Question(match &mut self.connection {
            Connection::Sqlite(_) => {
                Way::Sqlite { sql: sql.to_owned(), params: params.iter().map(|param| Owned::from(*param)).collect() }
            }
            Connection::Postgres(session) => Way::Postgres(session.ask(sql, params)?),
        }))
    }

    /// Waits for the rows that [`ask`](Self::ask) asked for in this transaction, and maps them.
    pub fn answer<T>(&mut self, asked: Question, map: impl Fn(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        match (asked.0, &mut self.connection) {
            (Way::Postgres(answer), Connection::Postgres(session)) => {
                session.rows(answer)?.iter().map(|row| map(&Row::postgres(row))).collect()
            }
            (Way::Sqlite { sql, params }, Connection::Sqlite(_)) => {
                let params: Vec<Val<'_>> = params.iter().map(Owned::val).collect();
                self.all(&sql, &params, map)
            }
            _ => unreachable!("a question is answered in the transaction that asked it"),
        }
    }

    /// Gives at most `pages` pages of the store that are free back to the file system, and leaves `kept` free ones. Returns how
    /// many. PostgreSQL sees to that by itself.
    pub fn give_back(&mut self, pages: i64, kept: i64) -> Result<i64> {
        let Connection::Sqlite(connection) = &self.connection else { return Ok(0) };
        let free = |connection: &rusqlite::Connection| {
            Ok::<i64, Error>(connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?)
        };
        let before = free(connection)?;
        let pages = pages.min(before - kept);
        if pages <= 0 {
            return Ok(0);
        }
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(before - free(connection)?)
    }

    /// Runs a statement and maps its first rows: those that hold no more than `bytes` together, and the first one in any
    /// case. Whether there were more. No more than one of these is ever in memory.
    pub fn within<T>(
        &mut self,
        bytes: usize,
        sql: &str,
        params: &[Val<'_>],
        map: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<(Vec<T>, bool)> {
        let mut mapped = Vec::new();
        let mut room = bytes;
        // Whether the row still fits.
        let mut take = |row: &Row<'_>| {
            let size = row.bytes()?;
            if size > room && !mapped.is_empty() {
                return Ok(false);
            }
            room = room.saturating_sub(size);
            mapped.push(map(row)?);
            Ok::<_, Error>(true)
        };
        let mut all = true;
        match &mut self.connection {
            Connection::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(&dialect::placeholders(sql))?;
                let mut rows = statement.query(rusqlite::params_from_iter(params))?;
                while all && let Some(row) = rows.next()? {
                    all = take(&Row::sqlite(row))?;
                }
            }
            Connection::Postgres(session) => {
                let mut taken = Ok(true);
                session.query_while(sql, params, |row| {
                    taken = take(&Row::postgres(row));
                    matches!(taken, Ok(true))
                })?;
                all = taken?;
            }
        }
        Ok((mapped, !all))
    }
}

/// That the transaction of a connection that writes is still there. A fault such as a full disk ends it, and what a closure
/// went on to write would be committed by itself.
fn check_open(connection: &rusqlite::Connection) -> Result<()> {
    if connection.is_autocommit() && !connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(Error::Database("the transaction has ended".into()));
    }
    Ok(())
}
