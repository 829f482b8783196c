//! Which messages were taken already, by the names that their senders gave them (`XONCE`).
//!
//! A [`Tokens`] is one bounded, expiring set. It says of each token whether a message under it is to be stored now, is
//! just being stored, or was stored before and as what. Who waits for whom, and who is told, is not decided here; nor
//! does it keep anything beyond the life of the process: that tokens lie beside their messages is the log's business.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ring::digest;

use crate::limits::ONCE_RETENTION_MIN;
use crate::proto::message::MessageId;
use crate::time::Now;

/// What a user's token is known by: 128 bits of a keyed digest, so that a token of 100 bytes and a user of 255 take 16,
/// and nobody can choose tokens that meet in one place of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnceKey([u8; OnceKey::LENGTH]);

/// Random bytes that make keys unforeseeable; drawn anew by each process, since keys are written nowhere.
pub type OnceSecret = [u8; 32];

/// A token with the message that was stored under it, as it is found again after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredToken {
    /// User and token.
    pub key: OnceKey,
    /// The message that was stored first.
    pub message: MessageId,
    /// When it was stored at the latest, on the wall clock since the Unix epoch.
    pub stored_at: Duration,
}

impl StoredToken {
    /// A token as a start finds it. Its message is named when it begins to be stored, and stored when all of it has come.
    pub fn found(now: Now, key: OnceKey, message: MessageId, transaction_timeout: Duration) -> Self {
        Self { key, message, stored_at: (message.received() + transaction_timeout).min(now.unix) }
    }
}

/// How long tokens are kept, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnceBounds {
    /// How long after a message was stored its token is still known.
    pub retention: Duration,
    /// Most tokens of stored messages; the oldest go first. Claims are not counted: each belongs to a connection, and
    /// those are bounded.
    pub tokens_max: usize,
}

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// Nobody has it: it is the caller's from now on, until [`Tokens::store`] or [`Tokens::release`].
    Claimed,
    /// Somebody is storing a message under it just now.
    UnderWay,
    /// A message was stored under it before: this one.
    Stored(MessageId),
}

/// The tokens of which something is known.
///
/// ```text
///            claim                store
///  unknown ────────► claimed ──────────────► stored ──┐
///     ▲                 │ release                     │ expire, or too many
///     └─────────────────┴─────────────────────────────┘
/// ```
#[derive(Debug)]
pub struct Tokens {
    bounds: OnceBounds,
    states: HashMap<OnceKey, State>,
    /// The stored ones, in the order in which they expire. Each is in `states`, and no other stored one is.
    by_age: VecDeque<OnceKey>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Claimed,
    Stored {
        message: MessageId,
        /// On the monotonic clock, in whole seconds: a wall clock that is set must not make anybody forget.
        expires_s: u32,
    },
}

/// Keeps one message for each token that was found, and returns those that were refused and are not to be delivered: another one
/// was stored under their token.
///
/// Two messages bear one token if one was refused because its batch could not be written, although all of it is on the disk, and
/// if its log has not said so in a later batch, while another log took the message when it came again. Which messages can have
/// been refused so, their logs know. Which of two came first is not told by their names, as each is named when it begins to come
/// in; but both came `within` this time of each other.
///
/// All others were acknowledged, and none of them is dropped. A token may be used again when its time is over.
pub fn settle_repeats(
    tokens: &mut Vec<StoredToken>,
    within: Duration,
    may_be_refused: impl Fn(MessageId) -> bool,
) -> Vec<MessageId> {
    tokens.sort_unstable_by_key(|token| (token.key, token.message));
    tokens.dedup_by_key(|token| (token.key, token.message));
    let (mut kept, mut dropped) = (Vec::with_capacity(tokens.len()), Vec::new());
    let came_again = |one: &StoredToken, next: &StoredToken| {
        one.key == next.key && next.message.received().saturating_sub(one.message.received()) < within
    };
    for same in tokens.chunk_by(came_again) {
        let [.., newest] = same else { continue };
        let acknowledged = || same.iter().rev().find(|token| !may_be_refused(token.message));
        let stays = if same.len() == 1 { newest } else { acknowledged().unwrap_or(newest) };
        let others = same.iter().map(|token| token.message).filter(|message| *message != stays.message);
        dropped.extend(others.filter(|message| may_be_refused(*message)));
        kept.push(*stays);
    }
    // Of a token that was used again the newest message is the one that counts.
    kept.reverse();
    kept.dedup_by_key(|token| token.key);
    *tokens = kept;
    dropped
}

