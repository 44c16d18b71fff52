//! What the scheduler asks of the store: which deployments are due, and to settle one of them.

use jiff::SignedDuration;
use rota_api::{
    Time,
    agent::AgentReference,
    deployment::{DeploymentRun, RunError},
    id::{DeploymentId, WorkspaceId},
};

use super::{
    FirePolicy, Trigger, active,
    pending::Pending,
    policy,
    run::{self, fire},
    schedule, store,
};
use crate::{
    db::{Db, Tx, vals},
    error::{Error, Result},
    resources::events,
    scheduler::{
        cron::{Cron, CronError},
        policy::{Policy, Verdict},
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
    /// Why occurrences were passed over, a reason for each gap.
    pub skipped: Vec<SkipReason>,
}

/// What became of a deployment that was due.
#[derive(Debug)]
pub enum Settled {
    /// It is not due any more: another server has settled it, or it was changed.
    NotDue,
    /// No occurrence fires now.
    Waits,
    /// The session of an occurrence could not be started, and there will be another attempt.
    Retries {
        /// Why not.
        error: RunError,
        /// When the next attempt is due.
        at: Time,
    },
    /// An occurrence fired.
    Fired {
        /// Its run, which may hold an error.
        run: DeploymentRun,
        /// When it should have: the occurrence and its delay, or the time of another attempt.
        due_at: Time,
    },
    /// It was archived, for its agent is gone.
    Archived,
}

/// Fires a deployment if an occurrence is due and the deployment's policy lets it, and accounts for those that are passed
/// over. Does nothing when there is nothing to do, so that several servers may do it at the same time.
///
/// # Errors
/// Those of [`fire`], and when the stored schedule cannot be read; then nothing is recorded.
pub fn settle(tx: &mut Tx<'_>, policy: &FirePolicy, due: &Due) -> Result<Report> {
    settle_by(tx, policy, due, Attempt::Fire)
}

/// Settles a deployment for which [`settle`] failed for another reason than the database: the occurrence gets a run with an
/// `unknown_error`, and the deployment is paused; unless its policy says that it is tried again.
pub fn settle_failed(tx: &mut Tx<'_>, policy: &FirePolicy, due: &Due) -> Result<Report> {
    settle_by(tx, policy, due, Attempt::Fail)
}

/// How the session of an occurrence is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Fire,
    /// Not at all: it was tried and failed for a reason that has no type of its own.
    Fail,
}

fn settle_by(tx: &mut Tx<'_>, policy: &FirePolicy, due: &Due, attempt: Attempt) -> Result<Report> {
    let Due { workspace, id, .. } = due;
    let Some(scheduled) = Scheduled::find(tx, workspace, id)? else {
        return Ok(Report { settled: Settled::NotDue, skipped: Vec::new() });
    };
    if !scheduled.has_agent {
        store::archive(tx, workspace, id.as_ref())?;
        return Ok(Report { settled: Settled::Archived, skipped: Vec::new() });
    }
    let timing = scheduled.policy.timing(policy.timing);
    let effects = scheduled.effects(id, &timing, tx.now());
    let mut skipped = Vec::new();
    let pending = scheduled.pending.as_ref();
    let overtaken = pending.filter(|_| effects.fire.is_some() || effects.skip.is_some());
    if let Some(pending) = overtaken {
        pending.pass_over(tx, id.as_ref(), pending.overtaken())?;
        skipped.push(pending.overtaken());
    }
    schedule::write(tx, workspace, id.as_ref(), scheduled.settled_at.timestamp(), &effects)?;
    skipped.extend(effects.skip.as_ref().map(|skip| skip.reason));
    let passed_over = effects.skip.as_ref().map_or(scheduled.settled_at, |skip| (*skip.occurrences.end()).into());
    let occurrence = match (effects.fire, pending) {
        (Some(fire), _) => Pending::new(fire.into(), passed_over),
        (None, Some(pending)) if overtaken.is_none() => pending.clone(),
        (None, _) => return Ok(Report { settled: Settled::Waits, skipped }),
    };
    let look = Look { policy, due, scheduled: &scheduled, timing, next: effects.next_fire_at.map(Time::from) };
    let settled = look.decide(tx, occurrence, attempt, &mut skipped)?;
    Ok(Report { settled, skipped })
}

/// A look at a deployment that has an occurrence to decide on.
struct Look<'a> {
    policy: &'a FirePolicy,
    due: &'a Due,
    scheduled: &'a Scheduled,
    timing: Timing,
    /// When the occurrence after that one is due.
    next: Option<Time>,
}

