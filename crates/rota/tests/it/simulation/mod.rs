//! The scheduler's decisions, played through: two servers over one store, processes that die between any two effects,
//! clocks that are set, edits, pauses and failures. Each seed is another story.
//!
//! `ROTA_SIMULATION_SEED=7 cargo test -p rota --test it simulation` plays one again; `ROTA_SIMULATION_SEEDS` says how many
//! are played.

mod history;
mod model;
mod real;

use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use rota_api::policy::Jitter;
use rota_server::scheduler::{
    cron::Cron,
    settle::{State, Timing},
};

use model::{Crashed, Deployment, Fate};

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

/// Random numbers that depend only on the seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the range, which is not empty.
    pub fn within(&mut self, range: Range<i64>) -> i64 {
        range.start + (self.next() % (range.end - range.start) as u64) as i64
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0..choices.len() as i64) as usize]
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: i64) -> bool {
        self.within(0..100) < percent
    }

    /// A while in seconds: mostly a short one.
    pub fn seconds(&mut self) -> i64 {
        match self.within(0..20) {
            0..=9 => self.within(0..90),
            10..=16 => self.within(60..1200),
            17..=18 => self.within(1200..10_000),
            _ => self.within(10_000..100_000),
        }
    }
}

/// A server: how far its clock is from the time, and what it found to be due when it last looked.
#[derive(Default)]
struct Node {
    offset: i64,
    due: Vec<usize>,
}

struct Story {
    dice: Dice,
    crons: Vec<Cron>,
    timing: Timing,
    time: Timestamp,
    nodes: [Node; 2],
    deployments: Vec<Deployment>,
    /// Changes that a client was told are done, for each deployment.
    acknowledged: Vec<usize>,
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
        let jitter = dice.one_of(&[Jitter::Off, Jitter::Hosted]);
        let catch_up = SignedDuration::from_secs(dice.one_of(&[0, 60, 3600, 86_400]));
        Self {
            crons: SCHEDULES.iter().map(|(expression, zone)| Cron::parse(expression, zone).unwrap()).collect(),
            timing: Timing { jitter, catch_up },
            time: dice.one_of(&starts).parse().unwrap(),
            nodes: [Node::default(), Node::default()],
            deployments: Vec::new(),
            acknowledged: Vec::new(),
            calm: dice.chance(20),
            dice,
        }
    }

    fn now(&self, node: usize) -> Timestamp {
        self.time + SignedDuration::from_secs(self.nodes[node].offset)
    }

    fn step(&mut self) {
        let node = self.dice.one_of(&[0, 1]);
        match self.dice.within(0..20) {
            0..=4 if self.calm => {
                self.time += SignedDuration::from_secs(self.dice.within(1..25));
                self.look(node);
                while !self.nodes[node].due.is_empty() {
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
            17 => self.create_or_deliver(node),
            _ => self.change(node),
        }
    }

    fn create(&mut self, node: usize) {
        let (id, cron) = (format!("depl_{}", self.dice.next()), self.any_cron());
        self.deployments.push(Deployment::create(id, &self.crons, cron, self.now(node)));
        self.acknowledged.push(0);
    }

    /// One of the schedules, or none.
    fn any_cron(&mut self) -> Option<usize> {
        usize::try_from(self.dice.within(-1..self.crons.len() as i64)).ok()
    }

    fn create_or_deliver(&mut self, node: usize) {
        if self.deployments.len() < 3 {
            self.create(node);
            return;
        }
        let dies = self.dice.chance(30);
        for delivery in self.deployments.iter_mut().flat_map(|deployment| &mut deployment.outbox) {
            if !delivery.marked {
                delivery.sent += 1;
                // A server that dies now sends it once more.
                delivery.marked = !dies;
            }
        }
    }

    fn look(&mut self, node: usize) {
        let now = self.now(node);
        let is_due = |deployment: &Deployment| deployment.row.next_fire_at.is_some_and(|at| at <= now);
        self.nodes[node].due = (0..self.deployments.len()).filter(|i| is_due(&self.deployments[*i])).collect();
    }

    /// Settles one of what the server found to be due, which another may have settled since.
    fn settle(&mut self, node: usize) {
        let Some(due) = self.nodes[node].due.pop() else { return };
        let (fate, fails, now) = (self.fate(), self.dice.chance(5), self.now(node));
        let outcome = self.deployments[due].settle(&self.crons, &self.timing, now, fate, fails);
        if outcome.is_err() || self.dice.chance(3) {
            self.restart(node);
        }
    }

    fn fate(&mut self) -> Fate {
        let dies = self.dice.chance(20);
        Fate(dies.then(|| self.dice.within(0..8) as u32))
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node].due.clear();
        if self.calm {
            self.look(node);
        }
    }

    fn change(&mut self, node: usize) {
        let which = self.dice.within(0..self.deployments.len() as i64) as usize;
        let (fate, now) = (self.fate(), self.now(node));
        let cron = self.any_cron();
        let what = self.dice.within(0..60);
        let outcome = self.deployments[which].change(&self.crons, now, fate, |row| match what {
            0..=24 => row.cron = cron,
            25..=34 => row.state = State::Paused,
            35..=58 => row.state = State::Active,
            _ => row.state = State::Archived,
        });
        match outcome {
            Ok(()) => self.acknowledged[which] = self.deployments[which].changes(),
            Err(Crashed) => self.restart(node),
        }
    }

    /// Everything up to `until` must be accounted for, and what the store says is.
    fn check(&self, until: Timestamp) -> Result<(), String> {
        for (deployment, acknowledged) in self.deployments.iter().zip(&self.acknowledged) {
            let wrong = |wrong| Err(format!("{}: {wrong}", deployment.id));
            if deployment.changes() < *acknowledged {
                return wrong("a change that was acknowledged is gone".to_owned());
            }
            if deployment.outbox.len() != deployment.runs.len() {
                return wrong("a run has no notice, or a notice no run".to_owned());
            }
            deployment.history(&self.crons, self.timing, until).check().or_else(wrong)?;
            if self.calm && deployment.skips.iter().any(|skip| skip.reason == "missed") {
                return wrong(format!("something was missed: {:?}", deployment.skips));
            }
        }
        Ok(())
    }

    /// The clocks are right again and time goes on: then all that has come is accounted for, and nothing waits.
    fn end(mut self) -> Result<(), String> {
        self.nodes = [Node::default(), Node::default()];
        self.time += SignedDuration::from_secs(self.dice.within(0..if self.calm { 20 } else { 4000 }));
        let now = self.time;
        for deployment in &mut self.deployments {
            deployment.settle(&self.crons, &self.timing, now, Fate(None), false).expect("it lives");
            if let Some(at) = deployment.row.next_fire_at.filter(|at| *at <= now) {
                return Err(format!("{} still waits at {now} for {at}", deployment.id));
            }
            for delivery in deployment.outbox.iter_mut().filter(|delivery| !delivery.marked) {
                delivery.sent += 1;
            }
            if deployment.outbox.iter().any(|delivery| delivery.sent == 0) {
                return Err(format!("{}: a notice was never sent", deployment.id));
            }
        }
        // The last occurrences may still be delayed.
        let delay =
            if self.timing.jitter == Jitter::Hosted { SignedDuration::from_mins(9) } else { SignedDuration::ZERO };
        self.check(now - delay)
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
