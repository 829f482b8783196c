//! One shard's log on a disk that chance rules, and what the shard has in memory beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onetrip::proto::message::{Message, MessageId};
use onetrip::proto::server::Resources;
use onetrip::relay::queue::{Arrival, Queue};
use onetrip::spool::log::{Completion, Log, Refusal, Ticket, Write};
use onetrip::spool::upkeep::Upkeep;

use crate::chance::Chance;
use crate::delivering::{Telling, UnderWay, routes};
use crate::disk::Disk;
use crate::ending::Ending;
use crate::net::LinkName;
use crate::plan::Sabotage;
use crate::world::{Event, World};

/// What a shard has in memory.
pub struct Shard {
    pub log: Log,
    pub queue: Queue,
    pub resources: Arc<Resources>,
    /// The connections that wait for the log.
    waiting: BTreeMap<Ticket, LinkName>,
    last_ticket: Ticket,
    in_flight: Option<Write>,
    upkeep: Option<Upkeep>,
    pub attempts: BTreeMap<u64, UnderWay>,
    pub last_attempt: u64,
    /// Reports that wait for the log, and what follows.
    pub telling: BTreeMap<Ticket, Telling>,
    /// Messages whose sender may have been told of what is not written down yet: a crash makes the report come again.
    pub unsure: BTreeSet<MessageId>,
    /// What has become of messages and their recipients, noted and not known to be written.
    pub noted: Vec<(MessageId, u32)>,
    /// The same, written.
    pub settled: Vec<(MessageId, u32)>,
    pub ending: Ending,
    /// What the last write has overwritten, if the disk lies about it.
    undo: Option<Write>,
    /// Messages that were acknowledged too early.
    pub answered: BTreeMap<Ticket, Box<Message>>,
}

impl Shard {
    /// A shard with this log, and nothing in its queue yet.
    pub fn new(world: &mut World, number: usize, log: Log) -> Self {
        let queue = Queue::new(world.plan.queue, routes(), world.chance.below(u64::MAX));
        let shard = u16::try_from(number).expect("few shards");
        let resources = Arc::new(Resources::new(shard, MESSAGE_BYTES_MAX).streaming());
        Self {
            log,
            queue,
            resources,
            waiting: BTreeMap::new(),
            last_ticket: 0,
            in_flight: None,
            upkeep: None,
            attempts: BTreeMap::new(),
            last_attempt: 0,
            telling: BTreeMap::new(),
            unsure: BTreeSet::new(),
            noted: Vec::new(),
            settled: Vec::new(),
            ending: Ending::No,
            undo: None,
            answered: BTreeMap::new(),
        }
    }

    /// A ticket for something that a connection waits for.
    pub fn ticket(&mut self, link: LinkName) -> Ticket {
        let ticket = self.next_ticket();
        self.waiting.insert(ticket, link);
        ticket
    }

    /// A ticket for something else.
    pub fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// Is an attempt or a report under way?
    pub fn is_busy(&self) -> bool {
        !self.attempts.is_empty() || !self.telling.is_empty()
    }

    /// Is nothing left to do on the disk?
    pub fn is_written(&self) -> bool {
        self.log.is_idle() && self.in_flight.is_none() && self.upkeep.is_none()
    }

    /// All that was noted is on the disk.
    pub fn note_written(&mut self) {
        self.settled.append(&mut self.noted);
        let untold: BTreeSet<_> = self.telling.values().map(|telling| telling.of).collect();
        self.unsure.retain(|message| untold.contains(message));
    }

    /// Queues a message that is on stable storage.
    pub fn enqueue(&mut self, message: &Message) {
        let arrival = Arrival { id: message.id, bytes: message.size(), envelope: &message.envelope };
        self.queue.add(arrival);
    }

    /// Bounds that hold at every moment.
    pub fn check(&self) {
        assert!(self.resources.message_bytes() <= MESSAGE_BYTES_MAX, "messages take too much room");
        assert!(self.log.waiting_bytes() <= WAITING_BYTES_MAX, "{} bytes wait for the disk", self.log.waiting_bytes());
    }

    /// Nothing is left over.
    pub fn check_end(&self) {
        assert!(self.queue.is_empty() && !self.is_busy(), "the queue has not run empty");
        assert_eq!(self.log.message_count(), 0, "the log still has messages");
        assert!(self.log.is_idle() && self.in_flight.is_none() && self.upkeep.is_none(), "the log still has work");
        assert_eq!((self.log.waiting_bytes(), self.resources.message_bytes()), (0, 0), "room is not given back");
    }
}

impl World {
    /// Lets a shard do all it can.
    pub fn work(&mut self, number: usize) {
        let (now, life) = (self.now(), self.life);
        self.answer(number);
        match self.shard(number).ending {
            Ending::No | Ending::Settling { .. } | Ending::Cut { .. } => self.begin_attempts(number),
            Ending::Carrying { .. } | Ending::Writing { .. } => {}
            Ending::LetGo => return,
        }
        // Disks stall.
        let write_us = if !self.is_calm() && self.chance.one_in(20) { 10_000_000 } else { 30_000 };
        let stalls = self.has_just_failed() && self.chance.one_in(2);
        let upkeep_us = if stalls { 10_000_000 } else { 50_000 };
        let Self { process, events, chance, now_us, .. } = self;
        let shard = &mut process.as_mut().expect("only the living are woken").shards[number];
        if shard.in_flight.is_none()
            && let Some(write) = shard.log.poll_write(now)
        {
            shard.in_flight = Some(write);
            events.push(*now_us + chance.between(20, write_us), Event::Written { life, shard: number });
        }
        let is_over = matches!(shard.ending, Ending::Writing { .. }) && shard.log.is_idle();
        if shard.upkeep.is_none()
            && !is_over
            && let Some(upkeep) = shard.log.poll_upkeep(now)
        {
            shard.upkeep = Some(upkeep);
            events.push(*now_us + chance.between(20, upkeep_us), Event::KeptUp { life, shard: number });
        }
        let is_over = matches!(shard.ending, Ending::Carrying { .. } | Ending::Writing { .. });
        let attempts = shard.queue.poll_timeout(now).filter(|_| !is_over);
        let due = [shard.log.poll_timeout(now), shard.log.poll_upkeep_timeout(now), attempts];
        for due in due.into_iter().flatten() {
            events.push_timer(due.max(now.monotonic), Event::ShardTimer { life, shard: number });
        }
    }

