//! Messages that are taken once (`XONCE`), over all shards: who stores, who waits for whom, and who is told what.
//!
//! ```text
//! claim ──► Turn::First   store the message, then Claim::stored ──► all who wait: Turn::Repeat
//!   │                     or drop the claim ──────────────────────► the first who waits: Turn::First
//!   ├─────► Turn::Repeat  it was stored before
//!   └─────► waits, if another connection, of whatever shard, is storing just now
//! ```
//!
//! The table of [`Tokens`] is cut into stripes with a lock each, held for one look-up and never across a wait or a system
//! call. It must not look at messages, and a claim must never be left behind: it is a value, and gives itself back when
//! it is dropped.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::limits;
use crate::observe::event::OnceTokensForgotten;
use crate::observe::metrics::OnceMetrics;
use crate::proto::message::MessageId;
use crate::proto::proof::Committed;
use crate::spool::once::{ClaimAnswer, OnceBounds, OnceKey, OnceSecret, StoredToken, Tokens};
use crate::time::Now;

/// Every token that is known, for all shards.
#[derive(Debug)]
pub struct OnceRegistry {
    secret: OnceSecret,
    stripes: Box<[Stripe]>,
    /// Forgotten before their time, and not yet told of.
    forgotten: AtomicU64,
    /// When that was last told.
    told: Mutex<Option<Duration>>,
    metrics: Arc<OnceMetrics>,
}

/// What a message with a token has come to.
#[derive(Debug)]
pub enum Turn {
    /// It is the first: store it.
    First(Claim),
    /// It was stored before, under this id, and that is still so after a crash: the proof is as good as the first one's.
    Repeat(MessageId, Committed),
}

/// The right to store a message under a token. Dropped, it passes to the next who waits for it.
#[derive(Debug)]
pub struct Claim {
    key: OnceKey,
    /// `None` when nothing is left to give back.
    registry: Option<Arc<ShardOnce>>,
}

/// The registry as one shard sees it. What its messages hold on to is this, so that only this shard counts how many do.
#[derive(Debug)]
pub struct ShardOnce(Arc<OnceRegistry>);

/// A part of the table. The alignment is two cache lines, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    table: Mutex<Table>,
    /// Tokens of stored messages in this part.
    known: AtomicUsize,
}

#[derive(Debug)]
struct Table {
    tokens: Tokens,
    /// Who waits for a claim that another one has, in the order in which they came.
    waiting: HashMap<OnceKey, VecDeque<flume::Sender<Turn>>>,
}

impl OnceRegistry {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new(bounds: OnceBounds, metrics: Arc<OnceMetrics>) -> io::Result<Self> {
        let mut secret = OnceSecret::default();
        SystemRandom::new().fill(&mut secret).map_err(|_| io::Error::other("no random bytes"))?;
        let stripes = bounds.tokens_max.div_ceil(limits::ONCE_STRIPE_TOKENS).max(1);
        let bounds = OnceBounds { tokens_max: bounds.tokens_max.div_ceil(stripes), ..bounds };
        Ok(Self {
            secret,
            stripes: (0..stripes).map(|_| Stripe::new(bounds)).collect(),
            forgotten: AtomicU64::new(0),
            told: Mutex::new(None),
            metrics,
        })
    }

    /// The key of a user's token, good for this process.
    pub fn key(&self, user: &str, token: &str) -> OnceKey {
        OnceKey::new(&self.secret, user, token)
    }

    /// Takes in what was stored before a restart, before the first message comes.
    pub fn restore(&self, now: Now, found: impl IntoIterator<Item = StoredToken>) {
        let mut by_stripe: Vec<Vec<StoredToken>> = self.stripes.iter().map(|_| Vec::new()).collect();
        for token in found {
            by_stripe[token.key.place(self.stripes.len())].push(token);
        }
        for (stripe, found) in self.stripes.iter().zip(by_stripe) {
            let forgotten = self.locked(stripe, |table| table.tokens.restore(now, found));
            self.note_forgotten(forgotten);
        }
    }

    /// To be called once a second: looks through one stripe for what has expired, and counts. Returns what the operator
    /// should be told.
    pub fn tick(&self, now: Now) -> Option<OnceTokensForgotten> {
        let turn = now.monotonic.as_secs() % self.stripes.len() as u64;
        if let Some(stripe) = self.stripes.get(turn as usize) {
            self.locked(stripe, |table| table.tokens.expire(now));
        }
        let known: usize = self.stripes.iter().map(|stripe| stripe.known.load(Ordering::Relaxed)).sum();
        self.metrics.tokens.set(known as u64);
        self.forgotten_since(now)
    }

