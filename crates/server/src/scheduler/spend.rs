//! Whether a deployment may still spend. What its sessions cost is counted by days of UTC
//! (`resources/deployments/spend.rs`); a month is the sum of its days.

use jiff::{Timestamp, civil, tz::Offset};
use rota_api::{Time, policy::Spend};

/// Billionths of a dollar in a cent.
pub const CENT: i64 = 10_000_000;
const DAY_MICROS: i64 = 86_400 * 1_000_000;

/// What a deployment has spent, in billionths of a dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Today.
    pub day: i64,
    /// This month.
    pub month: i64,
}

/// A time for which there is a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// A day of UTC.
    Day,
    /// A month of UTC.
    Month,
}

/// The number of the day of `now`, from the first of January 1970.
pub fn day(now: Time) -> i64 {
    now.micros().div_euclid(DAY_MICROS)
}

/// The number of the first day of the month of `now`.
pub fn first_of_month(now: Time) -> i64 {
    let first = Offset::UTC.to_datetime(now.timestamp()).date().first_of_month();
    let midnight = Offset::UTC.to_timestamp(first.to_datetime(civil::Time::MIN));
    day(midnight.unwrap_or(Timestamp::UNIX_EPOCH).into())
}

/// The ceiling that `spent` has reached, if any; of two, that of the month, which lasts longer.
pub fn reached(spend: &Spend, spent: Spent) -> Option<Period> {
    let is_over = |cents: Option<u32>, nanos| cents.is_some_and(|cents| nanos >= i64::from(cents) * CENT);
    if is_over(spend.per_month_cents, spent.month) {
        return Some(Period::Month);
    }
    is_over(spend.per_day_cents, spent.day).then_some(Period::Day)
}

/// The ceiling that is reached by what takes the sums from `before` to `after`, if one is: each is reached once.
pub fn crossed(spend: &Spend, before: Spent, after: Spent) -> Option<Period> {
    reached(spend, after).filter(|period| {
        let (cents, nanos) = match period {
            Period::Day => (spend.per_day_cents, before.day),
            Period::Month => (spend.per_month_cents, before.month),
        };
        cents.is_some_and(|cents| nanos < i64::from(cents) * CENT)
    })
}

/// Whether 80 % of a ceiling are spent.
pub fn is_near(cents: Option<u32>, nanos: i64) -> bool {
    cents.is_some_and(|cents| nanos >= i64::from(cents) * (CENT / 10 * 8))
}

/// What the ceiling of a period is in words: `$1.20 of $1.00 today`.
pub fn words(spend: &Spend, spent: Spent, period: Period) -> String {
    let (cents, nanos, when) = match period {
        Period::Day => (spend.per_day_cents, spent.day, "today"),
        Period::Month => (spend.per_month_cents, spent.month, "this month"),
    };
    let dollars = |cents: i64| format!("${}.{:02}", cents / 100, cents % 100);
    format!("{} of {} {when} (UTC)", dollars(nanos / CENT), dollars(cents.unwrap_or_default().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_is_crossed_once() {
        let spend = Spend { per_day_cents: Some(10), per_month_cents: Some(100) };
        let spent = |day: i64, month: i64| Spent { day: day * CENT, month: month * CENT };
        for (before, after, period) in [
            ((0, 50), (9, 59), None),
            ((9, 59), (10, 60), Some(Period::Day)),
            ((10, 60), (30, 80), None),
            ((30, 80), (50, 100), Some(Period::Month)),
            ((50, 100), (60, 110), None),
            ((5, 95), (12, 102), Some(Period::Month)),
        ] {
            let (before, after) = (spent(before.0, before.1), spent(after.0, after.1));
            assert_eq!(crossed(&spend, before, after), period, "{before:?} {after:?}");
        }
        assert_eq!(crossed(&Spend::default(), spent(0, 0), spent(1000, 1000)), None);
    }

    #[test]
    fn days_and_months_are_those_of_utc() {
        for (now, day_of, first) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("1970-01-31T23:59:59.999999Z", 30, 0),
            ("1970-02-01T00:00:00Z", 31, 31),
            ("2026-03-02T08:00:00Z", 20_514, 20_513),
            ("2028-02-29T12:00:00Z", 21_243, 21_215),
            ("1969-12-31T23:59:59Z", -1, -31),
        ] {
            let now: Time = now.parse().unwrap();
            assert_eq!((day(now), first_of_month(now)), (day_of, first), "{now}");
        }
    }

    #[test]
    fn a_ceiling_is_reached_when_all_of_it_is_spent() {
        let spend = |day, month| Spend { per_day_cents: day, per_month_cents: month };
        let cases = [
            (spend(None, None), i64::MAX, i64::MAX, None),
            (spend(Some(1), None), CENT - 1, i64::MAX, None),
            (spend(Some(1), None), CENT, CENT, Some(Period::Day)),
            (spend(None, Some(3)), 3 * CENT, 3 * CENT - 1, None),
            (spend(None, Some(3)), 0, 3 * CENT, Some(Period::Month)),
            (spend(Some(1), Some(3)), CENT, 2 * CENT, Some(Period::Day)),
            (spend(Some(1), Some(3)), CENT, 3 * CENT, Some(Period::Month)),
        ];
        for (spend, day, month, expected) in cases {
            assert_eq!(reached(&spend, Spent { day, month }), expected, "{spend:?} {day} {month}");
        }
    }

    #[test]
    fn a_ceiling_is_told_in_dollars() {
        let spend = Spend { per_day_cents: Some(150), per_month_cents: Some(10_000) };
        let spent = Spent { day: 2 * 100 * CENT + 1, month: 99 * 100 * CENT + 5 * CENT };
        assert_eq!(words(&spend, spent, Period::Day), "$2.00 of $1.50 today (UTC)");
        assert_eq!(words(&spend, spent, Period::Month), "$99.05 of $100.00 this month (UTC)");
    }
}
