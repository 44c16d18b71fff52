//! Memory stores as resources of a session: which it has, where each is mounted, and what its agent is told of them.

use rota_api::{
    id::{MemoryStoreId, SessionId, WorkspaceId},
    memory,
    session::{Access, Resource},
};
use serde::{Deserialize, Serialize};

use crate::{
    db::{Tx, vals},
    error::{Error, Result},
};

/// Below this folder of a sandbox are the stores of its session.
pub const FOLDER: &str = "/mnt/memory";

/// A store as a resource of a session: its name and description are those of the time at which the session was created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreResource {
    memory_store_id: MemoryStoreId,
    r#type: Kind,
    access: Access,
    description: String,
    mount_path: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instructions: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "memory_store")]
    MemoryStore,
}

/// Why a session cannot have a store.
#[derive(Debug)]
pub enum Unattachable {
    /// There is none with this id in the workspace.
    Missing(String),
    /// The one with this id is archived.
    Archived(String),
}

impl From<Unattachable> for Error {
    fn from(why: Unattachable) -> Self {
        match why {
            Unattachable::Missing(id) => super::store::not_found(&id),
            Unattachable::Archived(id) => Self::invalid(format_args!("Memory store {id} is archived.")),
        }
    }
}

/// The stores among `resources`, as a new session shows them, in their order; or why it cannot have one of them.
pub fn resolve(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    resources: &[Resource],
) -> Result<Result<Vec<StoreResource>, Unattachable>> {
    let mut stores: Vec<StoreResource> = Vec::new();
    for resource in resources {
        let Resource::MemoryStore { memory_store_id, access, instructions } = resource else { continue };
        let sql = "SELECT id, name, description, archived_at FROM memory_stores WHERE workspace_id = $1 AND id = $2";
        let found = tx.one(sql, vals![workspace, memory_store_id], |row| {
            Ok((row.id("id")?, row.text("name")?, row.text("description")?, row.opt_time("archived_at")?))
        })?;
        let Some((id, name, description, archived_at)) = found else {
            return Ok(Err(Unattachable::Missing(memory_store_id.clone())));
        };
        if archived_at.is_some() {
            return Ok(Err(Unattachable::Archived(memory_store_id.clone())));
        }
        let slug = memory::slug(&name, &id, |slug| stores.iter().any(|store| store.slug() == slug));
        stores.push(StoreResource {
            memory_store_id: id,
            r#type: Kind::MemoryStore,
            access: access.unwrap_or(Access::ReadWrite),
            description,
            mount_path: format!("{FOLDER}/{slug}"),
            name,
            instructions: instructions.clone(),
        });
    }
    Ok(Ok(stores))
}

/// Gives a new session its stores.
pub fn attach(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, stores: &[StoreResource]) -> Result<()> {
    for (place, store) in (0_i64..).zip(stores) {
        tx.add(
            "INSERT INTO session_memory_stores (session_id, place, workspace_id, store_id, slug, read_only)
             VALUES ($1, $2, $3, $4, $5, $6)",
            vals![
                session,
                place,
                workspace,
                &store.memory_store_id,
                store.slug(),
                i64::from(store.access == Access::ReadOnly)
            ],
        )?;
    }
    Ok(())
}

/// A store that a session has.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The store, which may be gone.
    pub store: MemoryStoreId,
    /// Its folder below [`FOLDER`].
    pub slug: String,
    /// Whether the agent can only read it.
    pub read_only: bool,
}

/// The stores that a session has.
pub fn attached(tx: &mut Tx<'_>, session: &SessionId) -> Result<Vec<Attached>> {
    let sql = "SELECT store_id, slug, read_only FROM session_memory_stores
         WHERE session_id = $1 ORDER BY place";
    tx.all(sql, vals![session], |row| {
        Ok(Attached { store: row.id(0)?, slug: row.text(1)?, read_only: row.int(2)? != 0 })
    })
}

