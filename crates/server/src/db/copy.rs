//! Copies a store from SQLite to PostgreSQL: whatever tables the schema has, in one transaction.

use std::path::Path;

use rusqlite::{Connection, types::Value};

use super::{
    dialect, migrate,
    postgres::{Connector, Session},
    sqlite,
    value::{Owned, Val},
};
use crate::{
    config::DatabaseUrl,
    error::{Error, Result},
    limits::COPY_BATCH,
};

/// A table that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its name.
    pub table: String,
    /// How many rows it has.
    pub rows: u64,
}

/// Copies the store in `folder`, which nobody must be using, into a database that has no rows.
///
/// # Errors
/// When the store was written by another version of this program, or the database has rows already; then nothing is
/// copied.
pub(crate) fn sqlite_to_postgres(folder: &Path, url: &DatabaseUrl) -> Result<Vec<Copied>> {
    let source = sqlite::open_to_read(folder)?;
    migrate::check_current(&source)?;
    let mut target = Session::open(&Connector::new(&url.0)?)?;
    migrate::postgres(&mut target)?;
    target.begin(dialect::BEGIN);
    // Those of the migrations the database has by now.
    let tables = names(
        &source,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name != 'applied_migrations'",
        &[],
    )?;
    for table in &tables {
        target.batch(&dialect::lock_table(table))?;
        if !target.query(&format!("SELECT 1 FROM {table} LIMIT 1"), &[])?.is_empty() {
            return Err(Error::invalid(format_args!(
                "the database has rows in the table {table} already; a store can only be copied into an empty one"
            )));
        }
    }
    let copied = tables.into_iter().map(|table| copy(&source, &mut target, table)).collect::<Result<_>>()?;
    // Without it the database knows nothing of how many rows there are until it looks by itself, in a minute or so.
    target.batch("ANALYZE")?;
    target.commit().map_err(|(_, error)| error)?;
    Ok(copied)
}

fn copy(source: &Connection, target: &mut Session, table: String) -> Result<Copied> {
    let columns = names(source, "SELECT name FROM pragma_table_info(?1)", &[&table])?;
    let places: Vec<String> = (1..=columns.len()).map(|place| format!("${place}")).collect();
    let insert = format!("INSERT INTO {table} ({}) VALUES ({})", columns.join(", "), places.join(", "));
    let mut statement = source.prepare(&format!("SELECT {} FROM {table}", columns.join(", ")))?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|column| owned(&table, row.get(column)?)).collect::<Result<Vec<_>>>()?;
        let values: Vec<Val<'_>> = values.iter().map(Owned::val).collect();
        target.add(&insert, &values)?;
        count += 1;
        if count % COPY_BATCH == 0 {
            target.settle()?;
        }
    }
    let arrived = target.query(&format!("SELECT count(*) FROM {table}"), &[])?;
    let arrived: i64 = arrived.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
    if arrived as u64 != count {
        return Err(Error::internal(format!("{table} has {count} rows, and {arrived} have arrived")));
    }
    Ok(Copied { table, rows: count })
}

fn names(source: &Connection, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Vec<String>> {
    let mut statement = source.prepare(sql)?;
    let names = statement.query_map(params, |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

fn owned(table: &str, value: Value) -> Result<Owned> {
    Ok(match value {
        Value::Null => Owned::Null,
        Value::Integer(number) => Owned::Int(number),
        Value::Text(text) => Owned::Text(text),
        other => return Err(Error::internal(format!("{table} has a value of the type {}", other.data_type()))),
    })
}
