//! A log's segments: made before they are needed, freed the oldest first, used again.
//!
//! * A segment is freed when nothing in it is needed, and only if no older one is left: so a note that a message is done
//!   never goes before the message.
//! * When the log is large and what is needed is little, the oldest segment is cleaned: what is needed of it is copied to
//!   the log's end. So the room taken stays proportional to what is queued.
//! * One thing is done at a time, so that what is done to files keeps this order.

use std::collections::VecDeque;
use std::time::Duration;

use super::Place;
use super::contents::Segment;
use super::frame::{self, BLOCK_BYTES, BatchHeader, Frame, Item, Records, SegmentHeader};
use super::log::{Log, Refusal, What};
use super::record::{Record, Token};
use crate::proto::message::MessageId;
use crate::time::Now;

/// Something to be done to the files of a log, not urgent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Make a segment with this header, of zeroes or of one that is not needed any more, and make it stay. Then call
    /// [`Log::handle_prepared`].
    Prepare {
        /// The new segment.
        header: SegmentHeader,
        /// The number of the old one, which is there no more afterwards.
        recycled: Option<u32>,
    },
    /// Remove a segment, and make that stay. Then call [`Log::handle_removed`].
    Remove(u32),
    /// Read these bytes. Then call [`Log::handle_read`].
    Read {
        /// From here.
        place: Place,
        /// So many.
        bytes: u32,
    },
}

/// What is being kept up.
#[derive(Debug)]
pub(super) struct Keeping {
    last_segment: u32,
    random: u64,
    next: Option<(u32, u64)>,
    /// Segments that hold nothing any more, the oldest first.
    freed: VecDeque<Freed>,
    doing: Option<Doing>,
    cleaning: Option<Cleaning>,
    pass: Pass,
    /// Copies that are gathered or in flight.
    copies: u32,
    copies_failed: bool,
    /// After something failed, the next attempt.
    retry: Duration,
    /// What failed is not to be followed by the next attempt at once.
    slows_down: bool,
}

#[derive(Clone, Copy, Debug)]
struct Freed {
    number: u32,
    /// Its file is good for another life.
    is_sound: bool,
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Preparing { number: u32, seed: u64, recycles: bool },
    Removing,
    Reading,
}

/// The oldest segment is read through, and what is needed copied forward.
#[derive(Clone, Copy, Debug)]
struct Cleaning {
    segment: u32,
    seed: u64,
    offset: u32,
    end: u32,
    /// Bytes to read next.
    bytes: u32,
}

/// Cleaning goes through the log from the oldest segment to what was the newest, and then begins again.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    /// Its last segment.
    last: u32,
    /// How many there were when it began.
    segments: u64,
    /// Bytes that have come to the log since, but for copies.
    traffic: u64,
    /// The last pass brought nothing: with so many segments, and so many bytes needed of them, neither would another.
    futile: Option<(u64, u64)>,
}

impl Keeping {
    pub(super) fn new(last_segment: u32, random: u64) -> Self {
        Self {
            last_segment,
            random,
            next: None,
            freed: VecDeque::new(),
            doing: None,
            cleaning: None,
            pass: Pass::default(),
            copies: 0,
            copies_failed: false,
            retry: Duration::ZERO,
            slows_down: false,
        }
    }

    /// A batch has failed that is tried again whether anything comes or not: it would make segment after segment.
    pub(super) fn slow_down(&mut self) {
        self.slows_down = true;
    }

    /// The segment to go on in, if it is ready.
    pub(super) fn take_next(&mut self) -> Option<(u32, u64)> {
        self.next.take()
    }

    /// So much was written that is no copy.
    pub(super) fn note_traffic(&mut self, bytes: u64) {
        self.pass.traffic += bytes;
    }

    pub(super) fn copy_begun(&mut self) {
        self.copies += 1;
    }

    pub(super) fn copy_written(&mut self) {
        self.copies -= 1;
    }

    pub(super) fn copy_failed(&mut self) {
        self.copies -= 1;
        self.copies_failed = true;
    }

    /// Segments found at start that hold nothing: they go before all others.
    pub(super) fn add_freed(&mut self, number: u32) {
        self.freed.push_back(Freed { number, is_sound: true });
    }

