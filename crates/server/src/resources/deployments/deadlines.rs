//! Deadlines of sessions that nobody watches, as their deployment's policy gives them.
//!
//! A session that has a deadline has a row that says when it is to be looked at. Whoever changes what a session does, or a policy,
//! only brings that forward; the look itself ([`settle()`]), which holds the session, decides and puts it off. What it does for whoever
//! does not answer goes the way of a client's request.

use rota_api::{
    Time,
    agent::{AgentReference, SessionAgent, waits_for_answers},
    event::{Confirmation, EventBody},
    id::{DeploymentId, RunId, SessionId, WorkspaceId},
    policy::{InterruptedBy, Unattended},
    session::Status,
    warning::Warning,
};
use serde_json::json;

use super::failures;
use crate::{
    db::{Db, Row, Tx, vals},
    error::Result,
    limits::{DEADLINE_AGAIN_MICROS, DEADLINES_TAKEN, DEEDS_OF_A_LOOK},
    resources::sessions::{self, Waiting, WaitingFor, events, status},
    scheduler::{
        policy::Policy,
        unattended::{self, Doing, Look, Session, look},
    },
};

/// When a session is due that is to be looked at whatever the clock shows.
const AT_ONCE: i64 = 0;

/// What [`of_row`] reads of deployments `d`.
pub(super) const COLUMNS: &str =
    "d.unattended, d.max_session_seconds, d.max_idle_waiting_seconds, d.pause_after_failures,
    d.starts_at, d.ends_at";

/// What of a policy is about sessions that nobody watches, and when the schedule counts.
pub(super) fn of_row(row: &Row<'_>) -> Result<Policy> {
    let number = |column| row.opt_int(column).map(|number| number.map(|number| number as u32));
    Ok(Policy {
        unattended: row.opt_json("unattended")?,
        max_session_seconds: number("max_session_seconds")?,
        max_idle_waiting_seconds: number("max_idle_waiting_seconds")?,
        pause_after_failures: number("pause_after_failures")?,
        starts_at: row.opt_time("starts_at")?,
        ends_at: row.opt_time("ends_at")?,
        ..Policy::default()
    })
}

/// Writes that part of a policy. What changes holds for the sessions that there are, and for the failures that there were.
pub(super) fn set(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &DeploymentId,
    policy: &Policy,
    stored: &Policy,
) -> Result<()> {
    let unattended = policy.unattended.map(|unattended| serde_json::to_string(&unattended)).transpose()?;
    tx.send(
        "UPDATE deployments SET unattended = $3, max_session_seconds = $4, max_idle_waiting_seconds = $5,
             pause_after_failures = $6, starts_at = $7, ends_at = $8
         WHERE workspace_id = $1 AND id = $2",
        vals![
            workspace,
            id,
            unattended.as_deref(),
            policy.max_session_seconds.map(i64::from),
            policy.max_idle_waiting_seconds.map(i64::from),
            policy.pause_after_failures.map(i64::from),
            policy.starts_at,
            policy.ends_at
        ],
    )?;
    let limits = |policy: &Policy| (policy.unattended, policy.max_session_seconds, policy.max_idle_waiting_seconds);
    if limits(policy) != limits(stored) {
        tx.send("UPDATE session_deadlines SET due_at = $2 WHERE deployment_id = $1", vals![id, AT_ONCE])?;
        take_in(tx, Some(id))?;
    }
    if policy.pause_after_failures != stored.pause_after_failures {
        failures::look_again(tx, id)?;
    }
    Ok(())
}

/// What waits for answers of an agent and will wait for ever by this policy, if somebody does not answer.
pub(super) fn warnings(tx: &mut Tx<'_>, agent: &AgentReference, policy: &Policy) -> Result<Vec<Warning>> {
    if unattended::waits_end(policy) {
        return Ok(Vec::new());
    }
    let sql = "SELECT snapshot FROM agent_versions WHERE agent_id = $1 AND version = $2";
    let snapshot: Option<SessionAgent> = tx.one(sql, vals![&agent.id, agent.version], |row| row.json(0))?;
    let tools = snapshot.map(|agent| waits_for_answers(&agent.primary.tools)).unwrap_or_default();
    if tools.is_empty() {
        return Ok(Vec::new());
    }
    let message = format!(
        "calls of these tools wait until somebody answers, for ever if nobody does: {}; set unattended or \
         max_idle_waiting_seconds, or let the agent's tools run without asking",
        tools.join(", ")
    );
    Ok(vec![Warning { code: "waits_without_end", message }])
}

