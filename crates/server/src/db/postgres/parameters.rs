//! Parameters on their way to PostgreSQL.

use tokio_postgres::types::ToSql;

use super::super::value::Val;
use crate::error::{Error, Result};

/// What cannot be stored is refused before it is sent.
///
/// # Errors
/// 400 when a text contains U+0000.
pub(super) fn check(params: &[Val<'_>]) -> Result<()> {
    params.iter().try_for_each(Val::check).map_err(Error::invalid)
}

/// Parameters as the client library takes them.
pub(super) fn list<'a>(params: &'a [Val<'_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    params.iter().map(|param| param as &(dyn ToSql + Sync)).collect()
}
