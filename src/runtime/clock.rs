//! The clock of a process. Nothing else reads the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::time::Now;

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the monotonic clock at zero.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// What time it is. A wall clock before 1970 reads as 1970.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { monotonic: self.start.elapsed(), unix }
    }
}
