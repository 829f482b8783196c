//! The queue at work, as `src/runtime/queue/` has it: attempts, what senders are told of them, and what is noted. The next hop is
//! in `hop.rs`.
//!
//! A report is on the disk before its recipient is noted as failed, and a sender who cannot be told is no reason to forget
//! anything.

use std::path::PathBuf;
use std::sync::Arc;

use onetrip::proto::message::{Message, MessageId};
use onetrip::relay::bounce::{self, Action, Circumstances, Told};
use onetrip::relay::outcome::{AttemptResult, Outcome};
use onetrip::relay::queue::{Attempt, Late, Note, Step};
use onetrip::relay::route::{DestinationNumber, Routes};
use onetrip::relay::{Destination, Route};
use onetrip::spool::Progress;

use crate::letter::GONE;
use crate::plan::Sabotage;
use crate::support::HOSTNAME;
use crate::world::{Event, World};

/// An attempt on its way to the next hop and back.
pub struct UnderWay {
    pub attempt: Attempt,
    pub message: Message,
    pub result: Option<AttemptResult>,
}

/// A report on its way to the disk.
pub struct Telling {
    report: Box<Message>,
    /// The message that it is about.
    pub of: MessageId,
    then: Then,
}

/// What follows when a sender was told, or could not be.
enum Then {
    /// What has become of the attempt is noted.
    Settle(Attempt, AttemptResult),
    /// That the sender was warned is noted.
    NoteWarning(Late),
}

impl World {
    /// Begins all that can be begun.
    pub fn begin_attempts(&mut self, number: usize) {
        let now = self.now();
        loop {
            let shard = self.shard(number);
            let attempts = &shard.attempts;
            let room = |destination: DestinationNumber| {
                let used = attempts.values().filter(|under_way| under_way.attempt.destination == destination);
                ATTEMPTS_MAX - used.count()
            };
            match shard.queue.poll(now, room) {
                None => return,
                Some(Step::Deliver(attempt)) => self.deliver(number, attempt),
                Some(Step::Expire(attempt)) => self.expire(number, attempt),
                Some(Step::Warn(late)) => self.warn(number, late),
            }
        }
    }

    fn read_message(&mut self, number: usize, id: MessageId) -> Message {
        let shard = &self.process.as_ref().expect("it lives").shards[number];
        self.disks[&number].message(&shard.log, id).0
    }

    fn deliver(&mut self, number: usize, attempt: Attempt) {
        for to in &attempt.recipients {
            let is_settled = self.sink.settled.contains(&(attempt.message, *to));
            assert!(!is_settled, "{} is tried for recipient {to}, of whom all is written down", attempt.message);
        }
        let message = self.read_message(number, attempt.message);
        let shard = self.shard(number);
        shard.last_attempt += 1;
        let attempt_number = shard.last_attempt;
        shard.attempts.insert(attempt_number, UnderWay { attempt, message, result: None });
        let event = Event::Carried { life: self.life, shard: number, attempt: attempt_number };
        let carried_us = self.now_us + self.chance.between(100, 200_000);
        self.events.push(carried_us, event);
    }

    /// The result of an attempt is back: the sender is told of it first, if they want to know.
    pub fn settle_attempt(&mut self, number: usize, attempt: u64) {
        let under_way = self.shard(number).attempts.remove(&attempt).expect("it was begun");
        let UnderWay { attempt, message, result } = under_way;
        self.tell_settled(number, &message, attempt, result.expect("it was carried"));
        self.woken_shards.insert(number);
    }

    /// Gives a message back that has been here for too long.
    fn expire(&mut self, number: usize, attempt: Attempt) {
        let age = self.now().unix.saturating_sub(attempt.message.received());
        assert!(age >= self.plan.queue.lifetime, "{} is given back after {age:?}", attempt.message);
        self.seen.expired += 1;
        let message = self.read_message(number, attempt.message);
        self.sink.give_up(&message, &attempt.recipients);
        let reason = bounce::expiry_reason(attempt.last_reply.as_deref());
        let result = AttemptResult::of_all(&attempt.recipients, &Outcome::Failed(reason));
        self.tell_settled(number, &message, attempt, result);
    }

