//! Credentials that proved good a moment ago, so that they need not be hashed again.
//!
//! Neither user names nor passwords are kept, only keyed digests of both together, and the key lives in the memory of
//! one process: what is remembered is worthless to whoever steals it. It must not outlive a change of the users file,
//! so every entry bears the generation of users it was judged by.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;

use super::aging::AgingMap;
use crate::proto::credential::{Credential, Member};
use crate::time::Now;

/// Makes [`Fingerprint`]s under one secret key.
#[derive(Clone, Debug)]
pub struct Fingerprints {
    key: hmac::Key,
}

/// A keyed digest: HMAC-SHA-256, cut to 128 bits (RFC 2104 §5 allows half).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprints {
    /// Under this key, which is to be drawn at random when the process starts and written nowhere.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// Of a user and a password together, however they came: PLAIN and LOGIN claim the same.
    pub fn of_credential(&self, credential: &Credential) -> Fingerprint {
        self.of_parts(&[b"credential", credential.user.as_bytes(), credential.password.expose()])
    }

    pub(super) fn of_user(&self, user: &str) -> Fingerprint {
        self.of_parts(&[b"user", user.as_bytes()])
    }

    pub(super) fn of_pair(&self, address: IpAddr, user: &str) -> Fingerprint {
        match address {
            IpAddr::V4(address) => self.of_parts(&[b"pair", &address.octets(), user.as_bytes()]),
            IpAddr::V6(address) => self.of_parts(&[b"pair", &address.octets(), user.as_bytes()]),
        }
    }

    /// Each part goes in behind its length; otherwise `ab`, `c` and `a`, `bc` would be one and the same.
    fn of_parts(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        Fingerprint(*tag.as_ref().first_chunk().expect("a SHA-256 tag has 32 bytes"))
    }
}

/// Verified credentials. Memory is bounded, the oldest make room for new ones, and looking one up allocates nothing.
pub struct Remembered {
    lifetime: Duration,
    entries: AgingMap<Fingerprint, Entry>,
}

struct Entry {
    member: Arc<Member>,
    generation: u64,
    expires: Duration,
}

impl Remembered {
    /// Keeps at most `capacity` credentials, each for `lifetime`; zero of either remembers nothing.
    pub fn new(capacity: usize, lifetime: Duration) -> Self {
        let capacity = if lifetime.is_zero() { 0 } else { capacity };
        Self { lifetime, entries: AgingMap::new(capacity) }
    }

    /// The member that this credential proved to be, if that was within the lifetime and under this generation of
    /// users.
    pub fn check(&self, now: Now, generation: u64, fingerprint: &Fingerprint) -> Option<Arc<Member>> {
        let entry = self.entries.find(fingerprint)?;
        if entry.generation != generation || now.monotonic >= entry.expires {
            return None;
        }
        Some(Arc::clone(&entry.member))
    }

