//! Transactions of the model: they add effects one by one, and a process may die before each.

use jiff::Timestamp;
use rota_api::Time;
use rota_server::scheduler::{
    cron::{Cron, Window},
    pending::Pending,
    policy::Policy,
    settle::{self, Effects, SkipReason, Standing, State},
};

use super::{
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
    pub interrupted: bool,
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
        let (old, new) = (before.schedule(self.rules), self.row.schedule(self.rules));
        let from = Standing { state: before.state, cron: old.as_ref() };
        let to = Standing { state, cron: new.as_ref() };
        self.write(&settle::change(from, to, before.settled_at, self.now))?;
        self.add(Effect::Span(self.now, cron, state, window))
    }

    /// Starts a session, and interrupts those that work longest.
    pub fn start(&mut self, interrupts: u32) -> Result<(), Undone> {
        self.go_on()?;
        self.row.at_work.push(Session::default());
        for session in &mut self.row.at_work[..interrupts as usize] {
            self.fate.next()?;
            session.interrupted = true;
        }
        Ok(())
    }
}
