//! Sessions that nobody watches, played through: they work, wait, rest and are gone; clients answer, interrupt and change the policy;
//! two servers look for deadlines, die in between, and their clocks are wrong. And deployments whose runs fail.
//!
//! What must be true is said in words of its own ([`Played::is_overdue`], [`Played::check_deed`], [`Failing::check`]): the code under
//! test is only asked what a look means.

use rota_api::{
    Time,
    policy::{AnswerWithin, InterruptedBy, Unattended},
};
use rota_server::{
    limits::DEEDS_OF_A_LOOK,
    scheduler::{
        policy::Policy,
        unattended::{Doing, Look, Session, look, pauses},
    },
};

use super::{
    SEEDS,
    dice::Dice,
    seeds,
    transaction::{Fate, Undone},
};

/// What happens in a story.
const STEPS: u32 = 120;
/// When a session is looked at again that has not stopped yet, in seconds.
const AGAIN: i64 = 10;

fn at_once() -> Time {
    Time::from_micros(0)
}

fn later(time: Time, seconds: i64) -> Time {
    time.plus_micros(seconds * 1_000_000)
}

/// What the store keeps of a session.
#[derive(Debug, Clone)]
struct Stored {
    is_there: bool,
    doing: Doing,
    created_at: Time,
    has_stopped: bool,
    /// When it is looked at, and from when on its time counts.
    deadline: Option<(Option<Time>, Time)>,
    /// An interrupt waits in it, and whether a server has sent it.
    told_to_stop: Option<bool>,
}

/// A session, and what a story knows of it.
#[derive(Debug)]
struct Played {
    stored: Stored,
    /// No earlier than this its turn was begun.
    begun: Time,
    /// A look since then has seen it, no later than this.
    seen: Option<Time>,
}

/// What a server did to a session.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Denied,
    Interrupted(InterruptedBy),
}

struct Story {
    dice: Dice,
    time: Time,
    /// How far the clocks of the servers are from the time.
    offsets: [i64; 2],
    policy: Policy,
    sessions: Vec<Played>,
    deeds: u32,
}

impl Played {
    /// Says what is wrong with a session at the time of a server that has just looked at everything.
    fn is_overdue(&self, policy: &Policy, now: Time) -> Option<String> {
        let past =
            |since: Time, seconds: Option<u32>| seconds.is_some_and(|seconds| now >= later(since, seconds.into()));
        let stored = &self.stored;
        if !stored.is_there {
            return None;
        }
        if let Doing::Waits { since, for_answers } = stored.doing {
            let patience = match policy.unattended {
                None | Some(Unattended::WAIT) => None,
                Some(Unattended::AnswerWithin(AnswerWithin { answer_within_seconds })) => Some(answer_within_seconds),
                Some(_) => Some(0),
            };
            if for_answers && past(since, patience) {
                return Some("it waits for an answer that nobody will give".to_owned());
            }
            if past(since, policy.max_idle_waiting_seconds) {
                return Some("it has waited for too long".to_owned());
            }
        }
        let goes_on = !matches!(stored.doing, Doing::Rests) && stored.told_to_stop.is_none();
        let is_late = self.seen.is_some_and(|seen| past(seen, policy.max_session_seconds));
        (goes_on && is_late).then(|| "it works for too long".to_owned())
    }

    /// Says what is wrong with what a server has just done to a session, which was `before`.
    fn check_deed(&self, before: &Stored, policy: &Policy, deed: Deed, now: Time) -> Result<(), String> {
        let waits = match before.doing {
            Doing::Waits { since, for_answers } => Some((since, for_answers)),
            Doing::Works | Doing::Rests => None,
        };
        let right = match (deed, waits) {
            (Deed::Denied, Some((since, true))) => match policy.unattended {
                Some(Unattended::AnswerWithin(within)) => now >= later(since, within.answer_within_seconds.into()),
                Some(Unattended::DENY) => now >= since,
                _ => false,
            },
            (Deed::Interrupted(InterruptedBy::MaxIdleWaiting), Some((since, _))) => {
                policy.max_idle_waiting_seconds.is_some_and(|most| now >= later(since, most.into()))
            }
            (Deed::Denied, _) | (Deed::Interrupted(InterruptedBy::MaxIdleWaiting), None) => false,
            (Deed::Interrupted(InterruptedBy::MaxSession), _) => {
                policy.max_session_seconds.is_some_and(|most| now >= later(self.begun, most.into()))
            }
        };
        let goes_on = before.is_there && before.doing != Doing::Rests && before.told_to_stop.is_none();
        if right && goes_on {
            Ok(())
        } else {
            Err(format!("{deed:?} at {now} by {policy:?}: {self:?}, before {before:?}"))
        }
    }
}

