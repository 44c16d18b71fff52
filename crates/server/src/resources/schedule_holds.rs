//! Holds of schedules: of all workspaces, or of one. The scheduler goes on and passes over what is due, with the reason `held`;
//! nothing else is kept from starting. Rota's own.

use axum::extract::State;
use rota_api::schedule_hold::{HeldWorkspace, ScheduleHolds};

use crate::{
    app::App,
    db::{Tx, vals},
    error::Result,
    request::{Administrator, Json, Path, Query},
    resources::workspaces,
};

/// `GET /rota/v1/schedules/hold`.
pub async fn retrieve(State(app): State<App>, _: Administrator, query: Query) -> Result<Json<ScheduleHolds>> {
    query.finish()?;
    app.db.read(list).await.map(Json)
}

/// `POST /rota/v1/schedules/hold`.
pub async fn hold_all(State(app): State<App>, _: Administrator, query: Query) -> Result<Json<ScheduleHolds>> {
    query.finish()?;
    app.db.write(|tx| hold(tx, &Which::All)).await.map(Json)
}

/// `POST /rota/v1/schedules/release`.
pub async fn release_all(State(app): State<App>, _: Administrator, query: Query) -> Result<Json<ScheduleHolds>> {
    query.finish()?;
    app.db.write(|tx| release(tx, &Which::All)).await.map(Json)
}

/// `POST /rota/v1/workspaces/{workspace_id}/schedules/hold`.
pub async fn hold_of(State(app): State<App>, _: Administrator, Path(id): Path<String>) -> Result<Json<ScheduleHolds>> {
    let which = Which::Workspace(id);
    app.db.write(move |tx| hold(tx, &which)).await.map(Json)
}

/// `POST /rota/v1/workspaces/{workspace_id}/schedules/release`.
pub async fn release_of(
    State(app): State<App>,
    _: Administrator,
    Path(id): Path<String>,
) -> Result<Json<ScheduleHolds>> {
    let which = Which::Workspace(id);
    app.db.write(move |tx| release(tx, &which)).await.map(Json)
}

/// Whose schedules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those of all workspaces.
    All,
    /// Those of one, by its id, or by its name while it is not archived.
    Workspace(String),
}

impl Which {
    /// Those of a workspace, if one is named.
    pub fn of(workspace: Option<String>) -> Self {
        workspace.map_or(Self::All, Self::Workspace)
    }
}

/// Which schedules are held.
pub fn list(tx: &mut Tx<'_>) -> Result<ScheduleHolds> {
    let held_at = tx.one("SELECT schedules_held_at FROM organization", &[], |row| row.opt_time(0))?.flatten();
    let workspaces = tx.all(
        "SELECT id, name, schedules_held_at FROM workspaces WHERE schedules_held_at IS NOT NULL ORDER BY name, id",
        &[],
        |row| Ok(HeldWorkspace { workspace_id: row.id(0)?, name: row.text(1)?, held_at: row.time(2)? }),
    )?;
    Ok(ScheduleHolds { r#type: "schedule_holds", held_at, workspaces })
}

/// Holds schedules, and says which are held now. Those that are already stay so since they were.
///
/// # Errors
/// 404 when there is no such workspace.
pub fn hold(tx: &mut Tx<'_>, which: &Which) -> Result<ScheduleHolds> {
    match which {
        Which::All => {
            let sql = "UPDATE organization SET schedules_held_at = $1 WHERE schedules_held_at IS NULL";
            tx.execute(sql, vals![tx.now()])?;
        }
        Which::Workspace(named) => {
            let id = workspaces::id_of(tx, named)?;
            tx.audit_in(&id);
            let sql = "UPDATE workspaces SET schedules_held_at = $2 WHERE id = $1 AND schedules_held_at IS NULL";
            tx.execute(sql, vals![&id, tx.now()])?;
        }
    }
    list(tx)
}

/// Lets schedules go on, and says which are held still.
///
/// # Errors
/// 404 when there is no such workspace.
pub fn release(tx: &mut Tx<'_>, which: &Which) -> Result<ScheduleHolds> {
    match which {
        Which::All => {
            let sql = "UPDATE organization SET schedules_held_at = NULL, schedules_released_at = $1 WHERE schedules_held_at IS NOT NULL";
            tx.execute(sql, vals![tx.now()])?;
        }
        Which::Workspace(named) => {
            let id = workspaces::id_of(tx, named)?;
            tx.audit_in(&id);
            let sql = "UPDATE workspaces SET schedules_held_at = NULL, schedules_released_at = $2
                 WHERE id = $1 AND schedules_held_at IS NOT NULL";
            tx.execute(sql, vals![&id, tx.now()])?;
        }
    }
    list(tx)
}