/// How far apart two messages with one token are named at most, if one of them is a repeat of the other: one may take as long to
/// come in as it is allowed to, and whoever was refused tries again in the next minutes. A token that is used again when its time
/// is over names messages that are further apart, so where these times meet nothing counts as a repeat.
pub fn repeats_within(retention: Duration, transaction_timeout: Duration) -> Duration {
    retention.saturating_sub(transaction_timeout).min(transaction_timeout + ONCE_RETENTION_MIN)
}

impl OnceKey {
    const LENGTH: usize = 16;

    /// The key of `token` as `user` has named it. The same token of another user has another key.
    pub fn new(secret: &OnceSecret, user: &str, token: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(secret);
        // The length keeps `ab` + `c` and `a` + `bc` apart.
        context.update(&(user.len() as u64).to_le_bytes());
        context.update(user.as_bytes());
        context.update(token.as_bytes());
        let whole = context.finish();
        let mut key = [0; Self::LENGTH];
        key.copy_from_slice(&whole.as_ref()[..Self::LENGTH]);
        Self(key)
    }

    /// One of `places`, always the same for this key.
    ///
    /// # Panics
    /// If there is no place.
    pub fn place(self, places: usize) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) % places as u64) as usize
    }
}

impl Tokens {
    /// Nothing is known yet.
    pub fn new(bounds: OnceBounds) -> Self {
        Self { bounds, states: HashMap::new(), by_age: VecDeque::new() }
    }

    /// Takes in what was stored before a restart, in any order. Expired tokens are left out, and so are the oldest if
    /// there are too many; returns how many were too many.
    ///
    /// # Panics
    /// If anything was stored before: the order of age would be lost.
    pub fn restore(&mut self, now: Now, mut tokens: Vec<StoredToken>) -> usize {
        assert!(self.by_age.is_empty(), "tokens are restored before any message is taken");
        tokens.sort_unstable_by_key(|token| token.stored_at);
        let mut forgotten = 0;
        for token in tokens {
            let left = self.bounds.retention.saturating_sub(now.unix.saturating_sub(token.stored_at));
            // A copy of a token that is known already was made when its log was moved.
            if !left.is_zero() && !self.states.contains_key(&token.key) {
                forgotten += self.keep(token.key, token.message, now.monotonic + left);
            }
        }
        forgotten
    }

    /// Asks for the right to store a message under this token.
    pub fn claim(&mut self, now: Now, key: OnceKey) -> ClaimAnswer {
        self.expire(now);
        match self.states.get(&key) {
            Some(State::Stored { message, .. }) => ClaimAnswer::Stored(*message),
            Some(State::Claimed) => ClaimAnswer::UnderWay,
            None => {
                self.states.insert(key, State::Claimed);
                ClaimAnswer::Claimed
            }
        }
    }

    /// The message of a claim is stored. Returns how many older tokens had to go for it.
    ///
    /// # Panics
    /// If the token is not claimed.
    pub fn store(&mut self, now: Now, key: OnceKey, message: MessageId) -> usize {
        let before = self.states.remove(&key);
        assert!(matches!(before, Some(State::Claimed)), "only who has claimed a token stores under it");
        self.keep(key, message, now.monotonic + self.bounds.retention)
    }

