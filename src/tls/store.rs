//! What keeps the sessions of a server so that clients can resume them, and how the TLS library gets at it.
//!
//! [`SessionStore`] is the whole interface; [`SessionCache`](super::cache::SessionCache) is what the server uses. All
//! executors of a process share one store, because a client that comes back may land on any of them.
//!
//! A store may forget at will, but it must never hand the same session out twice through `take`, never do work on the way
//! of a handshake that grows with the number of sessions, and never leave a forgotten session's secrets in memory.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::SecureRandom;
use rustls::server::{ProducesTickets, StoresServerSessions};
use zeroize::Zeroizing;

use crate::limits;
use crate::time::Now;

/// Bytes of a key: the TLS library draws TLS 1.3 ticket names and TLS 1.2 session ids (RFC 5246 §7.4.1.2) of this length.
pub const KEY_BYTES: usize = 32;

/// The name of a session, drawn at random by the TLS library.
pub type SessionKey = [u8; KEY_BYTES];

/// How often a session may be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// Once: a TLS 1.3 ticket (RFC 8446 §8.1).
    Once,
    /// Until it expires: a TLS 1.2 session, whose id travels in the clear (RFC 5246 §7.3).
    Many,
}

/// Where a server keeps sessions for resumption.
///
/// Keys that are stored are random. Keys that are looked up come from the network; those of another length than
/// [`KEY_BYTES`] never get here.
pub trait SessionStore: fmt::Debug + Send + Sync {
    /// Keeps `value` under `key`. Says whether it was kept.
    fn put(&self, key: SessionKey, value: Vec<u8>, uses: Uses) -> bool;

    /// A copy of a session for [many uses](Uses::Many), which stays. Others are not found.
    fn get(&self, key: &SessionKey) -> Option<Vec<u8>>;

    /// The session for [one use](Uses::Once), which is gone afterwards: of two callers at the same time at most one gets it.
    /// Sessions for many uses are not found, and stay: whoever overheard the id of one could otherwise end it.
    fn take(&self, key: &SessionKey) -> Option<Vec<u8>>;

    /// Tells the time. The owner calls it about once a second; sessions expire by it.
    fn tick(&self, now: Now);

