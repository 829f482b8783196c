//! Logs at a start, before anybody writes to them: what is in the log of a shard that is no more moves into that of one
//! that is.
//!
//! ```text
//! read all ──▶ settle_tokens ──▶ drop_doubles ──▶ for each log without a shard: take_over, remove_all
//! ```
//!
//! A start may be interrupted anywhere, and the next one may have any number of shards. So nothing is removed before its copy is
//! on stable storage, and what was left in two logs is taken out of one of them. A message and its progress are two records, in
//! two batches: a copy that was interrupted may have the one without the other, and then learns it from the message it was made of.
//!
//! It waits for nothing by itself: a [`Segments`] is the disk.

use std::collections::HashSet;
use std::time::Duration;

use super::frame::{self, SegmentHeader};
use super::log::{Address, Log, Note, Refusal, Write};
use super::once::{StoredToken, settle_repeats};
use super::record::{Head, Record, Token};
use super::recovery;
use super::upkeep::Upkeep;
use super::{Place, Progress};
use crate::proto::message::{Message, MessageId};
use crate::time::Now;

/// The segments of one log. What changes them returns when the change is on stable storage.
pub trait Segments {
    /// Why something cannot be done.
    type Fault;

    /// The numbers of all segments, ascending.
    ///
    /// # Errors
    /// They cannot be listed.
    fn numbers(&self) -> Result<Vec<u32>, Self::Fault>;

    /// All bytes of a segment.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, number: u32) -> Result<Vec<u8>, Self::Fault>;

    /// Some bytes of a segment.
    ///
    /// # Errors
    /// They cannot be read.
    fn read_at(&self, place: Place, bytes: u32) -> Result<Vec<u8>, Self::Fault>;

    /// Writes a batch.
    ///
    /// # Errors
    /// It may be written whole, in part, or not at all.
    fn write(&mut self, write: &Write) -> Result<(), Self::Fault>;

    /// Makes a segment, of an old one if there is one.
    ///
    /// # Errors
    /// It may be there, or half there.
    fn prepare(&mut self, header: SegmentHeader, recycled: Option<u32>) -> Result<(), Self::Fault>;

    /// Removes a segment.
    ///
    /// # Errors
    /// It may be gone, or there.
    fn remove(&mut self, number: u32) -> Result<(), Self::Fault>;

    /// The log itself does not take a message, or finds no room for its notes.
    fn refused(&self, refusal: Refusal) -> Self::Fault;

    /// What a log is told of this fault.
    fn refusal(fault: &Self::Fault) -> Refusal;
}

/// The log of one shard, read and ready to be handed to it.
#[derive(Debug)]
pub struct RestingLog<S> {
    /// The log.
    pub log: Log,
    /// Its disk.
    pub segments: S,
}

/// A token as it was found, with the message that was stored under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken {
    id: MessageId,
    user: String,
    token: String,
}

impl From<Token<'_>> for FoundToken {
    fn from(token: Token<'_>) -> Self {
        Self { id: token.id, user: token.user.to_owned(), token: token.token.to_owned() }
    }
}

/// The log of a shard that is no more.
#[derive(Debug)]
pub struct Vanished<S> {
    /// The number of its shard.
    pub shard: usize,
    /// The log.
    pub resting: RestingLog<S>,
    /// The tokens that were found in it.
    pub tokens: Vec<FoundToken>,
}

