//! The messages of a log that are not done, by name.
//!
//! A million of them may wait, so each byte counts: values lie in memory that grows by pieces, and a table of their numbers
//! finds them. A map that holds the values themselves has room for up to twice as many, at the size of a value each.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use super::Place;
use super::contents::Piece;
use crate::paged_slab::Slab;
use crate::proto::message::MessageId;

/// A message that is not done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) head: Piece,
    progress: Place,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Messages {
    entries: Slab<Entry>,
    numbers: HashTable<u32>,
    hasher: RandomState,
}

impl Entry {
    pub(super) fn new(id: MessageId, head: Piece) -> Self {
        Self { id, head, progress: NOWHERE }
    }

    /// Where the newest progress lies.
    pub(super) fn progress(&self) -> Option<Place> {
        (self.progress != NOWHERE).then_some(self.progress)
    }

    /// Notes where the newest progress lies; returns where the one before does.
    pub(super) fn set_progress(&mut self, place: Place) -> Option<Place> {
        let before = self.progress();
        self.progress = place;
        before
    }
}

impl Default for Messages {
    fn default() -> Self {
        Self { entries: Slab::new(), numbers: HashTable::new(), hasher: RandomState::new() }
    }
}

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn contains(&self, id: MessageId) -> bool {
        self.get(id).is_some()
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&Entry> {
        let number = self.numbers.find(self.hasher.hash_one(id), |number| self.entries[*number].id == id)?;
        Some(&self.entries[*number])
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Entry> {
        let number = *self.numbers.find(self.hasher.hash_one(id), |number| self.entries[*number].id == id)?;
        Some(&mut self.entries[number])
    }

    /// Adds a message, or puts this in the place of what is known of it. Returns what was known.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let Self { entries, numbers, hasher } = self;
        let hash = hasher.hash_one(entry.id);
        let is_it = |number: &u32| entries[*number].id == entry.id;
        match numbers.entry(hash, is_it, |number| hasher.hash_one(entries[*number].id)) {
            Slot::Occupied(known) => Some(std::mem::replace(&mut entries[*known.get()], entry)),
            Slot::Vacant(vacant) => {
                vacant.insert(entries.insert(entry));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, id: MessageId) -> Option<Entry> {
        let entries = &self.entries;
        let hash = self.hasher.hash_one(id);
        let found = self.numbers.find_entry(hash, |number| entries[*number].id == id).ok()?;
        let (number, _) = found.remove();
        Some(self.entries.remove(number))
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

const NOWHERE: Place = Place { segment: u32::MAX, offset: u32::MAX };

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Entry, Messages};
    use crate::proto::message::MessageId;
    use crate::spool::Place;
    use crate::spool::contents::Piece;

    fn entry(number: u32) -> Entry {
        let id = MessageId::new(Duration::from_secs(1), 0, number);
        Entry::new(id, Piece { place: Place { segment: number, offset: 0 }, bytes: 1 })
    }

    #[test]
    fn what_is_put_in_is_found_by_its_name_until_it_is_taken_out() {
        let mut messages = Messages::default();
        for number in 0..3_000 {
            assert!(messages.insert(entry(number)).is_none());
        }
        for number in (0..3_000).step_by(2) {
            assert_eq!(messages.remove(entry(number).id).unwrap().head.place.segment, number);
            assert!(messages.remove(entry(number).id).is_none());
        }
        assert_eq!((messages.len(), messages.iter().count()), (1_500, 1_500));
        for number in 0..3_000 {
            let found = messages.get(entry(number).id).map(|entry| entry.head.place.segment);
            assert_eq!(found, (number % 2 == 1).then_some(number));
            assert_eq!(messages.contains(entry(number).id), number % 2 == 1);
        }
    }

    #[test]
    fn a_message_is_known_once_with_its_newest_place_and_progress() {
        let mut messages = Messages::default();
        let (first, place) = (entry(1), Place { segment: 4, offset: 8 });
        messages.insert(first);
        assert_eq!(messages.get_mut(first.id).unwrap().set_progress(place), None);
        assert_eq!(messages.get_mut(first.id).unwrap().set_progress(first.head.place), Some(place));
        let moved = Entry { head: Piece { place, bytes: 2 }, ..first };
        assert_eq!(messages.insert(moved).unwrap().head, first.head);
        assert_eq!((messages.len(), messages.get(first.id).unwrap().head.bytes), (1, 2));
    }
}
