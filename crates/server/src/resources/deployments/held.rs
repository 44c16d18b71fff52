//! Whether the schedules of a deployment's workspace are held, and when they last were let go on.

use rota_api::Time;

use crate::{db::Row, error::Result};

/// What [`is_held`] and [`released_at`] read, of the workspace `w` of a deployment.
pub(super) const COLUMNS: &str =
    "coalesce(w.schedules_held_at, (SELECT schedules_held_at FROM organization)) AS held_at,
    w.schedules_released_at, (SELECT schedules_released_at FROM organization) AS all_released_at";

/// Whether they are held: those of the workspace, or all.
pub(super) fn is_held(row: &Row<'_>) -> Result<bool> {
    Ok(row.opt_time("held_at")?.is_some())
}

/// When a hold of them ended last.
pub(super) fn released_at(row: &Row<'_>) -> Result<Option<Time>> {
    Ok(row.opt_time("schedules_released_at")?.max(row.opt_time("all_released_at")?))
}
