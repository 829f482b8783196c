//! What operators see of the queue.
//!
//! Nothing here changes anything, and nothing is gathered that grows with the queue: whoever lists it takes a page, and
//! comes back for the next one with the last name of this one.

use std::collections::btree_map;
use std::iter::successors;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use super::entry::{Condition, Entry, Position, Warning};
use super::hop::{Probe, State};
use crate::paged_slab::NONE;
use crate::proto::message::MessageId;
use crate::relay::route::DestinationNumber;
use crate::spool::RecipientState;
use crate::time::Now;

/// One message in the queue, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name; [`MessageId::received`] says when it came.
    pub message: MessageId,
    /// Its size.
    pub bytes: u64,
    /// What it waits for.
    pub state: ListedState,
    /// Recipients of the message, and how many of them still wait.
    pub recipients: u32,
    /// Recipients that still wait.
    pub waiting: u32,
    /// Attempts so far, all destinations together.
    pub attempts: u32,
    /// When the next attempt is due, on the wall clock since the Unix epoch. In the past: as soon as there is room.
    pub next_attempt: Duration,
    /// Its sender was told that it is late.
    pub warned: bool,
    /// What the last attempt came to.
    pub last_reply: Option<Arc<str>>,
    /// Where it still has to go.
    pub destinations: Vec<ListedDestination>,
}

/// What one message still has for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDestination {
    /// Where to.
    pub destination: DestinationNumber,
    /// Whom for, by number in the envelope.
    pub recipients: Vec<u32>,
}

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedState {
    /// For its turn.
    Ready,
    /// For the time of its next attempt, or for its destination to be reached again.
    Deferred,
    /// For the result of an attempt.
    Active,
    /// For an operator.
    Held,
}

/// How much waits for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationDepth {
    /// Messages that have still to go there.
    pub messages: u64,
    /// Attempts under way.
    pub in_flight: u32,
    /// Since how many attempts it could not be reached; 0 if it can.
    pub failures: u32,
}

impl Queue {
    /// The messages after `after` (from the beginning: [`MessageId::NONE`]), the oldest first.
    pub fn list(&self, now: Now, after: MessageId) -> impl Iterator<Item = Listed> {
        self.index.range((Excluded(after), Unbounded)).map(move |(_, number)| self.listed(now, *number))
    }

    /// One message.
    pub fn find(&self, now: Now, id: MessageId) -> Option<Listed> {
        self.index.get(&id).map(|number| self.listed(now, *number))
    }

    /// The names that begin with `beginning`, at most `most` of them.
    pub fn names(&self, beginning: &str, most: usize) -> Vec<MessageId> {
        let Some(first) = MessageId::first_with(beginning) else {
            return Vec::new();
        };
        let from: btree_map::Range<'_, _, _> = self.index.range((Included(first), Unbounded));
        let names = from.map(|(id, _)| *id).take_while(|id| id.as_str().starts_with(beginning));
        names.take(most).collect()
    }

    /// When the oldest message came, on the wall clock.
    pub fn oldest(&self) -> Option<Duration> {
        self.index.first_key_value().map(|(id, _)| id.received())
    }

    /// How much waits for a destination, which must be one of the routes.
    pub fn depth(&self, destination: DestinationNumber) -> DestinationDepth {
        let hop = &self.hops[destination.0 as usize];
        let failures = match hop.state {
            State::Up => 0,
            State::Down { failures, .. } => failures,
        };
        DestinationDepth { messages: hop.depth, in_flight: hop.in_flight, failures }
    }

    fn listed(&self, now: Now, number: u32) -> Listed {
        let entry = &self.entries[number];
        Listed {
            message: entry.id,
            bytes: entry.bytes.into(),
            state: self.listed_state(now, entry),
            recipients: entry.recipients,
            waiting: entry.waiting_count(),
            attempts: entry.attempts,
            next_attempt: self.next_attempt(now, entry),
            warned: entry.warning == Warning::Sent,
            last_reply: self.replies.text(entry.last_reply),
            destinations: self.listed_destinations(entry),
        }
    }

    fn listed_destinations(&self, entry: &Entry) -> Vec<ListedDestination> {
        let listed = |leg: u32| ListedDestination {
            destination: self.legs[leg].destination,
            recipients: self.legs[leg].recipients.numbers(entry.recipients),
        };
        let mut listed: Vec<_> = self.legs_of(entry).map(listed).collect();
        listed.sort_by_key(|listed| listed.destination);
        listed
    }

    fn listed_state(&self, now: Now, entry: &Entry) -> ListedState {
        let is_any = |wanted: fn(Position) -> bool| self.legs_of(entry).any(|leg| wanted(self.legs[leg].position));
        if entry.condition == Condition::Held {
            ListedState::Held
        } else if is_any(|position| matches!(position, Position::InFlight | Position::Expiring(_))) {
            ListedState::Active
        } else if self.next_attempt(now, entry) <= now.unix {
            ListedState::Ready
        } else {
            ListedState::Deferred
        }
    }

    /// The earliest time at which one of the legs may go, on the wall clock.
    pub(super) fn next_attempt(&self, now: Now, entry: &Entry) -> Duration {
        let earliest = self.legs_of(entry).map(|leg| self.due(now, leg)).min().unwrap_or(now.monotonic);
        (now.unix + earliest).saturating_sub(now.monotonic)
    }

    /// On the monotonic clock.
    fn due(&self, now: Now, leg: u32) -> Duration {
        let leg = &self.legs[leg];
        let own = match leg.position {
            Position::Retry(due) => due.moment(),
            Position::Fresh(_) | Position::Expiring(_) | Position::InFlight | Position::Held => now.monotonic,
        };
        match self.hops[leg.destination.0 as usize].state {
            State::Down { probe_at, probe: Probe::Waits, .. } => own.max(probe_at),
            State::Down { .. } | State::Up => own,
        }
    }

    fn legs_of(&self, entry: &Entry) -> impl Iterator<Item = u32> {
        let leg = |number: u32| (number != NONE).then_some(number);
        successors(leg(entry.first_leg), move |number| leg(self.legs[*number].next_of_entry))
    }

    /// The states of a message's recipients, in the order of the envelope.
    pub fn recipient_states(&self, id: MessageId) -> Option<Vec<RecipientState>> {
        self.index.get(&id).map(|number| self.entries[*number].recipient_states())
    }
}
