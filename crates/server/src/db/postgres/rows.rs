//! Rows that are added one by one and sent together: one statement then costs what one row costs, not a round of parsing,
//! binding and executing for each.

use std::{fmt::Write, mem};

use super::super::value::{Owned, Val};
use crate::limits::ROWS_AT_ONCE;

/// Rows that wait to be sent, by their statements, in the order in which the statements first came.
#[derive(Default)]
pub(super) struct Rows(Vec<Waiting>);

struct Waiting {
    sql: String,
    /// Parameters of a row.
    width: usize,
    params: Vec<Owned>,
}

/// A statement with all the rows that it can carry.
pub(super) struct Batch {
    pub(super) sql: String,
    pub(super) params: Vec<Owned>,
}

impl Rows {
    /// Adds a row to the statement `sql`, which has one `VALUES` and no parameter outside of its row.
    pub(super) fn add(&mut self, sql: &str, params: &[Val<'_>]) {
        let place = self.0.iter().position(|waiting| waiting.sql == sql).unwrap_or_else(|| {
            self.0.push(Waiting { sql: sql.to_owned(), width: params.len(), params: Vec::new() });
            self.0.len() - 1
        });
        self.0[place].params.extend(params.iter().map(|param| Owned::from(*param)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes everything that waits. The count of rows in a statement is a power of two, so that a handful of prepared
    /// statements serves every count.
    pub(super) fn take(&mut self) -> Vec<Batch> {
        let mut batches = Vec::new();
        for Waiting { sql, width, mut params } in mem::take(&mut self.0) {
            while !params.is_empty() {
                let rows = 1 << (params.len() / width).min(ROWS_AT_ONCE).ilog2();
                let rest = params.split_off(rows * width);
                batches.push(Batch { sql: repeat(&sql, rows, width), params });
                params = rest;
            }
        }
        batches
    }
}

/// `sql` with its row of `VALUES` written `rows` times, each with parameters of its own.
fn repeat(sql: &str, rows: usize, width: usize) -> String {
    if rows == 1 {
        return sql.to_owned();
    }
    let start = sql.find("VALUES (").map_or(sql.len(), |at| at + "VALUES ".len());
    let end = start + row_length(&sql[start..]);
    let mut repeated = String::with_capacity(sql.len() * rows);
    repeated.push_str(&sql[..start]);
    for row in 0..rows {
        if row > 0 {
            repeated.push_str(", ");
        }
        shift(&mut repeated, &sql[start..end], row * width);
    }
    repeated.push_str(&sql[end..]);
    repeated
}

/// Up to and with the parenthesis that closes the first one.
fn row_length(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return at + 1,
            b')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Writes `row` with the numbers of its parameters raised by `by`.
fn shift(out: &mut String, row: &str, by: usize) {
    let mut parts = row.split('$');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let number: usize = part[..digits].parse().unwrap_or_default();
        let _ = write!(out, "${}{}", number + by, &part[digits..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::vals;

    #[test]
    fn a_row_is_repeated_with_parameters_of_its_own() {
        let cases = [
            ("INSERT INTO t (a, b) VALUES ($1, $2)", 2, 2, "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4)"),
            (
                "INSERT INTO t (a, b) VALUES ($1, 0)",
                1,
                4,
                "INSERT INTO t (a, b) VALUES ($1, 0), ($2, 0), ($3, 0), ($4, 0)",
            ),
            (
                "INSERT INTO t VALUES ($1, $1) ON CONFLICT (a) DO NOTHING",
                1,
                2,
                "INSERT INTO t VALUES ($1, $1), ($2, $2) ON CONFLICT (a) DO NOTHING",
            ),
            (
                "UPDATE t SET b = v.column2 FROM (VALUES ($1, CAST($2 AS BIGINT))) AS v WHERE a = v.column1",
                2,
                2,
                "UPDATE t SET b = v.column2 FROM (VALUES ($1, CAST($2 AS BIGINT)), ($3, CAST($4 AS BIGINT))) AS v WHERE a = v.column1",
            ),
        ];
        for (sql, width, rows, expected) in cases {
            assert_eq!(repeat(sql, rows, width), expected);
        }
    }

    #[test]
    fn every_row_is_sent_once_and_in_order() {
        let mut rows = Rows::default();
        let count = 3 * ROWS_AT_ONCE as i64 / 2 + 3;
        for number in 0..count {
            rows.add("INSERT INTO a VALUES ($1)", vals![number]);
            rows.add("INSERT INTO b VALUES ($1, $2)", vals![number, "b"]);
        }
        let batches = rows.take();
        assert!(rows.is_empty());
        let sent = |table: &str| -> Vec<i64> {
            let of = batches.iter().filter(|batch| batch.sql.contains(table));
            let params = of.flat_map(|batch| &batch.params);
            params.filter_map(|param| if let Owned::Int(number) = param { Some(*number) } else { None }).collect()
        };
        let all: Vec<_> = (0..count).collect();
        assert_eq!((sent("INTO a"), sent("INTO b")), (all.clone(), all));
        let first_of_b = batches.iter().position(|batch| batch.sql.contains("INTO b"));
        let last_of_a = batches.iter().rposition(|batch| batch.sql.contains("INTO a"));
        assert!(last_of_a < first_of_b, "a statement that came first is sent first");
    }
}
