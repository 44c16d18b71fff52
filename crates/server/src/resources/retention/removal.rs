//! Removes what goes, some of it in each transaction. What was found is looked at again: it may have gone to work meanwhile.

use rota_api::{
    id::{Id, SessionId, WorkspaceId},
    retention::RetentionKind,
};

use super::going::{Going, History, still_goes};
use crate::{
    config::RetentionConfig,
    db::{Tx, vals},
    error::Result,
    limits::RETENTION_EVERY,
    resources::{deployments::history, files, sessions, webhook_outbox::Outbox},
};

/// Takes the sweep of this hour for this server, unless another one has.
pub fn claim(tx: &mut Tx<'_>) -> Result<bool> {
    let next = tx.now().plus_micros(i64::try_from(RETENTION_EVERY.as_micros()).unwrap_or(i64::MAX));
    tx.changes(
        "INSERT INTO retention_sweeps (place, next_at) VALUES (1, $2)
         ON CONFLICT (place) DO UPDATE SET next_at = $2 WHERE retention_sweeps.next_at <= $1",
        vals![tx.now(), next],
    )
}

/// Has the histories of deployments begin later. Whether there may be more of any.
pub fn shorten(tx: &mut Tx<'_>, workspace: &WorkspaceId, histories: &[History]) -> Result<bool> {
    let mut more = false;
    for History { deployment, mark } in histories {
        more |= history::begin_after(tx, workspace, deployment, *mark)?;
    }
    Ok(more)
}

/// Removes what was found of a kind. Returns how much.
pub fn remove(tx: &mut Tx<'_>, kind: RetentionKind, going: &[Going], config: &RetentionConfig) -> Result<u64> {
    let (mut removed, mut outbox) = (0, Outbox::default());
    for Going { workspace, place: (id, second) } in going {
        removed += u64::from(match kind {
            RetentionKind::Sessions => {
                let goes = still_goes(tx, kind, workspace, id, config)?;
                if goes {
                    sessions::forget(tx, &mut outbox, workspace, &SessionId::trusted(id.clone()))?;
                }
                goes
            }
            RetentionKind::Outputs => {
                still_goes(tx, kind, workspace, second, config)? && files::remove(tx, workspace, id)?
            }
            RetentionKind::Runs => history::forget_run(tx, workspace, id)?,
            RetentionKind::Deliveries => tx.changes(
                "DELETE FROM webhook_deliveries WHERE endpoint_id = $1 AND event_id = $2 AND state <> 'pending'",
                vals![second, id],
            )?,
            RetentionKind::Egress => tx.changes("DELETE FROM egress WHERE id = $1", vals![id])?,
            RetentionKind::Audit => tx.changes("DELETE FROM audit WHERE id = $1", vals![id])?,
        });
    }
    Ok(removed)
}
