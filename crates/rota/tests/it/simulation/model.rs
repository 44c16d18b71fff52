//! A model of the store: what it keeps of a deployment, and what servers and clients do to it.

use jiff::Timestamp;
use rota_api::{
    Time,
    deployment::{RunError, RunErrorType},
    policy::Overlap,
};
use rota_server::scheduler::{
    again::{self, Died, NoRetry},
    cron::{Cron, Window},
    pending::{self, Pending, Step},
    policy::{self, Policy, Verdict},
    settle::{self, State, Timing},
};

use super::{
    again::{self as again_promises, Death, Move},
    history::{self, History, Skip, Span, Waiting},
    policies::{self, Decision, What},
    transaction::{Effect, Fate, Followed, Row, Session, Tx, Undone},
};

/// How an attempt to start a session ends, if one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Succeeds,
    Fails(RunErrorType),
    /// For a reason that has no type: what was written is undone.
    Breaks,
    /// None is made: one broke, and that is recorded.
    Broke,
}

impl Attempt {
    /// What it fails with, if it fails.
    fn error(self) -> Result<Option<RunErrorType>, Undone> {
        match self {
            Self::Succeeds => Ok(None),
            Self::Fails(error) => Ok(Some(error)),
            Self::Breaks => Err(Undone::Broke),
            Self::Broke => Ok(Some(RunErrorType::Unknown)),
        }
    }
}

/// How a session comes to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Well,
    Died {
        /// Whether its agent had called a tool that may change something.
        has_acted: bool,
    },
}

/// What holds for all deployments.
pub struct Rules {
    /// The schedules, to which rows refer by their places.
    pub crons: Vec<Cron>,
    /// How the servers keep times.
    pub timing: Timing,
}

/// What the store keeps of a deployment.
pub struct Deployment {
    pub id: String,
    pub row: Row,
    pub skips: Vec<Skip>,
    pub runs: Vec<Run>,
    pub decisions: Vec<Decision>,
    pub deaths: Vec<Death>,
    /// What sessions have cost, each with when.
    pub costs: Vec<(Timestamp, i64)>,
    /// How its sessions went to work and came to rest.
    pub moves: Vec<Move>,
    /// Events that were written and that the outbox has not been told of.
    pub events: usize,
    spans: Vec<(Timestamp, Option<usize>, State, Window)>,
    last_seen: Timestamp,
    latest: Timestamp,
    clock_went_back: bool,
}

/// A scheduled run.
pub struct Run {
    pub occurrence: Timestamp,
    pub created_at: Timestamp,
    pub policy: Policy,
    pub was_pending: bool,
    /// Which of the runs of its occurrence it is.
    pub attempt: u32,
    /// How often the schedule or the state had changed before.
    pub changes: usize,
    /// When the next occurrence comes.
    pub next: Option<Timestamp>,
}

impl Deployment {
    /// A deployment that is created at `now`.
    pub fn create(id: String, rules: &Rules, cron: Option<usize>, policy: Policy, now: Timestamp) -> Self {
        let row = Row {
            cron: None,
            state: State::Active,
            policy,
            pending: None,
            settled_at: now,
            next_fire_at: None,
            at_work: Vec::new(),
            followed: Vec::new(),
            spent: Vec::new(),
            at_rest: Vec::new(),
            last: None,
            sessions: 0,
            is_held: false,
        };
        let mut deployment = Self {
            id,
            row,
            skips: Vec::new(),
            runs: Vec::new(),
            decisions: Vec::new(),
            deaths: Vec::new(),
            costs: Vec::new(),
            moves: Vec::new(),
            events: 0,
            spans: Vec::new(),
            last_seen: now,
            latest: now,
            clock_went_back: false,
        };
        deployment.change(rules, now, Fate(None), |row| row.cron = cron).expect("it lives");
        deployment
    }

    /// Changes the schedule or the state, as a client asks.
    pub fn change(
        &mut self,
        rules: &Rules,
        now: Timestamp,
        fate: Fate,
        change: impl FnOnce(&mut Row),
    ) -> Result<(), Undone> {
        if self.row.state == State::Archived {
            return Ok(());
        }
        let mut tx = Tx::new(rules, &self.row, now, fate);
        tx.change(change)?;
        self.commit(tx)
    }

