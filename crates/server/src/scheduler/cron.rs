//! Cron expressions: five numeric POSIX fields, read on the wall clock of an IANA time zone.
//!
//! ```
//! # use rota_server::scheduler::cron::Cron;
//! let cron = Cron::parse("30 9 * * 1-5", "Europe/Zurich").unwrap();
//! let friday_noon = "2025-03-28T12:00:00Z".parse().unwrap();
//! // The clocks went forward on the Sunday between.
//! assert_eq!(cron.next(friday_noon).unwrap().to_string(), "2025-03-31T07:30:00Z");
//! ```
//!
//! # Which instants match
//!
//! An instant matches when the zone's clock shows, at second zero, a minute that the expression names. So a time that
//! the clock skips does not occur, and a time that the clock shows twice occurs twice. A zone's history falls into
//! segments of constant offset, within which its clock runs straight; searching segment by segment gives both rules
//! without a special case for either.
//!
//! # Day of month and day of week
//!
//! When both fields are restricted, a day matches if *either* names it; otherwise it matches if both do. As in Vixie's
//! cron a field that begins with `*` is unrestricted, even `*/2`: `0 0 13 * 5` is each 13th and each Friday, and
//! `0 0 */2 * 1` is the Mondays that fall on an odd day.

use std::iter;

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime, Time, date, time},
    tz::{Offset, TimeZone, TimeZoneDatabase},
};
use rota_api::deployment::{MAX_EXPRESSION, MAX_TIMEZONE};

/// A schedule must occur within this time of being written: a year. Occurrences of a yearly schedule are up to 366 days
/// apart, and the last day is for what the zone's offset may differ between them.
pub const MUST_OCCUR_WITHIN: SignedDuration = SignedDuration::from_hours(367 * 24);

/// How far [`Cron::next`] and [`Cron::prev`] search, in seconds: 400 years, after which the Gregorian calendar repeats.
/// It ends the search for a date that does not exist, or that is always skipped by the clock.
const SEARCH_SECONDS: i64 = 146_097 * 86_400;

/// The most that a clock can differ from UTC, in seconds. Once a segment holds no match, the search goes on at the first
/// instant at which some clock in the world could show the next matching day.
const WIDEST_OFFSET: i64 = Offset::MAX.seconds() as i64;

/// Why a schedule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {message}")]
pub struct CronError {
    /// The field of the request body: `schedule.expression` or `schedule.timezone`.
    pub field: &'static str,
    /// What is wrong with it, for the client to read.
    pub message: String,
}

/// A parsed expression in its time zone.
#[derive(Debug, Clone)]
pub struct Cron {
    times: Times,
    days: Days,
    zone: TimeZone,
    window: Window,
}

/// The times between which a schedule has occurrences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// The first may be here. `None`: there is no first one.
    pub starts_at: Option<Timestamp>,
    /// The last is before this. `None`: there is no last one.
    pub ends_at: Option<Timestamp>,
}

impl Cron {
    /// Reads an expression and the name of its time zone.
    ///
    /// An expression has exactly five fields: minute 0–59, hour 0–23, day of month 1–31, month 1–12 and day of week 0–7
    /// (0 and 7 are Sunday). A field is a comma-separated list of `*`, `n`, `n-m`, `*/step` and `n-m/step`. The zone is
    /// an identifier of the tz database that is built in, in any case; the host's database is not asked.
    pub fn parse(expression: &str, timezone: &str) -> Result<Cron, CronError> {
        let (times, days) = read_expression(expression).map_err(in_expression)?;
        let zone = read_timezone(timezone).map_err(|message| CronError { field: "schedule.timezone", message })?;
        Ok(Cron { times, days, zone, window: Window::default() })
    }

    /// Reads a schedule that a client wants to use from `now` on: as [`Cron::parse`], but it must not restrict both the day
    /// of the month and that of the week, which schedules of earlier versions may, and must occur within
    /// [`MUST_OCCUR_WITHIN`].
    pub fn validate(expression: &str, timezone: &str, now: Timestamp) -> Result<Cron, CronError> {
        let cron = Cron::parse(expression, timezone)?;
        if cron.days.either {
            let message = "cannot restrict both day-of-month and day-of-week; use `*` for one";
            return Err(in_expression(message.to_owned()));
        }
        if cron.next(now).is_some_and(|next| next.duration_since(now) <= MUST_OCCUR_WITHIN) {
            return Ok(cron);
        }
        Err(in_expression("does not produce any occurrences in the next year".to_owned()))
    }

    /// The same schedule, with no occurrences but those in `window`.
    #[must_use]
    pub fn within(self, window: Window) -> Self {
        Self { window, ..self }
    }

