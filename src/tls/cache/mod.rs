//! The session cache of the running server: lock-free, of fixed size, shared by all shards.
//!
//! A client that comes back may land on any shard, so this is the one thing on the hot path that all of them touch. It is
//! made of sets of eight places; the key of a session says which set it belongs to.
//!
//! ```text
//!             one cache line of words                      slots, 192 bytes each
//!   set 0   [ tag|order ][ EMPTY ][ BUSY ] ...  8        [ key, time, value ][          ][ key, ... ] ... 8
//!   set 1   [ ...                                        [ ...
//! ```
//!
//! A word says what is in the slot of the same number (`word`); whoever turns it from what it was into BUSY by one
//! compare-and-exchange owns the slot until it writes the next word (`slot`). That one step is why a session is never
//! handed out twice. Nobody waits: a place that is BUSY is passed over, as if its session were not there, and if all eight
//! are, a new session is not kept. A new session goes into an empty place, else into that of the oldest in its set, so
//! that a flood of new sessions pushes out old ones and never itself.
//!
//! *What clients can do with keys of their choice.* The keys of stored sessions are drawn by the server at random, so nobody
//! chooses the set that a session goes to, and no keyed hash is needed. The keys that are looked up come from the network:
//! they only find a session if all 32 bytes agree, and whatever else they find stays as it was. So only [`put`] pushes
//! sessions out, and each of those cost its client a handshake. Lookups of sessions for one use and of sessions for many
//! do not see each other's: a TLS 1.2 session id, which travels in the clear, cannot be spent as a TLS 1.3 ticket.
//!
//! *Memory.* [`BYTES_PER_SESSION`] for each session that the cache has room for, set aside at the start and never more, apart
//! from a few long sessions ([`LONG_SESSIONS_ONE_IN`]). It is taken as zero pages, which the system provides when they are
//! first written: a server that nobody visits stays small.
//!
//! Must not wait, allocate in proportion to anything, leave a forgotten session's bytes in memory, or trust a tag alone. The
//! copy that is handed out belongs to the TLS library, which frees it without wiping.
//!
//! *Checked* against an oracle, by threads, and by the model checker loom, which runs this same code through all
//! interleavings of a few threads (`model_tests`, with sets of two places, because eight are too many for it):
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --no-default-features --features tls --lib tls::cache::model
//! ```
//!
//! [`put`]: SessionStore::put
//! [`LONG_SESSIONS_ONE_IN`]: limits::TLS_LONG_SESSIONS_ONE_IN

#[cfg(test)]
#[cfg(loom)]
mod model_tests;
mod slot;
mod sync;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod word;

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use self::slot::{Claim, LongValue, Session, Slot};
use self::sync::{AtomicU64, AtomicUsize, Ordering, zeroed};
use self::word::{WAYS, Word};
use super::store::{SessionKey, SessionStore, Uses};
use crate::limits;
use crate::time::Now;

/// Bytes of memory for each session that the cache has room for: a word and a slot.
pub const BYTES_PER_SESSION: usize = size_of::<AtomicU64>() + size_of::<Slot>();

/// Sessions in sets of eight. See the [module](self).
pub struct SessionCache {
    sets: Box<[Set]>,
    /// Eight for each set.
    slots: Box<[Slot]>,
    lifetime_ms: u64,
    now_ms: AtomicU64,
    /// Sets that were looked through for expired sessions so far, since the start.
    sets_swept: AtomicUsize,
    long_sessions: AtomicUsize,
    long_sessions_max: usize,
}

/// The words of one set: one cache line, read at once.
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

impl SessionCache {
    /// A cache with room for `sessions_max` sessions, rounded up to a multiple of eight (0: none is kept), each good for
    /// `lifetime`, counted in whole milliseconds.
    ///
    /// # Errors
    ///
    /// If the system does not give that much memory.
    pub fn new(sessions_max: usize, lifetime: Duration) -> Result<Self, CacheTooLarge> {
        let set_count = sessions_max.div_ceil(WAYS);
        let too_large = CacheTooLarge { sessions: sessions_max };
        Ok(Self {
            sets: zeroed(set_count).ok_or(too_large)?,
            slots: set_count.checked_mul(WAYS).and_then(zeroed).ok_or(too_large)?,
            lifetime_ms: whole_ms(lifetime),
            now_ms: AtomicU64::new(0),
            sets_swept: AtomicUsize::new(0),
            long_sessions: AtomicUsize::new(0),
            long_sessions_max: (set_count * WAYS).div_ceil(limits::TLS_LONG_SESSIONS_ONE_IN),
        })
    }

    /// The set that a key belongs to. `None` if nothing is kept at all.
    fn set_of(&self, key: &SessionKey) -> Option<usize> {
        let [a, b, c, d, e, f, g, h, ..] = *key;
        // The high half of the product is spread evenly over any number of sets.
        let product = u128::from(u64::from_be_bytes([a, b, c, d, e, f, g, h])) * self.sets.len() as u128;
        let number = usize::try_from(product >> 64).expect("it is less than the number of sets");
        (number < self.sets.len()).then_some(number)
    }

    fn words(&self, set: usize) -> [Word; WAYS] {
        // Relaxed, because a word is only a hint until it has been claimed.
        std::array::from_fn(|way| Word::from_bits(self.sets[set].0[way].load(Ordering::Relaxed)))
    }

