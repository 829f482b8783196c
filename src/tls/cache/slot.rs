//! The slot of a place, and the claim without which nobody gets at it.
//!
//! The protocol that makes this sound, in three sentences. A slot is only ever touched through a [`Claim`]. A claim comes into
//! being by one compare-and-exchange of the place's word from what it was, which is never BUSY, to BUSY, so there is at
//! most one for a place. It ends by storing another word, and the next claim's exchange, which reads that word, then sees
//! all that was written to the slot before (release and acquire).
//!
//! Must not decide what becomes of a session.

use zeroize::{Zeroize, Zeroizing};

use super::sync::{AtomicU64, Ordering, UnsafeCell, Zeroed};
use super::word::Word;
use crate::limits;
use crate::tls::store::SessionKey;

/// Longest value that a slot holds by itself, in bytes: what makes a slot three cache lines. A session without a client
/// certificate has 56 bytes (72 with TLS 1.2), 5 for ALPN, the name that the client asked for, and what the server binds
/// to it.
pub(super) const SHORT_BYTES: usize = 136;

/// A value that does not fit a slot. Wipes itself.
pub(super) type LongValue = Box<Zeroizing<[u8; limits::TLS_SESSION_BYTES_MAX]>>;

/// Copies a value to memory of its own.
pub(super) fn long_value(value: &[u8]) -> LongValue {
    let mut long = Box::new(Zeroizing::new([0; limits::TLS_SESSION_BYTES_MAX]));
    long[..value.len()].copy_from_slice(value);
    long
}

/// A session, or all zeroes.
#[repr(C)]
pub(super) struct Session {
    key: SessionKey,
    stored_ms: u64,
    value_bytes: usize,
    long: Option<LongValue>,
    short: [u8; SHORT_BYTES],
}

impl Session {
    /// When the session was stored, in milliseconds of the cache's clock.
    pub(super) fn stored_ms(&self) -> u64 {
        self.stored_ms
    }

    pub(super) fn is_named(&self, key: &SessionKey) -> bool {
        self.key == *key
    }

    pub(super) fn value(&self) -> &[u8] {
        match &self.long {
            Some(long) => &long[..self.value_bytes],
            None => &self.short[..self.value_bytes],
        }
    }

    /// Puts a session into a slot that holds nothing. A value longer than [`SHORT_BYTES`] comes in `long` too.
    pub(super) fn fill(&mut self, key: &SessionKey, stored_ms: u64, value: &[u8], long: Option<LongValue>) {
        assert!(self.long.is_none() && self.value_bytes == 0, "the slot still holds another session");
        self.key = *key;
        self.stored_ms = stored_ms;
        self.value_bytes = value.len();
        if long.is_none() {
            self.short[..value.len()].copy_from_slice(value);
        }
        self.long = long;
    }

    /// Overwrites everything with zeroes. Returns what is not in the slot itself, to be dropped after the claim has ended.
    pub(super) fn wipe(&mut self) -> Option<LongValue> {
        self.key.zeroize();
        self.stored_ms = 0;
        self.value_bytes = 0;
        self.short.zeroize();
        self.long.take()
    }

    #[cfg(test)]
    pub(super) fn is_wiped(&self) -> bool {
        let numbers_gone = self.stored_ms == 0 && self.value_bytes == 0;
        numbers_gone && self.long.is_none() && self.key == SessionKey::default() && self.short == [0; SHORT_BYTES]
    }
}

/// The memory of one session.
#[repr(align(64))]
pub(super) struct Slot(UnsafeCell<Session>);

// SAFETY: the session inside is reached only through a `Claim`, and there is at most one `Claim` of a slot at any time
// (see the module); what it holds is plain bytes and a box, which may be used and freed by any thread.
unsafe impl Sync for Slot {}

// SAFETY: all zeroes are a valid slot: the cell has the layout of a `Session`, whose fields are integers and arrays of
// bytes, and an `Option` of a box of a sized type, for which the language promises that zeroes are `None`.
#[cfg(not(all(test, loom)))]
unsafe impl Zeroed for Slot {}

#[cfg(all(test, loom))]
impl Zeroed for Slot {
    fn zeroed() -> Self {
        let (key, short) = (SessionKey::default(), [0; SHORT_BYTES]);
        Self(UnsafeCell::new(Session { key, stored_ms: 0, value_bytes: 0, long: None, short }))
    }
}

// SAFETY: the set is an array of atomic integers, for which zeroes are the number zero, that is, EMPTY.
#[cfg(not(all(test, loom)))]
unsafe impl Zeroed for super::Set {}

#[cfg(all(test, loom))]
impl Zeroed for super::Set {
    fn zeroed() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The sole right to a slot. When it is dropped, the place becomes what [`leave`](Self::leave) said, or else what it was.
pub(super) struct Claim<'a> {
    place: &'a AtomicU64,
    slot: &'a Slot,
    after: Word,
}

impl<'a> Claim<'a> {
    /// Claims a place whose word was seen to be `seen`. `None` if it has changed since, or is busy.
    pub(super) fn new(place: &'a AtomicU64, slot: &'a Slot, seen: Word) -> Option<Self> {
        assert!(seen != Word::BUSY, "a busy place belongs to somebody");
        place.compare_exchange(seen.bits(), Word::BUSY.bits(), Ordering::Acquire, Ordering::Relaxed).ok()?;
        // Made only now: dropping a claim ends it, also one that never was.
        Some(Self { place, slot, after: seen })
    }

    /// Works on the session.
    pub(super) fn with<R>(&mut self, work: impl FnOnce(&mut Session) -> R) -> R {
        self.slot.0.with_mut(|session| {
            // SAFETY: the pointer comes from the cell of a slot that is alive as long as `self`. No other reference exists:
            // others need a claim, and this is the only one (kept by `new`); within it, `&mut self` lets in one at a time.
            work(unsafe { &mut *session })
        })
    }

    /// Ends the claim and says what the place is from now on.
    pub(super) fn leave(mut self, word: Word) {
        self.after = word;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Release: whoever claims the place next sees all that was done to the slot.
        self.place.store(self.after.bits(), Ordering::Release);
    }
}