/// Makes of all the logs that there are those of the shards: settles `tokens`, and moves what the vanished logs have into the
/// others. `emptied` gets the segments of each that holds nothing any more, and how many messages it had. Returns how many
/// messages were disowned. Two messages with one token that are named `within` this time of each other may be a repeat; see
/// [`repeats_within`](super::once::repeats_within).
///
/// # Errors
/// A log cannot be read or written. What was done is done, and the next start goes on from there.
pub fn bring_together<S: Segments>(
    now: Now,
    logs: &mut Vec<RestingLog<S>>,
    vanished: Vec<Vanished<S>>,
    tokens: &mut Vec<StoredToken>,
    within: Duration,
    emptied: &mut dyn FnMut(S, usize) -> Result<(), S::Fault>,
) -> Result<usize, S::Fault> {
    let shards = logs.len();
    let mut moving = Vec::with_capacity(vanished.len());
    for Vanished { shard, resting, tokens } in vanished {
        logs.push(resting);
        moving.push((shard, tokens));
    }
    let disowned = settle_tokens(now, logs, tokens, within)?;
    let vanished = logs.split_off(shards);
    drop_doubles(now, logs)?;
    for (mut from, (shard, found)) in vanished.into_iter().zip(moving) {
        take_over(now, logs, shard % shards, &from, &found)?;
        let messages = from.log.message_count();
        from.remove_all(now)?;
        emptied(from.segments, messages)?;
    }
    Ok(disowned)
}

/// A move between logs that was interrupted leaves a message in two of them: it stays in the first, with the progress that either
/// knows.
fn drop_doubles<S: Segments>(now: Now, logs: &mut [RestingLog<S>]) -> Result<(), S::Fault> {
    for at in 1..logs.len() {
        let (before, rest) = logs.split_at_mut(at);
        let is_double = |id: &MessageId| before.iter().any(|other| other.log.contains(*id));
        let doubles: Vec<_> = rest[0].log.messages().filter(is_double).collect();
        complete(now, before, doubles.iter().filter_map(|id| rest[0].progress(*id)))?;
        rest[0].forget(now, &doubles)?;
    }
    Ok(())
}

/// Takes over what a log without a shard has: its messages with their progress into the log `target`, but for those that an
/// interrupted move has left in one of the logs already, and its tokens. All of it is on stable storage when this returns.
fn take_over<S: Segments>(
    now: Now,
    logs: &mut [RestingLog<S>],
    target: usize,
    from: &RestingLog<S>,
    tokens: &[FoundToken],
) -> Result<(), S::Fault> {
    let mut found = Vec::new();
    from.visit(&mut |head, progress| found.push((head.id, progress)))?;
    let (doubles, new): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(id, _)| logs.iter().any(|other| other.log.contains(*id)));
    complete(now, logs, doubles.into_iter().filter_map(|(_, progress)| progress))?;
    for (id, progress) in new {
        logs[target].adopt(now, from, id, progress)?;
    }
    for FoundToken { id, user, token } in tokens {
        let counts = !from.log.is_disowned(*id) && !logs.iter().any(|other| other.log.is_disowned(*id));
        if counts && !logs[target].log.contains(*id) {
            logs[target].log.adopt_token(now, Token { id: *id, user, token }, Some(0));
        }
    }
    logs[target].disown(now, from.log.disowned())
}

/// Keeps one message for each token that was found, as [`settle_repeats`] says, and returns how many others it has disowned. What
/// was disowned by an earlier start stays so, in whichever logs its token is, and what is not whole anywhere is disowned too: a
/// token must not name what nobody will get.
///
/// It comes before anything is written to these logs, which are all that there are: a log whose last batch may be one that was
/// refused is told by its being the last.
fn settle_tokens<S: Segments>(
    now: Now,
    logs: &mut [RestingLog<S>],
    tokens: &mut Vec<StoredToken>,
    within: Duration,
) -> Result<usize, S::Fault> {
    let is_queued = |id| logs.iter().any(|resting| resting.log.contains(id));
    let (elsewhere, lost): (HashSet<_>, HashSet<_>) =
        logs.iter().flat_map(|resting| resting.log.lost()).partition(|id| is_queued(*id));
    let may_be_refused = |id| {
        let mut copies = logs.iter().map(|resting| &resting.log).filter(|log| log.contains(id)).peekable();
        copies.peek().is_some() && copies.all(|log| log.may_be_refused(id))
    };
    let mut disowned: HashSet<_> = logs.iter().flat_map(|resting| resting.log.disowned()).collect();
    disowned.extend(tokens.iter().map(|token| token.message).filter(|id| lost.contains(id)));
    tokens.retain(|token| !disowned.contains(&token.message));
    let repeats = settle_repeats(tokens, within, may_be_refused);
    disowned.extend(&repeats);
    // Where nothing is there is no token either, and perhaps no room.
    for resting in logs.iter_mut().filter(|resting| resting.log.segment_count() > 0) {
        resting.give_up(now, &elsewhere);
        resting.disown(now, disowned.iter().copied())?;
    }
    Ok(repeats.len())
}