/// From now on the time of a session counts, of which it has `seconds`.
pub fn begin(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    session: &SessionId,
    seconds: i64,
) -> Result<()> {
    let due_at = tx.now().plus_micros(seconds * 1_000_000);
    bring_forward(tx, workspace, deployment, session, Some(tx.now()), due_at)
}

/// A session of a deployment has come to rest: it waits for answers, or its turn is over.
pub fn rests(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    session: &SessionId,
    waits: bool,
) -> Result<()> {
    if !waits {
        return tx.send("DELETE FROM session_deadlines WHERE session_id = $1", vals![session]);
    }
    let sql = format!("SELECT {COLUMNS} FROM deployments d WHERE d.workspace_id = $1 AND d.id = $2");
    let Some(policy) = tx.one(&sql, vals![workspace, deployment], of_row)? else { return Ok(()) };
    let now = tx.now();
    // The look finds out what it waits for.
    let waiting = Session { started_at: None, doing: Doing::Waits { since: now, for_answers: true } };
    match look(&policy, &waiting, now) {
        Look::Free => Ok(()),
        Look::At(due_at) => bring_forward(tx, workspace, deployment, session, None, due_at),
        Look::Deny | Look::Interrupt(_) => bring_forward(tx, workspace, deployment, session, None, now),
    }
}

/// Has a session looked at no later than `due_at`. `started_at` replaces what was there, where it is given.
fn bring_forward(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    session: &SessionId,
    started_at: Option<Time>,
    due_at: Time,
) -> Result<()> {
    tx.send(
        "INSERT INTO session_deadlines (session_id, workspace_id, deployment_id, started_at, due_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (session_id) DO UPDATE SET started_at = coalesce($4, session_deadlines.started_at),
             due_at = CASE WHEN session_deadlines.due_at > $5 THEN $5 ELSE session_deadlines.due_at END",
        vals![session, workspace, deployment, started_at, due_at],
    )
}

/// Has sessions looked at that may have a deadline and no row, of one deployment or of all: those that were there when the policy was
/// set, and those that were sent something after their turn was over, whose time counts from now. Returns how many; there may be more
/// when they are [`DEADLINES_TAKEN`].
pub fn take_in(tx: &mut Tx<'_>, only: Option<&DeploymentId>) -> Result<usize> {
    const UNKNOWN: &str = "NOT EXISTS (SELECT 1 FROM session_deadlines l WHERE l.session_id = s.id
        AND (l.started_at IS NOT NULL OR d.max_session_seconds IS NULL))";
    let condition = if only.is_some() { "AND d.id = $3" } else { "AND $3 = ''" };
    let sql = format!(
        "INSERT INTO session_deadlines (session_id, workspace_id, deployment_id, started_at, due_at)
         SELECT id, workspace_id, deployment_id, CASE WHEN stopped_at IS NULL THEN created_at ELSE $1 END, {AT_ONCE} FROM (
             SELECT s.id, s.workspace_id, s.deployment_id, s.stopped_at, s.created_at
             FROM deployments d JOIN sessions s ON s.deployment_id = d.id AND s.runnable_at IS NOT NULL
             WHERE d.max_session_seconds IS NOT NULL {condition} AND {UNKNOWN}
             UNION ALL
             SELECT s.id, s.workspace_id, s.deployment_id, s.stopped_at, s.created_at
             FROM deployments d JOIN sessions s ON s.deployment_id = d.id AND s.stop_reason = 'requires_action'
             WHERE (d.unattended IS NOT NULL OR d.max_session_seconds IS NOT NULL OR d.max_idle_waiting_seconds IS NOT NULL)
                 AND s.runnable_at IS NULL AND s.waiting_on IS NOT NULL {condition} AND {UNKNOWN}
             LIMIT $2) AS found
         WHERE TRUE
         ON CONFLICT (session_id) DO UPDATE SET due_at = {AT_ONCE},
             started_at = coalesce(session_deadlines.started_at, excluded.started_at)"
    );
    tx.execute(&sql, vals![tx.now(), DEADLINES_TAKEN, only.map_or("", AsRef::as_ref)])
}

