//! When a deployment counts as silent: it has had no good run for a number of its own intervals, each from one occurrence to the next.

use jiff::Timestamp;

use super::cron::Cron;

/// From when on a deployment is silent whose last good run ended at `since`, or whose schedule counts from then, unless another one
/// ends before. By then `intervals` occurrences have each had all the time until the next one. `None` when its schedule has no so
/// many occurrences any more.
pub fn silent_from(cron: &Cron, since: Timestamp, intervals: u32) -> Option<Timestamp> {
    (0..=intervals).try_fold(since, |at, _| cron.next(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_deployment_is_silent_when_so_many_of_its_intervals_have_passed() {
        // expression, zone, last good run, intervals, silent from
        let cases = [
            ("0 * * * *", "UTC", "2026-03-02T09:00:30Z", 1, "2026-03-02T11:00:00Z"),
            ("0 * * * *", "UTC", "2026-03-02T09:00:30Z", 3, "2026-03-02T13:00:00Z"),
            ("0 * * * *", "UTC", "2026-03-02T09:00:00Z", 3, "2026-03-02T13:00:00Z"),
            ("0 * * * *", "UTC", "2026-03-02T08:59:59Z", 3, "2026-03-02T12:00:00Z"),
            // Of working hours and weekends: an interval is what lies between two occurrences, whatever its length.
            ("0 9 * * 1-5", "UTC", "2026-03-05T09:01:00Z", 1, "2026-03-09T09:00:00Z"),
            // The day on which New York's clocks went forward.
            ("30 2 * * *", "America/New_York", "2026-03-06T08:00:00Z", 2, "2026-03-10T06:30:00Z"),
        ];
        for (expression, zone, since, intervals, silent) in cases {
            let cron = Cron::parse(expression, zone).unwrap();
            assert_eq!(silent_from(&cron, at(since), intervals), Some(at(silent)), "{expression} since {since}");
        }
    }

    #[test]
    fn a_schedule_that_never_comes_is_never_silent() {
        let cron = Cron::parse("0 0 31 2 *", "UTC").unwrap();
        assert_eq!(silent_from(&cron, at("2026-03-02T09:00:00Z"), 1), None);
    }

    proptest! {
        #[test]
        fn whole_intervals_have_passed_and_not_one_more(seconds in 0..10_000_000_i64, intervals in 1..50_u32) {
            let cron = Cron::parse("*/7 */3 * * *", "UTC").unwrap();
            let since = at("2026-01-01T00:00:00Z") + jiff::SignedDuration::from_secs(seconds);
            let silent = silent_from(&cron, since, intervals).unwrap();
            // Walked back from its end: so many intervals, all of them after `since`, and none more.
            let begun = (0..intervals).fold(silent, |at, _| cron.prev(at).unwrap());
            prop_assert!(begun > since);
            prop_assert!(cron.prev(begun).unwrap() <= since);
        }
    }
}
