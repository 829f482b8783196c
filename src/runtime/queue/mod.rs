//! The queue of one shard at work: what is committed goes from the spool to where it belongs.
//!
//! ```text
//!   accept ──▶ relay::queue ──▶ work task: what next ──▶ one task for each attempt
//!                  ▲                                        │ read from the spool
//!                  │                                        │ carrier: delivery threads, relay
//!                  │                                        │ report to the sender: committed like any message
//!                  └──────────── result ◀───────────────────┘
//!                                  └──▶ note in the spool: how far, or done
//! ```
//!
//! The order is what makes it safe: a report is on stable storage before its recipient is noted as failed, and a message is
//! done only after whoever comes next has it on stable storage. What [`crate::relay::queue`] decides is carried out here
//! and not decided again.
//!
//! From other threads the queues are asked through a [`QueueHandle`], which sends each shard [`Request`]s:
//!
//! | request | answer |
//! |---|---|
//! | [`Request::List`] | a [`Page`] with envelopes, and what to ask for next |
//! | [`Request::Names`] | the names with a beginning |
//! | [`Request::Find`], [`Request::Content`] | one message, if it is here |
//! | [`Request::Change`] | whether it was here, once the change is on stable storage |
//! | [`Request::Flush`] | none |

mod carrier;
mod depth;
mod requests;
mod telling;

use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::{FutureExt, future};
use glommio::timer::{Timer, sleep};

pub(super) use self::carrier::CarrierParts;
use self::carrier::{Carried, Carrier};
pub use self::depth::{Depth, ShardDepth};
pub use self::requests::{Change, Page, QueueGone, QueueHandle, Request, Shown};
use super::bell::Bell;
use super::clock::Clock;
use super::log_writer::Log;
use super::shard::spawn_guarded;
use super::spool::{OpenedLog, Spool};
use crate::limits::{CARRIED_BYTES_MAX, QUEUE_STOP_TIMEOUT};
use crate::observe::event::Event;
use crate::observe::metrics::ShardMetrics;
use crate::proto::message::Message;
use crate::proto::server::Resources;
use crate::relay::bounce;
use crate::relay::outcome::{AttemptResult, Outcome, Reason};
use crate::relay::queue::{Arrival, Attempt, Late, Note, Queue, QueueSettings, Step};
use crate::relay::route::{DestinationNumber, Routes};
use crate::time::Now;

/// What the queue of a shard is made of, before it is there.
#[derive(Debug)]
pub(super) struct QueueParts {
    pub(super) settings: QueueSettings,
    pub(super) routes: Arc<Routes>,
    /// By number of the destination.
    pub(super) carriers: Vec<CarrierParts>,
    pub(super) depth: ShardDepth,
    pub(super) requests: flume::Receiver<Request>,
    pub(super) host_name: String,
    /// So that shards that start together do not try again together.
    pub(super) seed: u64,
}

/// What the shard lends it.
pub(super) struct QueueNeeds {
    pub(super) shard: u16,
    pub(super) spool: Spool,
    pub(super) resources: Arc<Resources>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) log: Log,
}

/// What was found in the spool, put into its order.
pub(super) struct RestoredQueue {
    queue: Queue,
    /// What has turned out to be done.
    notes: Vec<Note>,
}

/// The queue of a shard at work. Clones are the same queue.
#[derive(Clone)]
pub(super) struct ShardQueue(Rc<Inner>);

struct Inner {
    queue: RefCell<Queue>,
    routes: Arc<Routes>,
    carriers: Vec<Carrier>,
    /// What is under way, by number of the destination.
    loads: Vec<Load>,
    depth: ShardDepth,
    host_name: String,
    shard: u16,
    spool: Spool,
    resources: Arc<Resources>,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    log: Log,
    /// Something is to be done.
    bell: Bell,
    /// Attempts, expiries and warnings under way.
    busy: Cell<usize>,
    is_stopping: Cell<bool>,
}

/// What is under way to one destination.
#[derive(Debug, Default)]
struct Load {
    attempts: Cell<usize>,
    /// Of the messages that are held in memory for it.
    bytes: Cell<u64>,
}

impl QueueParts {
    /// Puts what the spool holds into a queue. It reads files, before the shard serves anybody.
    ///
    /// # Errors
    /// A file cannot be read: what is in it stays in the spool until the next start.
    pub(super) fn restore(&self, now: Now, opened: &OpenedLog) -> (RestoredQueue, std::io::Result<()>) {
        let mut queue = Queue::new(self.settings, Arc::clone(&self.routes), self.seed);
        let mut notes = Vec::new();
        let read = opened.recovered(&mut |found| {
            let (id, envelope) = (found.id, found.envelope);
            if self.routes.discards(envelope.recipients().map(|recipient| recipient.address)) {
                notes.push(Note::Done(id));
                return;
            }
            let arrival = Arrival { id, bytes: found.bytes, envelope };
            notes.extend(queue.restore(now, arrival, found.progress));
        });
        (RestoredQueue { queue, notes }, read)
    }

