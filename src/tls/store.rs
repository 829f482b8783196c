//! The sessions that a server keeps so that clients can resume them.
//!
//! [`SessionStore`] is the whole interface: whatever implements it can take the place of [`ShardedStore`]. All executors
//! of a process share one store, because a client that comes back may land on any of them.
//!
//! A store may forget at will, but it must never hand the same session out twice through `take`, never do work that
//! grows with the number of sessions, and never leave a forgotten session's secrets in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use crate::limits;
use crate::time::Now;

/// Bytes of a key: the TLS library draws TLS 1.3 ticket names and TLS 1.2 session ids (RFC 5246 §7.4.1.2) of this length.
pub const KEY_BYTES: usize = 32;

/// The name of a session, drawn at random by the TLS library.
pub type SessionKey = [u8; KEY_BYTES];

/// Where a server keeps sessions for resumption.
///
/// Keys that are stored are random. Keys that are looked up come from the network; those of another length than
/// [`KEY_BYTES`] never get here.
pub trait SessionStore: fmt::Debug + Send + Sync {
    /// Keeps `value` under `key`. Says whether it was kept.
    fn put(&self, key: SessionKey, value: Vec<u8>) -> bool;

    /// A copy of the session, which stays (TLS 1.2 session ids may be used again).
    fn get(&self, key: &SessionKey) -> Option<Vec<u8>>;

    /// The session, which is gone afterwards: of two callers at the same time one gets it (TLS 1.3 tickets are used once,
    /// RFC 8446 §8.1).
    fn take(&self, key: &SessionKey) -> Option<Vec<u8>>;

    /// Tells the time. The owner calls it about once a second; sessions expire by it.
    fn tick(&self, now: Now);

    /// How many sessions are held, expired ones included until they are met.
    fn len(&self) -> usize;

    /// Whether nothing is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether anything can be kept at all; if not, clients are not told that they could resume.
    fn keeps_sessions(&self) -> bool;
}

/// A [`SessionStore`] in the shape that the TLS library asks for.
#[derive(Debug)]
pub(super) struct Adapter(pub(super) Arc<dyn SessionStore>);

impl StoresServerSessions for Adapter {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        match SessionKey::try_from(key) {
            Ok(key) => self.0.put(key, value),
            Err(_) => false,
        }
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key.try_into().ok()?)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key.try_into().ok()?)
    }

    fn can_cache(&self) -> bool {
        self.0.keeps_sessions()
    }
}

/// Sessions in rings of fixed size with a lock each. A new session takes the place of the oldest of its ring, so a flood
/// of new sessions never keeps the newest ones out.
pub struct ShardedStore {
    shards: Box<[Mutex<Shard>]>,
    lifetime_s: u64,
    now_s: AtomicU64,
    sessions: AtomicUsize,
}

impl ShardedStore {
    /// A store for at most `sessions_max` sessions (0: none is kept), each good for `lifetime`, counted in whole seconds.
    /// Memory grows with the sessions that are there.
    pub fn new(sessions_max: usize, lifetime: Duration) -> Self {
        let shards = limits::TLS_SESSION_SHARDS.min(sessions_max);
        let ring_entries = sessions_max.checked_div(shards).unwrap_or_default();
        Self {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(ring_entries))).collect(),
            lifetime_s: lifetime.as_secs(),
            now_s: AtomicU64::new(0),
            sessions: AtomicUsize::new(0),
        }
    }

    /// The ring of a key. `None` if nothing is kept at all.
    fn shard(&self, key: &SessionKey) -> Option<MutexGuard<'_, Shard>> {
        let number = usize::from(u16::from_be_bytes([key[0], key[1]])).checked_rem(self.shards.len())?;
        // A panic elsewhere cannot leave a ring half changed in a way that matters: at worst a session is forgotten.
        Some(self.shards[number].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a session that was stored at `stored_s` is too old now.
    fn is_expired(&self, stored_s: u64) -> bool {
        self.now_s.load(Ordering::Relaxed).saturating_sub(stored_s) >= self.lifetime_s
    }
}

impl SessionStore for ShardedStore {
    fn put(&self, key: SessionKey, value: Vec<u8>) -> bool {
        let value = Zeroizing::new(value);
        if value.len() > limits::TLS_SESSION_BYTES_MAX {
            return false;
        }
        let Some(mut shard) = self.shard(&key) else { return false };
        let entry = Entry { key, value, stored_s: self.now_s.load(Ordering::Relaxed) };
        let forgotten = shard.push(entry);
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.sessions.fetch_sub(forgotten, Ordering::Relaxed);
        true
    }

