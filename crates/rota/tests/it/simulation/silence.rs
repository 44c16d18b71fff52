//! Deployments that nobody hears of, played through: their runs come to a good end, or do not; they are paused, held and released; their
//! schedules change; two servers look at what was due a while ago, write down later what they found, and die in between.
//!
//! What must be true is said in words of its own ([`Story::check_told`], [`Story::check_everything`]): the code under test is only asked
//! from when on a deployment is silent. [`Store`] stands for its row, and `find`, `write` and `begin` for what looks do with it.

use jiff::{SignedDuration, Timestamp};
use rota_server::scheduler::{cron::Cron, silence::silent_from};

use super::{SCHEDULES, SEEDS, dice::Dice, seeds};

/// What happens in a story.
const STEPS: u32 = 120;
/// When a deployment is looked at again at the latest, in seconds: one that is not silent, and one that is.
const AT_LATEST: [i64; 2] = [6 * 3600, 600];

/// What is committed of a deployment.
#[derive(Debug, Clone)]
struct Store {
    cron: usize,
    intervals: u32,
    is_paused: bool,
    is_held: bool,
    released_at: Option<Timestamp>,
    /// When its last good run ended, as its runs tell.
    last_good: Option<Timestamp>,
    /// The row, while the schedule counts.
    row: Option<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "they are the columns of the table")]
struct Row {
    good_at: Timestamp,
    look_at: Timestamp,
    silent_at: Option<Timestamp>,
}

/// What a look has found.
#[derive(Debug, Clone, Copy)]
struct Look {
    of: Row,
    good_at: Timestamp,
    /// Since when it is known that it is silent.
    silent_at: Option<Timestamp>,
    is_silent: bool,
    next: Timestamp,
}

struct Story {
    dice: Dice,
    crons: Vec<Cron>,
    time: Timestamp,
    store: Store,
    /// What each server has found and not written down.
    found: [Option<Look>; 2],
    /// From when on the present silence would count: the end of the last good run, or when the schedule began to count.
    quiet_since: Timestamp,
    /// Whether it was told of since then.
    is_told: bool,
    told: u32,
}

impl Store {
    fn count_anew(&mut self, now: Timestamp) {
        let row = Row { good_at: now, look_at: now, silent_at: None };
        self.row = (!self.is_paused).then_some(row);
    }

    /// A look, which writes nothing.
    fn find(&self, cron: &Cron, now: Timestamp) -> Option<Look> {
        let row = self.row.filter(|row| row.look_at <= now)?;
        Some(self.look(cron, row, now))
    }

    fn look(&self, cron: &Cron, of: Row, now: Timestamp) -> Look {
        let good_at = if self.is_held {
            now
        } else {
            [self.last_good, self.released_at].into_iter().flatten().fold(of.good_at, Ord::max)
        };
        let from = silent_from(cron, good_at, self.intervals);
        let is_silent = !self.is_held && from.is_some_and(|from| from <= now);
        let at_latest = now + SignedDuration::from_secs(AT_LATEST[usize::from(is_silent)]);
        let next = from.filter(|_| !is_silent).map_or(at_latest, |from| from.min(at_latest));
        let silent_at = of.silent_at.filter(|silent_at| good_at < *silent_at);
        Look { of, good_at, silent_at, is_silent, next }
    }

    /// Writes what was found, unless the row is another by now.
    fn write(&mut self, look: Look, now: Timestamp) -> bool {
        match &mut self.row {
            Some(row) if row.look_at == look.of.look_at => {
                let silent_at = look.is_silent.then(|| look.silent_at.unwrap_or(now));
                *row = Row { good_at: look.good_at, look_at: look.next, silent_at };
                true
            }
            _ => false,
        }
    }

