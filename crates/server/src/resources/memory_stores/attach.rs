//! Memory stores as resources of a session: which it has, and where each is mounted.

use rota_api::{
    id::{MemoryStoreId, SessionId, WorkspaceId},
    memory,
    session::{Access, Resource},
};
use serde::{Deserialize, Serialize};

use crate::{
    db::{Question, Tx, vals},
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

/// Asks for the stores among `resources`, as [`resolve`] tells them.
pub fn ask(tx: &mut Tx<'_>, workspace: &WorkspaceId, resources: &[Resource]) -> Result<Vec<Question>> {
    let stores = resources.iter().filter_map(|resource| match resource {
        Resource::MemoryStore { memory_store_id, .. } => Some(memory_store_id),
        _ => None,
    });
    let sql = "SELECT id, name, description, archived_at FROM memory_stores WHERE workspace_id = $1 AND id = $2";
    stores.map(|id| tx.ask(sql, vals![workspace, id])).collect()
}

/// The stores among `resources`, as a new session shows them, in their order; or why it cannot have one of them. `asked` is what
/// [`ask`] asked.
pub fn resolve(
    tx: &mut Tx<'_>,
    asked: Vec<Question>,
    resources: &[Resource],
) -> Result<Result<Vec<StoreResource>, Unattachable>> {
    let mut stores: Vec<StoreResource> = Vec::new();
    let mut asked = asked.into_iter();
    for resource in resources {
        let Resource::MemoryStore { memory_store_id, access, instructions } = resource else { continue };
        let asked = asked.next().expect("each store was asked for");
        let found = tx.answer(asked, |row| {
            Ok((row.id("id")?, row.text("name")?, row.text("description")?, row.opt_time("archived_at")?))
        })?;
        let Some((id, name, description, archived_at)) = found.into_iter().next() else {
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

/// Gives a new session a store, which has the place `place` among those that it has.
pub fn attach(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    place: i64,
    store: &StoreResource,
) -> Result<()> {
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
    )
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
}
