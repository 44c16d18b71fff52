//! The record of a deployment's schedule: what counted when, what was passed over and why, and when to look next.
//!
//! Whatever changes the schedule or the state of a deployment does so inside [`changing`], which keeps the record right
//! in the same transaction.

use std::ops::RangeInclusive;

use jiff::Timestamp;
use rota_api::{
    Time,
    id::{DeploymentId, WorkspaceId},
};

use super::{again, silence, told};
use crate::{
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::OVERLAPPING_GAPS,
    scheduler::{
        again::skipped,
        cron::{Cron, Window},
        pending::Pending,
        settle::{self, Effects, Skip, SkipReason, State},
    },
};

/// What of a deployment decides on its occurrences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: State,
    /// The expression and its zone.
    schedule: Option<(String, String)>,
    window: Window,
}

impl Standing {
    /// Reads the columns `cron`, `timezone`, `starts_at`, `ends_at`, `paused_reason` and `archived_at`.
    pub(super) fn from_row(row: &Row<'_>) -> Result<Self> {
        let schedule = row.opt_text("cron")?.zip(row.opt_text("timezone")?);
        let state = state(row)?;
        Ok(Self { state, schedule, window: window(row)? })
    }

    /// Whether occurrences come and fire.
    fn counts(&self) -> bool {
        self.state == State::Active && self.schedule.is_some()
    }

    /// A stored schedule that this program cannot read, as of a zone that it does not know, has no occurrences.
    pub(super) fn cron(&self) -> Option<Cron> {
        let (expression, timezone) = self.schedule.as_ref()?;
        Some(Cron::parse(expression, timezone).ok()?.within(self.window))
    }
}

/// Reads the columns `paused_reason` and `archived_at`.
pub(super) fn state(row: &Row<'_>) -> Result<State> {
    Ok(match (row.opt_text("paused_reason")?, row.opt_time("archived_at")?) {
        (_, Some(_)) => State::Archived,
        (Some(_), None) => State::Paused,
        (None, None) => State::Active,
    })
}

/// Reads the columns `starts_at` and `ends_at`.
pub(super) fn window(row: &Row<'_>) -> Result<Window> {
    let time = |column| row.opt_time(column).map(|time| time.map(Time::timestamp));
    Ok(Window { starts_at: time("starts_at")?, ends_at: time("ends_at")? })
}

/// Locks the deployment `id` and runs `change`, which is told its state and may alter that or the schedule. Records what
/// the change means for its occurrences: those that were due and have not fired are skipped, and the new schedule counts
/// from now.
///
/// # Errors
/// 404 when there is none; those of `change`.
pub(super) fn changing<T>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    change: impl FnOnce(&mut Tx<'_>, State) -> Result<T>,
) -> Result<T> {
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2", vals![workspace, id])?;
    let before = stored(tx, workspace, id)?;
    let value = change(tx, before.standing.state)?;
    let Stored { standing: after, .. } = stored(tx, workspace, id)?;
    let Stored { standing: before, settled_at, pending } = before;
    if before != after {
        let (old, new) = (before.cron(), after.cron());
        let from = settle::Standing { state: before.state, cron: old.as_ref() };
        let to = settle::Standing { state: after.state, cron: new.as_ref() };
        let now = tx.now().timestamp();
        let settled_at = settled_at.map_or(now, Time::timestamp);
        if let Some(pending) = pending {
            pass_over(tx, (workspace, id), &pending, settle::ended_by(after.state))?;
        }
        again::end_all(tx, id, skipped(settle::ended_by(after.state)))?;
        write(tx, workspace, id, settled_at, &settle::change(from, to, settled_at, now))?;
        insert_span(tx, id, &after)?;
        silence::count_anew(tx, workspace, id, after.counts())?;
    }
    Ok(value)
}

/// Begins the record of a deployment that was just created.
pub(super) fn begin(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &DeploymentId) -> Result<()> {
    let Stored { standing, .. } = stored(tx, workspace, id.as_ref())?;
    if standing.schedule.is_none() {
        return Ok(());
    }
    let (now, cron) = (tx.now().timestamp(), standing.cron());
    let nothing = settle::Standing { state: State::Active, cron: None };
    let to = settle::Standing { state: standing.state, cron: cron.as_ref() };
    write(tx, workspace, id.as_ref(), now, &settle::change(nothing, to, now, now))?;
    insert_span(tx, id.as_ref(), &standing)?;
    silence::count_anew(tx, workspace, id.as_ref(), standing.counts())
}

/// What the store says about the occurrences of a deployment.
struct Stored {
    standing: Standing,
    settled_at: Option<Time>,
    pending: Option<Pending>,
}

fn stored(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Stored> {
    tx.one_or(
        "SELECT cron, timezone, starts_at, ends_at, paused_reason, archived_at, settled_at, pending FROM deployments
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id],
        |row| {
            Ok(Stored {
                standing: Standing::from_row(row)?,
                settled_at: row.opt_time("settled_at")?,
                pending: row.opt_json("pending")?,
            })
        },
        || Error::not_found("Deployment", id),
    )
}

/// Carries out all of `effects` but the fire, and forgets what was pending. `settled_at` is up to where occurrences were
/// accounted for before.
pub(super) fn write(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    settled_at: Timestamp,
    effects: &Effects,
) -> Result<()> {
    if let Some(Skip { occurrences, reason }) = &effects.skip {
        skip(tx, (workspace, id), settled_at, occurrences, *reason)?;
    }
    tx.send(
        "UPDATE deployments SET settled_at = $3, next_fire_at = $4, pending = NULL
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, Time::from(effects.settled_at), effects.next_fire_at.map(Time::from)],
    )
}