    /// Sets the queue to work; to be called on its shard.
    pub(super) fn start(self, restored: RestoredQueue, needs: QueueNeeds) -> ShardQueue {
        let carriers: Vec<_> = self.carriers.into_iter().map(|carrier| Carrier::start(carrier, needs.clock)).collect();
        let inner = Rc::new(Inner {
            queue: RefCell::new(restored.queue),
            routes: self.routes,
            loads: carriers.iter().map(|_| Load::default()).collect(),
            carriers,
            depth: self.depth,
            host_name: self.host_name,
            shard: needs.shard,
            spool: needs.spool,
            resources: needs.resources,
            clock: needs.clock,
            metrics: needs.metrics,
            log: needs.log,
            bell: Bell::default(),
            busy: Cell::new(0),
            is_stopping: Cell::new(false),
        });
        restored.notes.iter().for_each(|note| inner.spool.note(note));
        inner.publish();
        spawn_guarded(work(Rc::clone(&inner)));
        spawn_guarded(measure(Rc::clone(&inner)));
        spawn_guarded(requests::serve(Rc::clone(&inner), self.requests));
        ShardQueue(inner)
    }
}

impl ShardQueue {
    /// Is there no room for new mail? Reports to senders are taken all the same.
    pub(super) fn is_full(&self) -> bool {
        self.0.depth.is_full()
    }

    /// Takes a message that has just been committed.
    pub(super) fn accept(&self, message: &Message) {
        self.0.accept(message);
    }

    /// Begins nothing more, and waits a while for what is under way. What is queued stays in the spool.
    pub(super) async fn stop(&self) {
        self.0.is_stopping.set(true);
        self.0.bell.ring();
        let end = self.0.now().monotonic + QUEUE_STOP_TIMEOUT;
        while self.0.busy.get() > 0 && self.0.now().monotonic < end {
            sleep(STOP_LOOK).await;
        }
        for carrier in &self.0.carriers {
            carrier.stop().await;
        }
        self.0.publish_depth(0);
    }
}

/// Begins whatever can be begun, and waits until there is more.
async fn work(inner: Rc<Inner>) {
    while !inner.is_stopping.get() {
        let now = inner.now();
        let mut begun = 0;
        while begun < BEGUN_TOGETHER_MAX
            && let Some(step) = inner.poll(now)
        {
            inner.begin(step);
            begun += 1;
        }
        if begun == BEGUN_TOGETHER_MAX {
            future::yield_now().await;
            continue;
        }
        let due = inner.queue.borrow().poll_timeout(now);
        inner.bell.heard_by(due.map(|due| due.saturating_sub(now.monotonic))).await;
    }
}

/// Shows once a second how much waits.
async fn measure(inner: Rc<Inner>) {
    while !inner.is_stopping.get() {
        inner.measure();
        Timer::new(MEASURE_EVERY).await;
    }
}

impl Inner {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn accept(&self, message: &Message) {
        let envelope = &message.envelope;
        if self.routes.discards(envelope.recipients().map(|recipient| recipient.address)) {
            self.spool.note(&Note::Done(message.id));
            return;
        }
        let arrival = Arrival { id: message.id, bytes: message.size(), envelope };
        self.queue.borrow_mut().add(arrival);
        self.publish();
        self.bell.ring();
    }

    fn poll(&self, now: Now) -> Option<Step> {
        self.queue.borrow_mut().poll(now, |destination| self.room(destination))
    }

    /// How many more attempts a destination can take. What is held in memory for it is bounded, so that a slow one with
    /// large messages does not take the memory of all.
    fn room(&self, destination: DestinationNumber) -> usize {
        let load = &self.loads[destination.0 as usize];
        if load.bytes.get() >= CARRIED_BYTES_MAX {
            return 0;
        }
        self.carriers[destination.0 as usize].room(load.attempts.get())
    }

    fn begin(self: &Rc<Self>, step: Step) {
        self.busy.set(self.busy.get() + 1);
        if let Step::Deliver(attempt) = &step {
            let load = &self.loads[attempt.destination.0 as usize];
            load.attempts.set(load.attempts.get() + 1);
            load.bytes.set(load.bytes.get() + attempt.bytes);
        }
        let inner = Rc::clone(self);
        spawn_guarded(async move {
            match step {
                Step::Deliver(attempt) => inner.deliver(attempt).await,
                Step::Expire(attempt) => inner.expire(attempt).await,
                Step::Warn(late) => inner.warn(late).await,
            }
            inner.busy.set(inner.busy.get() - 1);
            inner.bell.ring();
        });
    }

    // ── An attempt ──────────────────────────────────────────────────────────────────────────────────────────────────

