//! First events of a deployment, sent to a session that is at rest.

use rota_api::id::{EnvironmentId, RunId, SessionId, WorkspaceId};
use serde_json::{Value, value::RawValue};

use super::log;
use crate::{
    db::{Tx, vals},
    error::Result,
    resources::{
        sessions::{self, status},
        work_queue,
    },
};

/// Sends `events`, as a deployment has them, to a session at rest that the transaction holds, on behalf of `run`: it goes to work.
pub fn send(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId, events: &str, run: &RunId) -> Result<()> {
    let sql =
        "SELECT next_input, outcomes, environment_id, self_hosted FROM sessions WHERE workspace_id = $1 AND id = $2";
    let found = tx.one(sql, vals![workspace, session], |row| {
        Ok((row.int(0)?, row.json::<Vec<Value>>(1)?, row.id::<EnvironmentId>(2)?, row.int(3)? == 1))
    })?;
    let (next_input, mut outcomes, environment, is_self_hosted) =
        found.ok_or_else(|| sessions::not_found(session.as_ref()))?;
    let events: Vec<&RawValue> = serde_json::from_str(events)?;
    for (place, event) in (next_input..).zip(&events) {
        outcomes.extend(log::insert_initial(tx, session, place, event)?);
    }
    tx.send(
        "UPDATE sessions SET next_input = next_input + $3, outcomes = $4, run_id = $5 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, session, events.len() as i64, &serde_json::to_string(&outcomes)?, run],
    )?;
    if is_self_hosted {
        work_queue::need(tx, workspace, &environment, session)?;
    }
    status::begin(tx, workspace, session)
}