impl Played {
    /// From now on its time counts, or from its beginning, which another clock may have as later.
    fn is_seen(&mut self, now: Time) {
        (self.begun, self.seen) = (self.begun.min(now), Some(self.begun.max(now)));
    }
}

impl Stored {
    fn bring_forward(&mut self, started_at: Option<Time>, due_at: Time) {
        self.deadline = Some(match self.deadline {
            Some((stored, due)) => (started_at.or(stored), due.min(due_at)),
            None => (started_at, due_at),
        });
    }

    fn session(&self) -> Session {
        let doing = if self.is_there { self.doing } else { Doing::Rests };
        Session { started_at: self.deadline.and_then(|(started_at, _)| started_at), doing }
    }

    /// It comes to rest, as its runner has it.
    fn rests(&mut self, policy: &Policy, now: Time, waits: Option<bool>) {
        self.has_stopped = true;
        self.told_to_stop = None;
        let Some(for_answers) = waits else {
            self.doing = Doing::Rests;
            self.deadline = None;
            return;
        };
        self.doing = Doing::Waits { since: now, for_answers };
        let unknown = Session { started_at: None, doing: Doing::Waits { since: now, for_answers: true } };
        match look(policy, &unknown, now) {
            Look::Free => {}
            Look::At(at) => self.bring_forward(None, at),
            Look::Deny | Look::Interrupt(_) => self.bring_forward(None, now),
        }
    }

    /// A look at it, as `settle` of the store has it. `workers`: whether something is left that a worker has to answer.
    fn settle(&mut self, policy: &Policy, now: Time, workers: bool, fate: &mut Fate) -> Result<Vec<Deed>, Undone> {
        let mut deeds = Vec::new();
        if self.deadline.is_none_or(|(_, due)| due > now) {
            return Ok(deeds);
        }
        for _ in 0..DEEDS_OF_A_LOOK {
            let Some(deed) = self.act(policy, now, workers) else { break };
            fate.next()?;
            deeds.push(deed);
        }
        fate.next()?;
        self.deadline = match look(policy, &self.session(), now) {
            Look::Free => None,
            Look::At(at) => self.deadline.map(|(started_at, _)| (started_at, at)),
            Look::Deny | Look::Interrupt(_) => self.deadline.map(|(started_at, _)| (started_at, later(now, AGAIN))),
        };
        Ok(deeds)
    }

    fn act(&mut self, policy: &Policy, now: Time, workers: bool) -> Option<Deed> {
        self.deadline?;
        match look(policy, &self.session(), now) {
            Look::Free | Look::At(_) => None,
            Look::Deny => {
                let Doing::Waits { since, .. } = self.doing else { unreachable!("only what waits is denied") };
                self.doing = if workers { Doing::Waits { since, for_answers: false } } else { Doing::Works };
                Some(Deed::Denied)
            }
            Look::Interrupt(_) if self.told_to_stop.is_some() => None,
            Look::Interrupt(by) => {
                if self.doing == Doing::Works {
                    self.told_to_stop = Some(true);
                    self.deadline = self.deadline.map(|(_, due)| (Some(now), due));
                } else {
                    self.doing = Doing::Rests;
                    self.deadline = None;
                }
                Some(Deed::Interrupted(by))
            }
        }
    }

    /// Takes it in if it may have a deadline and has no row. Whether its time counts since then.
    fn take_in(&mut self, policy: &Policy, now: Time) -> bool {
        let waits = policy.unattended.is_some() || policy.max_idle_waiting_seconds.is_some();
        let takes = match self.doing {
            Doing::Works => policy.max_session_seconds.is_some(),
            Doing::Waits { .. } => waits || policy.max_session_seconds.is_some(),
            Doing::Rests => false,
        };
        let is_known =
            self.deadline.is_some_and(|(started_at, _)| started_at.is_some() || policy.max_session_seconds.is_none());
        let is_new = self.is_there && takes && !is_known;
        if is_new {
            let started_at = if self.has_stopped { now } else { self.created_at };
            self.deadline = Some((Some(started_at), at_once()));
        }
        is_new
    }
}

