//! The cache on its own: what it promises, an oracle, and threads that do their worst.

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

use super::*;

const DAY_MS: u64 = 86_400_000;

fn cache(sessions_max: usize) -> SessionCache {
    SessionCache::new(sessions_max, limits::TLS_SESSION_LIFETIME).unwrap()
}

/// A key like the TLS library's: all bits look random, and differ for different numbers.
fn key(number: u64) -> SessionKey {
    let mut random = Random(number);
    let mut key = [0; 32];
    key.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_be_bytes()));
    key
}

/// SplitMix64: enough for tests, and the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// Every place is wiped, or holds a session. Returns how many do.
fn assert_wiped(cache: &SessionCache) -> usize {
    let mut held = 0;
    for set in 0..cache.sets.len() {
        for (way, word) in cache.words(set).into_iter().enumerate() {
            let is_wiped = cache.claim(set, way, word).unwrap().with(|session| session.is_wiped());
            assert_eq!(is_wiped, word == Word::EMPTY, "set {set}, way {way}");
            held += usize::from(word.is_held());
        }
    }
    held
}

#[test]
fn a_session_for_many_uses_can_be_read_often_and_never_taken() {
    let cache = cache(100);
    assert!(cache.put(key(1), b"secret".to_vec(), Uses::Many));
    for _ in 0..3 {
        assert_eq!(cache.take(&key(1)), None);
        assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"secret"[..]));
    }
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_session_for_one_use_can_be_taken_once_and_never_read() {
    let cache = cache(100);
    assert!(cache.put(key(1), b"secret".to_vec(), Uses::Once));
    assert_eq!(cache.get(&key(1)), None);
    assert_eq!(cache.take(&key(1)).as_deref(), Some(&b"secret"[..]));
    assert_eq!(cache.take(&key(1)), None);
    assert!(cache.is_empty());
}

#[test]
fn the_bound_holds_and_nearly_all_of_half_of_it_in_newest_sessions_survives_a_flood() {
    let cache = cache(6_400);
    for number in 0..100_000 {
        assert!(cache.put(key(number), number.to_be_bytes().to_vec(), Uses::Once));
    }
    assert!((6_300..=6_400).contains(&cache.len()), "{}", cache.len());
    let newest = 100_000 - 3_200..100_000;
    let found = newest.filter(|number| cache.take(&key(*number)) == Some(number.to_be_bytes().to_vec())).count();
    // A set gets four of them on average; only where it gets more than eight is one pushed out.
    assert!(found > 3_200 * 98 / 100, "{found}");
    assert_eq!(assert_wiped(&cache), cache.len());
}

#[test]
fn a_set_keeps_its_newest_sessions_to_the_last() {
    let cache = cache(8);
    for number in 0..1_000 {
        assert!(cache.put(key(number), vec![1], Uses::Many));
        for kept in number.saturating_sub(7)..=number {
            assert!(cache.get(&key(kept)).is_some(), "{kept} after {number}");
        }
        assert_eq!(cache.get(&key(number.wrapping_sub(8))), None);
    }
}

#[test]
fn lookups_push_nothing_out_whatever_their_keys() {
    let cache = cache(64);
    let mut keys: Vec<SessionKey> = (0..64).map(key).collect();
    keys.retain(|key| cache.put(*key, vec![1; 100], if key[31] & 1 == 0 { Uses::Once } else { Uses::Many }));
    let words = |cache: &SessionCache| (0..8).map(|set| cache.words(set)).collect::<Vec<_>>();
    let before = words(&cache);
    for key in keys {
        // All that differs is outside of what chooses the set and the tag.
        for byte in 16..32 {
            let mut crafted = key;
            crafted[byte] ^= 1;
            assert_eq!(cache.take(&crafted), None);
            assert_eq!(cache.get(&crafted), None);
        }
    }
    for number in 1_000..50_000 {
        assert_eq!(cache.take(&key(number)), None);
        assert_eq!(cache.get(&key(number)), None);
    }
    assert_eq!(words(&cache), before);
}

#[test]
fn a_session_expires_at_the_end_of_its_lifetime_and_not_before() {
    let cache = cache(800);
    cache.tick(Now::simulated_ms(5_000));
    cache.put(key(1), vec![1], Uses::Many);
    cache.put(key(2), vec![2], Uses::Once);
    cache.put(key(3), vec![3], Uses::Once);
    cache.tick(Now::simulated_ms(5_000 + DAY_MS - 1));
    assert!(cache.get(&key(1)).is_some());
    assert!(cache.take(&key(3)).is_some());
    cache.tick(Now::simulated_ms(5_000 + DAY_MS));
    assert_eq!(cache.get(&key(1)), None);
    assert_eq!(cache.take(&key(2)), None);
    assert!(cache.is_empty());
    assert_eq!(assert_wiped(&cache), 0);
}

