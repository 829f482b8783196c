//! Values by number, in memory that grows by pieces.
//!
//! A `Vec` that doubles would hold up to twice what is needed, and copy a million values while every client waits. It
//! must not move a value once it has its number.

/// Values, each with a number for as long as it stays.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pieces: Vec<Box<[Slot<T>]>>,
    /// The slot that is filled next, if one is free.
    free: u32,
    len: usize,
}

#[derive(Debug)]
enum Slot<T> {
    /// With the number of the next free one.
    Free(u32),
    Used(T),
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { pieces: Vec::new(), free: NONE, len: 0 }
    }

    /// How many values there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let number = self.free;
        let slot = self.slot(number);
        let Slot::Free(next) = std::mem::replace(slot, Slot::Used(value)) else {
            unreachable!("what is listed as free is free");
        };
        self.free = next;
        self.len += 1;
        number
    }

    /// Takes out the value of this number, which must be in use.
    pub(crate) fn remove(&mut self, number: u32) -> T {
        let free = self.free;
        let Slot::Used(value) = std::mem::replace(self.slot(number), Slot::Free(free)) else {
            unreachable!("only what is there is removed");
        };
        self.free = number;
        self.len -= 1;
        value
    }

    /// The values, in order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten().filter_map(|slot| match slot {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        })
    }

    fn slot(&mut self, number: u32) -> &mut Slot<T> {
        &mut self.pieces[number as usize / PIECE][number as usize % PIECE]
    }

    fn grow(&mut self) {
        let first = u32::try_from(self.pieces.len() * PIECE).expect("fewer than four thousand million values");
        let last = first + (PIECE as u32 - 1);
        let slots = (first..=last).map(|number| Slot::Free(if number == last { NONE } else { number + 1 }));
        self.pieces.push(slots.collect());
        self.free = first;
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        match &self.pieces[number as usize / PIECE][number as usize % PIECE] {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("only what is there is asked for"),
        }
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        match self.slot(number) {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("only what is there is asked for"),
        }
    }
}

/// The number of nothing.
pub(crate) const NONE: u32 = u32::MAX;

/// Values in one piece of memory: some 100 KiB.
const PIECE: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::{PIECE, Slab};

    #[test]
    fn a_value_keeps_its_number_and_a_number_is_used_again() {
        let mut slab = Slab::new();
        let numbers: Vec<u32> = (0..PIECE * 2 + 1).map(|value| slab.insert(value)).collect();
        assert_eq!((slab.len(), slab.pieces.len()), (PIECE * 2 + 1, 3));
        assert_eq!(slab.remove(numbers[7]), 7);
        assert_eq!(slab.insert(70), numbers[7]);
        slab[numbers[8]] = 80;
        assert_eq!(slab.iter().take(9).copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 70, 80]);
        assert_eq!((slab[numbers[7]], slab[numbers[8]], slab[numbers[9]]), (70, 80, 9));
        for number in numbers {
            slab.remove(number);
        }
        assert_eq!((slab.len(), slab.iter().next()), (0, None));
        for value in 0..PIECE * 3 {
            slab.insert(value);
        }
        assert_eq!(slab.pieces.len(), 3);
    }
}
