//! How a memory is changed, by a caller or by the agent of a session: the only place that writes memories and versions.
//!
//! The store's row is locked first, so of two writers the second sees what the first has written: no look at a path is
//! overtaken.

use rota_api::{
    id::{Id, MemoryId, MemoryVersionId, WorkspaceId},
    memory::{Actor, MAX_MEMORIES, MAX_SEGMENTS, Operation},
};
use sha2::{Digest, Sha256};

use super::{purge, store};
use crate::{
    db::{Row, Tx, Val, vals},
    error::{Error, Result},
    hex,
};

/// A store that is being written to.
#[derive(Debug)]
pub struct Writing {
    /// The store.
    pub id: String,
    memories: i64,
    /// How many changes it has had.
    pub changes: i64,
    /// Whether it is archived: then memories can only be deleted.
    pub archived: bool,
}

/// A memory without its content.
#[derive(Debug, Clone)]
pub struct Head {
    /// The memory.
    pub id: MemoryId,
    /// Where it stands.
    pub path: String,
    /// The version that holds its content.
    pub version_id: MemoryVersionId,
    /// The hash of its content.
    pub content_sha256: String,
}

const HEADS: &str = "SELECT id, path, version_id, content_sha256 FROM memories WHERE store_id = $1";

fn head(row: &Row<'_>) -> Result<Head> {
    Ok(Head {
        id: row.id("id")?,
        path: row.text("path")?,
        version_id: row.id("version_id")?,
        content_sha256: row.text("content_sha256")?,
    })
}

/// The hash of a content, as the API has it.
pub fn hash(content: &[u8]) -> String {
    hex::digits(&Sha256::digest(content))
}

impl Writing {
    /// The store `id` of a workspace, which nobody else writes to until the transaction ends. `None` when there is none.
    pub fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Option<Self>> {
        tx.lock("memory_stores WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
        tx.one(
            "SELECT memories, changes, archived_at FROM memory_stores WHERE workspace_id = $1 AND id = $2",
            vals![workspace, id],
            |row| {
                Ok(Self {
                    id: id.to_owned(),
                    memories: row.int(0)?,
                    changes: row.int(1)?,
                    archived: row.opt_time(2)?.is_some(),
                })
            },
        )
    }

    /// The same.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn get(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Self> {
        Self::find(tx, workspace, id)?.ok_or_else(|| store::not_found(id))
    }

    /// The same, to write contents.
    ///
    /// # Errors
    /// 404 when there is none; 400 when it is archived.
    pub fn open(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Self> {
        let writing = Self::get(tx, workspace, id)?;
        if writing.archived { Err(store::archived(id)) } else { Ok(writing) }
    }

    /// The memory `id`.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn memory(&self, tx: &mut Tx<'_>, id: &str) -> Result<Head> {
        tx.one_or(&format!("{HEADS} AND id = $2"), vals![&self.id, id], head, || not_found(id))
    }

    /// The memory at `path`.
    pub fn at(&self, tx: &mut Tx<'_>, path: &str) -> Result<Option<Head>> {
        tx.one(&format!("{HEADS} AND path = $2"), vals![&self.id, path], head)
    }

    /// Adds a memory.
    ///
    /// # Errors
    /// 409 when its path is taken; 400 when the store is full.
    pub fn create(&mut self, tx: &mut Tx<'_>, actor: &Actor, path: &str, content: &str) -> Result<MemoryId> {
        self.check_free(tx, path, None)?;
        if self.memories >= MAX_MEMORIES {
            return Err(Error::invalid(format_args!(
                "memory store {} has {MAX_MEMORIES} memories, which is the most; delete some first",
                self.id
            )));
        }
        self.memories += 1;
        let now = tx.now();
        let id = MemoryId::new(now);
        let hash = hash(content.as_bytes());
        let version = self.add_version(
            tx,
            actor,
            &Version { memory: &id, base: None, operation: Operation::Created, path, content: Some((content, &hash)) },
        )?;
        tx.add(
            "INSERT INTO memories (id, store_id, path, version_id, content_sha256, content_size_bytes, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
            vals![&id, &self.id, path, &version, &hash, content.len() as i64, now],
        )?;
        Ok(id)
    }

    /// Gives a memory another content, another path, or both. What changes nothing makes no version.
    ///
    /// # Errors
    /// 409 when the path is taken.
    pub fn update(
        &mut self,
        tx: &mut Tx<'_>,
        actor: &Actor,
        memory: &Head,
        path: Option<&str>,
        content: Option<&str>,
    ) -> Result<()> {
        let path = path.filter(|path| *path != memory.path);
        let content = content.filter(|content| hash(content.as_bytes()) != memory.content_sha256);
        if path.is_none() && content.is_none() {
            return Ok(());
        }
        if let Some(path) = path {
            self.check_free(tx, path, Some(&memory.id))?;
        }
        let path = path.unwrap_or(&memory.path);
        let content = match content {
            Some(content) => content.to_owned(),
            None => content_of(tx, &memory.version_id)?,
        };
        let hash = hash(content.as_bytes());
        let version = self.add_version(
            tx,
            actor,
            &Version {
                memory: &memory.id,
                base: Some(&memory.version_id),
                operation: Operation::Modified,
                path,
                content: Some((&content, &hash)),
            },
        )?;
        tx.send(
            "UPDATE memories SET path = $3, version_id = $4, content_sha256 = $5, content_size_bytes = $6, updated_at = $7
             WHERE store_id = $1 AND id = $2",
            vals![
                &self.id,
                &memory.id,
                path,
                &version,
                &hash,
                content.len() as i64,
                tx.now()
            ],
        )?;
        purge::version_was_added(tx, memory.id.as_ref())
    }

