//! Time as an argument.
//!
//! Code that decides never reads a clock: whoever calls it passes [`Now`]. So a simulator can let a day pass in a
//! microsecond, and a test of an expiry needs no sleep.

use std::time::Duration;

/// One reading of both clocks, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since some fixed moment at the start of the process; never goes back. For timeouts and expiry.
    pub monotonic: Duration,
    /// Time since 1970-01-01 00:00:00 UTC; may be set back by an administrator. For dates that people read.
    pub unix: Duration,
}

impl Now {
    /// A reading for tests and simulations: both clocks made from one number of milliseconds, the wall clock
    /// starting on 2026-01-01.
    pub const fn simulated_ms(ms: u64) -> Self {
        const UNIX_S_2026: u64 = 1_767_225_600;
        Self { monotonic: Duration::from_millis(ms), unix: Duration::from_millis(UNIX_S_2026 * 1000 + ms) }
    }
}
