//! Pure: what the end of an attempt means for its delivery, and how long the sender waits for the next one.

use std::time::Duration;

use crate::{
    backoff::Backoff,
    limits::{WEBHOOK_CLAIM_MARGIN_MICROS, WEBHOOK_RETRY_FIRST_MICROS, WEBHOOK_RETRY_MAX_MICROS},
};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With a success.
    Accepted,
    /// With something that may pass.
    Failed,
    /// With something that may pass, and with the time after which to come again.
    Postponed {
        /// In microseconds.
        wait_micros: i64,
    },
    /// With something that does not pass by itself.
    Refused,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is done.
    Delivered,
    /// It is sent again after this pause.
    Again {
        /// In microseconds.
        pause_micros: i64,
    },
    /// It has failed, and is sent again only when somebody replays it.
    GivenUp,
    /// Its endpoint is disabled, and it is sent when the endpoint is enabled again.
    Parked,
}

/// What becomes of a delivery whose `attempt`-th attempt (from 1) of at most `most` has ended so. `random` spreads the
/// pauses.
pub fn next(ended: Ended, attempt: i64, most: u32, random: u64) -> Next {
    match ended {
        Ended::Accepted => Next::Delivered,
        Ended::Refused => Next::Parked,
        Ended::Failed | Ended::Postponed { .. } if attempt >= i64::from(most) => Next::GivenUp,
        Ended::Failed => Next::Again { pause_micros: pause_micros(attempt, random) },
        Ended::Postponed { wait_micros } => {
            Next::Again { pause_micros: pause_micros(attempt, random).max(wait_micros) }
        }
    }
}

/// How long a claim lasts, in microseconds, where an attempt may take `timeout_seconds`.
pub fn claim_micros(timeout_seconds: u32) -> i64 {
    i64::from(timeout_seconds) * 1_000_000 + WEBHOOK_CLAIM_MARGIN_MICROS
}

/// The pause after the `attempt`-th attempt (from 1) of a delivery, in microseconds. `random` spreads it over the upper
/// half of its range, so that what failed together is not tried again together.
fn pause_micros(attempt: i64, random: u64) -> i64 {
    let [first, longest] =
        [WEBHOOK_RETRY_FIRST_MICROS, WEBHOOK_RETRY_MAX_MICROS].map(|micros| Duration::from_micros(micros as u64));
    let failures = u32::try_from(attempt.max(1)).unwrap_or(u32::MAX);
    Backoff::doubling(first, longest).spread(failures, random).as_micros() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_grow_from_5_seconds_to_2_minutes() {
        let seconds = |attempt, random| pause_micros(attempt, random) / 1_000_000;
        let longest = |attempt| seconds(attempt, (pause_micros(attempt, 0)) as u64);
        for (attempt, least, most) in
            [(1, 5, 10), (2, 10, 20), (3, 20, 40), (4, 40, 80), (5, 60, 120), (6, 60, 120), (i64::MAX, 60, 120)]
        {
            assert_eq!((seconds(attempt, 0), longest(attempt)), (least, most), "{attempt}");
        }
    }

    #[test]
    fn a_delivery_is_given_up_after_its_last_attempt() {
        let after = |ended, attempt| next(ended, attempt, 3, 0);
        for attempt in 1..=4 {
            assert_eq!(after(Ended::Accepted, attempt), Next::Delivered);
            assert_eq!(after(Ended::Refused, attempt), Next::Parked);
        }
        assert_eq!(after(Ended::Failed, 1), Next::Again { pause_micros: 5_000_000 });
        assert_eq!(after(Ended::Failed, 2), Next::Again { pause_micros: 10_000_000 });
        assert_eq!(after(Ended::Failed, 3), Next::GivenUp);
        assert_eq!(after(Ended::Failed, 4), Next::GivenUp, "the configuration may allow fewer than before");
    }

    #[test]
    fn a_pause_is_at_least_what_the_endpoint_asks_for() {
        let after = |wait_micros, attempt| next(Ended::Postponed { wait_micros }, attempt, 3, 0);
        assert_eq!(after(60_000_000, 1), Next::Again { pause_micros: 60_000_000 });
        assert_eq!(after(1_000_000, 2), Next::Again { pause_micros: 10_000_000 });
        assert_eq!(after(60_000_000, 3), Next::GivenUp);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_outside_5_seconds_and_2_minutes(attempt: i64, random: u64) {
            prop_assert!((5_000_000..=120_000_000).contains(&pause_micros(attempt, random)));
        }
    }
}