/// Notes how far these messages have come, where the copy among `logs` does not know.
fn complete<S: Segments>(
    now: Now,
    logs: &mut [RestingLog<S>],
    doubles: impl Iterator<Item = Progress>,
) -> Result<(), S::Fault> {
    for progress in doubles {
        let knows_nothing = |log: &Log| log.locate(progress.message).is_some_and(|copy| copy.progress.is_none());
        if let Some(copy) = logs.iter_mut().find(|other| knows_nothing(&other.log)) {
            copy.log.note(now, &Note::Progress(progress), None);
        }
    }
    logs.iter_mut().try_for_each(|other| other.settle(now))
}

impl<S: Segments> RestingLog<S> {
    /// Tells each queued message with its newest progress, in the order of the log. One that cannot be read is passed over.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn visit(&self, visit: &mut dyn FnMut(&Head<'_>, Option<Progress>)) -> Result<(), S::Fault> {
        for number in self.log.message_segments() {
            let bytes = self.segments.read(number)?;
            self.log.visit_segment(number, &bytes, &mut |head| visit(head, self.progress(head.id)));
        }
        Ok(())
    }

    /// Notes that these messages are done, those of them that are here.
    fn forget(&mut self, now: Now, messages: &[MessageId]) -> Result<(), S::Fault> {
        for id in messages {
            if self.log.contains(*id) {
                self.log.note(now, &Note::Done(*id), None);
            }
        }
        self.settle(now)
    }

    /// Notes that those of these messages are done that are not whole here: another log has them, and their tokens still hold.
    fn give_up(&mut self, now: Now, elsewhere: &HashSet<MessageId>) {
        let given_up: Vec<_> = self.log.lost().filter(|id| elsewhere.contains(id)).collect();
        given_up.into_iter().for_each(|id| self.log.note(now, &Note::Done(id), None));
    }

    /// Notes that these messages do not count, wherever that is not noted yet; one that was moved here again lies behind the note.
    fn disown(&mut self, now: Now, messages: impl Iterator<Item = MessageId>) -> Result<(), S::Fault> {
        for id in messages {
            if self.log.contains(id) || !self.log.is_disowned(id) {
                self.log.disown(now, id);
            }
        }
        self.settle(now)
    }

    /// Removes all segments, when what they hold is elsewhere. It is noted before, because what is left of a message when only
    /// some of them are gone would look like damage. The oldest goes first: such a note must not go before its message.
    fn remove_all(&mut self, now: Now) -> Result<(), S::Fault> {
        let all: Vec<_> = self.log.messages().collect();
        self.forget(now, &all)?;
        self.segments.numbers()?.into_iter().try_for_each(|number| self.segments.remove(number))
    }

    fn adopt(&mut self, now: Now, from: &Self, id: MessageId, progress: Option<Progress>) -> Result<(), S::Fault> {
        let Some(message) = from.message(id)? else { return Ok(()) };
        self.log.append_message(now, &message, 0).map_err(|refusal| self.segments.refused(refusal))?;
        if let Some(progress) = progress {
            self.log.note(now, &Note::Progress(progress), None);
        }
        if self.log.waiting_bytes() > MOVED_TOGETHER_BYTES { self.settle(now) } else { Ok(()) }
    }

    /// A message, whole; `None` if it is not here or cannot be understood.
    fn message(&self, id: MessageId) -> Result<Option<Box<Message>>, S::Fault> {
        let Some(location) = self.log.locate(id) else { return Ok(None) };
        let mut content = Vec::new();
        for part in &location.parts {
            let bytes = self.read(*part)?;
            if let Some(Record::Part { bytes, .. }) = record(&bytes, *part) {
                content.extend_from_slice(bytes);
            }
        }
        let bytes = self.read(location.head)?;
        let Some(Record::Message(head)) = record(&bytes, location.head) else { return Ok(None) };
        let mut message = head.to_message();
        content.append(&mut message.content);
        message.content = content;
        Ok(Some(message))
    }

    fn progress(&self, id: MessageId) -> Option<Progress> {
        recovery::read_progress(self.log.locate(id)?.progress?, |address| self.read(address)).ok()?
    }

    fn read(&self, address: Address) -> Result<Vec<u8>, S::Fault> {
        self.segments.read_at(address.place, address.bytes)
    }

    /// Writes everything that waits. On a full disk notes find room in the last segment.
    fn settle(&mut self, now: Now) -> Result<(), S::Fault> {
        let mut no_room = None;
        let mut is_at_rest = false;
        while !self.log.is_idle() {
            self.log.hurry();
            if let Some(write) = self.log.poll_write(now) {
                let written = self.segments.write(&write);
                self.log.handle_written(written.as_ref().copied().map_err(S::refusal));
                written?;
            } else if let Some(upkeep) = self.log.poll_upkeep(now) {
                no_room = self.keep_up(now, &upkeep)?.or(no_room);
            } else if is_at_rest {
                return Err(no_room.unwrap_or_else(|| self.segments.refused(Refusal::Full)));
            } else {
                // Coming to the end of a segment that is cleaned is a step that asks for nothing.
                is_at_rest = true;
                continue;
            }
            is_at_rest = false;
        }
        let refused = self.log.take_completions().into_iter().find_map(|done| done.result.err());
        match refused {
            Some(refusal) => Err(no_room.unwrap_or_else(|| self.segments.refused(refusal))),
            None => Ok(()),
        }
    }

    /// Returns the fault with which the log can go on.
    fn keep_up(&mut self, now: Now, upkeep: &Upkeep) -> Result<Option<S::Fault>, S::Fault> {
        match *upkeep {
            Upkeep::Prepare { header, recycled } => {
                let prepared = self.segments.prepare(header, recycled);
                self.log.handle_prepared(now, prepared.as_ref().copied().map_err(S::refusal));
                return match prepared {
                    Err(fault) if self.log.current.is_some() => Ok(Some(fault)),
                    prepared => prepared.map(|()| None),
                };
            }
            Upkeep::Remove(number) => {
                self.segments.remove(number)?;
                self.log.handle_removed(now, Ok(()));
            }
            Upkeep::Read { place, bytes } => {
                let bytes = self.segments.read_at(place, bytes).ok();
                self.log.handle_read(now, bytes.as_deref());
            }
        }
        Ok(None)
    }
}

