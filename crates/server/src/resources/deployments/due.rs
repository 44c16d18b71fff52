//! What the scheduler asks of the store: which deployments are due, and to settle them.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use rota_api::{
    Time,
    agent::AgentReference,
    audit::ActorType,
    deployment::{DeploymentRun, TriggerContext},
    id::{DeploymentId, Id, RunId, WorkspaceId},
};

use super::{
    active,
    check::check,
    failures, held, policy,
    run::{self, Target},
    standing, store,
};
use crate::{
    app::FirePolicy,
    db::{Db, Row, Tx, vals},
    error::{Error, Result},
    limits::FIRES_AT_ONCE,
    resources::{deployment_runs, sessions::events, webhook_outbox::Outbox},
    scheduler::{
        cron::{Cron, CronError},
        pending::{self, Pending, Step},
        policy::{HELD, Policy, Verdict, timing},
        settle::{self, Effects, Skip, SkipReason, Timing},
    },
};

/// A deployment that the scheduler must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The deployment.
    pub id: DeploymentId,
    /// Since when.
    pub since: Time,
}

/// At most `limit` deployments that are due, the longest waiting first, after `last` in that order.
pub fn list(tx: &mut Tx<'_>, last: Option<&Due>, limit: i64) -> Result<Vec<Due>> {
    let (since, id) = last.map_or((i64::MIN, ""), |due| (due.since.micros(), due.id.as_ref()));
    tx.all(
        "SELECT id, next_fire_at FROM deployments
         WHERE next_fire_at <= $1 AND (next_fire_at, id) > ($2, $3) ORDER BY next_fire_at, id LIMIT $4",
        vals![tx.now(), since, id, limit],
        |row| Ok(Due { id: row.id(0)?, since: row.time(1)? }),
    )
}

/// When the next deployment is due, if any ever is.
pub async fn earliest(db: &Db) -> Result<Option<Time>> {
    let sql = "SELECT next_fire_at FROM deployments WHERE next_fire_at IS NOT NULL ORDER BY next_fire_at LIMIT 1";
    db.lookup(sql, &[], |row| row.time(0)).await
}

/// What [`settle()`] did with a deployment.
#[derive(Debug)]
pub struct Report {
    /// The deployment.
    pub id: DeploymentId,
    /// What became of it.
    pub settled: Settled,
    /// Why occurrences were passed over, a reason for each gap.
    pub skipped: Vec<SkipReason>,
}

/// What became of a deployment that was due.
#[derive(Debug)]
pub enum Settled {
    /// No occurrence fires now; one may be pending until it has a place, or its next attempt is due.
    Waits(Option<Pending>),
    /// The session of an occurrence could not be started, and there will be another attempt.
    Retries(Pending),
    /// An occurrence fired.
    Fired {
        /// Its run, which may hold an error.
        run: DeploymentRun,
        /// When it should have: the occurrence and its delay, or the time of another attempt.
        due_at: Time,
    },
    /// It was archived, for its agent is gone.
    Archived,
    /// It was paused, for its runs have failed too often.
    Paused,
}

/// Fires each deployment of `group`, a part of a [`list`], if an occurrence is due and the deployment's policy lets it, and
/// accounts for those that are passed over. One that is not due any more, because another server has settled it or does so
/// now, or because it was changed, is left out, so that several servers may do this at the same time.
///
/// # Errors
/// When one of the deployments cannot be settled; then nothing is recorded of any.
pub fn settle(tx: &mut Tx<'_>, policy: &FirePolicy, group: &[Due]) -> Result<Vec<Report>> {
    settle_by(tx, policy, group, Attempt::Fire)
}

/// Settles deployments for which [`settle()`] failed for another reason than the database: the occurrence gets a run with an
/// `unknown_error`, and the deployment is paused; unless its policy says that it is tried again.
pub fn settle_failed(tx: &mut Tx<'_>, policy: &FirePolicy, group: &[Due]) -> Result<Vec<Report>> {
    settle_by(tx, policy, group, Attempt::Fail)
}

/// How the session of an occurrence is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Fire,
    /// Not at all: it was tried and failed for a reason that has no type of its own.
    Fail,
}

fn settle_by(tx: &mut Tx<'_>, policy: &FirePolicy, group: &[Due], attempt: Attempt) -> Result<Vec<Report>> {
    let mut outbox = Outbox::default();
    let taken = Scheduled::take(tx, group)?;
    taken.into_iter().map(|scheduled| scheduled.settle(tx, policy, &mut outbox, attempt)).collect()
}

/// Deployments whose time has come at `$1`, from the time and the id in `$2` and `$3` to those in `$4` and `$5`.
const DUE_BETWEEN: &str = "d.next_fire_at <= $1 AND (d.next_fire_at, d.id) >= ($2, $3)
    AND (d.next_fire_at, d.id) <= ($4, $5) ORDER BY d.next_fire_at, d.id LIMIT $6";

