//! The one clock of a run: all cores count from the same moment.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use onetrip::time::Now;

/// Time since the run began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begun: Instant,
    unix: Duration,
}

impl Clock {
    /// The run begins now.
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { begun: Instant::now(), unix }
    }

    /// Both clocks; the monotonic one counts from the beginning of the run.
    pub(crate) fn now(&self) -> Now {
        let monotonic = self.begun.elapsed();
        Now { monotonic, unix: self.unix + monotonic }
    }

    /// When the run began, since 1970.
    pub(crate) const fn unix(&self) -> Duration {
        self.unix
    }
}