    /// How many sessions are held, expired ones included until they are met. Looks at all of them: for reports and tests.
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
pub struct LibraryStore(Arc<dyn SessionStore>);

impl LibraryStore {
    /// The same store, for the TLS library.
    pub fn new(store: Arc<dyn SessionStore>) -> Self {
        Self(store)
    }
}

impl StoresServerSessions for LibraryStore {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let mut value = Zeroizing::new(value);
        match (SessionKey::try_from(key), uses_of(&value)) {
            (Ok(key), Some(uses)) => self.0.put(key, std::mem::take(&mut *value), uses),
            _ => false,
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

/// A [`SessionStore`] in the shape of a maker of sealed tickets, which it is not: a ticket is the name of a session in the
/// store, as ever. To the TLS library it makes one difference: it neither promises nor takes early data, and skips as much
/// of it as a listener that does would take. (To turn early data off by its size would shrink what is skipped as well, and
/// break the connections of clients whose tickets are from before.)
pub struct StoredTickets {
    store: Arc<dyn SessionStore>,
    random: &'static dyn SecureRandom,
}

impl StoredTickets {
    /// The same store; names are drawn from `random`.
    pub fn new(store: Arc<dyn SessionStore>, random: &'static dyn SecureRandom) -> Self {
        Self { store, random }
    }
}

impl fmt::Debug for StoredTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoredTickets").field(&self.store).finish()
    }
}

impl ProducesTickets for StoredTickets {
    fn enabled(&self) -> bool {
        self.store.keeps_sessions()
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(limits::TLS_SESSION_LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let mut key = [0; KEY_BYTES];
        self.random.fill(&mut key).ok()?;
        self.store.put(key, session.to_vec(), uses_of(session)?).then(|| key.to_vec())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let key = ticket.try_into().ok()?;
        self.store.take(key).or_else(|| self.store.get(key))
    }
}

/// Reads from a session in the TLS library's encoding how often it may be used. The encoding begins with the server's name
/// (a byte that says whether there is one; if so, its length in a byte, and the name) and goes on with the version. `None`
/// if that is not what is there: a session that cannot be told is better not kept.
fn uses_of(value: &[u8]) -> Option<Uses> {
    let after_name = match value.split_first()? {
        (0, rest) => rest,
        (1, rest) => rest.split_first().and_then(|(length, rest)| rest.get(usize::from(*length)..))?,
        _ => return None,
    };
    match after_name.first_chunk()? {
        [3, 3] => Some(Uses::Many),
        [3, 4] => Some(Uses::Once),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps the last session, whatever its key, and what was said of it.
    #[derive(Debug, Default)]
    struct LastOnly(Mutex<Option<(Vec<u8>, Uses)>>);

    impl LastOnly {
        fn value(&self) -> Option<Vec<u8>> {
            Some(self.0.lock().unwrap().clone()?.0)
        }
    }

    impl SessionStore for LastOnly {
        fn put(&self, _key: SessionKey, value: Vec<u8>, uses: Uses) -> bool {
            *self.0.lock().unwrap() = Some((value, uses));
            true
        }

        fn get(&self, _key: &SessionKey) -> Option<Vec<u8>> {
            self.value()
        }

        fn take(&self, _key: &SessionKey) -> Option<Vec<u8>> {
            self.value()
        }

        fn tick(&self, _now: Now) {}

        fn len(&self) -> usize {
            self.value().into_iter().count()
        }

        fn keeps_sessions(&self) -> bool {
            true
        }
    }

    const KEY: SessionKey = [7; KEY_BYTES];

    #[test]
    fn sessions_of_tls_1_2_are_for_many_uses_and_of_tls_1_3_for_one() {
        let of = |version: [u8; 2]| [uses_of(&[&[0], &version[..], b"rest"].concat())];
        assert_eq!(of([3, 3]), [Some(Uses::Many)]);
        assert_eq!(of([3, 4]), [Some(Uses::Once)]);
        let with_name = |version: [u8; 2]| uses_of(&[b"\x01\x0bexample.org", &version[..], b"rest"].concat());
        assert_eq!(with_name([3, 3]), Some(Uses::Many));
        assert_eq!(with_name([3, 4]), Some(Uses::Once));
    }

    #[test]
    fn a_session_that_cannot_be_read_is_not_kept() {
        let store = Arc::new(LastOnly::default());
        let library_store = LibraryStore::new(Arc::<LastOnly>::clone(&store));
        let values: [&[u8]; 8] =
            [b"", &[0], &[0, 3], &[0, 3, 2], &[2, 3, 4], &[1], &[1, 200, b'a', 3, 4], &[1, 1, b'a', 3]];
        for value in values {
            assert!(!library_store.put(KEY.to_vec(), value.to_vec()), "{value:?}");
        }
        assert!(store.is_empty());
        assert!(library_store.put(KEY.to_vec(), vec![0, 3, 4]));
    }

    #[test]
    fn keys_of_another_length_from_the_network_find_nothing() {
        let library_store = LibraryStore::new(Arc::new(LastOnly::default()));
        assert!(library_store.put(KEY.to_vec(), vec![0, 3, 4]));
        for length in [0, 1, KEY_BYTES - 1, KEY_BYTES + 1, 60_000] {
            assert_eq!(library_store.get(&vec![7; length]), None);
            assert_eq!(library_store.take(&vec![7; length]), None);
            assert!(!library_store.put(vec![7; length], vec![0, 3, 4]));
        }
        assert_eq!(library_store.take(&KEY), Some(vec![0, 3, 4]));
    }
}
