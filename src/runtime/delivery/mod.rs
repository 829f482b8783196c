//! The threads of a shard that put messages where they belong, because that waits for the disk and a shard must not.
//!
//! ```text
//! shard    deliver ──► queue, bounded: full is answered "busy" at once
//! thread   takes what waits, up to a batch ──► store (Maildir): all or nothing for each message
//! shard    ◄── Committed, or why not; and the message, whose memory is used again
//! ```
//!
//! It must not decide what the client is told, and it must not lose a message: each comes back with an outcome, after a
//! panic too.

mod maildir;
pub mod relay;
pub mod through;

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::thread::{self, JoinHandle};

use self::maildir::Maildirs;
use crate::limits;
use crate::proto::envelope::Recipient;
use crate::proto::message::Message;
use crate::proto::proof::Committed;
use crate::proto::server::StoreFailure;
use crate::relay::{Destination, SyncPolicy};

/// How one shard delivers.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// Where messages go.
    pub destination: Destination,
    /// What a `250` promises.
    pub sync: SyncPolicy,
    /// Threads of this shard.
    pub threads: NonZeroUsize,
    /// Messages that may wait for a thread; further ones are [`StoreFailure::Busy`].
    pub queue_max: usize,
    /// Messages that one thread stores together.
    pub batch_max: NonZeroUsize,
    /// The server's name: in the names of message files, and the domain of `postmaster` without one.
    pub host_name: String,
    /// The shard's number, for the names of its threads.
    pub shard: u16,
}

/// What became of a message.
#[derive(Debug)]
pub struct Delivered {
    /// The proof that it is stored, or why it is not.
    pub result: Result<Committed, StoreFailure>,
    /// The message, so that its memory can be used again.
    pub message: Box<Message>,
    /// What the operator should be told: path, reason and remedy. `None` after success, and when the queue is full.
    pub fault: Option<String>,
}

/// The delivery of one shard.
#[derive(Debug)]
pub struct Delivery {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Threads { queue: RefCell<Option<flume::Sender<Job>>>, threads: RefCell<Vec<JoinHandle<()>>> },
    Discard,
}

impl DeliverySettings {
    /// Two threads, queue and batch as in [`limits`], everything on stable storage.
    pub fn new(destination: Destination, host_name: &str, shard: u16) -> Self {
        Self {
            destination,
            sync: SyncPolicy::Commit,
            threads: const { NonZeroUsize::new(2).expect("two is not zero") },
            queue_max: limits::DELIVERY_QUEUE_MAX,
            batch_max: const { NonZeroUsize::new(limits::DELIVERY_BATCH_MAX).expect("a batch is not empty") },
            host_name: host_name.to_owned(),
            shard,
        }
    }
}

impl Delivery {
    /// Starts the threads. They run on the cores on which the caller may run: call it before the caller binds itself to
    /// one core.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(settings: &DeliverySettings) -> io::Result<Self> {
        let root = match &settings.destination {
            Destination::Maildir(root) => root,
            Destination::Discard => return Ok(Self { way: Way::Discard }),
            other => return Err(io::Error::other(format!("{other} is another server, and no directory"))),
        };
        let maildirs = Maildirs::new(root, &settings.host_name, settings.sync);
        Self::start_with(settings, || maildirs.clone())
    }

    fn start_with<S: Store + 'static>(settings: &DeliverySettings, store: impl Fn() -> S) -> io::Result<Self> {
        let (queue, jobs) = flume::bounded(settings.queue_max);
        let start = |number| {
            let (jobs, batch_max, mut store) = (jobs.clone(), settings.batch_max, store());
            thread::Builder::new()
                .name(format!("delivery-{}-{number}", settings.shard))
                .spawn(move || work(&jobs, batch_max, &mut store))
        };
        let threads = (0..settings.threads.get()).map(start).collect::<io::Result<_>>()?;
        Ok(Self { way: Way::Threads { queue: RefCell::new(Some(queue)), threads: RefCell::new(threads) } })
    }

    /// Delivers a message to all its recipients, or to none.
    ///
    /// A message that was queued is delivered even if the future is dropped.
    pub async fn deliver(&self, message: Box<Message>) -> Delivered {
        self.hand_over(message, None, false).await
    }

    /// Delivers a message to some of its recipients, given by their numbers in the envelope: to all of them, or to none.
    /// `may_be_there` says that this was tried before, and that nobody knows how far it came.
    pub async fn deliver_to(&self, message: Box<Message>, recipients: &[u32], may_be_there: bool) -> Delivered {
        self.hand_over(message, Some(recipients.into()), may_be_there).await
    }

    async fn hand_over(&self, message: Box<Message>, recipients: Option<Box<[u32]>>, may_be_there: bool) -> Delivered {
        let queue = match &self.way {
            Way::Discard => return Delivered::committed(message),
            Way::Threads { queue, .. } => queue.borrow().clone(),
        };
        let Some(queue) = queue else {
            return Delivered::busy(message);
        };
        let (answer, delivered) = flume::bounded(1);
        if let Err(refused) = queue.try_send(Job { message, recipients, may_be_there, answer }) {
            return Delivered::busy(refused.into_inner().message);
        }
        drop(queue);
        delivered.recv_async().await.unwrap_or_else(|_| Delivered::without_answer())
    }

    /// Delivers what is queued, and ends the threads. From now on every message is [`StoreFailure::Busy`].
    ///
    /// Blocks until the last message is stored. Futures of [`Self::deliver`] get their answers all the same.
    pub fn stop(&self) {
        let Way::Threads { queue, threads } = &self.way else {
            return;
        };
        queue.take();
        for thread in threads.take() {
            // A panic outside of a store has ended it already, and its messages were answered for.
            let _ = thread.join();
        }
    }
}