    fn forgotten_since(&self, now: Now) -> Option<OnceTokensForgotten> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|last| now.monotonic.saturating_sub(last) >= limits::ONCE_FORGOTTEN_REMINDER);
        if !is_due || self.forgotten.load(Ordering::Relaxed) == 0 {
            return None;
        }
        *told = Some(now.monotonic);
        Some(OnceTokensForgotten { tokens: self.forgotten.swap(0, Ordering::Relaxed) })
    }

    fn note_forgotten(&self, tokens: usize) {
        if tokens > 0 {
            self.forgotten.fetch_add(tokens as u64, Ordering::Relaxed);
        }
    }

    fn stripe(&self, key: OnceKey) -> &Stripe {
        &self.stripes[key.place(self.stripes.len())]
    }

    fn locked<T>(&self, stripe: &Stripe, work: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = match stripe.table.try_lock() {
            Ok(table) => table,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.metrics.contended.increment();
                stripe.lock()
            }
        };
        let result = work(&mut table);
        stripe.known.store(table.tokens.len(), Ordering::Relaxed);
        result
    }
}

impl ShardOnce {
    /// The registry for one more shard.
    pub fn new(registry: &Arc<OnceRegistry>) -> Self {
        Self(Arc::clone(registry))
    }

    /// The key of a user's token, good for this process.
    pub fn key(&self, user: &str, token: &str) -> OnceKey {
        self.0.key(user, token)
    }

    /// Asks for the right to store a message under a token. Waits while another connection is storing one under it.
    pub async fn claim(self: &Arc<Self>, now: Now, key: OnceKey) -> Turn {
        loop {
            let turn = self.0.locked(self.0.stripe(key), |table| match table.tokens.claim(now, key) {
                ClaimAnswer::Claimed => Ok(Turn::First(Claim { key, registry: Some(Arc::clone(self)) })),
                ClaimAnswer::Stored(message) => Ok(Turn::Repeat(message, Committed::attested_by_storage())),
                ClaimAnswer::UnderWay => Err(table.wait(key)),
            });
            let waiter = match turn {
                Ok(turn) => return turn,
                Err(waiter) => waiter,
            };
            self.0.metrics.waited.increment();
            // A claim always names its heir; if it ever did not, asking again would find that out.
            if let Ok(turn) = waiter.recv_async().await {
                return turn;
            }
        }
    }
}

impl Claim {
    /// The message is stored under this id: whoever waits, and whoever comes later, is told so.
    pub fn stored(mut self, now: Now, message: MessageId, _: &Committed) {
        let Some(shard) = self.registry.take() else {
            return;
        };
        let registry = &shard.0;
        let (forgotten, waiting) = registry.locked(registry.stripe(self.key), |table| {
            (table.tokens.store(now, self.key, message), table.waiting.remove(&self.key))
        });
        registry.note_forgotten(forgotten);
        for waiter in waiting.into_iter().flatten() {
            // Whoever no longer waits need not know.
            let _ = waiter.try_send(Turn::Repeat(message, Committed::attested_by_storage()));
        }
    }

    /// Takes the duty to give it back out of it.
    fn disarm(mut self) -> Option<Arc<ShardOnce>> {
        self.registry.take()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut heir = self.registry.take();
        // Whoever waits no longer is passed over; no lock is held while a claim changes hands.
        while let Some(shard) = heir.take() {
            let registry = &shard.0;
            let Some(waiter) = registry.locked(registry.stripe(self.key), |table| table.next_or_release(self.key))
            else {
                return;
            };
            let claim = Self { key: self.key, registry: Some(shard) };
            if let Err(refused) = waiter.try_send(Turn::First(claim))
                && let Turn::First(claim) = refused.into_inner()
            {
                heir = claim.disarm();
            }
        }
    }
}

