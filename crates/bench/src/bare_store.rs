//! The second floor: the rows of a run, written by prepared statements on one connection, with nothing around them.
//!
//! The rows are copies of those that the server itself has written, in a copy of its store, so schema, indexes and sizes
//! are the server's. Only ids and times are new.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use rota_api::{
    Time,
    id::{EventId, Id, RunId, SessionId},
};
use rusqlite::{Connection, OpenFlags, config::DbConfig, params_from_iter, types::Value};

/// The server's durability. The checkpoint comes at SQLite's own default, a plain program's: the server's later one is
/// part of what is measured.
const PRAGMAS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -32000;
    PRAGMA wal_autocheckpoint = 1000;
";

/// A copy of a server's store that this program writes to.
pub struct BareStore {
    connection: Connection,
    runs: Vec<Template>,
    written: usize,
}

/// The rows of one run.
struct Template {
    rows: Vec<Row>,
}

struct Row {
    insert: String,
    cells: Vec<Cell>,
}

/// A value of a row: the template's, or one that each copy has of its own.
enum Cell {
    Same(Value),
    Session,
    Run,
    /// The text of an event: an id, then this.
    Event(String),
    Now,
}

impl BareStore {
    /// Copies the store at `from` to `to`. Every run in it becomes a template.
    pub fn copy(from: &Path, to: &Path) -> Result<Self> {
        let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        source.execute("VACUUM INTO ?1", [to.to_str().context("the folder's name is UTF-8")?])?;
        let connection = Connection::open(to)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.execute_batch(PRAGMAS)?;
        let runs = templates(&connection)?;
        Ok(Self { connection, runs, written: 0 })
    }

    /// Commits runs, `group` at a time. Returns how long each commit took with all that it commits.
    pub fn commit_for(&mut self, length: Duration, group: usize) -> Result<Vec<Duration>> {
        let begin = Instant::now();
        let mut took = Vec::new();
        while begin.elapsed() < length {
            let started = Instant::now();
            self.commit(group)?;
            took.push(started.elapsed());
        }
        Ok(took)
    }

    fn commit(&mut self, group: usize) -> Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for _ in 0..group {
            let run = &self.runs[self.written % self.runs.len()];
            self.written += 1;
            write(&self.connection, run)?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

fn write(connection: &Connection, run: &Template) -> Result<()> {
    let now = now();
    let (session, id) = (SessionId::new(now), RunId::new(now));
    for Row { insert, cells } in &run.rows {
        let values = cells.iter().map(|cell| match cell {
            Cell::Same(value) => value.clone(),
            Cell::Session => Value::Text(session.to_string()),
            Cell::Run => Value::Text(id.to_string()),
            Cell::Event(rest) => Value::Text(format!("{{\"id\":\"{}{rest}", EventId::new(now))),
            Cell::Now => Value::Integer(now.micros()),
        });
        connection.prepare_cached(insert)?.execute(params_from_iter(values))?;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "ids carry the time, and nothing here is tested at another")]
fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(since.as_micros() as i64)
}

fn templates(connection: &Connection) -> Result<Vec<Template>> {
    let mut statement = connection.prepare("SELECT id, session_id FROM deployment_runs")?;
    let runs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    runs.map(|ids| {
        let (run, session): (String, String) = ids?;
        let mut rows = rows(connection, "session_inputs", "session_id", &session, &run)?;
        rows.extend(self::rows(connection, "sessions", "id", &session, &run)?);
        rows.extend(self::rows(connection, "deployment_runs", "id", &session, &run)?);
        Ok(Template { rows })
    })
    .collect()
}

/// The rows of `table` that belong to a run.
fn rows(connection: &Connection, table: &str, column: &str, session: &str, run: &str) -> Result<Vec<Row>> {
    let id = if table == "deployment_runs" { run } else { session };
    let mut statement = connection.prepare(&format!("SELECT * FROM {table} WHERE {column} = ?1"))?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let places = vec!["?"; names.len()].join(", ");
    let insert = format!("INSERT INTO {table} ({}) VALUES ({places})", names.join(", "));
    let mut found = statement.query([id])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells = (0..names.len()).map(|place| Ok(cell(&names[place], row.get(place)?, session, run)));
        rows.push(Row { insert: insert.clone(), cells: cells.collect::<Result<_>>()? });
    }
    Ok(rows)
}

fn cell(column: &str, value: Value, session: &str, run: &str) -> Cell {
    match value {
        Value::Text(text) if text == session => Cell::Session,
        Value::Text(text) if text == run => Cell::Run,
        Value::Text(text) if column == "body" => {
            match text.strip_prefix("{\"id\":\"").and_then(|t| t.split_once('"')) {
                Some((_, rest)) => Cell::Event(format!("\"{rest}")),
                None => Cell::Same(Value::Text(text)),
            }
        }
        Value::Integer(_) if column.ends_with("_at") || column == "running_since" => Cell::Now,
        other => Cell::Same(other),
    }
}
