//! A map of bounded size in which the oldest entry makes room for a new one.
//!
//! Every operation is O(1), and all memory is reserved at the start, so that no insertion ever moves the whole map.
//! It must not know what time is: an entry's age is its place in the order of insertions.

use std::collections::HashMap;
use std::hash::Hash;

/// A map that forgets its oldest entry when it is full.
///
/// ```text
/// oldest ⇄ … ⇄ newest      slots, linked by index in the order of their last insertion
/// ```
pub(super) struct AgingMap<K, V> {
    index: HashMap<K, u32>,
    slots: Vec<Slot<K, V>>,
    capacity: usize,
    oldest: u32,
    newest: u32,
}

struct Slot<K, V> {
    key: K,
    value: V,
    older: u32,
    newer: u32,
}

impl<K: Copy + Eq + Hash, V> AgingMap<K, V> {
    /// An empty map for at most `capacity` entries; one of capacity zero keeps nothing.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(NOWHERE as usize);
        Self {
            index: HashMap::with_capacity(capacity),
            slots: Vec::with_capacity(capacity),
            capacity,
            oldest: NOWHERE,
            newest: NOWHERE,
        }
    }

    /// The value of `key`. Looking does not make an entry any newer.
    pub(super) fn find(&self, key: &K) -> Option<&V> {
        self.index.get(key).map(|&at| &self.slots[at as usize].value)
    }

    /// The value of `key`, to be changed in place; its age stays.
    pub(super) fn find_mut(&mut self, key: &K) -> Option<&mut V> {
        self.index.get(key).map(|&at| &mut self.slots[at as usize].value)
    }

    /// Puts `value` at `key` as the newest entry, in place of the key's earlier value or, in a full map, of the oldest
    /// entry.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.capacity == 0 {
            return;
        }
        if let Some(&at) = self.index.get(&key) {
            self.slots[at as usize].value = value;
            self.unlink(at);
            self.link_as_newest(at);
            return;
        }
        let at =
            if self.slots.len() < self.capacity { self.fill_next(key, value) } else { self.refill_oldest(key, value) };
        self.index.insert(key, at);
        self.link_as_newest(at);
    }

    fn fill_next(&mut self, key: K, value: V) -> u32 {
        let at = u32::try_from(self.slots.len()).expect("capacity fits u32");
        self.slots.push(Slot { key, value, older: NOWHERE, newer: NOWHERE });
        at
    }

    fn refill_oldest(&mut self, key: K, value: V) -> u32 {
        let at = self.oldest;
        self.unlink(at);
        self.index.remove(&self.slots[at as usize].key);
        self.slots[at as usize] = Slot { key, value, older: NOWHERE, newer: NOWHERE };
        at
    }

    fn unlink(&mut self, at: u32) {
        let Slot { older, newer, .. } = self.slots[at as usize];
        match older {
            NOWHERE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NOWHERE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
    }

    fn link_as_newest(&mut self, at: u32) {
        let older = self.newest;
        let slot = &mut self.slots[at as usize];
        (slot.older, slot.newer) = (older, NOWHERE);
        match older {
            NOWHERE => self.oldest = at,
            older => self.slots[older as usize].newer = at,
        }
        self.newest = at;
    }
}

/// The index that means "no slot".
const NOWHERE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::AgingMap;

    #[test]
    fn the_oldest_entry_makes_room() {
        let mut map = AgingMap::new(2);
        for key in 1..=3 {
            map.insert(key, key * 10);
        }
        assert_eq!([1, 2, 3].map(|key| map.find(&key).copied()), [None, Some(20), Some(30)]);
    }

    #[test]
    fn an_entry_put_again_is_the_newest() {
        let mut map = AgingMap::new(2);
        map.insert('a', 1);
        map.insert('b', 2);
        map.insert('a', 3);
        map.insert('c', 4);
        assert_eq!(['a', 'b', 'c'].map(|key| map.find(&key).copied()), [Some(3), None, Some(4)]);
    }

    #[test]
    fn a_map_of_capacity_zero_keeps_nothing() {
        let mut map = AgingMap::new(0);
        map.insert(1, 1);
        assert_eq!(map.find(&1), None);
    }

    /// The same operations on the map and on a plain list in order of insertion.
    #[test]
    fn it_agrees_with_a_plain_list_over_many_random_insertions() {
        for capacity in 1..=9 {
            let (mut map, mut list, mut random) = (AgingMap::new(capacity), Vec::<(u32, u32)>::new(), 88_172_645_u32);
            for round in 0..2_000 {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                let key = random % 12;
                map.insert(key, round);
                list.retain(|entry| entry.0 != key);
                list.push((key, round));
                list.drain(..list.len().saturating_sub(capacity));
                for key in 0..12 {
                    let expected = list.iter().find(|entry| entry.0 == key).map(|entry| &entry.1);
                    assert_eq!(map.find(&key), expected, "capacity {capacity}, round {round}, key {key}");
                }
            }
        }
    }
}
