//! What makes guessing passwords slow: failures are counted by client address and by user.
//!
//! It must not count by anything that a guesser can choose freely: an IPv6 client owns at least a /64, so a /64 is one
//! address here. It must not tell users that exist from users that do not: both are counted alike.
//!
//! **What a success forgives.** Only the failures of that same user from that same address, which is what a person
//! does who mistypes. It must never clear all that an address did: whoever owns one account could then guess at
//! others without end, with a good login of their own from time to time. Nor may it clear all that was tried on a
//! user: the victim's own daily logins would reset the count of whoever guesses from elsewhere.
//!
//! **What it does to the one who is attacked.** While a user has failed too often, nobody's password for it is judged,
//! not even the right one. A credential that is still remembered is accepted before the throttle is asked, so a mail
//! program that was logged in does not notice.

use std::hash::Hash;
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::aging::AgingMap;
use super::remembered::{Fingerprint, Fingerprints};
use crate::limits;
use crate::time::Now;

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct ThrottleSettings {
    /// Failures of one address within the window before its further attempts are put off; 0 = no limit.
    pub address_failures_max: u32,
    /// Failures of one user within the window before further attempts are put off; 0 = no limit.
    pub user_failures_max: u32,
    /// How long failures count, from the first of them; 0 = they do not, so there is no limit.
    pub window: Duration,
    /// How long the answer to a first failure waits; it doubles up to [`limits::AUTH_FAILURE_DELAY_MAX`]. 0 = no wait.
    pub first_delay: Duration,
    /// Addresses, users, and pairs of both, that are counted at once (so many of each); the oldest make room.
    pub entries_max: usize,
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        Self {
            address_failures_max: limits::AUTH_FAILURES_MAX,
            user_failures_max: limits::AUTH_FAILURES_MAX,
            window: limits::AUTH_FAILURE_WINDOW,
            first_delay: limits::AUTH_FAILURE_DELAY,
            entries_max: limits::THROTTLE_ENTRIES_MAX,
        }
    }
}

/// May this attempt be judged?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Judge,
    /// Not now: too many failures of that address or of that user (RFC 4954 §6: 454).
    PutOff,
}

/// Counts failures.
pub struct Throttle {
    settings: ThrottleSettings,
    fingerprints: Fingerprints,
    addresses: AgingMap<IpAddr, Failures>,
    users: AgingMap<Fingerprint, Failures>,
    pairs: AgingMap<Fingerprint, Forgivable>,
}

/// Failures within one window. A later window has another end, by which the two are told apart.
#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    window_end: Duration,
}

/// The part of an address's and of a user's failures that one user had from one address.
#[derive(Clone, Copy, Default)]
struct Forgivable {
    of_address: Failures,
    of_user: Failures,
}

impl Throttle {
    /// Nothing has failed yet. User names are kept as fingerprints, so that long ones take no more memory.
    pub fn new(settings: ThrottleSettings, fingerprints: Fingerprints) -> Self {
        Self {
            settings,
            fingerprints,
            addresses: AgingMap::new(settings.entries_max),
            users: AgingMap::new(settings.entries_max),
            pairs: AgingMap::new(settings.entries_max),
        }
    }

    /// May an attempt for `user` from `address` be judged now?
    pub fn admit(&self, now: Now, address: IpAddr, user: &str) -> Admission {
        let of_address = self.addresses.find(&network(address)).map_or(0, |failures| failures.count_at(now));
        let of_user = self.users.find(&self.fingerprints.of_user(user)).map_or(0, |failures| failures.count_at(now));
        let Self { settings, .. } = self;
        if reached(settings.address_failures_max, of_address) || reached(settings.user_failures_max, of_user) {
            return Admission::PutOff;
        }
        Admission::Judge
    }

    /// An attempt failed; how long its answer is to wait. The wait doubles with each failure of the address or of the
    /// user, whichever has more.
    pub fn failed(&mut self, now: Now, address: IpAddr, user: &str) -> Duration {
        let address = network(address);
        let of_address = count_one(&mut self.addresses, address, now, self.settings.window);
        let of_user = count_one(&mut self.users, self.fingerprints.of_user(user), now, self.settings.window);
        let pair = self.fingerprints.of_pair(address, user);
        let mut forgivable = self.pairs.find(&pair).copied().unwrap_or_default();
        forgivable.of_address.count_one_within(of_address.window_end);
        forgivable.of_user.count_one_within(of_user.window_end);
        self.pairs.insert(pair, forgivable);
        self.delay(of_address.count.max(of_user.count))
    }

    /// An attempt succeeded: that user's failures from that address are forgiven, and no others.
    pub fn succeeded(&mut self, now: Now, address: IpAddr, user: &str) {
        let address = network(address);
        let Some(forgivable) = self.pairs.find_mut(&self.fingerprints.of_pair(address, user)) else {
            return;
        };
        let Forgivable { of_address, of_user } = mem::take(forgivable);
        forgive(self.addresses.find_mut(&address), of_address, now);
        forgive(self.users.find_mut(&self.fingerprints.of_user(user)), of_user, now);
    }

    fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.settings.first_delay.saturating_mul(1 << doublings).min(limits::AUTH_FAILURE_DELAY_MAX)
    }
}

impl Failures {
    fn count_at(self, now: Now) -> u32 {
        if now.monotonic < self.window_end { self.count } else { 0 }
    }

    fn count_one_within(&mut self, window_end: Duration) {
        let before = if self.window_end == window_end { self.count } else { 0 };
        *self = Self { count: before.saturating_add(1), window_end };
    }
}

fn count_one<K: Copy + Eq + Hash>(map: &mut AgingMap<K, Failures>, key: K, now: Now, window: Duration) -> Failures {
    let mut failures = map.find(&key).copied().unwrap_or_default();
    let running = now.monotonic < failures.window_end;
    failures.count_one_within(if running { failures.window_end } else { now.monotonic.saturating_add(window) });
    map.insert(key, failures);
    failures
}

/// Takes `forgivable` off `failures`, unless they are of an earlier window: those no longer count, and taking them off
/// would forgive somebody else's.
fn forgive(failures: Option<&mut Failures>, forgivable: Failures, now: Now) {
    let Some(failures) = failures else {
        return;
    };
    if failures.window_end == forgivable.window_end && now.monotonic < failures.window_end {
        failures.count = failures.count.saturating_sub(forgivable.count);
    }
}

fn reached(failures_max: u32, failures: u32) -> bool {
    failures_max != 0 && failures >= failures_max
}

