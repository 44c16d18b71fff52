//! Whether a workspace is closed: nothing starts there, and nothing may be changed.

use rota_api::Time;

/// Why a workspace is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The operator disabled the organization, and may enable it again.
    OrganizationDisabled,
    /// The workspace was archived, for good.
    WorkspaceArchived,
}

impl Closed {
    /// What these two columns of the store say of a workspace; `None` when it is open.
    pub fn of(workspace_archived_at: Option<Time>, organization_disabled_at: Option<Time>) -> Option<Self> {
        match (organization_disabled_at, workspace_archived_at) {
            (Some(_), _) => Some(Self::OrganizationDisabled),
            (None, Some(_)) => Some(Self::WorkspaceArchived),
            (None, None) => None,
        }
    }
}
