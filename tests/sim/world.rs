//! The world of one run: its time, its events in their order, and everybody in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use onetrip::limits::SPOOL_WAITING_BYTES_MAX;
use onetrip::proto::client::EarlyData;
use onetrip::proto::extension::{Listing, Offer};
use onetrip::proto::qhlo_id::Point;
use onetrip::spool::frame::BLOCK_BYTES;
use onetrip::spool::log::LogSettings;
use onetrip::time::Now;

use crate::chance::Chance;
use crate::client::Submitter;
use crate::disk::Disk;
use crate::letter::{Letter, Sink};
use crate::net::{End, Link, LinkName};
use crate::rambler::Rambler;
use crate::server::Process;
use crate::support::{Site, offer};

/// Something that happens at some time.
#[derive(Debug)]
pub enum Event {
    ClientBegins(usize),
    RamblerBegins(usize),
    RamblerLeaves(usize),
    ClientTimer {
        client: usize,
        link: LinkName,
    },
    /// The server can take the connection.
    Opened {
        link: LinkName,
    },
    Arrives {
        link: LinkName,
        to: End,
        bytes: Vec<u8>,
    },
    /// The other end has closed.
    HungUp {
        link: LinkName,
        to: End,
    },
    /// The connection is gone, and what was under way with it.
    Lost {
        link: LinkName,
        to: End,
    },
    /// The network gives the connection up.
    Breaks {
        link: LinkName,
    },
    /// A credential is judged.
    Judged {
        link: LinkName,
    },
    ServerTimer {
        link: LinkName,
    },
    /// A batch is on the disk, or is not.
    Written {
        life: u32,
        shard: usize,
    },
    /// A segment was made, removed or read, or was not.
    KeptUp {
        life: u32,
        shard: usize,
    },
    ShardTimer {
        life: u32,
        shard: usize,
    },
    /// The next hop has an attempt before it.
    Carried {
        life: u32,
        shard: usize,
        attempt: u64,
    },
    /// The result of an attempt is back.
    Settled {
        life: u32,
        shard: usize,
        attempt: u64,
    },
    Restart,
}

/// All that is still to happen, in order.
#[derive(Debug, Default)]
pub struct Events {
    waiting: BTreeMap<(u64, u64), Event>,
    /// Timers that wait already: each is set once for one time.
    timers: BTreeSet<(u64, String)>,
    count: u64,
}

impl Events {
    /// At this microsecond, after everything else that happens then.
    pub fn push(&mut self, at_us: u64, event: Event) {
        self.count += 1;
        self.waiting.insert((at_us, self.count), event);
    }

    /// At the first microsecond that is not before `due`, unless it is set already.
    pub fn push_timer(&mut self, due: Duration, event: Event) {
        let at_us = u64::try_from(due.as_nanos().div_ceil(1_000)).expect("a run is short");
        if self.timers.insert((at_us, format!("{event:?}"))) {
            self.push(at_us, event);
        }
    }

    fn pop(&mut self) -> Option<(u64, Event)> {
        let ((at_us, _), event) = self.waiting.pop_first()?;
        self.timers = self.timers.split_off(&(at_us, String::new()));
        Some((at_us, event))
    }
}

/// What a seed chooses for the whole run.
#[derive(Debug)]
pub struct Plan {
    pub shards: usize,
    /// Until then anything may fail; from then on nothing does.
    pub storm_us: u64,
    /// The server crashes at one event of so many; never if zero.
    pub crash_one_in: u64,
    /// Writes fail, and segments cannot be made.
    pub disk_fails: bool,
    /// Most segments of a shard's disk.
    pub segments_max: usize,
    pub log: LogSettings,
    /// How the server is broken.
    pub sabotage: Sabotage,
}

/// A server that is broken on purpose, to see whether the simulator finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// It is not.
    None,
    /// It says 250 when the log has a message, before the disk has it.
    AnswersTooEarly,
    /// The disk says that a write is done although it is not yet.
    SyncsNothing,
    /// It does not look at tokens.
    ForgetsTokens,
    /// It finds messages after a restart, and no tokens.
    LosesTokens,
    /// After a restart it takes what was delivered for new.
    WarnsNobody,
}

/// What a run has come to see: a simulator that never gets anywhere would find nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub acknowledged: u64,
    pub uncertain: u64,
    pub resumed: u64,
    pub early_accepted: u64,
    pub early_rejected: u64,
    pub repeats: u64,
    pub waited: u64,
    pub crashes: u64,
    pub recovered: u64,
    /// Messages that a restart found and that had been taken elsewhere.
    pub disowned: u64,
    pub failed_writes: u64,
    pub pieces: u64,
    /// What ramblers had acknowledged.
    pub rambled: u64,
    pub events: u64,
}

