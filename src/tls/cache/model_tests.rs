//! The cache under the model checker: every interleaving of two or three threads, and every value that the memory model
//! lets a load return. The command is in the parent module.
//!
//! Loom itself fails a test if two threads touch a slot at once or if one sees less of it than the other wrote.

use loom::sync::Arc;
use loom::thread;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// One set of two places.
fn cache() -> Arc<SessionCache> {
    Arc::new(SessionCache::new(WAYS, DAY).unwrap())
}

fn key(number: u8) -> SessionKey {
    [number; 32]
}

fn value(number: u8) -> Vec<u8> {
    vec![number; 9]
}

fn long(number: u8) -> Vec<u8> {
    vec![number; slot::SHORT_BYTES + 1]
}

/// Whatever the threads did: each place is empty and wiped, or holds a session that can be claimed.
fn assert_at_rest(cache: &SessionCache) {
    for way in 0..WAYS {
        let word = cache.words(0)[way];
        assert_ne!(word, Word::BUSY);
        let mut claim = cache.claim(0, way, word).unwrap();
        assert_eq!(claim.with(|session| session.is_wiped()), word == Word::EMPTY);
    }
}

#[test]
fn of_two_that_take_a_session_exactly_one_gets_it() {
    loom::model(|| {
        let cache = cache();
        cache.put(key(1), value(1), Uses::Once);
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.take(&key(1))
        });
        let mine = cache.take(&key(1));
        let theirs = other.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        assert_eq!(mine.or(theirs), Some(value(1)));
        assert_at_rest(&cache);
    });
}

#[test]
fn a_session_that_is_pushed_out_while_it_is_taken_is_whole_or_not_there() {
    loom::model(|| {
        let cache = cache();
        cache.put(key(1), long(1), Uses::Once);
        cache.put(key(2), value(2), Uses::Once);
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.put(key(3), value(3), Uses::Once)
        });
        let taken = cache.take(&key(1));
        assert!(taken.is_none() || taken == Some(long(1)));
        let kept = other.join().unwrap();
        assert_eq!(cache.take(&key(1)), None);
        assert_eq!(cache.take(&key(3)).is_some(), kept);
        assert_eq!(cache.long_sessions.load(Ordering::Relaxed), 0);
        assert_at_rest(&cache);
    });
}

#[test]
fn two_new_sessions_for_the_same_place_do_not_mix() {
    loom::model(|| {
        let cache = cache();
        cache.put(key(1), value(1), Uses::Many);
        cache.put(key(2), value(2), Uses::Once);
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.put(key(3), value(3), Uses::Once)
        });
        let kept = cache.put(key(4), value(4), Uses::Many);
        let other_kept = other.join().unwrap();
        assert!(kept || other_kept, "somebody always gets on");
        for (number, found) in [(1, cache.get(&key(1))), (3, cache.take(&key(3))), (4, cache.get(&key(4)))] {
            assert!(found.is_none() || found == Some(value(number)));
        }
        assert_at_rest(&cache);
    });
}

#[test]
fn a_session_that_two_read_is_whole_and_stays() {
    loom::model(|| {
        let cache = cache();
        cache.put(key(1), value(1), Uses::Many);
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.get(&key(1))
        });
        let mine = cache.get(&key(1));
        let theirs = other.join().unwrap();
        assert!(mine.is_some() || theirs.is_some());
        for found in [mine, theirs].into_iter().flatten() {
            assert_eq!(found, value(1));
        }
        assert_eq!(cache.get(&key(1)), Some(value(1)));
    });
}

#[test]
fn what_one_thread_stored_and_told_of_another_finds() {
    loom::model(|| {
        let cache = cache();
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.put(key(1), value(1), Uses::Once)
        });
        let early = cache.take(&key(1));
        assert!(other.join().unwrap());
        let late = cache.take(&key(1));
        assert!(early.is_some() != late.is_some());
        assert_eq!(early.or(late), Some(value(1)));
        assert_at_rest(&cache);
    });
}

#[test]
fn a_session_that_expires_while_it_is_taken_is_gone_in_the_end() {
    loom::model(|| {
        let cache = cache();
        cache.put(key(1), value(1), Uses::Once);
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.tick(Now::simulated_ms(86_400_000))
        });
        let taken = cache.take(&key(1));
        assert!(taken.is_none() || taken == Some(value(1)));
        other.join().unwrap();
        assert_eq!(cache.take(&key(1)), None);
        assert_at_rest(&cache);
    });
}

#[test]
fn three_threads_on_two_places_hand_out_nothing_twice() {
    let mut model = loom::model::Builder::new();
    // All interleavings of three threads are too many; those with few involuntary switches find nearly every defect.
    model.preemption_bound = Some(3);
    model.check(|| {
        let cache = cache();
        cache.put(key(1), value(1), Uses::Once);
        let takers = [1, 2].map(|number| {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                cache.put(key(number + 1), value(number + 1), Uses::Once);
                cache.take(&key(1))
            })
        });
        let mine = cache.take(&key(1));
        let taken = takers.map(|taker| taker.join().unwrap());
        let found: Vec<_> = taken.into_iter().chain([mine]).flatten().collect();
        assert!(found.len() <= 1);
        assert!(found.iter().all(|found| *found == value(1)));
        assert_at_rest(&cache);
    });
}