    /// Changes the policy, as a client asks.
    pub fn set_policy(&mut self, rules: &Rules, now: Timestamp, fate: Fate, policy: Policy) -> Result<(), Undone> {
        if self.row.state == State::Archived || self.row.policy == policy {
            return Ok(());
        }
        let mut tx = Tx::new(rules, &self.row, now, fate);
        tx.go_on()?;
        // The times of the schedule are in it.
        tx.change(|row| {
            row.policy = policy;
            row.next_fire_at = row.next_fire_at.map(|at| at.min(now));
        })?;
        if !again::is_wanted(&policy) {
            for followed in tx.row.followed.iter_mut().filter(|followed| followed.look_at.is_some()) {
                followed.end(NoRetry::Policy);
            }
        }
        self.commit(tx)
    }

    /// A session goes to work that the schedule did not start.
    pub fn go_to_work(&mut self, rules: &Rules, now: Timestamp, fate: Fate) -> Result<(), Undone> {
        let mut tx = Tx::new(rules, &self.row, now, fate);
        tx.start(0, None, false)?;
        self.commit(tx)
    }

    /// The session at this place of those at work comes to rest, after it has cost something.
    pub fn come_to_rest(
        &mut self,
        rules: &Rules,
        now: Timestamp,
        fate: Fate,
        session: usize,
        (end, nanos): (End, i64),
    ) -> Result<(), Undone> {
        let mut tx = Tx::new(rules, &self.row, now, fate);
        tx.spend(nanos)?;
        tx.go_on()?;
        let session = tx.row.at_work.remove(session);
        tx.row.at_rest.push((session.id, end == End::Well));
        tx.add(Effect::Move(Move::Rests { id: session.id, is_well: end == End::Well }))?;
        if let (End::Died { has_acted }, Some((at, attempt))) = (end, session.of) {
            self.die(&mut tx, Died { scheduled_at: at.into(), attempt, has_acted })?;
        }
        if tx.row.policy.overlap == Some(Overlap::QueueOne) && tx.row.pending.is_some() {
            tx.row.next_fire_at = tx.row.next_fire_at.map(|at| at.min(now));
        }
        self.commit(tx)
    }

    fn die(&self, tx: &mut Tx<'_>, died: Died) -> Result<(), Undone> {
        let (policy, state, now) = (tx.row.policy, tx.row.state, tx.now);
        let rules = tx.rules;
        let cron = tx.row.cron.map(|cron| &rules.crons[cron]);
        let next = again::after_death(&policy, &self.id, &died, (state, cron), now.into());
        tx.add(Effect::Death(Death { died, at: now, policy, changes: self.changes() }))?;
        if let Some(next) = next {
            tx.go_on()?;
            let mut followed =
                Followed { died, look_at: None, pending: None, reason: None, has_run: false, is_dead: true };
            match next {
                Ok(pending) => followed.hold(pending, now),
                Err(reason) => followed.end(reason),
            }
            tx.row.followed.push(followed);
        }
        Ok(())
    }

    /// Somebody sets a session that died to work again.
    pub fn resume(&mut self, rules: &Rules, now: Timestamp, fate: Fate, which: usize) -> Result<(), Undone> {
        let mut tx = Tx::new(rules, &self.row, now, fate);
        tx.go_on()?;
        tx.row.sessions += 1;
        tx.row.at_work.push(Session { id: tx.row.sessions, interrupted: false, of: None });
        tx.row.followed[which].is_dead = false;
        self.commit(tx)
    }

