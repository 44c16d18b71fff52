//! How long things are kept, in days.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    fields::{Whole, described, names},
    id::{DeploymentId, WorkspaceId},
};

/// The most days for which something can be kept: a hundred years.
pub const MAX_DAYS: i64 = 36_500;
/// The most days for which deliveries of webhooks and the egress log are kept, whatever is set.
pub const MAX_LOG_DAYS: i64 = 30;

/// How long a workspace keeps what it has: what holds, whether it was set or is the server's configuration. Null: for ever.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WorkspaceRetention {
    /// Always `workspace_retention`.
    pub r#type: &'static str,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// Sessions at rest, with their events and files, after they came to rest.
    pub sessions_days: Option<u32>,
    /// Files that agents left in their outputs, after their session came to rest.
    pub outputs_days: Option<u32>,
    /// Runs and what became of occurrences.
    pub runs_days: Option<u32>,
    /// Deliveries of webhooks that are no longer tried.
    pub deliveries_days: Option<u32>,
    /// The egress log.
    pub egress_days: Option<u32>,
    /// The audit list. Only the server's configuration sets it.
    pub audit_days: Option<u32>,
}

described! {
    /// What of a workspace differs from the server's configuration.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    WorkspaceDays,
    /// An update request. What is cleared goes back to the configuration.
    UpdateWorkspaceRetention {
        /// Sessions at rest.
        sessions_days: u32, clears as Whole(1, MAX_DAYS);
        /// Files that agents left in their outputs.
        outputs_days: u32, clears as Whole(1, MAX_DAYS);
        /// Runs and what became of occurrences.
        runs_days: u32, clears as Whole(1, MAX_DAYS);
        /// Deliveries of webhooks.
        deliveries_days: u32, clears as Whole(1, MAX_LOG_DAYS);
        /// The egress log.
        egress_days: u32, clears as Whole(1, MAX_LOG_DAYS);
    }
}

/// How long a deployment keeps what it has: what holds, wherever it was set. Null: for ever.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeploymentRetention {
    /// Always `deployment_retention`.
    pub r#type: &'static str,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its sessions at rest, with their events and files, after they came to rest.
    pub sessions_days: Option<u32>,
    /// Files that agents left in their outputs, after their session came to rest.
    pub outputs_days: Option<u32>,
    /// Its runs and what became of its occurrences.
    pub runs_days: Option<u32>,
}

described! {
    /// What of a deployment differs from its workspace.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    DeploymentDays,
    /// An update request. What is cleared goes back to the workspace's.
    UpdateDeploymentRetention {
        /// Sessions at rest.
        sessions_days: u32, clears as Whole(1, MAX_DAYS);
        /// Files that agents left in their outputs.
        outputs_days: u32, clears as Whole(1, MAX_DAYS);
        /// Runs and what became of occurrences.
        runs_days: u32, clears as Whole(1, MAX_DAYS);
    }
}

names! {
    /// The kinds of what is kept for a time.
    #[derive(JsonSchema, Hash, PartialOrd, Ord)]
    RetentionKind {
        /// Sessions at rest.
        "sessions" => Sessions,
        /// Files that agents left in their outputs.
        "outputs" => Outputs,
        /// Runs.
        "runs" => Runs,
        /// Deliveries of webhooks.
        "deliveries" => Deliveries,
        /// Rows of the egress log.
        "egress" => Egress,
        /// Rows of the audit list.
        "audit" => Audit,
    }
}

/// What the next sweep would remove.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RetentionPreview {
    /// Always `retention_preview`.
    pub r#type: &'static str,
    /// A line for each kind.
    pub data: Vec<RetentionPreviewLine>,
}

/// How much of a kind the next sweep would remove.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RetentionPreviewLine {
    /// The kind.
    pub kind: RetentionKind,
    /// How many would go.
    pub count: i64,
    /// Whether there may be more: only so many are looked at.
    pub is_cut: bool,
}
