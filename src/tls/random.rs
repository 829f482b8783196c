//! Random bytes for handshakes, drawn from the kernel a few hundred at a time.
//!
//! A handshake wants them five times, 32 and fewer at once: the hello's, the ticket's name, its age's mask, its nonce. A
//! system call for each costs more than the bytes. They are the kernel's all the same, each is handed out once, and what was
//! handed out is wiped. (Ephemeral keys draw theirs from the kernel by themselves.)
//!
//! Must not make random bytes of its own.

use std::cell::RefCell;

use rustls::crypto::{GetRandomFailed, SecureRandom};
use zeroize::Zeroize;

/// The kernel's random bytes, by way of `source`, with some in store for each thread.
#[derive(Debug)]
pub(super) struct StoredRandom {
    source: &'static dyn SecureRandom,
}

/// What is left of the last draw: the end of `bytes`.
struct Store {
    bytes: [u8; STORE_BYTES],
    left: usize,
}

impl StoredRandom {
    pub(super) const fn new(source: &'static dyn SecureRandom) -> Self {
        Self { source }
    }
}

impl SecureRandom for StoredRandom {
    fn fill(&self, wanted: &mut [u8]) -> Result<(), GetRandomFailed> {
        if wanted.len() > STORE_BYTES {
            return self.source.fill(wanted);
        }
        STORE.with_borrow_mut(|store| store.fill(wanted, self.source))
    }
}

impl Store {
    fn fill(&mut self, wanted: &mut [u8], source: &dyn SecureRandom) -> Result<(), GetRandomFailed> {
        if self.left < wanted.len() {
            // A draw that fails may have left anything.
            self.left = 0;
            source.fill(&mut self.bytes)?;
            self.left = STORE_BYTES;
        }
        let from = STORE_BYTES - self.left;
        let taken = &mut self.bytes[from..from + wanted.len()];
        wanted.copy_from_slice(taken);
        taken.zeroize();
        self.left -= wanted.len();
        Ok(())
    }
}

thread_local! {
    static STORE: RefCell<Store> = const { RefCell::new(Store { bytes: [0; STORE_BYTES], left: 0 }) };
}

/// Enough for two handshakes and a half. The kernel hands out up to 256 bytes without being interrupted (getrandom(2)).
const STORE_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use super::*;

    /// Counts: every draw is of another byte, from 1 on.
    #[derive(Debug, Default)]
    struct Counting {
        draws: AtomicU8,
        fails_from: AtomicUsize,
    }

    impl SecureRandom for Counting {
        fn fill(&self, wanted: &mut [u8]) -> Result<(), GetRandomFailed> {
            let draw = self.draws.fetch_add(1, Ordering::Relaxed) + 1;
            wanted.fill(draw);
            let fails_from = self.fails_from.load(Ordering::Relaxed);
            if fails_from > 0 && usize::from(draw) >= fails_from { Err(GetRandomFailed) } else { Ok(()) }
        }
    }

    fn store() -> Store {
        Store { bytes: [0; STORE_BYTES], left: 0 }
    }

    #[test]
    fn bytes_come_from_the_source_once_each_and_are_wiped() {
        let (mut store, source) = (store(), Counting::default());
        let mut wanted = [0; 96];
        for draw in [1, 1, 2] {
            store.fill(&mut wanted, &source).unwrap();
            assert_eq!(wanted, [draw; 96], "the third time too few are left");
        }
        assert!(store.bytes[..96].iter().all(|byte| *byte == 0), "what was handed out is gone");
        assert!(store.bytes[96..].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn all_bytes_of_a_draw_are_used_and_none_twice() {
        struct Numbered;
        impl std::fmt::Debug for Numbered {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("Numbered")
            }
        }
        impl SecureRandom for Numbered {
            fn fill(&self, wanted: &mut [u8]) -> Result<(), GetRandomFailed> {
                (0..=255).zip(wanted).for_each(|(number, byte)| *byte = number);
                Ok(())
            }
        }
        let mut store = store();
        let mut seen = Vec::new();
        for _ in 0..STORE_BYTES / 32 {
            let mut wanted = [0; 32];
            store.fill(&mut wanted, &Numbered).unwrap();
            seen.extend_from_slice(&wanted);
        }
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(store.left, 0);
    }

    #[test]
    fn a_draw_that_fails_is_told_and_leaves_nothing_to_hand_out() {
        let (mut store, source) = (store(), Counting::default());
        source.fails_from.store(1, Ordering::Relaxed);
        assert!(store.fill(&mut [0; 32], &source).is_err());
        assert_eq!(store.left, 0);
        source.fails_from.store(0, Ordering::Relaxed);
        assert!(store.fill(&mut [0; 32], &source).is_ok());
    }

    #[test]
    fn more_than_the_store_comes_straight_from_the_source() {
        static SOURCE: Counting = Counting { draws: AtomicU8::new(0), fails_from: AtomicUsize::new(0) };
        let mut wanted = [0; STORE_BYTES + 1];
        StoredRandom::new(&SOURCE).fill(&mut wanted).unwrap();
        assert_eq!(wanted, [1; STORE_BYTES + 1]);
        let mut small = [0; 32];
        StoredRandom::new(&SOURCE).fill(&mut small).unwrap();
        assert_eq!(small, [2; 32]);
    }
}
