//! Which schedules are held. Rota's own.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{Time, id::WorkspaceId};

/// Which schedules are held: what is due meanwhile is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ScheduleHolds {
    /// Always `schedule_holds`.
    pub r#type: &'static str,
    /// Since when those of all workspaces are; null while they are not.
    pub held_at: Option<Time>,
    /// The workspaces whose own are, by name.
    pub workspaces: Vec<HeldWorkspace>,
}

/// A workspace whose schedules are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HeldWorkspace {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// Since when.
    pub held_at: Time,
}