    fn get(&self, key: &SessionKey) -> Option<Vec<u8>> {
        let mut shard = self.shard(key)?;
        let entry = shard.find(key)?;
        if !self.is_expired(entry.stored_s) {
            return Some(entry.value.to_vec());
        }
        shard.remove(key)?;
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn take(&self, key: &SessionKey) -> Option<Vec<u8>> {
        let mut entry = self.shard(key)?.remove(key)?;
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        if self.is_expired(entry.stored_s) {
            return None;
        }
        Some(std::mem::take(&mut *entry.value))
    }

    fn tick(&self, now: Now) {
        // Executors tick independently: a late one must not turn the clock back.
        self.now_s.fetch_max(now.monotonic.as_secs(), Ordering::Relaxed);
    }

    fn len(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    fn keeps_sessions(&self) -> bool {
        !self.shards.is_empty()
    }
}

impl fmt::Debug for ShardedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardedStore").field("sessions", &self.len()).finish_non_exhaustive()
    }
}

/// One session. Its value is overwritten with zeroes when it is dropped.
struct Entry {
    key: SessionKey,
    value: Zeroizing<Vec<u8>>,
    stored_s: u64,
}

/// A ring of sessions in the order in which they came, and where each of them is.
///
/// ```text
///   ring   [ D ][ E ][   ][ C ]        index  C -> 3, D -> 0, E -> 1
///                     ^ next           the hole is a session that was taken
/// ```
struct Shard {
    ring: Vec<Option<Entry>>,
    ring_entries_max: usize,
    next: usize,
    index: HashMap<SessionKey, usize>,
}

impl Shard {
    fn new(ring_entries_max: usize) -> Self {
        Self { ring: Vec::new(), ring_entries_max, next: 0, index: HashMap::new() }
    }

    /// Adds a session in the place of the oldest. Returns how many sessions were forgotten for it: the oldest, and one of
    /// the same key.
    fn push(&mut self, entry: Entry) -> usize {
        let replaced = self.remove(&entry.key).is_some();
        let place = self.next;
        self.next = (place + 1) % self.ring_entries_max;
        self.index.insert(entry.key, place);
        if place == self.ring.len() {
            self.ring.push(Some(entry));
            return usize::from(replaced);
        }
        let oldest = self.ring[place].replace(entry);
        if let Some(oldest) = &oldest {
            self.index.remove(&oldest.key);
        }
        usize::from(replaced) + usize::from(oldest.is_some())
    }

    fn find(&self, key: &SessionKey) -> Option<&Entry> {
        let entry = self.ring[*self.index.get(key)?].as_ref()?;
        assert!(entry.key == *key, "the index leads to another session");
        Some(entry)
    }