    /// Starts a session in place of one that died, if that is due.
    pub fn follow(
        &mut self,
        rules: &Rules,
        now: Timestamp,
        fate: Fate,
        which: usize,
        attempt: Attempt,
    ) -> Result<(), Undone> {
        let Followed { died, look_at: Some(look_at), pending: Some(pending), is_dead, .. } =
            self.row.followed[which].clone()
        else {
            return Ok(());
        };
        if look_at > now {
            return Ok(());
        }
        let mut tx = Tx::new(rules, &self.row, now, fate);
        let cron = tx.row.cron.map(|cron| &rules.crons[cron]);
        let verdict = if attempt == Attempt::Broke { Verdict::Fires } else { tx.verdict() };
        let (policy, standing) = (tx.row.policy, (tx.row.state, cron));
        let step = again::step(&pending, &policy, &died, standing, is_dead, now.into(), || Ok(verdict))?;
        tx.go_on()?;
        let interrupts = match step {
            again::Step::End(reason) => {
                tx.row.followed[which].end(reason);
                return self.commit(tx);
            }
            again::Step::Hold(pending) => {
                tx.row.followed[which].hold(pending, now);
                return self.commit(tx);
            }
            again::Step::Start(interrupts) => interrupts,
        };
        let error = attempt.error()?;
        let next = again::next_occurrence(cron, &died);
        let failed = error.map(|r#type| RunError { r#type, message: String::new() });
        if let Some(pending) = failed.and_then(|error| pending.failed(&policy, &self.id, error, now.into(), next)) {
            tx.row.followed[which].hold(pending, now);
            return self.commit(tx);
        }
        let followed = &mut tx.row.followed[which];
        (followed.look_at, followed.pending, followed.has_run) = (None, None, true);
        let occurrence = died.scheduled_at.timestamp();
        tx.add(Effect::Run(Run {
            occurrence,
            created_at: now,
            policy,
            was_pending: true,
            attempt: died.attempt + 1,
            changes: self.changes(),
            next: cron.and_then(|cron| cron.next(occurrence)),
        }))?;
        tx.add(Effect::Event)?;
        tx.add(Effect::Event)?;
        match error {
            None => tx.start(interrupts, Some((occurrence, died.attempt + 1)), true)?,
            Some(error) if error.pauses() => tx.change(|row| row.state = State::Paused)?,
            Some(_) => {}
        }
        self.commit(tx)
    }

    /// Settles it if it is due.
    pub fn settle(&mut self, rules: &Rules, now: Timestamp, fate: Fate, attempt: Attempt) -> Result<(), Undone> {
        let Some(cron) = self.row.schedule(rules).filter(|_| self.is_due(now)) else { return Ok(()) };
        let timing = policy::timing(&self.row.policy, rules.timing);
        let mut tx = Tx::new(rules, &self.row, now, fate);
        let settled_at = tx.row.settled_at;
        let effects = settle::due(&self.id, &cron, &timing, settled_at, now);
        let found = pending::find(tx.row.pending.take(), &effects, settled_at);
        if let Some((pending, reason)) = found.overtaken {
            tx.pass_over(&pending, reason)?;
        }
        tx.write(&effects)?;
        if let Some(occurrence) = &found.occurrence {
            tx.next = self.next_due(rules, &tx.row);
            self.decide(&mut tx, occurrence, attempt)?;
        }
        self.commit(tx)
    }

    /// Whether the scheduler must look at it.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.row.next_fire_at.is_some_and(|at| at <= now)
    }

    fn next_due(&self, rules: &Rules, row: &Row) -> Option<Timestamp> {
        let cron = row.schedule(rules)?;
        let next = cron.next(row.settled_at)?;
        Some(next + policies::timing(&row.policy, rules.timing).delay(&self.id, &cron, next))
    }

    fn decide(&self, tx: &mut Tx<'_>, occurrence: &Pending, attempt: Attempt) -> Result<(), Undone> {
        let at = occurrence.scheduled_at.timestamp();
        if self.runs.iter().any(|run| run.occurrence == at) {
            return Ok(());
        }
        let verdict = match attempt {
            _ if tx.row.is_held => policy::HELD,
            Attempt::Broke => Verdict::Fires,
            _ => tx.verdict(),
        };
        let next = tx.row.next_fire_at.map(Time::from);
        match occurrence.step(tx.now.into(), || Ok(verdict))? {
            Step::Start(interrupts) => self.attempt(tx, occurrence, attempt, interrupts),
            Step::PassOver(reason) => {
                tx.pass_over(occurrence, reason)?;
                self.decided(tx, occurrence, What::Skipped(reason))
            }
            Step::Hold(pending) => {
                if pending.retry_at.is_none() {
                    self.decided(tx, &pending, What::Waits)?;
                }
                tx.hold(pending, next)
            }
        }
    }