/// So that nothing that waits is lost, even if nobody thought of stopping.
impl Drop for Delivery {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Delivered {
    fn committed(message: Box<Message>) -> Self {
        Self { result: Ok(Committed::attested_by_storage()), message, fault: None }
    }

    fn busy(message: Box<Message>) -> Self {
        Self { result: Err(StoreFailure::Busy), message, fault: None }
    }

    fn without_answer() -> Self {
        let fault = Some("a delivery thread ended without an answer; restart the server and report this".to_owned());
        Self { result: Err(StoreFailure::Fault), message: Box::default(), fault }
    }
}

/// A place for messages, in the hands of one thread.
trait Store: Send {
    /// Stores each of the messages, all or nothing for each, and says for each what became of it, in the same order. If
    /// it panics, it must have taken back what it did for all of them.
    fn store(&mut self, parcels: &[Parcel<'_>]) -> Vec<Result<Committed, Trouble>>;
}

/// A message, and whom of its recipients it is for.
#[derive(Clone, Copy, Debug)]
struct Parcel<'a> {
    message: &'a Message,
    /// By number, in ascending order; all of them if nothing is said.
    recipients: Option<&'a [u32]>,
    /// Was this tried before?
    may_be_there: bool,
}

impl<'a> Parcel<'a> {
    #[cfg(test)]
    fn whole(message: &'a Message) -> Self {
        Self { message, recipients: None, may_be_there: false }
    }

    fn recipients(&self) -> impl Iterator<Item = Recipient<'a>> + use<'a> {
        let chosen = self.recipients;
        let is_chosen = move |number: u32| chosen.is_none_or(|chosen| chosen.binary_search(&number).is_ok());
        let numbered = (0..).zip(self.message.envelope.recipients());
        numbered.filter(move |(number, _)| is_chosen(*number)).map(|(_, recipient)| recipient)
    }
}

/// Why a message was not stored.
#[derive(Clone, Debug)]
struct Trouble {
    failure: StoreFailure,
    /// For the operator.
    text: String,
}

impl Trouble {
    fn fault(text: String) -> Self {
        Self { failure: StoreFailure::Fault, text }
    }

    fn panic(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
        Self::fault(format!("storing the message failed in an unforeseen way ({said}); report this, it is a defect"))
    }
}

struct Job {
    message: Box<Message>,
    recipients: Option<Box<[u32]>>,
    may_be_there: bool,
    answer: flume::Sender<Delivered>,
}

impl Job {
    fn parcel(&self) -> Parcel<'_> {
        let Self { message, recipients, may_be_there, .. } = self;
        Parcel { message, recipients: recipients.as_deref(), may_be_there: *may_be_there }
    }

