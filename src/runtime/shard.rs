//! One shard: a core with its own executor, listeners, connections and buffers. Nothing here is shared on the way of a
//! message but the session cache of TLS, and of messages that bear a token the table of tokens.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_lite::FutureExt;
use glommio::timer::sleep;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::accept;
use super::admission::ShardAddresses;
use super::clock::Clock;
use super::connections::Connections;
use super::delivery::Delivery;
use super::delivery::relay::RelaySettings;
use super::delivery::through::Through;
use super::host::try_ring;
use super::listeners::{ByReturning, Listener};
use super::log_writer::Log;
use super::once::ShardOnce;
use super::passwords::ShardPasswords;
use super::queue::{QueueNeeds, QueueParts, ShardQueue};
use super::ring_enter::has_lost_completions;
use super::rounds::Lane;
use super::spool::{Keeper, OpenedLog, Spool, SpoolParts};
use crate::lateness::Lateness;
use crate::limits;
use crate::observe::event::{ConnectionId, Event, ShardFailed, SpoolFault};
use crate::observe::metrics::ShardMetrics;
use crate::proto::server::{Resources, Settings};
use crate::relay::SyncPolicy;
use crate::tls::config::{Returning, ServerConfigs, ServerSettings};
use crate::wire::Output;

/// What a shard is made of; made by the first thread, moved to the shard's own.
pub(super) struct ShardParts {
    pub(super) number: u16,
    pub(super) core: Option<usize>,
    pub(super) clock: Clock,
    pub(super) listeners: Vec<Listener>,
    pub(super) settings: Arc<ArcSwap<ListenerSettings>>,
    pub(super) tls: ByReturning<ServerSettings>,
    pub(super) message_memory: u64,
    pub(super) connections_max: u32,
    pub(super) lateness_max: Duration,
    pub(super) greet_pause: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) addresses: Arc<ShardAddresses>,
    pub(super) passwords: ShardPasswords,
    pub(super) delivery: Delivery,
    /// The server to which all messages are handed through, if they are.
    pub(super) through: Option<RelaySettings>,
    pub(super) spool: (OpenedLog, Keeper),
    pub(super) sync: SyncPolicy,
    pub(super) queue: QueueParts,
    pub(super) once: Arc<ShardOnce>,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) log: Log,
    pub(super) orders: flume::Receiver<Order>,
    /// Becomes true when this shard cannot go on, and is to be told to end.
    pub(super) has_failed: Arc<AtomicBool>,
    /// Becomes true when this shard needs nothing of the state directory any more.
    pub(super) has_let_go: Arc<AtomicBool>,
}

/// The settings of conversations, by listener: only what they announce differs.
pub(super) type ListenerSettings = ByReturning<Arc<Settings>>;

/// What the first thread tells a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Accept no more, finish what is in transaction, then end.
    Drain,
    /// The same, but connections that wait to be accepted are another server's.
    HandOver,
    /// End at once.
    Stop,
}

/// A shard at work.
pub(super) struct Shard {
    pub(super) number: u16,
    pub(super) clock: Clock,
    pub(super) configs: ByReturning<Arc<ServerConfigs>>,
    pub(super) resources: Arc<Resources>,
    pub(super) connections: Rc<Connections>,
    pub(super) connections_max: u32,
    pub(super) lateness: RefCell<Lateness>,
    pub(super) addresses: Arc<ShardAddresses>,
    pub(super) passwords: ShardPasswords,
    pub(super) delivery: Delivery,
    pub(super) through: Option<Through>,
    pub(super) spool: Spool,
    pub(super) sync: SyncPolicy,
    pub(super) queue: ShardQueue,
    pub(super) once: Arc<ShardOnce>,
    pub(super) metrics: Arc<ShardMetrics>,
    /// One buffer for all connections: it is used between two waits, never across one.
    pub(super) receive_buffer: RefCell<Box<[u8]>>,
    /// What follows on a full receive, or on a full send.
    pub(super) pieces: Rc<Lane>,
    /// Receives from clients in the middle of a TLS handshake.
    pub(super) handshakes: Rc<Lane>,
    /// Receives from clients that sent very little the last time.
    pub(super) dribbles: Rc<Lane>,
    /// All other receives.
    pub(super) flights: Rc<Lane>,
    settings: Arc<ArcSwap<ListenerSettings>>,
    /// The settings as this shard has copied them, so that counting their users touches no other shard's cache.
    own_settings: RefCell<(ListenerSettings, Arc<ListenerSettings>)>,
    greet_pause: Duration,
    drain_timeout: Duration,
    outputs: RefCell<Vec<Output>>,
    draining: Cell<bool>,
    has_failed: Arc<AtomicBool>,
    next_connection: Cell<u64>,
    log: Log,
}

/// A thread that is a shard.
pub(super) type ShardThread = std::thread::JoinHandle<Result<usize, String>>;

