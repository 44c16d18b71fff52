//! Deployments that have gone silent: their schedule counts, and no run has come to a good end for a number of their own intervals.
//!
//! While schedules are held nothing is silent, and they count from when they go on.
//!
//! Each deployment whose schedule counts has a row that says when to look at it next, so that nobody walks all of them. A look
//! finds the last good run among the newest ones, and tells of a silence once: until the next good run, which ends it.

use std::sync::LazyLock;

use jiff::SignedDuration;
use rota_api::{
    Time,
    id::{DeploymentId, WorkspaceId},
    policy::SILENT_AFTER_INTERVALS,
    rota_event::{Details, Silent},
    webhook::EventType,
};

use super::{held, standing};
use crate::{
    db::{Row, Tx, vals},
    error::Result,
    limits::{SILENCE_LOOK_MICROS, SILENCE_RUNS, SILENCE_SPREAD_SECONDS, SILENT_LOOK_MICROS},
    resources::webhook_outbox,
    scheduler::{cron::Cron, schedule::place_in, silence::silent_from},
};

/// Counts from now on for the deployment `id`, where its schedule `counts`; where it does not, there is nothing to be silent.
pub(super) fn count_anew(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, counts: bool) -> Result<()> {
    if !counts {
        return tx.send("DELETE FROM deployment_silence WHERE deployment_id = $1", vals![id]);
    }
    tx.send(
        "INSERT INTO deployment_silence (deployment_id, workspace_id, good_at, look_at) VALUES ($1, $2, $3, $3)
         ON CONFLICT (deployment_id) DO UPDATE SET good_at = $3, look_at = $3, silent_at = NULL",
        vals![id, workspace, tx.now()],
    )
}

/// Has the deployment `id` looked at soon: another number of intervals counts.
pub(super) fn look_soon(tx: &mut Tx<'_>, id: &DeploymentId) -> Result<()> {
    tx.send("UPDATE deployment_silence SET look_at = $2 WHERE deployment_id = $1", vals![id, tx.now()])
}

/// A run has come to a good end: where its deployment was silent, it is so no more.
pub fn end(tx: &mut Tx<'_>, deployment: &DeploymentId) -> Result<()> {
    tx.send(
        "UPDATE deployment_silence SET silent_at = NULL, good_at = $2, look_at = $2
         WHERE deployment_id = $1 AND silent_at IS NOT NULL",
        vals![deployment, tx.now()],
    )
}

/// A look at a deployment that was due, and what was found.
#[derive(Debug, Clone)]
pub struct Look {
    workspace: WorkspaceId,
    id: DeploymentId,
    /// Since when it was due.
    due_at: Time,
    good_at: Time,
    intervals: u32,
    is_silent: bool,
    /// When that was found first; `None` where it was not yet, or there was a good run or a hold since.
    silent_at: Option<Time>,
    /// When to look again.
    next: Time,
}

/// Looks at deployments that are due, at most `limit`, the longest waiting first. It writes nothing, so that looks hold up no
/// writer: [`settle`] does.
pub fn due(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<Look>> {
    let rows = tx.all(
        &format!("{} WHERE x.look_at <= $1 ORDER BY x.look_at, x.deployment_id LIMIT $2", *WATCHED),
        vals![tx.now(), limit],
        Watched::from_row,
    )?;
    rows.into_iter().map(|watched| watched.look(tx)).collect()
}

/// Writes what looks have found. Returns the deployments that have gone silent now, of each of which is told. One that somebody else
/// has looked at since is left to them, so that several servers may do this at the same time.
pub fn settle(tx: &mut Tx<'_>, looks: &[Look]) -> Result<Vec<DeploymentId>> {
    let mut silent = Vec::new();
    for look in looks {
        if look.is_silent && look.silent_at.is_none() {
            if begin(tx, look)? {
                silent.push(look.id.clone());
            }
        } else {
            look.write(tx)?;
        }
    }
    Ok(silent)
}

/// Begins a silence and tells of it, unless there was a good run since the look.
fn begin(tx: &mut Tx<'_>, look: &Look) -> Result<bool> {
    tx.lock("deployment_silence WHERE deployment_id = $1", vals![&look.id])?;
    let sql = format!("{} WHERE x.deployment_id = $1", *WATCHED);
    let Some(watched) = tx.one(&sql, vals![&look.id], Watched::from_row)? else { return Ok(false) };
    let now = watched.look(tx)?;
    let begins = now.write(tx)? && now.is_silent && now.silent_at.is_none();
    if begins {
        webhook_outbox::emit_own(tx, &now.workspace, EventType::RotaDeploymentSilent, &now.id, |_| {
            Ok(Some(Details::Silent(Silent { since: now.good_at, intervals: now.intervals })))
        })?;
    }
    Ok(begins)
}

impl Look {
    /// Writes what was found, unless the row is another by now. Whether it was not.
    fn write(&self, tx: &mut Tx<'_>) -> Result<bool> {
        let silent_at = self.is_silent.then(|| self.silent_at.unwrap_or(tx.now()));
        tx.changes(
            "UPDATE deployment_silence SET good_at = $3, look_at = $4, silent_at = $5
             WHERE deployment_id = $1 AND look_at = $2",
            vals![&self.id, self.due_at, self.good_at, self.next, silent_at],
        )
    }
}

/// A deployment as it is looked at.
struct Watched {
    workspace: WorkspaceId,
    id: DeploymentId,
    look_at: Time,
    good_at: Option<Time>,
    silent_at: Option<Time>,
    intervals: u32,
    /// Whether the schedules of its workspace are held.
    is_held: bool,
    /// When a hold of them ended last.
    released_at: Option<Time>,
    /// `None` where this program cannot read the schedule, as of a zone that it does not know.
    cron: Option<Cron>,
}

static WATCHED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT x.workspace_id, x.deployment_id, x.look_at, x.good_at, x.silent_at, d.silent_after_intervals, d.cron, d.timezone,
             d.starts_at, d.ends_at, {}
         FROM deployment_silence x JOIN deployments d ON d.workspace_id = x.workspace_id AND d.id = x.deployment_id
         JOIN workspaces w ON w.id = x.workspace_id",
        held::COLUMNS
    )
});

