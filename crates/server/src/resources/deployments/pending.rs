//! Keeps the occurrence of a deployment that is not decided on, and records why one never fires.

use rota_api::{
    Time,
    id::{DeploymentId, WorkspaceId},
};

use super::schedule;
use crate::{
    db::{Tx, vals},
    error::Result,
    scheduler::settle::SkipReason,
};

pub(super) use crate::scheduler::pending::Pending;

impl Pending {
    /// Keeps it. The scheduler looks again when the next attempt or the next occurrence is due, or a place is free.
    pub(super) fn hold(
        &self,
        tx: &mut Tx<'_>,
        workspace: &WorkspaceId,
        id: &DeploymentId,
        next_occurrence: Option<Time>,
    ) -> Result<()> {
        tx.execute(
            "UPDATE deployments SET pending = $3, next_fire_at = $4 WHERE workspace_id = $1 AND id = $2",
            vals![workspace, id, &serde_json::to_string(self)?, self.look_at(next_occurrence)],
        )?;
        Ok(())
    }

    /// Records why it never fires.
    pub(super) fn pass_over(&self, tx: &mut Tx<'_>, id: &str, reason: SkipReason) -> Result<()> {
        let occurrence = self.scheduled_at.timestamp();
        schedule::skip(tx, id, self.after.timestamp(), &(occurrence..=occurrence), reason)
    }
}
