//! One log: which bytes go where and when, and what has become of them.
//!
//! ```text
//! append, note ──▶ gathering batches ──▶ poll_write ──▶ in flight ──▶ handle_written ──▶ completions
//!                        ▲                                   │ failed: the segment is given up,
//!                        └────────── notes, once more ───────┘ messages are told, notes are kept
//! ```
//!
//! * One batch is in flight; the next gathers meanwhile. So all messages that wait share one write and one sync.
//! * A write that failed is never repeated in its segment: what the system has dropped from memory it may report as
//!   written the next time. The next batch goes into a fresh segment and says that the failed one does not count.
//! * While no further segment can be had because the disk is full, messages are refused, and what is left of the current
//!   segment is for notes: a disk becomes free only by noting what is done.
//!
//! It waits for nothing and touches nothing; [`upkeep`](super::upkeep) makes and frees segments.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::contents::{Contents, Piece, Segment};
use super::frame::{self, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader};
use super::record::{self, Token, kind};
use super::upkeep::Keeping;
use super::{Place, Progress};
use crate::limits::SPOOL_PARTS_MAX;
use crate::proto::message::{Message, MessageId};
use crate::proto::server::StoreFailure;
use crate::time::Now;

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// A batch takes no more records once it has this many bytes.
    pub batch_bytes_max: usize,
    /// Content beyond this many bytes lies in parts of this size.
    pub part_bytes: usize,
    /// Bytes that may wait to be written before messages are put off.
    pub waiting_bytes_max: usize,
    /// How long notes wait for company.
    pub note_delay: Duration,
    /// How long a token is kept after its message arrived.
    pub token_retention: Duration,
}

/// Why something is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room.
    Full,
    /// Too much waits to be written.
    Busy,
    /// The system refuses, or it cannot be written at all.
    Fault,
}

impl From<Refusal> for StoreFailure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => Self::Full,
            Refusal::Busy => Self::Busy,
            Refusal::Fault => Self::Fault,
        }
    }
}

/// What a caller is told about by: its own number for what it has appended.
pub type Ticket = u64;

/// What has become of something appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Whose.
    pub ticket: Ticket,
    /// Where it is on stable storage, or why it is not.
    pub result: Result<Place, Refusal>,
}

/// Bytes to be written and synced.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub place: Place,
    /// What: whole blocks.
    pub bytes: Vec<u8>,
    /// How many messages are in it.
    pub messages: u32,
}

/// Something to be written down beside a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// How far it has come.
    Progress(Progress),
    /// Nothing is left to do for it.
    Done(MessageId),
}

/// Where a record can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The place.
    pub place: Place,
    /// Bytes to read; for progress, at least as many as there are: see [`read_progress`](super::recovery::read_progress).
    pub bytes: u32,
    /// The seed of its segment.
    pub seed: u64,
}

/// Where a message can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The message.
    pub head: Address,
    /// The parts of its content that come before its own, in order.
    pub parts: Vec<Address>,
    /// The newest progress. The record is shorter than `bytes`, mostly by far.
    pub progress: Option<Address>,
}

/// A log.
#[derive(Debug)]
pub struct Log {
    pub(super) settings: LogSettings,
    pub(super) contents: Contents,
    /// Messages whose end is noted but not written yet.
    pub(super) finishing: HashSet<MessageId>,
    /// Messages with progress that is noted but not written yet, and how often.
    pub(super) progressing: HashMap<MessageId, u32>,
    /// Large messages whose end is not written yet.
    incoming: HashSet<MessageId>,
    gathering: VecDeque<Batch>,
    waiting_bytes: usize,
    in_flight: Option<InFlight>,
    /// The segment that is written to, and up to where it is taken.
    pub(super) current: Option<(u32, u32)>,
    /// The last segment that was found at start, and up to where it is taken: for notes, if there is no room for a fresh one.
    pub(super) last_found: Option<(u32, u32)>,
    /// Why no message is taken.
    pub(super) refusing: Option<Refusal>,
    next_batch: u64,
    committed: Place,
    /// Messages of batches that have failed, and of which no batch behind says so yet. What they consist of is kept so long: a
    /// start that takes them for stored must find it whole.
    to_disown: Vec<MessageId>,
    /// Where the last batch lies that was found at start, and its bytes, until there is another one behind it.
    pub(super) last_batch_found: Option<(Place, u32)>,
    pub(super) keeping: Keeping,
    completions: Vec<Completion>,
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    records: Vec<Pending>,
    /// Somebody waits for it.
    is_urgent: bool,
    since: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// From the batch's start.
    at: usize,
    what: What,
    ticket: Option<Ticket>,
}