    /// Remembers a credential that was judged good at `now` by the users of `generation`. It must be the generation
    /// that was read *before* judging: with one read afterwards a user who was removed meanwhile would stay.
    pub fn remember(&mut self, now: Now, generation: u64, fingerprint: Fingerprint, member: Arc<Member>) {
        let expires = now.monotonic.saturating_add(self.lifetime);
        self.entries.insert(fingerprint, Entry { member, generation, expires });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{Fingerprints, Remembered};
    use crate::proto::credential::{Credential, Mechanism, Member, Senders};
    use crate::proto::secret::Secret;
    use crate::time::Now;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn credential(user: &str, password: &str) -> Credential {
        let password = Secret::new(password.as_bytes().to_vec());
        Credential { mechanism: Mechanism::Plain, user: user.to_owned(), password }
    }

    fn member(name: &str) -> Arc<Member> {
        Arc::new(Member { name: name.to_owned(), senders: Senders::Any })
    }

    #[test]
    fn what_was_remembered_is_found_until_its_lifetime_is_over() {
        let fingerprint = Fingerprints::new(&[1; 32]).of_credential(&credential("ann", "secret"));
        let mut remembered = Remembered::new(4, LIFETIME);
        remembered.remember(Now::simulated_ms(0), 7, fingerprint, member("ann"));
        assert_eq!(remembered.check(Now::simulated_ms(59_999), 7, &fingerprint), Some(member("ann")));
        assert_eq!(remembered.check(Now::simulated_ms(60_000), 7, &fingerprint), None);
    }

    #[test]
    fn another_generation_of_users_finds_nothing() {
        let fingerprint = Fingerprints::new(&[1; 32]).of_credential(&credential("ann", "secret"));
        let mut remembered = Remembered::new(4, LIFETIME);
        remembered.remember(Now::simulated_ms(0), 7, fingerprint, member("ann"));
        assert_eq!(remembered.check(Now::simulated_ms(1), 8, &fingerprint), None);
        assert_eq!(remembered.check(Now::simulated_ms(1), 6, &fingerprint), None);
    }

    #[test]
    fn another_user_password_or_key_finds_nothing() {
        let fingerprints = Fingerprints::new(&[1; 32]);
        let mut remembered = Remembered::new(4, LIFETIME);
        let now = Now::simulated_ms(0);
        remembered.remember(now, 7, fingerprints.of_credential(&credential("ann", "secret")), member("ann"));
        for (user, password) in
            [("ann", "Secret"), ("ann", ""), ("bob", "secret"), ("anns", "ecret"), ("an", "nsecret")]
        {
            let other = fingerprints.of_credential(&credential(user, password));
            assert_eq!(remembered.check(now, 7, &other), None, "{user} {password}");
        }
        let other_key = Fingerprints::new(&[2; 32]).of_credential(&credential("ann", "secret"));
        assert_eq!(remembered.check(now, 7, &other_key), None);
    }

    #[test]
    fn both_mechanisms_claim_the_same() {
        let fingerprints = Fingerprints::new(&[1; 32]);
        let plain = credential("ann", "secret");
        let login = Credential { mechanism: Mechanism::Login, ..plain.clone() };
        assert_eq!(fingerprints.of_credential(&plain), fingerprints.of_credential(&login));
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let fingerprints = Fingerprints::new(&[1; 32]);
        let mut remembered = Remembered::new(2, LIFETIME);
        let now = Now::simulated_ms(0);
        let of = |user| fingerprints.of_credential(&credential(user, "secret"));
        for user in ["ann", "bob", "eve"] {
            remembered.remember(now, 7, of(user), member(user));
        }
        let found = ["ann", "bob", "eve"].map(|user| remembered.check(now, 7, &of(user)).is_some());
        assert_eq!(found, [false, true, true]);
    }

    #[test]
    fn a_capacity_or_lifetime_of_zero_remembers_nothing() {
        let fingerprint = Fingerprints::new(&[1; 32]).of_credential(&credential("ann", "secret"));
        for (capacity, lifetime) in [(0, LIFETIME), (4, Duration::ZERO)] {
            let mut remembered = Remembered::new(capacity, lifetime);
            remembered.remember(Now::simulated_ms(0), 7, fingerprint, member("ann"));
            assert_eq!(remembered.check(Now::simulated_ms(0), 7, &fingerprint), None);
        }
    }

    /// A measurement: `cargo test --release --lib cost_of_a_hit -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement, not a proof"]
    fn cost_of_a_hit() {
        let fingerprints = Fingerprints::new(&[1; 32]);
        let mut remembered = Remembered::new(crate::limits::REMEMBERED_CREDENTIALS_MAX, LIFETIME);
        let now = Now::simulated_ms(0);
        let credentials: Vec<_> =
            (0..60_000).map(|n| credential(&format!("user{n}@example.org"), "correct horse")).collect();
        for credential in &credentials {
            remembered.remember(now, 7, fingerprints.of_credential(credential), member("somebody"));
        }
        let started = Instant::now();
        for credential in &credentials {
            assert!(remembered.check(now, 7, &fingerprints.of_credential(credential)).is_some());
        }
        println!("{:?} for one hit among {}", started.elapsed() / 60_000, credentials.len());
    }
}
