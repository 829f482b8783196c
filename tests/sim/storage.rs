//! One shard's storage and queue: the real log and the real queue, on a disk and before a next hop that chance rules.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use onetrip::proto::message::{Message, MessageId};
use onetrip::proto::server::Resources;
use onetrip::relay::outcome::{AttemptResult, Hop, Outcome, Reason};
use onetrip::relay::queue::{Arrival, Attempt, Queue, QueueSettings, Step};
use onetrip::relay::route::{DestinationNumber, Routes};
use onetrip::relay::{Destination, Route};
use onetrip::spool::log::{Completion, Log, Note, Refusal, Ticket, Write};
use onetrip::spool::once::{StoredToken, settle_repeats};
use onetrip::spool::record::Token;
use onetrip::spool::upkeep::Upkeep;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::net::LinkName;
use crate::server::Process;
use crate::world::{Event, Sabotage, World};

/// What a shard has in memory.
pub struct Shard {
    pub log: Log,
    queue: Queue,
    pub resources: Arc<Resources>,
    /// The connections that wait for the log.
    waiting: BTreeMap<Ticket, LinkName>,
    last_ticket: Ticket,
    in_flight: Option<Write>,
    upkeep: Option<Upkeep>,
    attempts: BTreeMap<u64, UnderWay>,
    last_attempt: u64,
    /// What the last write has overwritten, if the disk lies about it.
    undo: Option<Write>,
    /// Messages that were acknowledged too early.
    pub answered: BTreeMap<Ticket, Box<Message>>,
}

/// An attempt on its way to the next hop and back.
struct UnderWay {
    attempt: Attempt,
    message: Message,
    result: Option<AttemptResult>,
}

impl Shard {
    fn new(world: &mut World, number: usize, log: Log) -> Self {
        let queue = Queue::new(queue_settings(), routes(), world.chance.below(u64::MAX));
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
            undo: None,
            answered: BTreeMap::new(),
        }
    }

    /// A ticket for something that a connection waits for.
    pub fn ticket(&mut self, link: LinkName) -> Ticket {
        self.last_ticket += 1;
        self.waiting.insert(self.last_ticket, link);
        self.last_ticket
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
        assert!(self.queue.is_empty() && self.attempts.is_empty(), "the queue has not run empty");
        assert_eq!(self.log.message_count(), 0, "the log still has messages");
        assert!(self.log.is_idle() && self.in_flight.is_none() && self.upkeep.is_none(), "the log still has work");
        assert_eq!((self.log.waiting_bytes(), self.resources.message_bytes()), (0, 0), "room is not given back");
    }
}