fn record(bytes: &[u8], address: Address) -> Option<Record<'_>> {
    let frame = frame::read(bytes, address.seed, address.place.offset)?;
    Record::decode(frame.kind, frame.payload)
}

/// Bytes that are moved between logs with one sync.
const MOVED_TOGETHER_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::{FoundToken, RestingLog, Segments, Vanished, bring_together, drop_doubles, take_over};
    use crate::proto::message::MessageId;
    use crate::spool::Place;
    use crate::spool::frame::SegmentHeader;
    use crate::spool::log::{Note, Refusal, Write};
    use crate::spool::once::{OnceKey, StoredToken};
    use crate::spool::tests::disk::Disk;
    use crate::spool::tests::{SETTINGS, message, progress_of, simple};
    use crate::time::Now;

    const NOW: Now = Now::simulated_ms(10_000);

    /// A disk whose machine stops before one of its changes, or that is full.
    struct Failing {
        disk: Disk,
        changes_left: Rc<Cell<u32>>,
        is_full: bool,
    }

    impl Failing {
        fn change(&mut self, act: impl FnOnce(&mut Disk)) -> Result<(), Refusal> {
            self.changes_left.set(self.changes_left.get().checked_sub(1).ok_or(Refusal::Fault)?);
            act(&mut self.disk);
            Ok(())
        }
    }

    impl Segments for Failing {
        type Fault = Refusal;

        fn numbers(&self) -> Result<Vec<u32>, Refusal> {
            Ok(self.disk.0.keys().copied().collect())
        }

        fn read(&self, number: u32) -> Result<Vec<u8>, Refusal> {
            Ok(self.disk.0[&number].clone())
        }

        fn read_at(&self, place: Place, bytes: u32) -> Result<Vec<u8>, Refusal> {
            Ok(self.disk.read(place, bytes).to_vec())
        }

        fn write(&mut self, write: &Write) -> Result<(), Refusal> {
            self.change(|disk| disk.write(write))
        }

        fn prepare(&mut self, header: SegmentHeader, recycled: Option<u32>) -> Result<(), Refusal> {
            if self.is_full && recycled.is_none() {
                return Err(Refusal::Full);
            }
            self.change(|disk| disk.prepare(header, recycled))
        }

        fn remove(&mut self, number: u32) -> Result<(), Refusal> {
            self.change(|disk| drop(disk.0.remove(&number)))
        }

        fn refused(&self, refusal: Refusal) -> Refusal {
            refusal
        }

        fn refusal(fault: &Refusal) -> Refusal {
            *fault
        }
    }

    fn open(disk: Disk, changes_left: &Rc<Cell<u32>>) -> RestingLog<Failing> {
        let recovered = disk.recover(SETTINGS, NOW, &mut |_| ());
        assert_eq!(recovered.damage, []);
        let changes_left = Rc::clone(changes_left);
        RestingLog { log: recovered.log, segments: Failing { disk, changes_left, is_full: false } }
    }

    fn join(to: &mut RestingLog<Failing>, from: &mut RestingLog<Failing>) -> Result<(), Refusal> {
        take_over(NOW, std::slice::from_mut(to), 0, from, &[])?;
        from.remove_all(NOW)
    }

    /// Messages of some parts each, of which some lie in two segments, and some in another batch than their progress.
    fn full() -> Disk {
        let mut log = open(Disk::default(), &Rc::new(Cell::new(u32::MAX)));
        for number in 0..20 {
            let message = simple(number, 5_000 + 700 * number as usize);
            log.log.append_message(NOW, &message, 0).unwrap();
            log.log.note(NOW, &Note::Progress(progress_of(message.id, 3)), None);
        }
        log.settle(NOW).unwrap();
        log.segments.disk
    }

    fn assert_knows_all(logs: &[RestingLog<Failing>], changes: u32) {
        let mut count = 0;
        for log in logs {
            log.visit(&mut |head, progress| {
                count += 1;
                assert_eq!(progress, Some(progress_of(head.id, 3)), "after {changes} changes");
            })
            .unwrap();
        }
        assert_eq!(count, 20, "after {changes} changes");
    }

    #[test]
    fn what_an_interrupted_move_has_left_in_two_logs_that_go_on_is_in_one_of_them_with_its_progress() {
        let before = full();
        for changes in 0.. {
            let left = Rc::new(Cell::new(changes));
            let (mut to, mut from) = (open(Disk::default(), &left), open(before.clone(), &left));
            let joined = join(&mut to, &mut from);
            left.set(u32::MAX);
            let mut logs = [open(to.segments.disk, &left), open(from.segments.disk, &left)];
            drop_doubles(NOW, &mut logs).unwrap();
            assert_knows_all(&logs, changes);
            if joined.is_ok() {
                return;
            }
        }
    }

    #[test]
    fn a_move_that_is_interrupted_before_any_change_loses_nothing_and_looks_like_no_damage() {
        let before = full();
        assert!(before.0.len() > 2);
        for changes in 0.. {
            let left = Rc::new(Cell::new(changes));
            let (mut to, mut from) = (open(Disk::default(), &left), open(before.clone(), &left));
            let joined = join(&mut to, &mut from);
            left.set(u32::MAX);
            let (mut to, mut from) = (open(to.segments.disk, &left), open(from.segments.disk, &left));
            join(&mut to, &mut from).unwrap();
            assert_knows_all(std::slice::from_ref(&to), changes);
            assert!(from.segments.disk.0.is_empty());
            if joined.is_ok() {
                assert!(changes > 5, "it was interrupted everywhere");
                return;
            }
        }
    }

    /// A message with a token that all of these bear.
    fn bears_token(log: &mut RestingLog<Failing>, number: u32) -> MessageId {
        let mut message = message("MAIL FROM:<a@b.example> XONCE=t", &["RCPT TO:<c@d.example>"], b"content");
        message.id = simple(number, 0).id;
        log.log.append_message(NOW, &message, 0).unwrap();
        log.settle(NOW).unwrap();
        message.id
    }

    /// What a start finds of these disks with so many shards, and makes of it: the queued messages, and those whose token holds.
    fn start(disks: &mut Vec<Disk>, shards: usize) -> (Vec<MessageId>, Vec<MessageId>) {
        start_on(disks, shards, false)
    }

    fn start_on(disks: &mut Vec<Disk>, shards: usize, is_full: bool) -> (Vec<MessageId>, Vec<MessageId>) {
        let mut tokens = Vec::new();
        disks.resize_with(shards.max(disks.len()), Disk::default);
        let read = |disk: Disk| {
            let mut found = Vec::new();
            let recovered = disk.recover(SETTINGS, NOW, &mut |token| {
                let (key, stored_at) = (OnceKey::new(&[7; 32], token.user, token.token), token.id.received());
                tokens.push(StoredToken { key, message: token.id, stored_at });
                found.push(token.into());
            });
            let segments = Failing { disk, changes_left: Rc::new(Cell::new(u32::MAX)), is_full };
            (RestingLog { log: recovered.log, segments }, found)
        };
        let mut found: Vec<_> = disks.drain(..).map(read).collect();
        let vanished = found.split_off(shards).into_iter().zip(shards..);
        let vanished = vanished.map(|((resting, tokens), shard)| Vanished { shard, resting, tokens }).collect();
        let mut logs = found.into_iter().map(|(resting, _)| resting).collect();
        let within = Duration::from_secs(60);
        bring_together(NOW, &mut logs, vanished, &mut tokens, within, &mut |_, _| Ok(())).unwrap();
        let queued = logs.iter().flat_map(|log| log.log.messages()).collect();
        disks.extend(logs.into_iter().map(|log| log.segments.disk));
        (queued, tokens.iter().map(|token| token.message).collect())
    }

    /// Disks of three shards. The oldest message with the token is on the second, the newest on the third.
    fn with_a_repeat() -> (Vec<Disk>, MessageId) {
        let forever = Rc::new(Cell::new(u32::MAX));
        let mut logs: Vec<_> = (0..3).map(|_| open(Disk::default(), &forever)).collect();
        bears_token(&mut logs[1], 1);
        let newest = bears_token(&mut logs[2], 2);
        (logs.into_iter().map(|log| log.segments.disk).collect(), newest)
    }

    #[test]
    fn what_one_start_has_disowned_makes_no_later_start_disown_what_was_kept() {
        for shards in [[3, 3, 3], [3, 2, 1], [1, 3, 2], [2, 1, 3], [3, 1, 1]] {
            let (mut disks, newest) = with_a_repeat();
            for count in shards {
                assert_eq!(start(&mut disks, count), (vec![newest], vec![newest]), "{count} of {shards:?}");
            }
        }
    }

    #[test]
    fn what_was_disowned_stays_so_in_every_log_when_its_own_is_no_more() {
        let (mut disks, newest) = with_a_repeat();
        // An interrupted move has left the oldest one in the third log, too.
        let forever = Rc::new(Cell::new(u32::MAX));
        let mut third = open(disks.remove(2), &forever);
        bears_token(&mut third, 1);
        disks.push(third.segments.disk);
        for count in [3, 3, 2, 1, 1] {
            assert_eq!(start(&mut disks, count), (vec![newest], vec![newest]), "{count} shards");
        }
    }

    #[test]
    fn the_token_of_a_disowned_message_is_not_taken_over_behind_the_note() {
        let (mut disks, newest) = with_a_repeat();
        // The first log knows that the oldest does not count; the fourth, where its token is, does not: it was done there.
        let forever = Rc::new(Cell::new(u32::MAX));
        let oldest = simple(1, 0).id;
        let mut first = open(disks.remove(0), &forever);
        first.disown(NOW, [oldest].into_iter()).unwrap();
        let mut fourth = open(std::mem::take(&mut disks[0]), &forever);
        fourth.forget(NOW, &[oldest]).unwrap();
        disks = vec![first.segments.disk, Disk::default(), disks.remove(1), fourth.segments.disk];
        assert_eq!(start(&mut disks, 3), (vec![newest], vec![newest]));
        let mut told = Vec::new();
        disks[0].recover(SETTINGS, NOW, &mut |token| told.push(token.id));
        assert!(!told.contains(&oldest), "{told:?}");
    }

    #[test]
    fn what_may_have_been_refused_is_dropped_for_what_was_delivered_though_it_is_the_newest() {
        let (mut disks, _) = with_a_repeat();
        let mut second = open(disks.remove(1), &Rc::new(Cell::new(u32::MAX)));
        let oldest = simple(1, 0).id;
        second.forget(NOW, &[oldest]).unwrap();
        disks.insert(1, second.segments.disk);
        for _ in 0..3 {
            assert_eq!(start(&mut disks, 3), (vec![], vec![oldest]));
        }
    }

    #[test]
    fn what_was_acknowledged_is_dropped_for_no_other_with_its_token() {
        let (disks, newest) = with_a_repeat();
        // Something came behind both.
        let mut disks: Vec<_> = disks
            .into_iter()
            .map(|disk| {
                let mut log = open(disk, &Rc::new(Cell::new(u32::MAX)));
                log.log.append_message(NOW, &simple(3, 0), 0).unwrap();
                log.settle(NOW).unwrap();
                log.forget(NOW, &[simple(3, 0).id]).unwrap();
                log.segments.disk
            })
            .collect();
        for _ in 0..3 {
            assert_eq!(start(&mut disks, 3), (vec![simple(1, 0).id, newest], vec![newest]));
        }
    }

    #[test]
    fn on_a_full_disk_a_start_finds_room_for_its_notes_in_the_last_segment() {
        let (mut disks, newest) = with_a_repeat();
        for _ in 0..3 {
            assert_eq!(start_on(&mut disks, 3, true), (vec![newest], vec![newest]));
        }
        assert!(disks.iter().all(|disk| disk.0.len() <= 1));
    }

    #[test]
    fn a_move_to_a_full_disk_is_told_and_loses_nothing() {
        let (disks, newest) = with_a_repeat();
        let [_, second, third] = <[Disk; 3]>::try_from(disks).unwrap();
        let forever = Rc::new(Cell::new(u32::MAX));
        let (mut to, from) = (open(second, &forever), open(third, &forever));
        to.segments.is_full = true;
        for _ in 0..2 {
            let moved = take_over(NOW, std::slice::from_mut(&mut to), 0, &from, &[]);
            assert_eq!(moved, Err(Refusal::Full));
            assert!(!to.log.contains(newest));
        }
    }

    #[test]
    fn a_move_of_tokens_to_a_full_disk_is_told_and_loses_none() {
        let forever = Rc::new(Cell::new(u32::MAX));
        let (mut to, mut from) = (open(Disk::default(), &forever), open(Disk::default(), &forever));
        to.log.append_message(NOW, &simple(3, 0), 0).unwrap();
        to.settle(NOW).unwrap();
        let once = bears_token(&mut from, 1);
        from.forget(NOW, &[once]).unwrap();
        let (mut to, from) = (open(to.segments.disk, &forever), open(from.segments.disk, &forever));
        to.segments.is_full = true;
        let token = FoundToken { id: once, user: "ann".to_owned(), token: "t".to_owned() };
        let many = vec![token; 10_000];
        let moved = take_over(NOW, std::slice::from_mut(&mut to), 0, &from, &many);
        assert_eq!(moved, Err(Refusal::Full));
    }

    /// A message in parts on one disk, of which the first is lost there, and a whole copy on another.
    fn half_of_it_and_a_copy() -> (Vec<Disk>, MessageId) {
        let forever = Rc::new(Cell::new(u32::MAX));
        let mut disks = Vec::new();
        let mut large = message("MAIL FROM:<a@b.example> XONCE=t", &["RCPT TO:<c@d.example>"], &[b'x'; 100_000]);
        large.id = simple(1, 0).id;
        for _ in 0..2 {
            let mut log = open(Disk::default(), &forever);
            log.log.append_message(NOW, &large, 0).unwrap();
            log.settle(NOW).unwrap();
            disks.push(log.segments.disk);
        }
        let first = *disks[0].0.keys().next().unwrap();
        disks[0].0.remove(&first);
        (disks, large.id)
    }

    #[test]
    fn what_is_not_whole_in_one_log_and_whole_in_another_keeps_its_token_when_it_has_been_delivered() {
        let (mut disks, id) = half_of_it_and_a_copy();
        assert_eq!(start(&mut disks, 2), (vec![id], vec![id]));
        let mut copy = open(disks.remove(1), &Rc::new(Cell::new(u32::MAX)));
        copy.forget(NOW, &[id]).unwrap();
        disks.push(copy.segments.disk);
        for _ in 0..2 {
            assert_eq!(start(&mut disks, 2), (vec![], vec![id]));
        }
    }

    #[test]
    fn what_was_not_whole_and_is_moved_here_is_lost_no_more() {
        let (mut disks, id) = half_of_it_and_a_copy();
        assert_eq!(start(&mut disks, 1), (vec![id], vec![id]));
        let (disks, _) = half_of_it_and_a_copy();
        let [half, whole] = <[Disk; 2]>::try_from(disks).unwrap();
        let forever = Rc::new(Cell::new(u32::MAX));
        let log = half.recover(SETTINGS, NOW, &mut |_| ()).log;
        let segments = Failing { disk: half, changes_left: Rc::clone(&forever), is_full: false };
        let mut to = RestingLog { log, segments };
        assert!(to.log.is_lost(id));
        take_over(NOW, std::slice::from_mut(&mut to), 0, &open(whole, &forever), &[]).unwrap();
        assert!(to.log.contains(id) && !to.log.is_lost(id));
    }

    #[test]
    fn the_token_of_a_message_that_is_not_whole_names_nothing() {
        let (mut disks, _) = half_of_it_and_a_copy();
        disks.truncate(1);
        for _ in 0..2 {
            assert_eq!(start(&mut disks, 1), (vec![], vec![]));
        }
    }
}