    /// The first occurrence after `after`, or `None` if there is none within 400 years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let just_before = |at: Timestamp| at.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MIN);
        let from = self.window.starts_at.map_or(after, |starts_at| after.max(just_before(starts_at)));
        self.next_match(from).filter(|at| self.window.ends_at.is_none_or(|ends_at| *at < ends_at))
    }

    /// The last occurrence before `before`, or `None` if there is none within 400 years.
    pub fn prev(&self, before: Timestamp) -> Option<Timestamp> {
        let until = self.window.ends_at.map_or(before, |ends_at| before.min(ends_at));
        self.prev_match(until).filter(|at| self.window.starts_at.is_none_or(|starts_at| *at >= starts_at))
    }

    /// From the occurrence `at` to the next one, also where the schedule ends before that.
    pub fn interval_after(&self, at: Timestamp) -> SignedDuration {
        self.next_match(at).map_or(SignedDuration::MAX, |next| next.duration_since(at))
    }

    /// The first time after `after` that the expression matches.
    fn next_match(&self, after: Timestamp) -> Option<Timestamp> {
        let mut start = floor_second(after) + 1;
        let limit = (start + SEARCH_SECONDS).min(Timestamp::MAX.as_second());
        while start < limit {
            let from = Timestamp::from_second(start).ok()?;
            let change = self.zone.following(from).next();
            let end = change.map_or(limit, |change| change.timestamp().as_second().min(limit));
            if let Some(found) = self.first_within(start, end, self.zone.to_offset(from)) {
                return Some(found);
            }
            let day = self.days.first_between(utc_date(end - WIDEST_OFFSET)?, utc_date(limit)?)?;
            start = end.max(utc_midnight(day)? - WIDEST_OFFSET);
        }
        None
    }

    /// The last time before `before` that the expression matches.
    fn prev_match(&self, before: Timestamp) -> Option<Timestamp> {
        let mut end = ceil_second(before).min(Timestamp::MAX.as_second());
        let limit = (end - SEARCH_SECONDS).max(Timestamp::MIN.as_second());
        while end > limit {
            let change = self.zone.preceding(Timestamp::from_second(end).ok()?).next();
            let start = change.map_or(limit, |change| change.timestamp().as_second().max(limit));
            let offset = self.zone.to_offset(Timestamp::from_second(start).ok()?);
            if let Some(found) = self.last_within(start, end, offset) {
                return Some(found);
            }
            let day = self.days.last_between(utc_date(limit)?, utc_date(start + WIDEST_OFFSET)?)?;
            end = start.min(utc_midnight(day.tomorrow().ok()?)? + WIDEST_OFFSET);
        }
        None
    }

    /// The zone whose clock the expression is read on.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The occurrences that there are from second `start` to before second `end` on a clock that keeps `offset`.
    pub(super) fn at_offset(&self, start: i64, end: i64, offset: Offset) -> impl Iterator<Item = Timestamp> {
        let first = self.first_within(start, end, offset);
        iter::successors(first, move |last| self.first_within(last.as_second() + 1, end, offset))
    }

    /// The first occurrence from second `start` to before second `end`, between which the zone keeps `offset`.
    fn first_within(&self, start: i64, end: i64, offset: Offset) -> Option<Timestamp> {
        let to_minute = (-on_clock(start, offset)).rem_euclid(60);
        let from = clock(start + to_minute, offset)?;
        let date = from.date();
        let found = if self.days.contains(date)
            && let Some(time) = self.times.at_or_after(from.time())
        {
            date.to_datetime(time)
        } else {
            let last = clock(end, offset)?.date();
            self.days.first_between(date.tomorrow().ok()?, last)?.to_datetime(self.times.at_or_after(Time::MIN)?)
        };
        offset.to_timestamp(found).ok().filter(|found| found.as_second() < end)
    }

    /// The last occurrence from second `start` to before second `end`, between which the zone keeps `offset`.
    fn last_within(&self, start: i64, end: i64, offset: Offset) -> Option<Timestamp> {
        let past_minute = on_clock(end - 1, offset).rem_euclid(60);
        let from = clock(end - 1 - past_minute, offset)?;
        let date = from.date();
        let found = if self.days.contains(date)
            && let Some(time) = self.times.at_or_before(from.time())
        {
            date.to_datetime(time)
        } else {
            let first = clock(start, offset)?.date();
            self.days.last_between(first, date.yesterday().ok()?)?.to_datetime(self.times.at_or_before(Time::MAX)?)
        };
        offset.to_timestamp(found).ok().filter(|found| found.as_second() >= start)
    }
}

/// The times of day that match: each of the hours with each of the minutes. Neither is empty.
#[derive(Debug, Clone, Copy)]
struct Times {
    minutes: Set,
    hours: Set,
}

impl Times {
    fn at_or_after(self, from: Time) -> Option<Time> {
        if self.hours.contains(from.hour())
            && let Some(minute) = self.minutes.from(from.minute()).lowest()
        {
            return Some(time(from.hour(), minute, 0, 0));
        }
        Some(time(self.hours.from(from.hour() + 1).lowest()?, self.minutes.lowest()?, 0, 0))
    }

    fn at_or_before(self, from: Time) -> Option<Time> {
        if self.hours.contains(from.hour())
            && let Some(minute) = self.minutes.below(from.minute() + 1).highest()
        {
            return Some(time(from.hour(), minute, 0, 0));
        }
        Some(time(self.hours.below(from.hour()).highest()?, self.minutes.highest()?, 0, 0))
    }
}

/// The days that match.
#[derive(Debug, Clone, Copy)]
struct Days {
    months: Set,
    of_month: Set,
    /// Days of the week, 0 to 6 from Sunday, and again from 7 on for each week that a month can touch.
    of_week: Set,
    /// Whether a day matches when one of the two sets above has it, and not only when both have.
    either: bool,
}

impl Days {
    fn contains(self, date: Date) -> bool {
        self.months.contains(date.month()) && self.in_month(date.year(), date.month()).contains(date.day())
    }

    fn first_between(self, first: Date, last: Date) -> Option<Date> {
        for year in first.year()..=last.year() {
            let mut months = self.months;
            if year == first.year() {
                months = months.from(first.month());
            }
            while let Some(month) = months.lowest() {
                let mut days = self.in_month(year, month);
                if (year, month) == (first.year(), first.month()) {
                    days = days.from(first.day());
                }
                if let Some(day) = days.lowest() {
                    return Some(date(year, month, day));
                }
                months = months.from(month + 1);
            }
        }
        None
    }

    fn last_between(self, first: Date, last: Date) -> Option<Date> {
        for year in (first.year()..=last.year()).rev() {
            let mut months = self.months;
            if year == last.year() {
                months = months.below(last.month() + 1);
            }
            while let Some(month) = months.highest() {
                let mut days = self.in_month(year, month);
                if (year, month) == (last.year(), last.month()) {
                    days = days.below(last.day() + 1);
                }
                if let Some(day) = days.highest() {
                    return Some(date(year, month, day));
                }
                months = months.below(month);
            }
        }
        None
    }