    fn claim(&self, set: usize, way: usize, seen: Word) -> Option<Claim<'_>> {
        Claim::new(&self.sets[set].0[way], &self.slots[set * WAYS + way], seen)
    }

    /// The place where a session is, claimed. Others with the same tag are put back as they were.
    fn find(&self, key: &SessionKey, uses: Uses) -> Option<Claim<'_>> {
        let set = self.set_of(key)?;
        let words = self.words(set).into_iter().enumerate();
        words.filter(|(_, word)| word.may_be(key, uses)).find_map(|(way, word)| {
            let mut claim = self.claim(set, way, word)?;
            claim.with(|session| session.is_named(key)).then_some(claim)
        })
    }

    /// A place for a new session, claimed, with whatever it holds, and the session's place in the order of its set.
    fn find_room(&self, set: usize) -> Option<(Claim<'_>, u32)> {
        // Each turn that fails means that somebody else got on with their work; after as many as there are places, the
        // session is given up rather than tried for ever.
        (0..WAYS).find_map(|_| {
            let words = self.words(set);
            let way = word::place_for_new(&words)?;
            Some((self.claim(set, way, words[way])?, word::next_order(&words)))
        })
    }

    /// Wipes a session and leaves its place empty.
    fn forget(&self, mut claim: Claim<'_>) {
        let long = claim.with(Session::wipe);
        claim.leave(Word::EMPTY);
        self.release(long);
    }

    fn is_expired(&self, session: &Session) -> bool {
        self.now_ms.load(Ordering::Relaxed).saturating_sub(session.stored_ms()) >= self.lifetime_ms
    }

    /// Memory for a value that does not fit a slot, if there may be one more of them.
    fn long_value(&self, value: &[u8]) -> Option<LongValue> {
        if self.long_sessions.fetch_add(1, Ordering::Relaxed) >= self.long_sessions_max {
            self.long_sessions.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(slot::long_value(value))
    }

    /// Gives back the memory of a value that did not fit a slot; it wipes itself.
    fn release(&self, long: Option<LongValue>) {
        if let Some(long) = long {
            drop(long);
            self.long_sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn store(
        &self,
        key: &SessionKey,
        value: &[u8],
        long: Option<LongValue>,
        uses: Uses,
    ) -> Result<(), Option<LongValue>> {
        let Some((mut claim, order)) = self.set_of(key).and_then(|set| self.find_room(set)) else { return Err(long) };
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let evicted = claim.with(|session| {
            let evicted = session.wipe();
            session.fill(key, now_ms, value, long);
            evicted
        });
        claim.leave(Word::held(key, uses, order));
        self.release(evicted);
        Ok(())
    }

    /// Forgets what is expired in the next `count` sets.
    fn sweep(&self, count: usize) {
        let first = self.sets_swept.fetch_add(count, Ordering::Relaxed);
        for set in (0..count).map(|offset| first.wrapping_add(offset) % self.sets.len()) {
            self.forget_in(set, |session| self.is_expired(session));
        }
    }

    fn forget_in(&self, set: usize, is_due: impl Fn(&Session) -> bool) {
        for (way, word) in self.words(set).into_iter().enumerate().filter(|(_, word)| word.is_held()) {
            let Some(mut claim) = self.claim(set, way, word) else { continue };
            if claim.with(|session| is_due(session)) {
                self.forget(claim);
            }
        }
    }
}

impl SessionStore for SessionCache {
    fn put(&self, key: SessionKey, value: Vec<u8>, uses: Uses) -> bool {
        let value = Zeroizing::new(value);
        if value.len() > limits::TLS_SESSION_BYTES_MAX || self.sets.is_empty() {
            return false;
        }
        // The TLS library never stores a key again, but a second session beside the first would be one too many.
        for uses in [Uses::Once, Uses::Many] {
            self.find(&key, uses).into_iter().for_each(|claim| self.forget(claim));
        }
        let mut long = None;
        if value.len() > slot::SHORT_BYTES {
            long = self.long_value(&value);
            if long.is_none() {
                return false;
            }
        }
        let kept = self.store(&key, &value, long, uses);
        kept.map_err(|long| self.release(long)).is_ok()
    }

    fn get(&self, key: &SessionKey) -> Option<Vec<u8>> {
        let mut claim = self.find(key, Uses::Many)?;
        let value = claim.with(|session| (!self.is_expired(session)).then(|| session.value().to_vec()));
        if value.is_none() {
            self.forget(claim);
        }
        value
    }

    fn take(&self, key: &SessionKey) -> Option<Vec<u8>> {
        let mut claim = self.find(key, Uses::Once)?;
        let value = claim.with(|session| (!self.is_expired(session)).then(|| session.value().to_vec()));
        self.forget(claim);
        value
    }

    fn tick(&self, now: Now) {
        // Several may tick: a late one must not turn the clock back.
        self.now_ms.fetch_max(whole_ms(now.monotonic), Ordering::Relaxed);
        self.sweep(self.sets.len().div_ceil(limits::TLS_SESSION_SWEEP_TICKS));
    }

    fn len(&self) -> usize {
        (0..self.sets.len()).map(|set| self.words(set).iter().filter(|word| word.is_held()).count()).sum()
    }

    fn keeps_sessions(&self) -> bool {
        !self.sets.is_empty()
    }
}

impl Drop for SessionCache {
    fn drop(&mut self) {
        for set in 0..self.sets.len() {
            self.forget_in(set, |_| true);
        }
    }
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache").field("room", &self.slots.len()).finish_non_exhaustive()
    }
}

/// There is no memory for so many sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTooLarge {
    /// How many were asked for.
    pub sessions: usize,
}

impl fmt::Display for CacheTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no memory for {} TLS sessions of {BYTES_PER_SESSION} bytes", self.sessions)
    }
}

impl std::error::Error for CacheTooLarge {}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const _: () = assert!(cfg!(all(test, loom)) || size_of::<Set>() == 64, "the words of a set are one cache line");
const _: () = assert!(cfg!(all(test, loom)) || size_of::<Slot>() == 192, "a slot is three cache lines");