    fn answer(self, outcome: Result<Committed, Trouble>) {
        let (result, fault) = match outcome {
            Ok(committed) => (Ok(committed), None),
            Err(trouble) => (Err(trouble.failure), Some(trouble.text)),
        };
        // Fails if the connection is gone: the message is stored all the same, as its client may have hoped.
        let _ = self.answer.send(Delivered { result, message: self.message, fault });
    }
}

/// The life of a thread: batch after batch, until the delivery is stopped and nothing waits.
fn work(jobs: &flume::Receiver<Job>, batch_max: NonZeroUsize, store: &mut dyn Store) {
    let mut batch = Vec::with_capacity(batch_max.get());
    while let Ok(first) = jobs.recv() {
        batch.push(first);
        batch.extend(jobs.try_iter().take(batch_max.get() - 1));
        let parcels: Vec<_> = batch.iter().map(Job::parcel).collect();
        let outcomes = store_contained(store, &parcels);
        for (job, outcome) in batch.drain(..).zip(outcomes) {
            job.answer(outcome);
        }
    }
}

/// A panic costs the message that caused it a `451`, its neighbours some time, and the shard no thread.
fn store_contained(store: &mut dyn Store, parcels: &[Parcel<'_>]) -> Vec<Result<Committed, Trouble>> {
    match catch_unwind(AssertUnwindSafe(|| store.store(parcels))) {
        Ok(outcomes) => {
            assert_eq!(outcomes.len(), parcels.len(), "every message has an outcome");
            outcomes
        }
        Err(panic) if parcels.len() == 1 => vec![Err(Trouble::panic(&*panic))],
        Err(_) => parcels.iter().flat_map(|parcel| store_contained(store, slice::from_ref(parcel))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures_lite::future::{block_on, poll_once};

    use super::{Delivered, Delivery, DeliverySettings, Parcel, Store, Trouble};
    use crate::proto::command::{Command, parse};
    use crate::proto::message::{Message, MessageId};
    use crate::proto::proof::Committed;
    use crate::proto::server::StoreFailure;
    use crate::relay::Destination;

    /// A message from `sender` to all of `recipients`.
    pub(super) fn message(sender: &str, recipients: &[&str], content: &[u8]) -> Box<Message> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut message = Box::<Message>::default();
        message.id = MessageId::new(Duration::from_secs(1_700_000_000), 0, COUNT.fetch_add(1, Ordering::Relaxed));
        let mail = format!("MAIL FROM:<{sender}>");
        let Ok(Command::Mail(mail)) = parse(mail.as_bytes()).command else { panic!("{mail}") };
        message.envelope.begin(&mail, "ann");
        for recipient in recipients {
            let rcpt = format!("RCPT TO:<{recipient}>");
            let Ok(Command::Rcpt(rcpt)) = parse(rcpt.as_bytes()).command else { panic!("{rcpt}") };
            message.envelope.add(&rcpt);
        }
        message.trace.extend_from_slice(b"Received: from here\r\n");
        message.content.extend_from_slice(content);
        message
    }

    fn saying(content: &str) -> Box<Message> {
        message("a@b.example", &["bob@example.org"], content.as_bytes())
    }

    /// Says when a batch has arrived, and waits until it may go on. Stumbles over a message that says "panic".
    struct Gated {
        arrived: flume::Sender<usize>,
        go_on: flume::Receiver<()>,
    }

    impl Store for Gated {
        fn store(&mut self, parcels: &[Parcel<'_>]) -> Vec<Result<Committed, Trouble>> {
            // Not every test listens.
            let _ = self.arrived.send(parcels.len());
            // Disconnected means: go on, always.
            let _ = self.go_on.recv();
            assert!(parcels.iter().all(|parcel| parcel.message.content != b"panic"), "a gated panic");
            parcels.iter().map(|_| Ok(Committed::attested_by_storage())).collect()
        }
    }

    struct Fixture {
        delivery: Delivery,
        arrived: flume::Receiver<usize>,
        go_on: flume::Sender<()>,
    }

    fn gated(queue_max: usize) -> Fixture {
        let settings = DeliverySettings {
            threads: NonZeroUsize::MIN,
            queue_max,
            ..DeliverySettings::new(Destination::Discard, "mail.example.org", 0)
        };
        let ((tell, arrived), (go_on, wait)) = (flume::unbounded(), flume::unbounded());
        let store = || Gated { arrived: tell.clone(), go_on: wait.clone() };
        let delivery = Delivery::start_with(&settings, store).unwrap();
        Fixture { delivery, arrived, go_on }
    }

    fn said(delivered: &Delivered) -> (Result<(), StoreFailure>, &[u8]) {
        (delivered.result.as_ref().map(|_| ()).map_err(Clone::clone), &delivered.message.content)
    }

    #[test]
    fn a_message_goes_to_its_mailbox_and_its_memory_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let destination = Destination::Maildir(directory.path().join("mail"));
        let delivery = Delivery::start(&DeliverySettings::new(destination, "mail.example.org", 3)).unwrap();
        let delivered = block_on(delivery.deliver(saying("hello\r\n")));
        assert_eq!(said(&delivered), (Ok(()), &b"hello\r\n"[..]));
        assert_eq!(delivered.fault, None);
        let new = directory.path().join("mail/bob@example.org/new");
        assert_eq!(fs::read_dir(new).unwrap().count(), 1);
        delivery.stop();
    }

    #[test]
    fn discarding_commits_at_once() {
        let settings = DeliverySettings::new(Destination::Discard, "mail.example.org", 0);
        let delivery = Delivery::start(&settings).unwrap();
        let delivered = block_on(poll_once(delivery.deliver(saying("x")))).expect("no thread is asked");
        assert_eq!(said(&delivered).0, Ok(()));
        delivery.stop();
    }

    #[test]
    fn a_full_queue_is_busy_at_once_and_gives_the_message_back() {
        let Fixture { delivery, arrived, go_on } = gated(1);
        let mut futures: Vec<_> = ["in work", "waits", "is too many"]
            .into_iter()
            .map(|content| Box::pin(delivery.deliver(saying(content))))
            .collect();
        assert!(block_on(poll_once(&mut futures[0])).is_none());
        assert_eq!(arrived.recv(), Ok(1));
        assert!(block_on(poll_once(&mut futures[1])).is_none());
        let refused = block_on(poll_once(&mut futures[2])).expect("it is answered at once");
        assert_eq!(said(&refused), (Err(StoreFailure::Busy), &b"is too many"[..]));
        drop(go_on);
        for future in futures.drain(..2) {
            assert_eq!(said(&block_on(future)).0, Ok(()));
        }
    }

    #[test]
    fn a_panic_costs_one_message_and_neither_its_neighbours_nor_the_thread() {
        let Fixture { delivery, arrived, go_on } = gated(9);
        let mut futures: Vec<_> = ["first", "before", "panic", "after"]
            .into_iter()
            .map(|content| Box::pin(delivery.deliver(saying(content))))
            .collect();
        assert!(block_on(poll_once(&mut futures[0])).is_none());
        assert_eq!(arrived.recv(), Ok(1));
        for future in &mut futures[1..] {
            assert!(block_on(poll_once(future)).is_none());
        }
        drop(go_on);
        let delivered: Vec<_> = futures.into_iter().map(block_on).collect();
        assert_eq!(arrived.recv(), Ok(3), "the others came as one batch");
        let results: Vec<_> = delivered.iter().map(said).collect();
        let expected: [(_, &[u8]); 4] =
            [(Ok(()), b"first"), (Ok(()), b"before"), (Err(StoreFailure::Fault), b"panic"), (Ok(()), b"after")];
        assert_eq!(results, expected);
        assert!(delivered[2].fault.as_ref().is_some_and(|fault| fault.contains("(a gated panic)")));
        assert_eq!(said(&block_on(delivery.deliver(saying("later")))).0, Ok(()));
    }

    #[test]
    fn stopping_delivers_what_waits_and_refuses_what_comes_later() {
        let Fixture { delivery, go_on, .. } = gated(9);
        let mut futures: Vec<_> = (0..5).map(|_| Box::pin(delivery.deliver(saying("x")))).collect();
        for future in &mut futures {
            assert!(block_on(poll_once(future)).is_none());
        }
        drop(go_on);
        delivery.stop();
        for future in futures {
            let delivered = block_on(poll_once(future)).expect("the answer is there");
            assert_eq!(said(&delivered).0, Ok(()));
        }
        assert_eq!(said(&block_on(delivery.deliver(saying("late")))), (Err(StoreFailure::Busy), &b"late"[..]));
        delivery.stop();
    }

    #[test]
    fn a_message_whose_connection_is_gone_is_delivered() {
        let Fixture { delivery, arrived, go_on } = gated(9);
        assert!(block_on(poll_once(delivery.deliver(saying("x")))).is_none());
        drop(go_on);
        assert_eq!(arrived.recv(), Ok(1));
        delivery.stop();
    }
}
