//! A model of the store: what it keeps of a deployment, and transactions that happen as a whole or not at all.

use jiff::Timestamp;
use rota_server::scheduler::{
    cron::Cron,
    settle::{self, Effects, Standing, State, Timing},
};

use super::history::{History, Run, Skip, Span};

/// The process died before the transaction was committed.
#[derive(Debug)]
pub struct Crashed;

/// When the process dies: after this many effects, if ever.
#[derive(Debug, Clone, Copy)]
pub struct Fate(pub Option<u32>);

impl Fate {
    fn next(&mut self) -> Result<(), Crashed> {
        match &mut self.0 {
            Some(0) => Err(Crashed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// What the store keeps of a deployment.
pub struct Deployment {
    pub id: String,
    pub row: Row,
    spans: Vec<(Timestamp, Option<usize>, State)>,
    pub skips: Vec<Skip>,
    pub runs: Vec<(Timestamp, Timestamp)>,
    /// One for each run: how often it was delivered, and whether the store knows.
    pub outbox: Vec<Delivery>,
    last_seen: Timestamp,
    clock_went_back: bool,
}

/// A notice of a run that waits to be delivered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery {
    pub sent: u32,
    pub marked: bool,
}

/// The row of a deployment. The schedule is an index into the expressions of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub cron: Option<usize>,
    pub state: State,
    pub settled_at: Timestamp,
    pub next_fire_at: Option<Timestamp>,
}

/// What a transaction adds beside the row.
enum Effect {
    Skip { after: Timestamp, skip: settle::Skip },
    Span(Timestamp, Option<usize>, State),
    Run { occurrence: Timestamp, now: Timestamp },
    Notice,
}

struct Tx<'a> {
    crons: &'a [Cron],
    now: Timestamp,
    row: Row,
    effects: Vec<Effect>,
    fate: Fate,
}

impl Tx<'_> {
    fn add(&mut self, effect: Effect) -> Result<(), Crashed> {
        self.fate.next()?;
        self.effects.push(effect);
        Ok(())
    }

    fn write(&mut self, effects: &Effects) -> Result<(), Crashed> {
        if let Some(skip) = &effects.skip {
            self.add(Effect::Skip { after: self.row.settled_at, skip: skip.clone() })?;
        }
        self.fate.next()?;
        self.row.settled_at = effects.settled_at;
        self.row.next_fire_at = effects.next_fire_at;
        Ok(())
    }

    fn change(&mut self, change: impl FnOnce(&mut Row)) -> Result<(), Crashed> {
        let before = self.row;
        self.fate.next()?;
        change(&mut self.row);
        let after = self.row;
        if (before.state, before.cron) == (after.state, after.cron) {
            return Ok(());
        }
        let standing = |row: Row| Standing { state: row.state, cron: row.cron.map(|cron| &self.crons[cron]) };
        let effects = settle::change(standing(before), standing(after), before.settled_at, self.now);
        self.write(&effects)?;
        self.add(Effect::Span(self.now, after.cron, after.state))
    }
}

impl Deployment {
    /// A deployment that is created at `now`.
    pub fn create(id: String, crons: &[Cron], cron: Option<usize>, now: Timestamp) -> Self {
        let row = Row { cron: None, state: State::Active, settled_at: now, next_fire_at: None };
        let mut deployment = Self {
            id,
            row,
            spans: Vec::new(),
            skips: Vec::new(),
            runs: Vec::new(),
            outbox: Vec::new(),
            last_seen: now,
            clock_went_back: false,
        };
        deployment.change(crons, now, Fate(None), |row| row.cron = cron).expect("it lives");
        deployment
    }

    /// Changes the schedule or the state, as a client asks.
    pub fn change(
        &mut self,
        crons: &[Cron],
        now: Timestamp,
        fate: Fate,
        change: impl FnOnce(&mut Row),
    ) -> Result<(), Crashed> {
        if self.row.state == State::Archived {
            return Ok(());
        }
        let mut tx = Tx { crons, now, row: self.row, effects: Vec::new(), fate };
        tx.change(change)?;
        self.commit(tx)
    }

    /// Fires it if it is due. `fails`: with an error that pauses.
    pub fn settle(
        &mut self,
        crons: &[Cron],
        timing: &Timing,
        now: Timestamp,
        fate: Fate,
        fails: bool,
    ) -> Result<(), Crashed> {
        let Some(cron) = self.row.cron.filter(|_| self.row.next_fire_at.is_some_and(|at| at <= now)) else {
            return Ok(());
        };
        let mut tx = Tx { crons, now, row: self.row, effects: Vec::new(), fate };
        let effects = settle::due(&self.id, &crons[cron], timing, self.row.settled_at, now);
        tx.write(&effects)?;
        if let Some(occurrence) = effects.fire
            && !self.runs.iter().any(|run| run.0 == occurrence)
        {
            tx.add(Effect::Run { occurrence, now })?;
            tx.add(Effect::Notice)?;
            if fails {
                tx.change(|row| row.state = State::Paused)?;
            }
        }
        self.commit(tx)
    }

    fn commit(&mut self, mut tx: Tx<'_>) -> Result<(), Crashed> {
        tx.fate.next()?;
        self.row = tx.row;
        for effect in tx.effects {
            match effect {
                Effect::Skip { after, skip } => self.skip(after, &skip),
                Effect::Span(since, cron, state) => self.spans.push((since, cron, state)),
                Effect::Run { occurrence, now } => self.runs.push((occurrence, now)),
                Effect::Notice => self.outbox.push(Delivery::default()),
            }
        }
        self.clock_went_back |= tx.now < self.last_seen;
        self.last_seen = tx.now;
        Ok(())
    }

    fn skip(&mut self, after: Timestamp, skip: &settle::Skip) {
        let (first, last) = (*skip.occurrences.start(), *skip.occurrences.end());
        let reason = skip.reason.as_str();
        match self.skips.iter_mut().find(|row| row.last == after && row.reason == reason) {
            Some(row) => row.last = last,
            None => self.skips.push(Skip { first, last, reason: reason.to_owned() }),
        }
    }

    /// How many changes the store has.
    pub fn changes(&self) -> usize {
        self.spans.len()
    }

    /// What has happened, for the invariants.
    pub fn history(&self, crons: &[Cron], timing: Timing, until: Timestamp) -> History {
        History {
            id: self.id.clone(),
            timing,
            spans: self
                .spans
                .iter()
                .map(|(since, cron, state)| Span {
                    since: *since,
                    cron: cron.map(|cron| crons[cron].clone()),
                    state: *state,
                })
                .collect(),
            skips: self.skips.clone(),
            runs: self.runs.iter().map(|&(occurrence, created_at)| Run { occurrence, created_at }).collect(),
            until: until.max(self.row.settled_at),
            clock_went_back: self.clock_went_back,
        }
    }
}
