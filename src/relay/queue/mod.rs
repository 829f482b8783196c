//! The queue of one shard: which message next, where to, when again, and when it has been long enough.
//!
//! ```text
//!  add ──► waits for its destination ──► poll: Deliver ──► (carrier) ──► handle_result ──► Done
//!                ▲   ▲                                                        │
//!                │   └── put off: again at its own time ◄─────────────────────┤
//!                └────── destination not reached: waits with all others ◄─────┤
//!                                                                             ▼
//!  older than the lifetime ──► poll: Expire ──► (report to the sender) ──► handle_result ──► Done
//! ```
//!
//! One message with several destinations has a *leg* for each. A destination that cannot be reached is left alone, with all
//! that waits for it, and looked at by one attempt at a time. What the queue says is to be noted is written down by its
//! caller; after a restart [`Queue::restore`] puts everything together again from that.
//!
//! It must not read an envelope twice, know a word of what is said to a hop, or send anything: it has numbers and times.

mod entry;
mod hop;
mod listing;
mod pace;
mod replies;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use self::entry::{Condition, Entry, Leg, List, Origin, Position, Waiting, Warning};
use self::hop::{Hop, Waits};
use self::pace::Random;
use self::replies::{Replies, ReplyNumber};
use super::outcome::{self, AttemptResult, Outcome, Reason};
use super::route::{DestinationNumber, Routes};
use crate::limits::{self, PROBE_WAIT, REPORTS_IN_FLIGHT_MAX, WARNING_LOOKS_MAX};
use crate::paged_slab::{NONE, Slab};
use crate::proto::command::Notify;
use crate::proto::envelope::Envelope;
use crate::proto::message::MessageId;
use crate::spool::{Progress, RecipientState};
use crate::time::Now;

pub use crate::spool::log::Note;
pub use listing::{DestinationDepth, Listed, ListedDestination, ListedState};

/// The times of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// The wait after the first attempt that was put off.
    pub retry_min: Duration,
    /// The longest wait between two attempts.
    pub retry_max: Duration,
    /// The age at which a message is given back to its sender.
    pub lifetime: Duration,
    /// The age at which senders who asked for it are told of the delay.
    pub delay_warning: Duration,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            retry_min: limits::RETRY_MIN,
            retry_max: limits::RETRY_MAX,
            lifetime: limits::QUEUE_LIFETIME,
            delay_warning: limits::DELAY_WARNING,
        }
    }
}

/// A message that is to be queued.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its name.
    pub id: MessageId,
    /// Its size.
    pub bytes: u64,
    /// Whom it is for.
    pub envelope: &'a Envelope,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Carry a message to a destination; then call [`Queue::handle_result`].
    Deliver(Attempt),
    /// Tell the sender that the message was not delivered in time; then call [`Queue::handle_result`] with
    /// [`Outcome::Failed`] for each recipient, or [`Outcome::Deferred`] if that could not be done.
    Expire(Attempt),
    /// Tell the sender, if they asked for it, that the message is late; then call [`Queue::handle_warned`].
    Warn(Late),
}

/// One message on its way to one destination. It counts against the destination until its result is in.
#[derive(Debug)]
pub struct Attempt {
    /// The message.
    pub message: MessageId,
    /// Its size.
    pub bytes: u64,
    /// Where it goes.
    pub destination: DestinationNumber,
    /// The recipients concerned, by their number in the envelope.
    pub recipients: Vec<u32>,
    /// What the attempt before this one came to.
    pub last_reply: Option<Arc<str>>,
    /// It may have been tried before, by a process that did not live to tell.
    pub may_be_there: bool,
    leg: u32,
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Deliver,
    Probe,
    Expire,
}

/// A message that is late.
#[derive(Debug)]
pub struct Late {
    /// The message.
    pub message: MessageId,
    /// The recipients that wait.
    pub recipients: Vec<u32>,
    /// What the last attempt came to.
    pub last_reply: Option<Arc<str>>,
    /// How much longer it will be tried.
    pub time_left: Duration,
}

