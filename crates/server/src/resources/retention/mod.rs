//! How long things are kept, per workspace and per deployment, and what goes: Rota's own, beside the hosted API, which keeps
//! everything.

mod days;
mod going;
mod removal;

use axum::extract::State;
use rota_api::retention::{
    DeploymentRetention, RetentionPreview, UpdateDeploymentRetention, UpdateWorkspaceRetention, WorkspaceRetention,
};

use crate::{
    app::App,
    error::Result,
    request::{Body, Caller, Json, Path, Query},
};

pub use going::{Going, History, Kept, Looked, Place, count, histories, is_limited, look, preview, workspaces};
pub use removal::{claim, remove, shorten};

/// `GET /rota/v1/retention`.
pub async fn of_workspace(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<WorkspaceRetention>> {
    query.finish()?;
    let config = app.config.retention;
    app.db.read(move |tx| days::of_workspace(tx, &caller.workspace, &config)).await.map(Json)
}

/// `POST /rota/v1/retention`.
pub async fn set_of_workspace(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<WorkspaceRetention>> {
    let update = body.read(UpdateWorkspaceRetention::read)?;
    let config = app.config.retention;
    app.db.write(move |tx| days::set_of_workspace(tx, &caller.workspace, &update, &config)).await.map(Json)
}

/// `GET /rota/v1/deployments/{deployment_id}/retention`.
pub async fn of_deployment(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<DeploymentRetention>> {
    let config = app.config.retention;
    app.db.read(move |tx| days::of_deployment(tx, &caller.workspace, &id, &config)).await.map(Json)
}

/// `POST /rota/v1/deployments/{deployment_id}/retention`.
pub async fn set_of_deployment(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<DeploymentRetention>> {
    let update = body.read(UpdateDeploymentRetention::read)?;
    let config = app.config.retention;
    app.db.write(move |tx| days::set_of_deployment(tx, &caller.workspace, &id, &update, &config)).await.map(Json)
}

/// `GET /rota/v1/retention/preview`: what of the workspace the next sweep would remove.
pub async fn preview_of_workspace(
    State(app): State<App>,
    caller: Caller,
    query: Query,
) -> Result<Json<RetentionPreview>> {
    query.finish()?;
    let config = app.config.retention;
    let data = app.db.read(move |tx| preview(tx, &caller.workspace, &config)).await?;
    Ok(Json(RetentionPreview { r#type: "retention_preview", data }))
}
