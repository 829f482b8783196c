//! The word of a place: what its slot holds, in 64 bits, so that one atomic step changes all of it.
//!
//! ```text
//!   63              34   33    32   31             0
//!   [ tag            ][ many ][ held ][ order        ]     a session
//!   [ 0              ][  0   ][  0   ][ 0            ]     EMPTY: the slot holds nothing, all wiped
//!   [ 0              ][  0   ][  0   ][ 1            ]     BUSY: somebody works on the slot
//! ```
//!
//! *tag*: bits of the key that have no part in the choice of the set, so that of a billion lookups of a session that is not there
//! about eight look into a slot in vain. *many*: whether the session may be resumed more than once. *order*: newer
//! sessions of a set have higher numbers, round the circle of 32 bits.
//!
//! Only bits here: must not touch an atomic or a slot.

use crate::tls::store::{SessionKey, Uses};

/// Places in a set: eight words are one cache line. The model checker cannot go through that many.
pub(super) const WAYS: usize = if cfg!(all(test, loom)) { 2 } else { 8 };

/// What the word of a place says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    /// The slot holds nothing.
    pub(super) const EMPTY: Self = Self(0);

    /// Somebody works on the slot.
    pub(super) const BUSY: Self = Self(1);

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// A session is in the slot.
    pub(super) fn held(key: &SessionKey, uses: Uses, order: u32) -> Self {
        Self(Self::mark(key, uses) | u64::from(order))
    }

    pub(super) const fn is_held(self) -> bool {
        self.0 & HELD != 0
    }

    /// Whether the slot can hold this session. Only its key can tell whether it does.
    pub(super) fn may_be(self, key: &SessionKey, uses: Uses) -> bool {
        self.0 & !ORDER == Self::mark(key, uses)
    }

    fn mark(key: &SessionKey, uses: Uses) -> u64 {
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h, ..] = *key;
        let many = if uses == Uses::Many { MANY } else { 0 };
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) & TAG | many | HELD
    }

    /// The place in the order of the set; only for a word that is held.
    fn order(self) -> u32 {
        u32::try_from(self.0 & ORDER).expect("these are 32 bits")
    }
}

/// Where a new session goes: to an empty place, else to that of the oldest session. `None` if all are busy.
pub(super) fn place_for_new(words: &[Word; WAYS]) -> Option<usize> {
    if let Some(empty) = words.iter().position(|word| *word == Word::EMPTY) {
        return Some(empty);
    }
    let held = words.iter().enumerate().filter(|(_, word)| word.is_held());
    let older = |a: (usize, u32), b: (usize, u32)| if is_later(a.1, b.1) { b } else { a };
    held.map(|(way, word)| (way, word.order())).reduce(older).map(|(way, _)| way)
}

/// The number in the order of its set for a new session: after all others.
pub(super) fn next_order(words: &[Word; WAYS]) -> u32 {
    let orders = words.iter().filter(|word| word.is_held()).map(|word| word.order());
    orders.reduce(|a, b| if is_later(a, b) { a } else { b }).map_or(0, |newest| newest.wrapping_add(1))
}

/// Whether `a` comes after `b` on the circle. Wrong only about a session that saw two billion others come to its set;
/// then at worst a newer one goes before it.
fn is_later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

const ORDER: u64 = 0xffff_ffff;
const HELD: u64 = 1 << 32;
const MANY: u64 = 1 << 33;
const TAG: u64 = !0 << 34;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn set(orders: [u32; WAYS]) -> [Word; WAYS] {
        orders.map(|order| Word::held(&[7; 32], Uses::Once, order))
    }

    #[test]
    fn no_session_looks_empty_or_busy_whatever_its_key() {
        for byte in [0, 1, 0xff] {
            for uses in [Uses::Once, Uses::Many] {
                let word = Word::held(&[byte; 32], uses, 0);
                assert!(word.is_held() && word != Word::EMPTY && word != Word::BUSY);
                assert!(word.may_be(&[byte; 32], uses));
            }
        }
        assert!(!Word::EMPTY.is_held() && !Word::BUSY.is_held());
        assert!(!Word::EMPTY.may_be(&[0; 32], Uses::Once) && !Word::BUSY.may_be(&[0; 32], Uses::Once));
    }

    #[test]
    fn a_session_for_one_use_is_not_taken_for_one_of_many() {
        let key = [9; 32];
        assert!(!Word::held(&key, Uses::Once, 5).may_be(&key, Uses::Many));
        assert!(!Word::held(&key, Uses::Many, 5).may_be(&key, Uses::Once));
    }

    #[test]
    fn the_oldest_goes_first_and_empty_places_before_it() {
        let mut words = set([14, 13, 12, 11, 15, 16, 17, 18]);
        assert_eq!(place_for_new(&words), Some(3));
        assert_eq!(next_order(&words), 19);
        words[3] = Word::BUSY;
        assert_eq!(place_for_new(&words), Some(2));
        words[6] = Word::EMPTY;
        assert_eq!(place_for_new(&words), Some(6));
        assert_eq!(place_for_new(&[Word::BUSY; WAYS]), None);
        assert_eq!(next_order(&[Word::BUSY; WAYS]), 0);
    }

    #[test]
    fn the_order_goes_on_where_the_numbers_begin_anew() {
        let words = set([0, 1, 2, u32::MAX, u32::MAX - 1, 3, u32::MAX - 2, 4]);
        assert_eq!(place_for_new(&words), Some(6));
        assert_eq!(next_order(&words), 5);
        assert_eq!(next_order(&set([u32::MAX; WAYS])), 0);
    }
}
