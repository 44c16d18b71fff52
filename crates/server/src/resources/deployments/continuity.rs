//! What a run has of those before it: their session, or what one of them said last.

use rota_api::{
    event::{Event, EventBody},
    id::{RunId, SessionId, WorkspaceId},
    policy::SessionChoice,
};
use serde_json::{Value, value::RawValue};

use super::run::{Cause, Target};
use crate::{
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::CARRIED_RUNS,
    resources::sessions::{events::more, stored_status},
    scheduler::continuity::{self, Last},
};

/// Reads the column `session_choice`.
pub(super) fn choice_of_row(row: &Row<'_>) -> Result<Option<SessionChoice>> {
    let unknown = |name: &str| Error::internal(format!("the store has a policy with the session {name}"));
    let choice = row.opt_text("session_choice")?;
    choice.map(|name| SessionChoice::from_name(&name).ok_or_else(|| unknown(&name))).transpose()
}

/// Sends the first events of a deployment to the session of its last run, where its policy wants that and the session is at rest.
/// Returns that session. `None`: a new one is to be made.
///
/// A session that somebody else holds, as who sends to it at this moment, or its runner, is not waited for: it is not at rest.
pub(super) fn go_on(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    target: &Target,
    cause: &Cause,
    run: &RunId,
) -> Result<Option<SessionId>> {
    // What follows a session that died is a new one.
    if target.session != Some(SessionChoice::Continue) || cause.kept.follows.is_some() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT s.id, s.status, s.stop_reason, s.archived_at, s.agent_id, s.agent_version, s.environment_id, s.vault_ids, s.next_seq,
             s.log_bytes, octet_length(s.outcomes) AS outcomes
         FROM sessions s WHERE s.workspace_id = $1 AND s.id = (
             SELECT r.session_id FROM deployment_runs r WHERE r.deployment_id = $2 AND r.session_id IS NOT NULL
             ORDER BY r.id DESC LIMIT 1){}",
        tx.skip_locked("s")
    );
    let last = tx.one(&sql, vals![workspace, &target.id], |row| {
        let is_of_the_deployment = row.text("agent_id")? == target.agent.id.as_ref()
            && row.int("agent_version")? == target.agent.version
            && row.text("environment_id")? == target.environment_id.as_ref()
            && row.text("vault_ids")? == target.vault_ids;
        let last = Last {
            status: stored_status(&row.text("status")?)?,
            has_ended_well: row.opt_text("stop_reason")?.as_deref() == Some("end_turn"),
            is_archived: row.opt_time("archived_at")?.is_some(),
            is_of_the_deployment,
            events: row.int("next_seq")? - 1,
            bytes: row.int("log_bytes")?,
            outcomes: row.int("outcomes")?,
        };
        Ok((row.id::<SessionId>("id")?, last))
    })?;
    let Some((session, _)) = last.filter(|(_, last)| continuity::goes_on(last, target.initial_events.len())) else {
        return Ok(None);
    };
    more::send(tx, workspace, &session, &target.initial_events, run)?;
    Ok(Some(session))
}

/// The first events of a new session, with what an earlier run said last before them. `None` where nothing is to be told, or nothing
/// was said.
pub(super) fn told(tx: &mut Tx<'_>, workspace: &WorkspaceId, target: &Target) -> Result<Option<String>> {
    let Some(most) = target.carry_forward else { return Ok(None) };
    let sql = "SELECT r.session_id, r.created_at FROM (
             SELECT id, session_id, created_at FROM deployment_runs WHERE deployment_id = $2 AND session_id IS NOT NULL
             ORDER BY id DESC LIMIT $3) r
         JOIN sessions s ON s.workspace_id = $1 AND s.id = r.session_id WHERE s.stop_reason = 'end_turn'
         ORDER BY r.id DESC LIMIT 1";
    let last = tx.one(sql, vals![workspace, &target.id, CARRIED_RUNS], |row| Ok((row.text(0)?, row.time(1)?)))?;
    let Some((session, at)) = last else { return Ok(None) };
    let sql =
        "SELECT body FROM session_events WHERE session_id = $1 AND type = 'agent.message' ORDER BY seq DESC LIMIT 1";
    let Some(event) = tx.one(sql, vals![&session], |row| row.json::<Event>(0))? else { return Ok(None) };
    let EventBody::AgentMessage { content } = event.body else { return Ok(None) };
    let said: Vec<&str> = content.iter().filter_map(|block| block["text"].as_str()).collect();
    if said.is_empty() {
        return Ok(None);
    }
    let told = continuity::told(&said.join("\n"), most as usize, at);
    let first = serde_json::json!({"type": "user.message", "content": [{"type": "text", "text": told}]});
    let first = serde_json::value::to_raw_value::<Value>(&first)?;
    let mut events: Vec<Box<RawValue>> = serde_json::from_str(&target.initial_events)?;
    events.insert(0, first);
    Ok(Some(serde_json::to_string(&events)?))
}
