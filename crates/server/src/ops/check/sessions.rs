//! Sessions: whether each is in a state that can be, and has all of its log.

use rota_api::{
    Time,
    id::{SessionId, WorkspaceId},
    session::Status,
};

use super::Findings;
use crate::{
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::CHECKED_SESSIONS_AT_ONCE,
    ops::source::Source,
    resources::sessions::events::log,
};

/// What a session is, and what its log has.
struct Found {
    workspace: WorkspaceId,
    id: SessionId,
    status: String,
    has_agent: bool,
    waits: bool,
    runnable_at: Option<Time>,
    running_since: Option<Time>,
    lease_owner: Option<String>,
    lease_expires_at: Option<Time>,
    archived_at: Option<Time>,
    /// The number of the last event that was given one.
    last: i64,
    events: i64,
    first_event: Option<i64>,
    last_event: Option<i64>,
}

pub(super) fn check(source: &Source, found: &mut Findings) -> Result<()> {
    let (mut workspace, mut id) = (String::new(), String::new());
    loop {
        let after = (workspace.clone(), id.clone());
        let page = source.read(move |tx| page(tx, &after.0, &after.1))?;
        let Some(last) = page.last() else { break };
        (workspace, id) = (last.workspace.to_string(), last.id.to_string());
        for session in &page {
            found.checked.sessions += 1;
            found.checked.events += session.events as u64;
            for problem in session.problems() {
                found.add("state", Some(&session.workspace), &session.id, &problem);
            }
            if let Some(problem) = session.gap() {
                found.add("log", Some(&session.workspace), &session.id, &problem);
            }
            read_log(source, session, found)?;
        }
    }
    let lost = source.read(|tx| {
        tx.all(
            "SELECT e.session_id, count(*) FROM session_events e LEFT JOIN sessions s ON s.id = e.session_id
             WHERE s.id IS NULL GROUP BY e.session_id ORDER BY e.session_id LIMIT $1",
            vals![CHECKED_SESSIONS_AT_ONCE],
            |row| Ok((row.text(0)?, row.int(1)?)),
        )
    })?;
    for (session, events) in lost {
        found.add("log", None, &session, &format_args!("{events} events are of a session that is not there"));
    }
    Ok(())
}

fn page(tx: &mut Tx<'_>, workspace: &str, id: &str) -> Result<Vec<Found>> {
    tx.all(
        "SELECT s.workspace_id, s.id, s.status, s.runnable_at, s.running_since, s.lease_owner, s.lease_expires_at, s.archived_at,
             s.next_seq - 1 AS last, CASE WHEN s.waiting_on IS NULL THEN 0 ELSE 1 END AS waits,
             (SELECT count(*) FROM agent_versions v WHERE v.agent_id = s.agent_id AND v.version = s.agent_version) AS agents,
             (SELECT count(*) FROM session_events e WHERE e.session_id = s.id) AS events,
             (SELECT min(e.seq) FROM session_events e WHERE e.session_id = s.id) AS first_event,
             (SELECT max(e.seq) FROM session_events e WHERE e.session_id = s.id) AS last_event
         FROM sessions s WHERE (s.workspace_id, s.id) > ($1, $2) ORDER BY s.workspace_id, s.id LIMIT $3",
        vals![workspace, id, CHECKED_SESSIONS_AT_ONCE],
        from_row,
    )
}

fn from_row(row: &Row<'_>) -> Result<Found> {
    Ok(Found {
        workspace: row.id("workspace_id")?,
        id: row.id("id")?,
        status: row.text("status")?,
        has_agent: row.int("agents")? > 0,
        waits: row.int("waits")? > 0,
        runnable_at: row.opt_time("runnable_at")?,
        running_since: row.opt_time("running_since")?,
        lease_owner: row.opt_text("lease_owner")?,
        lease_expires_at: row.opt_time("lease_expires_at")?,
        archived_at: row.opt_time("archived_at")?,
        last: row.int("last")?,
        events: row.int("events")?,
        first_event: row.opt_int("first_event")?,
        last_event: row.opt_int("last_event")?,
    })
}

impl Found {
    /// What of its state cannot be.
    fn problems(&self) -> Vec<String> {
        let status = &self.status;
        let Some(known) = STATUSES.into_iter().find(|known| known.as_str() == status) else {
            return vec![format!("its status is \"{status}\", which is none")];
        };
        let is_at_work = matches!(known, Status::Running | Status::Rescheduling);
        let rules = [
            (is_at_work && self.runnable_at.is_none(), "it is at work, and no server would take it up"),
            (!is_at_work && self.runnable_at.is_some(), "it is at rest, and a server would take it up"),
            (!is_at_work && self.lease_owner.is_some(), "it is at rest, and a server runs it"),
            (known == Status::Idle && self.running_since.is_some(), "it is idle, and counts as running"),
            (known == Status::Terminated && self.waits, "it has ended, and waits for answers"),
            (known != Status::Terminated && self.archived_at.is_some(), "it is archived and has not ended"),
            (self.lease_owner.is_some() != self.lease_expires_at.is_some(), "its lease has no owner, or no end"),
            (!self.has_agent, "the version of its agent is not there"),
        ];
        rules.iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| format!("{what} (status {status})")).collect()
    }

    /// What of its log is not there.
    fn gap(&self) -> Option<String> {
        let (first, last) = (self.first_event.unwrap_or(1), self.last_event.unwrap_or(0));
        if first == 1 && last == self.last && self.events == self.last {
            return None;
        }
        let Self { events, last: numbered, .. } = self;
        Some(format!("its log has {events} events, from {first} to {last}, and {numbered} were numbered"))
    }
}

const STATUSES: [Status; 4] = [Status::Idle, Status::Running, Status::Rescheduling, Status::Terminated];

/// Reads each event of a session.
fn read_log(source: &Source, session: &Found, found: &mut Findings) -> Result<()> {
    let mut seq = 0;
    loop {
        let id = session.id.clone();
        match source.read(move |tx| log::read(tx, &id, seq)) {
            Ok((events, more)) => {
                seq = events.last().map_or(seq, |event| event.seq);
                if !more {
                    return Ok(());
                }
            }
            Err(error @ Error::Database(_)) => return Err(error),
            Err(error) => {
                let problem = format!("its log cannot be read after event {seq}: {error}");
                found.add("log", Some(&session.workspace), &session.id, &problem);
                return Ok(());
            }
        }
    }
}