    /// Writes down a silence after another look. Whether it begins.
    fn begin(&mut self, cron: &Cron, now: Timestamp) -> bool {
        let Some(row) = self.row else { return false };
        let look = self.look(cron, row, now);
        self.write(look, now) && look.is_silent && look.silent_at.is_none()
    }
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let crons = SCHEDULES.iter().map(|(expression, zone)| Cron::parse(expression, zone).unwrap()).collect();
        let time = "2026-03-02T08:00:00Z".parse().unwrap();
        let mut store = Store {
            cron: dice.within(0..6) as usize,
            intervals: dice.one_of(&[1, 3, 10]),
            is_paused: false,
            is_held: false,
            released_at: None,
            last_good: None,
            row: None,
        };
        store.count_anew(time);
        Self { dice, crons, time, store, found: [None, None], quiet_since: time, is_told: false, told: 0 }
    }

    fn cron(&self) -> &Cron {
        &self.crons[self.store.cron]
    }

    /// From now on another silence counts.
    fn begins_anew(&mut self) {
        (self.quiet_since, self.is_told) = (self.time, false);
    }

    fn step(&mut self) -> Result<(), String> {
        // No two transactions have the same time.
        self.time += SignedDuration::from_micros(1);
        let node = self.dice.one_of(&[0, 1]);
        match self.dice.within(0..20) {
            0..=5 => self.time += SignedDuration::from_secs(1 + self.dice.seconds()),
            6 => {
                // A run comes to a good end, whatever holds the schedule.
                self.store.last_good = Some(self.time);
                if let Some(row) = self.store.row.as_mut().filter(|row| row.silent_at.is_some()) {
                    *row = Row { good_at: self.time, look_at: self.time, silent_at: None };
                }
                self.begins_anew();
            }
            8 if self.dice.chance(40) => self.pause_or_go_on(),
            9 if self.dice.chance(60) => self.hold_or_release(),
            10 if self.dice.chance(30) => {
                self.store.cron = self.dice.within(0..6) as usize;
                self.store.count_anew(self.time);
                self.begins_anew();
            }
            // It dies, and what it found is written by nobody.
            11 => self.found[node] = None,
            12..=14 => self.found[node] = self.store.find(&self.crons[self.store.cron], self.time),
            15..=17 => self.write_down(node)?,
            _ => self.look_at_everything()?,
        }
        Ok(())
    }

    fn pause_or_go_on(&mut self) {
        self.store.is_paused = !self.store.is_paused;
        self.store.count_anew(self.time);
        self.begins_anew();
    }

    fn hold_or_release(&mut self) {
        self.store.is_held = !self.store.is_held;
        if !self.store.is_held {
            self.store.released_at = Some(self.time);
        }
        self.begins_anew();
    }

    /// A server writes down what it found a while ago.
    fn write_down(&mut self, node: usize) -> Result<(), String> {
        let Some(look) = self.found[node].take() else { return Ok(()) };
        if look.is_silent && look.silent_at.is_none() {
            let cron = &self.crons[self.store.cron];
            if self.store.begin(cron, self.time) {
                self.check_told()?;
            }
        } else {
            self.store.write(look, self.time);
        }
        Ok(())
    }

    fn look_at_everything(&mut self) -> Result<(), String> {
        self.found[0] = self.store.find(&self.crons[self.store.cron], self.time);
        let was_due = self.found[0].is_some();
        self.write_down(0)?;
        self.check_everything(was_due)
    }

    /// Whether so many of its intervals, each whole, have passed by `now` since it was last heard of.
    fn is_quiet(&self, now: Timestamp) -> bool {
        let mut occurrences = 0;
        let mut at = self.quiet_since;
        while let Some(next) = self.cron().next(at).filter(|next| *next <= now) {
            (at, occurrences) = (next, occurrences + 1);
            // The first begins an interval, and each other one ends one.
            if occurrences > self.store.intervals {
                return true;
            }
        }
        false
    }

    /// It is told of now.
    fn check_told(&mut self) -> Result<(), String> {
        let because = match () {
            () if self.is_told => "it is told of twice",
            () if self.store.is_held => "its schedule is held",
            () if self.store.is_paused => "it is paused",
            () if !self.is_quiet(self.time) => "a good run came in time",
            () => {
                (self.is_told, self.told) = (true, self.told + 1);
                return Ok(());
            }
        };
        Err(format!("{because}, since {} at {}: {:?}", self.quiet_since, self.time, self.store))
    }

    /// A server has just looked, where it was due: what is silent was told of then, and nothing else is shown as silent. One that was silent
    /// when its schedule was held is looked at within ten minutes.
    fn check_everything(&self, was_due: bool) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}, since {} at {}: {:?}", self.quiet_since, self.time, self.store));
        let counts = !self.store.is_paused && !self.store.is_held;
        let by = if was_due { self.time } else { self.time - SignedDuration::from_secs(AT_LATEST[1]) };
        if counts && !self.is_told && self.is_quiet(by) {
            return wrong("nobody was told");
        }
        let is_shown = self.store.row.is_some_and(|row| row.silent_at.is_some());
        if was_due && is_shown != self.is_told {
            return wrong(if is_shown { "it is shown as silent" } else { "it is not shown as silent" });
        }
        Ok(())
    }
}

#[test]
fn no_story_of_a_silence_breaks_a_promise() {
    let (seeds, mut told) = (seeds(SEEDS), 0);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let mut story = Story::new(seed);
        if let Err(wrong) = (0..STEPS).try_for_each(|_| story.step()) {
            panic!("{wrong}\nplay it again with ROTA_SIMULATION_SEED={seed}");
        }
        told += u64::from(story.told);
    }
    assert!(told >= count / 2, "{told} silences in {count} stories: they tell of nothing");
}
