//! The threads that hash passwords, away from the shards: one hash takes about 20 ms, in which a shard serves hundreds
//! of clients.
//!
//! A credential goes three ways, the cheapest first:
//!
//! ```text
//! shard   ShardPasswords::recall   verified on this shard before: half a microsecond, no lock
//!   │     ShardPasswords::judge    else it is queued, and its connection waits without holding up the others
//!   ▼
//! thread  remembered               verified for another shard before
//!         throttle                 too many failures from there, or for that user: put off unjudged
//!         argon2                   the judgement
//! ```
//!
//! It must not decide anything itself (that is [`crate::auth`]), and it must not wait on a shard: a full queue is
//! answered at once.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::auth::hash;
use crate::auth::remembered::{Fingerprint, Fingerprints, Remembered};
use crate::auth::throttle::{Admission, Throttle, ThrottleSettings};
use crate::auth::users::Users;
use crate::limits;
use crate::proto::credential::{Credential, Member, Verdict};
use crate::time::Now;

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct PasswordSettings {
    /// Threads that hash.
    pub threads: NonZeroUsize,
    /// Credentials that may wait for a thread; further ones are [`Verdict::Unavailable`].
    pub queue_max: usize,
    /// Credentials remembered on each shard, and as many again for all of them; 0 = none.
    pub remembered_max: usize,
    /// How long a credential is remembered; 0 = not at all.
    pub remember: Duration,
    /// What slows guessing down.
    pub throttle: ThrottleSettings,
}

/// The password service, one for all shards. A clone is another handle to the same service; the threads end when the
/// last handle is dropped.
#[derive(Clone)]
pub struct Passwords {
    queue: flume::Sender<Job>,
    office: Arc<Office>,
}

/// The password service as one shard sees it, with the credentials that this shard remembers.
pub struct ShardPasswords {
    passwords: Passwords,
    remembered: RefCell<Remembered>,
}

/// What the service has done since it started, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PasswordCounts {
    /// Credentials that were hashed.
    pub hashed: u64,
    /// Credentials that a thread found remembered from another shard.
    pub recalled: u64,
    /// Credentials put off by the throttle.
    pub put_off: u64,
    /// Credentials refused because the queue was full.
    pub overflowed: u64,
    /// Faults: judgements that panicked.
    pub panicked: u64,
}

impl Default for PasswordSettings {
    fn default() -> Self {
        Self {
            threads: NonZeroUsize::MIN,
            queue_max: limits::PASSWORD_QUEUE_MAX,
            remembered_max: limits::REMEMBERED_CREDENTIALS_MAX,
            remember: limits::AUTH_REMEMBER,
            throttle: ThrottleSettings::default(),
        }
    }
}

impl Passwords {
    /// Starts the threads. There are no users until some are [published](Publish::publish).
    ///
    /// # Errors
    /// The system has no randomness to give, or no thread.
    pub fn start(settings: &PasswordSettings) -> io::Result<Self> {
        Self::start_with(settings, Box::new(hash::verify))
    }

    fn start_with(settings: &PasswordSettings, verify: Box<Verify>) -> io::Result<Self> {
        let office = Arc::new(Office::new(settings, verify)?);
        let (queue, jobs) = flume::bounded(settings.queue_max);
        for number in 0..settings.threads.get() {
            let (office, jobs) = (Arc::clone(&office), jobs.clone());
            thread::Builder::new().name(format!("password-{number}")).spawn(move || office.work(&jobs))?;
        }
        Ok(Self { queue, office })
    }

    /// Has `look` called before each hash, to publish users who were changed a moment ago: somebody who was just added can
    /// log in at once. It runs on the threads of the service. Only the first call of this counts.
    pub fn look_before_hashing(&self, look: Box<Look>) {
        // A second look would be a second owner of the users.
        let _ = self.office.look.set(look);
    }

    /// The service as a new shard sees it.
    pub fn for_shard(&self, settings: &PasswordSettings) -> ShardPasswords {
        let remembered = RefCell::new(Remembered::new(settings.remembered_max, settings.remember));
        ShardPasswords { passwords: self.clone(), remembered }
    }