impl Look<'_> {
    fn decide(
        &self,
        tx: &mut Tx<'_>,
        occurrence: Pending,
        attempt: Attempt,
        skipped: &mut Vec<SkipReason>,
    ) -> Result<Settled> {
        let Due { workspace, id, .. } = self.due;
        if occurrence.retry_at.is_some_and(|at| at > tx.now()) {
            occurrence.hold(tx, workspace, id, self.next)?;
            return Ok(Settled::Waits);
        }
        // What failed for an unknown reason had its place.
        let verdict = if attempt == Attempt::Fire { self.verdict(tx)? } else { Verdict::Fires };
        let in_its_way = match verdict {
            Verdict::Fires => Vec::new(),
            Verdict::Interrupts(count) => active::oldest(tx, id, count)?,
            Verdict::Skipped(reason) => {
                occurrence.pass_over(tx, id.as_ref(), reason)?;
                skipped.push(reason);
                return Ok(Settled::Waits);
            }
            Verdict::Waits => {
                Pending { retry_at: None, ..occurrence }.hold(tx, workspace, id, self.next)?;
                return Ok(Settled::Waits);
            }
        };
        if let Some((at, error)) = self.retry(tx, &occurrence, attempt)? {
            let attempts = occurrence.attempts + 1;
            let pending = Pending { attempts, retry_at: Some(at), error: Some(error.clone()), ..occurrence };
            pending.hold(tx, workspace, id, self.next)?;
            return Ok(Settled::Retries { error, at });
        }
        let run = self.start(tx, &occurrence, attempt)?;
        if run.session_id.is_some() {
            for session in in_its_way {
                events::interrupt(tx, workspace, &session)?;
            }
        }
        Ok(Settled::Fired { run, due_at: self.due_at(tx.now(), &occurrence) })
    }

    fn verdict(&self, tx: &mut Tx<'_>) -> Result<Verdict> {
        let policy = &self.scheduled.policy;
        if !policy.counts_sessions() {
            return Ok(Verdict::Fires);
        }
        Ok(policy.verdict(active::count(tx, &self.due.id)?))
    }

    /// When to try the occurrence again, and why, if an attempt now would fail and the policy asks for another. One that
    /// would come after the next occurrence is not made: that one takes its place.
    fn retry(&self, tx: &mut Tx<'_>, occurrence: &Pending, attempt: Attempt) -> Result<Option<(Time, RunError)>> {
        let Scheduled { policy, cron: Ok(_), .. } = self.scheduled else { return Ok(None) };
        if policy.retry.is_none() {
            return Ok(None);
        }
        let Due { workspace, id, .. } = self.due;
        let error = match attempt {
            Attempt::Fire => run::obstacle(tx, self.policy, workspace, id.as_ref())?,
            Attempt::Fail => Some(run::unknown_error()),
        };
        let Some(error) = error else { return Ok(None) };
        let (at, failed) = (occurrence.scheduled_at.timestamp(), occurrence.attempts + 1);
        let pause = policy.retry_after(id.as_ref(), at, failed, error.r#type);
        let retry_at = pause.map(|pause| tx.now().plus_micros(pause.as_micros() as i64));
        Ok(retry_at.filter(|at| self.next.is_none_or(|next| *at < next)).map(|at| (at, error)))
    }

    fn start(&self, tx: &mut Tx<'_>, occurrence: &Pending, attempt: Attempt) -> Result<DeploymentRun> {
        let Due { workspace, id, .. } = self.due;
        let scheduled_at = occurrence.scheduled_at;
        match (attempt, &self.scheduled.cron) {
            (Attempt::Fire, Ok(_)) => fire(tx, self.policy, workspace, id.as_ref(), Trigger::Schedule { scheduled_at }),
            (Attempt::Fire, Err(error)) => Err(Error::internal(error.clone())),
            (Attempt::Fail, _) => run::fail(tx, workspace, id, &self.scheduled.agent, scheduled_at),
        }
    }

    fn due_at(&self, now: Time, occurrence: &Pending) -> Time {
        if self.scheduled.pending.as_ref().is_some_and(|pending| pending.scheduled_at == occurrence.scheduled_at) {
            return occurrence.retry_at.unwrap_or(now);
        }
        let at = occurrence.scheduled_at.timestamp();
        let cron = self.scheduled.cron.as_ref();
        let delay = cron.map_or(SignedDuration::ZERO, |cron| self.timing.delay(self.due.id.as_ref(), cron, at));
        (at + delay).into()
    }
}

/// An active deployment whose time to be looked at has come.
struct Scheduled {
    agent: AgentReference,
    has_agent: bool,
    cron: Result<Cron, CronError>,
    settled_at: Time,
    next_fire_at: Time,
    policy: Policy,
    pending: Option<Pending>,
}

impl Scheduled {
    /// `None` when its time has not come, as after another server has settled it, or while one does.
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &DeploymentId) -> Result<Option<Self>> {
        let sql = format!(
            "SELECT d.agent_id, d.agent_version, d.cron, d.timezone, d.settled_at, d.next_fire_at,
                 (SELECT a.id FROM agents a WHERE a.workspace_id = d.workspace_id AND a.id = d.agent_id),
                 d.pending, d.overlap, d.max_concurrent_sessions, d.retry, d.catch_up_seconds, d.jitter
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
                pending: row.opt_text(7)?.map(|pending| serde_json::from_str(&pending)).transpose()?,
                policy: policy::from_row(row, 8)?,
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
