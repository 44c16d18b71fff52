//! What goes into a statement and what comes out: parameters and rows, the same for every database.

use std::cell::Cell;

use bytes::BytesMut;
use rota_api::{Time, id::Id};
use rusqlite::types::ValueRef;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::fault::Unstorable;
use crate::error::{Error, Result};

/// What the libraries of databases take for an error of a value.
type Cause = Box<dyn std::error::Error + Send + Sync>;

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

impl Val<'_> {
    pub(super) fn check(&self) -> Result<(), Unstorable> {
        if matches!(self, Self::Text(text) if text.contains('\0')) { Err(Unstorable) } else { Ok(()) }
    }
}

impl rusqlite::ToSql for Val<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::ToSqlOutput;

        self.check().map_err(|unstorable| rusqlite::Error::ToSqlConversionFailure(unstorable.into()))?;
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// PostgreSQL says of each parameter which type it expects. It never converts: a number goes into a BIGINT only.
impl ToSql for Val<'_> {
    fn to_sql(&self, r#type: &Type, out: &mut BytesMut) -> Result<IsNull, Cause> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *r#type == Type::INT8 => number.to_sql(r#type, out),
            Self::Text(text) if *r#type == Type::TEXT => text.to_sql(r#type, out),
            other => Err(format!("{other:?} where the database expects {type}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
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
    AgentId ApiKeyId AuditEventId BlobId CredentialId DeploymentId DreamId EgressId EnvironmentId EnvironmentKeyId EventId FileId HookId MemoryId MemoryStoreId MemoryVersionId RunId SessionId SessionResourceId
    SkillId SkillVersionId StartId TunnelCertificateId TunnelId TunnelTokenId UserProfileId VaultId WebhookEndpointId WebhookEventId WorkspaceId
}

/// The parameters of a statement: `vals![id, now, title]`.
macro_rules! vals {
    ($($value:expr),* $(,)?) => { &[$($crate::db::Val::from($value)),*] };
}
pub(crate) use vals;

/// A parameter that owns its text, for a statement that is kept.
#[derive(Debug, Clone)]
pub(super) enum Owned {
    Null,
    Int(i64),
    Text(String),
}

impl Owned {
    pub(super) fn val(&self) -> Val<'_> {
        match self {
            Self::Null => Val::Null,
            Self::Int(number) => Val::Int(*number),
            Self::Text(text) => Val::Text(text),
        }
    }
}

impl From<Val<'_>> for Owned {
    fn from(val: Val<'_>) -> Self {
        match val {
            Val::Null => Self::Null,
            Val::Int(number) => Self::Int(number),
            Val::Text(text) => Self::Text(text.to_owned()),
        }
    }
}

/// A row of a result.
///
/// A column is asked for by its name, so that a function which reads rows does not depend on the order in which a SELECT,
/// perhaps of another file, has them. Asked for in that order, each is found at once. A closure beside its statement may
/// count them from 0.
pub struct Row<'a> {
    columns: Columns<'a>,
    /// Where the next name is looked for first.
    next: Cell<usize>,
}

enum Columns<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

/// Which column of a row: its name, or its place from 0.
pub trait Column: Copy {
    /// Its place.
    fn place(self, row: &Row<'_>) -> Result<usize>;
}

impl Column for usize {
    fn place(self, _: &Row<'_>) -> Result<usize> {
        Ok(self)
    }
}

impl Column for &str {
    fn place(self, row: &Row<'_>) -> Result<usize> {
        row.named(self)
    }
}

impl<'a> Row<'a> {
    pub(super) fn sqlite(row: &'a rusqlite::Row<'a>) -> Self {
        Self { columns: Columns::Sqlite(row), next: Cell::new(0) }
    }

    pub(super) fn postgres(row: &'a tokio_postgres::Row) -> Self {
        Self { columns: Columns::Postgres(row), next: Cell::new(0) }
    }

    /// The bytes of what it holds.
    pub(super) fn bytes(&self) -> Result<usize> {
        match self.columns {
            Columns::Sqlite(row) => {
                let lengths = (0..row.as_ref().column_count()).map(|column| match row.get_ref(column)? {
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes.len()),
                    ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Ok(8),
                });
                lengths.sum()
            }
            Columns::Postgres(row) => Ok(row.raw_size_bytes()),
        }
    }

