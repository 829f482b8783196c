//! One destination: what waits for it, how much is under way, and whether anybody is there.
//!
//! ```text
//!            attempt: unreachable                probe: unreachable
//!        ┌───────────────────────────► Down ◄──────────────────────┐
//!   Up ──┤                              │  probe_at has come       │
//!        ◄──── any attempt: reached ────┴──────────► one probe ────┘
//! ```
//!
//! It must not decide what becomes of a message.

use std::collections::BTreeSet;
use std::time::Duration;

use super::entry::{Leg, List, Position};
use super::pace::{self, Random, Tick};
use crate::paged_slab::Slab;

/// What waits for one destination.
#[derive(Debug)]
pub(super) struct Hop {
    /// What can go at any time, in the order in which it came.
    fresh: List,
    /// What was put off, by time.
    retries: BTreeSet<(Tick, u32)>,
    /// Retries whose time an operator has brought forward.
    flushed: BTreeSet<(Tick, u32)>,
    turn: Turn,
    pub(super) state: State,
    /// Attempts under way.
    pub(super) in_flight: u32,
    /// All legs of this destination, wherever they are.
    pub(super) depth: u64,
}

/// Is anybody there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Down {
        /// How many attempts have found nobody, counted one after the other.
        failures: u32,
        /// When to look again, on the monotonic clock.
        probe_at: Duration,
        probe: Probe,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Waits,
    UnderWay,
}

/// Who goes next where both wait, so that neither a flood of new mail nor one of old mail keeps the other waiting.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Fresh,
    Retry,
}

impl Hop {
    pub(super) const fn new() -> Self {
        Self {
            fresh: List::EMPTY,
            retries: BTreeSet::new(),
            flushed: BTreeSet::new(),
            turn: Turn::Fresh,
            state: State::Up,
            in_flight: 0,
            depth: 0,
        }
    }

    /// Lets a leg wait for its turn.
    pub(super) fn push_fresh(&mut self, leg: u32, legs: &mut Slab<Leg>) {
        legs[leg].position = Position::FRESH;
        self.fresh.push(leg, legs);
    }

    /// Lets a leg wait until `due`, on the monotonic clock.
    pub(super) fn push_retry(&mut self, leg: u32, due: Duration, legs: &mut Slab<Leg>) {
        let due = Tick::not_before(due);
        legs[leg].position = Position::Retry(due);
        self.retries.insert((due, leg));
    }

    /// Takes out a leg that waits. Returns whether it did.
    pub(super) fn withdraw(&mut self, leg: u32, legs: &mut Slab<Leg>) -> bool {
        match legs[leg].position {
            Position::Fresh(_) => self.fresh.unlink(leg, legs),
            Position::Retry(due) => {
                let found = self.retries.remove(&(due, leg)) || self.flushed.remove(&(due, leg));
                debug_assert!(found, "a retry is where its leg says");
            }
            Position::Expiring(_) | Position::InFlight | Position::Held => return false,
        }
        true
    }

    /// Is there something that may go now, and is this the time? Does not ask how much the carrier can take.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        match self.state {
            State::Down { probe: Probe::UnderWay, .. } => false,
            State::Down { probe_at, .. } if probe_at > now => false,
            State::Down { .. } | State::Up => {
                !self.fresh.is_empty() || !self.flushed.is_empty() || self.first_retry().is_some_and(|due| due <= now)
            }
        }
    }

    /// Takes out what goes next. Only to be called when something [is due](Self::is_due).
    pub(super) fn take(&mut self, now: Duration, legs: &mut Slab<Leg>) -> Option<u32> {
        let (fresh, retry) = (self.fresh.first(), self.due_retry(now));
        let leg = match (self.turn, fresh, retry) {
            (Turn::Fresh, Some(fresh), _) | (Turn::Retry, Some(fresh), None) => {
                self.turn = Turn::Retry;
                fresh
            }
            (_, _, Some(retry)) => {
                self.turn = Turn::Fresh;
                retry
            }
            (_, None, None) => return None,
        };
        self.withdraw(leg, legs);
        Some(leg)
    }

    /// When to look again, if nothing else happens. What is due already waits for the carrier, not for a time.
    pub(super) fn next_time(&self, now: Duration) -> Option<Duration> {
        let retry = self.first_retry();
        match self.state {
            State::Up => retry.filter(|due| *due > now),
            State::Down { probe: Probe::UnderWay, .. } => None,
            State::Down { probe_at, .. } if self.fresh.is_empty() && self.flushed.is_empty() => {
                retry.map(|due| due.max(probe_at)).filter(|due| *due > now)
            }
            State::Down { probe_at, .. } => Some(probe_at).filter(|due| *due > now),
        }
    }

    /// Lets everything go now.
    pub(super) fn flush(&mut self, now: Duration) {
        if self.flushed.is_empty() {
            self.flushed = std::mem::take(&mut self.retries);
        } else {
            self.flushed.append(&mut self.retries);
        }
        self.look_now(now);
    }

    /// Does not wait any longer to see whether somebody is there.
    pub(super) fn look_now(&mut self, now: Duration) {
        if let State::Down { probe_at, .. } = &mut self.state {
            *probe_at = now.min(*probe_at);
        }
    }

    /// Somebody answered. Returns whether that is news.
    pub(super) fn note_reached(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Up) != State::Up
    }

    /// Nobody was there. Returns whether that is news. Attempts that were under way when the first of them found nobody
    /// say nothing new; only a probe does.
    pub(super) fn note_unreachable(
        &mut self,
        now: Duration,
        is_probe: bool,
        waits: Waits,
        random: &mut Random,
    ) -> bool {
        let failures = match self.state {
            State::Up => 1,
            State::Down { failures, .. } if is_probe => failures + 1,
            State::Down { .. } => return false,
        };
        let probe_at = now + pace::wait(failures, waits.shortest, waits.longest, random);
        self.state = State::Down { failures, probe_at, probe: Probe::Waits };
        failures == 1
    }

    /// Marks the attempt that begins now as the probe, if there is need of one.
    pub(super) fn begin_probe(&mut self) -> bool {
        let State::Down { probe, .. } = &mut self.state else { return false };
        *probe = Probe::UnderWay;
        true
    }

    /// The attempt that was the probe asked nobody: another one is, as soon as there is one.
    pub(super) fn end_probe(&mut self) {
        if let State::Down { probe, .. } = &mut self.state {
            *probe = Probe::Waits;
        }
    }

    fn first_retry(&self) -> Option<Duration> {
        self.retries.first().map(|(due, _)| due.moment())
    }

    fn due_retry(&self, now: Duration) -> Option<u32> {
        let due = self.retries.first().filter(|(due, _)| due.moment() <= now);
        self.flushed.first().or(due).map(|(_, leg)| *leg)
    }
}

/// The shortest and the longest wait before the next probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
}