impl Story {
    fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let time = "2026-03-02T08:00:00Z".parse().unwrap();
        Self { dice, time, offsets: [0, 0], policy: Policy::default(), sessions: Vec::new(), deeds: 0 }
    }

    fn now(&self, node: usize) -> Time {
        later(self.time, self.offsets[node])
    }

    fn step(&mut self) -> Result<(), String> {
        let node = self.dice.one_of(&[0, 1]);
        let now = self.now(node);
        match self.dice.within(0..24) {
            0..=4 => self.time = later(self.time, self.dice.seconds()),
            5 => {
                let ahead = self.dice.one_of(&[1, -1]);
                self.offsets[node] = ahead * self.dice.seconds() * i64::from(self.dice.chance(30));
            }
            6..=7 => self.start(now),
            8..=9 => self.change_policy(now),
            10..=13 => self.agent_moves(now),
            14..=16 => self.client_moves(now),
            17..=19 => self.look_at_one(now)?,
            _ => self.look_at_all(now)?,
        }
        Ok(())
    }

    fn start(&mut self, now: Time) {
        let deadline = self.policy.max_session_seconds.map(|most| (Some(now), later(now, most.into())));
        let stored = Stored {
            is_there: true,
            doing: Doing::Works,
            created_at: now,
            has_stopped: false,
            deadline,
            told_to_stop: None,
        };
        self.sessions.push(Played { stored, begun: now, seen: deadline.map(|_| now) });
    }

    fn change_policy(&mut self, now: Time) {
        let seconds = |dice: &mut Dice| dice.one_of(&[None, Some(1), Some(60), Some(900), Some(7200)]);
        let mut policy = self.policy;
        match self.dice.within(0..3) {
            0 => {
                let within = seconds(&mut self.dice)
                    .map(|answer_within_seconds| Unattended::AnswerWithin(AnswerWithin { answer_within_seconds }));
                policy.unattended = if self.dice.chance(30) { Some(Unattended::DENY) } else { within };
            }
            1 => policy.max_session_seconds = seconds(&mut self.dice),
            _ => policy.max_idle_waiting_seconds = seconds(&mut self.dice),
        }
        // All of it, or nothing.
        if self.dice.chance(20) || policy == self.policy {
            return;
        }
        self.policy = policy;
        for played in &mut self.sessions {
            played.stored.deadline = played.stored.deadline.map(|(started_at, _)| (started_at, at_once()));
            if played.stored.take_in(&policy, now) {
                played.is_seen(now);
            }
        }
    }

    /// An agent asks for something, or its turn is over.
    fn agent_moves(&mut self, now: Time) {
        let Some(which) = self.dice.place(self.sessions.len()) else { return };
        let (policy, played) = (self.policy, &mut self.sessions[which]);
        if played.stored.doing != Doing::Works || !played.stored.is_there {
            return;
        }
        let waits = (played.stored.told_to_stop.is_none() && self.dice.chance(60)).then(|| self.dice.chance(80));
        played.stored.rests(&policy, now, waits);
    }

    fn client_moves(&mut self, now: Time) {
        let Some(which) = self.dice.place(self.sessions.len()) else { return };
        let played = &mut self.sessions[which];
        let stored = &mut played.stored;
        if !stored.is_there {
            return;
        }
        match (stored.doing, self.dice.within(0..6)) {
            (Doing::Waits { .. }, 0..=2) => {
                stored.doing = Doing::Works;
            }
            (Doing::Waits { .. }, 3) => {
                stored.doing = Doing::Rests;
                stored.deadline = None;
            }
            (Doing::Works, 0) if stored.told_to_stop.is_none() => stored.told_to_stop = Some(false),
            (Doing::Rests, 0..=3) => {
                // Its turn begins: it counts once a look has seen it.
                stored.doing = Doing::Works;
                (played.begun, played.seen) = (now, None);
            }
            // It is archived, or deleted.
            (Doing::Rests | Doing::Waits { .. }, 4..=5) => stored.is_there = false,
            _ => {}
        }
    }

    /// A server settles what it found to be due a while ago; it may die over it.
    fn look_at_one(&mut self, now: Time) -> Result<(), String> {
        let Some(which) = self.dice.place(self.sessions.len()) else { return Ok(()) };
        let dies = self.dice.chance(30).then(|| self.dice.within(0..3) as u32);
        self.settle(which, now, Fate(dies))
    }

    /// A server looks at everything: then nothing is overdue.
    fn look_at_all(&mut self, now: Time) -> Result<(), String> {
        for which in 0..self.sessions.len() {
            let played = &mut self.sessions[which];
            if played.stored.take_in(&self.policy, now) {
                played.is_seen(now);
            }
            self.settle(which, now, Fate(None))?;
        }
        for played in &self.sessions {
            if let Some(wrong) = played.is_overdue(&self.policy, now) {
                return Err(format!("{wrong} at {now} by {:?}: {played:?}", self.policy));
            }
        }
        Ok(())
    }

    fn settle(&mut self, which: usize, now: Time, mut fate: Fate) -> Result<(), String> {
        let workers = self.dice.chance(20);
        let played = &mut self.sessions[which];
        let before = played.stored.clone();
        let mut stored = before.clone();
        let Ok(deeds) = stored.settle(&self.policy, now, workers, &mut fate) else { return Ok(()) };
        played.stored = stored;
        self.deeds += deeds.len() as u32;
        let is_told = !deeds.is_empty() && played.stored.told_to_stop == Some(true);
        let mut before = before;
        for deed in deeds {
            played.check_deed(&before, &self.policy, deed, now)?;
            // What a worker has to answer is left.
            if let (Deed::Denied, Doing::Waits { since, .. }) = (deed, before.doing) {
                before.doing = Doing::Waits { since, for_answers: false };
            }
        }
        if is_told {
            (played.begun, played.seen) = (now, Some(now));
        }
        Ok(())
    }

    /// The clocks are right and time goes on: what has a limit comes to rest, whoever does nothing about it.
    fn end(mut self) -> Result<u32, String> {
        self.offsets = [0, 0];
        for _ in 0..4 {
            self.time = later(self.time, 200_000);
            self.look_at_all(self.time)?;
            for which in 0..self.sessions.len() {
                let played = &mut self.sessions[which];
                if played.stored.told_to_stop.is_some() {
                    played.stored.rests(&self.policy, self.time, None);
                }
            }
        }
        let ends = self.policy.max_session_seconds.is_some();
        let left = |played: &&Played| played.stored.is_there && played.stored.doing != Doing::Rests;
        match self.sessions.iter().find(left).filter(|_| ends) {
            Some(left) => Err(format!("it never ends by {:?}: {left:?}", self.policy)),
            None => Ok(self.deeds),
        }
    }
}