    /// The days of a month that match, whether or not the month itself does.
    fn in_month(self, year: i16, month: i8) -> Set {
        let first = date(year, month, 1);
        let of_week = self.of_week.0 >> first.weekday().to_sunday_zero_offset() << 1;
        let days = if self.either { self.of_month.0 | of_week } else { self.of_month.0 & of_week };
        Set(days).from(1).below(first.days_in_month() + 1)
    }
}

/// A set of the numbers 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Set(u64);

impl Set {
    fn contains(self, number: i8) -> bool {
        self.0 >> number & 1 == 1
    }

    fn lowest(self) -> Option<i8> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as i8)
    }

    fn highest(self) -> Option<i8> {
        self.0.checked_ilog2().map(|number| number as i8)
    }

    /// The members from `number` on.
    fn from(self, number: i8) -> Set {
        Set(self.0 & u64::MAX << number)
    }

    /// The members below `number`.
    fn below(self, number: i8) -> Set {
        Set(self.0 & !(u64::MAX << number))
    }
}

/// The seconds that a clock at `offset` has counted at second `at`.
fn on_clock(at: i64, offset: Offset) -> i64 {
    at + i64::from(offset.seconds())
}

/// What a clock at `offset` shows at second `at`.
fn clock(at: i64, offset: Offset) -> Option<DateTime> {
    Some(offset.to_datetime(Timestamp::from_second(at).ok()?))
}

fn utc_date(at: i64) -> Option<Date> {
    Some(clock(at, Offset::UTC)?.date())
}

fn utc_midnight(day: Date) -> Option<i64> {
    Some(Offset::UTC.to_timestamp(day.to_datetime(Time::MIN)).ok()?.as_second())
}

fn floor_second(at: Timestamp) -> i64 {
    at.as_second() - i64::from(at.subsec_nanosecond() < 0)
}

fn ceil_second(at: Timestamp) -> i64 {
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}

/// One of the five fields of an expression, and the numbers that it takes.
struct Field {
    name: &'static str,
    least: i8,
    most: i8,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59 },
    Field { name: "hour", least: 0, most: 23 },
    Field { name: "day-of-month", least: 1, most: 31 },
    Field { name: "month", least: 1, most: 12 },
    Field { name: "day-of-week", least: 0, most: 7 },
];

/// Multiplying a week by this repeats it six times, enough for a month that begins on its last day.
const SIX_WEEKS: u64 = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28 | 1 << 35;

fn read_expression(expression: &str) -> Result<(Times, Days), String> {
    check_length(expression, MAX_EXPRESSION)?;
    let refuse = |reason| format!("is not a valid 5-field cron expression: {reason}");
    if expression.trim_ascii_start().starts_with('@') {
        return Err(refuse("predefined shortcuts (@daily, @hourly, ...) are not supported".to_owned()));
    }
    let texts: Vec<&str> = expression.split_ascii_whitespace().collect();
    let texts: [&str; 5] =
        texts.try_into().map_err(|texts: Vec<_>| refuse(format!("expected 5 fields, got {}", texts.len())))?;
    let mut sets = [Set(0); 5];
    for ((set, field), text) in sets.iter_mut().zip(&FIELDS).zip(texts) {
        *set = field.read(text).map_err(refuse)?;
    }
    let [minutes, hours, of_month, months, of_week] = sets;
    let [_, _, of_month_text, _, of_week_text] = texts;
    let sunday_as_0 = of_week.below(7).0 | of_week.0 >> 7;
    let days = Days {
        months,
        of_month,
        of_week: Set(sunday_as_0 * SIX_WEEKS),
        either: !of_month_text.starts_with('*') && !of_week_text.starts_with('*'),
    };
    Ok((Times { minutes, hours }, days))
}

impl Field {
    fn read(&self, text: &str) -> Result<Set, String> {
        text.split(',').try_fold(Set(0), |set, item| Ok(Set(set.0 | self.read_item(item)?.0)))
    }

    fn read_item(&self, item: &str) -> Result<Set, String> {
        if let Some(character) = special_character(item) {
            return Err(format!("special character \"{character}\" is not supported (5-field POSIX cron only)"));
        }
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let (first, last) = if range == "*" {
            (self.least, self.most)
        } else if let Some((first, last)) = range.split_once('-') {
            (self.read_number(first, self.least, item)?, self.read_number(last, self.least, item)?)
        } else if step.is_none() {
            let number = self.read_number(range, self.least, item)?;
            (number, number)
        } else {
            return Err(self.invalid(item));
        };
        if first > last {
            return Err(self.invalid(item));
        }
        let step = step.map_or(Ok(1), |step| self.read_number(step, 1, item))?;
        Ok(Set((first..=last).step_by(step as usize).fold(0, |set, number| set | 1 << number)))
    }

    fn read_number(&self, text: &str, least: i8, item: &str) -> Result<i8, String> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.invalid(item));
        }
        let number = text.parse().ok().filter(|number| (least..=self.most).contains(number));
        number.ok_or_else(|| format!("field {} value {text} is out of range", self.name))
    }

    fn invalid(&self, item: &str) -> String {
        format!("invalid value {item:?} in field {}", self.name)
    }
}

/// The first character of `item` that only extended cron dialects know. The letters of a name, such as the `L` of `JUL`,
/// are not taken for one.
fn special_character(item: &str) -> Option<char> {
    let is_name = item.chars().any(|c| c.is_alphabetic() && !matches!(c, 'L' | 'W'));
    item.chars().find(|c| matches!(c, '#' | '?') || !is_name && matches!(c, 'L' | 'W'))
}