    /// Tells the connections what has become of their messages.
    fn answer(&mut self, number: usize) {
        for Completion { ticket, result } in self.shard(number).log.take_completions() {
            let shard = self.shard(number);
            if let Some(telling) = shard.telling.remove(&ticket) {
                self.told(number, telling, result.is_ok());
                continue;
            }
            let link = shard.waiting.remove(&ticket).expect("a ticket that was given");
            if let (Some(message), Ok(_)) = (shard.answered.remove(&ticket), result) {
                shard.enqueue(&message);
            }
            if let Some(conversation) = self.conversations.get_mut(&link) {
                conversation.tell(ticket, result);
            }
            self.woken_links.insert(link);
        }
    }

    // ── The disk ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The batch in flight is written and synced, or it is not.
    pub fn finish_write(&mut self, number: usize) {
        let fails = self.plan.disk_fails && !self.is_calm() && self.chance.one_in(8);
        let Self { process, disks, chance, seen, plan, failed_at, sink, .. } = self;
        let shard = &mut process.as_mut().expect("it lives").shards[number];
        let write = shard.in_flight.take().expect("a batch is in flight");
        let disk = disks.get_mut(&number).expect("it is open");
        if fails {
            seen.failed_writes += 1;
            *failed_at = seen.events;
            tear(chance, disk, &write);
            let failure = if chance.one_in(2) { Refusal::Full } else { Refusal::Fault };
            shard.log.handle_written(Err(failure));
        } else {
            if plan.sabotage == Sabotage::SyncsNothing {
                let bytes = u32::try_from(write.bytes.len()).expect("a batch fits its segment");
                let before = disk.read(write.place, bytes).to_vec();
                shard.undo = Some(Write { bytes: before, ..write });
            }
            disk.write(&write);
            shard.log.handle_written(Ok(()));
            if shard.log.is_idle() {
                shard.note_written();
                sink.settled.extend(shard.settled.drain(..));
            }
        }
        self.woken_shards.insert(number);
    }

    /// What was done to the segments is done, or is not.
    pub fn finish_upkeep(&mut self, number: usize) {
        let (now, is_calm) = (self.now(), self.is_calm());
        let Self { process, disks, chance, plan, .. } = self;
        let disk = disks.get_mut(&number).expect("it is open");
        let of_shard = &mut process.as_mut().expect("it lives").shards[number];
        let fails = plan.disk_fails && !is_calm && chance.one_in(20);
        match of_shard.upkeep.take().expect("something is done") {
            Upkeep::Prepare { header, recycled } => {
                let is_full = recycled.is_none() && disk.0.len() >= plan.segments_max && !is_calm;
                let result = match (fails, is_full) {
                    (true, _) => Err(Refusal::Fault),
                    (false, true) => Err(Refusal::Full),
                    (false, false) => Ok(()),
                };
                if result.is_ok() {
                    disk.prepare(header, recycled);
                }
                of_shard.log.handle_prepared(now, result);
            }
            Upkeep::Remove(_) if fails => of_shard.log.handle_removed(now, Err(Refusal::Fault)),
            Upkeep::Remove(segment) => {
                disk.0.remove(&segment);
                of_shard.log.handle_removed(now, Ok(()));
            }
            Upkeep::Read { place, bytes } => {
                let bytes = disk.read(place, bytes).to_vec();
                of_shard.log.handle_read(now, (!fails).then_some(&bytes));
            }
        }
        self.woken_shards.insert(number);
    }

    /// The machine stops while a shard was doing something to its disk.
    pub fn tear(&mut self, number: usize, shard: Shard) {
        for message in &shard.unsure {
            *self.sink.repeats.entry(*message).or_default() += 1;
        }
        let (disk, chance) = (self.disks.get_mut(&number).expect("it was open"), &mut self.chance);
        if let Some(undo) = &shard.undo {
            disk.write(undo);
        }
        if let Some(write) = &shard.in_flight {
            tear(chance, disk, write);
        }
        match (shard.upkeep, chance.below(3)) {
            (Some(Upkeep::Prepare { header, recycled }), 0) => disk.prepare(header, recycled),
            (Some(Upkeep::Prepare { header, recycled }), 1) => disk.rename(header, recycled),
            (Some(Upkeep::Remove(segment)), 0) => drop(disk.0.remove(&segment)),
            _ => {}
        }
    }
}

/// None, all, or some of its sectors are written.
pub fn tear(chance: &mut Chance, disk: &mut Disk, write: &Write) {
    let keep = chance.below(4);
    disk.tear(write, || match keep {
        0 => false,
        1 => true,
        _ => chance.one_in(2),
    });
}

/// Room for the messages in transit of a shard.
const MESSAGE_BYTES_MAX: u64 = 4 << 20;

/// What may wait for a shard's disk: all messages of a run.
const WAITING_BYTES_MAX: usize = 16 << 20;