    fn remove(&mut self, key: &SessionKey) -> Option<Entry> {
        let place = self.index.remove(key)?;
        let entry = self.ring[place].take()?;
        assert!(entry.key == *key, "the index leads to another session");
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn store(sessions_max: usize) -> ShardedStore {
        ShardedStore::new(sessions_max, limits::TLS_SESSION_LIFETIME)
    }

    /// A key like the TLS library's: all bits look random, and differ for different numbers.
    fn key(number: u64) -> SessionKey {
        let mut key = [0; KEY_BYTES];
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        key[..8].copy_from_slice(&mixed.to_be_bytes());
        key[8..16].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn a_session_can_be_read_often_and_taken_once() {
        let store = store(100);
        assert!(store.put(key(1), b"secret".to_vec()));
        assert_eq!(store.get(&key(1)).as_deref(), Some(&b"secret"[..]));
        assert_eq!(store.get(&key(1)).as_deref(), Some(&b"secret"[..]));
        assert_eq!(store.take(&key(1)).as_deref(), Some(&b"secret"[..]));
        assert_eq!(store.take(&key(1)), None);
        assert_eq!(store.get(&key(1)), None);
        assert!(store.is_empty());
    }

    #[test]
    fn the_bound_holds_and_half_of_it_in_newest_sessions_survives_a_flood() {
        let store = store(6_400);
        for number in 0..100_000 {
            assert!(store.put(key(number), number.to_be_bytes().to_vec()));
            assert!(store.len() <= 6_400);
        }
        for number in 100_000 - 3_200..100_000 {
            assert_eq!(store.take(&key(number)), Some(number.to_be_bytes().to_vec()), "{number}");
        }
    }

    #[test]
    fn a_session_that_was_pushed_out_is_not_found_and_never_another_in_its_place() {
        let store = store(100);
        for number in 0..1_000 {
            store.put(key(number), number.to_be_bytes().to_vec());
            if number % 3 == 0 {
                store.take(&key(number / 2));
            }
        }
        for shard in &store.shards {
            let shard = shard.lock().unwrap();
            assert_eq!(shard.index.len(), shard.ring.iter().flatten().count());
        }
        let mut found = 0;
        for number in 0..1_000 {
            let Some(value) = store.take(&key(number)) else { continue };
            assert_eq!(value, number.to_be_bytes());
            found += 1;
        }
        assert!((1..=100).contains(&found), "{found}");
        assert!(store.is_empty());
    }

    #[test]
    fn a_session_expires_at_the_end_of_its_lifetime_and_not_before() {
        let store = store(100);
        store.tick(Now::simulated_ms(5_000));
        store.put(key(1), vec![1]);
        store.put(key(2), vec![2]);
        store.tick(Now::simulated_ms(5_000 + DAY_MS - 1_000));
        assert!(store.get(&key(1)).is_some());
        store.tick(Now::simulated_ms(5_000 + DAY_MS));
        assert_eq!(store.get(&key(1)), None);
        assert_eq!(store.take(&key(2)), None);
        assert!(store.is_empty());
    }

    #[test]
    fn a_late_tick_does_not_turn_the_clock_back() {
        let store = store(100);
        store.put(key(1), vec![1]);
        store.tick(Now::simulated_ms(DAY_MS));
        store.tick(Now::simulated_ms(1_000));
        assert_eq!(store.take(&key(1)), None);
    }

    #[test]
    fn a_second_session_of_the_same_key_replaces_the_first() {
        let store = store(100);
        store.put(key(1), vec![1]);
        store.put(key(1), vec![2]);
        assert_eq!(store.len(), 1);
        assert_eq!(store.take(&key(1)), Some(vec![2]));
        assert_eq!(store.take(&key(1)), None);
    }

    #[test]
    fn a_store_for_one_session_keeps_the_newest_also_under_the_same_key() {
        let store = store(1);
        for number in [1, 2, 2, 3, 3] {
            store.put(key(number), vec![1]);
            assert_eq!(store.len(), 1);
            assert!(store.get(&key(number)).is_some());
        }
    }

    #[test]
    fn a_store_for_none_keeps_none_and_says_so() {
        let store = store(0);
        assert!(!store.keeps_sessions());
        assert!(!store.put(key(1), vec![1]));
        assert_eq!(store.get(&key(1)), None);
        assert_eq!(store.take(&key(1)), None);
    }

    #[test]
    fn an_oversized_session_is_not_kept() {
        let store = store(100);
        assert!(!store.put(key(1), vec![0; limits::TLS_SESSION_BYTES_MAX + 1]));
        assert!(store.is_empty());
    }

    #[test]
    fn keys_of_another_length_from_the_network_find_nothing() {
        let adapter = Adapter(Arc::new(store(100)));
        assert!(adapter.put(key(1).to_vec(), vec![1]));
        for length in [0, 1, KEY_BYTES - 1, KEY_BYTES + 1, 60_000] {
            assert_eq!(adapter.get(&vec![7; length]), None);
            assert_eq!(adapter.take(&vec![7; length]), None);
            assert!(!adapter.put(vec![7; length], vec![1]));
        }
        assert_eq!(adapter.take(&key(1)), Some(vec![1]));
    }

    #[test]
    fn of_two_threads_that_take_the_same_session_exactly_one_gets_it() {
        const ROUNDS: u64 = 2_000;
        let store = store(1_000);
        let start = Barrier::new(2);
        let takes = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for number in 0..2 {
                let (store, start, takes) = (&store, &start, &takes);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        if number == 0 {
                            store.put(key(round), vec![1]);
                        }
                        start.wait();
                        takes.fetch_add(usize::from(store.take(&key(round)).is_some()), Ordering::Relaxed);
                        start.wait();
                    }
                });
            }
        });
        assert_eq!(takes.into_inner(), usize::try_from(ROUNDS).unwrap());
    }
}
