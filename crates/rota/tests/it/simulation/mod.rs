//! The server's decisions, played through: two servers over one store, processes that die between any two effects, clocks
//! that are set, edits, pauses, policies, sessions that come and go, starts that fail, and webhooks that do not arrive. Each
//! seed is another story.
//!
//! `ROTA_SIMULATION_SEED=7 cargo test -p rota --test it simulation` plays one again; `ROTA_SIMULATION_SEEDS` says how many
//! are played.

mod again;
pub mod dice;
mod history;
mod model;
mod outbox;
mod policies;
mod real;
mod silence;
mod starts;
mod transaction;
mod unattended;

use std::{mem, ops::Range};

use jiff::{SignedDuration, Timestamp};
use rota_api::{deployment::RunErrorType, policy::Jitter};
use rota_server::scheduler::{
    cron::Cron,
    policy::Policy,
    settle::{State, Timing},
};

use dice::Dice;
use model::{Attempt, Deployment, End, Rules};
use outbox::{Claim, Outbox};
use policies::Decision;
use transaction::{Fate, Undone};

/// Stories that are played unless `ROTA_SIMULATION_SEEDS` says otherwise.
const SEEDS: u64 = 10_000;
/// What happens in a story.
const STEPS: u32 = 150;

/// The schedules of a story: often and seldom, and where clocks are set.
pub const SCHEDULES: [(&str, &str); 8] = [
    ("* * * * *", "UTC"),
    ("*/7 * * * *", "Europe/Zurich"),
    ("0,1 * * * *", "UTC"),
    ("30 1,2 * * *", "America/New_York"),
    ("0 */5 * * 1-5", "Asia/Kolkata"),
    ("*/20 1-3 * * *", "Australia/Lord_Howe"),
    ("0 0 1 * *", "America/Sao_Paulo"),
    ("59 23 * * *", "Antarctica/Troll"),
];

/// A server: how far its clock is from the time, and what it has in hand.
#[derive(Default)]
struct Node {
    offset: i64,
    /// What it found to be due when it last looked.
    due: Vec<usize>,
    /// Whose start broke, which is not recorded yet.
    broken: Vec<usize>,
    /// What it found to follow sessions that died: of which deployment, which, and how it is started.
    following: Vec<(usize, usize, Option<Attempt>)>,
    /// The webhooks that it is sending.
    sending: Vec<Claim>,
}

struct Story {
    dice: Dice,
    rules: Rules,
    time: Timestamp,
    nodes: [Node; 2],
    deployments: Vec<Deployment>,
    /// Changes that a client was told are done, for each deployment.
    acknowledged: Vec<usize>,
    outbox: Outbox,
    /// Nothing but crashes goes wrong, and a server looks every few seconds.
    calm: bool,
}