    /// Judges a credential on a thread of the service.
    ///
    /// [`Verdict::Unavailable`] if the queue is full, if the throttle puts the attempt off, or after a fault.
    pub async fn judge(&self, now: Now, address: IpAddr, credential: Credential) -> Verdict {
        let (answer, verdict) = flume::bounded(1);
        let fingerprint = self.office.fingerprints.of_credential(&credential);
        if self.queue.try_send(Job { now, address, credential, fingerprint, answer }).is_err() {
            count(&self.office.counters.overflowed);
            return Verdict::Unavailable;
        }
        verdict.recv_async().await.unwrap_or(Verdict::Unavailable)
    }

    /// What the service has done so far.
    pub fn counts(&self) -> PasswordCounts {
        let Counters { hashed, recalled, put_off, overflowed, panicked } = &self.office.counters;
        let [hashed, recalled, put_off, overflowed, panicked] =
            [hashed, recalled, put_off, overflowed, panicked].map(|counter| counter.load(Ordering::Relaxed));
        PasswordCounts { hashed, recalled, put_off, overflowed, panicked }
    }
}

impl ShardPasswords {
    /// The member, if this credential was verified for this shard a while ago and the users are still the same. Takes
    /// no lock and allocates nothing.
    pub fn recall(&self, now: Now, credential: &Credential) -> Option<Arc<Member>> {
        let office = &self.passwords.office;
        let fingerprint = office.fingerprints.of_credential(credential);
        self.remembered.borrow().check(now, office.generation.load(Ordering::Acquire), &fingerprint)
    }

    /// Judges a credential that could not be recalled, and remembers it on this shard if it is good. See
    /// [`Passwords::judge`].
    pub async fn judge(&self, now: Now, address: IpAddr, credential: Credential) -> Verdict {
        let office = &self.passwords.office;
        let fingerprint = office.fingerprints.of_credential(&credential);
        let generation = office.generation.load(Ordering::Acquire);
        let verdict = self.passwords.judge(now, address, credential).await;
        if let Verdict::Accepted(member) = &verdict {
            // A copy of this shard's own: each login counts who holds on to it.
            let own = Arc::new(Member::clone(member));
            self.remembered.borrow_mut().remember(now, generation, fingerprint, own);
        }
        verdict
    }
}

/// Takes new users.
pub trait Publish {
    /// From now on these are the users. Nothing that was verified against earlier ones is remembered.
    fn publish(&self, users: Arc<Users>);
}

/// Looks whether the users have changed, and publishes them if so.
pub type Look = dyn Fn(&dyn Publish) + Send + Sync;

impl Publish for Passwords {
    fn publish(&self, users: Arc<Users>) {
        self.office.publish(users);
    }
}

/// Judges a credential by some users; always [`hash::verify`] but in tests.
type Verify = dyn Fn(&Users, &Credential) -> Option<Arc<Member>> + Send + Sync;

struct Job {
    now: Now,
    address: IpAddr,
    credential: Credential,
    fingerprint: Fingerprint,
    answer: flume::Sender<Verdict>,
}

/// What the threads share. No shard takes a lock of it; they read the generation and the fingerprint key.
struct Office {
    verify: Box<Verify>,
    look: OnceLock<Box<Look>>,
    fingerprints: Fingerprints,
    /// The generation of `published`, for shards to read without a lock.
    generation: AtomicU64,
    published: Mutex<Published>,
    remembered: Mutex<Remembered>,
    throttle: Mutex<Throttle>,
    counters: Counters,
}

#[derive(Clone, Default)]
struct Published {
    generation: u64,
    users: Arc<Users>,
}

#[derive(Default)]
struct Counters {
    hashed: AtomicU64,
    recalled: AtomicU64,
    put_off: AtomicU64,
    overflowed: AtomicU64,
    panicked: AtomicU64,
}

