//! Points in time on the wire and in the store.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Microseconds since the Unix epoch, UTC. On the wire it is an RFC 3339 text with six decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// A time from its microseconds since the epoch. Values outside the years -9999 to 9999 are moved to the nearest.
    pub fn from_micros(micros: i64) -> Self {
        // A timestamp is not made from microseconds in the very last second.
        Self(micros.clamp(Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_second() * 1_000_000))
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// This time, `micros` later (or earlier, when negative).
    #[must_use]
    pub fn plus_micros(self, micros: i64) -> Self {
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// Seconds from `earlier` until this time; negative when it is not earlier.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }

    /// The same time for calendar arithmetic.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_microsecond(self.0).expect("clamped when it was made")
    }
}

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Self::from_micros(timestamp.as_microsecond())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As many decimals always: texts of times then sort as the times do.
        write!(f, "{:.6}", self.timestamp())
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    /// Reads an RFC 3339 time with any offset.
    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse::<Timestamp>().map(Self::from)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_and_read_with_any_offset() {
        for (text, written) in [
            ("2026-03-15T10:00:00Z", "2026-03-15T10:00:00.000000Z"),
            ("2026-03-15T12:00:00.5+02:00", "2026-03-15T10:00:00.500000Z"),
            ("2019-12-27T18:11:19.117Z", "2019-12-27T18:11:19.117000Z"),
        ] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), written);
        }
        for edge in [Time::from_micros(i64::MIN), Time::from_micros(i64::MAX), Timestamp::MAX.into()] {
            assert_eq!(Time::from(edge.timestamp()), edge);
        }
        assert!("yesterday".parse::<Time>().is_err());
    }
}