impl Seen {
    pub fn note_handshake(&mut self, resumed: bool, early_data: EarlyData) {
        self.resumed += u64::from(resumed);
        self.early_accepted += u64::from(early_data == EarlyData::Accepted);
        self.early_rejected += u64::from(early_data == EarlyData::Rejected);
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.uncertain, other.uncertain),
            (&mut self.resumed, other.resumed),
            (&mut self.early_accepted, other.early_accepted),
            (&mut self.early_rejected, other.early_rejected),
            (&mut self.repeats, other.repeats),
            (&mut self.waited, other.waited),
            (&mut self.crashes, other.crashes),
            (&mut self.recovered, other.recovered),
            (&mut self.disowned, other.disowned),
            (&mut self.failed_writes, other.failed_writes),
            (&mut self.pieces, other.pieces),
            (&mut self.rambled, other.rambled),
            (&mut self.events, other.events),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
    }
}

/// Everything.
pub struct World {
    pub chance: Chance,
    pub plan: Plan,
    pub now_us: u64,
    pub events: Events,
    pub site: Site,
    /// The server; `None` while it is down.
    pub process: Option<Process>,
    /// How often it was started.
    pub life: u32,
    pub disks: Vec<Disk>,
    pub links: BTreeMap<LinkName, Link>,
    pub last_link: LinkName,
    pub submitters: Vec<Submitter>,
    /// By their number, which goes on from the clients'; `None` when they have left.
    pub ramblers: BTreeMap<usize, Option<Rambler>>,
    pub letters: Vec<Letter>,
    pub sink: Sink,
    /// Connections and shards that may have something to do.
    pub woken_links: BTreeSet<LinkName>,
    pub woken_shards: BTreeSet<usize>,
    pub seen: Seen,
    /// The event at which a disk last failed.
    pub failed_at: u64,
    tells: bool,
}

impl World {
    /// The world that a seed makes. With `tells` it prints what happens.
    pub fn new(seed: u64, sabotage: Sabotage, tells: bool) -> Self {
        let mut chance = Chance::new(seed);
        let takes_large = chance.one_in(40);
        let plan = Plan::new(&mut chance, takes_large, sabotage);
        let (mut letters, mut submitters) = (Vec::new(), Vec::new());
        let large_bytes = if takes_large { LARGE_BYTES } else { 30_000 };
        for number in 0..chance.count(1, 4) {
            submitters.push(Submitter::new(&mut chance, number, large_bytes, &mut letters));
        }
        let first = submitters.len();
        let ramblers = (first..first + chance.count(0, 1))
            .map(|number| (number, Some(Rambler::new(&mut chance, number, &mut letters))))
            .collect();
        let site = Site::with_certificate(CERTIFICATE, KEY, |settings| {
            let offer = Offer { message_bytes_max: 2 * LARGE_BYTES as u64, ..offer() };
            settings.bounds.message_bytes_max = offer.message_bytes_max;
            settings.connect = Listing::new(&offer, Point::Connect);
            settings.secured = Listing::new(&offer, Point::Secured);
        });
        let mut world = Self {
            plan,
            now_us: 1_000_000,
            events: Events::default(),
            site,
            process: None,
            life: 0,
            disks: Vec::new(),
            links: BTreeMap::new(),
            last_link: 0,
            submitters,
            ramblers,
            letters,
            sink: Sink::default(),
            woken_links: BTreeSet::new(),
            woken_shards: BTreeSet::new(),
            seen: Seen::default(),
            failed_at: 0,
            tells,
            chance,
        };
        world.disks.resize(world.plan.shards, Disk::default());
        world
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        let (start, since) = (Now::simulated_ms(0), Duration::from_micros(self.now_us));
        Now { monotonic: start.monotonic + since, unix: start.unix + since }
    }

    /// Does nothing fail any more?
    pub fn is_calm(&self) -> bool {
        self.now_us >= self.plan.storm_us
    }

    /// Lives until nothing is left to happen, and judges what came of it.
    pub fn run(mut self) -> Seen {
        self.start_server();
        self.settle();
        for number in 0..self.submitters.len() {
            let begin_us = self.now_us + self.chance.below(5_000_000);
            self.events.push(begin_us, Event::ClientBegins(number));
        }
        for number in self.ramblers.keys().copied().collect::<Vec<_>>() {
            let begin_us = self.now_us + self.chance.below(20_000_000);
            self.events.push(begin_us, Event::RamblerBegins(number));
        }
        while let Some((at_us, event)) = self.events.pop() {
            assert!(at_us >= self.now_us, "time goes on");
            self.now_us = at_us;
            self.seen.events += 1;
            assert!(self.seen.events < EVENTS_MAX, "it does not come to an end");
            self.happen(event);
            self.settle();
            self.check();
            self.maybe_crash();
        }
        self.check_end();
        self.sink.judge(&self.letters);
        self.seen
    }