impl Office {
    fn new(settings: &PasswordSettings, verify: Box<Verify>) -> io::Result<Self> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the system has no randomness to give"))?;
        let fingerprints = Fingerprints::new(&key);
        Ok(Self {
            verify,
            look: OnceLock::new(),
            generation: AtomicU64::new(0),
            published: Mutex::default(),
            remembered: Mutex::new(Remembered::new(settings.remembered_max, settings.remember)),
            throttle: Mutex::new(Throttle::new(settings.throttle, fingerprints.clone())),
            fingerprints,
            counters: Counters::default(),
        })
    }

    /// The life of a thread: job after job, until the service is dropped.
    fn work(&self, jobs: &flume::Receiver<Job>) {
        for job in jobs {
            // A client that went away needs no answer.
            if job.answer.is_disconnected() {
                continue;
            }
            let verdict = self.judge_or_unavailable(&job);
            // Fails if the client has gone away meanwhile.
            let _ = job.answer.send(verdict);
        }
    }

    /// A fault costs one client a 454 and not the service a thread.
    fn judge_or_unavailable(&self, job: &Job) -> Verdict {
        catch_unwind(AssertUnwindSafe(|| self.judge(job))).unwrap_or_else(|_| {
            count(&self.counters.panicked);
            Verdict::Unavailable
        })
    }

    fn judge(&self, job: &Job) -> Verdict {
        let Job { now, address, ref credential, fingerprint, .. } = *job;
        if let Some(look) = self.look.get() {
            look(self);
        }
        let Published { generation, users } = lock(&self.published).clone();
        if let Some(member) = lock(&self.remembered).check(now, generation, &fingerprint) {
            count(&self.counters.recalled);
            return Verdict::Accepted(member);
        }
        if lock(&self.throttle).admit(now, address, &credential.user) == Admission::PutOff {
            count(&self.counters.put_off);
            return Verdict::Unavailable;
        }
        count(&self.counters.hashed);
        let Some(member) = (self.verify)(&users, credential) else {
            return Verdict::Denied { delay: lock(&self.throttle).failed(now, address, &credential.user) };
        };
        lock(&self.remembered).remember(now, generation, fingerprint, Arc::clone(&member));
        lock(&self.throttle).succeeded(now, address, &credential.user);
        Verdict::Accepted(member)
    }
}

impl Publish for Office {
    fn publish(&self, users: Arc<Users>) {
        let mut published = lock(&self.published);
        let generation = published.generation + 1;
        let earlier = mem::replace(&mut *published, Published { generation, users });
        // Last, so that whoever reads this generation is judged by these users or by later ones.
        self.generation.store(generation, Ordering::Release);
        drop(published);
        // A million users take a while to drop, and nobody needs to wait for it.
        drop(earlier);
    }
}

