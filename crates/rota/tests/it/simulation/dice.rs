//! Random numbers that depend only on a seed.

use std::ops::Range;

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the range, which is not empty.
    pub fn within(&mut self, range: Range<i64>) -> i64 {
        range.start + (self.next() % (range.end - range.start) as u64) as i64
    }

    /// A place in a list of `count` things. `None` when it is empty.
    pub fn place(&mut self, count: usize) -> Option<usize> {
        (count > 0).then(|| self.within(0..count as i64) as usize)
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0..choices.len() as i64) as usize]
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: i64) -> bool {
        self.within(0..100) < percent
    }

    /// A while in seconds: mostly a short one.
    pub fn seconds(&mut self) -> i64 {
        match self.within(0..20) {
            0..=9 => self.within(0..90),
            10..=16 => self.within(60..1200),
            17..=18 => self.within(1200..10_000),
            _ => self.within(10_000..100_000),
        }
    }
}