/// What a look at a deployment that is due leaves in its row.
pub(super) struct Looked<'a> {
    /// Up to where occurrences are accounted for, or pending.
    pub(super) settled_at: Timestamp,
    /// The occurrence that is not decided on.
    pub(super) pending: Option<&'a Pending>,
    /// When to look again, if ever.
    pub(super) next_fire_at: Option<Time>,
    /// When an occurrence has started a session just now.
    pub(super) ran_at: Option<Time>,
}

/// Writes what a look has found.
pub(super) fn looked(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &DeploymentId, found: &Looked<'_>) -> Result<()> {
    let pending = found.pending.map(serde_json::to_string).transpose()?;
    tx.add(
        "UPDATE deployments SET settled_at = found.column3, next_fire_at = found.column4, pending = found.column5,
             last_run_at = coalesce(found.column6, last_run_at)
         FROM (VALUES ($1, $2, CAST($3 AS BIGINT), CAST($4 AS BIGINT), $5, CAST($6 AS BIGINT))) AS found
         WHERE workspace_id = found.column1 AND id = found.column2",
        vals![workspace, id, Time::from(found.settled_at), found.next_fire_at, pending.as_deref(), found.ran_at],
    )
}

/// Records why `occurrences` do not fire. `settled_at` is the last one before them that is accounted for: where it was
/// skipped for the same reason, its row grows, so that a year of minutes is one row.
pub(super) fn skip(
    tx: &mut Tx<'_>,
    (workspace, id): (&WorkspaceId, &str),
    settled_at: Timestamp,
    occurrences: &RangeInclusive<Timestamp>,
    reason: SkipReason,
) -> Result<()> {
    let (first, last) = (Time::from(*occurrences.start()), Time::from(*occurrences.end()));
    assert!(first <= last, "occurrences that are skipped from {first} to {last}");
    told::passed_over(tx, workspace, id, (first, last), reason)?;
    let grown = tx.execute(
        "UPDATE deployment_skips SET last_at = $3 WHERE deployment_id = $1 AND last_at = $2 AND reason = $4",
        vals![id, Time::from(settled_at), last, reason.as_str()],
    )?;
    if grown == 0 {
        tx.send(
            "INSERT INTO deployment_skips (workspace_id, deployment_id, first_at, last_at, reason)
             VALUES ($1, $2, $3, $4, $5)",
            vals![workspace, id, first, last, reason.as_str()],
        )?;
    }
    Ok(())
}

/// Records why the occurrence that was pending never fires.
pub(super) fn pass_over(
    tx: &mut Tx<'_>,
    of: (&WorkspaceId, &str),
    pending: &Pending,
    reason: SkipReason,
) -> Result<()> {
    let occurrence = pending.scheduled_at.timestamp();
    skip(tx, of, pending.after.timestamp(), &(occurrence..=occurrence), reason)
}

/// Records that the occurrence `at` has a run after all. `before` and `after` are those beside it, between which it was passed over.
pub(super) fn made_up(
    tx: &mut Tx<'_>,
    (workspace, id): (&WorkspaceId, &str),
    at: Time,
    (before, after): (Option<Time>, Option<Time>),
) -> Result<()> {
    let covers = "deployment_id = $1 AND first_at <= $2 AND last_at >= $2";
    let sql =
        format!("SELECT first_at, last_at, reason FROM deployment_skips WHERE {covers} ORDER BY last_at LIMIT $3");
    let read = |row: &Row<'_>| Ok((row.time("first_at")?, row.time("last_at")?, row.text("reason")?));
    let gaps = tx.all(&sql, vals![id, at, OVERLAPPING_GAPS as i64], read)?;
    for (first, last, reason) in gaps {
        tx.execute(
            "DELETE FROM deployment_skips WHERE deployment_id = $1 AND first_at = $2 AND last_at = $3 AND reason = $4",
            vals![id, first, last, &reason],
        )?;
        let halves = [before.map(|before| (first, before)), after.map(|after| (after, last))];
        for (first, last) in halves.into_iter().flatten().filter(|(first, last)| first <= last) {
            tx.execute(
                "INSERT INTO deployment_skips (workspace_id, deployment_id, first_at, last_at, reason)
                 VALUES ($1, $2, $3, $4, $5)",
                vals![workspace, id, first, last, &reason],
            )?;
        }
    }
    Ok(())
}

fn insert_span(tx: &mut Tx<'_>, id: &str, standing: &Standing) -> Result<()> {
    let (cron, timezone) = standing.schedule.as_ref().map(|(cron, zone)| (cron, zone)).unzip();
    let last = "SELECT coalesce(max(seq), 0) FROM deployment_spans WHERE deployment_id = $1";
    let last = tx.one(last, vals![id], |row| row.int(0))?.unwrap_or_default();
    let now = tx.now();
    tx.send(
        "INSERT INTO deployment_spans (deployment_id, seq, since, cron, timezone, state, starts_at, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        vals![
            id,
            last + 1,
            now,
            cron,
            timezone,
            standing.state.as_str(),
            standing.window.starts_at.map(Time::from),
            standing.window.ends_at.map(Time::from)
        ],
    )
}
