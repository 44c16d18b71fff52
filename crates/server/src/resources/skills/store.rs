//! The rows of skills, and the bytes of their versions.

use rota_api::{
    Deleted, Time,
    id::{BlobId, Id, SkillId, SkillVersionId, WorkspaceId},
};

use super::{Shape, bundle::Bundle, not_found, upload::Form};
use crate::{
    app::App,
    db::{Row, Select, Table, Tx, vals},
    error::{Error, Result},
    limits::{MAX_SKILL_VERSIONS, MAX_SKILLS},
};

/// A skill as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) id: SkillId,
    /// The same in all its versions.
    pub(super) name: String,
    pub(super) display_name: String,
    pub(super) latest: Option<SkillVersionId>,
    pub(super) created_at: Time,
    pub(super) updated_at: Time,
}

/// A version as it is stored.
#[derive(Debug)]
pub(super) struct StoredVersion {
    pub(super) id: SkillVersionId,
    pub(super) skill: SkillId,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) blob: BlobId,
    pub(super) created_at: Time,
}

/// Writes the archive of a skill to where blobs are; no row names it yet.
pub(super) async fn keep(app: &App, workspace: &WorkspaceId, bundle: &Bundle) -> Result<BlobId> {
    let mut writing = app.blobs.begin(workspace).await?;
    writing.write(&bundle.archive).await?;
    Ok(writing.finish().await?.id)
}

pub(super) fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, form: &Form, blob: &BlobId) -> Result<Stored> {
    tx.lock("workspaces WHERE id = $1", vals![workspace])?;
    let count = tx.one("SELECT count(*) FROM skills WHERE workspace_id = $1", vals![workspace], |row| row.int(0))?;
    if count.unwrap_or_default() >= MAX_SKILLS {
        return Err(Error::invalid(format_args!(
            "a workspace may have no more than {MAX_SKILLS} skills; delete others"
        )));
    }
    let now = tx.now();
    let (id, bundle) = (SkillId::new(now), &form.bundle);
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO skills (workspace_id, id, name, display_name, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)",
        vals![workspace, &id, &bundle.name, form.display_name.as_ref().unwrap_or(&bundle.name), now],
    )?;
    add_version(tx, workspace, &id, bundle, blob, now)?;
    SKILLS.get(tx, workspace, id.as_ref())
}

/// Adds a version to the skill `id`. Its name is that of the skill.
pub(super) fn insert_version(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    bundle: &Bundle,
    blob: &BlobId,
) -> Result<StoredVersion> {
    SKILLS.lock(tx, workspace, id)?;
    let skill = SKILLS.get(tx, workspace, id)?;
    if skill.name != bundle.name {
        return Err(Error::invalid(format_args!(
            "Skill name '{}' in SKILL.md must be consistent across all versions for a given `skill_id`. Expected '{}'.",
            bundle.name, skill.name
        )));
    }
    if count_versions(tx, workspace, id)? >= MAX_SKILL_VERSIONS {
        return Err(Error::invalid(format_args!(
            "a skill may have no more than {MAX_SKILL_VERSIONS} versions; delete others"
        )));
    }
    // Another server's clock may have been ahead.
    let earliest = skill.latest.map_or(tx.now(), |latest| latest.made_at().plus_micros(1));
    let at = tx.now().max(earliest);
    let version = add_version(tx, workspace, &skill.id, bundle, blob, at)?;
    tx.audit_made(&version);
    get_version(tx, workspace, id, version.as_ref())
}

fn add_version(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    skill: &SkillId,
    bundle: &Bundle,
    blob: &BlobId,
    at: Time,
) -> Result<SkillVersionId> {
    let id = SkillVersionId::new(at);
    tx.execute(
        "INSERT INTO skill_versions (workspace_id, skill_id, id, name, description, blob_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        vals![workspace, skill, &id, &bundle.name, &bundle.description, blob, at],
    )?;
    set_latest(tx, workspace, skill, Some(&id))?;
    Ok(id)
}

fn set_latest(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    skill: &SkillId,
    version: Option<&SkillVersionId>,
) -> Result<()> {
    tx.execute(
        "UPDATE skills SET latest_version_id = $3, updated_at = $4 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, skill, version, tx.now()],
    )?;
    Ok(())
}

