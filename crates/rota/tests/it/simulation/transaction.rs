//! Transactions of the model: they add effects one by one, and a process may die before each.

use jiff::{SignedDuration, Timestamp};
use rota_api::{Time, policy::SessionChoice, session::Status};
use rota_server::scheduler::{
    again::{self, Died, NoRetry},
    continuity::{self, Last},
    cron::{Cron, Window},
    pending::Pending,
    policy::{self, Policy, Verdict},
    settle::{self, Effects, SkipReason, Standing, State},
    spend::{self, Spent},
};

use super::{
    again::{Death, Move, Start},
    model::{Rules, Run},
    policies::Decision,
};

/// Why a transaction was not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// The process died.
    Died,
    /// A session could not be started, for a reason that has no type of its own.
    Broke,
}

/// When the process dies: after this many effects, if ever.
#[derive(Debug, Clone, Copy)]
pub struct Fate(pub Option<u32>);

impl Fate {
    pub fn next(&mut self) -> Result<(), Undone> {
        match &mut self.0 {
            Some(0) => Err(Undone::Died),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// The row of a deployment, with its sessions.
#[derive(Debug, Clone)]
pub struct Row {
    pub cron: Option<usize>,
    pub state: State,
    pub policy: Policy,
    pub pending: Option<Pending>,
    pub settled_at: Timestamp,
    pub next_fire_at: Option<Timestamp>,
    /// The sessions at work, those first that work longest.
    pub at_work: Vec<Session>,
    /// Whether schedules are held.
    pub is_held: bool,
    /// What follows sessions that died.
    pub followed: Vec<Followed>,
    /// What sessions have cost, by days.
    pub spent: Vec<(i64, i64)>,
    /// The sessions at rest, each with whether its last turn came to its end.
    pub at_rest: Vec<(usize, bool)>,
    /// The session of the last run.
    pub last: Option<usize>,
    /// How many sessions there have been.
    pub sessions: usize,
}

impl Row {
    /// When it has occurrences.
    pub fn window(&self) -> Window {
        let time = |time: Option<Time>| time.map(Time::timestamp);
        Window { starts_at: time(self.policy.starts_at), ends_at: time(self.policy.ends_at) }
    }

    /// The schedule with its window.
    pub fn schedule(&self, rules: &Rules) -> Option<Cron> {
        self.cron.map(|cron| rules.crons[cron].clone().within(self.window()))
    }
}

/// A session at work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Session {
    pub id: usize,
    pub interrupted: bool,
    /// The occurrence that it was started for and which of its sessions it is, where the schedule started it.
    pub of: Option<(Timestamp, u32)>,
}

/// What follows a session that died.
#[derive(Debug, Clone)]
pub struct Followed {
    pub died: Died,
    pub look_at: Option<Timestamp>,
    pub pending: Option<Pending>,
    pub reason: Option<NoRetry>,
    /// Whether another session was started, or tried to be.
    pub has_run: bool,
    /// Whether nobody has set the session that died to work since.
    pub is_dead: bool,
}

impl Followed {
    pub fn end(&mut self, reason: NoRetry) {
        (self.look_at, self.pending, self.reason) = (None, None, Some(reason));
    }

    pub fn hold(&mut self, pending: Pending, now: Timestamp) {
        self.look_at = Some(pending.retry_at.map_or(now + SignedDuration::from_secs(5), Time::timestamp));
        self.pending = Some(pending);
    }
}

/// What a transaction adds beside the row.
pub enum Effect {
    Skip {
        after: Timestamp,
        skip: settle::Skip,
    },
    Span(Timestamp, Option<usize>, State, Window),
    Run(Run),
    /// That a run was started, or that it has ended.
    Event,
    Death(Death),
    Move(Move),
    /// What a session has cost.
    Cost(Timestamp, i64),
    Decision(Decision),
}

pub struct Tx<'a> {
    pub rules: &'a Rules,
    pub now: Timestamp,
    pub row: Row,
    /// When the occurrence after the one to decide on is due.
    pub next: Option<Timestamp>,
    pub effects: Vec<Effect>,
    fate: Fate,
}

impl<'a> Tx<'a> {
    pub fn new(rules: &'a Rules, row: &Row, now: Timestamp, fate: Fate) -> Self {
        Self { rules, now, row: row.clone(), next: None, effects: Vec::new(), fate }
    }

    /// Lives on, or dies here.
    pub fn go_on(&mut self) -> Result<(), Undone> {
        self.fate.next()
    }

    pub fn add(&mut self, effect: Effect) -> Result<(), Undone> {
        self.go_on()?;
        self.effects.push(effect);
        Ok(())
    }

