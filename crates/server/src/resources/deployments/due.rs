//! What the scheduler asks of the store: which deployments are due, and to settle one of them.

use jiff::SignedDuration;
use rota_api::{
    Time,
    agent::AgentReference,
    deployment::DeploymentRun,
    id::{DeploymentId, WorkspaceId},
};

use super::{
    FirePolicy, Trigger,
    run::{self, fire},
    schedule, store,
};
use crate::{
    db::{Db, Tx, vals},
    error::{Error, Result},
    scheduler::{
        cron::{Cron, CronError},
        settle::{self, Effects, SkipReason, Timing},
    },
};

/// A deployment that the scheduler must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The deployment.
    pub id: DeploymentId,
    /// Since when.
    pub since: Time,
}

/// At most `limit` deployments that are due, the longest waiting first, after `last` in that order.
pub fn list(tx: &mut Tx<'_>, last: Option<&Due>, limit: i64) -> Result<Vec<Due>> {
    let (since, id) = last.map_or((i64::MIN, ""), |due| (due.since.micros(), due.id.as_ref()));
    tx.all(
        "SELECT workspace_id, id, next_fire_at FROM deployments
         WHERE next_fire_at <= $1 AND (next_fire_at, id) > ($2, $3) ORDER BY next_fire_at, id LIMIT $4",
        vals![tx.now(), since, id, limit],
        |row| Ok(Due { workspace: row.id(0)?, id: row.id(1)?, since: row.time(2)? }),
    )
}

/// When the next deployment is due, if any ever is.
pub async fn earliest(db: &Db) -> Result<Option<Time>> {
    let sql = "SELECT next_fire_at FROM deployments WHERE next_fire_at IS NOT NULL ORDER BY next_fire_at LIMIT 1";
    db.lookup(sql, &[], |row| row.time(0)).await
}

/// What [`settle`] did.
#[derive(Debug)]
pub struct Report {
    /// What became of the deployment.
    pub settled: Settled,
    /// Why earlier occurrences were passed over, where some were.
    pub skipped: Option<SkipReason>,
}

/// What became of a deployment that was due.
#[derive(Debug)]
pub enum Settled {
    /// It is not due any more: another server has settled it, or it was changed.
    NotDue,
    /// No occurrence fires now.
    Waits,
    /// An occurrence fired.
    Fired {
        /// Its run, which may hold an error.
        run: DeploymentRun,
        /// The occurrence and its delay.
        due_at: Time,
    },
    /// It was archived, for its agent is gone.
    Archived,
}

/// Fires a deployment if an occurrence is due, and accounts for those that are passed over. Does nothing when there
/// is nothing to do, so that several servers may do it at the same time.
///
/// # Errors
/// Those of [`fire`], and when the stored schedule cannot be read; then nothing is recorded.
pub fn settle(tx: &mut Tx<'_>, policy: &FirePolicy, due: &Due) -> Result<Report> {
    settle_by(tx, policy, due, |tx, scheduled, scheduled_at| {
        scheduled.cron.as_ref().map_err(|error| Error::internal(error.clone()))?;
        fire(tx, policy, &due.workspace, due.id.as_ref(), Trigger::Schedule { scheduled_at })
    })
}

/// Settles a deployment for which [`settle`] failed for another reason than the database: the occurrence gets a run with an
/// `unknown_error`, and the deployment is paused.
pub fn settle_failed(tx: &mut Tx<'_>, policy: &FirePolicy, due: &Due) -> Result<Report> {
    settle_by(tx, policy, due, |tx, scheduled, scheduled_at| {
        run::fail(tx, &due.workspace, &due.id, &scheduled.agent, scheduled_at)
    })
}

fn settle_by(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    due: &Due,
    start: impl FnOnce(&mut Tx<'_>, &Scheduled, Time) -> Result<DeploymentRun>,
) -> Result<Report> {
    let Due { workspace, id, .. } = due;
    let Some(scheduled) = Scheduled::find(tx, workspace, id)? else {
        return Ok(Report { settled: Settled::NotDue, skipped: None });
    };
    if !scheduled.has_agent {
        store::archive(tx, workspace, id.as_ref())?;
        return Ok(Report { settled: Settled::Archived, skipped: None });
    }
    let timing = timing(policy, id);
    let settled_at = scheduled.settled_at.timestamp();
    let effects = scheduled.effects(id, &timing, tx.now());
    schedule::write(tx, workspace, id.as_ref(), settled_at, &effects)?;
    let skipped = effects.skip.map(|skip| skip.reason);
    let Some(occurrence) = effects.fire else { return Ok(Report { settled: Settled::Waits, skipped }) };
    let run = start(tx, &scheduled, occurrence.into())?;
    let delay = scheduled.cron.map_or(SignedDuration::ZERO, |cron| timing.delay(id.as_ref(), &cron, occurrence));
    Ok(Report { settled: Settled::Fired { run, due_at: (occurrence + delay).into() }, skipped })
}

/// How the deployment `id` keeps its times.
fn timing(policy: &FirePolicy, _id: &DeploymentId) -> Timing {
    policy.timing
}

/// An active deployment whose time to be looked at has come.
struct Scheduled {
    agent: AgentReference,
    has_agent: bool,
    cron: Result<Cron, CronError>,
    settled_at: Time,
    next_fire_at: Time,
}

impl Scheduled {
    /// `None` when its time has not come, as after another server has settled it, or while one does.
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &DeploymentId) -> Result<Option<Self>> {
        let sql = format!(
            "SELECT d.agent_id, d.agent_version, d.cron, d.timezone, d.settled_at, d.next_fire_at,
                 (SELECT a.id FROM agents a WHERE a.workspace_id = d.workspace_id AND a.id = d.agent_id)
             FROM deployments d WHERE d.workspace_id = $1 AND d.id = $2 AND d.next_fire_at <= $3{}",
            tx.skip_locked()
        );
        tx.one(&sql, vals![workspace, id, tx.now()], |row| {
            Ok(Self {
                agent: AgentReference::new(row.id(0)?, row.int(1)?),
                cron: Cron::parse(&row.text(2)?, &row.text(3)?),
                settled_at: row.time(4)?,
                next_fire_at: row.time(5)?,
                has_agent: row.opt_text(6)?.is_some(),
            })
        })
    }

    fn effects(&self, id: &DeploymentId, timing: &Timing, now: Time) -> Effects {
        if let Ok(cron) = &self.cron {
            return settle::due(id.as_ref(), cron, timing, self.settled_at.timestamp(), now.timestamp());
        }
        // What cannot be read any more has no occurrence but the one that was found when it could.
        let next = self.next_fire_at.timestamp();
        Effects { skip: None, fire: Some(next), settled_at: next, next_fire_at: None }
    }
}