    /// The next of a row of numbers that nobody can guess who does not know where it began (splitmix64).
    fn next_seed(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

impl Log {
    /// The next thing to do to the files, if any; one at a time.
    pub fn poll_upkeep(&mut self, now: Now) -> Option<Upkeep> {
        if self.keeping.doing.is_some() {
            return None;
        }
        self.free_oldest(now);
        if std::mem::take(&mut self.keeping.slows_down) {
            self.keeping.retry = now.monotonic + RETRY_AFTER;
        }
        self.prepare(now).or_else(|| self.remove(now)).or_else(|| self.clean(now))
    }

    /// When to poll again for upkeep although nothing has happened, on the monotonic clock.
    pub fn poll_upkeep_timeout(&self, now: Now) -> Option<Duration> {
        (self.keeping.doing.is_none() && self.keeping.retry > now.monotonic).then_some(self.keeping.retry)
    }

    /// Segments that are kept although they hold nothing, to be used again.
    pub fn spare_count(&self) -> usize {
        self.keeping.freed.len() + usize::from(self.keeping.next.is_some())
    }

    /// Why messages are refused, if they are.
    pub fn refusing(&self) -> Option<Refusal> {
        self.refusing
    }

    // ── Making ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn prepare(&mut self, now: Now) -> Option<Upkeep> {
        // The next one is made when the current one is first written to, or when it is only good for notes.
        let is_needed = self.refusing.is_some() || self.current.is_none_or(|(_, offset)| offset > BLOCK_BYTES);
        if self.keeping.next.is_some() || !is_needed || now.monotonic < self.keeping.retry {
            return None;
        }
        let oldest = self.keeping.freed.front().copied();
        if oldest.is_some_and(|freed| !freed.is_sound) {
            return None;
        }
        self.keeping.last_segment += 1;
        let (number, seed) = (self.keeping.last_segment, self.keeping.next_seed());
        let recycled = oldest.map(|freed| freed.number);
        self.keeping.doing = Some(Doing::Preparing { number, seed, recycles: recycled.is_some() });
        let header = SegmentHeader { number, bytes: self.settings.segment_bytes, seed };
        Some(Upkeep::Prepare { header, recycled })
    }

    /// What became of [`Upkeep::Prepare`].
    pub fn handle_prepared(&mut self, now: Now, result: Result<(), Refusal>) {
        let Some(Doing::Preparing { number, seed, recycles }) = self.keeping.doing.take() else {
            return;
        };
        match result {
            Ok(()) => {
                if recycles {
                    self.keeping.freed.pop_front();
                }
                self.keeping.next = Some((number, seed));
                self.refusing = None;
                self.disown_failed();
            }
            Err(failure) => {
                self.keeping.retry = now.monotonic + RETRY_AFTER;
                if let Some(freed) = self.keeping.freed.front_mut().filter(|_| recycles) {
                    freed.is_sound = false;
                }
                if failure == Refusal::Full && self.current.is_none() {
                    // The disk becomes free by nothing but notes of what is done.
                    self.current = self.last_found.take();
                }
                if failure == Refusal::Full || self.is_stuck() {
                    self.refuse(failure);
                }
            }
        }
    }

    // ── Freeing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn free_oldest(&mut self, now: Now) {
        while let Some(oldest) = self.contents.segments.front() {
            let is_current = self.current.is_some_and(|(current, _)| current == oldest.number);
            if is_current || !oldest.is_free(now.unix, self.settings.token_retention) {
                return;
            }
            if self.keeping.cleaning.is_some_and(|cleaning| cleaning.segment == oldest.number) {
                self.keeping.cleaning = None;
            }
            let Some(Segment { number, given_up, .. }) = self.contents.pop_segment() else {
                return;
            };
            self.last_found.take_if(|(found, _)| *found == number);
            self.keeping.freed.push_back(Freed { number, is_sound: !given_up });
            // There is room again.
            self.keeping.retry = Duration::ZERO;
        }
    }

    fn remove(&mut self, now: Now) -> Option<Upkeep> {
        let freed = *self.keeping.freed.front()?;
        let is_wanted = freed.is_sound && self.keeping.freed.len() <= SPARES_MAX;
        if is_wanted || now.monotonic < self.keeping.retry {
            return None;
        }
        self.keeping.doing = Some(Doing::Removing);
        Some(Upkeep::Remove(freed.number))
    }