#[test]
fn expired_sessions_that_nobody_asks_for_are_wiped_within_ten_minutes() {
    let cache = cache(20_000);
    (0..20_000).for_each(|number| assert!(cache.put(key(number), vec![1], Uses::Once)));
    let seconds = u64::try_from(limits::TLS_SESSION_SWEEP_TICKS).unwrap();
    for second in 0..seconds {
        cache.tick(Now::simulated_ms(DAY_MS + second * 1_000));
    }
    assert!(cache.is_empty());
    assert_eq!(assert_wiped(&cache), 0);
}

#[test]
fn a_late_tick_does_not_turn_the_clock_back() {
    let cache = cache(100);
    cache.put(key(1), vec![1], Uses::Once);
    cache.tick(Now::simulated_ms(DAY_MS));
    cache.tick(Now::simulated_ms(1_000));
    assert_eq!(cache.take(&key(1)), None);
}

#[test]
fn a_second_session_of_the_same_key_replaces_the_first() {
    let cache = cache(100);
    for (value, uses) in [(1, Uses::Once), (2, Uses::Many), (3, Uses::Many), (4, Uses::Once)] {
        assert!(cache.put(key(1), vec![value], uses));
        assert_eq!(cache.len(), 1);
    }
    assert_eq!(cache.take(&key(1)), Some(vec![4]));
    assert_eq!(cache.take(&key(1)), None);
    assert_eq!(cache.get(&key(1)), None);
}

#[test]
fn a_cache_for_one_session_has_room_for_eight() {
    let cache = cache(1);
    (0..100).for_each(|number| assert!(cache.put(key(number), vec![1], Uses::Many)));
    assert_eq!(cache.len(), WAYS);
    assert!(cache.get(&key(99)).is_some());
}

#[test]
fn a_cache_for_none_keeps_none_and_says_so() {
    let cache = cache(0);
    assert!(!cache.keeps_sessions());
    assert!(!cache.put(key(1), vec![1], Uses::Once));
    assert_eq!(cache.get(&key(1)), None);
    assert_eq!(cache.take(&key(1)), None);
    cache.tick(Now::simulated_ms(1));
    assert!(cache.is_empty());
}

#[test]
fn more_sessions_than_memory_is_an_error_that_says_so() {
    let error = SessionCache::new(usize::MAX / 8, limits::TLS_SESSION_LIFETIME).unwrap_err();
    assert_eq!(error.to_string(), format!("there is no memory for {} TLS sessions of 200 bytes", usize::MAX / 8));
}

#[test]
fn a_session_of_any_length_comes_back_whole_and_an_oversized_one_is_not_kept() {
    let cache = cache(100);
    for length in 0..=limits::TLS_SESSION_BYTES_MAX {
        let value: Vec<u8> = (0..length).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
        assert!(cache.put(key(1), value.clone(), Uses::Once), "{length}");
        assert_eq!(cache.take(&key(1)), Some(value));
    }
    assert!(!cache.put(key(1), vec![0; limits::TLS_SESSION_BYTES_MAX + 1], Uses::Once));
    assert_eq!(assert_wiped(&cache), 0);
}

#[test]
fn long_sessions_have_a_bound_of_their_own_and_their_room_comes_back() {
    let cache = cache(160);
    let long = || vec![1; slot::SHORT_BYTES + 1];
    for round in 0..3 {
        let kept: Vec<u64> = (0..20).filter(|number| cache.put(key(*number), long(), Uses::Once)).collect();
        assert_eq!(kept, (0..10).collect::<Vec<_>>(), "round {round}");
        assert!(cache.put(key(99), vec![1; slot::SHORT_BYTES], Uses::Once), "short ones are always welcome");
        match round {
            0 => assert!(kept.iter().all(|number| cache.take(&key(*number)).is_some())),
            1 => (1_000..4_000).for_each(|number| assert!(cache.put(key(number), vec![1], Uses::Once))),
            _ => drop(cache.take(&key(99))),
        }
    }
}

#[test]
fn the_cache_does_what_a_list_of_the_last_eight_of_each_set_would() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let cache = SessionCache::new(40, Duration::from_secs(60)).unwrap();
        let mut oracle = Oracle::new(5);
        for step in 0..5_000 {
            let key = key(random.next() % 120);
            let told = |what: &str| format!("seed {seed}, step {step}: {what}");
            match random.below(10) {
                0..5 => {
                    let value = vec![u8::try_from(step % 256).unwrap(); random.below(slot::SHORT_BYTES)];
                    let uses = if random.below(2) == 0 { Uses::Once } else { Uses::Many };
                    assert!(cache.put(key, value.clone(), uses), "{}", told("put"));
                    oracle.put(&cache, key, value, uses);
                }
                5..7 => assert_eq!(cache.take(&key), oracle.take(&cache, &key), "{}", told("take")),
                7..9 => assert_eq!(cache.get(&key), oracle.get(&cache, &key), "{}", told("get")),
                _ => {
                    oracle.now_ms += random.next() % 2_000;
                    cache.tick(Now::simulated_ms(oracle.now_ms));
                    oracle.sweep();
                }
            }
        }
        assert_eq!(assert_wiped(&cache), cache.len());
    }
}

