//! What was measured, its figures, and medians of several.

use std::{ops::AddAssign, time::Duration};

use crate::machine::{Shares, Used};

/// The figures of one subject.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Half took at most this, in milliseconds.
    pub p50: f64,
    /// 99 of 100 took at most this, in milliseconds.
    pub p99: f64,
    /// The slowest, in milliseconds.
    pub max: f64,
    /// How many a second.
    pub rate: f64,
    /// Who used the machine.
    pub shares: Shares,
}

/// What was seen of one subject so far.
#[derive(Debug, Default)]
pub struct Measured {
    /// How long each one took.
    pub took: Vec<Duration>,
    /// How many were done.
    pub count: usize,
    /// Within which time.
    pub elapsed: Duration,
    /// Who used the machine.
    pub used: Used,
}

impl AddAssign for Measured {
    fn add_assign(&mut self, more: Self) {
        self.took.extend(more.took);
        self.count += more.count;
        self.elapsed += more.elapsed;
        self.used += more.used;
    }
}

impl Figures {
    /// What `measured` says. Something must have been done.
    pub fn new(Measured { mut took, count, elapsed, used }: Measured) -> Self {
        took.sort_unstable();
        let at = |share: f64| milliseconds(took[((took.len() - 1) as f64 * share) as usize]);
        let rate = count as f64 / elapsed.as_secs_f64();
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0), rate, shares: used.shares() }
    }

    /// The median of each figure. There must be at least one.
    pub fn median(of: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> f64| median(of.iter().map(figure));
        let shares = Shares {
            load: median(|f| f.shares.load),
            server: median(|f| f.shares.server),
            others: median(|f| f.shares.others),
        };
        Self {
            p50: median(|f| f.p50),
            p99: median(|f| f.p99),
            max: median(|f| f.max),
            rate: median(|f| f.rate),
            shares,
        }
    }
}

/// In milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The middle one, or the upper of the two in the middle. There must be at least one.
pub fn median(of: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = of.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// `met` or `MISSED`.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