    fn named(&self, name: &str) -> Result<usize> {
        let count = match self.columns {
            Columns::Sqlite(row) => row.as_ref().column_count(),
            Columns::Postgres(row) => row.len(),
        };
        let first = self.next.get();
        for place in (0..count).map(|i| (first + i) % count) {
            let is_it = match self.columns {
                Columns::Sqlite(row) => row.as_ref().column_name(place)? == name,
                Columns::Postgres(row) => row.columns()[place].name() == name,
            };
            if is_it {
                self.next.set(place + 1);
                return Ok(place);
            }
        }
        Err(Error::internal(format!("the statement has no column {name}")))
    }

    /// A TEXT.
    pub fn text(&self, column: impl Column) -> Result<String> {
        self.str(column).map(str::to_owned)
    }

    /// A TEXT that may be NULL.
    pub fn opt_text(&self, column: impl Column) -> Result<Option<String>> {
        let column = column.place(self)?;
        Ok(match self.columns {
            Columns::Sqlite(row) => row.get(column)?,
            Columns::Postgres(row) => row.try_get(column)?,
        })
    }

    /// A BIGINT.
    pub fn int(&self, column: impl Column) -> Result<i64> {
        let column = column.place(self)?;
        Ok(match self.columns {
            Columns::Sqlite(row) => row.get(column)?,
            Columns::Postgres(row) => row.try_get::<_, Number>(column)?.0,
        })
    }

    /// A BIGINT that may be NULL.
    pub fn opt_int(&self, column: impl Column) -> Result<Option<i64>> {
        let column = column.place(self)?;
        Ok(match self.columns {
            Columns::Sqlite(row) => row.get(column)?,
            Columns::Postgres(row) => row.try_get::<_, Option<Number>>(column)?.map(|number| number.0),
        })
    }

    /// A time.
    pub fn time(&self, column: impl Column) -> Result<Time> {
        self.int(column).map(Time::from_micros)
    }

    /// A time that may be NULL.
    pub fn opt_time(&self, column: impl Column) -> Result<Option<Time>> {
        Ok(self.opt_int(column)?.map(Time::from_micros))
    }

    /// An id.
    pub fn id<I: Id>(&self, column: impl Column) -> Result<I> {
        self.text(column).map(I::trusted)
    }

    /// An id that may be NULL.
    pub fn opt_id<I: Id>(&self, column: impl Column) -> Result<Option<I>> {
        Ok(self.opt_text(column)?.map(I::trusted))
    }

    /// JSON text, kept as it is.
    pub fn raw(&self, column: impl Column) -> Result<Box<RawValue>> {
        Ok(RawValue::from_string(self.text(column)?)?)
    }

    /// JSON text that may be NULL, read into `T`.
    pub fn opt_json<T: DeserializeOwned>(&self, column: impl Column) -> Result<Option<T>> {
        Ok(self.opt_text(column)?.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// A TEXT that is the name of something, which `read` knows.
    pub fn name<T>(&self, column: impl Column, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let text = self.str(column)?;
        read(text)
            .ok_or_else(|| Error::internal(format!("the store has a name that this program does not know: {text}")))
    }

    /// JSON text, read into `T`.
    pub fn json<T: DeserializeOwned>(&self, column: impl Column) -> Result<T> {
        Ok(serde_json::from_str(self.str(column)?)?)
    }

    fn str(&self, column: impl Column) -> Result<&str> {
        let column = column.place(self)?;
        match self.columns {
            Columns::Sqlite(row) => row.get_ref(column)?.as_str().map_err(Error::internal),
            Columns::Postgres(row) => Ok(row.try_get(column)?),
        }
    }
}

/// A whole number of PostgreSQL: a column is a BIGINT, but a literal in a query is an INTEGER.
struct Number(i64);

impl FromSql<'_> for Number {
    fn from_sql(r#type: &Type, raw: &[u8]) -> Result<Self, Cause> {
        if *r#type == Type::INT8 { i64::from_sql(r#type, raw) } else { i32::from_sql(r#type, raw).map(i64::from) }
            .map(Self)
    }

    fn accepts(r#type: &Type) -> bool {
        matches!(*r#type, Type::INT8 | Type::INT4)
    }
}