/// Starts a shard's thread. It returns how many connections had to be cut when it ended.
pub(super) fn start(parts: ShardParts) -> Result<ShardThread, String> {
    let number = parts.number;
    std::thread::Builder::new()
        .name(format!("onetrip-shard-{number}"))
        .spawn(move || {
            let placement = parts.core.map_or(Placement::Unbound, Placement::Fixed);
            let executor = LocalExecutorBuilder::new(placement)
                .name(&format!("shard-{number}"))
                .io_memory(IO_MEMORY_BYTES)
                .ring_depth(RING_DEPTH)
                .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
                .make()
                .map_err(|error| error.to_string())?;
            Ok(executor.run(run(parts)))
        })
        .map_err(|error| error.to_string())
}

async fn run(parts: ShardParts) -> usize {
    let ShardParts { listeners, orders, .. } = parts;
    let current = parts.settings.load_full();
    let (opened, keeper) = parts.spool;
    let (restored, read) = parts.queue.restore(parts.clock.now(), &opened);
    let spool = Spool::start(SpoolParts {
        opened,
        keeper,
        clock: parts.clock,
        metrics: Arc::clone(&parts.metrics),
        log: parts.log.clone(),
    });
    let resources = Resources::new(parts.number, parts.message_memory);
    // What is handed through as it comes passes no spool, which could keep its beginning.
    let is_spooled = parts.through.is_none() && parts.sync != SyncPolicy::Through;
    let resources = Arc::new(if is_spooled { resources.streaming() } else { resources });
    let queue = parts.queue.start(
        restored,
        QueueNeeds {
            shard: parts.number,
            spool: spool.clone(),
            resources: Arc::clone(&resources),
            clock: parts.clock,
            metrics: Arc::clone(&parts.metrics),
            log: parts.log.clone(),
        },
    );
    let shard = Rc::new(Shard {
        number: parts.number,
        clock: parts.clock,
        configs: ByReturning::each(|returning| Arc::new(ServerConfigs::new(parts.tls.of(returning)))),
        resources,
        connections: Rc::default(),
        connections_max: parts.connections_max,
        lateness: RefCell::new(Lateness::new(parts.lateness_max)),
        addresses: parts.addresses,
        passwords: parts.passwords,
        delivery: parts.delivery,
        through: parts.through.map(|settings| Through::start(settings, parts.clock)),
        spool,
        sync: parts.sync,
        queue,
        once: parts.once,
        metrics: parts.metrics,
        receive_buffer: RefCell::new(vec![0; limits::RECEIVE_BYTES].into_boxed_slice()),
        pieces: Lane::between_rounds(limits::PIECES_PER_ROUND),
        handshakes: Lane::new(limits::HANDSHAKES_PER_ROUND),
        dribbles: Lane::new(limits::DRIBBLES_PER_ROUND),
        flights: Lane::new(limits::FLIGHTS_PER_ROUND),
        own_settings: RefCell::new((own_copy(&current), current)),
        settings: parts.settings,
        greet_pause: parts.greet_pause,
        drain_timeout: parts.drain_timeout,
        outputs: RefCell::default(),
        draining: Cell::new(false),
        has_failed: parts.has_failed,
        next_connection: Cell::new(0),
        log: parts.log,
    });
    if let Err(error) = read {
        // It stays there, and is looked for again at the next start.
        shard.report(SpoolFault { reason: format!("what is queued cannot be read whole: {error}").into() });
    }
    let doors: Vec<_> = listeners.into_iter().map(|listener| accept::open(&shard, listener)).collect();
    spawn_guarded(sweep(Rc::clone(&shard)));
    let order = orders.recv_async().await.unwrap_or(Order::Stop);
    shard.draining.set(true);
    for door in doors {
        door.close(order);
    }
    shard.connections.drain();
    let is_patient = order != Order::Stop && shard.wait_until_settled(&orders).await;
    let cut = shard.connections.unsettled();
    shard.connections.cut_unsettled();
    shard.wait_for_the_cut(Connections::unsettled).await;
    shard.let_go().await;
    parts.has_let_go.store(true, Ordering::Release);
    if is_patient {
        shard.wait_until_empty(&orders).await;
    }
    shard.connections.cut();
    shard.wait_for_the_cut(Connections::len).await;
    cut
}

impl Shard {
    /// Ends everything that is written to the state directory. Nothing can be stored any more.
    async fn let_go(&self) {
        // What was handed over is written down, whoever still waits for the answer.
        self.delivery.stop();
        self.queue.stop().await;
        if let Some(through) = &self.through {
            through.close().await;
        }
        self.spool.stop().await;
    }

    /// The settings for a new connection.
    pub(super) fn settings(&self, returning: Returning) -> Arc<Settings> {
        let current = self.settings.load();
        let mut own = self.own_settings.borrow_mut();
        if !Arc::ptr_eq(&own.1, &current) {
            *own = (own_copy(&current), Arc::clone(&current));
        }
        Arc::clone(own.0.of(returning))
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        self.own_settings.borrow().0.of(Returning::default()).timeouts.idle
    }

