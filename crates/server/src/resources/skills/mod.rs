//! Skills and their versions.
//!
//! A request that names the beta [`OLD_BETA`] speaks of them in their old shape: its versions are numbers, it may delete all
//! versions of a skill, and a skill only when it has none.

mod bundle;
mod manifest;
mod references;
mod store;
mod upload;
mod versions;

pub use bundle::{Kept, MANIFEST, MAX_DESCRIPTION, described, unpack};
pub use manifest::{FrontMatter, read as front_matter};
pub use references::{
    FOLDER, FoundSkill, SessionSkill, are_named, forget_found, is_placed, keep_found, missing, of_session, pin, words,
};
pub use versions::{
    create as create_version, delete as delete_version, download, list as list_versions, retrieve as retrieve_version,
};

use axum::extract::State;
use http::HeaderMap;
use rota_api::{
    Deleted,
    skill::{OLD_BETA, OldSkill, Skill, Source},
};
use serde::Serialize;

use crate::{
    app::App,
    error::{Error, Result},
    page::{NullPage, Order, Page, Paging},
    request::{Caller, CallerOrWorker, Json, List, Path, Query, Upload, beta},
};
use store::{SKILLS, Stored};

/// What reads skills other than the versions that a worker is given (recorded).
const SCOPES: &str =
    "org:skills, user:developer, user:managed_agents, user:skills, workspace:developer, workspace:skills";

/// `POST /v1/skills`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    form: Upload,
) -> Result<Json<Shaped<Skill, OldSkill>>> {
    let shape = Shape::of(&headers);
    let form = upload::read(form, shape).await?;
    let blob = store::keep(&app, &caller.workspace, &form.bundle).await?;
    let skill = app.db.write(move |tx| store::insert(tx, &caller.workspace, &form, &blob)).await?;
    shape.skill(skill).map(Json)
}

/// `GET /v1/skills/{skill_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: CallerOrWorker,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Shaped<Skill, OldSkill>>> {
    let caller = caller.only_caller(SCOPES)?;
    let shape = Shape::of(&headers);
    let skill = app.db.read(move |tx| SKILLS.get(tx, &caller.workspace, &id)).await?;
    shape.skill(skill).map(Json)
}

/// `GET /v1/skills`.
pub async fn list(
    State(app): State<App>,
    caller: CallerOrWorker,
    headers: HeaderMap,
    query: Query,
) -> Result<Json<Shaped<NullPage<Skill>, OldPage<OldSkill>>>> {
    let caller = caller.only_caller(SCOPES)?;
    let shape = Shape::of(&headers);
    let mut select = SKILLS.select(&caller.workspace);
    select.when(shape == Shape::New, "latest_version_id IS NOT NULL");
    match query.text("source") {
        None | Some("custom") => {}
        Some("anthropic") => select.when(true, "1 = 0"),
        Some(_) => return Err(Error::invalid("source must be one of custom, anthropic")),
    }
    let list = List { select, key: "id", paging: paging(&query)? };
    let Json(page) = list.page(&app.db, SKILLS.read, |skill| skill.id.to_string()).await?;
    shape.page(page, Shape::skill).map(Json)
}

/// `DELETE /v1/skills/{skill_id}`, with all its versions. Agents and sessions may name it all the same.
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Deleted>> {
    let shape = Shape::of(&headers);
    app.db.write(move |tx| store::remove(tx, &caller.workspace, &id, shape)).await.map(Json)
}

/// In which of its two shapes a request speaks of skills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    New,
    Old,
}

/// An answer in one of the two shapes.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Shaped<N, O> {
    /// That of today.
    New(N),
    /// That of [`OLD_BETA`].
    Old(O),
}

/// A page of a list in the old shape.
#[derive(Debug, Serialize)]
pub struct OldPage<T> {
    data: Vec<T>,
    has_more: bool,
    next_page: Option<String>,
}

impl Shape {
    fn of(headers: &HeaderMap) -> Self {
        if beta::names(headers, OLD_BETA) { Self::Old } else { Self::New }
    }

    fn skill(self, stored: Stored) -> Result<Shaped<Skill, OldSkill>> {
        let Stored { id, display_name, latest, created_at, updated_at, .. } = stored;
        if self == Self::Old {
            return Ok(Shaped::Old(OldSkill {
                r#type: "skill",
                id,
                display_title: display_name,
                source: Source::Custom.as_str(),
                latest_version: latest.as_ref().map(versions::number),
                created_at,
                updated_at,
            }));
        }
        let latest_version_id = latest.ok_or_else(|| not_found(id.as_ref()))?;
        let source = Source::Custom;
        Ok(Shaped::New(Skill { r#type: "skill", id, display_name, source, latest_version_id, created_at, updated_at }))
    }

    fn page<T, N, O>(
        self,
        page: Page<T>,
        shaped: impl Fn(Self, T) -> Result<Shaped<N, O>>,
    ) -> Result<Shaped<NullPage<N>, OldPage<O>>> {
        let Page { data, next_page } = page;
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for row in data {
            match shaped(self, row)? {
                Shaped::New(row) => new.push(row),
                Shaped::Old(row) => old.push(row),
            }
        }
        Ok(match self {
            Self::New => Shaped::New(NullPage::from(Page { data: new, next_page })),
            Self::Old => Shaped::Old(OldPage { data: old, has_more: next_page.is_some(), next_page }),
        })
    }
}

/// The page that a list is asked for, in the words of this resource.
fn paging(query: &Query) -> Result<Paging> {
    const MOST: i64 = 1000;

    if let Some(limit) = query.text("limit")
        && !limit.parse().is_ok_and(|limit| (1..=MOST).contains(&limit))
    {
        return Err(Error::invalid(format_args!("limit must be between 1 and {MOST}")));
    }
    query.text("page");
    query.finish()?;
    query.paging(20, MOST, Order::Desc).map_err(|_| Error::invalid("page is not a valid page token."))
}

/// The error for a skill that does not exist, or belongs to another workspace.
fn not_found(id: &str) -> Error {
    Error::NotFound(format!("Skill not found: {id}"))
}