/// `closely`: look for what is wrong after each step, and not only at the end.
fn story(seed: u64, closely: bool) -> Result<(), String> {
    let mut story = Story::new(seed);
    story.create(0);
    for step in 0..STEPS {
        story.step();
        if closely {
            story.check(Timestamp::MIN).map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
    }
    story.end()
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let starts = ["2026-03-08T05:00:00Z", "2026-04-04T14:00:00Z", "2026-10-25T00:30:00Z", "2026-11-01T04:30:00Z"];
        let jitter = dice.one_of(&[Jitter::OFF, Jitter::HOSTED]);
        let catch_up = SignedDuration::from_secs(dice.one_of(&[0, 60, 3600, 86_400]));
        let crons = SCHEDULES.iter().map(|(expression, zone)| Cron::parse(expression, zone).unwrap()).collect();
        Self {
            rules: Rules { crons, timing: Timing { jitter, catch_up } },
            time: dice.one_of(&starts).parse().unwrap(),
            nodes: [Node::default(), Node::default()],
            deployments: Vec::new(),
            acknowledged: Vec::new(),
            outbox: Outbox::new(&mut dice),
            calm: dice.chance(20),
            dice,
        }
    }

    fn now(&self, node: usize) -> Timestamp {
        self.time + SignedDuration::from_secs(self.nodes[node].offset)
    }

    fn step(&mut self) {
        let node = self.dice.one_of(&[0, 1]);
        match self.dice.within(0..30) {
            0..=4 if self.calm => {
                self.time += SignedDuration::from_secs(self.dice.within(1..25));
                self.look(node);
                while !self.nodes[node].is_done() {
                    self.settle(node);
                }
            }
            0..=3 => self.time += SignedDuration::from_secs(self.dice.seconds()),
            4 => {
                let ahead = self.dice.one_of(&[1, -1]);
                self.nodes[node].offset = ahead * self.dice.seconds() * i64::from(self.dice.chance(50));
            }
            5..=8 => self.look(node),
            9..=16 => self.settle(node),
            17..=19 => self.change(node),
            20..=21 => self.change_policy(node),
            22..=24 => self.move_sessions(node),
            25 => {
                let now = self.now(node).into();
                self.outbox.change(&mut self.dice, now);
            }
            _ => self.deliver(node),
        }
    }

    fn create(&mut self, node: usize) {
        let (id, cron) = (format!("depl_{}", self.dice.next()), self.any_cron());
        let mut policy = Policy::default();
        for _ in 0..self.dice.one_of(&[0, 4]) {
            policies::change(&mut policy, &mut self.dice, self.calm);
        }
        if self.dice.chance(20) {
            policies::change_window(&mut policy, &mut self.dice, self.time);
        }
        self.deployments.push(Deployment::create(id, &self.rules, cron, policy, self.now(node)));
        self.acknowledged.push(0);
    }

    /// One of the schedules, or none.
    fn any_cron(&mut self) -> Option<usize> {
        usize::try_from(self.dice.within(-1..self.rules.crons.len() as i64)).ok()
    }

    fn any_deployment(&mut self) -> usize {
        self.dice.place(self.deployments.len()).expect("a story begins with one")
    }

    fn look(&mut self, node: usize) {
        let now = self.now(node);
        self.nodes[node].due = (0..self.deployments.len()).filter(|i| self.deployments[*i].is_due(now)).collect();
        let of = |(i, deployment): (usize, &Deployment)| {
            let due = deployment.row.followed.iter().map(|followed| followed.look_at.is_some_and(|at| at <= now));
            due.enumerate().filter(|(_, is_due)| *is_due).map(move |(which, _)| (i, which, None)).collect::<Vec<_>>()
        };
        self.nodes[node].following = self.deployments.iter().enumerate().flat_map(of).collect();
    }

    /// Starts a session in place of one that died, which another server may have done since.
    fn follow(&mut self, node: usize) {
        let Some((of, which, attempt)) = self.nodes[node].following.pop() else { return };
        let (attempt, fate, now) = (attempt.unwrap_or_else(|| self.attempt()), self.fate(), self.now(node));
        match self.deployments[of].follow(&self.rules, now, fate, which, attempt) {
            Err(Undone::Broke) => self.nodes[node].following.push((of, which, Some(Attempt::Broke))),
            Err(Undone::Died) => self.restart(node),
            Ok(()) => self.emit(of, now),
        }
    }

    /// Settles one of what the server found to be due, which another may have settled since.
    fn settle(&mut self, node: usize) {
        if self.nodes[node].due.is_empty() || self.dice.chance(50) {
            self.follow(node);
        }
        let (due, attempt) = match self.nodes[node].broken.pop() {
            Some(broken) => (broken, Attempt::Broke),
            None => match self.nodes[node].due.pop() {
                Some(due) => (due, self.attempt()),
                None => return,
            },
        };
        match self.settle_one(due, node, attempt) {
            Err(Undone::Broke) => self.nodes[node].broken.push(due),
            Err(Undone::Died) => self.restart(node),
            Ok(()) if self.dice.chance(3) => self.restart(node),
            Ok(()) => {}
        }
    }

    fn settle_one(&mut self, which: usize, node: usize, attempt: Attempt) -> Result<(), Undone> {
        let (fate, now) = (self.fate(), self.now(node));
        self.deployments[which].settle(&self.rules, now, fate, attempt)?;
        self.emit(which, now);
        Ok(())
    }

    /// Writes the events of what was just committed.
    fn emit(&mut self, which: usize, now: Timestamp) {
        for _ in 0..mem::take(&mut self.deployments[which].events) {
            self.outbox.emit(&mut self.dice, now.into());
        }
    }

    fn attempt(&mut self) -> Attempt {
        match self.dice.within(0..100) {
            0..=3 => Attempt::Fails(RunErrorType::EnvironmentArchived),
            4..=5 => Attempt::Fails(RunErrorType::SessionCreationRejected),
            6..=15 if !self.calm => Attempt::Fails(RunErrorType::SessionRateLimited),
            16..=20 if !self.calm => Attempt::Breaks,
            _ => Attempt::Succeeds,
        }
    }

    fn fate(&mut self) -> Fate {
        let dies = self.dice.chance(20);
        Fate(dies.then(|| self.dice.within(0..10) as u32))
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node] = Node { offset: self.nodes[node].offset, ..Node::default() };
        if self.calm {
            self.look(node);
        }
    }

    fn change(&mut self, node: usize) {
        if self.deployments.len() < 3 && self.dice.chance(30) {
            self.create(node);
            return;
        }
        let (which, fate, now) = (self.any_deployment(), self.fate(), self.now(node));
        let cron = self.any_cron();
        let what = self.dice.within(0..60);
        let outcome = self.deployments[which].change(&self.rules, now, fate, |row| match what {
            0..=24 => row.cron = cron,
            25..=34 => row.state = State::Paused,
            35..=58 => row.state = State::Active,
            _ => row.state = State::Archived,
        });
        match outcome {
            Ok(()) => self.acknowledged[which] = self.deployments[which].changes(),
            Err(_) => self.restart(node),
        }
    }

    /// The operator holds all schedules, or lets them go on.
    fn hold_or_release(&mut self) {
        let is_held = self.dice.chance(50);
        for deployment in &mut self.deployments {
            deployment.row.is_held = is_held;
        }
    }

    fn change_policy(&mut self, node: usize) {
        if self.dice.chance(10) {
            return self.hold_or_release();
        }
        let (which, fate, now) = (self.any_deployment(), self.fate(), self.now(node));
        let mut policy = self.deployments[which].row.policy;
        if self.dice.chance(20) {
            policies::change_window(&mut policy, &mut self.dice, now);
        } else {
            policies::change(&mut policy, &mut self.dice, self.calm);
        }
        if self.deployments[which].set_policy(&self.rules, now, fate, policy).is_err() {
            self.restart(node);
        }
    }

    /// A session of a deployment comes to rest, or one goes to work by hand.
    fn move_sessions(&mut self, node: usize) {
        let (which, fate, now) = (self.any_deployment(), self.fate(), self.now(node));
        let deployment = &mut self.deployments[which];
        let at_work = deployment.row.at_work.len();
        let died = self.dice.place(deployment.row.followed.len());
        let end = match self.dice.within(0..10) {
            0..=4 => End::Died { has_acted: self.dice.chance(30) },
            _ => End::Well,
        };
        let cost = self.dice.one_of(&[0, 100_000_000, 450_000_000]);
        let outcome = match (self.dice.place(at_work), died) {
            (_, Some(died)) if self.dice.chance(3) => deployment.resume(&self.rules, now, fate, died),
            (Some(session), _) if self.dice.chance(90) => {
                deployment.come_to_rest(&self.rules, now, fate, session, (end, cost))
            }
            _ => deployment.go_to_work(&self.rules, now, fate),
        };
        if outcome.is_err() {
            self.restart(node);
        }
    }

    /// Takes up what is due, and goes on with what is being sent.
    fn deliver(&mut self, node: usize) {
        let now = self.now(node).into();
        if self.dice.chance(50) {
            let claims = self.outbox.claim(&mut self.dice, now);
            self.nodes[node].sending.extend(claims);
        }
        let mut sending = mem::take(&mut self.nodes[node].sending);
        sending.retain_mut(|claim| !self.outbox.proceed(claim, &mut self.dice, now));
        match self.dice.within(0..10) {
            // It dies, and these claims run out.
            0 => self.restart(node),
            1 => self.outbox.release(&sending, now),
            _ => self.nodes[node].sending = sending,
        }
    }

    /// Everything up to `until` must be accounted for, and what the store says is.
    fn check(&self, until: Timestamp) -> Result<(), String> {
        for (deployment, acknowledged) in self.deployments.iter().zip(&self.acknowledged) {
            let wrong = |wrong| Err(format!("{}: {wrong}", deployment.id));
            if deployment.changes() < *acknowledged {
                return wrong("a change that was acknowledged is gone".to_owned());
            }
            deployment.history(&self.rules, until).check().or_else(wrong)?;
            if self.calm && deployment.skips.iter().any(|skip| skip.reason == "missed") {
                return wrong(format!("something was missed: {:?}", deployment.skips));
            }
        }
        self.check_decisions()
    }

    fn check_decisions(&self) -> Result<(), String> {
        for deployment in &self.deployments {
            let wrong = |wrong| format!("{}: {wrong}", deployment.id);
            deployment.decisions.iter().try_for_each(Decision::check).map_err(wrong)?;
            again::check(deployment).map_err(wrong)?;
        }
        let runs: usize = self.deployments.iter().map(|deployment| deployment.runs.len()).sum();
        if self.outbox.events() != 2 * runs {
            return Err(format!("{runs} runs have {} events", self.outbox.events()));
        }
        self.outbox.check()
    }

    /// The clocks are right again and time goes on: then all that has come is accounted for, and what waits waits for
    /// something that comes.
    fn end(mut self) -> Result<(), String> {
        self.nodes = [Node::default(), Node::default()];
        self.time += SignedDuration::from_secs(self.dice.within(0..if self.calm { 20 } else { 4000 }));
        for which in 0..self.deployments.len() {
            self.settle_until_nothing_is_due(which)?;
        }
        // The last occurrences may still be delayed.
        self.check(self.time - SignedDuration::from_mins(9))?;
        for which in 0..self.deployments.len() {
            self.end_what_is_pending(which)?;
        }
        while let Some(due) = self.outbox.next_due() {
            self.time = self.time.max(due.timestamp());
            self.deliver(0);
        }
        self.check_decisions()
    }

    fn settle_until_nothing_is_due(&mut self, which: usize) -> Result<(), String> {
        let now = self.time;
        self.deployments[which].settle(&self.rules, now, Fate(None), Attempt::Succeeds).expect("it lives");
        self.emit(which, now);
        let deployment = &self.deployments[which];
        if deployment.is_due(now) { Err(format!("{} is still due at {now}", deployment.id)) } else { Ok(()) }
    }

    /// A server looks at whatever is to follow a session that died, each at its time: then that is decided.
    fn end_what_follows(&mut self, which: usize) -> Result<(), String> {
        for place in 0..self.deployments[which].row.followed.len() {
            let Some(at) = self.deployments[which].row.followed[place].look_at else { continue };
            let now = self.time.max(at);
            let deployment = &mut self.deployments[which];
            deployment.follow(&self.rules, now, Fate(None), place, Attempt::Succeeds).expect("it lives");
            while !deployment.row.at_work.is_empty() {
                deployment.come_to_rest(&self.rules, now, Fate(None), 0, (End::Well, 0)).expect("it lives");
            }
            let followed = &deployment.row.followed[place];
            if followed.look_at.is_some() {
                return Err(format!("{}: {followed:?} is left", deployment.id));
            }
            self.time = now;
            self.emit(which, now);
        }
        Ok(())
    }

    /// A place is free and time goes on: then nothing is pending any more.
    fn end_what_is_pending(&mut self, which: usize) -> Result<(), String> {
        while !self.deployments[which].row.at_work.is_empty() {
            let end = (End::Well, 0);
            self.deployments[which].come_to_rest(&self.rules, self.time, Fate(None), 0, end).expect("it lives");
        }
        self.end_what_follows(which)?;
        self.settle_until_nothing_is_due(which)?;
        if let Some(retry_at) = self.deployments[which].row.pending.as_ref().and_then(|pending| pending.retry_at) {
            self.time = self.time.max(retry_at.timestamp());
            self.settle_until_nothing_is_due(which)?;
        }
        let deployment = &self.deployments[which];
        match &deployment.row.pending {
            // A server whose clock was wrong has freed a place at a time when no other looks.
            Some(pending) if !deployment.saw_a_wrong_clock(self.time) => {
                Err(format!("{}: {pending:?} is left", deployment.id))
            }
            _ => Ok(()),
        }
    }
}

impl Node {
    fn is_done(&self) -> bool {
        self.due.is_empty() && self.broken.is_empty() && self.following.is_empty()
    }
}

/// The seeds to play.
fn seeds(default: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match number("ROTA_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROTA_SIMULATION_SEEDS").unwrap_or(default),
    }
}

#[test]
fn no_story_breaks_a_promise() {
    let seeds = seeds(SEEDS);
    let closely = seeds.clone().count() == 1;
    for seed in seeds {
        if let Err(wrong) = story(seed, closely) {
            panic!("{wrong}\nplay it again with ROTA_SIMULATION_SEED={seed}");
        }
    }
}
