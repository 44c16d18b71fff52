//! What a database says when it cannot do its part.

use crate::error::Error;

/// A text has the character U+0000, which PostgreSQL cannot hold. It is refused on every database, so that what one of them
/// takes the other one takes too.
#[derive(Debug, thiserror::Error)]
#[error("the character U+0000 cannot be stored")]
pub(super) struct Unstorable;

/// A statement met a row that has the same unique key.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct KeyTaken(pub(super) String);

impl KeyTaken {
    /// Whether this is what went wrong.
    pub(super) fn is_cause_of(error: &Error) -> bool {
        matches!(error, Error::Database(cause) if cause.is::<Self>())
    }

    /// What SQLite says then.
    const SQLITE: [i32; 2] = [rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE, rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY];
}

impl From<rusqlite::Error> for Error {
    /// A value of an unexpected type is no failure of the database: trying again does not help.
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, _) if KeyTaken::SQLITE.contains(&failure.extended_code) => {
                Self::Database(KeyTaken(error.to_string()).into())
            }
            rusqlite::Error::SqliteFailure(..) => Self::Database(error.into()),
            rusqlite::Error::ToSqlConversionFailure(cause) if cause.is::<Unstorable>() => Self::invalid(cause),
            other => Self::internal(other),
        }
    }
}
