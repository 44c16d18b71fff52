//! Which occurrences a deployment has had and will have, by the record of its schedules: newest first, as many at a time as
//! are asked for.

use jiff::{SignedDuration, Timestamp};

use super::{cron::Cron, settle::State};

/// The schedule and the state that counted from `since` on, until a later span begins.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its number among the spans of the deployment.
    pub seq: i64,
    /// An occurrence counts when it comes after this.
    pub since: Timestamp,
    /// The schedule, if there was one that can be read.
    pub cron: Option<Cron>,
    /// Whether its occurrences fired.
    pub state: State,
}

/// A place between two occurrences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Occurrences up to here, inclusive, come next.
    pub until: Timestamp,
    /// No span with a higher number counts any more.
    pub seq: i64,
}

/// An occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// When.
    pub at: Timestamp,
    /// The state that it came, or will come, upon.
    pub state: State,
    /// Where those before it begin.
    pub next: Place,
}

/// The last `most` occurrences from `from` to `place`, newest first.
///
/// `spans` are in descending order of their numbers, from that of the place on. A span ends where any later one begins:
/// after the clock was set back, that may be before its own beginning. `more` says whether there are others before them.
/// What is archived has no occurrences after `now`.
///
/// Returns where to go on, too; `None` when there are no others in the range.
pub fn walk(
    spans: &[Span],
    place: Place,
    from: Timestamp,
    now: Timestamp,
    most: usize,
    more: bool,
) -> (Vec<Occurrence>, Option<Place>) {
    let mut found = Vec::new();
    let mut until = place.until;
    for span in spans {
        let mut last = if span.state == State::Archived { until.min(now) } else { until };
        while let Some(at) = latest(span, last).filter(|at| *at >= from) {
            last = before(at);
            let next = Place { until: last, seq: span.seq };
            found.push(Occurrence { at, state: span.state, next });
            if found.len() == most {
                return (found, Some(next));
            }
        }
        until = until.min(span.since);
        if until < from {
            return (found, None);
        }
    }
    let last = spans.last().filter(|_| more);
    (found, last.map(|span| Place { until, seq: span.seq - 1 }))
}

/// The last occurrence of a span up to `until`, inclusive.
fn latest(span: &Span, until: Timestamp) -> Option<Timestamp> {
    let after = until.checked_add(SignedDuration::from_micros(1)).unwrap_or(Timestamp::MAX);
    span.cron.as_ref()?.prev(after).filter(|at| *at > span.since)
}

/// The store's next earlier time.
fn before(at: Timestamp) -> Timestamp {
    at.checked_sub(SignedDuration::from_micros(1)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-05-04T{time}Z").parse().unwrap()
    }

    /// Spans of a deployment, oldest first, as they are looked at.
    fn spans(rows: &[(&str, Option<&str>, State)]) -> Vec<Span> {
        let spans = (1..).zip(rows).map(|(seq, (since, expression, state))| Span {
            seq,
            since: at(since),
            cron: expression.map(|expression| Cron::parse(expression, "UTC").unwrap()),
            state: *state,
        });
        let mut spans: Vec<_> = spans.collect();
        spans.reverse();
        spans
    }

    fn shown(occurrences: &[Occurrence]) -> Vec<String> {
        occurrences.iter().map(|o| format!("{} {}", o.at.strftime("%H:%M"), o.state.as_str())).collect()
    }

    fn until(time: &str) -> Place {
        Place { until: at(time), seq: i64::MAX }
    }

    #[test]
    fn an_occurrence_belongs_to_the_span_that_it_comes_in() {
        let spans = spans(&[
            ("08:00:00", Some("0 * * * *"), State::Active),
            ("10:00:00", Some("0 * * * *"), State::Paused),
            ("11:30:00", Some("*/30 * * * *"), State::Active),
            ("12:10:00", None, State::Active),
            ("14:00:00.5", Some("0 * * * *"), State::Active),
            ("15:30:00", Some("0 * * * *"), State::Archived),
        ]);
        let (midnight, now) = (at("00:00:00"), at("16:20:00"));
        let (all, next) = walk(&spans, until("23:00:00"), midnight, now, 100, false);
        let expected =
            ["16:00 archived", "15:00 active", "12:00 active", "11:00 paused", "10:00 active", "09:00 active"];
        assert_eq!(shown(&all), expected);
        assert_eq!(next, None);
        let (some, _) = walk(&spans, until("12:00:00"), at("10:00:00"), now, 100, false);
        assert_eq!(shown(&some), ["12:00 active", "11:00 paused", "10:00 active"]);
        let (none, _) = walk(&spans, until("11:59:59.999999"), at("11:00:01"), now, 100, false);
        assert_eq!(shown(&none), [""; 0]);
    }

    #[test]
    fn a_later_span_counts_from_its_beginning_also_when_the_clock_was_set_back() {
        let spans = spans(&[
            ("08:00:00", Some("0 * * * *"), State::Active),
            ("11:30:00", Some("*/10 * * * *"), State::Active),
            ("09:30:00", Some("0,30 * * * *"), State::Paused),
        ]);
        let (all, _) = walk(&spans, until("11:00:00"), at("00:00:00"), at("11:00:00"), 9, false);
        assert_eq!(shown(&all), ["11:00 paused", "10:30 paused", "10:00 paused", "09:00 active"]);
    }

    #[test]
    fn a_walk_in_steps_finds_what_one_finds_at_once() {
        let spans = spans(&[
            ("08:00:00", Some("0 * * * *"), State::Active),
            ("10:30:00", Some("*/20 * * * *"), State::Active),
            ("10:35:00", None, State::Active),
            ("10:45:00", Some("*/20 * * * *"), State::Paused),
        ]);
        let (from, now) = (at("08:00:00"), at("12:00:00"));
        let (whole, end) = walk(&spans, until("12:00:00"), from, now, 1000, false);
        assert_eq!((whole.len(), end), (6, None));
        let mut steps = Vec::new();
        let mut place = Some(until("12:00:00"));
        while let Some(begin) = place {
            let some: Vec<_> = spans.iter().filter(|span| span.seq <= begin.seq).take(2).cloned().collect();
            let more = some.last().is_some_and(|span| span.seq > 1);
            let (found, next) = walk(&some, begin, from, now, 2, more);
            steps.extend(found);
            place = next;
        }
        assert_eq!(shown(&steps), shown(&whole));
    }
}