    fn attempt(&self, tx: &mut Tx<'_>, occurrence: &Pending, attempt: Attempt, interrupts: u32) -> Result<(), Undone> {
        let error = attempt.error()?;
        let (policy, next) = (tx.row.policy, tx.row.next_fire_at.map(Time::from));
        let again = error.and_then(|error| {
            let error = RunError { r#type: error, message: String::new() };
            occurrence.failed(&policy, &self.id, error, tx.now.into(), next)
        });
        let at = occurrence.scheduled_at.timestamp();
        if let (Some(error), Some(again)) = (error, again) {
            let at = again.retry_at.expect("another attempt has its time").timestamp();
            self.decided(tx, occurrence, What::Retries { error, at })?;
            return tx.hold(again, next);
        }
        let was_pending =
            self.row.pending.as_ref().is_some_and(|pending| pending.scheduled_at == occurrence.scheduled_at);
        let changes = self.changes();
        let run = Run { occurrence: at, created_at: tx.now, policy, was_pending, attempt: 1, changes, next: None };
        tx.add(Effect::Run(run))?;
        tx.add(Effect::Event)?;
        tx.add(Effect::Event)?;
        match error {
            None => tx.start(interrupts, Some((at, 1)), false)?,
            Some(error) if error.pauses() => tx.change(|row| row.state = State::Paused)?,
            Some(_) => {}
        }
        self.decided(tx, occurrence, error.map_or(What::Started, What::Failed))
    }

    fn decided(&self, tx: &mut Tx<'_>, occurrence: &Pending, what: What) -> Result<(), Undone> {
        let sessions = &tx.row.at_work;
        let interrupted = sessions.iter().filter(|session| session.interrupted).count();
        let were_interrupted = self.row.at_work.iter().filter(|session| session.interrupted).count();
        let decision = Decision {
            policy: tx.row.policy,
            is_held: tx.row.is_held,
            now: tx.now,
            next: tx.next,
            at_work: self.row.at_work.len(),
            undisturbed: sessions.len() - interrupted,
            interrupted: interrupted - were_interrupted,
            attempts: occurrence.attempts + 1,
            retry_at: occurrence.retry_at.map(Time::timestamp),
            state: tx.row.state,
            has_spent: again_promises::has_spent(&self.costs, tx.now, tx.row.policy.spend),
            what,
        };
        tx.add(Effect::Decision(decision))
    }

    fn commit(&mut self, mut tx: Tx<'_>) -> Result<(), Undone> {
        tx.go_on()?;
        self.row = tx.row;
        for effect in tx.effects {
            match effect {
                Effect::Skip { after, skip } => self.skip(after, &skip),
                Effect::Span(since, cron, state, window) => self.spans.push((since, cron, state, window)),
                Effect::Run(run) => self.runs.push(run),
                Effect::Event => self.events += 1,
                Effect::Death(death) => self.deaths.push(death),
                Effect::Move(moved) => self.moves.push(moved),
                Effect::Cost(at, nanos) => self.costs.push((at, nanos)),
                Effect::Decision(decision) => self.decisions.push(decision),
            }
        }
        self.clock_went_back |= tx.now < self.last_seen;
        self.last_seen = tx.now;
        self.latest = self.latest.max(tx.now);
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

    /// Whether a transaction has seen a time that is still to come at `now`, or was when another one followed.
    pub fn saw_a_wrong_clock(&self, now: Timestamp) -> bool {
        self.clock_went_back || self.latest > now
    }

    /// What has happened, for the invariants.
    pub fn history(&self, rules: &Rules, until: Timestamp) -> History {
        let span = |&(since, cron, state, window): &(_, Option<usize>, _, Window)| Span {
            since,
            cron: cron.map(|cron| rules.crons[cron].clone()),
            from: window.starts_at,
            until: window.ends_at,
            state,
        };
        let run = |run: &Run| history::Run {
            occurrence: run.occurrence,
            created_at: run.created_at,
            timings: vec![policies::timing(&run.policy, rules.timing)],
            was_pending: run.was_pending,
        };
        let pending = self.row.pending.as_ref().map(|pending| Waiting {
            occurrence: pending.scheduled_at.timestamp(),
            retry_at: pending.retry_at.map(Time::timestamp),
            next_fire_at: self.row.next_fire_at,
            is_held_up: policies::holds_up(&self.row.policy, self.row.at_work.len()),
        });
        History {
            id: self.id.clone(),
            spans: self.spans.iter().map(span).collect(),
            skips: self.skips.clone(),
            runs: self.runs.iter().filter(|run| run.attempt == 1).map(run).collect(),
            pending,
            until: until.max(self.row.settled_at),
            latest: self.latest,
            clock_went_back: self.clock_went_back,
        }
    }
}
