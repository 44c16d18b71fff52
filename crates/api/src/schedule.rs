//! Previews of schedules.

use schemars::JsonSchema;
use serde::Serialize;

use crate::Time;

/// What a schedule will do.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SchedulePreview {
    /// Always `schedule_preview`.
    pub r#type: &'static str,
    /// Five fields: minute, hour, day of month, month, day of week.
    pub expression: String,
    /// The IANA zone whose wall clock the expression is matched against.
    pub timezone: String,
    /// The next occurrences, soonest first.
    pub occurrences: Vec<Occurrence>,
    /// What the clock's steps do to the schedule until the last of the occurrences.
    pub notes: Vec<ClockNote>,
}

/// An occurrence of a schedule that is being previewed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Occurrence {
    /// When, before jitter.
    pub at: Time,
    /// What the schedule's clock shows then, with its offset from UTC.
    pub local: String,
}

/// A step of the clock by which local times that the expression names are skipped or repeated.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClockNote {
    /// Which of the two.
    pub r#type: ClockNoteType,
    /// When the clock steps.
    pub at: Time,
    /// What the clock would show then without the step, with its offset from UTC.
    pub clock_before: String,
    /// What it shows.
    pub clock_after: String,
    /// The first of the local times, without an offset.
    pub first_local: String,
    /// The last of them.
    pub last_local: String,
    /// How many there are, at least 1.
    pub count: usize,
    /// The same for people.
    pub message: String,
}

/// What a step of the clock does to local times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClockNoteType {
    /// They do not exist, and the schedule does not fire.
    SkippedLocalTime,
    /// They exist twice, and the schedule fires both times.
    RepeatedLocalTime,
}