    /// What became of [`Upkeep::Remove`].
    pub fn handle_removed(&mut self, now: Now, result: Result<(), Refusal>) {
        let Some(Doing::Removing) = self.keeping.doing.take() else {
            return;
        };
        match result {
            Ok(()) => {
                self.keeping.freed.pop_front();
            }
            Err(_) => self.keeping.retry = now.monotonic + RETRY_AFTER,
        }
    }

    // ── Cleaning ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn clean(&mut self, now: Now) -> Option<Upkeep> {
        if self.keeping.cleaning.is_none() {
            self.keeping.cleaning = self.begin_cleaning(now);
        }
        let cleaning = self.keeping.cleaning?;
        if self.waiting_bytes() > self.settings.batch_bytes_max || now.monotonic < self.keeping.retry {
            return None;
        }
        if cleaning.offset >= cleaning.end {
            self.end_cleaning(now, cleaning.segment);
            return None;
        }
        self.keeping.doing = Some(Doing::Reading);
        let place = Place { segment: cleaning.segment, offset: cleaning.offset };
        Some(Upkeep::Read { place, bytes: cleaning.bytes.min(cleaning.end - cleaning.offset) })
    }

    fn begin_cleaning(&mut self, now: Now) -> Option<Cleaning> {
        let oldest = self.contents.segments.front()?;
        let is_current = self.current.is_some_and(|(current, _)| current == oldest.number);
        if is_current || oldest.cleaned || now.monotonic < self.keeping.retry || !self.is_wasteful() {
            return None;
        }
        let (segment, seed, end) = (oldest.number, oldest.seed, oldest.end);
        if segment > self.keeping.pass.last && !self.begin_pass() {
            return None;
        }
        self.keeping.copies_failed = false;
        Some(Cleaning { segment, seed, offset: BLOCK_BYTES, end, bytes: CLEANING_BYTES })
    }

    /// Is there reason to go through the log once more? Large records may leave so much room at the ends of segments that copying
    /// gains nothing; to try again and again would keep the disk busy for ever.
    fn begin_pass(&mut self) -> bool {
        let (segments, needed) = (self.contents.segments.len() as u64, self.needed_bytes());
        let Pass { last, segments: before, traffic, futile } = self.keeping.pass;
        let without_it = before + traffic / u64::from(self.settings.segment_bytes);
        let futile = if last > 0 && segments >= without_it { futile.or(Some((segments, needed))) } else { futile };
        let is_hopeless = futile.is_some_and(|(then, needed_then)| {
            segments <= then + then / FUTILE_GROWTH && needed >= needed_then - needed_then / FUTILE_GROWTH
        });
        if is_hopeless {
            self.keeping.pass.futile = futile;
            return false;
        }
        let last = self.contents.segments.back().map_or(0, |newest| newest.number);
        self.keeping.pass = Pass { last, segments, traffic: 0, futile: None };
        true
    }

    fn needed_bytes(&self) -> u64 {
        self.contents.live_bytes + self.contents.tokens * TOKEN_BYTES
    }

    /// Is the log much larger than what is needed of it? While the disk is full, there is no room for copies.
    fn is_wasteful(&self) -> bool {
        let needed = self.needed_bytes();
        let segments = self.contents.segments.len() as u64;
        let taken = segments * u64::from(self.settings.segment_bytes);
        self.refusing.is_none() && segments > SEGMENTS_MIN && taken > 2 * needed
    }

    fn end_cleaning(&mut self, now: Now, number: u32) {
        if self.keeping.copies > 0 {
            return;
        }
        self.keeping.cleaning = None;
        if self.keeping.copies_failed {
            self.keeping.retry = now.monotonic + RETRY_AFTER;
            return;
        }
        self.contents.forget_tokens(number);
        if let Some(segment) = self.contents.segment_mut(number) {
            segment.cleaned = true;
        }
        self.free_oldest(now);
    }

    /// The bytes that [`Upkeep::Read`] asked for, or nothing if the system does not give them; they are then asked for
    /// again, because what is there may be needed.
    pub fn handle_read(&mut self, now: Now, bytes: Option<&[u8]>) {
        let (Some(Doing::Reading), Some(mut cleaning)) = (self.keeping.doing.take(), self.keeping.cleaning) else {
            return;
        };
        let Some(bytes) = bytes else {
            self.keeping.retry = now.monotonic + RETRY_AFTER;
            return;
        };
        // All batches that were read are copied now, so that what is needed of them is in one batch afterwards: in as many as
        // before it would take as much room as before, and cleaning would never end.
        let first = cleaning.offset;
        let mut rest = bytes;
        loop {
            let place = Place { segment: cleaning.segment, offset: cleaning.offset };
            let header = BatchHeader::decode(rest, place).filter(|header| header.seed == cleaning.seed);
            let taken = match header {
                Some(header) if header.whole_bytes() > rest.len() as u64 && bytes.len() as u32 == cleaning.bytes => {
                    let is_first = cleaning.offset == first;
                    cleaning.bytes = if is_first { header.whole_bytes() as u32 } else { CLEANING_BYTES };
                    self.keeping.cleaning = Some(cleaning);
                    return;
                }
                Some(header) => {
                    self.copy_batch(now, rest, header);
                    header.whole_bytes() as u32
                }
                // What was damaged was set aside at start; so was what is not there any more.
                None => BLOCK_BYTES,
            };
            cleaning.offset = cleaning.offset.saturating_add(taken);
            rest = rest.get(taken as usize..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        cleaning.bytes = CLEANING_BYTES;
        self.keeping.cleaning = Some(cleaning);
    }

    fn copy_batch(&mut self, now: Now, bytes: &[u8], header: BatchHeader) {
        for item in Records::new(bytes, header) {
            if let Item::Record(frame) = item
                && let Some(record) = Record::decode(frame.kind, frame.payload)
            {
                self.copy_if_needed(now, frame, header.place.segment, &record);
            }
        }
    }

    fn copy_if_needed(&mut self, now: Now, frame: Frame<'_>, segment: u32, record: &Record<'_>) {
        let from = Place { segment, offset: frame.offset };
        let what = match record {
            Record::Message(head) => {
                let token = head.envelope.once();
                if self.is_needed(head.id, from) {
                    What::MovedMessage { id: head.id, from, has_token: token.is_some() }
                } else {
                    let user = head.envelope.user();
                    self.keep_token(now, token.map(|token| Token { id: head.id, user, token }));
                    return;
                }
            }
            Record::Part { id, index, .. } if self.is_needed_part(*id, *index, from) => {
                What::MovedPart { id: *id, index: *index, from }
            }
            Record::Progress(progress) if self.is_newest(progress.message, from) => {
                What::MovedProgress { id: progress.message, from }
            }
            Record::Token(token) => {
                self.keep_token(now, Some(*token));
                return;
            }
            _ => return,
        };
        self.keeping.copy_begun();
        self.append_copy(now, frame.kind, what, frame.payload);
    }

    fn is_needed(&self, id: MessageId, place: Place) -> bool {
        !self.finishing.contains(&id) && self.contents.messages.get(id).is_some_and(|entry| entry.head.place == place)
    }

    fn is_needed_part(&self, id: MessageId, index: u32, place: Place) -> bool {
        let parts = self.contents.large.get(&id).map_or(&[][..], |large| &large.parts);
        let part = parts.get(index as usize).copied().flatten();
        !self.finishing.contains(&id) && part.is_some_and(|part| part.place == place)
    }

    /// A newer one that is noted but not written yet comes before any copy in the log, so a copy now would win over it.
    fn is_newest(&self, id: MessageId, place: Place) -> bool {
        !self.finishing.contains(&id)
            && !self.progressing.contains_key(&id)
            && self.contents.messages.get(id).is_some_and(|entry| entry.progress() == Some(place))
    }

    fn keep_token(&mut self, now: Now, token: Option<Token<'_>>) {
        let holds = |token: &Token<'_>| {
            let counts = !self.is_disowned(token.id) && !self.is_lost(token.id);
            counts && token.id.received() + self.settings.token_retention > now.unix
        };
        if let Some(token) = token.filter(holds) {
            self.adopt_token(now, token, None);
        }
    }
}

/// The size of a batch's first read when a segment is cleaned; larger batches take a second one.
const CLEANING_BYTES: u32 = 64 * BLOCK_BYTES;

/// A log with no more segments than this is never cleaned.
const SEGMENTS_MIN: u64 = 4;

/// After a pass that gained nothing there is another one when this part has come to the segments, or gone from what is needed.
const FUTILE_GROWTH: u64 = 4;

/// Segments that hold nothing and are kept to be used again.
const SPARES_MAX: usize = 1;

/// About what a record of a token takes.
const TOKEN_BYTES: u64 = 96;

/// How long after a failure the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const _: () = assert!(frame::BATCH_HEADER_BYTES < BLOCK_BYTES as usize);