/// What counts as one client: an IPv4 address, however it is written, or the first 64 bits of an IPv6 address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::{Admission, Throttle, ThrottleSettings};
    use crate::auth::remembered::Fingerprints;
    use crate::limits;
    use crate::time::Now;

    const SETTINGS: ThrottleSettings = ThrottleSettings {
        address_failures_max: 3,
        user_failures_max: 3,
        window: Duration::from_secs(600),
        first_delay: Duration::from_secs(1),
        entries_max: 100,
    };

    const HERE: &str = "192.0.2.1";
    const ELSEWHERE: &str = "192.0.2.2";

    fn throttle(settings: ThrottleSettings) -> Throttle {
        Throttle::new(settings, Fingerprints::new(&[1; 32]))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> Now {
        Now::simulated_ms(seconds * 1_000)
    }

    fn fail(throttle: &mut Throttle, seconds: u64, from: &str, user: &str, times: u32) {
        for _ in 0..times {
            throttle.failed(at(seconds), address(from), user);
        }
    }

    fn admits(throttle: &Throttle, seconds: u64, from: &str, user: &str) -> bool {
        throttle.admit(at(seconds), address(from), user) == Admission::Judge
    }

    #[test]
    fn an_address_that_failed_too_often_is_put_off_whomever_it_tries() {
        let mut throttle = throttle(SETTINGS);
        for user in ["ann", "bob"] {
            fail(&mut throttle, 0, HERE, user, 1);
        }
        assert!(admits(&throttle, 0, HERE, "eve"));
        fail(&mut throttle, 0, HERE, "eve", 1);
        assert!(!admits(&throttle, 0, HERE, "dan"));
        assert!(admits(&throttle, 0, ELSEWHERE, "dan"));
    }

    #[test]
    fn a_user_tried_too_often_is_put_off_wherever_the_attempts_come_from() {
        let mut throttle = throttle(SETTINGS);
        for from in ["192.0.2.11", "192.0.2.12", "192.0.2.13"] {
            assert!(admits(&throttle, 0, from, "ann"));
            fail(&mut throttle, 0, from, "ann", 1);
        }
        assert!(!admits(&throttle, 0, ELSEWHERE, "ann"));
        assert!(admits(&throttle, 0, ELSEWHERE, "bob"));
    }

    #[test]
    fn failures_are_forgotten_a_window_after_the_first_of_them() {
        let mut throttle = throttle(SETTINGS);
        fail(&mut throttle, 0, HERE, "ann", 1);
        fail(&mut throttle, 500, HERE, "ann", 2);
        assert!(!admits(&throttle, 599, HERE, "ann"));
        assert!(admits(&throttle, 600, HERE, "ann"));
        fail(&mut throttle, 601, HERE, "ann", 2);
        assert!(admits(&throttle, 601, HERE, "ann"), "the count starts anew");
    }

    #[test]
    fn an_ipv6_client_is_its_64_bit_prefix() {
        let mut throttle = throttle(SETTINGS);
        for from in ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3"] {
            fail(&mut throttle, 0, from, from, 1);
        }
        assert!(!admits(&throttle, 0, "2001:db8::4", "ann"));
        assert!(admits(&throttle, 0, "2001:db8:0:1::4", "ann"));
    }

    #[test]
    fn an_ipv4_address_counts_as_one_however_it_is_written() {
        let mut throttle = throttle(SETTINGS);
        fail(&mut throttle, 0, "::ffff:192.0.2.1", "ann", 3);
        assert!(!admits(&throttle, 0, "192.0.2.1", "bob"));
        assert!(admits(&throttle, 0, "::ffff:192.0.2.2", "bob"));
    }

    #[test]
    fn a_person_who_mistyped_and_then_got_it_right_starts_anew() {
        let mut throttle = throttle(SETTINGS);
        for round in 0..10 {
            fail(&mut throttle, round, HERE, "ann", 2);
            assert!(admits(&throttle, round, HERE, "ann"), "round {round}");
            throttle.succeeded(at(round), address(HERE), "ann");
        }
    }

    #[test]
    fn success_on_an_own_account_does_not_forgive_guesses_at_others() {
        let mut throttle = throttle(SETTINGS);
        fail(&mut throttle, 0, HERE, "ann", 1);
        fail(&mut throttle, 0, HERE, "bob", 1);
        fail(&mut throttle, 0, HERE, "mallory", 1);
        throttle.succeeded(at(0), address(HERE), "mallory");
        assert!(admits(&throttle, 0, HERE, "eve"), "two failures are left");
        fail(&mut throttle, 0, HERE, "eve", 1);
        assert!(!admits(&throttle, 0, HERE, "dan"));
    }

    #[test]
    fn failures_on_an_own_account_in_an_earlier_window_forgive_nothing_in_this_one() {
        let mut throttle = throttle(ThrottleSettings { user_failures_max: 0, ..SETTINGS });
        fail(&mut throttle, 0, HERE, "somebody", 1);
        fail(&mut throttle, 500, HERE, "mallory", 2);
        fail(&mut throttle, 601, HERE, "ann", 3);
        throttle.succeeded(at(602), address(HERE), "mallory");
        assert!(!admits(&throttle, 602, HERE, "ann"));
    }

    #[test]
    fn a_users_success_does_not_forgive_guesses_from_elsewhere() {
        let mut throttle = throttle(SETTINGS);
        fail(&mut throttle, 0, ELSEWHERE, "ann", 2);
        throttle.succeeded(at(0), address(HERE), "ann");
        fail(&mut throttle, 0, ELSEWHERE, "ann", 1);
        assert!(!admits(&throttle, 0, ELSEWHERE, "ann"));
    }

    #[test]
    fn the_delay_doubles_up_to_its_bound() {
        let mut throttle = throttle(SETTINGS);
        let delays: Vec<u64> = (0..6).map(|_| throttle.failed(at(0), address(HERE), "ann").as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 15, 15]);
        fail(&mut throttle, 0, HERE, "ann", 100);
        assert_eq!(throttle.failed(at(0), address(HERE), "ann"), limits::AUTH_FAILURE_DELAY_MAX);
    }

    #[test]
    fn the_delay_follows_the_address_or_the_user_whichever_failed_more() {
        let mut throttle = throttle(SETTINGS);
        fail(&mut throttle, 0, HERE, "ann", 2);
        assert_eq!(throttle.failed(at(0), address(ELSEWHERE), "ann"), Duration::from_secs(4));
        assert_eq!(throttle.failed(at(0), address(ELSEWHERE), "bob"), Duration::from_secs(2));
        assert_eq!(throttle.failed(at(0), address("192.0.2.3"), "eve"), Duration::from_secs(1));
    }

    #[test]
    fn zero_means_no_limit_and_no_delay() {
        let unlimited = ThrottleSettings { address_failures_max: 0, user_failures_max: 0, ..SETTINGS };
        let no_window = ThrottleSettings { window: Duration::ZERO, ..SETTINGS };
        for settings in [unlimited, no_window] {
            let mut throttle = throttle(settings);
            fail(&mut throttle, 0, HERE, "ann", 1_000);
            assert!(admits(&throttle, 0, HERE, "ann"));
        }
        let mut throttle = throttle(ThrottleSettings { first_delay: Duration::ZERO, ..SETTINGS });
        fail(&mut throttle, 0, HERE, "ann", 9);
        assert_eq!(throttle.failed(at(0), address(HERE), "ann"), Duration::ZERO);
    }

    #[test]
    fn an_address_that_goes_on_failing_is_not_pushed_out_by_addresses_that_fail_once() {
        let mut throttle = throttle(ThrottleSettings { entries_max: 4, ..SETTINGS });
        for n in 0..50 {
            fail(&mut throttle, 0, HERE, "ann", 1);
            fail(&mut throttle, 0, &format!("198.51.100.{n}"), "bob", 1);
        }
        assert!(!admits(&throttle, 0, HERE, "eve"));
        assert!(admits(&throttle, 0, "198.51.100.0", "eve"));
    }

    #[test]
    fn made_up_users_do_not_push_out_the_address_that_made_them_up() {
        let mut throttle = throttle(ThrottleSettings { entries_max: 4, ..SETTINGS });
        for n in 0..50 {
            fail(&mut throttle, 0, HERE, &format!("user{n}"), 1);
        }
        assert!(!admits(&throttle, 0, HERE, "ann"));
    }
}