#[derive(Debug)]
struct InFlight {
    place: Place,
    /// Up to where the next may begin.
    bytes: u32,
    /// Where the last record ends, from the batch's start.
    record_end: usize,
    records: Vec<Pending>,
    /// What is written once more if this fails.
    notes: Batch,
}

impl Pending {
    /// The message, if it is one that is to be stored.
    fn message(&self) -> Option<MessageId> {
        if let What::Message { id, .. } = self.what { Some(id) } else { None }
    }
}

impl Batch {
    /// The notes alone.
    fn notes(&self) -> Self {
        let mut notes = Self { is_urgent: true, since: self.since, ..Self::default() };
        for pending in self.records.iter().filter(|pending| pending.what.is_note()) {
            let (kind, payload) = record_at(&self.bytes, pending.at);
            let at = frame::append(&mut notes.bytes, kind, |out| out.extend_from_slice(payload));
            notes.records.push(Pending { at, ..*pending });
        }
        notes
    }
}

/// What a record means to the log once it is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Message {
        id: MessageId,
        parts: u32,
        has_token: bool,
    },
    Part {
        id: MessageId,
        index: u32,
    },
    Progress(MessageId),
    Done(MessageId),
    /// It was taken back before it was written.
    Nothing,
    Token {
        received: Duration,
    },
    /// Copies of what lies at `from`.
    MovedMessage {
        id: MessageId,
        from: Place,
        has_token: bool,
    },
    MovedPart {
        id: MessageId,
        index: u32,
        from: Place,
    },
    MovedProgress {
        id: MessageId,
        from: Place,
    },
}

impl What {
    fn is_note(self) -> bool {
        matches!(self, Self::Progress(_) | Self::Done(_))
    }

    /// Is it the cleaner's?
    fn is_copy(self) -> bool {
        matches!(
            self,
            Self::Token { .. } | Self::MovedMessage { .. } | Self::MovedPart { .. } | Self::MovedProgress { .. }
        )
    }
}

impl Log {
    /// A log with these contents; its segments have the numbers up to `last_segment`, and what was committed ends at
    /// `committed`. `random` is for the seeds of segments.
    pub(super) fn with(
        settings: LogSettings,
        contents: Contents,
        last_segment: u32,
        last_batch: u64,
        committed: Place,
        random: u64,
    ) -> Self {
        // Of a segment that was cut short the end may lie anywhere, and a batch begins on a block.
        let last_found = contents.segments.back().map(|last| (last.number, last.end.next_multiple_of(BLOCK_BYTES)));
        Self {
            settings,
            contents,
            last_found,
            finishing: HashSet::new(),
            progressing: HashMap::new(),
            incoming: HashSet::new(),
            gathering: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: None,
            current: None,
            refusing: None,
            next_batch: last_batch + 1,
            committed,
            to_disown: Vec::new(),
            last_batch_found: None,
            keeping: Keeping::new(last_segment, random),
            completions: Vec::new(),
        }
    }

    /// An empty log that never was.
    pub fn new(settings: LogSettings, random: u64) -> Self {
        Self::with(settings, Contents::default(), 0, 0, Place { segment: 0, offset: 0 }, random)
    }

