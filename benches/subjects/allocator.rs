//! An allocator whose cost for one request does not depend on those before it, for counting.
//!
//! The C library's looks through lists whose length every earlier request has changed, so that code far from a subject,
//! run before it, moves its count by up to a tenth. This one keeps what is given back by size, in powers of two. It must not
//! be used where memory matters: it never returns any to the system.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// Lists of free blocks by size.
pub struct BySize(Mutex<Lists>);

struct Lists {
    /// The first free block of each size; a free block begins with the address of the next.
    free: [*mut u8; SIZES],
    /// What was never used.
    fresh: *mut u8,
    fresh_bytes: usize,
}

// SAFETY: the blocks that the pointers lead to belong to the lists alone.
unsafe impl Send for Lists {}

impl BySize {
    /// Nothing is there yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Lists { free: [ptr::null_mut(); SIZES], fresh: ptr::null_mut(), fresh_bytes: 0 }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Lists) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which list a request belongs to; `None` if it is the system's.
fn list_of(layout: Layout) -> Option<usize> {
    let bytes = layout.size().next_power_of_two().max(LEAST_BYTES);
    (layout.align() <= LEAST_BYTES && bytes <= MOST_BYTES)
        .then(|| (bytes.trailing_zeros() - LEAST_BYTES.trailing_zeros()) as usize)
}

impl Lists {
    fn take(&mut self, list: usize) -> *mut u8 {
        let block = self.free[list];
        if block.is_null() {
            return self.cut(LEAST_BYTES << list);
        }
        // SAFETY: a block in a list is free, at least as large and as aligned as a pointer, and begins with one.
        self.free[list] = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    fn give(&mut self, list: usize, block: *mut u8) {
        // SAFETY: the block is the caller's no more, and at least as large and as aligned as a pointer.
        unsafe { block.cast::<*mut u8>().write(self.free[list]) };
        self.free[list] = block;
    }

    /// A block that was never used; null if there is no memory.
    fn cut(&mut self, bytes: usize) -> *mut u8 {
        if self.fresh_bytes < bytes {
            let Ok(layout) = Layout::from_size_align(MOST_BYTES, LEAST_BYTES) else { return ptr::null_mut() };
            // SAFETY: the layout has a size.
            self.fresh = unsafe { System.alloc(layout) };
            self.fresh_bytes = if self.fresh.is_null() { 0 } else { MOST_BYTES };
        }
        if self.fresh_bytes < bytes {
            return ptr::null_mut();
        }
        let block = self.fresh;
        self.fresh_bytes -= bytes;
        // SAFETY: so many bytes are left behind the block.
        self.fresh = unsafe { block.add(bytes) };
        block
    }
}

// SAFETY: a block is in one list or with one owner; blocks are multiples of their alignment apart; the system's go back to it.
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match list_of(layout) {
            Some(list) => self.with(|lists| lists.take(list)),
            // SAFETY: the caller keeps the contract of `alloc`.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match list_of(layout) {
            Some(list) => self.with(|lists| lists.give(list, pointer)),
            // SAFETY: the caller keeps the contract of `dealloc`, and the system's blocks are told by their layout.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }
}

/// The smallest block, and the alignment of all.
const LEAST_BYTES: usize = 16;
/// The largest block, and what is asked of the system at once.
const MOST_BYTES: usize = 1 << 20;
/// One list for each power of two between the two.
const SIZES: usize = (MOST_BYTES.trailing_zeros() - LEAST_BYTES.trailing_zeros()) as usize + 1;
