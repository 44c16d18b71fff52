//! User profiles: the end customers of a platform. Nothing in this server reads them; clients name them in requests of their
//! own to a model.

use axum::extract::State;
use http::HeaderMap;
use rota_api::{
    Deleted, Time,
    id::{Id, UserProfileId, WorkspaceId},
    user_profile::{
        AccessType, EnforcementStatus, GoogleDataControls, Shape, UserProfile, UserProfileChanges, UserProfileFields,
        read_action, read_controls,
    },
};

use crate::{
    app::App,
    db::{Row, Table, Tx, vals},
    error::{Error, Result},
    page::{NullPage, Order},
    request::{Body, Caller, Json, List, Path, Query, beta},
};

/// `POST /v1/user_profiles`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UserProfile>> {
    let (shape, now) = (beta::user_profiles(&headers), app.clock.now());
    let fields = body.read(|o| UserProfileChanges::create(o, shape, now)?.over(UserProfileFields::default()))?;
    app.db.write(move |tx| insert(tx, &caller.workspace, shape, &fields)).await.map(Json)
}

/// `GET /v1/user_profiles/{user_profile_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<UserProfile>> {
    let shape = beta::user_profiles(&headers);
    let stored = app.db.read(move |tx| PROFILES.get(tx, &caller.workspace, &id)).await?;
    Ok(Json(stored.shown(shape)))
}

/// `POST /v1/user_profiles/{user_profile_id}`.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UserProfile>> {
    let (shape, now) = (beta::user_profiles(&headers), app.clock.now());
    let changes = body.read(|o| UserProfileChanges::update(o, shape, now))?;
    let stored = app.db.write(move |tx| set(tx, &caller.workspace, &id, &changes)).await?;
    Ok(Json(stored.shown(shape)))
}

/// `GET /v1/user_profiles`, by creation or by name.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    query: Query,
) -> Result<Json<NullPage<UserProfile>>> {
    let shape = beta::user_profiles(&headers);
    let mut select = PROFILES.select(&caller.workspace);
    if shape == Shape::General {
        let names = EnforcementStatus::NAMES;
        let asked = query.any_of("enforcement_status", names, names.len())?;
        // Nobody restricts a profile here.
        select.when(!asked.is_empty() && !asked.contains(&EnforcementStatus::Unrestricted.as_str()), "1 = 0");
    }
    let order = query.one_of("order", &["asc", "desc"])?.map_or(Order::Desc, Order::from_name);
    let by_name = query.one_of("order_by", &["created_at", "name"])? == Some("name");
    let (key, of_row): (_, fn(&UserProfile) -> String) = match (by_name, order) {
        (false, _) => ("id", |profile| profile.id.to_string()),
        (true, Order::Asc) => ("by_name_asc", |profile| NameKeys::of(profile.name.as_deref(), &profile.id).asc),
        (true, Order::Desc) => ("by_name_desc", |profile| NameKeys::of(profile.name.as_deref(), &profile.id).desc),
    };
    let list = List { select, key, paging: query.paging(20, 100, order)? };
    list.null_page(&app.db, move |row| from_row(row).map(|stored| stored.shown(shape)), of_row).await
}

