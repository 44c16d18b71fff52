//! Parameters on their way to PostgreSQL.

use tokio_postgres::types::ToSql;

use super::super::value::Val;
use crate::error::{Error, Result};

/// The one character that a TEXT of PostgreSQL cannot hold is refused as the client's mistake.
///
/// # Errors
/// 400 when a text contains U+0000.
pub(super) fn check(params: &[Val<'_>]) -> Result<()> {
    let unfit = params.iter().any(|param| matches!(param, Val::Text(text) if text.contains('\0')));
    if unfit { Err(Error::invalid("the character U+0000 cannot be stored")) } else { Ok(()) }
}

/// Parameters as the client library takes them.
pub(super) fn list<'a>(params: &'a [Val<'_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    params.iter().map(|param| param as &(dyn ToSql + Sync)).collect()
}
