//! Images, the one that an environment has, and how its packages were installed: Rota's own.

use axum::extract::State;
use rota_api::{
    Time,
    id::{EnvironmentId, WorkspaceId},
    image::{EnvironmentBuild, EnvironmentImage, Image, Images, SetEnvironmentImage},
};

use super::{
    environments::{self, ENVIRONMENTS},
    package_builds,
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    images,
    request::{Body, Caller, Json, Path, Query},
};

/// `GET /rota/v1/images`.
pub async fn list(State(app): State<App>, _caller: Caller, query: Query) -> Result<Json<Images>> {
    query.finish()?;
    let images = app.images.clone();
    let read = tokio::task::spawn_blocking(move || all(images.layers()));
    Ok(Json(Images { data: read.await.map_err(Error::internal)?? }))
}

/// All images, by name.
///
/// # Errors
/// When their folder cannot be read.
pub fn all(images: &rota_sandbox::Layers) -> Result<Vec<Image>> {
    let mut all = Vec::new();
    let about = images.all().map_err(Error::internal)?;
    for (name, key) in images.names().map_err(Error::internal)? {
        // A name may stand for what was removed by hand.
        if let Some((_, _, about)) = about.iter().find(|(_, found, _)| *found == key) {
            all.push(Image {
                name,
                r#type: "image",
                digest: format!("sha256:{key}"),
                reference: about.reference.clone(),
                architecture: about.architecture.clone(),
                size_bytes: about.bytes,
                created_at: Time::from_micros(about.made_at),
            });
        }
    }
    Ok(all)
}

/// `GET /rota/v1/environments/{environment_id}/image`.
pub async fn of_environment(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<EnvironmentImage>> {
    app.db.read(move |tx| read(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /rota/v1/environments/{environment_id}/image`.
pub async fn set(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<EnvironmentImage>> {
    let image = body.read(SetEnvironmentImage::image)?;
    if let Some(name) = &image {
        images::check_name(name).map_err(|error| Error::invalid(format_args!("image: {error}")))?;
        if !app.images.has(name) {
            return Err(Error::invalid(format_args!(
                "image: there is no image \"{name}\" on this server: GET /rota/v1/images lists those that there are, and its \
                 operator can bring it with `rota images pull` or `rota images import`"
            )));
        }
    }
    app.db.write(move |tx| write(tx, &caller.workspace, &id, image.as_deref())).await.map(Json)
}

/// `GET /rota/v1/environments/{environment_id}/build`.
pub async fn build(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<EnvironmentBuild>> {
    app.db
        .read(move |tx| {
            let environment: EnvironmentId = ENVIRONMENTS.get(tx, &caller.workspace, &id)?.id;
            package_builds::last(tx, &caller.workspace, &environment)
        })
        .await
        .map(Json)
}

fn read(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<EnvironmentImage> {
    tx.one_or(
        "SELECT id, image FROM environments WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id],
        |row| {
            Ok(EnvironmentImage {
                r#type: "environment_image",
                environment_id: row.id("id")?,
                image: row.opt_text("image")?,
            })
        },
        || environments::not_found(id),
    )
}

fn write(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, image: Option<&str>) -> Result<EnvironmentImage> {
    ENVIRONMENTS.lock(tx, workspace, id)?;
    let environment = ENVIRONMENTS.get(tx, workspace, id)?;
    if environment.archived_at.is_some() {
        return Err(Error::Rejected {
            code: "environment_archived",
            message: format!("Environment `{id}` is archived and cannot be changed."),
        });
    }
    if environment.config.is_self_hosted() {
        return Err(Error::invalid(
            "image: a self-hosted environment has none: its workers decide what its sandboxes are made from",
        ));
    }
    tx.execute("UPDATE environments SET image = $3 WHERE workspace_id = $1 AND id = $2", vals![workspace, id, image])?;
    read(tx, workspace, id)
}

/// How many environments have the image of this name, and how many sessions that have not ended keep that of this key.
///
/// # Errors
/// When the store does not answer.
pub fn users(tx: &mut Tx<'_>, name: &str, key: Option<&str>) -> Result<(i64, i64)> {
    let sql = "SELECT count(*) FROM environments WHERE image = $1 AND archived_at IS NULL";
    let environments = tx.one(sql, vals![name], |row| row.int(0))?;
    let Some(key) = key else { return Ok((environments.unwrap_or(0), 0)) };
    let kept = format!("%@{key}");
    let sql = "SELECT count(*) FROM sessions WHERE image LIKE $1 AND status <> 'terminated'";
    let sessions = tx.one(sql, vals![&kept], |row| row.int(0))?;
    Ok((environments.unwrap_or(0), sessions.unwrap_or(0)))
}
