//! One queued message, and its legs: what is to go to one destination.
//!
//! A million of them are kept, so each byte counts: a message has under 200, wherever it waits. It must not hold what can
//! be read from the spool when it is needed.

use super::pace::Tick;
use super::replies::ReplyNumber;
use crate::paged_slab::{NONE, Slab};
use crate::proto::message::MessageId;
use crate::relay::route::DestinationNumber;
use crate::spool::RecipientState;

/// A message that has not gone everywhere yet.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    /// Up to 4 GiB.
    pub(super) bytes: u32,
    pub(super) recipients: u32,
    pub(super) attempts: u32,
    pub(super) first_leg: u32,
    /// The state of each recipient; `None` while all of them wait.
    pub(super) decided: Option<Box<Decided>>,
    pub(super) last_reply: ReplyNumber,
    pub(super) condition: Condition,
    pub(super) origin: Origin,
    pub(super) warning: Warning,
}

/// The state of each recipient. Behind two pointers, because the one that a message has takes less room than the place and
/// the length of what few messages have.
#[derive(Debug)]
pub(super) struct Decided(Box<[RecipientState]>);

/// What an operator has made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Queued,
    /// Not tried until it is released.
    Held,
    /// Taken out of the queue; what is under way is waited for.
    Removed,
}

/// How a message came into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    New,
    /// It was there when the process started.
    Restored,
}

/// Is the sender to be told that it is late (`NOTIFY=DELAY`)?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warning {
    NotWanted,
    Wanted,
    Sent,
}

/// What one message has for one destination.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) entry: u32,
    /// The next one of the same message.
    pub(super) next_of_entry: u32,
    pub(super) destination: DestinationNumber,
    /// Recipients that wait, in ascending order.
    pub(super) recipients: Waiting,
    /// Attempts after which it was put off, as far as they can be counted.
    pub(super) tries: u16,
    pub(super) position: Position,
}

/// Which recipients a leg is for.
#[derive(Debug)]
pub(super) enum Waiting {
    /// All of the message.
    All,
    Some(Box<Numbers>),
}

/// Recipients by number; behind two pointers like [`Decided`].
#[derive(Debug)]
pub(super) struct Numbers(Box<[u32]>);

/// Where a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// In its destination's list of what can go at any time.
    Fresh(Links),
    /// Among its destination's retries.
    Retry(Tick),
    /// In the list of what has been here for too long.
    Expiring(Links),
    /// Under way: an attempt, or an expiry.
    InFlight,
    /// Its message is held.
    Held,
}

/// The neighbours of a leg in a [`List`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    before: u32,
    after: u32,
}

impl Entry {
    /// Has nothing become of any recipient yet?
    pub(super) fn waiting_count(&self) -> u32 {
        let Some(decided) = &self.decided else { return self.recipients };
        let waiting = decided.0.iter().filter(|state| **state == RecipientState::Waiting).count();
        u32::try_from(waiting).unwrap_or(u32::MAX)
    }

    /// Notes what has become of one recipient.
    pub(super) fn decide(&mut self, recipient: u32, state: RecipientState) {
        let count = self.recipients as usize;
        let decided =
            self.decided.get_or_insert_with(|| Box::new(Decided(vec![RecipientState::Waiting; count].into())));
        decided.0[recipient as usize] = state;
    }

    pub(super) fn recipient_states(&self) -> Vec<RecipientState> {
        match &self.decided {
            Some(decided) => decided.0.to_vec(),
            None => vec![RecipientState::Waiting; self.recipients as usize],
        }
    }
}

impl Leg {
    pub(super) fn new(entry: u32, next: u32, destination: DestinationNumber, recipients: Waiting, tries: u16) -> Self {
        Self { entry, next_of_entry: next, destination, recipients, tries, position: Position::InFlight }
    }
}

impl Position {
    /// In a list, of which the leg knows only when it has been [pushed](List::push).
    const LOOSE: Links = Links { before: NONE, after: NONE };
    pub(super) const FRESH: Self = Self::Fresh(Self::LOOSE);
    pub(super) const EXPIRING: Self = Self::Expiring(Self::LOOSE);
}

impl Waiting {
    /// By number; `count` is how many the message has.
    pub(super) fn numbers(&self, count: u32) -> Vec<u32> {
        match self {
            Self::All => (0..count).collect(),
            Self::Some(numbers) => numbers.0.to_vec(),
        }
    }

    pub(super) fn of(numbers: Vec<u32>, count: u32) -> Self {
        if numbers.len() == count as usize { Self::All } else { Self::Some(Box::new(Numbers(numbers.into()))) }
    }
}

/// A list of legs, first come, first served; any of them can be taken out.
#[derive(Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };

    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// Adds a leg whose position says that it is in this list.
    pub(super) fn push(&mut self, leg: u32, legs: &mut Slab<Leg>) {
        *links(leg, legs) = Links { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = leg,
            last => links(last, legs).after = leg,
        }
        self.last = leg;
    }

    pub(super) fn unlink(&mut self, leg: u32, legs: &mut Slab<Leg>) {
        let Links { before, after } = *links(leg, legs);
        match before {
            NONE => self.first = after,
            before => links(before, legs).after = after,
        }
        match after {
            NONE => self.last = before,
            after => links(after, legs).before = before,
        }
    }
}

fn links(leg: u32, legs: &mut Slab<Leg>) -> &mut Links {
    match &mut legs[leg].position {
        Position::Fresh(links) | Position::Expiring(links) => links,
        Position::Retry(_) | Position::InFlight | Position::Held => unreachable!("it is in a list"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Leg, List, Position, Slab, Waiting};
    use crate::relay::route::DestinationNumber;

    #[test]
    fn a_list_keeps_its_order_when_any_of_it_is_taken_out() {
        let mut legs = Slab::new();
        let mut list = List::EMPTY;
        let numbers: Vec<u32> =
            (0..5).map(|entry| legs.insert(Leg::new(entry, 0, DestinationNumber(0), Waiting::All, 0))).collect();
        for number in &numbers {
            legs[*number].position = Position::FRESH;
            list.push(*number, &mut legs);
        }
        for taken in [4, 0, 2] {
            list.unlink(numbers[taken], &mut legs);
        }
        let mut left = Vec::new();
        while let Some(first) = list.first() {
            left.push(first);
            list.unlink(first, &mut legs);
        }
        assert_eq!(left, [numbers[1], numbers[3]]);
        assert!(list.is_empty());
        list.push(numbers[0], &mut legs);
        assert_eq!(list.first(), Some(numbers[0]));
    }
}