/// A session that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The session.
    pub session: SessionId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Since when.
    pub since: Time,
}

/// At most `limit` sessions that are to be looked at, the longest waiting first, after `last` in that order.
pub fn list(tx: &mut Tx<'_>, last: Option<&Due>, limit: i64) -> Result<Vec<Due>> {
    let (since, session) = last.map_or((i64::MIN, ""), |due| (due.since.micros(), due.session.as_ref()));
    tx.all(
        "SELECT session_id, workspace_id, due_at FROM session_deadlines
         WHERE due_at <= $1 AND (due_at, session_id) > ($2, $3) ORDER BY due_at, session_id LIMIT $4",
        vals![tx.now(), since, session, limit],
        |row| Ok(Due { session: row.id(0)?, workspace: row.id(1)?, since: row.time(2)? }),
    )
}

/// When the next session is to be looked at, if any ever is.
pub async fn earliest(db: &Db) -> Result<Option<Time>> {
    let sql = "SELECT due_at FROM session_deadlines ORDER BY due_at LIMIT 1";
    db.lookup(sql, &[], |row| row.time(0)).await
}

/// What a look has done to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// What waited for an answer was denied.
    Denied,
    /// It was interrupted.
    Interrupted(InterruptedBy),
}

/// Looks at a session, if it is still to be looked at, and does what its deadlines ask for. An answer that came first has won: there
/// is nothing to be denied any more; one that comes later is refused as every answer to what does not wait.
pub fn settle(tx: &mut Tx<'_>, due: &Due) -> Result<Option<Done>> {
    let Due { session, workspace, .. } = due;
    sessions::lock(tx, workspace, session.as_ref())?;
    tx.lock("session_deadlines WHERE session_id = $1", vals![session])?;
    let now = tx.now();
    let mut done = None;
    let Some(mut found) = Found::find(tx, workspace, session)?.filter(|found| found.due_at <= now) else {
        return Ok(None);
    };
    for _ in 0..DEEDS_OF_A_LOOK {
        let Some(next) = found.act(tx, workspace, session)? else { break };
        done = Some(next);
        match Found::find(tx, workspace, session)? {
            Some(after) => found = after,
            None => return Ok(done),
        }
    }
    let next = match found.look(now) {
        Look::Free => {
            tx.send("DELETE FROM session_deadlines WHERE session_id = $1", vals![session])?;
            return Ok(done);
        }
        Look::At(at) => at,
        // It was told to stop before, and has not yet.
        Look::Deny | Look::Interrupt(_) => now.plus_micros(DEADLINE_AGAIN_MICROS),
    };
    tx.send("UPDATE session_deadlines SET due_at = $2 WHERE session_id = $1", vals![session, next])?;
    Ok(done)
}

/// A look has failed, for a reason that may stay: it is put off, so that others have their turns.
pub fn put_off(tx: &mut Tx<'_>, due: &Due) -> Result<()> {
    tx.send(
        "UPDATE session_deadlines SET due_at = $2 WHERE session_id = $1 AND due_at <= $3",
        vals![&due.session, tx.now().plus_micros(DEADLINE_AGAIN_MICROS), tx.now()],
    )
}

/// A session and what its policy says. One that is gone rests.
struct Found {
    deployment: DeploymentId,
    run: Option<RunId>,
    policy: Policy,
    session: Session,
    waiting: Vec<Waiting>,
    due_at: Time,
}

impl Found {
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Option<Self>> {
        let sql = format!(
            "SELECT l.deployment_id, l.started_at, l.due_at, s.status, s.stopped_at, s.created_at, s.waiting_on, s.run_id, {COLUMNS}
             FROM session_deadlines l
             LEFT JOIN sessions s ON s.workspace_id = l.workspace_id AND s.id = l.session_id
             LEFT JOIN deployments d ON d.workspace_id = l.workspace_id AND d.id = l.deployment_id
             WHERE l.workspace_id = $1 AND l.session_id = $2"
        );
        tx.one(&sql, vals![workspace, session], Self::from_row)
    }

