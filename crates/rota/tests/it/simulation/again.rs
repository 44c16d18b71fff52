//! What must be true of sessions that follow others which died, and of what is spent. The rules are written down once more here, as the
//! documentation has them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::Offset};
use rota_api::policy::{SessionChoice, Spend};
use rota_server::scheduler::{
    again::{Died, NoRetry},
    policy::Policy,
};

use super::model::{Deployment, Run};

/// A session of an occurrence that died.
#[derive(Debug)]
pub struct Death {
    pub died: Died,
    pub at: Timestamp,
    /// The policy of that time.
    pub policy: Policy,
    /// How often the schedule or the state had changed before.
    pub changes: usize,
}

/// A session that a run has.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub id: usize,
    /// Whether it follows one that died.
    pub is_fresh: bool,
    /// What the policy says.
    pub choice: SessionChoice,
}

/// A session goes to work, or comes to rest.
#[derive(Debug, Clone, Copy)]
pub enum Move {
    Starts(Start),
    Rests { id: usize, is_well: bool },
}

/// A run goes on with the session of the one before where the policy says so and that is at rest and well, and with no other.
fn runs_go_on_where_they_may(moves: &[Move]) -> Result<(), String> {
    let mut rested: BTreeMap<usize, bool> = BTreeMap::new();
    let mut last: Option<usize> = None;
    for moved in moves {
        match *moved {
            Move::Rests { id, is_well } => drop(rested.insert(id, is_well)),
            Move::Starts(start) => {
                let is_wanted = start.choice == SessionChoice::Continue && !start.is_fresh;
                let expected = last.filter(|last| is_wanted && rested.get(last) == Some(&true));
                let is_new = !rested.contains_key(&start.id) && last != Some(start.id);
                if expected.map_or(!is_new, |expected| expected != start.id) {
                    return Err(format!("{start:?} after {last:?}, of which {rested:?} have come to rest"));
                }
                rested.remove(&start.id);
                last = Some(start.id);
            }
        }
    }
    Ok(())
}

/// Whether `costs` come to what may be spent at `now`: on the same date of UTC, or in the same month.
pub fn has_spent(costs: &[(Timestamp, i64)], now: Timestamp, ceiling: Option<Spend>) -> bool {
    let Some(Spend { per_day_cents, per_month_cents }) = ceiling else { return false };
    let date = |at: Timestamp| Offset::UTC.to_datetime(at).date();
    let today = date(now);
    let sum = |counts: &dyn Fn(Timestamp) -> bool| -> i64 {
        costs.iter().filter(|(at, _)| counts(*at)).map(|(_, nanos)| nanos).sum()
    };
    let in_day = sum(&|at| date(at) == today);
    // What a server whose clock is ahead has written is of a later day, and counts then.
    let in_month = sum(&|at| date(at).first_of_month() == today.first_of_month() && date(at) <= today);
    let is_over = |cents: Option<u32>, nanos: i64| cents.is_some_and(|cents| nanos / 10_000_000 >= i64::from(cents));
    is_over(per_day_cents, in_day) || is_over(per_month_cents, in_month)
}

/// Says what is wrong with what followed sessions that died, if anything is.
pub fn check(deployment: &Deployment) -> Result<(), String> {
    runs_go_on_where_they_may(&deployment.moves)?;
    let mut runs: BTreeMap<(Timestamp, u32), &Run> = BTreeMap::new();
    for run in &deployment.runs {
        if runs.insert((run.occurrence, run.attempt), run).is_some() {
            return Err(format!("{} ran twice as number {}", run.occurrence, run.attempt));
        }
    }
    for run in deployment.runs.iter().filter(|run| run.attempt > 1) {
        let (occurrence, before) = (run.occurrence, run.attempt - 1);
        let is_before = |death: &&Death| of(&death.died) == (occurrence, before);
        let Some(death) = deployment.deaths.iter().find(is_before) else {
            return Err(format!("{occurrence} ran as number {} though none died before", run.attempt));
        };
        let retry = run.policy.retry.unwrap_or_default();
        let right = run.attempt <= retry.max_sessions
            && (retry.even_after_changes || !death.died.has_acted)
            && run.changes == death.changes
            && run.next.is_none_or(|next| run.created_at < next)
            && run.created_at.duration_since(death.at) >= least_pause(death);
        if !right {
            return Err(format!("{occurrence} ran as number {} by {retry:?} after {death:?}", run.attempt));
        }
    }
    deployment.deaths.iter().try_for_each(|death| has_one_end(deployment, death, &runs))
}

/// A death of whose kind there are to be others is followed by a session, by a reason, or by a wait, and by one of them.
fn has_one_end(deployment: &Deployment, death: &Death, runs: &BTreeMap<(Timestamp, u32), &Run>) -> Result<(), String> {
    let (occurrence, attempt) = of(&death.died);
    let found: Vec<_> = deployment.row.followed.iter().filter(|f| f.died == death.died).collect();
    let retry = death.policy.retry.unwrap_or_default();
    if retry.max_sessions == 1 {
        let is_left = found.is_empty() && !runs.contains_key(&(occurrence, attempt + 1));
        return if is_left { Ok(()) } else { Err(format!("{death:?} was to be followed by nothing")) };
    }
    let [followed] = found[..] else { return Err(format!("{death:?} has {found:?}")) };
    let has_run = runs.contains_key(&(occurrence, attempt + 1));
    let ends = [has_run, followed.reason.is_some(), followed.pending.is_some()];
    let waits = followed.pending.is_some() == followed.look_at.is_some();
    let has_cause = match followed.reason {
        Some(NoRetry::Attempts) => deployment.row.followed.len() >= attempt as usize && attempt > 1,
        Some(NoRetry::Changes) => death.died.has_acted,
        Some(NoRetry::Paused | NoRetry::Archived) => deployment.changes() > 1,
        _ => true,
    };
    let is_one = ends.into_iter().filter(|is| *is).count() == 1;
    if is_one && waits && has_cause && has_run == followed.has_run {
        return Ok(());
    }
    Err(format!("{death:?} has {followed:?} and a run: {has_run}"))
}

fn of(died: &Died) -> (Timestamp, u32) {
    (died.scheduled_at.timestamp(), died.attempt)
}

/// Half of the pause after a death.
fn least_pause(death: &Death) -> SignedDuration {
    let retry = death.policy.retry.unwrap_or_default();
    let grown = i64::from(retry.multiplier).pow(death.died.attempt - 1) * i64::from(retry.initial_backoff_seconds);
    SignedDuration::from_secs(grown.min(retry.max_backoff_seconds.into())) / 2
}
