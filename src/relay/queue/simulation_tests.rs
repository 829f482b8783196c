//! A queue in a world of chance, on virtual time: mail comes, hops die and come back, refuse and put off, operators hold and
//! release, and the process ends at any moment and starts again from what was noted.
//!
//! Whatever happens: every recipient of every message is delivered to once, or given back once, or still queued.

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use super::tests::{envelope, reason, routes};
use super::{Arrival, Attempt, Late, Note, Queue, QueueSettings, Step};
use crate::proto::envelope::Envelope;
use crate::proto::message::MessageId;
use crate::relay::outcome::{AttemptResult, Hop, Outcome};
use crate::spool::{Progress, RecipientState};
use crate::time::Now;

/// Replays one seed.
const SEED_VARIABLE: &str = "ONETRIP_QUEUE_SEED";
/// Plays so many seeds, for the long form.
const SEEDS_VARIABLE: &str = "ONETRIP_QUEUE_SEEDS";
const SEEDS: u64 = 400;
const STEPS: u32 = 400;
const HOPS: usize = 3;
/// Attempts that a carrier takes at once.
const ROOM: usize = 4;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What is known of a message outside of the queue: what the disk would hold, and what really happened.
struct Fact {
    envelope: Envelope,
    progress: Option<Progress>,
    is_done: bool,
    is_removed: bool,
    delivered: Vec<u32>,
    returned: Vec<u32>,
}

struct World {
    dice: Dice,
    now_ms: u64,
    queue: Queue,
    facts: BTreeMap<MessageId, Fact>,
    under_way: Vec<(Attempt, bool)>,
    warnings: Vec<Late>,
    is_dead: [bool; HOPS],
    /// When each hop last answered "nobody", and when the last attempt began since then.
    found_dead: [Option<u64>; HOPS],
    last_probe: [Option<u64>; HOPS],
    /// An operator wants to know: the next attempt may begin at once.
    is_flushed: [bool; HOPS],
    count: u32,
}