/// A thread that panicked with the lock in hand leaves at worst a wrong count behind, which is no reason to lock
/// everybody out.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use futures_lite::future::{block_on, poll_once};

    use super::{PasswordCounts, PasswordSettings, Passwords, Publish, ShardPasswords, Verify};
    use crate::auth::users::Users;
    use crate::limits;
    use crate::proto::credential::{Credential, Mechanism, Member, Verdict};
    use crate::proto::secret::Secret;
    use crate::time::Now;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const START: Now = Now::simulated_ms(0);

    fn credential(user: &str, password: &str) -> Credential {
        let password = Secret::new(password.as_bytes().to_vec());
        Credential { mechanism: Mechanism::Plain, user: user.to_owned(), password }
    }

    /// Accepts the password "secret" of anybody in the file.
    fn easily(users: &Users, credential: &Credential) -> Option<Arc<Member>> {
        let user = users.find(&credential.user)?;
        (credential.password.expose() == b"secret").then(|| Arc::clone(&user.member))
    }

    fn users(names: &[&str]) -> Arc<Users> {
        let line = |name| format!("{name}:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ:\n");
        Arc::new(Users::parse(&names.iter().map(line).collect::<String>()).unwrap())
    }

    fn service(settings: &PasswordSettings, verify: Box<Verify>) -> Passwords {
        let passwords = Passwords::start_with(settings, verify).unwrap();
        passwords.publish(users(&["ann", "bob"]));
        passwords
    }

    fn judge(shard: &ShardPasswords, now: Now, user: &str, password: &str) -> Verdict {
        block_on(shard.judge(now, HERE, credential(user, password)))
    }

    fn is_accepted(verdict: &Verdict, name: &str) -> bool {
        matches!(verdict, Verdict::Accepted(member) if member.name == name)
    }

    #[test]
    fn a_user_who_was_just_added_can_log_in_at_once() {
        let passwords = service(&PasswordSettings::default(), Box::new(easily));
        let shard = passwords.for_shard(&PasswordSettings::default());
        passwords.look_before_hashing(Box::new(|passwords| passwords.publish(users(&["carl"]))));
        assert!(is_accepted(&judge(&shard, START, "carl", "secret"), "carl"));
        assert!(!is_accepted(&judge(&shard, START, "ann", "secret"), "ann"), "and one who was removed cannot");
    }

    #[test]
    fn a_real_password_is_judged_by_a_real_hash() {
        let passwords = Passwords::start(&PasswordSettings::default()).unwrap();
        let hash = crate::auth::hash::hash(b"secret", [1; limits::HASH_SALT_BYTES]);
        let text = format!("ann:{}:", hash.as_str());
        passwords.publish(Arc::new(Users::parse(&text).unwrap()));
        assert!(is_accepted(&block_on(passwords.judge(START, HERE, credential("ann", "secret"))), "ann"));
        let denied = block_on(passwords.judge(START, HERE, credential("ann", "wrong")));
        assert!(matches!(denied, Verdict::Denied { delay: limits::AUTH_FAILURE_DELAY }), "{denied:?}");
    }

    #[test]
    fn before_users_are_published_everybody_is_denied() {
        let passwords = Passwords::start_with(&PasswordSettings::default(), Box::new(easily)).unwrap();
        let verdict = block_on(passwords.judge(START, HERE, credential("ann", "secret")));
        assert!(matches!(verdict, Verdict::Denied { .. }), "{verdict:?}");
    }

    #[test]
    fn a_verified_credential_is_recalled_without_the_threads() {
        let settings = PasswordSettings::default();
        let shard = service(&settings, Box::new(easily)).for_shard(&settings);
        assert_eq!(shard.recall(START, &credential("ann", "secret")), None);
        assert!(is_accepted(&judge(&shard, START, "ann", "secret"), "ann"));
        assert_eq!(shard.recall(START, &credential("ann", "secret")).unwrap().name, "ann");
        assert_eq!(shard.recall(START, &credential("ann", "wrong")), None);
        assert_eq!(shard.recall(START, &credential("bob", "secret")), None);
        let later = Now::simulated_ms(u64::try_from(limits::AUTH_REMEMBER.as_millis()).unwrap());
        assert_eq!(shard.recall(later, &credential("ann", "secret")), None);
    }

    #[test]
    fn a_denied_credential_is_never_recalled() {
        let settings = PasswordSettings::default();
        let shard = service(&settings, Box::new(easily)).for_shard(&settings);
        assert!(matches!(judge(&shard, START, "ann", "wrong"), Verdict::Denied { .. }));
        assert_eq!(shard.recall(START, &credential("ann", "wrong")), None);
    }

    #[test]
    fn a_credential_verified_for_one_shard_is_not_hashed_for_another() {
        let settings = PasswordSettings::default();
        let passwords = service(&settings, Box::new(easily));
        for _ in 0..3 {
            assert!(is_accepted(&judge(&passwords.for_shard(&settings), START, "ann", "secret"), "ann"));
        }
        assert_eq!(passwords.counts(), PasswordCounts { hashed: 1, recalled: 2, ..PasswordCounts::default() });
    }

    #[test]
    fn publishing_users_makes_everything_forgotten() {
        let settings = PasswordSettings::default();
        let passwords = service(&settings, Box::new(easily));
        let shard = passwords.for_shard(&settings);
        judge(&shard, START, "ann", "secret");
        passwords.publish(users(&["bob"]));
        assert_eq!(shard.recall(START, &credential("ann", "secret")), None);
        assert!(matches!(judge(&shard, START, "ann", "secret"), Verdict::Denied { .. }));
    }

    /// The hash runs while the user is removed: the verdict may stand, but must not be remembered as one of today's.
    #[test]
    fn a_verdict_by_users_that_were_replaced_meanwhile_is_not_remembered() {
        let settings = PasswordSettings::default();
        let (started, has_started) = flume::bounded(0);
        let (go_on, may_go_on) = flume::bounded(0);
        let slowly = move |users: &Users, credential: &Credential| {
            started.send(()).unwrap();
            may_go_on.recv().unwrap();
            easily(users, credential)
        };
        let passwords = service(&settings, Box::new(slowly));
        let shard = passwords.for_shard(&settings);
        let mut first = Box::pin(shard.judge(START, HERE, credential("ann", "secret")));
        assert!(block_on(poll_once(first.as_mut())).is_none());
        has_started.recv().unwrap();
        passwords.publish(users(&["bob"]));
        go_on.send(()).unwrap();
        assert!(is_accepted(&block_on(first), "ann"));
        assert_eq!(shard.recall(START, &credential("ann", "secret")), None);
        let mut second = Box::pin(shard.judge(START, HERE, credential("ann", "secret")));
        assert!(block_on(poll_once(second.as_mut())).is_none());
        has_started.recv().unwrap();
        go_on.send(()).unwrap();
        assert!(matches!(block_on(second), Verdict::Denied { .. }));
    }

    #[test]
    fn a_full_queue_is_answered_at_once() {
        let settings = PasswordSettings { queue_max: 2, ..PasswordSettings::default() };
        let (started, has_started) = flume::unbounded();
        let (go_on, may_go_on) = flume::unbounded();
        let slowly = move |users: &Users, credential: &Credential| {
            started.send(()).unwrap();
            may_go_on.recv().unwrap();
            easily(users, credential)
        };
        let passwords = service(&settings, Box::new(slowly));
        let attempt = |user| Box::pin(passwords.judge(START, HERE, credential(user, "secret")));
        let mut waiting = [attempt("ann"), attempt("bob"), attempt("ann")];
        for (index, verdict) in waiting.iter_mut().enumerate() {
            assert!(block_on(poll_once(verdict.as_mut())).is_none());
            if index == 0 {
                has_started.recv().unwrap();
            }
        }
        assert!(matches!(block_on(attempt("bob")), Verdict::Unavailable));
        assert_eq!(passwords.counts().overflowed, 1);
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        let names = ["ann", "bob", "ann"];
        assert!(waiting.into_iter().zip(names).all(|(verdict, name)| is_accepted(&block_on(verdict), name)));
    }

    #[test]
    fn a_panic_costs_one_client_an_answer_and_not_the_service_a_thread() {
        let settings = PasswordSettings::default();
        let passwords = service(
            &settings,
            Box::new(|users, credential| {
                assert!(credential.user != "bob", "a fault on purpose");
                easily(users, credential)
            }),
        );
        for _ in 0..3 {
            assert!(matches!(
                block_on(passwords.judge(START, HERE, credential("bob", "secret"))),
                Verdict::Unavailable
            ));
        }
        assert!(is_accepted(&block_on(passwords.judge(START, HERE, credential("ann", "secret"))), "ann"));
        assert_eq!(passwords.counts().panicked, 3);
    }

    #[test]
    fn a_throttled_address_is_put_off_but_what_is_remembered_still_counts() {
        let settings = PasswordSettings::default();
        let passwords = service(&settings, Box::new(easily));
        let shard = passwords.for_shard(&settings);
        judge(&shard, START, "ann", "secret");
        for _ in 0..limits::AUTH_FAILURES_MAX {
            assert!(matches!(judge(&shard, START, "bob", "wrong"), Verdict::Denied { .. }));
        }
        assert!(matches!(judge(&shard, START, "bob", "secret"), Verdict::Unavailable));
        assert_eq!(passwords.counts().put_off, 1);
        assert!(is_accepted(&judge(&passwords.for_shard(&settings), START, "ann", "secret"), "ann"));
    }

    #[test]
    fn an_attempt_of_a_client_that_went_away_is_not_hashed() {
        let settings = PasswordSettings::default();
        let (started, has_started) = flume::unbounded();
        let (go_on, may_go_on) = flume::unbounded();
        let slowly = move |users: &Users, credential: &Credential| {
            started.send(()).unwrap();
            may_go_on.recv().unwrap();
            easily(users, credential)
        };
        let passwords = service(&settings, Box::new(slowly));
        let mut first = Box::pin(passwords.judge(START, HERE, credential("ann", "secret")));
        assert!(block_on(poll_once(first.as_mut())).is_none());
        has_started.recv().unwrap();
        let mut gone = Box::pin(passwords.judge(START, HERE, credential("bob", "wrong")));
        assert!(block_on(poll_once(gone.as_mut())).is_none());
        drop(gone);
        for _ in 0..3 {
            go_on.send(()).unwrap();
        }
        block_on(first);
        assert!(matches!(block_on(passwords.judge(START, HERE, credential("bob", "wrong"))), Verdict::Denied { .. }));
        assert_eq!(passwords.counts().hashed, 2);
    }

    #[test]
    fn the_threads_end_with_the_last_handle() {
        let settings = PasswordSettings { remember: Duration::ZERO, ..PasswordSettings::default() };
        let (alive, ends) = flume::bounded::<()>(0);
        let passwords = service(
            &settings,
            Box::new(move |users, credential| {
                let _ = &alive;
                easily(users, credential)
            }),
        );
        let shard = passwords.for_shard(&settings);
        drop(passwords);
        assert!(is_accepted(&judge(&shard, START, "ann", "secret"), "ann"));
        drop(shard);
        assert!(ends.recv().is_err(), "the channel closes when the last thread drops the office");
    }
}
