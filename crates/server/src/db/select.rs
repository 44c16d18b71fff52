//! Builds the SELECT of a list: fixed conditions, filters that were asked for, and a page.

use super::{Row, Tx, Val, value::Owned};
use crate::{
    error::Result,
    limits::PAGE_BYTES,
    page::{Order, Paging, Rows},
};

/// A SELECT that grows by the filters that a caller asked for.
#[derive(Debug, Clone)]
pub struct Select {
    sql: String,
    params: Vec<Owned>,
}

impl Select {
    /// A SELECT up to and with its first condition; `owner`, mostly a workspace, is `$1`.
    pub fn new(sql: &str, owner: impl AsRef<str>) -> Self {
        Self { sql: sql.to_owned(), params: vec![Owned::Text(owner.as_ref().to_owned())] }
    }

    /// A SELECT up to and with its first condition, which has no parameter: over every workspace.
    pub fn everywhere(sql: &str) -> Self {
        Self { sql: sql.to_owned(), params: Vec::new() }
    }

    /// Adds a condition without a parameter, when `wanted`.
    pub fn when(&mut self, wanted: bool, condition: &str) {
        if wanted {
            self.sql += " AND ";
            self.sql += condition;
        }
    }

    /// Adds `condition`, which ends before its parameter: `"agent_id ="`.
    pub fn text(&mut self, condition: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.push(condition, Owned::Text(value.as_ref().to_owned()));
        }
    }

    /// Adds `condition`, its parameter and what stands behind it: `"id IN (SELECT … WHERE store_id ="` and `")"`.
    pub fn text_within(&mut self, condition: &str, value: Option<impl AsRef<str>>, behind: &str) {
        if value.is_some() {
            self.text(condition, value);
            self.sql += behind;
        }
    }

    /// Adds `condition`, which ends before its parameter: `"agent_version ="`.
    pub fn int(&mut self, condition: &str, value: Option<i64>) {
        if let Some(value) = value {
            self.push(condition, Owned::Int(value));
        }
    }

    /// Adds that `column` is one of `values`; no values ask for nothing.
    pub fn any_of(&mut self, column: &str, values: &[&str]) {
        if values.is_empty() {
            return;
        }
        let first = self.params.len() + 1;
        let places: Vec<String> = (first..first + values.len()).map(|i| format!("${i}")).collect();
        self.sql += &format!(" AND {column} IN ({})", places.join(", "));
        self.params.extend(values.iter().map(|value| Owned::Text((*value).to_owned())));
    }

    fn push(&mut self, condition: &str, param: Owned) {
        self.params.push(param);
        self.sql += &format!(" AND {condition} ${}", self.params.len());
    }

    /// The rows of a page, ordered by `key`, a column of ids.
    pub fn page<T>(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        paging: &Paging,
        map: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Rows<T>> {
        self.rows(tx, key, paging.reading(), paging.after().map(Val::Text), (paging.limit, PAGE_BYTES), map)
    }

    /// The rows beyond `after`, ordered by `key`: at most `limit`, and no more than hold `bytes` unless it is the first.
    pub fn rows<T>(
        &self,
        tx: &mut Tx<'_>,
        key: &str,
        order: Order,
        after: Option<Val<'_>>,
        (limit, bytes): (i64, usize),
        map: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Rows<T>> {
        let (comparison, direction) = match order {
            Order::Asc => (">", "ASC"),
            Order::Desc => ("<", "DESC"),
        };
        let mut params: Vec<Val<'_>> = self.params.iter().map(Owned::val).collect();
        let mut sql = self.sql.clone();
        if let Some(after) = after {
            params.push(after);
            sql += &format!(" AND {key} {comparison} ${}", params.len());
        }
        // One more than the page has, to know whether there are others.
        params.push(Val::Int(limit + 1));
        sql += &format!(" ORDER BY {key} {direction} LIMIT ${}", params.len());
        let (rows, cut) = tx.within(bytes, &sql, &params, map)?;
        Ok(Rows::new(rows, limit, cut))
    }
}
