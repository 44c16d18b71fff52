//! Query strings, read as strictly as bodies.

use std::{cell::RefCell, iter, str::FromStr};

use axum::extract::FromRequestParts;
use http::{Uri, request::Parts};
use rota_api::{
    Time,
    id::{self, Id},
};
use sha2::{Digest, Sha256};

use crate::{
    db::Select,
    error::{Error, Result},
    limits::MAX_QUERY_BYTES,
    page::{Cursor, Order, Paging, WrongCursor},
};

/// The query of a request, for an operation that has parameters in it; any other one refuses what is sent there, through
/// [`Path`](super::Path) or [`Body`](super::Body). Every parameter must be asked for before [`Query::finish`].
pub struct Query {
    path: String,
    pairs: Vec<(String, String)>,
    beta: bool,
    seen: RefCell<Vec<Seen>>,
}

/// A parameter that was asked for.
#[derive(Clone, Copy)]
struct Seen {
    name: &'static str,
    /// It may be sent several times, also as `name[]`.
    many: bool,
}

impl Seen {
    fn is_of(self, sent: &str) -> bool {
        self.name == sent || (self.many && sent.strip_suffix("[]") == Some(self.name))
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Self::parse(parts.uri.path(), parts.uri.query().unwrap_or_default())
    }
}

impl Query {
    /// That nothing was sent, for an operation without parameters.
    pub(super) fn none(uri: &Uri) -> Result<()> {
        uri.query().map_or(Ok(()), |query| Self::parse(uri.path(), query)?.finish())
    }

