//! The table of a resource: its rows belong to workspaces and have an id.

use rota_api::id::WorkspaceId;

use super::{Row, Select, Tx, vals};
use crate::error::{Error, Result};

/// A table whose rows are found by their workspace and their id, and what a row says.
pub struct Table<T> {
    /// What it is called.
    pub name: &'static str,
    /// The columns that `read` asks for.
    pub columns: &'static str,
    /// Reads a row.
    pub read: fn(&Row<'_>) -> Result<T>,
    /// The error for a row that does not exist, or belongs to another workspace.
    pub missing: fn(&str) -> Error,
}

impl<T> Table<T> {
    /// Selects the rows of a workspace, to which conditions can be added.
    pub fn select(&self, workspace: &WorkspaceId) -> Select {
        Select::new(&self.select_sql(), workspace)
    }

    fn select_sql(&self) -> String {
        format!("SELECT {} FROM {} WHERE workspace_id = $1", self.columns, self.name)
    }

    /// Every row of a workspace, oldest first: for a resource of which there are few.
    pub fn all(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId) -> Result<Vec<T>> {
        tx.all(&format!("{} ORDER BY id", self.select_sql()), vals![workspace], self.read)
    }

    /// The row `id`.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn get(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<T> {
        let sql = format!("{} AND id = $2", self.select_sql());
        tx.one_or(&sql, vals![workspace, id], self.read, || (self.missing)(id))
    }

    /// Keeps other transactions from changing the row `id` until this one ends; see [`Tx::lock`].
    pub fn lock(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
        tx.lock(&format!("{} WHERE workspace_id = $1 AND id = $2", self.name), vals![workspace, id])
    }

    /// Archives the row `id`, where there is one that is not archived yet. Whether it did.
    pub fn archive(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<bool> {
        let sql = format!(
            "UPDATE {} SET archived_at = $3, updated_at = $3 WHERE workspace_id = $1 AND id = $2 AND archived_at IS NULL",
            self.name
        );
        tx.changes(&sql, vals![workspace, id, tx.now()])
    }

    /// Deletes the row `id`.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn delete(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE workspace_id = $1 AND id = $2", self.name);
        if tx.changes(&sql, vals![workspace, id])? { Ok(()) } else { Err((self.missing)(id)) }
    }
}