fn read_timezone(name: &str) -> Result<TimeZone, String> {
    check_length(name, MAX_TIMEZONE)?;
    let zone = TimeZoneDatabase::bundled().get(name).ok().filter(|zone| !zone.is_unknown());
    zone.ok_or_else(|| format!("{name:?} is not a valid IANA timezone"))
}

fn check_length(text: &str, most: usize) -> Result<(), String> {
    if text.chars().nth(most).is_some() {
        return Err(format!("must be at most {most} characters"));
    }
    Ok(())
}

fn in_expression(message: String) -> CronError {
    CronError { field: "schedule.expression", message }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ops::Range};

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron(expression: &str, timezone: &str) -> Cron {
        Cron::parse(expression, timezone).unwrap()
    }

    #[test]
    fn a_schedule_has_no_occurrences_outside_its_window() {
        let at = |time: &str| format!("2026-05-04T{time}Z").parse::<Timestamp>().unwrap();
        let hourly = |starts_at: Option<&str>, ends_at: Option<&str>| {
            let window = Window { starts_at: starts_at.map(at), ends_at: ends_at.map(at) };
            Cron::parse("0 * * * *", "UTC").unwrap().within(window)
        };
        // from, until, at, next, prev
        let cases = [
            (None, None, "09:30:00", Some("10:00:00"), Some("09:00:00")),
            (Some("10:00:00"), None, "08:00:00", Some("10:00:00"), None),
            (Some("10:00:01"), None, "08:00:00", Some("11:00:00"), None),
            (Some("10:00:00"), None, "10:00:00", Some("11:00:00"), None),
            (Some("10:00:00"), None, "10:30:00", Some("11:00:00"), Some("10:00:00")),
            (None, Some("11:00:00"), "09:30:00", Some("10:00:00"), Some("09:00:00")),
            (None, Some("11:00:00"), "10:00:00", None, Some("09:00:00")),
            (None, Some("11:00:00"), "15:00:00", None, Some("10:00:00")),
            (None, Some("11:00:01"), "15:00:00", None, Some("11:00:00")),
            (Some("10:10:00"), Some("10:50:00"), "08:00:00", None, None),
            (Some("10:10:00"), Some("10:50:00"), "12:00:00", None, None),
        ];
        for (from, until, time, next, prev) in cases {
            let cron = hourly(from, until);
            let found = (cron.next(at(time)), cron.prev(at(time)));
            assert_eq!(found, (next.map(at), prev.map(at)), "from {from:?} until {until:?} at {time}");
        }
        let ending = hourly(None, Some("11:00:00"));
        assert_eq!(ending.interval_after(at("10:00:00")), SignedDuration::from_hours(1), "a delay stays the same");
    }

    #[test]
    fn what_is_not_a_five_field_posix_expression_is_refused() {
        let special = |c: char| format!("special character \"{c}\" is not supported (5-field POSIX cron only)");
        let shortcut = "predefined shortcuts (@daily, @hourly, ...) are not supported".to_owned();
        let cases = [
            ("", "expected 5 fields, got 0".to_owned()),
            ("not a cron", "expected 5 fields, got 3".to_owned()),
            ("0 0 * * * *", "expected 5 fields, got 6".to_owned()),
            ("@daily", shortcut.clone()),
            (" @every 5m", shortcut),
            ("0 0 L * *", special('L')),
            ("0 0 15W * *", special('W')),
            ("0 0 1,LW * *", special('L')),
            ("0 0 * * 5L", special('L')),
            ("0 0 * * 5#3", special('#')),
            ("0 0 * * FRI#3", special('#')),
            ("0 0 ? * *", special('?')),
            ("* * * * FRI", "invalid value \"FRI\" in field day-of-week".to_owned()),
            ("* * * * WED", "invalid value \"WED\" in field day-of-week".to_owned()),
            ("* * * * MON-FRI", "invalid value \"MON-FRI\" in field day-of-week".to_owned()),
            ("* * * JUL *", "invalid value \"JUL\" in field month".to_owned()),
            ("99 * * * *", "field minute value 99 is out of range".to_owned()),
            ("60 * * * *", "field minute value 60 is out of range".to_owned()),
            ("* 24 * * *", "field hour value 24 is out of range".to_owned()),
            ("* * 0 * *", "field day-of-month value 0 is out of range".to_owned()),
            ("* * 32 * *", "field day-of-month value 32 is out of range".to_owned()),
            ("* * * 0 *", "field month value 0 is out of range".to_owned()),
            ("* * * 13 *", "field month value 13 is out of range".to_owned()),
            ("* * * * 8", "field day-of-week value 8 is out of range".to_owned()),
            ("* * * * 1-8", "field day-of-week value 8 is out of range".to_owned()),
            ("4294967296 * * * *", "field minute value 4294967296 is out of range".to_owned()),
            ("*/0 * * * *", "field minute value 0 is out of range".to_owned()),
            ("*/60 * * * *", "field minute value 60 is out of range".to_owned()),
            ("* * * */13 *", "field month value 13 is out of range".to_owned()),
            ("5/15 * * * *", "invalid value \"5/15\" in field minute".to_owned()),
            ("*/5/5 * * * *", "invalid value \"*/5/5\" in field minute".to_owned()),
            ("*/ * * * *", "invalid value \"*/\" in field minute".to_owned()),
            ("/5 * * * *", "invalid value \"/5\" in field minute".to_owned()),
            ("* 5-1 * * *", "invalid value \"5-1\" in field hour".to_owned()),
            ("* 1-2-3 * * *", "invalid value \"1-2-3\" in field hour".to_owned()),
            ("* 1- * * *", "invalid value \"1-\" in field hour".to_owned()),
            ("* -1 * * *", "invalid value \"-1\" in field hour".to_owned()),
            ("* +1 * * *", "invalid value \"+1\" in field hour".to_owned()),
            ("* *-5 * * *", "invalid value \"*-5\" in field hour".to_owned()),
            ("* ** * * *", "invalid value \"**\" in field hour".to_owned()),
            ("* 1.5 * * *", "invalid value \"1.5\" in field hour".to_owned()),
            ("* ١ * * *", "invalid value \"١\" in field hour".to_owned()),
            ("1,,2 * * * *", "invalid value \"\" in field minute".to_owned()),
            (",1 * * * *", "invalid value \"\" in field minute".to_owned()),
            ("1, * * * *", "invalid value \"\" in field minute".to_owned()),
        ];
        for (expression, reason) in cases {
            let refused = Cron::parse(expression, "UTC").unwrap_err();
            assert_eq!(refused.field, "schedule.expression");
            assert_eq!(refused.message, format!("is not a valid 5-field cron expression: {reason}"), "{expression}");
        }
    }

    #[test]
    fn an_expression_of_more_than_256_characters_is_refused() {
        let longest = format!("{}0 * * * *", "0,".repeat(123));
        assert_eq!(longest.len(), 255);
        assert!(Cron::parse(&format!("{longest} "), "UTC").is_ok());
        let refused = Cron::parse(&format!("{longest}  "), "UTC").unwrap_err();
        assert_eq!(refused.to_string(), "`schedule.expression` must be at most 256 characters");
    }

    #[test]
    fn only_identifiers_of_the_tz_database_name_a_zone() {
        for name in ["UTC", "Etc/UTC", "Etc/GMT+5", "EST5EDT", "Europe/Zurich", "america/new_york", "Asia/Calcutta"] {
            assert!(Cron::parse("* * * * *", name).is_ok(), "{name}");
        }
        let refused = [
            "Mars/Phobos",
            "",
            "local",
            "localtime",
            "posixrules",
            "Etc/Unknown",
            "+02:00",
            "UTC+2",
            "EST5EDT4,M3.2.0,M11.1.0",
            "CET-1CEST",
            "/etc/localtime",
            "../Europe/Zurich",
            "posix/Europe/Zurich",
            "Europe/Zurich ",
            "Europe",
        ];
        for name in refused {
            let refused = Cron::parse("* * * * *", name).unwrap_err();
            assert_eq!(refused.to_string(), format!("`schedule.timezone` {name:?} is not a valid IANA timezone"));
        }
        let refused = Cron::parse("* * * * *", &"x".repeat(65)).unwrap_err();
        assert_eq!(refused.to_string(), "`schedule.timezone` must be at most 64 characters");
    }

    #[test]
    fn a_schedule_must_occur_within_a_year() {
        let cases = [
            // The only 02:30 within the year is skipped: 2021-03-14 is when the clocks went forward.
            ("30 2 14 3 *", "America/New_York", "2020-06-10T00:00:00Z", false),
            ("30 2 14 3 *", "America/New_York", "2021-06-10T00:00:00Z", true),
            ("0 0 31 2 *", "UTC", "2026-06-10T00:00:00Z", false),
            ("0 0 29 2 *", "UTC", "2026-06-10T00:00:00Z", false),
            ("0 0 29 2 *", "UTC", "2027-06-10T00:00:00Z", true),
            // Two noons that are 366 days and an hour apart, seen from the moment of the first.
            ("0 12 30 10 *", "America/New_York", "1999-10-30T16:00:00Z", true),
        ];
        for (expression, timezone, now, accepted) in cases {
            let validated = Cron::validate(expression, timezone, at(now)).map(|_| ());
            let message = "`schedule.expression` does not produce any occurrences in the next year".to_owned();
            assert_eq!(validated.map_err(|e| e.to_string()), if accepted { Ok(()) } else { Err(message) }, "{now}");
        }
    }

    /// Checks the first occurrences after a time, and that they are the same when walked backwards.
    fn check(expression: &str, timezone: &str, after: &str, expect: &[&str]) {
        let cron = cron(expression, timezone);
        let expect: Vec<_> = expect.iter().map(|text| at(text)).collect();
        let forward: Vec<_> = iter::successors(cron.next(at(after)), |t| cron.next(*t)).take(expect.len()).collect();
        assert_eq!(forward, expect, "{expression} in {timezone} after {after}");
        let last = *expect.last().unwrap();
        let mut backward: Vec<_> = iter::successors(Some(last), |t| cron.prev(*t)).take(expect.len()).collect();
        backward.reverse();
        assert_eq!(backward, expect, "{expression} in {timezone} before {last}");
    }

    #[test]
    fn a_time_that_the_clock_skips_does_not_occur() {
        let cases = [
            ("30 2 * * *", "America/New_York", "2025-03-08T00:00Z", ["2025-03-08T07:30Z", "2025-03-10T06:30Z"]),
            ("0 0 * * *", "America/Havana", "2025-03-08T00:00Z", ["2025-03-08T05:00Z", "2025-03-10T04:00Z"]),
            ("15 2 * * *", "Australia/Lord_Howe", "2025-10-03T00:00Z", ["2025-10-03T15:45Z", "2025-10-05T15:15Z"]),
            ("30 0 * * *", "America/Asuncion", "2024-10-05T00:00Z", ["2024-10-05T04:30Z", "2024-10-07T03:30Z"]),
            ("30 2 * * *", "Africa/Casablanca", "2025-04-05T00:00Z", ["2025-04-05T02:30Z", "2025-04-07T01:30Z"]),
            ("30 1 * * *", "Antarctica/Troll", "2025-03-29T00:00Z", ["2025-03-29T01:30Z", "2025-03-30T23:30Z"]),
            ("30 2 * * *", "Antarctica/Troll", "2025-03-29T00:00Z", ["2025-03-29T02:30Z", "2025-03-31T00:30Z"]),
            // Whole days: Samoa crossed the date line without a 30 December, Kwajalein without a 21 August.
            ("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00Z", ["2011-12-29T22:00Z", "2011-12-30T22:00Z"]),
            ("0 12 30 12 *", "Pacific/Apia", "2010-06-01T00:00Z", ["2010-12-30T22:00Z", "2012-12-29T22:00Z"]),
            ("0 12 21 8 *", "Pacific/Kwajalein", "1992-06-01T00:00Z", ["1992-08-22T00:00Z", "1994-08-21T00:00Z"]),
            // A change that was called off: Paraguay kept its summer time in 2025.
            ("30 23 * * *", "America/Asuncion", "2025-03-22T12:00Z", ["2025-03-23T02:30Z", "2025-03-24T02:30Z"]),
        ];
        for (expression, timezone, after, expect) in cases {
            check(expression, timezone, after, &expect);
        }
    }

    #[test]
    fn a_time_that_the_clock_shows_twice_occurs_twice() {
        let cases = [
            (
                ("30 1 * * *", "America/New_York", "2025-11-02T00:00Z"),
                ["2025-11-02T05:30Z", "2025-11-02T06:30Z", "2025-11-03T06:30Z"],
            ),
            (
                ("30 1 * * *", "Europe/London", "2025-10-25T12:00Z"),
                ["2025-10-26T00:30Z", "2025-10-26T01:30Z", "2025-10-27T01:30Z"],
            ),
            (
                ("30 0 * * *", "America/Havana", "2025-11-01T12:00Z"),
                ["2025-11-02T04:30Z", "2025-11-02T05:30Z", "2025-11-03T05:30Z"],
            ),
            (
                ("45 1 * * *", "Australia/Lord_Howe", "2025-04-05T00:00Z"),
                ["2025-04-05T14:45Z", "2025-04-05T15:15Z", "2025-04-06T15:15Z"],
            ),
            // Back over midnight, so that the date itself returns.
            (
                ("30 23 * * *", "America/Asuncion", "2024-03-23T12:00Z"),
                ["2024-03-24T02:30Z", "2024-03-24T03:30Z", "2024-03-25T03:30Z"],
            ),
            (
                ("30 2 * * *", "Africa/Casablanca", "2025-02-22T12:00Z"),
                ["2025-02-23T01:30Z", "2025-02-23T02:30Z", "2025-02-24T02:30Z"],
            ),
            (
                ("30 1 * * *", "Antarctica/Troll", "2025-10-25T12:00Z"),
                ["2025-10-25T23:30Z", "2025-10-26T01:30Z", "2025-10-27T01:30Z"],
            ),
            (
                ("*/30 1 * * *", "America/New_York", "2025-11-02T05:00Z"),
                ["2025-11-02T05:30Z", "2025-11-02T06:00Z", "2025-11-02T06:30Z"],
            ),
        ];
        for ((expression, timezone, after), expect) in cases {
            check(expression, timezone, after, &expect);
        }
    }

    #[test]
    fn an_offset_with_seconds_shifts_the_minutes() {
        // Until 1972 Liberia's clocks were 44 minutes and 30 seconds behind.
        check("0 12 * * *", "Africa/Monrovia", "1971-01-01T00:00Z", &["1971-01-01T12:44:30Z", "1971-01-02T12:44:30Z"]);
    }

    #[test]
    fn an_occurrence_is_strictly_after_and_strictly_before() {
        let minutely = cron("* * * * *", "UTC");
        for (time, next, prev) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2025-12-31T23:59:00Z"),
            ("2026-01-01T00:00:00.000000001Z", "2026-01-01T00:01:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:59.999999999Z", "2026-01-01T00:01:00Z", "2026-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59.5Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:00Z"),
            ("1969-12-31T23:59:00.5Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:00Z"),
        ] {
            assert_eq!(minutely.next(at(time)), Some(at(next)), "after {time}");
            assert_eq!(minutely.prev(at(time)), Some(at(prev)), "before {time}");
        }
    }

    #[test]
    fn days_of_month_and_week_are_alternatives_when_both_are_restricted() {
        let cases = [
            ("0 0 13 * 5", ["2026-03-06", "2026-03-13", "2026-03-20"]),
            ("0 0 13-14 * 5", ["2026-03-06", "2026-03-13", "2026-03-14"]),
            // Every number is still a restriction; only an asterisk is none.
            ("0 0 10 * 0-6", ["2026-03-02", "2026-03-03", "2026-03-04"]),
            ("0 0 13 * *", ["2026-03-13", "2026-04-13", "2026-05-13"]),
            ("0 0 * * 5", ["2026-03-06", "2026-03-13", "2026-03-20"]),
            ("0 0 */2 * 1", ["2026-03-09", "2026-03-23", "2026-04-13"]),
            ("0 0 13 * */5", ["2026-03-13", "2026-09-13", "2026-11-13"]),
        ];
        for (expression, days) in cases {
            let expect = days.map(|day| format!("{day}T00:00Z"));
            check(expression, "UTC", "2026-03-01T00:00Z", &expect.each_ref().map(String::as_str));
        }
    }

    #[test]
    fn a_new_schedule_restricts_one_of_the_two_day_fields_at_most() {
        for (expression, accepted) in [
            ("0 0 1 * 1", false),
            ("0 0 13-14 * 5", false),
            ("0 0 1 * *", true),
            ("0 0 * * 1", true),
            ("0 0 */2 * 1", true),
        ] {
            let refused =
                Cron::validate(expression, "UTC", at("2026-03-01T00:00Z")).map(drop).map_err(|e| e.to_string());
            let message = "`schedule.expression` cannot restrict both day-of-month and day-of-week; use `*` for one";
            assert_eq!(refused, if accepted { Ok(()) } else { Err(message.to_owned()) }, "{expression}");
        }
    }

    #[test]
    fn sunday_is_0_and_7() {
        for (field, first_three) in [
            ("0", ["2026-03-08", "2026-03-15", "2026-03-22"]),
            ("7", ["2026-03-08", "2026-03-15", "2026-03-22"]),
            ("*/7", ["2026-03-08", "2026-03-15", "2026-03-22"]),
            ("5-7", ["2026-03-06", "2026-03-07", "2026-03-08"]),
            ("0-1", ["2026-03-02", "2026-03-08", "2026-03-09"]),
        ] {
            let expect = first_three.map(|day| format!("{day}T00:00Z"));
            check(&format!("0 0 * * {field}"), "UTC", "2026-03-01T00:00Z", &expect.each_ref().map(String::as_str));
        }
    }

    #[test]
    fn leap_days_are_found_across_centuries() {
        check("0 0 29 2 *", "UTC", "2096-01-01T00:00Z", &["2096-02-29T00:00Z", "2104-02-29T00:00Z"]);
        check("0 0 29 2 *", "Asia/Tokyo", "1896-01-01T00:00Z", &["1896-02-28T15:00Z", "1904-02-28T15:00Z"]);
        check("0 0 29 2 *", "Europe/Zurich", "1999-01-01T00:00Z", &["2000-02-28T23:00Z", "2004-02-28T23:00Z"]);
        // A leap day that is also a Sunday, with the longest wait that the calendar has.
        check("0 0 29 2 */7", "UTC", "2080-01-01T00:00Z", &["2088-02-29T00:00Z", "2128-02-29T00:00Z"]);
    }

    #[test]
    fn what_never_occurs_is_not_found() {
        for timezone in ["UTC", "America/New_York", "Africa/Casablanca"] {
            for expression in ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
                let cron = cron(expression, timezone);
                assert_eq!(cron.next(at("2026-01-01T00:00Z")), None, "{expression} in {timezone}");
                assert_eq!(cron.prev(at("2026-01-01T00:00Z")), None, "{expression} in {timezone}");
            }
        }
        // Under this rule 02:30 is skipped each time that 8 March is a Sunday.
        let zone = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
        let skipped = Cron { zone, ..cron("30 2 8 3 */7", "UTC") };
        assert_eq!(skipped.next(at("2026-01-01T00:00Z")), None);
        assert_eq!(skipped.prev(at("2026-01-01T00:00Z")), None);
        // New York has had that rule since 2007.
        let seldom = cron("30 2 8 3 */7", "America/New_York");
        assert_eq!(seldom.prev(at("2021-01-01T00:00Z")), Some(at("1998-03-08T07:30Z")));
    }

    #[test]
    fn the_ends_of_time_are_not_passed() {
        for timezone in ["UTC", "America/New_York", "Pacific/Kiritimati"] {
            let minutely = cron("* * * * *", timezone);
            assert_eq!(minutely.next(Timestamp::MAX), None);
            assert_eq!(minutely.prev(Timestamp::MIN), None);
            assert!(minutely.next(Timestamp::MIN).is_some());
            assert!(minutely.prev(Timestamp::MAX).is_some());
        }
    }

    const ZONES: [&str; 30] = [
        "Africa/Cairo",
        "Africa/Casablanca",
        "Africa/Nairobi",
        "America/Asuncion",
        "America/Caracas",
        "America/Havana",
        "America/Los_Angeles",
        "America/New_York",
        "America/Santiago",
        "America/Sao_Paulo",
        "America/St_Johns",
        "Antarctica/Casey",
        "Antarctica/Troll",
        "Asia/Amman",
        "Asia/Beirut",
        "Asia/Kathmandu",
        "Asia/Kolkata",
        "Asia/Pyongyang",
        "Asia/Tehran",
        "Asia/Tokyo",
        "Australia/Adelaide",
        "Australia/Lord_Howe",
        "Europe/Berlin",
        "Europe/Dublin",
        "Europe/Istanbul",
        "Europe/Moscow",
        "Pacific/Apia",
        "Pacific/Chatham",
        "Pacific/Kiritimati",
        "UTC",
    ];

    /// Thirty years in which no zone is still being corrected: 1992 to 2021.
    const SETTLED_YEARS: Range<i64> = 694_224_000..1_640_995_200;

    /// The zones whose clocks change at full hours to full hours. Of others cronexpr is no judge: it advances to the
    /// beginning of an hour, which after a change within the hour can be past a match, or back where it came from, for
    /// ever.
    fn zones_that_change_on_the_hour() -> Vec<&'static str> {
        let on_the_hour = |change: Timestamp, offset: Offset| on_clock(change.as_second(), offset) % 3600 == 0;
        let changes_on_the_hour = |name: &&str| {
            let zone = cron("* * * * *", name).zone;
            let from = Timestamp::from_second(SETTLED_YEARS.start).unwrap();
            zone.following(from).take_while(|change| change.timestamp() < at("2026-01-01T00:00Z")).all(|change| {
                let before = zone.to_offset(change.timestamp() - SignedDuration::from_secs(1));
                on_the_hour(change.timestamp(), before) && on_the_hour(change.timestamp(), change.offset())
            })
        };
        ZONES.into_iter().filter(changes_on_the_hour).collect()
    }

    /// A field of a random expression: its text and, told independently of the parser, the numbers that it means.
    #[derive(Debug, Clone)]
    struct RandomField {
        text: String,
        numbers: BTreeSet<i8>,
    }

    fn random_item(least: i8, most: i8) -> impl Strategy<Value = RandomField> {
        (0..5, least..=most, least..=most, 1..=most).prop_map(move |(form, a, b, step)| {
            let (low, high) = (a.min(b), a.max(b));
            let every = |first: i8, last: i8, step: i8| (first..=last).filter(|n| (n - first) % step == 0).collect();
            let (text, numbers) = match form {
                0 => ("*".to_owned(), every(least, most, 1)),
                1 => (format!("*/{step}"), every(least, most, step)),
                2 => (a.to_string(), every(a, a, 1)),
                3 => (format!("{low}-{high}"), every(low, high, 1)),
                _ => (format!("{low}-{high}/{step}"), every(low, high, step)),
            };
            RandomField { text, numbers }
        })
    }

    fn random_field(least: i8, most: i8) -> impl Strategy<Value = RandomField> {
        prop::collection::vec(random_item(least, most), 1..4).prop_map(|items| RandomField {
            text: items.iter().map(|item| item.text.as_str()).collect::<Vec<_>>().join(","),
            numbers: items.into_iter().flat_map(|item| item.numbers).collect(),
        })
    }

    /// The five fields of a random expression. All months match in half of them, so that few match nothing.
    fn random_fields() -> impl Strategy<Value = [RandomField; 5]> {
        let any_month = Just(RandomField { text: "*".to_owned(), numbers: (1..=12).collect() });
        let months = prop_oneof![any_month, random_field(1, 12)];
        (random_field(0, 59), random_field(0, 23), random_field(1, 31), months, random_field(0, 7))
            .prop_map(|(minute, hour, day, month, weekday)| [minute, hour, day, month, weekday])
    }

    fn expression(fields: &[RandomField; 5]) -> String {
        fields.each_ref().map(|field| field.text.as_str()).join(" ")
    }

    fn clock_matches([minute, hour, day, month, weekday]: &[RandomField; 5], clock: DateTime) -> bool {
        let on_day = day.numbers.contains(&clock.day());
        let sunday_as = |number| weekday.numbers.contains(&number);
        let on_weekday = match clock.weekday().to_sunday_zero_offset() {
            0 => sunday_as(0) || sunday_as(7),
            number => weekday.numbers.contains(&number),
        };
        let both = day.text.starts_with('*') || weekday.text.starts_with('*');
        minute.numbers.contains(&clock.minute())
            && hour.numbers.contains(&clock.hour())
            && month.numbers.contains(&clock.month())
            && if both { on_day && on_weekday } else { on_day || on_weekday }
    }

    /// A window of three days, every second time around a change of the zone's clock if one follows.
    fn window(zone: &TimeZone, second: i64, around_change: bool) -> Range<Timestamp> {
        let second = second / 60 * 60;
        let from = Timestamp::from_second(second).unwrap();
        let change = zone.following(from).next().filter(|_| around_change).map(|change| change.timestamp());
        let day = SignedDuration::from_hours(24);
        change.map_or(from..from + day * 3, |change| change - day..change + day * 2)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn it_agrees_with_a_scan_of_every_minute(
            fields in random_fields(),
            timezone in prop::sample::select(&ZONES[..]),
            second in SETTLED_YEARS,
            around_change: bool,
        ) {
            let cron = cron(&expression(&fields), timezone);
            let window = window(&cron.zone, second, around_change);
            let minute = SignedDuration::from_mins(1);
            let scanned: Vec<_> = iter::successors(Some(window.start), |at| Some(*at + minute))
                .take_while(|at| *at < window.end)
                .filter(|at| clock_matches(&fields, cron.zone.to_datetime(*at)))
                .collect();

            let just_before = window.start - SignedDuration::from_nanos(1);
            let forward: Vec<_> = iter::successors(cron.next(just_before), |at| cron.next(*at))
                .take_while(|at| *at < window.end)
                .collect();
            prop_assert_eq!(&forward, &scanned);
            let mut backward: Vec<_> = iter::successors(cron.prev(window.end), |at| cron.prev(*at))
                .take_while(|at| *at >= window.start)
                .collect();
            backward.reverse();
            prop_assert_eq!(&backward, &scanned);
        }

        #[test]
        fn it_agrees_with_cronexpr(
            fields in random_fields(),
            timezone in prop::sample::select(zones_that_change_on_the_hour()),
            second in SETTLED_YEARS,
        ) {
            let expression = expression(&fields);
            let peer = cronexpr::parse_crontab(&format!("{expression} {timezone}")).unwrap();
            let next = cron(&expression, timezone).next(Timestamp::from_second(second).unwrap());
            match peer.find_next(cronexpr::MakeTimestamp::from_second(second).unwrap()) {
                Ok(found) => prop_assert_eq!(next.map(Timestamp::as_second), Some(found.timestamp().as_second())),
                // It gives up after four years.
                Err(_) => prop_assert!(next.is_none_or(|next| next.as_second() - second > 4 * 365 * 86_400)),
            }
        }

        #[test]
        fn next_and_prev_are_inverses(
            fields in random_fields(),
            timezone in prop::sample::select(&ZONES[..]),
            nanosecond in -30_000_000_000_000_000_000_i128..200_000_000_000_000_000_000,
        ) {
            let cron = cron(&expression(&fields), timezone);
            let time = Timestamp::from_nanosecond(nanosecond).unwrap();
            let instant = SignedDuration::from_nanos(1);
            if let Some(next) = cron.next(time) {
                prop_assert!(next > time);
                prop_assert_eq!(cron.next(next - instant), Some(next));
                prop_assert_eq!(cron.prev(next + instant), Some(next));
                prop_assert!(cron.prev(next).is_none_or(|prev| prev <= time));
            }
            if let Some(prev) = cron.prev(time) {
                prop_assert!(prev < time);
                prop_assert_eq!(cron.next(prev - instant), Some(prev));
                prop_assert!(cron.next(prev).is_none_or(|next| next >= time));
            }
        }

        #[test]
        fn no_text_breaks_the_parser(text in "[0-9*,/LW#?@FRI \t-]{0,40}|\\PC{0,300}") {
            let _ = Cron::parse(&text, &text);
        }
    }
}
