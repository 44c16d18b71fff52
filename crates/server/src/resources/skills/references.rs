//! Skills as agents refer to them, and as sessions are given them.

use std::collections::HashSet;

use rota_api::{
    agent::Skill,
    id::{BlobId, Id, SessionId, SkillVersionId, WorkspaceId},
    skill::{LATEST, Source},
};

use super::{
    store::{self, SKILLS, StoredVersion},
    versions::Address,
};
use crate::{
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::MAX_REPOSITORIES_SKILLS,
    request::Worker,
    resources::work_queue,
};

/// The first of `skills` that is not there. All of the vendor's are not.
pub fn missing<'s>(tx: &mut Tx<'_>, workspace: &WorkspaceId, skills: &'s [Skill]) -> Result<Option<&'s Skill>> {
    for skill in skills {
        if find(tx, workspace, skill)?.is_none() {
            return Ok(Some(skill));
        }
    }
    Ok(None)
}

/// That a skill is not there, in the words of the hosted service.
pub fn words(missing: &Skill) -> String {
    let Skill { skill_id, version, .. } = missing;
    let version = if version == LATEST { String::new() } else { format!(" version `{version}`") };
    format!("`skill_id` `{skill_id}`{version} not found")
}

fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, skill: &Skill) -> Result<Option<StoredVersion>> {
    let Skill { r#type, skill_id, version } = skill;
    if r#type != Source::Custom.as_str() {
        return Ok(None);
    }
    let found = match version.as_str() {
        LATEST => match SKILLS.get(tx, workspace, skill_id).map(|skill| skill.latest) {
            Ok(Some(latest)) => store::get_version(tx, workspace, skill_id, latest.as_ref()),
            Ok(None) => return Ok(None),
            Err(error) => Err(error),
        },
        // Clients of the old shape know versions by their numbers.
        number => match number.parse() {
            Ok(number) => store::numbered(tx, workspace, skill_id, number),
            Err(_) => store::get_version(tx, workspace, skill_id, version),
        },
    };
    match found {
        Ok(version) => Ok(Some(version)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the skills of an agent are in the sandbox. One that shares its name with another has a number behind it.
pub const FOLDER: &str = "/workspace/skills";

/// A skill of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSkill {
    /// Its place among those of the session, from 0.
    pub place: i64,
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The folder of its files in the sandbox.
    pub path: String,
    /// The archive of its files; `None` for one that was found in a repository.
    pub blob: Option<BlobId>,
    /// The server that has put them there.
    pub placed_on: Option<String>,
}

/// Gives a new session the versions that `skills` mean now. They stay its own whatever becomes of the skills.
///
/// # Errors
/// 400 when one is not there.
pub fn pin(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, skills: &[Skill]) -> Result<()> {
    let mut folders = HashSet::new();
    let mut pinned = HashSet::new();
    for skill in skills {
        let version = find(tx, workspace, skill)?.ok_or_else(|| Error::Invalid(words(skill)))?;
        if !pinned.insert(version.id.clone()) {
            continue;
        }
        let mut folder = version.name.clone();
        let mut number = 2;
        while !folders.insert(folder.clone()) {
            folder = format!("{}-{number}", version.name);
            number += 1;
        }
        tx.add(
            "INSERT INTO session_skills (session_id, place, name, description, path, blob_id, skill_id, version_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            vals![
                session,
                pinned.len() as i64 - 1,
                &version.name,
                &version.description,
                &format!("{FOLDER}/{folder}"),
                &version.blob,
                &version.skill,
                &version.id
            ],
        )?;
    }
    Ok(())
}

/// A skill that was found in a repository of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSkill {
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The folder of its files in the sandbox.
    pub path: String,
}

/// Has a session have the skills that were found in one of its repositories, and none that were there before. How many there
/// was no room for: all repositories of a session have at most [`MAX_REPOSITORIES_SKILLS`].
pub fn keep_found(tx: &mut Tx<'_>, session: &SessionId, resource: &str, found: &[FoundSkill]) -> Result<usize> {
    forget_found(tx, session, resource)?;
    let sql = "SELECT coalesce(max(place), -1), coalesce(sum(CASE WHEN resource_id IS NULL THEN 0 ELSE 1 END), 0)
        FROM session_skills WHERE session_id = $1";
    let (last, others) = tx.one(sql, vals![session], |row| Ok((row.int(0)?, row.int(1)?)))?.unwrap_or((-1, 0));
    let room = usize::try_from(MAX_REPOSITORIES_SKILLS - others).unwrap_or(0);
    for (place, skill) in (last + 1..).zip(found.iter().take(room)) {
        tx.add(
            "INSERT INTO session_skills (session_id, place, name, description, path, resource_id)
             VALUES ($1, $2, $3, $4, $5, $6)",
            vals![session, place, &skill.name, &skill.description, &skill.path, resource],
        )?;
    }
    Ok(found.len().saturating_sub(room))
}

