//! The world of one run: its time, its events in their order, and everybody in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use onetrip::proto::extension::{Listing, Offer};
use onetrip::proto::qhlo_id::Point;
use onetrip::time::Now;

use crate::chance::Chance;
use crate::client::Submitter;
use crate::ending::Order;
use crate::letter::Letter;
use crate::net::{End, Link, LinkName};
use crate::plan::{LARGE_BYTES, Plan, Sabotage};
use crate::process::Process;
use crate::rambler::Rambler;
use crate::seen::Seen;
use crate::server::Conversation;
use crate::sink::Sink;
use crate::start::Disks;
use crate::storage::Shard;
use crate::support::{Site, offer};

/// Something that happens at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The server stops or crashes, whatever the weather.
    Interruption,
    /// Somebody whom a server that stops waits for may have had time enough.
    StopLook,
    /// A process that has let go of everything ends.
    Farewell {
        life: u32,
    },
}

/// All that is still to happen, in order.
#[derive(Debug, Default)]
pub struct Events {
    waiting: BTreeMap<(u64, u64), Event>,
    /// Timers that wait already: each is set once for one time.
    timers: BTreeSet<(u64, Event)>,
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
        if self.timers.insert((at_us, event.clone())) {
            self.push(at_us, event);
        }
    }

    fn pop(&mut self) -> Option<(u64, Event)> {
        let ((at_us, _), event) = self.waiting.pop_first()?;
        while self.timers.first().is_some_and(|(timer_us, _)| *timer_us < at_us) {
            self.timers.pop_first();
        }
        Some((at_us, event))
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
    /// The last process has ended in good order, with everything written.
    pub stopped_well: bool,
    /// Bytes of torn batches that the last start has found.
    pub cut_bytes: u64,
    /// Whoever connects while nobody accepts waits.
    pub doors_are_kept: bool,
    /// Those who wait so.
    pub outside: Vec<LinkName>,
    /// How many shards the last start had.
    pub last_shards: usize,
    pub disks: Disks,
    /// The server's ends of connections; those of a process that has let go too.
    pub conversations: BTreeMap<LinkName, Conversation>,
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
        Self {
            now_us: 1_000_000,
            events: Events::default(),
            site,
            process: None,
            life: 0,
            stopped_well: false,
            cut_bytes: 0,
            doors_are_kept: false,
            outside: Vec::new(),
            last_shards: plan.shards,
            disks: Disks::new(),
            conversations: BTreeMap::new(),
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
            plan,
        }
    }

    /// How many shards the process has that is there.
    pub fn shard_count(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.shards.len())
    }

    /// A shard of the process that is there.
    pub fn shard(&mut self, number: usize) -> &mut Shard {
        &mut self.process.as_mut().expect("it lives").shards[number]
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
        for at_us in self.plan.interruptions_us.clone() {
            self.events.push(at_us, Event::Interruption);
        }
        while let Some((at_us, event)) = self.events.pop() {
            assert!(at_us >= self.now_us, "time goes on");
            self.now_us = at_us;
            self.seen.events += 1;
            assert!(self.seen.events < EVENTS_MAX, "it does not come to an end");
            self.happen(event);
            self.settle();
            while self.poll_stop() {
                self.settle();
            }
            self.check();
            self.maybe_crash();
            self.maybe_stop();
            self.maybe_hurry();
        }
        self.check_end();
        self.sink.judge(&self.letters, &self.plan);
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
            Event::Interruption if self.chance.one_in(2) => self.crash(),
            Event::Interruption => self.be_told_to_stop(),
            Event::Farewell { life } => self.say_farewell(life),
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
        loop {
            if self.process.is_none() {
                self.woken_shards.clear();
            }
            if let Some(shard) = self.woken_shards.pop_first() {
                self.work(shard);
            } else if let Some(link) = self.woken_links.pop_first() {
                self.serve(link);
            } else {
                return;
            }
        }
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
        }
    }

    fn maybe_stop(&mut self) {
        let may_stop = self.plan.stop_one_in > 0 && self.process.is_some() && !self.is_calm();
        // What is worth seeing is what becomes of those who are in the middle of something.
        let is_delicate =
            may_stop && self.conversations.values().any(|one| one.is_receiving() || one.is_in_handshake());
        let one_in = if is_delicate { self.plan.stop_one_in.min(DELICATE_EVENTS) } else { self.plan.stop_one_in };
        if may_stop && self.chance.one_in(one_in) {
            self.be_told_to_stop();
        }
    }

    fn be_told_to_stop(&mut self) {
        let order = self.chance.pick(&[Order::Drain, Order::HandOver]);
        self.stop(order);
    }

    /// Whoever runs the server may lose patience while it stops.
    fn maybe_hurry(&mut self) {
        let stops = self.process.as_ref().is_some_and(|process| process.stopping.is_some());
        if stops && self.chance.one_in(HURRY_EVENTS) {
            self.hurry();
        }
    }

    fn check_end(&self) {
        assert!(self.submitters.iter().all(|submitter| !submitter.is_connected()), "a client is still connected");
        assert!(self.ramblers.values().all(Option::is_none), "a rambler is still connected");
        let process = self.process.as_ref().expect("the server is up in the end");
        assert!(self.conversations.is_empty(), "connections never ended: {:?}", self.conversations.keys());
        assert!(self.outside.is_empty(), "somebody still waits to be accepted");
        process.shards.iter().for_each(Shard::check_end);
    }
}

/// How many events after a disk has failed there is more to come.
const NEAR_EVENTS: u64 = 60;

/// While somebody is in the middle of something, the server is told to stop at one event of so many.
const DELICATE_EVENTS: u64 = 100;

/// While the server stops, it is told so again at one event of so many.
const HURRY_EVENTS: u64 = 200;

/// More than any run needs.
const EVENTS_MAX: u64 = 300_000;

/// A certificate whose signatures all have the same length, so that a seed always makes the same segments.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const KEY: &[u8] = include_bytes!("key.pem");
