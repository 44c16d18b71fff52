//! What a schedule asks of the scheduler: the occurrences to come, how long to delay one, what to do about missed ones.

use std::{iter, ops::RangeInclusive};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::cron::Cron;

/// Most occurrences that a deployment's `upcoming_runs_at` lists.
pub const UPCOMING_MAX: usize = 5;

/// The jitter's range, as a share of the interval between two occurrences.
const JITTER_PERCENT: i32 = 15;
/// The jitter's range, at least.
const JITTER_RANGE_LEAST: SignedDuration = SignedDuration::from_secs(5);
/// The jitter's range, at most.
const JITTER_RANGE_MOST: SignedDuration = SignedDuration::from_mins(9);

/// An occurrence that is no older than this is on time, not missed. It leaves room for a busy scheduler and a restart.
pub const ON_TIME: SignedDuration = SignedDuration::from_secs(60);

/// The next `count` occurrences after `now`, at most [`UPCOMING_MAX`], without jitter.
pub fn upcoming(cron: &Cron, now: Timestamp, count: usize) -> Vec<Timestamp> {
    iter::successors(cron.next(now), |last| cron.next(*last)).take(count.min(UPCOMING_MAX)).collect()
}

/// Over how long a time deployments are spread that occur every `interval`, by the hosted rule: 15 % of the interval, but
/// never less than 5 s nor more than 9 min.
pub fn hosted_range(interval: SignedDuration) -> SignedDuration {
    (interval / 100 * JITTER_PERCENT).clamp(JITTER_RANGE_LEAST, JITTER_RANGE_MOST)
}

/// How long after an occurrence a deployment fires that is spread over `range`, which is at most the time to its next
/// occurrence: from nothing to less than the range.
///
/// It depends only on the range and the deployment's id, so the delay stays the same from run to run, deployments that
/// share an occurrence spread evenly, and none overtakes its own next occurrence.
pub fn place_in(range: SignedDuration, deployment_id: &str) -> SignedDuration {
    let hash = Sha256::digest(deployment_id);
    let place = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    SignedDuration::from_micros(((range.as_micros() * i128::from(place)) >> 32) as i64)
}

/// What becomes of the occurrences that have come since the scheduler last looked at a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatchUp {
    /// The occurrence to fire.
    pub fire: Option<Timestamp>,
    /// The first and the last of the occurrences that are passed over. Those between them, found with [`Cron::next`],
    /// are passed over too.
    pub skip: Option<RangeInclusive<Timestamp>>,
}

