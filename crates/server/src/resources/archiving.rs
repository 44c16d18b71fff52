//! What is archived, or deleted, together: an agent with its deployments, a workspace with its keys, an environment with the work
//! of its sessions.

use axum::extract::State;
use rota_api::{Deleted, agent::Agent, id::WorkspaceId, workspace::Workspace};

use super::{agents, api_keys, deployments, environments, sessions::status, workspaces};
use crate::{
    app::App,
    db::Tx,
    error::Result,
    request::{Administrator, Caller, Json, Path, PathAndQuery},
};

/// `DELETE /v1/environments/{environment_id}`. `force=true` deletes a self-hosted one although sessions use it.
pub async fn delete_environment(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(id, query): PathAndQuery<String>,
) -> Result<Json<Deleted>> {
    let force = query.boolean("force")?.unwrap_or(false);
    query.finish()?;
    app.db
        .write(move |tx| {
            let deleted = environments::remove(tx, &caller.workspace, &id, force)?;
            status::begin_without_workers(tx, &caller.workspace, &id)?;
            Ok(deleted)
        })
        .await
        .map(Json)
}

/// `POST /v1/agents/{agent_id}/archive`.
pub async fn agent(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Agent>> {
    agents::check_id(&id)?;
    app.db.write(move |tx| archive_agent(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/organizations/workspaces/{workspace_id}/archive`.
pub async fn workspace(State(app): State<App>, _: Administrator, Path(id): Path<String>) -> Result<Json<Workspace>> {
    app.db.write(move |tx| archive_workspace(tx, &id)).await.map(Json)
}

/// Archives an agent and, in the same operation and at the same time, its deployments.
fn archive_agent(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Agent> {
    let (agent, was_open) = agents::set_archived(tx, workspace, id)?;
    if was_open {
        deployments::archive_all_of(tx, workspace, &agent.id)?;
    }
    Ok(agent)
}

/// Archives a workspace and, at the same time, its keys. Its sessions end before their next request to a model.
fn archive_workspace(tx: &mut Tx<'_>, id: &str) -> Result<Workspace> {
    let (workspace, was_open) = workspaces::set_archived(tx, id)?;
    if was_open {
        api_keys::archive_all_of(tx, &workspace.id)?;
    }
    Ok(workspace)
}