/// What a result has led to.
#[derive(Debug, Default)]
pub struct Settled {
    /// What to write down; `None` if the message was removed meanwhile.
    pub note: Option<Note>,
    /// The destination has gone away, or come back.
    pub change: Option<Change>,
}

/// News of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It can be reached again.
    Up,
    /// It cannot be reached.
    Down(Reason),
}

/// Everything that one shard has still to deliver.
#[derive(Debug)]
pub struct Queue {
    settings: QueueSettings,
    routes: Arc<Routes>,
    random: Random,
    hops: Vec<Hop>,
    /// Whose turn it is.
    next_hop: usize,
    entries: Slab<Entry>,
    legs: Slab<Leg>,
    /// By name, which is by age.
    index: BTreeMap<MessageId, u32>,
    replies: Replies,
    /// Legs of messages that have been here for too long.
    expiring: List,
    /// Expiries and warnings.
    reports_in_flight: u32,
    /// Up to here all that is too old has been found.
    expired_to: MessageId,
    /// Up to here all senders who wanted to know of a delay have been told.
    warned_to: MessageId,
}

impl Queue {
    /// An empty queue. `seed` makes its waits differ from those of others.
    pub fn new(settings: QueueSettings, routes: Arc<Routes>, seed: u64) -> Self {
        let hops = routes.destinations().iter().map(|_| Hop::new()).collect();
        Self {
            settings,
            routes,
            random: Random::new(seed),
            hops,
            next_hop: 0,
            entries: Slab::new(),
            legs: Slab::new(),
            index: BTreeMap::new(),
            replies: Replies::new(),
            expiring: List::EMPTY,
            reports_in_flight: 0,
            expired_to: MessageId::NONE,
            warned_to: MessageId::NONE,
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The ways that messages take.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    // ── In ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes a new message, which can go at once. One that is here already is not taken twice.
    pub fn add(&mut self, arrival: Arrival<'_>) {
        self.insert(arrival, &[], 0, Hop::push_fresh);
    }

    /// Takes a message that was found after a restart, with what was noted of it last.
    ///
    /// Returns what is to be noted if nothing is left to do for it.
    pub fn restore(&mut self, now: Now, arrival: Arrival<'_>, progress: Option<Progress>) -> Option<Note> {
        let Some(progress) = progress else {
            self.add(arrival);
            return self.note_restored(arrival.id);
        };
        let due = self.restored_due(now, progress.next_attempt);
        let states = &progress.recipients;
        self.insert(
            arrival,
            states,
            u16::try_from(progress.attempts).unwrap_or(u16::MAX),
            |hop, leg, legs| match due {
                Some(due) => hop.push_retry(leg, due, legs),
                None => hop.push_fresh(leg, legs),
            },
        );
        if let Some(done) = self.note_restored(arrival.id) {
            return Some(done);
        }
        let number = self.index[&arrival.id];
        let last_reply = self.replies.keep(&progress.last_reply);
        let entry = &mut self.entries[number];
        entry.attempts = progress.attempts;
        entry.last_reply = last_reply;
        if progress.warned && entry.warning == Warning::Wanted {
            entry.warning = Warning::Sent;
        }
        if progress.held {
            self.hold(now, arrival.id);
        }
        None
    }

    fn note_restored(&mut self, id: MessageId) -> Option<Note> {
        let Some(number) = self.index.get(&id) else {
            return Some(Note::Done(id));
        };
        self.entries[*number].origin = Origin::Restored;
        None
    }

    /// On the monotonic clock; `None` if it is due. A wall clock that was wrong must not make mail wait for years.
    fn restored_due(&self, now: Now, next_attempt: Duration) -> Option<Duration> {
        let wait = next_attempt.checked_sub(now.unix).filter(|wait| !wait.is_zero())?;
        Some(now.monotonic + wait.min(self.settings.retry_max))
    }

    fn insert(
        &mut self,
        arrival: Arrival<'_>,
        states: &[RecipientState],
        tries: u16,
        push: impl Fn(&mut Hop, u32, &mut Slab<Leg>),
    ) {
        if self.index.contains_key(&arrival.id) {
            return;
        }
        let count = u32::try_from(arrival.envelope.recipient_count()).unwrap_or(u32::MAX);
        let by_destination = self.waiting_by_destination(arrival.envelope, states);
        if by_destination.is_empty() {
            return;
        }
        let wants_warning = arrival
            .envelope
            .recipients()
            .any(|recipient| recipient.notify.is_some_and(|notify| notify.wants(Notify::DELAY)));
        let is_untouched = states.iter().all(|state| *state == RecipientState::Waiting);
        let number = self.entries.insert(Entry {
            id: arrival.id,
            bytes: u32::try_from(arrival.bytes).unwrap_or(u32::MAX),
            recipients: count,
            attempts: 0,
            first_leg: NONE,
            decided: None,
            last_reply: ReplyNumber::NONE,
            condition: Condition::Queued,
            origin: Origin::New,
            warning: if wants_warning { Warning::Wanted } else { Warning::NotWanted },
        });
        if !is_untouched {
            for (recipient, state) in (0..count).zip(states) {
                self.entries[number].decide(recipient, *state);
            }
        }
        for (destination, recipients) in by_destination {
            let next = self.entries[number].first_leg;
            let leg = Leg::new(number, next, destination, Waiting::of(recipients, count), tries);
            let leg = self.legs.insert(leg);
            self.entries[number].first_leg = leg;
            let hop = &mut self.hops[destination.0 as usize];
            hop.depth += 1;
            push(hop, leg, &mut self.legs);
        }
        self.index.insert(arrival.id, number);
    }

    /// The recipients that still wait, by where they go. Few destinations at a time: a list is searched faster than a map.
    fn waiting_by_destination(
        &self,
        envelope: &Envelope,
        states: &[RecipientState],
    ) -> Vec<(DestinationNumber, Vec<u32>)> {
        let mut found: Vec<(DestinationNumber, Vec<u32>)> = Vec::new();
        for (number, recipient) in (0..).zip(envelope.recipients()) {
            let state = states.get(number as usize).copied().unwrap_or_default();
            if state != RecipientState::Waiting {
                continue;
            }
            let destination = self.routes.route(recipient.address);
            match found.iter_mut().find(|(known, _)| *known == destination) {
                Some((_, recipients)) => recipients.push(number),
                None => found.push((destination, vec![number])),
            }
        }
        found
    }

    // ── What next ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// What to do next. `room` says how many more attempts the carrier of a destination can take now. `None` means that
    /// nothing can be done before [`Self::poll_timeout`], a result, or a new message.
    pub fn poll(&mut self, now: Now, room: impl Fn(DestinationNumber) -> usize) -> Option<Step> {
        self.poll_expiry(now)
            .or_else(|| self.poll_warning(now))
            .or_else(|| self.poll_delivery(now, &room))
            // What was about to be tried, and was found to be too old.
            .or_else(|| self.poll_expiry(now))
    }

    /// When to poll again if nothing else happens, on the monotonic clock.
    pub fn poll_timeout(&self, now: Now) -> Option<Duration> {
        let hops = self.hops.iter().filter_map(|hop| hop.next_time(now.monotonic)).min();
        // What is due and finds no room waits for a report that is over, not for a time.
        let can_warn = self.reports_in_flight < REPORTS_IN_FLIGHT_MAX;
        let can_expire = can_warn && self.expiring.is_empty();
        let expiry = self.time_of_next(now, self.expired_to, self.settings.lifetime).filter(|_| can_expire);
        let warning = self.time_of_next(now, self.warned_to, self.settings.delay_warning).filter(|_| can_warn);
        [hops, expiry, warning].into_iter().flatten().min()
    }

    /// When the first message after `seen` reaches an age.
    fn time_of_next(&self, now: Now, seen: MessageId, age: Duration) -> Option<Duration> {
        let (id, _) = self.index.range((Excluded(seen), Unbounded)).next()?;
        Some(now.monotonic + (id.received() + age).saturating_sub(now.unix))
    }

    fn poll_expiry(&mut self, now: Now) -> Option<Step> {
        if self.reports_in_flight >= REPORTS_IN_FLIGHT_MAX {
            return None;
        }
        while self.expiring.is_empty() {
            let (&id, &number) = self.index.range((Excluded(self.expired_to), Unbounded)).next()?;
            if !self.is_expired(now, id) {
                return None;
            }
            self.expired_to = id;
            self.expire(number);
        }
        let leg = self.expiring.first()?;
        self.expiring.unlink(leg, &mut self.legs);
        self.reports_in_flight += 1;
        Some(Step::Expire(self.attempt(leg, Purpose::Expire)))
    }

    /// Takes all legs of a message from where they wait. What is held stays so, and what is under way is looked at again
    /// when its result is in.
    fn expire(&mut self, number: u32) {
        let mut leg = self.entries[number].first_leg;
        while leg != NONE {
            let hop = &mut self.hops[self.legs[leg].destination.0 as usize];
            if hop.withdraw(leg, &mut self.legs) {
                self.push_expiring(leg);
            }
            leg = self.legs[leg].next_of_entry;
        }
    }

    fn push_expiring(&mut self, leg: u32) {
        self.legs[leg].position = Position::EXPIRING;
        self.expiring.push(leg, &mut self.legs);
    }

    fn is_expired(&self, now: Now, id: MessageId) -> bool {
        id.received() + self.settings.lifetime <= now.unix
    }

    fn poll_warning(&mut self, now: Now) -> Option<Step> {
        if self.reports_in_flight >= REPORTS_IN_FLIGHT_MAX {
            return None;
        }
        for _ in 0..WARNING_LOOKS_MAX {
            let (&id, &number) = self.index.range((Excluded(self.warned_to), Unbounded)).next()?;
            if id.received() + self.settings.delay_warning > now.unix {
                return None;
            }
            self.warned_to = id;
            let entry = &mut self.entries[number];
            if entry.warning == Warning::Wanted && entry.condition == Condition::Queued && id > self.expired_to {
                entry.warning = Warning::Sent;
                self.reports_in_flight += 1;
                return Some(Step::Warn(self.late(now, number)));
            }
        }
        None
    }

    fn late(&self, now: Now, number: u32) -> Late {
        let entry = &self.entries[number];
        let states = entry.recipient_states();
        let waits = |number: &u32| states[*number as usize] == RecipientState::Waiting;
        Late {
            message: entry.id,
            recipients: (0..entry.recipients).filter(waits).collect(),
            last_reply: self.replies.text(entry.last_reply),
            time_left: (entry.id.received() + self.settings.lifetime).saturating_sub(now.unix),
        }
    }

    /// Goes around all destinations, so that none waits for another.
    fn poll_delivery(&mut self, now: Now, room: &impl Fn(DestinationNumber) -> usize) -> Option<Step> {
        let count = self.hops.len();
        for turn in 0..count {
            let number = (self.next_hop + turn) % count;
            if !self.hops[number].is_due(now.monotonic) || room(destination_number(number)) == 0 {
                continue;
            }
            if let Some(leg) = self.take(now, number) {
                self.next_hop = (number + 1) % count;
                let hop = &mut self.hops[number];
                hop.in_flight += 1;
                let purpose = if hop.begin_probe() { Purpose::Probe } else { Purpose::Deliver };
                return Some(Step::Deliver(self.attempt(leg, purpose)));
            }
        }
        None
    }

    /// What goes next to this destination; what is too old is put aside on the way.
    fn take(&mut self, now: Now, number: usize) -> Option<u32> {
        loop {
            let leg = self.hops[number].take(now.monotonic, &mut self.legs)?;
            if !self.is_expired(now, self.entries[self.legs[leg].entry].id) {
                return Some(leg);
            }
            self.push_expiring(leg);
        }
    }

    fn attempt(&mut self, number: u32, purpose: Purpose) -> Attempt {
        let leg = &mut self.legs[number];
        leg.position = Position::InFlight;
        let entry = &self.entries[leg.entry];
        Attempt {
            message: entry.id,
            bytes: entry.bytes.into(),
            destination: leg.destination,
            recipients: leg.recipients.numbers(entry.recipients),
            last_reply: self.replies.text(entry.last_reply),
            may_be_there: entry.origin == Origin::Restored || entry.attempts > 0,
            leg: number,
            purpose,
        }
    }

    // ── What came of it ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes the result of an attempt. Each attempt must come back exactly once. A recipient without an outcome waits on.
    pub fn handle_result(&mut self, now: Now, attempt: &Attempt, result: &AttemptResult) -> Settled {
        let change = self.note_hop(now, attempt, &result.hop);
        let number = self.legs[attempt.leg].entry;
        if self.entries[number].condition == Condition::Removed {
            self.drop_leg(attempt.leg);
            return Settled { note: None, change };
        }
        self.note_reply(number, attempt, result);
        let left = self.note_outcomes(attempt, result);
        if left.is_empty() {
            self.drop_leg(attempt.leg);
        } else {
            self.put_back(now, attempt, left, &result.hop);
        }
        Settled { note: Some(self.note(now, attempt.message).unwrap_or(Note::Done(attempt.message))), change }
    }

    fn note_hop(&mut self, now: Now, attempt: &Attempt, result: &outcome::Hop) -> Option<Change> {
        if attempt.purpose == Purpose::Expire {
            self.reports_in_flight -= 1;
            return None;
        }
        let waits = Waits { shortest: self.settings.retry_min.min(PROBE_WAIT), longest: self.settings.retry_max };
        let hop = &mut self.hops[attempt.destination.0 as usize];
        hop.in_flight -= 1;
        match result {
            outcome::Hop::Reached => hop.note_reached().then_some(Change::Up),
            outcome::Hop::Unasked => {
                if attempt.purpose == Purpose::Probe {
                    hop.end_probe();
                }
                None
            }
            outcome::Hop::Unreachable(reason) => {
                let is_probe = attempt.purpose == Purpose::Probe;
                let is_news = hop.note_unreachable(now.monotonic, is_probe, waits, &mut self.random);
                is_news.then(|| Change::Down(reason.clone()))
            }
        }
    }

    /// Keeps what is worth reading of a message that stays.
    fn note_reply(&mut self, number: u32, attempt: &Attempt, result: &AttemptResult) {
        if attempt.purpose == Purpose::Expire {
            return;
        }
        let entry = &mut self.entries[number];
        entry.attempts = entry.attempts.saturating_add(1);
        let Some(reason) = worst_reason(result) else { return };
        let before = std::mem::replace(&mut entry.last_reply, self.replies.keep(&reason.text));
        self.replies.release(before);
    }

    /// Notes what has become of each recipient; returns those that still wait.
    fn note_outcomes(&mut self, attempt: &Attempt, result: &AttemptResult) -> Vec<u32> {
        let number = self.legs[attempt.leg].entry;
        let entry = &mut self.entries[number];
        let mut left = attempt.recipients.clone();
        let is_only_leg = entry.first_leg == attempt.leg && self.legs[attempt.leg].next_of_entry == NONE;
        let mut decided = Vec::new();
        let mut place = 0;
        left.retain(|recipient| {
            let state = outcome_of(result, place, *recipient).map_or(RecipientState::Waiting, state_after);
            place += 1;
            if state != RecipientState::Waiting {
                decided.push((*recipient, state));
            }
            state == RecipientState::Waiting
        });
        if !(is_only_leg && left.is_empty()) {
            decided.iter().for_each(|(recipient, state)| entry.decide(*recipient, *state));
        }
        left
    }

    /// Lets what is left of a leg wait for its next attempt.
    fn put_back(&mut self, now: Now, attempt: &Attempt, left: Vec<u32>, result: &outcome::Hop) {
        let leg = &mut self.legs[attempt.leg];
        let entry = &self.entries[leg.entry];
        leg.recipients = Waiting::of(left, entry.recipients);
        if entry.condition == Condition::Held {
            leg.position = Position::Held;
            return;
        }
        let is_about_hop = attempt.purpose != Purpose::Expire && matches!(result, outcome::Hop::Unreachable(_));
        if !is_about_hop {
            leg.tries = leg.tries.saturating_add(1);
        }
        let tries = leg.tries;
        if attempt.purpose != Purpose::Expire && self.is_expired(now, attempt.message) {
            self.push_expiring(attempt.leg);
            return;
        }
        let hop = &mut self.hops[attempt.destination.0 as usize];
        if is_about_hop {
            hop.push_fresh(attempt.leg, &mut self.legs);
        } else {
            let wait = pace::wait(tries.into(), self.settings.retry_min, self.settings.retry_max, &mut self.random);
            hop.push_retry(attempt.leg, now.monotonic + wait, &mut self.legs);
        }
    }

    /// Forgets a leg that is in no list, and its message with the last of them.
    fn drop_leg(&mut self, number: u32) {
        let leg = self.legs.remove(number);
        self.hops[leg.destination.0 as usize].depth -= 1;
        let entry = &mut self.entries[leg.entry];
        if entry.first_leg == number {
            entry.first_leg = leg.next_of_entry;
        } else {
            let mut before = entry.first_leg;
            while self.legs[before].next_of_entry != number {
                before = self.legs[before].next_of_entry;
            }
            self.legs[before].next_of_entry = leg.next_of_entry;
        }
        if self.entries[leg.entry].first_leg == NONE {
            let entry = self.entries.remove(leg.entry);
            if entry.condition != Condition::Removed {
                self.index.remove(&entry.id);
            }
            self.replies.release(entry.last_reply);
        }
    }

    /// What is to be written down of a message as it is now; `None` if it is not here.
    pub fn note(&self, now: Now, id: MessageId) -> Option<Note> {
        let entry = &self.entries[*self.index.get(&id)?];
        Some(Note::Progress(Progress {
            message: id,
            recipients: entry.recipient_states(),
            attempts: entry.attempts,
            next_attempt: self.next_attempt(now, entry),
            held: entry.condition == Condition::Held,
            warned: entry.warning == Warning::Sent,
            last_reply: self.replies.text(entry.last_reply).as_deref().unwrap_or_default().to_owned(),
        }))
    }

    /// Takes back a warning that was begun, whatever came of it: each must come back exactly once. Returns what is to be
    /// noted if the sender was told; `None` if the message has gone.
    pub fn handle_warned(&mut self, now: Now, late: &Late) -> Option<Note> {
        self.reports_in_flight -= 1;
        self.note(now, late.message)
    }

    // ── What operators ask for ──────────────────────────────────────────────────────────────────────────────────────

    /// Holds a message back until it is released. What is under way is finished. Returns what is to be noted; `None` if the
    /// message is not here.
    pub fn hold(&mut self, now: Now, id: MessageId) -> Option<Note> {
        let number = *self.index.get(&id)?;
        self.entries[number].condition = Condition::Held;
        self.each_leg(number, |queue, leg| {
            if queue.withdraw(leg) {
                queue.legs[leg].position = Position::Held;
            }
        });
        self.note(now, id)
    }

    /// Lets a message that was held go on, at once. Returns what is to be noted; `None` if it is not here.
    pub fn release(&mut self, now: Now, id: MessageId) -> Option<Note> {
        let number = *self.index.get(&id)?;
        if self.entries[number].condition == Condition::Held {
            self.entries[number].condition = Condition::Queued;
            self.each_leg(number, |queue, leg| {
                if queue.legs[leg].position == Position::Held {
                    queue.push_fresh(leg);
                }
            });
        }
        self.note(now, id)
    }

    /// Takes a message out of the queue. Its sender is not told. Returns what is to be noted; `None` if it is not here.
    pub fn remove(&mut self, id: MessageId) -> Option<Note> {
        let number = self.index.remove(&id)?;
        self.entries[number].condition = Condition::Removed;
        self.each_leg(number, |queue, leg| {
            if queue.legs[leg].position != Position::InFlight {
                queue.withdraw(leg);
                queue.drop_leg(leg);
            }
        });
        Some(Note::Done(id))
    }

    /// Lets one message be tried now, its destinations be looked at too. Returns whether it is here.
    pub fn flush(&mut self, now: Now, id: MessageId) -> bool {
        let Some(number) = self.index.get(&id).copied() else {
            return false;
        };
        self.each_leg(number, |queue, leg| {
            let hop = &mut queue.hops[queue.legs[leg].destination.0 as usize];
            hop.look_now(now.monotonic);
            if matches!(queue.legs[leg].position, Position::Retry(_)) {
                hop.withdraw(leg, &mut queue.legs);
                hop.push_fresh(leg, &mut queue.legs);
            }
        });
        true
    }

    /// Lets everything for one destination be tried now.
    pub fn flush_destination(&mut self, now: Now, destination: DestinationNumber) {
        if let Some(hop) = self.hops.get_mut(destination.0 as usize) {
            hop.flush(now.monotonic);
        }
    }

    /// Lets everything be tried now.
    pub fn flush_all(&mut self, now: Now) {
        for hop in &mut self.hops {
            hop.flush(now.monotonic);
        }
    }

    /// Does something with each leg of a message; the leg may go.
    fn each_leg(&mut self, number: u32, mut act: impl FnMut(&mut Self, u32)) {
        let mut leg = self.entries[number].first_leg;
        while leg != NONE {
            let next = self.legs[leg].next_of_entry;
            act(self, leg);
            leg = next;
        }
    }

    /// Takes a leg from wherever it waits. Returns whether it did.
    fn withdraw(&mut self, leg: u32) -> bool {
        if matches!(self.legs[leg].position, Position::Expiring(_)) {
            self.expiring.unlink(leg, &mut self.legs);
            return true;
        }
        self.hops[self.legs[leg].destination.0 as usize].withdraw(leg, &mut self.legs)
    }

    fn push_fresh(&mut self, leg: u32) {
        let hop = &mut self.hops[self.legs[leg].destination.0 as usize];
        hop.push_fresh(leg, &mut self.legs);
    }
}

/// What became of a recipient. Results mostly come in the order of the attempt: `place` is where to look first.
fn outcome_of(result: &AttemptResult, place: usize, recipient: u32) -> Option<&Outcome> {
    let is_it = |entry: &&(u32, Outcome)| entry.0 == recipient;
    let found = result.outcomes.get(place).filter(is_it).or_else(|| result.outcomes.iter().find(is_it));
    found.map(|(_, outcome)| outcome)
}

fn state_after(outcome: &Outcome) -> RecipientState {
    match outcome {
        Outcome::Delivered(_) => RecipientState::Delivered,
        Outcome::Failed(_) => RecipientState::Failed,
        Outcome::Deferred(_) => RecipientState::Waiting,
    }
}

/// What people want to read of a result: why something was not done.
fn worst_reason(result: &AttemptResult) -> Option<&Reason> {
    if let outcome::Hop::Unreachable(reason) = &result.hop {
        return Some(reason);
    }
    let severity = |outcome: &Outcome| match outcome {
        Outcome::Delivered(_) => 0,
        Outcome::Failed(_) => 1,
        Outcome::Deferred(_) => 2,
    };
    let worst = result.outcomes.iter().map(|(_, outcome)| outcome).max_by_key(|outcome| severity(outcome))?;
    let (Outcome::Delivered(reason) | Outcome::Failed(reason) | Outcome::Deferred(reason)) = worst;
    Some(reason)
}

fn destination_number(place: usize) -> DestinationNumber {
    DestinationNumber(u16::try_from(place).expect("destinations fit their numbers"))
}

#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;
