//! The session cache against an oracle: one set of eight places, and any operations on it.
//!
//! Promises: what is found is what was kept, within its lifetime, for its kind of use, and once where once is enough; the
//! newest eight are there; memory of long sessions is given back.

use std::time::Duration;

use onetrip::limits::TLS_SESSION_BYTES_MAX;
use onetrip::time::Now;
use onetrip::tls::cache::SessionCache;
use onetrip::tls::store::{SessionKey, SessionStore, Uses};

use crate::input::Input;

const PLACES: usize = 8;
const LIFETIME_MS: u64 = 1_000;

/// See the [module](self).
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut oracle = Oracle {
        cache: SessionCache::new(PLACES, Duration::from_millis(LIFETIME_MS)).unwrap(),
        kept: Vec::new(),
        now_ms: 0,
    };
    while !input.is_empty() {
        oracle.operate(&mut input);
        assert!(oracle.cache.len() <= PLACES);
        assert!(oracle.cache.len() >= oracle.kept.len(), "a session is lost");
    }
}

struct Kept {
    key: SessionKey,
    value: Vec<u8>,
    uses: Uses,
    since_ms: u64,
}

struct Oracle {
    cache: SessionCache,
    /// The oldest first; never more than there are places.
    kept: Vec<Kept>,
    now_ms: u64,
}

impl Oracle {
    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        let key = key(input.byte());
        match operation % 4 {
            0 => self.put(key, usize::from(input.byte()) * 5, if operation & 4 == 0 { Uses::Once } else { Uses::Many }),
            1 => {
                let expected = self.find(&key, Uses::Many).map(|at| self.kept[at].value.clone());
                assert_eq!(self.cache.get(&key), expected);
            }
            2 => {
                let expected = self.find(&key, Uses::Once).map(|at| self.kept.remove(at).value);
                assert_eq!(self.cache.take(&key), expected);
            }
            _ => self.tick(u64::from(input.byte()) * 4),
        }
    }

    fn find(&self, key: &SessionKey, uses: Uses) -> Option<usize> {
        self.kept.iter().position(|kept| kept.key == *key && kept.uses == uses)
    }

    fn put(&mut self, key: SessionKey, bytes: usize, uses: Uses) {
        let value = vec![key[31] | 1; bytes];
        let is_kept = self.cache.put(key, value.clone(), uses);
        assert!(is_kept || bytes > 100, "a short session is not kept");
        assert!(!is_kept || bytes <= TLS_SESSION_BYTES_MAX);
        if bytes > TLS_SESSION_BYTES_MAX {
            return;
        }
        self.kept.retain(|kept| kept.key != key);
        if is_kept {
            if self.kept.len() == PLACES {
                self.kept.remove(0);
            }
            self.kept.push(Kept { key, value, uses, since_ms: self.now_ms });
        }
    }

    fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.kept.retain(|kept| self.now_ms - kept.since_ms < LIFETIME_MS);
        self.cache
            .tick(Now { monotonic: Duration::from_millis(self.now_ms), unix: Duration::from_millis(self.now_ms) });
    }
}

/// Sixteen keys. Pairs of them differ only in their last byte, so that their tags agree.
fn key(number: u8) -> SessionKey {
    let mut key = [number >> 1 & 7; 32];
    key[31] = number & 1;
    key
}