pub(super) fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, shape: Shape) -> Result<Deleted> {
    SKILLS.lock(tx, workspace, id)?;
    if shape == Shape::Old && SKILLS.get(tx, workspace, id)?.latest.is_some() {
        return Err(Error::invalid("Cannot delete skill with existing versions. Delete all versions first."));
    }
    tx.execute("DELETE FROM skill_versions WHERE workspace_id = $1 AND skill_id = $2", vals![workspace, id])?;
    SKILLS.delete(tx, workspace, id)?;
    Ok(Deleted::new("skill_deleted", id))
}

/// Removes the version `version` of the skill `id`. Its only one goes only in the old shape.
pub(super) fn remove_version(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    version: &str,
    shape: Shape,
) -> Result<StoredVersion> {
    SKILLS.lock(tx, workspace, id)?;
    let skill = SKILLS.get(tx, workspace, id)?;
    let version = get_version(tx, workspace, id, version)?;
    if shape == Shape::New && count_versions(tx, workspace, id)? == 1 {
        return Err(Error::invalid(
            "cannot delete a Skill's only version. Delete the Skill, or create another version first",
        ));
    }
    tx.execute(
        "DELETE FROM skill_versions WHERE workspace_id = $1 AND skill_id = $2 AND id = $3",
        vals![workspace, id, &version.id],
    )?;
    let newest = "SELECT max(id) AS id FROM skill_versions WHERE workspace_id = $1 AND skill_id = $2";
    let newest: Option<SkillVersionId> = tx.one(newest, vals![workspace, id], |row| row.opt_id("id"))?.flatten();
    set_latest(tx, workspace, &skill.id, newest.as_ref())?;
    Ok(version)
}

fn count_versions(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<i64> {
    let sql = "SELECT count(*) FROM skill_versions WHERE workspace_id = $1 AND skill_id = $2";
    Ok(tx.one(sql, vals![workspace, id], |row| row.int(0))?.unwrap_or_default())
}

pub(super) const SKILLS: Table<Stored> = Table {
    name: "skills",
    columns: "id, name, display_name, latest_version_id, created_at, updated_at",
    read: from_row,
    missing: not_found,
};

const SELECT_VERSIONS: &str = "SELECT id, skill_id, name, description, blob_id, created_at FROM skill_versions
    WHERE workspace_id = $1";

/// The SELECT of a list of the versions of a skill.
pub(super) fn select_versions(workspace: &WorkspaceId, skill: &str) -> Select {
    let mut select = Select::new(SELECT_VERSIONS, workspace);
    select.text("skill_id =", Some(skill));
    select
}

/// The version `version` of a skill.
///
/// # Errors
/// 404 when there is none.
pub(super) fn get_version(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    skill: &str,
    version: &str,
) -> Result<StoredVersion> {
    let sql = format!("{SELECT_VERSIONS} AND skill_id = $2 AND id = $3");
    tx.one_or(&sql, vals![workspace, skill, version], version_from_row, no_version)
}

/// The version of a skill that was created at this time, which is its number.
///
/// # Errors
/// 404 when there is none.
pub(super) fn numbered(tx: &mut Tx<'_>, workspace: &WorkspaceId, skill: &str, number: i64) -> Result<StoredVersion> {
    let sql = format!("{SELECT_VERSIONS} AND skill_id = $2 AND created_at = $3");
    tx.one_or(&sql, vals![workspace, skill, number], version_from_row, no_version)
}

pub(super) fn no_version() -> Error {
    Error::NotFound("Skill version not found".to_owned())
}

fn from_row(row: &Row<'_>) -> Result<Stored> {
    Ok(Stored {
        id: row.id("id")?,
        name: row.text("name")?,
        display_name: row.text("display_name")?,
        latest: row.opt_id("latest_version_id")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

pub(super) fn version_from_row(row: &Row<'_>) -> Result<StoredVersion> {
    Ok(StoredVersion {
        id: row.id("id")?,
        skill: row.id("skill_id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        blob: row.id("blob_id")?,
        created_at: row.time("created_at")?,
    })
}