impl Stripe {
    fn new(bounds: OnceBounds) -> Self {
        let table = Table { tokens: Tokens::new(bounds), waiting: HashMap::new() };
        Self { table: Mutex::new(table), known: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Enters a further one who waits for a claimed token.
    fn wait(&mut self, key: OnceKey) -> flume::Receiver<Turn> {
        let (sender, receiver) = flume::bounded(1);
        self.waiting.entry(key).or_default().push_back(sender);
        receiver
    }

    /// The next who waits for a claimed token; if there is none, nobody has it any more.
    fn next_or_release(&mut self, key: OnceKey) -> Option<flume::Sender<Turn>> {
        let next = self.waiting.get_mut(&key).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.waiting.remove(&key);
            self.tokens.release(key);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Barrier};
    use std::task::{Context, Poll, Waker};
    use std::thread;
    use std::time::Duration;

    use futures_lite::future::block_on;

    use super::{Claim, OnceRegistry, ShardOnce, Turn};
    use crate::observe::metrics::OnceMetrics;
    use crate::proto::message::MessageId;
    use crate::proto::proof::Committed;
    use crate::spool::once::{OnceBounds, OnceKey, StoredToken};
    use crate::time::Now;

    const START: Now = Now::simulated_ms(0);

    fn registry(tokens_max: usize) -> Arc<ShardOnce> {
        let bounds = OnceBounds { retention: Duration::from_secs(60), tokens_max };
        let registry = OnceRegistry::new(bounds, Arc::new(OnceMetrics::default())).unwrap();
        Arc::new(ShardOnce::new(&Arc::new(registry)))
    }

    fn id(number: u32) -> MessageId {
        MessageId::new(START.unix, 0, number)
    }

    fn first(turn: Turn) -> Claim {
        let Turn::First(claim) = turn else { panic!("{turn:?}") };
        claim
    }

    fn repeat(turn: &Turn) -> MessageId {
        let Turn::Repeat(message, _) = turn else { panic!("{turn:?}") };
        *message
    }

    fn store(claim: Claim, number: u32) {
        claim.stored(START, id(number), &Committed::attested_by_storage());
    }

    fn poll(turn: Pin<&mut impl Future<Output = Turn>>) -> Poll<Turn> {
        turn.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Nobody is entered as waiting.
    fn assert_at_rest(registry: &ShardOnce, keys: &[OnceKey]) {
        for key in keys {
            let table = registry.0.stripe(*key).lock();
            assert!(table.waiting.is_empty());
        }
    }

    #[test]
    fn who_comes_after_a_stored_message_is_told_its_id() {
        let registry = registry(9);
        let key = registry.key("ann", "t");
        store(first(block_on(registry.claim(START, key))), 1);
        assert_eq!(repeat(&block_on(registry.claim(START, key))), id(1));
        assert_at_rest(&registry, &[key]);
    }

    #[test]
    fn the_same_token_of_another_user_is_another_message() {
        let registry = registry(9);
        let _ann = first(block_on(registry.claim(START, registry.key("ann", "t"))));
        let bob = registry.key("bob", "t");
        store(first(block_on(registry.claim(START, bob))), 2);
    }

    #[test]
    fn who_comes_while_the_first_is_being_stored_waits_and_is_told_its_id() {
        let registry = registry(9);
        let key = registry.key("ann", "t");
        let claim = first(block_on(registry.claim(START, key)));
        let (mut second, mut third) = (pin!(registry.claim(START, key)), pin!(registry.claim(START, key)));
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        store(claim, 1);
        assert_eq!((repeat(&block_on(second)), repeat(&block_on(third))), (id(1), id(1)));
        assert_eq!(registry.0.metrics.waited.value(), 2);
        assert_at_rest(&registry, &[key]);
    }

    #[test]
    fn if_the_first_fails_the_next_who_waits_takes_over_and_the_others_wait_for_that_one() {
        let registry = registry(9);
        let key = registry.key("ann", "t");
        let claim = first(block_on(registry.claim(START, key)));
        let (mut second, mut third) = (pin!(registry.claim(START, key)), pin!(registry.claim(START, key)));
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        drop(claim);
        let claim = first(block_on(second));
        assert!(poll(third.as_mut()).is_pending());
        store(claim, 2);
        assert_eq!(repeat(&block_on(third)), id(2));
    }

    #[test]
    fn if_the_first_fails_and_nobody_waits_the_token_is_free() {
        let registry = registry(9);
        let key = registry.key("ann", "t");
        drop(first(block_on(registry.claim(START, key))));
        store(first(block_on(registry.claim(START, key))), 1);
    }

    #[test]
    fn who_gives_up_waiting_is_passed_over() {
        let registry = registry(9);
        let key = registry.key("ann", "t");
        let claim = first(block_on(registry.claim(START, key)));
        let mut last = pin!(registry.claim(START, key));
        {
            let mut impatient = Box::pin(registry.claim(START, key));
            assert!(poll(impatient.as_mut()).is_pending() && poll(last.as_mut()).is_pending());
        }
        drop(claim);
        store(first(block_on(last)), 1);
        assert_at_rest(&registry, &[key]);
    }

    #[test]
    fn who_inherits_a_claim_and_is_gone_before_taking_it_leaves_it_to_the_next() {
        let registry = registry(9);
        let key = registry.key("ann", "t");
        let claim = first(block_on(registry.claim(START, key)));
        let mut gone = Box::pin(registry.claim(START, key));
        assert!(poll(gone.as_mut()).is_pending());
        let mut last = pin!(registry.claim(START, key));
        assert!(poll(last.as_mut()).is_pending());
        drop(claim);
        drop(gone);
        store(first(block_on(last)), 1);
        assert_at_rest(&registry, &[key]);
    }

    #[test]
    fn a_claim_that_nobody_inherits_is_free_even_if_all_who_waited_are_gone() {
        let registry = registry(9);
        let key = registry.key("ann", "t");
        let claim = first(block_on(registry.claim(START, key)));
        for _ in 0..1_000 {
            let mut gone = Box::pin(registry.claim(START, key));
            assert!(poll(gone.as_mut()).is_pending());
        }
        drop(claim);
        store(first(block_on(registry.claim(START, key))), 1);
        assert_at_rest(&registry, &[key]);
    }

    /// Threads stand for shards. Every other store fails, so that claims are inherited across threads too.
    #[test]
    fn raced_from_many_threads_each_token_is_stored_exactly_once_and_all_hear_the_same_id() {
        const THREADS: u32 = 4;
        const ROUNDS: u32 = 2_000;
        let registry = registry(ROUNDS as usize * 2);
        let stored: Arc<Vec<AtomicU32>> = Arc::new((0..ROUNDS).map(|_| AtomicU32::new(0)).collect());
        let start = Arc::new(Barrier::new(THREADS as usize));
        let race = |thread: u32| {
            let registry = Arc::new(ShardOnce::new(&registry.0));
            let (stored, start) = (Arc::clone(&stored), Arc::clone(&start));
            thread::spawn(move || {
                let mut heard = Vec::new();
                for round in 0..ROUNDS {
                    let key = registry.key("ann", &round.to_string());
                    start.wait();
                    let mut failures = (round + thread) % 2;
                    let message = loop {
                        match block_on(registry.claim(START, key)) {
                            Turn::Repeat(message, _) => break message,
                            Turn::First(claim) if failures > 0 => {
                                failures -= 1;
                                drop(claim);
                            }
                            Turn::First(claim) => {
                                stored[round as usize].fetch_add(1, Ordering::Relaxed);
                                store(claim, round * THREADS + thread);
                            }
                        }
                    };
                    heard.push(message);
                }
                heard
            })
        };
        let threads: Vec<_> = (0..THREADS).map(race).collect();
        let heard: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(stored.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        assert!(heard.iter().all(|of_thread| *of_thread == heard[0]));
    }

    #[test]
    fn what_is_forgotten_early_is_told_at_once_and_then_once_a_minute() {
        let registry = registry(1);
        let mut number = 0;
        let mut take = || {
            number += 1;
            store(first(block_on(registry.claim(START, registry.key("ann", &number.to_string())))), number);
        };
        let told = |seconds: u64| registry.0.tick(Now::simulated_ms(seconds * 1_000)).map(|event| event.tokens);
        take();
        assert_eq!(told(1), None);
        take();
        assert_eq!(told(2), Some(1));
        take();
        take();
        assert_eq!((told(3), told(61), told(62), told(200)), (None, None, Some(2), None));
    }

    #[test]
    fn a_token_that_was_known_before_a_restart_names_its_message_again() {
        let registry = registry(100_000);
        let found = |token: &str, number| StoredToken {
            key: registry.key("ann", token),
            message: id(number),
            stored_at: START.unix,
        };
        registry.0.restore(START, [found("a", 1), found("b", 2)]);
        assert_eq!(repeat(&block_on(registry.claim(START, registry.key("ann", "a")))), id(1));
        assert_eq!(repeat(&block_on(registry.claim(START, registry.key("ann", "b")))), id(2));
        registry.0.tick(START);
        assert_eq!(registry.0.metrics.tokens.value(), 2);
    }

    #[test]
    fn expired_tokens_are_given_back_while_nobody_asks_for_them() {
        let registry = registry(100_000);
        for number in 0..100 {
            let key = registry.key("ann", &number.to_string());
            store(first(block_on(registry.claim(START, key))), number);
        }
        let stripes = registry.0.stripes.len() as u64;
        for second in 0..stripes {
            registry.0.tick(Now::simulated_ms((100 + second) * 1_000));
        }
        assert_eq!(registry.0.metrics.tokens.value(), 0);
    }
}