/// Decides on the occurrences after `settled` that are due at `now`: the latest fires if it is overdue by no more than
/// `window`, all others are skipped. Its cost does not depend on how many there are.
///
/// `settled` is the last occurrence that was decided on, or the time from which the schedule counts: its creation, its
/// last change, its unpausing. `window` is at least [`ON_TIME`]. An occurrence is due `delay` after its time, which is
/// before the next occurrence (see [`place_in`]). When the clock has been set back to before `settled`, nothing is due.
pub fn catch_up(
    cron: &Cron,
    settled: Timestamp,
    now: Timestamp,
    window: SignedDuration,
    delay: impl Fn(Timestamp) -> SignedDuration,
) -> CatchUp {
    let overdue = |occurrence: Timestamp| now.duration_since(occurrence) - delay(occurrence);
    let after_now = now.checked_add(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MAX);
    let mut latest = cron.prev(after_now);
    if latest.is_some_and(|latest| overdue(latest).is_negative()) {
        latest = latest.and_then(|latest| cron.prev(latest));
    }
    let Some(latest) = latest.filter(|latest| *latest > settled) else {
        return CatchUp::default();
    };
    let fire = (overdue(latest) <= window.max(ON_TIME)).then_some(latest);
    let last_skipped = if fire.is_some() { cron.prev(latest) } else { Some(latest) };
    let skip = cron.next(settled).zip(last_skipped).filter(|(first, last)| first <= last);
    CatchUp { fire, skip: skip.map(|(first, last)| first..=last) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn delay(deployment_id: &str, interval: SignedDuration) -> SignedDuration {
        place_in(hosted_range(interval), deployment_id)
    }

    fn at_once(_: Timestamp) -> SignedDuration {
        SignedDuration::ZERO
    }

    fn utc(expression: &str) -> Cron {
        Cron::parse(expression, "UTC").unwrap()
    }

    #[test]
    fn upcoming_lists_what_next_finds() {
        let cron = Cron::parse("30 1 1 11 *", "America/New_York").unwrap();
        let listed = upcoming(&cron, at("2020-06-10T00:00:00Z"), 3);
        // 2020-11-01 is the day on which New York showed 01:30 twice.
        assert_eq!(listed, [at("2020-11-01T05:30:00Z"), at("2020-11-01T06:30:00Z"), at("2021-11-01T05:30:00Z")]);
    }

    #[test]
    fn upcoming_lists_no_more_than_five() {
        assert_eq!(upcoming(&utc("* * * * *"), at("2026-01-01T00:00:00Z"), 100).len(), UPCOMING_MAX);
        assert_eq!(upcoming(&utc("0 0 31 2 *"), at("2026-01-01T00:00:00Z"), 5), []);
    }

    #[test]
    fn jitter_ranges_over_15_percent_of_the_interval_from_5_s_to_9_min() {
        let cases = [
            (SignedDuration::from_secs(10), SignedDuration::from_secs(5)),
            (SignedDuration::from_mins(1), SignedDuration::from_secs(9)),
            (SignedDuration::from_mins(30), SignedDuration::from_secs(270)),
            (SignedDuration::from_hours(1), SignedDuration::from_mins(9)),
            (SignedDuration::from_hours(24), SignedDuration::from_mins(9)),
        ];
        for (interval, range) in cases {
            let delays: Vec<_> = (0..1000).map(|n| delay(&format!("depl_{n}"), interval)).collect();
            let (shortest, longest) = (*delays.iter().min().unwrap(), *delays.iter().max().unwrap());
            assert!(shortest >= SignedDuration::ZERO && shortest < range / 50, "{interval}: {shortest}");
            assert!(longest < range && longest > range / 50 * 49, "{interval}: {longest}");
        }
    }

    #[test]
    fn a_deployment_keeps_its_place_in_the_range() {
        // The SHA-256 of the id begins with 0xff37514d, which of 2^32 is 99.69 %.
        assert_eq!(delay("depl_one", SignedDuration::from_hours(1)), SignedDuration::from_micros(538_346_427));
        assert_eq!(delay("depl_one", SignedDuration::from_mins(1)), SignedDuration::from_micros(8_972_440));
        assert_ne!(delay("depl_two", SignedDuration::from_mins(1)), SignedDuration::from_micros(8_972_440));
    }

    #[test]
    fn the_latest_missed_occurrence_fires_and_the_others_are_skipped() {
        let hour = SignedDuration::from_hours(1);
        // expression, settled, now, window, fires, skips
        let cases = [
            // Nothing has become due.
            ("0 * * * *", "09:00:00", "09:59:59", hour, None, None),
            // On time, in the first instant and with a busy scheduler.
            ("0 * * * *", "09:00:00", "10:00:00", hour, Some("10:00:00"), None),
            ("0 * * * *", "09:00:00", "10:00:42.5", hour, Some("10:00:00"), None),
            // Down for a while: the latest fires.
            ("0 * * * *", "09:00:00", "10:30:00", hour, Some("10:00:00"), None),
            ("0 * * * *", "09:00:00", "11:30:00", hour, Some("11:00:00"), Some(("10:00:00", "10:00:00"))),
            ("* * * * *", "09:00:00", "09:30:10", hour, Some("09:30:00"), Some(("09:01:00", "09:29:00"))),
            // Older than the window: not even the latest fires.
            ("0 10 * * *", "09:00:00", "11:00:00", hour, Some("10:00:00"), None),
            ("0 10 * * *", "09:00:00", "11:00:00.001", hour, None, Some(("10:00:00", "10:00:00"))),
            ("*/5 10 * * *", "09:00:00", "13:00:00", hour, None, Some(("10:00:00", "10:55:00"))),
            // Without a window, what is on time still fires.
            ("0 * * * *", "09:00:00", "10:01:00", SignedDuration::ZERO, Some("10:00:00"), None),
            ("0 * * * *", "09:00:00", "10:01:00.001", SignedDuration::ZERO, None, Some(("10:00:00", "10:00:00"))),
            // The clock was set back.
            ("0 * * * *", "09:00:00", "07:30:00", hour, None, None),
            ("0 * * * *", "09:00:00", "09:00:00", hour, None, None),
        ];
        let today = |time: &str| at(&format!("2026-05-04T{time}Z"));
        for (expression, settled, now, window, fire, skip) in cases {
            let decided = catch_up(&utc(expression), today(settled), today(now), window, at_once);
            let expected = CatchUp { fire: fire.map(today), skip: skip.map(|(a, b)| today(a)..=today(b)) };
            assert_eq!(decided, expected, "{expression} from {settled} at {now}");
        }
    }

    #[test]
    fn a_delayed_occurrence_is_due_and_counts_as_late_only_after_its_delay() {
        // 09:01 is delayed by eight minutes, each other occurrence by a second.
        let cron = utc("0,1 9 * * *");
        let today = |time: &str| at(&format!("2026-05-04T{time}Z"));
        let delay = |occurrence: Timestamp| {
            if occurrence == today("09:01:00") { SignedDuration::from_mins(8) } else { SignedDuration::from_secs(1) }
        };
        let cases = [
            ("08:00:00", "09:00:00.9", None, None),
            ("08:00:00", "09:00:01", Some("09:00:00"), None),
            // The next occurrence has come and is not due; this one is.
            ("08:00:00", "09:01:30", Some("09:00:00"), None),
            ("09:00:00", "09:08:59", None, None),
            ("09:00:00", "09:09:00", Some("09:01:00"), None),
            ("08:00:00", "09:09:00", Some("09:01:00"), Some(("09:00:00", "09:00:00"))),
            // Overdue by the whole window, and by more.
            ("09:00:00", "09:19:00", Some("09:01:00"), None),
            ("09:00:00", "09:19:01", None, Some(("09:01:00", "09:01:00"))),
        ];
        for (settled, now, fire, skip) in cases {
            let decided = catch_up(&cron, today(settled), today(now), SignedDuration::from_mins(10), delay);
            let expected = CatchUp { fire: fire.map(today), skip: skip.map(|(a, b)| today(a)..=today(b)) };
            assert_eq!(decided, expected, "from {settled} at {now}");
        }
    }

    #[test]
    fn a_schedule_without_occurrences_has_nothing_to_catch_up() {
        let (settled, hour) = (at("2020-01-01T00:00:00Z"), SignedDuration::from_hours(1));
        let decided = catch_up(&utc("0 0 31 2 *"), settled, Timestamp::MAX, hour, at_once);
        assert_eq!(decided, CatchUp::default());
    }

    proptest! {
        #[test]
        fn every_occurrence_either_fires_or_is_skipped(
            settled in 1_700_000_000_i64..1_800_000_000,
            downtime in 0_i64..200_000,
            window in 0_i64..10_000,
            expression in prop::sample::select(vec!["* * * * *", "*/7 * * * *", "30 1 * * *", "0 */5 * * 1-5"]),
        ) {
            let cron = Cron::parse(expression, "America/New_York").unwrap();
            let settled = Timestamp::from_second(settled).unwrap();
            let now = settled + SignedDuration::from_secs(downtime);
            let decided = catch_up(&cron, settled, now, SignedDuration::from_secs(window), at_once);

            let between = |first, last| iter::successors(first, |at| cron.next(*at)).take_while(move |at| *at <= last);
            let missed: Vec<_> = between(cron.next(settled), now).collect();
            let mut accounted: Vec<_> =
                decided.skip.map(|skip| between(Some(*skip.start()), *skip.end()).collect()).unwrap_or_default();
            accounted.extend(decided.fire);
            prop_assert_eq!(accounted, missed);
        }
    }
}