fn settings() -> QueueSettings {
    QueueSettings { lifetime: Duration::from_secs(86_400), ..QueueSettings::default() }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now_ms: 5_000,
            queue: Queue::new(settings(), routes(), seed),
            facts: BTreeMap::new(),
            under_way: Vec::new(),
            warnings: Vec::new(),
            is_dead: [false; HOPS],
            found_dead: [None; HOPS],
            last_probe: [None; HOPS],
            is_flushed: [false; HOPS],
            count: 0,
        }
    }

    fn now(&self) -> Now {
        Now::simulated_ms(self.now_ms)
    }

    fn step(&mut self) {
        match self.dice.roll(16) {
            0..=3 => self.submit(),
            4..=8 => self.poll(),
            9..=11 => self.finish_one(),
            12 => self.now_ms += self.dice.roll(600_000),
            13 => self.sleep(),
            14 => self.change_a_hop(),
            _ => self.operate(),
        }
        if self.dice.one_in(60) {
            self.crash();
        }
    }

    fn submit(&mut self) {
        let domains = ["a.example", "b.example", "c.example"];
        let count = 1 + self.dice.roll(5);
        let recipients: Vec<String> = (0..count)
            .map(|number| {
                let domain = domains[self.dice.roll(3) as usize];
                let parameters = if self.dice.one_in(4) { " NOTIFY=DELAY" } else { "" };
                format!("r{number}@{domain}{parameters}")
            })
            .collect();
        let envelope = envelope(&recipients.iter().map(String::as_str).collect::<Vec<_>>());
        self.count += 1;
        let id = MessageId::new(self.now().unix, 0, self.count);
        self.queue.add(Arrival { id, bytes: 1, envelope: &envelope });
        let (delivered, returned) = (vec![0; count as usize], vec![0; count as usize]);
        let fact = Fact { envelope, progress: None, is_done: false, is_removed: false, delivered, returned };
        self.facts.insert(id, fact);
    }

    fn poll(&mut self) {
        let under_way = &self.under_way;
        let room = |destination| {
            let used = under_way.iter().filter(|(attempt, is_expiry)| attempt.destination == destination && !is_expiry);
            ROOM - used.count()
        };
        let now = Now::simulated_ms(self.now_ms);
        match self.queue.poll(now, room) {
            None => {}
            Some(Step::Deliver(attempt)) => {
                self.check_probe(&attempt);
                self.check_waiting(&attempt);
                self.under_way.push((attempt, false));
            }
            Some(Step::Expire(attempt)) => {
                assert!(attempt.message.received() + settings().lifetime <= now.unix, "it is too old");
                self.check_waiting(&attempt);
                self.under_way.push((attempt, true));
            }
            Some(Step::Warn(late)) => {
                assert!(late.message.received() + settings().delay_warning <= now.unix, "it is late");
                self.warnings.push(late);
            }
        }
    }

    /// A dead hop is looked at by one attempt at a time, and never sooner than the shortest wait.
    fn check_probe(&mut self, attempt: &Attempt) {
        let hop = attempt.destination.0 as usize;
        let is_flushed = std::mem::take(&mut self.is_flushed[hop]);
        let Some(found) = self.found_dead[hop] else { return };
        if is_flushed {
            self.last_probe[hop] = Some(self.now_ms);
            return;
        }
        assert!(self.now_ms >= found + 5_000, "not before the first wait");
        if let Some(last) = self.last_probe[hop] {
            assert!(self.now_ms >= last + 5_000, "not again so soon");
        }
        self.last_probe[hop] = Some(self.now_ms);
    }

    /// Nobody is tried again who has it, or got it back, or is being tried.
    fn check_waiting(&self, attempt: &Attempt) {
        let fact = &self.facts[&attempt.message];
        assert!(!fact.is_done && !attempt.recipients.is_empty());
        for recipient in &attempt.recipients {
            assert_eq!(fact.delivered[*recipient as usize] + fact.returned[*recipient as usize], 0);
            let same = |(other, _): &&(Attempt, bool)| {
                other.message == attempt.message && other.recipients.contains(recipient)
            };
            assert!(self.under_way.iter().find(same).is_none(), "it is under way already");
        }
    }

    fn finish_one(&mut self) {
        if let Some(late) = self.warnings.pop() {
            let note = self.queue.handle_warned(self.now(), &late);
            return self.note(note);
        }
        if self.under_way.is_empty() {
            return;
        }
        let chosen = self.dice.roll(self.under_way.len() as u64) as usize;
        let (attempt, is_expiry) = self.under_way.swap_remove(chosen);
        let result = if is_expiry { self.give_back(&attempt) } else { self.carry(&attempt) };
        let hop = attempt.destination.0 as usize;
        if !is_expiry && result.hop == Hop::Reached {
            (self.found_dead[hop], self.last_probe[hop]) = (None, None);
        } else if !is_expiry && result.hop != Hop::Unasked && self.found_dead[hop].is_none() {
            self.found_dead[hop] = Some(self.now_ms);
        }
        let settled = self.queue.handle_result(self.now(), &attempt, &result);
        self.note(settled.note);
    }

    fn give_back(&mut self, attempt: &Attempt) -> AttemptResult {
        let fails = self.dice.one_in(5);
        let fact = self.facts.get_mut(&attempt.message).unwrap();
        let outcome = |recipient: &u32| {
            if fails {
                return (*recipient, Outcome::Deferred(reason("no room for the report")));
            }
            fact.returned[*recipient as usize] += 1;
            (*recipient, Outcome::Failed(reason("too old")))
        };
        AttemptResult { outcomes: attempt.recipients.iter().map(outcome).collect(), hop: Hop::Reached }
    }

    fn carry(&mut self, attempt: &Attempt) -> AttemptResult {
        if self.dice.one_in(20) {
            // The spool could not be read, so another attempt may look at once.
            self.is_flushed[attempt.destination.0 as usize] = true;
            return AttemptResult::of_all(&attempt.recipients, &Outcome::Deferred(reason("unread")));
        }
        if self.is_dead[attempt.destination.0 as usize] {
            return AttemptResult { outcomes: vec![], hop: Hop::Unreachable(reason("nobody there")) };
        }
        let fact = self.facts.get_mut(&attempt.message).unwrap();
        let mut outcomes = Vec::new();
        for recipient in &attempt.recipients {
            let outcome = match self.dice.roll(8) {
                0 => {
                    fact.returned[*recipient as usize] += 1;
                    Outcome::Failed(reason("550 no"))
                }
                1 | 2 => Outcome::Deferred(reason("451 later")),
                3 => continue,
                _ => {
                    fact.delivered[*recipient as usize] += 1;
                    Outcome::Delivered(reason("250 ok"))
                }
            };
            outcomes.push((*recipient, outcome));
        }
        // It may hang up after some of the replies.
        let hop = if self.dice.one_in(12) { Hop::Unreachable(reason("421 bye")) } else { Hop::Reached };
        AttemptResult { outcomes, hop }
    }

    fn note(&mut self, note: Option<Note>) {
        match note {
            None => {}
            Some(Note::Done(id)) => self.facts.get_mut(&id).unwrap().is_done = true,
            Some(Note::Progress(progress)) => {
                let fact = self.facts.get_mut(&progress.message).unwrap();
                assert!(!fact.is_done, "what is done does not go on");
                for (number, state) in progress.recipients.iter().enumerate() {
                    let expected = match (fact.delivered[number], fact.returned[number]) {
                        (0, 0) => RecipientState::Waiting,
                        (1, 0) => RecipientState::Delivered,
                        _ => RecipientState::Failed,
                    };
                    assert_eq!(*state, expected, "the note tells what happened");
                }
                fact.progress = Some(progress);
            }
        }
    }

    fn sleep(&mut self) {
        if let Some(until) = self.queue.poll_timeout(self.now()) {
            let until_ms = u64::try_from(until.as_nanos().div_ceil(1_000_000)).unwrap();
            self.now_ms = self.now_ms.max(until_ms);
        }
    }

    fn change_a_hop(&mut self) {
        let hop = self.dice.roll(HOPS as u64) as usize;
        self.is_dead[hop] = self.dice.one_in(3);
    }

    fn operate(&mut self) {
        let now = self.now();
        let names: Vec<_> = self.queue.list(now, MessageId::NONE).map(|listed| listed.message).collect();
        if names.is_empty() {
            return;
        }
        let id = names[self.dice.roll(names.len() as u64) as usize];
        match self.dice.roll(6) {
            0 | 1 => {
                let note = self.queue.hold(now, id);
                self.note(note);
            }
            2 | 3 => {
                let note = self.queue.release(now, id);
                self.note(note);
            }
            4 => {
                self.facts.get_mut(&id).unwrap().is_removed = true;
                let note = self.queue.remove(id);
                self.note(note);
            }
            _ => {
                self.is_flushed = [true; HOPS];
                match self.dice.roll(2) {
                    0 => self.queue.flush_all(now),
                    _ => assert!(self.queue.flush(now, id)),
                }
            }
        }
    }

    /// The process ends, with all that was under way, and starts again.
    fn crash(&mut self) {
        self.under_way.clear();
        self.warnings.clear();
        (self.found_dead, self.last_probe) = ([None; HOPS], [None; HOPS]);
        let seed = self.dice.roll(u64::MAX);
        self.queue = Queue::new(settings(), routes(), seed);
        let now = self.now();
        for (id, fact) in &mut self.facts {
            if fact.is_done {
                continue;
            }
            let arrival = Arrival { id: *id, bytes: 1, envelope: &fact.envelope };
            if self.queue.restore(now, arrival, fact.progress.clone()).is_some() {
                fact.is_done = true;
            }
        }
    }

    /// Everything answers again, and nobody interferes: the queue runs empty.
    fn finish(&mut self) {
        self.is_dead = [false; HOPS];
        let now = self.now();
        let names: Vec<_> = self.queue.list(now, MessageId::NONE).map(|listed| listed.message).collect();
        for id in names {
            let note = self.queue.release(now, id);
            self.note(note);
        }
        for _ in 0..200_000 {
            if self.queue.is_empty() && self.under_way.is_empty() && self.warnings.is_empty() {
                return;
            }
            self.poll();
            self.finish_one();
            self.sleep();
        }
        panic!("it does not run empty: {} left", self.queue.len());
    }

    fn check(&self) {
        assert_eq!((self.queue.entries.len(), self.queue.legs.len()), (0, 0));
        for (id, fact) in &self.facts {
            for (delivered, returned) in fact.delivered.iter().zip(&fact.returned) {
                assert!(delivered + returned <= 1, "{id}: once at most");
                assert!(delivered + returned == 1 || fact.is_removed, "{id}: not lost");
            }
            assert!(fact.is_done, "{id}: and noted");
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
    world.check();
}

#[test]
fn nothing_is_lost_or_doubled_whatever_happens() {
    if let Ok(seed) = env::var(SEED_VARIABLE) {
        return run(seed.parse().expect("a number"));
    }
    let seeds = env::var(SEEDS_VARIABLE).map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        let ended = std::panic::catch_unwind(|| run(seed));
        assert!(ended.is_ok(), "replay this with {SEED_VARIABLE}={seed}");
    }
}
