//! Versions of skills: the handlers.

use axum::{
    body::Body,
    extract::{FromRequest, Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, header};
use rota_api::{
    Deleted,
    id::{Id, SkillId, SkillVersionId, WorkspaceId, is_plausible},
    skill::{LATEST, OldSkillVersion, SkillVersion},
};

use super::{
    OldPage, SCOPES, Shape, Shaped, paging, references,
    store::{self, SKILLS, StoredVersion},
    upload,
};
use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    page::NullPage,
    request::{Caller, CallerOrWorker, Json, List, Path, PathAndQuery, Upload},
};

/// `POST /v1/skills/{skill_id}/versions`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Shaped<SkillVersion, OldSkillVersion>>> {
    check_id(&id)?;
    let shape = Shape::of(&headers);
    // Whether there is such a skill is said before what is wrong with the form.
    let (workspace, skill) = (caller.workspace.clone(), id.clone());
    app.db.read(move |tx| SKILLS.get(tx, &workspace, &skill)).await?;
    let bundle = upload::read(Upload::from_request(request, &()).await?, shape).await?.bundle;
    let blob = store::keep(&app, &caller.workspace, &bundle).await?;
    let write = app.db.write(move |tx| store::insert_version(tx, &caller.workspace, &id, &bundle, &blob));
    Ok(Json(shape.version(write.await?)))
}

/// `GET /v1/skills/{skill_id}/versions/{version}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: CallerOrWorker,
    headers: HeaderMap,
    Path((id, version)): Path<(String, String)>,
) -> Result<Json<Shaped<SkillVersion, OldSkillVersion>>> {
    check_id(&id)?;
    let shape = Shape::of(&headers);
    let version = shape.address(&version)?;
    let read = app.db.read(move |tx| reached(tx, &caller, &id, &version));
    Ok(Json(shape.version(read.await?)))
}

/// `GET /v1/skills/{skill_id}/versions`.
pub async fn list(
    State(app): State<App>,
    caller: CallerOrWorker,
    headers: HeaderMap,
    PathAndQuery(id, query): PathAndQuery<String>,
) -> Result<Json<Shaped<NullPage<SkillVersion>, OldPage<OldSkillVersion>>>> {
    let caller = caller.only_caller(SCOPES)?;
    let paging = paging(&query)?;
    check_id(&id)?;
    let shape = Shape::of(&headers);
    let (workspace, skill) = (caller.workspace.clone(), id.clone());
    app.db.read(move |tx| SKILLS.get(tx, &workspace, &skill)).await?;
    let list = List { select: store::select_versions(&caller.workspace, &id), key: "id", paging };
    let Json(page) = list.page(&app.db, store::version_from_row, |version| version.id.to_string()).await?;
    shape.page(page, |shape, version| Ok(shape.version(version))).map(Json)
}

/// `DELETE /v1/skills/{skill_id}/versions/{version}`.
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Path((id, version)): Path<(String, String)>,
) -> Result<Json<Deleted>> {
    check_id(&id)?;
    let shape = Shape::of(&headers);
    let address = shape.address(&version)?.named("deleting")?;
    let write = app.db.write(move |tx| {
        let found = find(tx, &caller.workspace, &id, &address)?;
        store::remove_version(tx, &caller.workspace, &id, found.id.as_ref(), shape)
    });
    write.await?;
    Ok(Json(Deleted::new("skill_version_deleted", &version)))
}

/// `GET /v1/skills/{skill_id}/versions/{version}/content`: its files as a zip archive.
pub async fn download(
    State(app): State<App>,
    caller: CallerOrWorker,
    headers: HeaderMap,
    Path((id, version)): Path<(String, String)>,
) -> Result<Response> {
    check_id(&id)?;
    let address = Shape::of(&headers).address(&version)?.named("downloading")?;
    let found = app.db.read(move |tx| reached(tx, &caller, &id, &address)).await?;
    let mut response = Response::new(Body::from_stream(app.blobs.read(&found.blob).await?));
    let disposition = format!("attachment; filename*=utf-8''{}.zip", found.name);
    let disposition = HeaderValue::from_str(&disposition).map_err(Error::internal)?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

/// Versions are looked for where their skill can be: the prebuilt ones have none here.
fn check_id(id: &str) -> Result<()> {
    if is_plausible::<SkillId>(id) {
        Ok(())
    } else {
        Err(Error::invalid(format_args!("Invalid skill_id format: {id}")))
    }
}

/// How a path names a version.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Latest,
    Id(String),
    Number(i64),
}

impl Address {
    /// The same, unless it is `latest`.
    fn named(self, doing: &str) -> Result<Self> {
        if !matches!(self, Self::Latest) {
            return Ok(self);
        }
        Err(Error::invalid(format_args!(
            "'latest' is not accepted when {doing} a skill version. Address a specific version id: read the skill's \
             latest_version_id, or GET /v1/skills/{{skill_id}}/versions/latest, and use that id."
        )))
    }
}

/// The version that a path names: any of the workspace for a caller, one of its sessions' for a worker.
fn reached(tx: &mut Tx<'_>, caller: &CallerOrWorker, skill: &str, address: &Address) -> Result<StoredVersion> {
    match caller.worker() {
        None => find(tx, &caller.workspace, skill, address),
        Some(worker) => references::of_worker(tx, worker, skill, address),
    }
}

fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, skill: &str, address: &Address) -> Result<StoredVersion> {
    let latest = SKILLS.get(tx, workspace, skill)?.latest;
    match address {
        Address::Latest => {
            let latest = latest.ok_or_else(store::no_version)?;
            store::get_version(tx, workspace, skill, latest.as_ref())
        }
        Address::Id(id) => store::get_version(tx, workspace, skill, id),
        Address::Number(number) => store::numbered(tx, workspace, skill, *number),
    }
}

/// The number of a version in the old shape.
pub(super) fn number(id: &SkillVersionId) -> String {
    id.made_at().micros().to_string()
}

impl Shape {
    fn address(self, version: &str) -> Result<Address> {
        if version == LATEST {
            return Ok(Address::Latest);
        }
        match self {
            Self::New if is_plausible::<SkillVersionId>(version) => Ok(Address::Id(version.to_owned())),
            Self::New => Err(Error::invalid(format_args!("Invalid version id: '{version}'"))),
            Self::Old => version.parse().map(Address::Number).map_err(|_| {
                Error::invalid(format_args!(
                    "Invalid version format: '{version}'. Version must be a numeric timestamp (e.g., '1759178010641129')."
                ))
            }),
        }
    }

    fn version(self, stored: StoredVersion) -> Shaped<SkillVersion, OldSkillVersion> {
        let StoredVersion { id, skill: skill_id, name, description, created_at, .. } = stored;
        let r#type = "skill_version";
        match self {
            Self::New => Shaped::New(SkillVersion { r#type, id, skill_id, name, description, created_at }),
            Self::Old => Shaped::Old(OldSkillVersion {
                r#type,
                id: id.as_ref().replacen(SkillVersionId::PREFIX, "skill_version_", 1),
                skill_id,
                version: number(&id),
                directory: name.clone(),
                name,
                description,
                created_at,
            }),
        }
    }
}
