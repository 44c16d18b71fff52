//! The one occurrence of a deployment that has come and is not decided on: it waits for a place, or for another attempt.

use rota_api::{
    Time,
    deployment::RunError,
    id::{DeploymentId, WorkspaceId},
};
use serde::{Deserialize, Serialize};

use super::schedule;
use crate::{
    db::{Tx, vals},
    error::Result,
    scheduler::settle::SkipReason,
};

/// An occurrence that is not decided on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    /// The occurrence.
    pub(super) scheduled_at: Time,
    /// Up to where occurrences were accounted for before it.
    pub(super) after: Time,
    /// How many attempts to start its session have failed.
    pub(super) attempts: u32,
    /// When the next attempt is due; `None` while it waits for a place.
    pub(super) retry_at: Option<Time>,
    /// Why the last attempt failed.
    pub(super) error: Option<RunError>,
}

impl Pending {
    /// An occurrence that has just come.
    pub(super) fn new(scheduled_at: Time, after: Time) -> Self {
        Self { scheduled_at, after, attempts: 0, retry_at: None, error: None }
    }

    /// Why it never fires, once the next occurrence has come.
    pub(super) fn overtaken(&self) -> SkipReason {
        if self.retry_at.is_some() { SkipReason::Missed } else { SkipReason::Overlap }
    }

    /// Keeps it. The scheduler looks again when the next attempt or the next occurrence is due, or a place is free.
    pub(super) fn hold(
        &self,
        tx: &mut Tx<'_>,
        workspace: &WorkspaceId,
        id: &DeploymentId,
        next_occurrence: Option<Time>,
    ) -> Result<()> {
        let next = next_occurrence.into_iter().chain(self.retry_at).min();
        tx.execute(
            "UPDATE deployments SET pending = $3, next_fire_at = $4 WHERE workspace_id = $1 AND id = $2",
            vals![workspace, id, &serde_json::to_string(self)?, next],
        )?;
        Ok(())
    }

    /// Records why it never fires.
    pub(super) fn pass_over(&self, tx: &mut Tx<'_>, id: &str, reason: SkipReason) -> Result<()> {
        let occurrence = self.scheduled_at.timestamp();
        schedule::skip(tx, id, self.after.timestamp(), &(occurrence..=occurrence), reason)
    }
}