    /// The message of a claim was not stored: the next one may try.
    ///
    /// # Panics
    /// If the token is not claimed.
    pub fn release(&mut self, key: OnceKey) {
        let before = self.states.remove(&key);
        assert!(matches!(before, Some(State::Claimed)), "only who has claimed a token gives it back");
    }

    /// Forgets what was stored too long ago.
    pub fn expire(&mut self, now: Now) {
        while let Some(State::Stored { expires_s, .. }) = self.by_age.front().and_then(|key| self.states.get(key)) {
            if u64::from(*expires_s) > now.monotonic.as_secs() {
                return;
            }
            self.forget_oldest();
        }
    }

    /// How many tokens of stored messages are known.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Is no token of a stored message known?
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    fn keep(&mut self, key: OnceKey, message: MessageId, expires: Duration) -> usize {
        // Rounded up: a token is kept a moment too long rather than too short.
        let expires_s = u32::try_from(expires.as_secs() + 1).unwrap_or(u32::MAX);
        self.states.insert(key, State::Stored { message, expires_s });
        self.by_age.push_back(key);
        let excess = self.by_age.len().saturating_sub(self.bounds.tokens_max);
        for _ in 0..excess {
            self.forget_oldest();
        }
        excess
    }

    fn forget_oldest(&mut self) {
        if let Some(key) = self.by_age.pop_front() {
            self.states.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::{ClaimAnswer, OnceBounds, OnceKey, StoredToken, Tokens, repeats_within, settle_repeats};
    use crate::limits::ONCE_RETENTION_MIN;
    use crate::proto::message::MessageId;
    use crate::time::Now;

    const START: Now = Now::simulated_ms(0);

    fn after_s(seconds: u64) -> Now {
        Now::simulated_ms(seconds * 1_000)
    }

    fn key(token: &str) -> OnceKey {
        OnceKey::new(&[7; 32], "ann", token)
    }

    fn id(number: u32) -> MessageId {
        MessageId::new(START.unix, 0, number)
    }

    fn tokens(tokens_max: usize) -> Tokens {
        Tokens::new(OnceBounds { retention: Duration::from_secs(60), tokens_max })
    }

    /// Takes a message under a token.
    fn take(tokens: &mut Tokens, now: Now, token: &str, number: u32) -> usize {
        assert_eq!(tokens.claim(now, key(token)), ClaimAnswer::Claimed);
        tokens.store(now, key(token), id(number))
    }

    fn restored(token: &str, number: u32, age_s: u64, now: Now) -> StoredToken {
        StoredToken { key: key(token), message: id(number), stored_at: now.unix - Duration::from_secs(age_s) }
    }

    #[test]
    fn a_token_is_claimed_once_and_then_names_the_message_that_was_stored() {
        let mut tokens = tokens(9);
        assert_eq!(tokens.claim(START, key("t")), ClaimAnswer::Claimed);
        assert_eq!(tokens.claim(START, key("t")), ClaimAnswer::UnderWay);
        tokens.store(START, key("t"), id(1));
        assert_eq!(tokens.claim(after_s(30), key("t")), ClaimAnswer::Stored(id(1)));
        assert_eq!(tokens.claim(after_s(30), key("u")), ClaimAnswer::Claimed);
    }

    #[test]
    fn a_claim_that_came_to_nothing_leaves_nothing() {
        let mut tokens = tokens(9);
        assert_eq!(tokens.claim(START, key("t")), ClaimAnswer::Claimed);
        tokens.release(key("t"));
        assert_eq!(tokens.claim(START, key("t")), ClaimAnswer::Claimed);
        assert!(tokens.is_empty());
    }

    #[test]
    fn a_token_is_known_for_the_retention_time_and_not_much_longer() {
        let mut tokens = tokens(9);
        take(&mut tokens, after_s(10), "t", 1);
        assert_eq!(tokens.claim(after_s(70), key("t")), ClaimAnswer::Stored(id(1)), "a second for rounding");
        assert_eq!(tokens.claim(after_s(71), key("t")), ClaimAnswer::Claimed);
        assert_eq!(tokens.len(), 0);
    }

    #[test]
    fn a_wall_clock_that_is_set_makes_nobody_forget() {
        let mut tokens = tokens(9);
        take(&mut tokens, START, "t", 1);
        let set = Now { unix: START.unix + Duration::from_secs(86_400), ..after_s(1) };
        assert_eq!(tokens.claim(set, key("t")), ClaimAnswer::Stored(id(1)));
    }

    #[test]
    fn a_claim_never_expires_and_never_makes_room() {
        let mut tokens = tokens(1);
        assert_eq!(tokens.claim(START, key("claimed")), ClaimAnswer::Claimed);
        assert_eq!(take(&mut tokens, START, "a", 1), 0);
        assert_eq!(take(&mut tokens, START, "b", 2), 1);
        tokens.expire(after_s(1_000_000));
        assert_eq!(tokens.claim(after_s(1_000_000), key("claimed")), ClaimAnswer::UnderWay);
    }

    #[test]
    fn in_a_full_set_the_oldest_goes_first() {
        let mut tokens = tokens(2);
        assert_eq!(take(&mut tokens, after_s(1), "a", 1), 0);
        assert_eq!(take(&mut tokens, after_s(2), "b", 2), 0);
        assert_eq!(take(&mut tokens, after_s(3), "c", 3), 1);
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens.claim(after_s(3), key("b")), ClaimAnswer::Stored(id(2)));
        assert_eq!(tokens.claim(after_s(3), key("c")), ClaimAnswer::Stored(id(3)));
        assert_eq!(tokens.claim(after_s(3), key("a")), ClaimAnswer::Claimed);
    }

    #[test]
    fn after_a_restart_tokens_are_known_for_what_is_left_of_their_time() {
        let mut tokens = tokens(9);
        let now = after_s(3);
        let found = vec![restored("old", 1, 59, now), restored("expired", 2, 60, now), restored("new", 3, 0, now)];
        assert_eq!(tokens.restore(now, found), 0);
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens.claim(now, key("old")), ClaimAnswer::Stored(id(1)));
        assert_eq!(tokens.claim(now, key("expired")), ClaimAnswer::Claimed);
        assert_eq!(tokens.claim(after_s(5), key("old")), ClaimAnswer::Claimed);
        assert_eq!(tokens.claim(after_s(5), key("new")), ClaimAnswer::Stored(id(3)));
    }

