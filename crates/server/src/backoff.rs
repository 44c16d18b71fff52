//! Pure: how long to wait before something that failed is tried again.

use std::time::Duration;

/// Pauses that grow by a factor with each failure in a row, up to a longest one.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    factor: u32,
    longest: Duration,
}

impl Backoff {
    /// Pauses of which each is twice the one before.
    pub const fn doubling(first: Duration, longest: Duration) -> Self {
        Self::growing(first, 2, longest)
    }

    /// Pauses of which each is `factor` times the one before.
    pub const fn growing(first: Duration, factor: u32, longest: Duration) -> Self {
        Self { first, factor, longest }
    }

    /// The pause after this many failures in a row, from 1.
    pub fn pause(self, failures: u32) -> Duration {
        let grown = self.factor.checked_pow(failures.saturating_sub(1)).and_then(|times| self.first.checked_mul(times));
        grown.map_or(self.longest, |grown| grown.min(self.longest))
    }

    /// A part of that pause, from half of it to all of it. Only `place` decides which: what failed together is not tried
    /// again together.
    pub fn spread(self, failures: u32, place: u64) -> Duration {
        let whole = self.pause(failures).as_micros() as u64;
        let half = whole / 2;
        Duration::from_micros(half + place % (whole - half + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let seconds = Duration::from_secs;
        let doubling = Backoff::doubling(seconds(1), seconds(60));
        let tripling = Backoff::growing(seconds(10), 3, seconds(100));
        let even = Backoff::growing(seconds(5), 1, seconds(100));
        for (backoff, failures, pause) in [
            (doubling, 1, 1),
            (doubling, 2, 2),
            (doubling, 6, 32),
            (doubling, 7, 60),
            (doubling, u32::MAX, 60),
            (tripling, 1, 10),
            (tripling, 2, 30),
            (tripling, 3, 90),
            (tripling, 4, 100),
            (even, 1000, 5),
        ] {
            assert_eq!(backoff.pause(failures), seconds(pause), "{backoff:?} {failures}");
        }
    }

    #[test]
    fn a_pause_is_spread_over_its_upper_half_and_both_ends_are_met() {
        let backoff = Backoff::doubling(Duration::from_micros(10), Duration::from_secs(1));
        let places: Vec<u128> = (0..6).map(|place| backoff.spread(1, place).as_micros()).collect();
        assert_eq!(places, [5, 6, 7, 8, 9, 10]);
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_the_longest_or_shorter_than_half_of_it(failures: u32, place: u64, longest in 0_u64..1 << 40) {
            let backoff = Backoff::doubling(Duration::from_micros(longest), Duration::from_micros(longest));
            let pause = backoff.spread(failures, place).as_micros() as u64;
            prop_assert!((longest / 2..=longest).contains(&pause));
        }
    }
}