    fn from_row(row: &Row<'_>) -> Result<Self> {
        let waiting: Vec<Waiting> = row.opt_json("waiting_on")?.unwrap_or_default();
        let status = row.opt_text("status")?.map(|status| sessions::stored_status(&status)).transpose()?;
        let doing = match status {
            Some(Status::Running | Status::Rescheduling) => Doing::Works,
            Some(Status::Idle) if !waiting.is_empty() => {
                let since = row.opt_time("stopped_at")?.map_or_else(|| row.time("created_at"), Ok)?;
                Doing::Waits { since, for_answers: waiting.iter().any(|waiting| answer(waiting, "").is_some()) }
            }
            Some(Status::Idle | Status::Terminated) | None => Doing::Rests,
        };
        Ok(Self {
            deployment: row.id("deployment_id")?,
            run: row.opt_id("run_id")?,
            policy: of_row(row)?,
            session: Session { started_at: row.opt_time("started_at")?, doing },
            waiting,
            due_at: row.time("due_at")?,
        })
    }

    fn look(&self, now: Time) -> Look {
        look(&self.policy, &self.session, now)
    }

    /// Does what is due, if anything is.
    fn act(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Option<Done>> {
        match self.look(tx.now()) {
            Look::Free | Look::At(_) => Ok(None),
            Look::Deny => {
                let answer =
                    |waiting: &Waiting| answer(waiting, &unattended::words(&self.policy, waiting.for_.is_of_a_human()));
                let answers: Vec<EventBody> = self.waiting.iter().filter_map(answer).collect();
                events::send_for_nobody(tx, workspace, session, &answers)?;
                Ok(Some(Done::Denied))
            }
            Look::Interrupt(by) => {
                if !self.interrupt(tx, workspace, session)? {
                    return Ok(None);
                }
                status::is_interrupted_by(tx, workspace, session, by)?;
                if self.session.doing == Doing::Works {
                    // What it is sent meanwhile it still does, and has as much time for it.
                    let sql = "UPDATE session_deadlines SET started_at = $2 WHERE session_id = $1";
                    tx.send(sql, vals![session, tx.now()])?;
                } else {
                    // A runner that is told to stop counts when it has.
                    let reason = unattended::reason(&self.policy, by);
                    failures::count(tx, workspace, &self.deployment, self.run.as_ref(), &reason)?;
                }
                Ok(Some(Done::Interrupted(by)))
            }
        }
    }

    /// Whether nobody else has done so before.
    fn interrupt(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<bool> {
        if self.session.doing == Doing::Works {
            return events::interrupt(tx, workspace, session);
        }
        let interrupt = EventBody::UserInterrupt { session_thread_id: None };
        events::send_for_nobody(tx, workspace, session, &[interrupt])?;
        Ok(true)
    }
}

/// What a client would send that says no to what waits. `None` for what a worker runs: its result is that of a machine.
fn answer(waiting: &Waiting, words: &str) -> Option<EventBody> {
    let id = waiting.id.to_string();
    match waiting.for_ {
        WaitingFor::Confirmation | WaitingFor::WorkerConfirmation => Some(EventBody::UserToolConfirmation {
            tool_use_id: id,
            result: Confirmation::Deny,
            deny_message: Some(words.to_owned()),
        }),
        WaitingFor::CustomToolResult => Some(EventBody::UserCustomToolResult {
            custom_tool_use_id: id,
            content: Some(vec![json!({"type": "text", "text": words})]),
            is_error: Some(true),
        }),
        WaitingFor::ToolResult => None,
    }
}

/// Why a session was interrupted, for people, by the policy of its deployment.
pub fn reason(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
    by: InterruptedBy,
) -> Result<String> {
    let sql = format!("SELECT {COLUMNS} FROM deployments d WHERE d.workspace_id = $1 AND d.id = $2");
    let policy = tx.one(&sql, vals![workspace, deployment], of_row)?;
    Ok(unattended::reason(&policy.unwrap_or_default(), by))
}

/// A policy as it is stored: what is as it is by default anyway costs nothing while it is not set.
pub(super) fn without_defaults(policy: Policy) -> Policy {
    Policy { unattended: policy.unattended.filter(|unattended| *unattended != Unattended::WAIT), ..policy }
}