    fn parse(path: &str, query: &str) -> Result<Self> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(Error::invalid(format_args!("the query string is longer than {MAX_QUERY_BYTES} bytes")));
        }
        let (beta, pairs): (Vec<_>, Vec<_>) = form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .partition(|(name, _)| name == "beta");
        let beta = beta.iter().any(|(_, value)| value == "true");
        Ok(Self { path: path.to_owned(), pairs, beta, seen: RefCell::default() })
    }

    /// Whether `beta=true` was sent, as the SDKs do with every request of a beta resource.
    pub fn beta(&self) -> bool {
        self.beta
    }

    /// A parameter that may be absent.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.seen.borrow_mut().push(Seen { name, many: false });
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// An id of one kind.
    pub fn id<I: Id + FromStr>(&self, name: &'static str) -> Result<Option<&str>> {
        let id = self.text(name);
        if id.is_some_and(|id| id.parse::<I>().is_err()) {
            return Err(invalid(name, "is no id of this kind"));
        }
        Ok(id)
    }

    /// A whole number.
    pub fn integer(&self, name: &'static str, least: i64, most: i64) -> Result<Option<i64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number: i64 = text.parse().map_err(|_| invalid(name, "Input should be a valid integer"))?;
        if number < least {
            return Err(invalid(name, format_args!("value must be greater than or equal to {least}")));
        }
        if number > most {
            return Err(invalid(name, format_args!("value must be less than or equal to {most}")));
        }
        Ok(Some(number))
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &'static str) -> Result<Option<bool>> {
        match self.text(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(format_args!(
                "Failed to parse request body: invalid value for bool field {name}: \"{other}\""
            ))),
        }
    }

    /// An RFC 3339 time.
    pub fn time(&self, name: &'static str) -> Result<Option<Time>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| invalid(name, "Input should be a valid RFC 3339 time"))
    }

    /// Narrows `select` to the rows created in the range that `created_at[gt|gte|lt|lte]` say, as far as they are
    /// among `allowed`. An id sorts by its creation, so the range is one of `key`, the column of ids.
    pub fn created_at<I: Id>(&self, select: &mut Select, key: &str, allowed: &[&'static str]) -> Result<()> {
        for name in allowed {
            let Some(at) = self.time(name)? else { continue };
            let (comparison, from) = match *name {
                "created_at[gte]" => (">=", at),
                "created_at[gt]" => (">=", at.plus_micros(1)),
                "created_at[lt]" => ("<", at),
                _ => ("<", at.plus_micros(1)),
            };
            select.text(&format!("{key} {comparison}"), Some(id::floor::<I>(from)));
        }
        Ok(())
    }

    /// One of `allowed`.
    pub fn one_of(&self, name: &'static str, allowed: &[&'static str]) -> Result<Option<&'static str>> {
        self.text(name).map(|text| find(name, allowed, text)).transpose()
    }

    /// Any of `allowed`, sent as `name=a&name=b` or `name[]=a&name[]=b`. Empty when absent.
    pub fn any_of(&self, name: &'static str, allowed: &[&'static str], most: usize) -> Result<Vec<&'static str>> {
        self.texts(name, most)?.into_iter().map(|text| find(name, allowed, text)).collect()
    }

    /// Any texts, sent as `name=a&name=b` or `name[]=a&name[]=b`. Empty when absent.
    pub fn texts(&self, name: &'static str, most: usize) -> Result<Vec<&str>> {
        let asked = Seen { name, many: true };
        self.seen.borrow_mut().push(asked);
        let values: Vec<&str> =
            self.pairs.iter().filter(|(n, _)| asked.is_of(n)).map(|(_, value)| value.as_str()).collect();
        if values.len() > most {
            return Err(invalid(name, format_args!("value must contain no more than {most} item(s)")));
        }
        Ok(values)
    }

    /// `limit`, `page` and the given order; and that nothing else was sent.
    pub fn paging(&self, default: i64, most: i64, order: Order) -> Result<Paging> {
        self.paging_else(default, most, order, Error::from)
    }

    /// The same, of a list that has words of its own for a `wrong` cursor.
    pub fn paging_else(
        &self,
        default: i64,
        most: i64,
        order: Order,
        wrong: fn(WrongCursor) -> Error,
    ) -> Result<Paging> {
        let limit = self.integer("limit", 1, most)?.unwrap_or(default);
        let page = self.text("page");
        self.finish()?;
        let cursor = page.map(|text| Cursor::read(text, |order| self.filters(order), order)).transpose();
        Ok(Paging { limit, order, cursor: cursor.map_err(wrong)?, filters: self.filters(order) })
    }

    /// `limit`, `after_id`, `before_id` and the given order, of a list with such cursors; and that nothing else was sent.
    pub fn id_paging<I: Id + FromStr>(&self, default: i64, most: i64, order: Order) -> Result<Paging> {
        let limit = self.integer("limit", 1, most)?.unwrap_or(default);
        let (after, before) = (self.text("after_id"), self.text("before_id"));
        self.finish()?;
        if after.is_some() && before.is_some() {
            return Err(invalid("after_id", "cannot be combined with before_id"));
        }
        let cursor = |name, id: Option<&str>, before| match id {
            Some(id) if id.parse::<I>().is_err() => {
                Err(invalid(name, format_args!("\"{id}\" is not an id of this list")))
            }
            id => Ok(id.map(|id| Cursor::at(id, before))),
        };
        let cursor = cursor("after_id", after, false)?.or(cursor("before_id", before, true)?);
        Ok(Paging { limit, order, cursor, filters: self.filters(order) })
    }

    /// That nothing was sent that was not asked for, and nothing twice that has one value.
    pub fn finish(&self) -> Result<()> {
        let seen = self.seen.borrow();
        for (i, (name, _)) in self.pairs.iter().enumerate() {
            let Some(asked) = seen.iter().find(|asked| asked.is_of(name)) else {
                return Err(invalid(name, "Extra inputs are not permitted"));
            };
            if !asked.many && self.pairs[..i].iter().any(|(earlier, _)| earlier == name) {
                return Err(invalid(name, "value must be sent once"));
            }
        }
        Ok(())
    }

    /// A mark of everything that decides which rows a list has: a cursor of one list does not fit another.
    fn filters(&self, order: Order) -> [u8; 8] {
        let mut pairs: Vec<_> =
            self.pairs.iter().filter(|(n, _)| !["limit", "order", "page"].contains(&n.as_str())).collect();
        pairs.sort();
        let texts = iter::once(&self.path).chain(pairs.into_iter().flat_map(|(name, value)| [name, value]));
        let mut hash = Sha256::new();
        for text in texts {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.update([order as u8]);
        let mut mark = [0; 8];
        mark.copy_from_slice(&hash.finalize()[..8]);
        mark
    }
}

