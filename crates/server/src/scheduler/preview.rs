//! What a schedule will do, for people: its next occurrences, and the local times that its clock skips or repeats.

use std::iter;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::Offset};

use super::cron::Cron;

/// No clock was ever moved by more than this; the largest steps crossed the date line.
const STEP_MOST: SignedDuration = SignedDuration::from_hours(48);

/// What [`preview`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The next occurrences and what the schedule's clock is ahead of UTC at each.
    pub occurrences: Vec<(Timestamp, Offset)>,
    /// The steps of the clock that change which occurrences there are.
    pub steps: Vec<Step>,
}

/// A step of the clock that touches local times that the expression names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When the clock steps.
    pub at: Timestamp,
    /// What it is ahead of UTC until then.
    pub before: Offset,
    /// What it is ahead of UTC from then on. More than `before`: the local times between are skipped and do not occur.
    /// Less: they are repeated and occur twice.
    pub after: Offset,
    /// The first of the local times that are touched.
    pub first: DateTime,
    /// The last of them.
    pub last: DateTime,
    /// How many there are, at least 1.
    pub count: usize,
}

impl Step {
    /// Whether the local times are skipped, and not repeated.
    pub fn skips(&self) -> bool {
        self.after > self.before
    }
}

/// The next `count` occurrences after `after`, and the steps of the clock up to the last of them, at most `steps_most`.
pub fn preview(cron: &Cron, after: Timestamp, count: usize, steps_most: usize) -> Preview {
    let instants = iter::successors(cron.next(after), |last| cron.next(*last)).take(count);
    let occurrences: Vec<_> = instants.map(|at| (at, cron.zone().to_offset(at))).collect();
    let steps = match occurrences.last() {
        Some((last, _)) => steps(cron, after, *last).take(steps_most).collect(),
        None => Vec::new(),
    };
    Preview { occurrences, steps }
}

fn steps(cron: &Cron, after: Timestamp, last: Timestamp) -> impl Iterator<Item = Step> {
    let from = after.checked_sub(STEP_MOST).unwrap_or(Timestamp::MIN);
    let until = last.checked_add(STEP_MOST).unwrap_or(Timestamp::MAX);
    let changes = cron.zone().following(from).map(|change| (change.timestamp(), change.offset()));
    changes.take_while(move |(at, _)| *at <= until).filter_map(move |(at, new)| step(cron, at, new, after, last))
}

/// The step of the clock at `at` to the offset `new`, when it touches an occurrence after `after` and up to `last`.
fn step(cron: &Cron, at: Timestamp, new: Offset, after: Timestamp, last: Timestamp) -> Option<Step> {
    let old = cron.zone().to_offset(at.checked_sub(SignedDuration::from_secs(1)).ok()?);
    let width = i64::from((new.seconds() - old.seconds()).abs());
    let start = at.as_second();
    // On a clock that goes on at the old offset when the real one jumps ahead, or from the step on at the new offset
    // when it falls back, the touched times are those of the first `width` seconds.
    let (skips, on_clock) = (new > old, old.min(new));
    let is_covered = |touched: &Timestamp| {
        if skips {
            return at > after && at <= last;
        }
        *touched > after && touched.as_second() - width <= last.as_second()
    };
    let mut touched = cron.at_offset(start, start + width, on_clock).filter(is_covered);
    let first = touched.next()?;
    let (latest, others) = touched.fold((first, 0), |(_, count), at| (at, count + 1));
    let shown = |at| on_clock.to_datetime(at);
    Some(Step { at, before: old, after: new, first: shown(first), last: shown(latest), count: others + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Each step as `skips 1: 2026-03-08T02:30:00 to 2026-03-08T02:30:00 at 2026-03-08T07:00:00Z`.
    fn steps_of(expression: &str, timezone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(expression, timezone).unwrap();
        let steps = preview(&cron, at(after), count, 100).steps;
        let verb = |step: &Step| if step.skips() { "skips" } else { "repeats" };
        steps.iter().map(|s| format!("{} {}: {} to {} at {}", verb(s), s.count, s.first, s.last, s.at)).collect()
    }

    #[test]
    fn steps_of_the_clock_are_told_when_they_touch_the_expression() {
        let half_past_two = "skips 1: 2026-03-08T02:30:00 to 2026-03-08T02:30:00 at 2026-03-08T07:00:00Z";
        let half_past_one = "repeats 1: 2026-11-01T01:30:00 to 2026-11-01T01:30:00 at 2026-11-01T06:00:00Z";
        let (new_york, summer) = ("America/New_York", "2026-03-07T12:00:00Z");
        // expression, zone, after, count, steps
        let cases: [(&str, &str, &str, usize, &[&str]); 12] = [
            ("30 2 * * *", new_york, summer, 1, &[half_past_two]),
            ("30 4 * * *", new_york, summer, 300, &[]),
            ("30 2 * * *", "UTC", summer, 300, &[]),
            // The skipped hour is not in the range, or all of it is.
            ("30 2 * * *", new_york, "2026-03-08T07:00:00Z", 1, &[]),
            (
                "*/20 * * * *",
                new_york,
                "2026-03-08T06:59:00Z",
                1,
                &["skips 3: 2026-03-08T02:00:00 to 2026-03-08T02:40:00 at 2026-03-08T07:00:00Z"],
            ),
            // The repeated hour, from before it, from its first pass, from its second, and from after it.
            ("30 1 * * *", new_york, "2026-11-01T00:00:00Z", 1, &[half_past_one]),
            ("30 1 * * *", new_york, "2026-11-01T05:30:00Z", 1, &[half_past_one]),
            ("30 1 * * *", new_york, "2026-11-01T06:30:00Z", 1, &[]),
            ("30 1 * * *", new_york, "2026-10-30T00:00:00Z", 2, &[]),
            // Half an hour on Lord Howe, a whole day on Samoa.
            (
                "*/15 * * * *",
                "Australia/Lord_Howe",
                "2026-04-04T14:00:00Z",
                8,
                &["repeats 2: 2026-04-05T01:30:00 to 2026-04-05T01:45:00 at 2026-04-04T15:00:00Z"],
            ),
            (
                "0 */6 * * *",
                "Pacific/Apia",
                "2011-12-30T00:00:00Z",
                4,
                &["skips 4: 2011-12-30T00:00:00 to 2011-12-30T18:00:00 at 2011-12-30T10:00:00Z"],
            ),
            ("30 1,2 * * *", new_york, "2026-03-07T12:00:00Z", 500, &[half_past_two, half_past_one]),
        ];
        for (expression, timezone, after, count, expected) in cases {
            let found = steps_of(expression, timezone, after, count);
            assert_eq!(found, expected, "{expression} in {timezone} after {after}");
        }
    }

    #[test]
    fn the_next_occurrences_come_with_the_offset_of_their_clock() {
        let cron = Cron::parse("30 1 * * *", "America/New_York").unwrap();
        let Preview { occurrences, .. } = preview(&cron, at("2026-10-31T12:00:00Z"), 3, 0);
        let (summer, winter) = (Offset::constant(-4), Offset::constant(-5));
        let expected = [
            (at("2026-11-01T05:30:00Z"), summer),
            (at("2026-11-01T06:30:00Z"), winter),
            (at("2026-11-02T06:30:00Z"), winter),
        ];
        assert_eq!(occurrences, expected);
    }
}