impl Watched {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        let intervals = row.opt_int("silent_after_intervals")?.and_then(|number| u32::try_from(number).ok());
        let (cron, window) = (row.opt_text("cron")?.zip(row.opt_text("timezone")?), standing::window(row)?);
        Ok(Self {
            workspace: row.id("workspace_id")?,
            id: row.id("deployment_id")?,
            look_at: row.time("look_at")?,
            good_at: row.opt_time("good_at")?,
            silent_at: row.opt_time("silent_at")?,
            intervals: intervals.unwrap_or(SILENT_AFTER_INTERVALS),
            is_held: held::is_held(row)?,
            released_at: held::released_at(row)?,
            cron: cron.and_then(|(cron, timezone)| Some(Cron::parse(&cron, &timezone).ok()?.within(window))),
        })
    }

    fn look(self, tx: &mut Tx<'_>) -> Result<Look> {
        let now = tx.now();
        let good_at = match self.good_at.filter(|_| !self.is_held) {
            Some(known) => {
                let last = last_good_end(tx, &self.workspace, &self.id)?;
                last.max(self.released_at).map_or(known, |found| known.max(found))
            }
            None => now,
        };
        // Deployments that occur together are not all looked at in the moment in which they fire.
        let delay = place_in(SignedDuration::from_secs(SILENCE_SPREAD_SECONDS), self.id.as_ref()).as_micros() as i64;
        let silent_from = self.cron.as_ref().and_then(|cron| silent_from(cron, good_at.timestamp(), self.intervals));
        let silent_from = silent_from.map(Time::from);
        let is_silent = !self.is_held && silent_from.is_some_and(|from| from <= now);
        // Whoever ends a silence says so; another look finds out where they came at the same moment.
        let at_latest = now.plus_micros(if is_silent { SILENT_LOOK_MICROS } else { SILENCE_LOOK_MICROS });
        let next = silent_from.filter(|_| !is_silent).map_or(at_latest, |from| from.min(at_latest));
        Ok(Look {
            next: next.plus_micros(delay),
            workspace: self.workspace,
            id: self.id,
            due_at: self.look_at,
            silent_at: self.silent_at.filter(|silent_at| good_at < *silent_at),
            good_at,
            intervals: self.intervals,
            is_silent,
        })
    }
}

/// When the last good run of a deployment ended, as far as its newest runs tell: its session has come to the end of its turn.
fn last_good_end(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &DeploymentId) -> Result<Option<Time>> {
    let sql = "SELECT max(s.stopped_at) FROM (SELECT session_id FROM deployment_runs
             WHERE deployment_id = $2 ORDER BY id DESC LIMIT $3) AS newest
         JOIN sessions s ON s.workspace_id = $1 AND s.id = newest.session_id
         WHERE s.stop_reason IN ('end_turn', 'refusal') AND s.interrupted_by IS NULL";
    Ok(tx.one(sql, vals![workspace, id, SILENCE_RUNS], |row| row.opt_time(0))?.flatten())
}