/// `DELETE /v1/user_profiles/{user_profile_id}`.
pub async fn delete(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deleted>> {
    app.db.write(move |tx| remove(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/user_profiles/{user_profile_id}/action_urls`: always refused, for the pages that such a URL leads to are the
/// vendor's.
pub async fn create_action_url(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<()>> {
    body.read(read_action)?;
    app.db.read(move |tx| Err(no_portal(tx, &caller.workspace, &id)?)).await
}

/// `POST /v1/user_profiles/{user_profile_id}/enrollment_url`: always refused, as an action URL is.
pub async fn create_enrollment_url(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<()>> {
    app.db.read(move |tx| Err(no_portal(tx, &caller.workspace, &id)?)).await
}

/// `GET /v1/user_profiles/{user_profile_id}/providers/google/data_controls`.
pub async fn data_controls(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<GoogleDataControls>> {
    app.db.read(move |tx| controls(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /v1/user_profiles/{user_profile_id}/providers/google/data_controls`: a control that is off can be turned off.
pub async fn update_data_controls(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<GoogleDataControls>> {
    body.read(read_controls)?;
    app.db.read(move |tx| controls(tx, &caller.workspace, &id)).await.map(Json)
}

/// The texts by which profiles are ordered by name, upwards and downwards. The case of ASCII letters does not count, and
/// profiles without a name come last either way.
struct NameKeys {
    asc: String,
    desc: String,
}

impl NameKeys {
    fn of(name: Option<&str>, id: &UserProfileId) -> Self {
        match name {
            Some(name) => {
                let name = name.to_ascii_lowercase();
                Self { asc: format!("1{name}\u{1}{id}"), desc: format!("2{name}\u{1}{id}") }
            }
            None => Self { asc: format!("2{id}"), desc: format!("1{id}") },
        }
    }
}

fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, shape: Shape, fields: &UserProfileFields) -> Result<UserProfile> {
    let now = tx.now();
    let id = UserProfileId::new(now);
    tx.audit_made(&id);
    let keys = NameKeys::of(fields.name.as_deref(), &id);
    tx.add(
        "INSERT INTO user_profiles (id, workspace_id, access_type, details, metadata, name, by_name_asc, by_name_desc,
            created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
        vals![
            &id,
            workspace,
            fields.access_type.as_str(),
            &serde_json::to_string(&fields.details)?,
            &serde_json::to_string(&fields.metadata)?,
            fields.name.as_deref(),
            &keys.asc,
            &keys.desc,
            now
        ],
    )?;
    Ok(UserProfile::new(id, shape, fields.clone(), now, now))
}

fn set(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, changes: &UserProfileChanges) -> Result<Stored> {
    PROFILES.lock(tx, workspace, id)?;
    let stored = PROFILES.get(tx, workspace, id)?;
    let fields = changes.clone().over(stored.fields.clone())?;
    if fields != stored.fields {
        let keys = NameKeys::of(fields.name.as_deref(), &stored.id);
        tx.execute(
            "UPDATE user_profiles SET access_type = $3, details = $4, metadata = $5, name = $6, by_name_asc = $7,
                by_name_desc = $8, updated_at = $9
             WHERE workspace_id = $1 AND id = $2",
            vals![
                workspace,
                id,
                fields.access_type.as_str(),
                &serde_json::to_string(&fields.details)?,
                &serde_json::to_string(&fields.metadata)?,
                fields.name.as_deref(),
                &keys.asc,
                &keys.desc,
                tx.now()
            ],
        )?;
    }
    PROFILES.get(tx, workspace, id)
}

fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deleted> {
    PROFILES.delete(tx, workspace, id)?;
    Ok(Deleted::new("user_profile_deleted", id))
}

/// Why there is no URL for a profile that is there.
fn no_portal(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Error> {
    PROFILES.get(tx, workspace, id)?;
    Ok(Error::invalid(
        "this server has no Verification Portal: the programs in which end customers enroll there are those of the hosted \
         service",
    ))
}

fn controls(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<GoogleDataControls> {
    let Stored { id, created_at, .. } = PROFILES.get(tx, workspace, id)?;
    Ok(GoogleDataControls::new(id, created_at))
}

/// A profile as it is stored.
struct Stored {
    id: UserProfileId,
    fields: UserProfileFields,
    created_at: Time,
    updated_at: Time,
}

impl Stored {
    fn shown(self, shape: Shape) -> UserProfile {
        UserProfile::new(self.id, shape, self.fields, self.created_at, self.updated_at)
    }
}

const PROFILES: Table<Stored> = Table {
    name: "user_profiles",
    columns: "id, access_type, details, metadata, name, created_at, updated_at",
    read: from_row,
    missing: |id| Error::not_found("User profile", id),
};

fn from_row(row: &Row<'_>) -> Result<Stored> {
    let fields = UserProfileFields {
        access_type: row.name("access_type", AccessType::from_name)?,
        details: row.json("details")?,
        metadata: row.json("metadata")?,
        name: row.opt_text("name")?,
    };
    Ok(Stored { id: row.id("id")?, fields, created_at: row.time("created_at")?, updated_at: row.time("updated_at")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_without_the_case_of_ascii_and_no_name_is_last_either_way() {
        let id = |n: &str| UserProfileId::trusted(format!("uprof_{n}"));
        let mut all =
            [(Some("b"), "1"), (None, "2"), (Some("A"), "3"), (Some("a"), "4"), (Some("ab"), "5"), (None, "6")];
        all.sort_by_key(|(name, n)| NameKeys::of(*name, &id(n)).asc);
        assert_eq!(all.map(|(_, n)| n), ["3", "4", "5", "1", "2", "6"]);
        all.sort_by_key(|(name, n)| std::cmp::Reverse(NameKeys::of(*name, &id(n)).desc));
        assert_eq!(all.map(|(_, n)| n), ["1", "5", "4", "3", "6", "2"]);
    }
}