/// An active deployment whose time to be looked at has come.
struct Scheduled {
    workspace: WorkspaceId,
    id: DeploymentId,
    agent: AgentReference,
    has_agent: bool,
    target: Result<Target>,
    cron: Result<Cron, CronError>,
    settled_at: Time,
    next_fire_at: Time,
    policy: Policy,
    pending: Option<Pending>,
    /// The latest occurrence that has a run.
    last_fired: Option<Time>,
    /// Whether the schedules of its workspace are held.
    is_held: bool,
}

impl Scheduled {
    /// Takes those of `group` whose time has come and that nobody else has taken.
    fn take(tx: &mut Tx<'_>, group: &[Due]) -> Result<Vec<Self>> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(Vec::new()) };
        let range = vals![tx.now(), first.since, &first.id, last.since, &last.id, FIRES_AT_ONCE as i64];
        let sql = format!("SELECT d.id FROM deployments d WHERE {DUE_BETWEEN}{}", tx.skip_locked("d"));
        let taken: HashSet<DeploymentId> = tx.all(&sql, range, |row| row.id(0))?.into_iter().collect();
        // Only what is read after the rows are locked is true of the rows of other tables, too.
        let sql = format!(
            "SELECT {}, {}, {}, d.workspace_id, a.id AS existing_agent_id, d.cron, d.timezone, d.settled_at, d.next_fire_at, d.pending,
                 (SELECT max(r.scheduled_at) FROM deployment_runs r
                  WHERE r.deployment_id = d.id AND r.scheduled_at IS NOT NULL) AS last_fired
             FROM {} WHERE {DUE_BETWEEN}",
            Target::COLUMNS,
            policy::COLUMNS,
            held::COLUMNS,
            Target::TABLES,
        );
        let mut found = tx.all(&sql, range, Self::from_row)?;
        found.retain(|scheduled| taken.contains(&scheduled.id));
        Ok(found)
    }

    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            id: row.id("deployment_id")?,
            agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
            target: Target::from_row(row),
            policy: policy::from_row(row)?,
            workspace: row.id("workspace_id")?,
            has_agent: row.opt_text("existing_agent_id")?.is_some(),
            cron: {
                let window = standing::window(row)?;
                Cron::parse(&row.text("cron")?, &row.text("timezone")?).map(|cron| cron.within(window))
            },
            settled_at: row.time("settled_at")?,
            next_fire_at: row.time("next_fire_at")?,
            pending: row.opt_json("pending")?,
            is_held: held::is_held(row)?,
            last_fired: row.opt_time("last_fired")?,
        })
    }

    fn settle(self, tx: &mut Tx<'_>, policy: &FirePolicy, outbox: &mut Outbox, attempt: Attempt) -> Result<Report> {
        if !self.has_agent {
            store::archive(tx, &self.workspace, self.id.as_ref())?;
            store::audit(tx, &self.workspace, self.id.as_ref(), ActorType::Scheduler, "deployments.archive");
            return Ok(Report { id: self.id, settled: Settled::Archived, skipped: Vec::new() });
        }
        if self.policy.pause_after_failures.is_some() && failures::pause(tx, &self.workspace, &self.id)? {
            return Ok(Report { id: self.id, settled: Settled::Paused, skipped: Vec::new() });
        }
        let timing = timing(&self.policy, policy.timing);
        let effects = self.effects(&timing, tx.now());
        let mut skipped = Vec::new();
        let found = pending::find(self.pending.clone(), &effects, self.settled_at.timestamp());
        if let Some((pending, reason)) = &found.overtaken {
            standing::pass_over(tx, (&self.workspace, self.id.as_ref()), pending, *reason)?;
            skipped.push(*reason);
        }
        if let Some(Skip { occurrences, reason }) = &effects.skip {
            let of = (&self.workspace, self.id.as_ref());
            standing::skip(tx, of, self.settled_at.timestamp(), occurrences, *reason)?;
            skipped.push(*reason);
        }
        let next = effects.next_fire_at.map(Time::from);
        let look = Look { policy, scheduled: &self, timing, attempt, next };
        let settled = match found.occurrence {
            Some(occurrence) => look.decide(tx, &occurrence, &mut skipped)?,
            None => Settled::Waits(None),
        };
        self.record(tx, outbox, &settled, effects.settled_at, next)?;
        Ok(Report { id: self.id, settled, skipped })
    }

    /// Writes what a look has come to, and what a fire means beyond that: webhooks, and the pause that an error may bring.
    fn record(
        &self,
        tx: &mut Tx<'_>,
        outbox: &mut Outbox,
        settled: &Settled,
        settled_at: Timestamp,
        next: Option<Time>,
    ) -> Result<()> {
        let Self { workspace, id, .. } = self;
        let (pending, run) = match settled {
            Settled::Waits(pending) => (pending.as_ref(), None),
            Settled::Retries(pending) => (Some(pending), None),
            Settled::Fired { run, .. } => (None, Some(run)),
            Settled::Archived | Settled::Paused => (None, None),
        };
        let found = standing::Looked {
            settled_at,
            pending,
            next_fire_at: pending.map_or(next, |pending| Some(pending.look_at(next))),
            ran_at: run.filter(|run| run.error.is_none()).map(|run| run.created_at),
        };
        standing::looked(tx, workspace, id, &found)?;
        let Some(run) = run else { return Ok(()) };
        run::tell(tx, outbox, workspace, run)
    }

    fn effects(&self, timing: &Timing, now: Time) -> Effects {
        if let Ok(cron) = &self.cron {
            return settle::due(self.id.as_ref(), cron, timing, self.settled_at.timestamp(), now.timestamp());
        }
        // What cannot be read any more has no occurrence but the one that was found when it could.
        let next = self.next_fire_at.timestamp();
        Effects { skip: None, fire: Some(next), settled_at: next, next_fire_at: None }
    }
}

