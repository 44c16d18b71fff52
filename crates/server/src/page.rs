//! Pages of lists: keyset pagination behind opaque cursors.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use crate::error::{Error, Result};

/// The order of a list by creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

impl Order {
    /// Reads `asc` or `desc`.
    pub fn from_name(name: &str) -> Self {
        if name == "asc" { Self::Asc } else { Self::Desc }
    }

    pub(crate) fn reversed(self) -> Self {
        match self {
            Self::Asc => Self::Desc,
            Self::Desc => Self::Asc,
        }
    }
}

/// Rows that were read for a page.
#[derive(Debug)]
pub struct Rows<T> {
    /// Those of the page.
    pub rows: Vec<T>,
    /// Whether there are more in the direction in which they were read.
    pub more: bool,
}

impl<T> Rows<T> {
    /// At most `limit` of `rows`. `cut` says that there are more, also when there are not more than `limit` of these.
    pub fn new(mut rows: Vec<T>, limit: i64, cut: bool) -> Self {
        let more = cut || rows.len() as i64 > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(0));
        Self { rows, more }
    }
}

/// Which page of a list a caller asks for.
#[derive(Debug, Clone)]
pub struct Paging {
    /// Most rows of the page. It has fewer, and a cursor of the next one, when these have many bytes.
    pub limit: i64,
    pub(crate) order: Order,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) filters: [u8; 8],
}

impl Paging {
    /// The order in which rows are read from the store: reversed for a page before the cursor.
    pub fn reading(&self) -> Order {
        if self.is_before() { self.order.reversed() } else { self.order }
    }

    /// The key after which rows are read, in the order of [`Paging::reading`].
    pub fn after(&self) -> Option<&str> {
        self.cursor.as_ref().map(|cursor| cursor.key.as_str())
    }

    /// A cursor of the rows that come after `key`.
    pub fn cursor(&self, key: String) -> String {
        Cursor { key, before: false }.write(self.filters)
    }

    fn is_before(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.before)
    }

    /// The page that the rows make that were read.
    pub fn page<T>(&self, rows: Rows<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let both = self.both(rows, key);
        Page { data: both.data, next_page: both.next_page }
    }

    /// The same, for a list whose cursors are the ids at the ends of its pages.
    pub fn by_ids<T>(&self, rows: Rows<T>, id: impl Fn(&T) -> String) -> IdPage<T> {
        let has_more = rows.more;
        let data = self.both(rows, &id).data;
        IdPage { has_more, first_id: data.first().map(&id), last_id: data.last().map(&id), data }
    }

    /// The same, with a cursor for the page before.
    pub fn both<T>(&self, rows: Rows<T>, key: impl Fn(&T) -> String) -> BothWays<T> {
        let Rows { mut rows, more } = rows;
        if self.is_before() {
            rows.reverse();
        }
        let cursor = |row: Option<&T>, before| {
            let cursor = Cursor { key: key(row?), before };
            Some(cursor.write(self.filters))
        };
        let (has_next, has_previous) = if self.is_before() { (true, more) } else { (more, self.cursor.is_some()) };
        let next_page = has_next.then(|| cursor(rows.last(), false)).flatten();
        let prev_page = has_previous.then(|| cursor(rows.first(), true)).flatten();
        BothWays { data: rows, next_page, prev_page }
    }
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// The cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page: Option<String>,
}

/// A page of a list whose last page says so with null.
#[derive(Debug, Serialize)]
pub struct NullPage<T> {
    data: Vec<T>,
    next_page: Option<String>,
}

impl<T> From<Page<T>> for NullPage<T> {
    fn from(page: Page<T>) -> Self {
        Self { data: page.data, next_page: page.next_page }
    }
}

/// A page of a list that can be walked back.
#[derive(Debug, Serialize)]
pub struct BothWays<T> {
    /// The rows.
    pub data: Vec<T>,
    /// The cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page: Option<String>,
    /// The cursor of the page before; absent on the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_page: Option<String>,
}

/// A page of a list whose cursors are the ids at its ends, sent as `before_id` and `after_id`.
#[derive(Debug, Serialize)]
pub struct IdPage<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Whether there are more rows in the direction that was asked for.
    pub has_more: bool,
    /// The id of the first row.
    pub first_id: Option<String>,
    /// The id of the last row.
    pub last_id: Option<String>,
}

const PREFIX: &str = "page_";

/// What is wrong with a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongCursor {
    /// It is none.
    Unreadable,
    /// It was given by another list, or with other filters.
    OfAnotherList,
    /// It was given by the same list in the other order.
    OfAnotherOrder,
}

impl From<WrongCursor> for Error {
    fn from(wrong: WrongCursor) -> Self {
        Self::invalid(match wrong {
            WrongCursor::Unreadable => "page: Invalid page cursor.",
            WrongCursor::OfAnotherList | WrongCursor::OfAnotherOrder => {
                "page: this cursor was given by another list, or with other filters or another order."
            }
        })
    }
}

/// A place in a list.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    key: String,
    before: bool,
}

impl Cursor {
    fn write(&self, filters: [u8; 8]) -> String {
        let bytes = [&filters, &[u8::from(self.before)][..], self.key.as_bytes()].concat();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The place before or after the row `key`.
    pub(crate) fn at(key: &str, before: bool) -> Self {
        Self { key: key.to_owned(), before }
    }

    /// Reads a cursor of the list that `mark` marks in each order, for a page in `order`.
    pub(crate) fn read(text: &str, mark: impl Fn(Order) -> [u8; 8], order: Order) -> Result<Self, WrongCursor> {
        let encoded = text.strip_prefix(PREFIX).ok_or(WrongCursor::Unreadable)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| WrongCursor::Unreadable)?;
        let own = mark(order);
        let (marked, rest) = bytes.split_at_checked(own.len()).ok_or(WrongCursor::Unreadable)?;
        let (before, key) = rest.split_first().ok_or(WrongCursor::Unreadable)?;
        if marked != own {
            let reversed = marked == mark(order.reversed());
            return Err(if reversed { WrongCursor::OfAnotherOrder } else { WrongCursor::OfAnotherList });
        }
        let key = String::from_utf8(key.to_vec()).map_err(|_| WrongCursor::Unreadable)?;
        Ok(Self { key, before: *before == 1 })
    }
}