    pub(super) fn greet_pause(&self) -> Duration {
        self.greet_pause
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(super) fn next_connection_id(&self) -> ConnectionId {
        let count = self.next_connection.get();
        self.next_connection.set(count + 1);
        ConnectionId(u64::from(self.number) << CONNECTION_COUNT_BITS | count)
    }

    /// Counts and logs an event of this shard.
    pub(super) fn report(&self, event: impl Into<Event>) {
        let event = event.into();
        self.metrics.observe(&event);
        self.log.event(self.clock.now(), event);
    }

    pub(super) fn take_output(&self) -> Output {
        self.outputs.borrow_mut().pop().unwrap_or_else(Output::with_room)
    }

    /// A buffer that one large reply has grown is not kept.
    pub(super) fn return_output(&self, mut output: Output) {
        output.wire.clear();
        let mut outputs = self.outputs.borrow_mut();
        if outputs.len() < OUTPUTS_KEPT_MAX && output.wire.capacity() <= limits::REPLIES_BYTES_MAX {
            outputs.push(output);
        }
    }

    /// Waits until nobody can have anything to store any more; false if there is to be no patience with the others either.
    async fn wait_until_settled(&self, orders: &flume::Receiver<Order>) -> bool {
        let end = self.clock.now().monotonic + self.drain_timeout;
        while self.connections.unsettled() > 0 {
            if self.clock.now().monotonic >= end {
                return true;
            }
            if let Ok(Order::Stop) = orders.try_recv() {
                return false;
            }
            sleep(DRAIN_LOOK).await;
            // Whoever fell idle since the last look.
            self.connections.drain();
        }
        true
    }

    /// Lets handshakes end, and clients notice what they were told.
    async fn wait_until_empty(&self, orders: &flume::Receiver<Order>) {
        let end = self.clock.now().monotonic + limits::FAREWELL.min(self.drain_timeout);
        while self.connections.len() > 0 && self.clock.now().monotonic < end {
            if let Ok(Order::Stop) = orders.try_recv() {
                return;
            }
            sleep(DRAIN_LOOK).await;
        }
    }

    /// Tasks whose sockets were shut down end by themselves; what is left after this waits for a disk.
    async fn wait_for_the_cut(&self, left: impl Fn(&Connections) -> usize) {
        for _ in 0..CUT_LOOKS_MAX {
            if left(&self.connections) == 0 {
                return;
            }
            sleep(DRAIN_LOOK).await;
        }
    }
}

fn own_copy(settings: &ListenerSettings) -> ListenerSettings {
    ByReturning::each(|returning| Arc::new(Settings::clone(settings.of(returning))))
}

/// Runs a task on this shard. One that panics ends alone: the executor by itself would end with it, and all connections of
/// the shard.
pub(super) fn spawn_guarded(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(async move {
        let _ = guarded(task).await;
    })
    .detach();
}

/// Runs a task; a panic in it becomes an error with the panic's words.
pub(super) async fn guarded(task: impl Future<Output = ()>) -> Result<(), String> {
    AssertUnwindSafe(task).catch_unwind().await.map_err(|panic| words_of(&*panic))
}

/// What a panic says.
pub(super) fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(ToString::to_string);
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".to_owned())
}

/// Looks once a second at all deadlines, and whether the ring is whole.
async fn sweep(shard: Rc<Shard>) {
    while shard.connections.len() > 0 || !shard.is_draining() {
        sleep(SWEEP_EVERY).await;
        shard.connections.sweep(shard.clock.now().monotonic);
        if has_lost_completions() && !shard.has_failed.swap(true, Ordering::Release) {
            // Somebody waits for what was lost, and would for ever: a client, or a message that is being written.
            let reason = "the kernel had no memory to keep what is ready: some of it is lost".into();
            shard.report(ShardFailed { shard: shard.number, reason });
        }
    }
}

/// Is this host able to run executors? Found out before anything is announced.
pub(super) fn try_executor() -> io::Result<()> {
    // Where there is no ring at all, the executor would end with a panic and not with a reason.
    try_ring()?;
    std::thread::spawn(|| {
        LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .make()
            .map(|executor| executor.run(async {}))
            .map_err(|error| io::Error::other(error.to_string()))
    })
    .join()
    .unwrap_or_else(|_| Err(io::Error::other("the executor broke")))
}

/// Deadlines are whole seconds.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often a draining shard looks whether it is empty.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// Two seconds for tasks to notice that their sockets are gone.
const CUT_LOOKS_MAX: u32 = 400;

/// Sockets need no registered memory; the default of 10 MiB would be wasted.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Enough for every connection of a shard that wakes at once: the ring is flushed when it is full.
const RING_DEPTH: usize = 128;

/// Send buffers kept for the next connections that have something to say.
const OUTPUTS_KEPT_MAX: usize = 256;

/// Room for 2^48 connections of each shard before a name comes again.
const CONNECTION_COUNT_BITS: u32 = 48;

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::guarded;

    #[test]
    fn a_panic_ends_its_own_task_and_says_why() {
        assert_eq!(block_on(guarded(async { panic!("broken") })), Err("broken".to_owned()));
        assert_eq!(block_on(guarded(async {})), Ok(()));
    }
}