/// A look at a deployment that has an occurrence to decide on.
struct Look<'a> {
    policy: &'a FirePolicy,
    scheduled: &'a Scheduled,
    timing: Timing,
    attempt: Attempt,
    /// When the occurrence after that one is due.
    next: Option<Time>,
}

impl Look<'_> {
    fn decide(&self, tx: &mut Tx<'_>, occurrence: &Pending, skipped: &mut Vec<SkipReason>) -> Result<Settled> {
        let Scheduled { workspace, id, .. } = self.scheduled;
        if self.has_run(tx, occurrence)? {
            return Ok(Settled::Waits(None));
        }
        let interrupts = match occurrence.step(tx.now(), || self.verdict(tx))? {
            Step::Hold(pending) => return Ok(Settled::Waits(Some(pending))),
            Step::PassOver(reason) => {
                standing::pass_over(tx, (workspace, id.as_ref()), occurrence, reason)?;
                skipped.push(reason);
                return Ok(Settled::Waits(None));
            }
            Step::Start(interrupts) => interrupts,
        };
        if let Some(pending) = self.retry(tx, occurrence)? {
            return Ok(Settled::Retries(pending));
        }
        let in_its_way = if interrupts > 0 { active::oldest(tx, id, interrupts)? } else { Vec::new() };
        let run = self.start(tx, occurrence)?;
        if run.session_id.is_some() {
            for session in in_its_way {
                events::interrupt(tx, workspace, &session)?;
            }
        }
        Ok(Settled::Fired { run, due_at: self.due_at(tx.now(), occurrence) })
    }

    /// Whether an occurrence has fired already, as it may have before the clock was set back and the schedule changed.
    fn has_run(&self, tx: &mut Tx<'_>, occurrence: &Pending) -> Result<bool> {
        let Scheduled { workspace, id, last_fired, .. } = self.scheduled;
        if last_fired.is_none_or(|last| occurrence.scheduled_at > last) {
            return Ok(false);
        }
        Ok(deployment_runs::of_occurrence(tx, workspace, id.as_ref(), occurrence.scheduled_at)?.is_some())
    }

    fn verdict(&self, tx: &mut Tx<'_>) -> Result<Verdict> {
        let policy = &self.scheduled.policy;
        if self.scheduled.is_held {
            return Ok(HELD);
        }
        // What failed for an unknown reason had its place.
        if self.attempt == Attempt::Fail {
            return Ok(Verdict::Fires);
        }
        policy::verdict(tx, &self.scheduled.id, policy)
    }

    /// What stays pending if an attempt now would fail and the policy asks for another.
    fn retry(&self, tx: &mut Tx<'_>, occurrence: &Pending) -> Result<Option<Pending>> {
        let Scheduled { policy, cron: Ok(_), workspace, id, target, .. } = self.scheduled else { return Ok(None) };
        if policy.retry.is_none() {
            return Ok(None);
        }
        let error = match (self.attempt, target) {
            (Attempt::Fire, Ok(target)) => check(tx, self.policy, workspace, target)?.err(),
            (Attempt::Fire, Err(_)) => None,
            (Attempt::Fail, _) => Some(run::unknown_error()),
        };
        Ok(error.and_then(|error| occurrence.failed(policy, id.as_ref(), error, tx.now(), self.next)))
    }

    fn start(&self, tx: &mut Tx<'_>, occurrence: &Pending) -> Result<DeploymentRun> {
        let Scheduled { workspace, id, agent, target, cron, .. } = self.scheduled;
        let (run_id, trigger) =
            (RunId::new(tx.now()), TriggerContext::Schedule { scheduled_at: occurrence.scheduled_at });
        if self.attempt == Attempt::Fail {
            return run::record(tx, workspace, run_id, id.clone(), agent.clone(), trigger, Err(run::unknown_error()));
        }
        cron.as_ref().map_err(|error| Error::internal(error.clone()))?;
        let target = target.as_ref().map_err(|error| Error::internal(error.to_string()))?;
        run::start(tx, self.policy, workspace, target, run_id, trigger)
    }

    fn due_at(&self, now: Time, occurrence: &Pending) -> Time {
        let Scheduled { id, cron, pending, .. } = self.scheduled;
        if pending.as_ref().is_some_and(|pending| pending.scheduled_at == occurrence.scheduled_at) {
            return occurrence.retry_at.unwrap_or(now);
        }
        let at = occurrence.scheduled_at.timestamp();
        let delay = cron.as_ref().map_or(SignedDuration::ZERO, |cron| self.timing.delay(id.as_ref(), cron, at));
        (at + delay).into()
    }
}