/// Takes from a session the skills that were found in one of its repositories.
pub fn forget_found(tx: &mut Tx<'_>, session: &SessionId, resource: &str) -> Result<()> {
    tx.send("DELETE FROM session_skills WHERE session_id = $1 AND resource_id = $2", vals![session, resource])
}

/// The skills of a session, in the order in which its agent names them.
pub fn of_session(tx: &mut Tx<'_>, session: &SessionId) -> Result<Vec<SessionSkill>> {
    let sql = "SELECT place, name, description, path, blob_id, placed_on FROM session_skills
        WHERE session_id = $1 ORDER BY place";
    tx.all(sql, vals![session], from_row)
}

/// The version of a skill that a worker asks for, as the sessions that it works on have it: with a token its own session, with
/// a key those of its environment whose work has not ended. `latest` is the newest of these.
///
/// # Errors
/// 404 when no such session has it; 403 when the work of the token has ended.
pub(super) fn of_worker(tx: &mut Tx<'_>, worker: &Worker, skill: &str, address: &Address) -> Result<StoredVersion> {
    let found = if let Some(token) = &worker.token {
        work_queue::check_goes_on(tx, token)?;
        let sql = "SELECT version_id, skill_id, path, description, blob_id FROM session_skills
            WHERE session_id = $1 AND skill_id = $2 ORDER BY version_id DESC";
        tx.all(sql, vals![&token.session, skill], given_version)?
    } else {
        let sql = "SELECT DISTINCT s.version_id, s.skill_id, s.path, s.description, s.blob_id
            FROM work w JOIN session_skills s ON s.session_id = w.session_id
            WHERE w.workspace_id = $1 AND w.environment_id = $2 AND w.due_at IS NOT NULL AND s.skill_id = $3
            ORDER BY s.version_id DESC";
        tx.all(sql, vals![&worker.workspace, &worker.environment, skill], given_version)?
    };
    let is_meant = |version: &StoredVersion| match address {
        Address::Latest => true,
        Address::Id(id) => version.id.as_ref() == id,
        Address::Number(number) => version.created_at.micros() == *number,
    };
    found.into_iter().find(is_meant).ok_or_else(store::no_version)
}

/// A worker puts the files of a version into a folder of its name: here that of the folder in which the agent is told that they
/// are.
fn given_version(row: &Row<'_>) -> Result<StoredVersion> {
    let (id, path): (SkillVersionId, _) = (row.id("version_id")?, row.text("path")?);
    Ok(StoredVersion {
        created_at: id.made_at(),
        id,
        skill: row.id("skill_id")?,
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        description: row.text("description")?,
        blob: row.id("blob_id")?,
    })
}

/// Notes that the files of a skill of a session are at the server `node`.
pub fn is_placed(tx: &mut Tx<'_>, session: &SessionId, place: i64, node: &str) -> Result<()> {
    tx.execute(
        "UPDATE session_skills SET placed_on = $3 WHERE session_id = $1 AND place = $2",
        vals![session, place, node],
    )?;
    Ok(())
}

/// Which of these blobs a skill names, or a session that was given one.
pub fn are_named(tx: &mut Tx<'_>, blobs: &[BlobId]) -> Result<Vec<BlobId>> {
    let mut named = Vec::new();
    for blob in blobs {
        let sql =
            "SELECT 1 FROM skill_versions WHERE blob_id = $1 UNION ALL SELECT 1 FROM session_skills WHERE blob_id = $1
            LIMIT 1";
        if tx.one(sql, vals![blob], |_| Ok(()))?.is_some() {
            named.push(blob.clone());
        }
    }
    Ok(named)
}

fn from_row(row: &Row<'_>) -> Result<SessionSkill> {
    Ok(SessionSkill {
        place: row.int("place")?,
        name: row.text("name")?,
        description: row.text("description")?,
        path: row.text("path")?,
        blob: row.opt_id("blob_id")?,
        placed_on: row.opt_text("placed_on")?,
    })
}