    // ── What is asked for ───────────────────────────────────────────────────────────────────────────────────────────

    /// Appends a message. The completion comes when it is on stable storage, or cannot be.
    ///
    /// # Errors
    /// It is refused at once: there is no room, too much waits, its envelope fits no segment, or it has more than
    /// [`SPOOL_PARTS_MAX`] parts.
    pub fn append_message(&mut self, now: Now, message: &Message, ticket: Ticket) -> Result<(), Refusal> {
        let (pieces, rest) = self.split(&message.content);
        self.admit(message.envelope.capacity() + message.trace.len() + rest.len())?;
        let parts = pieces.len() as u32;
        if parts > SPOOL_PARTS_MAX {
            return Err(Refusal::Fault);
        }
        let part_bytes = (message.content.len() - rest.len()) as u64;
        for (index, piece) in (0..).zip(pieces) {
            self.write_part(now, message.id, index, piece, None);
        }
        self.write_head(now, message, (parts, part_bytes), rest, ticket);
        Ok(())
    }

    /// Appends the next piece of a message whose end is not known yet.
    ///
    /// # Errors
    /// As [`Self::append_message`], or a piece before this one could not be written.
    pub fn append_part(
        &mut self,
        now: Now,
        id: MessageId,
        index: u32,
        bytes: &[u8],
        ticket: Ticket,
    ) -> Result<(), Refusal> {
        self.admit(bytes.len())?;
        if index >= SPOOL_PARTS_MAX || index > 0 && !self.incoming.contains(&id) {
            return Err(Refusal::Fault);
        }
        self.write_part(now, id, index, bytes, Some(ticket));
        Ok(())
    }

    /// Appends a message of which the first `parts` pieces, `part_bytes` bytes of content together, were appended before.
    ///
    /// # Errors
    /// As [`Self::append_part`]; the pieces are then forgotten.
    pub fn append_end(
        &mut self,
        now: Now,
        message: &Message,
        parts: (u32, u64),
        ticket: Ticket,
    ) -> Result<(), Refusal> {
        let bytes = message.envelope.capacity() + message.trace.len() + message.content.len();
        let is_begun = parts.0 == 0 || self.incoming.contains(&message.id);
        let admitted = self.admit(bytes).and(if is_begun { Ok(()) } else { Err(Refusal::Fault) });
        if let Err(failure) = admitted {
            self.abandon(message.id);
            return Err(failure);
        }
        self.write_head(now, message, parts, &message.content, ticket);
        Ok(())
    }

    /// A message that came in pieces will not be finished.
    pub fn abandon(&mut self, id: MessageId) {
        if !self.contents.messages.contains(id) {
            self.forget_parts(id);
        }
    }

    /// Writes something down beside a message. With a ticket, somebody waits for it.
    pub fn note(&mut self, now: Now, note: &Note, ticket: Option<Ticket>) {
        match note {
            Note::Progress(progress) => {
                *self.progressing.entry(progress.message).or_default() += 1;
                let what = What::Progress(progress.message);
                self.append(now, kind::PROGRESS, what, ticket, |out| record::write_progress(progress, out));
            }
            Note::Done(id) => {
                self.finishing.insert(*id);
                self.append(now, kind::DONE, What::Done(*id), ticket, |out| record::write_done(*id, out));
            }
        }
    }

    /// Writes down that a message does not count, nor does its token.
    pub fn disown(&mut self, now: Now, id: MessageId) {
        self.finishing.insert(id);
        self.contents.disowned.insert(id);
        self.append(now, kind::DISOWNED, What::Done(id), None, |out| record::write_disowned(id, out));
    }

    /// Writes all that was appended without waiting for company.
    pub fn hurry(&mut self) {
        for batch in &mut self.gathering {
            batch.is_urgent = true;
        }
    }