    async fn deliver(&self, attempt: Attempt) {
        let carried = AssertUnwindSafe(self.carry(&attempt)).catch_unwind().await;
        let (mut result, message) = carried.unwrap_or_else(|_| (put_off(&attempt, DEFECT), None));
        let load = &self.loads[attempt.destination.0 as usize];
        load.attempts.set(load.attempts.get() - 1);
        load.bytes.set(load.bytes.get() - attempt.bytes);
        if let Some(message) = &message {
            let success = self.carriers[attempt.destination.0 as usize].success();
            let told = AssertUnwindSafe(self.tell_settled(message, &result, success)).catch_unwind().await;
            if !matches!(told, Ok(true)) {
                result.keep_waiting();
            }
        }
        self.report_result(&attempt, message.as_deref(), &result);
        self.settle(&attempt, &result);
    }

    async fn carry(&self, attempt: &Attempt) -> (AttemptResult, Option<Box<Message>>) {
        let message = match self.spool.read(attempt.message).await {
            Ok(message) => message,
            Err(error) => return (put_off(attempt, &format!("the spool cannot be read: {error}")), None),
        };
        let carrier = &self.carriers[attempt.destination.0 as usize];
        let carried = carrier.carry(message, &attempt.recipients, attempt.may_be_there).await;
        let Carried { result, message, faults } = carried;
        for fault in faults {
            self.report_fault(&message, fault);
        }
        (result, Some(message))
    }

    /// Gives a message back that has been here for too long.
    async fn expire(&self, attempt: Attempt) {
        let reason = bounce::expiry_reason(attempt.last_reply.as_deref());
        let mut result = AttemptResult::of_all(&attempt.recipients, &Outcome::Failed(reason));
        let message = match self.spool.read(attempt.message).await {
            Ok(message) => Some(message),
            // Nobody will ever read it again: there is nothing that could be given back.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => None,
            Err(error) => {
                result = put_off(&attempt, &format!("the spool cannot be read: {error}"));
                None
            }
        };
        if let Some(message) = &message {
            let success = self.carriers[attempt.destination.0 as usize].success();
            let told = AssertUnwindSafe(self.tell_settled(message, &result, success)).catch_unwind().await;
            if !matches!(told, Ok(true)) {
                result.keep_waiting();
            }
        }
        self.report_expiry(&attempt, message.as_deref(), &result);
        self.settle(&attempt, &result);
    }

    async fn warn(&self, late: Late) {
        let told = async {
            let message = self.spool.read(late.message).await.ok()?;
            self.tell_late(&message, &late).await;
            Some(())
        };
        // A warning that cannot be stored is not worth another try; its place must be given back all the same.
        let is_unread = matches!(AssertUnwindSafe(told).catch_unwind().await, Ok(None));
        let note = self.queue.borrow_mut().handle_warned(self.now(), &late);
        if let (false, Some(note)) = (is_unread, note) {
            self.spool.note(&note);
        }
    }

    fn settle(&self, attempt: &Attempt, result: &AttemptResult) {
        let settled = self.queue.borrow_mut().handle_result(self.now(), attempt, result);
        if let Some(note) = &settled.note {
            self.spool.note(note);
        }
        self.publish();
        if let Some(change) = settled.change {
            self.report_change(attempt.destination, change);
        }
    }

    // ── Figures ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn publish(&self) {
        let now = self.queue.borrow().len();
        self.publish_depth(now);
    }

    fn publish_depth(&self, now: usize) {
        self.depth.change(now);
        self.metrics.queue_messages.set(now as u64);
    }

    fn measure(&self) {
        let queue = self.queue.borrow();
        let age = queue.oldest().map(|received| self.now().unix.saturating_sub(received));
        self.metrics.queue_oldest_seconds.set(age.unwrap_or_default().as_secs());
        for (number, metrics) in (0..).zip(&self.metrics.destinations) {
            let depth = queue.depth(DestinationNumber(number));
            metrics.messages.set(depth.messages);
            metrics.is_down.set(u64::from(depth.failures > 0));
        }
    }

    fn report(&self, event: impl Into<Event>) {
        let event = event.into();
        self.metrics.observe(&event);
        self.log.event(self.now(), event);
    }
}

/// Nothing has become of any recipient, for a reason of ours.
fn put_off(attempt: &Attempt, words: &str) -> AttemptResult {
    AttemptResult::of_all(&attempt.recipients, &Outcome::Deferred(Reason::ours("4.3.0", words)))
}

/// What is said when the code that delivers has broken an invariant.
const DEFECT: &str = "delivering failed in an unforeseen way; report this, it is a defect";

/// Steps that are begun before others of the shard have their turn.
const BEGUN_TOGETHER_MAX: usize = 64;

/// How often figures are taken.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// How often a stop looks whether nothing is under way any more.
const STOP_LOOK: Duration = Duration::from_millis(5);