#[test]
fn no_story_of_a_session_that_nobody_watches_breaks_a_promise() {
    let mut deeds = 0;
    let seeds = seeds(SEEDS);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let mut story = Story::new(seed);
        let played = (0..STEPS).try_for_each(|_| story.step()).and_then(|()| story.end());
        match played {
            Ok(done) => deeds += done,
            Err(wrong) => panic!("{wrong}\nplay it again with ROTA_SIMULATION_SEED={seed}"),
        }
    }
    assert!(u64::from(deeds) >= count, "{deeds} deeds in {count} stories: they tell of nothing");
}

/// A deployment whose runs fail, and what has happened to it.
struct Failing {
    dice: Dice,
    most: Option<u32>,
    /// As the store has it.
    failures: i64,
    is_paused: bool,
    /// Each failure since the last run that came to its end, or the last time that somebody unpaused it.
    in_a_row: Vec<&'static str>,
}

impl Failing {
    fn policy(&self) -> Policy {
        Policy { pause_after_failures: self.most, ..Policy::default() }
    }

    /// A server looks, before a fire or by itself: it holds the deployment.
    fn look(&mut self, fate: &mut Fate) -> Result<(), Undone> {
        let pauses = !self.is_paused && pauses(&self.policy(), self.failures);
        fate.next()?;
        self.is_paused |= pauses;
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let mut fate = Fate(self.dice.chance(20).then_some(0));
        match self.dice.within(0..10) {
            0..=3 => {
                self.failures += 1;
                self.in_a_row.push("a session died, or was refused");
            }
            4 => (self.failures, self.in_a_row) = (0, Vec::new()),
            5 if self.is_paused => (self.is_paused, self.failures, self.in_a_row) = (false, 0, Vec::new()),
            6 => self.most = self.dice.one_of(&[None, Some(1), Some(3), Some(5)]),
            7 => {
                let was_paused = self.is_paused;
                if self.look(&mut fate).is_ok() {
                    return self.check(was_paused);
                }
            }
            8 => {
                let was_paused = self.is_paused;
                // An occurrence comes. It fires if the deployment is active by then.
                let looked = self.look(&mut fate);
                if looked.is_ok() && !self.is_paused && self.is_enough() {
                    return Err(format!("it fires after {} failures", self.in_a_row.len()));
                }
                return if looked.is_ok() { self.check(was_paused) } else { Ok(()) };
            }
            _ => {}
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        self.most.is_some_and(|most| self.in_a_row.len() >= most as usize)
    }

    /// What a look has come to: it is paused where it was before or has failed often enough in a row, and nowhere else.
    fn check(&self, was_paused: bool) -> Result<(), String> {
        let right = self.is_paused == (was_paused || self.is_enough());
        let count = self.in_a_row.len();
        if right {
            Ok(())
        } else {
            Err(format!("paused: {}, after {count} failures of {:?}", self.is_paused, self.most))
        }
    }
}

#[test]
fn no_deployment_fires_that_has_failed_too_often() {
    for seed in seeds(SEEDS) {
        let mut failing =
            Failing { dice: Dice::new(seed), most: None, failures: 0, is_paused: false, in_a_row: Vec::new() };
        if let Err(wrong) = (0..STEPS).try_for_each(|_| failing.step()) {
            panic!("{wrong}\nplay it again with ROTA_SIMULATION_SEED={seed}");
        }
    }
}