    /// Takes over a token from another log, or from further back in this one.
    pub fn adopt_token(&mut self, now: Now, token: Token<'_>, ticket: Option<Ticket>) {
        self.keeping.copy_begun();
        let what = What::Token { received: token.id.received() };
        self.append(now, kind::TOKEN, what, ticket, |out| record::write_token(token, out));
    }

    /// Writes all notes without waiting for company, and a last batch behind them: so that the next start knows that
    /// everything before it was whole.
    pub fn close(&mut self, now: Now) {
        self.hurry();
        if self.current.is_none() && self.to_disown.is_empty() {
            return;
        }
        self.push_empty_batch(now.monotonic);
    }

    // ── What is there ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Is this message in the log?
    pub fn contains(&self, id: MessageId) -> bool {
        self.contents.messages.contains(id)
    }

    /// The messages that do not count, as long as their tokens would hold.
    pub fn disowned(&self) -> impl Iterator<Item = MessageId> {
        self.contents.disowned.iter().copied()
    }

    /// Is this one of [`Self::disowned`]?
    pub fn is_disowned(&self, id: MessageId) -> bool {
        self.contents.disowned.contains(&id)
    }

    /// May this message have been refused, of those that were found at start? Its batch is the last one: if that failed, nothing
    /// behind it says so.
    pub fn may_be_refused(&self, id: MessageId) -> bool {
        let (Some((batch, bytes)), Some(entry)) = (self.last_batch_found, self.contents.messages.get(id)) else {
            return false;
        };
        let Place { segment, offset } = entry.head.place;
        segment == batch.segment && (batch.offset..batch.offset.saturating_add(bytes)).contains(&offset)
    }

    /// The messages that were not whole when they were found at start. Their tokens name nothing that could be delivered.
    pub fn lost(&self) -> impl Iterator<Item = MessageId> {
        self.contents.lost.iter().copied()
    }

    /// Is this one of [`Self::lost`]?
    pub fn is_lost(&self, id: MessageId) -> bool {
        self.contents.lost.contains(&id)
    }

    /// How many messages are not done.
    pub fn message_count(&self) -> usize {
        self.contents.messages.len()
    }

    /// All messages that are not done, in no order.
    pub fn messages(&self) -> impl Iterator<Item = MessageId> {
        self.contents.messages.iter().map(|entry| entry.id)
    }

    /// Segments in use.
    pub fn segment_count(&self) -> usize {
        self.contents.segments.len()
    }