    pub fn write(&mut self, effects: &Effects) -> Result<(), Undone> {
        if let Some(skip) = &effects.skip {
            self.add(Effect::Skip { after: self.row.settled_at, skip: skip.clone() })?;
        }
        self.go_on()?;
        self.row.settled_at = effects.settled_at;
        self.row.next_fire_at = effects.next_fire_at;
        self.row.pending = None;
        Ok(())
    }

    pub fn pass_over(&mut self, pending: &Pending, reason: SkipReason) -> Result<(), Undone> {
        let at = pending.scheduled_at.timestamp();
        self.add(Effect::Skip { after: pending.after.timestamp(), skip: settle::Skip { occurrences: at..=at, reason } })
    }

    pub fn hold(&mut self, pending: Pending, next: Option<Time>) -> Result<(), Undone> {
        self.go_on()?;
        self.row.next_fire_at = Some(pending.look_at(next).timestamp());
        self.row.pending = Some(pending);
        Ok(())
    }

    pub fn change(&mut self, change: impl FnOnce(&mut Row)) -> Result<(), Undone> {
        let before = self.row.clone();
        self.go_on()?;
        change(&mut self.row);
        let (cron, state, window) = (self.row.cron, self.row.state, self.row.window());
        if (before.state, before.cron, before.window()) == (state, cron, window) {
            return Ok(());
        }
        if let Some(pending) = &before.pending {
            self.pass_over(pending, settle::ended_by(state))?;
        }
        for followed in self.row.followed.iter_mut().filter(|followed| followed.look_at.is_some()) {
            self.fate.next()?;
            followed.end(again::skipped(settle::ended_by(state)));
        }
        let (old, new) = (before.schedule(self.rules), self.row.schedule(self.rules));
        let from = Standing { state: before.state, cron: old.as_ref() };
        let to = Standing { state, cron: new.as_ref() };
        self.write(&settle::change(from, to, before.settled_at, self.now))?;
        self.add(Effect::Span(self.now, cron, state, window))
    }

    /// Counts what a session has cost.
    pub fn spend(&mut self, nanos: i64) -> Result<(), Undone> {
        self.add(Effect::Cost(self.now, nanos))?;
        self.go_on()?;
        let day = spend::day(self.now.into());
        match self.row.spent.iter_mut().find(|(of, _)| *of == day) {
            Some((_, spent)) => *spent += nanos,
            None => self.row.spent.push((day, nanos)),
        }
        Ok(())
    }

    /// The verdict on a start by the policy.
    pub fn verdict(&self) -> Verdict {
        let (today, first) = (spend::day(self.now.into()), spend::first_of_month(self.now.into()));
        let sum =
            |from| self.row.spent.iter().filter(|(day, _)| (from..=today).contains(day)).map(|(_, nanos)| nanos).sum();
        let spent = Spent { day: sum(today), month: sum(first) };
        if self.row.policy.spend.is_some_and(|ceiling| spend::reached(&ceiling, spent).is_some()) {
            return Verdict::Skipped(SkipReason::Spend);
        }
        policy::verdict(&self.row.policy, self.row.at_work.len() as u32)
    }

    /// The session of a run: that of the last one, where the policy wants that and it is at rest.
    fn session(&mut self, is_fresh: bool) -> Start {
        let choice = self.row.policy.session.unwrap_or_default();
        let last = self.row.last.and_then(|last| self.row.at_rest.iter().position(|(id, _)| *id == last));
        if let Some(place) = last.filter(|_| choice == SessionChoice::Continue && !is_fresh) {
            let (id, has_ended_well) = self.row.at_rest[place];
            let last = Last {
                status: Status::Idle,
                has_ended_well,
                is_archived: false,
                is_of_the_deployment: true,
                events: 0,
                bytes: 0,
                outcomes: 0,
            };
            if continuity::goes_on(&last, 10) {
                self.row.at_rest.remove(place);
                return Start { id, is_fresh, choice };
            }
        }
        self.row.sessions += 1;
        Start { id: self.row.sessions, is_fresh, choice }
    }

    /// Starts a session, of an occurrence where the schedule does it, and interrupts those that work longest. One that is fresh does not
    /// go on with another.
    pub fn start(&mut self, interrupts: u32, of: Option<(Timestamp, u32)>, is_fresh: bool) -> Result<(), Undone> {
        let start = self.session(is_fresh);
        self.row.last = Some(start.id);
        self.row.at_work.push(Session { id: start.id, interrupted: false, of });
        self.add(Effect::Move(Move::Starts(start)))?;
        for session in &mut self.row.at_work[..interrupts as usize] {
            self.fate.next()?;
            session.interrupted = true;
        }
        Ok(())
    }
}