fn find(name: &str, allowed: &[&'static str], text: &str) -> Result<&'static str> {
    let found = allowed.iter().find(|a| **a == text).copied();
    found.ok_or_else(|| invalid(name, format_args!("\"{text}\" is not a valid value")))
}

fn invalid(name: &str, message: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("{name}: {message}"))
}

/// The bounds of `created_at` that every list with the filter takes.
pub const CREATED_BETWEEN: [&str; 2] = ["created_at[gte]", "created_at[lte]"];
/// The bounds of `created_at` of lists that also take exclusive ones.
pub const CREATED_ANY: [&str; 4] = ["created_at[gt]", "created_at[gte]", "created_at[lt]", "created_at[lte]"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Rows;

    #[test]
    fn parameters_are_read_strictly() {
        let query = Query::parse(
            "/v1/sessions",
            "beta=true&statuses[]=idle&statuses=running&created_at%5Bgte%5D=2026-01-01T00:00:00Z",
        )
        .unwrap();
        assert!(query.beta());
        assert_eq!(query.any_of("statuses", &["idle", "running"], 4).unwrap(), ["idle", "running"]);
        assert!(query.finish().is_err(), "created_at[gte] was not asked for yet");
        assert!(query.time("created_at[gte]").unwrap().is_some());
        query.finish().unwrap();
        for (text, message) in [
            ("limit=0", "limit: value must be greater than or equal to 1"),
            ("limit=101", "limit: value must be less than or equal to 100"),
            ("limit=x", "limit: Input should be a valid integer"),
            ("colour=red", "colour: Extra inputs are not permitted"),
            ("limit[]=5", "limit[]: Extra inputs are not permitted"),
            ("limit=5&limit=6", "limit: value must be sent once"),
            ("page=garbage", "page: Invalid page cursor."),
        ] {
            let error = Query::parse("/v1/agents", text).unwrap().paging(20, 100, Order::Desc).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let has_error = Query::parse("/v1/deployment_runs", "has_error=maybe")
            .unwrap()
            .boolean("has_error")
            .unwrap_err()
            .to_string();
        assert_eq!(has_error, "Failed to parse request body: invalid value for bool field has_error: \"maybe\"");
    }

    #[test]
    fn a_cursor_fits_only_the_list_that_gave_it() {
        let of = |path: &str, text: &str, order| {
            let query = Query::parse(path, text).unwrap();
            query.text("agent_id");
            query.paging(1, 100, order)
        };
        let paging = |text: &str, order| of("/v1/deployments", text, order);
        let first = paging("agent_id=a", Order::Desc).unwrap();
        let page = first.page(Rows::new(vec!["2", "1"], 1, false), |row| (*row).to_owned());
        let next = page.next_page.unwrap();
        assert!(paging(&format!("agent_id=a&page={next}"), Order::Desc).is_ok());
        assert!(paging(&format!("agent_id=a&limit=7&page={next}"), Order::Desc).is_ok());
        assert!(paging(&format!("agent_id=b&page={next}"), Order::Desc).is_err());
        assert!(paging(&format!("agent_id=a&page={next}"), Order::Asc).is_err());
        assert!(of("/v1/sessions", &format!("agent_id=a&page={next}"), Order::Desc).is_err());
    }
}
