//! What tokens cost.

use super::Usage;
use crate::config::PriceConfig;

/// The list price of a model, in billionths of a US dollar for one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write_5m: u64,
    cache_write_1h: u64,
}

impl Price {
    /// The price of a configuration.
    pub fn new(config: &PriceConfig) -> Self {
        let of = |dollars_a_million: f64| (dollars_a_million * 1000.0).round() as u64;
        let cached = |price: Option<f64>| of(price.unwrap_or(config.input));
        Self {
            input: of(config.input),
            output: of(config.output),
            cache_read: cached(config.cache_read),
            cache_write_5m: cached(config.cache_write_5m),
            cache_write_1h: cached(config.cache_write_1h),
        }
    }

    /// What a request cost, in billionths of a US dollar.
    pub fn of(&self, usage: &Usage) -> u64 {
        [
            (usage.input_tokens, self.input),
            (usage.output_tokens, self.output),
            (usage.cache_read_input_tokens, self.cache_read),
            (usage.cache_creation_5m_input_tokens, self.cache_write_5m),
            (usage.cache_creation_1h_input_tokens, self.cache_write_1h),
        ]
        .into_iter()
        .fold(0, |sum, (tokens, price)| sum.saturating_add(tokens.saturating_mul(price)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_token_has_its_price_and_the_cache_that_of_input_unless_told() {
        let usage = Usage {
            input_tokens: 1,
            output_tokens: 10,
            cache_read_input_tokens: 100,
            cache_creation_5m_input_tokens: 1_000,
            cache_creation_1h_input_tokens: 10_000,
            cost_nanos: None,
        };
        let plain =
            PriceConfig { input: 3.0, output: 15.0, cache_read: None, cache_write_5m: None, cache_write_1h: None };
        assert_eq!(Price::new(&plain).of(&usage), 11_101 * 3_000 + 10 * 15_000);
        let full =
            PriceConfig { cache_read: Some(0.3), cache_write_5m: Some(3.75), cache_write_1h: Some(6.0), ..plain };
        let cached = 100 * 300 + 1_000 * 3_750 + 10_000 * 6_000;
        assert_eq!(Price::new(&full).of(&usage), 3_000 + 10 * 15_000 + cached);
        let much = Usage { output_tokens: u64::MAX, ..usage };
        assert_eq!(Price::new(&full).of(&much), u64::MAX);
    }
}