    #[allow(clippy::print_stderr, reason = "for whoever replays a seed")]
    fn happen(&mut self, event: Event) {
        if self.tells {
            match &event {
                Event::Arrives { link, to, bytes } => {
                    let words = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
                    eprintln!("{:>12} {link} to {to:?}: {} bytes {words:?}", self.now_us, bytes.len());
                }
                other => eprintln!("{:>12} {other:?}", self.now_us),
            }
        }
        match event {
            Event::ClientBegins(client) => self.begin_client(client),
            Event::RamblerBegins(number) => self.begin_rambler(number),
            Event::RamblerLeaves(number) => self.end_rambler(number),
            Event::ClientTimer { client, link } => self.client_timer(client, link),
            Event::Opened { link } => self.accept(link),
            Event::Arrives { link, to, bytes } => self.arrive(link, to, &bytes),
            Event::HungUp { link, to } => self.hear_end(link, to),
            Event::Lost { link, to } => self.lose(link, to),
            Event::Breaks { link } => self.break_now(link),
            Event::Judged { link } => self.hear_verdict_on_login(link),
            Event::ServerTimer { link } => self.server_timer(link),
            Event::Written { life, shard } if life == self.life => self.finish_write(shard),
            Event::KeptUp { life, shard } if life == self.life => self.finish_upkeep(shard),
            Event::ShardTimer { life, shard } if life == self.life => {
                self.woken_shards.insert(shard);
            }
            Event::Carried { life, shard, attempt } if life == self.life => self.carry(shard, attempt),
            Event::Settled { life, shard, attempt } if life == self.life => self.settle_attempt(shard, attempt),
            Event::Restart => self.start_server(),
            // Of a process that is no more.
            _ => {}
        }
    }

    fn arrive(&mut self, link: LinkName, to: End, bytes: &[u8]) {
        if !self.passes(link, to) {
            return;
        }
        let (is_heard, other) = match to {
            End::Client => (self.client_hears(link, bytes), End::Server),
            End::Server => (self.server_hears(link, bytes), End::Client),
        };
        if !is_heard {
            // Nobody is there: the sender is told so.
            let delay_us = self.links[&link].delay_us;
            self.events.push(self.now_us + delay_us, Event::HungUp { link, to: other });
        }
    }

    fn hear_end(&mut self, link: LinkName, to: End) {
        if self.passes(link, to) {
            self.lose(link, to);
        }
    }

    fn lose(&mut self, link: LinkName, to: End) {
        match to {
            End::Client => self.client_loses(link),
            End::Server => self.server_loses(link),
        }
    }

    /// Lets everybody on the server do what can be done now.
    fn settle(&mut self) {
        while self.process.is_some() {
            if let Some(shard) = self.woken_shards.pop_first() {
                self.work(shard);
            } else if let Some(link) = self.woken_links.pop_first() {
                self.serve(link);
            } else {
                return;
            }
        }
        self.woken_links.clear();
        self.woken_shards.clear();
    }

    /// Has a disk failed a few events ago?
    pub fn has_just_failed(&self) -> bool {
        self.failed_at > 0 && self.seen.events < self.failed_at + NEAR_EVENTS && !self.is_calm()
    }

    fn maybe_crash(&mut self) {
        let may_crash = self.plan.crash_one_in > 0 && self.process.is_some() && !self.is_calm();
        // A disk that has failed is often the first sign of more to come.
        let one_in =
            if self.has_just_failed() { self.plan.crash_one_in.min(NEAR_EVENTS) } else { self.plan.crash_one_in };
        if may_crash && self.chance.one_in(one_in) {
            self.crash();
            let pause_us = self.chance.between(50_000, 15_000_000);
            self.events.push(self.now_us + pause_us, Event::Restart);
        }
    }

    fn check_end(&self) {
        assert!(self.submitters.iter().all(|submitter| !submitter.is_connected()), "a client is still connected");
        assert!(self.ramblers.values().all(Option::is_none), "a rambler is still connected");
        let process = self.process.as_ref().expect("the server is up in the end");
        process.check_end();
    }
}

impl Plan {
    fn new(chance: &mut Chance, takes_large: bool, sabotage: Sabotage) -> Self {
        let disk_fails = chance.one_in(3);
        let segment_bytes = if takes_large { 256 * BLOCK_BYTES } else { 16 * BLOCK_BYTES };
        Self {
            shards: chance.count(1, 3),
            storm_us: chance.between(5, 400) * 1_000_000,
            crash_one_in: chance.pick(&[0, 0, 100, 300, 1_000]),
            disk_fails,
            segments_max: if disk_fails && chance.one_in(2) { chance.count(2, 6) } else { usize::MAX },
            log: LogSettings {
                segment_bytes,
                batch_bytes_max: 8_192,
                part_bytes: segment_bytes as usize / 5,
                waiting_bytes_max: SPOOL_WAITING_BYTES_MAX,
                note_delay: Duration::from_millis(5),
                token_retention: Duration::from_secs(86_400),
            },
            sabotage,
        }
    }
}

/// How many events after a disk has failed there is more to come.
const NEAR_EVENTS: u64 = 60;

/// More than any run needs.
const EVENTS_MAX: u64 = 300_000;

/// More than two of the pieces in which a large message goes into the spool.
const LARGE_BYTES: usize = 600_000;

/// A certificate whose signatures all have the same length, so that a seed always makes the same segments.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const KEY: &[u8] = include_bytes!("key.pem");
