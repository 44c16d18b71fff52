//! Whether a session has done anything but look.

use rota_api::{
    Time,
    event::{Event, EventBody},
    id::SessionId,
};

use super::fold::only_looks;
use crate::{
    db::{Tx, vals},
    error::Result,
    limits::{LOG_BATCH_BYTES, STREAM_BATCH},
};

/// Whether the agent has called a tool since `since` that may change something: any but those that read and search, whether or not the call was run.
pub(super) fn has_acted(tx: &mut Tx<'_>, session: &SessionId, since: Time) -> Result<bool> {
    let others = "SELECT 1 FROM session_events WHERE session_id = $1 AND processed_at >= $2
         AND type IN ('agent.mcp_tool_use', 'agent.custom_tool_use') LIMIT 1";
    if tx.one(others, vals![session, since], |_| Ok(()))?.is_some() {
        return Ok(true);
    }
    let own = "SELECT seq, body FROM session_events WHERE session_id = $1 AND seq > $2 AND processed_at >= $4 AND type = 'agent.tool_use'
         ORDER BY seq LIMIT $3";
    let mut last = 0;
    loop {
        let (calls, _) = tx.within(LOG_BATCH_BYTES, own, vals![session, last, STREAM_BATCH, since], |row| {
            Ok((row.int(0)?, row.json::<Event>(1)?.body))
        })?;
        let Some((seq, _)) = calls.last() else { return Ok(false) };
        last = *seq;
        let looks = |body: &EventBody| matches!(body, EventBody::AgentToolUse { name, .. } if only_looks(name));
        if calls.iter().any(|(_, body)| !looks(body)) {
            return Ok(true);
        }
    }
}
