//! Pure: how long the sender waits between attempts.

use crate::limits::{WEBHOOK_RETRY_FIRST_MICROS, WEBHOOK_RETRY_MAX_MICROS};

/// The pause after the `attempt`-th attempt (from 1) of a delivery, in microseconds. `random` spreads it over the upper
/// half of its range, so that what failed together is not tried again together.
pub(super) fn pause_micros(attempt: i64, random: u64) -> i64 {
    let doublings = attempt.clamp(1, 32) - 1;
    let longest = WEBHOOK_RETRY_FIRST_MICROS.saturating_mul(1 << doublings).min(WEBHOOK_RETRY_MAX_MICROS);
    let half = longest / 2;
    half + (random % (longest - half + 1) as u64) as i64
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

    proptest! {
        #[test]
        fn a_pause_is_never_outside_5_seconds_and_2_minutes(attempt: i64, random: u64) {
            prop_assert!((5_000_000..=120_000_000).contains(&pause_micros(attempt, random)));
        }
    }
}