    /// Deletes a memory. Its versions stay for a while.
    pub fn delete(&mut self, tx: &mut Tx<'_>, actor: &Actor, memory: &Head) -> Result<()> {
        self.memories -= 1;
        let base = Some(&memory.version_id);
        let operation = Operation::Deleted;
        let version = Version { memory: &memory.id, base, operation, path: &memory.path, content: None };
        self.add_version(tx, actor, &version)?;
        tx.send("DELETE FROM memories WHERE store_id = $1 AND id = $2", vals![&self.id, &memory.id])?;
        let now = tx.now();
        purge::memory_is_deleted(tx, memory.id.as_ref(), now)
    }

    fn add_version(&mut self, tx: &mut Tx<'_>, actor: &Actor, version: &Version<'_>) -> Result<MemoryVersionId> {
        self.changes += 1;
        let now = tx.now();
        let id = MemoryVersionId::new(now);
        let (api_key, session) = match actor {
            Actor::Api { api_key_id } => (Some(api_key_id), None),
            Actor::Session { session_id } => (None, Some(session_id)),
        };
        tx.add(
            "INSERT INTO memory_versions (id, store_id, memory_id, base_id, operation, path, content_sha256,
                 content_size_bytes, api_key_id, session_id, created_at, content)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            vals![
                &id,
                &self.id,
                version.memory,
                version.base,
                version.operation.as_str(),
                version.path,
                version.content.map(|(_, hash)| hash),
                version.content.map(|(content, _)| content.len() as i64),
                api_key,
                session,
                now,
                version.content.map(|(content, _)| content)
            ],
        )?;
        tx.send(
            "UPDATE memory_stores SET memories = $2, changes = $3 WHERE id = $1",
            vals![&self.id, self.memories, self.changes],
        )?;
        Ok(id)
    }

    /// That a memory can be at `path`: no other one, but for `moved`, is there, above or below.
    fn check_free(&self, tx: &mut Tx<'_>, path: &str, moved: Option<&MemoryId>) -> Result<()> {
        let moved = moved.map_or("", |id| id.as_ref());
        // The path itself and the folders on the way to it.
        let ends = path.match_indices('/').skip(1).map(|(at, _)| at).chain([path.len()]);
        let mut params = vec![Val::from(&self.id), Val::from(moved)];
        params.extend(ends.map(|end| Val::from(&path[..end])));
        assert!(params.len() <= MAX_SEGMENTS + 2, "a path that was checked");
        let places: Vec<String> = (3..=params.len()).map(|place| format!("${place}")).collect();
        let above = format!("{HEADS} AND id <> $2 AND path IN ({}) LIMIT 1", places.join(", "));
        let mut found = tx.one(&above, &params, head)?;
        if found.is_none() {
            let (from, to) = below(path);
            let sql = format!("{HEADS} AND id <> $2 AND path >= $3 AND path < $4 LIMIT 1");
            found = tx.one(&sql, vals![&self.id, moved, &from, &to], head)?;
        }
        let Some(other) = found else { return Ok(()) };
        let message = if other.path != path {
            format!(
                "path `{path}` conflicts with existing memory at `{}`: a memory and a path prefix of it cannot coexist. \
                 Delete or rename the other memory first.",
                other.path
            )
        } else if moved.is_empty() {
            format!("path `{path}` is already used by `{}`; use update to modify it", other.id)
        } else {
            format!("path `{path}` is already used by `{}`; delete it first to rename-and-replace", other.id)
        };
        Err(Error::MemoryPathConflict { message, memory_id: other.id.to_string(), path: other.path })
    }
}

struct Version<'a> {
    memory: &'a MemoryId,
    base: Option<&'a MemoryVersionId>,
    operation: Operation,
    path: &'a str,
    /// And its hash; `None` of what is deleted.
    content: Option<(&'a str, &'a str)>,
}

/// Below a folder `path`, without the slash at its end, are the paths from the first of these on and before the second.
pub(super) fn below(path: &str) -> (String, String) {
    // `0` is the character after the slash.
    (format!("{path}/"), format!("{path}0"))
}

/// The content that a version holds.
fn content_of(tx: &mut Tx<'_>, version: &MemoryVersionId) -> Result<String> {
    let found = contents(tx, std::slice::from_ref(version))?.pop().flatten();
    found.ok_or_else(|| Error::internal(format!("the store has no content of version {version}")))
}

/// The content of each of `versions`; `None` where there is none any more.
pub fn contents(tx: &mut Tx<'_>, versions: &[MemoryVersionId]) -> Result<Vec<Option<String>>> {
    let sql = "SELECT content FROM memory_versions WHERE id = $1";
    let content = |version| Ok(tx.one(sql, vals![version], |row| row.opt_text(0))?.flatten());
    versions.iter().map(content).collect()
}

/// How many changes a store has had. `None` when there is none such.
pub fn changes(tx: &mut Tx<'_>, workspace: &WorkspaceId, store: &str) -> Result<Option<i64>> {
    let sql = "SELECT changes FROM memory_stores WHERE workspace_id = $1 AND id = $2";
    tx.one(sql, vals![workspace, store], |row| row.int(0))
}

/// The error for a memory that does not exist.
pub(super) fn not_found(id: &str) -> Error {
    Error::NotFound(format!("memory `{id}` not found"))
}

/// The memories of a store, which are at most [`MAX_MEMORIES`].
pub fn heads(tx: &mut Tx<'_>, store: &str) -> Result<Vec<Head>> {
    tx.all(HEADS, vals![store], head)
}