/// How many changes each store of a session has had, in the order of [`attached`]; `None` for one that is gone.
pub fn changes(tx: &mut Tx<'_>, session: &SessionId) -> Result<Vec<Option<i64>>> {
    let sql = "SELECT s.changes FROM session_memory_stores m
         LEFT JOIN memory_stores s ON s.workspace_id = m.workspace_id AND s.id = m.store_id
         WHERE m.session_id = $1 ORDER BY m.place";
    tx.all(sql, vals![session], |row| row.opt_int(0))
}

impl StoreResource {
    fn slug(&self) -> &str {
        self.mount_path.rsplit('/').next().unwrap_or_default()
    }

    /// The line of a system prompt.
    fn told(&self) -> String {
        let access = if self.access == Access::ReadOnly { "read-only" } else { "read-write" };
        let mut text = format!(" - \"{}\" → {}/ ({access})", self.name, self.mount_path);
        if !self.description.is_empty() {
            text += &format!(": {}", self.description);
        }
        if let Some(instructions) = self.instructions.as_deref().filter(|text| !text.is_empty()) {
            text += &format!("\n   {instructions}");
        }
        text
    }
}

/// What the agent of a session is told of its stores, given the session's resources as JSON; `None` where it has none.
/// Recorded: a store that was deleted meanwhile is still listed.
pub fn prompt(resources: &str, self_hosted: bool) -> Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Any {
        Store(StoreResource),
        Other(serde::de::IgnoredAny),
    }
    let resources: Vec<Any> = serde_json::from_str(resources)?;
    let stores = resources.iter().filter_map(|resource| match resource {
        Any::Store(store) => Some(store.told()),
        Any::Other(_) => None,
    });
    let lines: Vec<String> = stores.collect();
    let races = if self_hosted { RACES_OF_WORKERS } else { RACES };
    Ok((!lines.is_empty()).then(|| format!("{PERSISTENCE} {races}\n\n{HEADING}\n{}", lines.join("\n"))))
}

const PERSISTENCE: &str = "You have persistent memory: files in the directories below are kept after this session and are \
    there in later ones. Look at them before you begin, for they may hold what you need to know. Write down what will be \
    of use later as small text files, each under a path that says what it is about. Others may read and change them while \
    you work:";

const RACES: &str = "when a change of yours was not taken over, the result of the tool call says so.";

/// The official worker takes over changes every 15 seconds and at the end, and gives way to what others wrote.
const RACES_OF_WORKERS: &str = "changes are taken over every few seconds and at the end of your work, and where somebody else \
    changed the same file meanwhile, theirs replaces yours. Look again at what you wrote when it matters.";

const HEADING: &str = "Available stores (write only inside the directories listed below):";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_told_of_each_store_in_one_line_and_its_instructions() {
        let resources = serde_json::json!([
            {"type": "file", "id": "sesrsc_1", "file_id": "file_1"},
            {"memory_store_id": "memstore_1", "type": "memory_store", "access": "read_write", "description": "",
             "mount_path": "/mnt/memory/notes", "name": "Notes"},
            {"memory_store_id": "memstore_2", "type": "memory_store", "access": "read_only", "description": "How we write.",
             "mount_path": "/mnt/memory/style", "name": "Style", "instructions": "Follow it."},
        ]);
        let text = prompt(&resources.to_string(), false).unwrap().unwrap();
        assert!(text.contains("the result of the tool call says so."), "{text}");
        let (_, list) = text.split_once("below):\n").unwrap();
        let lines = " - \"Notes\" → /mnt/memory/notes/ (read-write)\n - \"Style\" → /mnt/memory/style/ (read-only): \
            How we write.\n   Follow it.";
        assert_eq!(list, lines);
        let of_a_worker = prompt(&resources.to_string(), true).unwrap().unwrap();
        assert!(of_a_worker.contains("theirs replaces yours") && of_a_worker.ends_with(lines), "{of_a_worker}");
        assert_eq!(prompt("[]", false).unwrap(), None);
    }
}
