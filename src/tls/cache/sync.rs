//! What the cache is built of: atomics, cells and zeroed memory, in the model checker's form when that runs.
//!
//! Nothing else in the cache may name `std::sync::atomic`, `std::cell` or loom, so that what is checked is what runs.

#[cfg(all(test, loom))]
pub(super) use loom::cell::UnsafeCell;
#[cfg(all(test, loom))]
pub(super) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(not(all(test, loom)))]
pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[cfg(not(all(test, loom)))]
pub(super) use self::real::{UnsafeCell, Zeroed, zeroed};

#[cfg(all(test, loom))]
pub(super) use self::checked::{Zeroed, zeroed};

#[cfg(not(all(test, loom)))]
mod real {
    use std::alloc::{Layout, alloc_zeroed};
    use std::ptr::slice_from_raw_parts_mut;

    /// A cell with the model checker's interface.
    #[repr(transparent)]
    pub(in crate::tls::cache) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(in crate::tls::cache) fn with_mut<R>(&self, work: impl FnOnce(*mut T) -> R) -> R {
            work(self.0.get())
        }
    }

    /// Types that may begin as memory full of zeroes.
    ///
    /// # Safety
    ///
    /// All zeroes must be a valid value of the type.
    pub(in crate::tls::cache) unsafe trait Zeroed {}

    /// `count` values of zeroes. `None` if there is no memory for them.
    ///
    /// The allocator gets large memory from the system as it is, that is, as zeroes, and need not write them: no page is
    /// taken up before it is used.
    pub(in crate::tls::cache) fn zeroed<T: Zeroed>(count: usize) -> Option<Box<[T]>> {
        let layout = Layout::array::<T>(count).ok()?;
        if layout.size() == 0 {
            return Some(Box::new([]));
        }
        // SAFETY: the layout has a size, see above.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            return None;
        }
        let values = slice_from_raw_parts_mut(memory.cast::<T>(), count);
        // SAFETY: the memory was allocated just now by the global allocator, with the layout of these values, and belongs to
        // nobody else; its zeroes are valid values, which the implementor of `Zeroed` vouches for.
        Some(unsafe { Box::from_raw(values) })
    }
}

#[cfg(all(test, loom))]
mod checked {
    /// Types that may begin as zeroes; the model checker's atomics have to be made one by one.
    pub(in crate::tls::cache) trait Zeroed {
        fn zeroed() -> Self;
    }

    pub(in crate::tls::cache) fn zeroed<T: Zeroed>(count: usize) -> Option<Box<[T]>> {
        Some((0..count).map(|_| T::zeroed()).collect())
    }
}
