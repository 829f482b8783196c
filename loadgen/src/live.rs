//! What people see while a run goes on: counts that all cores add to.
//!
//! Must not be used for results: those are in `record`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::record::Times;

/// Counts since the beginning, and times since they were taken last.
#[derive(Debug, Default)]
pub(crate) struct Live {
    begun: AtomicU64,
    ended: AtomicU64,
    acknowledged: AtomicU64,
    errors: AtomicU64,
    recent: Mutex<Times>,
}

/// One look at [`Live`].
#[derive(Clone, Debug)]
pub(crate) struct Glance {
    /// Clients under way.
    pub(crate) in_flight: u64,
    /// Messages acknowledged since the beginning.
    pub(crate) acknowledged: u64,
    /// Failures since the beginning.
    pub(crate) errors: u64,
    /// Times of the messages acknowledged since the last look.
    pub(crate) recent: Times,
}

impl Live {
    /// A client begins.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A client is gone.
    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was acknowledged so long after it was due.
    pub(crate) fn acknowledge(&self, time: Duration) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).note(time);
    }

    /// Something failed.
    pub(crate) fn fail(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks, and begins a new interval.
    pub(crate) fn take(&self) -> Glance {
        let ended = self.ended.load(Ordering::Relaxed);
        let recent = std::mem::take(&mut *self.recent.lock().unwrap_or_else(PoisonError::into_inner));
        Glance {
            in_flight: self.begun.load(Ordering::Relaxed).saturating_sub(ended),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            recent,
        }
    }
}