    fn warn(&mut self, number: usize, late: Late) {
        let age = self.now().unix.saturating_sub(late.message.received());
        assert!(age >= self.plan.queue.delay_warning, "{} is called late after {age:?}", late.message);
        let message = self.read_message(number, late.message);
        let reason = bounce::delay_reason(late.last_reply.as_deref());
        let told = bounce::late(&message.envelope, &late.recipients, &reason);
        let report = self.report(number, &message, &told, Some(&late));
        self.tell(number, late.message, report, Then::NoteWarning(late));
    }

    // ── What senders are told ───────────────────────────────────────────────────────────────────────────────────────

    fn tell_settled(&mut self, number: usize, message: &Message, attempt: Attempt, result: AttemptResult) {
        let told = bounce::settled(&message.envelope, &result.outcomes, Action::Delivered);
        let report = self.report(number, message, &told, None);
        self.tell(number, message.id, report, Then::Settle(attempt, result));
    }

    fn report(
        &mut self,
        number: usize,
        message: &Message,
        told: &[Told<'_>],
        late: Option<&Late>,
    ) -> Option<Box<Message>> {
        if told.is_empty() {
            return None;
        }
        let now = self.now();
        let id = self.shard(number).resources.next_message_id(now);
        let time_left = late.map(|late| late.time_left);
        Some(bounce::report(message, told, &Circumstances { id, host_name: HOSTNAME, now, time_left }))
    }

    /// Commits a report, if there is one, like any message.
    fn tell(&mut self, number: usize, of: MessageId, report: Option<Box<Message>>, then: Then) {
        let (now, is_silent) = (self.now(), self.plan.sabotage == Sabotage::FailsSilently);
        let Some(report) = report.filter(|_| !is_silent) else {
            return self.go_on(number, then, true);
        };
        let shard = self.shard(number);
        shard.unsure.insert(of);
        let ticket = shard.next_ticket();
        let appended = shard.log.append_message(now, &report, ticket);
        let telling = Telling { report, of, then };
        match appended {
            Ok(()) => drop(shard.telling.insert(ticket, telling)),
            Err(_) => self.go_on(number, telling.then, false),
        }
    }

    /// A report is on the disk, or is not.
    pub fn told(&mut self, number: usize, telling: Telling, is_stored: bool) {
        let Telling { report, then, .. } = telling;
        if is_stored {
            self.seen.reports += 1;
            self.sink.note_report(&self.letters, &report);
            self.shard(number).enqueue(&report);
        }
        self.go_on(number, then, is_stored);
    }

    fn go_on(&mut self, number: usize, then: Then, is_told: bool) {
        let now = self.now();
        match then {
            Then::Settle(attempt, mut result) => {
                if !is_told {
                    result.keep_waiting();
                }
                self.settle_result(number, &attempt, &result);
            }
            Then::NoteWarning(late) => {
                let shard = self.shard(number);
                if let Some(note) = shard.queue.handle_warned(now, &late) {
                    shard.log.note(now, &note, None);
                }
            }
        }
        self.woken_shards.insert(number);
    }

    /// What the result of an attempt means is written down.
    fn settle_result(&mut self, number: usize, attempt: &Attempt, result: &AttemptResult) {
        let now = self.now();
        let shard = self.shard(number);
        let is_decided = |outcome: &Outcome| !matches!(outcome, Outcome::Deferred(_));
        let decided = result.outcomes.iter().filter(|(_, outcome)| is_decided(outcome));
        shard.noted.extend(decided.map(|(to, _)| (attempt.message, *to)));
        let settled = shard.queue.handle_result(now, attempt, result);
        if let Some(note) = settled.note {
            let (Note::Done(id) | Note::Progress(Progress { message: id, .. })) = &note;
            assert_eq!(*id, attempt.message, "what is noted is about the message");
            shard.log.note(now, &note, None);
        }
    }
}

/// Three destinations, of which one is never there.
pub fn routes() -> Arc<Routes> {
    let to = |domain: &str| {
        let destination = Destination::Maildir(PathBuf::from(domain));
        Route { domain: domain.to_owned(), destination }
    };
    let others = Destination::Maildir(PathBuf::from("others"));
    Arc::new(Routes::new(others, &[to("b.example"), to(GONE)], "mail.example"))
}

/// Attempts that a destination takes at once.
const ATTEMPTS_MAX: usize = 4;