    /// Bytes that wait to be written.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Is everything written that was appended?
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.gathering.is_empty()
    }

    /// Does something wait that has no room to go to?
    pub(super) fn is_stuck(&self) -> bool {
        self.current.is_none() || self.in_flight.is_none() && self.gathering.iter().any(|batch| batch.is_urgent)
    }

    /// Where a message can be read now. It may move, so that a read that fails is to be repeated from here.
    pub fn locate(&self, id: MessageId) -> Option<Location> {
        let entry = self.contents.messages.get(id)?;
        let large = self.contents.large.get(&id);
        let parts = large.iter().flat_map(|large| &large.parts);
        Some(Location {
            head: self.address(entry.head)?,
            parts: parts.map(|part| self.address((*part)?)).collect::<Option<_>>()?,
            progress: entry.progress().and_then(|place| self.address(Piece { place, bytes: PROGRESS_BYTES_MAX })),
        })
    }

    fn address(&self, piece: Piece) -> Option<Address> {
        let segment = self.contents.segment(piece.place.segment)?;
        let bytes = piece.bytes.min(segment.end.saturating_sub(piece.place.offset));
        Some(Address { place: piece.place, bytes, seed: segment.seed })
    }

    // ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The next batch to be written and synced, if one is due and none is in flight.
    pub fn poll_write(&mut self, now: Now) -> Option<Write> {
        let front = self.gathering.front()?;
        let is_due = front.is_urgent || now.monotonic >= front.since + self.settings.note_delay;
        if self.in_flight.is_some() || !(is_due || self.gathering.len() > 1) {
            return None;
        }
        let bytes = frame::whole_bytes(front.bytes.len() - BATCH_HEADER_BYTES);
        let place = self.take_room(bytes)?;
        let seed = self.contents.segment(place.segment)?.seed;
        let mut batch = self.gathering.pop_front()?;
        self.waiting_bytes -= batch.bytes.len();
        let (notes, record_end) = (batch.notes(), batch.bytes.len());
        let (number, committed) = (self.next_batch, self.committed);
        self.next_batch += 1;
        frame::seal(&mut batch.bytes, BatchHeader { number, seed, place, committed, bytes: 0 });
        let Batch { bytes, records, .. } = batch;
        let messages = records.iter().filter_map(Pending::message).count() as u32;
        self.in_flight = Some(InFlight { place, bytes: bytes.len() as u32, record_end, records, notes });
        Some(Write { place, bytes, messages })
    }

    /// When to poll again for a write although nothing has happened, on the monotonic clock.
    pub fn poll_timeout(&self, now: Now) -> Option<Duration> {
        let due = self.gathering.front()?.since + self.settings.note_delay;
        (due > now.monotonic).then_some(due)
    }

    /// What became of the batch in flight: written and synced whole, or not.
    pub fn handle_written(&mut self, result: Result<(), Refusal>) {
        let Some(written) = self.in_flight.take() else {
            return;
        };
        match result {
            Ok(()) => self.commit(&written),
            Err(failure) => {
                self.give_up(written.place.segment);
                let mut refused = written.records.iter().filter_map(Pending::message).peekable();
                if refused.peek().is_none() {
                    // Nobody waits for it, and it comes again by itself.
                    self.keeping.slow_down();
                }
                self.to_disown.extend(refused);
                self.fail(&written.records, written.notes, failure);
                self.disown_failed();
            }
        }
    }

    /// The messages of a batch that failed are refused, but all of it may be on the disk: until the next batch says that it does
    /// not count, a start would take it for stored. So the next one does not wait for company.
    pub(super) fn disown_failed(&mut self) {
        if !self.to_disown.is_empty() && self.gathering.is_empty() {
            self.push_empty_batch(Duration::ZERO);
        }
    }

    fn push_empty_batch(&mut self, since: Duration) {
        let bytes = vec![0; BATCH_HEADER_BYTES];
        self.waiting_bytes += bytes.len();
        self.gathering.push_back(Batch { bytes, records: Vec::new(), is_urgent: true, since });
    }

    /// What was completed since the last time.
    pub fn take_completions(&mut self) -> Vec<Completion> {
        std::mem::take(&mut self.completions)
    }

    fn commit(&mut self, written: &InFlight) {
        let Place { segment, offset } = written.place;
        let end = offset + written.bytes;
        self.committed = Place { segment, offset: end };
        self.last_batch_found = None;
        for id in std::mem::take(&mut self.to_disown) {
            self.contents.remove_parts(id);
        }
        if let Some(segment) = self.contents.segment_mut(segment) {
            segment.end = end;
        }
        let ends = written.records.iter().skip(1).map(|next| next.at).chain([written.record_end]);
        let mut copied = 0;
        for (pending, end) in written.records.iter().zip(ends) {
            copied += if pending.what.is_copy() { end - pending.at } else { 0 };
            let place = Place { segment, offset: offset + pending.at as u32 };
            self.apply(pending.what, Piece { place, bytes: (end - pending.at) as u32 });
            self.complete(pending.ticket, Ok(place));
        }
        if !written.records.iter().all(|pending| pending.what.is_copy()) {
            self.keeping.note_traffic(u64::from(written.bytes) - copied as u64);
        }
    }

    /// A record is on stable storage.
    fn apply(&mut self, what: What, piece: Piece) {
        let segment = piece.place.segment;
        if what.is_copy() {
            self.keeping.copy_written();
        }
        match what {
            What::Message { id, parts, has_token } => {
                assert!(self.contents.has_parts(id, parts), "a message is written only if all its parts are");
                self.incoming.remove(&id);
                self.contents.place_message(id, piece);
                self.count_token(id, has_token, segment);
            }
            What::Part { id, index } => {
                if self.incoming.contains(&id) {
                    self.contents.place_part(id, index, piece);
                }
            }
            What::Progress(id) => {
                self.progress_written(id);
                self.contents.place_progress(id, piece.place);
            }
            What::Done(id) => {
                self.finishing.remove(&id);
                self.contents.remove(id);
            }
            What::Nothing => {}
            What::Token { received } => self.contents.place_token(segment, received),
            What::MovedMessage { id, from, has_token } => {
                if self.contents.messages.get(id).is_some_and(|entry| entry.head.place == from) {
                    self.contents.place_message(id, piece);
                }
                self.count_token(id, has_token, segment);
            }
            What::MovedPart { id, index, from } => {
                let parts = self.contents.large.get(&id).map_or(&[][..], |large| &large.parts);
                let is_current = parts.get(index as usize).copied().flatten().is_some_and(|part| part.place == from);
                if is_current {
                    self.contents.place_part(id, index, piece);
                }
            }
            What::MovedProgress { id, from } => {
                if self.contents.messages.get(id).is_some_and(|entry| entry.progress() == Some(from)) {
                    self.contents.place_progress(id, piece.place);
                }
            }
        }
    }

    fn count_token(&mut self, id: MessageId, has_token: bool, segment: u32) {
        if has_token {
            self.contents.place_token(segment, id.received());
        }
    }

    fn progress_written(&mut self, id: MessageId) {
        if let Some(count) = self.progressing.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.progressing.remove(&id);
            }
        }
    }

    /// The segment is never written to again.
    fn give_up(&mut self, number: u32) {
        if let Some(segment) = self.contents.segment_mut(number) {
            segment.given_up = true;
        }
        self.current = None;
    }

    /// Tells those who wait, and keeps the notes for the next batch.
    fn fail(&mut self, records: &[Pending], notes: Batch, failure: Refusal) {
        for pending in records.iter().filter(|pending| !pending.what.is_note()) {
            match pending.what {
                what if what.is_copy() => self.keeping.copy_failed(),
                What::Message { id, .. } => self.forget_parts(id),
                What::Part { id, .. } => self.take_back(id, failure),
                _ => {}
            }
            self.complete(pending.ticket, Err(failure));
        }
        if !notes.records.is_empty() {
            self.waiting_bytes += notes.bytes.len();
            self.gathering.push_front(notes);
        }
    }

    /// Refuses the messages that wait for a segment, and those that come, until there is one.
    pub(super) fn refuse(&mut self, failure: Refusal) {
        self.refusing = Some(failure);
        let gathered = std::mem::take(&mut self.gathering);
        self.waiting_bytes = 0;
        for batch in gathered.into_iter().rev() {
            self.fail(&batch.records, batch.notes(), failure);
        }
    }

    /// One of its parts has failed: what else of the message is gathered is not to be written.
    fn take_back(&mut self, of: MessageId, failure: Refusal) {
        self.forget_parts(of);
        let mut tickets = Vec::new();
        for batch in &mut self.gathering {
            for pending in &mut batch.records {
                if matches!(pending.what, What::Message { id, .. } | What::Part { id, .. } if id == of) {
                    pending.what = What::Nothing;
                    tickets.push(pending.ticket.take());
                    frame::replace_kind(&mut batch.bytes, pending.at, kind::NOTHING);
                }
            }
        }
        for ticket in tickets {
            self.complete(ticket, Err(failure));
        }
    }

    fn forget_parts(&mut self, id: MessageId) {
        self.incoming.remove(&id);
        if !self.to_disown.contains(&id) {
            self.contents.remove_parts(id);
        }
    }

    fn complete(&mut self, ticket: Option<Ticket>, result: Result<Place, Refusal>) {
        self.completions.extend(ticket.map(|ticket| Completion { ticket, result }));
    }

    // ── Gathering ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Cuts content into parts of whole size and the rest.
    fn split<'a>(&self, content: &'a [u8]) -> (std::slice::ChunksExact<'a, u8>, &'a [u8]) {
        if content.len() <= self.settings.part_bytes {
            return ([].chunks_exact(1), content);
        }
        let pieces = content.chunks_exact(self.settings.part_bytes);
        let rest = pieces.remainder();
        (pieces, rest)
    }

    fn admit(&self, record_bytes: usize) -> Result<(), Refusal> {
        if let Some(failure) = self.refusing {
            return Err(failure);
        }
        if record_bytes > self.settings.segment_bytes as usize / 2 {
            return Err(Refusal::Fault);
        }
        if self.waiting_bytes > self.settings.waiting_bytes_max {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    fn write_part(&mut self, now: Now, id: MessageId, index: u32, bytes: &[u8], ticket: Option<Ticket>) {
        self.incoming.insert(id);
        self.append(now, kind::PART, What::Part { id, index }, ticket, |out| record::write_part(id, index, bytes, out));
    }

    fn write_head(&mut self, now: Now, message: &Message, parts: (u32, u64), content: &[u8], ticket: Ticket) {
        let (parts, part_bytes) = parts;
        let what = What::Message { id: message.id, parts, has_token: message.envelope.once().is_some() };
        self.append(now, kind::MESSAGE, what, Some(ticket), |out| {
            record::write_message(message, parts, part_bytes, content, out);
        });
    }

    pub(super) fn append_copy(&mut self, now: Now, kind: u8, what: What, payload: &[u8]) {
        self.append(now, kind, what, None, |out| out.extend_from_slice(payload));
    }

    fn append(&mut self, now: Now, kind: u8, what: What, ticket: Option<Ticket>, write: impl FnOnce(&mut Vec<u8>)) {
        let is_urgent = ticket.is_some() || !(what.is_note() || what.is_copy());
        let has_room = |batch: &&mut Batch| batch.bytes.len() < self.settings.batch_bytes_max;
        if self.gathering.back_mut().filter(has_room).is_none() {
            let since = now.monotonic;
            self.gathering.push_back(Batch { bytes: Vec::new(), records: Vec::new(), is_urgent: false, since });
        }
        let batch = self.gathering.back_mut().expect("one was just made sure of");
        let before = batch.bytes.len();
        let at = frame::append(&mut batch.bytes, kind, write);
        batch.records.push(Pending { at, what, ticket });
        batch.is_urgent |= is_urgent;
        self.waiting_bytes += batch.bytes.len() - before;
    }

    /// Room for a batch in the current segment, or in the next.
    fn take_room(&mut self, bytes: u64) -> Option<Place> {
        let fits = |(_, offset): &(u32, u32)| u64::from(*offset) + bytes <= u64::from(self.settings.segment_bytes);
        if self.current.filter(fits).is_none() {
            let (number, seed) = self.keeping.take_next()?;
            self.last_found = None;
            self.contents.segments.push_back(Segment::new(number, seed));
            self.current = Some((number, BLOCK_BYTES));
        }
        let (number, offset) = self.current?;
        self.current = Some((number, offset + bytes as u32));
        Some(Place { segment: number, offset })
    }
}

/// Kind and payload of the record at `at`.
fn record_at(batch: &[u8], at: usize) -> (u8, &[u8]) {
    let length = u32::from_le_bytes([batch[at + 4], batch[at + 5], batch[at + 6], batch[at + 7]]) as usize;
    let start = at + frame::RECORD_HEADER_BYTES;
    (batch[at + 8], &batch[start..start + length])
}

/// Most bytes of a record of progress: the longest reply, and a byte for each of as many recipients as can be allowed.
const PROGRESS_BYTES_MAX: u32 = 2 << 20;