    #[test]
    fn after_a_restart_the_token_of_a_message_that_took_long_to_come_in_is_known_for_its_whole_time() {
        let (mut tokens, now, an_hour) = (tokens(9), after_s(3_000), Duration::from_secs(3_600));
        let slow = StoredToken::found(now, key("slow"), MessageId::new(after_s(10).unix, 0, 1), an_hour);
        assert_eq!(slow.stored_at, now.unix, "it may have been stored just now");
        let old = StoredToken::found(now, key("old"), MessageId::new(after_s(10).unix, 0, 2), Duration::from_secs(1));
        tokens.restore(now, vec![slow, old]);
        assert_eq!(tokens.claim(after_s(3_059), key("slow")), ClaimAnswer::Stored(slow.message));
        assert_eq!(tokens.claim(after_s(3_059), key("old")), ClaimAnswer::Claimed);
    }

    #[test]
    fn a_token_found_twice_counts_once_and_one_from_the_future_is_kept_no_longer_than_others() {
        let mut tokens = tokens(9);
        let now = after_s(100);
        let future = StoredToken { stored_at: now.unix + Duration::from_secs(900), ..restored("f", 2, 0, now) };
        assert_eq!(tokens.restore(now, vec![restored("t", 1, 5, now), future, restored("t", 1, 5, now)]), 0);
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens.claim(after_s(161), key("f")), ClaimAnswer::Claimed);
    }

    #[test]
    fn of_too_many_found_after_a_restart_the_newest_are_kept() {
        let mut tokens = tokens(2);
        let now = after_s(100);
        let found = vec![restored("a", 1, 9, now), restored("c", 3, 1, now), restored("b", 2, 5, now)];
        assert_eq!(tokens.restore(now, found), 1);
        assert_eq!(tokens.claim(now, key("a")), ClaimAnswer::Claimed);
        assert_eq!(tokens.claim(now, key("c")), ClaimAnswer::Stored(id(3)));
    }

    /// What is kept and what is dropped of messages with these tokens and numbers, of which these may have been refused.
    fn settled(found: &[(&str, u32)], refused: &[u32]) -> (Vec<MessageId>, Vec<MessageId>) {
        let mut tokens: Vec<_> = found.iter().map(|(token, number)| restored(token, *number, 5, START)).collect();
        let may_be_refused = |message| refused.iter().any(|number| id(*number) == message);
        let dropped = settle_repeats(&mut tokens, Duration::from_secs(60), may_be_refused);
        let mut kept: Vec<_> = tokens.iter().map(|token| token.message).collect();
        kept.sort_unstable();
        (kept, dropped)
    }

    #[test]
    fn of_messages_with_one_token_those_are_dropped_that_were_refused_whatever_their_order() {
        let found = [("t", 7), ("u", 8), ("t", 9), ("t", 5)];
        assert_eq!(settled(&found, &[5, 7, 8, 9]), (vec![id(8), id(9)], vec![id(5), id(7)]));
        assert_eq!(settled(&found, &[7, 8, 9]), (vec![id(5), id(8)], vec![id(7), id(9)]));
        assert_eq!(settled(&found, &[5, 8]), (vec![id(8), id(9)], vec![id(5)]));
        assert_eq!(settled(&found, &[8]), (vec![id(8), id(9)], vec![]));
    }

    #[test]
    fn what_came_within_the_time_of_a_transaction_is_a_repeat_unless_a_token_may_be_used_again_by_then() {
        let hours = |count: u64| Duration::from_secs(count * 3_600);
        assert_eq!(repeats_within(hours(24), hours(1)), hours(1) + ONCE_RETENTION_MIN);
        assert_eq!(repeats_within(hours(2), hours(1)), hours(1));
        assert_eq!(repeats_within(ONCE_RETENTION_MIN, hours(1)), Duration::ZERO);
    }

    #[test]
    fn a_token_that_was_used_again_after_its_time_costs_no_message() {
        let now = after_s(100_000);
        let stored = |age_s| {
            let token = restored("t", 1, age_s, now);
            StoredToken { message: MessageId::new(token.stored_at, 0, 1), ..token }
        };
        let (old, new) = (stored(50_000), stored(5));
        let mut tokens = vec![new, old];
        assert_eq!(settle_repeats(&mut tokens, Duration::from_secs(4_200), |_| true), []);
        assert_eq!(tokens, [new]);
    }

    #[test]
    fn a_token_that_was_found_twice_with_one_message_is_no_repeat() {
        assert_eq!(settled(&[("t", 1), ("u", 2), ("t", 1)], &[1, 2]), (vec![id(1), id(2)], vec![]));
    }

    #[test]
    fn users_tokens_and_secrets_make_different_keys() {
        let mut seen = HashSet::new();
        for secret in [[1; 32], [2; 32]] {
            for (user, token) in [("ann", "t"), ("bob", "t"), ("ann", "u"), ("an", "nt"), ("annt", ""), ("", "annt")] {
                assert!(seen.insert(OnceKey::new(&secret, user, token)), "{user} {token}");
                assert_eq!(OnceKey::new(&secret, user, token), OnceKey::new(&secret, user, token));
            }
        }
    }

    #[test]
    fn keys_spread_over_all_places() {
        let places: HashSet<_> = (0..1_000).map(|number| key(&number.to_string()).place(16)).collect();
        assert_eq!(places.len(), 16);
        assert!((0..1_000).all(|number| key(&number.to_string()).place(1) == 0));
    }
}