impl World {
    /// Starts the server from what its disks have.
    pub fn start_server(&mut self) {
        self.life += 1;
        let now = self.now();
        let registry = Process::registry(self.plan.log.token_retention);
        let (mut tokens, mut logs) = (Vec::new(), Vec::new());
        for disk in &self.disks {
            let recovered = disk.recover(self.plan.log, now, &mut |token: Token<'_>| {
                let key = registry.key(token.user, token.token);
                tokens.push(StoredToken { key, message: token.id, stored_at: token.id.received() });
            });
            assert_eq!(recovered.damage, [], "a crash damages nothing that was committed");
            logs.push(recovered.log);
        }
        let repeats = settle_repeats(&mut tokens, |id| logs.iter().any(|log| log.contains(id)));
        self.seen.disowned += repeats.len() as u64;
        if self.plan.sabotage == Sabotage::LosesTokens {
            tokens.clear();
        }
        let shards = (0..).zip(logs).map(|(number, log)| self.restore(number, log, &repeats)).collect();
        self.woken_shards.extend(0..self.plan.shards);
        registry.restore(now, tokens);
        self.process = Some(Process::new(self, shards, registry));
    }

    /// A shard with its queue as the log has it.
    fn restore(&mut self, number: usize, log: Log, repeats: &[MessageId]) -> Shard {
        let now = self.now();
        let mut shard = Shard::new(self, number, log);
        let disk = &self.disks[number];
        let mut found = Vec::new();
        for segment in shard.log.message_segments() {
            shard.log.visit_segment(segment, &disk.0[&segment], &mut |head| {
                found.push((head.id, head.size(), head.envelope.clone()));
            });
        }
        self.seen.recovered += found.len() as u64;
        for (id, bytes, envelope) in found {
            if repeats.contains(&id) {
                shard.log.note(now, &Note::Done(id), None);
                continue;
            }
            let arrival = Arrival { id, bytes, envelope: &envelope };
            let progress = disk.message(&shard.log, id).1;
            if self.plan.sabotage == Sabotage::WarnsNobody {
                shard.queue.add(arrival);
            } else if let Some(note) = shard.queue.restore(now, arrival, progress) {
                shard.log.note(now, &note, None);
            }
        }
        shard
    }

    /// Lets a shard do all it can.
    pub fn work(&mut self, number: usize) {
        let (now, life) = (self.now(), self.life);
        self.answer(number);
        self.begin_attempts(number);
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
        if shard.upkeep.is_none()
            && let Some(upkeep) = shard.log.poll_upkeep(now)
        {
            shard.upkeep = Some(upkeep);
            events.push(*now_us + chance.between(20, upkeep_us), Event::KeptUp { life, shard: number });
        }
        let due = [shard.log.poll_timeout(now), shard.log.poll_upkeep_timeout(now), shard.queue.poll_timeout(now)];
        for due in due.into_iter().flatten() {
            events.push_timer(due.max(now.monotonic), Event::ShardTimer { life, shard: number });
        }
    }

    /// Tells the connections what has become of their messages.
    fn answer(&mut self, number: usize) {
        let process = self.process.as_mut().expect("only the living are woken");
        let shard = &mut process.shards[number];
        for Completion { ticket, result } in shard.log.take_completions() {
            let link = process.shards[number].waiting.remove(&ticket).expect("a ticket that was given");
            if let (Some(message), Ok(_)) = (process.shards[number].answered.remove(&ticket), result) {
                process.shards[number].enqueue(&message);
            }
            process.tell(link, ticket, result);
            self.woken_links.insert(link);
        }
    }

    // ── The disk ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The batch in flight is written and synced, or it is not.
    pub fn finish_write(&mut self, number: usize) {
        let fails = self.plan.disk_fails && !self.is_calm() && self.chance.one_in(8);
        let Self { process, disks, chance, seen, plan, failed_at, .. } = self;
        let shard = &mut process.as_mut().expect("it lives").shards[number];
        let write = shard.in_flight.take().expect("a batch is in flight");
        if fails {
            seen.failed_writes += 1;
            *failed_at = seen.events;
            tear(chance, &mut disks[number], &write);
            let failure = if chance.one_in(2) { Refusal::Full } else { Refusal::Fault };
            shard.log.handle_written(Err(failure));
        } else {
            if plan.sabotage == Sabotage::SyncsNothing {
                let bytes = u32::try_from(write.bytes.len()).expect("a batch fits its segment");
                let before = disks[number].read(write.place, bytes).to_vec();
                shard.undo = Some(Write { bytes: before, ..write });
            }
            disks[number].write(&write);
            shard.log.handle_written(Ok(()));
        }
        self.woken_shards.insert(number);
    }

    /// What was done to the segments is done, or is not.
    pub fn finish_upkeep(&mut self, number: usize) {
        let (now, is_calm) = (self.now(), self.is_calm());
        let Self { process, disks, chance, plan, .. } = self;
        let (disk, of_shard) = (&mut disks[number], &mut process.as_mut().expect("it lives").shards[number]);
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
        let (disk, chance) = (&mut self.disks[number], &mut self.chance);
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

    // ── The next hop ────────────────────────────────────────────────────────────────────────────────────────────────

    fn begin_attempts(&mut self, number: usize) {
        let (now, life) = (self.now(), self.life);
        let Self { process, disks, events, chance, now_us, .. } = self;
        let shard = &mut process.as_mut().expect("it lives").shards[number];
        loop {
            let attempts = &shard.attempts;
            let room = |destination: DestinationNumber| {
                let used = attempts.values().filter(|under_way| under_way.attempt.destination == destination);
                ATTEMPTS_MAX - used.count()
            };
            let attempt = match shard.queue.poll(now, room) {
                None => return,
                Some(Step::Deliver(attempt)) => attempt,
                Some(other) => panic!("nobody waits so long: {other:?}"),
            };
            let message = disks[number].message(&shard.log, attempt.message).0;
            shard.last_attempt += 1;
            shard.attempts.insert(shard.last_attempt, UnderWay { attempt, message, result: None });
            let event = Event::Carried { life, shard: number, attempt: shard.last_attempt };
            events.push(*now_us + chance.between(100, 200_000), event);
        }
    }

    /// An attempt is before the next hop: it takes the message or not, and its answer arrives or not.
    pub fn carry(&mut self, number: usize, attempt: u64) {
        let (life, fails) = (self.life, !self.is_calm() && self.chance.one_in(3));
        let Self { process, events, chance, now_us, letters, sink, .. } = self;
        let shard = &mut process.as_mut().expect("it lives").shards[number];
        let UnderWay { attempt: of, message, result } = shard.attempts.get_mut(&attempt).expect("it was begun");
        let deferred = Outcome::Deferred(reason("451 later"));
        let (mut outcomes, mut hop) = (Vec::new(), Hop::Reached);
        let mut taken = of.recipients.clone();
        match chance.below(4) {
            0 if fails => {
                taken.clear();
                hop = Hop::Unreachable(reason("nobody there"));
            }
            // The answer is lost.
            1 if fails => hop = Hop::Unreachable(reason("421 bye")),
            2 if fails => taken.retain(|_| chance.one_in(2)),
            // It answers for some, and is gone.
            3 if fails => {
                outcomes.extend(taken.first().map(|first| (*first, Outcome::Delivered(reason("250 ok")))));
                hop = Hop::Unreachable(reason("421 bye"));
            }
            _ => {}
        }
        if hop == Hop::Reached {
            let outcome =
                |to: &u32| if taken.contains(to) { Outcome::Delivered(reason("250 ok")) } else { deferred.clone() };
            outcomes = of.recipients.iter().map(|to| (*to, outcome(to))).collect();
        }
        sink.take(letters, message, &taken, of.may_be_there);
        *result = Some(AttemptResult { outcomes, hop });
        let event = Event::Settled { life, shard: number, attempt };
        events.push(*now_us + chance.between(100, 200_000), event);
    }

    /// The result of an attempt is back: what it means is written down.
    pub fn settle_attempt(&mut self, number: usize, attempt: u64) {
        let now = self.now();
        let shard = &mut self.process.as_mut().expect("it lives").shards[number];
        let UnderWay { attempt, result, .. } = shard.attempts.remove(&attempt).expect("it was begun");
        let settled = shard.queue.handle_result(now, &attempt, &result.expect("it was carried"));
        if let Some(note) = settled.note {
            assert!(
                matches!(&note, Note::Done(id) | Note::Progress(onetrip::spool::Progress { message: id, .. }) if *id == attempt.message)
            );
            shard.log.note(now, &note, None);
        }
        self.woken_shards.insert(number);
    }
}

/// None, all, or some of its sectors are written.
fn tear(chance: &mut Chance, disk: &mut Disk, write: &Write) {
    let keep = chance.below(4);
    disk.tear(write, || match keep {
        0 => false,
        1 => true,
        _ => chance.one_in(2),
    });
}

fn queue_settings() -> QueueSettings {
    QueueSettings::default()
}

/// Two destinations.
fn routes() -> Arc<Routes> {
    let destination = Destination::Maildir(PathBuf::from("b"));
    let rule = Route { domain: "b.example".to_owned(), destination };
    Arc::new(Routes::new(Destination::Maildir(PathBuf::from("others")), &[rule], "mail.example"))
}

fn reason(text: &str) -> Reason {
    Reason { status: "4.0.0".into(), text: text.into(), remote: None, passes_dsn: false }
}

/// Attempts that a destination takes at once.
const ATTEMPTS_MAX: usize = 4;

/// Room for the messages in transit of a shard.
const MESSAGE_BYTES_MAX: u64 = 4 << 20;

/// What may wait for a shard's disk: all messages of a run.
const WAITING_BYTES_MAX: usize = 16 << 20;