/// The same as a list for each set, oldest first.
struct Oracle {
    sets: Vec<Vec<Kept>>,
    now_ms: u64,
    ticks: usize,
}

struct Kept {
    key: SessionKey,
    value: Vec<u8>,
    uses: Uses,
    expires_ms: u64,
}

impl Oracle {
    fn new(sets: usize) -> Self {
        Self { sets: (0..sets).map(|_| Vec::new()).collect(), now_ms: 0, ticks: 0 }
    }

    fn put(&mut self, cache: &SessionCache, key: SessionKey, value: Vec<u8>, uses: Uses) {
        let set = &mut self.sets[cache.set_of(&key).unwrap()];
        set.retain(|kept| kept.key != key);
        if set.len() == 8 {
            set.remove(0);
        }
        set.push(Kept { key, value, uses, expires_ms: self.now_ms + 60_000 });
    }

    fn get(&mut self, cache: &SessionCache, key: &SessionKey) -> Option<Vec<u8>> {
        let set = &mut self.sets[cache.set_of(key).unwrap()];
        set.retain(|kept| kept.key != *key || kept.uses != Uses::Many || kept.expires_ms > self.now_ms);
        let kept = set.iter().find(|kept| kept.key == *key && kept.uses == Uses::Many)?;
        Some(kept.value.clone())
    }

    fn take(&mut self, cache: &SessionCache, key: &SessionKey) -> Option<Vec<u8>> {
        let set = &mut self.sets[cache.set_of(key).unwrap()];
        let at = set.iter().position(|kept| kept.key == *key && kept.uses == Uses::Once)?;
        let kept = set.remove(at);
        (kept.expires_ms > self.now_ms).then_some(kept.value)
    }

    /// So few sets are swept one by one.
    fn sweep(&mut self) {
        let set = self.ticks % self.sets.len();
        self.ticks += 1;
        self.sets[set].retain(|kept| kept.expires_ms > self.now_ms);
    }
}

#[test]
fn threads_that_fight_over_a_few_keys_get_whole_sessions_and_none_twice() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = if cfg!(miri) { 200 } else { 100_000 };
    const KEYS: usize = 24;
    let cache = SessionCache::new(16, limits::TLS_SESSION_LIFETIME).unwrap();
    let taken: Vec<AtomicBool> = (0..THREADS * ROUNDS).map(|_| AtomicBool::new(false)).collect();
    let start = Barrier::new(usize::try_from(THREADS).unwrap());
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (cache, taken, start, total) = (&cache, &taken, &start, &total);
            scope.spawn(move || {
                let mut random = Random(thread);
                start.wait();
                for round in 0..ROUNDS {
                    let uses = if random.below(4) == 0 { Uses::Many } else { Uses::Once };
                    let numbered = value_of(thread * ROUNDS + round, random.below(2) * slot::SHORT_BYTES + 16);
                    cache.put(key(random.next() % KEYS as u64), numbered, uses);
                    if let Some(read) = cache.get(&key(random.next() % KEYS as u64)) {
                        number_of(&read);
                    }
                    let Some(value) = cache.take(&key(random.next() % KEYS as u64)) else { continue };
                    let number = number_of(&value);
                    assert!(!taken[number].swap(true, Ordering::Relaxed), "session {number} was handed out twice");
                    total.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(total.into_inner() > usize::try_from(ROUNDS).unwrap() / 10, "too few were taken to prove anything");
    let held = assert_wiped(&cache);
    assert_eq!(held, cache.len());
    (0..KEYS as u64).for_each(|number| drop((cache.take(&key(number)), cache.take(&key(number)))));
    let long = |session: &Session| session.value().len() > slot::SHORT_BYTES;
    let long_held = std::cell::Cell::new(0);
    (0..cache.sets.len()).for_each(|set| {
        cache.forget_in(set, |session| {
            long_held.set(long_held.get() + usize::from(long(session)));
            false
        });
    });
    assert_eq!(cache.long_sessions.load(Ordering::Relaxed), long_held.get());
}

/// A value that shows if it was mixed with another: one number, over and over.
fn value_of(number: u64, length: usize) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().take(length).collect()
}

fn number_of(value: &[u8]) -> usize {
    let number = value[..8].try_into().unwrap();
    assert!(value.chunks(8).all(|chunk| *chunk == number), "a torn session");
    usize::try_from(u64::from_be_bytes(number)).unwrap()
}

#[test]
fn of_two_threads_that_take_the_same_session_exactly_one_gets_it() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 2_000 };
    let cache = cache(1_000);
    let start = Barrier::new(2);
    let takes = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, start, takes) = (&cache, &start, &takes);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    if thread == 0 {
                        cache.put(key(round), vec![1], Uses::Once);
                    }
                    start.wait();
                    takes.fetch_add(usize::from(cache.take(&key(round)).is_some()), Ordering::Relaxed);
                    start.wait();
                }
            });
        }
    });
    assert_eq!(takes.into_inner(), usize::try_from(ROUNDS).unwrap());
}
